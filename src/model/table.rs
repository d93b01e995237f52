//! The parameters of linear models: a weight and up to three more numbers a feature, dense features
//! first, then the hashed table; and the way back from an update that turned out non-finite.
//!
//! Memory: 8 bytes a feature and column in use: SGD 1 column, AdaGrad 2, Adam and FTRL 3, VW 3, and one
//! more for L1. 2^20 slots of SGD are 8 MiB, 2^24 slots of Adam 384 MiB. What belongs to one slot lies side
//! by side, so that a row fetches one line of memory a slot; the allocator asks the system for large pages.

use super::Features;
use super::kernels::{all_finite, dot_from, poison, sparse_dot};
use crate::error::{Fault, Result};
use crate::faults;
use crate::state::State;
use crate::wide::{prefetch, turn};
use std::array::from_fn;

/// A hashed table of at least so many bytes (what fits no processor's second cache, and little of a third) is worth
/// fetching from ahead of time.
pub(super) const FAR_BYTES: usize = 8 << 20;

/// Parameters. A column that isn't in use is empty.
///
/// An update runs between [`Table::begin`] and, where it went wrong, [`Table::restore`]. A table of
/// dense features alone writes its new numbers beside the old ones and swaps the two; one with a
/// hashed part changes numbers in place and keeps a copy of those that the row touches.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Weights of the dense features, and behind them what the model keeps for itself.
    pub w: Vec<f64>,
    /// First column of the optimizer, likewise.
    pub a: Vec<f64>,
    /// Second column of the optimizer, likewise.
    pub b: Vec<f64>,
    /// The hashed slots: the weight and the optimizer's columns of one, then of the next.
    cells: Vec<f64>,
    /// Numbers of a slot.
    stride: usize,
    /// Dense features.
    dense: usize,
    /// L1 penalty that was already taken off each weight, dense features first.
    l1: Vec<f64>,
    swaps: bool,
    /// The numbers before the last update, or room for those after the next, of w, a and b.
    spare: [Vec<f64>; 3],
    swapped: bool,
    undo: Vec<f64>,
}

impl Table {
    /// Zeros: weights of `dense` features and hashed `slots`, and `extra` (0 to 2) columns of the optimizer. All
    /// updates run through [`Table::each1`] and the like.
    pub fn new(dense: usize, slots: usize, extra: usize) -> Table {
        let mut table = Table::with_own(dense, slots, extra, 0);
        table.swaps = slots == 0;
        if table.swaps {
            table.spare = [table.w.clone(), table.a.clone(), table.b.clone()];
        }
        table
    }

    /// As [`Table::new`], with `own` numbers a column behind those of the dense features that are the model's; for
    /// models that may update without [`Table::each1`] and the like.
    pub fn with_own(dense: usize, slots: usize, extra: usize, own: usize) -> Table {
        let column = |on: bool| if on { vec![0.0; dense + own] } else { Vec::new() };
        let (w, a, b) = (column(true), column(extra > 0), column(extra > 1));
        Table { w, a, b, cells: vec![0.0; slots * (1 + extra)], stride: 1 + extra, dense, ..Table::default() }
    }

    /// Makes room for the L1 penalty.
    pub fn keep_l1(&mut self) {
        self.l1 = vec![0.0; self.dense + self.slots()];
    }

    /// Number of hashed slots.
    fn slots(&self) -> usize {
        self.cells.len() / self.stride.max(1)
    }

    /// start + Σ weights·features.
    #[inline(always)]
    pub fn margin(&self, start: f64, x: Features<'_>) -> f64 {
        let sum = dot_from(start, &self.w[..x.dense.len()], x.dense);
        if x.indices.is_empty() {
            return sum;
        }
        sum + match self.stride {
            1 => sparse_dot(self.cells.as_chunks::<1>().0, x.indices, x.values),
            2 => sparse_dot(self.cells.as_chunks::<2>().0, x.indices, x.values),
            _ => sparse_dot(self.cells.as_chunks::<3>().0, x.indices, x.values),
        }
    }

    /// The numbers of a hashed slot: weight, first and second column of the optimizer. There must be two.
    #[inline(always)]
    pub fn cell3(&mut self, slot: u32) -> [&mut f64; 3] {
        self.cells.as_chunks_mut::<3>().0[slot as usize].each_mut()
    }

    /// Weight and L1 penalty of a feature: the dense ones come first, then the hashed table.
    #[inline(always)]
    pub fn penalised(&mut self, feature: usize) -> (&mut f64, &mut f64) {
        let w = match feature.checked_sub(self.dense) {
            None => &mut self.w[feature],
            Some(slot) => &mut self.cells[slot * self.stride],
        };
        (w, &mut self.l1[feature])
    }

    /// True where the hashed part is so large that a row's slots are most likely far from the processor.
    pub fn is_far(&self) -> bool {
        size_of_val(&self.cells[..]) >= FAR_BYTES
    }

