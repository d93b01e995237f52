//! The bytes of artifacts and checkpoints.
#![no_main]

millstream_fuzz::target!(artifact);
