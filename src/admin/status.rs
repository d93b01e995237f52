//! Where every lane stands: what a lane publishes, and the answers of `status` and `versions`.

use crate::metrics::{LaneMetrics, QualityReport, Rates};
use crate::source::Position;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What a lane is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneState {
    /// Not yet recovering.
    #[default]
    Starting,
    /// Loading a checkpoint, replaying the journal.
    Recovering,
    /// Taking events.
    Running,
    /// Paused by the operator.
    Paused,
    /// Finishing what was read.
    Draining,
    /// Its inputs have ended, or it has drained.
    Ended,
    /// Another node owns it.
    Elsewhere,
    /// Stopped by a fault.
    Failed,
}

impl LaneState {
    /// The public name.
    pub fn name(self) -> &'static str {
        match self {
            LaneState::Starting => "starting",
            LaneState::Recovering => "recovering",
            LaneState::Running => "running",
            LaneState::Paused => "paused",
            LaneState::Draining => "draining",
            LaneState::Ended => "ended",
            LaneState::Elsewhere => "elsewhere",
            LaneState::Failed => "failed",
        }
    }
}

/// A lane's last checkpoint.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CheckpointStatus {
    /// `seq` of the lane's next event when it was taken; `None` before the first.
    pub seq: Option<u64>,
    /// When it was taken (milliseconds since 1970-01-01 UTC).
    pub taken_at_ms: Option<u64>,
    /// Where it is.
    pub path: Option<String>,
    /// Why the latest attempt failed; `None` while checkpoints succeed.
    pub error: Option<String>,
}

/// A fault that a lane met, and went on from or stopped at.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FaultStatus {
    /// When it was last met (milliseconds since 1970-01-01 UTC).
    pub at_ms: u64,
    /// What was wrong, and where.
    pub message: String,
    /// How often it was met.
    pub count: u64,
}

/// Where an input stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputStatus {
    /// The input's public name.
    pub input: String,
    /// The offset of its next event.
    #[serde(flatten)]
    pub position: Position,
}

/// A version and the swap that brought it in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VersionStatus {
    /// 8 hex digits.
    pub version: String,
    /// The swap number; grows with each swap and rollback.
    pub swap: u64,
    /// Where it came from (a path, or who sent it).
    #[serde(default)]
    pub origin: String,
    /// `seq` of the first event that it scored.
    #[serde(default)]
    pub since_seq: u64,
}

/// What a lane publishes about itself, as often as it commits or changes; readers never wait for it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LaneStatus {
    /// The lane's number.
    pub lane: u32,
    /// What it is doing.
    pub state: LaneState,
    /// `seq` of its next event.
    pub seq: u64,
    /// `seq` of the first event that isn't committed.
    pub committed_seq: u64,
    /// Where its inputs stand.
    pub inputs: Vec<InputStatus>,
    /// The version in force (in JSON its keys stand among the lane's: `version`, `swap`, …).
    #[serde(flatten)]
    pub current: VersionStatus,
    /// The version that a rollback would bring back.
    pub previous: Option<VersionStatus>,
    /// The chained digest of the committed scores' bits, in hex.
    pub digest: String,
    /// Its last checkpoint.
    pub checkpoint: CheckpointStatus,
    /// Its latest faults, newest first; bounded by the lane.
    pub faults: Vec<FaultStatus>,
}

/// Latency from read to published, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct LatencyStatus {
    /// Half of the events took at most this long.
    pub p50: f64,
    /// 99 in 100.
    pub p99: f64,
    /// 999 in 1,000.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

/// A lane in the answer of `status`: what it published, and its counters as they stand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneReport {
    /// What the lane published.
    #[serde(flatten)]
    pub status: LaneStatus,
    /// Events taken since the start.
    pub events: u64,
    /// Events a second over the last seconds.
    pub events_per_second: f64,
    /// Predictions since the start.
    pub predictions: u64,
    /// Events learned since the start.
    pub learned: u64,
    /// Updates refused since the start.
    pub refused_updates: u64,
    /// Dead letters since the start.
    pub dead_letters: u64,
    /// Events known to wait, of all inputs; `None` where no input knows.
    pub lag_events: Option<u64>,
    /// Seconds since the last checkpoint; since the start, before the first.
    pub checkpoint_age_seconds: f64,
    /// Checkpoints that failed since the start.
    pub checkpoint_failures: u64,
    /// Latency from read to published.
    pub latency_ms: LatencyStatus,
    /// Live quality of the model.
    pub quality: Option<QualityReport>,
}

/// The answer of `status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The program's version.
    pub millstream: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_seconds: f64,
    /// True once all lanes are recovered and their inputs open, until it drains or a lane fails.
    pub ready: bool,
    /// Lanes that have been inside one piece of work for too long.
    pub stuck: Vec<usize>,
    /// Events a second of all lanes.
    pub events_per_second: f64,
    /// The lanes.
    pub lanes: Vec<LaneReport>,
}

/// A lane in the answer of `versions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LaneVersions {
    /// The lane's number.
    pub lane: u32,
    /// The version in force.
    pub current: VersionStatus,
    /// The version that a rollback would bring back.
    pub previous: Option<VersionStatus>,
}

/// The answer of `versions`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionsReport {
    /// By lane.
    pub lanes: Vec<LaneVersions>,
}

/// A lane's report from what it published and counts.
pub fn lane_report(status: &LaneStatus, metrics: &LaneMetrics, rates: &Rates, index: usize) -> LaneReport {
    let events = metrics.events.load(Relaxed);
    let latency = metrics.latency_total();
    let [p50, p99, p999] = latency.at([0.5, 0.99, 0.999]).map(|ns| ns as f64 / 1e6);
    LaneReport {
        status: status.clone(),
        events,
        events_per_second: rates.per_second(index, Instant::now(), events),
        predictions: metrics.predictions(),
        learned: metrics.learned(),
        refused_updates: metrics.refused(),
        dead_letters: metrics.dead_total(),
        lag_events: metrics.lag().iter().filter_map(|(_, lag)| *lag).reduce(|a, b| a.saturating_add(b)),
        checkpoint_age_seconds: metrics.checkpoint_age_seconds(),
        checkpoint_failures: metrics.checkpoint_failures.load(Relaxed),
        latency_ms: LatencyStatus { p50, p99, p999, max: latency.max() as f64 / 1e6 },
        quality: metrics.quality().map(|q| QualityReport::clone(&q)),
    }
}
