//! A lane's input partitions of Kafka topics: topic/partition, each a message a record.
//!
//! The consumer is assigned by hand and never rebalances; whether the lane is still ours is the claim's
//! business, looked at in each `poll`. Offsets may have gaps: transaction markers and compaction leave some.

use super::{Framing, Polled, Position, ReadOptions, Source};
use crate::batch::{Block, Record, RecordKind, Span};
use crate::error::{Fault, Result};
use crate::kafka::consumer::{Consumer, Message, Queue};
use crate::kafka::group::{Claim, missing};
use crate::kafka::topics::TopicShape;
use crate::kafka::{BROKER_TIMEOUT, KafkaOptions, Start};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the source looks whether the group has seen new partitions.
const GROWTH_INTERVAL: Duration = Duration::from_secs(1);

/// An input partition.
struct Input {
    name: String,
    topic: String,
    c_topic: CString,
    partition: i32,
    /// Offset of the next event.
    next: u64,
}

/// The source of a Kafka lane.
pub struct KafkaSource {
    options: KafkaOptions,
    claim: Arc<Claim>,
    // Before the consumer: what it holds belongs to that.
    queue: Queue,
    consumer: Consumer,
    inputs: Vec<Input>,
    /// The input last looked up: topic, partition, number.
    last: Option<(usize, i32, u32)>,
    replay: Option<Replay>,
    started: bool,
    paused: bool,
    looked: Instant,
}

impl KafkaSource {
    /// A source of the partitions p of each topic with p mod lanes = lane. Reads nothing before `start`.
    ///
    /// # Errors
    /// Misuse, naming a property that is refused.
    pub fn new(options: &KafkaOptions, claim: Arc<Claim>, shapes: &[TopicShape]) -> Result<KafkaSource> {
        let consumer = reader(options, &[("queued.max.messages.kbytes", "16384"), ("fetch.queue.backoff.ms", "5")])?;
        let mut source = KafkaSource {
            queue: consumer.queue(),
            options: options.clone(),
            claim,
            consumer,
            inputs: Vec::new(),
            last: None,
            replay: None,
            started: false,
            paused: false,
            looked: Instant::now(),
        };
        for shape in shapes {
            source.add_inputs(&shape.topic, shape.partitions)?;
        }
        Ok(source)
    }

    /// Adds the lane's partitions of a topic that aren't known yet; returns how many.
    fn add_inputs(&mut self, topic: &str, partitions: i32) -> Result<usize> {
        let known = self.inputs.len();
        for partition in (0..partitions).filter(|p| *p as u32 % self.options.lanes == self.options.lane) {
            if self.inputs.iter().any(|i| i.topic == topic && i.partition == partition) {
                continue;
            }
            self.inputs.push(Input {
                name: format!("{topic}/{partition}"),
                topic: topic.to_string(),
                c_topic: CString::new(topic).map_err(|_| Fault::misuse("a topic's name holds a zero byte"))?,
                partition,
                next: 0,
            });
        }
        Ok(self.inputs.len() - known)
    }

    /// Where an input without a position in the journal begins.
    fn first_offsets(&self, unknown: &[usize], has_past: bool) -> Result<Vec<u64>> {
        let mut list = TopicPartitionList::new();
        for input in unknown.iter().map(|i| &self.inputs[*i]) {
            list.add_partition(&input.topic, input.partition);
        }
        self.consumer.committed(&mut list, BROKER_TIMEOUT)?;
        let mut offsets = Vec::with_capacity(unknown.len());
        for input in unknown.iter().map(|i| &self.inputs[*i]) {
            let committed = list.find_partition(&input.topic, input.partition).map(|element| element.offset());
            let (low, high) = self.consumer.watermarks(&input.topic, input.partition, BROKER_TIMEOUT)?;
            offsets.push(match committed {
                // Without a past of its own the lane may begin anywhere, but not unsaid.
                Some(Offset::Offset(offset)) if offset >= 0 && !has_past && !(low..=high).contains(&offset) => {
                    tracing::warn!(
                        target: "millstream::kafka",
                        "{}: the group stood at offset {offset}, and the topic holds {low} to {high}: begins at {low}",
                        input.name
                    );
                    low.max(0) as u64
                }
                Some(Offset::Offset(offset)) if offset >= 0 => offset as u64,
                _ => {
                    // A partition that was added to a topic with a past is read whole.
                    let latest = self.options.start == Start::Latest && !has_past;
                    (if latest { high } else { low }).max(0) as u64
                }
            });
        }
        Ok(offsets)
    }

