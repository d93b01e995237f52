//! Where the demo stands: rates and accuracy over the last second, and what the daemon says of itself.

use super::client::{Tally, Told};
use crate::admin::status::StatusReport;
use std::collections::VecDeque;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// What "now" is an average over.
const RECENT: Duration = Duration::from_secs(1);
/// How often the rate is kept for the curve, and how many of them.
const CURVE_EVERY: Duration = Duration::from_millis(250);
const CURVE_POINTS_MAX: usize = 512;

/// What is shown at a time.
pub(super) struct Frame<'a> {
    /// Since the beginning.
    pub elapsed: Duration,
    /// How long it shall last.
    pub seconds: u64,
    /// What is going on.
    pub phase: &'a str,
    /// True while events are sent and answered; otherwise the figures stand still.
    pub live: bool,
    /// Events answered.
    pub answered: u64,
    /// Events a second over the last second.
    pub rate_now: u64,
    /// Events a second since the first was sent.
    pub rate_mean: u64,
    /// Sent to answered: p50, p99, p99.9, longest.
    pub latency_ms: [f64; 4],
    /// The same from read to answered, by the daemon's own clock.
    pub inside_ms: [f64; 4],
    /// Accuracy since the start: model, no-change, majority.
    pub whole: [f64; 3],
    /// The same over the last second.
    pub recent: [f64; 3],
    /// Events sent and not answered.
    pub lag: u64,
    /// The version that answers.
    pub version: &'a str,
    /// Its swap number.
    pub swap: u64,
    /// Seconds since the last checkpoint.
    pub checkpoint_age: Option<f64>,
    /// The rate over time.
    pub rates: &'a [u64],
    /// What happened.
    pub notes: &'a [String],
}

/// Samples the client's counts.
pub(super) struct Meter {
    samples: VecDeque<(Instant, u64, Tally)>,
    first: Option<Instant>,
    curve: Vec<u64>,
    kept: Instant,
    version: String,
    swap: u64,
}

impl Meter {
    pub fn new() -> Meter {
        let (samples, curve, version) = Default::default();
        Meter { samples, first: None, curve, kept: Instant::now(), version, swap: 0 }
    }

    /// Takes the counts as they stand.
    pub fn sample(&mut self, told: &Told) {
        let (now, answered) = (Instant::now(), told.answered.load(SeqCst));
        if answered > 0 {
            self.first.get_or_insert(now);
        }
        self.samples.push_back((now, answered, told.tally()));
        while self.samples.len() > 2 && now - self.samples[1].0 >= RECENT {
            self.samples.pop_front();
        }
        if now - self.kept >= CURVE_EVERY {
            self.kept = now;
            self.curve.push(self.rate_now());
            if self.curve.len() > CURVE_POINTS_MAX {
                self.curve.remove(0);
            }
        }
        if let Some(change) = told.changes().last() {
            self.version.clone_from(&change.version);
            self.swap = change.swap;
        }
    }

    fn rate_now(&self) -> u64 {
        let (Some((then, before, _)), Some((now, answered, _))) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let seconds = (*now - *then).as_secs_f64();
        if seconds > 0.0 { ((answered - before) as f64 / seconds) as u64 } else { 0 }
    }

    /// Events a second since the first answer.
    pub fn rate_mean(&self) -> u64 {
        let (Some(first), Some((now, answered, _))) = (self.first, self.samples.back()) else { return 0 };
        (*answered as f64 / (*now - first).as_secs_f64().max(0.001)) as u64
    }

    /// What to show.
    pub fn frame<'a>(&'a self, told: &Told, status: Option<&StatusReport>) -> Frame<'a> {
        let tally = self.samples.back().map_or_else(Tally::default, |s| s.2);
        let before = self.samples.front().map_or_else(Tally::default, |s| s.2);
        let lane = status.and_then(|s| s.lanes.first());
        let (sent, answered) = (told.sent.load(SeqCst), told.answered.load(SeqCst));
        Frame {
            elapsed: Duration::ZERO,
            seconds: 0,
            phase: "",
            live: true,
            answered,
            rate_now: self.rate_now(),
            rate_mean: self.rate_mean(),
            latency_ms: told.latency_ms(),
            inside_ms: lane.map_or([0.0; 4], |l| {
                let latency = l.latency_ms;
                [latency.p50, latency.p99, latency.p999, latency.max]
            }),
            whole: tally.since(&Tally::default()),
            recent: tally.since(&before),
            lag: sent.saturating_sub(answered),
            version: if self.version.is_empty() { "-" } else { &self.version },
            swap: self.swap,
            checkpoint_age: lane.map(|l| l.checkpoint_age_seconds),
            rates: &self.curve,
            notes: &[],
        }
    }
}
