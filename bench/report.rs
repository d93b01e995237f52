//! Figures: printed for people, and one JSON line each for programs.

use crate::machine;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::Path;
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

/// Prints figures as they come, and keeps them for programs.
pub struct Report {
    machine: String,
    json: Option<File>,
    workload: &'static str,
    progress: ProgressBar,
}

impl Report {
    /// A report; `json` is begun anew.
    pub fn new(json: Option<&Path>) -> Result<Report, String> {
        let create = |path: &Path| File::create(path).map_err(|e| format!("{}: {e}", path.display()));
        let json = json.map(create).transpose()?;
        Ok(Report { machine: machine::describe(), json, workload: "", progress: ProgressBar::hidden() })
    }

    /// The machine, named: without it no figure means anything.
    pub fn machine(&self) -> &str {
        &self.machine
    }

    /// What follows belongs to this workload.
    pub fn begin(&mut self, workload: &'static str) {
        self.workload = workload;
        // Drawn on standard error, and only where a person watches.
        self.progress = ProgressBar::new_spinner();
        self.progress.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("a valid template"));
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
        let record = json!({
            "name": name,
            "unit": figure.unit,
            "value": figure.value,
            "worst": figure.worst,
            "beside": beside.map(|b| json!({ "name": b.name, "value": b.value })),
            "ratio": beside.map(|b| b.ratio),
            "samples": figure.samples,
            "machine": self.machine,
            "result_hash": figure.hash.map(|h| format!("{h:016x}")),
        });
        if let Some(file) = &mut self.json
            && let Err(e) = writeln!(file, "{record}")
        {
            eprintln!("millstream-bench: --json: {e}");
        }
    }
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
