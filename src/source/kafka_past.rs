//! The past of Kafka partitions, each read by itself, so that short runs that alternate between partitions cost no
//! seek. It takes part in no group and holds no lane: whoever may read the topics may read it.

use super::kafka::held;
use super::{Past, Polled, Position};
use crate::batch::Block;
use crate::error::{Fault, Result};
use crate::kafka::client::{Client, Filling, Met, Place, Reader, Reading};
use crate::kafka::{BROKER_TIMEOUT, KafkaOptions, split_input};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// A jump this far ahead is a seek; a shorter one is read over.
const SEEK_OFFSETS_MIN: u64 = 100_000;

/// Reads partitions again, by their inputs' names. Connects with the first read.
pub struct KafkaPast {
    client: Arc<dyn Client>,
    options: KafkaOptions,
    reader: Option<Box<dyn Reader>>,
    /// By the input's number.
    reached: HashMap<u32, Reached>,
    /// Where nobody else gives the inputs numbers: in the order in which they came.
    names: Vec<String>,
}

/// How far a partition was read.
#[derive(Clone, Copy)]
struct Reached {
    /// No message below this comes any more.
    next: u64,
    /// The end of the partition was met after the last message.
    at_end: bool,
}

impl KafkaPast {
    /// The past of any partition of the cluster that the options name.
    pub fn new(client: Arc<dyn Client>, options: &KafkaOptions) -> KafkaPast {
        KafkaPast { client, options: options.clone(), reader: None, reached: HashMap::new(), names: Vec::new() }
    }

    /// Gives up the connection and what was fetched ahead.
    pub fn close(&mut self) {
        self.reader = None;
        self.reached.clear();
    }

    /// [`Past::read_run`] for a caller that numbers the inputs itself: the records say `number`.
    pub fn read(&mut self, number: u32, input: &str, offsets: Range<u64>, block: &mut Block) -> Result<Polled> {
        if offsets.is_empty() {
            return Ok(Polled::End);
        }
        let from = offsets.start;
        let mut reached = self.seek(number, input, from)?;
        let reader = self.reader.as_mut().expect("made by seek");
        let clock = self.client.clock();
        let deadline = clock.now() + BROKER_TIMEOUT;
        loop {
            let wait = Duration::from_millis(if block.records.is_empty() { 50 } else { 0 });
            let mut filling = Filling::run(block, &self.options.read, from, offsets.end);
            let met = reader.read_place(number, wait, &mut filling)?;
            if let Some(next) = filling.passed() {
                reached = Reached { next, at_end: false };
            }
            match met {
                Met::Full => break,
                Met::OutOfRange(_) => return Err(lost(input, from)),
                // Told again where nothing came behind it.
                Met::End if reached.at_end => break,
                Met::End => reached.at_end = true,
                Met::Nothing if reached.at_end || !block.records.is_empty() => break,
                Met::Nothing if clock.now() > deadline => {
                    return Err(Fault::environment(format!("{input}: the broker sends nothing from {from} on")));
                }
                Met::Nothing => {}
            }
        }
        self.reached.insert(number, reached);
        Ok(if block.records.is_empty() { Polled::End } else { Polled::Filled })
    }

    /// Brings an input to `from`; where it stands then.
    fn seek(&mut self, number: u32, name: &str, from: u64) -> Result<Reached> {
        let known = self.reached.get(&number).copied();
        let near = |reached: &Reached| from >= reached.next && from - reached.next < SEEK_OFFSETS_MIN;
        if let Some(reached) = known.filter(near) {
            return Ok(reached);
        }
        if self.reader.is_none() {
            self.reader = Some(self.client.reader(&self.options, Reading::Past)?);
        }
        let reader = self.reader.as_mut().expect("set above");
        let (topic, partition) =
            split_input(name).ok_or_else(|| Fault::environment(format!("{name}: not an input of this source")))?;
        let (low, high) = reader.watermarks(topic, partition)?;
        held(name, from, low, high)?;
        let place = Place { input: number, topic: topic.to_string(), partition, offset: from };
        match known {
            Some(_) => reader.seek(&place)?,
            None => reader.add(&[place])?,
        }
        let reached = Reached { next: from, at_end: false };
        self.reached.insert(number, reached);
        Ok(reached)
    }
}

impl Past for KafkaPast {
    fn read_run(&mut self, input: &str, from: Position, end_offset: u64, block: &mut Block) -> Result<Polled> {
        let number = self.names.iter().position(|name| name == input).unwrap_or_else(|| {
            self.names.push(input.to_string());
            self.names.len() - 1
        });
        self.read(number as u32, input, from.offset..end_offset, block)
    }

    fn input_name(&self, input: u32) -> &str {
        &self.names[input as usize]
    }
}

fn lost(name: &str, from: u64) -> Fault {
    Fault::misuse(format!("{name}: offset {from} is no longer there"))
        .hint("the topic's retention was faster: restore it, or start over with --new-lineage")
}
