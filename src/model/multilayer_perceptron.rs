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

mod rows;
mod step;

use super::layers::{Activation, Layer, ROWS, first_parameters, forward, forward_rows};
use super::options::{Options, Range};
use super::{Features, LabelKind, Learned, Model, Scratch, Shape, TOGETHER_MAX, Task, Visit};
use super::{dense_only, score_then_learn};
use crate::error::{Fault, Result};
use crate::state::{Data, State};
use serde_json::Value;
use std::array::from_fn;
use step::{Moved, Optimizer, Slope};

const KIND: &str = "multilayer-perceptron";
/// A row with a larger activation or error signal is refused: its square still fits in single precision.
const SIGNAL_MAX: f32 = 1e15;
/// Most parameters a network may have (256 MiB of weights).
const PARAMETERS_MAX: usize = 1 << 26;
/// Most hidden layers, the widest, and the most events in a learning unit.
const LAYERS_MAX: usize = 64;
const WIDTH_MAX: u64 = 65_536;
const UNIT_EVENTS_MAX: u64 = 1 << 20;

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
    /// Room for the next parameters.
    next: Vec<f32>,
    moment1: Vec<f32>,
    /// Empty for SGD.
    moment2: Vec<f32>,
    /// Events in the open unit, and their weight.
    events: u64,
    weight: f64,
    /// Steps taken.
    steps: u64,
    /// Working memory of `learn`: the layers' values (inputs first) and error signals, of one row or of several.
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
        next: vec![0.0; at],
        moment1: vec![0.0; at],
        moment2: vec![0.0; if adam { at } else { 0 }],
        events: 0,
        weight: 0.0,
        steps: 0,
        values: vec![0.0; ROWS * (shape.dense.len() + outputs_all)],
        signals: vec![0.0; ROWS * outputs_all],
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

    /// Takes the unit's step if every number stays finite, and opens the next unit.
    fn close_unit(&mut self) -> Learned {
        let mut learned = Learned::Applied;
        if self.weight > 0.0 {
            let slope = Slope { gradient: &self.gradient, share: (1.0 / self.weight) as f32, l2: self.l2 };
            let (moment1, moment2) = (&mut self.moment1[..], &mut self.moment2[..]);
            let moved = Moved { parameters: &mut self.parameters, moment1, moment2, next: &mut self.next };
            match self.optimizer.step(self.steps + 1, slope, moved) {
                true => self.steps += 1,
                false => learned = Learned::Refused,
            }
        }
        self.gradient.fill(0.0);
        (self.events, self.weight) = (0, 0.0);
        learned
    }
}

/// True where every row is learned and counts for something.
fn all_weigh(rows: &[Visit<'_>; ROWS]) -> bool {
    rows.iter().all(|row| row.learns.is_some_and(|(_, weight)| weight != 0.0))
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
        match weight {
            0.0 => Learned::Applied,
            weight => self.learn_alone(x.dense, target, weight),
        }
    }

    fn score_learn_rows(
        &mut self,
        rows: &[Visit<'_>],
        scratch: &mut Scratch,
        out: &mut [f64],
    ) -> [Learned; TOGETHER_MAX] {
        let (mut learned, width) = ([Learned::Frozen; TOGETHER_MAX], out.len() / rows.len().max(1));
        for (i, rows) in rows.chunks(ROWS).enumerate() {
            let out = &mut out[i * ROWS * width..][..rows.len() * width];
            let learned = &mut learned[i * ROWS..][..rows.len()];
            match rows.try_into() {
                // What is learned before the unit's end changes no score, and there the rows end.
                Ok(rows) if all_weigh(rows) => learned.copy_from_slice(&self.visit_at_once(rows, scratch, out)),
                _ => score_then_learn(self, rows, scratch, out, learned),
            }
        }
        learned
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
