//! A daemon of this world: the engine's own seats, workers and checkpoint jobs, driven call by call.

use super::client::{SimClient, SimMember};
use super::disk::SimDisk;
use super::{Death, Me, name, tell, words, world};
use millstream::artifact;
use millstream::checkpoint::{LocalStore, Store};
use millstream::clock::Clock;
use millstream::config::Config;
use millstream::engine::checkpointer::{self, Job};
use millstream::engine::home::{Home, Lineage};
use millstream::engine::lane_status::LanePublisher;
use millstream::engine::seat::Seat;
use millstream::engine::wire::{self, Ends, SourceEnd};
use millstream::engine::worker::{Order, Working};
use millstream::error::{Class, Fault, Result};
use millstream::kafka::{self, client::Client};
use millstream::metrics::{Health, LaneMetrics};
use millstream::pipeline::Pipeline;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The state directory of every daemon.
pub const DIR: &str = "/sim";

/// What all daemons of a world share.
pub struct Setup {
    pub config: Config,
    /// Specs that may come in; the first is what the lineage began with.
    pub specs: Vec<String>,
    /// A spec that doesn't fit.
    pub unfit: String,
    /// All daemons keep their state on one disk, which no power cut hits.
    pub shared: bool,
    pub clock: Clock,
}

pub const LINEAGE: &str = "0123456789abcdef";

struct Lane {
    seat: Seat,
    orders: flume::Sender<Order>,
    working: Option<Working>,
    again_at: Instant,
}

pub struct Daemon {
    me: Me,
    setup: Rc<Setup>,
    client: Arc<SimClient>,
    disk: SimDisk,
    lanes: Vec<Lane>,
    jobs: flume::Receiver<Job>,
    stop: Arc<AtomicBool>,
}

thread_local! {
    static DAEMONS: RefCell<Vec<Rc<RefCell<Option<Daemon>>>>> = const { RefCell::new(Vec::new()) };
}

/// Sets the daemons' places up, all empty.
pub fn places(count: usize) {
    DAEMONS.with(|all| *all.borrow_mut() = (0..count).map(|_| Rc::default()).collect());
}

fn place(daemon: usize) -> Rc<RefCell<Option<Daemon>>> {
    DAEMONS.with(|all| all.borrow()[daemon].clone())
}

/// Runs something of a daemon, unless it is in the middle of a call. A death ends it: what it held is dropped, to no
/// effect.
pub fn act<R>(daemon: usize, f: impl FnOnce(&mut Daemon) -> R) -> Option<R> {
    let place = place(daemon);
    let mut daemon = place.try_borrow_mut().ok()?;
    daemon.as_ref()?;
    let outcome = catch_unwind(AssertUnwindSafe(|| f(daemon.as_mut().expect("looked at"))));
    match outcome {
        Ok(done) => Some(done),
        Err(payload) if payload.is::<Death>() => {
            *daemon = None;
            None
        }
        Err(payload) => {
            drop(daemon);
            resume_unwind(payload)
        }
    }
}

/// Another daemon takes a step in the middle of a call of this one.
pub fn act_inside(caller: usize) {
    let others: Vec<usize> = world(|w| (0..w.processes.len()).filter(|d| *d != caller).collect());
    if others.is_empty() {
        return;
    }
    let (other, steps) = world(|w| {
        w.depth += 1;
        (*w.chance.pick(&others), 1 + w.chance.below(3))
    });
    for _ in 0..steps {
        act(other, Daemon::step);
    }
    world(|w| w.depth -= 1);
}

/// Starts a daemon where none runs.
pub fn start(daemon: usize, setup: &Rc<Setup>, dies_in: Option<usize>) {
    let me = world(|w| {
        let process = &mut w.processes[daemon];
        process.life += 1;
        (process.alive, process.dies_in, process.died_at, process.cut_since) = (true, dies_in, None, None);
        let me = Me { daemon, life: process.life };
        w.tell(|| format!("{} starts (life {})", name(daemon), me.life));
        me
    });
    *place(daemon).borrow_mut() = None;
    let made = catch_unwind(AssertUnwindSafe(|| Daemon::new(me, setup)));
    match made {
        Ok(Ok(made)) => *place(daemon).borrow_mut() = Some(made),
        Ok(Err(fault)) => {
            assert_eq!(fault.class, Class::Environment, "{fault}");
            world(|w| w.kill(daemon, "could not start"));
        }
        Err(payload) if payload.is::<Death>() => {}
        Err(payload) => resume_unwind(payload),
    }
}

