//! Dense layers in single precision: where they lie, their first weights, and the hot loops of a network.
//!
//! Weights are stored inputs × outputs, so that a row of them meets one input and the compiler can work
//! on several outputs at once. Every sum has one order: an output adds up its inputs one after another.

use super::Task;
use super::kernels::exp;
use super::random::Random;
use std::array::from_fn;

/// What a hidden layer's sums go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(0, x).
    Relu,
    /// The hyperbolic tangent.
    Tanh,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// x.
    Identity,
}

impl Activation {
    /// Names in a spec.
    pub const NAMES: &'static [&'static str] = &["relu", "tanh", "sigmoid", "identity"];

    /// The activation of a name of [`Activation::NAMES`].
    pub fn named(name: &str) -> Activation {
        match name {
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "identity" => Activation::Identity,
            _ => Activation::Relu,
        }
    }
    /// Applies it in place.
    pub(super) fn apply(self, values: &mut [f32]) {
        match self {
            Activation::Relu => values.iter_mut().for_each(|v| *v = if *v > 0.0 { *v } else { 0.0 }),
            Activation::Tanh => values.iter_mut().for_each(|v| *v = libm::tanhf(*v)),
            Activation::Sigmoid => values.iter_mut().for_each(|v| *v = 1.0 / (1.0 + libm::expf(-*v))),
            Activation::Identity => {}
        }
    }
    /// The derivative, from the activation's value.
    pub(super) fn slope(self, value: f32) -> f32 {
        match self {
            Activation::Relu => f32::from(value > 0.0),
            Activation::Tanh => 1.0 - value * value,
            Activation::Sigmoid => value * (1.0 - value),
            Activation::Identity => 1.0,
        }
    }
}

/// A layer's place among the parameters: inputs × outputs weights from `at` on, then the bias.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) at: usize,
}

impl Layer {
    /// Where its bias begins.
    pub(super) fn bias_at(&self) -> usize {
        self.at + self.inputs * self.outputs
    }
    /// One past its last parameter.
    pub(super) fn end(&self) -> usize {
        self.bias_at() + self.outputs
    }
}

/// He's uniform weights before relu, Glorot's elsewhere; biases 0.
pub(super) fn first_parameters(layers: &[Layer], activation: Activation, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut parameters = vec![0.0; layers.last().map_or(0, Layer::end)];
    for (i, layer) in layers.iter().enumerate() {
        let relu = activation == Activation::Relu && i + 1 < layers.len();
        let fan = if relu { layer.inputs } else { layer.inputs + layer.outputs };
        let limit = (6.0 / fan as f64).sqrt();
        for weight in &mut parameters[layer.at..layer.bias_at()] {
            *weight = ((2.0 * random.uniform() - 1.0) * limit) as f32;
        }
    }
    parameters
}

crate::wide! {
    /// out = bias + x · weights; weights are inputs × outputs. Each output adds up its inputs in order; as many
    /// outputs as registers hold go side by side, so that none waits for its own last addition.
    pub(super) fn forward(x: &[f32], weights: &[f32], bias: &[f32], out: &mut [f32]) {
        let outputs = out.len();
        let mut from = 0;
        while from + 32 <= outputs {
            sum_up::<32>(x, weights, bias, from, out);
            from += 32;
        }
        while from + 8 <= outputs {
            sum_up::<8>(x, weights, bias, from, out);
            from += 8;
        }
        while from < outputs {
            sum_up::<1>(x, weights, bias, from, out);
            from += 1;
        }
    }
}

/// The `N` outputs from `from` on.
#[inline(always)]
fn sum_up<const N: usize>(x: &[f32], weights: &[f32], bias: &[f32], from: usize, out: &mut [f32]) {
    let mut sums = [0.0f32; N];
    sums.copy_from_slice(&bias[from..from + N]);
    for (x, row) in x.iter().zip(weights.chunks_exact(out.len())) {
        let Some(row) = row[from..].first_chunk::<N>() else { return };
        for (sum, weight) in sums.iter_mut().zip(row) {
            *sum += x * weight;
        }
    }
    out[from..from + N].copy_from_slice(&sums);
}

/// Rows that the hot loop takes at once: as many as have room for their sums in the registers, two vectors each.
pub(super) const ROWS: usize = 6;

crate::wide! {
    /// [`forward`] of [`ROWS`] rows, to the same bits; `x` and `out` hold one after another. Each row of weights is
    /// loaded once for all of them.
    pub(super) fn forward_rows(x: &[f32], weights: &[f32], bias: &[f32], out: &mut [f32]) {
        match crate::wide::available() {
            true => forward_in::<8>(x, weights, bias, out),
            false => forward_in::<4>(x, weights, bias, out),
        }
    }
}

