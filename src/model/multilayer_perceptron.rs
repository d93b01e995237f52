//! A multilayer perceptron: dense layers in single precision, learned online in units of a fixed count of events.
//!
//! The label makes the output: bool a logistic unit, category a softmax over `classes` (default: the
//! schema's limit), a number the sum itself. Losses are cross-entropy and half the squared error.
//!
//! Each labelled event's gradient is taken at the weights that the unit began with, and waits in a sum;
//! the event that completes a unit of `unit_events` (default 32, counted from the lane's first) applies
//! the weighted mean, by SGD with momentum or by Adam (Kingma and Ba, 2015). So the batches' cuts
//! change nothing, and the cost of learning is spread over the events. A row whose gradient is beyond
//! 1e15 is refused. Should the unit's step make a weight non-finite, the unit is dropped as a whole.
//!
//! First weights: He's uniform (2015) before relu, Glorot's (2010) elsewhere, by the seed; biases 0.
//!
//! Tensors: `layers.N.weights` f32 \[inputs, outputs\], `layers.N.bias` f32 \[outputs\]; over all parameters
//! in that order (layer by layer, weights before bias) `gradient`, `moment1` and, for Adam, `moment2`,
//! f32; `unit` u64 \[2\] (events in the open unit, steps taken) and `unit_weight` f64 \[1\].

use super::layers::{Activation, Layer, ROWS, all_single, dot, first_parameters, forward, forward_rows, link, single};
use super::options::{Options, Range};
use super::{Features, LabelKind, Learned, Model, Scratch, Shape, TOGETHER_MAX, Task, dense_only};
use crate::error::{Fault, Result};
use crate::state::{Data, State};
use serde_json::Value;
use std::array::from_fn;

const KIND: &str = "multilayer-perceptron";
/// A row with a larger activation or error signal is refused: its square still fits in single precision.
const SIGNAL_MAX: f32 = 1e15;
/// Most parameters a network may have (256 MiB of weights).
const PARAMETERS_MAX: usize = 1 << 26;
/// Most hidden layers, the widest, and the most events in a learning unit.
const LAYERS_MAX: usize = 64;
const WIDTH_MAX: u64 = 65_536;
const UNIT_EVENTS_MAX: u64 = 1 << 20;

/// How a unit's mean gradient becomes a step.
#[derive(Debug, Clone, Copy)]
enum Optimizer {
    /// Along the gradient, with momentum.
    Sgd { learning_rate: f32, momentum: f32 },
    /// Adam.
    Adam { learning_rate: f32, beta_1: f32, beta_2: f32, eps: f32 },
}

impl Optimizer {
    fn read(options: &mut Options<'_>) -> Result<Optimizer> {
        let mut of = options.choice("optimizer", "adam", &["sgd", "adam"])?;
        let optimizer = match of.kind() {
            "sgd" => Optimizer::Sgd {
                learning_rate: of.number("learning_rate", 0.01, Range::Positive)? as f32,
                momentum: of.number("momentum", 0.0, Range::BelowOne)? as f32,
            },
            _ => Optimizer::Adam {
                learning_rate: of.number("learning_rate", 0.001, Range::Positive)? as f32,
                beta_1: of.number("beta_1", 0.9, Range::BelowOne)? as f32,
                beta_2: of.number("beta_2", 0.999, Range::BelowOne)? as f32,
                eps: of.number("eps", 1e-8, Range::Positive)? as f32,
            },
        };
        of.finish()?;
        Ok(optimizer)
    }
}

/// Widths of the hidden layers; an empty list is a linear model.
fn read_hidden(options: &mut Options<'_>) -> Result<Vec<usize>> {
    let Some(value) = options.raw("layers") else { return Ok(vec![32, 16]) };
    let width = |v: &Value| v.as_u64().filter(|w| (1..=WIDTH_MAX).contains(w)).map(|w| w as usize);
    let widths = value.as_array().filter(|list| list.len() <= LAYERS_MAX).map(|list| list.iter().map(width));
    let widths: Option<Vec<usize>> = widths.and_then(Iterator::collect);
    widths.ok_or_else(|| options.fault("layers", value, "a list of at most 64 widths, each from 1 to 65,536"))
}

struct Perceptron {
    task: Task,
    activation: Activation,
    optimizer: Optimizer,
    l2: f32,
    unit_events: u64,
    layers: Vec<Layer>,
    /// Widest layer, the inputs included.
    width: usize,
    parameters: Vec<f32>,
    gradient: Vec<f32>,
    moment1: Vec<f32>,
    /// Empty for SGD.
    moment2: Vec<f32>,
    /// Events in the open unit, and their weight.
    events: u64,
    weight: f64,
    /// Steps taken.
    steps: u64,
    /// Working memory of `learn`: the layers' values (inputs first) and error signals.
    values: Vec<f32>,
    signals: Vec<f32>,
    output_scratch: Vec<f64>,
}

