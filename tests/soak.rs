//! The story: gigabytes go through the daemon, exactly once, between topics whose old segments the broker removes
//! all the while. Every event comes out once, in its partition's order, and the daemon's memory is at the end what it
//! was after the first quarter.
//!
//! `cargo test` moves a little; `make soak` moves 24 GB (GB=1 fewer). `MILLSTREAM_SOAK_GB` says how many.

mod support;

use millstream::kafka::direct::build::Entry;
use millstream::kafka::direct::{FetchSettings, Fetcher, ProduceSettings, Producer, Settings};
use millstream::source::Framing;
use millstream::source::generator::{GeneratorOptions, Kind, write_rows};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::broker::{Broker, client_line};
use support::daemon::{Daemon, Scene};

const PARTITIONS: u64 = 8;

/// Sent events that were not read again, at most: what the broker keeps holds many times that.
const AHEAD_BYTES: u64 = 128 << 20;

/// What the broker keeps of a partition, in segments of a quarter of it.
const KEPT_BYTES: u64 = 128 << 20;

/// How much the daemon's memory may grow from the second quarter of the way to the last, in MiB. The events of three
/// quarters of 24 GB are 60 million: a leak of a byte for each would be seen.
const GROWTH_MIB_MAX: f64 = 16.0;

/// The most that it may ever have, in MiB.
const MEMORY_MIB_MAX: f64 = 256.0;

/// No answer for so long is a failure.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The daemon's memory at a moment.
struct Sample {
    seconds: f64,
    events: u64,
    mib: f64,
}

fn gigabytes() -> Option<f64> {
    let text = std::env::var("MILLSTREAM_SOAK_GB").ok().filter(|text| !text.is_empty())?;
    Some(text.parse().expect("MILLSTREAM_SOAK_GB: a number"))
}

/// Removes old segments soon.
fn broker() -> Broker {
    let soon = "log.retention.check.interval.ms=500\nlog.initial.task.delay.ms=500\nlog.segment.delete.delay.ms=500\n";
    Broker::with(|_, usual| usual + soon, &[])
}

fn create(broker: &Broker, topic: &str) {
    let (kept, segment) = (KEPT_BYTES.to_string(), (KEPT_BYTES / 4).to_string());
    let settings = [("retention.bytes", kept.as_str()), ("segment.bytes", &segment), ("file.delete.delay.ms", "500")];
    broker.create_topic_with(topic, PARTITIONS as i32, &settings);
}

/// Event n goes to partition n mod 8, with n as its key; never more than `AHEAD_BYTES` ahead of what has come out.
fn send(broker: &Broker, rows: &[&[u8]], total: u64, seen: &AtomicU64, stop: &AtomicBool) {
    let mut producer =
        Producer::open(Settings::new(&broker.address()), ProduceSettings::default()).expect("a producer");
    let ahead = AHEAD_BYTES / (rows.iter().map(|row| row.len() as u64).sum::<u64>() / rows.len() as u64);
    let mut sent = 0;
    while sent < total && !stop.load(Relaxed) {
        let until = total.min(seen.load(Relaxed) + ahead).min(sent + 4_000);
        if until == sent {
            std::thread::sleep(Duration::from_millis(1));
        }
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
        while sent < until {
            let (key, value) = (sent.to_le_bytes(), rows[sent as usize % rows.len()]);
            let entry = Entry { key: Some(&key), value: Some(value), timestamp, headers: &[] };
            producer.send("soak-in", (sent % PARTITIONS) as i32, &entry).expect("taken");
            sent += 1;
        }
        producer.push().expect("pushed");
    }
    producer.flush().expect("acknowledged");
}

/// Reads the answers: on each partition every event's, in order, once.
fn read(broker: &Broker, total: u64, seen: &AtomicU64, stop: &AtomicBool) -> Result<(), String> {
    let mut fetcher = Fetcher::open(Settings::new(&broker.address()), FetchSettings::default()).expect("a fetcher");
    for partition in 0..PARTITIONS {
        fetcher.add("soak-out", partition as i32, 0);
    }
    let mut next: Vec<u64> = (0..PARTITIONS).collect();
    let mut last = Instant::now();
    while seen.load(Relaxed) < total && !stop.load(Relaxed) {
        if last.elapsed() > SILENCE_MAX {
            return Err(format!("{} of {total} events came out, then no more", seen.load(Relaxed)));
        }
        let Some(mut fetched) = fetcher.next(Duration::from_millis(200)).map_err(|e| e.to_string())? else { continue };
        let mut count = 0;
        while let Some(message) = fetched.peek().map_err(|e| e.to_string())? {
            let number = message.key.and_then(|key| key.try_into().ok()).map(u64::from_le_bytes);
            let next = &mut next[message.slot];
            if number != Some(*next) {
                let at = message.slot;
                return Err(format!("partition {at}: the answer to event {number:?}, not to {next}"));
            }
            *next += PARTITIONS;
            count += 1;
            fetched.advance();
        }
        fetcher.give_back(fetched);
        seen.fetch_add(count, Relaxed);
        last = Instant::now();
    }
    Ok(())
}

