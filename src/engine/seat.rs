//! A lane's thread: opens the lane's ends, recovers it, and works until its source ends or it is told
//! to stop. A Kafka lane whose brokers fail is opened and recovered again.

use super::checkpointer::{CheckpointDesk, Job};
use super::home::Home;
use super::lane::LaneCore;
use super::lane_status::LanePublisher;
use super::outlet::{Commit, FarEnd, Outlet};
use super::recover::{Archive, Recovered, recover};
use super::wire::{self, Ends};
use super::worker::{Order, Tuning, Worker};
use crate::admin::status::{LaneState, VersionStatus};
use crate::checkpoint::Store;
use crate::clock::Clock;
use crate::config::{Config, SinkKind, SourceKind};
use crate::error::{Class, Fault, Result};
use crate::faults;
use crate::journal::{Journal, JournalRecord};
use crate::kafka::client::Membership;
use crate::metrics::{Health, LaneMetrics};
use crate::pipeline::Pipeline;
use crate::sink::Sink;
use crate::source::Position;
use crate::source::socket::SocketSource;
use arc_swap::ArcSwap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Everything that a lane's thread needs.
pub struct Seat {
    /// The lane's number.
    pub lane: u32,
    /// The config.
    pub config: Arc<Config>,
    /// The state directory.
    pub home: Arc<Home>,
    /// The lane's numbers.
    pub metrics: Arc<LaneMetrics>,
    /// The lane's published state.
    pub publisher: Arc<LanePublisher>,
    /// Orders to the lane.
    pub orders: flume::Receiver<Order>,
    /// To the thread that writes checkpoints.
    pub jobs: flume::Sender<Job>,
    /// The heartbeats.
    pub health: Arc<Health>,
    /// Set once the intake must stop.
    pub stop: Arc<AtomicBool>,
    /// Told the lane once it is recovered.
    pub tell: flume::Sender<u32>,
    /// The old state was set aside on purpose.
    pub new_lineage: bool,
    /// Intervals and switches, as the config says by now.
    pub tuning: Arc<ArcSwap<Tuning>>,
    /// What intervals are timed by.
    pub clock: Clock,
}

/// What a seat remembers from one opening of its lane to the next.
struct Life {
    /// Since when the lane is tried to be opened.
    began: Instant,
    /// It has run.
    ran: bool,
    /// Since when brokers have failed it, without a commit in between.
    troubled: Option<Instant>,
    /// Events committed when it last failed.
    reached: u64,
    /// The membership in the group: held while the lane is elsewhere or opened again, so that nothing moves.
    group: Option<Arc<dyn Membership>>,
}

impl Life {
    fn is_elsewhere(&self, lane: u32) -> bool {
        self.group.as_ref().is_some_and(|group| group.holdings().is_elsewhere(lane))
    }

    /// A Kafka lane has failed after it lived since `began`. True where it has got on meanwhile; an error where it
    /// failed for longer than is tried.
    fn fails(&mut self, fault: Fault, began: Instant, committed: u64, tries: Duration) -> Result<bool> {
        let moved = std::mem::replace(&mut self.reached, committed) < committed;
        let got_on = moved || began.elapsed() > tries * 10;
        if got_on {
            self.troubled = None;
        }
        let first = if self.ran { Instant::now() } else { self.began };
        let since = *self.troubled.get_or_insert(first);
        if (!self.ran || fault.lasting) && since.elapsed() > tries { Err(fault) } else { Ok(got_on) }
    }
}

/// How long a lane whose brokers are away waits before it tries again, at first and at most.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(250);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);

/// A lane that panics ends the others as well: the daemon must not go on with half of its lanes.
struct StopsAll(Arc<AtomicBool>);

