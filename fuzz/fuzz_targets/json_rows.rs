//! Rows of JSON.
#![no_main]

millstream_fuzz::target!(json_rows);
