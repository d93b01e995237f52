//! Progressive quality of binary classifiers and, by ranking only, of anomaly detectors.

use crate::metrics::quality::{LogProduct, Metrics, QualityReport, Ring, clamped, ratio};
use std::hint::select_unpredictable;

/// Counts of a binary classifier's answers.
#[derive(Debug, Clone, Copy, Default)]
struct Confusion {
    /// By truth × 2 + prediction.
    counts: [u64; 4],
}

impl Confusion {
    #[inline]
    fn push(&mut self, truth: bool, predicted: bool) {
        self.counts[truth as usize * 2 + predicted as usize] += 1;
    }
    fn metrics(&self) -> Metrics {
        let [tn, fp, f_n, tp] = self.counts.map(|n| n as f64);
        let n = tn + fp + f_n + tp;
        let (precision, recall) = (ratio(tp, tp + fp), ratio(tp, tp + f_n));
        let accuracy = ratio(tp + tn, n);
        let by_chance = ratio((tp + fp) * (tp + f_n) + (tn + f_n) * (tn + fp), n * n);
        let recalls = [(tp, tp + f_n), (tn, tn + fp)];
        let seen = recalls.iter().filter(|(_, of)| *of > 0.0).count() as f64;
        let balanced = ratio(recalls.iter().map(|(hit, of)| ratio(*hit, *of)).sum(), seen);
        [
            ("accuracy", accuracy),
            ("precision", precision),
            ("recall", recall),
            ("f1", ratio(2.0 * precision * recall, precision + recall)),
            ("balanced_accuracy", balanced),
            ("kappa", ratio(accuracy - by_chance, 1.0 - by_chance)),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// The probability that a score gives to what is true, clamped before it is turned round, as in River.
#[inline]
fn of_truth(score: f64, truth: bool) -> f64 {
    let p = clamped(score);
    // Which of two it is, here and below, no branch can foresee: it is what the model is there for.
    select_unpredictable(truth, p, 1.0 - p)
}

/// Cells of an octave of the score's distance from the nearer end, and octaves told apart.
const CELL_BITS: u32 = 6;
const OCTAVES: usize = 20;
const HALF: usize = (OCTAVES << CELL_BITS) + 1;

/// The bin of a score in [0, 1]: log-linear in the distance from the nearer end, ascending.
#[inline]
fn bin_of(score: f64) -> usize {
    let score = if score.is_nan() { 0.5 } else { score.clamp(0.0, 1.0) };
    let near = score.min(1.0 - score);
    // `near` is at most 0.5, whose exponent is 1022; below 2^-21 all share the first cell.
    let cell = (near.to_bits() >> (52 - CELL_BITS)) as usize;
    let first = (1022 - OCTAVES) << CELL_BITS;
    let cell = cell.saturating_sub(first).min(HALF - 1);
    select_unpredictable(score <= 0.5, cell, 2 * HALF - 1 - cell)
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    score: f64,
    truth: bool,
    /// What the baselines said; nothing before the first label.
    no_change: bool,
    majority: bool,
    baselines: bool,
}

/// Progressive quality of scores in [0, 1] against labels 0 and 1.
#[derive(Debug)]
pub(crate) struct Binary {
    /// False where scores rank but do not decide (anomalies).
    decides: bool,
    model: Confusion,
    no_change: Confusion,
    majority: Confusion,
    loss: LogProduct,
    /// Labels so far, by value.
    labels: [u64; 2],
    /// The label that came first, and the last one.
    first: bool,
    last: bool,
    /// Labels before the other one appeared.
    alone: u64,
    /// Labels by the score's bin: false, true.
    bins: Box<[[u64; 2]]>,
    recent: Ring<Seen>,
}

impl Binary {
    pub fn new(window: usize, decides: bool) -> Binary {
        Binary {
            decides,
            model: Confusion::default(),
            no_change: Confusion::default(),
            majority: Confusion::default(),
            loss: LogProduct::default(),
            labels: [0; 2],
            first: false,
            last: false,
            alone: 0,
            bins: vec![[0; 2]; 2 * HALF].into_boxed_slice(),
            recent: Ring::new(window),
        }
    }

    #[inline]
    pub fn observe(&mut self, score: f64, target: f64) {
        let truth = target > 0.5;
        let [negative, positive] = self.labels;
        let baselines = negative + positive > 0;
        // Of two equally common labels, the one that came first.
        let majority = (positive > negative) | ((positive == negative) & self.first);
        if self.decides {
            self.model.push(truth, score > 0.5);
            self.loss.push(of_truth(score, truth));
            if baselines {
                self.no_change.push(truth, self.last);
                self.majority.push(truth, majority);
            } else {
                self.first = truth;
            }
        }
        if self.labels[truth as usize] == 0 {
            self.alone = negative + positive;
        }
        self.recent.push(Seen { score, truth, no_change: self.last, majority, baselines });
        self.bins[bin_of(score)][truth as usize] += 1;
        self.labels[truth as usize] += 1;
        self.last = truth;
    }

    /// Sum of −ln of the share that each label had among those before it: the order falls out, and what
    /// remains are factorials. A label's first appearance has share 0, clamped; the very first event
    /// has no share at all.
    fn majority_loss(&self) -> f64 {
        let factorials = |n: u64| if n == 0 { 0.0 } else { libm::lgamma(n as f64) };
        let of_classes: f64 = self.labels.iter().map(|n| factorials(*n)).sum();
        let both = self.labels.iter().all(|n| *n > 0);
        let share = of_truth(self.first as u8 as f64, !self.first);
        let surprise = if both { -libm::log(share) - libm::log(self.alone as f64) } else { 0.0 };
        factorials(self.labels[0] + self.labels[1]) - of_classes + surprise
    }

    pub fn since_start(&self) -> QualityReport {
        let events = self.labels[0] + self.labels[1];
        let groups = self.bins.iter().map(|[f, t]| (*f as f64, *t as f64));
        let mut metrics: Metrics = [("roc_auc".to_owned(), area(groups))].into();
        if !self.decides {
            return QualityReport { events, metrics, ..QualityReport::default() };
        }
        metrics.extend(self.model.metrics());
        metrics.insert("log_loss".into(), ratio(self.loss.total(), events as f64));
        let mut majority = self.majority.metrics();
        majority.insert("log_loss".into(), ratio(self.majority_loss(), events.saturating_sub(1) as f64));
        let baselines = [("no-change".to_owned(), self.no_change.metrics()), ("majority".to_owned(), majority)];
        QualityReport { events, metrics, baselines: baselines.into(), window: None }
    }

    pub fn window(&self) -> QualityReport {
        let events = self.recent.len() as u64;
        let mut sorted: Vec<(f64, bool)> = self.recent.iter().map(|s| (s.score, s.truth)).collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let groups = sorted.chunk_by(|a, b| a.0 == b.0).map(|tied| {
            let positive = tied.iter().filter(|(_, truth)| *truth).count();
            ((tied.len() - positive) as f64, positive as f64)
        });
        let mut metrics: Metrics = [("roc_auc".to_owned(), area(groups))].into();
        if !self.decides {
            return QualityReport { events, metrics, ..QualityReport::default() };
        }
        let (mut model, mut no_change, mut majority) = <(Confusion, Confusion, Confusion)>::default();
        let mut loss = LogProduct::default();
        for seen in self.recent.iter() {
            model.push(seen.truth, seen.score > 0.5);
            loss.push(of_truth(seen.score, seen.truth));
            if seen.baselines {
                no_change.push(seen.truth, seen.no_change);
                majority.push(seen.truth, seen.majority);
            }
        }
        metrics.extend(model.metrics());
        metrics.insert("log_loss".into(), ratio(loss.total(), events as f64));
        let baselines = [("no-change".into(), no_change.metrics()), ("majority".into(), majority.metrics())];
        QualityReport { events, metrics, baselines: baselines.into(), window: None }
    }
}

/// The area under the ROC curve from groups of equal scores (negatives, positives), ascending: the
/// chance that a positive ranks above a negative, ties counting half (Mann and Whitney, 1947). 0 where
/// a class is absent.
fn area(groups: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut below, mut positives, mut wins) = (0.0, 0.0, 0.0);
    for (negative, positive) in groups {
        wins += positive * (below + negative / 2.0);
        below += negative;
        positives += positive;
    }
    ratio(wins, below * positives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rows: &[(f64, f64)], window: usize) -> QualityReport {
        let mut quality = crate::metrics::Progressive::new(crate::batch::Task::Binary, window);
        rows.iter().for_each(|(score, target)| quality.observe(&[*score], *target));
        quality.report()
    }

    /// Worked by hand: tp 2, fp 1, fn 1, tn 1.
    const ROWS: [(f64, f64); 5] = [(0.9, 1.0), (0.5, 1.0), (0.6, 0.0), (0.1, 0.0), (0.8, 1.0)];

    #[test]
    fn metrics_equal_the_hand_worked_ones() {
        let report = run(&ROWS, 100);
        let close = |name: &str, value: f64| {
            let found = report.metrics[name];
            assert!((found - value).abs() < 1e-12, "{name}: {found} for {value}");
            assert!((report.window.as_ref().expect("window").metrics[name] - found).abs() < 1e-12, "{name}: window");
        };
        close("accuracy", 3.0 / 5.0);
        close("precision", 2.0 / 3.0);
        close("recall", 2.0 / 3.0);
        close("f1", 2.0 / 3.0);
        close("balanced_accuracy", (2.0 / 3.0 + 0.5) / 2.0);
        close("kappa", (0.6 - 0.52) / 0.48);
        close("roc_auc", 5.0 / 6.0);
        let loss = -(0.9f64.ln() + 0.5f64.ln() + 0.4f64.ln() + 0.9f64.ln() + 0.8f64.ln()) / 5.0;
        close("log_loss", loss);
        // Labels 1 1 0 0 1: the last label is right at the 2nd and 4th, the majority at the 2nd and 5th
        // (at the 5th both are equally common, and 1 came first); the first event has neither.
        assert_eq!(report.baselines["no-change"]["accuracy"], 2.0 / 4.0);
        assert_eq!(report.baselines["majority"]["accuracy"], 2.0 / 4.0);
        assert_eq!(report.events, 5);
        // Shares of the labels before: 1/1, 0 (clamped), 1/3, 2/4.
        let loss = -((1.0 - (1.0 - 1e-15f64)).ln() + (1.0f64 / 3.0).ln() + 0.5f64.ln()) / 4.0;
        assert!((report.baselines["majority"]["log_loss"] - loss).abs() < 1e-12, "{report:?}");
    }

    #[test]
    fn the_window_forgets() {
        let report = run(&ROWS, 2);
        let window = report.window.expect("window");
        assert_eq!((window.events, window.metrics["accuracy"]), (2, 1.0));
        assert_eq!(report.metrics["accuracy"], 3.0 / 5.0);
    }

    #[test]
    fn the_binned_area_is_close_to_the_exact_one() {
        let mut seed = 7u64;
        let mut draw = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1u64 << 53) as f64
        };
        for skew in [1.0, 20.0] {
            let rows: Vec<(f64, f64)> = (0..20_000)
                .map(|_| {
                    let label = draw() < 0.1;
                    let logit = (draw() - 0.5) * 4.0 + if label { 1.0 } else { -1.0 } - skew / 2.0;
                    (1.0 / (1.0 + (-logit).exp()), label as u8 as f64)
                })
                .collect();
            let report = run(&rows, rows.len());
            let (binned, exact) = (report.metrics["roc_auc"], report.window.expect("window").metrics["roc_auc"]);
            assert!((binned - exact).abs() < 1e-3 && exact > 0.7, "{binned} for {exact} (skew {skew})");
        }
    }

