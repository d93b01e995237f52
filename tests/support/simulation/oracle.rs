//! What must have come out: the input once more, in the order that the journal tells, through a plain pipeline on one
//! thread, without the engine.

use super::broker::Entry;
use super::daemon::{LINEAGE, Setup, lane_dir, load, state_bytes};
use super::world;
use millstream::artifact;
use millstream::batch::{Block, Cursor, Outbox, Record, RecordKind, RowStatus, Span};
use millstream::decode::{DecodeOptions, Decoder, Format};
use millstream::encode::{EncodeOptions, Encoder};
use millstream::engine::recover::load_checkpoint;
use millstream::journal::JournalRecord;
use millstream::kafka::client::NextOffset;
use millstream::pipeline::Pipeline;
use millstream::state::Data;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Messages by partition, in order: key and value.
type ByPartition = BTreeMap<i32, Vec<(Option<Vec<u8>>, Vec<u8>)>>;

/// A lane, made again.
#[derive(Default)]
pub struct Made {
    predictions: ByPartition,
    dead: ByPartition,
    pub seq: u64,
    pub digest: u64,
    pub state: Vec<u8>,
    /// The state after the records that were asked for.
    states: BTreeMap<u64, Vec<u8>>,
}

/// A lane's committed records. A number that was seen before is a former owner's late word.
pub fn journal(lane: u32) -> Vec<JournalRecord> {
    world(|w| {
        let mut records: Vec<JournalRecord> = Vec::new();
        let Some(topic) = w.broker.topics.get("sim-journal") else { return records };
        for (_, entry) in topic[lane as usize].committed() {
            let record: JournalRecord = serde_json::from_slice(&entry.value).expect("a record");
            assert_eq!(record.lineage, LINEAGE);
            if records.last().is_none_or(|last| record.number > last.number) {
                records.push(record);
            }
        }
        records
    })
}

/// True where the journals say that every event was taken.
pub fn all_taken(lanes: u32) -> bool {
    let positions: BTreeMap<String, u64> = (0..lanes)
        .filter_map(|lane| journal(lane).pop())
        .flat_map(|record| record.positions.into_iter().map(|(input, position)| (input, position.offset)))
        .collect();
    world(|w| {
        let ends = w.broker.topics["sim-in"].iter().enumerate();
        let mut ends = ends.map(|(p, log)| (p, log.committed().last().map_or(0, |(offset, _)| offset as u64 + 1)));
        w.broker.coming.is_empty()
            && ends.all(|(p, end)| positions.get(&format!("sim-in/{p}")).copied().unwrap_or(0) >= end)
    })
}

/// Makes a lane again; `at`: the records whose states are wanted.
pub fn make(setup: &Setup, lane: u32, at: &BTreeSet<u64>) -> Made {
    let options = DecodeOptions { format: Format::Json, event_bytes_max: 1 << 20, nesting_max: 64, columns: None };
    let mut pipeline = load(&setup.specs[0]);
    let mut decoder = Decoder::new(pipeline.schema(), &options).expect("a decoder");
    let encode =
        EncodeOptions { lane: (setup.config.lanes > 1).then_some(lane), answer_rejects: false, newline: false };
    let mut encoder = Encoder::new(pipeline.schema(), &encode);
    let (mut previous, mut swap, mut learned) = (None, 0, 0);
    let (mut batch, mut scores) = (pipeline.batch(), pipeline.scores(0));
    let mut next: BTreeMap<String, u64> = BTreeMap::new();
    let mut made = Made::default();
    for (number, record) in journal(lane).into_iter().enumerate() {
        assert_eq!(record.number, number as u64, "a record is missing in the journal of lane {lane}");
        let names: Vec<Arc<str>> = record.inputs.iter().map(|name| Arc::from(name.as_str())).collect();
        let mut swaps = record.swaps.iter().peekable();
        for run in &record.runs {
            let input = &record.inputs[run.input as usize];
            let from = next.insert(input.clone(), run.end).unwrap_or(0);
            assert!(from < run.end, "{input}: a run from {from} to {}", run.end);
            let partition: i32 = input.rsplit_once('/').and_then(|(_, p)| p.parse().ok()).expect("topic/partition");
            let (block, mut cursor, mut outbox) =
                (block(partition, from, run.end, run.input), Cursor::default(), Outbox::default());
            loop {
                while let Some(entry) = swaps.next_if(|s| s.seq == made.seq) {
                    change(setup, &mut pipeline, &mut previous, &entry.artifact, entry.rollback);
                    (swap, scores) = (entry.swap, pipeline.scores(entry.swap));
                }
                let room = swaps.peek().map_or(5, |s| (s.seq - made.seq).min(5)) as usize;
                batch.clear();
                if !decoder.fill(&block, &mut cursor, &mut batch, room) {
                    break;
                }
                learned += pipeline.run(&mut batch, &mut scores, !record.frozen, &mut ()).learned;
                for (row, status) in batch.status.iter().enumerate() {
                    match status {
                        RowStatus::Ok => scores.row(row).iter().for_each(|s| chain(&mut made.digest, s.to_bits())),
                        RowStatus::Rejected(reject) => chain(&mut made.digest, !(reject.stage as u64)),
                    }
                }
                encoder.encode(&block, &batch, &scores, &names, made.seq, &mut outbox);
                made.seq += batch.len() as u64;
            }
            for out in &outbox.records {
                let key = out.key.map(|key| key.of(&outbox.keys).to_vec());
                made.predictions.entry(partition).or_default().push((key, out.span.of(&outbox.bytes).to_vec()));
            }
            for letter in outbox.dead {
                made.dead.entry(partition).or_default().push((letter.key, letter.raw));
            }
        }
        for entry in swaps {
            change(setup, &mut pipeline, &mut previous, &entry.artifact, entry.rollback);
            (swap, scores) = (entry.swap, pipeline.scores(entry.swap));
        }
        let digest = format!("{:016x}", made.digest);
        let ours = (made.seq, swap, learned, &digest);
        assert_eq!((record.seq, record.swap, record.learned, &record.digest), ours, "lane {lane}, record {number}");
        if at.contains(&record.number) {
            made.states.insert(record.number, state_bytes(&mut pipeline));
        }
    }
    made.state = state_bytes(&mut pipeline);
    made
}

