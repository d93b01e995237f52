//! `kafka-latency`: from the time at which an event is due to be produced to the time at which a reader of
//! committed messages has its prediction; an open loop (no coordinated omission) at a thousand events a second
//! and at half of what the no-op loop sustains, with the sender and the reader beside it on the same machine. Beside
//! it that loop over librdkafka with the same guarantee. The event's number travels as its key, which predictions
//! keep.
//!
//! What a turn begins with isn't timed: topics that are new, clients that meet, a broker whose code isn't compiled
//! yet. It is checked all the same.

use crate::broker::{Broker, PARTITIONS};
use crate::daemon::{Daemon, Place};
use crate::events::{PIPELINE, Rows};
use crate::kafka::config;
use crate::kafka_loop::Loop;
use crate::machine::now_ns;
use crate::report::{Beside, Distributions, Figure, Outcome, Report, Run};
use hdrhistogram::Histogram;
use millstream::kafka::direct::build::Entry;
use millstream::kafka::direct::{ProduceSettings, Producer, Settings};
use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds between two commits.
const COMMIT_MS: u64 = 10;
/// No prediction for so long is a failure.
const SILENCE_NS_MAX: u64 = 30_000_000_000;
/// How often the sender looks what is due.
const SEND_EVERY: Duration = Duration::from_micros(500);

/// What is measured.
struct Case {
    name: &'static str,
    exactly_once: bool,
    /// Events a second; none: half of what the no-op loop sustains.
    rate: Option<f64>,
}

const CASES: [Case; 4] = [
    Case { name: "exactly-once-1k", exactly_once: true, rate: Some(1_000.0) },
    Case { name: "at-least-once-1k", exactly_once: false, rate: Some(1_000.0) },
    Case { name: "exactly-once-half", exactly_once: true, rate: None },
    Case { name: "at-least-once-half", exactly_once: false, rate: None },
];

/// An open loop: so many events a second, for so long.
#[derive(Clone, Copy)]
struct Load {
    rate: f64,
    /// Checked and not timed.
    warm: u64,
    /// All events.
    total: u64,
}

impl Load {
    fn new(rate: f64, warm_seconds: f64, seconds: f64) -> Load {
        let warm = (rate * warm_seconds) as u64;
        Load { rate, warm, total: warm + ((rate * seconds) as u64).max(1) }
    }
}

/// Where the turns take place, and what they send.
struct Stand<'a> {
    broker: Broker,
    rows: Vec<&'a [u8]>,
    turns: std::cell::Cell<u64>,
}

/// Checks that every event comes back once, while it times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let Some(broker) = Broker::find_or_say(report) else { return Ok(()) };
    let json = Rows::new(10_000).json();
    let rows: Vec<&[u8]> = json.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    let stand = Stand { broker, rows, turns: Default::default() };
    let (warm, seconds) = (run.size(0.5, 2.0), if run.smoke { 1.0 } else { run.seconds });
    let (half, sustained) = half_load(&stand, run, report)?;
    for case in &CASES {
        let (mut ours, mut theirs) = (histogram(), histogram());
        let load = Load::new(case.rate.unwrap_or(half), warm, seconds);
        for turn in 0..run.size(1, 3) {
            report.doing(format!("{}, turn {}", case.name, turn + 1));
            ours.add(stand.daemon_turn(case.exactly_once, load)?.0).expect("equal bounds");
            theirs.add(stand.loop_turn(case.exactly_once, load)?.0).expect("equal bounds");
        }
        show(report, case, &ours, &theirs);
    }
    report.note(&format!(
        "{COMMIT_MS} ms between commits; with the sender and the reader beside it, the no-op transactional loop takes \
         {sustained:.0} events/s: half load is {half:.0}; the first {warm} s of each turn aren't timed"
    ));
    Ok(())
}

/// Half of what the transactional loop takes when all is sent at once, to whole thousands; and that. The turns
/// before it warm the broker up: while its code is compiled, nothing says much.
fn half_load(stand: &Stand<'_>, run: &Run, report: &Report) -> Result<(f64, f64), String> {
    report.doing("warming the broker up");
    let (slow, all) = (run.size(1_000.0, 20_000.0), run.size(50_000, 2_000_000));
    stand.daemon_turn(true, Load::new(slow, 0.0, run.size(1.0, 5.0)))?;
    stand.loop_turn(true, Load { rate: 1e9, warm: 0, total: all })?;
    report.doing("what the no-op loop sustains");
    let seconds = stand.loop_turn(true, Load { rate: 1e9, warm: 0, total: all })?.1;
    let sustained = all as f64 / seconds;
    Ok(((sustained / 2_000.0).round().max(1.0) * 1_000.0, sustained))
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds that fit")
}

