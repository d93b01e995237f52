//! A lane's numbers: written by the lane's thread with plain atomics, once a batch; read by anyone.

use crate::batch::Stage;
use crate::metrics::histogram::{BATCH_BOUNDS, Histogram, LATENCY_BOUNDS_NS, Quantiles, WORK_BOUNDS_NS};
use crate::metrics::quality::QualityReport;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Where on the road a latency was taken. Each begins where the one before ends; `Total` spans them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LatencyStage {
    /// Read, until the worker took the block.
    Queue,
    /// Taken, until its predictions were encoded.
    Process,
    /// Encoded, until published (acknowledged, or committed).
    Publish,
    /// Read to published.
    Total,
}

impl LatencyStage {
    /// All stages, in the order of their numbers.
    pub const ALL: [LatencyStage; 4] =
        [LatencyStage::Queue, LatencyStage::Process, LatencyStage::Publish, LatencyStage::Total];
    /// The public name.
    pub fn name(self) -> &'static str {
        match self {
            LatencyStage::Queue => "queue",
            LatencyStage::Process => "process",
            LatencyStage::Publish => "publish",
            LatencyStage::Total => "total",
        }
    }
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwapResult {
    /// In force.
    Applied,
    /// Not fit: nothing has changed.
    Refused,
    /// The version before is in force again.
    RolledBack,
}

impl SwapResult {
    /// All results, in the order of their numbers.
    pub const ALL: [SwapResult; 3] = [SwapResult::Applied, SwapResult::Refused, SwapResult::RolledBack];
    /// The public name.
    pub fn name(self) -> &'static str {
        match self {
            SwapResult::Applied => "applied",
            SwapResult::Refused => "refused",
            SwapResult::RolledBack => "rolled-back",
        }
    }
}

/// What one version did since the start. A version that comes back goes on counting.
#[derive(Debug)]
pub struct ModelCounters {
    /// The version: 8 hex digits.
    pub version: String,
    /// Predictions made.
    pub predictions: AtomicU64,
    /// Events learned.
    pub learned: AtomicU64,
    /// Updates refused because a weight would have become non-finite.
    pub refused: AtomicU64,
}

/// Versions whose counters are kept: the oldest make room.
const VERSIONS_MAX: usize = 16;

/// A lane's numbers.
#[derive(Debug)]
pub struct LaneMetrics {
    /// The lane's number.
    pub lane: u32,
    /// Names of the fields, in the schema's order.
    pub fields: Vec<String>,
    /// Events taken, rejected ones included.
    pub events: AtomicU64,
    /// Dead letters, by the number of their [`Stage`].
    pub dead_letters: [AtomicU64; Stage::ALL.len()],
    /// Missing values, one a field.
    pub missing: Vec<AtomicU64>,
    /// Events a batch.
    pub batch_events: Histogram,
    /// How long commits took.
    pub commit: Histogram,
    /// How long checkpoints took, those that succeeded.
    pub checkpoint: Histogram,
    /// Checkpoints that failed.
    pub checkpoint_failures: AtomicU64,
    /// Swaps, by the number of their [`SwapResult`].
    pub swaps: [AtomicU64; SwapResult::ALL.len()],
    /// Latencies by [`LatencyStage`], for the export.
    latency: [Histogram; LatencyStage::ALL.len()],
    /// Latency from read to published, for the status (ns).
    latency_total: Quantiles,
    born: Instant,
    /// Nanoseconds after `born` at which the last checkpoint was taken; 0 before the first.
    checkpoint_at: AtomicU64,
    /// Another daemon has the lane.
    elsewhere: AtomicBool,
    /// Events that wait behind what was read, by input.
    lag: ArcSwap<Vec<(String, Option<u64>)>>,
    /// The versions; the one in force is the last.
    models: ArcSwap<Vec<Arc<ModelCounters>>>,
    /// What versions counted that are no longer kept: predictions, learned, refused.
    retired: [AtomicU64; 3],
    /// The live quality, as the lane last published it.
    quality: ArcSwapOption<QualityReport>,
}

fn zeros<const N: usize>() -> [AtomicU64; N] {
    std::array::from_fn(|_| AtomicU64::new(0))
}

