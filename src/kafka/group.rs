//! The group consumer: it subscribes to the journal topic, so that the group's protocol hands out lanes.
//!
//! One a process, brokers, group and node name, shared by the lanes; a thread of its own polls it, so that a
//! lane that recovers for long stays a member. A lane holds a [`Claim`]: valid as long as its journal
//! partition was never given to somebody else, not even if it came back.

use super::topics::{TopicShape, config, ensure};
use super::trouble::{Resource, Trouble, least, refusal};
use super::{ASSIGNMENT_TIMEOUT, BROKER_TIMEOUT, KafkaOptions};
use crate::error::{Fault, Result};
use rdkafka::client::Client;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientContext, TopicPartitionList};
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the topics are looked at for new partitions, unless a property of the library says otherwise.
const METADATA_INTERVAL: Duration = Duration::from_secs(30);

/// That property, in milliseconds.
const METADATA_PROPERTY: &str = "topic.metadata.refresh.interval.ms";

/// What the group has decided so far.
#[derive(Debug, Default)]
struct Assigned {
    lanes: BTreeSet<u32>,
    /// Lanes that were ours when the group was out of reach for too long. Nobody has said yet whose they are now.
    adrift: BTreeSet<u32>,
    /// How many times each lane was given to somebody else.
    taken: HashMap<u32, u64>,
    /// How many times each lane went adrift.
    lost: HashMap<u32, u64>,
    /// Why this member can't go on, where it can't.
    dead: Option<String>,
    /// The broker doesn't allow this client its group.
    refused: bool,
    /// Partitions of the input topics, as last seen.
    partitions: HashMap<String, i32>,
}

/// State shared with the callbacks.
#[derive(Debug, Default)]
struct Shared {
    assigned: Mutex<Assigned>,
    changed: Condvar,
    stop: AtomicBool,
    trouble: Arc<Trouble>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Assigned> {
        self.assigned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn note_refusal(&self, code: Option<RDKafkaErrorCode>) {
        if code == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            self.lock().refused = true;
            self.changed.notify_all();
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
            self.0.lock().dead = Some(reason.to_string());
            self.0.changed.notify_all();
        }
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let lost = consumer.assignment_lost();
            let mut assigned = self.0.lock();
            for lane in lanes(list) {
                assigned.lanes.remove(&lane);
                if lost {
                    assigned.adrift.insert(lane);
                    *assigned.lost.entry(lane).or_default() += 1;
                } else {
                    *assigned.taken.entry(lane).or_default() += 1;
                }
            }
            self.0.changed.notify_all();
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                // The group only hands out lanes; the journal is read by others.
                if let Err(error) = consumer.pause(list) {
                    tracing::debug!(target: "millstream::kafka", "group: {error}");
                }
                let mut assigned = self.0.lock();
                assigned.refused = false;
                assigned.lanes.extend(lanes(list));
                // What was ours and isn't handed back is somebody else's now.
                for lane in std::mem::take(&mut assigned.adrift) {
                    if !assigned.lanes.contains(&lane) {
                        *assigned.taken.entry(lane).or_default() += 1;
                    }
                }
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(target: "millstream::kafka", "group: rebalance: {error}"),
        }
        self.0.changed.notify_all();
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

/// This daemon's membership in a group.
pub struct KafkaGroup {
    /// `None` only while this is dropped.
    consumer: Option<Arc<BaseConsumer<GroupContext>>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// How long a broker may take to answer.
    patience: Duration,
    /// For messages.
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
        if let Some(group) = groups.get(&key).and_then(Weak::upgrade) {
            return Ok(group);
        }
        let group = Arc::new(KafkaGroup::new(options)?);
        group.check_journal(options)?;
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
        let shared = Arc::new(Shared { trouble: Trouble::with(&options.brokers), ..Shared::default() });
        let consumer: Arc<BaseConsumer<GroupContext>> = Arc::new(
            config(&options.client_properties(&own)?)
                .create_with_context(GroupContext(Arc::clone(&shared)))
                .map_err(|e| super::producer::refused(&e))?,
        );
        let (polled, state, topics) = (Arc::clone(&consumer), Arc::clone(&shared), options.topics.clone());
        let asked = options.properties.iter().find(|(key, _)| key == METADATA_PROPERTY);
        let asked = asked.and_then(|(_, value)| value.parse().ok()).filter(|ms| *ms > 0).map(Duration::from_millis);
        let interval = asked.unwrap_or(METADATA_INTERVAL);
        let thread = std::thread::Builder::new()
            .name("kafka-group".into())
            .spawn(move || attend(&polled, &state, &topics, interval))
            .map_err(|e| Fault::io("the group's thread could not be started", &e))?;
        let patience = options.first_answer.min(BROKER_TIMEOUT);
        Ok(KafkaGroup { consumer: Some(consumer), shared, thread: Some(thread), patience, options: options.clone() })
    }

