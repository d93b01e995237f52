//! The journal of a Kafka lane: one partition of the topic `<group>-journal`, one record a commit, as JSON.
//!
//! With exactly-once, `append` is the commit: predictions, dead letters, this record and the inputs' offsets
//! become visible together. After a fault that leaves the outcome open, the producer is made anew (which settles
//! it at the broker) and the journal itself is asked.

use super::{Journal, JournalRecord};
use crate::batch::Block;
use crate::clock::Clock;
use crate::error::{Fault, Result};
use crate::faults;
use crate::kafka::claim::Claim;
use crate::kafka::client::{
    Broken, Client, Filling, Met, NextOffset, Place, Producer, Reader, Reading, aborted, taken,
};
use crate::kafka::{BROKER_TIMEOUT, KafkaOptions, split_input};
use crate::source::{Framing, ReadOptions};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Records that the first look for the tail reads.
const TAIL_OFFSETS: u64 = 64;

/// How the journal's messages are taken: whole, some at once.
const READ: ReadOptions = ReadOptions { framing: Framing::Lines, event_bytes_max: usize::MAX, block_bytes: 64 << 10 };

/// The journal of a Kafka lane.
pub struct KafkaJournal {
    records: Records,
    claim: Arc<Claim>,
    producer: Arc<dyn Producer>,
    clock: Clock,
    /// Number of the record that this process committed last: no read may miss it.
    last: Option<u64>,
}

/// Reads what is committed in a lane's journal.
struct Records {
    options: KafkaOptions,
    topic: String,
    reader: Box<dyn Reader>,
    clock: Clock,
}

/// The last record of a lane's journal where that is of another lineage, before anything of the lane is opened.
/// `None` also where there is no such topic, or no broker that answers.
///
/// # Errors
/// Misuse, naming a property that is refused; Corruption, where the journal holds something else.
pub fn stranger(client: &dyn Client, options: &KafkaOptions) -> Result<Option<JournalRecord>> {
    let mut records = Records::new(client, options)?;
    match records.reader.knows(&records.topic, records.partition()) {
        true => records.stranger(),
        false => Ok(None),
    }
}

/// All that a lane's journal holds of its lineage, read by anyone. The topic must be there.
///
/// # Errors
/// As for [`stranger`]; Environment, where no broker answers.
pub fn records(client: &dyn Client, options: &KafkaOptions) -> Result<Vec<JournalRecord>> {
    Records::new(client, options)?.all(0)
}

impl Records {
    fn new(client: &dyn Client, options: &KafkaOptions) -> Result<Records> {
        let (reader, clock) = (client.reader(options, Reading::Journal)?, client.clock());
        Ok(Records { options: options.clone(), topic: options.journal_topic(), reader, clock })
    }

    fn partition(&self) -> i32 {
        self.options.lane as i32
    }

    fn watermarks(&self) -> Result<(u64, u64)> {
        self.reader.watermarks(&self.topic, self.partition())
    }

