//! Running mean and population variance, a column each, by Welford's recurrence (Technometrics 4,
//! 1962) in the form that River's StandardScaler uses.

use super::columns::{Columns, put_counts, read_counts, read_finite};
use crate::error::{Fault, Result};
use crate::state::State;
use std::hint::select_unpredictable;

/// Largest absolute value that is learned: the square of no difference of two such values overflows, so
/// the moments stay finite. One value beyond it, were it learned first, would lock all others out.
pub(super) const LEARNED_ABS_MAX: f64 = 1e150;

/// Counts, means and variances of some columns.
#[derive(Debug)]
pub(super) struct Moments {
    /// Values seen, a column each.
    pub count: Vec<f64>,
    /// Their means.
    pub mean: Vec<f64>,
    /// Their variances (divided by the count).
    pub variance: Vec<f64>,
    /// True while all columns have seen as many values, as they have where there are no gaps.
    even: bool,
}

impl Moments {
    /// Nothing seen yet.
    pub fn new(columns: usize) -> Moments {
        Moments { count: vec![0.0; columns], mean: vec![0.0; columns], variance: vec![0.0; columns], even: true }
    }

    /// Takes a row's numbers in. Missing ones, and those beyond [`LEARNED_ABS_MAX`], are skipped.
    pub fn learn(&mut self, columns: &Columns, dense: &[f64]) {
        let share = self.share();
        let Moments { count, mean, variance, .. } = self;
        if let Some(share) = share {
            columns.update(dense, [count, mean, variance], |x, n, mean, var| update(x, share, n, mean, var));
        } else {
            let own = |x: f64, n: &mut f64, mean: &mut f64, var: &mut f64| update(x, 1.0 / (*n + 1.0), n, mean, var);
            columns.update(dense, [count, mean, variance], own);
        }
        self.compare_counts();
    }

    fn compare_counts(&mut self) {
        let first = self.count.first().copied().unwrap_or(0.0);
        self.even = self.count.iter().fold(true, |even, n| even & (*n == first));
    }

    /// What the next value weighs, where that is one number for all columns: without gaps all counts are
    /// equal, and one division serves them all. The same bits, sooner.
    #[inline]
    pub fn share(&self) -> Option<f64> {
        self.even.then(|| 1.0 / (self.count.first().copied().unwrap_or(0.0) + 1.0))
    }

    /// Stores `{prefix}count`, `{prefix}mean` and `{prefix}variance`.
    pub fn save(&self, state: &mut State, prefix: &str) {
        put_counts(state, format!("{prefix}count"), &self.count);
        state.put_f64(format!("{prefix}mean"), &self.mean);
        state.put_f64(format!("{prefix}variance"), &self.variance);
    }

    /// Takes them back.
    ///
    /// # Errors
    /// Corruption, naming the tensor: missing, of another length, or a mean or variance that no stream of
    /// values up to [`LEARNED_ABS_MAX`] has.
    pub fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        read_counts(state, &format!("{prefix}count"), &mut self.count)?;
        self.compare_counts();
        let means = -LEARNED_ABS_MAX..=LEARNED_ABS_MAX;
        // Twice the square of the largest difference leaves room for rounding.
        let variances = 0.0..=8.0 * LEARNED_ABS_MAX * LEARNED_ABS_MAX;
        for (name, target, range) in [("mean", &mut self.mean, means), ("variance", &mut self.variance, variances)] {
            let name = format!("{prefix}{name}");
            read_finite(state, &name, target)?;
            if let Some(at) = target.iter().position(|v| !range.contains(v)) {
                return Err(Fault::corruption(format!(
                    "tensor {name:?}: element {at} is {}, out of range",
                    target[at]
                )));
            }
        }
        Ok(())
    }
}

/// The top bit is set where a value is missing or beyond [`LEARNED_ABS_MAX`]. Or together as many as you like.
#[inline(always)]
pub(super) fn misfit(x: f64) -> u64 {
    LEARNED_ABS_MAX.to_bits().wrapping_sub(x.abs().to_bits())
}

