//! The story: the daemon is stopped and started at the worst of moments, and parts of its past are gone.
//!
//! A journal's numbers go on where nothing can be replayed; a checkpoint that outlived its journal is
//! used where nothing is replayed, and where the past would be published again the start is refused;
//! a replay that begins between a swap and its rollback finds every digest; SIGTERM ends a recovery.

mod support;

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;
use support::daemon::{LIMIT, Scene, until};
use support::events::{self, SPEC};

const SOCKET: &str = "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\n\
                      delivery.commit_interval_ms = 2\ncheckpoint.interval_ms = 600_000\n";

const FILE: &str = "source.kind = \"file\"\nsource.format = \"csv\"\nsource.paths = [\"DIR/a.csv\"]\nsink.kind = \"file\"\n\
                    sink.path = \"DIR/out.ndjson\"\ndelivery.commit_interval_ms = 2\nengine.batch_events_max = 64\n";

/// Sends each line on its own and waits for its answer.
fn ask(address: &str, lines: &str) -> Vec<Value> {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("timeout");
    let mut reader = BufReader::new(stream);
    let mut answers = Vec::new();
    for line in lines.lines() {
        reader.get_mut().write_all(format!("{line}\n").as_bytes()).expect("sent");
        let mut answer = String::new();
        reader.read_line(&mut answer).expect("answer");
        answers.push(serde_json::from_str(&answer).expect("JSON"));
    }
    answers
}

fn segments(scene: &Scene) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(scene.path("state/lane-0/journal")).expect("a journal");
    entries.map(|e| e.expect("an entry").path()).collect()
}

/// Waits until all that was answered is committed.
fn committed(daemon: &support::daemon::Daemon, seq: u64) {
    until("the commit", || (daemon.status()["lanes"][0]["committed_seq"] == seq).then_some(()));
}

#[test]
fn journal_numbers_go_on_after_a_crash_that_cannot_be_replayed() {
    let scene = Scene::new(SPEC, SOCKET);
    for part in 1..=3 {
        let daemon = scene.start(&[]);
        ask(&daemon.address(), &events::json(20, part));
        committed(&daemon, part * 20);
        daemon.kill();
    }
    let mut numbers: Vec<u64> = Vec::new();
    for line in String::from_utf8(std::fs::read(&segments(&scene)[0]).expect("a segment")).expect("UTF-8").lines() {
        let record: Value = serde_json::from_str(&line[9..]).expect("a record");
        numbers.push(record["number"].as_u64().expect("a number"));
    }
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

#[test]
fn a_sockets_checkpoint_outlives_the_journal() {
    let scene = Scene::new(SPEC, SOCKET);
    let daemon = scene.start(&[]);
    ask(&daemon.address(), &events::json(200, 1));
    committed(&daemon, 200);
    let begun = segments(&scene).pop().expect("a segment");
    let early = std::fs::read(&begun).expect("bytes");
    let first = early.iter().position(|b| *b == b'\n').expect("a line") + 1;
    scene.ctl(&["checkpoint"]).good();
    let expected = ask(&daemon.address(), &events::json(1, 9))[0]["score"].clone();
    daemon.kill();
    // A power cut: the journal isn't synced for a socket, the checkpoint is.
    for lost in [&early[..first], &[]] {
        std::fs::write(&begun, lost).expect("written");
        let daemon = scene.start(&[]);
        assert_eq!(daemon.status()["lanes"][0]["committed_seq"], 200, "{} bytes are left", lost.len());
        assert_eq!(ask(&daemon.address(), &events::json(1, 9))[0]["score"], expected);
        daemon.kill();
    }
}

#[test]
fn a_lost_journal_is_not_taken_for_a_beginning() {
    let scene = Scene::new(SPEC, FILE);
    scene.write("a.csv", events::csv(500, 1));
    scene.run_to_end(&[]);
    let out = scene.read("out.ndjson");
    for segment in segments(&scene) {
        std::fs::remove_file(segment).expect("removed");
    }
    let (code, said) = scene.spawn(&[]).wait();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("the journal that they belong to is empty"), "{said}");
    assert!(scene.read("out.ndjson") == out, "nothing is published twice");
}

#[test]
fn a_replay_from_between_a_swap_and_its_rollback_is_equal() {
    let config = "source.kind = \"rate\"\nsource.format = \"json\"\nsource.rate = 2_000\nsink.kind = \"none\"\n\
                  checkpoint.interval_ms = 600_000\ncheckpoint.keep_journal = true\n";
    let spec = include_str!("../models/hyperplane.toml");
    let scene = Scene::new(spec, config);
    scene.write("other.toml", format!("{spec}\n# another version\n"));
    let daemon = scene.start(&[]);
    scene.ctl(&["swap", &scene.text("other.toml")]).good();
    let at = scene.ctl(&["checkpoint", "--json"]).json()["lanes"][0]["seq"].to_string();
    scene.ctl(&["rollback"]).good();
    daemon.stop();
    let report = scene.call_with_config("replay", &["--json", "--from", &at]).good();
    assert!(report.contains("\"equal\""), "{report}");
}

