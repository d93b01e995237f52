//! The story: the daemon between two topics of a real Kafka broker. Every event is answered on its own
//! partition with its own key; it dies by kill -9, is told to stop, its broker dies, its model is swapped: the
//! committed output stays what an oracle makes from the input and the journal, byte for byte, each event
//! once (or, at least once, repeated as it was), and the model is the oracle's.

mod support;

use millstream::admin::CtlAction;
use millstream::decode::{DecodeOptions, Format};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::daemon::{Daemon, Scene, is_fault, until};
use support::events::{self, Random, SPEC};
use support::stream::{ByPartition, PARTITIONS, Stream, by_partition, json, oracle, replay_is_equal};
use support::verdict::{assert_each_once, assert_same, assert_same_model, last_words};

const AT_LEAST_ONCE: &str = "delivery.guarantee = \"at-least-once\"\n";

/// Kills and starts the daemon `kills` times at random moments while events go on coming, then waits until all
/// is committed, and stops it.
fn through_kills(stream: &Stream, scene: &Scene, kills: u64, seed: u64) -> u64 {
    let (mut random, stop) = (Random(seed), Arc::new(AtomicBool::new(false)));
    let sender = stream.keep_sending(&stop, seed);
    let (mut daemon, mut deaths) = (scene.start(&[]), 0);
    for kill in 0..kills {
        // Some die while they recover, most while they run.
        if kill % 3 != 2 {
            daemon.ready();
        }
        std::thread::sleep(Duration::from_millis(20 + random.below(400)));
        let said = daemon.kill();
        assert!(!said.lines().any(is_fault) && !said.contains("differs"), "{said}");
        deaths += 1;
        daemon = scene.spawn(&[]);
    }
    assert!(deaths >= 5);
    daemon.ready();
    stop.store(true, Relaxed);
    let sent = sender.join().expect("the sender");
    stream.committed(&mut daemon, sent);
    stream.group_is_at_the_end();
    daemon.stop();
    sent
}

#[test]
fn events_become_predictions_on_their_partition_and_bad_ones_dead_letters() {
    let stream = Stream::new(Broker::shared(), "round");
    let scene = Scene::new(SPEC, &stream.config(""));
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(2_000, 1), 0);
    let packed = events::json(30, 77).replace("{\"id\":\"broken\",\"x1\":", "{}");
    let (input, headers) = (stream.topic("in"), [("trace", Some(&b"t-1"[..])), ("empty", None)]);
    stream.broker.produce(&input, 3, Some(b"packed"), packed.trim_end().as_bytes(), &[]);
    stream.broker.produce(&input, 2, Some(b"bad\xff"), b"\xfe no event", &headers);
    stream.broker.produce(&input, 0, None, br#"{"id":"keyless","x1":1,"x2":2,"x3":3}"#, &[]);
    stream.broker.flush();
    let sent = 2_000 + packed.lines().count() as u64 + 2;
    stream.committed(&mut daemon, sent);
    until("a lag of zero", || (daemon.status()["lanes"][0]["lag_events"] == 0).then_some(()));
    let lag = |metrics: &str| -> Vec<String> {
        let lines = metrics.lines().filter(|l| l.contains("lag") && l.contains("round-in/") && !l.starts_with('#'));
        lines.map(str::to_string).collect()
    };
    let metrics = scene.metrics();
    let lag = lag(&metrics);
    assert!(lag.len() == PARTITIONS as usize && lag.iter().all(|l| l.ends_with(" 0")), "{lag:?}\n{metrics}");
    stream.group_is_at_the_end();
    daemon.stop();

    let mut made = oracle(&stream, None, &json(), &[SPEC]);
    let (out, dead) = (stream.output("out"), stream.output("dead"));
    assert_same(&by_partition(&out), &made.predictions);
    assert_same(&by_partition(&dead), &made.dead);
    assert_same_model(&stream, &scene, 0, &mut made);
    replay_is_equal(&scene);
    let keyed = out.iter().filter(|m| m.key.as_deref() == Some(b"packed")).collect::<Vec<_>>();
    assert_eq!(keyed.len(), 1, "a packed record is answered by one");
    let rows = events::lines(&keyed[0].value);
    let letters = dead.iter().filter(|m| m.key.as_deref() == Some(b"packed")).count();
    assert!(rows.len() >= 20 && rows.len() + letters == packed.lines().count(), "{} {letters}", rows.len());
    let numbers: Vec<u64> = rows.iter().map(|r| r["row"].as_u64().expect("row")).collect();
    assert!(keyed[0].partition == 3 && numbers.is_sorted(), "{numbers:?}");
    let bad = dead.iter().find(|m| m.key.as_deref() == Some(b"bad\xff")).expect("a dead letter");
    assert_eq!((bad.partition, bad.value.as_slice()), (2, &b"\xfe no event"[..]));
    assert_eq!(bad.headers[..2], [("trace".into(), Some(b"t-1".to_vec())), ("empty".into(), None)]);
    let header = |name: &str| bad.header(&format!("__connect.errors.{name}")).expect(name);
    assert_eq!((header("topic"), header("partition")), (input, "2".to_string()));
    assert_eq!((header("offset"), header("stage")), ("500".to_string(), "decode".to_string()));
    assert_eq!(header("exception.class.name"), "millstream.reject.decode");
    assert!(!header("exception.message").is_empty());
    assert!(out.iter().any(|m| m.key.is_none() && m.partition == 0));
}

