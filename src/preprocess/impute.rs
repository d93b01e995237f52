//! `impute`: fills missing numbers. Equals River's StatImputer (mean, constant) and PreviousImputer (last).
//!
//! Options: `fields` (default: all numbers), `strategy` = `mean` (default) | `constant` | `last`,
//! `value` (the constant; default 0). Mean and last answer 0 until a value was seen.
//!
//! A missing category isn't filled: it is a class of its own wherever categories are used.

use super::columns::{Columns, put_counts, read_counts, read_finite};
use super::spec::Spec;
use super::{Built, Layout, Row, Step};
use crate::error::{Fault, Result};
use crate::state::State;
use serde_json::{Map, Value};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Strategy {
    Mean,
    Constant,
    Last,
}

struct Impute {
    columns: Columns,
    strategy: Strategy,
    /// Values seen, a column each (mean only).
    count: Vec<f64>,
    /// What a missing number becomes.
    fill: Vec<f64>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let spec = Spec::new(spec, layout, &["fields", "strategy", "value"])?;
    let strategy = match spec.word("strategy", &["mean", "constant", "last"], "mean")? {
        "mean" => Strategy::Mean,
        "constant" => Strategy::Constant,
        _ => Strategy::Last,
    };
    let value = spec.number("value")?;
    if value.is_some() && strategy != Strategy::Constant {
        return Err(Fault::misuse("value: goes with strategy = \"constant\" only"));
    }
    let columns = Columns::new(spec.dense(|_| true)?);
    let n = columns.len();
    let step = Impute { columns, strategy, count: vec![0.0; n], fill: vec![value.unwrap_or(0.0); n] };
    Ok((Box::new(step), layout.clone()))
}

impl Step for Impute {
    fn learns(&self) -> bool {
        self.strategy != Strategy::Constant
    }
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        self.columns.map(&mut row.dense, &self.fill, &self.fill, |x, fill, _| if x.is_nan() { fill } else { x });
    }
    fn learn(&mut self, row: &Row, _text: &[u8], _weight: f64) {
        let Impute { columns, strategy, count, fill } = self;
        match strategy {
            Strategy::Constant => {}
            Strategy::Last => columns.each(&row.dense, |k, x| fill[k] = if x.is_finite() { x } else { fill[k] }),
            Strategy::Mean => columns.each(&row.dense, |k, x| {
                let n = count[k] + 1.0;
                let mean = fill[k] + (1.0 / n) * (x - fill[k]);
                let fits = mean.is_finite();
                count[k] = if fits { n } else { count[k] };
                fill[k] = if fits { mean } else { fill[k] };
            }),
        }
    }
    fn save(&self, state: &mut State, prefix: &str) {
        match self.strategy {
            Strategy::Constant => {}
            Strategy::Last => state.put_f64(format!("{prefix}last"), &self.fill),
            Strategy::Mean => {
                put_counts(state, format!("{prefix}count"), &self.count);
                state.put_f64(format!("{prefix}mean"), &self.fill);
            }
        }
    }
    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        match self.strategy {
            Strategy::Constant => Ok(()),
            Strategy::Last => read_finite(state, &format!("{prefix}last"), &mut self.fill),
            Strategy::Mean => {
                read_counts(state, &format!("{prefix}count"), &mut self.count)?;
                read_finite(state, &format!("{prefix}mean"), &mut self.fill)
            }
        }
    }
}
