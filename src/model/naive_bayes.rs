//! Gaussian naive Bayes, online: a running mean and variance of every feature in every class.
//!
//! Scores equal River's `GaussianNB` to 1e-9. The variance is the population's, by Welford's update
//! (Chan, Golub and LeVeque, 1983). `pdf_floor` is added to every density before its logarithm is
//! taken, so that one feature cannot rule out a class; River's is 1e-9. With `pdf_floor = 0` the
//! densities are taken as they are, in logarithms, which is what scikit-learn and linfa do.
//!
//! Tensors: `counts` f64 \[classes\] (weight seen), `means` and `m2` f64 \[classes, features\] (mean, and
//! sum of squared differences from it).

use super::kernels::exp;
use super::options::{Options, Range};
use super::{Features, LabelKind, Learned, Model, Scratch, Shape, Task, dense_only};
use crate::error::{Fault, Result};
use crate::state::{Data, State};

/// What a feature without variance adds to a class's log-likelihood where nothing is added to
/// densities: the logarithm of the smallest normal number.
const LOG_TINY: f64 = -708.396_418_532_264_1;
/// Densities are capped here, so that a product of four stays finite.
const DENSITY_MAX: f64 = 1e70;

/// The statistics of every class seen so far, and what scoring derives from them.
struct GaussianNaiveBayes {
    task: Task,
    features: usize,
    classes_max: usize,
    pdf_floor: f64,
    /// One a class.
    counts: Vec<f64>,
    /// classes × features.
    means: Vec<f64>,
    m2: Vec<f64>,
    /// Derived, classes × features: 1 / standard deviation, and the density's factor (its logarithm
    /// where `pdf_floor` is 0).
    inverse: Vec<f64>,
    factor: Vec<f64>,
}

/// Builds `gaussian-naive-bayes`.
///
/// # Errors
/// Misuse: an unknown key, `pdf_floor` outside [0, 1), hashed features, or a label that is no class.
pub fn build_gaussian_naive_bayes(mut options: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    let pdf_floor = options.number("pdf_floor", 1e-9, Range::BelowOne)?;
    options.seed()?;
    options.finish()?;
    dense_only(shape, "gaussian-naive-bayes")?;
    let (task, classes_max) = match shape.label {
        Some(LabelKind::Bool) => (Task::Binary, 2),
        Some(LabelKind::Category { classes_max }) => (Task::Multiclass, classes_max),
        _ => {
            return Err(Fault::misuse("model.kind \"gaussian-naive-bayes\" needs a bool or category label")
                .hint("linear-regression predicts numbers"));
        }
    };
    Ok(Box::new(GaussianNaiveBayes {
        task,
        features: shape.dense.len(),
        classes_max,
        pdf_floor,
        counts: Vec::new(),
        means: Vec::new(),
        m2: Vec::new(),
        inverse: Vec::new(),
        factor: Vec::new(),
    }))
}

impl GaussianNaiveBayes {
    /// Makes room for a class (and those before it) that was not seen before.
    fn grow(&mut self, classes: usize) {
        let cells = classes * self.features;
        self.counts.resize(classes, 0.0);
        for column in [&mut self.means, &mut self.m2, &mut self.inverse, &mut self.factor] {
            column.resize(cells, 0.0);
        }
    }

    /// Derives what scoring needs of a class.
    fn derive(&mut self, class: usize) {
        let n = self.counts[class];
        for cell in class * self.features..(class + 1) * self.features {
            let variance = self.m2[cell] / n;
            let usable = variance > 0.0 && variance.sqrt().recip().is_finite();
            let inverse = if usable { 1.0 / variance.sqrt() } else { 0.0 };
            let factor = inverse / std::f64::consts::TAU.sqrt();
            self.inverse[cell] = inverse;
            self.factor[cell] = match (self.pdf_floor > 0.0, usable) {
                (true, _) => factor,
                (false, true) => libm::log(factor),
                (false, false) => LOG_TINY,
            };
        }
    }

    /// log P(class) + Σ log P(feature | class); finite. The class was seen.
    fn log_likelihood(&self, class: usize, total: f64, x: &[f64]) -> f64 {
        let cells = class * self.features..(class + 1) * self.features;
        let (means, inverse, factor) = (&self.means[cells.clone()], &self.inverse[cells.clone()], &self.factor[cells]);
        let z2 = |i: usize| {
            let z = (x[i] - means[i]).clamp(f64::MIN, f64::MAX) * inverse[i];
            z * z
        };
        let mut sum = libm::log(self.counts[class] / total);
        if self.pdf_floor > 0.0 {
            // One logarithm for four features: the product of four stays between 1e-36 and 1e280.
            for (chunk, factors) in factor.chunks(4).enumerate() {
                let mut product = 1.0;
                for (j, factor) in factors.iter().enumerate() {
                    let density = exp(-0.5 * z2(4 * chunk + j)) * factor;
                    product *= self.pdf_floor + density.min(DENSITY_MAX);
                }
                sum += libm::log(product);
            }
        } else {
            for (i, log_factor) in factor.iter().enumerate() {
                sum += log_factor - 0.5 * z2(i);
            }
        }
        sum.clamp(f64::MIN, f64::MAX)
    }
}