/// Builds `multilayer-perceptron`.
///
/// # Errors
/// Misuse: an unknown key, a hyperparameter out of its range, hashed features, or no label.
pub fn build_multilayer_perceptron(mut options: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    let hidden = read_hidden(&mut options)?;
    let activation = Activation::named(options.word("activation", "relu", Activation::NAMES)?);
    let optimizer = Optimizer::read(&mut options)?;
    let l2 = options.number("l2", 0.0, Range::NotNegative)? as f32;
    let unit_events = options.whole("unit_events", 32, 1, UNIT_EVENTS_MAX)?;
    let seed = options.seed()?;
    let (task, outputs) = match shape.label {
        Some(LabelKind::Bool) => (Task::Binary, 1),
        Some(LabelKind::Category { classes_max }) => {
            let most = classes_max as u64;
            (Task::Multiclass, options.whole("classes", most, most.min(2), most)? as usize)
        }
        Some(LabelKind::Number) => (Task::Regression, 1),
        None => return Err(Fault::misuse(format!("model.kind {KIND:?} needs a label in [schema]"))),
    };
    options.finish()?;
    dense_only(shape, KIND)?;
    let (mut layers, mut inputs, mut at) = (Vec::new(), shape.dense.len(), 0usize);
    for outputs in hidden.into_iter().chain([outputs]) {
        let layer = Layer { inputs, outputs, at };
        (inputs, at) = (outputs, layer.end());
        layers.push(layer);
        if at > PARAMETERS_MAX {
            return Err(Fault::misuse(format!("model.layers asks for over {PARAMETERS_MAX} parameters")));
        }
    }
    let width = layers.iter().map(|l| l.inputs.max(l.outputs)).max().unwrap_or(1);
    let outputs_all: usize = layers.iter().map(|l| l.outputs).sum();
    let adam = matches!(optimizer, Optimizer::Adam { .. });
    Ok(Box::new(Perceptron {
        task,
        activation,
        optimizer,
        l2,
        unit_events,
        parameters: first_parameters(&layers, activation, seed),
        gradient: vec![0.0; at],
        moment1: vec![0.0; at],
        moment2: vec![0.0; if adam { at } else { 0 }],
        events: 0,
        weight: 0.0,
        steps: 0,
        values: vec![0.0; shape.dense.len() + outputs_all],
        signals: vec![0.0; outputs_all],
        output_scratch: Vec::with_capacity(outputs),
        width,
        layers,
    }))
}

impl Perceptron {
    fn parts(&self, layer: Layer) -> (&[f32], &[f32]) {
        (&self.parameters[layer.at..layer.bias_at()], &self.parameters[layer.bias_at()..layer.end()])
    }

    fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |l| l.outputs)
    }

    /// Scores `R` rows by a loop that takes as many; `out` has room for the first `count` of them.
    fn score_at_once<const R: usize>(
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
        // The softmax is over the classes known so far; a class beyond the outputs has probability 0.
        let width = out.len() / count;
        let known = width.min(self.outputs());
        for (out, sums) in out.chunks_exact_mut(width.max(1)).zip(from.chunks_exact(self.outputs())) {
            for (out, sum) in out.iter_mut().zip(&sums[..known]) {
                *out = f64::from(*sum);
            }
            link(self.task, &mut out[..known]);
            out[known..].fill(0.0);
        }
    }

    /// Fills `values`: the inputs, then every layer's outputs (the last one's before its link).
    fn forward_all(&mut self, x: &[f64]) {
        let mut values = std::mem::take(&mut self.values);
        for (value, x) in values.iter_mut().zip(x) {
            *value = single(*x);
        }
        let mut at = 0;
        for (i, layer) in self.layers.iter().enumerate() {
            let (inputs, outputs) = values[at..at + layer.inputs + layer.outputs].split_at_mut(layer.inputs);
            let (weights, bias) = self.parts(*layer);
            forward(inputs, weights, bias, outputs);
            if i + 1 < self.layers.len() {
                self.activation.apply(outputs);
            }
            at += layer.inputs;
        }
        self.values = values;
    }

    /// Fills the last layer's error signal: the loss's slope, times the event's weight. False: no such class.
    fn output_signal(&mut self, target: f64, weight: f32, scratch: &mut Vec<f64>) -> bool {
        let outputs = self.outputs();
        scratch.clear();
        scratch.extend(self.values[self.values.len() - outputs..].iter().map(|v| f64::from(*v)));
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
        let at = self.signals.len() - outputs;
        for (signal, slope) in self.signals[at..].iter_mut().zip(scratch.iter()) {
            *signal = single(*slope) * weight;
        }
        true
    }

    /// Carries the error signal back through the hidden layers.
    fn backward(&mut self) {
        let mut signals = std::mem::take(&mut self.signals);
        let (mut signal_end, mut value_end) = (signals.len(), self.values.len() - self.outputs());
        for layer in self.layers[1..].iter().rev() {
            let split = signal_end - layer.outputs;
            let (before, signal) = signals[..signal_end].split_at_mut(split);
            let before = &mut before[split - layer.inputs..];
            let values = &self.values[value_end - layer.inputs..value_end];
            let (weights, _) = self.parts(*layer);
            for ((before, value), row) in before.iter_mut().zip(values).zip(weights.chunks_exact(layer.outputs)) {
                *before = dot(row, signal) * self.activation.slope(*value);
            }
            signal_end = split;
            value_end -= layer.inputs;
        }
        self.signals = signals;
    }

    /// Adds the row's gradient to the unit's.
    fn accumulate(&mut self) {
        let (mut value_at, mut signal_at) = (0, 0);
        for layer in &self.layers {
            let values = &self.values[value_at..value_at + layer.inputs];
            let signal = &self.signals[signal_at..signal_at + layer.outputs];
            let (weights, bias) = self.gradient[layer.at..layer.end()].split_at_mut(layer.inputs * layer.outputs);
            for (value, row) in values.iter().zip(weights.chunks_exact_mut(layer.outputs)) {
                for (g, s) in row.iter_mut().zip(signal) {
                    *g += value * s;
                }
            }
            for (g, s) in bias.iter_mut().zip(signal) {
                *g += s;
            }
            value_at += layer.inputs;
            signal_at += layer.outputs;
        }
    }

    /// Takes the unit's step if every number stays finite, and opens the next unit.
    fn close_unit(&mut self) -> Learned {
        let mut learned = Learned::Applied;
        if self.weight > 0.0 {
            learned = match self.optimizer {
                Optimizer::Sgd { learning_rate, momentum } => self.step(|p, g, m, v| {
                    let m = momentum * m + g;
                    (p - learning_rate * m, m, v)
                }),
                Optimizer::Adam { learning_rate, beta_1, beta_2, eps } => {
                    let t = (self.steps + 1) as f64;
                    let unbias1 = (1.0 / (1.0 - libm::pow(f64::from(beta_1), t))) as f32;
                    let unbias2 = (1.0 / (1.0 - libm::pow(f64::from(beta_2), t))) as f32;
                    self.step(|p, g, m, v| {
                        let m = beta_1 * m + (1.0 - beta_1) * g;
                        let v = beta_2 * v + (1.0 - beta_2) * g * g;
                        (p - learning_rate * (m * unbias1) / ((v * unbias2).sqrt() + eps), m, v)
                    })
                }
            };
        }
        self.gradient.fill(0.0);
        (self.events, self.weight) = (0, 0.0);
        learned
    }

    /// Applies `rule` (parameter, gradient, moments → parameter, moments) to all parameters or to none.
    fn step(&mut self, rule: impl Fn(f32, f32, f32, f32) -> (f32, f32, f32)) -> Learned {
        let (l2, share) = (self.l2, (1.0 / self.weight) as f32);
        let adam = !self.moment2.is_empty();
        let next = |p: f32, g: f32, m: f32, v: f32| rule(p, g * share + l2 * p, m, v);
        let moment2 = |i: usize, of: &[f32]| if adam { of[i] } else { 0.0 };
        for (i, p) in self.parameters.iter().enumerate() {
            let (p, m, v) = next(*p, self.gradient[i], self.moment1[i], moment2(i, &self.moment2));
            if !(p.is_finite() && m.is_finite() && v.is_finite()) {
                return Learned::Refused;
            }
        }
        for i in 0..self.parameters.len() {
            let v = moment2(i, &self.moment2);
            let (p, m, v) = next(self.parameters[i], self.gradient[i], self.moment1[i], v);
            self.parameters[i] = p;
            self.moment1[i] = m;
            if adam {
                self.moment2[i] = v;
            }
        }
        self.steps += 1;
        Learned::Applied
    }
}

impl Model for Perceptron {
    fn task(&self) -> Task {
        self.task
    }

    fn score(&self, x: Features<'_>, scratch: &mut Scratch, out: &mut [f64]) {
        self.score_at_once([x], scratch, out, 1, forward);
    }

