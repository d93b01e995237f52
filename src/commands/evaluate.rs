//! `millstream evaluate`: progressive validation (test, then train) of pipelines, beside no-change and
//! majority class.

use super::beside::Beside;
use super::events;
use crate::artifact;
use crate::batch::{Batch, Scores};
use crate::cli::EvaluateArgs;
use crate::error::{Fault, Result};
use crate::metrics::quality::WINDOW_EVENTS;
use crate::metrics::{Progressive, QualityReport};
use crate::pipeline::Pipeline;
use crate::schema::Schema;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What a pipeline did on the events.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// The pipeline's file.
    pub pipeline: String,
    /// Its version.
    pub version: String,
    /// Events read, those that were turned away included.
    pub events: u64,
    /// Events learned.
    pub learned: u64,
    /// Events turned away.
    pub rejected: events::TurnedAway,
    /// The metrics, and those of the baselines.
    pub quality: QualityReport,
}

/// Judges each pipeline on the files.
///
/// # Errors
/// Misuse or Environment, naming the file; a metric that isn't there.
pub fn evaluate(args: &EvaluateArgs) -> Result<()> {
    if !args.outs.is_empty() && args.outs.len() != args.pipelines.len() {
        return Err(Fault::misuse(format!(
            "--out names {} files for {} pipelines",
            args.outs.len(),
            args.pipelines.len()
        ))
        .hint("name one for each pipeline, in their order"));
    }
    let pipelines = args.pipelines.iter().map(|path| load(path)).collect::<Result<Vec<_>>>()?;
    let mut done = Vec::new();
    for (i, (mut pipeline, mut evaluation)) in progressive_all(pipelines, &args.inputs)?.into_iter().enumerate() {
        evaluation.pipeline = args.pipelines[i].display().to_string();
        evaluation.rejected.tell();
        refuse_if_all_away(&evaluation)?;
        select(&mut evaluation.quality, &args.metrics)?;
        if let Some(out) = args.outs.get(i) {
            let from: Vec<String> = args.inputs.iter().map(|p| p.display().to_string()).collect();
            let bytes = pipeline.to_artifact(json!({ "command": "evaluate", "inputs": from }));
            std::fs::write(out, bytes).map_err(|e| Fault::io(out.display(), &e))?;
        }
        done.push(evaluation);
    }
    super::print(&if args.json { json_text(&done) } else { table(&done) })
}

/// An evaluation of nothing is a misunderstanding, not a result.
fn refuse_if_all_away(evaluation: &Evaluation) -> Result<()> {
    if evaluation.events == 0 || evaluation.rejected.rows < evaluation.events {
        return Ok(());
    }
    let first = evaluation.rejected.first.clone().unwrap_or_default();
    Err(Fault::misuse(format!(
        "{}: all {} events were turned away; the first: {first}",
        evaluation.pipeline, evaluation.events
    ))
    .hint("compare the fields of the schema with the file: .csv has a header that names them, .bin holds frames, anything else JSON lines"))
}

/// A pipeline from a spec's or an artifact's file.
///
/// # Errors
/// Misuse, Corruption or Environment, naming the file.
pub fn load(path: &Path) -> Result<Pipeline> {
    let bytes = artifact::read_file(path, artifact::FILE_BYTES_MAX)?;
    Pipeline::from_bytes(&bytes).map_err(|f| f.at(path.display()))
}

/// What a pipeline did so far.
struct Tally {
    quality: Progressive,
    scores: Scores,
    events: u64,
    learned: u64,
    rejected: events::TurnedAway,
}

impl Tally {
    fn new(pipeline: &Pipeline) -> Tally {
        let quality = Progressive::new(pipeline.task(), WINDOW_EVENTS);
        Tally { quality, scores: pipeline.scores(0), events: 0, learned: 0, rejected: Default::default() }
    }

    /// Tests and then trains on a batch of `input`.
    fn take(&mut self, pipeline: &mut Pipeline, batch: &mut Batch, input: &Path) {
        let counts = pipeline.run(batch, &mut self.scores, true, &mut self.quality);
        self.events += batch.len() as u64;
        self.learned += counts.learned;
        self.rejected.note(batch, pipeline.schema(), input);
    }

    fn evaluation(self, pipeline: &Pipeline) -> Evaluation {
        let (name, version) = (pipeline.spec().name.clone(), pipeline.version().to_string());
        let (events, learned, rejected, quality) = (self.events, self.learned, self.rejected, self.quality.report());
        Evaluation { pipeline: name, version, events, learned, rejected, quality }
    }
}

/// Tests and then trains on every event of the files, in order.
///
/// # Errors
/// Environment, where a file can't be read.
pub fn progressive(pipeline: &mut Pipeline, inputs: &[PathBuf]) -> Result<Evaluation> {
    let mut tally = Tally::new(pipeline);
    events::each_batch(&pipeline.schema().clone(), inputs, "evaluating", &mut |batch, input| {
        tally.take(pipeline, batch, &inputs[input]);
        Ok(())
    })?;
    Ok(tally.evaluation(pipeline))
}