/// What came of a turn: the latencies of what was timed, and the seconds from the first event to the last prediction.
type Turn = (Histogram<u64>, f64);

impl Stand<'_> {
    /// Topics of a turn of its own.
    fn topics(&self) -> Result<[String; 2], String> {
        self.turns.set(self.turns.get() + 1);
        let names = ["in", "out"].map(|end| format!("lat-{}-{}-{end}", std::process::id(), self.turns.get()));
        names.iter().try_for_each(|name| self.broker.topic(name))?;
        Ok(names)
    }

    fn daemon_turn(&self, exactly_once: bool, load: Load) -> Result<Turn, String> {
        let [from, to] = self.topics()?;
        let place = Place::new(PIPELINE, &config(&self.broker, &from, &to, exactly_once, COMMIT_MS))?;
        let mut daemon = Daemon::start(&place, None)?;
        daemon.wait_ready()?;
        let seen = self.open_loop(load, &from, &to);
        let log = daemon.log();
        daemon.stop()?;
        self.remove(&[from, to])?;
        seen.map_err(|e| format!("{e}\n{log}"))
    }

    fn loop_turn(&self, exactly_once: bool, load: Load) -> Result<Turn, String> {
        let [from, to] = self.topics()?;
        let plan = Loop {
            brokers: self.broker.address.clone(),
            from: from.clone(),
            to: to.clone(),
            messages: 0,
            exactly_once,
            commit_ms: COMMIT_MS,
        };
        let looping = plan.start()?;
        let seen = self.open_loop(load, &from, &to)?;
        looping.finish()?;
        self.remove(&[from, to])?;
        Ok(seen)
    }

    fn remove(&self, topics: &[String]) -> Result<(), String> {
        topics.iter().try_for_each(|topic| self.broker.remove(topic))
    }

    /// Sends events at their due times, and takes what comes back: each of them once.
    fn open_loop(&self, load: Load, from: &str, to: &str) -> Result<Turn, String> {
        let reader = self.broker.reader(to, &[])?;
        // Set when the first event is due; until then the reader waits.
        let began = Arc::new(AtomicU64::new(0));
        let start = began.clone();
        let timed = std::thread::scope(|scope| {
            let taking = scope.spawn(move || take(&reader, load, &start));
            let sent = self.send(load, from, &began);
            let taken = taking.join().map_err(|_| "the reader panicked".to_string())?;
            sent.and(taken)
        })?;
        Ok((timed, (now_ns() - began.load(Relaxed)) as f64 / 1e9))
    }

    /// One request for all partitions: the sender is to cost little beside what is measured.
    fn send(&self, load: Load, from: &str, began: &AtomicU64) -> Result<(), String> {
        let failed = |e| format!("send: {e}");
        let settings = Settings::new(&self.broker.address);
        let mut producer = Producer::open(settings, ProduceSettings::default()).map_err(failed)?;
        let start = now_ns();
        began.store(start, Relaxed);
        let mut sent = 0;
        while sent < load.total {
            let due = (((now_ns() - start) as f64 * load.rate / 1e9) as u64 + 1).min(load.total);
            let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
            while sent < due {
                let (key, value) = (sent.to_le_bytes(), self.rows[sent as usize % self.rows.len()]);
                let entry = Entry { key: Some(&key), value: Some(value), timestamp, headers: &[] };
                producer.send(from, (sent % PARTITIONS as u64) as i32, &entry).map_err(failed)?;
                sent += 1;
            }
            producer.push().map_err(failed)?;
            std::thread::sleep(SEND_EVERY);
        }
        producer.flush().map_err(failed)
    }
}

fn take(reader: &BaseConsumer, load: Load, began: &AtomicU64) -> Result<Histogram<u64>, String> {
    let total = load.total;
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
                let number = number.unwrap_or(0);
                if number >= load.warm {
                    let due = began.load(Relaxed) + (number as f64 * 1e9 / load.rate) as u64;
                    latency.saturating_record(last.saturating_sub(due));
                }
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
