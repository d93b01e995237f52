//! Decision trees and sums of them, as flat arrays of nodes. Frozen: they are trained or imported, not learned online.
//!
//! A tree is walked from its root: at an inner node the row goes left where its feature is below the
//! threshold (or equal to it, where `less_or_equal` is set), else right; a missing value goes where
//! the node says. A leaf names a row of the table of leaf values, which is added to the outputs. The
//! outputs start at `base`; after the last tree they are scaled (an average of trees, say) and sent
//! through the link. So one walk serves a single tree, a bagged forest and boosted trees.
//!
//! Tensors (`t` trees, `n` nodes, `l` leaves, `o` outputs: 1, or the classes):
//!
//! | name | type, shape | meaning |
//! |---|---|---|
//! | `roots` | u32 \[t\] | each tree's root node |
//! | `outputs` | u32 \[t\] | the output that a tree adds to; only where leaf values are one number wide |
//! | `feature` | u32 \[n\] | feature of an inner node; `u32::MAX` marks a leaf |
//! | `threshold` | f64 \[n\] | of an inner node; 0 in a leaf |
//! | `left`, `right` | u32 \[n\] | children, behind their parent; `left` of a leaf is its row in `leaf_values` |
//! | `missing` | u8 \[n\] | where NaN goes: 0 right, 1 left |
//! | `leaf_values` | f64 \[l, 1\] or \[l, o\] | what a leaf adds |
//! | `base` | f64 \[o\] | where the outputs start |
//! | `scale` | f64 \[1\] | what the sum is multiplied by |
//! | `link` | u8 \[2\] | 0 identity, 1 logistic, 2 softmax; then 1 where a value equal to the threshold goes left |
//!
//! Several trees are walked side by side, or a tree by several rows (`tree/rows.rs`): the result is the same.
//!
//! A model that was built from a spec and not loaded has no tree: it scores the prior, 0.5 for a
//! binary label, the same for every class, and 0 for a number.

mod rows;

use super::kernels::exp;
use super::options::Options;
use super::{Features, LabelKind, Learned, Model, Scratch, Shape, Task, dense_only};
use crate::error::{Fault, Result};
use crate::state::{Data, State};

/// The `feature` of a leaf.
pub const LEAF: u32 = u32::MAX;

/// What turns the sum of the trees into a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The sum itself: numbers, or probabilities that leaves hold.
    Identity,
    /// 1 / (1 + e^-sum).
    Logistic,
    /// e^sum of each class, over their total.
    Softmax,
}

impl Link {
    /// Its number in the `link` tensor.
    fn number(self) -> u8 {
        match self {
            Link::Identity => 0,
            Link::Logistic => 1,
            Link::Softmax => 2,
        }
    }
}

/// Trees (or rows, of one tree) that are walked side by side: their steps don't wait for each other.
const SIDE_BY_SIDE: usize = 8;

/// One node of 24 bytes. A leaf's children are itself, so that a walk that has ended may go on.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Node {
    threshold: f64,
    feature: u32,
    left: u32,
    right: u32,
    missing_left: bool,
}

impl Node {
    fn leaf(at: u32) -> Node {
        Node { threshold: 0.0, feature: 0, left: at, right: at, missing_left: false }
    }
}

/// Trees, their leaf values and how they add up. Built by training and by importers.
#[derive(Debug, Clone, PartialEq)]
pub struct Ensemble {
    nodes: Vec<Node>,
    /// One a node: the leaf's row in `leaf_values`, or [`LEAF`] for an inner node.
    rows: Vec<u32>,
    roots: Vec<u32>,
    tree_outputs: Vec<u32>,
    leaf_values: Vec<f64>,
    /// Numbers a leaf.
    width: usize,
    /// Where the outputs start, one an output.
    pub base: Vec<f64>,
    /// What the sum is multiplied by before the link: 1, or 1 / trees for an average.
    pub scale: f64,
    /// From sum to score.
    pub link: Link,
    /// True: a value equal to the threshold goes left.
    pub less_or_equal: bool,
}

impl Ensemble {
    /// No trees yet, over `outputs` outputs; leaves hold `width` numbers: 1 or `outputs`.
    pub fn new(outputs: usize, width: usize) -> Ensemble {
        assert!(width == 1 || width == outputs, "a leaf holds one number, or one an output");
        Ensemble {
            nodes: Vec::new(),
            rows: Vec::new(),
            roots: Vec::new(),
            tree_outputs: Vec::new(),
            leaf_values: Vec::new(),
            width,
            base: vec![0.0; outputs],
            scale: 1.0,
            link: Link::Identity,
            less_or_equal: false,
        }
    }

