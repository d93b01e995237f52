//! Kafka's record batches.
#![no_main]

millstream_fuzz::target!(record_batch);
