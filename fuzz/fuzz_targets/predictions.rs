//! Scores and texts on their way to JSON.
#![no_main]

millstream_fuzz::target!(predictions);
