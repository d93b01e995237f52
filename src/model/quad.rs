//! The parameters of four classes side by side: for each feature a weight, and up to two numbers of the optimizer, of
//! all four. One pass over a row's features serves the four classes, in vectors of four, and fetches what belongs to a
//! feature at once. For each class, sums run in the order of [`super::kernels::dot`].
//!
//! Memory: 32 bytes a feature and column in use ([`super::table`] has the columns).

use super::Features;
use super::kernels::{LANES, poison, tree};
use crate::wide::prefetch;
use std::array::from_fn;

/// A number of each of four classes.
pub type Four = [f64; 4];

/// Parameters of four classes; the numbers of one feature are `stride` times four.
#[derive(Debug, Clone)]
pub struct Quad {
    dense: Vec<Four>,
    slots: Vec<Four>,
    stride: usize,
    /// Of the dense features the numbers before the last update, or room for those after the next.
    spare: Vec<Four>,
    /// Of the row's slots the numbers before the last update.
    undo: Vec<Four>,
}

impl Quad {
    /// Zeros: weights of `dense` features and hashed `slots`, and `extra` (0 to 2) columns of the optimizer.
    pub fn new(dense: usize, slots: usize, extra: usize) -> Quad {
        let zeros = |features: usize| vec![[0.0; 4]; features * (1 + extra)];
        Quad { dense: zeros(dense), slots: zeros(slots), stride: 1 + extra, spare: zeros(dense), undo: Vec::new() }
    }

    /// Σ weights·features of each class.
    #[inline(always)]
    pub fn margins(&self, x: Features<'_>) -> Four {
        match self.stride {
            1 => self.margins_of::<1>(x),
            2 => self.margins_of::<2>(x),
            _ => self.margins_of::<3>(x),
        }
    }

    #[inline(always)]
    fn margins_of<const N: usize>(&self, x: Features<'_>) -> Four {
        let dense = self.dense.as_chunks::<N>().0;
        let sum = sum(x.dense.len(), |i| (dense[i][0], x.dense[i]));
        if x.indices.is_empty() {
            return sum;
        }
        let (slots, indices, values) = (self.slots.as_chunks::<N>().0, x.indices, &x.values[..x.indices.len()]);
        let more = self::sum(indices.len(), |i| (slots[indices[i] as usize][0], values[i]));
        from_fn(|k| sum[k] + more[k])
    }

    /// numbers ← f(x, numbers) for each of a row's features; returns the [`poison`] of what was written. `N` is the
    /// number of columns in use. [`Quad::restore`] takes it back, as long as nothing else has happened.
    #[inline(always)]
    pub fn each<const N: usize>(&mut self, x: Features<'_>, f: impl Fn(f64, [Four; N]) -> [Four; N]) -> u64 {
        let mut poisons = [0; 4];
        let mut step = |x: f64, old: &[Four; N]| {
            let new = f(x, *old);
            for of_column in &new {
                poisons = from_fn(|k| poisons[k] | poison(of_column[k]));
            }
            new
        };
        let (old, next) = (self.dense.as_chunks::<N>().0, self.spare.as_chunks_mut::<N>().0);
        for ((x, old), next) in x.dense.iter().zip(old).zip(next) {
            *next = step(*x, old);
        }
        std::mem::swap(&mut self.dense, &mut self.spare);
        if !x.indices.is_empty() {
            let most = N * x.indices.len();
            if self.undo.len() < most {
                self.undo.resize(most, [0.0; 4]);
            }
            let (slots, undo) = (self.slots.as_chunks_mut::<N>().0, self.undo.as_chunks_mut::<N>().0);
            for ((index, x), undo) in x.indices.iter().zip(x.values).zip(undo) {
                let numbers = &mut slots[*index as usize];
                *undo = *numbers;
                *numbers = step(*x, numbers);
            }
        }
        poisons.iter().fold(0, |bits, more| bits | more)
    }

    /// Takes the last update back; `x` is its row.
    pub fn restore(&mut self, x: Features<'_>) {
        std::mem::swap(&mut self.dense, &mut self.spare);
        let stride = self.stride;
        // A slot that occurs twice was stepped twice: what it held at first comes last.
        for (index, undo) in x.indices.iter().zip(self.undo.chunks_exact(stride)).rev() {
            let start = *index as usize * stride;
            self.slots[start..start + stride].copy_from_slice(undo);
        }
    }

    /// Bytes of the hashed part.
    pub fn slot_bytes(&self) -> usize {
        size_of_val(&self.slots[..])
    }

    /// Asks for what belongs to these slots, which a row will need soon.
    #[inline]
    pub fn prefetch(&self, indices: &[u32]) {
        for index in indices {
            let start = *index as usize * self.stride;
            for numbers in self.slots.get(start..start + self.stride).into_iter().flatten().step_by(2) {
                prefetch(numbers);
            }
        }
    }

