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
    /// Each number to single precision.
    pub(super) fn all_single(from: &[f64], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = single(*from);
        }
    }
}

/// x · y, in eight fixed lanes.
pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (xs, ys) = (x.chunks_exact(8), y.chunks_exact(8));
    let tail: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * y[lane];
        }
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
    }
}
