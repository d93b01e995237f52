//! The far end of a lane: outboxes go to the sink, records to the journal, in the order in which they
//! were made; on the worker's own thread, or on one of its own behind a ring.

use super::checkpointer::{CheckpointJob, Job, PreviousJob};
use super::lane_status::LanePublisher;
use crate::batch::{Outbox, now_ns};
use crate::error::{Fault, Result};
use crate::faults;
use crate::journal::{Journal, JournalRecord};
use crate::metrics::{LaneMetrics, LatencyStage};
use crate::queue::{self, Received};
use crate::sink::{InputNames, Sink};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Outboxes that may wait in front of the sink.
const OUTBOXES_MAX: usize = 8;

/// A commit: the record, what must follow it, and who wants to know.
pub struct Commit {
    /// What the journal will say.
    pub record: JournalRecord,
    /// The version before, where the record holds a swap.
    pub previous: Option<Box<PreviousJob>>,
    /// A checkpoint that belongs to the record.
    pub checkpoint: Option<CheckpointJob>,
    /// Called when the record is durable.
    pub replies: Vec<Reply>,
}

/// Called with the outcome of a commit.
pub type Reply = Box<dyn FnOnce(Result<()>) + Send>;

/// One lane's sink and journal.
pub struct FarEnd {
    /// Where predictions go.
    pub sink: Box<dyn Sink>,
    /// Where decisions go.
    pub journal: Box<dyn Journal>,
    /// True where predictions are visible only after the commit.
    pub visible_at_commit: bool,
    /// True where a journal that can't be written must not stop the lane (a socket's: nothing is replayed from it).
    pub journal_optional: bool,
    /// The lane's numbers.
    pub metrics: Arc<LaneMetrics>,
    /// The lane's published state.
    pub publisher: Arc<LanePublisher>,
    /// Takes the checkpoints of committed records.
    pub jobs: flume::Sender<Job>,
    /// Records before this number are no longer needed.
    pub trim_before: Arc<AtomicU64>,
    trimmed: u64,
    waiting: Vec<Encoded>,
}

/// When a block's events were read and encoded, and how many predictions that made.
struct Encoded {
    read_at_ns: u64,
    encoded_at_ns: u64,
    rows: u64,
}

impl FarEnd {
    /// A far end that has written nothing yet.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        sink: Box<dyn Sink>,
        journal: Box<dyn Journal>,
        visible_at_commit: bool,
        journal_optional: bool,
        metrics: Arc<LaneMetrics>,
        publisher: Arc<LanePublisher>,
        jobs: flume::Sender<Job>,
        trim_before: Arc<AtomicU64>,
    ) -> FarEnd {
        let (trimmed, waiting) = Default::default();
        FarEnd {
            sink,
            journal,
            visible_at_commit,
            journal_optional,
            metrics,
            publisher,
            jobs,
            trim_before,
            trimmed,
            waiting,
        }
    }

    fn write(&mut self, outbox: &Outbox, inputs: &InputNames) -> Result<()> {
        self.sink.write(outbox, inputs)?;
        let encoded =
            Encoded { read_at_ns: outbox.read_at_ns, encoded_at_ns: outbox.encoded_at_ns, rows: outbox.predictions };
        if self.visible_at_commit {
            self.waiting.push(encoded)
        } else {
            self.published(encoded)
        }
        Ok(())
    }

    fn published(&self, encoded: Encoded) {
        if encoded.rows > 0 {
            let now = now_ns();
            self.metrics.latency(LatencyStage::Publish, now.saturating_sub(encoded.encoded_at_ns), encoded.rows);
            self.metrics.latency(LatencyStage::Total, now.saturating_sub(encoded.read_at_ns), encoded.rows);
        }
    }

    /// Flushes the sink, then makes the record durable.
    ///
    /// # Errors
    /// The sink's or the journal's fault.
    pub fn commit(&mut self, mut commit: Commit) -> Result<()> {
        let started = Instant::now();
        if faults::planted("checkpoint-ahead-of-commit")
            && let Some(job) = commit.checkpoint.take()
        {
            let _ = self.jobs.send(Job::Checkpoint(Box::new(job)));
        }
        let outcome = self.sink.flush().and_then(|outputs| {
            commit.record.outputs = outputs;
            match self.journal.append(&commit.record) {
                Err(fault) if self.journal_optional => {
                    self.publisher.fault(&fault);
                    Ok(())
                }
                other => other,
            }
        });
        for reply in commit.replies {
            reply(outcome.clone());
        }
        if let Err(fault) = &outcome {
            for reply in commit.checkpoint.into_iter().flat_map(|job| job.replies) {
                reply(Err(fault.clone()));
            }
            return outcome;
        }
        self.metrics.committed(started.elapsed().as_nanos() as u64);
        self.publisher.committed(&commit.record);
        for encoded in std::mem::take(&mut self.waiting) {
            self.published(encoded);
        }
        if let Some(job) = commit.previous {
            // As below. A swap that was not committed may be another's to make, at another event.
            let _ = self.jobs.send(Job::Previous(job));
        }
        if let Some(job) = commit.checkpoint {
            faults::step("checkpoint.begin");
            // A checkpointer that has ended is a daemon that ends: the journal has what matters.
            let _ = self.jobs.send(Job::Checkpoint(Box::new(job)));
        }
        let before = self.trim_before.load(Relaxed);
        if before > self.trimmed {
            self.trimmed = before;
            faults::step("journal.trim");
            if let Err(fault) = self.journal.trim(before) {
                self.publisher.fault(&fault);
            }
        }
        Ok(())
    }
}