/// [`forward_rows`] with vectors of `N` numbers.
#[inline(always)]
fn forward_in<const N: usize>(x: &[f32], weights: &[f32], bias: &[f32], out: &mut [f32]) {
    let (inputs, outputs) = (x.len() / ROWS, bias.len());
    let x: [&[f32]; ROWS] = from_fn(|row| &x[row * inputs..][..inputs]);
    let mut from = 0;
    while from + 2 * N <= outputs {
        sum_up_rows::<N, 2>(x, weights, bias, from, out);
        from += 2 * N;
    }
    while from + N <= outputs {
        sum_up_rows::<N, 1>(x, weights, bias, from, out);
        from += N;
    }
    while from < outputs {
        sum_up_rows::<1, 1>(x, weights, bias, from, out);
        from += 1;
    }
}

/// Each row's outputs from `from` on, as many as `V` vectors of `N` hold.
#[inline(always)]
fn sum_up_rows<const N: usize, const V: usize>(
    x: [&[f32]; ROWS],
    weights: &[f32],
    bias: &[f32],
    from: usize,
    out: &mut [f32],
) {
    let outputs = bias.len();
    let bias: [[f32; N]; V] = from_fn(|v| from_fn(|n| bias[from + N * v + n]));
    let mut sums = [bias; ROWS];
    let [a, b, c, d, e, f] = x;
    // Zipped, so that nothing is checked on the way.
    let x = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f);
    for (row, (((((a, b), c), d), e), f)) in weights.chunks_exact(outputs).zip(x) {
        let Some(row) = row[from..].as_chunks::<N>().0.first_chunk::<V>() else { return };
        for (sums, x) in sums.iter_mut().zip([a, b, c, d, e, f]) {
            for (sums, row) in sums.iter_mut().zip(row) {
                *sums = from_fn(|n| sums[n] + x * row[n]);
            }
        }
    }
    for (out, sums) in out.chunks_exact_mut(outputs).zip(&sums) {
        out[from..from + N * V].copy_from_slice(sums.as_flattened());
    }
}

crate::wide! {
    /// Adds the products of a row's inputs and its outputs' signals to a gradient (inputs × outputs).
    pub(super) fn add_products(x: &[f32], signal: &[f32], gradient: &mut [f32]) {
        for (x, gradient) in x.iter().zip(gradient.chunks_exact_mut(signal.len())) {
            for (g, s) in gradient.iter_mut().zip(signal) {
                *g += x * s;
            }
        }
    }
}

crate::wide! {
    /// [`add_products`] of [`ROWS`] rows, one after another, to the same bits: a number of the gradient is loaded and
    /// stored once for all of them.
    pub(super) fn add_products_rows(x: &[f32], signals: &[f32], gradient: &mut [f32]) {
        let (inputs, outputs) = (x.len() / ROWS, signals.len() / ROWS);
        let [a, b, c, d, e, f]: [&[f32]; ROWS] = from_fn(|row| &x[row * inputs..][..inputs]);
        let signals: [_; ROWS] = from_fn(|row| signals[row * outputs..][..outputs].as_chunks::<8>());
        let (eights, rest) = (signals.map(|(eights, _)| eights), signals.map(|(_, rest)| rest.as_chunks::<1>().0));
        let x = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f);
        for (gradient, (((((a, b), c), d), e), f)) in gradient.chunks_exact_mut(outputs).zip(x) {
            let (x, (in_eights, in_rest)) = ([*a, *b, *c, *d, *e, *f], gradient.as_chunks_mut::<8>());
            add_each(x, eights, in_eights);
            add_each(x, rest, in_rest.as_chunks_mut::<1>().0);
        }
    }
}

/// Adds each row's product, of `x` and its signals.
#[inline(always)]
fn add_each<const N: usize>(x: [f32; ROWS], signals: [&[[f32; N]]; ROWS], gradient: &mut [[f32; N]]) {
    let [a, b, c, d, e, f] = signals;
    let signals = a.iter().zip(b).zip(c).zip(d).zip(e).zip(f);
    for (gradient, (((((a, b), c), d), e), f)) in gradient.iter_mut().zip(signals) {
        let mut sum = *gradient;
        for (x, signal) in x.iter().zip([a, b, c, d, e, f]) {
            sum = from_fn(|n| sum[n] + x * signal[n]);
        }
        *gradient = sum;
    }
}

crate::wide! {
    /// What each input of a layer had to do with the error: its weights · signal.
    pub(super) fn carry_back(weights: &[f32], signal: &[f32], before: &mut [f32]) {
        for (before, weights) in before.iter_mut().zip(weights.chunks_exact(signal.len())) {
            *before = dot(weights, signal);
        }
    }
}

crate::wide! {
    /// True where no number is beyond ±`most`, and none is NaN.
    pub(super) fn all_within(values: &[f32], most: f32) -> bool {
        values.iter().fold(true, |all, value| all & (value.abs() <= most))
    }
}

