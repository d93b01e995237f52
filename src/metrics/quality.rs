//! Live quality by progressive validation: every labelled event is scored first and learned after.
//!
//! Metrics since the start and over a window of the last labelled events, each beside two baselines:
//! `no-change` (the last label) and `majority` (the commonest class so far; for numbers, the running
//! mean). A baseline predicts nothing before the first label, so it counts one event less.
//!
//! Definitions are River's: `class` is true where score > 0.5; probabilities are clamped to
//! [1e-15, 1 − 1e-15]; precision, recall and F1 are 0 where undefined; macro F1 is over the classes seen
//! as a label or as a prediction; the cross-entropy of a class that the model does not know yet is 0.
//! The area under the ROC curve is exact over the window; since the start it comes from 2,562 bins of
//! the score, fine near 0 and 1, in which ties count half (River uses 10 thresholds).

use crate::batch::Task;
use crate::metrics::quality_binary::Binary;
use crate::metrics::quality_multiclass::Multiclass;
use crate::metrics::quality_number::Number;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Values by the name of the metric.
pub type Metrics = BTreeMap<String, f64>;

/// Labelled events that the window holds by default.
pub const WINDOW_EVENTS: usize = 1_000;

/// How good the predictions were.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QualityReport {
    /// Labelled events counted.
    pub events: u64,
    /// The model's metrics; fractions, not percent.
    pub metrics: Metrics,
    /// The baselines' metrics: `no-change` and `majority`.
    pub baselines: BTreeMap<String, Metrics>,
    /// The same over the last labelled events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Box<QualityReport>>,
}

/// Progressive validation of one model. An observation costs a few nanoseconds and allocates nothing
/// once the classes are known; what is dear is done in [`Progressive::report`].
#[derive(Debug)]
pub struct Progressive {
    window: usize,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Binary(Box<Binary>),
    Multiclass(Box<Multiclass>),
    Number(Box<Number>),
    /// Clusters have no label to be compared to: the mean distance is all there is.
    Distance {
        events: u64,
        sum: f64,
        recent: Ring<f64>,
    },
}

impl Progressive {
    /// For a model of this task; the window holds `window` labelled events (at least one).
    pub fn new(task: Task, window: usize) -> Progressive {
        let window = window.max(1);
        let kind = match task {
            Task::Binary => Kind::Binary(Box::new(Binary::new(window, true))),
            Task::Anomaly => Kind::Binary(Box::new(Binary::new(window, false))),
            Task::Multiclass => Kind::Multiclass(Box::new(Multiclass::new(window))),
            Task::Regression => Kind::Number(Box::new(Number::new(window))),
            Task::Clusters => Kind::Distance { events: 0, sum: 0.0, recent: Ring::new(window) },
        };
        Progressive { window, kind }
    }

    /// Takes a labelled event: `scores` as the model's `score` put out, `target` as it will be learned.
    /// Called before the model learns it. For clusters, `target` is unused.
    #[inline]
    pub fn observe(&mut self, scores: &[f64], target: f64) {
        match &mut self.kind {
            Kind::Binary(quality) => quality.observe(scores[0], target),
            Kind::Multiclass(quality) => quality.observe(scores, target),
            Kind::Number(quality) => quality.observe(scores[0], target),
            Kind::Distance { events, sum, recent } => {
                let distance = scores.get(1).copied().unwrap_or(0.0);
                *events += 1;
                *sum += distance;
                recent.push(distance);
            }
        }
    }

    /// The metrics so far: since the start, and over the window.
    pub fn report(&self) -> QualityReport {
        let (mut report, window) = match &self.kind {
            Kind::Binary(quality) => (quality.since_start(), quality.window()),
            Kind::Multiclass(quality) => (quality.since_start(), quality.window()),
            Kind::Number(quality) => (quality.since_start(), quality.window()),
            Kind::Distance { events, sum, recent } => {
                let recent_sum = recent.iter().sum::<f64>();
                (mean_distance(*events, *sum), mean_distance(recent.len() as u64, recent_sum))
            }
        };
        report.window = Some(Box::new(window));
        if report.events == 0 {
            // Nothing was labelled: a number would be a judgement.
            report = QualityReport::default();
        }
        report
    }

    /// How many labelled events the window holds at most.
    pub fn window_events(&self) -> usize {
        self.window
    }
}

fn mean_distance(events: u64, sum: f64) -> QualityReport {
    let metrics = [("mean_distance".to_owned(), ratio(sum, events as f64))].into();
    QualityReport { events, metrics, ..QualityReport::default() }
}

/// `a / b`, and 0 where that is undefined.
pub(crate) fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// A probability within [1e-15, 1 − 1e-15]; NaN becomes the lowest.
#[inline]
pub(crate) fn clamped(p: f64) -> f64 {
    if p >= 1e-15 { p.min(1.0 - 1e-15) } else { 1e-15 }
}

/// −ln of a product of probabilities, a factor at a time: the logarithm is taken only when the product
/// is about to underflow, so that an observation costs a multiplication.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogProduct {
    product: f64,
    sum: f64,
}

impl Default for LogProduct {
    fn default() -> LogProduct {
        LogProduct { product: 1.0, sum: 0.0 }
    }
}

impl LogProduct {
    /// Takes a probability that was [`clamped`], or one less such a one.
    #[inline]
    pub fn push(&mut self, p: f64) {
        self.product *= p;
        if self.product < 1e-280 {
            self.sum -= libm::log(self.product);
            self.product = 1.0;
        }
    }
    /// The sum of −ln of all factors.
    pub fn total(&self) -> f64 {
        self.sum - libm::log(self.product)
    }
}

