//! What stands in for missing values before the first step.

use super::PipelineSpec;
use crate::batch::{Batch, Reject, Stage, Token, TokenKind};
use crate::error::{Fault, Result};
use crate::preprocess::Row;
use crate::schema::{Missing, Role, Schema, Slot};
use crate::state::{COUNT_MAX, State};
use crate::wide::turn;
use serde_json::Value;
use std::hint::select_unpredictable;
use std::ops::Range;

/// Most rows of a batch that wait to be added up.
const WAITING_MAX: usize = 64;

/// What stands in for a missing number, by the fields' policies, before the first step.
///
/// `impute` is the running mean of the values seen by `learn` (0 before the first): a sum and a count a
/// field. A field that an explicit `impute` step covers is left to that step.
pub(super) struct Fill {
    policy: Vec<Missing>,
    fields: Vec<u16>,
    reject_tokens: Vec<(usize, u16)>,
    sums: Vec<f64>,
    counts: Vec<f64>,
    /// Some number's policy is to take the mean.
    pub imputes: bool,
    /// Rows of the batch at hand that were learned, and wait to be added up together.
    waiting: Range<usize>,
    /// Room for the next sums.
    next: Vec<f64>,
    /// Some number's policy is to turn the row away.
    rejects: bool,
}

impl Fill {
    pub fn new(spec: &PipelineSpec, schema: &Schema) -> Fill {
        let mut fill = Fill {
            policy: vec![Missing::Keep; schema.feature_numbers],
            fields: vec![0; schema.feature_numbers],
            reject_tokens: Vec::new(),
            sums: vec![0.0; schema.feature_numbers],
            counts: vec![0.0; schema.feature_numbers],
            imputes: false,
            waiting: 0..0,
            next: vec![0.0; schema.feature_numbers],
            rejects: false,
        };
        for (index, field) in schema.fields.iter().enumerate().filter(|(_, f)| f.role == Role::Feature) {
            match field.slot {
                Slot::Number(slot) => {
                    let by_step = field.missing == Missing::Impute && has_impute_step(spec, &field.name);
                    fill.policy[slot] = if by_step { Missing::Keep } else { field.missing };
                    fill.fields[slot] = index as u16;
                }
                Slot::Token(slot) if field.missing == Missing::Reject => fill.reject_tokens.push((slot, index as u16)),
                Slot::Token(_) => {}
            }
        }
        fill.imputes = fill.policy.contains(&Missing::Impute);
        fill.rejects = fill.policy.contains(&Missing::Reject);
        fill
    }

    /// True where [`Fill::check`] may fault.
    pub fn rejects(&self) -> bool {
        self.rejects || !self.reject_tokens.is_empty()
    }

    pub fn check(&self, numbers: &[f64], tokens: &[Token]) -> Result<(), Reject> {
        let reason = "the field is missing, and its policy is \"reject\"";
        let reject = |field| Reject { stage: Stage::Missing, reason, field: Some(field), byte: 0 };
        for &(slot, field) in &self.reject_tokens {
            if tokens[slot].kind == TokenKind::Missing {
                return Err(reject(field));
            }
        }
        if self.rejects && has_nan(numbers) {
            for (slot, x) in numbers.iter().enumerate() {
                if x.is_nan() && self.policy[slot] == Missing::Reject {
                    return Err(reject(self.fields[slot]));
                }
            }
        }
        Ok(())
    }

    /// Fills the gaps of a row that has any (see [`copy_numbers`]). No row waits.
    pub fn transform(&self, row: &mut Row) {
        for (slot, x) in row.dense.iter_mut().enumerate().filter(|(_, x)| x.is_nan()) {
            match self.policy[slot] {
                Missing::Impute if self.counts[slot] > 0.0 => *x = self.sums[slot] / self.counts[slot],
                Missing::Impute | Missing::Zero => *x = 0.0,
                Missing::Reject | Missing::Keep => {}
            }
        }
    }

    pub fn learn(&mut self, row: &Row) {
        if self.imputes {
            add_up(&row.dense, &mut self.sums, &mut self.counts);
        }
    }

    /// Learns a row without gaps of the batch at hand, at the latest when [`Fill::catch_up`] is called: no row that
    /// comes before a gap needs the sums, and rows are added up together for less.
    #[inline]
    pub fn learn_later(&mut self, batch: &Batch, row: usize) {
        if !self.imputes {
            return;
        }
        if self.waiting.end != row || self.waiting.len() == WAITING_MAX {
            self.catch_up(batch);
            self.waiting = row..row;
        }
        self.waiting.end = row + 1;
    }

