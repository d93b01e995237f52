//! A tree walked by several rows side by side: their steps don't wait for each other, and its nodes are fetched once.
//! Each row adds up the trees in their order, so its score is the same to the bit as alone.

use super::{DecisionTree, Ensemble, SIDE_BY_SIDE};
use crate::model::{Features, Model, Scratch, Task};
use std::array::from_fn;

impl Ensemble {
    /// The leaves' rows that rows of features reach in a tree.
    #[inline(always)]
    fn walk_by_all<const N: usize>(&self, root: u32, x: [&[f64]; N], below: impl Fn(f64, f64) -> bool) -> [usize; N] {
        let mut at = [root; N];
        loop {
            let mut moved = 0;
            for (at, x) in at.iter_mut().zip(x) {
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

    /// Adds all trees to the sums of each row.
    #[inline(always)]
    fn add_all_to_each<const N: usize>(
        &self,
        x: [&[f64]; N],
        sums: &mut [f64],
        below: impl Fn(f64, f64) -> bool + Copy,
    ) {
        for (tree, root) in self.roots.iter().enumerate() {
            let leaves = self.walk_by_all(*root, x, below);
            for (leaf, sums) in leaves.into_iter().zip(sums.chunks_exact_mut(self.base.len())) {
                self.add(tree, leaf, sums);
            }
        }
    }

    /// [`Ensemble::score`] of several rows; `sums` holds theirs one after another.
    pub fn score_all<const N: usize>(&self, x: [&[f64]; N], sums: &mut [f64]) {
        sums.chunks_exact_mut(self.base.len()).for_each(|sums| sums.copy_from_slice(&self.base));
        if self.less_or_equal {
            self.add_all_to_each(x, sums, |v, t| v <= t);
        } else {
            self.add_all_to_each(x, sums, |v, t| v < t);
        }
        sums.chunks_exact_mut(self.base.len()).for_each(|sums| self.finish(sums));
    }
}

impl DecisionTree {
    /// [`Model::score_rows`]: side by side where the rows are as many as go together.
    pub(super) fn score_side_by_side(&self, rows: &[Features<'_>], scratch: &mut Scratch, out: &mut [f64]) {
        let (width, outputs) = (out.len() / rows.len().max(1), self.ensemble.base.len());
        let Ok(rows) = <&[Features<'_>; SIDE_BY_SIDE]>::try_from(rows) else {
            let each = rows.iter().zip(out.chunks_exact_mut(width.max(1)));
            return each.for_each(|(row, out)| self.score(*row, scratch, out));
        };
        let x: [&[f64]; SIDE_BY_SIDE] = from_fn(|row| rows[row].dense);
        if self.task != Task::Multiclass {
            return self.ensemble.score_all(x, out);
        }
        if self.ensemble.trees() == 0 && outputs == 1 {
            return out.fill(1.0 / width as f64);
        }
        scratch.a.resize(SIDE_BY_SIDE * outputs, 0.0);
        self.ensemble.score_all(x, &mut scratch.a);
        for (out, sums) in out.chunks_exact_mut(width.max(1)).zip(scratch.a.chunks_exact(outputs)) {
            for (class, out) in out.iter_mut().enumerate() {
                *out = sums.get(class).copied().unwrap_or(0.0);
            }
        }
    }
}