/// [`progressive`] of several pipelines, to the same results. Those that read the same fields go side by side through
/// one pass over the files, each on a thread of its own.
///
/// # Errors
/// Environment, where a file can't be read.
pub fn progressive_all(pipelines: Vec<Pipeline>, inputs: &[PathBuf]) -> Result<Vec<(Pipeline, Evaluation)>> {
    let mut left: Vec<Option<Pipeline>> = pipelines.into_iter().map(Some).collect();
    let mut done: Vec<Option<(Pipeline, Evaluation)>> = left.iter().map(|_| None).collect();
    while let Some(schema) = left.iter().flatten().next().map(|p| p.schema().clone()) {
        let (mut places, mut alike) = (Vec::new(), Vec::new());
        for (place, pipeline) in left.iter_mut().enumerate() {
            if let Some(pipeline) = pipeline.take_if(|p| p.schema().same_shape(&schema)) {
                places.push(place);
                alike.push(pipeline);
            }
        }
        for (place, result) in places.into_iter().zip(one_pass(alike, &schema, inputs)?) {
            done[place] = Some(result);
        }
    }
    Ok(done.into_iter().flatten().collect())
}

/// [`progressive`] of pipelines that read the same fields.
fn one_pass(mut pipelines: Vec<Pipeline>, schema: &Schema, inputs: &[PathBuf]) -> Result<Vec<(Pipeline, Evaluation)>> {
    if let [pipeline] = &mut pipelines[..] {
        let evaluation = progressive(pipeline, inputs)?;
        return Ok(pipelines.into_iter().map(|pipeline| (pipeline, evaluation.clone())).collect());
    }
    let mut besides: Vec<_> = pipelines
        .into_iter()
        .map(|pipeline| {
            let (tally, inputs) = (Tally::new(&pipeline), inputs.to_vec());
            Beside::<_, usize>::start((pipeline, tally), move |(pipeline, tally), item| {
                tally.take(pipeline, &mut item.batch, &inputs[item.with]);
            })
        })
        .collect();
    events::each_batch(schema, inputs, "evaluating", &mut |batch, input| {
        for beside in &mut besides {
            let mut item = if beside.has_room() { None } else { beside.done() }.unwrap_or_default();
            batch.copy_to(&mut item.batch);
            item.with = input;
            beside.hand(item);
        }
        Ok(())
    })?;
    let result = |(pipeline, tally): (Pipeline, Tally)| {
        let evaluation = tally.evaluation(&pipeline);
        (pipeline, evaluation)
    };
    Ok(besides.into_iter().map(Beside::finish).map(result).collect())
}

fn select(quality: &mut QualityReport, names: &[String]) -> Result<()> {
    if names.is_empty() || quality.events == 0 {
        return Ok(());
    }
    // As people write them: log-loss is log_loss.
    let names: Vec<String> = names.iter().map(|name| name.trim().replace('-', "_")).collect();
    for name in &names {
        if !quality.metrics.contains_key(name) {
            let known: Vec<&str> = quality.metrics.keys().map(String::as_str).collect();
            return Err(Fault::misuse(format!("--metrics {name}: no such metric here"))
                .hint(format!("there are {}", known.join(", "))));
        }
    }
    quality.metrics.retain(|name, _| names.contains(name));
    for baseline in quality.baselines.values_mut() {
        baseline.retain(|name, _| names.contains(name));
    }
    Ok(())
}

fn json_text(done: &[Evaluation]) -> String {
    let pipelines: Vec<Value> = done
        .iter()
        .map(|e| {
            json!({
                "pipeline": e.pipeline, "version": e.version, "events": e.events, "learned": e.learned,
                "rejected": e.rejected.rows, "metrics": e.quality.metrics,
            })
        })
        .collect();
    let baselines = done.first().map_or_else(|| json!(Map::new()), |e| json!(e.quality.baselines));
    format!("{}\n", json!({ "pipelines": pipelines, "baselines": baselines }))
}

fn table(done: &[Evaluation]) -> String {
    let mut text = String::new();
    for e in done {
        let away = e.rejected.rows;
        let rejected = if away > 0 { format!(", {away} turned away") } else { String::new() };
        let _ = writeln!(
            text,
            "{} (version {}): {} events, {} learned{rejected}",
            e.pipeline, e.version, e.events, e.learned
        );
        if e.quality.events == 0 {
            text.push_str("  nothing was labelled, so there is nothing to compare with\n");
            continue;
        }
        let names: Vec<&String> = e.quality.baselines.keys().collect();
        let _ = write!(text, "  {:<24}{:>14}", "", "pipeline");
        for name in &names {
            let _ = write!(text, "{name:>14}");
        }
        text.push('\n');
        for (metric, value) in &e.quality.metrics {
            let _ = write!(text, "  {metric:<24}{value:>14.6}");
            for name in &names {
                match e.quality.baselines[*name].get(metric) {
                    Some(value) => _ = write!(text, "{value:>14.6}"),
                    None => _ = write!(text, "{:>14}", "-"),
                }
            }
            text.push('\n');
        }
    }
    text
}