    /// Adds up the rows that wait. Before a gap is filled, and at a batch's end.
    pub fn catch_up(&mut self, batch: &Batch) {
        let rows = std::mem::take(&mut self.waiting);
        if rows.is_empty() {
            return;
        }
        let (stride, width) = (batch.number_stride, self.sums.len());
        let numbers = &batch.numbers[rows.start * stride..rows.end * stride];
        if add_rows(numbers, stride, &self.sums, &mut self.next) {
            std::mem::swap(&mut self.sums, &mut self.next);
            self.counts.iter_mut().for_each(|n| *n += rows.len() as f64);
        } else {
            // Some sum would overflow: a number at a time, without those that do it.
            numbers.chunks_exact(stride).for_each(|row| add_up(&row[..width], &mut self.sums, &mut self.counts));
        }
    }

    pub fn save(&self, state: &mut State) {
        state.put_f64("fill.sums", &self.sums);
        state.put_f64("fill.counts", &self.counts);
    }

    pub fn load(&mut self, state: &State) -> Result<()> {
        state.read_f64("fill.sums", &mut self.sums)?;
        state.read_f64("fill.counts", &mut self.counts)?;
        let count = |n: f64| (0.0..=COUNT_MAX as f64).contains(&n) && n.fract() == 0.0;
        match self.counts.iter().find(|n| !count(**n)) {
            Some(bad) => Err(Fault::corruption(format!("tensor \"fill.counts\": {bad} is no count"))),
            None => Ok(()),
        }
    }
}

crate::wide! {
    /// Adds each number to its sum, unless the sum would overflow (or the number is missing).
    fn add_up(numbers: &[f64], sums: &mut [f64], counts: &mut [f64]) {
        let add = |x: f64, sum: &mut f64, count: &mut f64| {
            // Adding -0.0 changes nothing, and all is always stored: a store that is skipped now and then is
            // done number by number, and the next row, which loads several at once, would wait for it.
            let counts = (*sum + x).is_finite();
            *sum += select_unpredictable(counts, x, -0.0);
            *count += select_unpredictable(counts, 1.0, 0.0);
        };
        let ((x, x_tail), (sum, sum_tail)) = (numbers.as_chunks::<4>(), sums.as_chunks_mut::<4>());
        let (count, count_tail) = counts.as_chunks_mut::<4>();
        for ((x, sum), count) in x.iter().zip(sum).zip(count) {
            (0..4).for_each(|i| add(x[i], &mut sum[i], &mut count[i]));
            turn();
        }
        for ((x, sum), count) in x_tail.iter().zip(sum_tail).zip(count_tail) {
            add(*x, sum, count);
        }
    }
}

crate::wide! {
    /// The sums with all rows' numbers added, a row after the other. True where every one is finite: then all on
    /// the way were, since nothing finite brings an infinite sum back.
    fn add_rows(numbers: &[f64], stride: usize, sums: &[f64], next: &mut [f64]) -> bool {
        let (sums, sums_tail) = sums.as_chunks::<16>();
        let (next, next_tail) = next.as_chunks_mut::<16>();
        let (mut at, mut finite) = (0, true);
        for (sums, next) in sums.iter().zip(next) {
            finite &= add_columns(numbers, stride, at, sums, next);
            at += 16;
        }
        let ((sums, sums_tail), (next, next_tail)) = (sums_tail.as_chunks::<4>(), next_tail.as_chunks_mut::<4>());
        for (sums, next) in sums.iter().zip(next) {
            finite &= add_columns(numbers, stride, at, sums, next);
            at += 4;
        }
        for (sum, next) in sums_tail.iter().zip(next_tail) {
            finite &= add_columns(numbers, stride, at, &[*sum], std::array::from_mut(next));
            at += 1;
        }
        finite
    }
}

/// The same for the `N` columns from `at` on.
#[inline(always)]
fn add_columns<const N: usize>(
    numbers: &[f64],
    stride: usize,
    at: usize,
    sums: &[f64; N],
    next: &mut [f64; N],
) -> bool {
    let mut lanes = *sums;
    for row in numbers.chunks_exact(stride) {
        let Some(x) = row[at..].first_chunk::<N>() else { return false };
        for i in 0..N {
            lanes[i] += x[i];
        }
    }
    *next = lanes;
    lanes.iter().fold(true, |finite, sum| finite & sum.is_finite())
}

