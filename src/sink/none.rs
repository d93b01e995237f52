//! No output: predictions are made, learned from and counted, and go nowhere.

use super::{InputNames, OutputLength, Sink};
use crate::batch::Outbox;
use crate::error::Result;

/// A sink that keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSink;

impl Sink for NoSink {
    fn write(&mut self, _: &Outbox, _: &InputNames) -> Result<()> {
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<OutputLength>> {
        Ok(Vec::new())
    }
}
