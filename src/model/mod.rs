//! Models: what scores a row and, if it can, learns from it. One family a file.
//!
//! A model sees a row's features after all steps: dense numbers, and hashed sparse ones. It does no
//! I/O, reads no clock, draws no unseeded randomness, and adds up in an order that depends on nothing
//! but the features, so that equal rows in equal order give equal bits on every machine.

pub mod k_means;
pub mod kernels;
pub mod layers;
pub mod linear;
pub mod loss;
pub mod multilayer_perceptron;
pub mod naive_bayes;
pub mod optimizer;
pub mod options;
pub mod passive_aggressive;
pub mod quad;
pub(crate) mod random;
pub mod softmax;
pub mod table;
pub mod tree;
pub mod vw;

pub use crate::batch::Task;
use crate::error::{Fault, Result};
use crate::state::State;
use options::{Options, quoted};
use serde_json::{Map, Value};

/// A row's features, as the model sees them.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// Dense numbers; their count is fixed by the pipeline. May hold NaN only if [`Model::routes_nan`].
    pub dense: &'a [f64],
    /// Slots of the hashed features, each below the model's table size. A slot may occur twice.
    pub indices: &'a [u32],
    /// Values of the hashed features, one a slot.
    pub values: &'a [f64],
}

/// What became of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// The model took it in (or keeps it until its learning unit is full).
    Applied,
    /// The update would have made a weight non-finite: nothing was changed.
    Refused,
    /// The model does not learn online.
    Frozen,
}

/// Memory that scoring may use; nothing in it survives a call.
#[derive(Debug, Default)]
pub struct Scratch {
    /// A buffer.
    pub a: Vec<f64>,
    /// Another.
    pub b: Vec<f64>,
    /// One in single precision (networks).
    pub single: Vec<f32>,
}

/// Most rows that are scored together.
pub const TOGETHER_MAX: usize = 12;

/// A row's visit to a model: it is scored, and then it may be learned.
#[derive(Debug, Clone, Copy)]
pub struct Visit<'a> {
    /// What is scored.
    pub before: Features<'a>,
    /// What is learned, where that isn't the same.
    pub after: Option<Features<'a>>,
    /// Target and weight, where it is learned.
    pub learns: Option<(f64, f64)>,
}

/// A model. `score` and `learn` are deterministic functions of the state and their arguments.
pub trait Model: Send {
    /// What it predicts.
    fn task(&self) -> Task;

