//! Predictions on standard output: a block's predictions in one write.

use super::{InputNames, OutputLength, Sink};
use crate::batch::Outbox;
use crate::error::{Fault, Result};
use std::io::Write;

/// Predictions on a stream that cannot be cut back: standard output.
pub struct ConsoleSink<W: Write + Send = std::io::Stdout> {
    out: W,
}

impl ConsoleSink {
    /// The process's standard output.
    pub fn stdout() -> ConsoleSink {
        ConsoleSink { out: std::io::stdout() }
    }
}

impl<W: Write + Send> ConsoleSink<W> {
    /// Any other stream.
    pub fn new(out: W) -> ConsoleSink<W> {
        ConsoleSink { out }
    }
}

impl<W: Write + Send> Sink for ConsoleSink<W> {
    fn write(&mut self, outbox: &Outbox, _: &InputNames) -> Result<()> {
        self.out.write_all(&outbox.bytes).map_err(|e| fault(&e))
    }

    fn flush(&mut self) -> Result<Vec<OutputLength>> {
        self.out.flush().map_err(|e| fault(&e))?;
        Ok(Vec::new())
    }
}

fn fault(error: &std::io::Error) -> Fault {
    Fault::io("standard output", error).hint("whoever read it has gone?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_through_and_faults_come_back() {
        let mut out = Vec::new();
        let mut sink = ConsoleSink::new(&mut out);
        let outbox = Outbox { bytes: b"x\n".to_vec(), ..Outbox::default() };
        sink.write(&outbox, &InputNames::new()).expect("write");
        assert_eq!(sink.flush(), Ok(vec![]));
        assert_eq!(out, b"x\n");
        let mut room = [0u8; 1];
        let mut full = ConsoleSink::new(&mut room[..]);
        assert!(full.write(&outbox, &InputNames::new()).expect_err("full").message.starts_with("standard output"));
    }
}