/// What travels to the sink's thread.
pub enum Work {
    /// Predictions and dead letters, and the names of their inputs.
    Outbox(Outbox, Arc<InputNames>),
    /// A commit of everything before it.
    Commit(Box<Commit>),
}

/// The worker's side of the far end.
pub enum Outlet {
    /// On the worker's own thread.
    Inline(Box<FarEnd>, Outbox),
    /// On a thread of its own, behind a ring; outboxes come back through another.
    Threaded {
        /// To the sink's thread.
        to: Option<queue::Sender<Work>>,
        /// Empty outboxes, on their way back.
        back: queue::Receiver<Outbox>,
        /// The sink's thread, and how it ended.
        thread: Option<JoinHandle<Result<()>>>,
        /// Outboxes that were not yet handed out.
        spare: Vec<Outbox>,
        /// Commits that were handed over and are not done.
        commits: Arc<AtomicU64>,
    },
}

impl Drop for Outlet {
    /// A lane that is opened again must not meet its own former sink.
    fn drop(&mut self) {
        if let Outlet::Threaded { to, thread, .. } = self {
            drop(to.take());
            if let Some(Ok(Err(fault))) = thread.take().map(JoinHandle::join) {
                tracing::debug!("the sink ended after its lane: {fault}");
            }
        }
    }
}

impl Outlet {
    /// The far end on the caller's thread.
    pub fn inline(far_end: FarEnd) -> Outlet {
        Outlet::Inline(Box::new(far_end), Outbox::default())
    }

