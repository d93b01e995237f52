//! The story: someone doubts the past. `millstream replay` runs it again without emitting: all of it or a range, of
//! one lane or of each; it finds every digest, or names the first commit that differs. Other versions are run over
//! exactly the events asked for, and the report says where they part and which scores better. Nothing on the disk
//! changes by it, and a damaged checkpoint is no obstacle while an older one is there.

mod support;

use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use support::daemon::Scene;
use support::events::{self, SPEC};
use support::library;

const FILE: &str = "source.kind = \"file\"\nsource.paths = [\"DIR/in.json\"]\nsink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\n\
                    delivery.commit_interval_ms = 1\nengine.batch_events_max = 100\ncheckpoint.interval_ms = 10\n\
                    checkpoint.keep_journal = true\ncheckpoint.keep = 100\n";
const EVENTS: u64 = 60_000;

fn ran() -> Scene {
    let scene = Scene::new(SPEC, FILE);
    scene.run_in_parts("in.json", &events::json(EVENTS, 1), 4);
    scene
}

/// Every file below a folder, but for logs and the lock.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a folder").map(|e| e.expect("an entry").path()) {
        match entry.is_dir() {
            true => found.extend(files(&entry)),
            false => _ = found.insert(entry.display().to_string(), std::fs::read(&entry).expect("a file")),
        }
    }
    found
}

fn number(report: &Value, key: &str) -> u64 {
    report[key].as_u64().unwrap_or_else(|| panic!("{key} in {report}"))
}

#[test]
fn the_past_or_a_range_of_it_is_equal_and_nothing_changes() {
    let scene = ran();
    let before = files(&scene.path(""));
    let whole = scene.call_with_config("replay", &["--json"]).json();
    assert_eq!(
        whole,
        json!({"lane": 0, "from": 0, "to": EVENTS, "events": EVENTS, "digest": "equal", "first_difference": null})
    );
    let mut began_later = false;
    for (from, to) in [(0, 1), (10_000, 20_000), (29_999, 30_000), (59_999, 60_000)] {
        let range = ["--json", "--from", &from.to_string(), "--to", &to.to_string()];
        let report = scene.call_with_config("replay", &range).json();
        assert_eq!(report["digest"], "equal", "{report}");
        // Whole commits: what was asked for is covered, and not everything.
        assert!(number(&report, "from") <= from && number(&report, "to") >= to, "{report}");
        assert!(number(&report, "events") < EVENTS, "{report}");
        began_later |= number(&report, "from") > 0;
    }
    assert!(began_later, "no range began at a checkpoint: {:?}", scene.checkpoints(0));
    let text = scene.call_with_config("replay", &["--from", "100"]).good();
    assert!(text.starts_with("lane 0: events ") && text.contains("digest equal"), "{text}");
    assert!(files(&scene.path("")) == before, "replay has written something");
}

#[test]
fn ranges_that_are_not_there_are_refused() {
    let scene = Scene::new(SPEC, FILE);
    scene.write("in.json", events::json(500, 1));
    scene.call_with_config("replay", &[]).refused(2, &["no past to replay", "state_dir"]);
    assert!(!scene.path("state").exists(), "nothing is begun");
    scene.run_to_end(&[]);
    for (range, named) in [
        (["--from", "500", "--to", "600"], "up to 500"),
        (["--from", "0", "--to", "501"], "--to"),
        (["--from", "5", "--to", "5"], "no event is in between"),
        (["--lane", "1", "--from", "0"], "--lane 1"),
    ] {
        scene.call_with_config("replay", &range).refused(2, &[named]);
    }
    let socket = Scene::new(SPEC, "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\n");
    socket.call_with_config("replay", &[]).refused(2, &["can't be read again"]);
}

#[test]
fn each_lane_or_one() {
    let scene = Scene::new(SPEC, &FILE.replace("in.json", "*.json").replace("keep = 100", "keep = 3\nlanes = 2"));
    for i in 0..6 {
        scene.write(&format!("{i}.json"), events::json(1_000, i));
    }
    scene.run_to_end(&[]);
    let reports = events::lines(scene.call_with_config("replay", &["--json"]).good().as_bytes());
    assert_eq!(reports.iter().map(|r| number(r, "lane")).collect::<Vec<_>>(), [0, 1]);
    assert_eq!(reports.iter().map(|r| number(r, "events")).sum::<u64>(), 6_000);
    let one = scene.call_with_config("replay", &["--json", "--lane", "1"]).json();
    assert_eq!(one, reports[1]);
}