    /// Scores a row. `out` is as wide as the task says: Binary, Regression, Anomaly 1; Clusters 2
    /// (number, distance); Multiclass one a class known so far (class numbers are given out by the
    /// pipeline in order of appearance, and may be fewer than the model has room for).
    fn score(&self, x: Features<'_>, scratch: &mut Scratch, out: &mut [f64]);

    /// How many rows it pays to score together, at most [`TOGETHER_MAX`]; 1: none.
    fn together(&self) -> usize {
        1
    }

    /// Scores rows by one state, each as [`Model::score`] would, to the bit. `out` holds their scores one after
    /// another, all of one width.
    fn score_rows(&self, rows: &[Features<'_>], scratch: &mut Scratch, out: &mut [f64]) {
        let width = out.len() / rows.len().max(1);
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(width.max(1))) {
            self.score(*row, scratch, out);
        }
    }

    /// Scores rows, then learns those that are to be learned, in order; `out` as in [`Model::score_rows`]. The rows are
    /// at most [`TOGETHER_MAX`], and those to learn at most [`Model::unit_left`]. What became of each comes back, and
    /// `Frozen` for one that wasn't to be learned.
    fn score_learn_rows(
        &mut self,
        rows: &[Visit<'_>],
        scratch: &mut Scratch,
        out: &mut [f64],
    ) -> [Learned; TOGETHER_MAX] {
        let mut learned = [Learned::Frozen; TOGETHER_MAX];
        score_then_learn(self, rows, scratch, out, &mut learned);
        learned
    }

    /// How many rows may at least be learned before a score changes, the last of them included: what is left of a
    /// model's learning unit. So as many may be scored before the first is learned.
    fn unit_left(&self) -> u64 {
        1
    }

    /// Learns from a row. `target` is as the task says (unused where no label is needed); `weight` is
    /// finite and ≥ 0. An update that would make a weight non-finite is refused before it is applied.
    fn learn(&mut self, x: Features<'_>, target: f64, weight: f64) -> Learned;

    /// Scores a row, then learns it; for models that do both at once for less. `after` is the row that is learned,
    /// where it isn't the one that is scored (the steps before the model have learned it meanwhile).
    fn score_learn(
        &mut self,
        before: Features<'_>,
        after: Option<Features<'_>>,
        target: f64,
        weight: f64,
        scratch: &mut Scratch,
        out: &mut [f64],
    ) -> Learned {
        self.score(before, scratch, out);
        self.learn(after.unwrap_or(before), target, weight)
    }

    /// True for models that learn from unlabelled events too.
    fn learns_unlabelled(&self) -> bool {
        false
    }
    /// True for models that route NaN (`missing = "keep"`).
    fn routes_nan(&self) -> bool {
        false
    }
    /// True for models that learn online.
    fn learns(&self) -> bool {
        true
    }

    /// True where hashed slots are so many that it pays to [`Model::prefetch`] what a later row will need.
    fn fetches_ahead(&self) -> bool {
        false
    }
    /// Asks the processor to fetch what belongs to these slots. Changes nothing.
    fn prefetch(&self, indices: &[u32]) {
        let _ = indices;
    }

    /// Stores everything that a later score depends on under `prefix` (`{prefix}weights`, …).
    fn save(&self, state: &mut State, prefix: &str);

    /// Takes the state back. `self` was built from the same spec. A fault leaves `self` unusable.
    ///
    /// # Errors
    /// Corruption, naming the tensor that is missing or doesn't fit.
    fn load(&mut self, state: &State, prefix: &str) -> Result<()>;
}

/// [`Model::score_learn_rows`] one after the other.
fn score_then_learn<M: Model + ?Sized>(
    model: &mut M,
    rows: &[Visit<'_>],
    scratch: &mut Scratch,
    out: &mut [f64],
    learned: &mut [Learned],
) {
    let Some(last) = rows.last() else { return };
    let before: [Features<'_>; TOGETHER_MAX] = std::array::from_fn(|i| rows.get(i).unwrap_or(last).before);
    model.score_rows(&before[..rows.len()], scratch, out);
    for (row, learned) in rows.iter().zip(learned) {
        if let Some((target, weight)) = row.learns {
            *learned = model.learn(row.after.unwrap_or(row.before), target, weight);
        }
    }
}

/// What the pipeline tells a model about its rows when it is built.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Names of the dense features, in their order.
    pub dense: Vec<String>,
    /// Slots of the hashed features (0: none).
    pub slots: usize,
    /// What the label's type asks for; `None` where there is no label.
    pub label: Option<LabelKind>,
}

/// What the label's type makes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelKind {
    /// bool: a binary classifier.
    Bool,
    /// category: a classifier over at most that many classes.
    Category {
        /// Most classes that are told apart.
        classes_max: usize,
    },
    /// float or int: a regressor.
    Number,
}

/// The kinds that [`build`] knows, alphabetically: one line a kind.
pub const KINDS: &[&str] = &[
    "decision-tree",
    "gaussian-naive-bayes",
    "k-means",
    "linear-regression",
    "logistic-regression",
    "multilayer-perceptron",
    "passive-aggressive",
    "perceptron",
    "softmax-regression",
];

/// Builds the untrained model of a spec: its `[model]` table, with `kind`.
///
/// Options of the linear kinds, with River's names and defaults (every kind takes `seed`):
///
/// | kind | label | options |
/// |---|---|---|
/// | `linear-regression` | number | `optimizer` `loss` (`squared`) `l1` or `l2` (0) `intercept_init` (0) `intercept_lr` (0.01) `clip_gradient` (1e12) |
/// | `logistic-regression` | bool | the same, `loss` (`log`), `class_weight = { true = 1.0, false = 1.0 }` |
/// | `softmax-regression` | category | `optimizer` `l2` |
/// | `perceptron` | bool | `l2` `clip_gradient` `class_weight` |
/// | `passive-aggressive` | bool, number | `C` (1) `mode` (1) `learn_intercept` (true); bool: `class_weight`; number: `eps` (0.1) `preset` (`river`, `paper`) |
///
/// | optimizer | options |
/// |---|---|
/// | `sgd` (default) | `learning_rate` (0.01) |
/// | `adagrad` | `learning_rate` (0.1) `eps` (1e-8) |
/// | `adam` | `learning_rate` (0.1) `beta_1` (0.9) `beta_2` (0.999) `eps` (1e-8) |
/// | `ftrl` | `alpha` (0.05) `beta` (1) `l1` (0) `l2` (1) |
/// | `vw` (linear and logistic regression; without `l1 l2 intercept_… clip_gradient`) | `learning_rate` (0.5) `power_t` (0.5) |
///
/// A rate is a number or `{ kind = "constant" | "inverse-scaling" | "optimal", learning_rate, power, alpha }`.
/// Losses: `squared absolute huber { epsilon } quantile { alpha } cauchy { C } poisson`, and
/// `log hinge { threshold } focal { gamma, beta }`. An event of weight 0 teaches nothing.
///
/// ```
/// use millstream::model::{Features, LabelKind, Scratch, Shape, build};
/// let spec = serde_json::json!({ "kind": "logistic-regression", "optimizer": { "kind": "sgd", "learning_rate": 0.1 } });
/// let shape = Shape { dense: vec!["age".into()], slots: 0, label: Some(LabelKind::Bool) };
/// let mut model = build(spec.as_object().unwrap(), &shape).unwrap();
/// let x = Features { dense: &[1.0], indices: &[], values: &[] };
/// model.learn(x, 1.0, 1.0);
/// let mut score = [0.0];
/// model.score(x, &mut Scratch::default(), &mut score);
/// assert!(score[0] > 0.5);
/// ```
///
/// # Errors
/// Misuse, naming the key (`model.l2`) and what is allowed: an unknown kind or key, a value out of
/// range, or a label whose type the kind can't predict.
pub fn build(spec: &Map<String, Value>, shape: &Shape) -> Result<Box<dyn Model>> {
    let mut options = Options::new("model", spec)?;
    // Batch training reads it; what scores and learns online does not.
    options.raw("train");
    match options.kind() {
        // One arm a kind, alphabetically.
        "decision-tree" => tree::build_decision_tree(options, shape),
        "gaussian-naive-bayes" => naive_bayes::build_gaussian_naive_bayes(options, shape),
        "k-means" => k_means::build_k_means(options, shape),
        "linear-regression" => linear::linear_regression(options, shape),
        "logistic-regression" => linear::logistic_regression(options, shape),
        "multilayer-perceptron" => multilayer_perceptron::build_multilayer_perceptron(options, shape),
        "passive-aggressive" => passive_aggressive::passive_aggressive(options, shape),
        "perceptron" => linear::perceptron(options, shape),
        "softmax-regression" => softmax::softmax_regression(options, shape),
        "" => Err(Fault::misuse("model.kind is missing").hint(format!("one of {}", quoted(KINDS)))),
        other => Err(Fault::misuse(format!("model.kind is {other:?}; allowed is {}", quoted(KINDS)))),
    }
}

/// Refuses rows with hashed features, and rows without any feature.
///
/// # Errors
/// Misuse, saying what to do.
fn dense_only(shape: &Shape, kind: &str) -> Result<()> {
    if shape.slots > 0 {
        return Err(Fault::misuse(format!("model.kind {kind:?} takes dense features only, and a step hashes some"))
            .hint("use one-hot instead of hash, or a linear model"));
    }
    if shape.dense.is_empty() {
        return Err(Fault::misuse(format!("model.kind {kind:?}: no numeric feature is left after the steps"))
            .hint("add a feature to [schema.fields], or encode categories with a one-hot step"));
    }
    Ok(())
}
