//! The thread that writes checkpoints, so that no event waits for a disk.
//!
//! It takes only snapshots of committed records, in the order of their commits. A failure leaves the
//! older checkpoints as they were; it is counted, shown in the status and logged, and scoring goes on.

use super::lane_status::LanePublisher;
use crate::artifact;
use crate::checkpoint::LocalStore;
use crate::error::Result;
use crate::metrics::LaneMetrics;
use crate::pipeline::Manifest;
use crate::state::State;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A snapshot on its way to the disk.
pub struct CheckpointJob {
    /// Number of the journal record that it belongs to.
    pub number: u64,
    /// Number of the lane's next event.
    pub seq: u64,
    /// Name, spec, position.
    pub manifest: Manifest,
    /// Everything learned.
    pub state: State,
    /// Where the lane keeps its checkpoints.
    pub desk: Arc<CheckpointDesk>,
    /// Who wants to know.
    pub replies: Vec<super::outlet::Reply>,
}

/// What the checkpointer needs to know of a lane.
pub struct CheckpointDesk {
    /// The lane's files.
    pub store: LocalStore,
    /// How many checkpoints are kept. A reload may change it.
    pub keep: AtomicU64,
    /// False: the journal is kept whole.
    pub trim: bool,
    /// Journal records before this number are no longer needed.
    pub trim_before: Arc<AtomicU64>,
    /// The lane's numbers.
    pub metrics: Arc<LaneMetrics>,
    /// The lane's published state.
    pub publisher: Arc<LanePublisher>,
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
    for job in jobs {
        match job {
            Job::Checkpoint(job) => checkpoint(*job),
            Job::Previous { desk, name, manifest, state } => {
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
}

fn checkpoint(job: CheckpointJob) {
    let started = Instant::now();
    let desk = &job.desk;
    let bytes = artifact::encode(&json!(job.manifest), &job.state);
    let outcome: Result<()> =
        desk.store.put_checkpoint(job.number, &bytes, desk.keep.load(Relaxed) as usize).map(|oldest| {
            desk.metrics.checkpointed(started.elapsed().as_nanos() as u64);
            let path = desk.store.path(&crate::checkpoint::checkpoint_name(job.number));
            desk.publisher.checkpointed(job.seq, path.display().to_string());
            if desk.trim {
                // The oldest checkpoint's own record is kept: replay begins behind it and checks against it.
                desk.trim_before.fetch_max(oldest, Relaxed);
            }
        });
    if let Err(fault) = &outcome {
        desk.metrics.checkpoint_failed();
        desk.publisher.checkpoint_failed(fault);
    }
    for reply in job.replies {
        reply(outcome.clone());
    }
}
