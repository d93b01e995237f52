//! `min-max-scale`: maps the range seen so far to 0…1.
//!
//! Equals River's MinMaxScaler, except before the first value, where River answers NaN and this 0. A
//! column that has seen one value only becomes 0; a value outside the range goes below 0 or above 1.
//! Option: `fields` (default: all numbers).

use super::columns::{Columns, put_counts, read_counts, read_finite, tame};
use super::spec::Spec;
use super::{Built, DenseKind, Layout, Row, Step};
use crate::error::{Fault, Result};
use crate::state::State;
use serde_json::{Map, Value};

struct MinMaxScale {
    columns: Columns,
    count: Vec<f64>,
    /// 0 while nothing was seen, so that the saved state is finite.
    min: Vec<f64>,
    max: Vec<f64>,
    /// Follows from min and max, so it isn't saved.
    divisor: Vec<f64>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let index = Spec::new(spec, layout, &["fields"])?.dense(|_| true)?;
    let mut after = layout.clone();
    index.iter().for_each(|i| after.dense[*i].1 = DenseKind::Number);
    let n = index.len();
    let step = MinMaxScale {
        columns: Columns::new(index),
        count: vec![0.0; n],
        min: vec![0.0; n],
        max: vec![0.0; n],
        divisor: vec![f64::INFINITY; n],
    };
    Ok((Box::new(step), after))
}

impl MinMaxScale {
    fn derive(&mut self) {
        for ((divisor, min), max) in self.divisor.iter_mut().zip(&self.min).zip(&self.max) {
            *divisor = if max > min { tame(max - min) } else { f64::INFINITY };
        }
    }
}

impl Step for MinMaxScale {
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        self.columns.shift_divide(row, &self.min, &self.divisor);
    }
    fn learn(&mut self, row: &Row, _text: &[u8], _weight: f64) {
        let statistics = [&mut self.count[..], &mut self.min[..], &mut self.max[..]];
        self.columns.update(&row.dense, statistics, |x, count, min, max| {
            let (seen, first) = (x.is_finite(), *count == 0.0);
            *min = if seen & (first | (x < *min)) { x } else { *min };
            *max = if seen & (first | (x > *max)) { x } else { *max };
            *count += if seen { 1.0 } else { 0.0 };
        });
        self.derive();
    }
    fn save(&self, state: &mut State, prefix: &str) {
        put_counts(state, format!("{prefix}count"), &self.count);
        state.put_f64(format!("{prefix}min"), &self.min);
        state.put_f64(format!("{prefix}max"), &self.max);
    }
    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        read_counts(state, &format!("{prefix}count"), &mut self.count)?;
        read_finite(state, &format!("{prefix}min"), &mut self.min)?;
        read_finite(state, &format!("{prefix}max"), &mut self.max)?;
        for (k, (min, max)) in self.min.iter().zip(&self.max).enumerate() {
            if min > max {
                return Err(Fault::corruption(format!("tensor \"{prefix}min\": element {k} is above the maximum")));
            }
        }
        self.derive();
        Ok(())
    }
}
