//! Kafka's protocol spoken directly, against a real broker and two other clients: what this one writes, librdkafka
//! and the console consumer read byte for byte, and the other way round; transactions commit, abort and fence; and a
//! broker that keeps still is waited for no longer than was said.

mod support;

use millstream::kafka::direct::build::{Entry, HeaderEntry};
use millstream::kafka::direct::calls::CoordinatorOf;
use millstream::kafka::direct::txn_calls::{Identity, InitProducerId};
use millstream::kafka::direct::{
    Broken, Cluster, Error, FetchSettings, Fetcher, Membership, ProduceSettings, Producer, Settings, batch, code,
};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::broker::Broker;
use support::secure_broker::{ALICE, SCRAM, SecureBroker};

/// The timestamps here are of another year: retention would remove the messages while they are read.
const FOR_GOOD: (&str, &str) = ("retention.ms", "-1");

const ALL: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

fn settings(broker: &Broker) -> Settings {
    Settings::new(&broker.address())
}

fn plain(compression: &str) -> ProduceSettings {
    ProduceSettings { compression: compression.parse().unwrap(), batch_bytes: 10_000, ..ProduceSettings::default() }
}

fn transactional(name: &str) -> ProduceSettings {
    ProduceSettings { transactional: Some(name.into()), ..ProduceSettings::default() }
}

fn value(n: u64) -> Vec<u8> {
    // Some repeats, some doesn't; lengths on both sides of a varint's edge.
    (0..n % 200).flat_map(|i| [b'v', (n.wrapping_mul(31).wrapping_add(i * i)) as u8]).collect()
}

