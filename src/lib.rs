//! Millstream turns an event stream into predictions, learns from it as it goes, and never loses its place.
//!
//! The rooms, in the order in which data passes them:
//!
//! source → decode → preprocess → model (both inside `pipeline`) → encode → sink, run by `engine`;
//! `journal`, `checkpoint` and `artifact` keep what must survive; `admin` and `metrics` show and steer.

pub mod admin;
pub mod artifact;
pub mod batch;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod config;
pub mod decode;
pub mod disk;
pub mod encode;
pub mod engine;
pub mod error;
pub mod faults;
pub mod journal;
pub mod kafka;
pub mod metrics;
pub mod model;
pub mod pipeline;
pub mod preprocess;
pub mod queue;
pub mod schema;
pub mod service;
pub mod sink;
pub mod source;
pub mod state;
pub mod train;
pub mod wide;