    /// Fails where a partition no longer, or not yet, holds its position.
    fn check_held(&self, input: &Input) -> Result<()> {
        let (low, high) = self.consumer.watermarks(&input.topic, input.partition, BROKER_TIMEOUT)?;
        held(&input.name, input.next, low.max(0) as u64, high.max(0) as u64)
    }

    fn look_for_growth(&mut self) -> Result<()> {
        self.looked = Instant::now();
        let known = self.inputs.len();
        for topic in self.options.topics.clone() {
            if let Some(partitions) = self.claim.group().partitions_seen(&topic) {
                if partitions == 0 {
                    return Err(missing(&topic));
                }
                self.add_inputs(&topic, partitions)?;
            }
        }
        if self.inputs.len() == known {
            return Ok(());
        }
        let mut list = TopicPartitionList::new();
        for input in &self.inputs[known..] {
            add(&mut list, &input.topic, input.partition, 0)?;
        }
        self.consumer.assign_more(&list)
    }

    /// What an error in a message's place means.
    fn judge(&self, code: RDKafkaErrorCode, topic: &str, partition: i32, text: String) -> Result<()> {
        match code {
            RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
                if let Some(input) = self.inputs.iter().find(|i| i.topic == topic && i.partition == partition) {
                    self.check_held(input)?;
                }
                Err(Fault::environment(format!("{topic}/{partition}: {text}")))
            }
            RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::Fatal => Err(Fault::environment(format!("{topic}/{partition}: {text}"))),
            _ => {
                tracing::debug!(target: "millstream::kafka", "{topic}/{partition}: {text}");
                Ok(())
            }
        }
    }
}

impl Source for KafkaSource {
    fn start(&mut self, positions: &[(String, Position)]) -> Result<()> {
        self.replay = None;
        self.claim.check()?;
        let mut unknown = Vec::new();
        let known: HashMap<&str, u64> = positions.iter().map(|(name, p)| (name.as_str(), p.offset)).collect();
        for (number, input) in self.inputs.iter_mut().enumerate() {
            match known.get(input.name.as_str()) {
                Some(offset) => input.next = *offset,
                None => unknown.push(number),
            }
        }
        if !unknown.is_empty() {
            let offsets = self.first_offsets(&unknown, !positions.is_empty())?;
            for (number, offset) in unknown.into_iter().zip(offsets) {
                self.inputs[number].next = offset;
            }
        }
        let mut list = TopicPartitionList::new();
        for input in &self.inputs {
            self.check_held(input)?;
            add(&mut list, &input.topic, input.partition, input.next)?;
        }
        self.queue.discard();
        self.last = None;
        self.consumer.assign(&list)?;
        self.started = true;
        Ok(())
    }

    fn poll(&mut self, block: &mut Block, wait: Duration) -> Result<Polled> {
        let held = self.claim.check()?;
        if !self.started {
            return Err(Fault::internal("a Kafka source was polled before it was started"));
        }
        if self.paused || !held {
            std::thread::sleep(wait);
            return Ok(Polled::Idle);
        }
        if self.looked.elapsed() >= GROWTH_INTERVAL {
            self.look_for_growth()?;
        }
        let mut wait = wait;
        while block.bytes.len() < self.options.read.block_bytes {
            let Some(mut message) = self.queue.peek(wait) else { break };
            if let Some(code) = message.error() {
                let (topic, partition) = (message.topic().to_string(), message.partition());
                let text = message.error_text();
                self.queue.advance();
                self.judge(code, &topic, partition, text)?;
                wait = Duration::ZERO;
                continue;
            }
            if wait > Duration::ZERO {
                block.read_at_ns = now_ns();
                wait = Duration::ZERO;
            }
            let number = number_of(&self.inputs, &mut self.last, &message)?;
            self.inputs[number as usize].next = message.offset() as u64 + 1;
            push(block, &mut message, number, &self.options.read);
            self.queue.advance();
        }
        if block.records.is_empty() {
            return Ok(Polled::Idle);
        }
        if block.read_at_ns == 0 {
            block.read_at_ns = now_ns();
        }
        Ok(Polled::Filled)
    }

