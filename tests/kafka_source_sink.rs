//! A lane of Kafka against a real broker: events come in as blocks, predictions, dead letters, the journal and
//! the offsets go out together or not at all, the past is read again byte for byte, and what can't be read again
//! is said.

mod support;

use millstream::batch::{Block, DeadLetter, OutRecord, Outbox, RecordKind, Reject, Span, Stage};
use millstream::error::Class;
use millstream::journal::{Journal, JournalRecord, Run};
use millstream::kafka::{self, KafkaLane, KafkaOptions, Start};
use millstream::sink::{InputNames, Sink};
use millstream::source::kafka::KafkaSource;
use millstream::source::{Framing, Past, Polled, Position, ReadOptions, Source};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::broker::Broker;

fn options(broker: &Broker, name: &str) -> KafkaOptions {
    KafkaOptions {
        brokers: broker.address(),
        topics: vec![format!("{name}-in")],
        group: name.to_string(),
        node_name: "node-1".into(),
        start: Start::Earliest,
        lane: 0,
        lanes: 1,
        read: ReadOptions { framing: Framing::Lines, event_bytes_max: 64, block_bytes: 64 << 10 },
        properties: vec![("fetch.wait.max.ms".into(), "50".into())],
        sink_topic: Some(format!("{name}-out")),
        dead_letters: Some(format!("{name}-dead")),
        exactly_once: true,
        lineage: "first".into(),
        client: support::broker::client(),
        first_answer: Duration::from_secs(30),
    }
}

/// Polls until `count` records have come.
fn poll_records(source: &mut KafkaSource, count: usize) -> Block {
    let mut all = Block::default();
    let deadline = Instant::now() + Duration::from_secs(60);
    while all.records.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} records came", all.records.len());
        let mut block = Block::default();
        if source.poll(&mut block, Duration::from_millis(100)).unwrap() == Polled::Filled {
            append(&mut all, &block);
        }
    }
    all
}

fn append(all: &mut Block, block: &Block) {
    let moved = |span: Span, by: usize| Span::new(span.start as usize + by, span.end as usize + by);
    let by = all.bytes.len();
    all.bytes.extend_from_slice(&block.bytes);
    for record in &block.records {
        let mut record = *record;
        record.span = moved(record.span, by);
        record.key = record.key.map(|span| moved(span, by));
        record.headers = record.headers.map(|span| moved(span, by));
        all.records.push(record);
    }
}

fn value(block: &Block, record: usize) -> &[u8] {
    block.records[record].span.of(&block.bytes)
}

/// Answers each record of a block with its own bytes in capitals.
fn answer(block: &Block) -> Outbox {
    let mut outbox = Outbox::default();
    for record in &block.records {
        let start = outbox.bytes.len();
        outbox.bytes.extend(record.span.of(&block.bytes).iter().map(u8::to_ascii_uppercase));
        let key = record.key.map(|key| {
            let start = outbox.keys.len();
            outbox.keys.extend_from_slice(key.of(&block.bytes));
            Span::new(start, outbox.keys.len())
        });
        let span = Span::new(start, outbox.bytes.len());
        outbox.records.push(OutRecord { span, input: record.input, key, rows: 1 });
        outbox.predictions += 1;
    }
    outbox
}

fn names(source: &KafkaSource, count: u32) -> InputNames {
    (0..count).map(|input| source.input_name(input).into()).collect()
}

/// The journal record after a block, on top of `before`.
fn record(number: u64, source: &KafkaSource, block: &Block, before: Option<&JournalRecord>) -> JournalRecord {
    let mut record = JournalRecord {
        number,
        lineage: "first".into(),
        seq: before.map_or(0, |b| b.seq) + block.records.len() as u64,
        positions: before.map_or(BTreeMap::new(), |b| b.positions.clone()),
        digest: format!("{number:016x}"),
        ..JournalRecord::default()
    };
    for taken in &block.records {
        let name = source.input_name(taken.input).to_string();
        let input = record.inputs.iter().position(|known| *known == name).unwrap_or_else(|| {
            record.inputs.push(name.clone());
            record.inputs.len() - 1
        }) as u32;
        match record.runs.last_mut() {
            Some(run) if run.input == input => run.end = taken.offset + 1,
            _ => record.runs.push(Run { input, end: taken.offset + 1 }),
        }
        record.positions.insert(name, Position { offset: taken.offset + 1, byte: 0 });
    }
    record
}

