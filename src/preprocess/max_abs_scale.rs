//! `max-abs-scale`: divides by the largest absolute value seen so far, which keeps zeros zero.
//!
//! Equals River's MaxAbsScaler: a column that has seen nothing but zeros becomes 0.
//! Option: `fields` (default: all numbers).

use super::columns::{Columns, read_finite};
use super::spec::Spec;
use super::{Built, DenseKind, Layout, Row, Step};
use crate::error::{Fault, Result};
use crate::state::State;
use serde_json::{Map, Value};

struct MaxAbsScale {
    columns: Columns,
    max_abs: Vec<f64>,
    /// All zero: this scaler doesn't shift.
    shift: Vec<f64>,
    /// Follows from `max_abs`, so it isn't saved.
    divisor: Vec<f64>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let index = Spec::new(spec, layout, &["fields"])?.dense(|_| true)?;
    let mut after = layout.clone();
    index.iter().for_each(|i| after.dense[*i].1 = DenseKind::Number);
    let n = index.len();
    let step = MaxAbsScale {
        columns: Columns::new(index),
        max_abs: vec![0.0; n],
        shift: vec![0.0; n],
        divisor: vec![f64::INFINITY; n],
    };
    Ok((Box::new(step), after))
}

impl MaxAbsScale {
    fn derive(&mut self) {
        for (divisor, max) in self.divisor.iter_mut().zip(&self.max_abs) {
            *divisor = if *max > 0.0 { *max } else { f64::INFINITY };
        }
    }
}

impl Step for MaxAbsScale {
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        self.columns.shift_divide(row, &self.shift, &self.divisor);
    }
    fn learn(&mut self, row: &Row, _text: &[u8], _weight: f64) {
        let max_abs = &mut self.max_abs;
        self.columns.each(&row.dense, |k, x| {
            if x.is_finite() && x.abs() > max_abs[k] {
                max_abs[k] = x.abs();
            }
        });
        self.derive();
    }
    fn save(&self, state: &mut State, prefix: &str) {
        state.put_f64(format!("{prefix}max_abs"), &self.max_abs);
    }
    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let name = format!("{prefix}max_abs");
        read_finite(state, &name, &mut self.max_abs)?;
        if self.max_abs.iter().any(|v| *v < 0.0) {
            return Err(Fault::corruption(format!("tensor {name:?}: a negative absolute value")));
        }
        self.derive();
        Ok(())
    }
}
