//! `standard-scale`: subtracts the running mean and divides by the running standard deviation.
//!
//! Equals River's StandardScaler: population variance, and a column without variance becomes 0.
//! Options: `fields` (default: all numbers), `with_std` (default true; false only subtracts the mean).

use super::columns::Columns;
use super::moments::Moments;
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
            *divisor = if *variance > 0.0 { variance.sqrt() } else { f64::INFINITY };
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
    fn save(&self, state: &mut State, prefix: &str) {
        self.moments.save(state, prefix);
    }
    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        self.moments.load(state, prefix)?;
        self.derive();
        Ok(())
    }
}
