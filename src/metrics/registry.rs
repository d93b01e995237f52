//! The export: every metric's public name, and the text that Prometheus scrapes (format 0.0.4).
//!
//! The names and labels are public: dashboards and alerts rely on them.

use crate::batch::Stage;
use crate::metrics::histogram::Histogram;
use crate::metrics::lane::{LaneMetrics, LatencyStage, SwapResult};
use crate::metrics::quality::QualityReport;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The metrics of all lanes as Prometheus text.
pub fn render(lanes: &[Arc<LaneMetrics>]) -> String {
    let mut out = Text(String::with_capacity(16 * 1024));
    out.family("millstream_build_info", "gauge", "The running build; always 1");
    out.sample("millstream_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    counters(&mut out, lanes);
    model_counters(&mut out, lanes);
    gauges(&mut out, lanes);
    histograms(&mut out, lanes);
    quality(&mut out, lanes);
    out.0
}

/// Text under construction.
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            self.escaped(text);
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = match value {
            f64::INFINITY => writeln!(self.0, " +Inf"),
            f64::NEG_INFINITY => writeln!(self.0, " -Inf"),
            value => writeln!(self.0, " {value}"),
        };
    }
    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
    }
    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let (bucket, cumulative) = (format!("{name}_bucket"), histogram.cumulative());
        for (bound, count) in &cumulative {
            let bound = if bound.is_infinite() { "+Inf".to_owned() } else { bound.to_string() };
            let mut with_bound = labels.to_vec();
            with_bound.push(("le", &bound));
            self.sample(&bucket, &with_bound, *count as f64);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum());
        let count = cumulative.last().map_or(0, |(_, count)| *count);
        self.sample(&format!("{name}_count"), labels, count as f64);
    }
}

fn counters(out: &mut Text, lanes: &[Arc<LaneMetrics>]) {
    let name = "millstream_events_total";
    out.family(name, "counter", "Events taken, rejected ones included");
    for lane in lanes {
        out.sample(name, &[("lane", &lane.lane.to_string())], lane.events.load(Relaxed) as f64);
    }
    let name = "millstream_dead_letters_total";
    out.family(name, "counter", "Events turned away, by the stage that did");
    for lane in lanes {
        for stage in Stage::ALL {
            let count = lane.dead_letters[stage as usize].load(Relaxed) as f64;
            out.sample(name, &[("lane", &lane.lane.to_string()), ("stage", stage.name())], count);
        }
    }
    let name = "millstream_missing_total";
    out.family(name, "counter", "Missing values (absent, null, empty, NaN, infinite, overflowing), by field");
    for lane in lanes {
        for (field, count) in lane.fields.iter().zip(&lane.missing) {
            out.sample(name, &[("lane", &lane.lane.to_string()), ("field", field)], count.load(Relaxed) as f64);
        }
    }
    let name = "millstream_swaps_total";
    out.family(name, "counter", "Swaps and rollbacks, by result");
    for lane in lanes {
        for result in SwapResult::ALL {
            let count = lane.swaps[result as usize].load(Relaxed) as f64;
            out.sample(name, &[("lane", &lane.lane.to_string()), ("result", result.name())], count);
        }
    }
    let name = "millstream_checkpoint_failures_total";
    out.family(name, "counter", "Checkpoints that could not be written");
    for lane in lanes {
        out.sample(name, &[("lane", &lane.lane.to_string())], lane.checkpoint_failures.load(Relaxed) as f64);
    }
}

fn model_counters(out: &mut Text, lanes: &[Arc<LaneMetrics>]) {
    let families = [
        ("millstream_predictions_total", "Predictions made, by version"),
        ("millstream_learned_total", "Events learned, by version"),
        (
            "millstream_refused_updates_total",
            "Updates refused because a weight would have become non-finite, by version",
        ),
    ];
    for (index, (name, help)) in families.into_iter().enumerate() {
        out.family(name, "counter", help);
        for lane in lanes {
            for model in lane.models().iter() {
                let counter = [&model.predictions, &model.learned, &model.refused][index];
                let labels = [("lane", &*lane.lane.to_string()), ("version", &model.version)];
                out.sample(name, &labels, counter.load(Relaxed) as f64);
            }
        }
    }
}

