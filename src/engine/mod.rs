//! The engine: threads and wiring. A lane is a worker thread with its near end (intake) and far end
//! (outlet); beside the lanes stand the checkpointer, which writes snapshots, and control, which
//! carries out admin commands.
//!
//! ```text
//! home.rs          the state directory: lock, lineage, artifacts
//! wire.rs          which parts a lane gets
//! recover.rs       checkpoint + journal → the lane as it was
//! worker.rs        the lane's loop: block, orders, commit
//! lane.rs          the lane's core: decode → score → learn → encode
//! ledger.rs        what was taken, for the journal
//! intake.rs        near end; outlet.rs far end, commits
//! checkpointer.rs  writes snapshots; control.rs obeys admin commands; lane_status.rs what is published
//! ```

pub mod checkpointer;
pub mod control;
pub mod home;
pub mod intake;
pub mod lane;
pub mod lane_status;
pub mod ledger;
pub mod outlet;
pub mod recover;
pub mod wire;
pub mod worker;

use crate::admin::command::Request;
use crate::admin::server::EngineHandle;
use crate::admin::status::{LaneState, VersionStatus};
use crate::artifact;
use crate::checkpoint::LocalStore;
use crate::config::{Config, SinkKind, SourceKind};
use crate::error::{Class, Fault, Result};
use crate::journal::Journal;
use crate::metrics::{Health, LaneMetrics};
use crate::pipeline::Pipeline;
use crate::source::Position;
use crate::source::socket::{Listen, SocketSource};
use checkpointer::{CheckpointDesk, Job};
use control::Control;
use home::Home;
use lane_status::LanePublisher;
use outlet::{Commit, FarEnd, Outlet};
use recover::{Archive, Recovered, recover};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use worker::{Order, Tuning, Worker};

/// How a daemon is started, beside its config.
#[derive(Debug, Default)]
pub struct StartOptions {
    /// Set the old state aside and start over.
    pub new_lineage: bool,
    /// A listening socket inherited from the service manager.
    pub inherited: Option<Listen>,
}

/// A running engine.
pub struct Engine {
    lanes: Vec<LaneHandle>,
    health: Arc<Health>,
    requests: flume::Sender<Request>,
    stop: Arc<AtomicBool>,
    recovered: flume::Receiver<u32>,
    /// The lanes that were recovered at least once, as far as [`Engine::wait_ready`] has heard.
    heard: Mutex<BTreeSet<u32>>,
    checkpointer: Option<JoinHandle<()>>,
    tuning: Tuning,
    has_past: bool,
}

struct LaneHandle {
    thread: Option<JoinHandle<Result<()>>>,
    orders: flume::Sender<Order>,
    metrics: Arc<LaneMetrics>,
    publisher: Arc<LanePublisher>,
}

/// What a run did, when it has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Events taken.
    pub events: u64,
    /// Predictions made.
    pub predictions: u64,
    /// Events learned.
    pub learned: u64,
    /// Events turned away.
    pub dead_letters: u64,
    /// Quality by lane, where something was labelled.
    pub quality: Vec<(u32, crate::metrics::QualityReport)>,
}

/// What a config says about intervals and switches.
pub fn tuning(config: &Config) -> Tuning {
    Tuning {
        learn: config.learn.enabled,
        commit_interval: Duration::from_millis(config.delivery.commit_interval_ms),
        commit_events_max: config.engine.commit_events_max,
        checkpoint_interval: Duration::from_millis(config.checkpoint.interval_ms),
    }
}

/// The bytes of the configured pipeline, checked.
///
/// # Errors
/// Misuse or Environment, naming the file.
pub fn read_pipeline(config: &Config) -> Result<Vec<u8>> {
    let path = &config.pipeline;
    let bytes = artifact::read_file(path, config.limits.artifact_bytes_max)?;
    let pipeline = Pipeline::from_bytes(&bytes).map_err(|f| f.at(path.display()))?;
    wire::decoder(config, &pipeline).map_err(|f| f.at(path.display()))?;
    Ok(bytes)
}

