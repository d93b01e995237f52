//! Vowpal Wabbit's default update: adaptive (Duchi et al. 2011), scale-free ("normalized": Ross, Mineiro &
//! Langford 2013) and importance-invariant (Karampatziakis & Langford 2011), with VW 9.11's defaults.
//!
//! VW computes in f32, here everything is f64: scores agree to f32's accuracy. As in VW, the intercept
//! is one more feature of value 1, features of value 0 are left out, and scores (but those of logistic
//! loss) stay within 0 and the labels seen so far.

use super::kernels::{exp, finite, poison, sigmoid};
use super::linear::{class_of, class_weight};
use super::options::{Options, Range};
use super::table::{Table, read_finite};
use super::{Features, Learned, Model, Scratch, Shape, Task};
use crate::error::{Fault, Result};
use crate::state::State;

const NAMES: [&str; 4] = ["weights", "g2", "scale", ""];
/// Smaller features count as that large: the square must not underflow in VW's f32.
const X_MIN: f64 = 1.084202e-19;
/// Below that step, 1 − e^−s is replaced by s.
const TINY_STEP: f64 = 1e-6;
/// The range of a logistic margin.
const MARGIN_MAX: f64 = 50.0;

#[derive(Debug, Clone, Copy, PartialEq)]
enum VwLoss {
    Hinge,
    Logistic,
    Quantile { tau: f64 },
    Squared,
}

impl VwLoss {
    /// Squared derivative at prediction `p` and label `y` (−1 and 1 where binary), and whether there is loss.
    fn square_gradient(self, y: f64, p: f64) -> (f64, bool) {
        match self {
            VwLoss::Hinge => (1.0, y * p < 1.0),
            VwLoss::Logistic => {
                let slope = 1.0 / (1.0 + exp(y * p));
                (slope * slope, true)
            }
            VwLoss::Quantile { tau } => {
                let slope = if y > p { tau } else { 1.0 - tau };
                (slope * slope, y != p)
            }
            VwLoss::Squared => (4.0 * (p - y) * (p - y), y != p),
        }
    }

    /// How far the update goes: the closed form of infinitely many small steps of total size `scale`,
    /// each of which moves the prediction by `reach` a unit.
    fn update(self, y: f64, p: f64, scale: f64, reach: f64) -> f64 {
        let step = scale * reach;
        match self {
            VwLoss::Hinge => {
                let error = 1.0 - y * p;
                y * if step < error { scale } else { error / reach }
            }
            VwLoss::Logistic => {
                let power = exp(y * p);
                if step < TINY_STEP {
                    return y * scale / (1.0 + power);
                }
                -(y * lambert_minus(step + y * p + power) + p) / reach
            }
            VwLoss::Quantile { tau } => {
                let (error, slope) = (y - p, if y > p { tau } else { tau - 1.0 });
                if (slope * step).abs() < error.abs() { slope * scale } else { error / reach }
            }
            VwLoss::Squared if step < TINY_STEP => 2.0 * (y - p) * scale,
            VwLoss::Squared => (y - p) * (1.0 - exp(-2.0 * step)) / reach,
        }
    }
}

/// W(e^x) − x, W being Lambert's function, in VW's approximation (absolute error below 9e-5): a guess
/// and one step of Fritsch, Shafer & Crowley (1973).
fn lambert_minus(x: f64) -> f64 {
    let guess = if x >= 1.0 { 0.86 * x + 0.01 } else { exp(0.8 * x - 0.65) };
    let rest = if x >= 1.0 { x - libm::log(guess) - guess } else { 0.2 * x + 0.65 - guess };
    let t = 1.0 + guess;
    let u = 2.0 * t * (t + 2.0 * rest / 3.0);
    guess * (1.0 + rest / t * (u - rest) / (u - 2.0 * rest)) - x
}

/// What depends on `power_t`. The usual ½ needs no power function.
#[derive(Debug, Clone, Copy)]
struct Decay {
    power_t: f64,
}

impl Decay {
    /// Rate of a feature whose squared gradients sum to `g2` and whose largest magnitude is `scale`.
    fn rate(self, g2: f64, scale: f64) -> f64 {
        if self.power_t == 0.5 {
            1.0 / (g2.sqrt() * scale)
        } else {
            libm::pow(g2, -self.power_t) * self.norm(scale * scale)
        }
    }
    /// square^(power_t − 1).
    fn norm(self, square: f64) -> f64 {
        if self.power_t == 0.5 { 1.0 / square.sqrt() } else { libm::pow(square, self.power_t - 1.0) }
    }
}