fn gauges(out: &mut Text, lanes: &[Arc<LaneMetrics>]) {
    let name = "millstream_lag_events";
    out.family(name, "gauge", "Events known to wait behind what was read, by input");
    for lane in lanes {
        for (input, lag) in lane.lag().iter() {
            if let Some(lag) = lag {
                out.sample(name, &[("lane", &lane.lane.to_string()), ("input", input)], *lag as f64);
            }
        }
    }
    let name = "millstream_checkpoint_age_seconds";
    out.family(name, "gauge", "Seconds since the last checkpoint; since the start, before the first");
    for lane in lanes.iter().filter(|lane| !lane.is_elsewhere()) {
        out.sample(name, &[("lane", &lane.lane.to_string())], lane.checkpoint_age_seconds());
    }
}

fn histograms(out: &mut Text, lanes: &[Arc<LaneMetrics>]) {
    let name = "millstream_latency_seconds";
    out.family(name, "histogram", "Time on the road by stage; total is from read to published");
    for lane in lanes {
        for stage in LatencyStage::ALL {
            let histogram = lane.latency_histogram(stage);
            if stage == LatencyStage::Total || histogram.count() > 0 {
                out.histogram(name, &[("lane", &lane.lane.to_string()), ("stage", stage.name())], histogram);
            }
        }
    }
    type Pick = fn(&LaneMetrics) -> &Histogram;
    let families: [(&str, &str, Pick); 3] = [
        ("millstream_batch_events", "Events a batch", |l| &l.batch_events),
        ("millstream_commit_seconds", "How long commits took", |l| &l.commit),
        ("millstream_checkpoint_seconds", "How long checkpoints took", |l| &l.checkpoint),
    ];
    for (name, help, pick) in families {
        out.family(name, "histogram", help);
        for lane in lanes {
            out.histogram(name, &[("lane", &lane.lane.to_string())], pick(lane));
        }
    }
}

fn quality(out: &mut Text, lanes: &[Arc<LaneMetrics>]) {
    let name = "millstream_model_progressive";
    out.family(name, "gauge", "Live quality: each event is scored before it is learned. Beside it, the baselines");
    for lane in lanes {
        let (number, version) = (lane.lane.to_string(), lane.model().version.clone());
        let Some(report) = lane.quality() else { continue };
        let spans = [("start", Some(&*report)), ("window", report.window.as_deref())];
        for (span, report) in spans {
            for (predictor, metrics) in report.iter().flat_map(|r| r.predictors()) {
                for (metric, value) in metrics {
                    let labels = [
                        ("lane", &*number),
                        ("version", &version),
                        ("metric", metric),
                        ("span", span),
                        ("predictor", predictor),
                    ];
                    out.sample(name, &labels, *value);
                }
            }
        }
    }
}