fn entry<'a>(key: Option<&'a [u8]>, value: &'a [u8]) -> Entry<'a> {
    Entry { key, value: Some(value), timestamp: 1_700_000_000_123, headers: &[] }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

/// A message as read by the fetcher.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Read {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Waits until no transaction is open in a partition: a commit is for good before its readers see it.
fn settled(broker: &Broker, topic: &str, partition: i32) {
    let mut cluster = Cluster::new(settings(broker)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut end = |committed| cluster.watermarks(topic, partition, committed, deadline).unwrap().1;
    while end(true) < end(false) {
        assert!(Instant::now() < deadline, "{topic}/{partition}: a transaction stays open");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Everything of a partition from an offset on, until its end.
fn read_from(broker: &Broker, topic: &str, partition: i32, offset: i64, committed: bool) -> Vec<Read> {
    let how = FetchSettings { committed, wait: Duration::from_millis(10), tells_end: true, ..FetchSettings::default() };
    let mut fetcher = Fetcher::open(settings(broker), how).unwrap();
    let slot = fetcher.add(topic, partition, offset);
    let (mut all, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(60));
    loop {
        assert!(Instant::now() < deadline, "{topic}/{partition} doesn't end: {} read", all.len());
        let Some(mut fetched) = fetcher.next(Duration::from_millis(500)).unwrap() else {
            if fetcher.is_at_end(slot) {
                return all;
            }
            continue;
        };
        while let Some(message) = fetched.peek().unwrap() {
            let headers = batch::headers(message.headers);
            let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
            all.push(Read {
                offset: message.offset,
                timestamp: message.timestamp,
                key: message.key.map(<[u8]>::to_vec),
                value: message.value.map(<[u8]>::to_vec),
                headers: headers.map(|(name, value)| (text(name), value.map(<[u8]>::to_vec))).collect(),
            });
            fetched.advance();
        }
        fetcher.give_back(fetched);
    }
}

#[test]
fn what_is_written_is_read_by_librdkafka_and_the_console_consumer() {
    let broker = Broker::shared();
    for compression in ALL {
        let topic = format!("direct-out-{compression}");
        broker.create_topic_with(&topic, 3, &[FOR_GOOD]);
        let mut producer = Producer::open(settings(broker), plain(compression)).unwrap();
        let headers: [HeaderEntry<'_>; 3] = [(b"trace", Some(b"a1")), (b"none", None), (b"trace", Some(b""))];
        for n in 0..3_000u64 {
            let (key, value) = (n.to_string(), value(n));
            let entry = Entry {
                key: (n % 4 != 0).then_some(key.as_bytes()),
                value: Some(&value),
                timestamp: 1_700_000_000_000 + n as i64,
                headers: if n % 5 == 0 { &headers } else { &[] },
            };
            producer.send(&topic, (n % 3) as i32, &entry).unwrap();
        }
        producer.flush().unwrap();
        let stored = broker.consume_all(&topic, true);
        assert_eq!(stored.len(), 3_000, "{compression}");
        for message in &stored {
            let n = message.offset as u64 * 3 + message.partition as u64;
            assert_eq!(message.value, value(n), "{compression} {n}");
            assert_eq!(message.key, (!n.is_multiple_of(4)).then(|| n.to_string().into_bytes()));
            let expected = if n.is_multiple_of(5) { 3 } else { 0 };
            assert_eq!(message.headers.len(), expected);
            if expected > 0 {
                assert_eq!(message.headers[0], ("trace".into(), Some(b"a1".to_vec())));
                assert_eq!(message.headers[1], ("none".into(), None));
            }
        }
    }
    let shown = broker.console_consumer("direct-out-zstd", 0, 7);
    // Offsets 0 to 6 of partition 0 hold every third message.
    let expected: Vec<String> = (0..7u64)
        .map(|i| {
            let n = i * 3;
            let headers = if n % 5 == 0 { "trace:a1,none:null,trace:" } else { "NO_HEADERS" };
            let key = if n % 4 == 0 { "null".to_string() } else { n.to_string() };
            format!("CreateTime:{}\t{headers}\t{key}\t", 1_700_000_000_000 + n)
        })
        .collect();
    for line in &expected {
        assert!(shown.contains(line), "{line:?} is not in what the console consumer showed:\n{shown}");
    }
}

#[test]
fn what_librdkafka_writes_is_read() {
    let broker = Broker::shared();
    for compression in ALL {
        let topic = format!("direct-in-{compression}");
        broker.create_topic_with(&topic, 1, &[FOR_GOOD]);
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", broker.address())
            .set("compression.type", compression)
            .set("linger.ms", "20")
            .create()
            .unwrap();
        for n in 0..2_000u64 {
            let (key, value) = (n.to_string(), value(n));
            let mut record = BaseRecord::to(&topic).partition(0).payload(&value).key(&key).timestamp(1_000 + n as i64);
            if n % 3 == 0 {
                record = record.headers(OwnedHeaders::new().insert(Header { key: "h", value: Some("x") }));
            }
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(30)).unwrap();
        let read = read_from(broker, &topic, 0, 0, true);
        assert_eq!(read.len(), 2_000, "{compression}");
        for (n, message) in read.iter().enumerate() {
            let headers = if n % 3 == 0 { vec![("h".to_string(), Some(b"x".to_vec()))] } else { Vec::new() };
            let expected = Read {
                offset: n as i64,
                timestamp: 1_000 + n as i64,
                key: Some(n.to_string().into_bytes()),
                value: Some(value(n as u64)),
                headers,
            };
            assert_eq!(*message, expected, "{compression}");
        }
        assert_eq!(read_from(broker, &topic, 0, 1_234, true)[0].offset, 1_234, "from the middle of a batch");
    }
}

fn commits_aborts_and_fences(broker: &Broker) {
    broker.create_topic_with("direct-txn", 2, &[FOR_GOOD]);
    let mut producer = Producer::open(settings(broker), transactional("direct-txn-0")).unwrap();
    let outside = Membership::outside("direct-group");
    let mut expected = Vec::new();
    for round in 0..20i64 {
        for n in 0..50 {
            let value = format!("{round}-{n}");
            producer.send("direct-txn", n % 2, &entry(None, value.as_bytes())).unwrap();
            if round % 3 != 2 && n % 2 == 0 {
                expected.push(value.into_bytes());
            }
        }
        match round % 3 {
            2 => {
                producer.flush().unwrap();
                producer.abort().unwrap();
            }
            _ => producer.commit(&[("direct-txn", vec![(0, round), (1, round + 100)])], &outside).unwrap(),
        }
    }
    assert_eq!(broker.committed_offset("direct-group", "direct-txn", 1), Some(119));
    let mut cluster = Cluster::new(settings(broker)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let committed = cluster.committed("direct-group", "direct-txn", &[0, 1], deadline).unwrap();
    assert_eq!(committed, [Some(19), Some(119)]);
    (0..2).for_each(|partition| settled(broker, "direct-txn", partition));
    let seen = broker.consume_all("direct-txn", true);
    let first: Vec<Vec<u8>> = seen.iter().filter(|m| m.partition == 0).map(|m| m.value.clone()).collect();
    assert_eq!(first, expected);
    let own: Vec<Vec<u8>> = read_from(broker, "direct-txn", 0, 0, true).into_iter().filter_map(|m| m.value).collect();
    assert_eq!(own, expected);
    let all = read_from(broker, "direct-txn", 0, 0, false);
    assert_eq!(all.len(), 20 * 25, "what was aborted is there, for those who want it");

    // An open transaction is not read, nor anything behind it.
    producer.send("direct-txn", 0, &entry(None, b"open")).unwrap();
    producer.flush().unwrap();
    broker.produce("direct-txn", 0, None, b"behind", &[]);
    broker.flush();
    assert_eq!(read_from(broker, "direct-txn", 0, 0, true).len(), expected.len());

    // A second producer of the same id ends it, and shuts the first one out.
    let mut second = Producer::open(settings(broker), transactional("direct-txn-0")).unwrap();
    assert!(matches!(producer.commit(&[], &outside), Err(Broken::Fenced)));
    assert!(producer.is_fenced());
    second.send("direct-txn", 0, &entry(None, b"second")).unwrap();
    second.commit(&[], &outside).unwrap();
    settled(broker, "direct-txn", 0);
    let after: Vec<Vec<u8>> = read_from(broker, "direct-txn", 0, 0, true).into_iter().filter_map(|m| m.value).collect();
    assert_eq!(after[expected.len()..], [b"behind".to_vec(), b"second".to_vec()]);
}

/// Somebody asks for the transactional id and never comes back for the answer. That ends the transaction which is open:
/// in version 2 the producer learns that nobody has taken over, and goes on; before, it can't know.
fn a_fence_that_goes_no_further(broker: &Broker) -> Result<(), Broken> {
    broker.create_topic_with("half-fenced", 1, &[FOR_GOOD]);
    let mut producer = Producer::open(settings(broker), transactional("half-fenced-0")).unwrap();
    let outside = Membership::outside("half-fenced");
    let send = |producer: &mut Producer, value: &[u8]| {
        producer.send("half-fenced", 0, &entry(None, value)).and_then(|()| producer.flush())
    };
    send(&mut producer, b"before").unwrap();
    producer.commit(&[], &outside).unwrap();
    send(&mut producer, b"lost").unwrap();
    let fence = InitProducerId { transactional: Some("half-fenced-0"), timeout_ms: 60_000, identity: Identity::NONE };
    let asked =
        Cluster::new(settings(broker)).unwrap().ask_coordinator(CoordinatorOf::Transaction, "half-fenced-0", &fence);
    assert_eq!(asked.unwrap_err().code(), Some(code::CONCURRENT_TRANSACTIONS), "it ends the open transaction first");
    settled(broker, "half-fenced", 0);
    let refused = send(&mut producer, b"never").unwrap_err();
    assert_eq!(refused.code(), Some(code::INVALID_PRODUCER_EPOCH), "{refused}");
    producer.abort()?;
    assert!(!producer.is_broken());
    send(&mut producer, b"after").unwrap();
    producer.commit(&[], &outside).unwrap();
    settled(broker, "half-fenced", 0);
    let read = read_from(broker, "half-fenced", 0, 0, true).into_iter().filter_map(|m| m.value);
    assert_eq!(read.collect::<Vec<_>>(), [b"before".to_vec(), b"after".to_vec()]);
    Ok(())
}

#[test]
fn a_fence_that_goes_no_further_costs_one_transaction_in_version_2() {
    let broker = Broker::shared();
    let done = a_fence_that_goes_no_further(broker);
    let mut cluster = Cluster::new(settings(broker)).unwrap();
    cluster.watermarks("half-fenced", 0, true, Instant::now() + Duration::from_secs(20)).unwrap();
    match cluster.transaction_level() {
        2.. => done.unwrap(),
        // A broker before 4, asked for by its version.
        _ => assert!(matches!(done, Err(Broken::Fenced))),
    }
}

#[test]
fn transactions_commit_abort_and_fence_in_version_2() {
    commits_aborts_and_fences(Broker::shared());
}

#[test]
fn transactions_commit_abort_and_fence_in_version_1() {
    let broker = Broker::with(|_, usual| usual, &["--feature".into(), "transaction.version=0".into()]);
    commits_aborts_and_fences(&broker);
    assert!(matches!(a_fence_that_goes_no_further(&broker), Err(Broken::Fenced)));
}

/// What is written before the last transaction's markers are, a broker of 4.0 or later lets wait for 20 ms.
#[test]
fn a_transaction_begins_as_soon_as_the_last_one_has_ended() {
    let broker = Broker::shared();
    broker.create_topic_with("in-a-row", 4, &[FOR_GOOD]);
    let mut producer = Producer::open(settings(broker), transactional("in-a-row")).unwrap();
    let outside = Membership::outside("in-a-row");
    let mut median_of_some = || {
        let one = |_| {
            let began = Instant::now();
            (0..4).for_each(|partition| producer.send("in-a-row", partition, &entry(None, b"v")).unwrap());
            producer.commit(&[("in-a-row", vec![(0, 1)])], &outside).unwrap();
            began.elapsed()
        };
        let mut times: Vec<Duration> = (0..21).map(one).collect();
        times.sort();
        times[times.len() / 2]
    };
    // The machine may be busy, and the broker's code not yet compiled; with the wait, none is below 20 ms.
    let deadline = Instant::now() + Duration::from_secs(30);
    while median_of_some() > Duration::from_millis(18) {
        assert!(Instant::now() < deadline, "transactions that follow one another take longer than 18 ms");
    }
}

/// A producer with two partitions in a transaction, of which the coordinator forgets the first: it comes back with its
/// log as it was before, as from a replica that hadn't copied the end.
fn half_forgotten(broker: &Broker, topic: &str) -> Producer {
    broker.create_topic_with(topic, 2, &[FOR_GOOD]);
    let mut producer = Producer::open(settings(broker), transactional(topic)).unwrap();
    producer.send(topic, 0, &entry(None, b"before")).unwrap();
    producer.commit(&[], &Membership::outside(topic)).unwrap();
    settled(broker, topic, 0);
    broker.stop();
    broker.keep("__transaction_state", 0);
    broker.start();
    producer.send(topic, 0, &entry(None, b"first")).unwrap();
    producer.flush().unwrap();
    broker.kill();
    broker.bring_back("__transaction_state", 0);
    broker.start();
    producer.send(topic, 1, &entry(None, b"second")).unwrap();
    producer.flush().unwrap();
    producer
}

fn visible(broker: &Broker, topic: &str) -> [Vec<Vec<u8>>; 2] {
    (0..2).for_each(|partition| settled(broker, topic, partition));
    [0, 1].map(|partition| read_from(broker, topic, partition, 0, true).into_iter().filter_map(|m| m.value).collect())
}

#[test]
fn what_a_coordinator_has_forgotten_is_committed_and_aborted_with_the_rest() {
    let broker = Broker::new();
    let outside = Membership::outside("forgotten");
    let mut producer = half_forgotten(&broker, "forgotten-commit");
    producer.commit(&[], &outside).unwrap();
    let committed = [vec![b"before".to_vec(), b"first".to_vec()], vec![b"second".to_vec()]];
    assert_eq!(visible(&broker, "forgotten-commit"), committed);

    let mut producer = half_forgotten(&broker, "forgotten-abort");
    producer.abort().unwrap();
    producer.send("forgotten-abort", 0, &entry(None, b"after")).unwrap();
    producer.commit(&[], &outside).unwrap();
    assert_eq!(visible(&broker, "forgotten-abort"), [vec![b"before".to_vec(), b"after".to_vec()], vec![]]);

    // Whoever takes over knows only where the other may have written to.
    drop(half_forgotten(&broker, "forgotten-kill"));
    let mut second = Producer::open(settings(&broker), transactional("forgotten-kill")).unwrap();
    second.abort_at(&[("forgotten-kill".into(), vec![0, 1])]).unwrap();
    second.send("forgotten-kill", 0, &entry(None, b"after")).unwrap();
    second.commit(&[], &outside).unwrap();
    assert_eq!(visible(&broker, "forgotten-kill"), [vec![b"before".to_vec(), b"after".to_vec()], vec![]]);
}

#[test]
fn offsets_of_a_generation_that_is_over_are_refused_and_nothing_is_visible() {
    let broker = Broker::shared();
    broker.create_topic_with("direct-stale", 1, &[FOR_GOOD]);
    let mut producer = Producer::open(settings(broker), transactional("direct-stale-0")).unwrap();
    let stale = Membership { generation: 7, member: "nobody".into(), ..Membership::outside("direct-stale") };
    producer.send("direct-stale", 0, &entry(None, b"never")).unwrap();
    let broken = producer.commit(&[("direct-stale", vec![(0, 1)])], &stale).unwrap_err();
    assert!(matches!(broken, Broken::Aborted(_)), "{broken}");
    producer.send("direct-stale", 0, &entry(None, b"next")).unwrap();
    producer.commit(&[], &stale).unwrap();
    settled(broker, "direct-stale", 0);
    let read: Vec<_> = read_from(broker, "direct-stale", 0, 0, true).into_iter().filter_map(|m| m.value).collect();
    assert_eq!(read, [b"next"]);
}

#[test]
fn a_broker_that_restarts_under_load_costs_neither_a_message_nor_the_order() {
    let broker = Broker::new();
    broker.create_topic_with("direct-restart", 4, &[FOR_GOOD]);
    let how = ProduceSettings { batch_bytes: 2_000, ..ProduceSettings::default() };
    let mut producer = Producer::open(settings(&broker), how).unwrap();
    std::thread::scope(|scope| {
        let restarts = scope.spawn(|| {
            for _ in 0..2 {
                broker.kill();
                broker.start();
            }
        });
        let (mut n, mut after) = (0u64, 0);
        while after < 2_000 {
            // Of now: a broker that comes back has forgotten a producer whose last message is older than a day, and
            // takes what is sent again for new.
            let (value, timestamp) = (n.to_string(), now_ms());
            let entry = Entry { timestamp, ..entry(None, value.as_bytes()) };
            producer.send("direct-restart", (n % 4) as i32, &entry).unwrap();
            n += 1;
            if n % 500 == 0 {
                producer.push().unwrap();
            }
            after += u64::from(restarts.is_finished());
        }
        producer.flush().unwrap();
        for partition in 0..4u64 {
            let read = read_from(&broker, "direct-restart", partition as i32, 0, false);
            let number = |m: Read| String::from_utf8(m.value.unwrap()).unwrap().parse::<u64>().unwrap();
            let (read, expected): (Vec<u64>, Vec<u64>) =
                (read.into_iter().map(number).collect(), (partition..n).step_by(4).collect());
            let differs = read.iter().zip(&expected).position(|(a, b)| a != b);
            let near = |all: &[u64]| {
                let at = differs.unwrap_or(read.len().min(expected.len()));
                all[at.saturating_sub(3).min(all.len())..(at + 4).min(all.len())].to_vec()
            };
            let (found, wanted) = (near(&read), near(&expected));
            let lengths = (read.len(), expected.len());
            assert!(read == expected, "partition {partition}, {lengths:?} messages: {found:?} instead of {wanted:?}");
        }
    });
}

#[test]
fn offsets_that_are_gone_partitions_that_are_none_and_messages_too_long_are_told() {
    let broker = Broker::shared();
    broker.create_topic_with("direct-edges", 1, &[("max.message.bytes", "2000"), FOR_GOOD]);
    let mut producer = Producer::open(settings(broker), ProduceSettings::default()).unwrap();
    for n in 0..100u64 {
        producer.send("direct-edges", 0, &entry(None, &n.to_be_bytes())).unwrap();
        if n % 10 == 9 {
            producer.flush().unwrap();
        }
    }
    broker.delete_before("direct-edges", 0, 40);
    let mut cluster = Cluster::new(settings(broker)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    assert_eq!(cluster.watermarks("direct-edges", 0, true, deadline).unwrap(), (40, 100));

    let mut fetcher = Fetcher::open(settings(broker), FetchSettings::default()).unwrap();
    let slot = fetcher.add("direct-edges", 0, 5);
    let error = fetcher.next(Duration::from_secs(10)).unwrap_err();
    assert!(matches!(&error, Error::OutOfRange { partition: 0, offset: 5, .. }), "{error}");
    fetcher.seek(slot, 40);
    let mut fetched = fetcher.next(Duration::from_secs(10)).unwrap().expect("moved to where there is something");
    assert_eq!(fetched.peek().unwrap().unwrap().offset, 40);

    // Too long for the client, then for the topic.
    let long = vec![b'x'; 1_100_000];
    let error = producer.send("direct-edges", 0, &entry(None, &long)).unwrap_err();
    assert_eq!(error.code(), Some(code::MESSAGE_TOO_LARGE));
    producer.send("direct-edges", 0, &entry(None, &long[..5_000])).unwrap();
    let error = producer.flush().unwrap_err();
    assert_eq!(error.code(), Some(code::MESSAGE_TOO_LARGE), "{error}");
    assert!(
        producer.send("direct-edges", 0, &entry(None, b"after")).is_err(),
        "a batch is missing: nothing goes behind it"
    );

    let soon = Instant::now() + Duration::from_millis(500);
    let error = cluster.watermarks("direct-edges", 9, true, soon).unwrap_err();
    assert_eq!(error.code(), Some(code::UNKNOWN_TOPIC_OR_PARTITION), "{error}");
}

#[test]
fn a_compacted_topic_is_read_with_its_gaps() {
    let broker = Broker::with(|_, usual| format!("{usual}log.cleaner.backoff.ms=100\n"), &[]);
    let settings_of = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "20"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("min.compaction.lag.ms", "0"),
    ];
    broker.create_topic_with("direct-compact", 1, &settings_of);
    let how = ProduceSettings { batch_bytes: 500, ..transactional("direct-compact") };
    let mut producer = Producer::open(settings(&broker), how).unwrap();
    for round in 0..60u64 {
        for n in 0..50 {
            let (key, value) = (((round * 50 + n) * 7 % 90).to_string(), (round * 50 + n).to_string().repeat(3));
            producer.send("direct-compact", 0, &entry(Some(key.as_bytes()), value.as_bytes())).unwrap();
        }
        if round % 5 == 3 {
            producer.flush().unwrap();
            producer.abort().unwrap();
        } else {
            producer.commit(&[], &Membership::outside("g")).unwrap();
        }
    }
    settled(&broker, "direct-compact", 0);
    // Of 2,400 committed messages; the last segment is never compacted.
    let deadline = Instant::now() + Duration::from_secs(60);
    while broker.consume_all("direct-compact", true).len() > 700 {
        assert!(Instant::now() < deadline, "{} messages are left", broker.consume_all("direct-compact", true).len());
        std::thread::sleep(Duration::from_millis(100));
    }
    // Compaction may go on between two looks: until both saw the same.
    let seen = |from: i64| {
        let stored = broker.consume_all("direct-compact", true);
        let stored: Vec<_> =
            stored.into_iter().filter(|m| m.offset >= from).map(|m| (m.offset, m.key, m.value)).collect();
        let read = read_from(&broker, "direct-compact", 0, from, true);
        (stored, read.into_iter().map(|m| (m.offset, m.key, m.value.unwrap_or_default())).collect::<Vec<_>>())
    };
    for from in [0, 1, 777, 1_500, 2_222, 3_000] {
        loop {
            let (stored, read) = seen(from);
            if stored == read {
                assert!(from > 1_500 || stored.windows(2).any(|pair| pair[1].0 > pair[0].0 + 2), "gaps");
                break;
            }
            assert!(Instant::now() < deadline, "from {from}: {} and {} messages", stored.len(), read.len());
        }
    }
}

#[test]
fn batches_as_large_as_a_topic_allows_go_through() {
    let broker = Broker::shared();
    broker.create_topic_with("direct-large", 1, &[FOR_GOOD]);
    let how = ProduceSettings { batch_bytes: 1_000_000, ..transactional("direct-large") };
    let mut producer = Producer::open(settings(broker), how).unwrap();
    for n in 0..60_000u64 {
        producer.send("direct-large", 0, &entry(None, &[&n.to_be_bytes()[..], &[b'x'; 200]].concat())).unwrap();
    }
    producer.send("direct-large", 0, &entry(None, &vec![b'y'; 990_000])).unwrap();
    producer.commit(&[], &Membership::outside("g")).unwrap();
    settled(broker, "direct-large", 0);
    let read = read_from(broker, "direct-large", 0, 0, true);
    assert_eq!(read.len(), 60_001);
    let in_order =
        |(n, message): (usize, &Read)| message.value.as_ref().is_some_and(|v| v[..8] == (n as u64).to_be_bytes());
    assert!(read[..60_000].iter().enumerate().all(in_order));
    assert_eq!(read[60_000].value.as_ref().map(Vec::len), Some(990_000));
}

#[test]
fn an_address_that_swallows_everything_is_waited_for_no_longer_than_said() {
    // It takes connections and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let settings = Settings { connect_timeout: Duration::from_millis(300), ..Settings::new(&address) };
    let began = Instant::now();
    let how = ProduceSettings { delivery_timeout: Duration::from_secs(1), ..ProduceSettings::default() };
    let error = Producer::open(settings.clone(), how).unwrap_err();
    assert!(error.may_pass(), "{error}");
    let mut fetcher = Fetcher::open(settings.clone(), FetchSettings::default()).unwrap();
    fetcher.add("t", 0, 0);
    assert!(fetcher.next(Duration::from_millis(500)).unwrap().is_none());
    let mut cluster = Cluster::new(settings).unwrap();
    assert!(cluster.watermarks("t", 0, true, Instant::now() + Duration::from_secs(1)).is_err());
    // About five seconds; a crowded machine takes longer, a wait without a bound for ever.
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

/// Reads a topic over a listener, with properties as librdkafka names them.
fn read_over(port: u16, properties: &[(&str, &str)]) -> Result<i64, Error> {
    let properties: Vec<_> = properties.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let mut settings = Settings::from_properties(&format!("127.0.0.1:{port}"), &properties)?;
    settings.connect_timeout = Duration::from_secs(5);
    let mut producer = Producer::open(settings.clone(), ProduceSettings::default())?;
    producer.send("direct-secure", 0, &entry(None, b"over a guarded listener"))?;
    producer.flush()?;
    let mut cluster = Cluster::new(settings)?;
    cluster.watermarks("direct-secure", 0, true, Instant::now() + Duration::from_secs(10)).map(|(_, high)| high)
}

#[test]
fn tls_and_logins_open_what_they_should_and_nothing_else() {
    let secure = SecureBroker::shared();
    secure.broker.create_topic_with("direct-secure", 1, &[FOR_GOOD]);
    let (ca, stranger) = (secure.file("ca.pem"), secure.file("stranger-ca.pem"));
    let (chain, key) = (secure.file("client-cert.pem"), secure.file("client-key.pem"));
    let trust = [("security.protocol", "SSL"), ("ssl.ca.location", ca.as_str())];
    let own = [("ssl.certificate.location", chain.as_str()), ("ssl.key.location", key.as_str())];
    let with = |more: &[&[(&'static str, &str)]]| -> Vec<(String, String)> {
        more.concat().into_iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    };
    let read = |port: u16, all: Vec<(String, String)>| {
        let all: Vec<(&str, &str)> = all.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        read_over(port, &all)
    };
    assert_eq!(read(secure.tls, with(&[&trust])).unwrap(), 1);
    assert_eq!(read(secure.mutual, with(&[&trust, &own])).unwrap(), 2);
    let any_name = [("ssl.endpoint.identification.algorithm", "none")];
    assert_eq!(read(secure.other_host, with(&[&trust, &any_name])).unwrap(), 3);
    let login = |protocol, mechanism, user, password| {
        let login = [("sasl.mechanism", mechanism), ("sasl.username", user), ("sasl.password", password)];
        with(&[&trust, &[("security.protocol", protocol)], &login])
    };
    assert_eq!(read(secure.sasl_tls, login("SASL_SSL", "PLAIN", ALICE.0, ALICE.1)).unwrap(), 4);
    assert_eq!(read(secure.sasl_tls, login("SASL_SSL", "SCRAM-SHA-512", SCRAM.0, SCRAM.1)).unwrap(), 5);
    assert_eq!(read(secure.sasl_plain, login("SASL_PLAINTEXT", "SCRAM-SHA-256", SCRAM.0, SCRAM.1)).unwrap(), 6);

    let refused = |port, all| match read(port, all).unwrap_err() {
        Error::Config(words) => words,
        other => panic!("not refused for good: {other:?}"),
    };
    let unknown = [("security.protocol", "SSL"), ("ssl.ca.location", stranger.as_str())];
    assert!(refused(secure.tls, with(&[&unknown])).contains("TLS"), "an authority that isn't trusted");
    assert!(refused(secure.other_host, with(&[&trust])).contains("TLS"), "another host's certificate");
    let wrong = refused(secure.sasl_tls, login("SASL_SSL", "SCRAM-SHA-512", SCRAM.0, "wr0ng-s3cret"));
    assert!(wrong.contains("refused") && !wrong.contains("wr0ng-s3cret"), "{wrong}");
    let wrong = refused(secure.sasl_plain, login("SASL_PLAINTEXT", "PLAIN", ALICE.0, "wr0ng-s3cret"));
    assert!(wrong.contains("refused") && !wrong.contains("wr0ng-s3cret"), "{wrong}");
    // Without the client's certificate the broker hangs up, which could also pass by itself.
    assert!(read_over_shortly(secure.mutual, &trust).is_err());
}

fn read_over_shortly(port: u16, properties: &[(&str, &str)]) -> Result<(), Error> {
    let properties: Vec<_> = properties.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    let settings = Settings::from_properties(&format!("127.0.0.1:{port}"), &properties)?;
    let how = ProduceSettings { delivery_timeout: Duration::from_secs(1), ..ProduceSettings::default() };
    Producer::open(settings, how).map(|_| ())
}
