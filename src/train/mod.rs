//! Batch training: fits a model on a table, as a warm start for what then learns online.
//!
//! The fitting is linfa's and, for networks, candle's; scoring is ours. Each fit is turned into the
//! tensors that [`crate::model::Model::load`] takes, so a trained model is served and goes on learning
//! like any other. Settings stand in the spec's `[model.train]`:
//!
//! | kind | settings (default) |
//! |---|---|
//! | `linear-regression` | `l1`, `l2` (the model's; both 0: ordinary least squares, else elastic net), `max_iterations` (1,000), `tolerance` (1e-6), `intercept` (true) |
//! | `logistic-regression`, `softmax-regression` | `l2` (1: on the sum of the losses), `max_iterations` (100), `tolerance` (1e-4); the first also `intercept` (true) |
//! | `decision-tree` | `max_depth` (12), `min_weight_split` (2), `min_weight_leaf` (1), `min_impurity_decrease` (1e-5), `split_quality` (gini, entropy) |
//! | `gaussian-naive-bayes` | `var_smoothing` (1e-9) |
//! | `k-means` | `runs` (10), `max_iterations` (300), `tolerance` (1e-4) |
//! | `multilayer-perceptron` | `epochs` (20), `batch_rows` (64), `optimizer` (adamw, sgd), `learning_rate` (0.001), `weight_decay` (0.01; adamw) |
//!
//! Row weights are taken by ordinary least squares, trees and networks; the other fits refuse weights
//! that differ. A row of weight 0 is left out everywhere.

mod bayes;
mod clusters;
mod linear;
#[cfg(feature = "candle")]
mod network;
mod tree;

pub use tree::flatten as flatten_tree;

use crate::error::{Fault, Result};
use crate::model::options::{Options, quoted};
use crate::model::{self, LabelKind, Model, Shape};
use crate::state::State;
use ndarray::{Array2, Axis};
use serde_json::{Map, Value};

/// Rows to train on, as the model would see them: after all steps.
#[derive(Debug, Clone)]
pub struct Table {
    /// Names of the features, one a column.
    pub names: Vec<String>,
    /// rows × features; finite.
    pub x: Array2<f64>,
    /// One a row: 0 or 1, a class number, or the number itself. Empty where no label is needed.
    pub target: Vec<f64>,
    /// One a row; finite and ≥ 0.
    pub weight: Vec<f64>,
    /// What the targets are.
    pub label: LabelKind,
    /// Names of the classes by number (category labels).
    pub classes: Vec<String>,
}

/// The kinds that [`fit`] trains, alphabetically.
pub const KINDS: &[&str] = &[
    "decision-tree",
    "gaussian-naive-bayes",
    "k-means",
    "linear-regression",
    "logistic-regression",
    "multilayer-perceptron",
    "softmax-regression",
];

/// Shown how far a fit is, from 0 to 1, and what it does.
pub type Progress<'a> = &'a mut dyn FnMut(f64, &str);

/// Fits the model of a spec (its `[model]` table) on a table. Returns the tensors that the built
/// model's `load(state, prefix)` accepts. The same spec and table give the same bits, except for trees:
/// linfa breaks ties between classes, and adds up three or more, in an order that it draws anew.
///
/// # Errors
/// Misuse: a kind that isn't trained in batch, a setting out of range, a table that doesn't fit the
/// shape or can't be fitted (one class only, fewer distinct rows than clusters).
pub fn fit(
    model: &Map<String, Value>,
    shape: &Shape,
    table: &Table,
    prefix: &str,
    progress: Progress<'_>,
) -> Result<State> {
    let built = model::build(model, shape)?;
    let kind = model.get("kind").and_then(Value::as_str).unwrap_or_default();
    check(table, shape, kind)?;
    let kept;
    let table = if table.weight.contains(&0.0) {
        kept = without_weightless(table)?;
        &kept
    } else {
        table
    };
    let empty = Map::new();
    let settings = match model.get("train") {
        None => &empty,
        Some(Value::Object(map)) => map,
        Some(other) => return Err(Fault::misuse(format!("model.train is {other}; allowed is a table"))),
    };
    let job = Job { model, shape, table, prefix, built: &*built };
    let settings = Options::new("model.train", settings)?;
    progress(0.0, kind);
    let state = match kind {
        "decision-tree" => tree::fit(job, settings),
        "gaussian-naive-bayes" => bayes::fit(job, settings),
        "k-means" => clusters::fit(job, settings),
        "linear-regression" => linear::fit_linear(job, settings, progress),
        "logistic-regression" => linear::fit_logistic(job, settings),
        "softmax-regression" => linear::fit_softmax(job, settings),
        "multilayer-perceptron" => fit_network(job, settings, progress),
        other => {
            let fault = Fault::misuse(format!("model.kind {other:?} is not trained in batch"));
            Err(fault.hint(format!("one of {}; or run it, and it learns from the stream", quoted(KINDS))))
        }
    }?;
    // What was fitted must be fit to serve: the model itself is asked.
    model::build(model, shape)?.load(&state, prefix)?;
    progress(1.0, kind);
    Ok(state)
}

