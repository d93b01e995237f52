//! A lane's predictions and dead letters as Kafka messages: same partition and key as the event.

use super::{InputNames, OutputLength, Sink};
use crate::batch::{DeadLetter, Outbox};
use crate::error::{Fault, Result};
use crate::faults;
use crate::kafka::claim::Claim;
use crate::kafka::client::{Messages, Producer, push_text};
use crate::kafka::{KafkaOptions, split_input};
use std::sync::Arc;

/// Longest message, where the properties don't say otherwise (the client library's own default).
const MESSAGE_BYTES_MAX: usize = 1_000_000;

/// Room for what a message holds beside value, key and headers.
const MESSAGE_OVERHEAD_BYTES: usize = 512;

/// A topic to write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub topic: String,
    /// Its number of partitions.
    pub partitions: i32,
}

/// The sink of a Kafka lane.
pub struct KafkaSink {
    producer: Arc<dyn Producer>,
    /// The same, but where tests have planted a mistake.
    letters: Arc<dyn Producer>,
    claim: Arc<Claim>,
    predictions: Option<Target>,
    dead_letters: Option<Target>,
    /// Input topics; empty where the source isn't Kafka.
    topics: Vec<String>,
    exactly_once: bool,
    /// Longest message that the client sends.
    message_bytes_max: usize,
    /// The partition that answers each input, as far as looked up.
    partitions: Vec<i32>,
}

impl KafkaSink {
    /// A sink on the lane's producer (twice the same: the second takes the dead letters).
    pub fn new(
        options: &KafkaOptions,
        [producer, letters]: [Arc<dyn Producer>; 2],
        claim: Arc<Claim>,
        predictions: Option<Target>,
        dead_letters: Option<Target>,
    ) -> KafkaSink {
        let limit = options.property(&["message.max.bytes"]);
        KafkaSink {
            producer,
            letters,
            claim,
            predictions,
            dead_letters,
            topics: options.topics.clone(),
            exactly_once: options.exactly_once,
            message_bytes_max: limit.and_then(|value| value.parse().ok()).unwrap_or(MESSAGE_BYTES_MAX),
            partitions: Vec::new(),
        }
    }

    /// The partition of the predictions of an input: its own number, or one by turns for other sources.
    fn look_up(&mut self, inputs: &InputNames, most: i32) {
        for (number, input) in inputs.iter().enumerate().skip(self.partitions.len()) {
            let own = split_input(input).filter(|(topic, _)| self.topics.iter().any(|t| t == topic));
            self.partitions.push(match own {
                None => (number % most.max(1) as usize) as i32,
                Some((_, partition)) => partition,
            });
        }
    }

    fn look_again(&mut self, mut target: Target) -> Result<Target> {
        if let Some(shape) = self.claim.group().shape(&target.topic)? {
            target.partitions = shape.partitions;
            self.predictions = Some(target.clone());
        }
        Ok(target)
    }

    fn write_predictions(&mut self, outbox: &Outbox, inputs: &InputNames) -> Result<()> {
        let Some(target) = self.predictions.clone() else { return Ok(()) };
        self.look_up(inputs, target.partitions);
        let target = match self.partitions.iter().all(|partition| *partition < target.partitions) {
            true => target,
            // The output may have grown with its input.
            false => self.look_again(target)?,
        };
        for record in &outbox.records {
            let partition = self.partitions[record.input as usize];
            if partition >= target.partitions {
                return Err(Fault::misuse(format!(
                    "the topic \"{}\" has {} partitions, too few to answer {}",
                    target.topic, target.partitions, inputs[record.input as usize]
                ))
                .hint("add partitions to it, as the input has, and start again"));
            }
        }
        self.producer.send_all(&target.topic, Messages::new(outbox, &self.partitions))
    }

    fn write_dead(&self, letter: &DeadLetter, input: &str) -> Result<()> {
        let Some(target) = &self.dead_letters else { return Ok(()) };
        let partition = split_input(input).map_or(letter.input as i32, |(_, partition)| partition);
        let mut headers = reasons(letter, input, &self.topics);
        // With its reasons an event can be longer than a message may be. It must not stop the stream: its end goes.
        let beside = headers.len() + letter.key.as_ref().map_or(0, Vec::len) + MESSAGE_OVERHEAD_BYTES;
        let room = self.message_bytes_max.saturating_sub(beside);
        let raw = &letter.raw[..letter.raw.len().min(room)];
        if raw.len() < letter.raw.len() {
            push_text(&mut headers, "millstream.raw_bytes", &letter.raw.len().to_string());
        }
        let partition = partition.rem_euclid(target.partitions.max(1));
        faults::step("kafka.dead-letter");
        self.letters.send(&target.topic, partition, letter.key.as_deref(), raw, &headers)
    }
}

/// The message's own headers, then what Kafka Connect's tools look for: a run.
fn reasons(letter: &DeadLetter, input: &str, topics: &[String]) -> Vec<u8> {
    let mut all = letter.headers.clone().unwrap_or_default();
    let mut add = |key: &str, value: &str| push_text(&mut all, key, value);
    match split_input(input).filter(|(topic, _)| topics.iter().any(|t| t == topic)) {
        Some((topic, partition)) => {
            add("__connect.errors.topic", topic);
            add("__connect.errors.partition", &partition.to_string());
        }
        None => add("__connect.errors.topic", input),
    }
    add("__connect.errors.offset", &letter.offset.to_string());
    add("__connect.errors.stage", letter.reject.stage.name());
    add("__connect.errors.exception.class.name", &format!("millstream.reject.{}", letter.reject.stage.name()));
    let message = match &letter.field {
        Some(field) => format!("{field}: {}", letter.reject.reason),
        None => letter.reject.reason.to_string(),
    };
    add("__connect.errors.exception.message", &message);
    if let Some(field) = &letter.field {
        add("millstream.field", field);
    }
    if let Some(row) = letter.row {
        add("millstream.row", &row.to_string());
    }
    all
}

impl Sink for KafkaSink {
    fn write(&mut self, outbox: &Outbox, inputs: &InputNames) -> Result<()> {
        self.claim.check()?;
        if !outbox.records.is_empty() {
            self.write_predictions(outbox, inputs)?;
        }
        outbox.dead.iter().try_for_each(|letter| self.write_dead(letter, &inputs[letter.input as usize]))
    }

    fn flush(&mut self) -> Result<Vec<OutputLength>> {
        if !self.exactly_once {
            self.producer.flush()?;
        }
        Ok(Vec::new())
    }

    fn recover(&mut self, _: &[OutputLength]) -> Result<()> {
        // What was written and not committed is written again by whoever recovers.
        self.producer.abort();
        Ok(())
    }
}
