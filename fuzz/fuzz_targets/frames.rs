//! Where events end in a stream of bytes.
#![no_main]

millstream_fuzz::target!(frames);
