//! Events of files, for the commands that read a data set from end to end: evaluate and train.

use crate::batch::{Batch, Block, Cursor, RowStatus};
use crate::decode::{DecodeOptions, Decoder, Format};
use crate::error::{Fault, Result};
use crate::schema::Schema;
use crate::source::file::{FileOptions, FileSource};
use crate::source::{Framing, Polled, ReadOptions, Source};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Rows decoded at once.
const BATCH_EVENTS: usize = 1_024;
const EVENT_BYTES_MAX: usize = 1 << 20;

/// The format of a file by its name: `.csv`, `.bin` (frames), anything else JSON lines.
pub fn format_of(path: &Path) -> Format {
    match path.extension().and_then(|e| e.to_str()) {
        Some("csv") => Format::Csv,
        Some("bin") => Format::Binary,
        _ => Format::Json,
    }
}

/// A bar on a terminal where a person watches; silent elsewhere, and in the first two seconds.
pub struct Bar {
    bar: ProgressBar,
    began: Instant,
    shown: bool,
}

/// What is done sooner needs no bar.
const BAR_AFTER: Duration = Duration::from_secs(2);

/// A bar over `total` units of `what`.
pub fn bar(total: u64, what: &str) -> Bar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
    bar.set_style(
        ProgressStyle::with_template("{msg} {wide_bar} {percent}% {elapsed} left {eta}").expect("a valid template"),
    );
    bar.set_message(what.to_string());
    Bar { bar, began: Instant::now(), shown: false }
}

impl Bar {
    /// So many more units are done.
    pub fn inc(&mut self, units: u64) {
        self.set_position(self.bar.position() + units);
    }

    /// What is done now.
    pub fn set_message(&self, what: &str) {
        self.bar.set_message(what.to_string());
    }

    /// So many units are done in all.
    pub fn set_position(&mut self, units: u64) {
        self.bar.set_position(units);
        if !self.shown && self.began.elapsed() >= BAR_AFTER {
            self.shown = true;
            // Hidden where standard error is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// All is done: the line is free again.
    pub fn finish_and_clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// The rows that were turned away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TurnedAway {
    /// How many.
    pub rows: u64,
    /// Where and why the first one was: `events.csv row 3: age: not a number`.
    pub first: Option<String>,
}

impl TurnedAway {
    /// Counts the rows of a batch of `input` that were turned away.
    pub fn note(&mut self, batch: &Batch, schema: &Schema, input: &Path) {
        for (origin, status) in batch.origins.iter().zip(&batch.status) {
            let RowStatus::Rejected(reject) = status else { continue };
            self.rows += 1;
            if self.first.is_none() {
                let field = reject.field.and_then(|f| schema.fields.get(usize::from(f)));
                let field = field.map_or(String::new(), |f| format!("{}: ", f.name));
                self.first = Some(format!("{} row {}: {field}{}", input.display(), origin.offset, reject.reason));
            }
        }
    }

    /// Tells whoever asked why rows are missing from the result.
    pub fn tell(&self) {
        if let Some(first) = &self.first {
            eprintln!("millstream: {} events were turned away; the first: {first}", self.rows);
        }
    }
}

/// Hands every batch of the files to `take`, in order. Rows that can't be decoded are noted and left
/// out (their status says so).
///
/// # Errors
/// Environment, where a file can't be read; whatever `take` returns.
pub fn read(
    schema: &Schema,
    inputs: &[PathBuf],
    what: &str,
    take: &mut dyn FnMut(&mut Batch) -> Result<()>,
) -> Result<TurnedAway> {
    let mut rejected = TurnedAway::default();
    each_batch(schema, inputs, what, &mut |batch, input| {
        take(batch)?;
        rejected.note(batch, schema, &inputs[input]);
        Ok(())
    })?;
    Ok(rejected)
}

/// Hands every batch of the files to `take`, in order, with the file's index.
///
/// # Errors
/// As [`read`].
pub fn each_batch(
    schema: &Schema,
    inputs: &[PathBuf],
    what: &str,
    take: &mut dyn FnMut(&mut Batch, usize) -> Result<()>,
) -> Result<()> {
    let total = inputs.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum();
    let mut bar = bar(total, what);
    for (index, input) in inputs.iter().enumerate() {
        let format = format_of(input);
        let framing = match format {
            Format::Csv => Framing::Csv { header: true },
            Format::Json => Framing::Lines,
            Format::Binary => Framing::Binary,
        };
        let read = ReadOptions { framing, event_bytes_max: EVENT_BYTES_MAX, block_bytes: 256 << 10 };
        let paths = vec![input.to_str().ok_or_else(|| Fault::misuse("a path is not UTF-8"))?.to_string()];
        let mut source = FileSource::new(FileOptions { paths, follow: false, lane: 0, lanes: 1, read })?;
        source.start(&[])?;
        let options = DecodeOptions { format, event_bytes_max: EVENT_BYTES_MAX, nesting_max: 64, columns: None };
        let mut decoder = Decoder::new(schema, &options)?;
        let mut batch = Batch::new(schema.number_stride, schema.token_stride);
        let mut block = Block::default();
        loop {
            block.clear();
            match source.poll(&mut block, Duration::from_millis(100))? {
                Polled::Filled => {}
                Polled::Idle => continue,
                Polled::End => break,
            }
            let mut cursor = Cursor::default();
            batch.clear();
            while decoder.fill(&block, &mut cursor, &mut batch, BATCH_EVENTS) {
                take(&mut batch, index)?;
                batch.clear();
            }
            bar.inc(block.bytes.len() as u64);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Pipeline;

    #[test]
    fn rows_that_are_turned_away_are_counted_and_the_first_is_named() {
        let spec = b"name = 'p'\n[schema]\nlabel = 'y'\n[schema.fields]\na = 'float'\ny = 'float'\n\
                     [model]\nkind = 'linear-regression'\n";
        let pipeline = Pipeline::from_bytes(spec).expect("pipeline");
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("events.csv");
        std::fs::write(&path, "a,y\n1,2\nx,3\n2,4\ny,5\n").expect("file");
        let mut rows = 0;
        let away = read(pipeline.schema(), std::slice::from_ref(&path), "reading", &mut |batch| {
            rows += batch.len();
            Ok(())
        });
        let away = away.expect("read");
        assert_eq!((rows, away.rows), (4, 2));
        assert_eq!(away.first, Some(format!("{} row 1: a: not a number", path.display())));
    }
}
