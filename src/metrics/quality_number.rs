//! Progressive quality of regressors.

use crate::metrics::quality::{Metrics, QualityReport, Ring, ratio};

/// Sums of a regressor's errors.
#[derive(Debug, Clone, Copy, Default)]
struct Errors {
    events: u64,
    absolute: f64,
    squared: f64,
    /// Mean and sum of squared deviations of the targets (Welford, 1962).
    mean: f64,
    deviations: f64,
}

impl Errors {
    #[inline]
    fn push(&mut self, prediction: f64, target: f64) {
        let error = target - prediction;
        self.events += 1;
        self.absolute += error.abs();
        self.squared += error * error;
        let from_mean = target - self.mean;
        self.mean += from_mean / self.events as f64;
        self.deviations += from_mean * (target - self.mean);
    }
    fn metrics(&self) -> Metrics {
        let n = self.events as f64;
        let r2 = if self.deviations > 0.0 { 1.0 - self.squared / self.deviations } else { 0.0 };
        [("mae", ratio(self.absolute, n)), ("rmse", ratio(self.squared, n).sqrt()), ("r2", r2)]
            .map(|(name, value)| (name.to_owned(), value))
            .into()
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    prediction: f64,
    target: f64,
    /// The last target and the mean of all before; `None` before the first.
    baselines: Option<(f64, f64)>,
}

/// Progressive quality of a number against a number.
#[derive(Debug)]
pub(crate) struct Number {
    model: Errors,
    no_change: Errors,
    mean: Errors,
    last: Option<f64>,
    recent: Ring<Seen>,
}

impl Number {
    pub fn new(window: usize) -> Number {
        let none = Errors::default();
        Number { model: none, no_change: none, mean: none, last: None, recent: Ring::new(window) }
    }

    #[inline]
    pub fn observe(&mut self, prediction: f64, target: f64) {
        let baselines = self.last.map(|last| (last, self.model.mean));
        if let Some((last, mean)) = baselines {
            self.no_change.push(last, target);
            self.mean.push(mean, target);
        }
        self.model.push(prediction, target);
        self.last = Some(target);
        self.recent.push(Seen { prediction, target, baselines });
    }

    pub fn since_start(&self) -> QualityReport {
        report([&self.model, &self.no_change, &self.mean])
    }

    pub fn window(&self) -> QualityReport {
        let [mut model, mut no_change, mut of_mean] = <[Errors; 3]>::default();
        for seen in self.recent.iter() {
            model.push(seen.prediction, seen.target);
            if let Some((last, mean)) = seen.baselines {
                no_change.push(last, seen.target);
                of_mean.push(mean, seen.target);
            }
        }
        report([&model, &no_change, &of_mean])
    }
}

fn report([model, no_change, mean]: [&Errors; 3]) -> QualityReport {
    // The mean stands where a classifier has its majority class, and under that name.
    let baselines = [("no-change".to_owned(), no_change.metrics()), ("majority".to_owned(), mean.metrics())];
    QualityReport { events: model.events, metrics: model.metrics(), baselines: baselines.into(), window: None }
}

#[cfg(test)]
mod tests {
    use crate::batch::Task;
    use crate::metrics::Progressive;

    #[test]
    fn metrics_equal_the_hand_worked_ones() {
        let mut quality = Progressive::new(Task::Regression, 2);
        for (prediction, target) in [(0.0, 1.0), (2.0, 3.0), (4.0, 2.0)] {
            quality.observe(&[prediction], target);
        }
        let report = quality.report();
        let close = |found: f64, value: f64| assert!((found - value).abs() < 1e-12, "{found} for {value}");
        close(report.metrics["mae"], 4.0 / 3.0);
        close(report.metrics["rmse"], 2f64.sqrt());
        close(report.metrics["r2"], 1.0 - 6.0 / 2.0);
        close(report.baselines["no-change"]["mae"], (2.0 + 1.0) / 2.0);
        close(report.baselines["majority"]["mae"], (2.0 + 0.0) / 2.0);
        let window = report.window.expect("window");
        assert_eq!(window.events, 2);
        close(window.metrics["mae"], 1.5);
    }
}