#[test]
fn an_input_that_was_changed_is_found() {
    let scene = ran();
    // Another label in a row: the next score differs.
    let text = String::from_utf8(scene.read("in.json")).expect("UTF-8");
    let at = text.match_indices("\"y\":true").nth(10_000).expect("a labelled row").0;
    let row = text[..at].matches('\n').count() as u64;
    scene.write("in.json", format!("{}null{}", &text[..at + 4], &text[at + 8..]));
    let called = scene.call_with_config("replay", &["--json"]);
    assert_eq!(called.code, Some(3), "{}", called.said);
    let report: Value = serde_json::from_str(&called.out).expect("JSON");
    assert_eq!(report["digest"], "differs", "{report}");
    let first = &report["first_difference"];
    assert!(number(first, "from") <= row && row < number(first, "to"), "row {row}: {report}");
    // Up to there, all is equal; a range behind it, from a checkpoint of what was learned, too.
    let to = number(first, "from").to_string();
    scene.call_with_config("replay", &["--json", "--to", &to]).good();
    let behind = scene.call_with_config("replay", &["--json", "--from", "59000"]).json();
    assert_eq!(behind["digest"], "equal", "{behind}");
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let scene = ran();
    let checkpoints = scene.checkpoints(0);
    assert!(checkpoints.len() > 2, "{checkpoints:?}");
    let from = (EVENTS - 1).to_string();
    let undamaged = scene.call_with_config("replay", &["--json", "--from", &from]).json();
    // The newest at or before that event, and with it the one that begins the usual replay.
    for path in [&checkpoints[checkpoints.len() - 2], &checkpoints[0], &checkpoints[checkpoints.len() - 1]] {
        let mut bytes = std::fs::read(path).expect("a checkpoint");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).expect("written");
    }
    let called = scene.call_with_config("replay", &["--json", "--from", &from]);
    assert!(called.said.contains("trying another checkpoint"), "{}", called.said);
    let report = called.json();
    assert_eq!(report["digest"], "equal", "{report}");
    assert!(number(&report, "from") < number(&undamaged, "from"), "{report}, before: {undamaged}");
    assert_eq!(scene.call_with_config("replay", &["--json"]).json()["events"], EVENTS);
}

#[test]
fn a_past_that_was_trimmed_is_replayed_as_far_as_it_reaches() {
    // Every record speaks of many inputs with long names, so that the journal is trimmed on the way.
    let config = "source.kind = \"file\"\nsource.paths = [\"DIR/in/*.json\"]\nsink.kind = \"none\"\n\
                  engine.commit_events_max = 1\ncheckpoint.interval_ms = 10\n";
    let scene = Scene::new(SPEC, config);
    std::fs::create_dir(scene.path("in")).expect("a folder");
    for i in 0..300 {
        scene.write(&format!("in/{}{i:03}.json", "long-name-".repeat(20)), events::json(5, i));
    }
    scene.run_to_end(&[]);
    assert!(!scene.path(&format!("state/lane-0/journal/{:020}.journal", 0)).exists(), "not trimmed");
    let report = scene.call_with_config("replay", &["--json"]).json();
    assert_eq!(report["digest"], "equal", "{report}");
    assert!(number(&report, "from") > 0 && number(&report, "to") == 1_500, "{report}");
    scene.call_with_config("replay", &["--from", "0"]).refused(2, &["reaches back to event", "keep_journal"]);
    // The oldest is damaged: the reach is less, and it says so.
    let path = scene.checkpoints(0)[0].clone();
    std::fs::write(path, b"").expect("written");
    let called = scene.call_with_config("replay", &["--json"]);
    assert!(called.said.contains("trying another checkpoint"), "{}", called.said);
    assert!(number(&called.json(), "from") > number(&report, "from"));
    for path in scene.checkpoints(0) {
        std::fs::write(path, b"damaged").expect("written");
    }
    scene.call_with_config("replay", &[]).refused(3, &["checkpoint-"]);
}