impl Drop for StopsAll {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

impl Seat {
    /// Runs the lane to its end. A Kafka lane whose brokers fail is recovered and goes on; what they refuse, and
    /// go on refusing for as long as a start may take, ends it.
    ///
    /// # Errors
    /// Whatever stopped the lane.
    pub fn run(self, mut socket: Option<SocketSource>) -> Result<()> {
        let _guard = StopsAll(self.stop.clone());
        let kafka = matches!(self.config.source.kind, SourceKind::Kafka { .. })
            || matches!(self.config.sink.kind, SinkKind::Kafka { .. });
        let mut life = Life { began: Instant::now(), ran: false, troubled: None, reached: 0, group: None };
        let mut wait = RETRY_WAIT_MIN;
        let tries = Duration::from_millis(self.config.limits.start_timeout_ms);
        let outcome = loop {
            let began = Instant::now();
            let outcome = self.live(socket.take(), &mut life);
            match outcome {
                Err(fault) if fault.class == Class::Environment && !fault.lasting && life.is_elsewhere(self.lane) => {
                    tracing::info!(lane = self.lane, "handed over to another daemon of the group");
                    (life.troubled, wait) = (None, RETRY_WAIT_MIN);
                }
                Err(fault) if kafka && fault.class == Class::Environment && !self.stop.load(Relaxed) => {
                    match fault.lasting {
                        true => self.publisher.fault(&fault),
                        false => self.publisher.setback(&fault),
                    }
                    match life.fails(fault, began, self.publisher.committed_seq(), tries) {
                        Ok(true) => wait = RETRY_WAIT_MIN,
                        Ok(false) => {}
                        Err(fault) => break Err(fault),
                    }
                    self.publisher.state(LaneState::Recovering);
                    if self.stops_within(wait) {
                        // Nothing runs, and what was committed stands: there is nothing to drain.
                        break Ok(());
                    }
                    wait = (wait * 2).min(RETRY_WAIT_MAX);
                }
                other => break other,
            }
        };
        if let Err(fault) = &outcome {
            self.publisher.stopped(fault);
            self.publisher.state(LaneState::Failed);
            self.health.lane(self.lane as usize).fail();
            // The others must not go on as if nothing had happened: the daemon ends, and is restarted.
            self.stop.store(true, Relaxed);
        }
        outcome
    }

    /// Waits; true where the daemon is told to stop meanwhile.
    fn stops_within(&self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        while Instant::now() < until && !self.stop.load(Relaxed) {
            std::thread::sleep(wait.min(Duration::from_millis(50)));
        }
        self.stop.load(Relaxed)
    }

    /// The lane is another daemon's, and this one stands by.
    fn stand_by(&self, begins: bool) {
        if begins {
            tracing::info!(lane = self.lane, "another daemon of the group has the lane: standing by");
            self.publisher.state(LaneState::Elsewhere);
            self.metrics.set_elsewhere(true);
            self.health.lane(self.lane as usize).idle();
            // Whoever waits for readiness may have given up.
            let _ = self.tell.send(self.lane);
        }
        for order in self.orders.try_iter() {
            order.not_here(self.lane);
        }
    }

    /// Opens the lane's ends; a Kafka lane waits until it is this daemon's. `None` where that is told to stop.
    fn open(&self, socket: Option<SocketSource>, life: &mut Life) -> Result<Option<Ends>> {
        let (config, lane) = (&self.config, self.lane);
        let (mut held, mut was_elsewhere) = (life.group.take(), false);
        let mut standby = |group: &Arc<dyn Membership>, elsewhere: bool| {
            held = Some(group.clone());
            if elsewhere {
                self.stand_by(!was_elsewhere);
                was_elsewhere = true;
            }
            !self.stop.load(Relaxed)
        };
        if !self.home.has_past && !self.new_lineage && !life.ran {
            // Before it joins: a daemon that doesn't belong must not take a lane from one that does.
            self.check_place(wire::stranger(config, lane, &self.home.lineage.lineage)?, true)?;
        }
        let dir = self.home.lane_dir(lane);
        let ends = wire::open(config, lane, &self.home.lineage.lineage, &dir, socket, &mut standby);
        life.group = held;
        if was_elsewhere {
            // However long its brokers or its store are away now, the other lanes go on.
            (life.began, life.ran, life.troubled) = (Instant::now(), true, None);
            self.metrics.set_elsewhere(false);
            self.publisher.state(LaneState::Recovering);
        }
        ends
    }