fn change(setup: &Setup, pipeline: &mut Pipeline, previous: &mut Option<Pipeline>, hash: &str, rollback: bool) {
    let named = |spec: &&String| artifact::content_hash(spec.as_bytes()) == hash;
    let comes = match rollback {
        true => previous.take().expect("a version before"),
        false => load(setup.specs.iter().find(named).expect("a spec")),
    };
    *previous = Some(std::mem::replace(pipeline, comes));
}

/// The digest's arithmetic.
fn chain(digest: &mut u64, bits: u64) {
    let mixed = (*digest ^ bits).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    *digest = mixed ^ (mixed >> 32);
}

fn block(partition: i32, from: u64, end: u64, input: u32) -> Block {
    let mut block = Block::default();
    let append = |bytes: &mut Vec<u8>, part: &[u8]| {
        let start = bytes.len();
        bytes.extend_from_slice(part);
        Span::new(start, bytes.len())
    };
    world(|w| {
        let log = &w.broker.topics["sim-in"][partition as usize];
        for (offset, entry) in log.committed().filter(|(o, _)| (from..end).contains(&(*o as u64))) {
            let span = append(&mut block.bytes, &entry.value);
            let key = entry.key.as_ref().map(|key| append(&mut block.bytes, key));
            let (kind, offset) = (RecordKind::Message, offset as u64);
            block.records.push(Record { span, input, kind, offset, byte: 0, key, headers: None });
        }
    });
    block
}

/// What a topic's readers see, by partition.
fn output(topic: &str) -> ByPartition {
    let message = |(_, entry): (usize, &Entry)| (entry.key.clone(), entry.value.clone());
    world(|w| {
        let Some(topic) = w.broker.topics.get(topic) else { return ByPartition::new() };
        let logs = topic.iter().enumerate().map(|(p, log)| (p as i32, log.committed().map(message).collect()));
        logs.filter(|(_, messages): &(i32, Vec<_>)| !messages.is_empty()).collect()
    })
}

/// Compares all that is there with all that should be; the lanes, made again.
pub fn compare(setup: &Setup) -> Vec<Made> {
    let (mut predictions, mut dead) = (ByPartition::new(), ByPartition::new());
    let mut lanes = Vec::new();
    for lane in 0..setup.config.lanes {
        let checkpoints = checkpoints(lane as usize);
        let at: BTreeSet<u64> = checkpoints.iter().map(|(_, record, _)| record.number).collect();
        let mut made = make(setup, lane, &at);
        for (name, record, state) in checkpoints {
            let ours = made.states.get(&record.number);
            assert!(ours.is_some(), "lane {lane}: {name} is ahead of the journal");
            assert!(ours == Some(&state), "lane {lane}: {name} holds another state than record {}", record.number);
        }
        predictions.append(&mut made.predictions);
        dead.append(&mut made.dead);
        lanes.push(made);
    }
    same("sim-out", &output("sim-out"), &predictions);
    same("sim-dead", &output("sim-dead"), &dead);
    for lane in 0..setup.config.lanes {
        for (input, position) in journal(lane).pop().map(|record| record.positions).unwrap_or_default() {
            let (topic, partition) = input.rsplit_once('/').expect("topic/partition");
            let key = (topic.to_string(), partition.parse().expect("a number"));
            let group = world(|w| w.broker.group.offsets.get(&key).copied());
            assert_eq!(group, Some(position.offset), "the group's offset of {input} is not the journal's");
        }
    }
    lanes
}