impl Model for GaussianNaiveBayes {
    fn task(&self) -> Task {
        self.task
    }

    fn score(&self, x: Features<'_>, scratch: &mut Scratch, out: &mut [f64]) {
        let width = if self.task == Task::Binary { 2 } else { out.len() };
        let seen = self.counts.len().min(width);
        let total: f64 = self.counts.iter().sum();
        let scores = &mut scratch.a;
        scores.clear();
        scores.resize(width, 0.0);
        let mut largest = f64::NEG_INFINITY;
        for class in (0..seen).filter(|c| self.counts[*c] > 0.0) {
            scores[class] = self.log_likelihood(class, total, x.dense);
            largest = largest.max(scores[class]);
        }
        if largest == f64::NEG_INFINITY {
            return out.fill(1.0 / width as f64);
        }
        let mut sum = 0.0;
        for (class, score) in scores.iter_mut().enumerate() {
            let known = class < seen && self.counts[class] > 0.0;
            *score = if known { exp(*score - largest) } else { 0.0 };
            sum += *score;
        }
        if self.task == Task::Binary {
            out[0] = scores[1] / sum;
        } else {
            for (out, score) in out.iter_mut().zip(scores) {
                *out = *score / sum;
            }
        }
    }

    fn learn(&mut self, x: Features<'_>, target: f64, weight: f64) -> Learned {
        let class = target as usize;
        if !(target >= 0.0 && class < self.classes_max) {
            return Learned::Refused;
        }
        if weight <= 0.0 {
            return Learned::Applied;
        }
        let old = |column: &[f64], cell: usize| column.get(cell).copied().unwrap_or(0.0);
        let n = old(&self.counts, class) + weight;
        let cells = class * self.features..(class + 1) * self.features;
        let update = |x: f64, mean: f64, m2: f64| {
            let new = mean + weight / n * (x - mean);
            let grown = m2 + weight * (x - mean) * (x - new);
            // Rounding may carry the new mean past x; squares don't add up to less than nothing.
            (new, if grown < 0.0 { 0.0 } else { grown })
        };
        let mut finite = n.is_finite();
        for (x, cell) in x.dense.iter().zip(cells.clone()) {
            let (mean, m2) = update(*x, old(&self.means, cell), old(&self.m2, cell));
            finite &= mean.is_finite() & m2.is_finite();
        }
        if !finite {
            return Learned::Refused;
        }
        if class >= self.counts.len() {
            self.grow(class + 1);
        }
        self.counts[class] = n;
        for (x, cell) in x.dense.iter().zip(cells) {
            (self.means[cell], self.m2[cell]) = update(*x, self.means[cell], self.m2[cell]);
        }
        self.derive(class);
        Learned::Applied
    }

