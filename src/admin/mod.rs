//! The admin API: status, swaps, checkpoints, metrics, over HTTP on a Unix socket.

pub mod command;