crate::wide! {
    /// Each number to single precision.
    pub(super) fn all_single(from: &[f64], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = single(*from);
        }
    }
}

/// x · y, in eight fixed lanes.
#[inline(always)]
fn dot(x: &[f32], y: &[f32]) -> f32 {
    let ((x, x_tail), (y, y_tail)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let tail: f32 = x_tail.iter().zip(y_tail).map(|(x, y)| x * y).sum();
    let mut lanes = [0.0f32; 8];
    for (x, y) in x.iter().zip(y) {
        lanes = from_fn(|lane| lanes[lane] + x[lane] * y[lane]);
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h)) + tail
}

/// To single precision; what lies beyond its range becomes its largest number.
#[inline(always)]
pub(super) fn single(x: f64) -> f32 {
    x.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// From the output layer's sums to a score of the task, in place; always finite.
pub(super) fn link(task: Task, outputs: &mut [f64]) {
    for sum in outputs.iter_mut() {
        *sum = if sum.is_nan() { 0.0 } else { sum.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) };
    }
    match task {
        Task::Binary => outputs[0] = 1.0 / (1.0 + exp(-outputs[0])),
        Task::Multiclass => {
            let largest = outputs.iter().fold(f64::MIN, |a, v| a.max(*v));
            outputs.iter_mut().for_each(|v| *v = exp(*v - largest));
            let total: f64 = outputs.iter().sum();
            outputs.iter_mut().for_each(|v| *v /= total);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wide::narrowly;
    use proptest::prelude::*;

    /// Numbers that show an order of sums, zeros of both signs and huge ones among them.
    fn numbers(count: usize, random: &mut Random) -> Vec<f32> {
        let any = |random: &mut Random| match (random.uniform() * 16.0) as u32 {
            0 => 0.0,
            1 => -0.0,
            2 => f32::MAX,
            3 => 1e-40,
            _ => random.normal() as f32,
        };
        (0..count).map(|_| any(random)).collect()
    }

    proptest! {
        #[test]
        fn rows_at_once_add_up_as_each_would_alone(inputs in 0usize..70, outputs in 1usize..70, seed in any::<u64>()) {
            let mut random = Random::new(seed);
            let (weights, bias) = (numbers(inputs * outputs, &mut random), numbers(outputs, &mut random));
            let x = numbers(ROWS * inputs, &mut random);
            let mut alone = vec![0.0; ROWS * outputs];
            for (row, out) in alone.chunks_exact_mut(outputs).enumerate() {
                forward(&x[row * inputs..][..inputs], &weights, &bias, out);
            }
            let together = || {
                let mut out = vec![0.0; ROWS * outputs];
                forward_rows(&x, &weights, &bias, &mut out);
                out.iter().map(|sum| sum.to_bits()).collect::<Vec<_>>()
            };
            // What is no number has many patterns of bits, and one way on: the score of 0.
            let bits = |sums: &[u32]| -> Vec<u32> {
                sums.iter().map(|sum| if f32::from_bits(*sum).is_nan() { 0x7fc0_0000 } else { *sum }).collect()
            };
            let alone: Vec<u32> = alone.iter().map(|sum| sum.to_bits()).collect();
            prop_assert_eq!(bits(&alone), bits(&together()));
            prop_assert_eq!(bits(&alone), bits(&narrowly(together)));
        }

        #[test]
        fn gradients_of_rows_at_once_are_those_of_each_in_turn(inputs in 0usize..40, outputs in 1usize..40, seed in any::<u64>()) {
            let mut random = Random::new(seed);
            let mut draw = |count: usize| (0..count).map(|_| random.normal() as f32).collect::<Vec<f32>>();
            let (x, signals, first) = (draw(ROWS * inputs), draw(ROWS * outputs), draw(inputs * outputs));
            let mut alone = first.clone();
            for row in 0..ROWS {
                add_products(&x[row * inputs..][..inputs], &signals[row * outputs..][..outputs], &mut alone);
            }
            let together = || {
                let mut gradient = first.clone();
                add_products_rows(&x, &signals, &mut gradient);
                gradient
            };
            prop_assert_eq!(&alone, &together());
            prop_assert_eq!(&alone, &narrowly(together));
            let back = || {
                let mut before = vec![0.0; inputs];
                carry_back(&first, &signals[..outputs], &mut before);
                before
            };
            prop_assert_eq!(back(), narrowly(back));
        }

        #[test]
        fn one_number_beyond_is_seen_anywhere(count in 1usize..70, at in 0usize..70, bad in 0usize..3) {
            let mut values = vec![-3.0; count];
            prop_assert!(all_within(&values, 3.0));
            values[at % count] = [f32::NAN, 3.5, f32::NEG_INFINITY][bad];
            prop_assert!(!all_within(&values, 3.0) && !narrowly(|| all_within(&values, 3.0)));
        }
    }
}
