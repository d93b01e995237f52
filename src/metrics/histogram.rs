//! Histograms of atomics: one with given bounds for Prometheus, one log-linear for quantiles.
//!
//! Both take `n` observations of one value at once, hold no lock and allocate nothing after they are made.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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

/// Bits of a value below its leading one that tell cells apart: 32 cells an octave, so that a quantile
/// is at most 3.2 % too high.
const CELL_BITS: u32 = 5;
const CELLS: usize = (64 - CELL_BITS as usize + 1) << CELL_BITS;

/// A log-linear histogram of u64 values, for quantiles (about 15 KiB).
#[derive(Debug)]
pub struct Quantiles {
    cells: Box<[AtomicU64]>,
    max: AtomicU64,
}

impl Default for Quantiles {
    fn default() -> Quantiles {
        Quantiles { cells: (0..CELLS).map(|_| AtomicU64::new(0)).collect(), max: AtomicU64::new(0) }
    }
}

fn cell_of(value: u64) -> usize {
    if value < 1 << CELL_BITS {
        return value as usize;
    }
    let shift = 63 - value.leading_zeros() - CELL_BITS;
    (((shift + 1) as usize) << CELL_BITS) + ((value >> shift) as usize - (1 << CELL_BITS))
}

/// The highest value of a cell.
fn cell_end(cell: usize) -> u64 {
    if cell < 1 << CELL_BITS {
        return cell as u64;
    }
    let shift = (cell >> CELL_BITS) as u32 - 1;
    let head = (cell & ((1 << CELL_BITS) - 1)) as u64 + (1 << CELL_BITS);
    (head << shift) + ((1u64 << shift) - 1)
}

impl Quantiles {
    /// Records `value` `n` times.
    pub fn record_n(&self, value: u64, n: u64) {
        self.cells[cell_of(value)].fetch_add(n, Relaxed);
        self.max.fetch_max(value, Relaxed);
    }
    /// The values below which the given fractions of the observations lie (rounded up to the cell's end,
    /// never beyond the maximum); zeros where nothing was recorded. Fractions ascend.
    pub fn at<const N: usize>(&self, fractions: [f64; N]) -> [u64; N] {
        let counts: Vec<u64> = self.cells.iter().map(|c| c.load(Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let mut found = [0; N];
        let (mut seen, mut cell) = (0, 0);
        for (value, fraction) in found.iter_mut().zip(fractions) {
            let rank = ((total as f64 * fraction).ceil() as u64).clamp(1, total.max(1));
            while cell < counts.len() && seen + counts[cell] < rank {
                seen += counts[cell];
                cell += 1;
            }
            if total > 0 && cell < counts.len() {
                *value = cell_end(cell).min(self.max());
            }
        }
        found
    }
    /// The highest value so far.
    pub fn max(&self) -> u64 {
        self.max.load(Relaxed)
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
    fn cells_are_contiguous_and_ends_belong_to_them() {
        let mut last = 0;
        for shift in 0..64 {
            for value in [1u64 << shift, (1u64 << shift) | (1 << shift >> 1), u64::MAX >> (63 - shift)] {
                let cell = cell_of(value);
                assert!(cell < CELLS && cell >= last, "{value} in {cell} after {last}");
                assert_eq!(cell_of(cell_end(cell)), cell);
                assert!(cell_end(cell) >= value);
                assert!((cell_end(cell) - value) as f64 <= value as f64 / 31.0);
                last = cell;
            }
        }
        assert_eq!(cell_end(CELLS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_are_within_a_cell() {
        let q = Quantiles::default();
        assert_eq!(q.at([0.5, 0.99]), [0, 0]);
        (1..=100_000u64).for_each(|v| q.record_n(v, 1));
        for (found, exact) in q.at([0.5, 0.9, 0.99, 1.0]).iter().zip([50_000u64, 90_000, 99_000, 100_000]) {
            assert!(*found >= exact && *found as f64 <= exact as f64 * 1.032, "{found} for {exact}");
        }
        assert_eq!(q.max(), 100_000);
    }
}
