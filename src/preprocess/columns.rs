//! The dense columns that a step works on, and the loops over them.

use super::Row;
use crate::error::{Fault, Result};
use crate::state::State;
use crate::wide::turn;
use std::ops::Range;

/// Dense columns in ascending order. Where they are neighbours, the loops run over one slice.
#[derive(Debug)]
pub(super) struct Columns {
    index: Vec<usize>,
    slice: Option<Range<usize>>,
}

impl Columns {
    /// The given columns, ascending and without repetition.
    pub fn new(index: Vec<usize>) -> Columns {
        let slice = match (index.first(), index.last()) {
            (Some(&first), Some(&last)) if last - first + 1 == index.len() => Some(first..last + 1),
            _ => None,
        };
        Columns { index, slice }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Calls `f` with each column's position in this set and its number in the row.
    pub fn each(&self, dense: &[f64], mut f: impl FnMut(usize, f64)) {
        match &self.slice {
            Some(slice) => dense[slice.clone()].iter().enumerate().for_each(|(k, x)| f(k, *x)),
            None => self.index.iter().enumerate().for_each(|(k, i)| f(k, dense[*i])),
        }
    }

    /// Replaces each number by `f(number, a, b)`, with the column's own `a` and `b`.
    #[inline(always)]
    pub fn map(&self, dense: &mut [f64], a: &[f64], b: &[f64], f: impl Fn(f64, f64, f64) -> f64) {
        match &self.slice {
            Some(slice) => {
                for ((x, a), b) in dense[slice.clone()].iter_mut().zip(a).zip(b) {
                    *x = f(*x, *a, *b);
                }
            }
            None => {
                for ((i, a), b) in self.index.iter().zip(a).zip(b) {
                    dense[*i] = f(dense[*i], *a, *b);
                }
            }
        }
    }

    /// What all scalers do: `(x - shift) / divisor`, finite for finite `x`. A divisor of infinity makes
    /// every number 0; NaN stays NaN.
    pub fn shift_divide(&self, row: &mut Row, shift: &[f64], divisor: &[f64]) {
        match &self.slice {
            Some(slice) => shift_divide_all(&mut row.dense[slice.clone()], shift, divisor),
            None => self.map(&mut row.dense, shift, divisor, shift_divide),
        }
    }

    /// The columns as one slice, where they are neighbours.
    #[inline]
    pub fn neighbours<'a>(&self, dense: &'a mut [f64]) -> Option<&'a mut [f64]> {
        self.slice.clone().map(|slice| &mut dense[slice])
    }

    /// Calls `f` with each column's number in the row and the column's own three statistics.
    #[inline(always)]
    pub fn update(&self, dense: &[f64], [a, b, c]: [&mut [f64]; 3], f: impl Fn(f64, &mut f64, &mut f64, &mut f64)) {
        let statistics = a.iter_mut().zip(b).zip(c);
        match &self.slice {
            Some(slice) => {
                for (x, ((a, b), c)) in dense[slice.clone()].iter().zip(statistics) {
                    f(*x, a, b, c);
                }
            }
            None => {
                for (i, ((a, b), c)) in self.index.iter().zip(statistics) {
                    f(dense[*i], a, b, c);
                }
            }
        }
    }
}

/// `(x - shift) / divisor`, as [`Columns::shift_divide`] has it.
#[inline(always)]
pub(super) fn shift_divide(x: f64, shift: f64, divisor: f64) -> f64 {
    // The last addition turns -0.0 into 0.0, which an infinite divisor would leave for x < shift.
    tame(tame(x - shift) / divisor) + 0.0
}

crate::wide! {
    fn shift_divide_all(dense: &mut [f64], shift: &[f64], divisor: &[f64]) {
        // Four at a time, as the loops of the models have it: these load what is stored here at once, and
        // a load waits where it spans several stores.
        let ((x, x_tail), (shift, shift_tail)) = (dense.as_chunks_mut::<4>(), shift.as_chunks::<4>());
        let (divisor, divisor_tail) = divisor.as_chunks::<4>();
        for ((x, shift), divisor) in x.iter_mut().zip(shift).zip(divisor) {
            *x = std::array::from_fn(|i| shift_divide(x[i], shift[i], divisor[i]));
            turn();
        }
        for ((x, shift), divisor) in x_tail.iter_mut().zip(shift_tail).zip(divisor_tail) {
            *x = shift_divide(*x, *shift, *divisor);
        }
    }
}

