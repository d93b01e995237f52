//! The story: a daemon scores files into a file and dies at any moment, again and again (kill -9).
//!
//! What an undisturbed run writes is the oracle. However often the daemon died on the way, the output,
//! the dead letters and the digest of the final checkpoint are the same to the byte, and the journal
//! replays without a difference. With one file and several, JSON and CSV, an output that rotates, files
//! that grow while they are read, and two lanes.

mod support;

use support::daemon::{Scene, until};
use support::events::{self, Random, SPEC};

/// Commits and checkpoints as often as the config allows, so that a kill hits every phase.
const BUSY: &str = "delivery.commit_interval_ms = 2\ncheckpoint.interval_ms = 15\nengine.batch_events_max = 256\n\
                    sink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\nsink.dead_letters = \"DIR/dead.ndjson\"\n";

/// Everything that a lane left behind, in the order of its files.
fn outputs(scene: &Scene, names: &[&str]) -> Vec<u8> {
    names.iter().flat_map(|name| scene.read(name)).collect()
}

/// Runs to the end with `kills` deaths on the way, each at a random length of the output.
fn run_with_deaths(scene: &Scene, watched: &str, oracle_bytes: u64, kills: u64, random: &mut Random) {
    let mut died = 0;
    for i in 0..kills {
        let reach = oracle_bytes * i / kills + random.below(oracle_bytes / kills);
        let mut daemon = scene.spawn(&[]);
        until("progress", || (scene.length(watched) > reach || !daemon.runs()).then_some(()));
        if daemon.runs() {
            died += 1;
            daemon.kill();
        }
    }
    assert!(died >= kills / 2, "only {died} of {kills} kills came in time");
    scene.run_to_end(&[]);
}

/// The replay of the whole journal finds every digest again.
fn assert_replays(scene: &Scene, lanes: usize) {
    let report = scene.call_with_config("replay", &["--json"]).good();
    let lines = events::lines(report.as_bytes());
    assert_eq!(lines.len(), lanes, "{report}");
    for line in &lines {
        assert_eq!(line["digest"], "equal", "{report}");
    }
}

/// Each file of `inputs`, through an undisturbed run and one with deaths.
fn compare(inputs: &[(&str, String)], config: &str, out: &[&str], lanes: u32, seed: u64) {
    let config = format!("{BUSY}{config}");
    let (oracle, victim) = (Scene::new(SPEC, &config), Scene::new(SPEC, &config));
    for (name, text) in inputs {
        oracle.write(name, text);
        victim.write(name, text);
    }
    oracle.run_to_end(&[]);
    let watched = out[0];
    run_with_deaths(&victim, watched, oracle.length(watched), 6, &mut Random(seed));
    // Inputs are named by their paths; only the folder's name may differ.
    let names = |scene: &Scene, bytes: Vec<u8>| {
        String::from_utf8(bytes).expect("UTF-8").replace(&scene.path("").display().to_string(), "/")
    };
    for name in out {
        let (expected, found) = (names(&oracle, outputs(&oracle, &[name])), names(&victim, outputs(&victim, &[name])));
        assert!(!expected.is_empty(), "{name} is empty");
        assert!(expected == found, "{name}: {} bytes, expected {}", found.len(), expected.len());
    }
    for lane in 0..lanes {
        assert_eq!(victim.digest(lane), oracle.digest(lane), "lane {lane}");
    }
    assert_replays(&victim, lanes as usize);
}

#[test]
fn a_csv_file() {
    let config = "source.kind = \"file\"\nsource.format = \"csv\"\nsource.paths = [\"DIR/a.csv\"]\n";
    compare(&[("a.csv", events::csv(60_000, 1))], config, &["out.ndjson", "dead.ndjson"], 1, 11);
}

#[test]
fn two_json_files_one_after_the_other() {
    let config = "source.kind = \"file\"\nsource.paths = [\"DIR/*.json\"]\ncheckpoint.keep_journal = true\n";
    let files = [("a.json", events::json(30_000, 2)), ("b.json", events::json(30_000, 3))];
    compare(&files, config, &["out.ndjson", "dead.ndjson"], 1, 12);
}

#[test]
fn one_thread_and_several_do_the_same() {
    let config = "source.kind = \"file\"\nsource.paths = [\"DIR/a.json\"]\nengine.threads = 1\n";
    compare(&[("a.json", events::json(40_000, 4))], config, &["out.ndjson", "dead.ndjson"], 1, 13);
}