fn positions(record: &JournalRecord) -> Vec<(String, Position)> {
    record.positions.iter().map(|(name, position)| (name.clone(), *position)).collect()
}

fn fill(broker: &Broker, topic: &str, partitions: i32, each: i32) {
    for n in 0..each {
        for partition in 0..partitions {
            let key = format!("k{n}");
            broker.produce(topic, partition, Some(key.as_bytes()), format!("p{partition}-e{n}").as_bytes(), &[]);
        }
    }
    broker.flush();
}

/// One round: poll, answer, commit. Returns the record.
fn round(lane: &mut KafkaLane, count: usize, partitions: u32, before: Option<&JournalRecord>) -> JournalRecord {
    let source = lane.source.as_mut().unwrap();
    let block = poll_records(source, count);
    let inputs = names(source, partitions);
    let sink = lane.sink.as_mut().unwrap();
    sink.write(&answer(&block), &inputs).unwrap();
    sink.flush().unwrap();
    let next = record(before.map_or(0, |b| b.number + 1), source, &block, before);
    lane.journal.append(&next).unwrap();
    next
}

#[test]
fn events_come_in_with_key_headers_and_origin_and_answers_go_to_their_partition() {
    let broker = Broker::shared();
    let options = options(broker, "roundtrip");
    broker.create_topic("roundtrip-in", 3);
    for partition in 0..3 {
        let headers: [(&str, Option<&[u8]>); 2] = [("trace", Some(b"t1")), ("empty", None)];
        broker.produce("roundtrip-in", partition, Some(b"key"), format!("event {partition}").as_bytes(), &headers);
        broker.produce("roundtrip-in", partition, None, &[b'x'; 64], &[]);
        broker.produce("roundtrip-in", partition, None, &[b'x'; 65], &[]);
        broker.produce("roundtrip-in", partition, None, [&[b'x'; 60][..], b"\n", &[b'y'; 60]].concat().as_slice(), &[]);
    }
    broker.flush();

    let mut lane = kafka::open(&options).unwrap();
    assert_eq!(lane.journal.tail().unwrap(), None);
    let source = lane.source.as_mut().unwrap();
    source.start(&[]).unwrap();
    let block = poll_records(source, 12);
    for (at, taken) in block.records.iter().enumerate() {
        let partition = source.input_name(taken.input).strip_prefix("roundtrip-in/").unwrap().to_string();
        match taken.offset {
            0 => {
                assert_eq!(value(&block, at), format!("event {partition}").as_bytes());
                assert_eq!(taken.key.map(|key| key.of(&block.bytes)), Some(&b"key"[..]));
                let headers = taken.headers.unwrap().of(&block.bytes);
                let headers: Vec<_> = kafka::headers::iter(headers).collect();
                assert_eq!(headers, vec![(&b"trace"[..], Some(&b"t1"[..])), (b"empty", None)]);
            }
            1 => assert_eq!((taken.kind, taken.key, taken.headers), (RecordKind::Message, None, None), "at the limit"),
            2 => assert_eq!((taken.kind, value(&block, at).len()), (RecordKind::Overlong, 64), "over the limit"),
            _ => assert_eq!((taken.kind, value(&block, at).len()), (RecordKind::Message, 121), "packs two events"),
        }
    }
    let mut outbox = answer(&block);
    let first = block.records.iter().find(|r| r.offset == 0 && r.input == 1).unwrap();
    outbox.dead.push(DeadLetter {
        raw: b"bad".to_vec(),
        reject: Reject { stage: Stage::Schema, reason: "not a number", field: Some(0), byte: 0 },
        field: Some("age".into()),
        input: 1,
        offset: 7,
        row: Some(2),
        key: Some(b"key".to_vec()),
        headers: Some(first.headers.unwrap().of(&block.bytes).to_vec()),
    });
    let inputs = names(source, 3);
    let wanted = record(0, source, &block, None);
    lane.sink.as_mut().unwrap().write(&outbox, &inputs).unwrap();
    // Uncommitted, it is invisible; what a reader of uncommitted messages sees comes a moment later.
    assert!(broker.consume_all("roundtrip-out", true).is_empty());
    lane.journal.append(&wanted).unwrap();

    assert_eq!(lane.journal.tail().unwrap().as_ref(), Some(&wanted));
    let answers = broker.consume_all("roundtrip-out", true);
    assert_eq!(answers.len(), 12);
    for partition in 0..3 {
        let own: Vec<_> = answers.iter().filter(|a| a.partition == partition).collect();
        assert_eq!(own[0].value, format!("EVENT {partition}").into_bytes());
        assert_eq!(own[0].key.as_deref(), Some(&b"key"[..]));
        assert_eq!(broker.committed_offset("roundtrip", "roundtrip-in", partition), Some(4));
    }
    let dead = broker.consume_all("roundtrip-dead", true);
    assert_eq!((dead.len(), dead[0].partition, dead[0].value.as_slice()), (1, 1, &b"bad"[..]));
    assert_eq!(dead[0].header("trace").as_deref(), Some("t1"));
    assert_eq!(dead[0].header("__connect.errors.topic").as_deref(), Some("roundtrip-in"));
    assert_eq!(dead[0].header("__connect.errors.partition").as_deref(), Some("1"));
    assert_eq!(dead[0].header("__connect.errors.offset").as_deref(), Some("7"));
    assert_eq!(dead[0].header("__connect.errors.stage").as_deref(), Some("schema"));
    assert_eq!(dead[0].header("__connect.errors.exception.message").as_deref(), Some("age: not a number"));
}

