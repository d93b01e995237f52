//! The thread that writes checkpoints, so that no event waits for a disk.
//!
//! It takes only snapshots of committed records, in the order of their commits. A failure leaves the
//! older checkpoints as they were; it is counted, shown in the status and logged, and scoring goes on.

use super::lane_status::LanePublisher;
use super::worker::PREVIOUS_PREFIX;
use crate::artifact;
use crate::checkpoint::Store;
use crate::error::Result;
use crate::faults;
use crate::metrics::LaneMetrics;
use crate::pipeline::Manifest;
use crate::state::State;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A snapshot on its way to the disk.
pub struct CheckpointJob {
    /// Number of the journal record that it belongs to.
    pub number: u64,
    /// Number of the lane's next event.
    pub seq: u64,
    /// The swap number in force.
    pub swap: u64,
    /// Name, spec, position.
    pub manifest: Manifest,
    /// Everything learned.
    pub state: State,
    /// How many checkpoints are kept.
    pub keep: usize,
    /// Where the lane keeps its checkpoints.
    pub desk: Arc<CheckpointDesk>,
    /// Who wants to know.
    pub replies: Vec<super::outlet::Reply>,
}

/// What the checkpointer needs to know of a lane.
pub struct CheckpointDesk {
    /// The lane's files.
    pub store: Arc<dyn Store>,
    /// False: the journal is kept whole.
    pub trim: bool,
    /// Journal records before this number are no longer needed.
    pub trim_before: Arc<AtomicU64>,
    /// The lane's numbers.
    pub metrics: Arc<LaneMetrics>,
    /// The lane's published state.
    pub publisher: Arc<LanePublisher>,
    /// The swap numbers that were in force at the checkpoints of this run, by record number.
    pub swaps: Mutex<BTreeMap<u64, u64>>,
}

impl CheckpointDesk {
    /// Removes what a rollback would have brought back from before the oldest kept checkpoint.
    fn forget_previous(&self, oldest: u64) -> Result<()> {
        let mut swaps = self.swaps.lock().unwrap_or_else(PoisonError::into_inner);
        *swaps = swaps.split_off(&oldest);
        match swaps.get(&oldest) {
            Some(swap) => self.store.remove_before(PREVIOUS_PREFIX, *swap),
            // A checkpoint of an earlier run: what belongs to it stays.
            None => Ok(()),
        }
    }
}

/// What the checkpointer is asked to do.
pub enum Job {
    /// Write a checkpoint.
    Checkpoint(Box<CheckpointJob>),
    /// Write the version that a rollback brings back, before any checkpoint behind the swap.
    Previous {
        /// Where.
        desk: Arc<CheckpointDesk>,
        /// File name.
        name: String,
        /// What.
        manifest: Box<Manifest>,
        /// Everything it had learned.
        state: State,
    },
    /// Tell when everything before is done.
    Barrier(flume::Sender<()>),
}

/// Works off the jobs until the last sender is gone.
pub fn run(jobs: &flume::Receiver<Job>) {
    jobs.iter().for_each(work_off);
}

/// Works off one job.
pub fn work_off(job: Job) {
    match job {
        Job::Checkpoint(job) => checkpoint(*job),
        Job::Previous { desk, name, manifest, state } => {
            faults::step("swap.previous");
            if let Err(fault) = desk.store.put(&name, &artifact::encode(&json!(manifest), &state)) {
                desk.publisher.fault(&fault);
            }
        }
        Job::Barrier(done) => {
            // Whoever asked may have given up waiting.
            let _ = done.send(());
        }
    }
}

fn checkpoint(job: CheckpointJob) {
    let started = Instant::now();
    let desk = &job.desk;
    let bytes = artifact::encode(&json!(job.manifest), &job.state);
    desk.swaps.lock().unwrap_or_else(PoisonError::into_inner).insert(job.number, job.swap);
    let outcome: Result<()> = desk.store.put_checkpoint(job.number, &bytes, job.keep).and_then(|oldest| {
        faults::step("checkpoint.kept");
        desk.metrics.checkpointed(started.elapsed().as_nanos() as u64);
        let place = desk.store.place(&crate::checkpoint::checkpoint_name(job.number));
        desk.publisher.checkpointed(job.seq, place);
        if desk.trim {
            // The oldest checkpoint's own record is kept: replay begins behind it and checks against it.
            desk.trim_before.fetch_max(oldest, Relaxed);
        }
        desk.forget_previous(oldest)
    });
    if let Err(fault) = &outcome {
        desk.metrics.checkpoint_failed();
        desk.publisher.checkpoint_failed(fault);
    }
    for reply in job.replies {
        reply(outcome.clone());
    }
}