#[test]
fn packed_csv_records_are_answered_by_one_record_each() {
    let stream = Stream::new(Broker::shared(), "csv");
    let columns = "source.format = \"csv\"\nsource.columns = [\"id\", \"x1\", \"x2\", \"x3\", \"y\"]\n";
    let scene = Scene::new(SPEC, &stream.config(columns));
    let text = events::csv(600, 5);
    let rows: Vec<&str> = text.lines().skip(1).filter(|line| !line.is_empty()).collect();
    for (number, rows) in rows.chunks(9).enumerate() {
        let key = format!("pack-{number}");
        stream.broker.produce(
            &stream.topic("in"),
            number as i32 % PARTITIONS,
            Some(key.as_bytes()),
            rows.join("\n").as_bytes(),
            &[],
        );
    }
    stream.broker.flush();
    let mut daemon = scene.start(&[]);
    stream.committed(&mut daemon, rows.len() as u64);
    daemon.stop();
    let columns = ["id", "x1", "x2", "x3", "y"].map(String::from).to_vec();
    let options = DecodeOptions { format: Format::Csv, columns: Some(columns), ..json() };
    let made = oracle(&stream, None, &options, &[SPEC]);
    let out = stream.output("out");
    assert_same(&by_partition(&out), &made.predictions);
    assert_same(&by_partition(&stream.output("dead")), &made.dead);
    assert_eq!(out.len(), rows.len().div_ceil(9), "one record each");
    replay_is_equal(&scene);
}

#[test]
fn exactly_once_through_kills() {
    let stream = Stream::new(Broker::shared(), "exact");
    let scene = Scene::new(SPEC, &stream.config(""));
    let sent = through_kills(&stream, &scene, 7, 42);
    let mut made = oracle(&stream, None, &json(), &[SPEC]);
    let (out, dead) = (by_partition(&stream.output("out")), by_partition(&stream.output("dead")));
    assert_same(&out, &made.predictions);
    assert_same(&dead, &made.dead);
    assert_each_once(&out, &dead, sent);
    assert_same_model(&stream, &scene, 0, &mut made);
    replay_is_equal(&scene);
}

