//! The story: several daemons in one consumer group of a real Kafka broker share three lanes over four partitions,
//! and a store: a folder, or a bucket of a real S3 server. Daemons join, are killed, come back, are told to stop,
//! while events go on coming: lanes move, each with its model, its swaps and its place; whoever comes back at once
//! moves nothing; a lane is never two daemons'. At the end the outputs are what an oracle makes from input and
//! journal, byte for byte. An S3 server that is away stops no scoring.

mod support;

use millstream::admin::CtlAction;
use millstream::artifact;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::daemon::{Called, Daemon, Scene, is_fault, until};
use support::events::SPEC;
use support::library;
use support::s3::S3;
use support::stream::{ByPartition, Stream, by_partition, json, oracle, replay_is_equal};

const LANES: u32 = 3;
const SESSION: Duration = Duration::from_secs(6);

/// A daemon of the group, with a folder of its own, running or not.
struct Member {
    scene: Scene,
    environment: Vec<(String, String)>,
    daemon: Option<Daemon>,
}

impl Member {
    fn new(stream: &Stream, name: &str, store: &str, environment: &[(String, String)]) -> Member {
        let more = format!(
            "lanes = {LANES}\nsource.kafka.\"session.timeout.ms\" = \"{}\"\ncheckpoint.store = \"{store}\"\n",
            SESSION.as_millis()
        );
        let named = |node: &str| format!("node.name = \"{}-{node}\"", stream.name);
        let scene = Scene::new(SPEC, &stream.config(&more).replace(&named("node"), &named(name)));
        Member { scene, environment: environment.to_vec(), daemon: None }
    }

    fn spawn(&mut self) -> &mut Daemon {
        let mut command = self.scene.daemon_command(&[]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.daemon.insert(self.scene.spawn_as(command))
    }

    fn start(&mut self) {
        self.spawn().ready();
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("it runs")
    }

    fn kill(&mut self) -> String {
        quiet(self.daemon.take().expect("it runs").kill())
    }

    fn stop(&mut self) -> String {
        quiet(self.daemon.take().expect("it runs").stop())
    }

    /// Its report on each lane, while it answers.
    fn lanes(&self) -> Vec<Value> {
        let status = self.daemon.as_ref().and_then(|d| d.ask(&CtlAction::Status).ok());
        status.map_or(Vec::new(), |s| s["lanes"].as_array().expect("lanes").clone())
    }

    /// The lanes that it runs.
    fn runs(&self) -> BTreeSet<u32> {
        let lanes = self.lanes().into_iter().filter(|lane| lane["state"] == "running");
        lanes.map(|lane| lane["lane"].as_u64().expect("lane") as u32).collect()
    }
}

/// Nothing is an error but a transaction that a rebalance made void.
#[track_caller]
fn quiet(said: String) -> String {
    let bad: Vec<&str> = said.lines().filter(|line| is_fault(line) && !line.contains("transaction aborted")).collect();
    assert!(bad.is_empty(), "{bad:?} in {said}");
    said
}

/// How often a daemon's lanes went, or were opened anew.
fn moves(member: &Member) -> usize {
    let said = member.daemon().said();
    said.lines().filter(|line| line.contains("handed over") || line.contains("lane recovering")).count()
}

/// Sends thirty events every 50 ms until told to stop. Returns how many.
fn trickle(stream: &Stream, stop: &Arc<AtomicBool>, seed: u64) -> JoinHandle<u64> {
    let (stream, stop) = (stream.clone(), stop.clone());
    std::thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Relaxed) {
            stream.send(&support::events::json(30, seed + sent), sent);
            sent += 30;
            std::thread::sleep(Duration::from_millis(50));
        }
        sent
    })
}

/// Waits until the members run so many lanes each (in any order), and every lane runs. Returns how long that took.
fn shared(members: &[&Member], counts: &[usize]) -> Duration {
    let began = Instant::now();
    until(&format!("lanes shared as {counts:?}"), || {
        let runs: Vec<BTreeSet<u32>> = members.iter().map(|m| m.runs()).collect();
        let mut found: Vec<usize> = runs.iter().map(BTreeSet::len).collect();
        found.sort_unstable();
        let all: BTreeSet<u32> = runs.into_iter().flatten().collect();
        (found == counts && all.len() == LANES as usize).then_some(())
    });
    began.elapsed()
}

