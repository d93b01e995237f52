//! The config: what was written (`raw`) is checked against the table of keys (`keys`) and becomes plain
//! typed data (`read`), which can be written out again (`resolved`) and described (`reference`).
//!
//! All faults of a config are reported at once, each with its key, line and what is allowed.

mod environment;
pub mod keys;
mod raw;
mod read;
mod reference;
mod resolved;

pub use environment::Environment;
pub use reference::reference;
pub use resolved::{MASK, is_secret, reloadable_changes};

use crate::error::Fault;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A whole config, checked and with its defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// A spec or an artifact.
    pub pipeline: PathBuf,
    /// Folder of checkpoints, journals and swapped-in artifacts.
    pub state_dir: PathBuf,
    /// Number of learners, from 1.
    pub lanes: u32,
    /// Where events come from.
    pub source: SourceConfig,
    /// Where predictions go.
    pub sink: SinkConfig,
    /// Whether the model goes on learning.
    pub learn: LearnConfig,
    /// What a crash may repeat.
    pub delivery: DeliveryConfig,
    /// How often the state is saved.
    pub checkpoint: CheckpointConfig,
    /// What nothing may exceed.
    pub limits: LimitsConfig,
    /// How the work is spread.
    pub engine: EngineConfig,
    /// The API.
    pub admin: AdminConfig,
    /// Who this daemon is.
    pub node: NodeConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// `[source]`
#[derive(Debug, Clone, PartialEq)]
pub struct SourceConfig {
    /// What to read from, with the keys of that kind.
    pub kind: SourceKind,
    /// How an event is written.
    pub format: Format,
    /// Names of the columns of CSV without a header; empty: the first line names them.
    pub columns: Vec<String>,
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object an event.
    Json,
    /// One CSV row an event.
    Csv,
    /// Length-prefixed frames.
    Binary,
}

/// What to read from.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// Topics of a Kafka cluster.
    Kafka {
        /// `host:port`, several separated by commas.
        brokers: String,
        /// Topics, at least one.
        topics: Vec<String>,
        /// Consumer group.
        group: String,
        /// Where to begin where the group has no position yet.
        start: Start,
        /// Records are read and written by our own client.
        direct: bool,
        /// librdkafka properties, as they are.
        properties: BTreeMap<String, String>,
    },
    /// Connections of clients.
    Socket {
        /// Where to listen.
        listen: Listen,
    },
    /// Files, one after another.
    File {
        /// Paths and globs; `-` is standard input.
        paths: Vec<String>,
        /// Wait for more.
        follow: bool,
    },
    /// A generated stream.
    Rate {
        /// Which stream.
        generator: String,
        /// Events a second; 0: as fast as they are taken.
        rate: u64,
        /// Events in all; 0: endless.
        events: u64,
        /// Seed of the stream.
        seed: u64,
        /// What the stream is like.
        stream: StreamConfig,
    },
}

/// What a generated stream is like; `None`: as the generator has it by default.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StreamConfig {
    /// Features an event.
    pub features: Option<u32>,
    /// Classes of the label.
    pub classes: u32,
    /// Share of wrong labels, from 0 to 1.
    pub noise: Option<f64>,
    /// Number of the concept to begin with.
    pub concept: u64,
    /// Events from one concept to the next; 0: never.
    pub drift_interval_events: u64,
    /// Events over which the next concept takes over; 0: at once.
    pub drift_width_events: u64,
    /// Movement an event, from 0 to 1.
    pub drift_speed: f64,
    /// How many weights move; 0: all.
    pub drift_features: u32,
}

impl SourceKind {
    /// The word for it in the config.
    pub fn name(&self) -> &'static str {
        match self {
            SourceKind::Kafka { .. } => "kafka",
            SourceKind::Socket { .. } => "socket",
            SourceKind::File { .. } => "file",
            SourceKind::Rate { .. } => "rate",
        }
    }
    /// True where events can be read again after a crash.
    pub fn replayable(&self) -> bool {
        match self {
            SourceKind::Socket { .. } => false,
            SourceKind::File { paths, .. } => !paths.iter().any(|path| path == "-"),
            SourceKind::Kafka { .. } | SourceKind::Rate { .. } => true,
        }
    }
}

/// Where a group without a position begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest event.
    Earliest,
    /// At the next event.
    Latest,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl Listen {
    /// Reads an address with its port, or a path that holds a `/`.
    pub fn parse(text: &str) -> Option<Listen> {
        if text.contains('/') { Some(Listen::Unix(text.into())) } else { address(text).map(Listen::Tcp) }
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "{address}"),
            Listen::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// An address with its port; `localhost` is 127.0.0.1.
fn address(text: &str) -> Option<SocketAddr> {
    match text.strip_prefix("localhost:") {
        Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
        None => text.parse().ok(),
    }
}

/// `[sink]`
#[derive(Debug, Clone, PartialEq)]
pub struct SinkConfig {
    /// Where predictions go, with the keys of that kind.
    pub kind: SinkKind,
    /// A topic for a kafka sink, else a path. `None`: bad events are counted and dropped.
    pub dead_letters: Option<String>,
}

/// Where predictions go.
#[derive(Debug, Clone, PartialEq)]
pub enum SinkKind {
    /// A topic of the source's cluster.
    Kafka {
        /// Its name.
        topic: String,
    },
    /// Back to the client, on its connection.
    Socket,
    /// A file of NDJSON.
    File {
        /// Its path.
        path: PathBuf,
        /// Length at which it is set aside; `None`: never.
        rotate_bytes: Option<u64>,
    },
    /// Standard output.
    Console,
    /// Nowhere.
    None,
}

impl SinkKind {
    /// The word for it in the config.
    pub fn name(&self) -> &'static str {
        match self {
            SinkKind::Kafka { .. } => "kafka",
            SinkKind::Socket => "socket",
            SinkKind::File { .. } => "file",
            SinkKind::Console => "console",
            SinkKind::None => "none",
        }
    }
}