#[test]
fn a_lane_that_is_opened_again_fences_the_old_one_and_goes_on_from_the_journal() {
    let broker = Broker::shared();
    let options = options(broker, "fence");
    broker.create_topic("fence-in", 2);
    fill(broker, "fence-in", 2, 10);
    let mut old = kafka::open(&options).unwrap();
    old.source.as_mut().unwrap().start(&[]).unwrap();
    let first = round(&mut old, 20, 2, None);

    // The old one has written without a commit, and is still alive when another takes the lane.
    fill(broker, "fence-in", 2, 5);
    let source = old.source.as_mut().unwrap();
    let block = poll_records(source, 10);
    let second = record(1, source, &block, Some(&first));
    let inputs = names(source, 2);
    old.sink.as_mut().unwrap().write(&answer(&block), &inputs).unwrap();
    let mut new = kafka::open(&options).unwrap();
    assert_eq!(new.journal.tail().unwrap().as_ref(), Some(&first));
    let refused = old.journal.append(&second).unwrap_err();
    assert!(refused.message.contains("lane 0 was taken by another daemon"), "{refused}");
    assert_eq!(refused.class, Class::Environment);
    // It doesn't fence back.
    assert!(old.journal.append(&second).is_err());
    assert_eq!(broker.consume_all("fence-out", true).len(), 20);

    let source = new.source.as_mut().unwrap();
    source.start(&positions(&first)).unwrap();
    let again = round(&mut new, 10, 2, Some(&first));
    assert_eq!(again.positions["fence-in/0"].offset, 15);
    assert_eq!(broker.consume_all("fence-out", true).len(), 30);
    assert_eq!(new.journal.read(0).unwrap(), vec![first, again.clone()]);
    assert_eq!(new.journal.read(1).unwrap(), vec![again]);
}

#[test]
fn what_was_not_committed_when_the_lane_closed_is_aborted() {
    let broker = Broker::shared();
    let options = options(broker, "dropped");
    broker.create_topic("dropped-in", 1);
    fill(broker, "dropped-in", 1, 4);
    let mut lane = kafka::open(&options).unwrap();
    let source = lane.source.as_mut().unwrap();
    source.start(&[]).unwrap();
    let block = poll_records(source, 4);
    let inputs = names(source, 1);
    lane.sink.as_mut().unwrap().write(&answer(&block), &inputs).unwrap();
    drop(lane);
    let mut lane = kafka::open(&options).unwrap();
    assert_eq!(lane.journal.tail().unwrap(), None);
    lane.source.as_mut().unwrap().start(&[]).unwrap();
    round(&mut lane, 4, 1, None);
    assert_eq!(broker.consume_all("dropped-out", true).len(), 4);
    assert_eq!(broker.committed_offset("dropped", "dropped-in", 0), Some(4));
}

