//! The worker: one thread a lane, from block to outbox, straight through; between two blocks it takes
//! orders, commits and takes snapshots.
//!
//! [`Worker::run`] is the thread: start, turns, finish. The three can be called one by one as well, so that a
//! lane is driven step by step under a clock that is set by hand.

use super::ahead::{Ahead, Decoded};
use super::checkpointer::{CheckpointDesk, CheckpointJob, Job, PreviousJob};
use super::crowd::Crowd;
use super::intake::Intake;
use super::lane::LaneCore;
use super::lane_status::LanePublisher;
use super::outlet::{Commit, Outlet, Reply};
use crate::admin::status::{LaneState, VersionStatus};
use crate::batch::{Block, Cursor, Outbox};
use crate::clock::Clock;
use crate::error::{Fault, Result};
use crate::faults;
use crate::metrics::{Health, LaneMetrics, LatencyStage, SwapResult};
use crate::pipeline::Pipeline;
use crate::sink::InputNames;
use crate::source::Polled;
use crate::state::State;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long a lane without work waits before it looks for orders.
const IDLE_WAIT: Duration = Duration::from_millis(20);
/// How often a lane whose next commit is due looks whether the last one is done.
const COMMIT_LOOK: Duration = Duration::from_millis(2);
/// How long clients may take at the end to read their answers.
const FINISH_MAX: Duration = Duration::from_secs(5);
/// How long the last checkpoint may take.
pub const BARRIER_MAX: Duration = Duration::from_secs(10);
/// How often the live quality and the lag are published.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);

/// The answer to an order: the lane's event number from which on it is in force; `None` where another daemon
/// holds the lane.
pub type Done = flume::Sender<(u32, Result<Option<u64>>)>;

/// What a lane may be told.
pub enum Order {
    /// Put a candidate in force.
    Swap(Box<Pipeline>, String, Done),
    /// Bring back the version before.
    Rollback(Done),
    /// Commit, and write a checkpoint.
    Checkpoint(Done),
    /// Stop (true) or go on taking events.
    Pause(bool, Done),
    /// Change what may change while running.
    Retune(Tuning),
}

impl Order {
    /// Answers for a lane that another daemon holds: nothing is done here, now or later.
    pub fn not_here(self, lane: u32) {
        match self {
            Order::Swap(_, _, done) | Order::Rollback(done) | Order::Checkpoint(done) | Order::Pause(_, done) => {
                // The asker may have given up waiting.
                let _ = done.send((lane, Ok(None)));
            }
            // Whoever takes the lane's seat reads the tuning then.
            Order::Retune(_) => {}
        }
    }
}

/// What may change while a lane runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// False: the model is frozen.
    pub learn: bool,
    /// Longest time from an event's scoring to its commit.
    pub commit_interval: Duration,
    /// Most events between two commits.
    pub commit_events_max: u64,
    /// Time between two checkpoints.
    pub checkpoint_interval: Duration,
    /// How many checkpoints are kept.
    pub checkpoints_kept: usize,
}

/// What a worker is made of.
pub struct Worker {
    /// The lane's core.
    pub core: LaneCore,
    /// Its near end.
    pub intake: Intake,
    /// Its far end.
    pub outlet: Outlet,
    /// What decodes the next block meanwhile, where the lane has a core to spare.
    pub ahead: Option<Ahead>,
    /// Orders to the lane.
    pub orders: flume::Receiver<Order>,
    /// Intervals and switches.
    pub tuning: Tuning,
    /// The lane's checkpoints.
    pub desk: Arc<CheckpointDesk>,
    /// To the thread that writes them.
    pub jobs: flume::Sender<Job>,
    /// The lane's numbers.
    pub metrics: Arc<LaneMetrics>,
    /// The lane's published state.
    pub publisher: Arc<LanePublisher>,
    /// The heartbeats.
    pub health: Arc<Health>,
    /// Set once the intake must stop.
    pub stop: Arc<AtomicBool>,
    /// Where the version in force came from, and since which event.
    pub current: VersionStatus,
    /// The same of the version before.
    pub before: Option<VersionStatus>,
    /// What commits, checkpoints and what is published are timed by.
    pub clock: Clock,
}

/// A worker between its turns.
pub struct Working {
    worker: Worker,
    crowd: Crowd,
    health: Arc<Health>,
    clocks: Clocks,
    block: Block,
    names: Arc<InputNames>,
    paused: bool,
}

/// When things are due.
struct Clocks {
    committed: Instant,
    committed_seq: u64,
    checkpointed: Instant,
    checkpointed_seq: u64,
    published: Instant,
}

