//! The story: a person with kcat beside the daemon. What the direct client wrote, kcat shows, with key, headers,
//! timestamp and order, whatever the compression, and nothing of transactions but what was committed; what kcat
//! sends, with keys, headers and compression, the daemon reads, and kcat reads the answers.

mod support;

use millstream::kafka::direct::build::{Entry, HeaderEntry};
use millstream::kafka::direct::{Membership, ProduceSettings, Producer, Settings};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};
use support::broker::Broker;
use support::daemon::Scene;
use support::events::{self, SPEC};
use support::stream::{self, PARTITIONS, Stream, by_partition, oracle};
use support::verdict::{assert_each_once, assert_same};

/// Runs kcat with these arguments and this input, within a minute, and returns what it wrote.
fn kcat(broker: &Broker, arguments: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("timeout");
    command.args(["60", "kcat", "-b", &broker.address()]).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("timeout runs");
    let mut stdin = child.stdin.take().expect("piped");
    let done = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).and_then(|()| stdin.flush()));
        child.wait_with_output().expect("its end")
    });
    let said = String::from_utf8_lossy(&done.stderr);
    let hint = match done.status.code() {
        Some(127) => "kcat is missing: run scripts/setup test, or install the package kcat",
        Some(124) => "it didn't end",
        _ => "",
    };
    assert!(done.status.success(), "kcat {arguments:?}: {} {hint}\n{said}", done.status);
    String::from_utf8(done.stdout).expect("text")
}

