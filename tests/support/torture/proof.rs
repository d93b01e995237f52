//! The proof at a round's end: the last daemon catches up, and everything that it and its dead forerunners made is
//! what the oracle makes.

use super::plan::{Plan, Road};
use super::{Arena, Report, files, life};
use crate::support::daemon::{Daemon, until};
use crate::support::events;
use crate::support::library;
use crate::support::stream::{ByPartition, Stream, by_partition, json, oracle};
use millstream::admin::CtlAction;
use millstream::journal::file::FileJournal;
use millstream::journal::{Journal, JournalRecord};
use millstream::pipeline::Pipeline;
use millstream::state::State;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How long the broker may take to write the markers of a decided commit.
const MARKERS_MAX: Duration = Duration::from_secs(10);

/// What is expected of a lane in the end.
struct Expected {
    seq: u64,
    learned: u64,
    pipeline: Option<Pipeline>,
}

/// Lets a last daemon finish, and compares.
pub fn prove(plan: &Plan, arena: &Arena, report: &mut Report, sent: u64) {
    let scene = &arena.scene;
    let mut command = scene.daemon_command(&[]);
    if let Some(mistake) = &plan.plant {
        command.env("MILLSTREAM_PLANT", mistake);
    }
    let mut daemon = scene.spawn_as(command);
    caught_up(&mut daemon, sent);
    daemon.ask(&CtlAction::Checkpoint).unwrap_or_else(|fault| panic!("{fault}\n{}", daemon.said()));
    let asked: Vec<State> = (0..plan.lanes).map(|lane| scene.newest_checkpoint(lane).1).collect();
    let (code, said) = daemon.terminate();
    assert_eq!(code, Some(0), "{said}");
    for (kind, _) in life::check_log(&said, report.damaged > 0, plan.calm.is_some()) {
        *report.setbacks.entry(kind).or_default() += 1;
    }
    let journals = journals(plan, arena);
    let mut expected = match plan.road {
        Road::Kafka => kafka(plan, arena),
        Road::Files => in_files(plan, arena, &journals),
    };
    assert!(report.orders.wrong.is_empty(), "{:?}", report.orders.wrong);
    for (lane, seq) in &report.orders.answered {
        let swaps = journals[*lane as usize].iter().flat_map(|record| &record.swaps);
        assert!(
            swaps.clone().any(|s| s.seq == *seq),
            "lane {lane}: a swap was in force at {seq}, and isn't journalled"
        );
    }
    for (lane, expected) in expected.iter_mut().enumerate() {
        let (tail, (digest, seq)) = (journals[lane].last().expect("a record"), scene.digest(lane as u32));
        assert_eq!((&tail.digest, tail.seq), (&digest, seq), "lane {lane}: checkpoint and journal");
        if let Some(pipeline) = &mut expected.pipeline {
            assert_eq!((expected.seq, expected.learned), (tail.seq, tail.learned), "lane {lane}: learned once each");
            let learned = library::learned(pipeline);
            assert!(asked[lane] == learned, "lane {lane}: the checkpoint asked for is not the oracle's model");
            assert!(scene.newest_checkpoint(lane as u32).1 == learned, "lane {lane}: the last checkpoint differs");
        }
    }
    let committed: u64 = journals.iter().map(|j| j.last().map_or(0, |r| r.seq)).sum();
    assert_eq!(committed, sent, "each event once");
    replay_is_equal(plan, arena);
    if plan.forced {
        calm(plan, arena, sent, &journals[0]);
    }
}

fn caught_up(daemon: &mut Daemon, sent: u64) {
    daemon.ready();
    until(&format!("{sent} committed events"), || {
        let status = daemon.status();
        let lanes = status["lanes"].as_array().expect("lanes");
        let sum: u64 = lanes.iter().filter_map(|lane| lane["committed_seq"].as_u64()).sum();
        assert!(sum <= sent, "{sum} events committed, {sent} sent");
        (sum == sent).then_some(())
    });
}

fn journals(plan: &Plan, arena: &Arena) -> Vec<Vec<JournalRecord>> {
    let of_lane = |lane: u32| match plan.road {
        Road::Kafka => arena.stream.journal(lane as i32),
        Road::Files => {
            let dir = arena.scene.path(&format!("state/lane-{lane}/journal"));
            FileJournal::open(&dir, false).and_then(|mut j| j.read(0)).expect("the journal")
        }
    };
    (0..plan.lanes).map(of_lane).collect()
}