    fn save(&self, state: &mut State, prefix: &str) {
        let shape = [self.counts.len(), self.features];
        state.put_f64(format!("{prefix}counts"), &self.counts);
        state.put(format!("{prefix}means"), &shape, Data::F64(self.means.clone()));
        state.put(format!("{prefix}m2"), &shape, Data::F64(self.m2.clone()));
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let name = |n: &str| format!("{prefix}{n}");
        let counts = state.get_f64(&name("counts"), None)?;
        if counts.len() > self.classes_max {
            let (found, most) = (counts.len(), self.classes_max);
            let message = format!("tensor {:?} has {found} classes; at most {most} expected", name("counts"));
            return Err(Fault::corruption(message));
        }
        // The means are there before memory is taken for them: a few bytes of counts ask for none.
        state.get_f64(&name("means"), Some(counts.len() * self.features))?;
        self.grow(counts.len());
        self.counts.copy_from_slice(counts);
        state.read_f64(&name("means"), &mut self.means)?;
        state.read_f64(&name("m2"), &mut self.m2)?;
        for (tensor, values, least) in
            [("counts", &self.counts, 0.0), ("means", &self.means, f64::MIN), ("m2", &self.m2, 0.0)]
        {
            if let Some(bad) = values.iter().find(|v| !v.is_finite() || **v < least) {
                return Err(Fault::corruption(format!("tensor {:?} holds {bad}", name(tensor))));
            }
        }
        for class in 0..self.counts.len() {
            if self.counts[class] > 0.0 {
                self.derive(class);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn build(spec: &str, features: usize, label: LabelKind) -> Result<Box<dyn Model>> {
        let dense = (0..features).map(|i| format!("x{i}")).collect();
        let shape = Shape { dense, slots: 0, label: Some(label) };
        crate::model::build(&serde_json::from_str(spec).expect("JSON"), &shape)
    }

    const SPEC: &str = r#"{"kind":"gaussian-naive-bayes"}"#;

    fn row(dense: &[f64]) -> Features<'_> {
        Features { dense, indices: &[], values: &[] }
    }

    fn score(model: &dyn Model, x: &[f64], width: usize) -> Vec<f64> {
        let mut out = vec![9.0; width];
        model.score(row(x), &mut Scratch::default(), &mut out);
        out
    }

    fn numbers(value: &Value) -> Vec<f64> {
        value.as_array().expect("list").iter().map(|v| v.as_f64().expect("number")).collect()
    }

    /// Against probabilities that River 0.26.1 gave for the same rows, before it learned each.
    #[test]
    fn equals_river() {
        let text = include_str!("../../tests/data/river/naive_bayes_k_means.json");
        let oracle: Value = serde_json::from_str(text).expect("JSON");
        for (name, label, classes) in
            [("binary", LabelKind::Bool, 2), ("multiclass", LabelKind::Category { classes_max: 5 }, 3)]
        {
            let mut model = build(SPEC, 5, label).expect("model");
            for (n, event) in oracle[name].as_array().expect("rows").iter().enumerate() {
                let (x, y, p) = (numbers(&event["x"]), event["y"].as_f64().expect("label"), numbers(&event["p"]));
                let ours = score(&*model, &x, if classes == 2 { 1 } else { classes });
                let river = if classes == 2 { &p[p.len().min(1)..] } else { &p[..] };
                for (ours, river) in ours.iter().zip(river) {
                    assert!((ours - river).abs() < 1e-9, "{name}, row {n}: {ours}; River has {river}");
                }
                assert_eq!(model.learn(row(&x), y, 1.0), Learned::Applied);
            }
        }
    }

    #[test]
    fn a_state_goes_on_bit_for_bit() {
        let label = LabelKind::Category { classes_max: 3 };
        let mut first = build(SPEC, 2, label).expect("model");
        for i in 0..20 {
            first.learn(row(&[f64::from(i) * 0.3, f64::from(i % 4)]), f64::from(i % 3), 0.5);
        }
        let mut state = State::new();
        first.save(&mut state, "m.");
        let mut second = build(SPEC, 2, label).expect("model");
        second.load(&state, "m.").expect("load");
        for model in [&mut first, &mut second] {
            model.learn(row(&[0.1, 7.0]), 2.0, 2.0);
        }
        let bits = |m: &dyn Model| score(m, &[0.7, 0.2], 3).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&*first), bits(&*second));
        state.put_f64("m.m2", &[-1.0; 6]);
        assert!(second.load(&state, "m.").expect_err("negative").message.contains("m.m2"));
    }

    /// Found by the fuzzer `learning`: the state was saved, and could not be loaded again.
    #[test]
    fn a_sum_of_squares_is_never_below_nothing() {
        let mut model = build(SPEC, 1, LabelKind::Bool).expect("model");
        let mut values = vec![-1.0, 0.1, 1e150, 3.3, 1e-300, 7.7e7, f64::MIN_POSITIVE];
        values.extend((0..200).map(|i| 1.0 / f64::from(i + 3) * 10f64.powi(i % 40 - 20)));
        for (mean, x) in values.iter().flat_map(|a| values.iter().map(move |b| (*a, *b))) {
            let mut state = State::new();
            state.put_f64("m.counts", &[0.0, 1e-17]);
            state.put("m.means", &[2, 1], Data::F64(vec![0.0, mean]));
            state.put("m.m2", &[2, 1], Data::F64(vec![0.0, 0.0]));
            model.load(&state, "m.").expect("load");
            model.learn(row(&[x]), 1.0, 1.0);
            let mut state = State::new();
            model.save(&mut state, "m.");
            model.load(&state, "m.").unwrap_or_else(|fault| panic!("{mean} and {x}: {fault}"));
        }
    }

    #[test]
    fn poison_is_refused_and_scores_stay_finite() {
        for floor in ["1e-9", "0"] {
            let spec = format!(r#"{{"kind":"gaussian-naive-bayes","pdf_floor":{floor}}}"#);
            let mut model = build(&spec, 2, LabelKind::Bool).expect("model");
            assert_eq!(score(&*model, &[0.0, 0.0], 1), [0.5]);
            for (x, y) in [([0.0, 1.0], 0.0), ([0.5, 1.0], 0.0), ([0.1, 1.0], 1.0), ([0.9, 1e-200], 1.0)] {
                assert_eq!(model.learn(row(&x), y, 1.0), Learned::Applied);
            }
            let (mut before, mut after) = (State::new(), State::new());
            model.save(&mut before, "");
            assert_eq!(model.learn(row(&[1e308, 1.0]), 1.0, 1.0), Learned::Refused);
            assert_eq!(model.learn(row(&[0.0, 1.0]), 2.0, 1.0), Learned::Refused, "no such class");
            for x in [[1e308, -1e308], [-1e308, 5e-324], [0.0, 1e300]] {
                let p = score(&*model, &x, 1)[0];
                assert!((0.0..=1.0).contains(&p), "{x:?}: {p}");
            }
            model.save(&mut after, "");
            assert_eq!(before, after);
        }
        assert!(build(r#"{"kind":"gaussian-naive-bayes","pdf_floor":1}"#, 2, LabelKind::Bool).is_err());
        assert!(build(SPEC, 2, LabelKind::Number).is_err());
    }
}