    /// Starts a tree whose root is the next node pushed. It adds to `output` (0 where leaves hold every output).
    pub fn start_tree(&mut self, output: u32) {
        self.roots.push(self.nodes.len() as u32);
        self.tree_outputs.push(output);
    }

    /// Adds an inner node and returns its number. Its children are set later by [`Ensemble::set_children`].
    pub fn push_split(&mut self, feature: u32, threshold: f64, missing_left: bool) -> u32 {
        self.rows.push(LEAF);
        self.nodes.push(Node { threshold, feature, left: 0, right: 0, missing_left });
        self.nodes.len() as u32 - 1
    }

    /// Adds a leaf and returns its number. `values` are as many as the ensemble's width.
    pub fn push_leaf(&mut self, values: &[f64]) -> u32 {
        assert_eq!(values.len(), self.width, "as many values as the leaves are wide");
        let row = (self.leaf_values.len() / self.width) as u32;
        self.leaf_values.extend_from_slice(values);
        let at = self.nodes.len() as u32;
        self.rows.push(row);
        self.nodes.push(Node::leaf(at));
        at
    }

    /// Names the children of an inner node.
    pub fn set_children(&mut self, node: u32, left: u32, right: u32) {
        self.nodes[node as usize].left = left;
        self.nodes[node as usize].right = right;
    }

    /// Number of trees.
    pub fn trees(&self) -> usize {
        self.roots.len()
    }

    /// Row of `leaf_values` that a row of features (one at least) reaches in a tree.
    pub fn leaf_of(&self, tree: usize, x: &[f64]) -> usize {
        if self.less_or_equal {
            self.walk([self.roots[tree]], x, |v, t| v <= t)[0]
        } else {
            self.walk([self.roots[tree]], x, |v, t| v < t)[0]
        }
    }

    /// The leaves' rows of some trees.
    #[inline(always)]
    fn walk<const N: usize>(&self, mut at: [u32; N], x: &[f64], below: impl Fn(f64, f64) -> bool) -> [usize; N] {
        loop {
            let mut moved = 0;
            for at in &mut at {
                let node = &self.nodes[*at as usize];
                let value = x[node.feature as usize];
                let left = below(value, node.threshold) | (node.missing_left & value.is_nan());
                let next = if left { node.left } else { node.right };
                moved |= next ^ *at;
                *at = next;
            }
            if moved == 0 {
                return at.map(|at| self.rows[at as usize] as usize);
            }
        }
    }