/// The daemon's memory, until all events have come out.
fn watch(daemon: &mut Daemon, total: u64, seen: &AtomicU64, stop: &AtomicBool) -> Vec<Sample> {
    let (began, mut samples) = (Instant::now(), Vec::new());
    while seen.load(Relaxed) < total && !stop.load(Relaxed) {
        assert!(daemon.runs(), "the daemon ended: {}", daemon.said());
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        if let Some(kib) = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()) {
            let (seconds, events) = (began.elapsed().as_secs_f64(), seen.load(Relaxed));
            samples.push(Sample { seconds, events, mib: kib / 1024.0 });
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    samples
}

/// The middle one of the samples from one part of the way to another.
fn typical(samples: &[Sample], total: u64, from: f64, to: f64) -> f64 {
    let inside = |sample: &&Sample| (from..to).contains(&(sample.events as f64 / total as f64));
    let mut all: Vec<f64> = samples.iter().filter(inside).map(|sample| sample.mib).collect();
    all.sort_by(f64::total_cmp);
    *all.get(all.len() / 2).unwrap_or_else(|| panic!("no sample from {from} to {to} of the way: too few events"))
}

#[test]
fn memory_stays_flat_while_gigabytes_go_through() {
    let long = gigabytes();
    let options = GeneratorOptions::new(Kind::Hyperplane, 1);
    let mut text = Vec::new();
    write_rows(&options, Framing::Lines, 0, 10_000, &mut text).expect("rows");
    let rows: Vec<&[u8]> = text.split(|b| *b == b'\n').filter(|row| !row.is_empty()).collect();
    let total = (long.unwrap_or(0.15) * 1e9 * rows.len() as f64 / text.len() as f64) as u64;
    let broker = broker();
    ["soak-in", "soak-out"].iter().for_each(|topic| create(&broker, topic));
    let (client, brokers) = (client_line(), broker.address());
    let scene = Scene::new(
        include_str!("../models/hyperplane.toml"),
        &format!(
            "source.kind = \"kafka\"\n{client}source.format = \"json\"\nsource.brokers = \"{brokers}\"\n\
             source.topics = [\"soak-in\"]\nsource.group = \"soak\"\nsink.kind = \"kafka\"\nsink.topic = \"soak-out\"\n\
             checkpoint.interval_ms = 2_000\n"
        ),
    );
    let mut daemon = scene.start(&[]);
    let (seen, stop, began) = (AtomicU64::new(0), AtomicBool::new(false), Instant::now());
    let samples = std::thread::scope(|scope| {
        let (broker, rows, seen, stop) = (&broker, &rows, &seen, &stop);
        let sender = scope.spawn(move || stopping(stop, || send(broker, rows, total, seen, stop)));
        let reader = scope.spawn(move || stopping(stop, || read(broker, total, seen, stop).expect("the answers")));
        let samples = stopping(stop, || watch(&mut daemon, total, seen, stop));
        for thread in [sender, reader] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
        samples
    });
    let seconds = began.elapsed().as_secs_f64();
    let committed = daemon.status()["lanes"][0]["committed_seq"].as_u64();
    daemon.stop();
    assert_eq!((seen.into_inner(), committed), (total, Some(total)), "events out, committed and sent");
    tell(&samples, total, (text.len() / rows.len()) as u64, seconds);
    if long.is_some_and(|gb| gb >= 8.0) {
        let oldest = (0..PARTITIONS as i32).map(|p| broker.watermarks("soak-in", p).0).min();
        assert!(oldest > Some(0), "the broker removed nothing: the disk would have filled");
    }
    let (early, late) = (typical(&samples, total, 0.25, 0.5), typical(&samples, total, 0.75, 1.0));
    let most = samples.iter().map(|sample| sample.mib).fold(0.0, f64::max);
    assert!(late - early <= GROWTH_MIB_MAX, "from {early:.1} to {late:.1} MiB: more than {GROWTH_MIB_MAX}");
    assert!(most <= MEMORY_MIB_MAX, "{most:.1} MiB: more than {MEMORY_MIB_MAX}");
}

/// Whoever fails stops the others.
fn stopping<T>(stop: &AtomicBool, work: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        stop.store(true, Relaxed);
        std::panic::resume_unwind(panic)
    })
}

fn tell(samples: &[Sample], total: u64, event_bytes: u64, seconds: f64) {
    let gb = (total * event_bytes) as f64 / 1e9;
    eprintln!("{total} events of {event_bytes} bytes, {gb:.2} GB in, as many answers out, in {seconds:.0} s:");
    eprintln!("{:.2} M events/s, {:.0} MB/s in", total as f64 / seconds / 1e6, gb * 1e3 / seconds);
    let most = samples.iter().map(|sample| sample.mib).fold(0.0, f64::max);
    for tenth in 0..=10 {
        let at = (samples.len().saturating_sub(1)) * tenth / 10;
        if let Some(Sample { seconds, events, mib }) = samples.get(at) {
            eprintln!("  {seconds:>7.1} s  {events:>12} events  {mib:>7.1} MiB");
        }
    }
    eprintln!("  at most {most:.1} MiB");
}