impl Worker {
    /// Runs the lane until its source ends or it is told to stop; then commits and writes a checkpoint.
    ///
    /// # Errors
    /// Whatever stopped the lane; what was committed before stands.
    pub fn run(self) -> Result<()> {
        let (lane, health, publisher) = (self.core.lane() as usize, self.health.clone(), self.publisher.clone());
        let mut working = self.start();
        while working.turn()? {}
        if let Some(written) = working.finish()? {
            // A checkpointer that has ended has nothing more to write; and one that waits for a store that is away
            // must not keep the daemon: what was committed stands.
            if written.recv_timeout(BARRIER_MAX) == Err(flume::RecvTimeoutError::Timeout) {
                tracing::warn!(lane, "ends without its last checkpoint: the store takes too long");
            }
        }
        publisher.state(LaneState::Ended);
        health.lane(lane).idle();
        Ok(())
    }

    /// Ready for the first turn.
    pub fn start(self) -> Working {
        let (now, seq) = (self.clock.now(), self.core.seq());
        let clocks =
            Clocks { committed: now, committed_seq: seq, checkpointed: now, checkpointed_seq: seq, published: now };
        self.publisher.version(self.current.clone(), self.before.clone());
        self.publisher.state(LaneState::Running);
        let health = self.health.clone();
        Working {
            worker: self,
            crowd: Crowd::here(now),
            health,
            clocks,
            block: Block::default(),
            names: Arc::default(),
            paused: false,
        }
    }

    /// One block: decoded ahead, where that is worth it, while the one before it is taken.
    fn advance(&mut self, block: &mut Block, names: &Arc<InputNames>, crowd: &mut Crowd) -> Result<()> {
        if self.ahead.is_none() || !Ahead::is_worth(block) || crowd.is_crowded(self.clock.now()) {
            self.catch_up()?;
            return self.take(block, names);
        }
        let before = self.decoded()?;
        let decoder = self.core.lend_decoder();
        if let Some(ahead) = &mut self.ahead {
            ahead.submit(block, names, decoder)?;
        }
        before.map_or(Ok(()), |decoded| self.take_decoded(decoded))
    }

    /// Takes the block that is ahead, if one is: then every event that was read is taken.
    fn catch_up(&mut self) -> Result<()> {
        self.decoded()?.map_or(Ok(()), |decoded| self.take_decoded(decoded))
    }

    /// Waits for the block that is ahead, if one is; the decoder is back then.
    fn decoded(&mut self) -> Result<Option<Decoded>> {
        let found = self.ahead.as_mut().map_or(Ok(None), Ahead::wait)?;
        Ok(found.map(|(decoded, decoder)| {
            self.core.return_decoder(decoder);
            decoded
        }))
    }

    /// One block, from its bytes to the outbox.
    fn take(&mut self, block: &Block, names: &Arc<InputNames>) -> Result<()> {
        self.answer(block, names, |core, outbox| {
            let mut cursor = Cursor::default();
            while core.step(block, &mut cursor, u64::MAX, outbox) {}
        })
    }

    /// One block that was decoded ahead.
    fn take_decoded(&mut self, mut decoded: Decoded) -> Result<()> {
        let names = decoded.names.clone();
        let (block, batches) = decoded.parts();
        self.answer(block, &names, |core, outbox| {
            batches.iter_mut().for_each(|batch| core.step_decoded(block, batch, outbox));
        })?;
        if let Some(ahead) = &mut self.ahead {
            ahead.recycle(decoded);
        }
        Ok(())
    }

    fn answer(
        &mut self,
        block: &Block,
        names: &Arc<InputNames>,
        run: impl FnOnce(&mut LaneCore, &mut Outbox),
    ) -> Result<()> {
        let taken_ns = crate::batch::now_ns();
        self.core.names.clone_from(names);
        let mut outbox = self.outlet.outbox()?;
        outbox.read_at_ns = block.read_at_ns;
        let before = self.core.seq();
        run(&mut self.core, &mut outbox);
        self.core.ledger.finished(block);
        outbox.encoded_at_ns = crate::batch::now_ns();
        let (rows, encoded_ns) = (self.core.seq() - before, outbox.encoded_at_ns);
        self.intake.answer(&outbox);
        self.outlet.write(outbox, names)?;
        self.metrics.latency(LatencyStage::Queue, taken_ns.saturating_sub(block.read_at_ns), rows);
        self.metrics.latency(LatencyStage::Process, encoded_ns.saturating_sub(taken_ns), rows);
        Ok(())
    }

    /// While paused: sources that must stay alive are still polled; blocks already on their way are taken.
    fn rest(&mut self, block: &mut Block, names: &mut Arc<InputNames>, wait: Duration) -> Result<Polled> {
        let polled = self.intake.next(block, names, wait)?;
        if polled == Polled::Idle {
            self.clock.sleep(wait.min(Duration::from_millis(5)));
        }
        Ok(polled)
    }