    fn consumer(&self) -> &BaseConsumer<GroupContext> {
        self.consumer.as_deref().expect("taken only by drop")
    }

    fn check_journal(&self, options: &KafkaOptions) -> Result<()> {
        let topic = options.journal_topic();
        let config = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
        let shape = ensure(self, options, &topic, options.lanes as i32, -1, &config)?;
        if shape.partitions as u32 != options.lanes {
            return Err(Fault::misuse(format!(
                "the journal \"{topic}\" was made for {} lanes, and lanes = {}",
                shape.partitions, options.lanes
            ))
            .hint("the number of lanes belongs to the past of a group: set it back, or use another group"));
        }
        Ok(())
    }

    /// The shape of a topic; `None` where it doesn't exist.
    ///
    /// # Errors
    /// Environment, where no broker answers.
    pub fn shape(&self, topic: &str) -> Result<Option<TopicShape>> {
        shape(self.consumer().client(), topic, self.patience).inspect(|_| self.shared.trouble.forget()).map_err(
            |failed| match failed {
                Unshaped::NoAnswer(error) => self.shared.trouble.fault(&self.options.brokers, &error.to_string()),
                Unshaped::Refused => refusal(&self.options, Resource::Topic, topic, least(&self.options, topic)),
                Unshaped::Fault(fault) => fault,
            },
        )
    }

    /// The shapes of the input topics.
    ///
    /// # Errors
    /// Environment, where no broker answers or a topic doesn't exist.
    pub fn input_shapes(&self, topics: &[String]) -> Result<Vec<TopicShape>> {
        topics.iter().map(|topic| self.shape(topic)?.ok_or_else(|| missing(topic))).collect()
    }

    /// The lanes that are this daemon's at the moment.
    pub fn lanes(&self) -> Vec<u32> {
        self.shared.lock().lanes.iter().copied().collect()
    }

    /// Partitions of an input topic, as last seen by the group's thread; 0 where it is gone.
    pub fn partitions_seen(&self, topic: &str) -> Option<i32> {
        self.shared.lock().partitions.get(topic).copied()
    }

    fn wait_for(
        &self,
        lane: u32,
        wait: Duration,
        until: impl Fn(&Assigned) -> bool,
    ) -> Result<MutexGuard<'_, Assigned>> {
        let deadline = Instant::now() + wait;
        let mut assigned = self.shared.lock();
        loop {
            if let Some(reason) = &assigned.dead {
                return Err(shut_out(lane, reason));
            }
            if assigned.refused {
                return Err(refusal(&self.options, Resource::Group, &self.options.group, "Read"));
            }
            if until(&assigned) {
                return Ok(assigned);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Fault::environment(format!(
                    "lane {lane} was not handed to this daemon within {} s",
                    wait.as_secs()
                ))
                .hint("another daemon of the group holds it, or the group's coordinator doesn't answer"));
            }
            assigned = self.shared.changed.wait_timeout(assigned, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Fresh metadata of the membership: what a transaction shows the coordinator with its offsets.
    ///
    /// # Errors
    /// Environment, where there is no membership.
    pub fn metadata(&self) -> Result<ConsumerGroupMetadata> {
        self.consumer().group_metadata().ok_or_else(|| Fault::environment("this daemon is no member of its group"))
    }

    /// The C client, for as long as the group is held.
    pub(crate) fn native(&self) -> *mut rdkafka_sys::rd_kafka_t {
        self.consumer().client().native_ptr()
    }

    /// The consumer: for commits outside a transaction.
    pub(crate) fn commit(&self, offsets: &TopicPartitionList) -> Result<(), KafkaError> {
        self.consumer().commit(offsets, rdkafka::consumer::CommitMode::Sync)
    }
}

impl Drop for KafkaGroup {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let (thread, consumer) = (self.thread.take(), self.consumer.take());
        super::close::within_bound("group's consumer", move || {
            // Closed by the last that holds it: this thread, or that one.
            drop(consumer);
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::warn!(target: "millstream::kafka", "the group's thread panicked");
            }
        });
    }
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

