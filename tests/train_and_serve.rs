//! The story: a model is trained on yesterday's events in one batch, looked at, and put to work.
//!
//! `millstream train` for each kind, on the data sets that ship with the project; `inspect` shows what is
//! in the artifact; the daemon serves it from its first event, with the scores that the artifact gives;
//! kinds that can learn online go on learning.

mod support;

use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use serde_json::Value;
use support::daemon::Scene;
use support::{events, library};

/// What is trained, on what, and how good it must be on the events it was trained on.
struct Case {
    name: &'static str,
    spec: String,
    data: &'static str,
    learns_online: bool,
    good: fn(&[Value], &[String]) -> bool,
}

fn share_of_right(answers: &[Value], labels: &[String]) -> f64 {
    let word = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_string);
    let truth = |l: &String| match l.as_str() {
        "1" => vec!["1".to_string(), "true".to_string()],
        "0" => vec!["0".to_string(), "false".to_string()],
        other => vec![other.to_string()],
    };
    let right = answers.iter().zip(labels).filter(|(a, l)| truth(l).contains(&word(&a["class"]))).count();
    right as f64 / labels.len() as f64
}

fn mean_error(answers: &[Value], labels: &[String]) -> f64 {
    let error =
        |(a, l): (&Value, &String)| (a["score"].as_f64().expect("score") - l.parse::<f64>().expect("a number")).abs();
    answers.iter().zip(labels).map(error).sum::<f64>() / labels.len() as f64
}

fn cases() -> Vec<Case> {
    let model = |name: &str| {
        std::fs::read_to_string(format!("{}/models/{name}.toml", env!("CARGO_MANIFEST_DIR"))).expect("a model")
    };
    let with_model =
        |spec: &str, model: &str| format!("{}[model]\n{model}\n", &spec[..spec.find("[model]").expect("a model")]);
    let (phishing, chicks, segments) = (model("phishing"), model("chick-weights"), model("image-segments"));
    let iris = "name = \"iris\"\n[schema]\n[schema.fields]\nsepal_length = \"float\"\nsepal_width = \"float\"\n\
                petal_length = \"float\"\npetal_width = \"float\"\n[[steps]]\nkind = \"standard-scale\"\n[model]\n";
    vec![
        Case {
            name: "logistic-regression",
            spec: phishing.clone(),
            data: "phishing",
            learns_online: true,
            good: |a, l| share_of_right(a, l) > 0.88,
        },
        Case {
            name: "linear-regression",
            spec: chicks,
            data: "chick_weights",
            learns_online: true,
            good: |a, l| mean_error(a, l) < 35.0,
        },
        Case {
            name: "decision-tree",
            spec: with_model(&phishing, "kind = \"decision-tree\""),
            data: "phishing",
            learns_online: false,
            good: |a, l| share_of_right(a, l) > 0.88,
        },
        Case {
            name: "gaussian-naive-bayes",
            spec: with_model(&segments, "kind = \"gaussian-naive-bayes\""),
            data: "image_segments",
            learns_online: true,
            good: |a, l| share_of_right(a, l) > 0.7,
        },
        Case {
            name: "k-means",
            spec: with_model(iris, "kind = \"k-means\"\nn_clusters = 3\nseed = 1"),
            data: "iris",
            learns_online: true,
            // The first fifty are one species, and far from the others.
            good: |a, _| a[..50].iter().filter(|x| x["class"] == a[0]["class"]).count() >= 45,
        },
        Case {
            name: "multilayer-perceptron",
            spec: with_model(&phishing, "kind = \"multilayer-perceptron\"\nlayers = [8]\nseed = 1"),
            data: "phishing",
            learns_online: true,
            good: |a, l| share_of_right(a, l) > 0.85,
        },
    ]
}

fn dataset(name: &str) -> String {
    std::fs::read_to_string(format!("{}/datasets/{name}.csv", env!("CARGO_MANIFEST_DIR"))).expect("a data set")
}

/// The cells of the column that the spec calls its label.
fn labels(spec: &str, csv: &str) -> Vec<String> {
    let pipeline = Pipeline::from_spec_text(spec).expect("a spec");
    let Some(label) = pipeline.spec().schema.label.clone() else { return Vec::new() };
    let mut lines = csv.lines();
    let column = lines.next().expect("a header").split(',').position(|c| c == label).expect("the label's column");
    lines.map(|l| l.split(',').nth(column).expect("a cell").to_string()).collect()
}