impl Engine {
    /// Starts the lanes. Returns once their threads run; [`Engine::wait_ready`] tells when they are recovered.
    ///
    /// # Errors
    /// Misuse or Environment: the pipeline, the state directory, the listening socket.
    pub fn start(config: &Config, options: StartOptions) -> Result<Engine> {
        let config = Arc::new(config.clone());
        let bytes = read_pipeline(&config)?;
        let home = Arc::new(Home::open(&config.state_dir, config.lanes, &bytes, options.new_lineage)?);
        let base = Pipeline::from_bytes(&bytes)?;
        let sockets = wire::sockets(&config, options.inherited)?;
        if let Some(socket) = sockets.iter().flatten().next() {
            tracing::info!("listens at {}", socket.listener_name());
        }
        let (jobs, todo) = flume::unbounded::<Job>();
        let checkpointer = spawn("checkpointer", move || checkpointer::run(&todo))?;
        let health = Arc::new(Health::new(config.lanes as usize));
        let (stop, (tell, recovered)) = (Arc::new(AtomicBool::new(false)), flume::unbounded());
        let fields: Vec<String> = base.schema().fields.iter().map(|f| f.name.clone()).collect();
        let mut lanes = Vec::new();
        let mut sockets: Vec<Option<SocketSource>> = match sockets {
            Some(sockets) => sockets.into_iter().map(Some).collect(),
            None => (0..config.lanes).map(|_| None).collect(),
        };
        for (number, socket) in sockets.drain(..).enumerate() {
            let lane = number as u32;
            let metrics = Arc::new(LaneMetrics::new(lane, fields.clone(), base.version()));
            let publisher = Arc::new(LanePublisher::new(lane));
            let (orders, obeyed) = flume::unbounded();
            let seat = Seat {
                lane,
                config: config.clone(),
                home: home.clone(),
                metrics: metrics.clone(),
                publisher: publisher.clone(),
                orders: obeyed,
                jobs: jobs.clone(),
                health: health.clone(),
                stop: stop.clone(),
                tell: tell.clone(),
                new_lineage: options.new_lineage,
            };
            let thread = spawn(&format!("lane-{lane}"), move || seat.run(socket))?;
            lanes.push(LaneHandle { thread: Some(thread), orders, metrics, publisher });
        }
        let (requests, asked) = flume::unbounded();
        let timeout = Duration::from_millis(config.limits.swap_timeout_ms);
        let orders = lanes.iter().map(|l| l.orders.clone()).collect();
        let control = Control { home: home.clone(), orders, stop: stop.clone(), timeout };
        spawn("control", move || control.run(&asked))?;
        let (tuning, has_past) = (tuning(&config), home.has_past);
        Ok(Engine {
            lanes,
            health,
            requests,
            stop,
            recovered,
            heard: Mutex::default(),
            checkpointer: Some(checkpointer),
            tuning,
            has_past,
        })
    }

    /// True where the state directory held a lineage that goes on.
    pub fn has_past(&self) -> bool {
        self.has_past
    }

    /// What the admin room needs to know.
    pub fn handle(&self) -> EngineHandle {
        EngineHandle {
            requests: self.requests.clone(),
            lanes: self.lanes.iter().map(|l| l.metrics.clone()).collect(),
            status: self.lanes.iter().map(|l| l.publisher.published()).collect(),
            health: self.health.clone(),
        }
    }

    /// Waits until all lanes are recovered and their inputs open. False where one ended before, or the
    /// wait is over.
    pub fn wait_ready(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        // Kept from call to call: the lanes rarely recover within one wait.
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        while heard.len() < self.lanes.len() {
            match self.recovered.recv_deadline(deadline) {
                Ok(lane) => heard.insert(lane),
                Err(_) => return false,
            };
        }
        self.health.set_ready();
        true
    }

    /// Tells all lanes to stop their intake, commit, write a checkpoint and end.
    pub fn stop(&self) {
        self.health.set_draining();
        self.stop.store(true, Relaxed);
    }

    /// A switch that stops the lanes when set, as [`Engine::stop`] does.
    pub fn stop_switch(&self) -> Arc<AtomicBool> {
        self.stop.clone()
    }

    /// True once every lane has ended.
    pub fn has_ended(&self) -> bool {
        self.lanes.iter().all(|l| l.thread.as_ref().is_none_or(JoinHandle::is_finished))
    }

    /// Changes what may change while the lanes run.
    pub fn retune(&mut self, config: &Config) {
        self.tuning = tuning(config);
        let orders: Vec<_> = self.lanes.iter().map(|l| l.orders.clone()).collect();
        Control::retune(&orders, self.tuning);
    }

    /// Waits for the lanes to end.
    ///
    /// # Errors
    /// The first fault that stopped a lane.
    pub fn wait(mut self) -> Result<Summary> {
        let mut first = None;
        for lane in &mut self.lanes {
            let outcome =
                lane.thread.take().map(|t| t.join().unwrap_or_else(|_| Err(Fault::internal("a lane panicked"))));
            if let Some(Err(fault)) = outcome {
                first.get_or_insert(fault);
            }
        }
        let summary = self.summary();
        self.lanes.clear();
        let (requests, _) = flume::bounded(0);
        self.requests = requests;
        if let Some(thread) = self.checkpointer.take() {
            thread.join().map_err(|_| Fault::internal("the checkpointer panicked"))?;
        }
        first.map_or(Ok(summary), Err)
    }

