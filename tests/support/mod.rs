//! What several scenarios need: a real Kafka broker, the daemon in a folder of its own, made-up events, a stream over Kafka.

#![allow(dead_code)]

pub mod broker;
pub mod daemon;
pub mod events;
pub mod library;
pub mod secure_broker;
pub mod stream;
