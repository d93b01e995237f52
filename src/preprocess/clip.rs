//! `clip`: limits numbers to a range, so that an outlier can't tear a model's weights away.
//!
//! Options: `fields` (default: all numbers), and one way to say where the limits are:
//! - `lower`, `upper`: constants, either or both;
//! - `lower_quantile`, `upper_quantile`: running quantiles, in (0, 1), either or both (P² algorithm);
//! - `sigmas`: so many running standard deviations around the running mean.
//!
//! Learned limits hold once a column has seen `observations_min` values (default 30, at least 5). They
//! are learned from the numbers as they come, unclipped.

use super::columns::{Columns, read_counts, read_finite};
use super::moments::Moments;
use super::quantile::{MARKERS, Quantile};
use super::spec::Spec;
use super::{Built, Layout, Row, Step};
use crate::error::{Fault, Result};
use crate::state::State;
use serde_json::{Map, Value};

enum Limits {
    Constant,
    Sigmas {
        sigmas: f64,
        moments: Moments,
    },
    Quantiles {
        /// Lower quantiles of all columns, then upper ones; either may be absent.
        lower: Vec<Quantile>,
        upper: Vec<Quantile>,
    },
}

struct Clip {
    columns: Columns,
    limits: Limits,
    observations_min: f64,
    /// Limits in force, a column each: they follow from `limits`, so they aren't saved.
    lower: Vec<f64>,
    upper: Vec<f64>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    const KEYS: [&str; 7] =
        ["fields", "lower", "upper", "lower_quantile", "upper_quantile", "sigmas", "observations_min"];
    let spec = Spec::new(spec, layout, &KEYS)?;
    let columns = Columns::new(spec.dense(|_| true)?);
    let n = columns.len();
    let (lower, upper) = (spec.number("lower")?, spec.number("upper")?);
    let quantiles = (spec.number_within("lower_quantile", 0.0, 1.0)?, spec.number_within("upper_quantile", 0.0, 1.0)?);
    let sigmas = spec.number_within("sigmas", 0.0, 1e6)?;
    let ways = [lower.or(upper).is_some(), quantiles.0.or(quantiles.1).is_some(), sigmas.is_some()];
    if ways.iter().filter(|w| **w).count() != 1 {
        return Err(Fault::misuse("clip: its limits are to be said in one way")
            .hint("lower and/or upper; or lower_quantile and/or upper_quantile; or sigmas"));
    }
    ordered("lower", lower, "upper", upper)?;
    ordered("lower_quantile", quantiles.0, "upper_quantile", quantiles.1)?;
    if ways[0] && spec.has("observations_min") {
        return Err(Fault::misuse("observations_min: goes with learned limits only"));
    }
    let markers = |p: Option<f64>| p.map_or(Vec::new(), |p| vec![Quantile::new(p); n]);
    let limits = match sigmas {
        Some(sigmas) => Limits::Sigmas { sigmas, moments: Moments::new(n) },
        None if ways[0] => Limits::Constant,
        None => Limits::Quantiles { lower: markers(quantiles.0), upper: markers(quantiles.1) },
    };
    let step = Clip {
        columns,
        limits,
        observations_min: spec.whole("observations_min", 5..=1_000_000_000)?.unwrap_or(30) as f64,
        lower: vec![lower.unwrap_or(-f64::MAX); n],
        upper: vec![upper.unwrap_or(f64::MAX); n],
    };
    Ok((Box::new(step), layout.clone()))
}

fn ordered(low_key: &str, low: Option<f64>, high_key: &str, high: Option<f64>) -> Result<()> {
    match (low, high) {
        (Some(low), Some(high)) if low >= high => {
            Err(Fault::misuse(format!("{low_key}: {low} is not below {high_key} ({high})")))
        }
        _ => Ok(()),
    }
}

