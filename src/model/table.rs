//! The parameters of linear models: a weight and up to three more numbers a feature, dense features
//! first, then the hashed table; and the way back from an update that turned out non-finite.
//!
//! Memory: 8 bytes a feature and column in use: SGD 1 column, AdaGrad 2, Adam and FTRL 3, VW 3, and one
//! more for L1. 2^20 slots of SGD are 8 MiB, 2^24 slots of Adam 384 MiB.

use super::Features;
use super::kernels::{all_finite, poison};
use crate::error::{Fault, Result};
use crate::faults;
use crate::state::State;
use crate::wide::turn;
use std::array::from_fn;

/// Parameters, one column a kind. A column that isn't in use is empty.
///
/// An update runs between [`Table::begin`] and, where it went wrong, [`Table::restore`]. A table of
/// dense features alone writes its new numbers beside the old ones and swaps the two; one with a
/// hashed part changes numbers in place and keeps a copy of those that the row touches.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Weights.
    pub w: Vec<f64>,
    /// First column of the optimizer.
    pub a: Vec<f64>,
    /// Second column of the optimizer.
    pub b: Vec<f64>,
    /// L1 penalty that was already taken off each weight.
    pub l1: Vec<f64>,
    swaps: bool,
    /// The numbers before the last update, or room for those after the next, of w, a and b.
    spare: [Vec<f64>; 3],
    swapped: bool,
    undo: Vec<f64>,
}

impl Table {
    /// Zeros: `width` weights, `extra` (0 to 2) columns of the optimizer, and one for L1 if asked for.
    /// `swaps`: there are dense features alone, and all updates run through [`Table::each1`] and the like.
    pub fn new(width: usize, extra: usize, l1: bool, swaps: bool) -> Table {
        let column = |on: bool| if on { vec![0.0; width] } else { Vec::new() };
        let spare = [swaps, swaps && extra > 0, swaps && extra > 1].map(column);
        let (w, a, b, l1) = (column(true), column(extra > 0), column(extra > 1), column(l1));
        Table { w, a, b, l1, swaps, spare, swapped: false, undo: Vec::new() }
    }

    /// Gets ready to take an update back.
    #[inline]
    pub fn begin(&mut self, x: Features<'_>) {
        self.swapped = false;
        if self.swaps && self.l1.is_empty() {
            return;
        }
        self.copy(x);
    }

    fn copy(&mut self, x: Features<'_>) {
        self.undo.clear();
        let (dense, kept) = (x.dense.len(), if self.swaps { 3 } else { 0 });
        for column in [&self.w, &self.a, &self.b, &self.l1].into_iter().skip(kept) {
            if !column.is_empty() {
                self.undo.extend_from_slice(&column[..dense]);
                self.undo.extend(x.indices.iter().map(|&index| column[dense + index as usize]));
            }
        }
    }

    /// Takes back what was written since [`Table::begin`] for the same row.
    pub fn restore(&mut self, x: Features<'_>) {
        if self.swapped {
            self.swap(3);
        }
        let (dense, kept, mut rest) = (x.dense.len(), if self.swaps { 3 } else { 0 }, &self.undo[..]);
        for column in [&mut self.w, &mut self.a, &mut self.b, &mut self.l1].into_iter().skip(kept) {
            if column.is_empty() {
                continue;
            }
            let (numbers, after) = rest.split_at(dense + x.indices.len());
            column[..dense].copy_from_slice(&numbers[..dense]);
            for (&index, number) in x.indices.iter().zip(&numbers[dense..]) {
                column[dense + index as usize] = *number;
            }
            rest = after;
        }
    }

    /// Swaps the first columns with their spares.
    #[inline]
    fn swap(&mut self, columns: usize) {
        std::mem::swap(&mut self.w, &mut self.spare[0]);
        if columns > 1 {
            std::mem::swap(&mut self.a, &mut self.spare[1]);
            std::mem::swap(&mut self.b, &mut self.spare[2]);
        }
        self.swapped = !self.swapped;
    }

