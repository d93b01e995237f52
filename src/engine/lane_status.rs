//! What a lane tells the world about itself: the published status, and its log lines.

use crate::admin::status::{CheckpointStatus, FaultStatus, InputStatus, LaneState, LaneStatus, VersionStatus};
use crate::error::Fault;
use crate::journal::JournalRecord;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// Faults that a lane remembers.
const FAULTS_MAX: usize = 8;

/// A lane's published status. Written a few times a second, read by whoever asks; never on the road.
#[derive(Debug)]
pub struct LanePublisher {
    writing: Mutex<LaneStatus>,
    published: Arc<ArcSwap<LaneStatus>>,
}

impl LanePublisher {
    /// The status of a lane that has not begun.
    pub fn new(lane: u32) -> LanePublisher {
        let status = LaneStatus { lane, ..LaneStatus::default() };
        LanePublisher { published: Arc::new(ArcSwap::from_pointee(status.clone())), writing: Mutex::new(status) }
    }

    /// Where readers find the status; they never wait.
    pub fn published(&self) -> Arc<ArcSwap<LaneStatus>> {
        self.published.clone()
    }

    fn edit(&self, change: impl FnOnce(&mut LaneStatus)) {
        let mut status = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut status);
        self.published.store(Arc::new(status.clone()));
    }

    /// The lane does something else now; one log line a change.
    pub fn state(&self, state: LaneState) {
        self.edit(|status| {
            if status.state != state {
                tracing::info!(lane = status.lane, "lane {}", state.name());
                status.state = state;
            }
        });
    }

    /// Another version is in force.
    pub fn version(&self, current: VersionStatus, previous: Option<VersionStatus>) {
        self.edit(|status| {
            (status.current, status.previous) = (current, previous);
        });
    }

    /// The number of the lane's next event.
    pub fn seq(&self, seq: u64) {
        self.edit(|status| status.seq = seq);
    }

    /// How many events are committed.
    pub fn committed_seq(&self) -> u64 {
        self.published.load().committed_seq
    }

    /// A record was committed.
    pub fn committed(&self, record: &JournalRecord) {
        self.edit(|status| {
            status.committed_seq = record.seq;
            status.seq = status.seq.max(record.seq);
            status.digest.clone_from(&record.digest);
            status.inputs.clear();
            for (input, position) in &record.positions {
                status.inputs.push(InputStatus { input: input.clone(), position: *position });
            }
        });
    }

    /// A checkpoint was written.
    pub fn checkpointed(&self, seq: u64, path: String) {
        self.edit(|status| {
            if let Some(error) = status.checkpoint.error.take() {
                tracing::info!(lane = status.lane, "checkpoints succeed again (before: {error})");
            }
            status.checkpoint =
                CheckpointStatus { seq: Some(seq), taken_at_ms: Some(now_ms()), path: Some(path), error: None };
        });
    }

    /// A checkpoint failed: the older ones stay. Logged when it begins, and when the reason changes.
    pub fn checkpoint_failed(&self, fault: &Fault) {
        self.edit(|status| {
            let text = fault.to_string();
            if status.checkpoint.error.as_ref() != Some(&text) {
                tracing::error!(lane = status.lane, "checkpoint failed, scoring goes on: {text}");
            }
            status.checkpoint.error = Some(text);
        });
    }

    /// A fault that the lane goes on from, and that somebody should look at. A repeated one is counted, not logged
    /// again.
    pub fn fault(&self, fault: &Fault) {
        self.note(fault, |lane, message| tracing::error!(lane, "{message}"));
    }

    /// What passes by itself: the lane is opened again. Counted as a fault.
    pub fn setback(&self, fault: &Fault) {
        self.note(fault, |lane, message| tracing::warn!(lane, "a setback, the lane is opened again: {message}"));
    }

    /// The fault that the lane stops at.
    pub fn stopped(&self, fault: &Fault) {
        self.note(fault, |_, _| {});
        let lane = self.published.load().lane;
        tracing::error!(lane, "{fault}");
    }

    fn note(&self, fault: &Fault, log: impl FnOnce(u32, &str)) {
        self.edit(|status| {
            let (message, at_ms) = (fault.to_string(), now_ms());
            if let Some(known) = status.faults.iter_mut().find(|f| f.message == message) {
                known.count += 1;
                known.at_ms = at_ms;
                return;
            }
            log(status.lane, &message);
            status.faults.insert(0, FaultStatus { at_ms, message, count: 1 });
            status.faults.truncate(FAULTS_MAX);
        });
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
