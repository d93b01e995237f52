//! The journal of a Kafka lane: one partition of the topic `<group>-journal`, one record a commit, as JSON.
//!
//! With exactly-once, `append` is the commit: predictions, dead letters, this record and the inputs' offsets
//! become visible together. After a fault that leaves the outcome open, the producer is made anew (which settles
//! it at the broker) and the journal itself is asked.

use super::{Journal, JournalRecord};
use crate::error::{Fault, Result};
use crate::kafka::consumer::{Consumer, Queue};
use crate::kafka::group::{Claim, taken};
use crate::kafka::producer::{Broken, LaneProducer, aborted};
use crate::kafka::{BROKER_TIMEOUT, KafkaOptions, split_input, topics};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records that the first look for the tail reads.
const TAIL_OFFSETS: i64 = 64;

/// The journal of a Kafka lane.
pub struct KafkaJournal {
    options: KafkaOptions,
    topic: String,
    claim: Arc<Claim>,
    producer: Arc<LaneProducer>,
    // Before the consumer: what it holds belongs to that.
    queue: Queue,
    consumer: Consumer,
    /// Number of the record that this process committed last: no read may miss it.
    last: Option<u64>,
}

impl KafkaJournal {
    /// The journal of the claimed lane.
    ///
    /// # Errors
    /// Misuse, naming a property that is refused.
    pub fn new(options: &KafkaOptions, claim: Arc<Claim>, producer: Arc<LaneProducer>) -> Result<KafkaJournal> {
        let own = [
            ("group.id", options.group.as_str()),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("isolation.level", "read_committed"),
            ("queued.max.messages.kbytes", "4096"),
            ("allow.auto.create.topics", "false"),
        ];
        let consumer = Consumer::new(&options.client_properties(&own)?)?;
        Ok(KafkaJournal {
            options: options.clone(),
            topic: options.journal_topic(),
            claim,
            producer,
            queue: consumer.queue(),
            consumer,
            last: None,
        })
    }

    fn partition(&self) -> i32 {
        self.options.lane as i32
    }

    fn watermarks(&self) -> Result<(i64, i64)> {
        self.consumer.watermarks(&self.topic, self.partition(), BROKER_TIMEOUT)
    }

    /// Shows the committed records of this lineage from an offset on, until told to stop or at the end. A record
    /// whose number was seen before is the late word of a former owner, and passed over.
    fn scan(&mut self, from: i64, mut see: impl FnMut(i64, JournalRecord) -> ControlFlow<()>) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.topic, self.partition(), Offset::Offset(from))
            .map_err(|e| Fault::internal(format!("the journal's offset {from}: {e}")))?;
        self.queue.discard();
        self.consumer.assign(&list)?;
        let deadline = Instant::now() + 2 * BROKER_TIMEOUT;
        let mut seen: Option<(String, u64)> = None;
        loop {
            let Some(message) = self.queue.peek(Duration::from_millis(100)) else {
                if Instant::now() > deadline {
                    return Err(Fault::environment(format!("the journal \"{}\" can't be read: no answer", self.topic)));
                }
                continue;
            };
            match message.error() {
                Some(RDKafkaErrorCode::PartitionEOF) => {
                    self.queue.advance();
                    return Ok(());
                }
                Some(RDKafkaErrorCode::AutoOffsetReset) => {
                    return Err(Fault::environment(format!("the journal \"{}\" was cut while read", self.topic)));
                }
                Some(code) => tracing::debug!(target: "millstream::kafka", "journal: {code}: {}", message.error_text()),
                None => {
                    let offset = message.offset();
                    let record: JournalRecord = serde_json::from_slice(message.value()).map_err(|e| {
                        Fault::corruption(format!("{}/{} offset {offset}: {e}", self.topic, self.options.lane))
                            .hint("the record is not one of a Millstream journal")
                    })?;
                    let ours = self.options.lineage.is_empty() || record.lineage == self.options.lineage;
                    // Each lineage counts for itself.
                    let late = seen.as_ref().is_some_and(|(l, n)| *l == record.lineage && record.number <= *n);
                    if ours && !late {
                        seen = Some((record.lineage.clone(), record.number));
                        if see(offset, record).is_break() {
                            return Ok(());
                        }
                    }
                }
            }
            self.queue.advance();
        }
    }

    fn last_record(&mut self) -> Result<Option<JournalRecord>> {
        let (low, high) = self.watermarks()?;
        let mut reach = TAIL_OFFSETS;
        loop {
            let from = (high - reach).max(low);
            let mut found = None;
            self.scan(from, |_, record| {
                found = Some(record);
                ControlFlow::Continue(())
            })?;
            if found.is_some() || from == low {
                return Ok(found);
            }
            reach = reach.saturating_mul(8);
        }
    }

    /// The next offsets of the Kafka inputs.
    fn offsets(&self, record: &JournalRecord) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (name, position) in &record.positions {
            let Some((topic, partition)) = split_input(name) else { continue };
            if self.options.topics.iter().any(|t| t == topic) {
                list.add_partition_offset(topic, partition, Offset::Offset(position.offset as i64))
                    .map_err(|e| Fault::internal(format!("{name}: {e}")))?;
            }
        }
        Ok(list)
    }

    /// After a commit whose outcome is open: is the record there?
    fn settle(&mut self, record: &JournalRecord, reason: &str) -> Result<()> {
        self.producer.reconnect()?;
        match self.last_record()? {
            Some(tail) if tail == *record => {
                tracing::info!(target: "millstream::kafka", "lane {}: the commit had gone through", record.lane);
                Ok(())
            }
            _ => Err(aborted(reason)),
        }
    }
}