/// Ends a daemon between two of its steps. False where it is in the middle of one.
pub fn kill(daemon: usize) -> bool {
    let place = place(daemon);
    let Ok(mut held) = place.try_borrow_mut() else { return false };
    world(|w| w.kill(daemon, "is killed"));
    *held = None;
    true
}

impl Daemon {
    fn new(me: Me, setup: &Rc<Setup>) -> Result<Daemon> {
        let disk = SimDisk { me, number: if setup.shared { 0 } else { me.daemon } };
        let member = Arc::new(SimMember::new(me));
        let client = Arc::new(SimClient { me, clock: setup.clock.clone(), member });
        let artifacts: Arc<dyn Store> = Arc::new(LocalStore::on(Arc::new(disk), &Path::new(DIR).join("artifacts"))?);
        let base = artifact::content_hash(setup.specs[0].as_bytes());
        let lineage = Lineage { lineage: LINEAGE.into(), lanes: setup.config.lanes, base };
        let home = Arc::new(Home::of(Path::new(DIR), lineage, artifacts));
        let (way, jobs) = flume::unbounded();
        let stop = Arc::new(AtomicBool::new(false));
        let health = Arc::new(Health::new(setup.config.lanes as usize));
        let mut config = setup.config.clone();
        world(|w| config.engine.batch_events_max = 1 + w.chance.below(12) as u32);
        let config = Arc::new(config);
        let lane = |lane: u32| {
            let (orders, obeyed) = flume::unbounded();
            let seat = Seat {
                lane,
                config: config.clone(),
                home: home.clone(),
                metrics: Arc::new(LaneMetrics::new(lane, vec!["a".into(), "b".into(), "y".into()], "00000000")),
                publisher: Arc::new(LanePublisher::new(lane)),
                orders: obeyed,
                jobs: way.clone(),
                health: health.clone(),
                stop: stop.clone(),
                tell: flume::unbounded().0,
                new_lineage: false,
                clock: setup.clock.clone(),
                tuning: Arc::new(arc_swap::ArcSwap::from_pointee(millstream::engine::tuning(&config))),
            };
            Lane { seat, orders, working: None, again_at: setup.clock.now() }
        };
        let lanes = (0..setup.config.lanes).map(lane).collect();
        Ok(Daemon { me, setup: setup.clone(), client, disk, lanes, jobs, stop })
    }

    /// One step: a job of the checkpointer, or a turn of a lane, or its opening.
    pub fn step(&mut self) {
        let (job, lane) = world(|w| (w.chance.one_in(4), w.chance.below(self.lanes.len())));
        if job {
            return self.checkpoint();
        }
        assert!(self.jobs.len() < 400, "{} checkpoint jobs wait", self.jobs.len());
        let done = match &mut self.lanes[lane].working {
            Some(working) => working.turn(),
            None if self.stop.load(Relaxed) => return self.end(),
            None => self.open(lane).map(|()| true),
        };
        let outcome = done.and_then(|goes_on| if goes_on { Ok(()) } else { self.finish(lane) });
        if let Err(fault) = outcome {
            self.failed(lane, &fault);
        }
    }

    fn failed(&mut self, lane: usize, fault: &Fault) {
        tell(|| format!("{}: lane {lane}: {}", name(self.me.daemon), words(fault)));
        assert_eq!(fault.class, Class::Environment, "lane {lane}: {fault}");
        world(|w| {
            w.counts.faults += 1;
            w.processes[self.me.daemon].recovering = false;
        });
        self.lanes[lane].working = None;
        self.lanes[lane].again_at = self.setup.clock.now() + Duration::from_millis(250);
    }

    fn checkpoint(&mut self) {
        if let Ok(job) = self.jobs.try_recv() {
            tell(|| format!("{}: a job of the checkpointer", name(self.me.daemon)));
            world(|w| w.counts.checkpoints += u64::from(matches!(job, Job::Checkpoint(_))));
            checkpointer::work_off(job);
        }
    }

