//! Rows of CSV.
#![no_main]

millstream_fuzz::target!(csv_rows);
