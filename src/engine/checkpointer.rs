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
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// Versions before a swap that could not be written yet: name and bytes.
    pub unwritten: Mutex<Vec<(String, Vec<u8>)>>,
    /// The last snapshot that was written: its memory serves the next, which would else be taken from the system, and
    /// given back, each time.
    pub spare: Mutex<State>,
    /// Checkpoints on their way. While one is, none is taken only because it is time: a store that is away or slow
    /// must not fill the memory with snapshots.
    pub under_way: AtomicUsize,
}

impl CheckpointDesk {
    /// Memory for a snapshot.
    pub fn spare(&self) -> State {
        std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock_unwritten(&self) -> MutexGuard<'_, Vec<(String, Vec<u8>)>> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the versions before that are still unwritten. A checkpoint behind a swap must not be there without
    /// what a rollback from it brings back.
    fn write_previous(&self) -> Result<()> {
        let mut unwritten = self.lock_unwritten();
        while let Some((name, bytes)) = unwritten.first() {
            self.store.put(name, bytes)?;
            unwritten.remove(0);
        }
        Ok(())
    }

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

/// The version before a swap, on its way to the disk.
pub struct PreviousJob {
    /// Where.
    pub desk: Arc<CheckpointDesk>,
    /// File name.
    pub name: String,
    /// What.
    pub manifest: Manifest,
    /// Everything it had learned.
    pub state: State,
}

/// What the checkpointer is asked to do.
pub enum Job {
    /// Write a checkpoint.
    Checkpoint(Box<CheckpointJob>),
    /// Write the version that a rollback brings back, before any checkpoint behind the swap.
    Previous(Box<PreviousJob>),
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
        Job::Previous(job) => {
            faults::step("swap.previous");
            let bytes = artifact::encode(&json!(job.manifest), &job.state);
            job.desk.lock_unwritten().push((job.name, bytes));
            if let Err(fault) = job.desk.write_previous() {
                job.desk.publisher.fault(&fault);
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
    let encoded = artifact::Encoded::new(&json!(job.manifest), &job.state);
    desk.swaps.lock().unwrap_or_else(PoisonError::into_inner).insert(job.number, job.swap);
    let written =
        desk.write_previous().and_then(|()| desk.store.put_checkpoint(job.number, &encoded.parts(), job.keep));
    let outcome: Result<()> = written.and_then(|oldest| {
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
    drop(encoded);
    *desk.spare.lock().unwrap_or_else(PoisonError::into_inner) = job.state;
    desk.under_way.fetch_sub(1, Relaxed);
    for reply in job.replies {
        reply(outcome.clone());
    }
}
