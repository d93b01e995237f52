//! The story: somebody who knows River's documentation runs `millstream evaluate` and wants its figures.
//!
//! Accuracy and MAE over the whole data sets are those that River prints, and the score of each recorded
//! row, through decoder, steps and model, is River's to 1e-9 (tests/data/river_pipelines, made by the
//! record.py beside them).

mod support;

use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use serde_json::Value;
use support::daemon::Scene;
use support::library;

fn file(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn recorded(name: &str) -> Value {
    serde_json::from_str(&file(&format!("tests/data/river_pipelines/{name}.json"))).expect("JSON")
}

/// What `evaluate --json` says about a model of models/ on a file of datasets/.
fn evaluate(name: &str) -> Value {
    let scene = Scene::new("", "");
    let (pipeline, input) = (format!("models/{name}.toml"), format!("datasets/{}.csv", name.replace('-', "_")));
    scene.call(&["evaluate", "--pipeline", &pipeline, "--input", &input, "--json"]).json()
}

fn metric(report: &Value, name: &str) -> f64 {
    report["pipelines"][0]["metrics"][name].as_f64().unwrap_or_else(|| panic!("{name} in {report}"))
}

#[test]
fn figures_are_rivers() {
    for (name, events, metrics) in [
        ("phishing", 1_250, &[("accuracy", 0.8872, 5e-5)][..]),
        ("bananas", 5_300, &[("accuracy", 0.5432, 5e-5)]),
        ("chick-weights", 578, &[("mae", 23.7587, 0.0005)]),
        ("trump-approval", 1_001, &[("mae", 1.3145, 0.003 * 1.3145)]),
        ("image-segments", 2_310, &[]),
    ] {
        let (report, oracle) = (evaluate(name), recorded(name));
        assert_eq!(report["pipelines"][0]["events"], events, "{name}: {report}");
        assert_eq!(report["pipelines"][0]["learned"], events, "{name}: {report}");
        for (what, expected, within) in metrics {
            let ours = metric(&report, what);
            assert!((ours - expected).abs() <= *within, "{name}: {what} {ours}, River's documentation has {expected}");
        }
        for (theirs, expected) in oracle["metrics"].as_object().expect("metrics") {
            let ours = metric(&report, theirs);
            let expected = expected.as_f64().expect("a number");
            // River's ROC-AUC is taken over ten thresholds.
            let within = if theirs == "roc_auc" { 0.01 } else { 1e-9 * expected.abs().max(1.0) };
            assert!((ours - expected).abs() <= within, "{name}: {theirs} {ours}, River found {expected}");
        }
        assert!(report["baselines"]["no-change"].is_object(), "{name}: {report}");
    }
}

#[test]
fn scores_are_rivers_row_by_row() {
    for name in ["phishing", "bananas", "chick-weights", "trump-approval", "image-segments"] {
        let oracle = recorded(name);
        let mut pipeline = Pipeline::from_spec_text(&file(&format!("models/{name}.toml"))).expect("a model");
        let text = file(&format!("datasets/{}.csv", name.replace('-', "_")));
        let mut labels = Vec::new();
        if name == "image-segments" {
            // Classes are numbered as they come: the label is the last cell.
            for line in text.lines().skip(1) {
                let label = line.rsplit(',').next().expect("a cell").to_string();
                if !labels.contains(&label) {
                    labels.push(label);
                }
            }
        }
        let ours = library::run(&mut pipeline, Format::Csv, &text, || 100);
        assert_eq!(ours.len() as u64, oracle["rows"].as_u64().expect("rows"), "{name}");
        let scores = oracle["scores"].as_array().expect("scores");
        assert!(scores.len() >= 300, "{name}");
        for (row, (ours, theirs)) in ours.iter().zip(scores).enumerate() {
            let ours: Vec<f64> = ours.as_ref().expect("a good row").iter().map(|b| f64::from_bits(*b)).collect();
            let near = |ours: f64, theirs: f64| (ours - theirs).abs() <= 1e-9 * theirs.abs().max(1.0);
            match theirs {
                Value::Object(classes) => {
                    for (class, theirs) in classes {
                        let at = labels.iter().position(|l| l == class).expect("a class");
                        let theirs = theirs.as_f64().expect("a score");
                        assert!(near(ours[at], theirs), "{name}, row {row}, {class}: {ours:?}, River {theirs}");
                    }
                    assert_eq!(ours.len(), classes.len().max(ours.len()), "{name}, row {row}");
                }
                theirs => {
                    let theirs = theirs.as_f64().expect("a score");
                    assert!(near(ours[0], theirs), "{name}, row {row}: {ours:?}, River {theirs}");
                }
            }
        }
    }
}

#[test]
fn metrics_are_chosen_by_name_with_either_dash() {
    let scene = Scene::new("", "");
    let common = ["evaluate", "--pipeline", "models/phishing.toml", "--input", "datasets/phishing.csv"];
    let report = scene.call(&[&common[..], &["--metrics", "accuracy,log-loss,roc_auc", "--json"]].concat()).json();
    let names: Vec<&String> = report["pipelines"][0]["metrics"].as_object().expect("metrics").keys().collect();
    assert_eq!(names, ["accuracy", "log_loss", "roc_auc"]);
    let refused = scene.call(&[&common[..], &["--metrics", "acuracy"]].concat());
    refused.refused(2, &["acuracy", "there are accuracy"]);
}