/// The coordinator comes back with its log as it was before the killed owner's transaction, which so has no end.
#[test]
fn what_an_earlier_owner_left_open_and_the_coordinator_forgot_is_never_visible() {
    let broker = Broker::new();
    let options = options(&broker, "forgotten");
    if options.client != kafka::ClientKind::Direct {
        return; // librdkafka can't name a partition without writing to it
    }
    broker.create_topic("forgotten-in", 1);
    fill(&broker, "forgotten-in", 1, 4);
    let mut old = kafka::open(&options).unwrap();
    old.source.as_mut().unwrap().start(&[]).unwrap();
    let first = round(&mut old, 4, 1, None);
    fill(&broker, "forgotten-in", 1, 4);
    let source = old.source.as_mut().unwrap();
    let (block, inputs) = (poll_records(source, 4), names(source, 1));
    assert_eq!(old.journal.tail().unwrap().as_ref(), Some(&first), "the first has ended");
    broker.stop();
    broker.keep("__transaction_state", 0);
    broker.start();
    let batches = || broker.batches("forgotten-out", 0).len();
    let before = batches();
    let deadline = Instant::now() + Duration::from_secs(30);
    // Each write sends again what the broker was not there for.
    while batches() == before {
        assert!(Instant::now() < deadline, "the predictions don't arrive");
        old.sink.as_mut().unwrap().write(&answer(&block), &inputs).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    // As if it were killed: it aborts nothing.
    std::mem::forget(old);
    broker.kill();
    broker.bring_back("__transaction_state", 0);
    broker.start();

    let mut new = kafka::open(&options).unwrap();
    assert_eq!(new.journal.tail().unwrap().as_ref(), Some(&first));
    new.source.as_mut().unwrap().start(&positions(&first)).unwrap();
    round(&mut new, 4, 1, Some(&first));
    assert_eq!(broker.consume_all("forgotten-out", true).len(), 8, "each event is answered once");
}

#[test]
fn at_least_once_shows_predictions_at_the_flush_and_keeps_journal_and_offsets() {
    let broker = Broker::shared();
    let options = KafkaOptions { exactly_once: false, ..options(broker, "least") };
    broker.create_topic("least-in", 2);
    fill(broker, "least-in", 2, 10);
    let mut lane = kafka::open(&options).unwrap();
    let source = lane.source.as_mut().unwrap();
    source.start(&[]).unwrap();
    let block = poll_records(source, 20);
    let inputs = names(source, 2);
    let first = record(0, source, &block, None);
    let sink = lane.sink.as_mut().unwrap();
    sink.write(&answer(&block), &inputs).unwrap();
    sink.flush().unwrap();
    assert_eq!(broker.consume_all("least-out", true).len(), 20);
    lane.journal.append(&first).unwrap();
    assert_eq!(lane.journal.tail().unwrap(), Some(first));
    assert_eq!(broker.committed_offset("least", "least-in", 1), Some(10));
}

#[test]
fn short_runs_that_alternate_between_partitions_are_read_again_byte_for_byte() {
    let broker = Broker::shared();
    let options = options(broker, "replay");
    broker.create_topic("replay-in", 3);
    fill(broker, "replay-in", 3, 200);
    let mut lane = kafka::open(&options).unwrap();
    lane.source.as_mut().unwrap().start(&[]).unwrap();
    let mut whole = Block::default();
    let mut last = None;
    for _ in 0..6 {
        let block = poll_records(lane.source.as_mut().unwrap(), 90);
        let next = record(
            last.as_ref().map_or(0, |l: &JournalRecord| l.number + 1),
            lane.source.as_ref().unwrap(),
            &block,
            last.as_ref(),
        );
        lane.journal.append(&next).unwrap();
        append(&mut whole, &block);
        last = Some(next);
        if whole.records.len() == 600 {
            break;
        }
    }
    let records = lane.journal.read(0).unwrap();
    drop(lane);
    let mut lane = kafka::open(&options).unwrap();
    let source = lane.source.as_mut().unwrap();
    // Twice: the second time every partition is sought back to its start.
    for _ in 0..2 {
        let mut again = Block::default();
        let mut next: BTreeMap<String, u64> = BTreeMap::new();
        for record in &records {
            // Cut finer than they were taken: runs of at most three events, by turns.
            let mut ends: Vec<(String, u64)> = Vec::new();
            for run in &record.runs {
                ends.push((record.inputs[run.input as usize].clone(), run.end));
            }
            for (input, end) in ends {
                while next.get(&input).copied().unwrap_or(0) < end {
                    let from = next.get(&input).copied().unwrap_or(0);
                    let mut block = Block::default();
                    let cut = end.min(from + 3);
                    let polled = source.read_run(&input, Position { offset: from, byte: 0 }, cut, &mut block).unwrap();
                    assert_eq!(polled, Polled::Filled, "{input} {from}..{cut}");
                    next.insert(input.clone(), block.records.last().unwrap().offset + 1);
                    append(&mut again, &block);
                }
            }
        }
        let shown = |block: &Block| -> Vec<(u32, u64, Vec<u8>)> {
            (0..block.records.len())
                .map(|at| (block.records[at].input, block.records[at].offset, value(block, at).to_vec()))
                .collect()
        };
        assert_eq!(shown(&again), shown(&whole));
    }
    let mut block = Block::default();
    let past_end = source.read_run("replay-in/0", Position { offset: 200, byte: 0 }, 300, &mut block).unwrap();
    assert_eq!(past_end, Polled::End);
}

#[test]
fn lag_is_what_waits_behind_what_was_read() {
    let broker = Broker::shared();
    let mut options = options(broker, "lag");
    // A broker that may send a byte sends a batch: the events come in two.
    options.properties.push(("max.partition.fetch.bytes".into(), "1".into()));
    options.read.block_bytes = 1;
    broker.create_topic("lag-in", 1);
    fill(broker, "lag-in", 1, 3);
    fill(broker, "lag-in", 1, 7);
    let mut lane = kafka::open(&options).unwrap();
    let source = lane.source.as_mut().unwrap();
    source.start(&[]).unwrap();
    poll_records(source, 3);
    assert_eq!(source.lag(), vec![("lag-in/0".to_string(), Some(7))]);
    source.pause(true);
    let mut block = Block::default();
    assert_eq!(source.poll(&mut block, Duration::from_millis(10)).unwrap(), Polled::Idle);
    source.pause(false);
    let rest = poll_records(source, 7);
    assert_eq!(rest.records[0].offset, 3, "nothing is lost by a pause");
    assert_eq!(source.lag(), vec![("lag-in/0".to_string(), Some(0))]);
}

#[test]
fn latest_starts_at_the_end_and_lanes_share_the_partitions() {
    let broker = Broker::shared();
    let options = KafkaOptions { start: Start::Latest, lanes: 2, ..options(broker, "latest") };
    broker.create_topic("latest-in", 3);
    fill(broker, "latest-in", 3, 2);
    let mut even = kafka::open(&options).unwrap();
    let mut odd = kafka::open(&KafkaOptions { lane: 1, ..options.clone() }).unwrap();
    even.source.as_mut().unwrap().start(&[]).unwrap();
    odd.source.as_mut().unwrap().start(&[]).unwrap();
    fill(broker, "latest-in", 3, 1);
    let both = poll_records(even.source.as_mut().unwrap(), 2);
    assert!(both.records.iter().all(|r| r.offset == 2));
    assert_eq!(poll_records(odd.source.as_mut().unwrap(), 1).records[0].offset, 2);
    assert_eq!(odd.source.as_ref().unwrap().input_name(0), "latest-in/1");
    drop((even, odd));
    let other = kafka::open(&KafkaOptions { lanes: 3, ..options }).err().expect("another count of lanes is refused");
    assert_eq!(other.class, Class::Misuse);
    assert!(other.message.contains("was made for 2 lanes"), "{other}");
}

#[test]
fn a_prediction_topic_with_fewer_partitions_and_a_reserved_property_are_refused() {
    let broker = Broker::shared();
    let options = options(broker, "narrow");
    broker.create_topic("narrow-in", 3);
    broker.create_topic("narrow-out", 2);
    let fault = kafka::open(&options).err().expect("refused");
    assert_eq!(fault.class, Class::Misuse);
    assert!(fault.message.contains("\"narrow-out\" has 2 partitions, and the input has 3"), "{fault}");
    let property = |key: &str| {
        let properties = vec![(key.to_string(), "true".to_string())];
        kafka::open(&KafkaOptions { group: format!("narrow-{key}"), properties, ..options.clone() }).err().unwrap()
    };
    assert!(property("enable.auto.commit").message.contains("is set by Millstream itself"));
    assert_eq!(property("no.such.property").class, Class::Misuse);
    let absent = KafkaOptions { topics: vec!["no-such-topic".into()], ..options }.clone();
    assert!(kafka::open(&absent).err().unwrap().message.contains("\"no-such-topic\" doesn't exist"));
}

#[test]
fn a_position_that_retention_overtook_is_said_with_both_offsets() {
    let broker = Broker::shared();
    let options = options(broker, "overtaken");
    broker.create_topic("overtaken-in", 1);
    fill(broker, "overtaken-in", 1, 50);
    let mut lane = kafka::open(&options).unwrap();
    let source = lane.source.as_mut().unwrap();
    broker.delete_before("overtaken-in", 0, 30);
    let at = |offset| Position { offset, byte: 0 };
    let fault = source.start(&[("overtaken-in/0".into(), at(10))]).unwrap_err();
    assert_eq!(fault.class, Class::Misuse);
    assert!(
        fault.message.contains("overtaken-in/0") && fault.message.contains("10") && fault.message.contains("30"),
        "{fault}"
    );
    let mut block = Block::default();
    let fault = source.read_run("overtaken-in/0", at(29), 40, &mut block).unwrap_err();
    assert!(fault.message.contains("29") && fault.message.contains("30"), "{fault}");
    assert_eq!(source.read_run("overtaken-in/0", at(30), 40, &mut block).unwrap(), Polled::Filled);
    let fault = source.start(&[("overtaken-in/0".into(), at(51))]).unwrap_err();
    assert!(fault.message.contains("51") && fault.message.contains("50"), "{fault}");
    source.start(&[("overtaken-in/0".into(), at(30))]).unwrap();
    assert_eq!(poll_records(source, 20).records[0].offset, 30);
}

#[test]
fn the_journal_is_trimmed_behind_and_shows_only_its_lineage() {
    let broker = Broker::shared();
    let options = options(broker, "trim");
    broker.create_topic("trim-in", 1);
    let mut lane = kafka::open(&options).unwrap();
    let mut wanted = Vec::new();
    for number in 0..150 {
        let record = JournalRecord { number, lineage: "first".into(), seq: number, ..JournalRecord::default() };
        lane.journal.append(&record).unwrap();
        wanted.push(record);
    }
    assert_eq!(lane.journal.read(0).unwrap(), wanted);
    lane.journal.trim(100).unwrap();
    assert_eq!(lane.journal.read(0).unwrap(), wanted[100..]);
    assert_eq!(lane.journal.tail().unwrap().as_ref(), wanted.last());
    drop(lane);
    let mut lane = kafka::open(&KafkaOptions { lineage: "second".into(), ..options }).unwrap();
    assert_eq!(lane.journal.tail().unwrap(), None);
    let fresh = JournalRecord { lineage: "second".into(), ..JournalRecord::default() };
    lane.journal.append(&fresh).unwrap();
    assert_eq!(lane.journal.read(0).unwrap(), vec![fresh]);
}

#[test]
fn a_group_without_a_journal_is_not_waited_for() {
    let broker = Broker::shared();
    let options = options(broker, "new-group");
    let began = Instant::now();
    let found = millstream::journal::kafka::stranger(kafka::client_of(&options).as_ref(), &options).unwrap();
    assert_eq!(found, None);
    assert!(began.elapsed() < options.first_answer / 2, "a first start waits for what isn't there");
}

#[test]
fn a_lane_that_another_daemon_takes_is_a_fault() {
    let broker = Broker::shared();
    let options = options(broker, "taken");
    broker.create_topic("taken-in", 1);
    let mut lane = kafka::open(&options).unwrap();
    let source = lane.source.as_mut().unwrap();
    source.start(&[]).unwrap();
    // The same node name in another process: here, a client of the test's own.
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", broker.address()).set("group.id", "taken").set("group.instance.id", "node-1");
    config.set("partition.assignment.strategy", "cooperative-sticky").set("log_level", "0");
    let rival: rdkafka::consumer::BaseConsumer = config.create().unwrap();
    rdkafka::consumer::Consumer::subscribe(&rival, &["taken-journal"]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let fault = loop {
        assert!(Instant::now() < deadline, "the lane was not lost");
        rival.poll(Duration::from_millis(50));
        let mut block = Block::default();
        match source.poll(&mut block, Duration::from_millis(10)) {
            Err(fault) => break fault,
            Ok(polled) => assert_eq!(polled, Polled::Idle),
        }
    };
    assert_eq!(fault.class, Class::Environment);
    assert!(fault.message.contains("lane 0 was taken by another daemon"), "{fault}");
    assert!(lane.journal.append(&JournalRecord::default()).is_err());
}

#[test]
fn a_broker_that_is_killed_and_started_again_is_caught_up_with() {
    let broker = Broker::new();
    let mut options = options(&broker, "restart");
    // Shorter than the outage: the group gives the lane up, and hands it back.
    options.properties.push(("session.timeout.ms".into(), "1500".into()));
    options.properties.push(("heartbeat.interval.ms".into(), "300".into()));
    broker.create_topic("restart-in", 2);
    fill(&broker, "restart-in", 2, 10);
    let mut lane = kafka::open(&options).unwrap();
    lane.source.as_mut().unwrap().start(&[]).unwrap();
    let first = round(&mut lane, 20, 2, None);
    // Killed with a transaction open.
    fill(&broker, "restart-in", 2, 10);
    let source = lane.source.as_mut().unwrap();
    let block = poll_records(source, 20);
    let inputs = names(source, 2);
    let second = record(1, source, &block, Some(&first));
    lane.sink.as_mut().unwrap().write(&answer(&block), &inputs).unwrap();
    broker.kill();
    let mut idle = Block::default();
    assert_eq!(source.poll(&mut idle, Duration::from_millis(200)).unwrap(), Polled::Idle);
    broker.start();
    let mut committed = lane.journal.append(&second);
    if let Err(fault) = &committed {
        // Allowed, if it says so: then nothing of it is visible, and the lane goes on from its last commit.
        assert!(fault.message.starts_with("transaction aborted"), "{fault}");
        assert_eq!(lane.journal.tail().unwrap().as_ref(), Some(&first));
        lane.sink.as_mut().unwrap().write(&answer(&block), &inputs).unwrap();
        committed = lane.journal.append(&second);
    }
    committed.unwrap();
    assert_eq!(lane.journal.tail().unwrap().as_ref(), Some(&second));
    fill(&broker, "restart-in", 2, 10);
    let third = round(&mut lane, 20, 2, Some(&second));
    assert_eq!(third.positions["restart-in/1"].offset, 30);
    let answers = broker.consume_all("restart-out", true);
    let mut wanted: Vec<Vec<u8>> = Vec::new();
    for partition in 0..2 {
        for _ in 0..3 {
            wanted.extend((0..10).map(|n| format!("P{partition}-E{n}").into_bytes()));
        }
    }
    assert_eq!(answers.into_iter().map(|a| a.value).collect::<Vec<_>>(), wanted);
}

#[test]
fn a_partition_that_was_added_to_a_topic_with_a_past_is_read_whole() {
    let broker = Broker::shared();
    let options = KafkaOptions { start: Start::Latest, sink_topic: None, ..options(broker, "grown") };
    broker.create_topic("grown-in", 1);
    let mut lane = kafka::open(&options).unwrap();
    let source = lane.source.as_mut().unwrap();
    source.start(&[]).unwrap();
    fill(broker, "grown-in", 1, 3);
    let block = poll_records(source, 3);
    let first = record(0, source, &block, None);
    lane.journal.append(&first).unwrap();
    drop(lane);
    broker.grow_topic("grown-in", 2);
    fill(broker, "grown-in", 2, 2);
    let mut lane = kafka::open(&options).unwrap();
    let source = lane.source.as_mut().unwrap();
    source.start(&positions(&first)).unwrap();
    let block = poll_records(source, 4);
    let mut taken: Vec<_> = block.records.iter().map(|r| (source.input_name(r.input), r.offset)).collect();
    taken.sort_unstable();
    assert_eq!(taken, vec![("grown-in/0", 3), ("grown-in/0", 4), ("grown-in/1", 0), ("grown-in/1", 1)]);
}

#[test]
fn a_dead_letter_that_is_too_long_with_its_reasons_is_cut_and_says_so() {
    let broker = Broker::shared();
    let options = options(broker, "long");
    broker.create_topic("long-in", 1);
    let mut lane = kafka::open(&options).unwrap();
    for (number, bytes) in [(0, 990_000), (1, 1_000_000), (2, 1_048_576)] {
        let letter = DeadLetter {
            raw: vec![b'z'; bytes],
            reject: Reject { stage: Stage::Limit, reason: "too long", field: None, byte: 0 },
            field: None,
            input: 0,
            offset: number,
            row: None,
            key: None,
            headers: None,
        };
        let outbox = Outbox { dead: vec![letter], ..Outbox::default() };
        lane.sink.as_mut().unwrap().write(&outbox, &vec!["long-in/0".into()]).unwrap();
        let record = JournalRecord { number, lineage: "first".into(), ..JournalRecord::default() };
        lane.journal.append(&record).unwrap();
    }
    let dead = broker.consume_all("long-dead", true);
    assert_eq!((dead[0].value.len(), dead[0].header("millstream.raw_bytes")), (990_000, None));
    assert!(dead[1].value.len() > 990_000 && dead[1].value.len() < 1_000_000);
    assert_eq!(dead[2].header("millstream.raw_bytes").as_deref(), Some("1048576"));
}

#[test]
fn a_second_daemon_gets_a_lane_and_the_first_keeps_the_other() {
    let broker = Broker::shared();
    let first = KafkaOptions { lanes: 2, ..options(broker, "share") };
    broker.create_topic("share-in", 2);
    fill(broker, "share-in", 2, 5);
    let mut lanes: Vec<KafkaLane> =
        (0..2).map(|lane| kafka::open(&KafkaOptions { lane, ..first.clone() }).unwrap()).collect();
    let mut records = Vec::new();
    for lane in &mut lanes {
        lane.source.as_mut().unwrap().start(&[]).unwrap();
        records.push(round(lane, 5, 1, None));
    }
    let second = KafkaOptions { node_name: "node-2".into(), ..first.clone() };
    let group = kafka::group::KafkaGroup::join(&second).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while group.lanes().len() != 1 {
        assert!(Instant::now() < deadline, "no lane was handed over");
        std::thread::sleep(Duration::from_millis(20));
    }
    let moved = group.lanes()[0] as usize;
    let kept = 1 - moved;
    let mut block = Block::default();
    let fault = lanes[moved].source.as_mut().unwrap().poll(&mut block, Duration::ZERO).unwrap_err();
    assert!(fault.message.contains(&format!("lane {moved} was taken by another daemon")), "{fault}");
    let mut new = kafka::open(&KafkaOptions { lane: moved as u32, ..second }).unwrap();
    assert_eq!(new.journal.tail().unwrap().as_ref(), Some(&records[moved]));
    assert!(lanes[moved].journal.append(&JournalRecord::default()).is_err());
    fill(broker, "share-in", 2, 5);
    new.source.as_mut().unwrap().start(&positions(&records[moved])).unwrap();
    round(&mut new, 5, 1, Some(&records[moved]));
    round(&mut lanes[kept], 5, 1, Some(&records[kept]));
    let answers = broker.consume_all("share-out", true);
    assert_eq!(answers.iter().filter(|a| a.partition == 0).count(), 10);
    assert_eq!(answers.iter().filter(|a| a.partition == 1).count(), 10);
}