/// A linear model with VW's update.
#[derive(Debug)]
pub struct Vw {
    task: Task,
    loss: VwLoss,
    eta: f64,
    decay: Decay,
    class_weight: [f64; 2],
    /// Weights, Σ of squared gradients, largest magnitude; behind the dense features the intercept's.
    table: Table,
    /// Σ over examples of weight · Σ (x / scale)².
    norm_sum: f64,
    /// Σ of the examples' weights.
    weight_sum: f64,
    label_min: f64,
    label_max: f64,
}

impl Vw {
    /// A classifier: labels 0 and 1.
    ///
    /// # Errors
    /// Misuse, naming the key.
    pub fn classifier(mut o: Options<'_>, shape: &Shape) -> Result<Vw> {
        let choice = o.choice("loss", "log", &["hinge", "log"])?;
        let loss = if choice.kind() == "hinge" { VwLoss::Hinge } else { VwLoss::Logistic };
        choice.finish()?;
        let class_weight = class_weight(&mut o)?;
        Ok(Vw { class_weight, ..Vw::read(o, shape, Task::Binary, loss)? })
    }

    /// A regressor.
    ///
    /// # Errors
    /// Misuse, naming the key.
    pub fn regressor(mut o: Options<'_>, shape: &Shape) -> Result<Vw> {
        let mut choice = o.choice("loss", "squared", &["quantile", "squared"])?;
        let loss = match choice.kind() {
            "quantile" => VwLoss::Quantile { tau: choice.number("alpha", 0.5, Range::Between)? },
            _ => VwLoss::Squared,
        };
        choice.finish()?;
        Vw::read(o, shape, Task::Regression, loss)
    }

    fn read(mut o: Options<'_>, shape: &Shape, task: Task, loss: VwLoss) -> Result<Vw> {
        for key in ["l1", "l2", "intercept_lr", "intercept_init", "clip_gradient"] {
            if o.has(key) {
                let fault = Fault::misuse(format!("{} doesn't go with the optimizer \"vw\"", o.path(key)));
                return Err(fault.hint("VW's update scales, bounds and starts weights and intercept by itself"));
            }
        }
        let mut own = o.choice("optimizer", "vw", &["vw"])?;
        let eta = own.number("learning_rate", 0.5, Range::Positive)?;
        let power_t = own.number("power_t", 0.5, Range::Unit)?;
        own.finish()?;
        o.seed()?;
        o.finish()?;
        let range = if loss == VwLoss::Logistic { MARGIN_MAX } else { 0.0 };
        Ok(Vw {
            task,
            loss,
            eta,
            decay: Decay { power_t },
            class_weight: [1.0, 1.0],
            table: Table::with_own(shape.dense.len(), shape.slots, 2, 1),
            norm_sum: 0.0,
            weight_sum: 0.0,
            label_min: -range,
            label_max: range,
        })
    }

    /// The raw score before it is kept within the labels.
    fn raw(&self, x: Features<'_>) -> f64 {
        self.table.margin(self.table.w[self.table.w.len() - 1], x)
    }

    /// Calls `f` with (weight, g2, scale) and value of each feature that isn't 0, the intercept last.
    fn each(&mut self, x: Features<'_>, mut f: impl FnMut([&mut f64; 3], f64)) {
        let own = self.table.w.len() - 1;
        let Table { w, a, b, .. } = &mut self.table;
        let columns = w.iter_mut().zip(a).zip(b).map(|((w, a), b)| [w, a, b]);
        for (cell, x) in columns.zip(x.dense).filter(|(_, x)| **x != 0.0) {
            f(cell, *x);
        }
        for (index, x) in x.indices.iter().zip(x.values).filter(|(_, x)| **x != 0.0) {
            f(self.table.cell3(*index), *x);
        }
        let Table { w, a, b, .. } = &mut self.table;
        f([&mut w[own], &mut a[own], &mut b[own]], 1.0);
    }

    /// Takes the example into the features' statistics. Returns how far a unit of update moves the
    /// prediction, the factor common to all rates, and the poison of what was written.
    fn prepare(&mut self, x: Features<'_>, g2: f64, weight: f64) -> (f64, f64, u64) {
        let (decay, mut bits, mut norm, mut reach) = (self.decay, 0, 0.0, 0.0);
        self.each(x, |[w, sum, scale], x| {
            let x = if x.abs() < X_MIN { X_MIN } else { x.abs() };
            *sum += g2 * x * x;
            if x > *scale {
                // A new largest magnitude: the weight becomes what it would be, had it always been known.
                if *scale > 0.0 {
                    *w *= decay.norm((x / *scale) * (x / *scale));
                }
                *scale = x;
            }
            norm += (x / *scale) * (x / *scale);
            reach += x * x * decay.rate(*sum, *scale);
            bits |= poison(*sum) | poison(*scale) | poison(x);
        });
        self.norm_sum += weight * norm;
        self.weight_sum += weight;
        let common = decay.norm(self.norm_sum / self.weight_sum);
        (reach * common, common, bits | poison(self.norm_sum) | poison(self.weight_sum))
    }

