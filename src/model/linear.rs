//! Linear and logistic regression and the perceptron: a weight a feature, one optimizer, an intercept
//! with a rate of its own. The order of operations is River's (`linear_model/base.py`).
//!
//! One example: slope = loss gradient × weight, clipped; intercept −= intercept_lr · slope; the
//! optimizer steps with x·slope + l2·w; then the cumulative L1 penalty (Tsuruoka et al. 2009). An
//! example of weight 0 changes nothing at all (River counts it as a step, and applies l2).

use super::kernels::{dot_from, finite, poison};
use super::loss::Loss;
use super::optimizer::{Optimizer, Schedule};
use super::options::{Options, Range};
use super::table::{Table, read_one_finite};
use super::vw::Vw;
use super::{Features, LabelKind, Learned, Model, Scratch, Shape, Task};
use crate::error::{Fault, Result};
use crate::state::State;

const OPTIMIZERS: [&str; 5] = ["adagrad", "adam", "ftrl", "sgd", "vw"];

/// `linear-regression`.
///
/// # Errors
/// Misuse, naming the key.
pub fn linear_regression(mut o: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    need_number(&o, shape)?;
    if uses_vw(&mut o)? {
        return Ok(Box::new(Vw::regressor(o, shape)?));
    }
    let loss = Loss::regression(&mut o)?;
    let mut model = Linear::read(&mut o, shape, Task::Regression, loss)?;
    model.read_l1(&mut o)?;
    o.finish()?;
    Ok(Box::new(model))
}

/// `logistic-regression`.
///
/// # Errors
/// Misuse, naming the key.
pub fn logistic_regression(mut o: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    need_bool(&o, shape)?;
    if uses_vw(&mut o)? {
        return Ok(Box::new(Vw::classifier(o, shape)?));
    }
    let loss = Loss::binary(&mut o)?;
    let mut model = Linear::read(&mut o, shape, Task::Binary, loss)?;
    model.read_l1(&mut o)?;
    model.class_weight = class_weight(&mut o)?;
    o.finish()?;
    Ok(Box::new(model))
}

/// `perceptron`: hinge loss with threshold 0, both rates 1.
///
/// # Errors
/// Misuse, naming the key.
pub fn perceptron(mut o: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    need_bool(&o, shape)?;
    let rate = Schedule::Constant(1.0);
    let model = Linear {
        l2: o.number("l2", 0.0, Range::NotNegative)?,
        clip: o.number("clip_gradient", 1e12, Range::Positive)?,
        class_weight: class_weight(&mut o)?,
        ..Linear::new(Task::Binary, Loss::Hinge { threshold: 0.0 }, Optimizer::Sgd { rate }, rate, 0.0, shape)
    };
    o.seed()?;
    o.finish()?;
    Ok(Box::new(model))
}

fn uses_vw(o: &mut Options<'_>) -> Result<bool> {
    Ok(o.choice("optimizer", "sgd", &OPTIMIZERS)?.kind() == "vw")
}

/// Faults unless the label is a bool.
///
/// # Errors
/// Misuse, with the reason and what to use instead.
pub fn need_bool(o: &Options<'_>, shape: &Shape) -> Result<()> {
    let kind = o.kind();
    let (found, hint) = match shape.label {
        Some(LabelKind::Bool) => return Ok(()),
        Some(LabelKind::Category { .. }) => ("a category", "for more than two classes use \"softmax-regression\""),
        Some(LabelKind::Number) => ("a number", "for numbers use \"linear-regression\", or declare the label as bool"),
        None => ("not there", "name a field of type bool in schema.label"),
    };
    Err(Fault::misuse(format!("model.kind {kind:?} is a binary classifier, and the label is {found}")).hint(hint))
}