fn same(topic: &str, found: &ByPartition, expected: &ByPartition) {
    let partitions: BTreeSet<&i32> = found.keys().chain(expected.keys()).collect();
    let none = Vec::new();
    for partition in partitions {
        let (found, expected) = (found.get(partition).unwrap_or(&none), expected.get(partition).unwrap_or(&none));
        let differs = found.iter().zip(expected).position(|(a, b)| a != b);
        let shown = |m: Option<&(Option<Vec<u8>>, Vec<u8>)>| {
            m.map_or("nothing".to_string(), |m| String::from_utf8_lossy(&m.1).into_owned())
        };
        if let Some(at) = differs.or((found.len() != expected.len()).then_some(found.len().min(expected.len()))) {
            panic!(
                "{topic}/{partition}, message {at}: {} instead of {}",
                shown(found.get(at)),
                shown(expected.get(at))
            );
        }
    }
}

/// The checkpoints on all disks: each must be whole.
fn checkpoints(lane: usize) -> Vec<(String, JournalRecord, Vec<u8>)> {
    let folders = world(|w| w.disks.iter().map(|disk| disk.folder(&lane_dir(lane))).collect::<Vec<_>>());
    let files = folders.into_iter().flatten().filter(|(name, _)| name.starts_with("checkpoint-"));
    files
        .filter(|(_, bytes)| world(|w| !w.false_bytes.contains(bytes)))
        .map(|(name, bytes)| {
            let (mut pipeline, record) =
                load_checkpoint(&bytes).unwrap_or_else(|fault| panic!("{name} is damaged: {fault}"));
            (name, record, state_bytes(&mut pipeline))
        })
        .collect()
}

/// The group's offsets never say more than the journal.
pub fn not_ahead(offsets: &[NextOffset]) {
    let lanes = world(|w| w.broker.group.lanes);
    let tails: Vec<JournalRecord> = (0..lanes).filter_map(|lane| journal(lane).pop()).collect();
    for NextOffset { topic, partition, offset } in offsets {
        let input = format!("{topic}/{partition}");
        let committed = tails.iter().filter_map(|tail| tail.positions.get(&input)).map(|p| p.offset).max().unwrap_or(0);
        assert!(*offset <= committed, "the group's offset of {input} is {offset}, and only {committed} is committed");
    }
}

/// Puts wrong numbers into the newest checkpoint of a daemon that is down, in a file that is whole: only the digest can
/// tell. It must be able to: something scored since, and the journal reaching back to the beginning.
pub fn falsify(setup: &Setup, daemon: usize) {
    let wanted = world(|w| {
        !setup.shared
            && setup.config.checkpoint.keep_journal
            && w.false_bytes.is_empty()
            && w.chance.one_in(w.plan.falsified)
    });
    if !wanted {
        return;
    }
    for lane in 0..setup.config.lanes as usize {
        let newest = world(|w| w.disks[daemon].folder(&lane_dir(lane)));
        let newest = newest.into_iter().filter(|(name, _)| name.starts_with("checkpoint-")).max();
        let (Some((name, bytes)), Some(tail)) = (newest, journal(lane as u32).pop()) else { continue };
        let Ok((_, record)) = load_checkpoint(&bytes) else { continue };
        let scored = record.learned >= 8
            && journal(lane as u32).iter().any(|r| r.learned >= record.learned + 5 && r.swap == record.swap);
        if !scored || tail.number <= record.number {
            continue;
        }
        let (manifest, mut state) = artifact::decode(&bytes).expect("a checkpoint");
        for (tensor, values) in &mut state.tensors {
            match &mut values.data {
                _ if !tensor.starts_with("model.") => {}
                Data::F64(values) => values.iter_mut().for_each(|value| *value += 0.75),
                Data::F32(values) => values.iter_mut().for_each(|value| *value += 0.75),
                _ => {}
            }
        }
        let bytes = artifact::encode(&manifest, &state);
        world(|w| {
            w.counts.checkpoints_falsified += 1;
            w.tell(|| format!("{name} of {} is falsified", super::name(daemon)));
            w.disks[daemon].replace(&lane_dir(lane).join(&name), &bytes);
            w.false_bytes.push(bytes);
        });
    }
}