#[test]
fn two_lanes_with_an_output_each() {
    let config = "source.kind = \"file\"\nsource.paths = [\"DIR/*.json\"]\nlanes = 2\n";
    // Which lane a file belongs to depends on its path, and that on the folder: each lane's own past is
    // compared by its replay, and the sum by its length.
    let scene = Scene::new(SPEC, &format!("{BUSY}{config}"));
    for i in 0..6 {
        scene.write(&format!("{i}.json"), events::json(8_000, 20 + i));
    }
    let sink = |name: &str| format!("sink.path={}", scene.text(name));
    let oracle_dir = scene.text("oracle-state");
    let state = format!("state_dir={oracle_dir}");
    let dead = format!("sink.dead_letters={}", scene.text("oracle-dead.ndjson"));
    scene.run_to_end(&["--set", &sink("oracle.ndjson"), "--set", &state, "--set", &dead]);
    let lane = |name: &str, lane: u32| scene.read(&format!("{name}.lane-{lane}.ndjson"));
    let total = (lane("oracle", 0).len() + lane("oracle", 1).len()) as u64;
    let busier = if lane("oracle", 0).len() > lane("oracle", 1).len() { 0 } else { 1 };
    let watched = format!("out.lane-{busier}.ndjson");
    run_with_deaths(&scene, &watched, lane("oracle", busier).len() as u64, 4, &mut Random(14));
    for n in 0..2 {
        assert!(lane("out", n) == lane("oracle", n), "lane {n} differs");
        assert!(lane("dead", n) == lane("oracle-dead", n), "dead letters of lane {n} differ");
    }
    let events: usize =
        (0..2).map(|n| lane("out", n).iter().chain(&lane("dead", n)).filter(|b| **b == b'\n').count()).sum();
    assert_eq!(events, 48_000, "of {total} bytes");
    assert_replays(&scene, 2);
}

#[test]
fn an_output_that_rotates() {
    let config = "source.kind = \"file\"\nsource.paths = [\"DIR/a.json\"]\nsink.rotate_bytes = 300_000\n";
    let config = format!("{BUSY}{config}");
    let (oracle, victim) = (Scene::new(SPEC, &config), Scene::new(SPEC, &config));
    for scene in [&oracle, &victim] {
        scene.write("a.json", events::json(30_000, 5));
    }
    oracle.run_to_end(&[]);
    let files = |scene: &Scene| {
        let mut text = scene.read("out.ndjson");
        let mut number = 1;
        while scene.path(&format!("out.ndjson.{number}")).exists() {
            text.extend(scene.read(&format!("out.ndjson.{number}")));
            number += 1;
        }
        (String::from_utf8(text).expect("UTF-8").replace(&scene.path("").display().to_string(), "/"), number)
    };
    let (expected, count) = files(&oracle);
    assert!(count > 5, "{count} files");
    let mut random = Random(15);
    for i in 0..5u64 {
        let mut daemon = victim.spawn(&[]);
        let number = 1 + i * (count - 2) / 5 + random.below(2);
        until("a rotation", || (victim.path(&format!("out.ndjson.{number}")).exists() || !daemon.runs()).then_some(()));
        if daemon.runs() {
            daemon.kill();
        }
    }
    victim.run_to_end(&[]);
    // Where files end follows the batches, which a death cuts anew; their contents do not.
    assert!(files(&victim).0 == expected, "{} files, {count} in the oracle", files(&victim).1);
}

#[test]
fn files_that_grow_while_they_are_followed() {
    let config = format!("{BUSY}source.kind = \"file\"\nsource.follow = true\nsource.paths = [\"DIR/in/*.json\"]\n");
    let scene = Scene::new(SPEC, &config);
    std::fs::create_dir(scene.path("in")).expect("a folder");
    let texts = [events::json(6_000, 6), events::json(6_000, 7)];
    let mut random = Random(16);
    let (mut sent, mut daemon) = ([0, 0], Some(scene.spawn(&[])));
    while sent != [texts[0].len(), texts[1].len()] {
        let file = random.below(2) as usize;
        // Ends anywhere, mostly inside a line.
        let end = (sent[file] + random.below(60_000) as usize).min(texts[file].len());
        let path = scene.path(&format!("in/{file}.json"));
        let mut out = std::fs::OpenOptions::new().append(true).create(true).open(path).expect("an input");
        std::io::Write::write_all(&mut out, &texts[file].as_bytes()[sent[file]..end]).expect("written");
        sent[file] = end;
        std::thread::sleep(std::time::Duration::from_millis(random.below(40)));
        if random.below(4) == 0 {
            drop(daemon.take());
            daemon = Some(scene.spawn(&[]));
        }
    }
    let mut daemon = daemon.take().unwrap_or_else(|| scene.spawn(&[]));
    daemon.ready();
    until("the last event", || {
        let status = daemon.status();
        (status["lanes"][0]["committed_seq"] == 12_000).then_some(())
    });
    daemon.stop();
    // Each file's events are there once, in its order; seq counts all of them.
    let (answers, dead) = (events::lines(&scene.read("out.ndjson")), events::lines(&scene.read("dead.ndjson")));
    assert_eq!(answers.len() + dead.len(), 12_000);
    for file in 0..2 {
        let name = scene.text(&format!("in/{file}.json"));
        let mut offsets: Vec<u64> = answers
            .iter()
            .filter(|a| a["input"] == name.as_str())
            .map(|a| a["offset"].as_u64().expect("offset"))
            .collect();
        assert!(offsets.is_sorted());
        offsets.extend(
            dead.iter()
                .map(|d| &d["error"])
                .filter(|d| d["input"] == name.as_str())
                .map(|d| d["offset"].as_u64().expect("offset")),
        );
        offsets.sort_unstable();
        assert!(offsets.iter().copied().eq(0..6_000), "{name}");
    }
    assert!(answers.iter().map(|a| a["seq"].as_u64().expect("seq")).is_sorted());
    assert_replays(&scene, 1);
}
