//! The group consumer: it subscribes to the journal topic, so that the group's protocol hands out lanes.
//!
//! One a process, brokers, group and node name, shared by the lanes; a thread of its own polls it, so that a
//! lane that recovers for long stays a member. What the group decides goes to the [`Holdings`].

use super::claim::Holdings;
use super::client::{Membership, NewTopic, NextOffset, Standing, TopicShape};
use super::offsets::Offsets;
use super::topics::{config, ensure_journal, offset_list};
use super::trouble::{Resource, Trouble, check_topics, least, refusal};
use super::{BROKER_TIMEOUT, KafkaOptions};
use crate::clock::Clock;
use crate::error::{Fault, Result};
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, TopicPartitionList};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the topics are looked at for new partitions, unless a property of the library says otherwise.
const METADATA_INTERVAL: Duration = Duration::from_secs(30);

/// That property, in milliseconds.
const METADATA_PROPERTY: &str = "topic.metadata.refresh.interval.ms";

/// State shared with the callbacks and the group's thread.
#[derive(Debug)]
struct Shared {
    holdings: Holdings,
    stop: AtomicBool,
    trouble: Arc<Trouble>,
    /// The fault of a client that isn't allowed its group.
    refusal: Fault,
}

impl Shared {
    fn note_refusal(&self, code: Option<RDKafkaErrorCode>) {
        if code == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            self.holdings.refused(&self.refusal);
        }
    }
}

struct GroupContext(Arc<Shared>);

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.0.trouble.note_log(facility, message);
        log_line(level as i32, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "millstream::kafka", "group: {error}: {reason}");
        let code = error.rdkafka_error_code();
        self.0.trouble.note(code, reason);
        self.0.note_refusal(code);
        if matches!(code, Some(RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::Fatal)) {
            self.0.holdings.shut_out(reason);
        }
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            self.0.holdings.revoked(&lanes(list), consumer.assignment_lost());
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                // The group only hands out lanes; the journal is read by others.
                if let Err(error) = consumer.pause(list) {
                    tracing::debug!(target: "millstream::kafka", "group: {error}");
                }
                self.0.holdings.assigned(&lanes(list));
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(target: "millstream::kafka", "group: rebalance: {error}"),
        }
    }
}

/// The lanes of a list of the journal's partitions.
fn lanes(list: &TopicPartitionList) -> Vec<u32> {
    list.elements().iter().map(|element| element.partition() as u32).collect()
}

/// A line of the client library, at a level of syslog.
pub(crate) fn log_line(level: i32, message: &str) {
    match level {
        ..=3 => tracing::warn!(target: "millstream::kafka", "{message}"),
        4 => tracing::info!(target: "millstream::kafka", "{message}"),
        _ => tracing::debug!(target: "millstream::kafka", "{message}"),
    }
}

/// How this member stands, for either client.
pub(super) struct GroupStanding {
    pub metadata: rdkafka::consumer::ConsumerGroupMetadata,
    pub membership: super::direct::Membership,
}

/// This daemon's membership in a group.
pub struct KafkaGroup {
    /// `None` only while this is dropped.
    consumer: Option<Arc<BaseConsumer<GroupContext>>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Where commits take the offsets along, none are committed by themselves.
    offsets: Option<Offsets>,
    options: KafkaOptions,
}

/// Brokers, group and node name.
type GroupKey = (String, String, String);

fn registry() -> &'static Mutex<HashMap<GroupKey, Weak<KafkaGroup>>> {
    static GROUPS: OnceLock<Mutex<HashMap<GroupKey, Weak<KafkaGroup>>>> = OnceLock::new();
    GROUPS.get_or_init(Mutex::default)
}

