//! `millstream train`: fits a pipeline on files in one go (linfa, candle), as a warm start.
//!
//! Pass one lets the steps learn their statistics over all rows; pass two transforms every row by them;
//! then the model is fitted on the table. A step that follows another learns from its output as it
//! stands at the end of a pass, so there is a pass for each step that learns.

use super::events;
use crate::cli::TrainArgs;
use crate::error::{Fault, Result};
use crate::pipeline::Pipeline;
use crate::train::Table;
use serde_json::json;
use std::path::PathBuf;

/// Fits and writes an artifact.
///
/// # Errors
/// Misuse, where the kind isn't trained in batch or the data don't fit; Environment, for files.
pub fn train(args: &TrainArgs) -> Result<()> {
    let mut pipeline = super::evaluate::load(&args.pipeline)?;
    let report = fit(&mut pipeline, &args.inputs)?;
    report.left_out.tell();
    let from: Vec<String> = args.inputs.iter().map(|p| p.display().to_string()).collect();
    let bytes = pipeline.to_artifact(json!({ "command": "train", "inputs": from, "rows": report.rows }));
    // What is written must be what a daemon would take.
    Pipeline::from_bytes(&bytes)?;
    std::fs::write(&args.out, &bytes).map_err(|e| Fault::io(args.out.display(), &e))?;
    super::print(&format!(
        "{}: version {}, trained on {} rows ({} left out), {} bytes\n",
        args.out.display(),
        &crate::artifact::content_hash(&bytes)[..8],
        report.rows,
        report.left_out.rows,
        bytes.len()
    ))
}

/// What training saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trained {
    /// Rows that the model was fitted on.
    pub rows: usize,
    /// Rows that were turned away.
    pub left_out: events::TurnedAway,
}

/// Fits the pipeline on the files' events.
///
/// # Errors
/// As [`train`].
pub fn fit(pipeline: &mut Pipeline, inputs: &[PathBuf]) -> Result<Trained> {
    if inputs.iter().any(|p| p.as_os_str() == "-") {
        return Err(
            Fault::misuse("--input -: training reads its events more than once").hint("write them to a file first")
        );
    }
    let schema = pipeline.schema().clone();
    for pass in 0..pipeline.learning_passes() {
        events::read(&schema, inputs, "learning the steps", &mut |batch| {
            pipeline.fit_steps(batch, pass);
            Ok(())
        })?;
    }
    let (mut rows, mut target, mut weight) = (Vec::new(), Vec::new(), Vec::new());
    let left_out = events::read(&schema, inputs, "transforming", &mut |batch| {
        pipeline.table_rows(batch, &mut rows, &mut target, &mut weight);
        Ok(())
    })?;
    let shape = pipeline.shape().clone();
    let width = shape.dense.len();
    if shape.slots > 0 {
        return Err(Fault::misuse("hashed features are not trained in batch")
            .hint("let the model learn them online: millstream evaluate --out"));
    }
    let count = weight.len();
    let x = ndarray::Array2::from_shape_vec((count, width), rows)
        .map_err(|e| Fault::internal(format!("the table's shape: {e}")))?;
    let label = shape.label.unwrap_or(crate::model::LabelKind::Number);
    let classes = pipeline.classes().iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    let table = Table { names: shape.dense.clone(), x, target, weight, label, classes };
    let mut bar = events::bar(1_000, "fitting");
    let state = crate::train::fit(&pipeline.spec().model.clone(), &shape, &table, "model.", &mut |done, what| {
        bar.set_message(what);
        bar.set_position((done * 1_000.0) as u64);
    })?;
    bar.finish_and_clear();
    pipeline.load_model(&state, count as u64)?;
    Ok(Trained { rows: count, left_out })
}
