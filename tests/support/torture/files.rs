//! The oracle of a lane over one file: its output made again from the input and the journal's swaps.

use crate::support::library;
use millstream::batch::{Cursor, Outbox};
use millstream::decode::{Decoder, Format};
use millstream::encode::{EncodeOptions, Encoder, dead_letter_json};
use millstream::journal::JournalRecord;
use millstream::pipeline::Pipeline;
use std::path::Path;
use std::sync::Arc;

/// What the oracle made.
pub struct Made {
    pub out: Vec<u8>,
    pub dead: Vec<u8>,
    pub learned: u64,
    pub seq: u64,
    pub pipeline: Pipeline,
}

/// Makes a lane's output from the text of its only file.
pub fn oracle(path: &Path, lane: Option<u32>, journal: &[JournalRecord], first: usize, specs: &[String]) -> Made {
    let text = std::fs::read_to_string(path).expect("the input");
    let load = |hash: &str| {
        let spec = specs.iter().find(|s| millstream::artifact::content_hash(s.as_bytes()) == hash).expect("a spec");
        Pipeline::from_bytes(spec.as_bytes()).expect("a pipeline")
    };
    let mut pipeline = Pipeline::from_bytes(specs[first].as_bytes()).expect("a pipeline");
    let mut decoder = Decoder::new(pipeline.schema(), &crate::support::stream::json()).expect("a decoder");
    let encode = EncodeOptions { lane, answer_rejects: false, newline: true };
    let mut encoder = Encoder::new(pipeline.schema(), &encode);
    let names: Vec<Arc<str>> = vec![Arc::from(path.display().to_string())];
    let (block, mut cursor, mut outbox) = (library::block(Format::Json, &text), Cursor::default(), Outbox::default());
    let (mut batch, mut scores, mut previous) = (pipeline.batch(), pipeline.scores(0), None);
    let (mut seq, mut learned) = (0, 0);
    for record in journal {
        let mut swaps = record.swaps.iter().peekable();
        loop {
            while let Some(entry) = swaps.next_if(|s| s.seq == seq) {
                let comes = if entry.rollback { previous.take().expect("before") } else { load(&entry.artifact) };
                previous = Some(std::mem::replace(&mut pipeline, comes));
                scores = pipeline.scores(entry.swap);
            }
            let until = swaps.peek().map_or(record.seq, |s| s.seq);
            let room = (until - seq).min(97) as usize;
            batch.clear();
            if room == 0 || !decoder.fill(&block, &mut cursor, &mut batch, room) {
                break;
            }
            learned += pipeline.run(&mut batch, &mut scores, !record.frozen, &mut ()).learned;
            encoder.encode(&block, &batch, &scores, &names, seq, &mut outbox);
            seq += batch.len() as u64;
        }
        assert_eq!((record.seq, record.learned), (seq, learned), "record {}", record.number);
    }
    let mut dead = Vec::new();
    for letter in &outbox.dead {
        dead_letter_json(letter, &names[0], &mut dead);
    }
    Made { out: outbox.bytes, dead, learned, seq, pipeline }
}
