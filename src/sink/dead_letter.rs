//! Dead letters in a file of their own: one JSON line a bad event, with its own committed length.

use super::file::OutputFile;
use super::{InputNames, OutputLength, Sink};
use crate::batch::{DeadLetter, Outbox};
use crate::error::Result;
use std::path::PathBuf;

/// Writes a dead letter as one JSON object, without a line's end: the letter, its input's name, and
/// where to write.
pub type WriteLetter = fn(&DeadLetter, &str, &mut Vec<u8>);

/// Dead letters in a file.
pub struct DeadLetterFile {
    output: OutputFile,
    write_letter: WriteLetter,
    lines: Vec<u8>,
}

impl DeadLetterFile {
    /// A file of dead letters, each written by `write_letter`. It is made when the first one comes.
    pub fn new(path: impl Into<PathBuf>, write_letter: WriteLetter) -> DeadLetterFile {
        DeadLetterFile { output: OutputFile::new(path.into(), None), write_letter, lines: Vec::new() }
    }
}

impl Sink for DeadLetterFile {
    fn write(&mut self, outbox: &Outbox, inputs: &InputNames) -> Result<()> {
        self.lines.clear();
        for letter in &outbox.dead {
            let input = inputs.get(letter.input as usize).map_or("", |name| name);
            (self.write_letter)(letter, input, &mut self.lines);
            if self.lines.last() != Some(&b'\n') {
                self.lines.push(b'\n');
            }
        }
        self.output.write(&self.lines)
    }

    fn flush(&mut self) -> Result<Vec<OutputLength>> {
        Ok(vec![self.output.flush()?])
    }

    fn recover(&mut self, lengths: &[OutputLength]) -> Result<()> {
        self.output.recover(lengths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Reject, Stage};

    fn letter(input: u32, offset: u64) -> DeadLetter {
        let reject = Reject { stage: Stage::Decode, reason: "bad", field: None, byte: 0 };
        DeadLetter { raw: b"{".to_vec(), reject, field: None, input, offset, row: None, key: None, headers: None }
    }

    #[test]
    fn a_line_a_letter_with_its_inputs_name_and_recovery() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("dead.ndjson");
        let write: WriteLetter = |letter, input, out| out.extend(format!("{input}:{}", letter.offset).bytes());
        let mut sink = DeadLetterFile::new(&path, write);
        let inputs: InputNames = vec!["a".into(), "b".into()];
        sink.write(&Outbox::default(), &inputs).expect("nothing to write");
        assert!(sink.flush().expect("flush")[0].bytes == 0 && !path.exists());
        sink.write(&Outbox { dead: vec![letter(1, 7), letter(0, 8)], ..Outbox::default() }, &inputs).expect("write");
        let committed = sink.flush().expect("flush");
        sink.write(&Outbox { dead: vec![letter(0, 9)], ..Outbox::default() }, &inputs).expect("write");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "b:7\na:8\na:9\n");
        DeadLetterFile::new(&path, write).recover(&committed).expect("recover");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "b:7\na:8\n");
    }
}
