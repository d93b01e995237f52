//! A Kafka stream around the daemon: its topics, what is sent to it, and an oracle that makes everything again
//! from the input topics and the journal, without the engine.

use super::broker::{Broker, Stored};
use super::daemon::{Daemon, Scene, until};
use super::events;
use millstream::batch::{Block, Cursor, Outbox, Record, RecordKind, Span};
use millstream::decode::{DecodeOptions, Decoder, Format};
use millstream::encode::{EncodeOptions, Encoder};
use millstream::journal::JournalRecord;
use millstream::pipeline::Pipeline;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// Partitions of an input topic.
pub const PARTITIONS: i32 = 4;

/// Bytes by partition, in order: key and value.
pub type ByPartition = BTreeMap<i32, Vec<(Option<Vec<u8>>, Vec<u8>)>>;

/// A stream's topics and group, all by its name.
#[derive(Clone)]
pub struct Stream {
    pub broker: &'static Broker,
    pub name: String,
}

impl Stream {
    /// Makes the input topic.
    pub fn new(broker: &'static Broker, name: &str) -> Stream {
        broker.create_topic(&format!("{name}-in"), PARTITIONS);
        Stream { broker, name: name.to_string() }
    }

    pub fn topic(&self, end: &str) -> String {
        format!("{}-{end}", self.name)
    }

    /// A config's lines: commits and checkpoints often, so that a kill hits every phase.
    pub fn config(&self, more: &str) -> String {
        let (name, brokers, client) = (&self.name, self.broker.address(), super::broker::client_line());
        let format = if more.contains("source.format") { "" } else { "source.format = \"json\"\n" };
        format!(
            "source.kind = \"kafka\"\n{client}{format}source.brokers = \"{brokers}\"\nsource.topics = [\"{name}-in\"]\n\
             source.group = \"{name}\"\nsource.kafka.\"fetch.wait.max.ms\" = \"20\"\nsink.kind = \"kafka\"\n\
             sink.topic = \"{name}-out\"\nsink.dead_letters = \"{name}-dead\"\nnode.name = \"{name}-node\"\n\
             delivery.commit_interval_ms = 20\ncheckpoint.interval_ms = 150\ncheckpoint.keep_journal = true\n\
             engine.batch_events_max = 256\n{more}"
        )
    }

    /// Sends lines as messages, by turns over the partitions, each with a key; the first has number `first`.
    pub fn send(&self, lines: &str, first: u64) {
        let topic = self.topic("in");
        for (number, line) in (first..).zip(lines.lines()) {
            let (partition, key) = ((number % PARTITIONS as u64) as i32, format!("k{number}"));
            self.broker.produce(&topic, partition, Some(key.as_bytes()), line.as_bytes(), &[]);
        }
        self.broker.flush();
    }

    /// Sends a hundred events every 20 ms until told to stop. Returns how many.
    pub fn keep_sending(&self, stop: &Arc<AtomicBool>, seed: u64) -> JoinHandle<u64> {
        let (stream, stop) = (self.clone(), stop.clone());
        std::thread::spawn(move || {
            let mut sent = 0;
            while !stop.load(Relaxed) {
                stream.send(&events::json(100, seed + sent), sent);
                sent += 100;
                std::thread::sleep(Duration::from_millis(20));
            }
            sent
        })
    }

    /// Waits until the daemon has committed so many events of all lanes.
    pub fn committed(&self, daemon: &mut Daemon, events: u64) {
        daemon.ready();
        until(&format!("{events} committed events"), || {
            let status = daemon.status();
            let lanes = status["lanes"].as_array().expect("lanes");
            let sum: u64 = lanes.iter().map(|l| l["committed_seq"].as_u64().expect("committed_seq")).sum();
            assert!(sum <= events, "{sum} events committed, {events} sent");
            (sum == events).then_some(())
        });
    }

    /// The group's committed offsets stand at the end of the input.
    pub fn group_is_at_the_end(&self) {
        let input = self.topic("in");
        for partition in 0..PARTITIONS {
            let (_, high) = self.broker.watermarks(&input, partition);
            // Outside transactions, nobody waits for them.
            until(&format!("the group at {high} of {input}/{partition}"), || {
                let at = self.broker.committed_offset(&self.name, &input, partition).unwrap_or(0);
                assert!(at <= high, "{input}/{partition}: {at} of {high}");
                (at == high).then_some(())
            });
        }
    }

    /// What an output topic holds, for readers of committed messages.
    pub fn output(&self, end: &str) -> Vec<Stored> {
        self.broker.consume_all(&self.topic(end), true)
    }

    /// The journal's records of a lane.
    pub fn journal(&self, lane: i32) -> Vec<JournalRecord> {
        let all = self.broker.consume_all(&self.topic("journal"), true);
        let mut records: Vec<JournalRecord> = Vec::new();
        for stored in all.iter().filter(|s| s.partition == lane) {
            let record: JournalRecord = serde_json::from_slice(&stored.value).expect("a record");
            // A number that was seen before is passed over, as the daemon does.
            if records.last().is_none_or(|last| record.number > last.number) {
                records.push(record);
            }
        }
        records
    }
}

/// Key and value by partition.
pub fn by_partition(stored: &[Stored]) -> ByPartition {
    let mut all = ByPartition::new();
    for message in stored {
        all.entry(message.partition).or_default().push((message.key.clone(), message.value.clone()));
    }
    all
}

