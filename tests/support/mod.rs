//! What several scenarios need: a real Kafka broker.

#![allow(dead_code)]

pub mod broker;
