//! The engine: threads and wiring. A lane is a worker thread with its near end (intake) and far end
//! (outlet); beside the lanes stand the checkpointer, which writes snapshots, and control, which
//! carries out admin commands.
//!
//! ```text
//! home.rs          the state directory: lock, lineage, artifacts
//! wire.rs          which parts a lane gets
//! seat.rs          a lane's thread: open, recover, work, and again where brokers fail
//! recover.rs       checkpoint + journal → the lane as it was
//! worker.rs        the lane's loop: block, orders, commit
//! lane.rs          the lane's core: decode → score → learn → encode
//! ahead.rs         the next block decoded meanwhile, on a thread of its own
//! crowd.rs         whether there is a core for that
//! ledger.rs        what was taken, for the journal
//! intake.rs        near end; outlet.rs far end, commits
//! checkpointer.rs  writes snapshots; control.rs obeys admin commands; lane_status.rs what is published
//! ```

pub mod ahead;
pub mod checkpointer;
pub mod control;
mod crowd;
pub mod home;
pub mod intake;
pub mod lane;
pub mod lane_status;
pub mod ledger;
pub mod outlet;
pub mod recover;
pub mod seat;
pub mod wire;
pub mod worker;

use crate::admin::command::Request;
use crate::admin::server::EngineHandle;
use crate::admin::status::LaneState;
use crate::artifact;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Fault, Result};
use crate::metrics::{Health, LaneMetrics};
use crate::pipeline::Pipeline;
use crate::source::socket::{Listen, SocketSource};
use arc_swap::ArcSwap;
use checkpointer::Job;
use control::Control;
use home::{Home, Places};
use lane_status::LanePublisher;
use seat::Seat;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use worker::{Order, Tuning};

/// How long the checkpointer may go on once all lanes have ended.
const LAST_CHECKPOINT_MAX: Duration = Duration::from_secs(2);

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
    /// The lanes that were recovered at least once, or are another daemon's.
    ready: Mutex<BTreeSet<u32>>,
    checkpointer: Option<JoinHandle<()>>,
    tuning: Arc<ArcSwap<Tuning>>,
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
        checkpoints_kept: config.checkpoint.keep as usize,
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
        let home = Arc::new(Home::open(&Places::of(&config), config.lanes, &bytes, options.new_lineage)?);
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
        let shared_tuning = Arc::new(ArcSwap::from_pointee(tuning(&config)));
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
                tuning: shared_tuning.clone(),
                clock: Clock::real(),
            };
            let thread = spawn(&format!("lane-{lane}"), move || seat.run(socket))?;
            lanes.push(LaneHandle { thread: Some(thread), orders, metrics, publisher });
        }
        let (requests, asked) = flume::unbounded();
        let timeout = Duration::from_millis(config.limits.swap_timeout_ms);
        let orders = lanes.iter().map(|l| l.orders.clone()).collect();
        let control = Control { home: home.clone(), orders, stop: stop.clone(), health: health.clone(), timeout };
        spawn("control", move || control.run(&asked))?;
        Ok(Engine {
            lanes,
            health,
            requests,
            stop,
            recovered,
            ready: Mutex::default(),
            checkpointer: Some(checkpointer),
            tuning: shared_tuning,
            has_past: home.has_past,
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

    /// Waits until all lanes that the group has given this daemon are recovered and their inputs open. False where
    /// one ended before, or the wait is over.
    pub fn wait_ready(&self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        while ready.len() < self.lanes.len() {
            match self.recovered.recv_deadline(deadline) {
                Ok(lane) => ready.insert(lane),
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

    /// True while no lane takes, finishes or commits anything.
    pub fn only_recovers(&self) -> bool {
        let busy = |state| matches!(state, LaneState::Running | LaneState::Paused | LaneState::Draining);
        !self.lanes.iter().any(|l| busy(l.publisher.published().load().state))
    }

    /// Changes what may change while the lanes run.
    pub fn retune(&mut self, config: &Config) {
        let tuning = tuning(config);
        // For lanes that are opened (again) later; then for those that run.
        self.tuning.store(Arc::new(tuning));
        let orders: Vec<_> = self.lanes.iter().map(|l| l.orders.clone()).collect();
        Control::retune(&orders, tuning);
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
            let until = Instant::now() + LAST_CHECKPOINT_MAX;
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                // A store that is away: the lanes have said so, and it ends with the process.
                return first.map_or(Ok(summary), Err);
            }
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
