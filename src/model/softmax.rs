//! Softmax (multinomial logistic) regression: a row of weights and an optimizer of its own a class, no
//! intercept, as in River. A class is known from the first example that was learned for it; its row is
//! made then. Memory: classes (in fours, `quad.rs`) × features (and slots) × the optimizer's columns
//! (`table.rs`) × 8 bytes.

use super::kernels::{EXP_NEAR, exp, exp_near, finite, poison};
use super::optimizer::Optimizer;
use super::options::{Options, Range};
use super::quad::{Four, Quad};
use super::table::{FAR_BYTES, check_finite};
use super::{Features, LabelKind, Learned, Model, Scratch, Shape, Task};
use crate::error::{Fault, Result};
use crate::state::State;
use std::array::from_fn;

/// A probability is kept that far from 0 and 1 where a gradient is taken.
const PROBABILITY_MIN: f64 = 1e-15;

/// `softmax-regression`.
///
/// # Errors
/// Misuse, naming the key.
pub fn softmax_regression(mut o: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    let Some(LabelKind::Category { classes_max }) = shape.label else {
        let fault = Fault::misuse("model.kind \"softmax-regression\" needs a label of type category");
        return Err(fault.hint("for a bool label use \"logistic-regression\", for a number \"linear-regression\""));
    };
    if o.has("class_weight") {
        let fault = Fault::misuse("model.class_weight doesn't go with \"softmax-regression\"");
        return Err(fault.hint("classes get their numbers as they appear; weigh events with schema.weight"));
    }
    let optimizer = Optimizer::read(&mut o, None, &["adagrad", "adam", "ftrl", "sgd"])?;
    let l2 = o.number("l2", 0.0, Range::NotNegative)?;
    o.seed()?;
    o.finish()?;
    Ok(Box::new(Softmax {
        optimizer,
        l2,
        dense: shape.dense.len(),
        slots: shape.slots,
        classes_max,
        quads: Vec::new(),
        iterations: Vec::new(),
        probabilities: Vec::new(),
    }))
}

#[derive(Debug)]
struct Softmax {
    optimizer: Optimizer,
    l2: f64,
    dense: usize,
    slots: usize,
    classes_max: usize,
    /// Weights of four classes each. Those of classes that aren't known are 0.
    quads: Vec<Quad>,
    /// How many steps each class took (0: the class isn't known).
    iterations: Vec<u64>,
    probabilities: Vec<f64>,
}

crate::wide! {
    fn margins(quad: &Quad, x: Features<'_>) -> Four {
        quad.margins(x)
    }
}

crate::wide! {
    fn step(optimizer: Optimizer, quad: &mut Quad, t: [u64; 4], x: Features<'_>, slopes: Slopes, l2: f64) -> u64 {
        optimizer.step_four(quad, t, x, slopes, l2)
    }
}

/// The loss's slope for each of four classes; none for a class that takes no step.
pub type Slopes = [Option<f64>; 4];

impl Softmax {
    /// Probabilities of the known classes; 0 for others.
    fn probabilities(&self, x: Features<'_>, out: &mut [f64]) {
        out.fill(0.0);
        let mut max = f64::NEG_INFINITY;
        for ((quad, iterations), out) in self.quads.iter().zip(self.iterations.chunks(4)).zip(out.chunks_mut(4)) {
            let margins = margins(quad, x);
            for ((out, margin), _) in out.iter_mut().zip(margins).zip(iterations).filter(|(_, n)| **n > 0) {
                *out = margin;
                // A NaN must reach all of the sum; f64::max would drop it.
                max = if margin > max || margin.is_nan() { margin } else { max };
            }
        }
        let mut total = 0.0;
        for (iterations, out) in self.iterations.chunks(4).zip(out.chunks_mut(4)) {
            for ((out, power), _) in powers(out, max).zip(iterations).filter(|(_, n)| **n > 0) {
                *out = power;
                total += power;
            }
        }
        if total != 0.0 {
            out.iter_mut().for_each(|out| *out /= total);
        }
    }

