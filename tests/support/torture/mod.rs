//! The torture: a daemon under a steady stream is killed at named steps and at random, again inside its recovery,
//! with swaps going on; in the end everything that it made is compared with what an oracle makes.
//!
//! A round's outcome is a `Result`: a build with a planted mistake is expected to fail.

pub mod cluster;
pub mod feed;
pub mod files;
pub mod life;
pub mod plan;
pub mod proof;
pub mod swaps;

use crate::support::broker::Broker;
use crate::support::daemon::Scene;
use crate::support::stream::Stream;
use cluster::{Mover, Troubles};
use feed::Feed;
use life::{Death, Lives};
use plan::{Plan, Road};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use swaps::{Driver, Orders};

/// What a round did.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Each kill.
    pub deaths: Vec<Death>,
    /// What came of swaps and rollbacks.
    pub orders: Orders,
    /// Events that went through.
    pub events: u64,
    /// Checkpoints that were damaged.
    pub damaged: u64,
    /// From a start to its first commit.
    pub restarts: Vec<Duration>,
    /// What was done to the brokers.
    pub troubles: Troubles,
    /// What lanes got over, by kind.
    pub setbacks: BTreeMap<&'static str, u64>,
}

/// Why a round failed, and where its remains are.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What was wrong.
    pub why: String,
    /// State directory, logs and topics.
    pub kept: PathBuf,
    /// What it had done until then.
    pub report: Report,
}

/// A round's surroundings: they outlive its failure.
pub struct Arena {
    pub scene: Scene,
    pub stream: Stream,
    pub specs: Vec<String>,
    pub files: Vec<PathBuf>,
}

/// Panics are how a round fails; they are told once, by whoever ran it.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = work();
    std::panic::set_hook(hook);
    outcome
}

/// Runs a round.
///
/// # Errors
/// What was wrong, with all that is needed to look at it.
pub fn run(plan: &Plan, say: &(dyn Fn(String) + Sync)) -> Result<Report, Box<Failure>> {
    let arena = Arena::new(plan);
    let mut report = Report::default();
    let outcome = catch_unwind(AssertUnwindSafe(|| round(plan, &arena, &mut report, say)));
    match outcome {
        Ok(()) => Ok(report),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let why = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
            let kept = arena.keep(plan);
            Err(Box::new(Failure { why, kept, report }))
        }
    }
}

fn round(plan: &Plan, arena: &Arena, report: &mut Report, say: &(dyn Fn(String) + Sync)) {
    let feed = match plan.road {
        Road::Kafka => Feed::to_topic(plan, &arena.stream),
        Road::Files => Feed::to_files(plan, arena.files.clone()),
    };
    let driver = (!plan.forced).then(|| Driver::start(plan, &arena.scene));
    let mover = plan.calm.map(|calm| Mover::start(plan, &arena.stream, calm));
    let mut lives = Lives { plan, arena, report, say };
    for (number, life) in plan.lives.iter().enumerate() {
        lives.live(number, life);
    }
    if let Some(driver) = driver {
        report.orders = driver.stop();
    }
    if let Some(mover) = mover {
        report.troubles = mover.stop();
    }
    let sent = feed.stop();
    report.events = sent;
    proof::prove(plan, arena, report, sent);
}

impl Arena {
    fn new(plan: &Plan) -> Arena {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = format!("torture-{}-{}", plan.round, NUMBER.fetch_add(1, Relaxed));
        let broker = if plan.calm.is_some() { &cluster::brokers()[0] } else { Broker::shared() };
        let stream = Stream { broker, name };
        let specs = feed::specs();
        let scene = Scene::new(&specs[plan.first_spec], "");
        let mut files = Vec::new();
        match plan.road {
            Road::Kafka => {
                stream.broker.create_topic(&stream.topic("in"), plan.partitions);
                scene.configure(&kafka_config(plan, &stream));
            }
            Road::Files => {
                std::fs::create_dir(scene.path("in")).expect("a folder");
                files = feed::one_file_a_lane(&scene.path("in"), plan.lanes);
                scene.configure(&files_config(plan));
            }
        }
        Arena { scene, stream, specs, files }
    }

    /// Copies what a failed round leaves to a place that stays: the scene's folder, and the topics as text.
    fn keep(&self, plan: &Plan) -> PathBuf {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
        let kept = target.join("torture").join(format!("seed-{}-{}", plan.seed, self.stream.name));
        let _ = std::fs::remove_dir_all(&kept);
        std::fs::create_dir_all(&kept).expect("a folder for what is left");
        std::fs::write(kept.join("plan.txt"), format!("{plan:#?}\n")).expect("written");
        copy(&self.scene.path(""), &kept.join("scene"));
        if plan.road == Road::Kafka {
            for end in ["in", "out", "dead", "journal"] {
                // A topic that the daemon never came to make has nothing to tell.
                let dump = || proof::dump(&self.stream, end);
                if let Ok(text) = catch_unwind(AssertUnwindSafe(dump)) {
                    std::fs::write(kept.join(format!("{end}.txt")), text).expect("written");
                }
            }
        }
        if plan.calm.is_some() {
            self.keep_brokers(plan, &kept);
        }
        kept
    }

