//! Sinks: where predictions and dead letters go.

pub mod console;
pub mod dead_letter;
pub mod file;
pub mod kafka;
pub mod none;

use crate::batch::Outbox;
use crate::error::Result;

/// Length of an output at a commit: recovery cuts the output back to it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OutputLength {
    /// The output's name (a path).
    pub output: String,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Names of the inputs by their numbers, as the source gave them out so far.
pub type InputNames = Vec<std::sync::Arc<str>>;

/// A sink: one lane's output. It lives on one thread.
pub trait Sink: Send {
    /// Takes the predictions and dead letters of a block. They need not be out when this returns.
    ///
    /// # Errors
    /// Environment, after its own retries.
    fn write(&mut self, outbox: &Outbox, inputs: &InputNames) -> Result<()>;

    /// Returns when everything written is safely out (acknowledged, or synced to disk), with the
    /// length of each output that has one. Inside a Kafka transaction it only flushes.
    ///
    /// # Errors
    /// Environment, after its own retries.
    fn flush(&mut self) -> Result<Vec<OutputLength>>;

    /// Before the first write after a restart: cuts each output back to its committed length.
    ///
    /// # Errors
    /// Corruption, where an output is shorter than what was committed to it.
    fn recover(&mut self, lengths: &[OutputLength]) -> Result<()> {
        let _ = lengths;
        Ok(())
    }
}