#[test]
fn at_least_once_through_kills() {
    let stream = Stream::new(Broker::shared(), "least");
    let scene = Scene::new(SPEC, &stream.config(AT_LEAST_ONCE));
    let sent = through_kills(&stream, &scene, 6, 43);
    let mut made = oracle(&stream, None, &json(), &[SPEC]);
    // What was published and not yet in the journal is taken again, perhaps in another order of its partitions:
    // the last word counts.
    let (out, repeated) = last_words(&by_partition(&stream.output("out")), false);
    eprintln!("at least once, 4 inputs a lane: {repeated} of {sent} events were published twice");
    assert_eq!(made.seq, sent);
    assert_same(&out, &made.predictions);
    assert_same_model(&stream, &scene, 0, &mut made);
    replay_is_equal(&scene);
}

#[test]
fn at_least_once_with_one_input_a_lane_repeats_the_same_bytes() {
    let stream = Stream::new(Broker::shared(), "alike");
    let scene = Scene::new(SPEC, &stream.config(&format!("{AT_LEAST_ONCE}lanes = 4\n")));
    let sent = through_kills(&stream, &scene, 6, 44);
    let (out, repeated) = last_words(&by_partition(&stream.output("out")), true);
    eprintln!("at least once, 1 input a lane: {repeated} of {sent} events were published twice");
    let mut expected = ByPartition::new();
    for lane in 0..4 {
        let mut made = oracle(&stream, Some(lane), &json(), &[SPEC]);
        assert_same_model(&stream, &scene, lane, &mut made);
        expected.extend(made.predictions);
    }
    assert_same(&out, &expected);
    replay_is_equal(&scene);
}

#[test]
fn told_to_stop_under_load_it_drains_and_a_restart_needs_no_rebalance() {
    let stream = Stream::new(Broker::shared(), "drain");
    let scene = Scene::new(SPEC, &stream.config(""));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = stream.keep_sending(&stop, 9);
    for round in 0..2 {
        let daemon = scene.start(&[]);
        until("events under way", || (daemon.status()["lanes"][0]["events"].as_u64() > Some(300)).then_some(()));
        let told = Instant::now();
        daemon.stop();
        let drained = told.elapsed();
        assert!(drained < Duration::from_secs(20), "{drained:?}");
        let again = Instant::now();
        let daemon = scene.spawn(&[]);
        let first = until("a prediction", || {
            let status = daemon.ask(&CtlAction::Status).ok()?;
            (status["lanes"][0]["predictions"].as_u64() > Some(0)).then(|| again.elapsed())
        });
        eprintln!("round {round}: drained in {drained:?}, first prediction {first:?} after the start");
        assert!(first < Duration::from_secs(8), "{first:?}: static membership spares the wait for a session's end");
        daemon.stop();
    }
    stop.store(true, Relaxed);
    let sent = sender.join().expect("the sender");
    let mut daemon = scene.start(&[]);
    stream.committed(&mut daemon, sent);
    daemon.stop();
    let made = oracle(&stream, None, &json(), &[SPEC]);
    assert_same(&by_partition(&stream.output("out")), &made.predictions);
}

#[test]
fn two_lanes_share_four_partitions_and_their_number_stays() {
    let stream = Stream::new(Broker::shared(), "lanes");
    let scene = Scene::new(SPEC, &stream.config("lanes = 2\n"));
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(2_000, 3), 0);
    stream.committed(&mut daemon, 2_000);
    assert!(daemon.kill().contains("begins in"));
    stream.send(&events::json(1_000, 4), 2_000);
    let mut daemon = scene.start(&[]);
    stream.committed(&mut daemon, 3_000);
    daemon.stop();
    let (out, mut expected) = (by_partition(&stream.output("out")), ByPartition::new());
    for lane in 0..2 {
        let mut made = oracle(&stream, Some(lane), &json(), &[SPEC]);
        assert!(made.predictions.keys().all(|p| *p as u32 % 2 == lane), "{:?}", made.predictions.keys());
        assert_same_model(&stream, &scene, lane, &mut made);
        expected.extend(made.predictions);
    }
    assert_same(&out, &expected);
    replay_is_equal(&scene);
    for lanes in [1, 4] {
        let said = scene.daemon_command(&["--set", &format!("lanes={lanes}")]).output().expect("it starts");
        let said = support::daemon::Called::from(said);
        said.refused(2, &[&format!("lanes = {lanes}"), "has 2", "set lanes back", "--new-lineage"]);
    }
    // Even a new lineage can't have another journal.
    let said = scene.daemon_command(&["--set", "lanes=1", "--new-lineage"]).output().expect("it starts");
    support::daemon::Called::from(said).refused(2, &["lanes-journal", "2 lanes", "another group"]);
}

