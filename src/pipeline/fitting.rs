//! Batch training: the passes over a data set that let the steps learn, and the table for the model.

use super::golden::event_of;
use super::{GOLDEN_ROWS_MAX, GoldenRow, Pipeline};
use crate::batch::{Batch, RowStatus, TokenKind};
use crate::error::Result;
use crate::schema::Slot;
use crate::state::State;

impl Pipeline {
    /// Passes over the data that [`Pipeline::fit_steps`] needs: what stands in for missing values, then
    /// one a step, so that each learns from what the final statistics of those before it put out.
    pub fn learning_passes(&self) -> usize {
        1 + self.steps.len()
    }

    /// Batch training: lets what pass number `pass` is for learn the labelled rows of a batch.
    pub fn fit_steps(&mut self, batch: &mut Batch, pass: usize) {
        for row in 0..batch.len() {
            let Some(weight) = self.take_labelled(batch, row) else { continue };
            if pass == 0 {
                self.fill.learn(&self.row);
                continue;
            }
            self.fill.transform(&mut self.row);
            for step in &self.steps[..pass - 1] {
                step.transform(&mut self.row, &batch.text);
            }
            self.steps[pass - 1].learn(&self.row, &batch.text, weight);
        }
    }

    /// Batch training: appends the labelled rows of a batch as the model would see them (row-major),
    /// their targets and their weights.
    pub fn table_rows(&mut self, batch: &mut Batch, x: &mut Vec<f64>, target: &mut Vec<f64>, weight: &mut Vec<f64>) {
        for row in 0..batch.len() {
            let Some(w) = self.take_labelled(batch, row) else { continue };
            self.fill.transform(&mut self.row);
            for step in &self.steps {
                step.transform(&mut self.row, &batch.text);
            }
            let y = self.target(batch, row);
            if y.is_none() && !self.model.learns_unlabelled() {
                continue;
            }
            x.extend_from_slice(&self.row.dense);
            target.extend(y);
            weight.push(w);
            if self.golden.len() < GOLDEN_ROWS_MAX {
                self.golden.push(GoldenRow { event: event_of(&self.schema, batch, row), scores: Vec::new() });
            }
        }
    }

    /// Takes over a trained model's tensors.
    ///
    /// # Errors
    /// Corruption, naming the tensor that doesn't fit.
    pub fn load_model(&mut self, state: &State, learned: u64) -> Result<()> {
        self.model.load(state, "model.")?;
        self.learned = learned;
        Ok(())
    }

    /// Loads a row that training may use into `self.row`, and gives its weight. Rows that are turned
    /// away are marked.
    fn take_labelled(&mut self, batch: &mut Batch, row: usize) -> Option<f64> {
        if batch.status[row] != RowStatus::Ok {
            return None;
        }
        if let Err(reject) = self.take_row(batch, row) {
            batch.status[row] = RowStatus::Rejected(reject);
            return None;
        }
        let labelled = match self.label {
            Some((_, Slot::Number(slot))) => !batch.row_numbers(row)[slot].is_nan(),
            Some((_, Slot::Token(slot))) => batch.row_tokens(row)[slot].kind != TokenKind::Missing,
            None => false,
        };
        if !labelled && !self.model.learns_unlabelled() {
            return None;
        }
        Some(self.weight_of(batch, row))
    }
}
