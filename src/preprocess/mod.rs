//! Steps: what happens to a row before the model sees it. One step a file.
//!
//! A row starts as the features of its event and is changed in place by one step after another. A
//! step may hold learned state; it learns from labelled events only, after the event was scored, from
//! the row as the steps before it left it (after their own learning). These are River's conventions.
//!
//! What holds for every step:
//! - a missing number (NaN) passes through as NaN, and statistics don't see it; `impute` alone fills it;
//! - finite numbers stay finite: a result that overflows becomes the largest float of its sign;
//! - a value that would make a statistic non-finite is not learned (for mean and variance: beyond ±1e150);
//! - an event's weight is ignored (River's scalers do the same): weight 0 still counts as seen;
//! - before anything was learned, a scaler answers 0 and a learned bound doesn't clip.

use crate::batch::Token;
use crate::error::{Fault, Result};
use crate::state::State;
use serde_json::{Map, Value};

mod clip;
mod columns;
mod hash;
mod impute;
mod interact;
mod max_abs_scale;
mod min_max_scale;
mod moments;
mod one_hot;
mod polynomial;
mod quantile;
mod select;
mod spec;
mod standard_scale;
mod timestamp_parts;

/// The kinds of steps, as `kind = …` names them.
pub const KINDS: [&str; 12] = [
    "impute",
    "standard-scale",
    "min-max-scale",
    "max-abs-scale",
    "clip",
    "one-hot",
    "hash",
    "polynomial",
    "interact",
    "timestamp-parts",
    "select",
    "drop",
];

/// Most dense columns that a row may have behind a step.
pub const COLUMNS_MAX: usize = 65_536;

/// What a builder returns: the step, and the layout behind it.
type Built = Result<(Box<dyn Step>, Layout)>;

/// Builds the step of a spec table (`{"kind": …, "fields": […], …}`) for rows of `layout`, and says what
/// rows look like behind it.
///
/// # Errors
/// Misuse, naming the key: an unknown kind or key, a field that isn't there or is of a type that the
/// step can't take, a value out of its range. The caller adds which step it was (`.at("steps[1]")`).
pub fn build(spec: &Map<String, Value>, layout: &Layout) -> Result<(Box<dyn Step>, Layout)> {
    let kind = match spec.get("kind") {
        Some(Value::String(kind)) => kind.as_str(),
        Some(other) => return Err(Fault::misuse(format!("kind: {other} is not text")).hint(kinds_hint())),
        None => return Err(Fault::misuse("kind: missing").hint(kinds_hint())),
    };
    let (step, after) = match kind {
        "impute" => impute::build(spec, layout),
        "standard-scale" => standard_scale::build(spec, layout),
        "min-max-scale" => min_max_scale::build(spec, layout),
        "max-abs-scale" => max_abs_scale::build(spec, layout),
        "clip" => clip::build(spec, layout),
        "one-hot" => one_hot::build(spec, layout),
        "hash" => hash::build(spec, layout),
        "polynomial" => polynomial::build(spec, layout),
        "interact" => interact::build(spec, layout),
        "timestamp-parts" => timestamp_parts::build(spec, layout),
        "select" => select::build_select(spec, layout),
        "drop" => select::build_drop(spec, layout),
        _ => return Err(Fault::misuse(format!("kind: no step {kind:?}")).hint(kinds_hint())),
    }?;
    if after.dense.len() > COLUMNS_MAX {
        let columns = after.dense.len();
        return Err(Fault::misuse(format!("{kind}: rows would have {columns} columns; at most {COLUMNS_MAX}"))
            .hint("name fewer fields, or lower degree or categories_max"));
    }
    check_names(&after)?;
    Ok((step, after))
}

/// Refuses two columns of one name: a field may be named like a column that the step makes.
fn check_names(layout: &Layout) -> Result<()> {
    let dense = layout.dense.iter().map(|(n, _)| n.as_str());
    let mut names: Vec<&str> = dense.chain(layout.tokens.iter().map(|(n, _)| n.as_str())).collect();
    names.sort_unstable();
    match names.windows(2).find(|w| w[0] == w[1]) {
        Some(twice) => Err(Fault::misuse(format!("the step would make a column {:?}, and there is one", twice[0]))
            .hint("rename that field, or drop it before this step")),
        None => Ok(()),
    }
}

fn kinds_hint() -> String {
    format!("one of {}", KINDS.join(", "))
}

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

impl Row {
    /// Makes `to` equal.
    #[inline]
    pub fn copy_to(&self, to: &mut Row) {
        refill(&mut to.dense, &self.dense);
        refill(&mut to.tokens, &self.tokens);
        refill(&mut to.indices, &self.indices);
        refill(&mut to.values, &self.values);
    }

    /// As many dense numbers, whatever they are, and nothing else.
    #[inline]
    fn set_width(&mut self, width: usize) {
        if self.dense.len() != width {
            self.dense.resize(width, 0.0);
        }
        self.tokens.clear();
        self.indices.clear();
        self.values.clear();
    }
}

/// Makes one equal to the other. Most rows have nothing in some of theirs.
#[inline]
pub(crate) fn refill<T: Copy>(to: &mut Vec<T>, from: &[T]) {
    to.clear();
    if !from.is_empty() {
        to.extend_from_slice(from);
    }
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

    /// False where `learn` never changes anything, so that a row that was learned is transformed as one that wasn't.
    fn learns(&self) -> bool {
        true
    }

    /// An event's whole visit: `before`, which the model will score, is transformed by the state as it stands;
    /// then `after`, which it will learn, is learned and transformed. For steps that do it all at once for less.
    fn visit(&mut self, before: &mut Row, after: &mut Row, text: &[u8], weight: f64) {
        self.transform(before, text);
        self.learn(after, text, weight);
        self.transform(after, text);
    }

    /// [`Step::visit`] of the first step that learns: `before` is still both, and `after` nothing yet.
    fn part(&mut self, before: &mut Row, after: &mut Row, text: &[u8], weight: f64) {
        before.copy_to(after);
        self.visit(before, after, text, weight);
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