/// Faults unless the label is a number.
///
/// # Errors
/// Misuse, with the reason and what to use instead.
pub fn need_number(o: &Options<'_>, shape: &Shape) -> Result<()> {
    let kind = o.kind();
    let (found, hint) = match shape.label {
        Some(LabelKind::Number) => return Ok(()),
        Some(LabelKind::Category { .. }) => ("a category", "for classes use \"softmax-regression\""),
        Some(LabelKind::Bool) => ("a bool", "for classes use \"logistic-regression\", or declare the label as float"),
        None => ("not there", "name a field of type float or int in schema.label"),
    };
    Err(Fault::misuse(format!("model.kind {kind:?} is a regressor, and the label is {found}")).hint(hint))
}

/// Reads `class_weight = { "true" = 2.0, "false" = 1.0 }`: what each class multiplies an event's weight by.
///
/// # Errors
/// Misuse, naming the key.
pub fn class_weight(o: &mut Options<'_>) -> Result<[f64; 2]> {
    let path = o.path("class_weight");
    match o.raw("class_weight") {
        None => Ok([1.0, 1.0]),
        Some(serde_json::Value::Object(map)) => {
            let mut table = Options::new(&path, map)?;
            let no = table.number("false", 1.0, Range::NotNegative)?;
            let yes = table.number("true", 1.0, Range::NotNegative)?;
            table.finish()?;
            Ok([no, yes])
        }
        Some(other) => Err(o.fault("class_weight", other, "a table like { \"true\" = 2.0, \"false\" = 1.0 }")),
    }
}

/// Which of the two class weights a binary target takes.
pub fn class_of(target: f64) -> usize {
    usize::from(target > 0.5)
}

/// A generalised linear model over dense and hashed features.
#[derive(Debug)]
struct Linear {
    task: Task,
    loss: Loss,
    optimizer: Optimizer,
    intercept_lr: Schedule,
    class_weight: [f64; 2],
    clip: f64,
    l1: f64,
    l2: f64,
    table: Table,
    intercept: f64,
    iterations: u64,
    /// All L1 penalty that a weight could have got so far.
    max_cum_l1: f64,
}

impl Linear {
    fn new(
        task: Task,
        loss: Loss,
        optimizer: Optimizer,
        intercept_lr: Schedule,
        intercept: f64,
        shape: &Shape,
    ) -> Linear {
        let table = Table::new(shape.dense.len(), shape.slots, optimizer.columns());
        Linear {
            task,
            loss,
            optimizer,
            intercept_lr,
            class_weight: [1.0, 1.0],
            clip: 1e12,
            l1: 0.0,
            l2: 0.0,
            table,
            intercept,
            iterations: 0,
            max_cum_l1: 0.0,
        }
    }

    fn read(o: &mut Options<'_>, shape: &Shape, task: Task, loss: Loss) -> Result<Linear> {
        let optimizer = Optimizer::read(o, Some(loss), &OPTIMIZERS)?;
        let intercept_lr = Schedule::read(o, "intercept_lr", 0.01, Some(loss))?;
        let intercept = o.number("intercept_init", 0.0, Range::Any)?;
        o.seed()?;
        Ok(Linear {
            l2: o.number("l2", 0.0, Range::NotNegative)?,
            clip: o.number("clip_gradient", 1e12, Range::Positive)?,
            ..Linear::new(task, loss, optimizer, intercept_lr, intercept, shape)
        })
    }

    fn read_l1(&mut self, o: &mut Options<'_>) -> Result<()> {
        self.l1 = o.number("l1", 0.0, Range::NotNegative)?;
        if self.l1 == 0.0 {
            return Ok(());
        }
        if self.l2 != 0.0 {
            return Err(Fault::misuse("model.l1 and model.l2 are both set; at most one of them may be"));
        }
        if self.optimizer.rate(0).is_none() {
            return Err(Fault::misuse("model.l1 doesn't go with the optimizer \"ftrl\"").hint("set model.optimizer.l1"));
        }
        self.table.keep_l1();
        Ok(())
    }

    /// The factor of the event's weight that its class brings.
    #[inline(always)]
    fn weight_of(&self, target: f64, weight: f64) -> f64 {
        if self.task == Task::Binary { weight * self.class_weight[class_of(target)] } else { weight }
    }

