//! The story: a better model is put in force while clients send events without a pause, and taken back.
//!
//! Every event is answered once, in order; the versions change at one event; a prediction names the
//! version that made it. A rollback brings back the state as learned. A candidate that is not fit is
//! refused with its reason, and scores go on to the bit as if it had never been sent. A swap survives
//! kill -9: after recovery the version changes at the very same event.

mod support;

use millstream::admin::CtlAction;
use millstream::artifact;
use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use millstream::state::Data;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use support::daemon::{Scene, until};
use support::events::{self, SPEC};
use support::library;

const SOCKET: &str = "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\n";

/// The spec, learning faster: another version that reads the same events.
fn faster() -> String {
    SPEC.replace("learning_rate = 0.1", "learning_rate = 0.5")
}

/// Sends line after line and reads each answer, on a connection of its own.
struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    fn connect(address: &str) -> Client {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(support::daemon::LIMIT)).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        Client { reader: BufReader::new(stream) }
    }
    fn ask(&mut self, lines: &str) -> Vec<Value> {
        self.reader.get_mut().write_all(lines.as_bytes()).expect("sent");
        let count = lines.lines().count();
        (0..count)
            .map(|_| {
                let mut line = String::new();
                self.reader.read_line(&mut line).expect("answer");
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
            })
            .collect()
    }
}