fn same(what: &str, found: &ByPartition, expected: &ByPartition) {
    for (partition, expected) in expected {
        let found = found.get(partition).map_or(&[][..], Vec::as_slice);
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let text = |m: &(Option<Vec<u8>>, Vec<u8>)| String::from_utf8_lossy(&m.1).into_owned();
            assert!(
                found == expected,
                "{what}/{partition}, message {at}:\n  found    {}\n  expected {}",
                text(found),
                text(expected)
            );
        }
        assert_eq!(found.len(), expected.len(), "{what}/{partition}: messages");
    }
    assert!(found.keys().all(|partition| expected.contains_key(partition)), "{what}: {:?}", found.keys());
}

/// The topics against the oracle's, where the journal is there as a whole; the group's offsets in any case.
fn kafka(plan: &Plan, arena: &Arena) -> Vec<Expected> {
    let stream = &arena.stream;
    let input = stream.topic("in");
    for partition in 0..plan.partitions {
        let (_, high) = stream.broker.watermarks(&input, partition);
        let at = stream.broker.committed_offset(&stream.name, &input, partition);
        assert_eq!(at.unwrap_or(0), high, "the group's offset of {input}/{partition}");
    }
    if plan.trims {
        return (0..plan.lanes).map(|_| Expected { seq: 0, learned: 0, pipeline: None }).collect();
    }
    let mut specs: Vec<&str> = arena.specs.iter().map(String::as_str).collect();
    specs.swap(0, plan.first_spec);
    let (mut predictions, mut dead, mut expected) = (ByPartition::new(), ByPartition::new(), Vec::new());
    for lane in 0..plan.lanes {
        let made = oracle(stream, (plan.lanes > 1).then_some(lane), &json(), &specs);
        let theirs = |partition: &i32| *partition as u32 % plan.lanes == lane;
        assert!(made.predictions.keys().all(theirs), "lane {lane} took {:?}", made.predictions.keys());
        predictions.extend(made.predictions);
        dead.extend(made.dead);
        expected.push(Expected { seq: made.seq, learned: made.learned, pipeline: Some(made.pipeline) });
    }
    same(&stream.topic("out"), &by_partition(&stream.output("out")), &predictions);
    same(&stream.topic("dead"), &by_partition(&stream.output("dead")), &dead);
    expected
}

/// The files against the oracle's.
fn in_files(plan: &Plan, arena: &Arena, journals: &[Vec<JournalRecord>]) -> Vec<Expected> {
    let of_lane = |lane: u32| {
        let number = (plan.lanes > 1).then_some(lane);
        let journal = &journals[lane as usize];
        let made = files::oracle(&arena.files[lane as usize], number, journal, plan.first_spec, &arena.specs);
        let name = |stem: &str| match number {
            Some(lane) => format!("{stem}.lane-{lane}.ndjson"),
            None => format!("{stem}.ndjson"),
        };
        same_bytes(&name("out"), &rotated(arena, &name("out")), &made.out);
        same_bytes(&name("dead"), &arena.scene.read(&name("dead")), &made.dead);
        Expected { seq: made.seq, learned: made.learned, pipeline: Some(made.pipeline) }
    };
    (0..plan.lanes).map(of_lane).collect()
}

fn rotated(arena: &Arena, name: &str) -> Vec<u8> {
    let mut bytes = arena.scene.read(name);
    for number in 1.. {
        let next = format!("{name}.{number}");
        if !arena.scene.path(&next).exists() {
            break;
        }
        bytes.extend(arena.scene.read(&next));
    }
    bytes
}

fn same_bytes(what: &str, found: &[u8], expected: &[u8]) {
    let lines = |bytes: &[u8]| -> Vec<String> {
        bytes.split(|b| *b == b'\n').map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    };
    for (at, (found, expected)) in lines(found).iter().zip(&lines(expected)).enumerate() {
        assert!(found == expected, "{what}, line {at}:\n  found    {found}\n  expected {expected}");
    }
    assert_eq!(found.len(), expected.len(), "{what}: bytes");
}

fn replay_is_equal(plan: &Plan, arena: &Arena) {
    let said = arena.scene.call_with_config("replay", &["--json"]).good();
    for report in events::lines(said.as_bytes()) {
        assert_eq!(report["digest"], "equal", "{report}");
        assert!(plan.trims || report["from"] == 0, "{report}");
    }
}