impl KafkaGroup {
    /// Joins the group, or finds this process's membership in it. Makes the journal's topic if it is missing.
    ///
    /// # Errors
    /// Misuse, where the journal has another number of lanes. Environment, where no broker answers.
    pub fn join(options: &KafkaOptions) -> Result<Arc<KafkaGroup>> {
        if options.lane >= options.lanes {
            return Err(Fault::misuse(format!("there is no lane {} of {}", options.lane, options.lanes)));
        }
        let key = (options.brokers.clone(), options.group.clone(), options.node_name.clone());
        // Held while joining, so that the lanes of a process make one member.
        let mut groups = registry().lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(&key).and_then(Weak::upgrade)
            && !group.shared.holdings.is_shut_out()
        {
            return Ok(group);
        }
        let group = Arc::new(KafkaGroup::new(options)?);
        ensure_journal(group.as_ref(), &Clock::real(), options)?;
        let topic = options.journal_topic();
        group
            .consumer()
            .subscribe(&[&topic])
            .map_err(|e| Fault::environment(format!("the group \"{}\" could not be joined: {e}", options.group)))?;
        groups.retain(|_, group| group.strong_count() > 0);
        groups.insert(key, Arc::downgrade(&group));
        Ok(group)
    }

    fn new(options: &KafkaOptions) -> Result<KafkaGroup> {
        let mut own = vec![
            ("group.id", options.group.as_str()),
            ("partition.assignment.strategy", "cooperative-sticky"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("auto.offset.reset", "latest"),
            ("session.timeout.ms", "10000"),
            ("heartbeat.interval.ms", "1000"),
            ("queued.max.messages.kbytes", "1024"),
            ("allow.auto.create.topics", "false"),
        ];
        if !options.node_name.is_empty() {
            own.push(("group.instance.id", &options.node_name));
        }
        let shared = Arc::new(Shared {
            holdings: Holdings::default(),
            stop: AtomicBool::new(false),
            trouble: Trouble::with(&options.brokers),
            refusal: refusal(options, Resource::Group, &options.group, "Read"),
        });
        let consumer: Arc<BaseConsumer<GroupContext>> = Arc::new(
            config(&options.client_properties(&own)?)
                .create_with_context(GroupContext(Arc::clone(&shared)))
                .map_err(|e| super::producer::refused(&e))?,
        );
        let (polled, state) = (Arc::clone(&consumer), Arc::clone(&shared));
        let topics: Vec<String> = options.topics.iter().cloned().chain([options.journal_topic()]).collect();
        let asked = options.property(&[METADATA_PROPERTY]);
        let asked = asked.and_then(|value| value.parse().ok()).filter(|ms| *ms > 0).map(Duration::from_millis);
        let interval = asked.unwrap_or(METADATA_INTERVAL);
        let thread = std::thread::Builder::new()
            .name("kafka-group".into())
            .spawn(move || attend(&polled, &state, &topics, interval))
            .map_err(|e| Fault::io("the group's thread could not be started", &e))?;
        let committing = Arc::clone(&consumer);
        let start = || Offsets::start(move |offsets| commit(&committing, offsets));
        let offsets = (!options.exactly_once).then(start).transpose()?;
        Ok(KafkaGroup { consumer: Some(consumer), shared, thread: Some(thread), offsets, options: options.clone() })
    }

    fn consumer(&self) -> &BaseConsumer<GroupContext> {
        self.consumer.as_deref().expect("taken only by drop")
    }

    /// The C client, for as long as the group is held.
    pub(super) fn native(&self) -> *mut rdkafka_sys::rd_kafka_t {
        self.consumer().client().native_ptr()
    }

    /// How long a broker may take to answer.
    fn patience(&self) -> Duration {
        self.options.first_answer.min(BROKER_TIMEOUT)
    }

    /// The lanes that are this daemon's at the moment.
    pub fn lanes(&self) -> Vec<u32> {
        self.shared.holdings.lanes()
    }
}

impl Membership for KafkaGroup {
    fn holdings(&self) -> &Holdings {
        &self.shared.holdings
    }

    fn standing(&self) -> Result<Standing> {
        let metadata = self.consumer().group_metadata();
        let metadata = metadata.ok_or_else(|| Fault::environment("this daemon is no member of its group"))?;
        let membership = super::consumer::membership(self.consumer().client().native_ptr());
        let membership = membership.ok_or_else(|| Fault::environment("this daemon is no member of its group"))?;
        Ok(Standing(Box::new(GroupStanding { metadata, membership })))
    }

    fn commit(&self, offsets: &[NextOffset]) -> Result<()> {
        commit(self.consumer(), offsets)
    }

    fn commit_soon(&self, offsets: &[NextOffset]) {
        if let Some(desk) = &self.offsets {
            desk.hand_over(offsets);
        }
    }

