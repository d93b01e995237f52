//! Kafka: what the source, the sink and the journal of a lane share, and [`open`], which makes the three.
//!
//! ```text
//! client.rs    what a lane asks of a client: the traits, and their contract
//! claim.rs     which lanes are this daemon's, and a lane's hold on its own
//!
//! The client over the C library:
//! group.rs     the group consumer (one a process and group)
//! consumer.rs  a thin consumer that hands out messages in batches (unsafe code lives here, in producer.rs and in trouble.rs)
//! reader.rs    the reader over it
//! producer.rs  the producer, its transactions, and their error classes
//! at_large.rs  ends of transactions that may still be on their way
//! topics.rs    partitions, watermarks, and making of topics
//! trouble.rs   why brokers don't answer, what they refuse, and what to do
//! headers.rs   a message's headers as bytes
//! close.rs     closing of clients, within a bound
//!
//! The client that speaks the protocol itself:
//! direct/           a data plane that knows nothing of lanes
//! direct_client.rs  the reader and the producer over it
//! ```
//!
//! The journal topic is the unit of assignment: the group's protocol hands out its partitions, and the
//! owner of partition `n` is lane `n`. The lane assigns itself the input partitions p with
//! p mod lanes = n on a consumer of its own, which never rebalances.

mod at_large;
pub mod claim;
pub mod client;
mod close;
pub mod consumer;
pub mod direct;
pub mod direct_client;
pub mod group;
pub mod headers;
mod offsets;
pub mod producer;
mod reader;
pub mod topics;
pub(crate) mod trouble;

use crate::error::{Fault, Result};
use crate::faults;
use crate::journal::kafka::KafkaJournal;
use crate::sink::kafka::{KafkaSink, Target};
use crate::source::ReadOptions;
use crate::source::kafka::KafkaSource;
use claim::{Claim, Standby};
use client::{Client, Membership, NewTopic, Producer, Reader, Reading, TopicShape};
use group::KafkaGroup;
use producer::LaneProducer;
use std::sync::Arc;
use std::time::Duration;

/// How long a client tries to reach a broker before a call becomes a fault.
pub const BROKER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long is waited for the group to say whose a lane is, and by [`open`] for the lane.
pub const ASSIGNMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a transaction may stay open before the broker aborts it, where `[source.kafka]` says nothing. Also the
/// time that a message may take, and how long a commit is tried before its outcome counts as unknown.
const TRANSACTION_TIMEOUT_MS: u64 = 60_000;

/// Where reading starts when neither the journal nor the group has a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest event that the topic holds.
    Earliest,
    /// At the events that arrive from now on.
    Latest,
}

/// Which client reads and writes: one for source, sink and journal, since a commit joins the three. The membership in
/// the group is librdkafka's in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientKind {
    /// librdkafka.
    Library,
    /// Our own.
    #[default]
    Direct,
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
    /// Which client reads and writes.
    pub client: ClientKind,
    /// How long the first broker may take to answer; at most [`BROKER_TIMEOUT`] is waited.
    pub first_answer: Duration,
}

impl KafkaOptions {
    /// Name of the journal's topic.
    pub fn journal_topic(&self) -> String {
        format!("{}-journal", self.group)
    }

    /// The user's property of any of these names, the last one where there are several.
    pub(crate) fn property(&self, names: &[&str]) -> Option<&str> {
        let found = self.properties.iter().rev().find(|(key, _)| names.contains(&key.as_str()));
        found.map(|(_, value)| value.as_str())
    }

