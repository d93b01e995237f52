//! `kafka-latency`: from the time at which an event is due to be produced to the time at which a reader of
//! committed messages has its prediction; an open loop (no coordinated omission) at a thousand events a second
//! and at half of what the no-op loop sustains. Beside it that loop over librdkafka with the same guarantee.
//! The event's number travels as its key, which predictions keep.

use crate::broker::{Broker, PARTITIONS};
use crate::daemon::{Daemon, Place};
use crate::events::{PIPELINE, Rows};
use crate::kafka::config;
use crate::kafka_loop::Loop;
use crate::machine::now_ns;
use crate::report::{Beside, Distributions, Figure, Outcome, Report, Run};
use hdrhistogram::Histogram;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Milliseconds between two commits.
const COMMIT_MS: u64 = 10;
/// No prediction for so long is a failure.
const SILENCE_NS_MAX: u64 = 30_000_000_000;

/// What is measured.
struct Case {
    name: &'static str,
    exactly_once: bool,
    /// Events a second.
    rate: f64,
}

/// Checks that every event comes back once, while it times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    report.doing("starting a broker");
    let broker = match Broker::find() {
        Ok(broker) => broker,
        Err(reason) => {
            report.note(&format!("not measured: {reason}"));
            return Ok(());
        }
    };
    let json = Rows::new(10_000).json();
    let rows: Vec<&[u8]> = json.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    let half = run.size(20_000.0, 250_000.0);
    let cases = [
        Case { name: "exactly-once-1k", exactly_once: true, rate: 1_000.0 },
        Case { name: "at-least-once-1k", exactly_once: false, rate: 1_000.0 },
        Case { name: "exactly-once-half", exactly_once: true, rate: half },
        Case { name: "at-least-once-half", exactly_once: false, rate: half },
    ];
    for case in &cases {
        let (mut ours, mut theirs) = (histogram(), histogram());
        for turn in 0..run.size(1, 3) {
            report.doing(format!("{}, turn {}", case.name, turn + 1));
            let seconds = if run.smoke { 1.0 } else { run.seconds };
            let name = |end: &str| format!("lat-{}-{turn}-{end}-{}", case.name, std::process::id());
            ours.add(daemon_turn(&broker, case, &rows, seconds, &name("in"), &name("out"))?).expect("equal bounds");
            theirs.add(loop_turn(&broker, case, &rows, seconds, &name("lin"), &name("lout"))?).expect("equal bounds");
        }
        show(report, case, &ours, &theirs);
    }
    report.note(&format!("{COMMIT_MS} ms between commits; half load is {half} events/s"));
    Ok(())
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds that fit")
}

fn daemon_turn(
    broker: &Broker,
    case: &Case,
    rows: &[&[u8]],
    seconds: f64,
    from: &str,
    to: &str,
) -> Result<Histogram<u64>, String> {
    broker.topic(from)?;
    broker.topic(to)?;
    let mut text = config(broker, from, to, case.exactly_once, COMMIT_MS);
    text += "[source.kafka]\n\"fetch.wait.max.ms\" = \"5\"\n";
    let place = Place::new(PIPELINE, &text)?;
    let mut daemon = Daemon::start(&place, None)?;
    daemon.wait_ready()?;
    let seen = open_loop(broker, rows, case.rate, seconds, from, to);
    let log = daemon.log();
    daemon.stop()?;
    seen.map_err(|e| format!("{e}\n{log}"))
}

fn loop_turn(
    broker: &Broker,
    case: &Case,
    rows: &[&[u8]],
    seconds: f64,
    from: &str,
    to: &str,
) -> Result<Histogram<u64>, String> {
    broker.topic(from)?;
    broker.topic(to)?;
    let plan = Loop {
        brokers: broker.address.clone(),
        from: from.to_string(),
        to: to.to_string(),
        messages: 0,
        exactly_once: case.exactly_once,
        commit_ms: COMMIT_MS,
    };
    let looping = plan.start()?;
    let seen = open_loop(broker, rows, case.rate, seconds, from, to)?;
    looping.finish()?;
    Ok(seen)
}

