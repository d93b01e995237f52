//! Steps: what happens to a row before the model sees it. One step a file.
//!
//! A row starts as the features of its event and is changed in place by one step after another. A
//! step may hold learned state; it learns from labelled events only, after the event was scored, from
//! the row as the steps before it left it (after their own learning). These are River's conventions.

use crate::batch::Token;
use crate::error::Result;
use crate::state::State;

/// A row on its way through the steps. Its vectors are reused.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// Dense numbers, NaN where missing.
    pub dense: Vec<f64>,
    /// Categories and texts; their bytes are in the batch's arena.
    pub tokens: Vec<Token>,
    /// Slots of hashed features.
    pub indices: Vec<u32>,
    /// Values of hashed features.
    pub values: Vec<f64>,
}

/// Type of a dense column, as far as steps ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DenseKind {
    /// A number.
    Number,
    /// 0 or 1.
    Bool,
    /// Milliseconds since 1970-01-01 UTC.
    Timestamp,
}

/// Type of a token column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenColumn {
    /// One of a set.
    Category,
    /// Free text.
    Text,
}

/// What a row holds at one point of the pipeline: names and types of its columns.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layout {
    /// Dense columns, in their order.
    pub dense: Vec<(String, DenseKind)>,
    /// Token columns, in their order.
    pub tokens: Vec<(String, TokenColumn)>,
    /// Size of the hashed table that `indices` point into (0: nothing is hashed).
    pub slots: usize,
}

impl Layout {
    /// Index of a dense column by its name.
    pub fn dense_index(&self, name: &str) -> Option<usize> {
        self.dense.iter().position(|(n, _)| n == name)
    }
    /// Index of a token column by its name.
    pub fn token_index(&self, name: &str) -> Option<usize> {
        self.tokens.iter().position(|(n, _)| n == name)
    }
}

/// A step. `transform` is a function of its state and the row; `learn` changes the state alone.
pub trait Step: Send {
    /// Changes the row in place. `text` is the arena of the row's tokens.
    fn transform(&self, row: &mut Row, text: &[u8]);

    /// Learns the statistics of a row (as it comes into this step).
    fn learn(&mut self, row: &Row, text: &[u8], weight: f64) {
        let _ = (row, text, weight);
    }

    /// Stores everything that a later transform depends on under `prefix` (`{prefix}mean`, …).
    fn save(&self, state: &mut State, prefix: &str) {
        let _ = (state, prefix);
    }

    /// Takes the state back. `self` was built from the same spec.
    ///
    /// # Errors
    /// Corruption, naming the tensor that is missing or doesn't fit.
    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let _ = (state, prefix);
        Ok(())
    }
}
