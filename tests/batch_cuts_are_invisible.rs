//! The story: micro-batching is an implementation detail.
//!
//! The same events give the same predictions to the byte, the same digest and the same tensors, whatever
//! the batch size, the number of threads and the times of commits and checkpoints; for every kind of
//! model that learns, those that learn in units of several events included. And whatever the cuts:
//! random ones, by the library; and random ways to run the daemon, ended and started again on the way.
//!
//! `PROPTEST_CASES=N` tries more of them.

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
        // A table so large that rows are made ready ahead, and checkpoints go past the system's cache.
        ("hashed-far-ftrl", hashed.replace("bits = 10", "bits = 19"), events::csv(3_000, 2)),
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

/// So many cases, or as many as `PROPTEST_CASES` says.
fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// How one run of the daemon is configured, and where it ends: never, or at a share of the output, by which signal.
#[derive(Debug, Clone)]
struct Stretch {
    batch: u32,
    threads: u32,
    commit_ms: u32,
    commit_events: u32,
    checkpoint_ms: u32,
    keep: u32,
    ends_at: f64,
    kill: bool,
}

fn stretch() -> impl Strategy<Value = Stretch> {
    let sizes = (1u32..1_500, 1u32..=8, 1u32..60, 1u32..4_000, 10u32..200, 1u32..4);
    (sizes, 0.0..1.0, any::<bool>()).prop_map(|(sizes, ends_at, kill)| {
        let (batch, threads, commit_ms, commit_events, checkpoint_ms, keep) = sizes;
        Stretch { batch, threads, commit_ms, commit_events, checkpoint_ms, keep, ends_at, kill }
    })
}

impl Stretch {
    fn sets(&self, scene: &Scene, lanes: u32, name: &str) -> Vec<String> {
        [
            format!("lanes={lanes}"),
            format!("state_dir={}", scene.text(&format!("{name}-state"))),
            format!("sink.path={}", scene.text(&format!("{name}.ndjson"))),
            format!("engine.batch_events_max={}", self.batch),
            format!("engine.threads={}", self.threads),
            format!("engine.commit_events_max={}", self.commit_events),
            format!("delivery.commit_interval_ms={}", self.commit_ms),
            format!("checkpoint.interval_ms={}", self.checkpoint_ms),
            format!("checkpoint.keep={}", self.keep),
        ]
        .into_iter()
        .flat_map(|set| ["--set".to_string(), set])
        .collect()
    }
}

/// A lane's output, digest, number of events and tensors.
type Left = (Vec<u8>, String, u64, millstream::state::State);

fn left_by(scene: &Scene, lanes: u32, name: &str) -> Vec<Left> {
    let of_lane = |lane: u32| {
        let out = if lanes == 1 { format!("{name}.ndjson") } else { format!("{name}.lane-{lane}.ndjson") };
        let entries = std::fs::read_dir(scene.path(&format!("{name}-state/lane-{lane}"))).expect("a lane");
        let files = entries.map(|e| e.expect("an entry").path());
        let newest = files.filter(|p| p.to_string_lossy().contains("/checkpoint-")).max().expect("a checkpoint");
        let bytes = std::fs::read(newest).expect("readable");
        let (manifest, state) = millstream::artifact::decode(&bytes).expect("a checkpoint");
        let position = &manifest["position"];
        let digest = position["digest"].as_str().expect("a digest").to_string();
        (scene.read(&out), digest, position["seq"].as_u64().expect("a number"), state)
    };
    (0..lanes).map(of_lane).collect()
}

fn texts(sets: &[String]) -> Vec<&str> {
    sets.iter().map(String::as_str).collect()
}

/// Rows dealt out to so many files, each with the header.
fn dealt(csv: &str, files: usize) -> Vec<String> {
    let (header, rows) = csv.split_once('\n').expect("a header");
    let mut dealt = vec![format!("{header}\n"); files];
    for (i, row) in rows.lines().enumerate() {
        dealt[i % files] += &format!("{row}\n");
    }
    dealt
}

proptest! {
    #![proptest_config(config(5))]

    #[test]
    fn random_ways_to_run_with_restarts_give_the_same_bytes(
        case in 0usize..7, lanes in 1u32..=3, stretches in prop::collection::vec(stretch(), 1..5)
    ) {
        let (name, spec, csv) = cases().swap_remove(case);
        let scene = Scene::new(
            &spec,
            "source.kind = \"file\"\nsource.format = \"csv\"\nsource.paths = [\"DIR/*.csv\"]\nsink.kind = \"file\"\n",
        );
        for (i, text) in dealt(&csv.repeat_rows(2), 8).into_iter().enumerate() {
            scene.write(&format!("{i}.csv"), text);
        }
        let calm = Stretch {
            batch: 1_000, threads: 1, commit_ms: 100, commit_events: 1_000_000, checkpoint_ms: 60_000, keep: 3,
            ends_at: 1.0, kill: false,
        };
        let arguments = |way: &Stretch, run: &str| way.sets(&scene, lanes, run);
        let run_to_end = |sets: &[String]| scene.run_to_end(&texts(sets));
        run_to_end(&arguments(&calm, "calm"));
        let expected = left_by(&scene, lanes, "calm");
        let written = |run: &str| (0..lanes).map(|lane| {
            let lane = if lanes == 1 { String::new() } else { format!(".lane-{lane}") };
            scene.length(&format!("{run}{lane}.ndjson"))
        }).sum::<u64>();
        let whole = written("calm");
        for way in &stretches {
            let sets = arguments(way, "wild");
            let mut daemon = scene.spawn(&texts(&sets));
            let reach = (whole as f64 * way.ends_at) as u64;
            support::daemon::until("output", || (written("wild") > reach || !daemon.runs()).then_some(()));
            if daemon.runs() && !way.kill {
                daemon.terminate();
            } else if daemon.runs() {
                daemon.kill();
            }
        }
        run_to_end(&arguments(stretches.last().expect("one at least"), "wild"));
        for (lane, (found, expected)) in left_by(&scene, lanes, "wild").iter().zip(&expected).enumerate() {
            prop_assert!(found.0 == expected.0, "{}: lane {}: predictions differ: {:?}", name, lane, stretches);
            prop_assert_eq!((&found.1, found.2), (&expected.1, expected.2), "{}: lane {}", name, lane);
            prop_assert!(found.3 == expected.3, "{}: lane {}: tensors differ: {:?}", name, lane, stretches);
        }
    }
}

proptest! {
    #![proptest_config(config(12))]

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