/// Waits until all that was sent is committed, whoever did it.
fn committed(members: &[&Member], events: u64) {
    until(&format!("{events} committed events"), || {
        let mut lanes = BTreeMap::<u64, u64>::new();
        for lane in members.iter().flat_map(|m| m.lanes()) {
            let most = lanes.entry(lane["lane"].as_u64().expect("lane")).or_default();
            *most = lane["committed_seq"].as_u64().expect("committed_seq").max(*most);
        }
        let sum: u64 = lanes.values().sum();
        assert!(sum <= events, "{sum} events committed, {events} sent");
        (sum == events).then_some(())
    });
}

/// Every lane's output is the oracle's, each event once; its journal has no gap, and no producer wrote into it
/// after its successor had begun.
fn proven(stream: &Stream, sent: u64, specs: &[&str]) -> Vec<support::stream::Made> {
    let (out, dead) = (by_partition(&stream.output("out")), by_partition(&stream.output("dead")));
    let (mut predictions, mut letters, mut all) = (ByPartition::new(), ByPartition::new(), Vec::new());
    let journal = stream.broker.consume_all(&stream.topic("journal"), true);
    for lane in 0..LANES {
        let mut made = oracle(stream, Some(lane), &json(), specs);
        predictions.append(&mut made.predictions);
        letters.append(&mut made.dead);
        all.push(made);
        let records = journal.iter().filter(|s| s.partition == lane as i32);
        let numbers: Vec<u64> = records
            .map(|s| serde_json::from_slice::<Value>(&s.value).expect("JSON")["number"].as_u64().expect("number"))
            .collect();
        assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "lane {lane}: each record once: {numbers:?}");
        let batches = stream.broker.batches(&stream.topic("journal"), lane as i32);
        let writers: BTreeSet<(i64, i16)> = batches.iter().map(|b| (b.producer, b.epoch)).collect();
        assert!(
            batches.windows(2).all(|b| b[0].producer == b[1].producer && b[0].epoch <= b[1].epoch),
            "lane {lane}: a producer wrote after its successor"
        );
        eprintln!("lane {lane}: {} records by {} producers in turn", numbers.len(), writers.len());
    }
    assert!(out == predictions, "the predictions are the oracle's");
    assert!(dead == letters, "the dead letters are the oracle's");
    assert_eq!(all.iter().map(|made| made.seq).sum::<u64>(), sent, "each event once");
    stream.group_is_at_the_end();
    all
}

/// The newest checkpoint of a lane in a shared folder: its digest, its event, its model.
fn newest(store: &Path, lane: u32) -> (String, u64, millstream::state::State) {
    let lineages = std::fs::read_dir(store).expect("the group's folder").map(|e| e.expect("entry").path());
    let lineage = lineages.filter(|p| p.join("lane-0").is_dir()).max().expect("a lineage");
    let files = std::fs::read_dir(lineage.join(format!("lane-{lane}"))).expect("a lane's folder");
    let files = files.map(|e| e.expect("entry").path());
    let newest = files.filter(|p| p.display().to_string().contains("/checkpoint-")).max().expect("a checkpoint");
    let (manifest, state) = artifact::decode(&std::fs::read(newest).expect("readable")).expect("a checkpoint");
    let position = &manifest["position"];
    (position["digest"].as_str().expect("digest").to_string(), position["seq"].as_u64().expect("seq"), state)
}

fn other_spec() -> String {
    SPEC.replace("learning_rate = 0.1", "learning_rate = 0.4")
}

/// The first lane that a member runs, and whether it is (still) its.
fn lane_of(member: &Member) -> u32 {
    *member.runs().first().expect("a lane")
}

