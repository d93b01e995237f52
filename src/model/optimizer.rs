//! Optimizers and learning-rate schedules, with River's names, defaults and order of operations:
//! SGD; AdaGrad (Duchi et al. 2011); Adam (Kingma & Ba 2014); FTRL-proximal (McMahan et al. 2013).
//!
//! A step visits the features of the row alone, so hashed features cost what the row costs: a feature
//! that is absent keeps its moments (Adam is "lazy" there). A slot that occurs twice is stepped twice.

use super::Features;
use super::loss::Loss;
use super::options::{Options, Range};
use super::quad::{Four, Quad};
use super::softmax::Slopes;
use super::table::Table;
use crate::error::{Fault, Result};
use std::array::from_fn;

/// A learning rate, by the number of steps taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Schedule {
    /// Always the same.
    Constant(f64),
    /// rate / (t + 1)^power.
    InverseScaling {
        /// The rate at the first step.
        rate: f64,
        /// The power.
        power: f64,
    },
    /// 1 / (alpha · (t0 + t)): Bottou, Stochastic gradient descent tricks, 2012.
    Optimal {
        /// Strength of the regularisation it assumes.
        alpha: f64,
        /// Follows from alpha and the loss.
        t0: f64,
    },
}

impl Schedule {
    /// Reads a number, or a table with a kind. `loss` is what "optimal" starts from, where it may be used.
    ///
    /// # Errors
    /// Misuse, naming the key.
    pub fn read(o: &mut Options<'_>, key: &'static str, default: f64, loss: Option<Loss>) -> Result<Schedule> {
        if o.raw(key).is_none_or(|value| value.is_number()) {
            return Ok(Schedule::Constant(o.number(key, default, Range::NotNegative)?));
        }
        let kinds: &[&str] =
            if loss.is_some() { &["constant", "inverse-scaling", "optimal"] } else { &["constant", "inverse-scaling"] };
        let mut o = o.choice(key, "constant", kinds)?;
        let schedule = match (o.kind(), loss) {
            ("inverse-scaling", _) => Schedule::InverseScaling {
                rate: o.number("learning_rate", default, Range::NotNegative)?,
                power: o.number("power", 0.5, Range::Any)?,
            },
            ("optimal", Some(loss)) => {
                let alpha = o.number("alpha", 1e-4, Range::Positive)?;
                let typical = (1.0 / alpha.sqrt()).sqrt();
                let rate = typical / loss.gradient(1.0, -typical).max(1.0);
                Schedule::Optimal { alpha, t0: 1.0 / (rate * alpha) }
            }
            _ => Schedule::Constant(o.number("learning_rate", default, Range::NotNegative)?),
        };
        o.finish()?;
        Ok(schedule)
    }

    /// The rate after `t` steps.
    pub fn at(self, t: u64) -> f64 {
        match self {
            Schedule::Constant(rate) => rate,
            Schedule::InverseScaling { rate, power: 0.5 } => rate / (t as f64 + 1.0).sqrt(),
            Schedule::InverseScaling { rate, power } => rate / libm::pow(t as f64 + 1.0, power),
            Schedule::Optimal { alpha, t0 } => 1.0 / (alpha * (t0 + t as f64)),
        }
    }
}

/// How a gradient becomes a change of the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    /// w −= rate · g.
    Sgd {
        /// The rate.
        rate: Schedule,
    },
    /// w −= rate / √(Σg² + eps) · g.
    AdaGrad {
        /// The rate.
        rate: Schedule,
        /// Keeps the root from 0.
        eps: f64,
    },
    /// Moving averages of g and g², both corrected for their start at 0.
    Adam {
        /// The rate.
        rate: Schedule,
        /// Decay of the average of g.
        beta_1: f64,
        /// Decay of the average of g².
        beta_2: f64,
        /// Keeps the quotient finite.
        eps: f64,
    },
    /// FTRL-proximal. As in River, weights are refreshed from (z, n) at the start of a step, and one
    /// whose |z| is within l1 keeps its value.
    Ftrl {
        /// Learning rate.
        alpha: f64,
        /// Keeps early rates small.
        beta: f64,
        /// L1 penalty.
        l1: f64,
        /// L2 penalty.
        l2: f64,
    },
}

