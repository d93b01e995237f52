//! The admin API: status, swaps, checkpoints, metrics, over HTTP on a Unix socket; and its client.
//!
//! Reads are answered from shared state that the lanes publish, so that they never wait for a busy
//! lane; what changes something goes to the engine as one [`command::Request`].

pub mod command;
pub mod ctl;
pub mod ctl_text;
pub mod peer;
pub mod routes;
pub mod server;
pub mod status;

pub use ctl::{CtlAction, ctl};
pub use server::{AdminOptions, AdminServer, EngineHandle, serve};
