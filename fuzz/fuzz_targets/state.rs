//! Tensors of a saved state.
#![no_main]

millstream_fuzz::target!(state);