#[test]
fn a_broker_that_dies_is_waited_for() {
    let broker: &'static Broker = Box::leak(Box::new(Broker::new()));
    let stream = Stream::new(broker, "away");
    let scene = Scene::new(SPEC, &stream.config(""));
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(2_000, 6), 0);
    until("events under way", || (daemon.status()["lanes"][0]["events"].as_u64() > Some(0)).then_some(()));
    broker.kill();
    // Longer than the group's session: the membership is lost as well.
    std::thread::sleep(Duration::from_secs(12));
    assert!(daemon.runs(), "{}", daemon.said());
    broker.start();
    let back = Instant::now();
    stream.send(&events::json(1_000, 7), 2_000);
    stream.committed(&mut daemon, 3_000);
    eprintln!("caught up {:?} after the broker was back", back.elapsed());
    daemon.stop();
    let mut made = oracle(&stream, None, &json(), &[SPEC]);
    let (out, dead) = (by_partition(&stream.output("out")), by_partition(&stream.output("dead")));
    assert_same(&out, &made.predictions);
    assert_each_once(&out, &dead, 3_000);
    assert_same_model(&stream, &scene, 0, &mut made);
    broker.kill();
}

#[test]
fn without_a_broker_it_gives_up_and_says_so() {
    let port = support::free_port();
    let stream = Stream { broker: Broker::shared(), name: "nobody".into() };
    let config = stream.config("limits.start_timeout_ms = 1_000\n");
    let config = config.replace(&stream.broker.address(), &format!("127.0.0.1:{port}"));
    let scene = Scene::new(SPEC, &config);
    let began = Instant::now();
    let (code, said) = scene.spawn(&[]).wait();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("no broker answers") && began.elapsed() < Duration::from_secs(15), "{said}");
    // Told to stop while it tries, it has nothing to finish.
    let daemon = scene.spawn(&["--set", "limits.start_timeout_ms=600000", "--set", "log.level=debug"]);
    std::thread::sleep(Duration::from_millis(500));
    let told = Instant::now();
    let (code, said) = daemon.terminate();
    assert!(matches!(code, Some(0 | 4)) && told.elapsed() < Duration::from_secs(22), "{code:?} {said}");
}

