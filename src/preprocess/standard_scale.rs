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
use std::array::from_fn;

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

/// What a row meets in a column, before and after it was learned.
struct Visit<'a> {
    before: &'a mut [f64],
    after: &'a mut [f64],
    share: f64,
    moments: &'a mut Moments,
    divisor: &'a mut [f64],
}

crate::wide! {
    /// All that a row without gaps in the counts does to the statistics and they to it, a column at a time:
    /// so the processor divides for one column while it takes roots for the next. False, and nothing is done,
    /// where a number is missing or beyond what is learned.
    fn visit_all(visit: Visit<'_>) -> bool {
        let Visit { before, after, share, moments, divisor } = visit;
        let bits = before.iter().zip(after.iter()).fold(0, |bits, (x, y)| bits | misfit(*x) | misfit(*y));
        if bits >> 63 != 0 {
            return false;
        }
        let Moments { count, mean, variance, .. } = moments;
        let (before, before_tail) = before.as_chunks_mut::<4>();
        let (after, after_tail) = after.as_chunks_mut::<4>();
        let (count, count_tail) = count.as_chunks_mut::<4>();
        let (mean, mean_tail) = mean.as_chunks_mut::<4>();
        let (variance, variance_tail) = variance.as_chunks_mut::<4>();
        let (divisor, divisor_tail) = divisor.as_chunks_mut::<4>();
        let rows = before.iter_mut().zip(after);
        for ((before, after), (((count, mean), variance), divisor)) in rows.zip(count.iter_mut().zip(mean).zip(variance).zip(divisor)) {
            visit_some(before, after, share, [count, mean, variance, divisor]);
            turn();
        }
        let rows = before_tail.iter_mut().zip(after_tail);
        let statistics = count_tail.iter_mut().zip(mean_tail).zip(variance_tail).zip(divisor_tail);
        for ((before, after), (((count, mean), variance), divisor)) in rows.zip(statistics) {
            visit_some(
                std::array::from_mut(before),
                std::array::from_mut(after),
                share,
                [count, mean, variance, divisor].map(std::array::from_mut),
            );
        }
        true
    }
}

/// Neighbouring columns.
#[inline(always)]
fn visit_some<const N: usize>(
    before: &mut [f64; N],
    after: &mut [f64; N],
    share: f64,
    [count, mean, variance, divisor]: [&mut [f64; N]; 4],
) {
    // All is loaded, then computed, then stored: so the compiler sees that several columns go at once.
    let (unseen, x, old_mean, old_variance, old_divisor) = (*before, *after, *mean, *variance, *divisor);
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
    fn visit(&mut self, before: &mut Row, after: &mut Row, text: &[u8], weight: f64) {
        if self.with_std
            && let Some(share) = self.moments.share()
            && let (Some(before), Some(after)) =
                (self.columns.neighbours(&mut before.dense), self.columns.neighbours(&mut after.dense))
            && visit_all(Visit { before, after, share, moments: &mut self.moments, divisor: &mut self.divisor })
        {
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

    fn scaler(columns: usize) -> StandardScale {
        let (columns, moments) = (Columns::new((1..columns + 1).collect()), Moments::new(columns));
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
        ) {
            let mut steps: Vec<StandardScale> = (0..4).map(|_| scaler(rows[0].len() - 2)).collect();
            for dense in &rows {
                let mut outcome = steps.iter_mut().enumerate().map(|(way, step)| {
                    let mut before = Row { dense: dense.clone(), ..Row::default() };
                    let mut after = Row { dense: dense.clone(), ..Row::default() };
                    let mut run = || {
                        if way % 2 == 0 {
                            step.visit(&mut before, &mut after, b"", 1.0);
                        } else {
                            step.transform(&mut before, b"");
                            step.learn(&after, b"", 1.0);
                            step.transform(&mut after, b"");
                        }
                    };
                    if way < 2 { run() } else { narrowly(run) }
                    (bits(step, &before), bits(step, &after))
                });
                let first = outcome.next().expect("four ways");
                for (way, other) in outcome.enumerate() {
                    prop_assert_eq!(&first, &other, "way {}", way + 1);
                }
            }
        }
    }
}
