//! `standard-scale`: subtracts the running mean and divides by the running standard deviation.
//!
//! Equals River's StandardScaler: population variance, and a column without variance becomes 0.
//! Options: `fields` (default: all numbers), `with_std` (default true; false only subtracts the mean).

use super::columns::{Columns, tame};
use super::moments::{Moments, misfit, with};
use super::spec::Spec;
use super::{Built, DenseKind, Layout, Row, Step};
use crate::error::Result;
use crate::state::State;
use crate::wide::turn;
use serde_json::{Map, Value};
use std::array::{from_fn, from_mut};

struct StandardScale {
    columns: Columns,
    with_std: bool,
    moments: Moments,
    /// What a column is divided by: follows from the variance, so it isn't saved.
    divisor: Vec<f64>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let spec = Spec::new(spec, layout, &["fields", "with_std"])?;
    let with_std = spec.flag("with_std", true)?;
    let index = spec.dense(|_| true)?;
    let mut after = layout.clone();
    index.iter().for_each(|i| after.dense[*i].1 = DenseKind::Number);
    let columns = Columns::new(index);
    let moments = Moments::new(columns.len());
    let mut step = StandardScale { divisor: vec![1.0; columns.len()], columns, with_std, moments };
    step.derive();
    Ok((Box::new(step), after))
}

impl StandardScale {
    fn derive(&mut self) {
        if !self.with_std {
            return;
        }
        for (divisor, variance) in self.divisor.iter_mut().zip(&self.moments.variance) {
            *divisor = divisor_of(*variance);
        }
    }
}

#[inline(always)]
fn divisor_of(variance: f64) -> f64 {
    if variance > 0.0 { variance.sqrt() } else { f64::INFINITY }
}

/// All that a row without gaps in the counts does to the statistics and they to it, a column at a time:
/// so the processor divides for one column while it takes roots for the next. False, and nothing is done,
/// where a number is missing or beyond what is learned, or where that way isn't open. `fresh`: `after` is to be
/// what `before` is, first.
#[inline(always)]
fn visit_columns(step: &mut StandardScale, before: &mut [f64], after: &mut [f64], fresh: bool) -> bool {
    let StandardScale { columns, moments, divisor, with_std: true } = step else { return false };
    let Some(share) = moments.share() else { return false };
    let (Some(before), Some(after)) = (columns.neighbours(before), columns.neighbours(after)) else { return false };
    if any_misfit(before) || (!fresh && any_misfit(after)) {
        return false;
    }
    let n = before.len();
    let (before, before_tail) = before.as_chunks_mut::<4>();
    let (after, after_tail) = after[..n].as_chunks_mut::<4>();
    let (count, count_tail) = moments.count[..n].as_chunks_mut::<4>();
    let (mean, mean_tail) = moments.mean[..n].as_chunks_mut::<4>();
    let (variance, variance_tail) = moments.variance[..n].as_chunks_mut::<4>();
    let (divisor, divisor_tail) = divisor[..n].as_chunks_mut::<4>();
    let statistics = count.iter_mut().zip(mean).zip(variance).zip(divisor);
    for ((before, after), (((count, mean), variance), divisor)) in before.iter_mut().zip(after).zip(statistics) {
        let learned = if fresh { *before } else { *after };
        visit_some(before, learned, after, share, [count, mean, variance, divisor]);
        turn();
    }
    let statistics = count_tail.iter_mut().zip(mean_tail).zip(variance_tail).zip(divisor_tail);
    let rows = before_tail.iter_mut().zip(after_tail);
    for ((before, after), (((count, mean), variance), divisor)) in rows.zip(statistics) {
        let [before, after] = [before, after].map(from_mut);
        let learned = if fresh { *before } else { *after };
        visit_some(before, learned, after, share, [count, mean, variance, divisor].map(from_mut));
        turn();
    }
    true
}

crate::wide! {
    fn visit_all(step: &mut StandardScale, before: &mut [f64], after: &mut [f64]) -> bool {
        visit_columns(step, before, after, false)
    }
}

crate::wide! {
    fn part_all(step: &mut StandardScale, before: &mut [f64], after: &mut [f64]) -> bool {
        visit_columns(step, before, after, true)
    }
}

#[inline(always)]
fn any_misfit(numbers: &[f64]) -> bool {
    let ((numbers, tail), mut bits) = (numbers.as_chunks::<4>(), [0; 4]);
    for x in numbers {
        bits = from_fn(|i| bits[i] | misfit(x[i]));
        turn();
    }
    let bits = bits.iter().fold(0, |all, bits| all | bits);
    tail.iter().fold(bits, |bits, x| bits | misfit(*x)) >> 63 != 0
}

