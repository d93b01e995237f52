//! Figures: printed for people, and one JSON line each for programs.

use crate::machine;
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a workload ends: well, or with what was wrong.
pub type Outcome = Result<(), String>;

/// How large a run is.
pub struct Run {
    /// A few seconds in all; used in CI.
    pub smoke: bool,
    /// Length of one timed run.
    pub seconds: f64,
}

impl Run {
    /// The one or the other, by size.
    pub fn size<T>(&self, smoke: T, full: T) -> T {
        if self.smoke { smoke } else { full }
    }
}

/// What something was put beside.
pub struct Beside {
    /// What it is.
    pub name: String,
    /// Its value, in the figure's unit.
    pub value: f64,
    /// How the two compare; above 1 is better for Millstream unless the figure says otherwise.
    pub ratio: f64,
}

/// One figure.
pub struct Figure<'a> {
    /// What was measured, under the workload's name: `socket-json/rate`.
    pub name: &'a str,
    /// The unit of `value`.
    pub unit: &'a str,
    /// The median of the samples.
    pub value: f64,
    /// The worst of the samples, where there are several.
    pub worst: Option<f64>,
    /// What it was put beside in the same run.
    pub beside: Option<Beside>,
    /// How many times it was measured (for percentiles: how many latencies).
    pub samples: u64,
    /// Hash of the outputs that were checked.
    pub hash: Option<u64>,
}

/// A whole distribution, and that of what stands beside it; both in nanoseconds.
pub struct Distributions<'a> {
    /// Ours.
    pub ours: &'a Histogram<u64>,
    /// The one beside it.
    pub beside: Option<&'a Histogram<u64>>,
    /// Nanoseconds in the figure's unit.
    pub unit_ns: f64,
}

/// Prints figures as they come, and keeps them for programs.
pub struct Report {
    machine: String,
    /// When the run began, and how large it is.
    at: String,
    size: &'static str,
    json: Option<File>,
    lines: Vec<Value>,
    workload: &'static str,
    progress: ProgressBar,
}

impl Report {
    /// A report; `json` is begun anew.
    pub fn new(run: &Run, json: Option<&Path>) -> Result<Report, String> {
        let create = |path: &Path| File::create(path).map_err(|e| format!("{}: {e}", path.display()));
        let json = json.map(create).transpose()?;
        let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let (lines, progress) = (Vec::new(), ProgressBar::hidden());
        Ok(Report {
            machine: machine::describe(),
            at,
            size: run.size("smoke", "full"),
            json,
            lines,
            workload: "",
            progress,
        })
    }

    /// The machine, named: without it no figure means anything.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// What follows belongs to this workload, the `number`th of `count`.
    pub fn begin(&mut self, workload: &'static str, number: usize, count: usize) {
        self.workload = workload;
        // Drawn on standard error, and only where a person watches.
        self.progress = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {prefix} {msg} {elapsed}").expect("a valid template");
        self.progress.set_style(style);
        self.progress.set_prefix(format!("{number} of {count}, {workload}:"));
        self.progress.enable_steady_tick(Duration::from_millis(250));
    }

    /// Says what is being done now.
    pub fn doing(&self, what: impl Into<String>) {
        self.progress.set_message(what.into());
    }

    /// The workload is over.
    pub fn end(&mut self) {
        self.progress.finish_and_clear();
    }

    /// A line for people only.
    pub fn note(&self, text: &str) {
        self.progress.suspend(|| println!("  {text}"));
    }

    /// A figure.
    pub fn figure(&mut self, figure: &Figure<'_>) {
        self.put(figure, None);
    }

    /// A figure that has a whole distribution behind it.
    pub fn distribution(&mut self, figure: &Figure<'_>, all: &Distributions<'_>) {
        self.put(figure, Some(percentiles(all)));
    }

