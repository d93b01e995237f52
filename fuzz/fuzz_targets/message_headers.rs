//! Headers of messages.
#![no_main]

millstream_fuzz::target!(message_headers);
