//! The story: three brokers, and one of them is always in trouble. They are told to stop, which moves their leaders
//! away in good order; killed, as leaders, as coordinator of the transactions or of the group; held until the others
//! have gone on without them, and let go as leaders that don't know it. Leaders go back to where they were as soon as
//! their broker is there again. Meanwhile events flow: what the daemon says is the oracle's, byte for byte, and what
//! the client alone writes and reads is all there, in order.
//!
//! `MILLSTREAM_CLUSTER_ROUNDS` makes it longer (5 rounds are a turn of everything).

mod support;

use millstream::kafka::direct::build::Entry;
use millstream::kafka::direct::{FetchSettings, Fetcher, ProduceSettings, Producer, Settings};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::broker::Broker;
use support::daemon::{Daemon, Scene, until};
use support::events::{self, SPEC};
use support::stage::committed;
use support::stream::{Stream, by_partition, json, oracle, replay_is_equal};
use support::verdict::{assert_each_once, assert_same, assert_same_model};

/// Leaders go home quickly.
const PREFERRED: &str = "leader.imbalance.check.interval.seconds=2\nleader.imbalance.per.broker.percentage=0\n";

/// Longer than the controller waits for a broker's heartbeat.
const GIVEN_UP: Duration = Duration::from_secs(5);

fn brokers() -> &'static [Broker] {
    static ALL: OnceLock<Vec<Broker>> = OnceLock::new();
    ALL.get_or_init(|| Broker::cluster(3, PREFERRED))
}

fn rounds() -> usize {
    std::env::var("MILLSTREAM_CLUSTER_ROUNDS").map_or(5, |text| text.parse().expect("a number"))
}

/// The broker that leads a partition.
fn leader(topic: &str, partition: i32) -> &'static Broker {
    let id = until("a leader", || brokers()[0].leader(topic, partition));
    &brokers()[id as usize - 1]
}

/// One of the brokers gets into trouble, and out of it. Returns in which.
fn trouble(round: usize, input: &str) -> &'static str {
    let (what, broker) = match round % 5 {
        0 => ("a leader is told to stop", leader(input, 0)),
        1 => ("a leader is killed", leader(input, 1)),
        2 => ("the coordinator of transactions is killed", leader("__transaction_state", 0)),
        3 => ("a leader is held until it is none", leader(input, 2)),
        _ => ("the coordinator of the group is killed", leader("__consumer_offsets", 0)),
    };
    match round % 5 {
        0 => broker.stop(),
        3 => {
            broker.signal(libc::SIGSTOP);
            std::thread::sleep(GIVEN_UP);
            broker.signal(libc::SIGCONT);
            return what;
        }
        _ => broker.kill(),
    }
    std::thread::sleep(Duration::from_millis(500));
    broker.start();
    what
}

/// Waits until the daemon has committed so many events.
fn reached(daemon: &mut Daemon, events: u64) {
    until(&format!("{events} committed events"), || {
        assert!(daemon.runs(), "{}", daemon.said());
        (committed(daemon) >= events).then_some(())
    });
}

/// One test at a time: each has all three brokers.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[test]
fn the_output_is_the_oracles_whatever_happens_to_the_brokers() {
    let _alone = alone();
    let stream = Stream::new(&brokers()[0], "cluster");
    let scene = Scene::new(SPEC, &stream.config("source.kafka.\"session.timeout.ms\" = \"6000\"\n"));
    let mut daemon = scene.start(&[]);
    stream.send(&events::json(200, 1), 0);
    reached(&mut daemon, 200);
    let (stop, began) = (AtomicBool::new(false), Instant::now());
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 200;
            while !stop.load(SeqCst) {
                stream.send(&events::json(40, sent), sent);
                sent += 40;
                std::thread::sleep(Duration::from_millis(15));
            }
            sent
        });
        for round in 0..rounds() {
            let before = committed(&daemon);
            let what = trouble(round, "cluster-in");
            let healed = Instant::now();
            let goal = before.max(committed(&daemon)) + 400;
            reached(&mut daemon, goal);
            let (all, caught_up) = (began.elapsed().as_secs_f64(), healed.elapsed().as_secs_f64());
            eprintln!("{all:5.1} s, round {round}: {what}; {caught_up:.1} s later 400 more events are committed");
        }
        stop.store(true, SeqCst);
        sender.join().expect("the sender")
    });
    stream.committed(&mut daemon, sent);
    stream.group_is_at_the_end();
    daemon.stop();
    let mut made = oracle(&stream, None, &json(), &[SPEC]);
    let (out, dead) = (by_partition(&stream.output("out")), by_partition(&stream.output("dead")));
    assert_same(&out, &made.predictions);
    assert_same(&dead, &made.dead);
    assert_each_once(&out, &dead, sent);
    assert_same_model(&stream, &scene, 0, &mut made);
    replay_is_equal(&scene);
    eprintln!("{sent} events in {:.0} s", began.elapsed().as_secs_f64());
}