impl QualityReport {
    /// The model's metrics and the baselines', by the name of who predicted.
    pub fn predictors(&self) -> impl Iterator<Item = (&str, &std::collections::BTreeMap<String, f64>)> {
        let baselines = self.baselines.iter().map(|(name, metrics)| (name.as_str(), metrics));
        [("model", &self.metrics)].into_iter().chain(baselines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Task;
    use crate::metrics::Progressive;

    #[test]
    fn every_public_name_is_there_with_its_labels() {
        let lane = Arc::new(LaneMetrics::new(1, vec!["a\"b".into()], "3f9c2ab1"));
        lane.batch(100);
        lane.dead_letter(Stage::Limit, 2);
        lane.missing(0, 7);
        lane.latency(LatencyStage::Total, 15_000, 100);
        lane.committed(2_000_000);
        lane.set_lag(vec![("events/0".into(), Some(9)), ("events/1".into(), None)]);
        lane.swap(SwapResult::RolledBack);
        lane.model().predictions.fetch_add(98, Relaxed);
        let mut quality = Progressive::new(Task::Binary, 10);
        quality.observe(&[0.9], 1.0);
        quality.observe(&[0.9], 0.0);
        lane.set_quality(quality.report());
        let text = render(&[lane]);
        for line in [
            "# TYPE millstream_events_total counter",
            "millstream_events_total{lane=\"1\"} 100",
            "millstream_predictions_total{lane=\"1\",version=\"3f9c2ab1\"} 98",
            "millstream_learned_total{lane=\"1\",version=\"3f9c2ab1\"} 0",
            "millstream_dead_letters_total{lane=\"1\",stage=\"limit\"} 2",
            "millstream_missing_total{lane=\"1\",field=\"a\\\"b\"} 7",
            "millstream_lag_events{lane=\"1\",input=\"events/0\"} 9",
            "millstream_latency_seconds_bucket{lane=\"1\",stage=\"total\",le=\"0.00001\"} 0",
            "millstream_latency_seconds_bucket{lane=\"1\",stage=\"total\",le=\"0.00002\"} 100",
            "millstream_latency_seconds_bucket{lane=\"1\",stage=\"total\",le=\"+Inf\"} 100",
            "millstream_latency_seconds_sum{lane=\"1\",stage=\"total\"} 0.0015",
            "millstream_latency_seconds_count{lane=\"1\",stage=\"total\"} 100",
            "millstream_batch_events_bucket{lane=\"1\",le=\"128\"} 1",
            "millstream_commit_seconds_count{lane=\"1\"} 1",
            "millstream_checkpoint_seconds_count{lane=\"1\"} 0",
            "millstream_checkpoint_failures_total{lane=\"1\"} 0",
            "millstream_swaps_total{lane=\"1\",result=\"rolled-back\"} 1",
            "millstream_model_progressive{lane=\"1\",version=\"3f9c2ab1\",metric=\"accuracy\",span=\"start\",predictor=\"model\"} 0.5",
            "millstream_model_progressive{lane=\"1\",version=\"3f9c2ab1\",metric=\"accuracy\",span=\"window\",predictor=\"no-change\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(text.contains("millstream_checkpoint_age_seconds{lane=\"1\"} 0."));
        assert!(text.contains("millstream_build_info{version="));
        assert!(!text.contains("events/1"), "an unknown lag is not exported");
    }

    #[test]
    fn each_family_is_declared_once_and_before_its_samples() {
        let lanes: Vec<_> = (0..3).map(|n| Arc::new(LaneMetrics::new(n, vec!["a".into()], "00000000"))).collect();
        let text = render(&lanes);
        let mut declared = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert!(declared.insert(rest.split(' ').next().expect("name")), "{line} twice");
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().expect("name");
                let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
                assert!(declared.contains(name) || family.is_some_and(|f| declared.contains(f)), "{line}");
            }
        }
    }

    #[test]
    fn a_lane_that_another_daemon_has_shows_no_lag_and_no_age() {
        let lane = Arc::new(LaneMetrics::new(0, Vec::new(), "00000000"));
        let shown = |lane: &Arc<LaneMetrics>| {
            let text = render(std::slice::from_ref(lane));
            ["millstream_lag_events{", "millstream_checkpoint_age_seconds{"].map(|name| text.contains(name))
        };
        lane.set_lag(vec![("events/0".into(), Some(9))]);
        assert_eq!(shown(&lane), [true, true]);
        lane.set_elsewhere(true);
        assert_eq!(shown(&lane), [false, false]);
        lane.set_elsewhere(false);
        assert_eq!(shown(&lane), [false, true], "the lag is known again once it is looked at");
    }
}
