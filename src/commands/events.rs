//! Events of files, for the commands that read a data set from end to end: evaluate and train.

use crate::batch::{Batch, Block, Cursor, RowStatus};
use crate::decode::{DecodeOptions, Decoder, Format};
use crate::error::{Fault, Result};
use crate::schema::Schema;
use crate::source::file::{FileOptions, FileSource};
use crate::source::{Framing, Polled, ReadOptions, Source};
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
pub fn bar(total: u64, what: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    bar.set_style(
        ProgressStyle::with_template("{msg} {wide_bar} {percent}% {elapsed} left {eta}").expect("a valid template"),
    );
    bar.set_message(what.to_string());
    bar
}

/// Hands every batch of the files to `take`, in order. Rows that can't be decoded are counted and left
/// out (their status says so).
///
/// # Errors
/// Environment, where a file can't be read; whatever `take` returns.
pub fn read(
    schema: &Schema,
    inputs: &[PathBuf],
    what: &str,
    take: &mut dyn FnMut(&mut Batch) -> Result<()>,
) -> Result<u64> {
    let total = inputs.iter().filter_map(|p| std::fs::metadata(p).ok()).map(|m| m.len()).sum();
    let (bar, mut rejected) = (bar(total, what), 0);
    for input in inputs {
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
                take(&mut batch)?;
                rejected += batch.status.iter().filter(|s| **s != RowStatus::Ok).count() as u64;
                batch.clear();
            }
            bar.inc(block.bytes.len() as u64);
        }
    }
    bar.finish_and_clear();
    Ok(rejected)
}
