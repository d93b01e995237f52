//! The story: somebody puts several pipelines into one call of `evaluate`. Those that read the same fields go through
//! the events together, each on a thread of its own; and each comes to what it comes to alone: metrics to the bit,
//! what it learned to the bit, the same rows turned away for the same reason.

mod support;

use millstream::commands::evaluate::{Evaluation, progressive, progressive_all};
use millstream::pipeline::Pipeline;
use std::path::PathBuf;
use support::{events, library};

const FIELDS: &str = "[schema]\nlabel = \"y\"\nid = \"id\"\n[schema.fields]\nid = \"category\"\nx1 = \"float\"\n\
                      x2 = \"float\"\nx3 = \"float\"\ny = \"bool\"\n";
const SCALE: &str = "[[steps]]\nkind = \"standard-scale\"\n";

/// Pipelines of one schema but for what stands in for gaps, and of others, mixed.
fn specs() -> Vec<String> {
    let spec = |fields: &str, steps: &str, model: &str| format!("name = \"p\"\n{fields}{steps}[model]\n{model}\n");
    let rejects = FIELDS.replace("x2 = \"float\"", "x2 = { type = \"float\", missing = \"reject\" }");
    let number = FIELDS.replace("label = \"y\"", "label = \"x3\"");
    let text = FIELDS.replace("x3 = \"float\"", "x3 = \"category\"");
    let hash = "[[steps]]\nkind = \"hash\"\nbits = 19\n";
    vec![
        events::SPEC.to_string(),
        spec(FIELDS, SCALE, "kind = \"multilayer-perceptron\"\nlayers = [7, 5]\nunit_events = 13"),
        spec(&text, hash, "kind = \"logistic-regression\"\noptimizer = \"ftrl\""),
        spec(&rejects, "", "kind = \"gaussian-naive-bayes\""),
        spec(&number, SCALE, "kind = \"linear-regression\""),
        spec(FIELDS, "", "kind = \"decision-tree\""),
        spec(FIELDS, "", "kind = \"passive-aggressive\""),
        spec(&text, hash, "kind = \"perceptron\""),
        // The same once more.
        events::SPEC.to_string(),
    ]
}

/// Everything that is told of an evaluation; floats by their shortest text, which reads back to the same bits.
fn told(evaluation: &Evaluation) -> String {
    format!("{evaluation:?}")
}

/// Two files of events: gaps, rows without a label, rows that are no rows, and one that ends in the middle of a batch.
fn inputs(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let write = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let csv: String = events::csv(5_000, 1)
        .lines()
        .enumerate()
        .map(|(i, line)| if i % 977 == 500 { "what,is,this,row,then\n".to_string() } else { format!("{line}\n") })
        .collect();
    vec![write("a.csv", csv), write("b.json", events::json(3_333, 2))]
}

#[test]
fn each_pipeline_comes_to_what_it_comes_to_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    let (inputs, specs) = (inputs(&dir), specs());
    let make = || specs.iter().map(|spec| Pipeline::from_spec_text(spec).expect("a spec")).collect::<Vec<_>>();
    let together = progressive_all(make(), &inputs).expect("evaluated");
    assert_eq!(together.len(), specs.len());
    let mut away = Vec::new();
    for ((mut alone, (mut pipeline, evaluation)), spec) in make().into_iter().zip(together).zip(&specs) {
        let expected = progressive(&mut alone, &inputs).expect("evaluated");
        assert_eq!(told(&evaluation), told(&expected), "{spec}");
        assert_eq!(library::learned(&mut pipeline), library::learned(&mut alone), "{spec}");
        assert_eq!((pipeline.learned(), pipeline.classes()), (alone.learned(), alone.classes()), "{spec}");
        assert!(evaluation.events > 8_000);
        away.push(evaluation.rejected.rows);
    }
    assert!(away[1] > 0 && away[0] > away[1] && away[3] > away[1], "policies differ: {away:?}");
    assert_eq!(away[0], away[8]);
}

#[test]
fn a_file_that_is_not_there_ends_it() {
    let pipelines = specs().iter().map(|spec| Pipeline::from_spec_text(spec).expect("a spec")).collect();
    let fault = progressive_all(pipelines, &[PathBuf::from("no/such/file.csv")]).err().expect("a fault");
    assert!(fault.to_string().contains("no/such/file.csv"), "{fault}");
}
