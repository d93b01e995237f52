//! What a network does with a row, or with [`ROWS`] of them at once: their values and error signals lie layer by layer,
//! in a layer one row after another. Whatever is added up, is added up in the rows' order.

use super::{Perceptron, SIGNAL_MAX};
use crate::model::layers::{
    ROWS, add_products, add_products_rows, all_single, all_within, carry_back, forward, forward_rows, link, single,
};
use crate::model::{Features, Learned, Scratch, Task, Visit};
use std::array::from_fn;

impl Perceptron {
    /// Scores `R` rows by a loop that takes as many; `out` has room for the first `count` of them.
    pub(super) fn score_at_once<const R: usize>(
        &self,
        rows: [Features<'_>; R],
        scratch: &mut Scratch,
        out: &mut [f64],
        count: usize,
        forward: impl Fn(&[f32], &[f32], &[f32], &mut [f32]),
    ) {
        let buffer = &mut scratch.single;
        if buffer.len() < 2 * R * self.width {
            buffer.resize(2 * R * self.width, 0.0);
        }
        let (mut from, mut to) = buffer.split_at_mut(R * self.width);
        for (values, x) in from.chunks_exact_mut(rows[0].dense.len()).zip(rows) {
            all_single(x.dense, values);
        }
        for (i, layer) in self.layers.iter().enumerate() {
            let ((weights, bias), to_all) = (self.parts(*layer), &mut to[..R * layer.outputs]);
            forward(&from[..R * layer.inputs], weights, bias, to_all);
            if i + 1 < self.layers.len() {
                self.activation.apply(to_all);
            }
            std::mem::swap(&mut from, &mut to);
        }
        self.scores_of(from, out, out.len() / count);
    }

    /// From the last layer's sums, row by row, to scores of a width.
    fn scores_of(&self, sums: &[f32], out: &mut [f64], width: usize) {
        // The softmax is over the classes known so far; a class beyond the outputs has probability 0.
        let known = width.min(self.outputs());
        for (out, sums) in out.chunks_exact_mut(width.max(1)).zip(sums.chunks_exact(self.outputs())) {
            for (out, sum) in out.iter_mut().zip(&sums[..known]) {
                *out = f64::from(*sum);
            }
            link(self.task, &mut out[..known]);
            out[known..].fill(0.0);
        }
    }

    /// `score_learn_rows` of [`ROWS`] rows, all of which are learned and have a weight.
    pub(super) fn visit_at_once(
        &mut self,
        rows: &[Visit<'_>; ROWS],
        scratch: &mut Scratch,
        out: &mut [f64],
    ) -> [Learned; ROWS] {
        self.forward_all(rows.map(|row| row.after.unwrap_or(row.before).dense));
        if rows.iter().any(|row| row.after.is_some()) {
            self.score_at_once(rows.map(|row| row.before), scratch, out, ROWS, forward_rows);
        } else {
            self.scores_of(&self.values[ROWS * self.values_before_outputs()..], out, out.len() / ROWS);
        }
        let known: [bool; ROWS] = from_fn(|row| {
            let (target, weight) = rows[row].learns.unwrap_or_default();
            self.output_signal(row, ROWS, target, weight)
        });
        self.backward(ROWS);
        let fits: [bool; ROWS] = from_fn(|row| known[row] && self.fits(row, ROWS));
        match fits.iter().all(|fits| *fits) {
            true => self.accumulate(0..ROWS, ROWS),
            false => (0..ROWS).filter(|row| fits[*row]).for_each(|row| self.accumulate(row..row + 1, ROWS)),
        }
        let mut learned = fits.map(|fits| if fits { Learned::Applied } else { Learned::Refused });
        for (row, learned) in rows.iter().zip(&mut learned).filter(|(_, learned)| **learned == Learned::Applied) {
            *learned = self.count(row.learns.unwrap_or_default().1);
        }
        learned
    }

    /// `learn` of a row that has a weight.
    pub(super) fn learn_alone(&mut self, x: &[f64], target: f64, weight: f64) -> Learned {
        self.forward_all([x]);
        if !self.output_signal(0, 1, target, weight) {
            return Learned::Refused;
        }
        self.backward(1);
        if !self.fits(0, 1) {
            return Learned::Refused;
        }
        self.accumulate(0..1, 1);
        self.count(weight)
    }

    /// One more event in the unit, which is closed where it is full.
    fn count(&mut self, weight: f64) -> Learned {
        self.weight += f64::from(single(weight));
        self.events += 1;
        if self.events == self.unit_events { self.close_unit() } else { Learned::Applied }
    }

    /// How many of a row's `values` lie before the last layer's outputs.
    fn values_before_outputs(&self) -> usize {
        self.layers.iter().map(|layer| layer.inputs).sum()
    }

    /// Fills `values`: the inputs, then every layer's outputs (the last one's before its link).
    fn forward_all<const R: usize>(&mut self, x: [&[f64]; R]) {
        let mut values = std::mem::take(&mut self.values);
        for (values, x) in values.chunks_exact_mut(x[0].len()).zip(x) {
            all_single(x, values);
        }
        let mut at = 0;
        for (i, layer) in self.layers.iter().enumerate() {
            let (inputs, outputs) = values[at..].split_at_mut(R * layer.inputs);
            let ((weights, bias), outputs) = (self.parts(*layer), &mut outputs[..R * layer.outputs]);
            match R {
                1 => forward(inputs, weights, bias, outputs),
                _ => forward_rows(inputs, weights, bias, outputs),
            }
            if i + 1 < self.layers.len() {
                self.activation.apply(outputs);
            }
            at += R * layer.inputs;
        }
        self.values = values;
    }

    /// Fills the last layer's error signal of a row of so many: the loss's slope, times the event's weight. False: no
    /// such class, or no number.
    fn output_signal(&mut self, row: usize, rows: usize, target: f64, weight: f64) -> bool {
        let mut scratch = std::mem::take(&mut self.output_scratch);
        let known = target.is_finite() && self.slopes(row, rows, target, &mut scratch);
        if known {
            let at = rows * (self.signals_all() - scratch.len()) + row * scratch.len();
            for (signal, slope) in self.signals[at..].iter_mut().zip(&scratch) {
                *signal = single(*slope) * single(weight);
            }
        }
        self.output_scratch = scratch;
        known
    }

    /// The loss's slope at each output.
    fn slopes(&self, row: usize, rows: usize, target: f64, scratch: &mut Vec<f64>) -> bool {
        let outputs = self.outputs();
        let at = rows * self.values_before_outputs() + row * outputs;
        scratch.clear();
        scratch.extend(self.values[at..at + outputs].iter().map(|v| f64::from(*v)));
        if scratch.iter().any(|v| !v.is_finite()) {
            return false;
        }
        link(self.task, scratch);
        match self.task {
            Task::Multiclass if target >= 0.0 && (target as usize) < outputs => scratch[target as usize] -= 1.0,
            Task::Multiclass => return false,
            Task::Binary if !(0.0..=1.0).contains(&target) => return false,
            _ => scratch[0] -= target,
        }
        true
    }

    /// How many error signals a row has.
    fn signals_all(&self) -> usize {
        self.layers.iter().map(|layer| layer.outputs).sum()
    }

    /// Carries the error signals back through the hidden layers.
    fn backward(&mut self, rows: usize) {
        let mut signals = std::mem::take(&mut self.signals);
        let (mut signal_end, mut value_end) = (rows * self.signals_all(), rows * self.values_before_outputs());
        for layer in self.layers[1..].iter().rev() {
            let split = signal_end - rows * layer.outputs;
            let (before, signal) = signals[..signal_end].split_at_mut(split);
            let before = before[split - rows * layer.inputs..].chunks_exact_mut(layer.inputs);
            let values = self.values[value_end - rows * layer.inputs..value_end].chunks_exact(layer.inputs);
            let (weights, _) = self.parts(*layer);
            for ((before, values), signal) in before.zip(values).zip(signal.chunks_exact(layer.outputs)) {
                carry_back(weights, signal, before);
                before.iter_mut().zip(values).for_each(|(before, value)| *before *= self.activation.slope(*value));
            }
            signal_end = split;
            value_end -= rows * layer.inputs;
        }
        self.signals = signals;
    }

    /// True where the squares of a row's values and error signals are finite: products of two numbers that fit are at
    /// most 1e30, and a unit's sum of them is finite.
    fn fits(&self, row: usize, rows: usize) -> bool {
        let fit = |values: &[f32]| all_within(values, SIGNAL_MAX);
        let (mut value_at, mut signal_at) = (0, 0);
        let of = |at: usize, width: usize| at + row * width..at + (row + 1) * width;
        for layer in &self.layers {
            if !fit(&self.values[of(value_at, layer.inputs)]) || !fit(&self.signals[of(signal_at, layer.outputs)]) {
                return false;
            }
            value_at += rows * layer.inputs;
            signal_at += rows * layer.outputs;
        }
        fit(&self.values[of(value_at, self.outputs())])
    }

    /// Adds the gradients of one row or of all to the unit's.
    fn accumulate(&mut self, of: std::ops::Range<usize>, rows: usize) {
        let (mut value_at, mut signal_at) = (0, 0);
        for layer in &self.layers {
            let values = &self.values[value_at..][of.start * layer.inputs..of.end * layer.inputs];
            let signals = &self.signals[signal_at..][of.start * layer.outputs..of.end * layer.outputs];
            let (weights, bias) = self.gradient[layer.at..layer.end()].split_at_mut(layer.inputs * layer.outputs);
            match of.len() {
                1 => add_products(values, signals, weights),
                _ => add_products_rows(values, signals, weights),
            }
            for signal in signals.chunks_exact(layer.outputs) {
                for (g, s) in bias.iter_mut().zip(signal) {
                    *g += s;
                }
            }
            value_at += rows * layer.inputs;
            signal_at += rows * layer.outputs;
        }
    }
}