    fn open(&mut self, lane: usize) -> Result<()> {
        let (config, number) = (&self.lanes[lane].seat.config, lane as u32);
        let options = wire::kafka_options(config, number, LINEAGE).expect("Kafka");
        let client: Arc<dyn Client> = self.client.clone();
        client.join(&options)?;
        let now = self.setup.clock.now();
        if now < self.lanes[lane].again_at || !self.client.member.holdings.lanes().contains(&number) {
            // The real daemon would wait for its group here.
            world(|w| w.clock.advance(Duration::from_millis(if w.processes.len() == 1 { 400 } else { 60 })));
            return Ok(());
        }
        tell(|| format!("{}: lane {lane} is opened", name(self.me.daemon)));
        world(|w| w.processes[self.me.daemon].recovering = true);
        let opened = kafka::open_with(&client, &options)?;
        let ends = Ends {
            source: SourceEnd::Reads(Box::new(opened.source.expect("a source"))),
            sink: Box::new(opened.sink.expect("a sink")),
            journal: Box::new(opened.journal),
        };
        let store = LocalStore::on(Arc::new(self.disk), &lane_dir(lane))?;
        let worker = self.lanes[lane].seat.worker(ends, Arc::new(store))?.expect("nobody stops a recovery here");
        self.lanes[lane].working = Some(worker.start());
        world(|w| w.processes[self.me.daemon].recovering = false);
        tell(|| format!("{}: lane {lane} runs", name(self.me.daemon)));
        Ok(())
    }

    /// The lane's graceful end.
    fn finish(&mut self, lane: usize) -> Result<()> {
        let working = self.lanes[lane].working.take().expect("it ran");
        tell(|| format!("{}: lane {lane} drains", name(self.me.daemon)));
        working.finish().map(|_| ())
    }

    /// Lets everything come to its end, with what the checkpointer still has to do.
    fn end(&mut self) {
        if self.lanes.iter().any(|lane| lane.working.is_some()) {
            return;
        }
        while !self.jobs.is_empty() {
            self.checkpoint();
        }
        world(|w| w.kill(self.me.daemon, "has ended"));
        world(|w| w.counts.crashes -= 1);
        resume_unwind(Box::new(Death));
    }

    /// Told to stop.
    pub fn stop(&mut self) {
        tell(|| format!("{} is told to stop", name(self.me.daemon)));
        self.stop.store(true, Relaxed);
    }

    /// An admin's order to one of the lanes that run here.
    pub fn order(&mut self) {
        let running: Vec<usize> = (0..self.lanes.len()).filter(|l| self.lanes[*l].working.is_some()).collect();
        if running.is_empty() {
            return;
        }
        let (lane, what, spec) =
            world(|w| (*w.chance.pick(&running), w.chance.below(7), w.chance.below(self.setup.specs.len())));
        let (done, _) = flume::unbounded();
        let order = match what {
            0 | 1 => match self.candidate(spec) {
                Ok(order) => order,
                Err(fault) => return assert_eq!(fault.class, Class::Environment, "{fault}"),
            },
            2 => Order::Swap(Box::new(load(&self.setup.unfit)), "unfit".into(), done),
            3 => {
                world(|w| w.counts.rollbacks += 1);
                Order::Rollback(done)
            }
            4 => Order::Checkpoint(done),
            _ => {
                let mut tuning = millstream::engine::tuning(&self.lanes[lane].seat.config);
                world(|w| {
                    tuning.learn = !w.chance.one_in(3);
                    tuning.commit_events_max = 1 + w.chance.next() % 20;
                });
                Order::Retune(tuning)
            }
        };
        tell(|| format!("{}: order {what} to lane {lane}", name(self.me.daemon)));
        assert!(self.lanes[lane].orders.send(order).is_ok(), "the lane runs");
    }

    /// As control does it: the artifact first, then the order.
    fn candidate(&self, spec: usize) -> Result<Order> {
        let text = &self.setup.specs[spec];
        let candidate = load(text);
        self.lanes[0].seat.home.artifacts.put(candidate.hash(), text.as_bytes())?;
        world(|w| w.counts.swaps += 1);
        Ok(Order::Swap(Box::new(candidate), format!("spec {spec}"), flume::unbounded().0))
    }

    /// A lane's state, and the group's word on it, where it runs here.
    pub fn state(&mut self, lane: usize) -> Option<(u64, u64, Vec<u8>)> {
        let core = self.lanes[lane].working.as_mut()?.core();
        let (seq, digest) = (core.seq(), core.digest());
        Some((seq, digest, state_bytes(core.pipeline())))
    }

    /// The group hears of it again.
    pub fn heal(&mut self) {
        world(|w| w.heal(self.me.daemon, Some(&self.client.member.holdings)));
    }
}

pub fn lane_dir(lane: usize) -> PathBuf {
    Path::new(DIR).join(format!("lane-{lane}"))
}

pub fn load(spec: &str) -> Pipeline {
    Pipeline::from_bytes(spec.as_bytes()).expect("a spec of this test")
}

/// Everything that a pipeline has learned, as bytes.
pub fn state_bytes(pipeline: &mut Pipeline) -> Vec<u8> {
    let (_, state) = pipeline.snapshot("checkpoint", serde_json::Value::Null, serde_json::Value::Null);
    artifact::encode(&serde_json::Value::Null, &state)
}