    fn read_run(&mut self, input: &str, from: Position, end_offset: u64, block: &mut Block) -> Result<Polled> {
        if from.offset >= end_offset {
            return Ok(Polled::End);
        }
        let number = match self.inputs.iter().position(|i| i.name == input) {
            Some(number) => number,
            None => return Err(Fault::environment(format!("the topic of {input} no longer has that partition"))),
        };
        if self.replay.is_none() {
            self.replay = Some(Replay::new(&self.options)?);
        }
        let replay = self.replay.as_mut().expect("set above");
        replay.read(&self.inputs[number], number as u32, from.offset, end_offset, block, &self.options.read)
    }

    fn positions(&self) -> Vec<(String, Position)> {
        let stands = |input: &Input| (input.name.clone(), Position { offset: input.next, byte: 0 });
        self.inputs.iter().map(stands).collect()
    }

    fn input_name(&self, input: u32) -> &str {
        &self.inputs[input as usize].name
    }

    fn lag(&mut self) -> Vec<(String, Option<u64>)> {
        let behind = |input: &Input| {
            let high = self.consumer.high_seen(&input.c_topic, input.partition)?;
            Some(high.saturating_sub(input.next))
        };
        self.inputs.iter().map(|input| (input.name.clone(), behind(input))).collect()
    }

    fn pause(&mut self, paused: bool) {
        // The client's own queue fills up to its limit and stops fetching; what it holds is kept.
        self.paused = paused;
    }
}

/// Reads the past of several partitions, each through a queue of its own, so that short runs that alternate
/// between partitions cost no seek.
struct Replay {
    // Before the consumer: their messages belong to it.
    queues: HashMap<u32, ReplayQueue>,
    consumer: Consumer,
}

struct ReplayQueue {
    queue: Queue,
    /// No message below this is left in the queue.
    next: u64,
    /// The end of the partition was met after the last message.
    at_end: bool,
}

/// A jump this far ahead is a seek; a shorter one is read over.
const SEEK_OFFSETS_MIN: u64 = 100_000;

impl Replay {
    fn new(options: &KafkaOptions) -> Result<Replay> {
        let own =
            [("queued.max.messages.kbytes", "8192"), ("fetch.queue.backoff.ms", "5"), ("enable.partition.eof", "true")];
        Ok(Replay { queues: HashMap::new(), consumer: reader(options, &own)? })
    }

    /// Brings the input's queue to `from`.
    fn seek(&mut self, input: &Input, number: u32, from: u64) -> Result<()> {
        let near = |queue: &ReplayQueue| from >= queue.next && from - queue.next < SEEK_OFFSETS_MIN;
        if self.queues.get(&number).is_some_and(near) {
            return Ok(());
        }
        let (low, high) = self.consumer.watermarks(&input.topic, input.partition, BROKER_TIMEOUT)?;
        held(&input.name, from, low.max(0) as u64, high.max(0) as u64)?;
        let mut list = TopicPartitionList::new();
        add(&mut list, &input.topic, input.partition, from)?;
        match self.queues.get_mut(&number) {
            Some(known) => {
                self.consumer.seek(&list, BROKER_TIMEOUT)?;
                known.queue.discard();
                (known.next, known.at_end) = (from, false);
            }
            None => {
                let queue = self.consumer.partition_queue(&input.topic, input.partition)?;
                self.consumer.assign_more(&list)?;
                self.queues.insert(number, ReplayQueue { queue, next: from, at_end: false });
            }
        }
        Ok(())
    }