    /// w ← f(x, w) for each of a row's features; returns the [`poison`] of what was written.
    #[inline(always)]
    pub fn each1(&mut self, x: Features<'_>, f: impl Fn(f64, f64) -> f64) -> u64 {
        let mut bits = 0;
        if self.swaps {
            // Four at a time, as the next sum over these weights loads them: a load waits where it spans several
            // stores.
            let n = x.dense.len();
            let ((x, x_tail), (w, w_tail)) = (x.dense.as_chunks::<4>(), self.w[..n].as_chunks::<4>());
            let (next, next_tail) = self.spare[0][..n].as_chunks_mut::<4>();
            let mut poisons = [0; 4];
            for ((x, w), next) in x.iter().zip(w).zip(next) {
                *next = from_fn(|i| f(x[i], w[i]));
                poisons = from_fn(|i| poisons[i] | poison(next[i]));
                turn();
            }
            for ((x, w), next) in x_tail.iter().zip(w_tail).zip(next_tail) {
                *next = f(*x, *w);
                bits |= poison(*next);
            }
            self.swap(1);
            return poisons.iter().fold(bits, |bits, more| bits | more);
        }
        let (w, w_slots) = self.w.split_at_mut(x.dense.len());
        for (x, w) in x.dense.iter().zip(w) {
            *w = f(*x, *w);
            bits |= poison(*w);
        }
        for (&index, x) in x.indices.iter().zip(x.values) {
            let w = &mut w_slots[index as usize];
            *w = f(*x, *w);
            bits |= poison(*w);
        }
        bits
    }

    /// (w, a) ← f(x, w, a), as [`Table::each1`].
    #[inline(always)]
    pub fn each2(&mut self, x: Features<'_>, f: impl Fn(f64, f64, f64) -> (f64, f64)) -> u64 {
        let mut bits = 0;
        if self.swaps {
            let [next_w, next_a, _] = &mut self.spare;
            let n = x.dense.len();
            let ((x, x_tail), (w, w_tail)) = (x.dense.as_chunks::<4>(), self.w[..n].as_chunks::<4>());
            let (a, a_tail) = self.a[..n].as_chunks::<4>();
            let (next_w, next_w_tail) = next_w[..n].as_chunks_mut::<4>();
            let (next_a, next_a_tail) = next_a[..n].as_chunks_mut::<4>();
            let mut poisons = [0; 4];
            for (((x, w), a), (next_w, next_a)) in x.iter().zip(w).zip(a).zip(next_w.iter_mut().zip(next_a)) {
                let next: [(f64, f64); 4] = from_fn(|i| f(x[i], w[i], a[i]));
                (*next_w, *next_a) = (next.map(|(w, _)| w), next.map(|(_, a)| a));
                poisons = from_fn(|i| poisons[i] | poison(next_w[i]) | poison(next_a[i]));
                turn();
            }
            let old = x_tail.iter().zip(w_tail).zip(a_tail);
            for (((x, w), a), (next_w, next_a)) in old.zip(next_w_tail.iter_mut().zip(next_a_tail)) {
                (*next_w, *next_a) = f(*x, *w, *a);
                bits |= poison(*next_w) | poison(*next_a);
            }
            bits = poisons.iter().fold(bits, |bits, more| bits | more);
            self.swap(2);
            return bits;
        }
        let dense = x.dense.len();
        let ((w, w_slots), (a, a_slots)) = (self.w.split_at_mut(dense), self.a.split_at_mut(dense));
        for ((x, w), a) in x.dense.iter().zip(w).zip(a) {
            (*w, *a) = f(*x, *w, *a);
            bits |= poison(*w) | poison(*a);
        }
        for (&index, x) in x.indices.iter().zip(x.values) {
            let (w, a) = (&mut w_slots[index as usize], &mut a_slots[index as usize]);
            (*w, *a) = f(*x, *w, *a);
            bits |= poison(*w) | poison(*a);
        }
        bits
    }

    /// (w, a, b) ← f(x, w, a, b), as [`Table::each1`].
    #[inline(always)]
    pub fn each3(&mut self, x: Features<'_>, f: impl Fn(f64, f64, f64, f64) -> (f64, f64, f64)) -> u64 {
        let mut bits = 0;
        if self.swaps {
            let [next_w, next_a, next_b] = &mut self.spare;
            let old = x.dense.iter().zip(&self.w).zip(&self.a).zip(&self.b);
            let new = next_w.iter_mut().zip(next_a).zip(next_b);
            for ((((x, w), a), b), ((next_w, next_a), next_b)) in old.zip(new) {
                (*next_w, *next_a, *next_b) = f(*x, *w, *a, *b);
                bits |= poison(*next_w) | poison(*next_a) | poison(*next_b);
            }
            self.swap(3);
            return bits;
        }
        let dense = x.dense.len();
        let (w, w_slots) = self.w.split_at_mut(dense);
        let (a, a_slots) = self.a.split_at_mut(dense);
        let (b, b_slots) = self.b.split_at_mut(dense);
        for (((x, w), a), b) in x.dense.iter().zip(w).zip(a).zip(b) {
            (*w, *a, *b) = f(*x, *w, *a, *b);
            bits |= poison(*w) | poison(*a) | poison(*b);
        }
        for (&index, x) in x.indices.iter().zip(x.values) {
            let i = index as usize;
            let (w, a, b) = (&mut w_slots[i], &mut a_slots[i], &mut b_slots[i]);
            (*w, *a, *b) = f(*x, *w, *a, *b);
            bits |= poison(*w) | poison(*a) | poison(*b);
        }
        bits
    }

