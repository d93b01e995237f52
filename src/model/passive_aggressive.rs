//! Passive-aggressive learning (Crammer et al., JMLR 7, 2006): a classifier for a bool label, a regressor
//! for a number. The step is as small as the example allows: tau · x.
//!
//! River measures a regressor's loss against 2y − 1 instead of y. `preset = "river"` (the default) does
//! the same, so that scores agree; `preset = "paper"` measures against y. An event's weight multiplies
//! the step; an event of weight 0 changes nothing.

use super::kernels::{finite, poison, sigmoid, squared_norm};
use super::linear::{class_of, class_weight};
use super::options::{Options, Range};
use super::table::{Table, read_one_finite};
use super::{Features, LabelKind, Learned, Model, Scratch, Shape, Task};
use crate::error::{Fault, Result};
use crate::state::State;

const NAMES: [&str; 4] = ["weights", "", "", ""];

/// `passive-aggressive`.
///
/// # Errors
/// Misuse, naming the key.
pub fn passive_aggressive(mut o: Options<'_>, shape: &Shape) -> Result<Box<dyn Model>> {
    let task = match shape.label {
        Some(LabelKind::Bool) => Task::Binary,
        Some(LabelKind::Number) => Task::Regression,
        Some(LabelKind::Category { .. }) | None => {
            let fault = Fault::misuse("model.kind \"passive-aggressive\" needs a label of type bool, float or int");
            return Err(fault.hint("for a category use \"softmax-regression\""));
        }
    };
    let mut model = PassiveAggressive {
        task,
        c: o.number("C", 1.0, Range::Positive)?,
        mode: o.whole("mode", 1, 0, 2)?,
        learn_intercept: o.switch("learn_intercept", true)?,
        eps: 0.1,
        doubled: false,
        class_weight: [1.0, 1.0],
        table: Table::new(shape.dense.len(), shape.slots, 0),
        intercept: 0.0,
    };
    if task == Task::Binary {
        model.class_weight = class_weight(&mut o)?;
    } else {
        model.eps = o.number("eps", 0.1, Range::NotNegative)?;
        model.doubled = o.word("preset", "river", &["river", "paper"])? == "river";
    }
    o.seed()?;
    o.finish()?;
    Ok(Box::new(model))
}

#[derive(Debug)]
struct PassiveAggressive {
    task: Task,
    c: f64,
    mode: u64,
    learn_intercept: bool,
    eps: f64,
    /// A regressor's loss is measured against 2y − 1.
    doubled: bool,
    class_weight: [f64; 2],
    table: Table,
    intercept: f64,
}

impl PassiveAggressive {
    fn raw(&self, x: Features<'_>) -> f64 {
        self.table.margin(self.intercept, x)
    }

    /// The loss, and the direction in which to step.
    fn loss(&self, target: f64, p: f64) -> (f64, f64) {
        if self.task == Task::Binary {
            let side = if target > 0.5 { 1.0 } else { -1.0 };
            return ((1.0 - side * p).max(0.0), side);
        }
        let aim = if self.doubled { target * 2.0 - 1.0 } else { target };
        let side = if target > p { 1.0 } else { -1.0 };
        (((p - aim).abs() - self.eps).max(0.0), if target == p { 0.0 } else { side })
    }

    fn tau(&self, loss: f64, norm: f64) -> f64 {
        match self.mode {
            0 if norm > 0.0 => loss / norm,
            1 if norm > 0.0 => self.c.min(loss / norm),
            2 => loss / (norm + 0.5 / self.c),
            _ => 0.0,
        }
    }
}

impl Model for PassiveAggressive {
    fn task(&self) -> Task {
        self.task
    }

    fn score(&self, x: Features<'_>, _: &mut Scratch, out: &mut [f64]) {
        let raw = self.raw(x);
        out[0] = if self.task == Task::Binary { sigmoid(raw) } else { raw };
    }

    fn learn(&mut self, x: Features<'_>, target: f64, weight: f64) -> Learned {
        let weight = if self.task == Task::Binary { weight * self.class_weight[class_of(target)] } else { weight };
        if weight == 0.0 {
            return Learned::Applied;
        }
        let (p, norm) = (self.raw(x), squared_norm(x.dense) + squared_norm(x.values));
        let (loss, side) = self.loss(target, p);
        let step = self.tau(loss, norm) * side * weight;
        let intercept = if self.learn_intercept { self.intercept + step } else { self.intercept };
        if !finite(poison(p) | poison(norm) | poison(target) | poison(step) | poison(intercept)) {
            return Learned::Refused;
        }
        self.table.begin(x);
        if !finite(self.table.each1(x, |x, w| w + step * x)) {
            self.table.restore(x);
            return Learned::Refused;
        }
        self.intercept = intercept;
        Learned::Applied
    }

    fn fetches_ahead(&self) -> bool {
        self.table.is_far()
    }

    fn prefetch(&self, indices: &[u32]) {
        self.table.prefetch(indices);
    }

    fn save(&self, state: &mut State, prefix: &str) {
        self.table.save(state, prefix, NAMES);
        state.put_f64(format!("{prefix}intercept"), &[self.intercept]);
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        self.table.load(state, prefix, NAMES)?;
        self.intercept = read_one_finite(state, &format!("{prefix}intercept"))?;
        Ok(())
    }
}