#[cfg(feature = "candle")]
fn fit_network(job: Job<'_>, settings: Options<'_>, progress: Progress<'_>) -> Result<State> {
    network::fit(job, settings, progress)
}

#[cfg(not(feature = "candle"))]
fn fit_network(_: Job<'_>, _: Options<'_>, _: Progress<'_>) -> Result<State> {
    Err(Fault::misuse("this build trains no networks: it was built without the feature \"candle\"")
        .hint("build with --features candle, or run the model untrained: it learns from the stream"))
}

/// What a fit works on.
struct Job<'a> {
    model: &'a Map<String, Value>,
    shape: &'a Shape,
    table: &'a Table,
    prefix: &'a str,
    /// The untrained model.
    built: &'a dyn Model,
}

impl Job<'_> {
    /// The untrained model's tensors, to be overwritten.
    fn untrained(&self) -> State {
        let mut state = State::new();
        self.built.save(&mut state, self.prefix);
        state
    }
    /// The name of a tensor.
    fn name(&self, tensor: &str) -> String {
        format!("{}{tensor}", self.prefix)
    }
    /// Refuses weights that differ, for fits that can't weigh rows.
    fn unweighted(&self) -> Result<()> {
        let first = self.table.weight.first();
        if self.table.weight.iter().all(|w| Some(w) == first) {
            return Ok(());
        }
        let kind = self.model.get("kind").and_then(Value::as_str).unwrap_or_default();
        Err(Fault::misuse(format!("batch training of {kind:?} takes no row weights, and schema.weight names some"))
            .hint("train without schema.weight, or let the model learn from the stream"))
    }
    /// A model's own hyperparameter that also steers its training.
    fn of_model(&self, key: &str, default: f64) -> f64 {
        self.model.get(key).and_then(Value::as_f64).unwrap_or(default)
    }
}

/// A fault of a library's fit, in our words.
fn failed(what: &str, error: impl std::fmt::Display) -> Fault {
    Fault::misuse(format!("{what} could not be fitted: {error}"))
}

/// Refuses a table that isn't what the shape says, or that holds something no fit can take.
fn check(table: &Table, shape: &Shape, kind: &str) -> Result<()> {
    let (rows, columns) = table.x.dim();
    if shape.slots > 0 {
        return Err(Fault::misuse("batch training takes dense features only, and a step hashes some")
            .hint("use one-hot instead of hash, or let the model learn from the stream"));
    }
    let labelled = kind != "k-means";
    if rows == 0 {
        return Err(Fault::misuse(if labelled { "no labelled row to train on" } else { "no row to train on" }));
    }
    if columns != shape.dense.len() || table.weight.len() != rows || (labelled && table.target.len() != rows) {
        return Err(Fault::internal("a training table's columns, targets or weights don't fit its rows"));
    }
    if let Some(((row, column), value)) = table.x.indexed_iter().find(|(_, v)| !v.is_finite()) {
        let name = table.names.get(column).map_or("?", String::as_str);
        return Err(Fault::misuse(format!("row {row} holds {value} in feature {name:?}"))
            .hint("batch training needs finite features: use missing = \"impute\", \"zero\" or \"reject\""));
    }
    if let Some(weight) = table.weight.iter().find(|w| !(w.is_finite() && **w >= 0.0)) {
        return Err(Fault::misuse(format!("a row has the weight {weight}; a finite number of 0 or more is expected")));
    }
    if !labelled {
        return Ok(());
    }
    let classes = match table.label {
        LabelKind::Bool => 2,
        LabelKind::Category { classes_max } => classes_max,
        LabelKind::Number => usize::MAX,
    };
    let fits = |t: f64| match table.label {
        LabelKind::Number => t.is_finite(),
        _ => t >= 0.0 && t.fract() == 0.0 && t < classes as f64,
    };
    match table.target.iter().position(|t| !fits(*t)) {
        None => Ok(()),
        Some(row) => Err(Fault::misuse(format!(
            "row {row} has the target {}, which no label of its type has",
            table.target[row]
        ))),
    }
}

/// The table without its rows of weight 0.
fn without_weightless(table: &Table) -> Result<Table> {
    let rows: Vec<usize> = (0..table.weight.len()).filter(|r| table.weight[*r] > 0.0).collect();
    if rows.is_empty() {
        return Err(Fault::misuse("every row has weight 0: nothing to train on"));
    }
    let pick = |of: &[f64]| if of.is_empty() { Vec::new() } else { rows.iter().map(|r| of[*r]).collect() };
    Ok(Table {
        names: table.names.clone(),
        x: table.x.select(Axis(0), &rows),
        target: pick(&table.target),
        weight: pick(&table.weight),
        label: table.label,
        classes: table.classes.clone(),
    })
}