    fn shape(&self, topic: &str) -> Result<Option<TopicShape>> {
        let (options, trouble) = (&self.options, &self.shared.trouble);
        let found = shape(self.consumer().client(), topic, self.patience()).inspect(|_| trouble.forget());
        found.map_err(|failed| match failed {
            Unshaped::NoAnswer(error) => trouble.fault(&options.brokers, &error.to_string()),
            Unshaped::Refused => refusal(options, Resource::Topic, topic, least(options, topic)),
            Unshaped::Fault(fault) => fault,
        })
    }

    fn make_topic(&self, topic: &NewTopic<'_>) -> Result<()> {
        super::topics::make(&self.options, topic)
    }

    fn check_permissions(&self, options: &KafkaOptions) -> Result<()> {
        check_topics(self, options, self.patience())
    }

    fn delete_before(&self, topic: &str, partition: i32, offset: u64) -> Result<()> {
        super::topics::delete_before(&self.options, topic, partition, offset)
    }
}

impl Drop for KafkaGroup {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let (thread, consumer, offsets) = (self.thread.take(), self.consumer.take(), self.offsets.take());
        super::close::within_bound("group's consumer", move || {
            offsets.into_iter().for_each(Offsets::finish);
            // Closed by the last that holds it: this thread, or that one.
            drop(consumer);
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::warn!(target: "millstream::kafka", "the group's thread panicked");
            }
        });
    }
}

fn commit(consumer: &BaseConsumer<GroupContext>, offsets: &[NextOffset]) -> Result<()> {
    (consumer.commit(&offset_list(offsets)?, CommitMode::Sync))
        .map_err(|e| Fault::environment(format!("the group's offsets could not be committed: {e}")))
}

/// Why a topic's shape isn't known.
enum Unshaped {
    NoAnswer(KafkaError),
    Refused,
    Fault(Fault),
}

/// The shape of a topic by a client that doesn't create what it asks for.
fn shape<C: ClientContext>(client: &Client<C>, topic: &str, wait: Duration) -> Result<Option<TopicShape>, Unshaped> {
    let deadline = Instant::now() + wait;
    loop {
        let metadata = client.fetch_metadata(Some(topic), wait).map_err(Unshaped::NoAnswer)?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
        match found.error().map(RDKafkaErrorCode::from) {
            None if !found.partitions().is_empty() => {
                let replication = found.partitions()[0].replicas().len().max(1) as i32;
                let partitions = found.partitions().len() as i32;
                return Ok(Some(TopicShape { topic: topic.to_string(), partitions, replication }));
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => return Err(Unshaped::Refused),
            Some(code @ RDKafkaErrorCode::InvalidTopic) => {
                return Err(Unshaped::Fault(Fault::environment(format!("the topic \"{topic}\": {code}")).lasting()));
            }
            other if Instant::now() > deadline => {
                let fault = Fault::environment(format!("the topic \"{topic}\" has no usable metadata: {other:?}"));
                return Err(Unshaped::Fault(fault));
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// The group's thread: serves rebalances, and looks for partitions that were added and topics that went.
fn attend(consumer: &BaseConsumer<GroupContext>, shared: &Shared, topics: &[String], interval: Duration) {
    let mut looked = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        if let Some(Err(error)) = consumer.poll(Duration::from_millis(100)) {
            tracing::debug!(target: "millstream::kafka", "group: {error}");
            shared.note_refusal(error.rdkafka_error_code());
            if let KafkaError::MessageConsumptionFatal(code) = error {
                shared.holdings.shut_out(&code.to_string());
            }
        }
        if looked.elapsed() < interval {
            continue;
        }
        looked = Instant::now();
        for topic in topics {
            if let Ok(metadata) = consumer.fetch_metadata(Some(topic), Duration::from_secs(1))
                && let Some(found) = metadata.topics().iter().find(|t| t.name() == topic)
            {
                let partitions = match found.error().map(RDKafkaErrorCode::from) {
                    None => found.partitions().len() as i32,
                    Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => 0,
                    Some(_) => continue,
                };
                shared.holdings.saw_partitions(topic, partitions);
            }
        }
    }
}