    fn until_due(&self, clocks: &Clocks) -> Duration {
        if self.core.seq() == clocks.committed_seq {
            return IDLE_WAIT;
        }
        let due = self.tuning.commit_interval.saturating_sub(self.clock.since(clocks.committed)).min(IDLE_WAIT);
        if self.outlet.commits() { due.max(COMMIT_LOOK) } else { due }
    }

    fn keep_up(&mut self, clocks: &mut Clocks) -> Result<()> {
        let now = self.clock.now();
        let fresh = self.core.seq() - clocks.committed_seq;
        // One commit at a time: were they to queue up behind one another, events would wait for many of them.
        let free = !self.outlet.commits();
        let commit_due =
            (self.core.ledger.is_dirty() || fresh > 0) && now - clocks.committed >= self.tuning.commit_interval;
        let checkpoint_due = now - clocks.checkpointed >= self.tuning.checkpoint_interval
            && self.core.seq() > clocks.checkpointed_seq
            && self.desk.under_way.load(Relaxed) == 0;
        // A lane that is never free because it commits at every `commit_events_max` has its checkpoints all the same.
        if fresh >= self.tuning.commit_events_max || free && (commit_due || checkpoint_due) {
            self.commit(checkpoint_due.then(WithCheckpoint::default), Vec::new(), clocks)?;
        }
        if now - clocks.published >= PUBLISH_EVERY {
            clocks.published = now;
            self.publish();
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.metrics.set_quality(self.core.quality().report());
        self.metrics.set_lag(self.intake.lag());
        self.publisher.seq(self.core.seq());
    }

    fn commit(&mut self, checkpoint: Option<WithCheckpoint>, replies: Vec<Reply>, clocks: &mut Clocks) -> Result<()> {
        self.commit_with(checkpoint, None, replies, clocks)
    }

    fn commit_with(
        &mut self,
        checkpoint: Option<WithCheckpoint>,
        previous: Option<Box<PreviousJob>>,
        replies: Vec<Reply>,
        clocks: &mut Clocks,
    ) -> Result<()> {
        let record = self.core.record();
        let now = self.clock.now();
        (clocks.committed, clocks.committed_seq) = (now, record.seq);
        let checkpoint = checkpoint.map(|snapshot| {
            (clocks.checkpointed, clocks.checkpointed_seq) = (now, record.seq);
            let mut position = record.clone();
            position.runs.clear();
            position.inputs.clear();
            let desk = self.desk.clone();
            let memory = State::in_memory_of(desk.spare());
            let (manifest, state) =
                self.core.pipeline().snapshot_in(memory, "checkpoint", Value::Null, json!(position));
            desk.under_way.fetch_add(1, Relaxed);
            let keep = self.tuning.checkpoints_kept;
            CheckpointJob {
                number: record.number,
                seq: record.seq,
                swap: record.swap,
                manifest,
                state,
                keep,
                desk,
                replies: snapshot.replies,
            }
        });
        self.outlet.commit(Commit { record, previous, checkpoint, replies })
    }

    fn obey(&mut self, order: Order, paused: &mut bool, clocks: &mut Clocks) -> Result<()> {
        match order {
            Order::Swap(candidate, origin, done) => {
                let version = candidate.version().to_string();
                match self.core.swap_in(*candidate) {
                    Ok(seq) => {
                        faults::step("swap.taken");
                        self.metrics.swap(SwapResult::Applied);
                        self.in_force(version, origin, seq, done, clocks)
                    }
                    Err(fault) => {
                        self.metrics.swap(SwapResult::Refused);
                        self.refuse(&done, fault)
                    }
                }
            }
            Order::Rollback(done) => match self.core.roll_back() {
                Ok(seq) => {
                    faults::step("swap.rolled-back");
                    self.metrics.swap(SwapResult::RolledBack);
                    let before = self.before.take().unwrap_or_default();
                    self.in_force(before.version, before.origin, seq, done, clocks)
                }
                Err(fault) => self.refuse(&done, fault),
            },
            Order::Checkpoint(done) => {
                let reply = self.reply(done, self.core.seq());
                let job = WithCheckpoint { replies: vec![reply] };
                self.commit(Some(job), Vec::new(), clocks)
            }
            Order::Pause(pause, done) => {
                *paused = pause;
                self.intake.pause(pause);
                self.publisher.state(if pause { LaneState::Paused } else { LaneState::Running });
                // The asker may have given up waiting.
                let _ = done.send((self.core.lane(), Ok(Some(self.core.seq()))));
                Ok(())
            }
            Order::Retune(tuning) => {
                if tuning.learn != self.tuning.learn {
                    // Events before and after are in different records, so that replay knows.
                    self.commit(None, Vec::new(), clocks)?;
                    self.core.set_learn(tuning.learn);
                }
                self.tuning = tuning;
                Ok(())
            }
        }
    }

    /// Notes the version in force, and commits the swap with the version before, which goes to the store behind
    /// the commit and ahead of any later checkpoint.
    fn in_force(&mut self, version: String, origin: String, seq: u64, done: Done, clocks: &mut Clocks) -> Result<()> {
        let swap = self.core.swap();
        let current = VersionStatus { version, swap, origin, since_seq: seq };
        self.before = Some(std::mem::replace(&mut self.current, current));
        tracing::info!(lane = self.core.lane(), seq, swap, version = self.current.version.as_str(), "version in force");
        self.publisher.version(self.current.clone(), self.before.clone());
        let desk = &self.desk;
        let previous = self.core.previous_snapshot().map(|(manifest, state)| {
            Box::new(PreviousJob { desk: desk.clone(), name: previous_name(swap), manifest, state })
        });
        let replies = vec![self.reply(done, seq)];
        self.commit_with(None, previous, replies, clocks)
    }

    fn reply(&self, done: Done, seq: u64) -> Reply {
        let lane = self.core.lane();
        Box::new(move |outcome: Result<()>| {
            // The asker may have given up waiting.
            let _ = done.send((lane, outcome.map(|()| Some(seq))));
        })
    }

    fn refuse(&self, done: &Done, fault: Fault) -> Result<()> {
        // The asker may have given up waiting.
        let _ = done.send((self.core.lane(), Err(fault)));
        Ok(())
    }
}

impl Working {
    /// One turn: an order, a block, and what is due. False where the lane has come to its end.
    ///
    /// # Errors
    /// Whatever stopped the lane; what was committed before stands.
    pub fn turn(&mut self) -> Result<bool> {
        let Working { worker, crowd, health, clocks, block, names, paused } = self;
        if worker.stop.load(Relaxed) {
            return Ok(false);
        }
        let heartbeat = health.lane(worker.core.lane() as usize);
        if let Ok(order) = worker.orders.try_recv() {
            heartbeat.busy();
            // An order is obeyed between two events: with none ahead.
            worker.catch_up()?;
            worker.obey(order, paused, clocks)?;
        }
        let ahead = worker.ahead.as_ref().is_some_and(Ahead::under_way);
        let wait = if ahead { Duration::ZERO } else { worker.until_due(clocks) };
        match if *paused { worker.rest(block, names, wait)? } else { worker.intake.next(block, names, wait)? } {
            Polled::Filled => {
                heartbeat.busy();
                worker.advance(block, names, crowd)?;
            }
            Polled::Idle if ahead => worker.catch_up()?,
            Polled::Idle => {
                heartbeat.idle();
                worker.outlet.check()?;
            }
            Polled::End => return Ok(false),
        }
        worker.keep_up(clocks)?;
        Ok(true)
    }