/// A fetcher of a partition's messages, from the first on.
fn fetcher(topic: &str, partition: i32) -> Fetcher {
    let how = FetchSettings { wait: Duration::from_millis(20), ..FetchSettings::default() };
    let mut fetcher = Fetcher::open(Settings::new(&brokers()[0].address()), how).expect("a fetcher");
    fetcher.add(topic, partition, 0);
    fetcher
}

/// What a partition holds, read until so many messages have come.
fn read(topic: &str, partition: i32, count: usize) -> Vec<u64> {
    let mut fetcher = fetcher(topic, partition);
    let all = next(&mut fetcher, count);
    assert_eq!(all.len(), count, "{topic}/{partition}");
    all
}

/// So many more messages.
fn next(fetcher: &mut Fetcher, count: usize) -> Vec<u64> {
    let (mut all, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(60));
    while all.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} came", all.len());
        let Some(mut fetched) = fetcher.next(Duration::from_millis(200)).expect("fetched") else { continue };
        while let Some(message) = fetched.peek().expect("whole") {
            let value = message.value.and_then(|value| value.try_into().ok()).expect("eight bytes");
            all.push(u64::from_be_bytes(value));
            fetched.advance();
        }
        fetcher.give_back(fetched);
    }
    all
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// Sends the numbers from `from` on to partition 0, one a message.
fn send(producer: &mut Producer, topic: &str, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let value = n.to_be_bytes();
        let entry = Entry { key: None, value: Some(&value), timestamp: now_ms(), headers: &[] };
        producer.send(topic, 0, &entry).expect("taken");
    }
    producer.flush().expect("acknowledged");
}

/// It keeps its connections, and never answers: who waits for it waits for as long as an answer may take.
#[test]
fn a_leader_that_is_held_is_left_for_the_one_that_took_over() {
    let _alone = alone();
    brokers()[0].create_topic("held", 1);
    let settings = Settings::new(&brokers()[0].address());
    let patience = settings.call_timeout;
    let mut producer = Producer::open(settings, ProduceSettings::default()).expect("a producer");
    let mut fetcher = fetcher("held", 0);
    send(&mut producer, "held", 0..100);
    assert!(next(&mut fetcher, 100).into_iter().eq(0..100));
    let held = leader("held", 0);
    held.signal(libc::SIGSTOP);
    let began = Instant::now();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        send(&mut producer, "held", 100..200);
        assert!(next(&mut fetcher, 100).into_iter().eq(100..200));
    }));
    held.signal(libc::SIGCONT);
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let took = began.elapsed();
    eprintln!("written and read {took:.1?} after the leader was held");
    assert!(took < patience * 2 / 3, "{took:?}: no look at who leads");
    // What it still had on its way comes to nothing.
    send(&mut producer, "held", 200..300);
    assert!(read("held", 0, 300).into_iter().eq(0..300));
}

#[test]
fn what_the_client_writes_is_all_there_in_order() {
    let _alone = alone();
    brokers()[0].create_topic("rolling", 6);
    let how = ProduceSettings { batch_bytes: 4_000, ..ProduceSettings::default() };
    let mut producer = Producer::open(Settings::new(&brokers()[0].address()), how).expect("a producer");
    let count = std::thread::scope(|scope| {
        let troubles = scope.spawn(|| {
            for round in [0, 1, 3] {
                trouble(round, "rolling");
            }
        });
        let (mut n, mut after) = (0u64, 0);
        while after < 10_000 {
            let value = n.to_be_bytes();
            let entry = Entry { key: None, value: Some(&value), timestamp: now_ms(), headers: &[] };
            producer.send("rolling", (n % 6) as i32, &entry).expect("taken");
            n += 1;
            if n.is_multiple_of(100) {
                producer.push().expect("pushed");
                std::thread::sleep(Duration::from_micros(500));
            }
            after += u64::from(troubles.is_finished());
        }
        producer.flush().expect("acknowledged");
        troubles.join().expect("the troubles");
        n
    });
    for partition in 0..6u64 {
        let expected: Vec<u64> = (partition..count).step_by(6).collect();
        assert!(read("rolling", partition as i32, expected.len()) == expected, "partition {partition} of {count}");
    }
    eprintln!("{count} messages");
}