impl Journal for KafkaJournal {
    fn append(&mut self, record: &JournalRecord) -> Result<()> {
        let key = self.options.lane.to_string();
        let value = serde_json::to_vec(record).map_err(|e| Fault::internal(format!("journal record: {e}")))?;
        let offsets = self.offsets(record)?;
        if !self.options.exactly_once {
            self.claim.check()?;
            self.producer.flush()?;
            self.claim.check()?;
            self.producer.send(&self.topic, self.partition(), Some(key.as_bytes()), &value, None)?;
            self.producer.flush()?;
            self.last = Some(record.number);
            if offsets.count() > 0
                && let Err(error) = self.claim.group().commit(&offsets)
            {
                // The position in the journal is the truth; the group's offsets are for the usual tools.
                tracing::debug!(target: "millstream::kafka", "lane {}: offsets: {error}", self.options.lane);
            }
            return Ok(());
        }
        // In this order: a lane that is ours after its metadata was taken was ours in that generation.
        let hold = || self.claim.hold().and_then(|()| self.claim.group().metadata());
        let metadata = hold().and_then(|metadata| match self.claim.check()? {
            true => Ok(metadata),
            false => Err(aborted("the group is out of reach")),
        });
        let metadata = match metadata {
            Ok(metadata) => metadata,
            Err(fault) => {
                self.producer.abort();
                return Err(fault);
            }
        };
        self.producer.send(&self.topic, self.partition(), Some(key.as_bytes()), &value, None)?;
        match self.producer.commit(&offsets, &metadata) {
            Ok(()) => {}
            Err(Broken::Fenced) => return Err(taken(self.options.lane)),
            Err(Broken::Refused(fault)) => return Err(fault),
            Err(Broken::Aborted(reason)) => {
                self.claim.check()?;
                return Err(aborted(&reason));
            }
            Err(Broken::Unknown(reason)) => self.settle(record, &reason)?,
        }
        self.last = Some(record.number);
        Ok(())
    }

    fn tail(&mut self) -> Result<Option<JournalRecord>> {
        // The markers of a commit are written after it is answered: wait for our own.
        let deadline = Instant::now() + BROKER_TIMEOUT;
        loop {
            let tail = self.last_record()?;
            let seen = tail.as_ref().map(|record| record.number);
            if seen >= self.last || Instant::now() > deadline {
                return Ok(tail);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn read(&mut self, from: u64) -> Result<Vec<JournalRecord>> {
        if self.last.is_some() {
            self.tail()?;
        }
        let (low, _) = self.watermarks()?;
        let mut records = Vec::new();
        self.scan(low, |_, record| {
            if record.number >= from {
                records.push(record);
            }
            ControlFlow::Continue(())
        })?;
        Ok(records)
    }

    fn stranger(&mut self) -> Result<Option<JournalRecord>> {
        let ours = std::mem::take(&mut self.options.lineage);
        let last = self.last_record();
        self.options.lineage = ours;
        Ok(last?.filter(|record| record.lineage != self.options.lineage))
    }

    fn trim(&mut self, before: u64) -> Result<()> {
        let (low, _) = self.watermarks()?;
        let mut keep = None;
        self.scan(low, |offset, record| match record.number >= before {
            true => {
                keep = Some(offset);
                ControlFlow::Break(())
            }
            false => ControlFlow::Continue(()),
        })?;
        match keep {
            Some(offset) if offset > low => topics::delete_before(&self.options, &self.topic, self.partition(), offset),
            _ => Ok(()),
        }
    }
}