    /// Asks for what belongs to these slots, which a row will need soon.
    #[inline]
    pub fn prefetch(&self, indices: &[u32]) {
        for index in indices {
            // The last number of a slot may be on the next line; where it isn't, that costs nothing.
            let start = *index as usize * self.stride;
            for i in [start, start + self.stride - 1].into_iter().skip(usize::from(self.stride < 3)) {
                if let Some(number) = self.cells.get(i) {
                    prefetch(number);
                }
            }
        }
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
        let dense = x.dense.len();
        // It only grows: what an earlier, longer row has left at its end is not looked at.
        let most = 4 * (dense + x.indices.len());
        if self.undo.len() < most {
            self.undo.resize(most, 0.0);
        }
        let mut rest = &mut self.undo[..];
        if !self.swaps {
            for column in [&self.w, &self.a, &self.b].into_iter().filter(|column| !column.is_empty()) {
                take_front(&mut rest, dense).copy_from_slice(&column[..dense]);
            }
            match self.stride {
                1 => copy_cells(self.cells.as_chunks::<1>().0, x.indices, &mut rest),
                2 => copy_cells(self.cells.as_chunks::<2>().0, x.indices, &mut rest),
                _ => copy_cells(self.cells.as_chunks::<3>().0, x.indices, &mut rest),
            }
        }
        if !self.l1.is_empty() {
            let (l1, l1_slots) = self.l1.split_at(dense);
            take_front(&mut rest, dense).copy_from_slice(l1);
            copy_cells(l1_slots.as_chunks::<1>().0, x.indices, &mut rest);
        }
    }