/// A number that overflowed becomes the largest finite one of its sign; NaN stays NaN.
#[inline(always)]
pub(super) fn tame(x: f64) -> f64 {
    x.clamp(-f64::MAX, f64::MAX)
}

/// Which of a row's columns stay, as moves in ascending order; the rest is cut off.
#[derive(Debug)]
pub(super) struct Keep {
    from: Vec<usize>,
}

impl Keep {
    /// All of `count` columns except the given ones.
    pub fn all_but(count: usize, gone: &[usize]) -> Keep {
        Keep { from: (0..count).filter(|i| !gone.contains(i)).collect() }
    }
    /// Only the given columns, ascending.
    pub fn only(from: Vec<usize>) -> Keep {
        Keep { from }
    }
    /// Moves the columns that stay together, and cuts the rest off.
    pub fn apply<T: Copy>(&self, values: &mut Vec<T>) {
        self.apply_front(values.len(), values);
    }
    /// The same for the first `width` values; those behind them stay, and follow.
    pub fn apply_front<T: Copy>(&self, width: usize, values: &mut Vec<T>) {
        if self.from.len() == width {
            return;
        }
        for (to, from) in self.from.iter().enumerate() {
            values[to] = values[*from];
        }
        values.copy_within(width.., self.from.len());
        values.truncate(values.len() - (width - self.from.len()));
    }
    /// The same for a layout's names.
    pub fn names<T: Clone>(&self, names: &[T]) -> Vec<T> {
        self.from.iter().map(|i| names[*i].clone()).collect()
    }
}

/// Copies finite numbers over `target`.
///
/// # Errors
/// Corruption, naming the tensor: missing, of another length, or with a number that isn't finite.
pub(super) fn read_finite(state: &State, name: &str, target: &mut [f64]) -> Result<()> {
    state.read_f64(name, target)?;
    match target.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(Fault::corruption(format!("tensor {name:?}: element {at} is {}, not finite", target[at]))),
        None => Ok(()),
    }
}

/// Takes counts, which are held as floats (exact below 2^53).
///
/// # Errors
/// Corruption, naming the tensor: missing, of another length, or with a count that no stream reaches.
pub(super) fn read_counts(state: &State, name: &str, target: &mut [f64]) -> Result<()> {
    let counts = state.get_counts(name, Some(target.len()))?;
    for (to, from) in target.iter_mut().zip(counts) {
        *to = *from as f64;
    }
    Ok(())
}

/// Stores counts that are held as floats.
pub(super) fn put_counts(state: &mut State, name: String, counts: &[f64]) {
    let counts: Vec<u64> = counts.iter().map(|n| *n as u64).collect();
    state.put_u64(name, &counts);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_scattered_columns_agree() {
        let start = [5.0, f64::NAN, -3.0, 8.0];
        let mut slice = Row { dense: start.to_vec(), ..Row::default() };
        let mut scattered = Row { dense: vec![5.0, 0.0, f64::NAN, -3.0, 0.0, 8.0], ..Row::default() };
        let (shift, divisor) = ([1.0, 2.0, 3.0, 4.0], [2.0, 2.0, f64::INFINITY, 0.5]);
        Columns::new(vec![0, 1, 2, 3]).shift_divide(&mut slice, &shift, &divisor);
        Columns::new(vec![0, 2, 3, 5]).shift_divide(&mut scattered, &shift, &divisor);
        let picked = [0, 2, 3, 5].map(|i: usize| scattered.dense[i].to_bits());
        assert_eq!(slice.dense.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), picked);
        assert_eq!((slice.dense[0], slice.dense[3]), (2.0, 8.0));
        assert!(slice.dense[1].is_nan());
        assert_eq!(slice.dense[2].to_bits(), 0, "no variance scales to a positive zero");
    }

    #[test]
    fn overflow_stays_finite() {
        let mut row = Row { dense: vec![f64::MAX, -f64::MAX], ..Row::default() };
        Columns::new(vec![0, 1]).shift_divide(&mut row, &[-f64::MAX, f64::MAX], &[1e-300, f64::INFINITY]);
        assert_eq!(row.dense, [f64::MAX, 0.0]);
    }

    #[test]
    fn keep_moves_and_cuts() {
        let mut values = vec![1, 2, 3, 4];
        Keep::all_but(4, &[0, 2]).apply(&mut values);
        assert_eq!(values, [2, 4]);
    }
}
