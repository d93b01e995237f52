//! What a Kafka broker answers.
#![no_main]

millstream_fuzz::target!(kafka_answer);
