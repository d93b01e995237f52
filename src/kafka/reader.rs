//! The reader over the C library's consumer.

use super::client::{Filling, Met, Place, Reader, Reading};
use super::consumer::{Consumer, Message, Queue};
use super::trouble::{Resource, refusal};
use super::{BROKER_TIMEOUT, KafkaOptions};
use crate::error::{Fault, Result};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::ffi::CString;
use std::time::Duration;

/// A reader of the C library.
pub(super) struct QueueReader {
    reading: Reading,
    // Before the consumer: what they hold belongs to that.
    queue: Queue,
    own: HashMap<u32, Queue>,
    consumer: Consumer,
    places: Vec<(Place, CString)>,
    options: KafkaOptions,
    /// The place last looked up: topic, partition, input.
    last: Option<(usize, i32, u32)>,
}

/// A consumer's settings: what all readers share, then what each kind has of its own.
fn properties(reading: Reading) -> Vec<(&'static str, &'static str)> {
    let mut all = vec![
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("isolation.level", "read_committed"),
        ("allow.auto.create.topics", "false"),
    ];
    all.extend_from_slice(match reading {
        Reading::Live => &[("queued.max.messages.kbytes", "16384"), ("fetch.queue.backoff.ms", "5")],
        Reading::Past => {
            &[("queued.max.messages.kbytes", "8192"), ("fetch.queue.backoff.ms", "5"), ("enable.partition.eof", "true")]
        }
        Reading::Journal => &[("queued.max.messages.kbytes", "4096"), ("enable.partition.eof", "true")],
    });
    all
}

impl QueueReader {
    pub fn new(options: &KafkaOptions, reading: Reading) -> Result<QueueReader> {
        let mut own = vec![("group.id", options.group.as_str())];
        own.extend(properties(reading));
        let consumer = Consumer::new(&options.client_properties(&own)?)?;
        let (queue, own) = (consumer.queue(), HashMap::new());
        let options = options.clone();
        Ok(QueueReader { reading, queue, own, consumer, places: Vec::new(), options, last: None })
    }

    /// The partitions as the library wants them, known from here on.
    fn list(&mut self, places: &[Place]) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for place in places {
            add(&mut list, place)?;
            let topic = CString::new(place.topic.as_str());
            let topic = topic.map_err(|_| Fault::misuse(format!("the topic {:?} holds a zero byte", place.topic)))?;
            self.places.push((place.clone(), topic));
        }
        Ok(list)
    }
}

fn add(list: &mut TopicPartitionList, place: &Place) -> Result<()> {
    let Place { topic, partition, offset, .. } = place;
    list.add_partition_offset(topic, *partition, Offset::Offset(*offset as i64))
        .map_err(|e| Fault::internal(format!("{topic}/{partition}: offset {offset}: {e}")))
}

impl Reader for QueueReader {
    fn assign(&mut self, places: &[Place]) -> Result<()> {
        self.queue.discard();
        self.own.clear();
        self.places.clear();
        self.last = None;
        let list = self.list(places)?;
        self.consumer.assign(&list)
    }

    fn add(&mut self, places: &[Place]) -> Result<()> {
        if self.reading == Reading::Past {
            for place in places {
                self.own.insert(place.input, self.consumer.partition_queue(&place.topic, place.partition)?);
            }
        }
        let list = self.list(places)?;
        self.consumer.assign_more(&list)
    }

    fn seek(&mut self, place: &Place) -> Result<()> {
        let mut list = TopicPartitionList::new();
        add(&mut list, place)?;
        self.consumer.seek(&list, BROKER_TIMEOUT)?;
        if let Some(queue) = self.own.get_mut(&place.input) {
            queue.discard();
        }
        Ok(())
    }

    fn read(&mut self, wait: Duration, into: &mut Filling<'_>) -> Result<Met> {
        let kind = (self.reading, &self.options);
        fill(&mut self.queue, &self.places, &mut self.last, kind, wait, into)
    }

