//! Records of a journal, as JSON.
#![no_main]

millstream_fuzz::target!(journal_record);