    /// Steps every known class, and `class`, from what the model scored. Where that goes wrong, takes all of it back
    /// and returns false.
    fn step(&mut self, x: Features<'_>, class: usize, weight: f64, probabilities: &[f64]) -> bool {
        let mut bits = 0;
        for (i, (quad, iterations)) in self.quads.iter_mut().zip(self.iterations.chunks(4)).enumerate() {
            let slopes = from_fn(|k| {
                let (t, p) = (*iterations.get(k)?, probabilities.get(4 * i + k)?);
                let of_class = 4 * i + k == class;
                let target = if of_class { 1.0 } else { 0.0 };
                let slope = (p.clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN) - target) * weight;
                (t > 0 || of_class).then_some(slope)
            });
            bits |= slopes.iter().flatten().fold(0, |bits, slope| bits | poison(*slope));
            let t = from_fn(|k| iterations.get(k).copied().unwrap_or(0));
            bits |= step(self.optimizer, quad, t, x, slopes, self.l2);
        }
        if finite(bits) {
            let stepped = self.iterations.iter_mut().enumerate().filter(|(i, n)| **n > 0 || *i == class);
            stepped.for_each(|(_, n)| *n += 1);
            return true;
        }
        self.quads.iter_mut().for_each(|quad| quad.restore(x));
        false
    }

    /// Learns a row of that many probabilities, or of more classes than are known.
    fn learn_scored(&mut self, x: Features<'_>, target: f64, weight: f64, probabilities: Option<&[f64]>) -> Learned {
        if weight == 0.0 {
            return Learned::Applied;
        }
        if !target.is_finite() || !(0.0..self.classes_max as f64).contains(&target) {
            return Learned::Refused;
        }
        let (class, known) = (target as usize, self.iterations.len());
        if class >= known {
            self.make_room(class + 1);
        }
        let done = match probabilities.filter(|p| p.len() >= self.iterations.len()) {
            Some(probabilities) => self.step(x, class, weight, probabilities),
            None => {
                let mut probabilities = std::mem::take(&mut self.probabilities);
                probabilities.resize(self.iterations.len(), 0.0);
                self.probabilities(x, &mut probabilities);
                let done = self.step(x, class, weight, &probabilities);
                self.probabilities = probabilities;
                done
            }
        };
        if done {
            return Learned::Applied;
        }
        self.iterations.truncate(known);
        self.quads.truncate(known.div_ceil(4));
        Learned::Refused
    }

    fn make_room(&mut self, classes: usize) {
        let empty = Quad::new(0, 0, 0);
        self.iterations.resize(classes, 0);
        let before = self.quads.len();
        self.quads.resize(classes.div_ceil(4), empty);
        self.quads[before..].fill_with(|| Quad::new(self.dense, self.slots, self.optimizer.columns()));
    }
}

/// e^(margin − max) beside each of up to four margins.
#[inline(always)]
fn powers(margins: &mut [f64], max: f64) -> impl Iterator<Item = (&mut f64, f64)> {
    let away: Four = from_fn(|k| margins.get(k).map_or(0.0, |margin| margin - max));
    let near = away.iter().all(|away| away.abs() <= EXP_NEAR);
    margins.iter_mut().zip(if near { exp_near(away) } else { away.map(exp) })
}

impl Model for Softmax {
    fn task(&self) -> Task {
        Task::Multiclass
    }

    fn score(&self, x: Features<'_>, _: &mut Scratch, out: &mut [f64]) {
        self.probabilities(x, out);
    }

    fn learn(&mut self, x: Features<'_>, target: f64, weight: f64) -> Learned {
        self.learn_scored(x, target, weight, None)
    }

    fn score_learn(
        &mut self,
        before: Features<'_>,
        after: Option<Features<'_>>,
        target: f64,
        weight: f64,
        _: &mut Scratch,
        out: &mut [f64],
    ) -> Learned {
        self.probabilities(before, out);
        match after {
            Some(after) => self.learn_scored(after, target, weight, None),
            None => self.learn_scored(before, target, weight, Some(out)),
        }
    }

