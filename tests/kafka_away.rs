//! The story: the broker is held, killed, cut off and slow, and the daemon catches up by itself, with the memory it
//! had; told to stop meanwhile, it ends in time. A daemon that slept past its session wakes up as a zombie whose
//! lane has another owner: nothing of it becomes visible, and it says so. And what a commit costs, measured from
//! outside: no event waits longer than the commit interval and one commit.
//!
//! `MILLSTREAM_PROXY=long` keeps the broker away for half a minute.

mod support;

use millstream::admin::CtlAction;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::daemon::{Daemon, Scene, until};
use support::events::{self, SPEC};
use support::proxy::{Act, Api, Proxy, Reach, broker_behind};
use support::stage::{Stage, committed};
use support::stream::PARTITIONS;

fn everything() -> &'static (Vec<Proxy>, Broker) {
    static ALL: OnceLock<(Vec<Proxy>, Broker)> = OnceLock::new();
    ALL.get_or_init(|| {
        let proxies: Vec<Proxy> = (0..8).map(|_| Proxy::new()).collect();
        let broker = broker_behind(&proxies.iter().collect::<Vec<_>>());
        (proxies, broker)
    })
}

fn broker() -> &'static Broker {
    &everything().1
}

/// Each test has ways to the broker of its own.
fn way(number: usize) -> &'static Proxy {
    &everything().0[number]
}

/// How long the broker is away.
fn away() -> Duration {
    let long = std::env::var("MILLSTREAM_PROXY").is_ok_and(|form| form == "long");
    Duration::from_secs(if long { 30 } else { 6 })
}

/// Memory that the process holds, in MiB.
fn resident_mib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") / 1024
}

/// What the daemon's lane last complained of.
fn fault(daemon: &Daemon) -> String {
    daemon.ask(&CtlAction::Status).map_or(String::new(), |status| status["lanes"][0]["fault"].to_string())
}

/// A daemon is stopped (SIGSTOP), in the midst of a request where one is named; another takes its lane over; it wakes.
fn a_zombie(name: &str, ways: [usize; 2], held: Option<(Api, Act)>) {
    let mut stage = Stage::new(broker(), way(ways[0]), name, "");
    let zombie = stage.scene.start(&[]);
    let drip = stage.drip(20);
    until("commits", || (committed(&zombie) > 100).then_some(()));
    let held = held.map(|(api, act)| stage.proxy.next(api, act));
    held.iter().for_each(|held| held.wait_met());
    zombie.signal(libc::SIGSTOP);
    // The other owner has the lane's state, as from a shared store, and a name of its own.
    let config = String::from_utf8(stage.scene.read("millstream.toml")).expect("UTF-8");
    let own = |line: &&str| !["pipeline =", "state_dir =", "admin.socket ="].iter().any(|key| line.starts_with(key));
    let config: String = config.lines().filter(own).map(|line| format!("{line}\n")).collect();
    let config = config.replace(&way(ways[0]).address(), &way(ways[1]).address());
    let other = Scene::new(SPEC, &config.replace(&format!("{name}-node"), &format!("{name}-other")));
    support::copy_folder(&stage.scene.path("state"), &other.path("state"));
    let mut owner = other.start(&[]);
    let taken_over = committed(&owner);
    until("commits of the other owner", || (committed(&owner) > taken_over + 100).then_some(()));
    held.iter().for_each(|held| held.release());
    zombie.signal(libc::SIGCONT);
    let word = || format!("{}{}", zombie.said(), fault(&zombie));
    // What it notices first may be a transaction that somebody ended; then it finds the lane taken when it comes back.
    let lost = [
        "lane 0 was taken by another daemon",
        "handed over to another daemon of the group",
        "another daemon of the group has the lane",
    ];
    let deadline = Instant::now() + Duration::from_secs(90);
    while !lost.iter().any(|lost| word().contains(lost)) {
        assert!(Instant::now() < deadline, "the zombie says nothing of its loss:\n{}", word());
        std::thread::sleep(Duration::from_millis(20));
    }
    let said = word();
    // It is awake for a while, and the other goes on.
    let before = stage.sent + drip.sent() + 200;
    until("more commits of the other owner", || (committed(&owner) > before).then_some(()));
    stage.sent += drip.stop();
    stage.stream.committed(&mut owner, stage.sent);
    assert!(!said.contains("differs") && !zombie.said().contains("differs"), "{said}");
    zombie.kill();
    owner.stop();
    stage.verdict_of(&other);
}

#[test]
fn a_zombie_has_lost_its_lane() {
    a_zombie("asleep", [0, 1], None);
}

#[test]
fn a_zombie_whose_commit_is_on_its_way_has_lost_its_lane() {
    a_zombie("commits", [2, 3], Some((Api::EndTxn, Act::HoldRequest)));
}