#[test]
fn lanes_move_between_daemons_with_their_models_and_swaps() {
    let stream = Stream::new(Broker::shared(), "moves");
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store").display().to_string();
    let [mut a, mut b, mut c] = ["a", "b", "c"].map(|name| Member::new(&stream, name, &store, &[]));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = trickle(&stream, &stop, 21);

    a.start();
    assert_eq!(a.runs().len(), 3, "alone, it has all lanes");
    b.start();
    eprintln!("the second has joined after {:?}", shared(&[&a, &b], &[1, 2]));
    let states: Vec<Value> = b.lanes().into_iter().map(|lane| lane["state"].clone()).collect();
    assert!(states.iter().all(|s| s == "running" || s == "elsewhere"), "{states:?}");

    // Away for less than its session: nothing moves, and the other sees nothing.
    let (before, kept) = (b.runs(), (a.runs(), moves(&a)));
    b.kill();
    b.spawn();
    let back = Instant::now();
    until("its lanes again", || (b.runs() == before).then_some(()));
    assert!(back.elapsed() < SESSION, "{:?}: it did not wait for its own session to end", back.elapsed());
    assert_eq!((a.runs(), moves(&a)), kept, "the other saw no rebalance");

    c.start();
    eprintln!("the third has joined after {:?}", shared(&[&a, &b, &c], &[1, 1, 1]));
    // Whoever doubts the past reads it meanwhile, and nothing moves by it.
    let stand = || [&a, &b, &c].map(|member| (member.runs(), moves(member)));
    let before = stand();
    replay_is_equal(&Member::new(&stream, "doubter", &store, &[]).scene);
    assert_eq!(stand(), before, "a replay claims no lane");

    // An order reaches the lanes that are here, and says where it did not.
    let moved = lane_of(&c);
    c.scene.write("other.toml", other_spec());
    let answer = c.scene.ctl(&["swap", &c.scene.text("other.toml"), "--json"]).json();
    let lanes = |key: &str| answer[key].as_array().map_or(0, Vec::len);
    assert_eq!((lanes("lanes"), lanes("elsewhere")), (1, 2), "{answer}");
    assert_eq!(answer["lanes"][0]["lane"], moved, "{answer}");

    // Gone for good: its lane moves once its session is over, swap and all; back again, it gets one back.
    let died = Instant::now();
    c.kill();
    shared(&[&a, &b], &[1, 2]);
    eprintln!("a dead daemon's lane ran again {:?} after the kill", died.elapsed());
    let heir = if a.runs().contains(&moved) { &a } else { &b };
    let swap = |member: &Member| member.lanes()[moved as usize]["swap"].clone();
    assert_eq!(swap(heir), 1, "the swap moved with its lane");
    let answer = heir.scene.ctl(&["rollback", "--json"]);
    assert!(answer.code != Some(0), "its other lane has nothing to roll back to: {answer:?}");
    until("the rollback", || (swap(heir) == 2).then_some(()));
    c.start();
    eprintln!("and back after {:?}", shared(&[&a, &b, &c], &[1, 1, 1]));

    // Told to stop, it drains and stays a member until its session is over.
    let told = Instant::now();
    assert!(b.stop().contains("draining"));
    shared(&[&a, &c], &[1, 2]);
    eprintln!("handed over {:?} after SIGTERM", told.elapsed());
    b.start();
    shared(&[&a, &b, &c], &[1, 1, 1]);

    stop.store(true, Relaxed);
    let sent = sender.join().expect("the sender");
    committed(&[&a, &b, &c], sent);
    for member in [&mut a, &mut b, &mut c] {
        member.stop();
    }
    for (lane, made) in proven(&stream, sent, &[SPEC, &other_spec()]).iter_mut().enumerate() {
        let tail = stream.journal(lane as i32).pop().expect("a record");
        let (digest, seq, state) = newest(&Path::new(&store).join("moves"), lane as u32);
        assert_eq!((digest, seq), (tail.digest, made.seq), "lane {lane}");
        assert!(state == library::learned(&mut made.pipeline), "lane {lane}: the model is the oracle's");
    }
    replay_is_equal(&a.scene);
}