    /// Adds what a tree's leaf holds.
    #[inline(always)]
    fn add(&self, tree: usize, leaf: usize, sums: &mut [f64]) {
        if self.width == 1 {
            sums[self.tree_outputs[tree] as usize] += self.leaf_values[leaf];
        } else {
            let values = &self.leaf_values[leaf * self.width..(leaf + 1) * self.width];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
    }

    /// Adds all trees, in their order.
    #[inline(always)]
    fn add_all(&self, x: &[f64], sums: &mut [f64], below: impl Fn(f64, f64) -> bool + Copy) {
        let (groups, rest) = self.roots.as_chunks::<SIDE_BY_SIDE>();
        for (group, roots) in groups.iter().enumerate() {
            for (i, leaf) in self.walk(*roots, x, below).into_iter().enumerate() {
                self.add(group * SIDE_BY_SIDE + i, leaf, sums);
            }
        }
        for (i, root) in rest.iter().enumerate() {
            let [leaf] = self.walk([*root], x, below);
            self.add(groups.len() * SIDE_BY_SIDE + i, leaf, sums);
        }
    }

    /// Adds up the trees and applies the link. `sums` is as long as `base`, `x` holds one feature at least.
    pub fn score(&self, x: &[f64], sums: &mut [f64]) {
        sums.copy_from_slice(&self.base);
        if self.less_or_equal {
            self.add_all(x, sums, |v, t| v <= t);
        } else {
            self.add_all(x, sums, |v, t| v < t);
        }
        self.finish(sums);
    }

    /// From the sum of the trees to a score.
    fn finish(&self, sums: &mut [f64]) {
        for sum in sums.iter_mut() {
            *sum = (*sum * self.scale).clamp(f64::MIN, f64::MAX);
        }
        match self.link {
            Link::Identity => {}
            Link::Logistic => sums.iter_mut().for_each(|s| *s = 1.0 / (1.0 + exp(-*s))),
            Link::Softmax => softmax(sums),
        }
    }

    /// Stores the ensemble under `prefix`.
    pub fn save(&self, state: &mut State, prefix: &str) {
        let (n, t) = (self.nodes.len(), self.roots.len());
        let u32s = |of_split: fn(&Node) -> u32, of_leaf: fn(u32) -> u32| {
            let pairs = self.nodes.iter().zip(&self.rows);
            Data::U32(pairs.map(|(n, row)| if *row == LEAF { of_split(n) } else { of_leaf(*row) }).collect())
        };
        state.put(format!("{prefix}roots"), &[t], Data::U32(self.roots.clone()));
        state.put(format!("{prefix}outputs"), &[t], Data::U32(self.tree_outputs.clone()));
        state.put(format!("{prefix}feature"), &[n], u32s(|n| n.feature, |_| LEAF));
        state.put_f64(format!("{prefix}threshold"), &self.nodes.iter().map(|n| n.threshold).collect::<Vec<_>>());
        state.put(format!("{prefix}left"), &[n], u32s(|n| n.left, |row| row));
        state.put(format!("{prefix}right"), &[n], u32s(|n| n.right, |_| 0));
        let missing = self.nodes.iter().map(|n| u8::from(n.missing_left)).collect();
        state.put(format!("{prefix}missing"), &[n], Data::U8(missing));
        let leaves = self.leaf_values.len() / self.width;
        state.put(format!("{prefix}leaf_values"), &[leaves, self.width], Data::F64(self.leaf_values.clone()));
        state.put_f64(format!("{prefix}base"), &self.base);
        state.put_f64(format!("{prefix}scale"), &[self.scale]);
        let link = vec![self.link.number(), u8::from(self.less_or_equal)];
        state.put(format!("{prefix}link"), &[2], Data::U8(link));
    }

    /// Reads an ensemble back and checks it: every walk ends, and at a finite leaf.
    ///
    /// # Errors
    /// Corruption, naming the tensor that doesn't fit.
    pub fn load(state: &State, prefix: &str, features: usize) -> Result<Ensemble> {
        let name = |n: &str| format!("{prefix}{n}");
        let base = state.get_f64(&name("base"), None)?.to_vec();
        let shape = &state.get(&name("leaf_values"))?.shape;
        let width = shape.get(1).copied().unwrap_or(0);
        if base.is_empty() || shape.len() != 2 || (width != 1 && width != base.len()) {
            let message =
                format!("tensor {:?}: shape {shape:?} doesn't fit {} outputs", name("leaf_values"), base.len());
            return Err(Fault::corruption(message));
        }
        let link = state.get_u8(&name("link"), Some(2))?;
        let feature = state.get_u32(&name("feature"), None)?;
        let n = feature.len();
        let threshold = state.get_f64(&name("threshold"), Some(n))?;
        let left = state.get_u32(&name("left"), Some(n))?;
        let right = state.get_u32(&name("right"), Some(n))?;
        let missing = state.get_u8(&name("missing"), Some(n))?;
        let node = |i: usize| match feature[i] {
            LEAF => Node::leaf(i as u32),
            feature => {
                Node { threshold: threshold[i], feature, left: left[i], right: right[i], missing_left: missing[i] == 1 }
            }
        };
        let row = |i: usize| if feature[i] == LEAF { left[i] } else { LEAF };
        let roots = state.get_u32(&name("roots"), None)?.to_vec();
        let ensemble = Ensemble {
            nodes: (0..n).map(node).collect(),
            rows: (0..n).map(row).collect(),
            tree_outputs: state.get_u32(&name("outputs"), Some(roots.len()))?.to_vec(),
            roots,
            leaf_values: state.get_f64(&name("leaf_values"), None)?.to_vec(),
            width,
            base,
            scale: state.get_one_f64(&name("scale"))?,
            link: match link[0] {
                0 => Link::Identity,
                1 => Link::Logistic,
                2 => Link::Softmax,
                other => {
                    return Err(Fault::corruption(format!("tensor {:?}: {other} is no link", name("link"))));
                }
            },
            less_or_equal: link[1] == 1,
        };
        ensemble
            .check(features)
            .map_err(|(tensor, why)| Fault::corruption(format!("tensor {:?}: {why}", name(tensor))))?;
        Ok(ensemble)
    }

    /// The first thing that would make a walk go astray: the tensor, and what is wrong with it.
    fn check(&self, features: usize) -> Result<(), (&'static str, String)> {
        let nodes = self.nodes.len();
        let leaves = self.leaf_values.len() / self.width;
        for (i, (node, row)) in self.nodes.iter().zip(&self.rows).enumerate() {
            let behind = |child: u32| (child as usize) > i && (child as usize) < nodes;
            match (*row, node.feature) {
                (LEAF, f) if f as usize >= features => {
                    return Err(("feature", format!("node {i} asks for feature {f} of {features}")));
                }
                (LEAF, _) if !node.threshold.is_finite() => {
                    return Err(("threshold", format!("node {i} holds {}", node.threshold)));
                }
                (LEAF, _) if !behind(node.left) => return Err(("left", format!("node {i} has child {}", node.left))),
                (LEAF, _) if !behind(node.right) => {
                    return Err(("right", format!("node {i} has child {}", node.right)));
                }
                (LEAF, _) => {}
                (row, _) if row as usize >= leaves => {
                    return Err(("left", format!("leaf {i} names row {row} of {leaves}")));
                }
                _ => {}
            }
        }
        if let Some(root) = self.roots.iter().find(|r| **r as usize >= nodes) {
            return Err(("roots", format!("root {root} of {nodes} nodes")));
        }
        if let Some(output) = self.tree_outputs.iter().find(|o| **o as usize >= self.base.len()) {
            return Err(("outputs", format!("output {output} of {}", self.base.len())));
        }
        let numbers = [("leaf_values", &self.leaf_values[..]), ("base", &self.base), ("scale", &[self.scale])];
        for (tensor, values) in numbers {
            if let Some(value) = values.iter().find(|v| !v.is_finite()) {
                return Err((tensor, format!("holds {value}")));
            }
        }
        Ok(())
    }
}

/// e^v of each, over their total; the largest is taken out first.
fn softmax(values: &mut [f64]) {
    let largest = values.iter().fold(f64::MIN, |a, v| a.max(*v));
    values.iter_mut().for_each(|v| *v = exp(*v - largest));
    let total: f64 = values.iter().sum();
    values.iter_mut().for_each(|v| *v /= total);
}

/// `decision-tree`: an [`Ensemble`] behind the trait.
pub struct DecisionTree {
    task: Task,
    features: usize,
    classes_max: usize,
    ensemble: Ensemble,
}

/// Builds `decision-tree`: without trees, until it is loaded. It has no hyperparameters of its own: those
/// of its growing are in `train`.
///
/// # Errors
/// Misuse: an unknown key, hashed features, or no label.
pub fn build_decision_tree(mut options: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    options.seed()?;
    options.finish()?;
    dense_only(shape, "decision-tree")?;
    let (task, classes_max) = match shape.label {
        Some(LabelKind::Bool) => (Task::Binary, 1),
        Some(LabelKind::Category { classes_max }) => (Task::Multiclass, classes_max),
        Some(LabelKind::Number) => (Task::Regression, 1),
        None => return Err(Fault::misuse("model.kind \"decision-tree\" needs a label in [schema]")),
    };
    Ok(Box::new(DecisionTree { task, features: shape.dense.len(), classes_max, ensemble: untrained(task) }))
}

/// What scores before any tree was loaded: the prior.
fn untrained(task: Task) -> Ensemble {
    let mut ensemble = Ensemble::new(1, 1);
    ensemble.base[0] = if task == Task::Binary { 0.5 } else { 0.0 };
    ensemble
}

impl Model for DecisionTree {
    fn task(&self) -> Task {
        self.task
    }