    fn columns(&self) -> [&Vec<f64>; 4] {
        [&self.w, &self.a, &self.b, &self.l1]
    }

    /// Stores the columns in use under `names` (weights, first, second column of the optimizer, L1).
    pub fn save(&self, state: &mut State, prefix: &str, names: [&str; 4]) {
        for (column, name) in self.columns().into_iter().zip(names) {
            if !column.is_empty() {
                state.put_f64(format!("{prefix}{name}"), column);
            }
        }
    }

    /// Takes the columns in use back.
    ///
    /// # Errors
    /// Corruption, naming the tensor that is missing, doesn't fit, or holds a non-finite number.
    pub fn load(&mut self, state: &State, prefix: &str, names: [&str; 4]) -> Result<()> {
        for (column, name) in [&mut self.w, &mut self.a, &mut self.b, &mut self.l1].into_iter().zip(names) {
            let forgotten = name != names[0] && faults::planted("optimizer-not-saved");
            if !column.is_empty() && !forgotten {
                read_finite(state, &format!("{prefix}{name}"), column)?;
            }
        }
        Ok(())
    }
}

/// Copies a tensor of finite f64 over `target`, whose length it must have.
///
/// # Errors
/// Corruption, naming the tensor and, where a number isn't finite, its index.
pub fn read_finite(state: &State, name: &str, target: &mut [f64]) -> Result<()> {
    check_finite(name, state.get_f64(name, Some(target.len()))?)?;
    state.read_f64(name, target)
}

/// A single finite f64.
///
/// # Errors
/// Corruption, naming the tensor.
pub fn read_one_finite(state: &State, name: &str) -> Result<f64> {
    let mut one = [0.0];
    read_finite(state, name, &mut one)?;
    Ok(one[0])
}

/// Faults where a number isn't finite.
///
/// # Errors
/// Corruption, naming the tensor and the index.
pub fn check_finite(name: &str, values: &[f64]) -> Result<()> {
    if all_finite(values) {
        return Ok(());
    }
    let index = values.iter().position(|v| !v.is_finite()).unwrap_or_default();
    Err(Fault::corruption(format!(
        "tensor {name:?} holds {} at index {index}; a finite number is expected",
        values[index]
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undone_update_leaves_no_trace_even_where_a_slot_occurs_twice() {
        let hashed = Features { dense: &[1.0, 2.0], indices: &[3, 0, 3], values: &[1.0, 1.0, 5.0] };
        let dense = Features { dense: &[1.0, 2.0, 3.0], indices: &[], values: &[] };
        for (x, width, swaps) in [(hashed, 6, false), (dense, 3, true), (dense, 3, false)] {
            let mut table = Table::new(width, 2, true, swaps);
            for (i, w) in table.w.iter_mut().enumerate() {
                *w = i as f64;
            }
            let before = table.columns().map(Vec::clone);
            table.begin(x);
            let bits = table.each3(x, |x, w, a, b| (w * x + 1.0, a + x, b - f64::MAX * x));
            table.l1[0] = 7.0;
            assert!(!crate::model::kernels::finite(bits));
            assert_ne!(table.columns().map(Vec::clone), before);
            table.restore(x);
            assert_eq!(table.columns().map(Vec::clone), before);
        }
    }

    #[test]
    fn a_non_finite_weight_is_refused_by_name_and_index() {
        let mut state = State::new();
        state.put_f64("m.w", &[0.0, f64::NAN]);
        let fault = Table::new(2, 0, false, true).load(&state, "m.", ["w", "", "", ""]).expect_err("NaN");
        assert!(fault.message.contains("\"m.w\"") && fault.message.contains("index 1"), "{fault}");
    }
}
