//! A Kafka broker's answer to a fetch.
#![no_main]

millstream_fuzz::target!(kafka_fetch);
