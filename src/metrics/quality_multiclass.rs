//! Progressive quality of classifiers over classes that may grow in number.

use crate::metrics::quality::{LogProduct, Metrics, QualityReport, Ring, clamped, ratio};

/// Counts of a classifier's answers by class.
#[derive(Debug, Clone, Default)]
struct Confusion {
    events: u64,
    /// By class: right answers, labels, predictions.
    classes: Vec<[u64; 3]>,
}

impl Confusion {
    #[inline]
    fn push(&mut self, truth: u32, predicted: u32) {
        let top = truth.max(predicted) as usize;
        if top >= self.classes.len() {
            self.classes.resize(top + 1, [0; 3]);
        }
        self.events += 1;
        self.classes[truth as usize][0] += (truth == predicted) as u64;
        self.classes[truth as usize][1] += 1;
        self.classes[predicted as usize][2] += 1;
    }
    fn metrics(&self) -> Metrics {
        let n = self.events as f64;
        let (mut right, mut f1, mut seen, mut recall, mut labelled, mut by_chance) = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0);
        for [hits, labels, predictions] in self.classes.iter().map(|c| c.map(|n| n as f64)) {
            right += hits;
            by_chance += labels * predictions;
            f1 += ratio(2.0 * hits, labels + predictions);
            seen += f64::from(labels + predictions > 0.0);
            recall += ratio(hits, labels);
            labelled += f64::from(labels > 0.0);
        }
        let (accuracy, by_chance) = (ratio(right, n), ratio(by_chance, n * n));
        [
            ("accuracy", accuracy),
            ("macro_f1", ratio(f1, seen)),
            ("balanced_accuracy", ratio(recall, labelled)),
            ("kappa", ratio(accuracy - by_chance, 1.0 - by_chance)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    truth: u32,
    predicted: Option<u32>,
    /// Probability of the truth; 1 (no loss) where the model did not know the class yet.
    p: f64,
    /// What the baselines said; `None` before the first label.
    baselines: Option<(u32, u32)>,
}

/// Progressive quality of a score a class.
#[derive(Debug)]
pub(crate) struct Multiclass {
    model: Confusion,
    no_change: Confusion,
    majority: Confusion,
    loss: LogProduct,
    events: u64,
    /// Labels so far by class.
    labels: Vec<u64>,
    last: Option<u32>,
    /// The commonest class so far.
    commonest: u32,
    recent: Ring<Seen>,
}

impl Multiclass {
    pub fn new(window: usize) -> Multiclass {
        Multiclass {
            model: Confusion::default(),
            no_change: Confusion::default(),
            majority: Confusion::default(),
            loss: LogProduct::default(),
            events: 0,
            labels: Vec::new(),
            last: None,
            commonest: 0,
            recent: Ring::new(window),
        }
    }

    /// `scores` may be empty (no class is known yet): the model then predicted nothing, and only the
    /// baselines count the event.
    #[inline]
    pub fn observe(&mut self, scores: &[f64], target: f64) {
        let truth = target as u32;
        let predicted = highest(scores);
        let p = scores.get(truth as usize).map_or(1.0, |p| clamped(*p));
        let seen = Seen { truth, predicted, p, baselines: self.last.map(|last| (last, self.commonest)) };
        if let Some(predicted) = predicted {
            self.model.push(truth, predicted);
            self.loss.push(p);
        }
        if let Some((last, commonest)) = seen.baselines {
            self.no_change.push(truth, last);
            self.majority.push(truth, commonest);
        }
        self.label(truth);
        self.events += 1;
        self.recent.push(seen);
    }

    #[inline]
    fn label(&mut self, truth: u32) {
        let class = truth as usize;
        if class >= self.labels.len() {
            self.labels.resize(class + 1, 0);
        }
        self.labels[class] += 1;
        // Of equally common classes the lower number, which is the one that came first.
        let (ours, most) = (self.labels[class], self.labels[self.commonest as usize]);
        if ours > most || (ours == most && truth < self.commonest) {
            self.commonest = truth;
        }
        self.last = Some(truth);
    }

    pub fn since_start(&self) -> QualityReport {
        report(self.events, [&self.model, &self.no_change, &self.majority], &self.loss)
    }

    pub fn window(&self) -> QualityReport {
        let [mut model, mut no_change, mut majority] = <[Confusion; 3]>::default();
        let mut loss = LogProduct::default();
        for seen in self.recent.iter() {
            if let Some(predicted) = seen.predicted {
                model.push(seen.truth, predicted);
                loss.push(seen.p);
            }
            if let Some((last, commonest)) = seen.baselines {
                no_change.push(seen.truth, last);
                majority.push(seen.truth, commonest);
            }
        }
        report(self.recent.len() as u64, [&model, &no_change, &majority], &loss)
    }
}

/// The class of the highest score; of equal ones, the first.
#[inline]
fn highest(scores: &[f64]) -> Option<u32> {
    let mut best = None;
    let mut most = f64::NEG_INFINITY;
    for (class, score) in scores.iter().enumerate() {
        if best.is_none() || *score > most {
            (best, most) = (Some(class as u32), *score);
        }
    }
    best
}

fn report(events: u64, [model, no_change, majority]: [&Confusion; 3], loss: &LogProduct) -> QualityReport {
    let mut metrics = model.metrics();
    metrics.insert("cross_entropy".into(), ratio(loss.total(), model.events as f64));
    let baselines = [("no-change".to_owned(), no_change.metrics()), ("majority".to_owned(), majority.metrics())];
    QualityReport { events, metrics, baselines: baselines.into(), window: None }
}

#[cfg(test)]
mod tests {
    use crate::batch::Task;
    use crate::metrics::Progressive;

    #[test]
    fn metrics_equal_the_hand_worked_ones_while_classes_appear() {
        let mut quality = Progressive::new(Task::Multiclass, 2);
        quality.observe(&[], 0.0); // nothing known: no prediction
        quality.observe(&[1.0], 1.0); // predicts 0, is 1, which is new: no loss
        quality.observe(&[0.2, 0.8], 1.0); // right
        quality.observe(&[0.6, 0.4], 2.0); // predicts 0, is 2, which is new
        quality.observe(&[0.5, 0.25, 0.25], 0.0); // right
        let report = quality.report();
        assert_eq!(report.events, 5);
        assert_eq!(report.metrics["accuracy"], 2.0 / 4.0);
        // F1: class 0: 1 hit, 1 label, 3 predictions; class 1: 1 hit, 2 labels, 1 prediction; class 2: none.
        assert!((report.metrics["macro_f1"] - (0.5 + 2.0 / 3.0 + 0.0) / 3.0).abs() < 1e-12);
        assert!((report.metrics["balanced_accuracy"] - (1.0 + 0.5 + 0.0) / 3.0).abs() < 1e-12);
        assert!((report.metrics["kappa"] - (0.5 - 5.0 / 16.0) / (11.0 / 16.0)).abs() < 1e-12);
        let loss = -(0.8f64.ln() + 0.5f64.ln()) / 4.0;
        assert!((report.metrics["cross_entropy"] - loss).abs() < 1e-12, "{report:?}");
        // Labels 0 1 1 2 0. Last label: right at the 3rd. Majority says 0, 0, 1, 1: never right.
        assert_eq!(report.baselines["no-change"]["accuracy"], 1.0 / 4.0);
        assert_eq!(report.baselines["majority"]["accuracy"], 0.0);
        assert_eq!(report.window.expect("window").metrics["accuracy"], 0.5);
    }
}
