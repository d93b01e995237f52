//! Rows in binary frames.
#![no_main]

millstream_fuzz::target!(binary_rows);