    fn fetches_ahead(&self) -> bool {
        // Four classes are likely, before any is known.
        4 * 8 * self.slots >= FAR_BYTES
    }

    fn prefetch(&self, indices: &[u32]) {
        self.quads.iter().for_each(|quad| quad.prefetch(indices));
    }

    fn save(&self, state: &mut State, prefix: &str) {
        let names = self.optimizer.names();
        let shape = [self.iterations.len(), self.dense + self.slots];
        for (column, name) in names.into_iter().take(1 + self.optimizer.columns()).enumerate() {
            state.fill_f64(format!("{prefix}{name}"), &shape, |out| {
                (0..shape[0]).for_each(|class| self.quads[class / 4].append_column(class % 4, column, out));
            });
        }
        state.put_u64(format!("{prefix}iterations"), &self.iterations);
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let name = format!("{prefix}iterations");
        let iterations = state.get_counts(&name, None)?;
        if iterations.len() > self.classes_max {
            let (found, max) = (iterations.len(), self.classes_max);
            return Err(Fault::corruption(format!("tensor {name:?} has {found} classes; at most {max} are expected")));
        }
        let width = self.dense + self.slots;
        // The weights are there before memory is taken for them: a few bytes of iterations ask for none.
        state.get_f64(&format!("{prefix}{}", self.optimizer.names()[0]), Some(iterations.len() * width))?;
        self.quads.clear();
        self.make_room(iterations.len());
        self.iterations.copy_from_slice(iterations);
        for (column, name) in self.optimizer.names().into_iter().take(1 + self.optimizer.columns()).enumerate() {
            let name = format!("{prefix}{name}");
            let values = state.get_f64(&name, Some(iterations.len() * width))?;
            check_finite(&name, values)?;
            for (class, values) in values.chunks_exact(width.max(1)).enumerate() {
                self.quads[class / 4].set_column(class % 4, column, values);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::squared_norm;
    use super::super::table::Table;
    use super::*;
    use crate::wide::narrowly;
    use proptest::prelude::*;
    use serde_json::json;

    /// The same model, a class after another, each with a table of its own.
    struct OneByOne {
        optimizer: Optimizer,
        classes: Vec<(Table, u64)>,
    }

    impl OneByOne {
        fn score(&self, x: Features<'_>, classes: usize) -> Vec<f64> {
            let known = |class: usize| self.classes.get(class).filter(|(_, steps)| *steps > 0);
            let margins: Vec<_> = (0..classes).map(|c| known(c).map(|(table, _)| table.margin(0.0, x))).collect();
            let max = margins.iter().flatten().fold(f64::NEG_INFINITY, |max, m| if *m > max { *m } else { max });
            let powers: Vec<f64> = margins.iter().map(|m| m.map_or(0.0, |m| exp(m - max))).collect();
            let total = margins.iter().zip(&powers).filter(|(m, _)| m.is_some()).fold(0.0, |sum, (_, p)| sum + p);
            powers.iter().map(|power| if total == 0.0 { *power } else { power / total }).collect()
        }

        fn learn(&mut self, x: Features<'_>, class: usize, slots: usize) {
            let table = || (Table::new(x.dense.len(), slots, self.optimizer.columns()), 0);
            if class >= self.classes.len() {
                self.classes.resize_with(class + 1, table);
            }
            let probabilities = self.score(x, self.classes.len());
            for (i, ((table, steps), p)) in self.classes.iter_mut().zip(probabilities).enumerate() {
                if *steps > 0 || i == class {
                    let target = f64::from(u8::from(i == class));
                    let slope = p.clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN) - target;
                    self.optimizer.step(table, *steps, x, slope, 0.01);
                    *steps += 1;
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn four_classes_at_once_are_four_classes_one_by_one(
            rows in (0usize..18).prop_flat_map(|n| proptest::collection::vec(
                (proptest::collection::vec(-2.0..2.0f64, n), proptest::collection::vec(0u32..8, 0..14), 0usize..11), 1..30)),
            slots in any::<bool>(),
        ) {
            let slots = if slots { 8 } else { 0 };
            let names = (0..rows[0].0.len()).map(|i| format!("f{i}")).collect();
            let shape = Shape { dense: names, slots, label: Some(LabelKind::Category { classes_max: 11 }) };
            for kind in ["sgd", "adagrad", "adam", "ftrl"] {
                let spec = json!({ "kind": "softmax-regression", "optimizer": kind, "l2": 0.01 });
                let build = || softmax_regression(
                    Options::new("model", spec.as_object().expect("object")).expect("options"), &shape).expect("model");
                let optimizer = Optimizer::read(
                    &mut Options::new("model", spec.as_object().expect("object")).expect("options"),
                    None, &["adagrad", "adam", "ftrl", "sgd"]).expect("optimizer");
                let run = || {
                    let (mut model, mut classes) = (build(), 0);
                    let mut alone = OneByOne { optimizer, classes: Vec::new() };
                    for (i, (dense, indices, class)) in rows.iter().enumerate() {
                        let indices = if slots > 0 { &indices[..] } else { &[] };
                        let x = Features { dense, indices, values: &[0.7; 14][..indices.len()] };
                        classes = classes.max(class + 1);
                        let (mut score, expected) = (vec![0.0; classes], alone.score(x, classes));
                        let scratch = &mut Scratch::default();
                        // As the pipeline calls it; with steps that learn; and in two.
                        let learned = match i % 3 {
                            0 => model.score_learn(x, None, *class as f64, 1.0, scratch, &mut score),
                            1 => model.score_learn(x, Some(x), *class as f64, 1.0, scratch, &mut score),
                            _ => {
                                model.score(x, scratch, &mut score);
                                model.learn(x, *class as f64, 1.0)
                            }
                        };
                        assert_eq!(learned, Learned::Applied);
                        alone.learn(x, *class, slots);
                        let bits = |scores: &[f64]| scores.iter().map(|s| s.to_bits()).collect::<Vec<_>>();
                        assert_eq!(bits(&score), bits(&expected), "{kind}, row {i}");
                    }
                    let mut state = State::new();
                    model.save(&mut state, "m.");
                    format!("{state:?}")
                };
                let (wide, narrow) = (run(), narrowly(run));
                prop_assert_eq!(&wide, &narrow, "{}", kind);
            }
        }
    }

    #[test]
    fn a_refused_class_is_forgotten_and_the_others_are_as_before() {
        let shape = Shape { dense: vec!["x".into()], slots: 4, label: Some(LabelKind::Category { classes_max: 9 }) };
        let spec = json!({ "kind": "softmax-regression", "optimizer": { "kind": "sgd", "learning_rate": 1e10 } });
        let options = Options::new("model", spec.as_object().expect("object")).expect("options");
        let mut model = softmax_regression(options, &shape).expect("model");
        let far = Features { dense: &[1e300], indices: &[1, 1], values: &[1.0, 1e300] };
        let near = Features { dense: &[1.0], indices: &[1, 2], values: &[1.0, 0.5] };
        assert!(squared_norm(far.values).is_infinite());
        assert_eq!(model.learn(near, 2.0, 1.0), Learned::Applied);
        let saved = |model: &dyn Model| {
            let mut state = State::new();
            model.save(&mut state, "m.");
            state
        };
        let before = saved(&*model);
        for class in [0.0, 2.0, 3.0, 8.0] {
            assert_eq!(model.learn(far, class, 1.0), Learned::Refused, "{class}");
            assert_eq!(saved(&*model), before, "{class}");
        }
        assert_eq!(model.learn(near, 8.0, 1.0), Learned::Applied);
        let mut again =
            softmax_regression(Options::new("model", spec.as_object().expect("object")).expect("options"), &shape)
                .expect("model");
        again.load(&saved(&*model), "m.").expect("loads");
        assert_eq!(saved(&*again), saved(&*model));
    }
}
