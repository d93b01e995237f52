//! One quantile of a stream from five markers: the P² algorithm.
//!
//! R. Jain, I. Chlamtac: The P² algorithm for dynamic calculation of quantiles and histograms without
//! storing observations. Communications of the ACM 28(10), 1985.

/// Markers that an estimate rests on.
pub(super) const MARKERS: usize = 5;

/// The estimate of one quantile. All its numbers are finite at any time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Quantile {
    /// The quantile, in (0, 1).
    pub p: f64,
    /// Values seen.
    pub count: f64,
    /// Heights of the markers, ascending (of those seen so far, while they are fewer than five).
    pub heights: [f64; MARKERS],
    /// Positions of the markers among the values seen, from 1; whole numbers.
    pub positions: [f64; MARKERS],
}

impl Quantile {
    /// Nothing seen yet.
    pub fn new(p: f64) -> Quantile {
        Quantile { p, count: 0.0, heights: [0.0; MARKERS], positions: [1.0, 2.0, 3.0, 4.0, 5.0] }
    }

    /// The estimate. Meaningful once five values were seen.
    pub fn get(&self) -> f64 {
        self.heights[2]
    }

    /// Takes a value in. Missing and infinite ones are skipped.
    pub fn learn(&mut self, x: f64) {
        if !x.is_finite() {
            return;
        }
        let seen = self.count as usize;
        self.count += 1.0;
        if seen < MARKERS {
            self.heights[seen] = x;
            self.heights[..=seen].sort_unstable_by(f64::total_cmp);
            return;
        }
        let cell = self.cell(x);
        self.positions[cell + 1..].iter_mut().for_each(|n| *n += 1.0);
        for i in 1..MARKERS - 1 {
            self.adjust(i);
        }
    }

    /// The cell between two markers that the value falls in; the outer markers follow the extremes.
    fn cell(&mut self, x: f64) -> usize {
        if x < self.heights[0] {
            self.heights[0] = x;
            return 0;
        }
        if x >= self.heights[4] {
            self.heights[4] = x;
            return 3;
        }
        (0..MARKERS - 1).rev().find(|i| x >= self.heights[*i]).unwrap_or(0)
    }

    /// Moves a middle marker by one position towards where it should stand, if it is off by one or more.
    fn adjust(&mut self, i: usize) {
        let share = [0.0, self.p / 2.0, self.p, (1.0 + self.p) / 2.0, 1.0][i];
        let off = 1.0 + (self.count - 1.0) * share - self.positions[i];
        let (n, q) = (&self.positions, &self.heights);
        let up = off >= 1.0 && n[i + 1] - n[i] > 1.0;
        let down = off <= -1.0 && n[i - 1] - n[i] < -1.0;
        if !up && !down {
            return;
        }
        let step = if up { 1.0 } else { -1.0 };
        let parabolic = q[i]
            + step / (n[i + 1] - n[i - 1])
                * ((n[i] - n[i - 1] + step) * (q[i + 1] - q[i]) / (n[i + 1] - n[i])
                    + (n[i + 1] - n[i] - step) * (q[i] - q[i - 1]) / (n[i] - n[i - 1]));
        let height = if q[i - 1] < parabolic && parabolic < q[i + 1] {
            parabolic
        } else {
            let j = if up { i + 1 } else { i - 1 };
            q[i] + step * (q[j] - q[i]) / (n[j] - n[i])
        };
        // Differences of extreme values may overflow: then the marker moves, and its height stays.
        if height >= q[i - 1] && height <= q[i + 1] {
            self.heights[i] = height;
        }
        self.positions[i] += step;
    }

    /// True where the numbers are such as `learn` can have left them.
    pub fn is_sound(&self) -> bool {
        let seen = (self.count as usize).min(MARKERS);
        let ascending = |v: &[f64]| v.iter().all(|x| x.is_finite()) && v.windows(2).all(|w| w[0] <= w[1]);
        let apart = self.positions.windows(2).all(|w| w[1] - w[0] >= 1.0);
        self.heights.iter().all(|h| h.is_finite())
            && ascending(&self.heights[..seen])
            && apart
            && self.positions[0] == 1.0
            && self.positions.iter().all(|n| n.fract() == 0.0)
            && self.positions[4] == self.count.max(MARKERS as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of the paper (table I): 20 values, median 4.44 at the end.
    #[test]
    fn paper_example() {
        let values = [
            0.02, 0.15, 0.74, 3.39, 0.83, 22.37, 10.15, 15.43, 38.62, 15.92, 34.60, 10.28, 1.47, 0.40, 0.05, 11.39,
            0.27, 0.42, 0.09, 11.37,
        ];
        let mut q = Quantile::new(0.5);
        values.iter().for_each(|v| q.learn(*v));
        assert!((q.get() - 4.44).abs() < 0.005, "{}", q.get());
        assert!(q.is_sound());
    }

    #[test]
    fn close_to_the_exact_quantile() {
        for p in [0.01, 0.05, 0.5, 0.9, 0.99] {
            let mut q = Quantile::new(p);
            let mut seed = 7u64;
            for _ in 0..50_000 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                q.learn((seed >> 11) as f64 / (1u64 << 53) as f64);
            }
            assert!((q.get() - p).abs() < 0.01, "p {p}: {}", q.get());
            assert!(q.is_sound());
        }
    }

    #[test]
    fn sound_under_poison() {
        let mut q = Quantile::new(0.9);
        for i in 0..1000 {
            q.learn([f64::MAX, -f64::MAX, f64::NAN, 0.0, f64::INFINITY, 1e300, -1e-300][i % 7]);
            assert!(q.is_sound(), "after {i}: {q:?}");
        }
    }
}