    /// Takes a step against the gradient times the weight.
    #[inline(always)]
    fn step(&mut self, optimizer: Optimizer, x: Features<'_>, target: f64, slope: f64) -> Learned {
        if !slope.is_finite() || !target.is_finite() {
            return Learned::Refused;
        }
        let slope = if slope.abs() > self.clip { clipped(self.clip, slope) } else { slope };
        let intercept = self.intercept - self.intercept_lr.at(self.iterations) * slope;
        let max_cum_l1 = self.max_cum_l1;
        self.table.begin(x);
        let mut bits = poison(intercept) | optimizer.step(&mut self.table, self.iterations, x, slope, self.l2);
        if self.l1 != 0.0 {
            bits |= self.penalise(x);
        }
        if !finite(bits) {
            self.table.restore(x);
            self.max_cum_l1 = max_cum_l1;
            return Learned::Refused;
        }
        self.intercept = intercept;
        self.iterations += 1;
        Learned::Applied
    }

    /// The cumulative penalty, on the features of the row alone. Returns the poison of what was written.
    fn penalise(&mut self, x: Features<'_>) -> u64 {
        let rate = self.optimizer.rate(self.iterations + 1).unwrap_or(0.0);
        self.max_cum_l1 += self.l1 * rate;
        let (max, dense, mut bits) = (self.max_cum_l1, x.dense.len(), poison(self.max_cum_l1));
        for i in (0..dense).chain(x.indices.iter().map(|&index| dense + index as usize)) {
            let (weight, penalty) = self.table.penalised(i);
            let (w, taken) = (*weight, *penalty);
            let fresh = if w > 0.0 {
                (w - (max + taken)).max(0.0)
            } else if w < 0.0 {
                (w + (max - taken)).min(0.0)
            } else {
                w
            };
            (*weight, *penalty) = (fresh, taken + (fresh - w));
            bits |= poison(fresh) | poison(*penalty);
        }
        bits
    }
}

/// A branch that is foreseen costs less than a choice that all that follows waits for.
#[cold]
#[inline(never)]
fn clipped(clip: f64, slope: f64) -> f64 {
    clip.copysign(slope)
}

crate::wide! {
    fn margin_of(start: f64, table: &Table, x: Features<'_>) -> f64 {
        table.margin(start, x)
    }
}

crate::wide! {
    fn learn_row(model: &mut Linear, x: Features<'_>, target: f64, weight: f64) -> Learned {
        let weight = model.weight_of(target, weight);
        if weight == 0.0 {
            return Learned::Applied;
        }
        let slope = model.loss.gradient(target, model.table.margin(model.intercept, x)) * weight;
        model.step(model.optimizer, x, target, slope)
    }
}

crate::wide! {
    fn score_learn_row(
        model: &mut Linear,
        before: Features<'_>,
        after: Option<Features<'_>>,
        target: f64,
        weight: f64,
        score: &mut f64,
    ) -> Learned {
        let scored = model.table.margin(model.intercept, before);
        let learned = match after {
            Some(x) => model.table.margin(model.intercept, x),
            None => scored,
        };
        let (mean, gradient) = model.loss.mean_and_gradient(scored, target, learned);
        *score = mean;
        let weight = model.weight_of(target, weight);
        if weight == 0.0 {
            return Learned::Applied;
        }
        model.step(model.optimizer, after.unwrap_or(before), target, gradient * weight)
    }
}

crate::wide! {
    /// The commonest case of [`score_learn_row`], by itself: SGD with a constant rate and dense features alone.
    fn score_learn_dense(
        model: &mut Linear,
        rate: f64,
        before: &[f64],
        after: Option<&[f64]>,
        target: f64,
        weight: f64,
        score: &mut f64,
    ) -> Learned {
        let scored = dot_from(model.intercept, &model.table.w[..before.len()], before);
        let learned = match after {
            Some(x) => dot_from(model.intercept, &model.table.w[..x.len()], x),
            None => scored,
        };
        let (mean, gradient) = model.loss.mean_and_gradient(scored, target, learned);
        *score = mean;
        let weight = model.weight_of(target, weight);
        if weight == 0.0 {
            return Learned::Applied;
        }
        let x = Features { dense: after.unwrap_or(before), indices: &[], values: &[] };
        model.step(Optimizer::Sgd { rate: Schedule::Constant(rate) }, x, target, gradient * weight)
    }
}

