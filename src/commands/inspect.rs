//! `millstream inspect`: what is in an artifact or a checkpoint.

use crate::artifact;
use crate::cli::InspectArgs;
use crate::error::{Fault, Result};
use crate::pipeline::{Manifest, Pipeline, PipelineSpec};
use crate::schema::Schema;
use crate::state::State;
use serde_json::{Value, json};
use std::fmt::Write;

/// Prints the manifest, the tensors and the position of a file, after checking it as a swap would.
///
/// # Errors
/// Corruption or Misuse, with what is wrong with the file.
pub fn inspect(args: &InspectArgs) -> Result<()> {
    let bytes = artifact::read_file(&args.file, artifact::FILE_BYTES_MAX)?;
    let report = report(&bytes).map_err(|f| f.at(args.file.display()))?;
    super::print(&if args.json { format!("{report}\n") } else { text(&report, bytes.len()) })
}

/// The report as JSON, in the shape of the contract.
///
/// # Errors
/// As [`inspect`].
pub fn report(bytes: &[u8]) -> Result<Value> {
    if !artifact::is_artifact(bytes) {
        let pipeline = Pipeline::from_bytes(bytes)?;
        return describe("spec", pipeline.version(), pipeline.spec(), &State::new(), 0, Value::Null);
    }
    let (manifest, state) = artifact::decode(bytes)?;
    let manifest: Manifest =
        serde_json::from_value(manifest).map_err(|e| Fault::corruption(format!("manifest: {e}")))?;
    Pipeline::restore(&manifest, &state)?;
    let version = match manifest.position["version"].as_str() {
        Some(hash) if hash.len() >= 8 => hash[..8].to_string(),
        _ => artifact::content_hash(bytes)[..8].to_string(),
    };
    describe(&manifest.kind, &version, &manifest.pipeline, &state, manifest.learned, manifest.position)
}

fn describe(
    kind: &str,
    version: &str,
    spec: &PipelineSpec,
    state: &State,
    learned: u64,
    position: Value,
) -> Result<Value> {
    let schema = Schema::from_spec(&spec.schema)?;
    let fields: Vec<Value> = schema
        .fields
        .iter()
        .map(|f| json!({ "name": f.name, "type": f.ty, "missing": f.missing, "role": format!("{:?}", f.role).to_lowercase() }))
        .collect();
    let tensors: Vec<Value> = state
        .tensors
        .iter()
        .map(|(name, t)| json!({ "name": name, "dtype": t.data.dtype(), "shape": t.shape }))
        .collect();
    Ok(json!({
        "kind": kind, "name": spec.name, "version": version, "learned": learned,
        "schema": {
            "label": spec.schema.label, "key": spec.schema.key, "time": spec.schema.time,
            "weight": spec.schema.weight, "id": spec.schema.id, "fields": fields,
        },
        "steps": spec.steps, "model": spec.model, "tensors": tensors, "position": position,
    }))
}

fn text(report: &Value, bytes: usize) -> String {
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} {} version {} ({bytes} bytes, {} learned)",
        word(&report["kind"]),
        word(&report["name"]),
        word(&report["version"]),
        report["learned"]
    );
    let _ = writeln!(text, "\nschema (label {})", word(&report["schema"]["label"]));
    for field in report["schema"]["fields"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "  {:<28}{:<12}{:<10}{}",
            word(&field["name"]),
            word(&field["type"]),
            word(&field["role"]),
            word(&field["missing"])
        );
    }
    let _ = writeln!(text, "\nsteps");
    for step in report["steps"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  {step}");
    }
    let _ = writeln!(text, "\nmodel\n  {}\n\ntensors", report["model"]);
    for tensor in report["tensors"].as_array().into_iter().flatten() {
        let _ = writeln!(text, "  {:<40}{:<6}{}", word(&tensor["name"]), word(&tensor["dtype"]), tensor["shape"]);
    }
    if !report["position"].is_null() {
        let p = &report["position"];
        let _ = writeln!(
            text,
            "\nposition\n  lane {} record {} seq {} digest {} swap {}",
            p["lane"],
            p["number"],
            p["seq"],
            word(&p["digest"]),
            p["swap"]
        );
        for (input, position) in p["positions"].as_object().into_iter().flatten() {
            let _ = writeln!(text, "  {input:<40}offset {}", position["offset"]);
        }
    }
    text
}