#[test]
fn each_kind_is_trained_inspected_and_served() {
    for Case { name, spec, data, learns_online, good } in cases() {
        let csv = dataset(data);
        let lines = "pipeline = \"DIR/a.safetensors\"\nsource.kind = \"file\"\nsource.format = \"csv\"\n\
                     source.paths = [\"DIR/in.csv\"]\nsink.kind = \"file\"\nsink.path = \"DIR/out\"\n";
        let scene = Scene::new(&spec, &format!("{lines}learn.enabled = false\n"));
        scene.write("in.csv", &csv);
        let (artifact, input) = (scene.text("a.safetensors"), format!("datasets/{data}.csv"));
        scene
            .call(&["train", "--pipeline", &scene.text("pipeline.toml"), "--input", &input, "--out", &artifact])
            .good();

        let report = scene.call(&["inspect", "--json", &artifact]).json();
        assert_eq!((&report["kind"], &report["model"]["kind"]), (&"artifact".into(), &name.into()), "{report}");
        assert!(report["learned"].as_u64() > Some(100) && report["position"].is_null(), "{name}: {report}");
        let tensors = report["tensors"].as_array().expect("tensors");
        assert!(
            tensors.iter().any(|t| t["name"].as_str().is_some_and(|n| n.starts_with("model."))),
            "{name}: {report}"
        );
        let text = scene.call(&["inspect", &artifact]).good();
        assert!(text.contains(name) && text.contains("tensors"), "{text}");

        // Frozen, every event gets what the artifact gives, and that is good.
        scene.run_to_end(&[]);
        let answers = events::lines(&scene.read("out"));
        assert_eq!(answers.len(), csv.lines().count() - 1, "{name}");
        assert!(answers.iter().all(|a| a["version"] == report["version"] && a["swap"] == 0), "{name}");
        assert!(good(&answers, &labels(&spec, &csv)), "{name}: {:?}", &answers[..3]);
        let frozen = scene.read("out");
        let before = millstream::artifact::decode(&scene.read("a.safetensors")).expect("an artifact").1;
        assert_eq!(scene.newest_checkpoint(0).1.tensors, before.tensors, "{name}: frozen is frozen");

        // Learning, the first event is scored by the artifact; online kinds then change.
        std::fs::remove_file(scene.path("out")).expect("removed");
        scene.configure(lines);
        scene.run_to_end(&["--new-lineage"]);
        let (out, learned) = (scene.read("out"), scene.newest_checkpoint(0).1.tensors);
        let first = |bytes: &[u8]| bytes.split(|b| *b == b'\n').next().expect("a line").to_vec();
        assert!(first(&out) == first(&frozen), "{name}");
        let model = |tensors: &std::collections::BTreeMap<String, millstream::state::Tensor>| {
            tensors
                .iter()
                .filter(|(n, _)| n.starts_with("model."))
                .map(|(n, t)| (n.clone(), t.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(model(&learned) != model(&before.tensors), learns_online, "{name}");
    }
}

#[test]
fn a_trained_artifact_is_a_fit_candidate_for_the_running_spec() {
    let (csv, spec) = (dataset("phishing"), cases().remove(0).spec);
    let scene = Scene::new(&spec, "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\n");
    let artifact = scene.text("a.safetensors");
    let pipeline = scene.text("pipeline.toml");
    scene.call(&["train", "--pipeline", &pipeline, "--input", "datasets/phishing.csv", "--out", &artifact]).good();
    let daemon = scene.start(&[]);
    scene.ctl(&["swap", &artifact]).good();
    let versions = scene.ctl(&["versions", "--json"]).json();
    let report = scene.call(&["inspect", "--json", &artifact]).json();
    assert_eq!(versions["lanes"][0]["current"]["version"], report["version"], "{versions}");
    daemon.stop();
    // A checkpoint of it can be served like any artifact, and stands where it had learned.
    let checkpoint = scene.checkpoints(0).pop().expect("a checkpoint");
    let report = scene.call(&["inspect", "--json", &checkpoint.display().to_string()]).json();
    assert_eq!((&report["kind"], &report["position"]["swap"]), (&"checkpoint".into(), &1.into()), "{report}");
    let read =
        |path: &std::path::Path| Pipeline::from_bytes(&std::fs::read(path).expect("readable")).expect("a pipeline");
    let (mut ours, mut theirs) = (read(&checkpoint), read(&scene.path("a.safetensors")));
    assert!(library::run(&mut ours, Format::Csv, &csv, || 64) == library::run(&mut theirs, Format::Csv, &csv, || 64));
}

#[test]
fn training_twice_gives_the_same_bytes() {
    for Case { name, spec, data, .. } in cases() {
        let scene = Scene::new(&spec, "");
        let (pipeline, input) = (scene.text("pipeline.toml"), format!("datasets/{data}.csv"));
        for out in ["a", "b"] {
            scene.call(&["train", "--pipeline", &pipeline, "--input", &input, "--out", &scene.text(out)]).good();
        }
        assert!(scene.read("a") == scene.read("b"), "{name}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let scene = Scene::new(events::SPEC, "");
    scene.write("in.csv", "id,x1,x2,x3,y\na,1,2,3,\n");
    scene.write("empty.csv", "id,x1,x2,x3,y\n");
    let (pipeline, out) = (scene.text("pipeline.toml"), scene.text("a"));
    for input in ["in.csv", "empty.csv"] {
        let called = scene.call(&["train", "--pipeline", &pipeline, "--input", &scene.text(input), "--out", &out]);
        assert_eq!(called.code, Some(2), "{input}: {}", called.said);
    }
    let absent = scene.text("absent.csv");
    let called = scene.call(&["train", "--pipeline", &pipeline, "--input", &absent, "--out", &out]);
    assert!(matches!(called.code, Some(2 | 4)) && called.said.contains("absent.csv"), "{called:?}");
    assert!(!scene.path("a").exists());
}
