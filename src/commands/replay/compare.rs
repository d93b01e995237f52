//! Versions beside each other over the same events of a lane's past. The lane decodes them, once; each version runs
//! a copy of the batches on a thread of its own, and at a block's end all have run the same events.

use crate::batch::{Batch, RowStatus, Scores, Task};
use crate::commands::beside::{Beside, Item};
use crate::engine::lane::{Watch, check_fits};
use crate::error::Result;
use crate::journal::JournalRecord;
use crate::metrics::Progressive;
use crate::metrics::quality::WINDOW_EVENTS;
use crate::pipeline::{Observer, Pipeline};
use serde_json::{Value, json};
use std::ops::Range;
use std::path::PathBuf;

/// What the version in force is called in a report.
const RECORDED: &str = "as recorded";

/// The scores of a block's events within the range, bit by bit.
#[derive(Default)]
struct Rows {
    bits: Vec<u64>,
    ends: Vec<usize>,
}

impl Rows {
    fn take(&mut self, batch: &Batch, scores: &Scores) {
        for (row, status) in batch.status.iter().enumerate() {
            match status {
                RowStatus::Ok => self.bits.extend(scores.row(row).iter().map(|s| s.to_bits())),
                // No score has these bits: they are a NaN's.
                RowStatus::Rejected(reject) => self.bits.push(u64::MAX - reject.stage as u64),
            }
            self.ends.push(self.bits.len());
        }
    }

    /// Adds those of the events behind.
    fn append(&mut self, behind: &Rows) {
        let before = self.bits.len();
        self.bits.extend_from_slice(&behind.bits);
        self.ends.extend(behind.ends.iter().map(|end| before + end));
    }

    /// Index of the first event that differs.
    fn first_difference(&self, other: &Rows) -> Option<usize> {
        let rows = |rows: &Rows, i: usize| {
            let start = if i == 0 { 0 } else { rows.ends[i - 1] };
            rows.bits[start..rows.ends[i]].to_vec()
        };
        if self.bits == other.bits && self.ends == other.ends {
            return None;
        }
        (0..self.ends.len().max(other.ends.len()))
            .find(|i| self.ends.get(*i).is_none() || other.ends.get(*i).is_none() || rows(self, *i) != rows(other, *i))
    }

    fn clear(&mut self) {
        self.bits.clear();
        self.ends.clear();
    }
}

/// What goes to a candidate's thread with a batch, and comes back.
#[derive(Default)]
struct Ran {
    learn: bool,
    rows: Rows,
}

/// A version that runs beside the recorded one; its thread ends with its quality.
struct Candidate {
    beside: Beside<(Pipeline, Scores, Progressive), Ran>,
    /// Batches that came back.
    spare: Vec<Item<Ran>>,
}

impl Candidate {
    fn start(pipeline: Pipeline) -> Candidate {
        let (scores, quality) = (pipeline.scores(0), Progressive::new(pipeline.task(), WINDOW_EVENTS));
        let beside = Beside::start((pipeline, scores, quality), |(pipeline, scores, quality), item: &mut Item<Ran>| {
            pipeline.run(&mut item.batch, scores, item.with.learn, quality);
            item.with.rows.clear();
            item.with.rows.take(&item.batch, scores);
        });
        Candidate { beside, spare: Vec::new() }
    }

    /// Sends a copy of a batch on its way; `rows` are those of the events before it.
    fn hand(&mut self, batch: &Batch, learn: bool, rows: &mut Rows) {
        if !self.beside.has_room() {
            self.take_back(rows);
        }
        let mut item = self.spare.pop().unwrap_or_default();
        batch.copy_to(&mut item.batch);
        item.with.learn = learn;
        self.beside.hand(item);
    }

    /// Waits for the batch that went out first. False where none is out.
    fn take_back(&mut self, rows: &mut Rows) -> bool {
        let Some(item) = self.beside.done() else { return false };
        rows.append(&item.with.rows);
        self.spare.push(item);
        true
    }
}

/// One line of the report.
struct Version {
    name: String,
    version: String,
    task: Task,
    quality: Progressive,
    rows: Rows,
    first_difference: Option<u64>,
    /// `None`: the recorded one, whose core is replayed elsewhere.
    candidate: Option<Candidate>,
}

/// Several versions over a range of events; the first one is what the others are compared with.
pub(super) struct Comparison {
    pub range: Range<u64>,
    versions: Vec<Version>,
    /// True while the recorded version runs events of the range.
    inside: bool,
    /// False while the record's events were scored by a frozen model.
    learn: bool,
}