#[test]
fn sigterm_ends_a_recovery() {
    let config = "source.kind = \"rate\"\nsource.format = \"json\"\nsink.kind = \"none\"\ncheckpoint.interval_ms = 600_000\n\
                  delivery.commit_interval_ms = 1\n";
    let scene = Scene::new(include_str!("../models/hyperplane.toml"), config);
    let daemon = scene.start(&[]);
    let committed = |daemon: &support::daemon::Daemon| daemon.status()["lanes"][0]["committed_seq"].as_u64();
    // Over a second's worth to replay, on any machine: it took that long to make.
    std::thread::sleep(Duration::from_secs(2));
    let reached = committed(&daemon).expect("a number");
    daemon.kill();
    let daemon = scene.spawn(&[]);
    until("the start", || daemon.said().contains("goes on from").then_some(()));
    std::thread::sleep(Duration::from_millis(50));
    let (code, said) = daemon.terminate();
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("goes on where it stopped"), "the recovery went on: {said}");
    // The whole past is still there.
    let daemon = scene.start(&[]);
    assert!(committed(&daemon).expect("a number") >= reached);
    daemon.stop();
}

#[test]
fn a_file_beside_standard_input_is_not_read_twice() {
    let config = "source.kind = \"file\"\nsource.paths = [\"DIR/a.json\", \"-\"]\nsink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\n";
    let scene = Scene::new(SPEC, config);
    scene.write("a.json", events::json(300, 1));
    scene.run_to_end(&[]);
    let out = scene.read("out.ndjson");
    assert!(!out.is_empty());
    scene.run_to_end(&[]);
    assert!(scene.read("out.ndjson") == out, "{} bytes, then {}", out.len(), scene.length("out.ndjson"));
}

/// A generated stream with a swap in it, and checkpoints only when they are asked for.
const SWAPPED: &str = "source.kind = \"rate\"\nsource.format = \"json\"\nsource.rate = 5_000\nsource.events = 1_000_000\n\
                       sink.kind = \"none\"\ncheckpoint.interval_ms = 600_000\ndelivery.commit_interval_ms = 5\n";

/// Flips a bit of the version that a rollback of the first swap brings back.
fn damage_previous(scene: &Scene) {
    let name = format!("state/lane-0/previous-{:020}.safetensors", 1);
    let mut bytes = scene.read(&name);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    scene.write(&name, bytes);
}

#[test]
fn a_damaged_version_before_is_made_again_or_costs_only_its_rollback() {
    let spec = include_str!("../models/hyperplane.toml");
    let scene = Scene::new(spec, SWAPPED);
    scene.write("other.toml", format!("{spec}\n# another version\n"));
    let daemon = scene.start(&[]);
    scene.ctl(&["checkpoint"]).good();
    scene.ctl(&["swap", &scene.text("other.toml")]).good();
    scene.ctl(&["checkpoint"]).good();
    daemon.kill();
    let before = || scene.ctl(&["versions", "--json"]).json()["lanes"][0]["previous"]["version"].clone();
    let first = &millstream::artifact::content_hash(spec.as_bytes())[..8];
    // The checkpoint before the swap is still there: the version is learned again.
    damage_previous(&scene);
    let daemon = scene.start(&[]);
    assert!(daemon.said().contains("trying an older one"), "{}", daemon.said());
    assert_eq!(before(), first);
    // Only checkpoints behind the swap are left, and a journal that begins behind it: as after many checkpoints.
    (0..3).for_each(|_| _ = scene.ctl(&["checkpoint"]).good());
    daemon.kill();
    damage_previous(&scene);
    let journal = segments(&scene).pop().expect("a segment");
    let text = String::from_utf8(std::fs::read(&journal).expect("bytes")).expect("UTF-8");
    let oldest =
        scene.checkpoints(0)[0].file_stem().expect("a name").to_string_lossy()["checkpoint-".len()..].to_string();
    let oldest: u64 = oldest.parse().expect("a number");
    let kept = text.lines().filter(|line| {
        let record: Value = serde_json::from_str(&line[9..]).expect("a record");
        record["number"].as_u64() >= Some(oldest)
    });
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    std::fs::remove_file(&journal).expect("removed");
    std::fs::write(journal.with_file_name(format!("{oldest:020}.journal")), kept).expect("written");
    let daemon = scene.start(&[]);
    assert!(daemon.said().contains("can't be brought back by a rollback"), "{}", daemon.said());
    assert_eq!(before(), Value::Null);
    scene.ctl(&["rollback"]).refused(2, &["no version before"]);
    let at = daemon.status()["lanes"][0]["committed_seq"].as_u64();
    until("events", || (daemon.status()["lanes"][0]["committed_seq"].as_u64() > at).then_some(()));
    daemon.stop();
    let report = scene.call_with_config("replay", &["--json"]).json();
    assert_eq!(report["digest"], "equal", "{report}");
}