    /// Whether a broker lost something only its own log and partitions can tell.
    fn keep_brokers(&self, plan: &Plan, kept: &Path) {
        let outputs = (0..plan.partitions).map(|partition| (self.stream.topic("out"), partition));
        let journal = (0..plan.lanes as i32).map(|lane| (self.stream.topic("journal"), lane));
        let all: Vec<_> = outputs.chain(journal).chain([("__transaction_state".to_string(), 0)]).collect();
        for (number, broker) in cluster::brokers().iter().enumerate() {
            let to = kept.join(format!("broker-{}", number + 1));
            std::fs::create_dir_all(&to).expect("a folder for a broker");
            let _ = std::fs::copy(broker.log_path(), to.join("broker.log"));
            for (topic, partition) in &all {
                let from = broker.partition_dir(topic, *partition);
                if from.is_dir() {
                    copy(&from, &to.join(format!("{topic}-{partition}")));
                }
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy(&path, &to),
            Ok(kind) if kind.is_file() => drop(std::fs::copy(&path, &to)),
            _ => {}
        }
    }
}

fn kafka_config(plan: &Plan, stream: &Stream) -> String {
    let (name, brokers, client) = (&stream.name, stream.broker.address(), super::broker::client_line());
    format!(
        "source.kind = \"kafka\"\n{client}source.format = \"json\"\nsource.brokers = \"{brokers}\"\n\
         source.topics = [\"{name}-in\"]\nsource.group = \"{name}\"\n\
         source.kafka.\"fetch.wait.max.ms\" = \"20\"\nsink.kind = \"kafka\"\nsink.topic = \"{name}-out\"\n\
         sink.dead_letters = \"{name}-dead\"\nnode.name = \"{name}-node\"\nlanes = {}\n\
         checkpoint.keep_journal = {}\n",
        plan.lanes, !plan.trims
    )
}

fn files_config(plan: &Plan) -> String {
    format!(
        "source.kind = \"file\"\nsource.format = \"json\"\nsource.follow = true\nsource.paths = [\"DIR/in/*.json\"]\n\
         sink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\nsink.dead_letters = \"DIR/dead.ndjson\"\n\
         sink.rotate_bytes = 60_000\nlanes = {}\ncheckpoint.keep_journal = true\n",
        plan.lanes
    )
}

/// What many rounds did, added up.
#[derive(Debug, Default)]
pub struct Summary {
    pub rounds: u64,
    pub kills: BTreeMap<String, u64>,
    pub in_recovery: u64,
    pub deepest: u64,
    pub missed: u64,
    pub swaps: u64,
    pub refused: u64,
    pub cut_off: u64,
    pub damaged: u64,
    pub events: u64,
    pub restarts: Vec<Duration>,
    pub troubles: Troubles,
    pub setbacks: BTreeMap<&'static str, u64>,
    pub failures: Vec<String>,
}

impl Summary {
    /// Adds a round.
    pub fn add(&mut self, report: &Report) {
        self.rounds += 1;
        let mut depth = 0;
        for death in &report.deaths {
            *self.kills.entry(death.kind()).or_default() += 1;
            self.missed += u64::from(death.missed);
            depth = if death.recovering { depth + 1 } else { 0 };
            self.in_recovery += u64::from(death.recovering);
            self.deepest = self.deepest.max(depth);
        }
        self.swaps += report.orders.answered.len() as u64;
        self.refused += report.orders.refused;
        self.cut_off += report.orders.cut_off;
        self.events += report.events;
        self.damaged += report.damaged;
        self.restarts.extend(&report.restarts);
        self.troubles += report.troubles;
        for (kind, times) in &report.setbacks {
            *self.setbacks.entry(*kind).or_default() += times;
        }
    }

    /// All kills.
    pub fn kills(&self) -> u64 {
        self.kills.values().sum()
    }

    /// As a table.
    pub fn table(&self) -> String {
        let mut restarts = self.restarts.clone();
        restarts.sort_unstable();
        let at = |part: usize| restarts.get((restarts.len() * part / 100).min(restarts.len().max(1) - 1)).copied();
        let (median, worst) = (at(50).unwrap_or_default(), restarts.last().copied().unwrap_or_default());
        let mut lines = vec![format!("{:<28}{:>8}", "killed at", "times")];
        lines.extend(self.kills.iter().map(|(step, times)| format!("{step:<28}{times:>8}")));
        let mut row = |name: &str, value: String| lines.push(format!("{name:<28}{value:>8}"));
        row("kills", self.kills().to_string());
        row("  inside a recovery", self.in_recovery.to_string());
        row("  deepest recovery", self.deepest.to_string());
        row("  step not reached in time", self.missed.to_string());
        row("checkpoints damaged", self.damaged.to_string());
        row("rounds", self.rounds.to_string());
        row("events", self.events.to_string());
        row("swaps in force (by lane)", self.swaps.to_string());
        row("swaps refused", self.refused.to_string());
        row("swaps cut off by a kill", self.cut_off.to_string());
        row("first commit, median", format!("{} ms", median.as_millis()));
        row("first commit, worst", format!("{} ms", worst.as_millis()));
        if self.troubles != Troubles::default() {
            row("leaders moved", self.troubles.moved.to_string());
            row("brokers told to stop", self.troubles.stopped.to_string());
            row("brokers killed", self.troubles.killed.to_string());
            row("brokers held", self.troubles.held.to_string());
        }
        self.setbacks.iter().for_each(|(kind, times)| row(kind, times.to_string()));
        row("rounds that failed", self.failures.len().to_string());
        lines.join("\n")
    }
}
