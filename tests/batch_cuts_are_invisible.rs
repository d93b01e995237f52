//! The story: micro-batching is an implementation detail.
//!
//! The same events give the same predictions to the byte, the same digest and the same tensors, whatever
//! the batch size, the number of threads and the times of commits and checkpoints; for every kind of
//! model that learns, those that learn in units of several events included. And whatever the cuts:
//! random ones, by the library.

mod support;

use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use proptest::prelude::*;
use support::daemon::Scene;
use support::{events, library};

const CLASSES: &str = "[schema]\nlabel = \"species\"\n[schema.fields]\nsepal_length = \"float\"\nsepal_width = \"float\"\n\
                       petal_length = \"float\"\npetal_width = \"float\"\nspecies = \"category\"\n";

/// A name, a spec, and CSV to learn from, for each kind of model that learns.
fn cases() -> Vec<(&'static str, String, String)> {
    let dataset = |name: &str| {
        std::fs::read_to_string(format!("{}/datasets/{name}.csv", env!("CARGO_MANIFEST_DIR"))).expect("a data set")
    };
    let iris = |steps: &str, model: &str| format!("name = \"iris\"\n{CLASSES}{steps}[model]\n{model}\n");
    let scale = "[[steps]]\nkind = \"standard-scale\"\n";
    let hashed = "name = \"hashed\"\n[schema]\nlabel = \"y\"\n[schema.fields]\nid = \"category\"\nx1 = \"float\"\nx2 = \"float\"\n\
                  x3 = \"float\"\ny = \"bool\"\n[[steps]]\nkind = \"hash\"\nbits = 10\n[[steps]]\nkind = \"standard-scale\"\n\
                  [model]\nkind = \"logistic-regression\"\noptimizer = { kind = \"ftrl\", alpha = 0.1, l1 = 0.01 }\n";
    let no_label = CLASSES.replace("label = \"species\"\n", "").replace("species = \"category\"\n", "");
    vec![
        ("logistic-adagrad", events::SPEC.to_string(), events::csv(3_000, 1)),
        ("softmax", iris(scale, "kind = \"softmax-regression\"\noptimizer = \"adam\""), dataset("iris").repeat_rows(8)),
        (
            "network",
            iris(scale, "kind = \"multilayer-perceptron\"\nlayers = [8]\nunit_events = 16\noptimizer = \"adam\""),
            dataset("iris").repeat_rows(8),
        ),
        (
            "k-means",
            format!("name = \"k\"\n{no_label}[model]\nkind = \"k-means\"\nn_clusters = 3\n"),
            dataset("iris").repeat_rows(8),
        ),
        ("naive-bayes", iris("", "kind = \"gaussian-naive-bayes\""), dataset("iris").repeat_rows(8)),
        ("hashed-ftrl", hashed.to_string(), events::csv(3_000, 2)),
        (
            "perceptron",
            events::SPEC.replace(
                "logistic-regression\"\noptimizer = { kind = \"adagrad\", learning_rate = 0.1 }\nl2 = 0.001",
                "perceptron\"",
            ),
            events::csv(2_000, 3),
        ),
    ]
}

trait RepeatRows {
    /// The rows behind the header, several times over.
    fn repeat_rows(&self, times: usize) -> String;
}

impl RepeatRows for String {
    fn repeat_rows(&self, times: usize) -> String {
        let (header, rows) = self.split_once('\n').expect("a header");
        format!("{header}\n{}", rows.repeat(times))
    }
}

/// (batch, threads, commit interval in ms, events in a commit, checkpoint interval in ms)
const WAYS: [(u32, u32, u32, u32, u32); 5] = [
    (1_000, 2, 100, 1_000_000, 10_000),
    (1, 1, 1, 1, 10),
    (7, 2, 1, 100, 10),
    (1_000, 1, 1, 500, 10_000),
    (7, 1, 60_000, 1_000_000, 60_000),
];

#[test]
fn the_daemon_gives_the_same_bytes_digest_and_tensors() {
    for (name, spec, csv) in cases() {
        let scene = Scene::new(
            &spec,
            "source.kind = \"file\"\nsource.format = \"csv\"\nsource.paths = [\"DIR/in.csv\"]\nsink.kind = \"file\"\nsink.path = \"DIR/out\"\n",
        );
        scene.write("in.csv", csv);
        let mut first = None;
        for (i, (batch, threads, commit, commit_events, checkpoint)) in WAYS.into_iter().enumerate() {
            let sets = [
                format!("engine.batch_events_max={batch}"),
                format!("engine.threads={threads}"),
                format!("delivery.commit_interval_ms={commit}"),
                format!("engine.commit_events_max={commit_events}"),
                format!("checkpoint.interval_ms={checkpoint}"),
                format!("sink.path={}", scene.text(&format!("out-{i}"))),
            ];
            let mut arguments: Vec<&str> = sets.iter().flat_map(|set| ["--set", set.as_str()]).collect();
            arguments.push("--new-lineage");
            scene.run_to_end(&arguments);
            let out = scene.read(&format!("out-{i}"));
            assert!(out.len() > 10_000, "{name}");
            let (_, state) = scene.newest_checkpoint(0);
            assert!(state.tensors.keys().any(|t| t.starts_with("model.")), "{name}");
            let found = (scene.digest(0), state);
            match &first {
                None => first = Some((out, found)),
                Some((bytes, expected)) => {
                    assert!(*bytes == out, "{name}: predictions differ at {:?}", WAYS[i]);
                    assert_eq!(*expected, found, "{name}: {:?}", WAYS[i]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_cuts_give_the_same_scores_and_state(cuts in prop::collection::vec(1usize..90, 1..20)) {
        for (name, spec, csv) in cases() {
            // The first 700 rows.
            let end = csv.match_indices('\n').nth(700).map_or(csv.len(), |(i, _)| i + 1);
            let make = || Pipeline::from_spec_text(&spec).expect("a spec");
            let (mut whole, mut cut) = (make(), make());
            let expected = library::run(&mut whole, Format::Csv, &csv[..end], || 10_000);
            let mut sizes = cuts.iter().cycle();
            let found = library::run(&mut cut, Format::Csv, &csv[..end], || *sizes.next().expect("endless"));
            prop_assert_eq!(expected.len(), found.len());
            prop_assert!(expected == found, "{}: scores differ", name);
            prop_assert_eq!(library::learned(&mut whole), library::learned(&mut cut), "{}", name);
            prop_assert_eq!(whole.learned(), cut.learned());
        }
    }
}
