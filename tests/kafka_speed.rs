//! How fast a lane of Kafka reads, answers and commits: figures for a person to read, with the same real broker
//! as the other scenarios. Ignored by default: `cargo test --release --test kafka_speed -- --ignored --nocapture`.

mod support;

use millstream::batch::{Block, OutRecord, Outbox, Span};
use millstream::journal::{Journal, JournalRecord};
use millstream::kafka::{self, KafkaOptions, Start};
use millstream::sink::{InputNames, Sink};
use millstream::source::{Framing, Past, Polled, Position, ReadOptions, Source};
use std::time::{Duration, Instant};
use support::broker::Broker;

const PARTITIONS: i32 = 8;
const EVENTS: u64 = 2_000_000;

fn options(broker: &Broker, group: &str) -> KafkaOptions {
    KafkaOptions {
        brokers: broker.address(),
        topics: vec!["speed-in".into()],
        group: group.into(),
        node_name: "node".into(),
        start: Start::Earliest,
        lane: 0,
        lanes: 1,
        read: ReadOptions { framing: Framing::Lines, event_bytes_max: 1 << 20, block_bytes: 256 << 10 },
        properties: Vec::new(),
        sink_topic: Some(format!("{group}-out")),
        dead_letters: None,
        exactly_once: true,
        lineage: "speed".into(),
        client: support::broker::client(),
        first_answer: Duration::from_secs(30),
    }
}

fn cpu_ms() -> u128 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as u128 * 1000 + t.tv_nsec as u128 / 1_000_000
}

fn say(what: &str, events: u64, since: Instant, cpu: u128) {
    let (wall, cpu) = (since.elapsed().as_secs_f64(), cpu_ms() - cpu);
    println!(
        "{what}: {:.2} M events/s, {:.0} ns of CPU an event",
        events as f64 / wall / 1e6,
        cpu as f64 * 1e6 / events as f64
    );
}

/// Reads all events; answers them and commits each 100 ms where `answer` is set.
fn pass(options: &KafkaOptions, what: &str, answer: bool) {
    let mut lane = kafka::open(options).unwrap();
    let source = lane.source.as_mut().unwrap();
    source.start(&[]).unwrap();
    let inputs: InputNames = (0..PARTITIONS as u32).map(|i| source.input_name(i).into()).collect();
    let (mut block, mut outbox) = (Block::default(), Outbox::default());
    let (mut seen, mut number, mut commits) = (0u64, 0, Vec::new());
    let mut record = JournalRecord { lineage: "speed".into(), ..JournalRecord::default() };
    let (start, cpu, mut last) = (Instant::now(), cpu_ms(), Instant::now());
    while seen < EVENTS {
        block.clear();
        if source.poll(&mut block, Duration::from_millis(100)).unwrap() == Polled::Filled {
            seen += block.records.len() as u64;
            if answer {
                outbox.clear();
                for taken in &block.records {
                    let start = outbox.bytes.len();
                    outbox.bytes.extend_from_slice(&taken.span.of(&block.bytes)[..55]);
                    let span = Span::new(start, start + 55);
                    outbox.records.push(OutRecord { span, input: taken.input, key: None, rows: 1 });
                    let next = Position { offset: taken.offset + 1, byte: 0 };
                    match record.positions.get_mut(&*inputs[taken.input as usize]) {
                        Some(position) => *position = next,
                        None => drop(record.positions.insert(inputs[taken.input as usize].to_string(), next)),
                    }
                }
                lane.sink.as_mut().unwrap().write(&outbox, &inputs).unwrap();
            }
        }
        if answer && (last.elapsed() > Duration::from_millis(100) || seen >= EVENTS) {
            let begin = Instant::now();
            record.number = number;
            lane.sink.as_mut().unwrap().flush().unwrap();
            lane.journal.append(&record).unwrap();
            commits.push(begin.elapsed());
            number += 1;
            last = Instant::now();
        }
    }
    say(what, seen, start, cpu);
    commits.sort();
    if let (Some(median), Some(most)) = (commits.get(commits.len() / 2), commits.last()) {
        println!("{what}: {} commits, median {median:?}, longest {most:?}", commits.len());
    }
}

#[test]
#[ignore = "figures for a person, not a check"]
fn figures() {
    let broker = Broker::shared();
    broker.create_topic("speed-in", PARTITIONS);
    let value = [b'v'; 249];
    for n in 0..EVENTS {
        broker.produce("speed-in", (n % PARTITIONS as u64) as i32, None, &value, &[]);
    }
    broker.flush();
    for round in 0..2 {
        pass(&options(broker, &format!("read{round}")), "read", false);
        pass(&options(broker, &format!("once{round}")), "read, answer, commit exactly-once", true);
        let least = KafkaOptions { exactly_once: false, ..options(broker, &format!("least{round}")) };
        pass(&least, "read, answer, commit at-least-once", true);
    }
    let mut lane = kafka::open(&KafkaOptions { topics: Vec::new(), ..options(broker, "idle") }).unwrap();
    let mut times: Vec<Duration> = (0..100)
        .map(|number| {
            let record = JournalRecord { number, lineage: "speed".into(), ..JournalRecord::default() };
            let begin = Instant::now();
            lane.journal.append(&record).unwrap();
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("a commit of the journal record alone: median {:?}, 99 of 100 under {:?}", times[50], times[98]);
}