    #[test]
    fn bins_ascend_with_the_score() {
        let scores = [0.0, 1e-12, 1e-6, 0.01, 0.1, 0.3, 0.49, 0.5, 0.51, 0.7, 0.9, 0.99, 1.0 - 1e-6, 1.0];
        assert!(scores.map(bin_of).is_sorted());
        assert!(scores.map(bin_of).iter().all(|b| *b < 2 * HALF));
        assert_ne!(bin_of(0.01), bin_of(0.0103));
        assert!(bin_of(f64::NAN) < 2 * HALF && bin_of(7.0) == bin_of(1.0) && bin_of(-7.0) == 0);
    }

    #[test]
    fn one_class_and_no_event_give_zeros_not_nan() {
        for rows in [&[][..], &ROWS[..2]] {
            let report = run(rows, 4);
            assert!(report.metrics.values().all(|v| v.is_finite()), "{report:?}");
            assert!(report.baselines.values().flat_map(|m| m.values()).all(|v| v.is_finite()));
        }
    }

    #[test]
    fn anomalies_are_judged_by_their_ranking_only() {
        let mut quality = crate::metrics::Progressive::new(crate::batch::Task::Anomaly, 10);
        ROWS.iter().for_each(|(score, target)| quality.observe(&[*score], *target));
        let report = quality.report();
        assert_eq!(report.metrics.keys().collect::<Vec<_>>(), ["roc_auc"]);
        assert!((report.metrics["roc_auc"] - 5.0 / 6.0).abs() < 1e-12);
    }
}