/// Sends events at their due times, and takes what comes back: each of them once.
fn open_loop(
    broker: &Broker,
    rows: &[&[u8]],
    rate: f64,
    seconds: f64,
    from: &str,
    to: &str,
) -> Result<Histogram<u64>, String> {
    let total = ((rate * seconds) as u64).max(1);
    let reader = reader(broker, to)?;
    // Set when the first event is due; until then the reader waits.
    let began = Arc::new(AtomicU64::new(0));
    let start = began.clone();
    std::thread::scope(|scope| {
        let taking = scope.spawn(move || take(&reader, total, rate, &start));
        let sent = send(broker, rows, rate, total, from, &began);
        let taken = taking.join().map_err(|_| "the reader panicked".to_string())?;
        sent.and(taken)
    })
}

fn reader(broker: &Broker, to: &str) -> Result<BaseConsumer, String> {
    let mut config = broker.client();
    config.set("group.id", "bench-reader").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "2");
    let consumer: BaseConsumer = config.create().map_err(|e| e.to_string())?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(to, partition, Offset::Beginning).map_err(|e| e.to_string())?;
    }
    consumer.assign(&list).map_err(|e| e.to_string())?;
    Ok(consumer)
}

fn send(broker: &Broker, rows: &[&[u8]], rate: f64, total: u64, from: &str, began: &AtomicU64) -> Result<(), String> {
    let mut config = broker.client();
    config.set("linger.ms", "0").set("queue.buffering.max.messages", "1000000");
    let producer: BaseProducer = config.create().map_err(|e| e.to_string())?;
    producer.client().fetch_metadata(Some(from), Duration::from_secs(30)).map_err(|e| e.to_string())?;
    let start = now_ns();
    began.store(start, Relaxed);
    let mut sent = 0;
    while sent < total {
        let due = ((((now_ns() - start) as f64 * rate / 1e9) as u64) + 1).min(total);
        while sent < due {
            let (key, value) = (sent.to_le_bytes(), rows[sent as usize % rows.len()]);
            let partition = (sent % PARTITIONS as u64) as i32;
            let record = BaseRecord::to(from).partition(partition).key(&key[..]).payload(value);
            producer.send(record).map_err(|(e, _)| format!("send: {e}"))?;
            sent += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_micros(200));
    }
    producer.flush(Duration::from_secs(60)).map_err(|e| format!("send: {e}"))
}

fn take(reader: &BaseConsumer, total: u64, rate: f64, began: &AtomicU64) -> Result<Histogram<u64>, String> {
    let (mut latency, mut seen, mut count) = (histogram(), vec![false; total as usize], 0);
    let mut last = now_ns();
    while count < total {
        match reader.poll(Duration::from_millis(50)) {
            Some(Ok(message)) => {
                last = now_ns();
                let number = message.key().and_then(|key| key.try_into().ok()).map(u64::from_le_bytes);
                let slot = number.and_then(|n| seen.get_mut(n as usize)).ok_or("an answer to no event of ours")?;
                if std::mem::replace(slot, true) {
                    return Err(format!("event {number:?} was answered twice"));
                }
                let due = began.load(Relaxed) + (number.unwrap_or(0) as f64 * 1e9 / rate) as u64;
                latency.saturating_record(last.saturating_sub(due));
                count += 1;
            }
            Some(Err(error)) => return Err(error.to_string()),
            None if began.load(Relaxed) > 0 && now_ns() - last > SILENCE_NS_MAX => {
                return Err(format!("{count} of {total} events were answered, then no more"));
            }
            None => {}
        }
    }
    Ok(latency)
}

fn show(report: &mut Report, case: &Case, ours: &Histogram<u64>, theirs: &Histogram<u64>) {
    let samples = ours.len();
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        let [value, peer] = [ours, theirs].map(|h| h.value_at_quantile(quantile) as f64 / 1e6);
        let name = format!("{}-{name}", case.name);
        let beside = Some(Beside { name: "librdkafka, no-op".into(), value: peer, ratio: value / peer });
        let figure = Figure { name: &name, unit: "ms", value, worst: None, beside, samples, hash: None };
        match quantile {
            1.0 => {
                let all = Distributions { ours, beside: Some(theirs), unit_ns: 1e6 };
                report.distribution(&figure, &all);
            }
            _ => report.figure(&figure),
        }
    }
}