impl Optimizer {
    /// Reads `model.optimizer`; by default, SGD with rate 0.01.
    ///
    /// # Errors
    /// Misuse, naming the key.
    pub fn read(o: &mut Options<'_>, loss: Option<Loss>, kinds: &[&'static str]) -> Result<Optimizer> {
        let mut o = o.choice("optimizer", "sgd", kinds)?;
        let optimizer = match o.kind() {
            "adagrad" => Optimizer::AdaGrad {
                rate: Schedule::read(&mut o, "learning_rate", 0.1, loss)?,
                eps: o.number("eps", 1e-8, Range::Positive)?,
            },
            "adam" => Optimizer::Adam {
                rate: Schedule::read(&mut o, "learning_rate", 0.1, loss)?,
                beta_1: o.number("beta_1", 0.9, Range::BelowOne)?,
                beta_2: o.number("beta_2", 0.999, Range::BelowOne)?,
                eps: o.number("eps", 1e-8, Range::Positive)?,
            },
            "ftrl" => Optimizer::Ftrl {
                alpha: o.number("alpha", 0.05, Range::Positive)?,
                beta: o.number("beta", 1.0, Range::NotNegative)?,
                l1: o.number("l1", 0.0, Range::NotNegative)?,
                l2: o.number("l2", 1.0, Range::NotNegative)?,
            },
            "sgd" => Optimizer::Sgd { rate: Schedule::read(&mut o, "learning_rate", 0.01, loss)? },
            other => return Err(Fault::internal(format!("no such optimizer: {other}"))),
        };
        o.finish()?;
        Ok(optimizer)
    }

    /// Number of columns of a [`Table`] that it needs beside the weights.
    pub fn columns(self) -> usize {
        match self {
            Optimizer::Sgd { .. } => 0,
            Optimizer::AdaGrad { .. } => 1,
            Optimizer::Adam { .. } | Optimizer::Ftrl { .. } => 2,
        }
    }

    /// Names of the columns of a [`Table`], weights first, L1 last.
    pub fn names(self) -> [&'static str; 4] {
        match self {
            Optimizer::Sgd { .. } => ["weights", "", "", "cum_l1"],
            Optimizer::AdaGrad { .. } => ["weights", "g2", "", "cum_l1"],
            Optimizer::Adam { .. } => ["weights", "m", "v", "cum_l1"],
            Optimizer::Ftrl { .. } => ["weights", "z", "n", "cum_l1"],
        }
    }

    /// The rate after `t` steps; none for FTRL.
    pub fn rate(self, t: u64) -> Option<f64> {
        match self {
            Optimizer::Sgd { rate } | Optimizer::AdaGrad { rate, .. } | Optimizer::Adam { rate, .. } => {
                Some(rate.at(t))
            }
            Optimizer::Ftrl { .. } => None,
        }
    }

    /// One step, the `t`-th from 0: each feature's gradient is x·slope + l2·w. Returns the poison of
    /// what was written ([`super::kernels::poison`]).
    #[inline(always)]
    pub fn step(&self, table: &mut Table, t: u64, x: Features<'_>, slope: f64, l2: f64) -> u64 {
        match *self {
            Optimizer::Sgd { rate } => {
                let rate = rate.at(t);
                let shrink = rate * l2;
                table.each1(x, |x, w| sgd(x, w, slope, rate, shrink))
            }
            Optimizer::AdaGrad { rate, eps } => {
                let rate = rate.at(t);
                table.each2(x, |x, w, g2| adagrad(x * slope + l2 * w, w, g2, rate, eps))
            }
            Optimizer::Adam { beta_1, beta_2, eps, .. } => {
                let rate = self.warmed_up(t);
                table.each3(x, |x, w, m, v| adam(x * slope + l2 * w, [w, m, v], rate, [beta_1, beta_2], eps))
            }
            Optimizer::Ftrl { alpha, beta, l1, l2: pull } => {
                table.each3(x, |x, w, z, n| ftrl(x * slope + l2 * w, [w, z, n], [alpha, beta, l1, pull]))
            }
        }
    }

    /// [`Optimizer::step`] of four classes at once, the `t`-th of each. A class without a slope takes no step.
    #[inline(always)]
    pub fn step_four(&self, quad: &mut Quad, t: [u64; 4], x: Features<'_>, slopes: Slopes, l2: f64) -> u64 {
        let (steps, slope) = (slopes.map(|slope| slope.is_some()), slopes.map(|slope| slope.unwrap_or(0.0)));
        let rate = t.map(|t| self.warmed_up(t));
        let pick = |k: usize, new: f64, old: f64| if steps[k] { new } else { old };
        match *self {
            Optimizer::Sgd { .. } => {
                quad.each(x, |x, [w]| [from_fn(|k| pick(k, sgd(x, w[k], slope[k], rate[k], rate[k] * l2), w[k]))])
            }
            Optimizer::AdaGrad { eps, .. } => quad.each(x, |x, [w, g2]| {
                let new: [_; 4] = from_fn(|k| adagrad(x * slope[k] + l2 * w[k], w[k], g2[k], rate[k], eps));
                [from_fn(|k| pick(k, new[k].0, w[k])), from_fn(|k| pick(k, new[k].1, g2[k]))]
            }),
            Optimizer::Adam { beta_1, beta_2, eps, .. } => quad.each(x, |x, old: [_; 3]| {
                let [w, m, v] = old;
                let betas = [beta_1, beta_2];
                let new: [_; 4] =
                    from_fn(|k| adam(x * slope[k] + l2 * w[k], [w[k], m[k], v[k]], rate[k], betas, eps).into());
                picked(new, old, pick)
            }),
            Optimizer::Ftrl { alpha, beta, l1, l2: pull } => quad.each(x, |x, old: [_; 3]| {
                let [w, z, n] = old;
                let options = [alpha, beta, l1, pull];
                let new: [_; 4] = from_fn(|k| ftrl(x * slope[k] + l2 * w[k], [w[k], z[k], n[k]], options).into());
                picked(new, old, pick)
            }),
        }
    }

    /// The rate at the `t`-th step (Adam's with the correction of its averages' start); 0 for FTRL, which has none.
    #[inline(always)]
    fn warmed_up(&self, t: u64) -> f64 {
        match *self {
            Optimizer::Sgd { rate } | Optimizer::AdaGrad { rate, .. } => rate.at(t),
            Optimizer::Adam { rate, beta_1, beta_2, .. } => {
                let steps = t as f64 + 1.0;
                rate.at(t) * warm_up(beta_2, steps).sqrt() / warm_up(beta_1, steps)
            }
            Optimizer::Ftrl { .. } => 0.0,
        }
    }
}