    fn read_place(&mut self, input: u32, wait: Duration, into: &mut Filling<'_>) -> Result<Met> {
        let Some(queue) = self.own.get_mut(&input) else {
            return Err(Fault::internal(format!("input {input} is read and was not assigned")));
        };
        let met = fill(queue, &self.places, &mut self.last, (self.reading, &self.options), wait, into)?;
        if met == Met::Nothing && into.is_empty() {
            self.consumer.serve();
        }
        Ok(met)
    }

    fn watermarks(&self, topic: &str, partition: i32) -> Result<(u64, u64)> {
        let (low, high) = self.consumer.watermarks(topic, partition, self.options.first_answer.min(BROKER_TIMEOUT))?;
        Ok((low.max(0) as u64, high.max(0) as u64))
    }

    fn high_seen(&self, input: u32) -> Option<u64> {
        let (place, topic) = self.places.iter().find(|(place, _)| place.input == input)?;
        self.consumer.high_seen(topic, place.partition)
    }

    fn committed(&self, partitions: &[(&str, i32)]) -> Result<Vec<Option<u64>>> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, *partition);
        }
        self.consumer.committed(&mut list, BROKER_TIMEOUT)?;
        let offset = |(topic, partition): &(&str, i32)| match list.find_partition(topic, *partition)?.offset() {
            Offset::Offset(offset) if offset >= 0 => Some(offset as u64),
            _ => None,
        };
        Ok(partitions.iter().map(offset).collect())
    }
}

fn fill(
    queue: &mut Queue,
    places: &[(Place, CString)],
    last: &mut Option<(usize, i32, u32)>,
    kind: (Reading, &KafkaOptions),
    mut wait: Duration,
    into: &mut Filling<'_>,
) -> Result<Met> {
    while !into.is_full() {
        let Some(mut message) = queue.peek(wait) else { return Ok(Met::Nothing) };
        wait = Duration::ZERO;
        if let Some(code) = message.error() {
            let judged = judge(code, &message, places, kind);
            queue.advance();
            match judged? {
                Some(met) => return Ok(met),
                None => continue,
            }
        }
        let input = input_of(places, last, &message)?;
        if !message.offer_to(into, input) {
            return Ok(Met::Full);
        }
        queue.advance();
    }
    Ok(Met::Full)
}

/// What an error in a message's place means; `None`: it passes by itself.
fn judge(
    code: RDKafkaErrorCode,
    message: &Message<'_>,
    places: &[(Place, CString)],
    (reading, options): (Reading, &KafkaOptions),
) -> Result<Option<Met>> {
    let (topic, partition, text) = (message.topic(), message.partition(), message.error_text());
    match code {
        RDKafkaErrorCode::PartitionEOF => return Ok(Some(Met::End)),
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
            let place = places.iter().find(|(place, _)| place.topic == topic && place.partition == partition);
            return match place {
                Some((place, _)) => Ok(Some(Met::OutOfRange(place.input))),
                None => Err(Fault::environment(format!("{topic}/{partition}: {text}"))),
            };
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            return Err(refusal(options, Resource::Topic, topic, "Read"));
        }
        RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::UnknownTopicOrPartition
        | RDKafkaErrorCode::UnknownTopic
        | RDKafkaErrorCode::UnknownPartition
        | RDKafkaErrorCode::Fatal
            if reading == Reading::Live =>
        {
            return Err(Fault::environment(format!("{topic}/{partition}: {text}")));
        }
        _ => tracing::debug!(target: "millstream::kafka", "{topic}/{partition}: {code}: {text}"),
    }
    Ok(None)
}

/// The number of a message's input. Messages come in stretches of one partition, so the last answer mostly fits.
fn input_of(places: &[(Place, CString)], last: &mut Option<(usize, i32, u32)>, message: &Message<'_>) -> Result<u32> {
    let (id, partition) = (message.topic_id(), message.partition());
    if let Some((last_id, last_partition, input)) = *last
        && last_id == id
        && last_partition == partition
    {
        return Ok(input);
    }
    let topic = message.topic();
    let found = places.iter().find(|(place, _)| place.partition == partition && place.topic == topic);
    let (place, _) =
        found.ok_or_else(|| Fault::internal(format!("a message of {topic}/{partition}, which is no input")))?;
    *last = Some((id, partition, place.input));
    Ok(place.input)
}
