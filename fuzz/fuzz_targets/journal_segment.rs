//! The bytes of a file journal's segment.
#![no_main]

millstream_fuzz::target!(journal_segment);