    fn score(&self, x: Features<'_>, scratch: &mut Scratch, out: &mut [f64]) {
        if self.task != Task::Multiclass {
            return self.ensemble.score(x.dense, out);
        }
        if self.ensemble.trees() == 0 && self.ensemble.base.len() == 1 {
            let even = 1.0 / out.len() as f64;
            return out.fill(even);
        }
        scratch.a.resize(self.ensemble.base.len(), 0.0);
        self.ensemble.score(x.dense, &mut scratch.a);
        for (class, out) in out.iter_mut().enumerate() {
            *out = scratch.a.get(class).copied().unwrap_or(0.0);
        }
    }

    fn together(&self) -> usize {
        SIDE_BY_SIDE
    }

    fn score_rows(&self, rows: &[Features<'_>], scratch: &mut Scratch, out: &mut [f64]) {
        self.score_side_by_side(rows, scratch, out);
    }

    fn learn(&mut self, _: Features<'_>, _: f64, _: f64) -> Learned {
        Learned::Frozen
    }

    fn routes_nan(&self) -> bool {
        true
    }

    fn learns(&self) -> bool {
        false
    }

    fn save(&self, state: &mut State, prefix: &str) {
        self.ensemble.save(state, prefix);
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let ensemble = Ensemble::load(state, prefix, self.features)?;
        let outputs = ensemble.base.len();
        if outputs > self.classes_max {
            let message =
                format!("tensor \"{prefix}base\" has {outputs} outputs; at most {} expected", self.classes_max);
            return Err(Fault::corruption(message));
        }
        if ensemble.trees() == 0 && outputs != 1 {
            let message = format!("tensor \"{prefix}base\" has {outputs} outputs; without trees, 1 is expected");
            return Err(Fault::corruption(message));
        }
        if self.task == Task::Binary && ensemble.link == Link::Softmax {
            return Err(Fault::corruption(format!("tensor \"{prefix}link\": softmax needs a category label")));
        }
        self.ensemble = ensemble;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
