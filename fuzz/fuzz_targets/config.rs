//! Configs.
#![no_main]

millstream_fuzz::target!(config);
