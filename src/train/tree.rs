//! Decision trees by linfa (CART for classes), as flat nodes.
//!
//! linfa's leaves know only their most frequent class. Ours hold the shares of all classes among the
//! training rows that reach them, by weight, so that a score is a probability.

use super::{Job, Table, failed};
use crate::error::{Fault, Result};
use crate::model::LabelKind;
use crate::model::options::{Options, Range};
use crate::model::tree::Ensemble;
use crate::state::State;
use linfa::Dataset;
use linfa::traits::Fit;
use linfa_trees::{DecisionTree, SplitQuality, TreeNode};
use ndarray::Array1;

/// `decision-tree`.
pub(super) fn fit(job: Job<'_>, mut settings: Options<'_>) -> Result<State> {
    let max_depth = settings.whole("max_depth", 12, 1, 256)? as usize;
    let min_weight_split = settings.number("min_weight_split", 2.0, Range::Positive)? as f32;
    let min_weight_leaf = settings.number("min_weight_leaf", 1.0, Range::Positive)? as f32;
    let min_decrease = settings.number("min_impurity_decrease", 1e-5, Range::Positive)?;
    let quality = match settings.word("split_quality", "gini", &["gini", "entropy"])? {
        "entropy" => SplitQuality::Entropy,
        _ => SplitQuality::Gini,
    };
    settings.finish()?;
    if job.table.label == LabelKind::Number {
        return Err(Fault::misuse("batch training grows decision trees for bool and category labels only")
            .hint("linear-regression and multilayer-perceptron are trained for numbers; trees can be imported"));
    }
    let target: Array1<usize> = job.table.target.iter().map(|t| *t as usize).collect();
    let weights = job.table.weight.iter().map(|w| *w as f32).collect::<Array1<f32>>();
    let data = Dataset::new(job.table.x.clone(), target).with_weights(weights);
    let params = DecisionTree::params().split_quality(quality).max_depth(Some(max_depth));
    let params = params.min_weight_split(min_weight_split).min_weight_leaf(min_weight_leaf);
    let fitted = params.min_impurity_decrease(min_decrease).fit(&data).map_err(|e| failed("the tree", e))?;
    let mut state = State::new();
    flatten(fitted.root_node(), job.table).save(&mut state, job.prefix);
    Ok(state)
}

/// A linfa tree as flat nodes, with the classes' shares among the table's rows at its leaves: of `true`
/// alone where the label is a bool. The table is the one that the tree was grown on.
pub fn flatten(root: &TreeNode<f64, usize>, table: &Table) -> Ensemble {
    let binary = table.label == LabelKind::Bool;
    let classes = table.target.iter().fold(if binary { 2 } else { 1 }, |n, t| n.max(*t as usize + 1));
    // First with each leaf's own number, to see which rows reach it.
    let mut numbered = Ensemble::new(1, 1);
    numbered.start_tree(0);
    let mut leaves = 0;
    push(&mut numbered, root, &mut || {
        leaves += 1;
        vec![f64::from(leaves)]
    });
    let mut shares = vec![0.0; leaves as usize * classes];
    for ((x, target), weight) in table.x.outer_iter().zip(&table.target).zip(&table.weight) {
        let leaf = numbered.leaf_of(0, &x.to_vec());
        shares[leaf * classes + *target as usize] += weight;
    }
    let outputs = if binary { 1 } else { classes };
    let mut tree = Ensemble::new(outputs, outputs);
    tree.start_tree(0);
    let mut leaf = shares.chunks_exact(classes);
    push(&mut tree, root, &mut || {
        let shares = leaf.next().expect("as many leaves as before");
        let total: f64 = shares.iter().sum();
        // linfa splits training rows by ≤ but predicts by <: a leaf that only equality reaches has none.
        let share = |s: &f64| if total > 0.0 { s / total } else { 1.0 / classes as f64 };
        if binary { vec![share(&shares[1])] } else { shares.iter().map(share).collect() }
    });
    tree
}

/// Adds a node and what is below it, parents first.
fn push(tree: &mut Ensemble, node: &TreeNode<f64, usize>, leaf: &mut dyn FnMut() -> Vec<f64>) -> u32 {
    let children = node.children();
    if let (false, [Some(left), Some(right)]) = (node.is_leaf(), &children[..]) {
        let (feature, threshold, _) = node.split();
        let at = tree.push_split(feature as u32, threshold, false);
        let left = push(tree, left, leaf);
        let right = push(tree, right, leaf);
        tree.set_children(at, left, right);
        return at;
    }
    tree.push_leaf(&leaf())
}