    fn read(
        &mut self,
        input: &Input,
        number: u32,
        from: u64,
        end: u64,
        block: &mut Block,
        read: &ReadOptions,
    ) -> Result<Polled> {
        self.seek(input, number, from)?;
        let from_queue = self.queues.get_mut(&number).expect("made by seek");
        let deadline = Instant::now() + BROKER_TIMEOUT;
        block.read_at_ns = now_ns();
        while block.bytes.len() < read.block_bytes {
            let wait = Duration::from_millis(if block.records.is_empty() { 50 } else { 0 });
            let Some(mut message) = from_queue.queue.peek(wait) else {
                if !block.records.is_empty() || from_queue.at_end {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(Fault::environment(format!("{}: the broker sends nothing from {from} on", input.name)));
                }
                self.consumer.serve();
                continue;
            };
            match message.error() {
                Some(RDKafkaErrorCode::PartitionEOF) => from_queue.at_end = true,
                Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                    return Err(lost(&input.name, from));
                }
                Some(code) => {
                    tracing::debug!(target: "millstream::kafka", "{}: {code}: {}", input.name, message.error_text());
                }
                None => {
                    let offset = message.offset() as u64;
                    if offset >= end {
                        break;
                    }
                    from_queue.at_end = false;
                    from_queue.next = offset + 1;
                    if offset >= from {
                        push(block, &mut message, number, read);
                    }
                }
            }
            from_queue.queue.advance();
        }
        Ok(if block.records.is_empty() { Polled::End } else { Polled::Filled })
    }
}

/// A consumer of this lane's options.
fn reader(options: &KafkaOptions, own: &[(&str, &str)]) -> Result<Consumer> {
    let mut all = vec![
        ("group.id", options.group.as_str()),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("allow.auto.create.topics", "false"),
    ];
    all.extend_from_slice(own);
    Consumer::new(&options.client_properties(&all)?)
}

fn add(list: &mut TopicPartitionList, topic: &str, partition: i32, offset: u64) -> Result<()> {
    list.add_partition_offset(topic, partition, Offset::Offset(offset as i64))
        .map_err(|e| Fault::internal(format!("{topic}/{partition}: offset {offset}: {e}")))
}

/// Fails where a partition that holds `low..high` can't be read from `next`.
fn held(name: &str, next: u64, low: u64, high: u64) -> Result<()> {
    if next < low {
        return Err(Fault::misuse(format!(
            "{name}: the next event is offset {next}, and the topic's retention has removed all below {low}: nothing is skipped unasked"
        ))
        .hint("restore the topic from a copy, or accept the loss: --new-lineage starts over with the model that pipeline names (docs/operations.md, When events are gone)"));
    }
    if next > high {
        return Err(Fault::misuse(format!("{name}: the next event is offset {next}, and the topic ends at {high}"))
            .hint("the topic was made anew or has lost its end: start over with --new-lineage"));
    }
    Ok(())
}

fn lost(name: &str, from: u64) -> Fault {
    Fault::misuse(format!("{name}: offset {from} is no longer there"))
        .hint("the topic's retention was faster: restore it, or start over with --new-lineage")
}

/// The number of a message's input. Messages come in stretches of one partition, so the last answer mostly fits.
fn number_of(inputs: &[Input], last: &mut Option<(usize, i32, u32)>, message: &Message<'_>) -> Result<u32> {
    let (id, partition) = (message.topic_id(), message.partition());
    if let Some((last_id, last_partition, number)) = *last
        && last_id == id
        && last_partition == partition
    {
        return Ok(number);
    }
    let topic = message.topic();
    let found = inputs.iter().position(|i| i.partition == partition && i.topic == topic);
    let number =
        found.ok_or_else(|| Fault::internal(format!("a message of {topic}/{partition}, which is no input")))?;
    *last = Some((id, partition, number as u32));
    Ok(number as u32)
}

/// Copies a message into the block.
fn push(block: &mut Block, message: &mut Message<'_>, input: u32, read: &ReadOptions) {
    let value = message.value();
    let packs = |value: &[u8]| match read.framing {
        Framing::Lines | Framing::Csv { .. } => memchr::memchr(b'\n', value).is_some_and(|at| at + 1 < value.len()),
        Framing::Binary => true,
    };
    let overlong = value.len() > read.event_bytes_max && !packs(value);
    let value = if overlong { &value[..read.event_bytes_max] } else { value };
    let span = append(&mut block.bytes, value);
    let key = message.key().map(|key| append(&mut block.bytes, key));
    let start = block.bytes.len();
    let headers = message.write_headers(&mut block.bytes).then(|| Span::new(start, block.bytes.len()));
    block.records.push(Record {
        span,
        input,
        kind: if overlong { RecordKind::Overlong } else { RecordKind::Message },
        offset: message.offset() as u64,
        byte: 0,
        key,
        headers,
    });
}

fn append(bytes: &mut Vec<u8>, part: &[u8]) -> Span {
    let start = bytes.len();
    bytes.extend_from_slice(part);
    Span::new(start, bytes.len())
}

fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
