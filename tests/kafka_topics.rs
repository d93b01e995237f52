//! The story: things happen to the topics. The input is missing, deleted, made anew, grows; retention removes events
//! that were not read; an output or the journal is deleted; a message is longer than a topic takes. The daemon says
//! which topic, what and where, and what to do, ends with a code of its own, never skips an event unasked, and
//! goes on exactly after the remedy.

mod support;

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use serde_json::Value;
use std::collections::BTreeSet;
use support::broker::Broker;
use support::daemon::{Called, Daemon, Scene, until};
use support::events::{self, SPEC};
use support::stream::{PARTITIONS, Stream, by_partition, json, oracle, replay_is_equal};

const QUICK: &str = "limits.start_timeout_ms = 1_500\nsource.kafka.\"topic.metadata.refresh.interval.ms\" = \"300\"\n\
    source.kafka.\"topic.metadata.propagation.max.ms\" = \"500\"\n";

/// Everything that was sent is answered as the oracle does.
#[track_caller]
fn is_exact(stream: &Stream, sent: u64) {
    let made = oracle(stream, None, &json(), &[SPEC]);
    assert_eq!(made.seq, sent);
    assert!(by_partition(&stream.output("out")) == made.predictions, "predictions");
    assert!(by_partition(&stream.output("dead")) == made.dead, "dead letters");
}

/// The daemon ends with this code, and names these last.
#[track_caller]
fn ends(daemon: Daemon, code: i32, named: &[&str]) {
    let (found, said) = daemon.wait();
    let last = said.rfind("\nmillstream: ").map_or(said.as_str(), |at| &said[at..]);
    eprintln!("{last}");
    Called { code: found, out: String::new(), said: last.to_string() }.refused(code, named);
}

/// Sets the longest batch that a topic takes.
fn bytes_max(broker: &Broker, topic: &str, bytes: &str) {
    let wish = AlterConfig::new(ResourceSpecifier::Topic(topic)).set("max.message.bytes", bytes);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let done = runtime.block_on(broker.admin().alter_configs([&wish], &AdminOptions::new())).expect("an answer");
    done.into_iter().for_each(|done| assert!(done.is_ok(), "{done:?}"));
}

#[test]
fn an_input_that_is_missing_deleted_or_made_anew_is_said() {
    let stream = Stream { broker: Broker::shared(), name: "missing".into() };
    let scene = Scene::new(SPEC, &stream.config(QUICK));
    ends(scene.spawn(&[]), 4, &["\"missing-in\" doesn't exist", "make it", "source.topics"]);
    stream.broker.create_topic("missing-in", PARTITIONS);
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(800, 1), 0);
    stream.committed(&mut daemon, 800);
    is_exact(&stream, 800);
    stream.broker.delete_topic("missing-in");
    ends(daemon, 4, &["\"missing-in\" doesn't exist", "make it"]);
    // Another topic of the same name is not the one that was read.
    stream.broker.create_topic("missing-in", PARTITIONS);
    ends(scene.spawn(&[]), 2, &["missing-in/", "the next event is offset 200", "ends at 0", "--new-lineage"]);
    let mut daemon = scene.start(&["--new-lineage"]);
    stream.send(&events::json(100, 2), 0);
    stream.committed(&mut daemon, 100);
    daemon.stop();
}

/// The offsets that a partition's predictions and dead letters answer.
fn answered(stream: &Stream, partition: i32) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    for message in stream.output("out").iter().filter(|m| m.partition == partition) {
        let row: Value = serde_json::from_slice(&message.value).expect("JSON");
        assert!(all.insert(row["offset"].as_u64().expect("offset")), "{row} twice");
    }
    for letter in stream.output("dead").iter().filter(|m| m.partition == partition) {
        let offset = letter.header("__connect.errors.offset").and_then(|o| o.parse().ok()).expect("an offset");
        assert!(all.insert(offset), "{offset} twice");
    }
    all
}

#[test]
fn retention_that_overtook_a_daemon_stops_it_and_skips_nothing_unasked() {
    let stream = Stream::new(Broker::shared(), "overtaken");
    // As little read ahead as can be, so that a paused daemon lags at the broker.
    let little = "source.kafka.\"queued.max.messages.kbytes\" = \"1\"\nsource.kafka.\"fetch.message.max.bytes\" = \"1000\"\n\
        source.kafka.\"queued.min.messages\" = \"1\"\n";
    let scene = Scene::new(SPEC, &stream.config(&format!("{QUICK}{little}")));
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(400, 1), 0);
    stream.committed(&mut daemon, 400);
    daemon.stop();
    // While it was down.
    stream.send(&events::json(400, 2), 400);
    stream.broker.delete_before("overtaken-in", 2, 130);
    let named = ["overtaken-in/2", "offset 100", "below 130", "--new-lineage", "When events are gone"];
    ends(scene.spawn(&[]), 2, &named);
    // It stays stopped: a restart changes nothing.
    ends(scene.spawn(&[]), 2, &named);
    let mut daemon = scene.start(&["--new-lineage"]);
    stream.committed(&mut daemon, 370);
    assert!(daemon.said().contains("the group stood at offset 100, and the topic holds 130"), "{}", daemon.said());
    let expected = (0..200).filter(|offset| !(100..130).contains(offset)).collect();
    assert_eq!(answered(&stream, 2), expected, "all but what the retention took");
    assert_eq!(answered(&stream, 1), (0..200).collect());
    // While it lags.
    scene.ctl(&["pause"]).good();
    stream.send(&events::json(8_000, 3), 800);
    stream.broker.delete_before("overtaken-in", 1, 2_150);
    scene.ctl(&["resume"]).good();
    let (code, said) = daemon.wait();
    assert_eq!(code, Some(2), "{said}");
    for named in ["overtaken-in/1: the next event is offset", "below 2150", "--new-lineage"] {
        assert!(said.contains(named), "{named:?} is not in: {said}");
    }
    let reached = answered(&stream, 1);
    assert!(reached.iter().all(|offset| *offset < 2_150), "nothing behind the gap is answered");
    assert!(reached.len() < 2_150 && reached.iter().copied().eq(0..reached.len() as u64), "and all before");
}

