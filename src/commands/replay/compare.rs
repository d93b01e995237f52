//! Versions beside each other over the same events of a lane's past.

use crate::batch::{Batch, Block, Cursor, RowStatus, Scores, Task};
use crate::config::Config;
use crate::decode::Decoder;
use crate::engine::lane::{Watch, check_fits};
use crate::engine::wire;
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

/// A version that runs beside the recorded one.
struct Candidate {
    pipeline: Pipeline,
    decoder: Decoder,
    batch: Batch,
    scores: Scores,
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
    events_max: usize,
    /// False while the record's events were scored by a frozen model.
    learn: bool,
}

impl Comparison {
    /// The artifacts, or where there is only one, what was recorded and it.
    ///
    /// # Errors
    /// Misuse, Corruption or Environment, naming the file that can't be loaded or doesn't fit.
    pub fn new(config: &Config, recorded: &Pipeline, paths: &[PathBuf], range: Range<u64>) -> Result<Comparison> {
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
                candidate: Some(Candidate {
                    decoder: wire::decoder(config, &pipeline)?,
                    batch: pipeline.batch(),
                    scores: pipeline.scores(0),
                    pipeline,
                }),
            });
        }
        let events_max = config.engine.batch_events_max as usize;
        Ok(Comparison { range, versions, inside: false, events_max, learn: true })
    }

    /// The versions, as the report has them.
    pub fn versions(&self) -> Value {
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
    pub fn better(&self) -> Value {
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

    fn block(&mut self, block: &Block, seq: u64) {
        let first = seq.max(self.range.start);
        for version in &mut self.versions {
            let Some(candidate) = &mut version.candidate else { continue };
            candidate.run(
                block,
                seq,
                &self.range,
                self.events_max,
                self.learn,
                &mut version.quality,
                &mut version.rows,
            );
        }
        let (reference, others) = self.versions.split_first_mut().expect("at least one version");
        for version in others.iter_mut().filter(|v| v.first_difference.is_none()) {
            let differs = reference.rows.first_difference(&version.rows);
            version.first_difference = differs.map(|row| first + row as u64);
        }
        self.versions.iter_mut().for_each(|v| v.rows.clear());
    }
}

impl Candidate {
    /// Runs the events of a block that are in the range, and passes over the others.
    #[allow(clippy::too_many_arguments)]
    fn run(
        &mut self,
        block: &Block,
        seq: u64,
        range: &Range<u64>,
        events_max: usize,
        learn: bool,
        quality: &mut Progressive,
        rows: &mut Rows,
    ) {
        let (mut cursor, mut seq) = (Cursor::default(), seq);
        while seq < range.end {
            let inside = range.contains(&seq);
            let until = if inside { range.end } else { range.start };
            let room = usize::try_from(until - seq).map_or(events_max, |room| room.min(events_max));
            self.batch.clear();
            if !self.decoder.fill(block, &mut cursor, &mut self.batch, room) {
                return;
            }
            if inside {
                self.pipeline.run(&mut self.batch, &mut self.scores, learn, quality);
                rows.take(&self.batch, &self.scores);
            }
            seq += self.batch.len() as u64;
        }
    }
}