#[test]
fn a_lost_state_directory_stops_the_daemon_until_a_new_lineage_is_asked_for() {
    let stream = Stream::new(Broker::shared(), "lost");
    let scene = Scene::new(SPEC, &stream.config(""));
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(1_000, 8), 0);
    stream.committed(&mut daemon, 1_000);
    daemon.stop();
    let old = stream.journal(0).pop().expect("a record");
    std::fs::rename(scene.path("state"), scene.path("copy")).expect("moved");
    let (code, said) = scene.spawn(&[]).wait();
    assert_eq!(code, Some(2), "{said}");
    let lineage = std::fs::read_to_string(scene.path("state/lineage.json")).expect("a lineage");
    let new: Value = serde_json::from_str(&lineage).expect("JSON");
    for named in [old.lineage.as_str(), new["lineage"].as_str().expect("text"), "from a copy", "--new-lineage"] {
        assert!(said.contains(named), "{named} is not in: {said}");
    }
    // A second try is refused as well; the copy goes on.
    assert_eq!(scene.spawn(&[]).wait().0, Some(2));
    std::fs::rename(scene.path("state"), scene.path("empty")).expect("moved");
    std::fs::rename(scene.path("copy"), scene.path("state")).expect("moved");
    stream.send(&events::json(500, 9), 1_000);
    let mut daemon = scene.start(&[]);
    stream.committed(&mut daemon, 1_500);
    daemon.stop();
    let first = stream.output("out").len();
    // Lost again, and begun anew: at the group's offsets, so that nothing is answered twice.
    std::fs::rename(scene.path("state"), scene.path("stale")).expect("moved");
    let mut daemon = scene.start(&["--new-lineage"]);
    let said = until("what it says", || Some(daemon.said()).filter(|said| said.contains("begins where")));
    assert!(said.contains(&old.lineage), "{said}");
    stream.send(&events::json(500, 10), 1_500);
    stream.committed(&mut daemon, 500);
    daemon.stop();
    let out = stream.output("out");
    let seqs = |messages: &[support::broker::Stored]| {
        let seq =
            |m: &support::broker::Stored| serde_json::from_slice::<Value>(&m.value).expect("JSON")["offset"].clone();
        messages
            .iter()
            .map(|m| (m.partition, seq(m).as_u64().expect("offset")))
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(seqs(&out).len(), out.len(), "no event is answered twice");
    assert!(out.len() > first + 400, "{} after {first}", out.len());
    // It goes on by itself from now on.
    stream.send(&events::json(100, 11), 2_000);
    let mut daemon = scene.start(&[]);
    stream.committed(&mut daemon, 600);
    daemon.stop();
    replay_is_equal(&scene);
    // Whoever comes back with the old past must not answer again what the new lineage has answered.
    std::fs::rename(scene.path("state"), scene.path("now")).expect("moved");
    std::fs::rename(scene.path("stale"), scene.path("state")).expect("moved");
    let (code, said) = scene.spawn(&[]).wait();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("holds the past of lineage"), "{said}");
}

#[test]
fn swaps_and_rollbacks_under_load_survive_kills() {
    let stream = Stream::new(Broker::shared(), "swap");
    let scene = Scene::new(SPEC, &stream.config(""));
    let faster = SPEC.replace("learning_rate = 0.1", "learning_rate = 0.5");
    scene.write("faster.toml", &faster);
    let stop = Arc::new(AtomicBool::new(false));
    let sender = stream.keep_sending(&stop, 20);
    let mut random = Random(5);
    let mut daemon = scene.start(&[]);
    let mut seqs = Vec::new();
    let wait = |daemon: &Daemon, random: &mut Random| {
        let events = || daemon.status()["lanes"][0]["seq"].as_u64().expect("seq");
        let reach = events() + 100 + random.below(500);
        until("more events", || (events() >= reach).then_some(()));
    };
    for step in 0..4 {
        wait(&daemon, &mut random);
        let command = if step % 2 == 0 { vec!["swap", "FILE", "--json"] } else { vec!["rollback", "--json"] };
        let file = scene.text("faster.toml");
        let command: Vec<&str> = command.into_iter().map(|c| if c == "FILE" { file.as_str() } else { c }).collect();
        let answer = scene.ctl(&command).json();
        seqs.push(answer["lanes"][0]["seq"].as_u64().expect("seq"));
        if step != 1 {
            std::thread::sleep(Duration::from_millis(random.below(300)));
            daemon.kill();
            daemon = scene.start(&[]);
        }
    }
    wait(&daemon, &mut random);
    stop.store(true, Relaxed);
    let sent = sender.join().expect("the sender");
    stream.committed(&mut daemon, sent);
    assert_eq!(daemon.status()["lanes"][0]["swap"], 4);
    daemon.stop();
    let swaps: Vec<u64> = stream.journal(0).iter().flat_map(|r| &r.swaps).map(|s| s.seq).collect();
    assert_eq!(swaps, seqs, "each is in force from the event on that was answered");
    let mut made = oracle(&stream, None, &json(), &[SPEC, &faster]);
    let (out, dead) = (by_partition(&stream.output("out")), by_partition(&stream.output("dead")));
    assert_same(&out, &made.predictions);
    assert_each_once(&out, &dead, sent);
    assert_same_model(&stream, &scene, 0, &mut made);
    replay_is_equal(&scene);
}