    /// The far end on a thread of its own.
    ///
    /// # Errors
    /// Environment, where no thread can be started.
    pub fn threaded(far_end: FarEnd, name: String) -> Result<Outlet> {
        let (to, mut works) = queue::ring::<Work>(OUTBOXES_MAX * 2);
        let (mut give_back, back) = queue::ring::<Outbox>(OUTBOXES_MAX + 1);
        let commits = Arc::new(AtomicU64::new(0));
        let under_way = commits.clone();
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let mut far_end = far_end;
            loop {
                match works.receive(Duration::from_millis(100)) {
                    Received::Item(Work::Outbox(mut outbox, inputs)) => {
                        far_end.write(&outbox, &inputs)?;
                        outbox.clear();
                        // The worker may have ended; then the memory isn't needed either.
                        let _ = give_back.send(outbox);
                    }
                    Received::Item(Work::Commit(commit)) => {
                        far_end.commit(*commit)?;
                        under_way.fetch_sub(1, Relaxed);
                    }
                    Received::Empty => {}
                    Received::Closed => return Ok(()),
                }
            }
        });
        let thread = thread.map_err(|e| Fault::io("start the sink's thread", &e))?;
        let spare = (0..OUTBOXES_MAX).map(|_| Outbox::default()).collect();
        Ok(Outlet::Threaded { to: Some(to), back, thread: Some(thread), spare, commits })
    }

    /// An empty outbox; waits while all are on their way.
    ///
    /// # Errors
    /// The sink's fault, where it has ended.
    pub fn outbox(&mut self) -> Result<Outbox> {
        match self {
            Outlet::Inline(_, spare) => Ok(std::mem::take(spare)),
            Outlet::Threaded { back, spare, .. } => {
                if let Some(outbox) = spare.pop() {
                    return Ok(outbox);
                }
                loop {
                    match back.receive(Duration::from_millis(100)) {
                        Received::Item(outbox) => return Ok(outbox),
                        Received::Empty => {}
                        Received::Closed => return Err(self.ended()),
                    }
                }
            }
        }
    }

    /// Hands an outbox to the sink.
    ///
    /// # Errors
    /// The sink's fault.
    pub fn write(&mut self, mut outbox: Outbox, inputs: &Arc<InputNames>) -> Result<()> {
        match self {
            Outlet::Inline(far_end, spare) => {
                far_end.write(&outbox, inputs)?;
                outbox.clear();
                *spare = outbox;
                Ok(())
            }
            Outlet::Threaded { spare, .. } if outbox.is_empty() => {
                outbox.clear();
                spare.push(outbox);
                Ok(())
            }
            Outlet::Threaded { .. } => self.send(Work::Outbox(outbox, inputs.clone())),
        }
    }

    /// Whether the far end still lives: a lane without events must notice as well.
    ///
    /// # Errors
    /// The fault by which it ended.
    pub fn check(&mut self) -> Result<()> {
        match self {
            Outlet::Threaded { thread: Some(thread), .. } if thread.is_finished() => Err(self.ended()),
            _ => Ok(()),
        }
    }

    /// True while a commit is under way.
    pub fn commits(&self) -> bool {
        matches!(self, Outlet::Threaded { commits, .. } if commits.load(Relaxed) > 0)
    }

    /// Commits what was written since the last commit.
    ///
    /// # Errors
    /// The sink's or the journal's fault (a threaded one may show at a later call).
    pub fn commit(&mut self, commit: Commit) -> Result<()> {
        match self {
            Outlet::Inline(far_end, _) => far_end.commit(commit),
            Outlet::Threaded { commits, .. } => {
                commits.fetch_add(1, Relaxed);
                self.send(Work::Commit(Box::new(commit)))
            }
        }
    }

    /// Returns when everything handed over is out.
    ///
    /// # Errors
    /// The sink's or the journal's fault.
    pub fn close(mut self) -> Result<()> {
        match &mut self {
            Outlet::Inline(..) => Ok(()),
            Outlet::Threaded { to, thread, .. } => {
                drop(to.take());
                thread
                    .take()
                    .map_or(Ok(()), |t| t.join().unwrap_or_else(|_| Err(Fault::internal("the sink's thread panicked"))))
            }
        }
    }

    fn send(&mut self, work: Work) -> Result<()> {
        if let Outlet::Threaded { to: Some(to), .. } = self
            && to.send(work).is_ok()
        {
            return Ok(());
        }
        Err(self.ended())
    }

    fn ended(&mut self) -> Fault {
        let Outlet::Threaded { thread, .. } = self else { return Fault::internal("an inline sink does not end") };
        match thread.take().map(JoinHandle::join) {
            Some(Ok(Err(fault))) => fault,
            Some(Err(_)) => Fault::internal("the sink's thread panicked"),
            _ => Fault::internal("the sink's thread has ended"),
        }
    }
}