/// Three columns of four classes, from four classes of three columns.
#[inline(always)]
fn picked(new: [[f64; 3]; 4], old: [Four; 3], pick: impl Fn(usize, f64, f64) -> f64) -> [Four; 3] {
    from_fn(|column| from_fn(|k| pick(k, new[k][column], old[column][k])))
}

#[inline(always)]
fn sgd(x: f64, w: f64, slope: f64, rate: f64, shrink: f64) -> f64 {
    // Grouped so that all but one product is ready before the slope is known.
    (w - shrink * w) - (rate * x) * slope
}

#[inline(always)]
fn adagrad(g: f64, w: f64, g2: f64, rate: f64, eps: f64) -> (f64, f64) {
    let g2 = g2 + g * g;
    (w - rate / (g2 + eps).sqrt() * g, g2)
}

#[inline(always)]
fn adam(g: f64, [w, m, v]: [f64; 3], rate: f64, [beta_1, beta_2]: [f64; 2], eps: f64) -> (f64, f64, f64) {
    let m = beta_1 * m + (1.0 - beta_1) * g;
    let v = beta_2 * v + (1.0 - beta_2) * (g * g);
    (w - rate * m / (v.sqrt() + eps), m, v)
}

#[inline(always)]
fn ftrl(g: f64, [w, z, n]: [f64; 3], [alpha, beta, l1, pull]: [f64; 4]) -> (f64, f64, f64) {
    let fresh = -(1.0 / ((beta + n.sqrt()) / alpha + pull)) * (z - l1.copysign(z));
    let w = if z.abs() > l1 { fresh } else { w };
    let sum = n + g * g;
    (w, z + (g - (sum.sqrt() - n.sqrt()) / alpha * w), sum)
}

/// 1 − beta^steps. Since beta ≤ e^−(1−beta), the power is below 2⁻⁵⁷ and lost to rounding after 40 / (1 − beta) steps.
fn warm_up(beta: f64, steps: f64) -> f64 {
    if steps * (1.0 - beta) > 40.0 { 1.0 } else { 1.0 - libm::pow(beta, steps) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_cut_of_adams_warm_up_changes_no_bit() {
        for beta in [0.0, 0.5, 0.9, 0.99, 0.999] {
            for steps in [1.0, 2.0, 39.0, 41.0, 399.0, 401.0, 4_001.0, 39_999.0, 40_001.0, 1e6] {
                assert_eq!(warm_up(beta, steps), 1.0 - libm::pow(beta, steps), "{beta} {steps}");
            }
        }
    }

    #[test]
    fn schedules_follow_their_formulas() {
        assert_eq!(Schedule::Constant(0.3).at(9), 0.3);
        assert_eq!(Schedule::InverseScaling { rate: 0.6, power: 0.5 }.at(3), 0.3);
        assert!((Schedule::InverseScaling { rate: 1.0, power: 2.0 }.at(2) - 1.0 / 9.0).abs() < 1e-16);
        assert_eq!(Schedule::Optimal { alpha: 0.5, t0: 3.0 }.at(1), 0.5);
    }
}