/// The last `capacity` values.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    values: Vec<T>,
    capacity: usize,
    next: usize,
}

impl<T: Copy> Ring<T> {
    pub fn new(capacity: usize) -> Ring<T> {
        Ring { values: Vec::with_capacity(capacity), capacity, next: 0 }
    }
    #[inline]
    pub fn push(&mut self, value: T) {
        if self.values.len() < self.capacity {
            self.values.push(value);
        } else {
            self.values[self.next] = value;
            self.next += 1;
            if self.next == self.capacity {
                self.next = 0;
            }
        }
    }
    pub fn len(&self) -> usize {
        self.values.len()
    }
    /// The values, in no particular order of age.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_product_is_the_sum_of_logs() {
        let (mut product, mut sum) = (LogProduct::default(), 0.0);
        let mut p = 0.3;
        for n in 0..10_000 {
            p = (p * 977.0 + 0.123) % 1.0;
            let p = if n % 100 == 0 { 0.0 } else { p };
            product.push(clamped(p));
            sum -= p.clamp(1e-15, 1.0 - 1e-15).ln();
        }
        assert!((product.total() - sum).abs() < 1e-9 * sum, "{} {sum}", product.total());
    }

    #[test]
    fn the_ring_keeps_the_last() {
        let mut ring = Ring::new(3);
        (0..8).for_each(|n| ring.push(n));
        let mut kept: Vec<i32> = ring.iter().copied().collect();
        kept.sort();
        assert_eq!(kept, [5, 6, 7]);
    }

    #[test]
    fn clusters_report_their_mean_distance() {
        let mut quality = Progressive::new(Task::Clusters, 1);
        quality.observe(&[0.0, 2.0], f64::NAN);
        quality.observe(&[1.0, 4.0], f64::NAN);
        let report = quality.report();
        assert_eq!(report.metrics["mean_distance"], 3.0);
        assert_eq!(report.window.expect("window").metrics["mean_distance"], 4.0);
    }

    fn agrees(found: &Metrics, expected: &[(&str, f64)]) {
        for (name, value) in expected {
            assert!((found[*name] - value).abs() < 1e-12, "{name}: {} for {value}", found[*name]);
        }
    }

    /// The expected values are those of River 0.26's metrics and dummy models over the same events.
    #[test]
    fn binary_metrics_equal_rivers() {
        let mut quality = Progressive::new(Task::Binary, 500);
        for i in 0..500u64 {
            let truth = (i * i * 31 + i * 17) % 7 < 3;
            quality.observe(&[(i * 37 % 101) as f64 / 101.0], truth as u8 as f64);
        }
        let report = quality.report();
        for report in [&report, report.window.as_ref().expect("window")] {
            agrees(
                &report.metrics,
                &[
                    ("accuracy", 0.494),
                    ("precision", 0.42105263157894735),
                    ("recall", 0.48598130841121495),
                    ("f1", 0.4511930585683297),
                    ("kappa", -0.01375176304654439),
                    ("balanced_accuracy", 0.4929906542056075),
                    ("log_loss", 1.1936839030830233),
                ],
            );
            let no_change =
                [("accuracy", 0.4288577154308617), ("f1", 0.3325526932084309), ("kappa", -0.16656686544881844)];
            agrees(&report.baselines["no-change"], &no_change);
            let majority = [("accuracy", 0.5651302605210421), ("f1", 0.0), ("kappa", -0.015988140252770032)];
            agrees(&report.baselines["majority"], &majority);
        }
        agrees(&report.baselines["majority"], &[("log_loss", 0.7563032611391649)]);
    }

    #[test]
    fn multiclass_metrics_equal_rivers() {
        let mut quality = Progressive::new(Task::Multiclass, 500);
        let mut known = 0;
        for i in 0..500u64 {
            let truth = ((i * i * 31 + i * 17) % 7).min(i / 10).min(4);
            let weights: Vec<f64> = (0..known).map(|k| (1 + i * (k + 3) * 37 % 101) as f64).collect();
            let sum: f64 = weights.iter().sum();
            let scores: Vec<f64> = weights.iter().map(|w| w / sum).collect();
            quality.observe(&scores, truth as f64);
            known = known.max(truth + 1);
        }
        let report = quality.report();
        for report in [&report, report.window.as_ref().expect("window")] {
            agrees(
                &report.metrics,
                &[
                    ("accuracy", 0.30861723446893785),
                    ("macro_f1", 0.20733019779245251),
                    ("kappa", 0.0431261602765766),
                    ("balanced_accuracy", 0.28299304862559593),
                    ("cross_entropy", 1.7266794875775213),
                ],
            );
            let no_change = [("accuracy", 0.4408817635270541), ("macro_f1", 0.367951282889498)];
            agrees(&report.baselines["no-change"], &no_change);
            let majority = [("accuracy", 0.5210420841683366), ("macro_f1", 0.19305595408895265)];
            agrees(&report.baselines["majority"], &majority);
        }
    }

    #[test]
    fn regression_metrics_equal_rivers() {
        let mut quality = Progressive::new(Task::Regression, 500);
        for i in 0..500u64 {
            let target = ((i * i * 31 + i * 17) % 97) as f64 / 10.0 - 3.0;
            quality.observe(&[(i * 37 % 101) as f64 / 10.0 - 3.0], target);
        }
        let report = quality.report();
        for report in [&report, report.window.as_ref().expect("window")] {
            let metrics = [("mae", 3.206000000000001), ("rmse", 3.9279918533520397), ("r2", -1.1960974986261186)];
            agrees(&report.metrics, &metrics);
            let mean = [("mae", 2.265451705950614), ("rmse", 2.672616703582356)];
            agrees(&report.baselines["majority"], &mean);
        }
    }
}
