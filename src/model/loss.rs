//! Losses of one raw score (margin) and one target: gradient and mean function, with River's names,
//! conventions at kinks, and defaults.

use super::kernels::{SIGMOID_FLAT, exp, exp_near, sigmoid};
use super::options::{Options, Range};
use crate::error::Result;

/// A loss. Binary ones take targets 0 and 1, regression ones any number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// |p − y|.
    Absolute,
    /// Quadratic near 0, logarithmic far out.
    Cauchy {
        /// Scale.
        c: f64,
    },
    /// Focal loss, the "star" form (Lin et al. 2017, appendix).
    Focal {
        /// Slope.
        gamma: f64,
        /// Shift.
        beta: f64,
    },
    /// max(0, threshold − y·p).
    Hinge {
        /// Margin that is asked for; 0 is the perceptron's.
        threshold: f64,
    },
    /// Quadratic up to epsilon, linear beyond.
    Huber {
        /// Where it turns linear.
        epsilon: f64,
    },
    /// ln(1 + e^−y·p).
    Log,
    /// e^p − y·p.
    Poisson,
    /// The pinball loss.
    Quantile {
        /// The quantile that is aimed at.
        alpha: f64,
    },
    /// (p − y)².
    Squared,
}

impl Loss {
    /// Reads `model.loss` of a binary classifier.
    ///
    /// # Errors
    /// Misuse, naming the key.
    pub fn binary(options: &mut Options<'_>) -> Result<Loss> {
        let mut o = options.choice("loss", "log", &["focal", "hinge", "log"])?;
        let loss = match o.kind() {
            "focal" => Loss::Focal {
                gamma: o.number("gamma", 2.0, Range::Positive)?,
                beta: o.number("beta", 1.0, Range::Any)?,
            },
            "hinge" => Loss::Hinge { threshold: o.number("threshold", 1.0, Range::NotNegative)? },
            _ => Loss::Log,
        };
        o.finish()?;
        Ok(loss)
    }

    /// Reads `model.loss` of a regressor.
    ///
    /// # Errors
    /// Misuse, naming the key.
    pub fn regression(options: &mut Options<'_>) -> Result<Loss> {
        let kinds = ["absolute", "cauchy", "huber", "poisson", "quantile", "squared"];
        let mut o = options.choice("loss", "squared", &kinds)?;
        let loss = match o.kind() {
            "absolute" => Loss::Absolute,
            "cauchy" => Loss::Cauchy { c: o.number("C", 80.0, Range::Positive)? },
            "huber" => Loss::Huber { epsilon: o.number("epsilon", 0.1, Range::Positive)? },
            "poisson" => Loss::Poisson,
            "quantile" => Loss::Quantile { alpha: o.number("alpha", 0.5, Range::Between)? },
            _ => Loss::Squared,
        };
        o.finish()?;
        Ok(loss)
    }

    /// dL/dp at raw score `p` and target `y`.
    #[inline]
    pub fn gradient(self, y: f64, p: f64) -> f64 {
        let side = y * 2.0 - 1.0;
        match self {
            Loss::Absolute => {
                if p > y {
                    1.0
                } else {
                    -1.0
                }
            }
            Loss::Cauchy { c } => {
                let (diff, ratio) = (p - y, (p - y) / c);
                diff / (ratio * ratio + 1.0)
            }
            Loss::Focal { gamma, beta } => side * (sigmoid(gamma * (side * p) + beta) - 1.0),
            Loss::Hinge { threshold } => {
                if side * p <= threshold {
                    -side
                } else {
                    0.0
                }
            }
            Loss::Huber { epsilon } => {
                let r = p - y;
                if r.abs() <= epsilon { r } else { epsilon.copysign(r) }
            }
            Loss::Log => log_gradient(side, p * side),
            Loss::Poisson => exp(p) - y,
            Loss::Quantile { alpha } => f64::from(u8::from(y < p)) - alpha,
            Loss::Squared => 2.0 * (p - y),
        }
    }

    /// What is predicted for the raw score `scored`, and dL/dp at the raw score `p` and target `y`: the bits of
    /// [`Loss::mean`] and [`Loss::gradient`]. The two exponentials of the logarithmic loss run side by side.
    #[inline(always)]
    pub fn mean_and_gradient(self, scored: f64, y: f64, p: f64) -> (f64, f64) {
        let side = y * 2.0 - 1.0;
        let z = p * side;
        if matches!(self, Loss::Log) && scored.abs() <= SIGMOID_FLAT && z.abs() <= LOG_FLAT {
            let [below, above] = exp_near([-scored, z]);
            return (1.0 / (1.0 + below), -side / (above + 1.0));
        }
        self.mean_then_gradient(scored, y, p)
    }

