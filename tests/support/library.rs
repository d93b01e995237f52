//! A pipeline fed by hand: text → decoder → pipeline, cut into batches as a test likes.

use millstream::artifact;
use millstream::batch::{Block, Cursor, Record, RecordKind, RowStatus, Span};
use millstream::decode::{DecodeOptions, Decoder, Format};
use millstream::pipeline::Pipeline;
use millstream::state::State;

/// What a row came to: its scores' bits, or nothing where it was turned away.
pub type Scored = Option<Vec<u64>>;

/// The text (for CSV, with its header) as one block.
pub fn block(format: Format, text: &str) -> Block {
    let header = if format == Format::Csv { text.find('\n').map_or(text.len(), |i| i + 1) } else { 0 };
    let record = |start: usize, end: usize, kind| Record {
        span: Span::new(start, end),
        input: 0,
        kind,
        offset: 0,
        byte: start as u64,
        key: None,
        headers: None,
    };
    let mut block = Block { bytes: text.as_bytes().to_vec(), ..Block::default() };
    if header > 0 {
        block.records.push(record(0, header, RecordKind::Header));
    }
    block.records.push(record(header, text.len(), RecordKind::Stream));
    block
}

/// Runs the pipeline over the text. `cut` gives the size of the next batch.
pub fn run(pipeline: &mut Pipeline, format: Format, text: &str, mut cut: impl FnMut() -> usize) -> Vec<Scored> {
    let options = DecodeOptions { format, event_bytes_max: 1 << 20, nesting_max: 64, columns: None };
    let mut decoder = Decoder::new(pipeline.schema(), &options).expect("a decoder");
    let (block, mut cursor) = (block(format, text), Cursor::default());
    let (mut batch, mut scores) = (pipeline.batch(), pipeline.scores(0));
    let mut all = Vec::new();
    while decoder.fill(&block, &mut cursor, &mut batch, cut().max(1)) {
        pipeline.run(&mut batch, &mut scores, true, &mut ());
        for (row, status) in batch.status.iter().enumerate() {
            let bits = || scores.row(row).iter().map(|s| s.to_bits()).collect();
            all.push((*status == RowStatus::Ok).then(bits));
        }
        batch.clear();
    }
    all
}

/// Everything that the pipeline has learned.
pub fn learned(pipeline: &mut Pipeline) -> State {
    let bytes = pipeline.to_artifact(serde_json::Value::Null);
    artifact::decode(&bytes).expect("an artifact").1
}