/// Mean and variance with one more value, which fits and weighs `share` = 1 / (count + 1).
#[inline(always)]
pub(super) fn with(x: f64, share: f64, mean: f64, variance: f64) -> (f64, f64) {
    let from_old = x - mean;
    let new_mean = mean + from_old * share;
    // (n − 1) / n of a variance and a square, so never negative but for rounding.
    let new_variance = variance + (from_old * (x - new_mean) - variance) * share;
    (new_mean, if new_variance > 0.0 { new_variance } else { 0.0 })
}

/// One value, which weighs `share` = 1 / (count + 1). All is computed first and then kept or not, without a branch, so that the loop over
/// columns can run several at once.
#[inline(always)]
pub(super) fn update(x: f64, share: f64, count: &mut f64, mean: &mut f64, variance: &mut f64) {
    let (new_mean, new_variance) = with(x, share, *mean, *variance);
    let fits = x.abs() <= LEARNED_ABS_MAX;
    *count = select_unpredictable(fits, *count + 1.0, *count);
    *mean = select_unpredictable(fits, new_mean, *mean);
    *variance = select_unpredictable(fits, new_variance, *variance);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_two_passes() {
        let values = [3.5, -1.0, 4.25, 4.0, 1e3, 0.0, 7.0];
        let mut m = Moments::new(1);
        values.iter().for_each(|v| m.learn(&Columns::new(vec![0]), &[*v]));
        let mean = values.iter().sum::<f64>() / 7.0;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 7.0;
        assert!((m.mean[0] - mean).abs() < 1e-12 * mean.abs());
        assert!((m.variance[0] - variance).abs() < 1e-12 * variance);
        assert_eq!(m.count[0], 7.0);
    }

    #[test]
    fn missing_and_poison_leave_no_trace() {
        let columns = Columns::new(vec![0]);
        let mut m = Moments::new(1);
        for x in [f64::MAX, -f64::MAX, 1.0, f64::NAN, 2.0, f64::INFINITY, f64::MAX, -f64::MAX] {
            m.learn(&columns, &[x]);
        }
        assert_eq!((m.count[0], m.mean[0], m.variance[0]), (2.0, 1.5, 0.25));
    }

    #[test]
    fn the_largest_values_learned_stay_finite() {
        let columns = Columns::new(vec![0]);
        let mut m = Moments::new(1);
        for i in 0..1000 {
            m.learn(&columns, &[[LEARNED_ABS_MAX, -LEARNED_ABS_MAX, LEARNED_ABS_MAX.next_up()][i % 3]]);
            assert!(m.mean[0].is_finite() && m.variance[0].is_finite(), "after {i}");
        }
        assert_eq!(m.count[0], 667.0, "at the limit it is learned, over it not");
    }

    #[test]
    fn a_gap_elsewhere_changes_no_bit() {
        let (mut alone, mut beside) = (Moments::new(1), Moments::new(2));
        for i in 0..100 {
            let x = f64::from(i) * 0.37 - 3.0;
            alone.learn(&Columns::new(vec![0]), &[x]);
            beside.learn(&Columns::new(vec![0, 1]), &[x, if i % 7 == 2 { f64::NAN } else { x }]);
        }
        assert_eq!(alone.variance[0].to_bits(), beside.variance[0].to_bits());
        assert_eq!(alone.mean[0].to_bits(), beside.mean[0].to_bits());
    }

    #[test]
    fn a_damaged_state_is_refused_by_name() {
        let mut state = State::new();
        Moments::new(2).save(&mut state, "s.");
        state.put_f64("s.variance", &[1.0, -1.0]);
        let fault = Moments::new(2).load(&state, "s.").expect_err("negative variance");
        assert!(fault.message.contains("s.variance"), "{fault}");
        state.put_f64("s.mean", &[f64::NAN, 1.0]);
        assert!(Moments::new(2).load(&state, "s.").expect_err("NaN").message.contains("s.mean"));
    }
}