    #[inline(never)]
    fn mean_then_gradient(self, scored: f64, y: f64, p: f64) -> (f64, f64) {
        (self.mean(scored), self.gradient(y, p))
    }

    /// From the raw score to what is predicted: a probability, or a number.
    pub fn mean(self, p: f64) -> f64 {
        match self {
            Loss::Focal { .. } | Loss::Hinge { .. } | Loss::Log => sigmoid(p),
            Loss::Poisson => exp(p),
            _ => p,
        }
    }
}

/// Beyond that, River turns to the first-order terms of the logarithmic loss.
const LOG_FLAT: f64 = 18.0;

#[inline]
fn log_gradient(side: f64, z: f64) -> f64 {
    if z > LOG_FLAT {
        exp(-z) * -side
    } else if z < -LOG_FLAT {
        -side
    } else {
        -side / (exp(z) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central differences of the losses themselves, away from kinks.
    #[test]
    fn gradients_are_the_slopes_of_the_losses() {
        let value = |loss: Loss, y: f64, p: f64| -> f64 {
            let s = 2.0 * y - 1.0;
            match loss {
                Loss::Absolute => (p - y).abs(),
                Loss::Cauchy { c } => 0.5 * c * c * libm::log(1.0 + ((p - y) / c).powi(2)),
                Loss::Focal { gamma, beta } => libm::log(1.0 + libm::exp(-(gamma * s * p + beta))) / gamma,
                Loss::Hinge { threshold } => (threshold - s * p).max(0.0),
                Loss::Huber { epsilon } if (p - y).abs() <= epsilon => 0.5 * (p - y) * (p - y),
                Loss::Huber { epsilon } => epsilon * (p - y).abs() - 0.5 * epsilon * epsilon,
                Loss::Log => libm::log(1.0 + libm::exp(-s * p)),
                Loss::Poisson => libm::exp(p) - y * p,
                Loss::Quantile { alpha } => (p - y) * if p > y { 1.0 - alpha } else { -alpha },
                Loss::Squared => (p - y) * (p - y),
            }
        };
        let losses = [
            Loss::Absolute,
            Loss::Cauchy { c: 2.0 },
            Loss::Focal { gamma: 2.0, beta: 1.0 },
            Loss::Hinge { threshold: 1.0 },
            Loss::Huber { epsilon: 0.3 },
            Loss::Log,
            Loss::Poisson,
            Loss::Quantile { alpha: 0.2 },
            Loss::Squared,
        ];
        for loss in losses {
            for y in [0.0, 1.0] {
                for p in [-2.03, -0.71, 0.13, 0.77, 1.9] {
                    let h = 1e-6;
                    let slope = (value(loss, y, p + h) - value(loss, y, p - h)) / (2.0 * h);
                    let gradient = loss.gradient(y, p);
                    assert!((slope - gradient).abs() < 1e-5, "{loss:?} y {y} p {p}: {slope} {gradient}");
                }
            }
        }
    }

    #[test]
    fn the_two_at_once_are_the_two_apart() {
        let mut edges = vec![0.0, -0.0, 1e-300, -18.0, 18.0, -30.0, 30.0, 700.0, -750.0, f64::INFINITY, f64::NAN];
        edges.extend([17.999_999, 18.000_001, -17.999_999, -18.000_001, 29.999_999, -30.000_001]);
        edges.extend((0..400).map(|i| (f64::from(i) - 200.0) * 0.173));
        for loss in [Loss::Log, Loss::Hinge { threshold: 1.0 }, Loss::Focal { gamma: 2.0, beta: 1.0 }, Loss::Poisson] {
            for &scored in &edges {
                for &p in &edges {
                    for y in [0.0, 1.0] {
                        let (mean, gradient) = loss.mean_and_gradient(scored, y, p);
                        let apart = (loss.mean(scored).to_bits(), loss.gradient(y, p).to_bits());
                        assert_eq!((mean.to_bits(), gradient.to_bits()), apart, "{loss:?} {scored} {y} {p}");
                    }
                }
            }
        }
    }

    #[test]
    fn kinks_and_tails_are_rivers() {
        assert_eq!(Loss::Hinge { threshold: 0.0 }.gradient(1.0, 0.0), -1.0);
        assert_eq!(Loss::Absolute.gradient(1.0, 1.0), -1.0);
        assert_eq!(Loss::Quantile { alpha: 0.25 }.gradient(1.0, 1.0), -0.25);
        assert_eq!(Loss::Quantile { alpha: 0.25 }.gradient(1.0, 2.0), 0.75);
        assert_eq!(Loss::Log.gradient(1.0, -19.0), -1.0);
        assert_eq!(Loss::Log.gradient(0.0, -19.0), exp(-19.0));
    }
}
