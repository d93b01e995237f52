//! `learn/three-models-a-pass`: what `millstream evaluate` costs with three pipelines that read the same fields, from a
//! JSON file to their metrics; beside it each alone, one after another.

use crate::events::{PIPELINE, Rows};
use crate::machine::own_cpu_ns;
use crate::report::{Beside, Figure, Outcome, Report, Run, short};
use crate::stats::{Samples, hash_scores};
use millstream::commands::evaluate::{Evaluation, progressive, progressive_all};
use millstream::pipeline::Pipeline;
use std::path::PathBuf;
use std::time::Instant;

/// The three: SGD behind standard-scale, AdaGrad behind the same, a passive-aggressive one.
fn pipelines() -> Result<Vec<Pipeline>, String> {
    let adagrad =
        PIPELINE.replace("{ kind = \"sgd\", learning_rate = 0.01 }", "{ kind = \"adagrad\", learning_rate = 0.05 }");
    let (schema, _) = PIPELINE.split_once("[[steps]]").ok_or("models/hyperplane.toml has a step")?;
    let aggressive = format!("{schema}[model]\nkind = \"passive-aggressive\"\n");
    let specs = [PIPELINE, &adagrad, &aggressive];
    specs.iter().map(|spec| Pipeline::from_spec_text(spec).map_err(|f| f.to_string())).collect()
}

fn together(inputs: &[PathBuf]) -> Result<Vec<Evaluation>, String> {
    let done = progressive_all(pipelines()?, inputs).map_err(|f| f.to_string())?;
    Ok(done.into_iter().map(|(_, evaluation)| evaluation).collect())
}

fn one_by_one(inputs: &[PathBuf]) -> Result<Vec<Evaluation>, String> {
    pipelines()?.iter_mut().map(|p| progressive(p, inputs).map_err(|f| f.to_string())).collect()
}

/// Every metric, in order.
fn metrics(done: &[Evaluation]) -> Vec<f64> {
    done.iter().flat_map(|e| e.quality.metrics.values().copied()).collect()
}

/// Checks that the results are the same, then times both ways in turn.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let rows = run.size(20_000, 200_000);
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let inputs = [dir.path().join("rows.json")];
    std::fs::write(&inputs[0], Rows::new(rows).json()).map_err(|e| format!("rows.json: {e}"))?;
    report.doing("three-models-a-pass: checking");
    let expected = metrics(&one_by_one(&inputs)?);
    if metrics(&together(&inputs)?) != expected {
        return Err("three-models-a-pass: another result than each alone".into());
    }
    let [mut cpu, mut seconds] = <[[Samples; 2]; 2]>::default();
    let turns = run.size(1, 5);
    for turn in 0..turns {
        report.doing(format!("three-models-a-pass: {} of {turns}", turn + 1));
        for (way, work) in [together, one_by_one].into_iter().enumerate() {
            let (began, before) = (Instant::now(), own_cpu_ns());
            work(&inputs)?;
            cpu[way].push((own_cpu_ns() - before) as f64 / rows as f64);
            seconds[way].push(began.elapsed().as_secs_f64());
        }
    }
    let (value, alone) = (cpu[0].median(), cpu[1].median());
    report.figure(&Figure {
        name: "three-models-a-pass",
        unit: "ns/row",
        value,
        worst: Some(cpu[0].most()),
        beside: Some(Beside { name: "each alone".into(), value: alone, ratio: alone / value }),
        samples: cpu[0].count(),
        hash: Some(hash_scores(expected.into_iter())),
    });
    let rate = |way: usize| short(rows as f64 / seconds[way].median());
    report.note(&format!("from JSON to metrics, all cores: {} rows/s, each alone {} rows/s", rate(0), rate(1)));
    Ok(())
}
