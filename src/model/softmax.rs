//! Softmax (multinomial logistic) regression: a row of weights and an optimizer of its own a class, no
//! intercept, as in River. A class is known from the first example that was learned for it; its row is
//! made then. Memory: classes × features (and slots) × the optimizer's columns (`table.rs`) × 8 bytes.

use super::kernels::{exp, finite, poison};
use super::optimizer::Optimizer;
use super::options::{Options, Range};
use super::table::{Table, check_finite};
use super::{Features, LabelKind, Learned, Model, Scratch, Shape, Task};
use crate::error::{Fault, Result};
use crate::state::State;

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
        rows: Vec::new(),
        probabilities: Vec::new(),
    }))
}

/// A class: its weights, and how many steps they took (0: the class isn't known).
#[derive(Debug, Clone)]
struct Row {
    table: Table,
    iterations: u64,
}

#[derive(Debug)]
struct Softmax {
    optimizer: Optimizer,
    l2: f64,
    dense: usize,
    slots: usize,
    classes_max: usize,
    rows: Vec<Row>,
    probabilities: Vec<f64>,
}

impl Softmax {
    /// Probabilities of the known classes; 0 for others.
    fn probabilities(&self, x: Features<'_>, out: &mut [f64]) {
        out.fill(0.0);
        let mut max = f64::NEG_INFINITY;
        for (row, out) in self.rows.iter().zip(&mut *out).filter(|(row, _)| row.iterations > 0) {
            *out = row.table.margin(0.0, x);
            // A NaN must reach all of the sum; f64::max would drop it.
            max = if *out > max || out.is_nan() { *out } else { max };
        }
        let mut total = 0.0;
        for (_, out) in self.rows.iter().zip(&mut *out).filter(|(row, _)| row.iterations > 0) {
            *out = exp(*out - max);
            total += *out;
        }
        if total != 0.0 {
            out.iter_mut().for_each(|out| *out /= total);
        }
    }

    /// Steps every known class, and `class`. Where that goes wrong, takes all of it back and returns false.
    fn step(&mut self, x: Features<'_>, class: usize, weight: f64) -> bool {
        let Softmax { optimizer, l2, rows, probabilities, .. } = self;
        for i in 0..rows.len() {
            let (row, p) = (&mut rows[i], probabilities[i]);
            if row.iterations == 0 && i != class {
                continue;
            }
            let target = if i == class { 1.0 } else { 0.0 };
            let slope = (p.clamp(PROBABILITY_MIN, 1.0 - PROBABILITY_MIN) - target) * weight;
            row.table.begin(x);
            let bits = optimizer.step(&mut row.table, row.iterations, x, slope, *l2);
            row.iterations += 1;
            if !finite(poison(slope) | bits) {
                // Rows that were stepped have one iteration at least; others that have none, weren't.
                for row in rows[..=i].iter_mut().filter(|row| row.iterations > 0) {
                    row.table.restore(x);
                    row.iterations -= 1;
                }
                return false;
            }
        }
        true
    }
}

impl Model for Softmax {
    fn task(&self) -> Task {
        Task::Multiclass
    }

    fn score(&self, x: Features<'_>, _: &mut Scratch, out: &mut [f64]) {
        self.probabilities(x, out);
    }

    fn learn(&mut self, x: Features<'_>, target: f64, weight: f64) -> Learned {
        if weight == 0.0 {
            return Learned::Applied;
        }
        if !target.is_finite() || !(0.0..self.classes_max as f64).contains(&target) {
            return Learned::Refused;
        }
        let (class, known) = (target as usize, self.rows.len());
        let (dense, slots) = if class < known { (0, 0) } else { (self.dense, self.slots) };
        let empty = Table::new(dense, slots, self.optimizer.columns());
        self.rows.resize(known.max(class + 1), Row { table: empty, iterations: 0 });
        let mut probabilities = std::mem::take(&mut self.probabilities);
        probabilities.resize(self.rows.len(), 0.0);
        self.probabilities(x, &mut probabilities);
        self.probabilities = probabilities;
        if self.step(x, class, weight) {
            return Learned::Applied;
        }
        self.rows.truncate(known);
        Learned::Refused
    }

    fn save(&self, state: &mut State, prefix: &str) {
        let names = self.optimizer.names();
        let shape = [self.rows.len(), self.dense + self.slots];
        for (column, name) in names.into_iter().take(1 + self.optimizer.columns()).enumerate() {
            state.fill_f64(format!("{prefix}{name}"), &shape, |out| {
                self.rows.iter().for_each(|row| row.table.append_column(column, out));
            });
        }
        let iterations: Vec<u64> = self.rows.iter().map(|row| row.iterations).collect();
        state.put_u64(format!("{prefix}iterations"), &iterations);
    }

    fn load(&mut self, state: &State, prefix: &str) -> Result<()> {
        let name = format!("{prefix}iterations");
        let iterations = state.get_counts(&name, None)?;
        if iterations.len() > self.classes_max {
            let (found, max) = (iterations.len(), self.classes_max);
            return Err(Fault::corruption(format!("tensor {name:?} has {found} classes; at most {max} are expected")));
        }
        // The weights are there before memory is taken for them: a few bytes of iterations ask for none.
        state.get_f64(
            &format!("{prefix}{}", self.optimizer.names()[0]),
            Some(iterations.len() * (self.dense + self.slots)),
        )?;
        let (extra, width) = (self.optimizer.columns(), self.dense + self.slots);
        let row = |&iterations: &u64| Row { table: Table::new(self.dense, self.slots, extra), iterations };
        self.rows = iterations.iter().map(row).collect();
        for (column, name) in self.optimizer.names().into_iter().take(1 + extra).enumerate() {
            let name = format!("{prefix}{name}");
            let values = state.get_f64(&name, Some(self.rows.len() * width))?;
            check_finite(&name, values)?;
            for (row, values) in self.rows.iter_mut().zip(values.chunks_exact(width.max(1))) {
                row.table.set_column(column, values);
            }
        }
        Ok(())
    }
}