    /// Takes back what was written since [`Table::begin`] for the same row.
    pub fn restore(&mut self, x: Features<'_>) {
        if self.swapped {
            self.swap(3);
        }
        let (dense, mut rest) = (x.dense.len(), &self.undo[..]);
        if !self.swaps {
            for column in [&mut self.w, &mut self.a, &mut self.b].into_iter().filter(|column| !column.is_empty()) {
                let (numbers, after) = rest.split_at(dense);
                column[..dense].copy_from_slice(numbers);
                rest = after;
            }
            put_back(&mut self.cells, self.stride, x.indices, &mut rest);
        }
        if !self.l1.is_empty() {
            let (numbers, mut after) = rest.split_at(dense);
            let (l1, l1_slots) = self.l1.split_at_mut(dense);
            l1.copy_from_slice(numbers);
            put_back(l1_slots, 1, x.indices, &mut after);
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
        for (x, w) in x.dense.iter().zip(&mut self.w) {
            *w = f(*x, *w);
            bits |= poison(*w);
        }
        for (&index, x) in x.indices.iter().zip(x.values) {
            let w = &mut self.cells[index as usize];
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
        for ((x, w), a) in x.dense.iter().zip(&mut self.w).zip(&mut self.a) {
            (*w, *a) = f(*x, *w, *a);
            bits |= poison(*w) | poison(*a);
        }
        let cells = self.cells.as_chunks_mut().0;
        for (&index, x) in x.indices.iter().zip(x.values) {
            let [w, a] = &mut cells[index as usize];
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
        for (((x, w), a), b) in x.dense.iter().zip(&mut self.w).zip(&mut self.a).zip(&mut self.b) {
            (*w, *a, *b) = f(*x, *w, *a, *b);
            bits |= poison(*w) | poison(*a) | poison(*b);
        }
        let cells = self.cells.as_chunks_mut().0;
        for (&index, x) in x.indices.iter().zip(x.values) {
            let [w, a, b] = &mut cells[index as usize];
            (*w, *a, *b) = f(*x, *w, *a, *b);
            bits |= poison(*w) | poison(*a) | poison(*b);
        }
        bits
    }

    /// Numbers of a column: dense features, slots, and what is the model's own.
    pub fn width(&self) -> usize {
        self.w.len() + self.slots()
    }

    /// Appends a column (0: weights; 1, 2: the optimizer's): dense features, slots, what is the model's own.
    pub fn append_column(&self, column: usize, out: &mut Vec<f64>) {
        let (dense, own) = [&self.w, &self.a, &self.b][column].split_at(self.dense);
        out.extend_from_slice(dense);
        match self.stride {
            1 => out.extend_from_slice(&self.cells),
            2 => out.extend(self.cells.as_chunks::<2>().0.iter().map(|cell| cell[column])),
            _ => out.extend(self.cells.as_chunks::<3>().0.iter().map(|cell| cell[column])),
        }
        out.extend_from_slice(own);
    }

    /// Takes a column back, as [`Table::append_column`] gave it.
    pub fn set_column(&mut self, column: usize, values: &[f64]) {
        let (dense, rest) = values.split_at(self.dense);
        let (slots, own) = rest.split_at(self.slots());
        let to = [&mut self.w, &mut self.a, &mut self.b].into_iter().nth(column).expect("a column");
        let (to_dense, to_own) = to.split_at_mut(self.dense);
        to_dense.copy_from_slice(dense);
        to_own.copy_from_slice(own);
        let cells = self.cells.iter_mut().skip(column).step_by(self.stride);
        cells.zip(slots).for_each(|(cell, value)| *cell = *value);
    }

    /// Stores the columns in use under `names` (weights, first, second column of the optimizer, L1).
    pub fn save(&self, state: &mut State, prefix: &str, names: [&str; 4]) {
        for (column, name) in names.into_iter().take(self.stride).enumerate() {
            state.fill_f64(format!("{prefix}{name}"), &[self.width()], |out| self.append_column(column, out));
        }
        if !self.l1.is_empty() {
            state.put_f64(format!("{prefix}{}", names[3]), &self.l1);
        }
    }

    /// Takes the columns in use back.
    ///
    /// # Errors
    /// Corruption, naming the tensor that is missing, doesn't fit, or holds a non-finite number.
    pub fn load(&mut self, state: &State, prefix: &str, names: [&str; 4]) -> Result<()> {
        for (column, name) in names.into_iter().take(self.stride).enumerate() {
            if column > 0 && faults::planted("optimizer-not-saved") {
                continue;
            }
            let name = format!("{prefix}{name}");
            let values = state.get_f64(&name, Some(self.width()))?;
            check_finite(&name, values)?;
            self.set_column(column, values);
        }
        if !self.l1.is_empty() && !faults::planted("optimizer-not-saved") {
            read_finite(state, &format!("{prefix}{}", names[3]), &mut self.l1)?;
        }
        Ok(())
    }
}

/// Cuts so many numbers off the front.
fn take_front<'a>(rest: &mut &'a mut [f64], count: usize) -> &'a mut [f64] {
    let (front, after) = std::mem::take(rest).split_at_mut(count);
    *rest = after;
    front
}

#[inline]
fn copy_cells<const N: usize>(cells: &[[f64; N]], indices: &[u32], rest: &mut &mut [f64]) {
    for (to, index) in take_front(rest, N * indices.len()).as_chunks_mut::<N>().0.iter_mut().zip(indices) {
        *to = cells[*index as usize];
    }
}

fn put_back(cells: &mut [f64], stride: usize, indices: &[u32], rest: &mut &[f64]) {
    let (numbers, after) = rest.split_at(stride * indices.len());
    *rest = after;
    for (index, numbers) in indices.iter().zip(numbers.chunks_exact(stride)) {
        let start = *index as usize * stride;
        cells[start..start + stride].copy_from_slice(numbers);
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
        let in_place = Table::with_own(3, 0, 2, 1);
        for (x, mut table) in [(hashed, Table::new(2, 4, 2)), (dense, Table::new(3, 0, 2)), (dense, in_place)] {
            table.keep_l1();
            for (i, w) in table.w.iter_mut().chain(&mut table.cells).enumerate() {
                *w = i as f64;
            }
            let numbers = |t: &Table| [&t.w, &t.a, &t.b, &t.cells, &t.l1].map(Vec::clone);
            let before = numbers(&table);
            table.begin(x);
            let bits = table.each3(x, |x, w, a, b| (w * x + 1.0, a + x, b - f64::MAX * x));
            *table.penalised(0).1 = 7.0;
            assert!(!crate::model::kernels::finite(bits));
            assert_ne!(numbers(&table), before);
            table.restore(x);
            assert_eq!(numbers(&table), before);
        }
    }

    /// Files hold a column after another, whatever lies side by side in memory.
    #[test]
    fn what_is_saved_is_a_column_after_another_and_comes_back() {
        const NAMES: [&str; 4] = ["w", "a", "b", "l1"];
        for extra in 0..3 {
            let mut table = Table::with_own(2, 3, extra, 1);
            table.keep_l1();
            let columns = [&mut table.w, &mut table.a, &mut table.b];
            columns.into_iter().for_each(|c| c.iter_mut().zip(1..).for_each(|(x, i)| *x = f64::from(i)));
            for (i, cell) in table.cells.iter_mut().enumerate() {
                *cell = (10 * (1 + i / (1 + extra)) + i % (1 + extra)) as f64;
            }
            table.l1[4] = 0.5;
            let mut state = State::new();
            table.save(&mut state, "m.", NAMES);
            for (i, name) in NAMES.iter().take(1 + extra).enumerate() {
                let slot = |slot: usize| (10 * slot + i) as f64;
                let expected = [1.0, 2.0, slot(1), slot(2), slot(3), 3.0];
                assert_eq!(state.get_f64(&format!("m.{name}"), None).expect("saved"), expected);
            }
            assert_eq!(state.tensors.len(), 2 + extra);
            let mut again = Table::with_own(2, 3, extra, 1);
            again.keep_l1();
            again.load(&state, "m.", NAMES).expect("loads");
            assert_eq!(format!("{again:?}"), format!("{table:?}"));
        }
    }

    #[test]
    fn a_non_finite_weight_is_refused_by_name_and_index() {
        let mut state = State::new();
        state.put_f64("m.w", &[0.0, f64::NAN]);
        let fault = Table::new(2, 0, 0).load(&state, "m.", ["w", "", "", ""]).expect_err("NaN");
        assert!(fault.message.contains("\"m.w\"") && fault.message.contains("index 1"), "{fault}");
    }
}
