//! Rows that models learn from.
#![no_main]

millstream_fuzz::target!(learning);