    fn live(&self, socket: Option<SocketSource>, life: &mut Life) -> Result<()> {
        self.publisher.state(LaneState::Recovering);
        let Some(ends) = self.open(socket, life)? else {
            self.publisher.state(LaneState::Ended);
            return Ok(());
        };
        let store = self.home.checkpoints(self.lane)?;
        let Some(worker) = self.worker(ends, store)? else {
            // Told to stop on the way: nothing was taken, and what was committed stands.
            self.publisher.state(LaneState::Ended);
            return Ok(());
        };
        // Whoever waits for readiness may have given up.
        let _ = self.tell.send(self.lane);
        life.ran = true;
        worker.run()
    }

    /// The lane's worker, recovered, between its opened ends. `None` where the daemon is told to stop meanwhile.
    ///
    /// # Errors
    /// Whatever an end, the store or the recovery said.
    pub fn worker(&self, mut ends: Ends, store: Arc<dyn Store>) -> Result<Option<Worker>> {
        let (config, lane) = (&self.config, self.lane);
        let tuning = *self.tuning.load_full();
        let recovered = self.recover(&mut ends, store.as_ref(), tuning.learn)?;
        let Some((mut core, tail)) = recovered else { return Ok(None) };
        ends.source.source().start(&places(&core))?;
        faults::step("recovery.started");
        let begins = ends.source.source().positions();
        let Ends { source, sink, journal } = ends;
        let trim_before = Arc::new(AtomicU64::new(0));
        let desk = Arc::new(CheckpointDesk {
            store,
            trim: !config.checkpoint.keep_journal,
            trim_before: trim_before.clone(),
            metrics: self.metrics.clone(),
            publisher: self.publisher.clone(),
            swaps: Default::default(),
            unwritten: Default::default(),
            spare: Default::default(),
            under_way: Default::default(),
        });
        let mut far_end = self.far_end(sink, journal, trim_before);
        if tail.is_none() {
            // The lane's first record says with what it began, and where, before the first event is taken.
            core.ledger.stand_at(&begins.into_iter().collect());
            far_end.commit(Commit { record: core.record(), previous: None, checkpoint: None, replies: Vec::new() })?;
            faults::step("journal.first");
        }
        let outlet = match wire::sink_is_threaded(config) {
            true => Outlet::threaded(far_end, format!("sink-{lane}"))?,
            false => Outlet::inline(far_end),
        };
        let intake = source.intake(wire::source_is_threaded(config), lane)?;
        let ahead = wire::ahead(config, &core)?;
        let swap = core.swap();
        let current = version_of(core.pipeline(), swap, &config.pipeline.display().to_string());
        let before = core.previous().map(|p| version_of(p, 0, ""));
        Ok(Some(Worker {
            core,
            intake,
            outlet,
            ahead,
            orders: self.orders.clone(),
            tuning,
            desk,
            jobs: self.jobs.clone(),
            metrics: self.metrics.clone(),
            publisher: self.publisher.clone(),
            health: self.health.clone(),
            stop: self.stop.clone(),
            current,
            before,
            clock: self.clock.clone(),
        }))
    }

    fn far_end(&self, sink: Box<dyn Sink>, journal: Box<dyn Journal>, trim_before: Arc<AtomicU64>) -> FarEnd {
        FarEnd::new(
            sink,
            journal,
            wire::visible_at_commit(&self.config),
            matches!(self.config.source.kind, SourceKind::Socket { .. }),
            self.metrics.clone(),
            self.publisher.clone(),
            self.jobs.clone(),
            trim_before,
        )
    }