/// While the broker is out of reach in one way after the other, events go on coming.
#[test]
fn cut_off_and_slow_it_catches_up_with_the_memory_it_had() {
    let mut stage = Stage::new(broker(), way(4), "cut", "");
    let mut daemon = Some(stage.scene.start(&[]));
    stage.meanwhile(&mut daemon, "warm", |_, daemon| {
        until("commits", || (committed(daemon.as_ref().expect("a daemon")) > 200).then_some(()));
    });
    let before = resident_mib(daemon.as_ref().expect("a daemon"));
    for reach in [Reach::Cut, Reach::Silent] {
        stage.meanwhile(&mut daemon, &format!("{reach:?} for {:?}", away()), |stage, daemon| {
            stage.proxy.reach(reach);
            std::thread::sleep(away());
            assert!(daemon.as_mut().expect("a daemon").runs());
            stage.proxy.reach(Reach::Open);
        });
    }
    stage.meanwhile(&mut daemon, "a slow link", |stage, _| {
        stage.proxy.speed(Some(64 << 10));
        std::thread::sleep(away() / 2);
        stage.proxy.speed(None);
    });
    let after = resident_mib(daemon.as_ref().expect("a daemon"));
    eprintln!("memory: {before} MiB before, {after} MiB after");
    assert!(after < before + 64, "{before} MiB before, {after} MiB after");
    stage.verdict(daemon.expect("a daemon"));
}

#[test]
fn held_and_killed_brokers_are_waited_for() {
    let proxy: &'static Proxy = Box::leak(Box::new(Proxy::new()));
    let broker: &'static Broker = Box::leak(Box::new(broker_behind(&[proxy])));
    let mut stage = Stage::new(broker, proxy, "dead", "");
    let mut daemon = Some(stage.scene.start(&[]));
    stage.sent += 2_000;
    stage.stream.send(&events::json(2_000, 5), 0);
    until("commits", || (committed(daemon.as_ref().expect("a daemon")) > 200).then_some(()));
    let before = resident_mib(daemon.as_ref().expect("a daemon"));
    broker.signal(libc::SIGSTOP);
    std::thread::sleep(away());
    broker.signal(libc::SIGCONT);
    stage.stream.committed(daemon.as_mut().expect("a daemon"), stage.sent);
    stage.meanwhile(&mut daemon, "held", |_, _| {});
    let first = stage.sent;
    stage.sent += 2_000;
    stage.stream.send(&events::json(2_000, 6), first);
    broker.kill();
    std::thread::sleep(away() / 2);
    broker.start();
    stage.stream.committed(daemon.as_mut().expect("a daemon"), stage.sent);
    stage.meanwhile(&mut daemon, "killed", |_, _| {});
    let after = resident_mib(daemon.as_ref().expect("a daemon"));
    eprintln!("memory: {before} MiB before, {after} MiB after");
    assert!(after < before + 64, "{before} MiB before, {after} MiB after");
    stage.verdict(daemon.expect("a daemon"));
    broker.kill();
}

/// Told to stop while no broker can be reached: in the midst of its work, and once it tries to come back.
#[test]
fn told_to_stop_while_the_broker_is_away_it_ends_in_time() {
    let mut stage = Stage::new(broker(), way(5), "leave", "");
    let long = away() > Duration::from_secs(10);
    for waits in if long { &[true, false][..] } else { &[true] } {
        let daemon = stage.scene.start(&[]);
        let drip = stage.drip(20);
        let goal = stage.sent + 200;
        until("commits", || (committed(&daemon) > goal).then_some(()));
        stage.proxy.reach(Reach::Silent);
        let gone = Instant::now();
        if *waits {
            let state = || daemon.status()["lanes"][0]["state"].clone();
            until("a lane that tries to come back", || (state() == "recovering").then_some(()));
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
        stage.sent += drip.stop();
        let (gone, told) = (gone.elapsed(), Instant::now());
        let (code, said) = daemon.terminate();
        let took = told.elapsed();
        eprintln!("told to stop {gone:?} after the broker went: {code:?} after {took:?}");
        match waits {
            // Nothing runs, so there is nothing to finish.
            true => assert!(code == Some(0) && took < Duration::from_secs(6), "{code:?} after {took:?}: {said}"),
            false => {
                assert!(code == Some(4) && took < Duration::from_secs(22), "{code:?} after {took:?}: {said}");
                assert!(said.contains("what was committed stands"), "{said}");
            }
        }
        stage.proxy.reach(Reach::Open);
    }
    let mut daemon = stage.scene.start(&[]);
    stage.stream.committed(&mut daemon, stage.sent);
    stage.verdict(daemon);
}

/// A consumer of what is committed, at the end of a topic.
fn reader(topic: &str) -> BaseConsumer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker().address()).set("group.id", "reader").set("fetch.wait.max.ms", "5");
    config.set("isolation.level", "read_committed").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("consumer");
    let mut list = TopicPartitionList::new();
    (0..PARTITIONS).for_each(|p| list.add_partition_offset(topic, p, Offset::Offset(0)).expect("offset"));
    consumer.assign(&list).expect("assigned");
    consumer
}

