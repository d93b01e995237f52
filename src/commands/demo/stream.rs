//! What flows through the demo, what learns from it, and the candidate that is swapped in.

use crate::batch::{Block, Cursor, Record, RecordKind, Span};
use crate::decode::{DecodeOptions, Decoder, Format};
use crate::error::Result;
use crate::metrics::Progressive;
use crate::metrics::quality::WINDOW_EVENTS;
use crate::pipeline::Pipeline;
use crate::source::Framing;
use crate::source::generator::{Drift, GeneratorOptions, Kind, write_rows};
use serde_json::json;

/// The pipeline that the demo begins with.
pub(super) const PIPELINE: &str = include_str!("../../../models/hyperplane.toml");
/// What the candidate has in the place of the pipeline's optimizer.
const OPTIMIZERS: [&str; 2] =
    ["{ kind = \"sgd\", learning_rate = 0.01 }", "{ kind = \"adam\", learning_rate = 0.002 }"];
/// Movement of each weight an event: the concept is another one after some millions.
pub(super) const DRIFT_SPEED: f64 = 1e-7;
/// Seed of the stream.
pub(super) const SEED: u64 = 1;
/// Events written and learned at once while a candidate is prepared.
const BATCH_EVENTS: u64 = 1_024;

/// The stream: a hyperplane that turns, with one label in twenty wrong.
pub(super) fn options() -> GeneratorOptions {
    let mut options = GeneratorOptions::new(Kind::Hyperplane, SEED);
    options.drift = Drift { speed: DRIFT_SPEED, ..Drift::default() };
    options
}

/// The candidate's spec: the pipeline with another optimizer.
fn candidate_spec() -> String {
    let [before, after] = OPTIMIZERS;
    PIPELINE.replace(before, after).replace("name = \"hyperplane\"", "name = \"hyperplane-adam\"")
}

/// An artifact of the candidate, trained on events `from..from + count` of the stream.
///
/// # Errors
/// Misuse, where the spec is wrong.
pub(super) fn candidate(from: u64, count: u64) -> Result<Vec<u8>> {
    let mut pipeline = Pipeline::from_spec_text(&candidate_spec())?;
    let limits = DecodeOptions { format: Format::Json, event_bytes_max: 1 << 20, nesting_max: 64, columns: None };
    let mut decoder = Decoder::new(pipeline.schema(), &limits)?;
    let (mut batch, mut scores) = (pipeline.batch(), pipeline.scores(0));
    let mut quality = Progressive::new(pipeline.task(), WINDOW_EVENTS);
    let (stream, mut block, mut next) = (options(), Block::default(), from);
    while next < from + count {
        let events = BATCH_EVENTS.min(from + count - next);
        block.clear();
        write_rows(&stream, Framing::Lines, next, events, &mut block.bytes)?;
        let span = Span::new(0, block.bytes.len());
        let kind = RecordKind::Stream;
        block.records.push(Record { span, input: 0, kind, offset: next, byte: 0, key: None, headers: None });
        let mut cursor = Cursor::default();
        batch.clear();
        while decoder.fill(&block, &mut cursor, &mut batch, BATCH_EVENTS as usize) {
            pipeline.run(&mut batch, &mut scores, true, &mut quality);
            batch.clear();
        }
        next += events;
    }
    Ok(pipeline.to_artifact(json!({ "command": "demo", "from": from, "events": count })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_candidate_has_learned_with_another_optimizer() {
        let bytes = candidate(5_000, 3_000).expect("an artifact");
        let mut candidate = Pipeline::from_bytes(&bytes).expect("a pipeline");
        assert_eq!(candidate.learned(), 3_000);
        assert_eq!(candidate.spec().model["optimizer"]["kind"], "adam");
        assert!(candidate.schema().same_shape(Pipeline::from_spec_text(PIPELINE).expect("spec").schema()));
        let again = Pipeline::from_bytes(&candidate.to_artifact(json!({}))).expect("a pipeline");
        assert_ne!(again.version(), Pipeline::from_spec_text(PIPELINE).expect("spec").version());
    }
}
