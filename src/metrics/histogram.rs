//! Histograms of atomics: one with given bounds for Prometheus, one log-linear for quantiles.
//!
//! Both take `n` observations of one value at once, hold no lock and allocate nothing after they are made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts by bucket. A bucket holds what is at most its bound; the last one is unbounded.
#[derive(Debug)]
pub struct Histogram {
    /// Upper bounds in raw units, ascending.
    bounds: &'static [u64],
    /// One more than the bounds.
    counts: Box<[AtomicU64]>,
    /// Sum of the values, in raw units; wraps after 584 years of nanoseconds.
    sum: AtomicU64,
    /// How many raw units make one unit of the export (1e9 for nanoseconds shown as seconds).
    scale: f64,
}

/// Bounds for latencies, 10 µs to 10 s (ns).
pub const LATENCY_BOUNDS_NS: &[u64] = &[
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// Bounds for commits and checkpoints, 100 µs to 60 s (ns).
pub const WORK_BOUNDS_NS: &[u64] = &[
    100_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
    20_000_000_000,
    60_000_000_000,
];

/// Bounds for batch sizes (events).
pub const BATCH_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192];

impl Histogram {
    /// An empty histogram; `scale` raw units are one unit of the export.
    pub fn new(bounds: &'static [u64], scale: f64) -> Histogram {
        debug_assert!(bounds.is_sorted());
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0), scale }
    }
    /// Records `value` (raw units) `n` times.
    pub fn record_n(&self, value: u64, n: u64) {
        let bucket = self.bounds.partition_point(|b| *b < value);
        self.counts[bucket].fetch_add(n, Relaxed);
        self.sum.fetch_add(value.wrapping_mul(n), Relaxed);
    }
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|c| c.load(Relaxed)).sum()
    }
    /// Sum of the observations, in the export's unit.
    pub fn sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 / self.scale
    }
    /// Cumulative counts with their bounds in the export's unit; the last bound is infinite. Its count
    /// is the one to use for `_count`, so that a scrape is consistent with itself.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().map(|b| *b as f64 / self.scale).chain([f64::INFINITY]);
        let mut sum = 0;
        bounds
            .zip(self.counts.iter())
            .map(|(bound, count)| {
                sum += count.load(Relaxed);
                (bound, sum)
            })
            .collect()
    }
}

/// Highest latency that is told apart: an hour, in nanoseconds. What is longer counts as that.
const HIGHEST: u64 = 3_600_000_000_000;
/// Decimal digits that a value keeps.
const DIGITS: u8 = 3;

/// An HdrHistogram of latencies (ns), for quantiles with three digits. Written once a block by the
/// lane's threads, read by whoever asks: the lock is held for a few nanoseconds.
#[derive(Debug)]
pub struct Quantiles {
    histogram: Mutex<hdrhistogram::Histogram<u64>>,
}

impl Default for Quantiles {
    fn default() -> Quantiles {
        // From a microsecond on: what is shorter is not told apart.
        let histogram = hdrhistogram::Histogram::new_with_bounds(1_000, HIGHEST, DIGITS);
        Quantiles { histogram: Mutex::new(histogram.expect("valid bounds")) }
    }
}

impl Quantiles {
    /// Records `value` `n` times.
    pub fn record_n(&self, value: u64, n: u64) {
        self.lock().saturating_record_n(value, n);
    }
    /// The values at or below which the given fractions of the observations lie; zeros where nothing
    /// was recorded.
    pub fn at<const N: usize>(&self, fractions: [f64; N]) -> [u64; N] {
        let histogram = self.lock();
        if histogram.is_empty() {
            return [0; N];
        }
        fractions.map(|fraction| histogram.value_at_quantile(fraction))
    }
    /// The highest value so far.
    pub fn max(&self) -> u64 {
        self.lock().max()
    }
    fn lock(&self) -> MutexGuard<'_, hdrhistogram::Histogram<u64>> {
        self.histogram.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive_and_counts_cumulative() {
        let h = Histogram::new(&[10, 20], 10.0);
        for (value, n) in [(10, 1), (11, 2), (20, 3), (21, 4)] {
            h.record_n(value, n);
        }
        assert_eq!(h.cumulative(), [(1.0, 1), (2.0, 6), (f64::INFINITY, 10)]);
        assert_eq!(h.count(), 10);
        assert_eq!(h.sum(), 17.6);
    }

    #[test]
    fn quantiles_keep_three_digits_and_what_is_too_long_still_counts() {
        let q = Quantiles::default();
        assert_eq!(q.at([0.5, 0.99]), [0, 0]);
        (1..=100_000u64).for_each(|v| q.record_n(v * 1_000, 1));
        for (found, exact) in
            q.at([0.5, 0.9, 0.99, 1.0]).iter().zip([50_000_000u64, 90_000_000, 99_000_000, 100_000_000])
        {
            assert!(*found >= exact && *found as f64 <= exact as f64 * 1.001, "{found} for {exact}");
        }
        q.record_n(u64::MAX, 1);
        assert!(q.max() >= HIGHEST);
    }
}