/// What versions of a spec score over the rows of a range, each learning from its first row on.
fn scored(specs: &[&str], text: &str, from: usize, to: usize) -> Vec<Vec<library::Scored>> {
    let rows: Vec<&str> = text.lines().skip(from).take(to - from).collect();
    let text = rows.join("\n") + "\n";
    let run =
        |spec: &&str| library::run(&mut Pipeline::from_spec_text(spec).expect("a spec"), Format::Json, &text, || 64);
    specs.iter().map(run).collect()
}

#[test]
fn versions_are_compared_over_exactly_the_events_asked_for() {
    let scene = ran();
    let text = String::from_utf8(scene.read("in.json")).expect("UTF-8");
    // They score alike as long as nothing is learned that the step size changes.
    let (slow, fast) = (SPEC.replace("= 0.1 }", "= 0.0001 }"), SPEC.replace("= 0.1 }", "= 0.3 }"));
    scene.write("slow.toml", &slow);
    scene.write("fast.toml", &fast);
    let (a, b) = (scene.text("slow.toml"), scene.text("fast.toml"));
    for (from, to) in [(0, EVENTS), (12_345, 23_456), (7, 9_000)] {
        let range = ["--from", &from.to_string(), "--to", &to.to_string(), "--json"];
        let report = scene.call_with_config("replay", &[&range[..], &["--artifact", &a, &b]].concat()).json();
        assert_eq!((number(&report, "from"), number(&report, "to")), (from, to), "{report}");
        assert_eq!(report["digest"], "equal", "the record itself: {report}");
        let expected = scored(&[&slow, &fast], &text, from as usize, to as usize);
        let differs = expected[0].iter().zip(&expected[1]).position(|(x, y)| x != y).map(|i| i as u64 + from);
        assert_eq!(report["versions"][0]["first_difference"], Value::Null);
        assert_eq!(report["versions"][1]["first_difference"], json!(differs), "{report}");
        assert_eq!(report["better"]["artifact"], b.as_str(), "{report}");
        // The same as `evaluate` over a file of these rows.
        let rows: Vec<&str> = text.lines().skip(from as usize).take((to - from) as usize).collect();
        scene.write("range.ndjson", rows.join("\n") + "\n");
        let input = scene.text("range.ndjson");
        let judged = scene.call(&["evaluate", "--pipeline", &a, &b, "--input", &input, "--json"]).json();
        for i in 0..2 {
            assert_eq!(report["versions"][i]["metrics"], judged["pipelines"][i]["metrics"], "{from} to {to}");
        }
    }
    // The same version twice parts nowhere, and neither is better.
    let report = scene.call_with_config("replay", &["--json", "--artifact", &a, &a]).json();
    assert_eq!((&report["versions"][1]["first_difference"], &report["better"]), (&Value::Null, &Value::Null));
}

#[test]
fn one_version_is_compared_with_what_was_in_force() {
    let scene = ran();
    let spec = scene.text("pipeline.toml");
    // From the beginning, the spec itself does what was done.
    let report = scene.call_with_config("replay", &["--json", "--artifact", &spec]).json();
    assert_eq!(report["versions"][0]["artifact"], "as recorded");
    assert_eq!(report["versions"][1]["first_difference"], Value::Null, "{report}");
    assert_eq!(report["versions"][0]["metrics"], report["versions"][1]["metrics"]);
    // In the middle, what was in force has learned before, and is better.
    let range = ["--json", "--from", "40000", "--to", "41000", "--artifact", &spec];
    let report = scene.call_with_config("replay", &range).json();
    assert_eq!(report["versions"][1]["first_difference"], 40_000, "{report}");
    assert_eq!(report["better"]["artifact"], "as recorded", "{report}");
    let text = scene.call_with_config("replay", &["--from", "40000", "--artifact", &spec]).good();
    assert!(
        text.contains("differs from event 40000 on") && text.contains("as recorded is better by accuracy"),
        "{text}"
    );
    // Another schema doesn't fit.
    scene.write("other.toml", SPEC.replace("x1 = \"float\"", "x9 = \"float\""));
    let other = scene.text("other.toml");
    scene.call_with_config("replay", &["--artifact", &other]).refused(2, &["other.toml", "does not fit"]);
}
