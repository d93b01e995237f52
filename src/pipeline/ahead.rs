//! Rows that are made ready before their turn, where the model's hashed table is so large that what a row needs of it
//! must be fetched from far away: while a row is learned, what the next ones need is on its way.
//!
//! Only what depends on nothing that is learned is done ahead: rows without gaps, and the steps before the first that
//! learns. So a row is the same whenever it is made ready, and no score depends on how far ahead that is.

use super::event::{features, load};
use crate::batch::{Batch, RowStatus};
use crate::model::Model;
use crate::preprocess::{Row, Step};
use crate::schema::Schema;

/// How many rows ahead. A row of twenty categories asks for twenty lines of memory, and a core waits for some two
/// dozen at once.
const ROWS: usize = 3;

/// Room for the rows that are ready.
#[derive(Default)]
pub(super) struct Ahead {
    /// The batch's rows are made ready ahead.
    pub on: bool,
    /// Row i of the batch is at i modulo [`ROWS`].
    rows: [(Row, bool); ROWS],
}

impl Ahead {
    pub fn new(on: bool) -> Ahead {
        Ahead { on, ..Ahead::default() }
    }

    /// Makes the batch's first rows ready.
    pub fn begin(&mut self, of: &Source<'_>, batch: &Batch) {
        (0..ROWS).for_each(|row| self.make_ready(of, batch, row));
    }

    /// Row `row`, which takes the place of `to`, and gives its own to the one that is made ready. False where it
    /// isn't ready; then `to` is as it was.
    #[inline]
    pub fn take(&mut self, of: &Source<'_>, batch: &Batch, row: usize, to: &mut Row) -> bool {
        let (ready_row, ready) = &mut self.rows[row % ROWS];
        let ready = *ready;
        if ready {
            std::mem::swap(ready_row, to);
        }
        self.make_ready(of, batch, row + ROWS);
        ready
    }

    #[inline]
    fn make_ready(&mut self, of: &Source<'_>, batch: &Batch, index: usize) {
        let (row, ready) = &mut self.rows[index % ROWS];
        *ready = batch.status.get(index) == Some(&RowStatus::Ok) && !load(row, of.schema, batch, index);
        if *ready {
            of.steps.iter().for_each(|step| step.transform(row, &batch.text));
            of.model.prefetch(features(row).indices);
        }
    }
}

/// What makes rows ready.
pub(super) struct Source<'a> {
    pub schema: &'a Schema,
    /// Those before the first that learns.
    pub steps: &'a [Box<dyn Step>],
    pub model: &'a dyn Model,
}