/// An undisturbed daemon over the same events, with other batches and commits: where their order is forced, it
/// makes the same bytes, to the headers, and the same model.
fn calm(plan: &Plan, arena: &Arena, sent: u64, journal: &[JournalRecord]) {
    let (scene, name) = (&arena.scene, &arena.stream.name);
    let mut set = vec![format!("state_dir={}", scene.text("calm")), "engine.batch_events_max=33".to_string()];
    match plan.road {
        Road::Kafka => {
            set.extend(["source.group", "node.name"].map(|key| format!("{key}={name}-calm")));
            set.push(format!("sink.topic={name}-calm-out"));
            set.push(format!("sink.dead_letters={name}-calm-dead"));
            let more: Vec<&str> = set.iter().flat_map(|set| ["--set", set.as_str()]).collect();
            let mut daemon = scene.spawn(&more);
            caught_up(&mut daemon, sent);
            daemon.stop();
            for end in ["out", "dead"] {
                let (ours, calm) = (arena.stream.output(end), arena.stream.output(&format!("calm-{end}")));
                let plain = |stored: &crate::support::broker::Stored| {
                    (stored.partition, stored.key.clone(), stored.value.clone(), stored.headers.clone())
                };
                assert!(ours.iter().map(plain).eq(calm.iter().map(plain)), "{end} is not the undisturbed daemon's");
            }
        }
        Road::Files => {
            set.push("source.follow=false".to_string());
            set.push(format!("sink.path={}", scene.text("calm.ndjson")));
            set.push(format!("sink.dead_letters={}", scene.text("calm-dead.ndjson")));
            let more: Vec<&str> = set.iter().flat_map(|set| ["--set", set.as_str()]).collect();
            scene.run_to_end(&more);
            same_bytes("out", &rotated(arena, "out.ndjson"), &rotated(arena, "calm.ndjson"));
            same_bytes("dead", &scene.read("dead.ndjson"), &scene.read("calm-dead.ndjson"));
        }
    }
    let newest = |folder: &str| {
        let entries = std::fs::read_dir(scene.path(&format!("{folder}/lane-0"))).expect("a lane's folder");
        let mut paths: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
        paths.retain(|path| path.file_name().expect("a name").to_string_lossy().starts_with("checkpoint-"));
        let bytes = std::fs::read(paths.iter().max().expect("a checkpoint")).expect("readable");
        millstream::artifact::decode(&bytes).expect("a checkpoint")
    };
    let ((ours, our_state), (calm, calm_state)) = (newest("state"), newest("calm"));
    for key in ["seq", "learned", "digest"] {
        assert_eq!(ours["position"][key], calm["position"][key], "{key} of the undisturbed daemon");
    }
    assert!(our_state == calm_state, "the model is not the undisturbed daemon's");
    assert_eq!(journal.last().expect("a record").digest, calm["position"]["digest"].as_str().expect("digest"));
}

/// No reader of the group's offsets may believe more than the journal says.
pub fn offsets_are_not_ahead(plan: &Plan, stream: &Stream) {
    let input = stream.topic("in");
    let offsets: Vec<i64> = (0..plan.partitions)
        .map(|partition| stream.broker.offset_so_far(&stream.name, &input, partition).unwrap_or(0))
        .collect();
    // The markers of a commit are written after it is decided.
    let deadline = Instant::now() + MARKERS_MAX;
    loop {
        let mut reached = vec![0; plan.partitions as usize];
        for lane in 0..plan.lanes {
            let tail = stream.journal(lane as i32).pop();
            for (name, position) in tail.iter().flat_map(|tail| &tail.positions) {
                let partition: usize =
                    name.rsplit_once('/').and_then(|(_, p)| p.parse().ok()).expect("topic/partition");
                reached[partition] = position.offset as i64;
            }
        }
        if offsets.iter().zip(&reached).all(|(offset, reached)| offset <= reached) {
            return;
        }
        assert!(Instant::now() < deadline, "the group's offsets {offsets:?} are ahead of the journal's {reached:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A topic as text, with what was never committed.
pub fn dump(stream: &Stream, end: &str) -> String {
    let mut text = String::new();
    for committed in [true, false] {
        let _ = writeln!(text, "# {}", if committed { "committed" } else { "all, aborted messages too" });
        for message in stream.broker.consume_all(&stream.topic(end), committed) {
            let (key, value) = (message.key.unwrap_or_default(), String::from_utf8_lossy(&message.value).into_owned());
            let key = String::from_utf8_lossy(&key).into_owned();
            let _ = writeln!(text, "{}/{} {key}: {value}", message.partition, message.offset);
        }
    }
    text
}