impl Model for Linear {
    fn task(&self) -> Task {
        self.task
    }

    fn score(&self, x: Features<'_>, _: &mut Scratch, out: &mut [f64]) {
        out[0] = self.loss.mean(margin_of(self.intercept, &self.table, x));
    }

    fn learn(&mut self, x: Features<'_>, target: f64, weight: f64) -> Learned {
        learn_row(self, x, target, weight)
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
        let score = &mut out[0];
        if let Optimizer::Sgd { rate: Schedule::Constant(rate) } = self.optimizer
            && before.indices.is_empty()
            && after.is_none_or(|x| x.indices.is_empty())
        {
            return score_learn_dense(self, rate, before.dense, after.map(|x| x.dense), target, weight, score);
        }
        score_learn_row(self, before, after, target, weight, score)
    }

    fn fetches_ahead(&self) -> bool {
        self.table.is_far()
    }

    fn prefetch(&self, indices: &[u32]) {
        self.table.prefetch(indices);
    }

    fn save(&self, state: &mut State, prefix: &str) {
        self.table.save(state, prefix, self.optimizer.names());
        state.put_f64(format!("{prefix}intercept"), &[self.intercept]);
        state.put_u64(format!("{prefix}iterations"), &[self.iterations]);
        if self.l1 != 0.0 {
            state.put_f64(format!("{prefix}max_cum_l1"), &[self.max_cum_l1]);
        }
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        self.table.load(state, prefix, self.optimizer.names())?;
        self.intercept = read_one_finite(state, &format!("{prefix}intercept"))?;
        self.iterations = state.get_one_count(&format!("{prefix}iterations"))?;
        if self.l1 != 0.0 {
            self.max_cum_l1 = read_one_finite(state, &format!("{prefix}max_cum_l1"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build;
    use crate::wide::narrowly;
    use proptest::prelude::*;
    use serde_json::json;

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![20 => -2.0..2.0f64, 2 => Just(0.0), 1 => Just(-0.0), 1 => -1e300..1e300f64]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn wide_and_narrow_models_agree_to_the_bit(
            rows in (1usize..24).prop_flat_map(|n| proptest::collection::vec(
                (proptest::collection::vec(number(), n), proptest::collection::vec(0u32..8, 0..14), any::<bool>()), 1..20)),
            slots in any::<bool>(),
        ) {
            let names = (0..rows[0].0.len()).map(|i| format!("f{i}")).collect();
            let shape = Shape { dense: names, slots: if slots { 8 } else { 0 }, label: Some(LabelKind::Bool) };
            for optimizer in ["sgd", "adagrad", "adam", "ftrl"] {
                for (l1, l2) in [(0.0, 0.0), (0.0, 0.1), (0.1, 0.0)] {
                    if l1 > 0.0 && optimizer == "ftrl" {
                        continue;
                    }
                    let spec = json!({ "kind": "logistic-regression", "optimizer": optimizer, "l1": l1, "l2": l2 });
                    let run = || {
                        let mut model = build(spec.as_object().expect("object"), &shape).expect("model");
                        let mut scores = vec![0.0; rows.len()];
                        for ((dense, indices, label), score) in rows.iter().zip(&mut scores) {
                            let indices = if slots { &indices[..] } else { &[] };
                            let x = Features { dense, indices, values: &[0.7; 14][..indices.len()] };
                            model.score(x, &mut Scratch::default(), std::slice::from_mut(score));
                            model.learn(x, f64::from(u8::from(*label)), 1.0);
                        }
                        let mut state = State::new();
                        model.save(&mut state, "m.");
                        // Printed, -0.0 is not 0.0.
                        format!("{scores:?} {state:?}")
                    };
                    prop_assert_eq!(run(), narrowly(run), "{}", optimizer);
                }
            }
        }
    }
}