/// A client that sends batches of 50 events until it is told to stop; returns all answers.
fn load(address: String, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Vec<Value>> {
    std::thread::spawn(move || {
        let (mut client, mut answers, mut seed) = (Client::connect(&address), Vec::new(), 100);
        while !stop.load(Relaxed) {
            seed += 1;
            answers.extend(client.ask(&events::json(50, seed)));
        }
        answers
    })
}

fn curl(socket: &str, arguments: &[&str]) -> Option<Value> {
    let output = Command::new("curl").args(["-s", "--unix-socket", socket]).args(arguments).output().ok()?;
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[test]
fn under_load_every_event_is_answered_once_and_in_order() {
    let scene = Scene::new(SPEC, SOCKET);
    scene.write("faster.toml", faster());
    let mut daemon = scene.start(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let client = load(daemon.address(), stop.clone());
    let events = || daemon.status()["lanes"][0]["events"].as_u64().expect("events");
    let wait = |more: u64| {
        let reach = events() + more;
        until("more events", || (events() >= reach).then_some(()));
    };
    wait(500);
    let swapped = scene.ctl(&["swap", &scene.text("faster.toml"), "--json"]).json();
    wait(500);
    let rolled = scene.ctl(&["rollback", "--json"]).json();
    wait(500);
    let body = format!("@{}", scene.text("faster.toml"));
    let arguments = ["-X", "POST", "--data-binary", &body, "http://localhost/v1/swap"];
    let by_curl = curl(&scene.text("admin.sock"), &arguments);
    let again = match by_curl {
        Some(answer) => answer,
        None => scene.ctl(&["swap", &scene.text("faster.toml"), "--json"]).json(),
    };
    wait(500);
    let versions = daemon.ask(&CtlAction::Versions).expect("versions");
    assert_eq!(versions["lanes"][0]["current"]["swap"], 3, "{versions}");
    stop.store(true, Relaxed);
    let answers = client.join().expect("client");
    assert!(daemon.runs());
    daemon.stop();
    let first = artifact::content_hash(SPEC.as_bytes())[..8].to_string();
    let second = artifact::content_hash(faster().as_bytes())[..8].to_string();
    assert_eq!(swapped["version"], second.as_str(), "{swapped}");
    let at: Vec<u64> = [swapped, rolled, again].iter().map(|a| a["lanes"][0]["seq"].as_u64().expect("seq")).collect();
    assert!(at.is_sorted() && at[0] >= 500, "{at:?}");
    for (seq, answer) in answers.iter().enumerate() {
        if answer.get("error").is_some() {
            assert_eq!(answer["error"]["offset"], seq, "{answer}");
            continue;
        }
        let swap = at.iter().filter(|s| **s <= seq as u64).count();
        let version = if swap % 2 == 0 { &first } else { &second };
        assert_eq!((&answer["seq"], &answer["offset"]), (&json!(seq), &json!(seq)), "{answer}");
        assert_eq!((&answer["version"], &answer["swap"]), (&json!(version), &json!(swap)), "{answer}");
    }
}

/// What each event scores, and nothing that names a connection or a version.
fn scores(answers: &[Value]) -> Vec<Value> {
    answers.iter().map(|a| json!([a["score"], a["error"]["reason"]])).collect()
}

#[test]
fn a_rollback_brings_the_state_back_as_learned_and_survives_a_restart() {
    let (undisturbed, scene) = (Scene::new(SPEC, SOCKET), Scene::new(SPEC, SOCKET));
    scene.write("faster.toml", faster());
    let (before, between, after) = (events::json(300, 1), events::json(200, 2), events::json(300, 3));
    let daemon = undisturbed.start(&[]);
    let mut client = Client::connect(&daemon.address());
    client.ask(&before);
    let expected = scores(&client.ask(&after));
    daemon.stop();

    let daemon = scene.start(&[]);
    let mut client = Client::connect(&daemon.address());
    client.ask(&before);
    scene.ctl(&["swap", &scene.text("faster.toml")]).good();
    client.ask(&between);
    drop(client);
    daemon.stop();
    // What a rollback brings back is remembered over the restart.
    let daemon = scene.start(&[]);
    let versions = scene.ctl(&["versions", "--json"]).json();
    let first = &artifact::content_hash(SPEC.as_bytes())[..8];
    assert_eq!(versions["lanes"][0]["previous"]["version"], first, "{versions}");
    let rolled = scene.ctl(&["rollback", "--json"]).json();
    assert_eq!(rolled["lanes"][0]["seq"], 500);
    let mut client = Client::connect(&daemon.address());
    let answers = client.ask(&after);
    assert_eq!(scores(&answers), expected);
    let scored = answers.iter().find(|a| a.get("score").is_some()).expect("a score");
    assert_eq!((&scored["version"], &scored["swap"]), (&json!(first), &json!(2)));
    // A second rollback is a swap back to the candidate, as it had learned.
    scene.ctl(&["rollback"]).good();
    let answers = client.ask(&events::json(10, 4));
    assert!(answers.iter().filter(|a| a.get("swap").is_some()).all(|a| a["swap"] == 3), "{answers:?}");
    drop(client);
    daemon.stop();
}

/// A trained artifact of the running pipeline's kind.
fn trained() -> Vec<u8> {
    let mut pipeline = Pipeline::from_spec_text(SPEC).expect("a spec");
    library::run(&mut pipeline, Format::Json, &events::json(200, 9), || 64);
    pipeline.to_artifact(json!({"from": "the scenario"}))
}

#[test]
fn a_socket_lane_that_dies_right_after_a_swap_can_still_go_back() {
    let (undisturbed, scene) = (Scene::new(SPEC, SOCKET), Scene::new(SPEC, SOCKET));
    scene.write("faster.toml", faster());
    let (before, between, after) = (events::json(300, 1), events::json(100, 2), events::json(200, 3));
    let daemon = undisturbed.start(&[]);
    let mut client = Client::connect(&daemon.address());
    client.ask(&before);
    let expected = scores(&client.ask(&after));
    drop(client);
    daemon.stop();

    let (first, second) = (artifact::content_hash(SPEC.as_bytes()), artifact::content_hash(faster().as_bytes()));
    // Dies with the candidate in force, and no checkpoint since.
    let daemon = scene.start(&[]);
    Client::connect(&daemon.address()).ask(&before);
    scene.ctl(&["swap", &scene.text("faster.toml")]).good();
    let kept = scene.path(&format!("state/lane-0/previous-{:020}.safetensors", 1));
    until("the version before on the disk", || kept.exists().then_some(()));
    daemon.kill();
    let daemon = scene.start(&[]);
    let lane = scene.ctl(&["versions", "--json"]).json()["lanes"][0].clone();
    assert_eq!((&lane["current"]["version"], &lane["current"]["swap"]), (&json!(second[..8]), &json!(1)), "{lane}");
    assert_eq!(lane["previous"]["version"], first[..8], "{lane}");
    // Dies after the rollback, with the checkpoint of the candidate as the newest.
    Client::connect(&daemon.address()).ask(&between);
    scene.ctl(&["checkpoint"]).good();
    scene.ctl(&["rollback"]).good();
    daemon.kill();
    let daemon = scene.start(&[]);
    let mut client = Client::connect(&daemon.address());
    let answers = client.ask(&after);
    let scored = answers.iter().find(|a| a.get("score").is_some()).expect("a score");
    assert_eq!((&scored["version"], &scored["swap"]), (&json!(first[..8]), &json!(2)));
    assert_eq!(scores(&answers), expected, "with all that it had learned before it was swapped out");
    drop(client);
    daemon.stop();
}

/// The artifact with its manifest and tensors changed, and a checksum that is right again.
fn changed(bytes: &[u8], change: impl FnOnce(&mut Value, &mut millstream::state::State)) -> Vec<u8> {
    let (mut manifest, mut state) = artifact::decode(bytes).expect("an artifact");
    change(&mut manifest, &mut state);
    artifact::encode(&manifest, &state)
}

fn first_weight(state: &mut millstream::state::State, value: f64) {
    match &mut state.tensors.get_mut("model.weights").expect("weights").data {
        Data::F64(weights) => weights[0] = value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn candidates_that_are_not_fit_are_refused_and_nothing_changes() {
    let good = trained();
    let mut flipped = good.clone();
    *flipped.last_mut().expect("bytes") ^= 1;
    let other_version = {
        // The format's number stands in the header; the checksum is made right again.
        let mut bytes = good.clone();
        let place = memchr::memmem::find(&bytes, b"millstream/1").expect("the format");
        bytes[place + 11] = b'9';
        let place = memchr::memmem::find(&bytes, b"\"checksum\":\"").expect("the checksum") + 12;
        bytes[place..place + 16].copy_from_slice(b"0000000000000000");
        let sum = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes));
        bytes[place..place + 16].copy_from_slice(sum.as_bytes());
        bytes
    };
    let missing_tensor = changed(&good, |_, state| {
        state.tensors.remove("model.weights");
    });
    let bad: Vec<(&str, Vec<u8>, &str)> = vec![
        ("flipped", flipped, "checksum"),
        ("cut", good[..good.len() - 9].to_vec(), "checksum"),
        ("short", good[..5].to_vec(), "neither an artifact"),
        ("schema", SPEC.replace("x1 = \"float\"", "x9 = \"float\"").into_bytes(), "\"x9\""),
        ("golden", changed(&good, |m, _| m["golden"][0]["scores"][0] = json!(0.123)), "golden row 0"),
        ("weight", changed(&good, |_, s| first_weight(s, 0.123)), "golden row"),
        (
            "infinite",
            changed(&good, |_, s| first_weight(s, f64::INFINITY)),
            "\"model.weights\": element 0 is not finite",
        ),
        ("format", other_version, "millstream/9"),
        ("tensor", missing_tensor, "model.weights"),
        ("spec", SPEC.replace("logistic-regression", "logistic-regresion").into_bytes(), "logistic-regresion"),
        ("noise", vec![0xFF; 400], "neither an artifact"),
        ("empty", Vec::new(), "empty"),
    ];
    let (undisturbed, scene) = (Scene::new(SPEC, SOCKET), Scene::new(SPEC, SOCKET));
    let (quiet, daemon) = (undisturbed.start(&[]), scene.start(&[]));
    let (mut expected, mut client) = (Client::connect(&quiet.address()), Client::connect(&daemon.address()));
    for (i, (name, bytes, reason)) in bad.iter().enumerate() {
        let more = events::json(40, 50 + i as u64);
        assert_eq!(scores(&client.ask(&more)), scores(&expected.ask(&more)), "before {name}");
        scene.write(name, bytes);
        let said = scene.ctl(&["swap", &scene.text(name)]).refused(2, &[reason]);
        assert!(said.starts_with("millstream: swap: "), "{said}");
    }
    let answers = client.ask(&events::json(40, 99));
    assert_eq!(scores(&answers), scores(&expected.ask(&events::json(40, 99))));
    assert!(answers.iter().all(|a| a.get("error").is_some() || a["swap"] == 0), "{answers:?}");
    scene.ctl(&["rollback"]).refused(2, &["no version before"]);
    // And the one that is fit comes in.
    scene.write("good", &good);
    scene.ctl(&["swap", &scene.text("good")]).good();
    let version = &artifact::content_hash(&good)[..8];
    let answers = client.ask(&events::json(40, 98));
    assert!(answers.iter().all(|a| a.get("error").is_some() || a["version"] == version), "{answers:?}");
    quiet.stop();
    let said = daemon.stop();
    assert_eq!(said.matches("WARN  admin: swap: 4").count(), bad.len(), "{said}");
}

#[test]
fn a_swap_takes_effect_at_the_same_event_after_kill_9_and_replay() {
    let spec = include_str!("../models/hyperplane.toml");
    let scene = Scene::new(
        spec,
        "source.kind = \"rate\"\nsource.events = 60_000\nsource.rate = 20_000\nsource.format = \"json\"\n\
         sink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\ndelivery.commit_interval_ms = 10\n\
         checkpoint.interval_ms = 60_000\n",
    );
    scene.write("other.toml", spec.replace("learning_rate = 0.01", "learning_rate = 0.2"));
    let daemon = scene.start(&[]);
    until("some output", || (scene.length("out.ndjson") > 500_000).then_some(()));
    let at = scene.ctl(&["swap", &scene.text("other.toml"), "--json"]).json()["lanes"][0]["seq"].clone();
    let length = scene.length("out.ndjson");
    until("more output", || (scene.length("out.ndjson") > length + 200_000).then_some(()));
    let back = scene.ctl(&["rollback", "--json"]).json()["lanes"][0]["seq"].clone();
    let length = scene.length("out.ndjson");
    until("more output", || (scene.length("out.ndjson") > length + 100_000).then_some(()));
    daemon.kill();
    let written = scene.read("out.ndjson");
    // No checkpoint was written yet: all of it is replayed, both swaps included.
    let said = scene.run_to_end(&["--set", "source.rate=0"]);
    assert!(said.contains("goes on where it stopped"), "{said}");
    let answers = events::lines(&scene.read("out.ndjson"));
    assert_eq!(answers.len(), 60_000);
    let (at, back) = (at.as_u64().expect("seq"), back.as_u64().expect("seq"));
    for (seq, answer) in answers.iter().enumerate() {
        let seq = seq as u64;
        let swap = u64::from(seq >= at) + u64::from(seq >= back);
        assert_eq!((&answer["seq"], &answer["swap"]), (&json!(seq), &json!(swap)), "swaps at {at} and {back}");
    }
    let kept = scene.read("out.ndjson");
    let committed = written.iter().zip(&kept).take_while(|(a, b)| a == b).count();
    assert!(
        committed + 1 >= written.iter().rposition(|b| *b == b'\n').expect("a line"),
        "{committed} of {}",
        written.len()
    );
    let report = scene.call_with_config("replay", &["--json"]).good();
    assert!(report.contains("\"digest\":\"equal\""), "{report}");
}