    /// The lane's end: commits, writes a checkpoint, closes both ends. The checkpointer tells the receiver once
    /// everything is on the disk; `None` where it has ended.
    ///
    /// # Errors
    /// The fault of an end; what was committed before stands.
    pub fn finish(self) -> Result<Option<flume::Receiver<()>>> {
        let Working { mut worker, health, mut clocks, .. } = self;
        health.lane(worker.core.lane() as usize).busy();
        faults::step("drain.begin");
        worker.publisher.state(LaneState::Draining);
        worker.catch_up()?;
        faults::step("drain.begin");
        worker.commit(Some(WithCheckpoint::default()), Vec::new(), &mut clocks)?;
        worker.publish();
        worker.intake.finish(FINISH_MAX)?;
        drop(worker.intake);
        worker.outlet.close()?;
        faults::step("drain.committed");
        let (done, written) = flume::bounded(1);
        let asked = worker.jobs.send(Job::Barrier(done)).is_ok();
        Ok(asked.then_some(written))
    }

    /// The lane's core, as it stands between two turns.
    pub fn core(&mut self) -> &mut LaneCore {
        &mut self.worker.core
    }
}

/// A checkpoint that the next commit shall carry.
#[derive(Default)]
struct WithCheckpoint {
    replies: Vec<Reply>,
}

/// How the file names of versions that a rollback brings back begin; the swap number follows.
pub const PREVIOUS_PREFIX: &str = "previous-";

/// File name of the version that a rollback from swap number `swap` brings back.
pub fn previous_name(swap: u64) -> String {
    format!("{PREVIOUS_PREFIX}{swap:020}.safetensors")
}