    /// Appends a column (0: weights; 1, 2: the optimizer's) of a class: dense features, then slots.
    pub fn append_column(&self, class: usize, column: usize, out: &mut Vec<f64>) {
        for numbers in [&self.dense, &self.slots] {
            out.extend(numbers.iter().skip(column).step_by(self.stride).map(|of_class| of_class[class]));
        }
    }

    /// Takes a column of a class back, as [`Quad::append_column`] gave it.
    pub fn set_column(&mut self, class: usize, column: usize, values: &[f64]) {
        let stride = self.stride;
        let numbers = self.dense.iter_mut().skip(column).step_by(stride);
        for (to, value) in numbers.chain(self.slots.iter_mut().skip(column).step_by(stride)).zip(values) {
            to[class] = *value;
        }
    }
}

/// Σ weight·x over `count` features, for four classes, each added up as [`super::kernels::dot`] does.
#[inline(always)]
fn sum(count: usize, at: impl Fn(usize) -> (Four, f64)) -> Four {
    let mut lanes = [[0.0; 4]; LANES];
    let add = |lane: &mut Four, i: usize| {
        let (w, x) = at(i);
        *lane = from_fn(|k| lane[k] + w[k] * x);
    };
    let (mut done, half) = (0, LANES / 2);
    while count - done >= LANES {
        lanes.iter_mut().zip(done..).for_each(|(lane, i)| add(lane, i));
        done += LANES;
    }
    if count - done >= half {
        lanes[..half].iter_mut().zip(done..).for_each(|(lane, i)| add(lane, i));
        done += half;
    }
    let mut rest = [0.0; 4];
    (done..count).for_each(|i| add(&mut rest, i));
    from_fn(|k| {
        let of_class = lanes.map(|lane| lane[k]);
        let [a, b, c, d, e, f, g, h] = of_class;
        tree([[a, b, c, d], [e, f, g, h]]) + rest[k]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::kernels::{dot, sparse_dot};

    fn filled(dense: usize, slots: usize, extra: usize) -> Quad {
        let mut quad = Quad::new(dense, slots, extra);
        for (i, number) in quad.dense.iter_mut().chain(&mut quad.slots).flatten().enumerate() {
            *number = 1.0 / (3.0 + i as f64) - 0.01;
        }
        quad
    }

    #[test]
    fn each_class_adds_up_as_it_would_alone() {
        for extra in 0..3 {
            for n in 0..30 {
                let quad = filled(n, 7, extra);
                let dense: Vec<f64> = (0..n).map(|i| 0.1 + i as f64).collect();
                let indices: Vec<u32> = (0..n as u32).map(|i| i * 5 % 7).collect();
                let values: Vec<f64> = (0..n).map(|i| 0.7 - i as f64).collect();
                let x = Features { dense: &dense, indices: &indices, values: &values };
                let margins = quad.margins(x);
                for (class, margin) in margins.into_iter().enumerate() {
                    let mut weights = Vec::new();
                    quad.append_column(class, 0, &mut weights);
                    let (w, slots) = weights.split_at(n);
                    let alone = dot(w, &dense);
                    let hashed = sparse_dot(slots.as_chunks::<1>().0, &indices, &values);
                    let alone = if n == 0 { 0.0 } else { alone + hashed };
                    assert_eq!(margin.to_bits(), alone.to_bits(), "{n} features, class {class}");
                }
            }
        }
    }

    #[test]
    fn an_undone_update_leaves_no_trace_even_where_a_slot_occurs_twice() {
        let x = Features { dense: &[1.0, 2.0], indices: &[3, 0, 3], values: &[1.0, 1.0, 5.0] };
        let mut quad = filled(2, 4, 1);
        let before = (quad.dense.clone(), quad.slots.clone());
        let bits = quad.each(x, |x, [w, a]| [w.map(|w| w * x + 1.0), a.map(|a| a - f64::MAX * x * x)]);
        assert!(!crate::model::kernels::finite(bits));
        assert_ne!(before, (quad.dense.clone(), quad.slots.clone()));
        quad.restore(x);
        assert_eq!(before, (quad.dense.clone(), quad.slots.clone()));
    }

    #[test]
    fn a_column_comes_back() {
        let (quad, mut again) = (filled(3, 5, 2), Quad::new(3, 5, 2));
        for class in 0..4 {
            for column in 0..3 {
                let mut values = Vec::new();
                quad.append_column(class, column, &mut values);
                assert_eq!(values.len(), 8);
                again.set_column(class, column, &values);
            }
        }
        assert_eq!((quad.dense, quad.slots), (again.dense, again.slots));
    }
}