    /// The numbers so far.
    pub fn summary(&self) -> Summary {
        let sum = |f: &dyn Fn(&LaneMetrics) -> u64| self.lanes.iter().map(|l| f(&l.metrics)).sum();
        Summary {
            events: sum(&|m| m.events.load(Relaxed)),
            predictions: sum(&LaneMetrics::predictions),
            learned: sum(&LaneMetrics::learned),
            dead_letters: sum(&LaneMetrics::dead_total),
            quality: self
                .lanes
                .iter()
                .filter_map(|l| Some((l.metrics.lane, l.metrics.quality()?.as_ref().clone())))
                .filter(|(_, q)| q.events > 0)
                .collect(),
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new()
        .name(name.to_string())
        .spawn(run)
        .map_err(|e| Fault::io(format!("start the thread {name}"), &e))
}

/// Everything that a lane's thread needs.
struct Seat {
    lane: u32,
    config: Arc<Config>,
    home: Arc<Home>,
    metrics: Arc<LaneMetrics>,
    publisher: Arc<LanePublisher>,
    orders: flume::Receiver<Order>,
    jobs: flume::Sender<Job>,
    health: Arc<Health>,
    stop: Arc<AtomicBool>,
    tell: flume::Sender<u32>,
    new_lineage: bool,
}

/// How long a lane whose brokers are away waits before it tries again, at most.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);

impl Seat {
    /// Runs the lane to its end. A Kafka lane whose brokers fail is recovered and goes on.
    fn run(self, mut socket: Option<SocketSource>) -> Result<()> {
        let kafka = matches!(self.config.source.kind, SourceKind::Kafka { .. })
            || matches!(self.config.sink.kind, SinkKind::Kafka { .. });
        let (began, mut ran, mut wait) = (Instant::now(), false, Duration::from_millis(250));
        let tries = Duration::from_millis(self.config.limits.start_timeout_ms);
        let outcome = loop {
            let outcome = self.live(socket.take(), &mut ran);
            match outcome {
                Err(fault) if kafka && fault.class == Class::Environment && !self.stop.load(Relaxed) => {
                    self.publisher.fault(&fault);
                    if !ran && began.elapsed() > tries {
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
        let store = LocalStore::open(&dir)?;
        let lineage = &self.home.lineage;
        let mut ends = wire::open(config, lane, &lineage.lineage, &dir, socket)?;
        let archive =
            Archive { store: &store, artifacts: &self.home.artifacts, base: &lineage.base, lineage: &lineage.lineage };
        let heartbeat = self.health.lane(lane as usize);
        let make = |pipeline, at: Option<&_>| wire::core(config, lane, &lineage.lineage, &self.metrics, pipeline, at);
        let recovered =
            recover(ends.source.source(), ends.journal.as_mut(), &archive, &make, &mut |_, _| heartbeat.busy())?;
        if recovered.tail.is_none() {
            self.check_place(ends.journal.as_mut())?;
        }
        self.tell_recovery(&recovered);
        let Recovered { mut core, tail, .. } = recovered;
        core.set_learn(config.learn.enabled);
        ends.sink.recover(tail.as_ref().map_or(&[], |t| &t.outputs))?;
        let positions: Vec<(String, Position)> =
            core.ledger.positions().iter().map(|(name, position)| (name.clone(), *position)).collect();
        ends.source.source().start(&positions)?;
        let begins = ends.source.source().positions();
        let trim_before = Arc::new(AtomicU64::new(0));
        let desk = Arc::new(CheckpointDesk {
            store: store.clone(),
            keep: config.checkpoint.keep as usize,
            trim: !config.checkpoint.keep_journal,
            trim_before: trim_before.clone(),
            metrics: self.metrics.clone(),
            publisher: self.publisher.clone(),
        });
        let optional = matches!(config.source.kind, SourceKind::Socket { .. });
        let mut far_end = FarEnd::new(
            ends.sink,
            ends.journal,
            wire::visible_at_commit(config),
            optional,
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
        let intake = ends.source.intake(wire::source_is_threaded(config), lane)?;
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
            tuning: tuning(config),
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

    /// A lane that has no past here must not begin unnoticed where another lineage has one.
    fn check_place(&self, journal: &mut dyn Journal) -> Result<()> {
        let Some(other) = journal.stranger()? else { return Ok(()) };
        let (lane, ours, theirs) = (self.lane, &self.home.lineage.lineage, &other.lineage);
        if self.new_lineage {
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
