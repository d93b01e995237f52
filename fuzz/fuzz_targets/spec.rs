//! Specs of pipelines.
#![no_main]

millstream_fuzz::target!(spec);