/// An upper bound of the longest commit, from the buckets of the metrics.
fn longest_commit(metrics: &str) -> Duration {
    let buckets = metrics.lines().filter(|line| line.starts_with("millstream_commit_seconds_bucket"));
    let counts: Vec<(&str, &str)> = buckets.filter_map(|line| line.rsplit_once(' ')).collect();
    let all = counts.last().expect("buckets").1;
    let first = counts.iter().find(|(_, count)| *count == all).expect("the last at least").0;
    let bound = first.split("le=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a bound");
    Duration::from_secs_f64(bound.parse().unwrap_or(60.0_f64).min(60.0))
}

/// Events come one by one. Each is answered within the commit interval and one commit, seen from outside.
#[test]
fn no_event_waits_longer_than_the_interval_and_one_commit() {
    let mut stage = Stage::new(broker(), way(6), "wait", "");
    // Nothing is to time out here, however busy the machine.
    let config = String::from_utf8(stage.scene.read("millstream.toml")).expect("UTF-8");
    let patient: Vec<&str> = config.lines().filter(|line| !line.contains("socket.timeout.ms")).collect();
    stage.scene.write("millstream.toml", patient.join("\n"));
    let mut daemon = stage.scene.start(&["--set", "delivery.commit_interval_ms=100"]);
    stage.stream.send(&events::json(1, 1), 0);
    stage.stream.committed(&mut daemon, 1);
    let (fences, reader) = (stage.proxy.seen(Api::InitProducerId), reader(&stage.stream.topic("out")));
    until("the first answer", || matches!(reader.poll(Duration::from_millis(10)), Some(Ok(_))).then_some(()));
    let (events, sent, mut waited) = (150_u64, Arc::new(Mutex::new(HashMap::new())), Vec::new());
    let (stream, times) = (stage.stream.clone(), sent.clone());
    let sender = std::thread::spawn(move || {
        for number in 1..=events {
            let line = format!("{{\"id\":\"n{number}\",\"x1\":0.5,\"x2\":1.5,\"x3\":3.5,\"y\":true}}\n");
            times.lock().unwrap().insert(format!("k{number}").into_bytes(), Instant::now());
            stream.send(&line, number);
            // No divisor of the interval, so that events come at all its moments.
            std::thread::sleep(Duration::from_millis(37));
        }
    });
    let began = Instant::now();
    while waited.len() < events as usize {
        assert!(began.elapsed() < Duration::from_secs(60), "{} of {events} are answered", waited.len());
        if let Some(Ok(message)) = reader.poll(Duration::from_millis(100))
            && let Some(at) = message.key().and_then(|key| sent.lock().unwrap().get(key).copied())
        {
            waited.push(at.elapsed());
        }
    }
    sender.join().expect("the sender");
    stage.sent = 1 + events;
    let metrics = stage.scene.metrics();
    let figure = |name: &str, stage: &str| -> f64 {
        let line = metrics.lines().find(|line| line.starts_with(name) && line.contains(stage)).expect(name);
        line.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
    };
    let mean_ms = |name: &str, stage: &str| {
        figure(&format!("{name}_sum"), stage) / figure(&format!("{name}_count"), stage).max(1.0) * 1e3
    };
    let (commit_ms, inside_ms) =
        (mean_ms("millstream_commit_seconds", ""), mean_ms("millstream_latency_seconds", "stage=\"total\""));
    waited.sort_unstable();
    let at = |share: f64| waited[(waited.len() as f64 * share) as usize].as_millis();
    let most = waited[waited.len() - 1];
    eprintln!(
        "a commit takes {commit_ms:.1} ms; an event is answered {inside_ms:.1} ms after it was read, {} ms after it was sent (median; 99 %: {}, most: {})",
        at(0.5),
        at(0.99),
        most.as_millis()
    );
    // The commit that is under way, the interval's rest, its own commit: by the longest commit that there was.
    let longest = longest_commit(&metrics);
    assert!(most < Duration::from_millis(100 + 500) + 2 * longest, "{most:?}, with commits of up to {longest:?}");
    let counted = figure("millstream_latency_seconds_count", "stage=\"total\"");
    assert!(counted <= (1 + events) as f64, "each prediction is counted once, not {counted} times in all");
    assert_eq!(stage.proxy.seen(Api::InitProducerId), fences, "a producer that is well is not made anew");
    stage.stream.committed(&mut daemon, stage.sent);
    stage.verdict(daemon);
}