#[test]
fn a_bucket_carries_lanes_over_and_its_outage_stops_no_scoring() {
    let s3 = S3::new();
    let stream = Stream::new(Broker::shared(), "bucket");
    let store = "s3://millstream/some/prefix";
    let [mut a, mut b] = ["a", "b"].map(|name| Member::new(&stream, name, store, &s3.environment()));
    let stop = Arc::new(AtomicBool::new(false));
    let sender = trickle(&stream, &stop, 22);
    // At the same instant: one begins the lineage, the other goes on with it.
    a.spawn();
    b.spawn();
    shared(&[&a, &b], &[1, 2]);
    let sum = |members: &[&Member], key: &str| -> u64 {
        members.iter().flat_map(|m| m.lanes()).map(|lane| lane[key].as_u64().expect("a number")).sum()
    };
    let place = |lane: &Value| lane["checkpoint"]["path"].as_str().map(str::to_string);
    let written = || {
        let lanes = a.lanes().into_iter().chain(b.lanes()).filter(|lane| lane["state"] == "running");
        lanes.map(|lane| place(&lane)).collect::<Option<Vec<String>>>()
    };
    let places = until("a checkpoint of every lane", written);
    assert!(places.iter().all(|p| p.starts_with("s3://millstream/some/prefix/bucket/")), "{places:?}");

    // Away: scoring goes on, and failures are counted.
    s3.shut();
    until("failures", || [&a, &b].iter().all(|m| sum(&[m], "checkpoint_failures") >= 1).then_some(()));
    let before = sum(&[&a, &b], "committed_seq");
    until("more commits", || (sum(&[&a, &b], "committed_seq") > before + 1_000).then_some(()));
    let errors = || a.lanes().into_iter().chain(b.lanes()).filter(|l| !l["checkpoint"]["error"].is_null()).count();
    assert!(errors() > 0);
    let candidate = a.scene.path("other.toml");
    std::fs::write(&candidate, other_spec()).expect("written");
    let swap = a.scene.ctl(&["swap", &candidate.display().to_string()]);
    swap.refused(4, &["s3://millstream/some/prefix/bucket/artifacts/", "object store"]);
    s3.open();
    until("checkpoints again", || (errors() == 0).then_some(()));

    // Killed: its lanes come out of the bucket, swap included.
    assert_eq!(a.scene.ctl(&["swap", &candidate.display().to_string()]).code, Some(0));
    let said = a.daemon.take().expect("it runs").kill();
    assert!(
        said.contains("checkpoint failed, scoring goes on") && said.contains("checkpoints succeed again"),
        "{said}"
    );
    until("all lanes at the other", || (b.runs().len() == LANES as usize).then_some(()));

    // A server that accepts and never answers keeps no daemon from its end.
    stop.store(true, Relaxed);
    let sent = sender.join().expect("the sender");
    committed(&[&b], sent);
    s3.freeze(true);
    let told = Instant::now();
    b.daemon.take().expect("it runs").stop();
    assert!(told.elapsed() < Duration::from_secs(20), "{:?}", told.elapsed());
    s3.freeze(false);
    proven(&stream, sent, &[SPEC, &other_spec()]);
    b.start();
    committed(&[&b], sent);
    b.stop();
}

#[test]
fn who_does_not_belong_is_refused_before_it_takes_a_lane() {
    let stream = Stream::new(Broker::shared(), "refused");
    let folder = tempfile::tempdir().expect("a folder");
    let store = folder.path().join("store").display().to_string();
    let mut a = Member::new(&stream, "a", &store, &[]);
    a.start();
    stream.send(&support::events::json(500, 3), 0);
    committed(&[&a], 500);
    let b = Member::new(&stream, "b", &store, &[]);
    let run = |more: &[&str]| Called::from(b.scene.daemon_command(more).output().expect("it starts"));
    run(&["--set", "lanes=2"]).refused(2, &["lanes = 2", "checkpoint.store has 3", "set lanes back"]);
    // With a state of its own it would go on where another's model stands.
    let own = format!("checkpoint.store={}", folder.path().join("other").display());
    run(&["--set", &own]).refused(2, &["holds the past of lineage", "checkpoint.store"]);
    assert_eq!(a.runs().len(), 3, "the one that belongs lost nothing");
    assert!(!a.stop().contains("handed over"), "not even for a moment");
    proven(&stream, 500, &[SPEC]);
}
