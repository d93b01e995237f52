//! How fast Kafka is spoken directly, and what a message costs: figures for a person to read, beside those of
//! kafka_speed.rs. Ignored: `cargo test --release --test kafka_direct_speed -- --ignored --nocapture`.

mod support;

use millstream::kafka::direct::build::Entry;
use millstream::kafka::direct::{FetchSettings, Fetcher, Membership, ProduceSettings, Producer, Settings};
use std::time::{Duration, Instant};
use support::broker::Broker;

const PARTITIONS: i32 = 8;
const MESSAGES: u64 = 2_000_000;
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

fn cpu_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn say(what: &str, messages: u64, since: Instant, cpu: u64) {
    let (wall, cpu) = (since.elapsed().as_secs_f64(), cpu_ns() - cpu);
    let (rate, each) = (messages as f64 / wall / 1e6, cpu as f64 / messages as f64);
    println!("{what}: {rate:.2} M messages/s, {each:.0} ns of CPU a message");
}

fn entry(value: &[u8]) -> Entry<'_> {
    Entry { key: None, value: Some(value), timestamp: 1_700_000_000_000, headers: &[] }
}

fn producer(broker: &Broker, transactional: Option<&str>) -> Producer {
    let how = ProduceSettings { transactional: transactional.map(String::from), ..ProduceSettings::default() };
    Producer::open(Settings::new(&broker.address()), how).unwrap()
}

fn fetcher(broker: &Broker) -> Fetcher {
    let mut fetcher = Fetcher::open(Settings::new(&broker.address()), FetchSettings::default()).unwrap();
    for partition in 0..PARTITIONS {
        fetcher.add("speed-in", partition, 0);
    }
    fetcher
}

/// Writes all messages, 249 bytes each.
fn write(broker: &Broker, topic: &str, what: &str) {
    let mut producer = producer(broker, None);
    let (start, cpu, value) = (Instant::now(), cpu_ns(), [b'v'; 249]);
    for n in 0..MESSAGES {
        // As an outbox does it: a run for each partition.
        producer.send(topic, (n / 500 % PARTITIONS as u64) as i32, &entry(&value)).unwrap();
    }
    producer.flush().unwrap();
    say(what, MESSAGES, start, cpu);
}

/// Reads all messages; answers each with 55 bytes where a producer is given, and commits where it is transactional.
fn read(broker: &Broker, what: &str, mut answers: Option<Producer>, commits: bool) {
    let mut fetcher = fetcher(broker);
    let (start, cpu, mut seen, mut bytes) = (Instant::now(), cpu_ns(), 0u64, 0usize);
    let (mut last, mut times, outside) = (Instant::now(), Vec::new(), Membership::outside("speed"));
    let mut next = [0i64; PARTITIONS as usize];
    while seen < MESSAGES {
        let Some(mut fetched) = fetcher.next(Duration::from_secs(10)).unwrap() else { panic!("{seen} came") };
        while let Some(message) = fetched.peek().unwrap() {
            let value = message.value.unwrap_or_default();
            bytes += value.len();
            next[message.slot] = message.offset + 1;
            if let Some(answers) = &mut answers {
                answers.send("speed-out", message.slot as i32, &entry(&value[..55])).unwrap();
            }
            fetched.advance();
            seen += 1;
        }
        fetcher.give_back(fetched);
        if let Some(answers) = &mut answers {
            answers.push().unwrap();
            if commits && (last.elapsed() >= COMMIT_INTERVAL || seen >= MESSAGES) {
                let begin = Instant::now();
                let offsets = (0..PARTITIONS).map(|partition| (partition, next[partition as usize])).collect();
                answers.commit(&[("speed-in", offsets)], &outside).unwrap();
                times.push(begin.elapsed());
                last = Instant::now();
            }
        }
    }
    answers.iter_mut().for_each(|answers| answers.flush().unwrap());
    assert_eq!(bytes as u64, seen * 249);
    say(what, seen, start, cpu);
    times.sort();
    if let (Some(median), Some(most)) = (times.get(times.len() / 2), times.last()) {
        println!("{what}: {} commits, median {median:?}, longest {most:?}", times.len());
    }
}

#[test]
#[ignore = "figures for a person, not a check"]
fn figures() {
    let broker = Broker::shared();
    for topic in ["speed-in", "speed-out", "speed-more"] {
        // The timestamps are of another year.
        broker.create_topic_with(topic, PARTITIONS, &[("retention.ms", "-1")]);
    }
    write(broker, "speed-in", "write");
    for round in 0..2 {
        write(broker, "speed-more", "write");
        read(broker, "read", None, false);
        read(broker, "read and answer", Some(producer(broker, None)), false);
        let name = format!("speed-{round}");
        read(broker, "read, answer, commit each 100 ms", Some(producer(broker, Some(&name))), true);
    }
}