impl Clip {
    fn derive(&mut self) {
        let enough = |count: f64| count >= self.observations_min;
        match &self.limits {
            Limits::Constant => {}
            Limits::Sigmas { sigmas, moments } => {
                for k in (0..self.lower.len()).filter(|k| enough(moments.count[*k])) {
                    let reach = sigmas * moments.variance[k].sqrt();
                    self.lower[k] = moments.mean[k] - reach;
                    self.upper[k] = moments.mean[k] + reach;
                }
            }
            Limits::Quantiles { lower, upper } => {
                for (limit, q) in self.lower.iter_mut().zip(lower).filter(|(_, q)| enough(q.count)) {
                    *limit = q.get();
                }
                for (limit, q) in self.upper.iter_mut().zip(upper).filter(|(_, q)| enough(q.count)) {
                    *limit = q.get();
                }
            }
        }
    }
}

impl Step for Clip {
    fn learns(&self) -> bool {
        !matches!(self.limits, Limits::Constant)
    }
    fn transform(&self, row: &mut Row, _text: &[u8]) {
        // Comparisons that NaN fails: it stays NaN.
        let clip = |x: f64, lower: f64, upper: f64| {
            let x = if x < lower { lower } else { x };
            if x > upper { upper } else { x }
        };
        self.columns.map(&mut row.dense, &self.lower, &self.upper, clip);
    }

    fn learn(&mut self, row: &Row, _text: &[u8], _weight: f64) {
        match &mut self.limits {
            Limits::Constant => return,
            Limits::Sigmas { moments, .. } => moments.learn(&self.columns, &row.dense),
            Limits::Quantiles { lower, upper } => self.columns.each(&row.dense, |k, x| {
                lower.get_mut(k).into_iter().chain(upper.get_mut(k)).for_each(|q| q.learn(x));
            }),
        }
        self.derive();
    }

    fn save(&self, state: &mut State, prefix: &str) {
        match &self.limits {
            Limits::Constant => {}
            Limits::Sigmas { moments, .. } => moments.save(state, prefix),
            Limits::Quantiles { lower, upper } => {
                save_quantiles(state, &format!("{prefix}lower."), lower);
                save_quantiles(state, &format!("{prefix}upper."), upper);
            }
        }
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        match &mut self.limits {
            Limits::Constant => {}
            Limits::Sigmas { moments, .. } => moments.load(state, prefix)?,
            Limits::Quantiles { lower, upper } => {
                load_quantiles(state, &format!("{prefix}lower."), lower)?;
                load_quantiles(state, &format!("{prefix}upper."), upper)?;
            }
        }
        self.derive();
        Ok(())
    }
}

fn save_quantiles(state: &mut State, prefix: &str, quantiles: &[Quantile]) {
    if quantiles.is_empty() {
        return;
    }
    let counts: Vec<u64> = quantiles.iter().map(|q| q.count as u64).collect();
    let heights: Vec<f64> = quantiles.iter().flat_map(|q| q.heights).collect();
    let positions: Vec<f64> = quantiles.iter().flat_map(|q| q.positions).collect();
    state.put_u64(format!("{prefix}count"), &counts);
    state.put_f64(format!("{prefix}heights"), &heights);
    state.put_f64(format!("{prefix}positions"), &positions);
}

fn load_quantiles(state: &State, prefix: &str, quantiles: &mut [Quantile]) -> Result<()> {
    if quantiles.is_empty() {
        return Ok(());
    }
    let mut counts = vec![0.0; quantiles.len()];
    let mut heights = vec![0.0; quantiles.len() * MARKERS];
    let mut positions = heights.clone();
    read_counts(state, &format!("{prefix}count"), &mut counts)?;
    read_finite(state, &format!("{prefix}heights"), &mut heights)?;
    read_finite(state, &format!("{prefix}positions"), &mut positions)?;
    for (k, q) in quantiles.iter_mut().enumerate() {
        q.count = counts[k];
        q.heights.copy_from_slice(&heights[k * MARKERS..(k + 1) * MARKERS]);
        q.positions.copy_from_slice(&positions[k * MARKERS..(k + 1) * MARKERS]);
        if !q.is_sound() {
            return Err(Fault::corruption(format!("tensor \"{prefix}heights\": markers {k} are out of order")));
        }
    }
    Ok(())
}