/// The group's thread: serves rebalances, and looks for partitions that were added.
fn attend(consumer: &BaseConsumer<GroupContext>, shared: &Shared, topics: &[String], interval: Duration) {
    let mut looked = Instant::now();
    while !shared.stop.load(Ordering::Relaxed) {
        if let Some(Err(error)) = consumer.poll(Duration::from_millis(100)) {
            tracing::debug!(target: "millstream::kafka", "group: {error}");
            shared.note_refusal(error.rdkafka_error_code());
            if let KafkaError::MessageConsumptionFatal(code) = error {
                shared.lock().dead = Some(code.to_string());
                shared.changed.notify_all();
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
                shared.lock().partitions.insert(topic.clone(), partitions);
            }
        }
    }
}

/// A lane's hold on its partition of the journal.
pub struct Claim {
    group: Arc<KafkaGroup>,
    lane: u32,
    /// Counts at the time of the claim.
    taken: u64,
    lost: u64,
    /// The lane's producer is fenced as soon as somebody else takes the lane (exactly-once). So a lane that went
    /// adrift and came back is still ours, as far as the group is concerned.
    fenced_by_producer: bool,
}

impl Assigned {
    fn count(counts: &HashMap<u32, u64>, lane: u32) -> u64 {
        counts.get(&lane).copied().unwrap_or(0)
    }
}

impl Claim {
    /// Waits until the group hands the lane to this daemon.
    ///
    /// # Errors
    /// Environment, where it doesn't within `wait`, or this daemon was shut out of the group.
    pub fn wait(group: &Arc<KafkaGroup>, options: &KafkaOptions, wait: Duration) -> Result<Arc<Claim>> {
        let lane = options.lane;
        let assigned = group.wait_for(lane, wait, |assigned| assigned.lanes.contains(&lane))?;
        let claim = Claim {
            group: Arc::clone(group),
            lane,
            taken: Assigned::count(&assigned.taken, lane),
            lost: Assigned::count(&assigned.lost, lane),
            fenced_by_producer: options.exactly_once,
        };
        drop(assigned);
        Ok(Arc::new(claim))
    }

    /// Fails where the lane was taken away since; true where the group says that it is ours, false where the group
    /// is out of reach.
    ///
    /// # Errors
    /// Environment: "lane N was taken by another daemon".
    pub fn check(&self) -> Result<bool> {
        self.judge(&self.group.shared.lock())
    }

    fn judge(&self, assigned: &Assigned) -> Result<bool> {
        if let Some(reason) = &assigned.dead {
            return Err(shut_out(self.lane, reason));
        }
        let lost = !self.fenced_by_producer && Assigned::count(&assigned.lost, self.lane) != self.lost;
        if lost || Assigned::count(&assigned.taken, self.lane) != self.taken {
            return Err(taken(self.lane));
        }
        Ok(assigned.lanes.contains(&self.lane))
    }

    /// As `check`, and waits for a group that is out of reach.
    ///
    /// # Errors
    /// As for `check`; Environment, where the group stays out of reach.
    pub fn hold(&self) -> Result<()> {
        if self.check()? {
            return Ok(());
        }
        let held = |assigned: &Assigned| self.judge(assigned).unwrap_or(true);
        let assigned = self.group.wait_for(self.lane, ASSIGNMENT_TIMEOUT, held)?;
        self.judge(&assigned).map(|_| ())
    }

    /// The membership behind the claim.
    pub fn group(&self) -> &KafkaGroup {
        &self.group
    }

    /// The lane.
    pub fn lane(&self) -> u32 {
        self.lane
    }
}

/// The fault of an input that isn't there.
pub(crate) fn missing(topic: &str) -> Fault {
    Fault::environment(format!("the topic \"{topic}\" doesn't exist"))
        .hint("make it, or correct source.topics")
        .lasting()
}

/// The fault of a lane that has another owner.
pub(crate) fn taken(lane: u32) -> Fault {
    Fault::environment(format!("lane {lane} was taken by another daemon"))
        .hint("its new owner goes on from the last commit; this one may ask for the lane again")
}

fn shut_out(lane: u32, reason: &str) -> Fault {
    taken(lane).hint(format!("this daemon was shut out of its group: {reason}; is its node.name used twice?"))
}
