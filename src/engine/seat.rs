//! A lane's thread: opens the lane's ends, recovers it, and works until its source ends or it is told
//! to stop. A Kafka lane whose brokers fail is opened and recovered again.

use super::checkpointer::{CheckpointDesk, Job};
use super::home::Home;
use super::lane::LaneCore;
use super::lane_status::LanePublisher;
use super::outlet::{Commit, FarEnd, Outlet};
use super::recover::{Archive, Recovered, recover};
use super::wire::{self, Ends};
use super::worker::{Order, Worker};
use crate::admin::status::{LaneState, VersionStatus};
use crate::checkpoint::LocalStore;
use crate::config::{Config, SinkKind, SourceKind};
use crate::error::{Class, Fault, Result};
use crate::journal::{Journal, JournalRecord};
use crate::metrics::{Health, LaneMetrics};
use crate::pipeline::Pipeline;
use crate::source::Position;
use crate::source::socket::SocketSource;
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
        let (start, mut troubled, mut ran, mut wait) = (Instant::now(), None, false, RETRY_WAIT_MIN);
        let mut reached = 0;
        let tries = Duration::from_millis(self.config.limits.start_timeout_ms);
        let outcome = loop {
            let began = Instant::now();
            let outcome = self.live(socket.take(), &mut ran);
            match outcome {
                Err(fault) if kafka && fault.class == Class::Environment && !self.stop.load(Relaxed) => {
                    self.publisher.fault(&fault);
                    let committed = self.publisher.committed_seq();
                    let moved = std::mem::replace(&mut reached, committed) < committed;
                    if moved || began.elapsed() > tries * 10 {
                        (troubled, wait) = (None, RETRY_WAIT_MIN);
                    }
                    let since = *troubled.get_or_insert_with(|| if ran { Instant::now() } else { start });
                    if (!ran || fault.lasting) && since.elapsed() > tries {
                        break Err(fault);
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
            self.publisher.fault(fault);
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

    fn live(&self, socket: Option<SocketSource>, ran: &mut bool) -> Result<()> {
        let (config, lane) = (&self.config, self.lane);
        self.publisher.state(LaneState::Recovering);
        let dir = self.home.lane_dir(lane);
        let store = LocalStore::open(&self.home.checkpoint_dir(config.checkpoint.store.as_deref(), lane))?;
        let mut ends = wire::open(config, lane, &self.home.lineage.lineage, &dir, socket)?;
        let Some((mut core, tail)) = self.recover(&mut ends, &store)? else {
            // Told to stop on the way: nothing was taken, and what was committed stands.
            self.publisher.state(LaneState::Ended);
            return Ok(());
        };
        let positions: Vec<(String, Position)> =
            core.ledger.positions().iter().map(|(name, position)| (name.clone(), *position)).collect();
        ends.source.source().start(&positions)?;
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
        });
        let mut far_end = FarEnd::new(
            sink,
            journal,
            wire::visible_at_commit(config),
            matches!(config.source.kind, SourceKind::Socket { .. }),
            self.metrics.clone(),
            self.publisher.clone(),
            self.jobs.clone(),
            trim_before,
        );
        if tail.is_none() {
            // The lane's first record says with what it began, and where, before the first event is taken.
            core.ledger.stand_at(&begins.into_iter().collect());
            far_end.commit(Commit { record: core.record(), checkpoint: None, replies: Vec::new() })?;
        }
        let outlet = match wire::sink_is_threaded(config) {
            true => Outlet::threaded(far_end, format!("sink-{lane}"))?,
            false => Outlet::inline(far_end),
        };
        let intake = source.intake(wire::source_is_threaded(config), lane)?;
        let swap = core.swap();
        let current = version_of(core.pipeline(), swap, &config.pipeline.display().to_string());
        let before = core.previous().map(|p| version_of(p, 0, ""));
        // Whoever waits for readiness may have given up.
        let _ = self.tell.send(lane);
        *ran = true;
        Worker {
            core,
            intake,
            outlet,
            orders: self.orders.clone(),
            tuning: super::tuning(config),
            desk,
            jobs: self.jobs.clone(),
            metrics: self.metrics.clone(),
            publisher: self.publisher.clone(),
            health: self.health.clone(),
            stop: self.stop.clone(),
            current,
            before,
        }
        .run()
    }

    /// The lane as it was at its last commit, its outputs cut back to it. `None` where the daemon is told
    /// to stop meanwhile.
    fn recover(&self, ends: &mut Ends, store: &LocalStore) -> Result<Option<(LaneCore, Option<JournalRecord>)>> {
        let (config, lineage) = (&self.config, &self.home.lineage);
        let archive =
            Archive { store, artifacts: &self.home.artifacts, base: &lineage.base, lineage: &lineage.lineage };
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
        self.check_place(ends.journal.as_mut(), recovered.tail.is_none())?;
        self.tell_recovery(&recovered);
        let Recovered { mut core, tail, .. } = recovered;
        core.set_learn(config.learn.enabled);
        ends.sink.recover(tail.as_ref().map_or(&[], |t| &t.outputs))?;
        Ok(Some((core, tail)))
    }

    /// A lane that has no past here must not begin unnoticed where another lineage has one, and one that
    /// has must not go on where another lineage has taken over.
    fn check_place(&self, journal: &mut dyn Journal, begins: bool) -> Result<()> {
        let Some(other) = journal.stranger()? else { return Ok(()) };
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
        .hint("restore state_dir from a copy, or start over with --new-lineage: it goes on at the group's committed offsets, with the model that pipeline names"))
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