    fn put(&mut self, figure: &Figure<'_>, percentiles: Option<Value>) {
        let name = format!("{}/{}", self.workload, figure.name);
        let mut line = format!("  {:<38}{:>12} {}", figure.name, short(figure.value), figure.unit);
        if let Some(worst) = figure.worst {
            line += &format!(", worst {}", short(worst));
        }
        if let Some(beside) = &figure.beside {
            line += &format!("   {}: {} ({:.2}×)", beside.name, short(beside.value), beside.ratio);
        }
        self.progress.suspend(|| println!("{line}"));
        let beside = figure.beside.as_ref();
        let mut record = json!({
            "name": name,
            "unit": figure.unit,
            "value": figure.value,
            "worst": figure.worst,
            "beside": beside.map(|b| json!({ "name": b.name, "value": b.value })),
            "ratio": beside.map(|b| b.ratio),
            "samples": figure.samples,
            "machine": self.machine,
            "result_hash": figure.hash.map(|h| format!("{h:016x}")),
            "at": self.at,
            "size": self.size,
            "version": env!("CARGO_PKG_VERSION"),
        });
        if let Some(percentiles) = percentiles {
            record["percentiles"] = percentiles;
        }
        if let Some(file) = &mut self.json
            && let Err(e) = writeln!(file, "{record}")
        {
            eprintln!("millstream-bench: --json: {e}");
        }
        self.lines.push(record);
    }

    /// Keeps the run in a folder: its JSON lines and its page, named by its time. Returns the page's path.
    pub fn keep(&self, dir: &Path) -> Result<PathBuf, String> {
        let path = dir.join(format!("{}.jsonl", self.at.replace(':', "-")));
        let text: String = self.lines.iter().map(|line| format!("{line}\n")).collect();
        let write = || {
            std::fs::create_dir_all(dir)?;
            std::fs::write(&path, text)
        };
        write().map_err(|e: std::io::Error| format!("{}: {e}", path.display()))?;
        crate::page::make(&[path]).map(|mut pages| pages.remove(0))
    }
}

/// The distributions at quantiles that stand five to each halving of what is beyond them, as far as there are samples.
fn percentiles(all: &Distributions<'_>) -> Value {
    let samples = all.ours.len().max(1) as f64;
    let quantiles: Vec<f64> =
        (0..).map(|k| 1.0 - 0.5_f64.powf(f64::from(k) / 5.0)).take_while(|q| (1.0 - q) * samples >= 1.0).collect();
    let values = |h: &Histogram<u64>| -> Vec<f64> {
        quantiles.iter().map(|q| h.value_at_quantile(*q) as f64 / all.unit_ns).collect()
    };
    json!({ "quantiles": quantiles, "values": values(all.ours), "beside": all.beside.map(values) })
}

/// Four digits that matter, thousands parted.
pub fn short(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let digits = 3 - value.abs().log10().floor() as i32;
    let rounded = format!("{value:.*}", digits.clamp(0, 6) as usize);
    let (whole, rest) = rounded.split_at(rounded.find('.').unwrap_or(rounded.len()));
    let mut parted = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 && !parted.ends_with('-') {
            parted.push(',');
        }
        parted.push(c);
    }
    parted + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_with_four_digits_that_matter() {
        assert_eq!(short(2_512_345.6), "2,512,346");
        assert_eq!(short(0.123_456), "0.1235");
        assert_eq!(short(-1_234.5), "-1,234");
        assert_eq!(short(0.0), "0");
        assert_eq!(short(f64::NAN), "NaN");
    }

    #[test]
    fn a_kept_run_is_lines_and_a_page() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut report = Report::new(&Run { smoke: true, seconds: 1.0 }, None).expect("a report");
        report.begin("latency", 1, 1);
        let mut latency = Histogram::new(3).expect("a histogram");
        (1..=1_000_u64).for_each(|i| latency.record(i * 1_000).expect("in bounds"));
        let all = Distributions { ours: &latency, beside: None, unit_ns: 1e3 };
        let figure = Figure {
            name: "load-50-max",
            unit: "µs",
            value: 1_000.0,
            worst: None,
            beside: None,
            samples: 1_000,
            hash: Some(7),
        };
        report.distribution(&figure, &all);
        report.end();
        let page = report.keep(dir.path()).expect("kept");
        let lines = std::fs::read_to_string(page.with_extension("jsonl")).expect("the lines");
        let line: Value = serde_json::from_str(&lines).expect("one line");
        assert_eq!((&line["name"], &line["size"]), (&json!("latency/load-50-max"), &json!("smoke")));
        let at = |list: &Value, i: usize| list[i].as_f64().expect("a number");
        let (quantiles, values) = (&line["percentiles"]["quantiles"], &line["percentiles"]["values"]);
        assert!((at(quantiles, 5) - 0.5).abs() < 1e-9 && (at(values, 5) - 500.0).abs() < 2.0, "{line}");
        assert!(quantiles.as_array().expect("a list").len() > 40, "{line}");
        let page = std::fs::read_to_string(page).expect("the page");
        assert!(page.contains("Latency, load-50") && page.contains("Smoke size"), "{page}");
    }
}