    /// Learns; returns the poison of what was written.
    fn update(&mut self, x: Features<'_>, y: f64, weight: f64) -> u64 {
        if self.loss != VwLoss::Logistic {
            self.label_min = self.label_min.min(y);
            self.label_max = self.label_max.max(y);
        }
        let raw = self.raw(x);
        let p = raw.clamp(self.label_min, self.label_max);
        let (square, loss) = self.loss.square_gradient(y, p);
        if !loss || !raw.is_finite() {
            return poison(raw);
        }
        let g2 = weight * square;
        let (reach, common, mut bits) = if g2 == 0.0 { (1.0, 1.0, 0) } else { self.prepare(x, g2, weight) };
        let update = self.loss.update(y, p, self.eta * weight, reach) * common;
        bits |= poison(update);
        if update != 0.0 && g2 != 0.0 {
            let decay = self.decay;
            self.each(x, |[w, sum, scale], x| {
                *w += update * x * decay.rate(*sum, *scale);
                bits |= poison(*w);
            });
        }
        bits
    }

    fn numbers(&self) -> [f64; 4] {
        [self.norm_sum, self.weight_sum, self.label_min, self.label_max]
    }
    fn set_numbers(&mut self, numbers: [f64; 4]) {
        [self.norm_sum, self.weight_sum, self.label_min, self.label_max] = numbers;
    }
}

impl Model for Vw {
    fn task(&self) -> Task {
        self.task
    }

    fn score(&self, x: Features<'_>, _: &mut Scratch, out: &mut [f64]) {
        let raw = self.raw(x).clamp(self.label_min, self.label_max);
        out[0] = if self.task == Task::Binary { sigmoid(raw) } else { raw };
    }

    fn learn(&mut self, x: Features<'_>, target: f64, weight: f64) -> Learned {
        let binary = self.task == Task::Binary;
        let weight = if binary { weight * self.class_weight[class_of(target)] } else { weight };
        if weight == 0.0 {
            return Learned::Applied;
        }
        let y = if binary { 2.0 * target - 1.0 } else { target };
        if !y.is_finite() || !weight.is_finite() {
            return Learned::Refused;
        }
        let (numbers, last) = (self.numbers(), self.table.w.len() - 1);
        let intercept = [self.table.w[last], self.table.a[last], self.table.b[last]];
        self.table.begin(x);
        if finite(self.update(x, y, weight)) {
            return Learned::Applied;
        }
        self.table.restore(x);
        [self.table.w[last], self.table.a[last], self.table.b[last]] = intercept;
        self.set_numbers(numbers);
        Learned::Refused
    }

    fn fetches_ahead(&self) -> bool {
        self.table.is_far()
    }

    fn prefetch(&self, indices: &[u32]) {
        self.table.prefetch(indices);
    }

    fn save(&self, state: &mut State, prefix: &str) {
        self.table.save(state, prefix, NAMES);
        state.put_f64(format!("{prefix}totals"), &self.numbers());
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        self.table.load(state, prefix, NAMES)?;
        let mut numbers = [0.0; 4];
        let name = format!("{prefix}totals");
        read_finite(state, &name, &mut numbers)?;
        if numbers[2] > numbers[3] {
            return Err(Fault::corruption(format!("tensor {name:?}: the least label is greater than the greatest")));
        }
        self.set_numbers(numbers);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lambert_term_is_within_its_bound() {
        for i in -400..800 {
            let x = f64::from(i) / 40.0;
            // W(e^x) by bisection of w + ln w = x
            let (mut low, mut high) = (1e-12f64, 40.0f64);
            for _ in 0..200 {
                let w = (low + high) / 2.0;
                if w + libm::log(w) < x { low = w } else { high = w }
            }
            assert!((lambert_minus(x) - (low - x)).abs() < 9e-5, "{x}");
        }
    }

    /// The property that gives the update its name: one example of weight 2 does what two of weight 1 do.
    #[test]
    fn the_closed_form_is_invariant_to_importance() {
        for loss in [VwLoss::Hinge, VwLoss::Logistic, VwLoss::Quantile { tau: 0.3 }, VwLoss::Squared] {
            let (p, y, reach) = (0.3, 1.0, 0.7);
            let at_once = p + reach * loss.update(y, p, 2.0, reach);
            let half = p + reach * loss.update(y, p, 1.0, reach);
            let twice = half + reach * loss.update(y, half, 1.0, reach);
            assert!((at_once - twice).abs() < 3e-4, "{loss:?}: {at_once} {twice}");
        }
    }
}
