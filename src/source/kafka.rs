//! A lane's input partitions of Kafka topics: topic/partition, each a message a record.
//!
//! The consumer is assigned by hand and never rebalances; whether the lane is still ours is the claim's
//! business, looked at in each `poll`. Offsets may have gaps: transaction markers and compaction leave some.

use super::kafka_past::KafkaPast;
use super::{Past, Polled, Position, Source};
use crate::batch::Block;
use crate::clock::Clock;
use crate::error::{Fault, Result};
use crate::kafka::claim::Claim;
use crate::kafka::client::{Client, Filling, Met, Place, Reader, Reading, TopicShape, missing};
use crate::kafka::{KafkaOptions, Start};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the source looks whether the group has seen new partitions.
const GROWTH_INTERVAL: Duration = Duration::from_secs(1);

/// An input partition.
struct Input {
    name: String,
    topic: String,
    partition: i32,
    /// Offset of the next event.
    next: u64,
}

impl Input {
    /// The input as a place to read from.
    fn place(&self, input: u32, offset: u64) -> Place {
        Place { input, topic: self.topic.clone(), partition: self.partition, offset }
    }
}

/// The source of a Kafka lane.
pub struct KafkaSource {
    clock: Clock,
    options: KafkaOptions,
    claim: Arc<Claim>,
    reader: Box<dyn Reader>,
    inputs: Vec<Input>,
    past: KafkaPast,
    started: bool,
    paused: bool,
    looked: Instant,
}

impl KafkaSource {
    /// A source of the partitions p of each topic with p mod lanes = lane. Reads nothing before `start`.
    ///
    /// # Errors
    /// Misuse, naming a property that is refused.
    pub fn new(
        client: Arc<dyn Client>,
        options: &KafkaOptions,
        claim: Arc<Claim>,
        shapes: &[TopicShape],
    ) -> Result<KafkaSource> {
        let (reader, clock) = (client.reader(options, Reading::Live)?, client.clock());
        let past = KafkaPast::new(client, options);
        let mut source = KafkaSource {
            looked: clock.now(),
            clock,
            options: options.clone(),
            claim,
            reader,
            inputs: Vec::new(),
            past,
            started: false,
            paused: false,
        };
        for shape in shapes {
            source.add_inputs(&shape.topic, shape.partitions);
        }
        Ok(source)
    }

    /// Adds the lane's partitions of a topic that aren't known yet.
    fn add_inputs(&mut self, topic: &str, partitions: i32) {
        for partition in (0..partitions).filter(|p| *p as u32 % self.options.lanes == self.options.lane) {
            if self.inputs.iter().any(|i| i.topic == topic && i.partition == partition) {
                continue;
            }
            self.inputs.push(Input {
                name: format!("{topic}/{partition}"),
                topic: topic.to_string(),
                partition,
                next: 0,
            });
        }
    }

    /// Where an input without a position in the journal begins.
    fn first_offsets(&self, unknown: &[usize], has_past: bool) -> Result<Vec<u64>> {
        let partitions: Vec<(&str, i32)> =
            unknown.iter().map(|i| (self.inputs[*i].topic.as_str(), self.inputs[*i].partition)).collect();
        let mut offsets = Vec::with_capacity(unknown.len());
        for (&(topic, partition), committed) in partitions.iter().zip(self.reader.committed(&partitions)?) {
            let (low, high) = self.reader.watermarks(topic, partition)?;
            offsets.push(match committed {
                // Without a past of its own the lane may begin anywhere, but not unsaid.
                Some(offset) if !has_past && !(low..=high).contains(&offset) => {
                    tracing::warn!(
                        target: "millstream::kafka",
                        "{topic}/{partition}: the group stood at offset {offset}, and the topic holds {low} to {high}: begins at {low}"
                    );
                    low
                }
                Some(offset) => offset,
                None => {
                    // A partition that was added to a topic with a past is read whole.
                    let latest = self.options.start == Start::Latest && !has_past;
                    if latest { high } else { low }
                }
            });
        }
        Ok(offsets)
    }