    /// The name by which a successor fences the lane's producer: the same for either client.
    fn transactional_id(&self) -> String {
        let id = format!("{}-{}", self.group, self.lane);
        match faults::planted("producer-not-fenced") {
            true => format!("{id}-{}", std::process::id()),
            false => id,
        }
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

/// The client over the C library.
pub struct LibraryClient;

impl Client for LibraryClient {
    fn join(&self, options: &KafkaOptions) -> Result<Arc<dyn Membership>> {
        Ok(KafkaGroup::join(options)?)
    }
    fn producer(&self, options: &KafkaOptions) -> Result<Arc<dyn Producer>> {
        Ok(LaneProducer::open(options)?)
    }
    fn reader(&self, options: &KafkaOptions, reading: Reading) -> Result<Box<dyn Reader>> {
        Ok(Box::new(reader::QueueReader::new(options, reading)?))
    }
}

/// As [`open_when_assigned`], for a lane that is wanted now, with the client that its options name: the wait is over
/// after [`ASSIGNMENT_TIMEOUT`].
///
/// # Errors
/// As for [`open_when_assigned`]; Environment, where another daemon keeps the lane.
pub fn open(options: &KafkaOptions) -> Result<KafkaLane> {
    open_with(&client_of(options), options)
}

/// As [`open`], with a client of the caller's.
///
/// # Errors
/// As for [`open`].
pub fn open_with(client: &Arc<dyn Client>, options: &KafkaOptions) -> Result<KafkaLane> {
    let clock = client.clock();
    let until = clock.now() + ASSIGNMENT_TIMEOUT;
    let lane = open_when_assigned(client, options, &mut |_, _| clock.now() < until)?;
    lane.ok_or_else(|| not_handed_over(options.lane))
}

/// The client that a lane's options name. Where the direct client doesn't know a property of trust (a kind of login,
/// encrypted keys), the C library takes its place, and the log says so.
pub fn client_of(options: &KafkaOptions) -> Arc<dyn Client> {
    if options.client == ClientKind::Direct {
        match direct_client::settings(options) {
            Ok(_) => return Arc::new(direct_client::DirectClient),
            Err(fault) => tracing::warn!(target: "millstream::kafka", "librdkafka is used: {fault}"),
        }
    }
    Arc::new(LibraryClient)
}

/// The fault of a lane that stays elsewhere.
pub fn not_handed_over(lane: u32) -> Fault {
    Fault::environment(format!("lane {lane} was not handed to this daemon within {} s", ASSIGNMENT_TIMEOUT.as_secs()))
        .hint("another daemon of the group holds it, or held it until its session times out")
}

/// Opens a lane: makes the topics that are missing, waits until the group has handed this daemon the lane,
/// and fences whoever held it before (exactly-once). `standby` is told of the wait; `None` where it gave up.
///
/// # Errors
/// Misuse: a topic that doesn't fit (too few partitions, a journal of another lane count), a reserved or
/// unknown property. Environment: no broker answers.
pub fn open_when_assigned(
    client: &Arc<dyn Client>,
    options: &KafkaOptions,
    standby: &mut Standby<'_>,
) -> Result<Option<KafkaLane>> {
    let group = client.join(options)?;
    let shapes = input_shapes(group.as_ref(), &options.topics)?;
    let partitions = shapes.iter().map(|shape| shape.partitions).max();
    let replication = shapes.iter().map(|shape| shape.replication).max();
    let target = |topic: &Option<String>| -> Result<Option<Target>> {
        let Some(topic) = topic else { return Ok(None) };
        let (partitions, replication) = (partitions.unwrap_or(-1), replication.unwrap_or(-1));
        let new = NewTopic { topic, partitions, replication, config: &[] };
        let made = topics::ensure(group.as_ref(), &client.clock(), &new)?;
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
    group.check_permissions(options)?;
    let Some(claim) = Claim::wait(client.as_ref(), group, options, ASSIGNMENT_TIMEOUT, standby)? else {
        return Ok(None);
    };
    // A broker has answered: from here on one that is slow is waited for.
    let options = &KafkaOptions { first_answer: BROKER_TIMEOUT, ..options.clone() };
    let producer = client.producer(options)?;
    producer.writes_to(&places(options, partitions, predictions.as_ref(), dead_letters.as_ref()))?;
    let source = match options.topics.is_empty() {
        true => None,
        false => Some(KafkaSource::new(Arc::clone(client), options, Arc::clone(&claim), &shapes)?),
    };
    let mut letters = Arc::clone(&producer);
    if faults::planted("dead-letters-outside-transaction") {
        letters = client.producer(&KafkaOptions { exactly_once: false, ..options.clone() })?;
    }
    let sink = (predictions.is_some() || dead_letters.is_some()).then(|| {
        let (producers, claim) = ([Arc::clone(&producer), letters], Arc::clone(&claim));
        KafkaSink::new(options, producers, claim, predictions, dead_letters)
    });
    let journal = KafkaJournal::new(client.as_ref(), options, claim, producer)?;
    Ok(Some(KafkaLane { source, sink, journal }))
}

/// Every partition that the lane may write to. `inputs`: partitions of the inputs, where these are topics.
fn places(
    options: &KafkaOptions,
    inputs: Option<i32>,
    predictions: Option<&Target>,
    dead_letters: Option<&Target>,
) -> Vec<(String, Vec<i32>)> {
    // A message keeps its event's partition where there is one of that number.
    let of = |target: &Target| {
        let keeps = inputs.is_some_and(|inputs| inputs <= target.partitions);
        let ours = |partition: &i32| !keeps || *partition as u32 % options.lanes == options.lane;
        (target.topic.clone(), (0..target.partitions).filter(ours).collect())
    };
    let outputs = predictions.into_iter().chain(dead_letters).map(of);
    outputs.chain([(options.journal_topic(), vec![options.lane as i32])]).collect()
}

/// The shapes of the input topics.
fn input_shapes(group: &dyn Membership, topics: &[String]) -> Result<Vec<TopicShape>> {
    topics.iter().map(|topic| group.shape(topic)?.ok_or_else(|| client::missing(topic))).collect()
}

/// Splits an input's name into topic and partition.
pub fn split_input(input: &str) -> Option<(&str, i32)> {
    let (topic, partition) = input.rsplit_once('/')?;
    Some((topic, partition.parse().ok()?))
}