/// `[learn]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnConfig {
    /// False: the model is frozen.
    pub enabled: bool,
}

/// What a crash may repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Nothing.
    ExactlyOnce,
    /// Predictions, identical to the first; nothing is learned twice.
    AtLeastOnce,
}

impl Guarantee {
    /// The strongest that a source and a sink can keep together: the source must be readable again, and
    /// the sink must be able to take back what was not committed.
    pub fn strongest(source: &SourceKind, sink: &SinkKind) -> Guarantee {
        let sink_can = matches!(sink, SinkKind::Kafka { .. } | SinkKind::File { .. } | SinkKind::None);
        if sink_can && source.replayable() { Guarantee::ExactlyOnce } else { Guarantee::AtLeastOnce }
    }
    /// The word for it in the config.
    pub fn name(self) -> &'static str {
        match self {
            Guarantee::ExactlyOnce => "exactly-once",
            Guarantee::AtLeastOnce => "at-least-once",
        }
    }
}

/// `[delivery]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// What a crash may repeat.
    pub guarantee: Guarantee,
    /// Longest time between two commits.
    pub commit_interval_ms: u64,
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Time between two checkpoints.
    pub interval_ms: u64,
    /// How many are kept, from 1.
    pub keep: u32,
    /// Another place than `state_dir`: a folder, or `s3://bucket/prefix`.
    pub store: Option<String>,
    /// Never trim the journal.
    pub keep_journal: bool,
}

/// `[limits]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Longest event.
    pub event_bytes_max: u64,
    /// Deepest nesting of a JSON event.
    pub nesting_max: u32,
    /// Connections at a time.
    pub connections_max: u32,
    /// Connections at a time from one address.
    pub connections_per_address_max: u32,
    /// Silence after which a connection is closed; 0: never.
    pub idle_timeout_ms: u64,
    /// Answers that may wait for one client.
    pub answer_bytes_max: u64,
    /// Largest artifact.
    pub artifact_bytes_max: u64,
    /// Longest time for a swap.
    pub swap_timeout_ms: u64,
    /// How long a daemon that starts tries to reach its brokers.
    pub start_timeout_ms: u64,
}

/// `[engine]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineConfig {
    /// Capacity of a batch.
    pub batch_events_max: u32,
    /// Worker threads; 0: one a core.
    pub threads: u32,
    /// Most events in one commit.
    pub commit_events_max: u64,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Unix socket of the API.
    pub socket: PathBuf,
    /// Address of the read-only API.
    pub http: Option<SocketAddr>,
}

/// `[node]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Name in the consumer group.
    pub name: String,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// error, warn, info, debug or trace.
    pub level: String,
}

/// A lane's own output: `predictions.ndjson`, and with several lanes `predictions.lane-1.ndjson`.
pub fn of_lane(path: &Path, lane: u32, lanes: u32) -> PathBuf {
    if lanes == 1 {
        return path.to_path_buf();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    match path.extension() {
        Some(extension) => path.with_file_name(format!("{stem}.lane-{lane}.{}", extension.to_string_lossy())),
        None => path.with_file_name(format!("{stem}.lane-{lane}")),
    }
}

impl Config {
    /// Reads a config: the file, over it the environment's `MILLSTREAM_SECTION__KEY`, over that the
    /// command line's `section.key=value`.
    ///
    /// # Errors
    /// Every fault of the config (misuse), each with its place, what was found and what is allowed.
    pub fn load(path: &Path, sets: &[String], environment: &Environment) -> Result<Config, Vec<Fault>> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            vec![
                Fault::misuse(format!("cannot read the config {}: {error}", path.display()))
                    .hint("give one with -c FILE"),
            ]
        })?;
        Config::parse(&path.display().to_string(), &text, sets, environment)
    }

    /// [`Config::load`] of a text; `name` stands for the file in messages.
    ///
    /// # Errors
    /// As for [`Config::load`].
    pub fn parse(name: &str, text: &str, sets: &[String], environment: &Environment) -> Result<Config, Vec<Fault>> {
        let mut raw = raw::Raw::default();
        raw.read_file(name, text);
        raw.read_environment(environment.variables());
        raw.read_sets(sets);
        read::Reader::new(name, raw, environment).config()
    }
}
