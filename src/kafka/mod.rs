//! Kafka: what the source, the sink and the journal of a lane share, and [`open`], which makes the three.
//!
//! ```text
//! group.rs     the group consumer: which lanes are this daemon's (one a process and group)
//! consumer.rs  a thin consumer that hands out messages in batches (unsafe code lives here and in producer.rs)
//! producer.rs  the producer, its transactions, and their error classes
//! topics.rs    partitions, watermarks, and making of topics
//! trouble.rs   why brokers don't answer, what they refuse, and what to do
//! headers.rs   a message's headers as bytes
//! close.rs     closing of clients, within a bound
//! ```
//!
//! The journal topic is the unit of assignment: the group's protocol hands out its partitions, and the
//! owner of partition `n` is lane `n`. The lane assigns itself the input partitions p with
//! p mod lanes = n on a consumer of its own, which never rebalances.

mod close;
pub mod consumer;
pub mod group;
pub mod headers;
pub mod producer;
pub mod topics;
pub(crate) mod trouble;

use crate::error::{Fault, Result};
use crate::journal::kafka::KafkaJournal;
use crate::sink::kafka::{KafkaSink, Target};
use crate::source::ReadOptions;
use crate::source::kafka::KafkaSource;
use group::{Claim, KafkaGroup};
use producer::LaneProducer;
use std::sync::Arc;
use std::time::Duration;

/// How long a client tries to reach a broker before a call becomes a fault.
pub const BROKER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long [`open`] waits for the group to hand it the lane.
pub const ASSIGNMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// Where reading starts when neither the journal nor the group has a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest event that the topic holds.
    Earliest,
    /// At the events that arrive from now on.
    Latest,
}

/// What a lane needs to know of its brokers, topics and group.
#[derive(Debug, Clone)]
pub struct KafkaOptions {
    /// `host:port`, separated by commas.
    pub brokers: String,
    /// The input topics; empty where only the sink is Kafka.
    pub topics: Vec<String>,
    /// The group: input offsets are committed under it, and the journal is the topic `<group>-journal`.
    pub group: String,
    /// Name of this daemon in the group (static membership); empty: a member without a name.
    pub node_name: String,
    /// Where to start without a past.
    pub start: Start,
    /// The lane.
    pub lane: u32,
    /// How many lanes there are.
    pub lanes: u32,
    /// Limits and format.
    pub read: ReadOptions,
    /// `[source.kafka]`, as it is: given to every client, after our own settings.
    pub properties: Vec<(String, String)>,
    /// Topic of the predictions; `None` where the sink isn't Kafka.
    pub sink_topic: Option<String>,
    /// Topic of the dead letters.
    pub dead_letters: Option<String>,
    /// True: each commit is one transaction. False: at least once.
    pub exactly_once: bool,
    /// Only journal records of this lineage are read; empty: of any.
    pub lineage: String,
    /// How long the first broker may take to answer; at most [`BROKER_TIMEOUT`] is waited.
    pub first_answer: Duration,
}

impl KafkaOptions {
    /// Name of the journal's topic.
    pub fn journal_topic(&self) -> String {
        format!("{}-journal", self.group)
    }

    /// A client's properties: the common ones, its own, then the user's, which win, but for `group.id` and the
    /// properties on which delivery rests.
    pub(crate) fn client_properties(&self, own: &[(&str, &str)]) -> Result<Vec<(String, String)>> {
        let mut all: Vec<(String, String)> = vec![
            ("bootstrap.servers".into(), self.brokers.clone()),
            ("client.id".into(), format!("millstream-{}-{}", self.group, self.lane)),
            ("reconnect.backoff.ms".into(), "20".into()),
            ("reconnect.backoff.max.ms".into(), "1000".into()),
        ];
        for (key, value) in own {
            set(&mut all, key, value);
        }
        for (key, value) in &self.properties {
            if RESERVED.contains(&key.as_str()) {
                return Err(Fault::misuse(format!("source.kafka.\"{key}\" is set by Millstream itself"))
                    .hint("remove it; brokers, group, node name and delivery have keys of their own"));
            }
            set(&mut all, key, value);
        }
        Ok(all)
    }
}

/// Properties on which positions and delivery rest.
const RESERVED: [&str; 11] = [
    "bootstrap.servers",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "partition.assignment.strategy",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "isolation.level",
    "transactional.id",
    "enable.idempotence",
];

fn set(all: &mut Vec<(String, String)>, key: &str, value: &str) {
    match all.iter_mut().find(|(known, _)| known == key) {
        Some(entry) => entry.1 = value.to_string(),
        None => all.push((key.to_string(), value.to_string())),
    }
}

/// The three ends of a Kafka lane.
pub struct KafkaLane {
    /// `None` where only the sink is Kafka.
    pub source: Option<KafkaSource>,
    /// `None` where only the source is Kafka.
    pub sink: Option<KafkaSink>,
    /// The lane's journal; with exactly-once, its `append` commits.
    pub journal: KafkaJournal,
}

/// Opens a lane: makes the topics that are missing, waits until the group has handed this daemon the lane,
/// and fences whoever held it before (exactly-once).
///
/// # Errors
/// Misuse: a topic that doesn't fit (too few partitions, a journal of another lane count), a reserved or
/// unknown property. Environment: no broker answers, or another daemon keeps the lane.
pub fn open(options: &KafkaOptions) -> Result<KafkaLane> {
    let group = KafkaGroup::join(options)?;
    let shapes = group.input_shapes(&options.topics)?;
    let partitions = shapes.iter().map(|shape| shape.partitions).max();
    let replication = shapes.iter().map(|shape| shape.replication).max();
    let target = |topic: &Option<String>| -> Result<Option<Target>> {
        let Some(topic) = topic else { return Ok(None) };
        let made = topics::ensure(&group, options, topic, partitions.unwrap_or(-1), replication.unwrap_or(-1), &[])?;
        Ok(Some(Target { topic: made.topic, partitions: made.partitions }))
    };
    let (predictions, dead_letters) = (target(&options.sink_topic)?, target(&options.dead_letters)?);
    if let (Some(made), Some(partitions)) = (&predictions, partitions)
        && made.partitions < partitions
    {
        return Err(Fault::misuse(format!(
            "the topic \"{}\" has {} partitions, and the input has {partitions}: a prediction keeps its event's partition",
            made.topic, made.partitions
        ))
        .hint("add partitions to it, or name a topic that doesn't exist yet, to be made like the input"));
    }
    trouble::check_topics(&group, options, options.first_answer.min(BROKER_TIMEOUT))?;
    let claim = Claim::wait(&group, options, ASSIGNMENT_TIMEOUT)?;
    let producer = LaneProducer::open(options)?;
    let source = match options.topics.is_empty() {
        true => None,
        false => Some(KafkaSource::new(options, Arc::clone(&claim), &shapes)?),
    };
    let sink = (predictions.is_some() || dead_letters.is_some()).then(|| {
        let (producer, claim) = (Arc::clone(&producer), Arc::clone(&claim));
        KafkaSink::new(options, producer, claim, predictions, dead_letters)
    });
    Ok(KafkaLane { source, sink, journal: KafkaJournal::new(options, claim, producer)? })
}

/// Splits an input's name into topic and partition.
pub fn split_input(input: &str) -> Option<(&str, i32)> {
    let (topic, partition) = input.rsplit_once('/')?;
    Some((topic, partition.parse().ok()?))
}
