//! The past of Kafka partitions, each read by itself, so that short runs that alternate between partitions cost no
//! seek. It takes part in no group and holds no lane: whoever may read the topics may read it.

use super::kafka::held;
use super::{Past, Polled, Position};
use crate::batch::Block;
use crate::error::{Fault, Result};
use crate::kafka::client::{Client, Filling, Met, Place, Reader, Reading};
use crate::kafka::{BROKER_TIMEOUT, KafkaOptions, split_input};
use std::sync::Arc;
use std::time::Duration;

/// A jump this far ahead is a seek; a shorter one is read over.
const SEEK_OFFSETS_MIN: u64 = 100_000;

/// Reads partitions again, by their inputs' names. Connects with the first read.
pub struct KafkaPast {
    client: Arc<dyn Client>,
    options: KafkaOptions,
    reader: Option<Box<dyn Reader>>,
    inputs: Vec<Input>,
}

/// A partition that was read from.
struct Input {
    name: String,
    /// No message below this comes any more.
    next: u64,
    /// The end of the partition was met after the last message.
    at_end: bool,
}

impl KafkaPast {
    /// The past of any partition of the cluster that the options name.
    pub fn new(client: Arc<dyn Client>, options: &KafkaOptions) -> KafkaPast {
        KafkaPast { client, options: options.clone(), reader: None, inputs: Vec::new() }
    }

    /// Gives up the connection and what was fetched ahead.
    pub fn close(&mut self) {
        self.reader = None;
        self.inputs.clear();
    }

    /// Brings an input to `from`; its number.
    fn seek(&mut self, name: &str, from: u64) -> Result<usize> {
        let known = self.inputs.iter().position(|i| i.name == name);
        let near = |input: &Input| from >= input.next && from - input.next < SEEK_OFFSETS_MIN;
        if let Some(number) = known.filter(|number| near(&self.inputs[*number])) {
            return Ok(number);
        }
        if self.reader.is_none() {
            self.reader = Some(self.client.reader(&self.options, Reading::Past)?);
        }
        let reader = self.reader.as_mut().expect("set above");
        let (topic, partition) =
            split_input(name).ok_or_else(|| Fault::environment(format!("{name}: not an input of this source")))?;
        let (low, high) = reader.watermarks(topic, partition)?;
        held(name, from, low, high)?;
        let number = known.unwrap_or(self.inputs.len());
        let place = Place { input: number as u32, topic: topic.to_string(), partition, offset: from };
        let input = Input { name: name.to_string(), next: from, at_end: false };
        match known {
            Some(number) => {
                self.inputs[number] = input;
                reader.seek(&place)?;
            }
            None => {
                reader.add(&[place])?;
                self.inputs.push(input);
            }
        }
        Ok(number)
    }
}

impl Past for KafkaPast {
    fn read_run(&mut self, input: &str, from: Position, end_offset: u64, block: &mut Block) -> Result<Polled> {
        if from.offset >= end_offset {
            return Ok(Polled::End);
        }
        let number = self.seek(input, from.offset)?;
        let (reader, reached) = (self.reader.as_mut().expect("made by seek"), &mut self.inputs[number]);
        let clock = self.client.clock();
        let deadline = clock.now() + BROKER_TIMEOUT;
        loop {
            let wait = Duration::from_millis(if block.records.is_empty() { 50 } else { 0 });
            let mut filling = Filling::run(block, &self.options.read, from.offset, end_offset);
            let met = reader.read_place(number as u32, wait, &mut filling)?;
            if let Some(next) = filling.passed() {
                (reached.next, reached.at_end) = (next, false);
            }
            match met {
                Met::Full => break,
                Met::OutOfRange(_) => return Err(lost(input, from.offset)),
                // Told again where nothing came behind it.
                Met::End if reached.at_end => break,
                Met::End => reached.at_end = true,
                Met::Nothing if reached.at_end || !block.records.is_empty() => break,
                Met::Nothing if clock.now() > deadline => {
                    let from = from.offset;
                    return Err(Fault::environment(format!("{input}: the broker sends nothing from {from} on")));
                }
                Met::Nothing => {}
            }
        }
        Ok(if block.records.is_empty() { Polled::End } else { Polled::Filled })
    }

    fn input_name(&self, input: u32) -> &str {
        &self.inputs[input as usize].name
    }
}

fn lost(name: &str, from: u64) -> Fault {
    Fault::misuse(format!("{name}: offset {from} is no longer there"))
        .hint("the topic's retention was faster: restore it, or start over with --new-lineage")
}