/// What the oracle made.
pub struct Made {
    pub predictions: ByPartition,
    pub dead: ByPartition,
    pub learned: u64,
    pub seq: u64,
    pub pipeline: Pipeline,
}

/// Makes a lane again: its journal says in which order it took the input's messages and where versions changed;
/// `specs` are the artifacts that may have come in.
pub fn oracle(stream: &Stream, lane: Option<u32>, options: &DecodeOptions, specs: &[&str]) -> Made {
    let input = stream.broker.consume_all(&stream.topic("in"), true);
    let input: HashMap<(i32, i64), &Stored> = input.iter().map(|s| ((s.partition, s.offset), s)).collect();
    let load = |hash: &str| {
        let spec = specs.iter().find(|s| millstream::artifact::content_hash(s.as_bytes()) == hash).expect("a spec");
        Pipeline::from_bytes(spec.as_bytes()).expect("a pipeline")
    };
    let mut pipeline = Pipeline::from_bytes(specs[0].as_bytes()).expect("a pipeline");
    let (mut decoder, mut previous, mut swap) = (Decoder::new(pipeline.schema(), options).expect("decoder"), None, 0);
    let encode = EncodeOptions { lane, answer_rejects: false, newline: false };
    let mut encoder = Encoder::new(pipeline.schema(), &encode);
    let (mut next, mut made) = (HashMap::<i32, i64>::new(), (ByPartition::new(), ByPartition::new(), 0, 0));
    let (mut batch, mut scores) = (pipeline.batch(), pipeline.scores(0));
    for record in stream.journal(lane.unwrap_or(0) as i32) {
        let names: Vec<Arc<str>> = record.inputs.iter().map(|name| Arc::from(name.as_str())).collect();
        let mut swaps = record.swaps.iter().peekable();
        for run in &record.runs {
            let partition = partition_of(&record.inputs[run.input as usize]);
            let from = next.insert(partition, run.end as i64).unwrap_or(0);
            let messages = (from..run.end as i64).filter_map(|offset| input.get(&(partition, offset)).copied());
            let (block, mut cursor, mut outbox) = (block(messages, run.input), Cursor::default(), Outbox::default());
            loop {
                while let Some(entry) = swaps.next_if(|s| s.seq == made.3) {
                    let comes = if entry.rollback { previous.take().expect("before") } else { load(&entry.artifact) };
                    previous = Some(std::mem::replace(&mut pipeline, comes));
                    (swap, scores) = (entry.swap, pipeline.scores(entry.swap));
                }
                let room = swaps.peek().map_or(7, |s| (s.seq - made.3).min(7)) as usize;
                batch.clear();
                if !decoder.fill(&block, &mut cursor, &mut batch, room) {
                    break;
                }
                made.2 += pipeline.run(&mut batch, &mut scores, !record.frozen, &mut ()).learned;
                encoder.encode(&block, &batch, &scores, &names, made.3, &mut outbox);
                made.3 += batch.len() as u64;
            }
            for out in &outbox.records {
                let key = out.key.map(|key| key.of(&outbox.keys).to_vec());
                made.0.entry(partition).or_default().push((key, out.span.of(&outbox.bytes).to_vec()));
            }
            for letter in outbox.dead {
                made.1.entry(partition).or_default().push((letter.key, letter.raw));
            }
        }
        for entry in swaps {
            let comes = if entry.rollback { previous.take().expect("before") } else { load(&entry.artifact) };
            previous = Some(std::mem::replace(&mut pipeline, comes));
            (swap, scores) = (entry.swap, pipeline.scores(entry.swap));
        }
        assert_eq!((record.seq, record.swap, record.learned), (made.3, swap, made.2), "record {}", record.number);
    }
    Made { predictions: made.0, dead: made.1, learned: made.2, seq: made.3, pipeline }
}

fn partition_of(input: &str) -> i32 {
    input.rsplit_once('/').and_then(|(_, p)| p.parse().ok()).expect("topic/partition")
}

fn block<'s>(messages: impl Iterator<Item = &'s Stored>, input: u32) -> Block {
    let mut block = Block::default();
    let append = |bytes: &mut Vec<u8>, part: &[u8]| {
        let start = bytes.len();
        bytes.extend_from_slice(part);
        Span::new(start, bytes.len())
    };
    for message in messages {
        let span = append(&mut block.bytes, &message.value);
        let key = message.key.as_ref().map(|key| append(&mut block.bytes, key));
        let (kind, offset) = (RecordKind::Message, message.offset as u64);
        block.records.push(Record { span, input, kind, offset, byte: 0, key, headers: None });
    }
    block
}

/// JSON, as the configs of the scenarios say.
pub fn json() -> DecodeOptions {
    DecodeOptions { format: Format::Json, event_bytes_max: 1 << 20, nesting_max: 64, columns: None }
}

/// The offline replay of a stopped daemon's lanes says that every record's digest is equal, from the start on.
pub fn replay_is_equal(scene: &Scene) {
    let said = scene.call_with_config("replay", &["--json"]).good();
    for line in said.lines() {
        let report: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!((&report["digest"], &report["from"]), (&Value::from("equal"), &Value::from(0)), "{report}");
    }
}