    /// Shows the committed records of this lineage from an offset on, until told to stop or at the end. A record
    /// whose number was seen before is the late word of a former owner, and passed over.
    fn scan(&mut self, from: u64, mut see: impl FnMut(u64, JournalRecord) -> ControlFlow<()>) -> Result<()> {
        let (topic, partition) = (self.topic.clone(), self.partition());
        self.reader.assign(&[Place { input: 0, topic, partition, offset: from }])?;
        let deadline = self.clock.now() + 2 * BROKER_TIMEOUT;
        let mut seen: Option<(String, u64)> = None;
        let mut block = Block::default();
        loop {
            block.clear();
            let met = self.reader.read(Duration::from_millis(100), &mut Filling::all(&mut block, &READ))?;
            for message in &block.records {
                let offset = message.offset;
                let record: JournalRecord = serde_json::from_slice(message.span.of(&block.bytes)).map_err(|e| {
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
            match met {
                Met::End => return Ok(()),
                Met::OutOfRange(_) => {
                    return Err(Fault::environment(format!("the journal \"{}\" was cut while read", self.topic)));
                }
                Met::Nothing if block.records.is_empty() && self.clock.now() > deadline => {
                    return Err(Fault::environment(format!("the journal \"{}\" can't be read: no answer", self.topic)));
                }
                Met::Nothing | Met::Full => {}
            }
        }
    }

    /// Every record of a number from `from` on.
    fn all(&mut self, from: u64) -> Result<Vec<JournalRecord>> {
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

    fn last_record(&mut self) -> Result<Option<JournalRecord>> {
        let (low, high) = self.watermarks()?;
        let mut reach = TAIL_OFFSETS;
        loop {
            let from = high.saturating_sub(reach).max(low);
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

    /// The last record, where it is of another lineage.
    fn stranger(&mut self) -> Result<Option<JournalRecord>> {
        let ours = std::mem::take(&mut self.options.lineage);
        let last = self.last_record();
        self.options.lineage = ours;
        Ok(last?.filter(|record| record.lineage != self.options.lineage))
    }
}

impl KafkaJournal {
    /// The journal of the claimed lane.
    ///
    /// # Errors
    /// Misuse, naming a property that is refused.
    pub fn new(
        client: &dyn Client,
        options: &KafkaOptions,
        claim: Arc<Claim>,
        producer: Arc<dyn Producer>,
    ) -> Result<KafkaJournal> {
        Ok(KafkaJournal { records: Records::new(client, options)?, claim, producer, clock: client.clock(), last: None })
    }

    /// The next offsets of the Kafka inputs.
    fn offsets(&self, record: &JournalRecord) -> Vec<NextOffset> {
        let ours = |topic: &str| self.records.options.topics.iter().any(|t| t == topic);
        (record.positions.iter())
            .filter_map(|(name, position)| {
                let (topic, partition) = split_input(name).filter(|(topic, _)| ours(topic))?;
                Some(NextOffset { topic: topic.to_string(), partition, offset: position.offset })
            })
            .collect()
    }

    /// After a commit whose outcome is open: is the record there?
    fn settle(&mut self, record: &JournalRecord, reason: &str) -> Result<()> {
        self.producer.reconnect()?;
        match self.records.last_record()? {
            Some(tail) if tail == *record => {
                tracing::info!(target: "millstream::kafka", "lane {}: the commit had gone through", record.lane);
                Ok(())
            }
            _ => Err(aborted(reason)),
        }
    }

    fn remove_before(&mut self, before: u64) -> Result<()> {
        let (low, _) = self.records.watermarks()?;
        let mut keep = None;
        self.records.scan(low, |offset, record| match record.number >= before {
            true => {
                keep = Some(offset);
                ControlFlow::Break(())
            }
            false => ControlFlow::Continue(()),
        })?;
        match keep {
            Some(offset) if offset > low => {
                self.claim.group().delete_before(&self.records.topic, self.records.partition(), offset)
            }
            _ => Ok(()),
        }
    }
}

impl Journal for KafkaJournal {
    fn append(&mut self, record: &JournalRecord) -> Result<()> {
        let key = self.records.options.lane.to_string();
        let value = serde_json::to_vec(record).map_err(|e| Fault::internal(format!("journal record: {e}")))?;
        let offsets = self.offsets(record);
        faults::step("kafka.journal");
        if faults::planted("offset-before-produce") && !offsets.is_empty() {
            let _ = self.claim.group().commit(&offsets);
        }
        if !self.records.options.exactly_once {
            self.claim.check()?;
            self.producer.flush()?;
            self.claim.check()?;
            self.producer.send(&self.records.topic, self.records.partition(), Some(key.as_bytes()), &value, &[])?;
            self.producer.flush()?;
            self.last = Some(record.number);
            if !offsets.is_empty() {
                // The position in the journal is the truth; the group's offsets are for the usual tools.
                self.claim.group().commit_soon(&offsets);
            }
            return Ok(());
        }
        // In this order: a lane that is ours after the standing was taken was ours in that generation.
        let hold = || self.claim.hold().and_then(|()| self.claim.group().standing());
        let standing = hold().and_then(|standing| match self.claim.check()? {
            true => Ok(standing),
            false => Err(aborted("the group is out of reach")),
        });
        let standing = match standing {
            Ok(standing) => standing,
            Err(fault) => {
                self.producer.abort();
                return Err(fault);
            }
        };
        self.producer.send(&self.records.topic, self.records.partition(), Some(key.as_bytes()), &value, &[])?;
        match self.producer.commit(&offsets, &standing) {
            Ok(()) => {}
            Err(Broken::Fenced) => return Err(taken(self.records.options.lane)),
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
        let deadline = self.clock.now() + BROKER_TIMEOUT;
        loop {
            let tail = self.records.last_record()?;
            let seen = tail.as_ref().map(|record| record.number);
            if seen >= self.last || self.clock.now() > deadline {
                return Ok(tail);
            }
            self.clock.sleep(Duration::from_millis(5));
        }
    }

    fn read(&mut self, from: u64) -> Result<Vec<JournalRecord>> {
        if self.last.is_some() {
            self.tail()?;
        }
        self.records.all(from)
    }

    fn stranger(&mut self) -> Result<Option<JournalRecord>> {
        self.records.stranger()
    }

    fn trim(&mut self, before: u64) -> Result<()> {
        match self.remove_before(before) {
            // Nothing is wrong with the lane, and the next time has all of it to remove.
            Err(fault) if !fault.lasting => {
                tracing::warn!(target: "millstream::kafka", "the journal is trimmed another time: {fault}");
                Ok(())
            }
            done => done,
        }
    }
}