crate::wide! {
    /// Copies numbers, as many as `to` holds. True where one is missing.
    pub fn copy_numbers(from: &[f64], to: &mut [f64]) -> bool {
        let n = to.len();
        let ((from, from_tail), (to, to_tail)) = (from[..n].as_chunks::<4>(), to.as_chunks_mut::<4>());
        let mut missing = [false; 4];
        for (from, to) in from.iter().zip(to) {
            *to = *from;
            missing = std::array::from_fn(|i| missing[i] | from[i].is_nan());
            turn();
        }
        let mut any = missing.iter().fold(false, |any, missing| any | missing);
        for (from, to) in from_tail.iter().zip(to_tail) {
            *to = *from;
            any |= from.is_nan();
        }
        any
    }
}

crate::wide! {
    /// True where a number is missing.
    pub fn has_nan(numbers: &[f64]) -> bool {
        let (sixteens, rest) = numbers.as_chunks::<16>();
        // Two at a time: one comparison tells whether either is missing.
        let any = |x: &[f64; 16]| {
            let fours: [bool; 4] = std::array::from_fn(|i| {
                (x[i].is_nan() | x[i + 4].is_nan()) | (x[i + 8].is_nan() | x[i + 12].is_nan())
            });
            (fours[0] | fours[1]) | (fours[2] | fours[3])
        };
        sixteens.iter().any(any) | rest.iter().fold(false, |any, x| any | x.is_nan())
    }
}

fn has_impute_step(spec: &PipelineSpec, field: &str) -> bool {
    spec.steps.iter().filter(|s| s.get("kind").and_then(Value::as_str) == Some("impute")).any(|step| {
        match step.get("fields").and_then(Value::as_array) {
            Some(fields) => fields.iter().any(|f| f.as_str() == Some(field)),
            None => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{RowOrigin, Span};
    use crate::wide::narrowly;

    /// Rows that wait are added up together; sums and counts are those of one row at a time, also where a sum would
    /// overflow, and whatever was skipped.
    #[test]
    fn rows_added_up_together_are_rows_added_up_one_by_one() {
        for width in [1, 3, 4, 7, 16, 23, 41] {
            let mut text =
                "name = \"t\"\nmodel.kind = \"perceptron\"\n[schema]\nlabel = \"y\"\n[schema.fields]\n".to_string();
            (0..width).for_each(|i| text += &format!("x{i} = \"float\"\n"));
            let spec = PipelineSpec::parse(&(text + "y = \"bool\"\n")).expect("spec");
            let schema = Schema::from_spec(&spec.schema).expect("schema");
            for extreme in [false, true] {
                let mut batch = Batch::new(schema.number_stride, schema.token_stride);
                let origin = RowOrigin { raw: Span::new(0, 0), record: 0, input: 0, offset: 0, row: None, sequence: 0 };
                for row in 0..500_usize {
                    batch.push_row(origin);
                    for (i, x) in batch.numbers[row * schema.number_stride..].iter_mut().enumerate() {
                        let huge = extreme && (row + i) % 89 == 0;
                        *x = if huge { f64::MAX } else { ((row * 31 + i * 17) % 101) as f64 / 7.0 - 6.0 };
                    }
                }
                let mut fills = [0; 3].map(|_| Fill::new(&spec, &schema));
                for row in (0..500).filter(|row| row % 150 != 3) {
                    let dense = batch.row_numbers(row)[..width].to_vec();
                    fills[0].learn(&Row { dense, ..Row::default() });
                    fills[1].learn_later(&batch, row);
                    narrowly(|| fills[2].learn_later(&batch, row));
                }
                fills[1].catch_up(&batch);
                narrowly(|| fills[2].catch_up(&batch));
                let [one, together, narrow] = fills.map(|fill| {
                    assert!(fill.waiting.is_empty());
                    fill.sums.iter().chain(&fill.counts).map(|x| x.to_bits()).collect::<Vec<_>>()
                });
                assert_eq!(one, together, "{width} {extreme}");
                assert_eq!(one, narrow, "{width} {extreme}");
            }
        }
    }
}