#[test]
fn new_partitions_are_taken_up_once_the_output_has_them_too() {
    let stream = Stream::new(Broker::shared(), "grows");
    let scene = Scene::new(SPEC, &stream.config(QUICK));
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(400, 1), 0);
    stream.committed(&mut daemon, 400);
    let to = |partition: i32, number: u64| {
        let line = format!("{{\"id\":\"n{number}\",\"x1\":0.5,\"x2\":{number},\"x3\":2,\"y\":true}}");
        stream.broker.produce("grows-in", partition, Some(b"new"), line.as_bytes(), &[]);
    };
    // Grown together: taken up while it runs.
    stream.broker.grow_topic("grows-out", 5);
    stream.broker.grow_topic("grows-in", 5);
    (0..100).for_each(|number| to(4, number));
    stream.broker.flush();
    stream.committed(&mut daemon, 500);
    is_exact(&stream, 500);
    // The input alone: refused as soon as the new partition has an event, at the start as well.
    stream.broker.grow_topic("grows-in", 6);
    (100..200).for_each(|number| to(5, number));
    stream.broker.flush();
    ends(daemon, 2, &["\"grows-out\" has 5 partitions", "grows-in/5", "add partitions"]);
    ends(scene.spawn(&[]), 2, &["\"grows-out\" has 5 partitions", "the input has 6"]);
    stream.broker.grow_topic("grows-out", 6);
    let mut daemon = scene.start(&[]);
    stream.committed(&mut daemon, 600);
    daemon.stop();
    is_exact(&stream, 600);
    replay_is_equal(&scene);
}

#[test]
fn messages_that_are_too_long_are_said_and_go_through_once_the_topic_takes_them() {
    let stream = Stream::new(Broker::shared(), "long");
    for (topic, partitions) in [("long-out", PARTITIONS), ("long-journal", 1)] {
        stream.broker.create_topic_with(topic, partitions, &[("max.message.bytes", "120")]);
    }
    let scene = Scene::new(SPEC, &stream.config(QUICK));
    stream.send(&events::json(400, 1), 0);
    ends(scene.spawn(&[]), 4, &["long-journal/0", "large", "max.message.bytes"]);
    bytes_max(stream.broker, "long-journal", "1000000");
    ends(scene.spawn(&[]), 4, &["long-out/", "large", "max.message.bytes"]);
    bytes_max(stream.broker, "long-out", "1000000");
    let mut daemon = scene.start(&[]);
    stream.committed(&mut daemon, 400);
    daemon.stop();
    is_exact(&stream, 400);
    replay_is_equal(&scene);
}

#[test]
fn an_output_that_is_deleted_is_made_anew_and_a_journal_is_not_believed() {
    let stream = Stream::new(Broker::shared(), "deleted");
    let scene = Scene::new(SPEC, &stream.config(&format!("{QUICK}source.kafka.\"message.timeout.ms\" = \"3000\"\n")));
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(400, 1), 0);
    stream.committed(&mut daemon, 400);
    stream.broker.delete_topic("deleted-out");
    stream.send(&events::json(400, 2), 400);
    stream.committed(&mut daemon, 800);
    assert!(daemon.said().matches("made the topic \"deleted-out\"").count() >= 2, "{}", daemon.said());
    let made = oracle(&stream, None, &json(), &[SPEC]);
    let (found, mut kept) = (by_partition(&stream.output("out")), 0);
    for (partition, expected) in &made.predictions {
        let found = &found[partition];
        assert!(expected.ends_with(found), "partition {partition}: the rest of what was to be said");
        kept += found.len();
    }
    assert!(kept > 350, "{kept}");
    until("a checkpoint", || (!scene.checkpoints(0).is_empty()).then_some(()));
    stream.broker.delete_topic("deleted-journal");
    ends(daemon, 4, &["the journal's topic \"deleted-journal\" was deleted", "restore", "--new-lineage"]);
    ends(scene.spawn(&[]), 3, &["journal", "is empty", "restore", "--new-lineage"]);
    ends(scene.spawn(&[]), 3, &["journal", "is empty"]);
}