/// A partition's messages as kcat shows them: one JSON object each.
fn shown(broker: &Broker, topic: &str, partition: i32, isolation: &str) -> Vec<Value> {
    let (partition, isolation) = (partition.to_string(), format!("isolation.level={isolation}"));
    let all = kcat(
        broker,
        &["-C", "-t", topic, "-p", &partition, "-o", "beginning", "-e", "-q", "-J", "-X", &isolation],
        b"",
    );
    all.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The n-th message of the first test as kcat is to show it.
fn expected(topic: &str, n: u64, offset: u64) -> Value {
    let headers = if n.is_multiple_of(3) { json!(["trace", "a1", "none", null, "trace", ""]) } else { Value::Null };
    let key = if n.is_multiple_of(4) { Value::Null } else { json!(format!("k{n}")) };
    let ts = 1_700_000_000_000 + n;
    json!({ "topic": topic, "partition": 0, "offset": offset, "ts": ts, "headers": headers, "key": key, "payload": format!("value {n}") })
}

#[test]
fn what_the_direct_client_wrote_kcat_shows() {
    let broker = Broker::shared();
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("kcat-{compression}");
        // The timestamps are of another year.
        broker.create_topic_with(&topic, 1, &[("retention.ms", "-1")]);
        let how = ProduceSettings {
            compression: compression.parse().expect("a compression"),
            transactional: Some(topic.clone()),
            ..ProduceSettings::default()
        };
        let mut producer = Producer::open(Settings::new(&broker.address()), how).expect("a producer");
        let send = |producer: &mut Producer, numbers: std::ops::Range<u64>| {
            let headers: [HeaderEntry<'_>; 3] = [(b"trace", Some(b"a1")), (b"none", None), (b"trace", Some(b""))];
            for n in numbers {
                let (key, value) = (format!("k{n}"), format!("value {n}"));
                let entry = Entry {
                    key: (!n.is_multiple_of(4)).then_some(key.as_bytes()),
                    value: Some(value.as_bytes()),
                    timestamp: 1_700_000_000_000 + n as i64,
                    headers: if n.is_multiple_of(3) { &headers } else { &[] },
                };
                producer.send(&topic, 0, &entry).expect("taken");
            }
            producer.flush().expect("acknowledged");
        };
        // Offsets 0..500, a marker; 501..1001 aborted, a marker; 1002..1502, a marker.
        let outside = Membership::outside(&topic);
        send(&mut producer, 0..500);
        producer.commit(&[], &outside).expect("committed");
        send(&mut producer, 500..1_000);
        producer.abort().expect("aborted");
        send(&mut producer, 1_000..1_500);
        producer.commit(&[], &outside).expect("committed");
        let numbers = |all: bool| (0..1_500).filter(move |n| all || !(500..1_000).contains(n));
        for isolation in ["read_committed", "read_uncommitted"] {
            let shown = support::daemon::until("the last message", || {
                // A commit is for good a moment before its readers see it.
                let shown = shown(broker, &topic, 0, isolation);
                shown.last().is_some_and(|m| m["payload"] == "value 1499").then_some(shown)
            });
            let expected = numbers(isolation == "read_uncommitted").map(|n| expected(&topic, n, n + n / 500));
            let got = shown.into_iter().map(|mut message| {
                let fields = message.as_object_mut().expect("an object");
                fields.retain(|name, _| !matches!(name.as_str(), "tstype" | "broker"));
                fields.entry("headers").or_insert(Value::Null);
                message
            });
            for (number, (got, expected)) in got.zip_longest(expected).enumerate() {
                assert_eq!(got, expected, "{compression}, {isolation}, message {number}");
            }
        }
        assert!(broker.batches(&topic, 0).iter().any(|b| (b.compression > 0) == (compression != "none")));
    }
}

/// Pairs of two runs of things; the shorter one's are `None` at its end.
trait ZipLongest: Iterator + Sized {
    fn zip_longest<O: Iterator<Item = Self::Item>>(
        mut self,
        mut other: O,
    ) -> impl Iterator<Item = (Option<Self::Item>, Option<Self::Item>)> {
        std::iter::from_fn(move || match (self.next(), other.next()) {
            (None, None) => None,
            pair => Some(pair),
        })
    }
}

impl<I: Iterator> ZipLongest for I {}

#[test]
fn what_kcat_sends_the_daemon_answers() {
    for compression in ["lz4", "zstd"] {
        let stream = Stream::new(Broker::shared(), &format!("kcat-daemon-{compression}"));
        let scene = Scene::new(SPEC, &stream.config(""));
        let mut daemon = scene.start(&[]);
        let (input, mut sent) = (stream.topic("in"), 0);
        for partition in 0..PARTITIONS {
            let lines = events::json(250, partition as u64 + 1);
            let keyed = (sent..).zip(lines.lines()).map(|(n, line)| format!("k{n}|{line}\n"));
            let text: String = keyed.collect();
            let at = partition.to_string();
            let arguments =
                ["-P", "-t", &input, "-p", &at, "-K", "|", "-z", compression, "-H", "trace=t-1", "-H", "empty"];
            kcat(stream.broker, &arguments, text.as_bytes());
            sent += lines.lines().count() as u64;
            let batches = stream.broker.batches(&input, partition);
            assert!(batches.iter().any(|b| b.compression > 0), "{compression}: nothing is compressed");
        }
        stream.committed(&mut daemon, sent);
        daemon.stop();
        let made = oracle(&stream, None, &stream::json(), &[SPEC]);
        let (out, dead) = (by_partition(&stream.output("out")), stream.output("dead"));
        assert_same(&out, &made.predictions);
        assert_same(&by_partition(&dead), &made.dead);
        assert_each_once(&out, &by_partition(&dead), sent);
        assert!(!dead.is_empty(), "some events are bad");
        for letter in &dead {
            let own: Vec<_> = letter.headers.iter().take(2).map(|(k, v)| (k.as_str(), v.as_deref())).collect();
            assert_eq!(own, [("trace", Some(&b"t-1"[..])), ("empty", None)], "kcat's headers");
        }
        for partition in 0..PARTITIONS {
            let shown = shown(stream.broker, &stream.topic("out"), partition, "read_committed");
            let text = |m: &Value, field: &str| m[field].as_str().map(|text| text.as_bytes().to_vec());
            let shown: Vec<_> = shown.iter().map(|m| (text(m, "key"), text(m, "payload").expect("a value"))).collect();
            assert_eq!(shown, made.predictions[&partition], "{compression}, partition {partition}");
        }
    }
}
