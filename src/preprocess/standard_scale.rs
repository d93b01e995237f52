//! `standard-scale`: subtracts the running mean and divides by the running standard deviation.
//!
//! Equals River's StandardScaler: population variance, and a column without variance becomes 0.
//! Options: `fields` (default: all numbers), `with_std` (default true; false only subtracts the mean).

use super::columns::{Columns, shift_divide};
use super::moments::{Moments, update};
use super::spec::Spec;
use super::{Built, DenseKind, Layout, Row, Step};
use crate::error::Result;
use crate::state::State;
use serde_json::{Map, Value};

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

crate::wide! {
    /// All that a row without gaps in the counts does to the statistics and they to it, a column at a time:
    /// so the processor divides for one column while it takes roots for the next.
    fn learn_scale(dense: &mut [f64], share: f64, moments: &mut Moments, divisor: &mut [f64]) {
        let Moments { count, mean, variance } = moments;
        let statistics = count.iter_mut().zip(mean).zip(variance).zip(divisor);
        for (x, (((count, mean), variance), divisor)) in dense.iter_mut().zip(statistics) {
            update(*x, share, count, mean, variance);
            *divisor = divisor_of(*variance);
            *x = shift_divide(*x, *mean, *divisor);
        }
    }
}

impl Step for StandardScale {
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        self.columns.shift_divide(row, &self.moments.mean, &self.divisor);
    }
    fn learn(&mut self, row: &Row, _text: &[u8], _weight: f64) {
        self.moments.learn(&self.columns, &row.dense);
        self.derive();
    }
    fn learn_transform(&mut self, row: &mut Row, text: &[u8], weight: f64) {
        if self.with_std
            && let Some(share) = self.moments.share()
            && let Some(dense) = self.columns.neighbours(&mut row.dense)
        {
            learn_scale(dense, share, &mut self.moments, &mut self.divisor);
            return;
        }
        self.learn(row, text, weight);
        self.transform(row, text);
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
        let Moments { count, mean, variance } = &step.moments;
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
                        step.transform(&mut before, b"");
                        if way % 2 == 0 {
                            step.learn_transform(&mut after, b"", 1.0);
                        } else {
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