    fn together(&self) -> usize {
        TOGETHER_MAX
    }

    fn score_rows(&self, rows: &[Features<'_>], scratch: &mut Scratch, out: &mut [f64]) {
        let width = (out.len() / rows.len().max(1)).max(1);
        for (rows, out) in rows.chunks(ROWS).zip(out.chunks_mut(ROWS * width)) {
            if rows.len() <= ROWS / 2 {
                let each = rows.iter().zip(out.chunks_exact_mut(width));
                each.for_each(|(row, out)| self.score(*row, scratch, out));
                continue;
            }
            // Rows that are missing are the last one again.
            let all: [_; ROWS] = from_fn(|row| rows[row.min(rows.len() - 1)]);
            self.score_at_once(all, scratch, out, rows.len(), forward_rows);
        }
    }

    fn unit_left(&self) -> u64 {
        self.unit_events - self.events
    }

    fn learn(&mut self, x: Features<'_>, target: f64, weight: f64) -> Learned {
        let fits = |values: &[f32]| values.iter().all(|v| v.abs() <= SIGNAL_MAX);
        if weight == 0.0 {
            return Learned::Applied;
        }
        self.forward_all(x.dense);
        let mut outputs = std::mem::take(&mut self.output_scratch);
        let known = target.is_finite() && self.output_signal(target, single(weight), &mut outputs);
        self.output_scratch = outputs;
        if !known {
            return Learned::Refused;
        }
        self.backward();
        // Products of two numbers that fit are at most 1e30: a unit's sum of them is finite.
        if !fits(&self.values) || !fits(&self.signals) {
            return Learned::Refused;
        }
        self.accumulate();
        self.weight += f64::from(single(weight));
        self.events += 1;
        if self.events == self.unit_events { self.close_unit() } else { Learned::Applied }
    }

    fn save(&self, state: &mut State, prefix: &str) {
        for (i, layer) in self.layers.iter().enumerate() {
            let (weights, bias) = self.parts(*layer);
            let shape = [layer.inputs, layer.outputs];
            state.put(format!("{prefix}layers.{i}.weights"), &shape, Data::F32(weights.to_vec()));
            state.put(format!("{prefix}layers.{i}.bias"), &[layer.outputs], Data::F32(bias.to_vec()));
        }
        for (name, values) in [("gradient", &self.gradient), ("moment1", &self.moment1), ("moment2", &self.moment2)] {
            if !values.is_empty() {
                state.put(format!("{prefix}{name}"), &[values.len()], Data::F32(values.clone()));
            }
        }
        state.put_u64(format!("{prefix}unit"), &[self.events, self.steps]);
        state.put_f64(format!("{prefix}unit_weight"), &[self.weight]);
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let read = |name: String, target: &mut [f32]| -> Result<()> {
            let values = state.get_f32(&name, Some(target.len()))?;
            if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
                return Err(Fault::corruption(format!("tensor {name:?} holds {bad}")));
            }
            target.copy_from_slice(values);
            Ok(())
        };
        for (i, layer) in self.layers.iter().enumerate() {
            let name = format!("{prefix}layers.{i}.weights");
            let (found, expected) = (&state.get(&name)?.shape, [layer.inputs, layer.outputs]);
            if found[..] != expected {
                return Err(Fault::corruption(format!("tensor {name:?} has shape {found:?}; {expected:?} expected")));
            }
            read(name, &mut self.parameters[layer.at..layer.bias_at()])?;
            read(format!("{prefix}layers.{i}.bias"), &mut self.parameters[layer.bias_at()..layer.end()])?;
        }
        read(format!("{prefix}gradient"), &mut self.gradient)?;
        read(format!("{prefix}moment1"), &mut self.moment1)?;
        if !self.moment2.is_empty() {
            read(format!("{prefix}moment2"), &mut self.moment2)?;
        }
        let unit = state.get_counts(&format!("{prefix}unit"), Some(2))?;
        (self.events, self.steps) = (unit[0], unit[1]);
        self.weight = state.get_one_f64(&format!("{prefix}unit_weight"))?;
        if self.events >= self.unit_events {
            let (events, most) = (self.events, self.unit_events);
            return Err(Fault::corruption(format!("tensor \"{prefix}unit\" holds {events} events of {most}")));
        }
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            return Err(Fault::corruption(format!("tensor \"{prefix}unit_weight\" holds {}", self.weight)));
        }
        if self.moment2.iter().any(|v| *v < 0.0) {
            return Err(Fault::corruption(format!("tensor \"{prefix}moment2\" holds a negative number")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