impl LaneMetrics {
    /// Zeros for a lane whose schema has these fields and which starts with this version.
    pub fn new(lane: u32, fields: Vec<String>, version: &str) -> LaneMetrics {
        let metrics = LaneMetrics {
            lane,
            missing: fields.iter().map(|_| AtomicU64::new(0)).collect(),
            fields,
            events: AtomicU64::new(0),
            dead_letters: zeros(),
            batch_events: Histogram::new(BATCH_BOUNDS, 1.0),
            commit: Histogram::new(WORK_BOUNDS_NS, 1e9),
            checkpoint: Histogram::new(WORK_BOUNDS_NS, 1e9),
            checkpoint_failures: AtomicU64::new(0),
            swaps: zeros(),
            latency: std::array::from_fn(|_| Histogram::new(LATENCY_BOUNDS_NS, 1e9)),
            latency_total: Quantiles::default(),
            born: Instant::now(),
            checkpoint_at: AtomicU64::new(0),
            elsewhere: AtomicBool::new(false),
            lag: ArcSwap::default(),
            models: ArcSwap::default(),
            retired: zeros(),
            quality: ArcSwapOption::empty(),
        };
        metrics.set_version(version);
        metrics
    }

    /// A batch of `events` was taken.
    pub fn batch(&self, events: u64) {
        self.events.fetch_add(events, Relaxed);
        self.batch_events.record_n(events, 1);
    }
    /// `n` events became dead letters.
    pub fn dead_letter(&self, stage: Stage, n: u64) {
        self.dead_letters[stage as usize].fetch_add(n, Relaxed);
    }
    /// `n` values of a field (by its index in the schema) were missing.
    pub fn missing(&self, field: usize, n: u64) {
        if let Some(counter) = self.missing.get(field) {
            counter.fetch_add(n, Relaxed);
        }
    }
    /// `rows` events took `ns` on a stage of the road.
    pub fn latency(&self, stage: LatencyStage, ns: u64, rows: u64) {
        self.latency[stage as usize].record_n(ns, rows);
        if stage == LatencyStage::Total {
            self.latency_total.record_n(ns, rows);
        }
    }
    /// A commit took `ns`.
    pub fn committed(&self, ns: u64) {
        self.commit.record_n(ns, 1);
    }
    /// A checkpoint was taken now; it took `ns`.
    pub fn checkpointed(&self, ns: u64) {
        self.checkpoint.record_n(ns, 1);
        self.checkpoint_at.store((self.born.elapsed().as_nanos() as u64).max(1), Relaxed);
    }
    /// A checkpoint failed.
    pub fn checkpoint_failed(&self) {
        self.checkpoint_failures.fetch_add(1, Relaxed);
    }
    /// A swap ended.
    pub fn swap(&self, result: SwapResult) {
        self.swaps[result as usize].fetch_add(1, Relaxed);
    }
    /// Another version is in force: what is predicted and learned from now on is counted under it.
    /// Returns its counters, for the lane to keep until the next swap.
    pub fn set_version(&self, version: &str) -> Arc<ModelCounters> {
        let mut models = Vec::clone(&self.models.load());
        let counters = match models.iter().position(|m| m.version == version) {
            Some(known) => models.remove(known),
            None => Arc::new(ModelCounters {
                version: version.to_owned(),
                predictions: AtomicU64::new(0),
                learned: AtomicU64::new(0),
                refused: AtomicU64::new(0),
            }),
        };
        models.push(Arc::clone(&counters));
        if models.len() > VERSIONS_MAX {
            let old = models.remove(0);
            for (sum, counter) in self.retired.iter().zip([&old.predictions, &old.learned, &old.refused]) {
                sum.fetch_add(counter.load(Relaxed), Relaxed);
            }
        }
        self.models.store(Arc::new(models));
        counters
    }
    /// The counters of the version in force.
    pub fn model(&self) -> Arc<ModelCounters> {
        Arc::clone(self.models.load().last().expect("a lane has a version from the start"))
    }
    /// The counters of all versions that are kept; the last is the one in force.
    pub fn models(&self) -> Arc<Vec<Arc<ModelCounters>>> {
        self.models.load_full()
    }
    /// Says whether another daemon has the lane: then its lag and the age of its checkpoint are known there.
    pub fn set_elsewhere(&self, elsewhere: bool) {
        self.elsewhere.store(elsewhere, Relaxed);
        if elsewhere {
            self.set_lag(Vec::new());
        }
    }
    /// True where another daemon has the lane.
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere.load(Relaxed)
    }
    /// Sets how many events wait, by input (`None`: unknown).
    pub fn set_lag(&self, lag: Vec<(String, Option<u64>)>) {
        self.lag.store(Arc::new(lag));
    }
    /// How many events wait, by input.
    pub fn lag(&self) -> Arc<Vec<(String, Option<u64>)>> {
        self.lag.load_full()
    }
    /// Publishes the live quality. The lane calls it about once a second, not once a batch.
    pub fn set_quality(&self, report: QualityReport) {
        self.quality.store(Some(Arc::new(report)));
    }
    /// The live quality, once anything was labelled: before, there is none, good or bad.
    pub fn quality(&self) -> Option<Arc<QualityReport>> {
        self.quality.load_full().filter(|quality| quality.events > 0)
    }
    /// Seconds since the last checkpoint; since the start, before the first.
    pub fn checkpoint_age_seconds(&self) -> f64 {
        self.born.elapsed().as_secs_f64() - self.checkpoint_at.load(Relaxed) as f64 / 1e9
    }
    /// The export's histogram of a stage.
    pub fn latency_histogram(&self, stage: LatencyStage) -> &Histogram {
        &self.latency[stage as usize]
    }
    /// Latency from read to published (ns).
    pub fn latency_total(&self) -> &Quantiles {
        &self.latency_total
    }
    /// Predictions of all versions.
    pub fn predictions(&self) -> u64 {
        self.retired[0].load(Relaxed) + self.models.load().iter().map(|m| m.predictions.load(Relaxed)).sum::<u64>()
    }
    /// Events learned by all versions.
    pub fn learned(&self) -> u64 {
        self.retired[1].load(Relaxed) + self.models.load().iter().map(|m| m.learned.load(Relaxed)).sum::<u64>()
    }
    /// Refused updates of all versions.
    pub fn refused(&self) -> u64 {
        self.retired[2].load(Relaxed) + self.models.load().iter().map(|m| m.refused.load(Relaxed)).sum::<u64>()
    }
    /// Dead letters of all stages.
    pub fn dead_total(&self) -> u64 {
        self.dead_letters.iter().map(|n| n.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_that_comes_back_goes_on_counting() {
        let m = LaneMetrics::new(0, vec![], "aaaaaaaa");
        m.model().predictions.fetch_add(3, Relaxed);
        m.set_version("bbbbbbbb").predictions.fetch_add(5, Relaxed);
        let again = m.set_version("aaaaaaaa");
        assert_eq!(again.predictions.load(Relaxed), 3);
        assert_eq!(m.model().version, "aaaaaaaa");
        assert_eq!(m.predictions(), 8);
        for n in 0..2 * VERSIONS_MAX {
            m.set_version(&format!("{n:08x}"));
        }
        assert_eq!(m.models().len(), VERSIONS_MAX);
        assert_eq!(m.predictions(), 8, "what is dropped still counts in the sum");
    }

    #[test]
    fn stages_and_results_are_numbered_as_listed() {
        assert!(Stage::ALL.iter().enumerate().all(|(n, s)| *s as usize == n));
        assert!(LatencyStage::ALL.iter().enumerate().all(|(n, s)| *s as usize == n));
        assert!(SwapResult::ALL.iter().enumerate().all(|(n, s)| *s as usize == n));
    }

    #[test]
    fn the_checkpoint_age_counts_from_the_start_and_then_from_the_last() {
        let m = LaneMetrics::new(0, vec![], "aaaaaaaa");
        std::thread::sleep(std::time::Duration::from_millis(30));
        let before = m.checkpoint_age_seconds();
        assert!(before >= 0.03);
        m.checkpointed(1_000);
        assert!(m.checkpoint_age_seconds() < before);
    }
}
