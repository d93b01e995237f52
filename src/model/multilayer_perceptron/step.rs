//! From a unit's mean gradient to a step of all parameters, or of none.

use crate::error::Result;
use crate::model::options::{Options, Range};

/// How a unit's mean gradient becomes a step.
#[derive(Debug, Clone, Copy)]
pub(super) enum Optimizer {
    /// Along the gradient, with momentum.
    Sgd { learning_rate: f32, momentum: f32 },
    /// Adam.
    Adam { learning_rate: f32, beta_1: f32, beta_2: f32, eps: f32 },
}

/// The sum of a unit's gradients, and what makes a slope of it: its share, and the penalty's.
#[derive(Clone, Copy)]
pub(super) struct Slope<'a> {
    pub gradient: &'a [f32],
    pub share: f32,
    pub l2: f32,
}

/// What a step changes, number by number of one length (`moment2` is empty for SGD), and room for the next parameters.
pub(super) struct Moved<'a> {
    pub parameters: &'a mut Vec<f32>,
    pub moment1: &'a mut [f32],
    pub moment2: &'a mut [f32],
    pub next: &'a mut Vec<f32>,
}

impl Optimizer {
    pub fn read(options: &mut Options<'_>) -> Result<Optimizer> {
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

    /// Takes step number `step`, from 1 on. False where a number would not stay finite: then nothing has changed.
    pub fn step(self, step: u64, slope: Slope<'_>, moved: Moved<'_>) -> bool {
        let Moved { parameters, moment1, moment2, next } = moved;
        match self {
            Optimizer::Sgd { learning_rate, momentum } => {
                let by = Sgd { learning_rate, momentum };
                if !next_by_sgd(by, slope, parameters, moment1, next) {
                    return false;
                }
                move_moment(by, slope, parameters, moment1);
            }
            Optimizer::Adam { learning_rate, beta_1, beta_2, eps } => {
                let t = step as f64;
                let unbias_1 = (1.0 / (1.0 - libm::pow(f64::from(beta_1), t))) as f32;
                let unbias_2 = (1.0 / (1.0 - libm::pow(f64::from(beta_2), t))) as f32;
                let by = Adam { learning_rate, beta_1, beta_2, eps, unbias_1, unbias_2 };
                if !next_by_adam(by, slope, parameters, [moment1, moment2], next) {
                    return false;
                }
                move_moments(by, slope, parameters, [moment1, moment2]);
            }
        }
        std::mem::swap(parameters, next);
        true
    }
}

impl Slope<'_> {
    /// Of one parameter, whose gradient is `g`.
    #[inline(always)]
    fn at(self, g: f32, p: f32) -> f32 {
        g * self.share + self.l2 * p
    }
}

#[derive(Clone, Copy)]
struct Sgd {
    learning_rate: f32,
    momentum: f32,
}

impl Sgd {
    #[inline(always)]
    fn moment(self, g: f32, m: f32) -> f32 {
        self.momentum * m + g
    }
}

#[derive(Clone, Copy)]
struct Adam {
    learning_rate: f32,
    beta_1: f32,
    beta_2: f32,
    eps: f32,
    unbias_1: f32,
    unbias_2: f32,
}

impl Adam {
    #[inline(always)]
    fn moments(self, g: f32, m: f32, v: f32) -> (f32, f32) {
        (self.beta_1 * m + (1.0 - self.beta_1) * g, self.beta_2 * v + (1.0 - self.beta_2) * g * g)
    }
}

/// The top bit is set where `v` is NaN or infinite.
#[inline(always)]
fn poison(v: f32) -> u32 {
    (v.to_bits() & 0x7f80_0000).wrapping_add(0x0080_0000)
}

crate::wide! {
    /// Fills `next`. True where all of it, and the next moment, is finite.
    fn next_by_sgd(by: Sgd, slope: Slope<'_>, parameters: &[f32], moment: &[f32], next: &mut [f32]) -> bool {
        let mut bad = 0;
        for (((next, p), g), m) in next.iter_mut().zip(parameters).zip(slope.gradient).zip(moment) {
            let m = by.moment(slope.at(*g, *p), *m);
            *next = p - by.learning_rate * m;
            bad |= poison(*next) | poison(m);
        }
        bad >> 31 == 0
    }
}

crate::wide! {
    fn move_moment(by: Sgd, slope: Slope<'_>, parameters: &[f32], moment: &mut [f32]) {
        for ((m, p), g) in moment.iter_mut().zip(parameters).zip(slope.gradient) {
            *m = by.moment(slope.at(*g, *p), *m);
        }
    }
}

crate::wide! {
    /// Fills `next`. True where all of it, and the next moments, are finite.
    fn next_by_adam(
        by: Adam, slope: Slope<'_>, parameters: &[f32], moments: [&mut [f32]; 2], next: &mut [f32],
    ) -> bool {
        let (mut bad, [m, v]) = (0, moments);
        for ((((next, p), g), m), v) in next.iter_mut().zip(parameters).zip(slope.gradient).zip(m).zip(v) {
            let (m, v) = by.moments(slope.at(*g, *p), *m, *v);
            *next = p - by.learning_rate * (m * by.unbias_1) / ((v * by.unbias_2).sqrt() + by.eps);
            bad |= poison(*next) | poison(m) | poison(v);
        }
        bad >> 31 == 0
    }
}

crate::wide! {
    fn move_moments(by: Adam, slope: Slope<'_>, parameters: &[f32], moments: [&mut [f32]; 2]) {
        let [m, v] = moments;
        for (((m, v), p), g) in m.iter_mut().zip(v).zip(parameters).zip(slope.gradient) {
            (*m, *v) = by.moments(slope.at(*g, *p), *m, *v);
        }
    }
}