    /// The lane as it was at its last commit, its outputs cut back to it. `None` where the daemon is told
    /// to stop meanwhile.
    fn recover(
        &self,
        ends: &mut Ends,
        store: &dyn Store,
        learn: bool,
    ) -> Result<Option<(LaneCore, Option<JournalRecord>)>> {
        let (config, lineage) = (&self.config, &self.home.lineage);
        let archive =
            Archive { store, artifacts: self.home.artifacts.as_ref(), base: &lineage.base, lineage: &lineage.lineage };
        let heartbeat = self.health.lane(self.lane as usize);
        let make =
            |pipeline, at: Option<&_>| wire::core(config, self.lane, &lineage.lineage, &self.metrics, pipeline, at);
        let mut stopped = false;
        let mut progress = |_, _| {
            heartbeat.busy();
            stopped = self.stop.load(Relaxed);
            !stopped
        };
        let recovered = recover(ends.source.source(), ends.journal.as_mut(), &archive, &make, &mut progress);
        if stopped {
            return Ok(None);
        }
        let recovered = recovered?;
        self.check_place(ends.journal.stranger()?, recovered.tail.is_none())?;
        self.tell_recovery(&recovered);
        let Recovered { mut core, tail, .. } = recovered;
        core.set_learn(learn);
        ends.sink.recover(tail.as_ref().map_or(&[], |t| &t.outputs))?;
        faults::step("recovery.cut");
        Ok(Some((core, tail)))
    }

    /// A lane that has no past here must not begin unnoticed where another lineage has one, and one that
    /// has must not go on where another lineage has taken over.
    fn check_place(&self, stranger: Option<JournalRecord>, begins: bool) -> Result<()> {
        let Some(other) = stranger else { return Ok(()) };
        let (lane, ours, theirs) = (self.lane, &self.home.lineage.lineage, &other.lineage);
        if self.new_lineage && begins {
            tracing::warn!(
                lane,
                "lineage {ours} begins where {theirs} stopped at event {}: at the group's committed offsets, with the model that pipeline names",
                other.seq
            );
            return Ok(());
        }
        Err(Fault::misuse(format!(
            "the journal of lane {lane} holds the past of lineage {theirs} (up to event {}), and {} knows nothing of it: it is of lineage {ours}",
            other.seq,
            self.config.state_dir.display()
        ))
        .hint(self.how_to_share()))
    }

    fn how_to_share(&self) -> &'static str {
        match self.home.is_shared {
            true => {
                "name the checkpoint.store that the other daemons of the group have; if one of them has begun a new lineage, stop them all and start them again"
            }
            false => {
                "if another daemon of the group has it, name a checkpoint.store that both reach; else restore state_dir from a copy, or start over with --new-lineage: it goes on at the group's committed offsets, with the model that pipeline names"
            }
        }
    }

    fn tell_recovery(&self, recovered: &Recovered) {
        let lane = self.lane;
        let Some(tail) = &recovered.tail else { return };
        self.publisher.committed(tail);
        tracing::info!(lane, seq = tail.seq, replayed = recovered.replayed, "goes on where it stopped");
        if recovered.lost_learned > 0 {
            tracing::warn!(
                lane,
                "{} learned events since the last checkpoint are lost: a socket cannot be read again",
                recovered.lost_learned
            );
        }
    }
}

/// Where the inputs go on.
fn places(core: &LaneCore) -> Vec<(String, Position)> {
    let back = u64::from(faults::planted("replay-emits"));
    let place = |position: &Position| Position { offset: position.offset.saturating_sub(back), ..*position };
    core.ledger.positions().iter().map(|(name, position)| (name.clone(), place(position))).collect()
}

fn version_of(pipeline: &Pipeline, swap: u64, origin: &str) -> VersionStatus {
    VersionStatus { version: pipeline.version().to_string(), swap, origin: origin.to_string(), since_seq: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stops_all_lanes_and_an_end_does_not() {
        let stop = Arc::new(AtomicBool::new(false));
        drop(StopsAll(stop.clone()));
        assert!(!stop.load(Relaxed));
        let guard = StopsAll(stop.clone());
        let lane = std::thread::spawn(move || {
            let _guard = guard;
            std::panic::resume_unwind(Box::new("a lane"));
        });
        assert!(lane.join().is_err() && stop.load(Relaxed));
    }
}