    /// Fails where a partition no longer, or not yet, holds its position.
    fn check_held(&self, input: &Input) -> Result<()> {
        let (low, high) = self.reader.watermarks(&input.topic, input.partition)?;
        held(&input.name, input.next, low, high)
    }

    fn look_for_growth(&mut self) -> Result<()> {
        self.looked = self.clock.now();
        let known = self.inputs.len();
        for topic in self.options.topics.clone() {
            if let Some(partitions) = self.claim.group().holdings().partitions_seen(&topic) {
                if partitions == 0 {
                    return Err(missing(&topic));
                }
                self.add_inputs(&topic, partitions);
            }
        }
        if self.inputs.len() == known {
            return Ok(());
        }
        let added = self.inputs.iter().enumerate().skip(known);
        let places: Vec<Place> = added.map(|(number, input)| input.place(number as u32, 0)).collect();
        self.reader.add(&places)
    }
}

impl Past for KafkaSource {
    fn read_run(&mut self, input: &str, from: Position, end_offset: u64, block: &mut Block) -> Result<Polled> {
        let Some(number) = self.inputs.iter().position(|i| i.name == input) else {
            return Err(Fault::environment(format!("the topic of {input} no longer has that partition")));
        };
        self.past.read(number as u32, input, from.offset..end_offset, block)
    }

    fn input_name(&self, input: u32) -> &str {
        &self.inputs[input as usize].name
    }
}

impl Source for KafkaSource {
    fn start(&mut self, positions: &[(String, Position)]) -> Result<()> {
        self.past.close();
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
        self.inputs.iter().try_for_each(|input| self.check_held(input))?;
        let numbered = self.inputs.iter().enumerate();
        let places: Vec<Place> = numbered.map(|(number, input)| input.place(number as u32, input.next)).collect();
        self.reader.assign(&places)?;
        self.started = true;
        Ok(())
    }

    fn poll(&mut self, block: &mut Block, wait: Duration) -> Result<Polled> {
        let held = self.claim.check()?;
        if !self.started {
            return Err(Fault::internal("a Kafka source was polled before it was started"));
        }
        if self.paused || !held {
            self.clock.sleep(wait);
            return Ok(Polled::Idle);
        }
        if self.clock.since(self.looked) >= GROWTH_INTERVAL {
            self.look_for_growth()?;
        }
        let met = self.reader.read(wait, &mut Filling::all(block, &self.options.read))?;
        for record in &block.records {
            self.inputs[record.input as usize].next = record.offset + 1;
        }
        if let Met::OutOfRange(number) = met {
            let input = &self.inputs[number as usize];
            self.check_held(input)?;
            return Err(Fault::environment(format!("{}: the broker has no event {}", input.name, input.next)));
        }
        Ok(if block.records.is_empty() { Polled::Idle } else { Polled::Filled })
    }

    fn positions(&self) -> Vec<(String, Position)> {
        let stands = |input: &Input| (input.name.clone(), Position { offset: input.next, byte: 0 });
        self.inputs.iter().map(stands).collect()
    }

    fn lag(&mut self) -> Vec<(String, Option<u64>)> {
        let numbered = self.inputs.iter().enumerate();
        let behind = |number: usize, input: &Input| {
            self.reader.high_seen(number as u32).map(|high| high.saturating_sub(input.next))
        };
        numbered.map(|(number, input)| (input.name.clone(), behind(number, input))).collect()
    }

    fn pause(&mut self, paused: bool) {
        // The client's own queue fills up to its limit and stops fetching; what it holds is kept.
        self.paused = paused;
    }
}

/// Fails where a partition that holds `low..high` can't be read from `next`.
pub(super) fn held(name: &str, next: u64, low: u64, high: u64) -> Result<()> {
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