/// Neighbouring columns; `x` is what they learn.
#[inline(always)]
fn visit_some<const N: usize>(
    before: &mut [f64; N],
    x: [f64; N],
    after: &mut [f64; N],
    share: f64,
    [count, mean, variance, divisor]: [&mut [f64; N]; 4],
) {
    // All is loaded, then computed, then stored: so the compiler sees that several columns go at once.
    let (unseen, old_mean, old_variance, old_divisor) = (*before, *mean, *variance, *divisor);
    *before = from_fn(|i| scale(unseen[i], old_mean[i], old_divisor[i]));
    let learned: [(f64, f64); N] = from_fn(|i| with(x[i], share, old_mean[i], old_variance[i]));
    let new_divisor: [f64; N] = from_fn(|i| divisor_of(learned[i].1));
    *after = from_fn(|i| scale(x[i], learned[i].0, new_divisor[i]));
    *count = count.map(|n| n + 1.0);
    *mean = learned.map(|(mean, _)| mean);
    *variance = learned.map(|(_, variance)| variance);
    *divisor = new_divisor;
}

/// [`super::columns::shift_divide`] for a number that fits ([`misfit`]): its difference from the mean can't overflow.
#[inline(always)]
fn scale(x: f64, mean: f64, divisor: f64) -> f64 {
    tame((x - mean) / divisor) + 0.0
}

impl Step for StandardScale {
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        self.columns.shift_divide(row, &self.moments.mean, &self.divisor);
    }
    fn learn(&mut self, row: &Row, _text: &[u8], _weight: f64) {
        self.moments.learn(&self.columns, &row.dense);
        self.derive();
    }
    fn part(&mut self, before: &mut Row, after: &mut Row, text: &[u8], weight: f64) {
        if self.columns.len() == before.dense.len() && before.tokens.is_empty() && before.indices.is_empty() {
            after.set_width(before.dense.len());
            if part_all(self, &mut before.dense, &mut after.dense) {
                return;
            }
        }
        before.copy_to(after);
        self.visit(before, after, text, weight);
    }
    fn visit(&mut self, before: &mut Row, after: &mut Row, text: &[u8], weight: f64) {
        if visit_all(self, &mut before.dense, &mut after.dense) {
            return;
        }
        self.transform(before, text);
        self.learn(after, text, weight);
        self.transform(after, text);
    }
    fn save(&self, state: &mut State, prefix: &str) {
        self.moments.save(state, prefix);
    }
    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        self.moments.load(state, prefix)?;
        self.derive();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wide::narrowly;
    use proptest::prelude::*;

    fn scaler(columns: std::ops::Range<usize>) -> StandardScale {
        let (columns, moments) = (Columns::new(columns.clone().collect()), Moments::new(columns.len()));
        let divisor = vec![f64::INFINITY; columns.len()];
        StandardScale { columns, with_std: true, moments, divisor }
    }

    fn bits(step: &StandardScale, row: &Row) -> Vec<Vec<u64>> {
        let Moments { count, mean, variance, .. } = &step.moments;
        [count, mean, variance, &step.divisor, &row.dense]
            .map(|numbers| numbers.iter().map(|x| x.to_bits()).collect())
            .to_vec()
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            20 => -2.0..2.0f64,
            2 => Just(0.25),
            1 => Just(-0.0),
            1 => any::<f64>().prop_map(|x| if x.is_nan() { f64::NAN } else { x }),
            1 => prop_oneof![Just(f64::MAX), Just(-f64::MAX), Just(1e150), Just(5e-324)],
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
        /// At once and one after the other, wide and narrow: four ways, the same bits after each row.
        #[test]
        fn all_ways_to_learn_and_scale_agree(
            rows in (1usize..24).prop_flat_map(|n| proptest::collection::vec(proptest::collection::vec(number(), n + 2), 1..20)),
            all in any::<bool>(),
        ) {
            let width = rows[0].len();
            let mut steps: Vec<StandardScale> =
                (0..6).map(|_| if all { scaler(0..width) } else { scaler(1..width - 1) }).collect();
            for dense in &rows {
                let mut outcome = steps.iter_mut().enumerate().map(|(way, step)| {
                    let mut before = Row { dense: dense.clone(), ..Row::default() };
                    let mut after = Row { dense: dense.clone(), ..Row::default() };
                    let mut run = || match way % 3 {
                        0 => step.visit(&mut before, &mut after, b"", 1.0),
                        1 => step.part(&mut before, &mut after, b"", 1.0),
                        _ => {
                            step.transform(&mut before, b"");
                            step.learn(&after, b"", 1.0);
                            step.transform(&mut after, b"");
                        }
                    };
                    if way < 3 { run() } else { narrowly(run) }
                    (bits(step, &before), bits(step, &after))
                });
                let first = outcome.next().expect("six ways");
                for (way, other) in outcome.enumerate() {
                    prop_assert_eq!(&first, &other, "way {}", way + 1);
                }
            }
        }
    }
}
