//! The journal: a lane's log of decisions, one record a commit. The commit of a record is the sole
//! point of truth; a checkpoint is a cache of what it leads to.

pub mod file;
pub mod kafka;

use crate::error::Result;
use crate::sink::OutputLength;
use crate::source::Position;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Consecutive events that the lane took from one input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Index into [`JournalRecord::inputs`].
    pub input: u32,
    /// Offset one past the run's last event.
    pub end: u64,
}

/// A swap or a rollback, and the event from which on it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwapEntry {
    /// The lane's event number from which on the new version scores.
    pub seq: u64,
    /// The swap number, from then on.
    pub swap: u64,
    /// Version (content hash, 64 hex digits) of the artifact that came in.
    pub artifact: String,
    /// True where the version before came back, as learned when it was swapped out.
    #[serde(default)]
    pub rollback: bool,
}

/// One commit of a lane.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct JournalRecord {
    /// Number of the record in the lane's journal, from 0.
    pub number: u64,
    /// The lineage: changes when the past is set aside.
    pub lineage: String,
    /// The lane.
    pub lane: u32,
    /// Names of the inputs that `runs` speaks of.
    pub inputs: Vec<String>,
    /// The events since the record before, in the order in which they were taken.
    pub runs: Vec<Run>,
    /// The swaps since the record before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub swaps: Vec<SwapEntry>,
    /// Content hash (64 hex digits) of the artifact in force after this record.
    #[serde(default)]
    pub version: String,
    /// The swap number in force after this record.
    #[serde(default)]
    pub swap: u64,
    /// True where the record's events were scored by a frozen model.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub frozen: bool,
    /// Number of the lane's next event, after this record.
    pub seq: u64,
    /// Examples learned by the lane, after this record.
    pub learned: u64,
    /// Position of every input, after this record.
    pub positions: BTreeMap<String, Position>,
    /// Chained digest of the bits of all emitted scores, after this record (16 hex digits).
    pub digest: String,
    /// Lengths of the outputs, after this record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputLength>,
}

/// A lane's journal.
pub trait Journal: Send {
    /// Makes a record durable. With Kafka this also commits the transaction that holds the
    /// predictions, and the input offsets.
    ///
    /// # Errors
    /// Environment. After a fault the outcome may be unknown: read the tail again.
    fn append(&mut self, record: &JournalRecord) -> Result<()>;

    /// The last committed record.
    fn tail(&mut self) -> Result<Option<JournalRecord>>;

    /// All committed records with `number ≥ from`, in order.
    fn read(&mut self, from: u64) -> Result<Vec<JournalRecord>>;

    /// The last record of another lineage in the same place, if there is one: a lane that has no past of
    /// its own must not begin beside it unnoticed.
    fn stranger(&mut self) -> Result<Option<JournalRecord>> {
        Ok(None)
    }

    /// Records with `number < before` are no longer needed and may be removed.
    fn trim(&mut self, before: u64) -> Result<()>;
}
