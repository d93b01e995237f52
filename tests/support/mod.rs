//! What several scenarios need: a real Kafka broker and a proxy before it, the daemon in a folder of its own, made-up events, a stream over Kafka.

#![allow(dead_code)]

pub mod broker;
pub mod daemon;
pub mod disk;
pub mod events;
pub mod library;
pub mod proxy;
pub mod s3;
pub mod secure_broker;
pub mod stage;
pub mod stream;
pub mod torture;
pub mod verdict;