impl Comparison {
    /// The artifacts, or where there is only one, what was recorded and it.
    ///
    /// # Errors
    /// Misuse, Corruption or Environment, naming the file that can't be loaded or doesn't fit.
    pub fn new(recorded: &Pipeline, paths: &[PathBuf], range: Range<u64>) -> Result<Comparison> {
        let mut versions = Vec::new();
        if paths.len() == 1 {
            versions.push(Version {
                name: RECORDED.into(),
                version: recorded.version().into(),
                task: recorded.task(),
                quality: Progressive::new(recorded.task(), WINDOW_EVENTS),
                rows: Rows::default(),
                first_difference: None,
                candidate: None,
            });
        }
        for path in paths {
            let pipeline = crate::commands::evaluate::load(path)?;
            check_fits(recorded, &pipeline).map_err(|f| f.at(path.display()))?;
            versions.push(Version {
                name: path.display().to_string(),
                version: pipeline.version().into(),
                task: pipeline.task(),
                quality: Progressive::new(pipeline.task(), WINDOW_EVENTS),
                rows: Rows::default(),
                first_difference: None,
                candidate: Some(Candidate::start(pipeline)),
            });
        }
        Ok(Comparison { range, versions, inside: false, learn: true })
    }

    /// The versions as the report has them, and the better one.
    pub fn report(mut self) -> (Value, Value) {
        for version in &mut self.versions {
            if let Some(candidate) = version.candidate.take() {
                (_, _, version.quality) = candidate.beside.finish();
            }
        }
        (self.versions(), self.better())
    }

    fn versions(&self) -> Value {
        self.versions
            .iter()
            .map(|v| {
                json!({
                    "artifact": v.name, "version": v.version, "metrics": v.quality.report().metrics,
                    "first_difference": v.first_difference,
                })
            })
            .collect()
    }

    /// The version that scores best, and by which metric; null where none does.
    fn better(&self) -> Value {
        let task = self.versions[0].task;
        let (metric, more_is_better) = match task {
            Task::Binary | Task::Multiclass => ("accuracy", true),
            Task::Anomaly => ("roc_auc", true),
            Task::Regression => ("mae", false),
            Task::Clusters => ("mean_distance", false),
        };
        let mut best: Option<(&Version, f64)> = None;
        let mut alone = true;
        for version in self.versions.iter().filter(|v| v.task == task) {
            let report = version.quality.report();
            let Some(value) = report.metrics.get(metric).filter(|_| report.events > 0) else { continue };
            let value = if more_is_better { *value } else { -*value };
            match best {
                Some((_, known)) if value < known => {}
                Some((_, known)) if value == known => alone = false,
                _ => (best, alone) = (Some((version, value)), true),
            }
        }
        match best.filter(|_| alone && self.versions.len() > 1) {
            Some((version, _)) => json!({ "artifact": version.name, "version": version.version, "metric": metric }),
            None => Value::Null,
        }
    }
}

impl Observer for Comparison {
    fn observe(&mut self, scores: &[f64], target: f64) {
        if let Some(recorded) = self.versions.iter_mut().find(|v| v.candidate.is_none()).filter(|_| self.inside) {
            recorded.quality.observe(scores, target);
        }
    }
}

impl Watch for Comparison {
    fn record(&mut self, record: &JournalRecord) {
        self.learn = !record.frozen;
    }

    fn cut(&mut self, seq: u64) -> u64 {
        self.inside = self.range.contains(&seq);
        match seq {
            before if before < self.range.start => self.range.start,
            inside if inside < self.range.end => self.range.end,
            _ => u64::MAX,
        }
    }

    fn batch(&mut self, batch: &Batch, scores: &Scores) {
        if let Some(recorded) = self.versions.iter_mut().find(|v| v.candidate.is_none()).filter(|_| self.inside) {
            recorded.rows.take(batch, scores);
        }
    }

    fn decoded(&mut self, batch: &Batch) {
        for version in self.versions.iter_mut().filter(|_| self.inside) {
            if let Some(candidate) = &mut version.candidate {
                candidate.hand(batch, self.learn, &mut version.rows);
            }
        }
    }

    fn block(&mut self, seq: u64) {
        let first = seq.max(self.range.start);
        for version in &mut self.versions {
            if let Some(candidate) = &mut version.candidate {
                while candidate.take_back(&mut version.rows) {}
            }
        }
        let (reference, others) = self.versions.split_first_mut().expect("at least one version");
        for version in others.iter_mut().filter(|v| v.first_difference.is_none()) {
            let differs = reference.rows.first_difference(&version.rows);
            version.first_difference = differs.map(|row| first + row as u64);
        }
        self.versions.iter_mut().for_each(|v| v.rows.clear());
    }
}
