//! `latency`: an open loop. Each request has a time at which it is due, whatever became of those before it,
//! and its latency counts from then (no coordinated omission). One thread, spinning on a core of its own,
//! sends what is due and takes answers; the daemon, or a bare echo of the same bytes, runs on another.

use crate::daemon::{Daemon, Place, free_address, socket_config};
use crate::events::{PIPELINE, Rows, check_predictions, expected_scores};
use crate::machine::{Cores, now_ns};
use crate::report::{Beside, Distributions, Figure, Outcome, Report, Run};
use crate::stats::hash_scores;
use crate::traffic;
use hdrhistogram::Histogram;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Shares of the sustainable rate, in percent.
const LOADS: [u32; 4] = [10, 50, 80, 95];
/// Samples below which no p99.99 is printed.
const SAMPLES_FOR_P9999: u64 = 1_000_000;
/// Most bytes that are sent at once.
const WRITE_BYTES_MAX: usize = 64 << 10;
/// No answer for so long is a failure.
const SILENCE_NS_MAX: u64 = 20_000_000_000;

/// Rows to send round and round.
struct Ring {
    bytes: Vec<u8>,
    /// Where each row begins; one more than there are rows.
    starts: Vec<usize>,
}

impl Ring {
    fn new(bytes: Vec<u8>) -> Ring {
        let starts = [0].into_iter().chain(memchr::memchr_iter(b'\n', &bytes).map(|at| at + 1)).collect();
        Ring { bytes, starts }
    }
    /// Bytes of the first `rows` rows of the endless round.
    fn bytes_of(&self, rows: u64) -> u64 {
        let count = (self.starts.len() - 1) as u64;
        rows / count * self.bytes.len() as u64 + self.starts[(rows % count) as usize] as u64
    }
    /// What to send from an endless position on, up to another.
    fn chunk(&self, from: u64, to: u64) -> &[u8] {
        let at = (from % self.bytes.len() as u64) as usize;
        let length = (to - from).min((self.bytes.len() - at).min(WRITE_BYTES_MAX) as u64) as usize;
        &self.bytes[at..at + length]
    }
}

/// What an open loop found.
struct Observed {
    latency: Histogram<u64>,
    /// Rows that were due and unanswered, half way and at the end.
    backlog: [u64; 2],
    /// From the first row to the last answer.
    seconds: f64,
}

/// Histograms of the daemon and of the echo at one load.
struct Pair {
    percent: u32,
    daemon: Histogram<u64>,
    echo: Histogram<u64>,
}

/// Checks answers, finds the sustainable rate, then measures at shares of it.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let rows = Rows::new(run.size(10_000, 50_000));
    let json = rows.json();
    let expected = expected_scores(PIPELINE, &json)?;
    let hash = hash_scores(expected.iter().copied());
    let ring = Ring::new(json);
    let cores = Cores::split();
    let address = free_address()?;
    let place = Place::new(PIPELINE, &socket_config(&address))?;
    let mut daemon = Daemon::start(&place, Some(&cores))?;
    daemon.wait_ready()?;
    report.doing("checking answers");
    let count = check_predictions(&traffic::ask(&address, &ring.bytes)?, &expected)?;
    if count != expected.len() {
        return Err(format!("{} rows were sent, {count} were answered", expected.len()));
    }
    let echo = Echo::start(&cores)?;
    cores.as_generator();
    report.doing("finding the sustainable rate");
    let sustainable = sustainable(&address, &ring, run.size(0.2, 1.0))?;
    let samples = 1;
    let figure = Figure {
        name: "sustainable",
        unit: "events/s",
        value: sustainable,
        worst: None,
        beside: None,
        samples,
        hash: Some(hash),
    };
    report.figure(&figure);
    let mut pairs = Vec::new();
    for percent in LOADS {
        let mut pair = Pair { percent, daemon: histogram(), echo: histogram() };
        for turn in 0..run.size(1, 3) {
            report.doing(format!("{percent} % load, turn {}", turn + 1));
            let rate = sustainable * f64::from(percent) / 100.0;
            let enough = run.size(0.2, (1.05 * SAMPLES_FOR_P9999 as f64 / 3.0 / rate).clamp(run.seconds / 2.0, 15.0));
            add(&mut pair.daemon, open_loop(&address, &ring, rate, enough)?);
            echo.on.store(true, Relaxed);
            let echoed = open_loop(&echo.address, &ring, rate, enough);
            echo.on.store(false, Relaxed);
            add(&mut pair.echo, echoed?);
        }
        pairs.push(pair);
    }
    let jitter = jitter(run.size(0.2, 2.0));
    cores.anywhere();
    daemon.stop()?;
    pairs.iter().for_each(|pair| show(report, pair, hash));
    show_jitter(report, &jitter);
    Ok(())
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 100_000_000_000, 3).expect("bounds that fit")
}

fn add(to: &mut Histogram<u64>, observed: Observed) {
    to.add(observed.latency).expect("equal bounds");
}

/// The highest of some rates at which the backlog doesn't grow, from what a closed loop can do downwards.
fn sustainable(address: &str, ring: &Ring, seconds: f64) -> Result<f64, String> {
    let rows = 1e6 * seconds.max(0.5);
    let flood = open_loop(address, ring, rows * 1e3, 1e-3)?;
    let most = rows / flood.seconds;
    let mut rate = most;
    while rate > 0.2 * most {
        let seen = open_loop(address, ring, rate, seconds)?;
        let allowed = (rate * 0.002) as u64 + seen.backlog[0] + seen.backlog[0] / 4;
        if seen.backlog[1] <= allowed && (seen.backlog[1] as f64) < rate * 0.05 {
            return Ok(rate);
        }
        rate *= 0.95;
    }
    Err(format!("the backlog grows even at {rate:.0} events/s: is the machine busy with something else?"))
}

/// Sends rows at their due times for `seconds`, and waits for all answers.
fn open_loop(address: &str, ring: &Ring, rate: f64, seconds: f64) -> Result<Observed, String> {
    let mut stream = traffic::connect(address)?;
    stream.set_nonblocking(true).map_err(|e| e.to_string())?;
    let total = ((rate * seconds) as u64).max(1);
    let due_at = |row: u64| (row as f64 * 1e9 / rate) as u64;
    let mut seen = Observed { latency: histogram(), backlog: [0; 2], seconds: 0.0 };
    let mut buffer = vec![0_u8; 1 << 20];
    let (mut sent, mut answered, mut target) = (0_u64, 0_u64, 0_u64);
    let began = now_ns();
    let mut last = began;
    while answered < total {
        let now = now_ns() - began;
        let due = (((now as f64 * rate / 1e9) as u64) + 1).min(total);
        if due < total {
            let half = usize::from(due > total / 2);
            seen.backlog[half] = due - answered;
        }
        target = target.max(ring.bytes_of(due));
        if sent < target {
            match stream.write(ring.chunk(sent, target)) {
                Ok(n) => sent += n as u64,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(format!("send: {e}")),
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Err(format!("closed after {answered} answers")),
            Ok(n) => {
                last = now_ns();
                for _ in memchr::memchr_iter(b'\n', &buffer[..n]) {
                    seen.latency.saturating_record((last - began).saturating_sub(due_at(answered)));
                    answered += 1;
                }
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                if now_ns() - last > SILENCE_NS_MAX {
                    return Err(format!("no answer for {} s, after {answered}", SILENCE_NS_MAX / 1_000_000_000));
                }
            }
            Err(e) => return Err(format!("after {answered} answers: {e}")),
        }
    }
    seen.seconds = (last - began) as f64 / 1e9;
    Ok(seen)
}

/// A bare thread that sends back what it reads: spinning while `on`, so that it doesn't take the daemon's core.
struct Echo {
    address: String,
    on: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Echo {
    fn start(cores: &Cores) -> Result<Echo, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?.to_string();
        listener.set_nonblocking(true).map_err(|e| e.to_string())?;
        let (on, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (is_on, is_over, cores) = (on.clone(), end.clone(), *cores);
        let thread = std::thread::spawn(move || {
            cores.as_daemon();
            while !is_over.load(Relaxed) {
                match listener.accept() {
                    // A client that is gone ends its own echo.
                    Ok((stream, _)) if is_on.load(Relaxed) => drop(echo(stream, &is_over)),
                    _ => std::thread::sleep(std::time::Duration::from_micros(500)),
                }
            }
        });
        Ok(Echo { address, on, end, thread: Some(thread) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.end.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn echo(mut stream: TcpStream, is_over: &AtomicBool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let mut bytes = vec![0_u8; 256 << 10];
    while !is_over.load(Relaxed) {
        let n = match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
            Err(e) => return Err(e),
        };
        let mut rest = &bytes[..n];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// The gaps that a thread sees which does nothing but look at the clock.
fn jitter(seconds: f64) -> Histogram<u64> {
    let mut gaps = histogram();
    let began = now_ns();
    let mut last = began;
    while ((last - began) as f64) < seconds * 1e9 {
        let now = now_ns();
        gaps.saturating_record(now - last);
        last = now;
    }
    gaps
}

fn percentiles(samples: u64) -> Vec<(&'static str, f64)> {
    let mut all = vec![("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
    if samples >= SAMPLES_FOR_P9999 {
        all.push(("p99.99", 0.9999));
    }
    all.push(("max", 1.0));
    all
}

fn show(report: &mut Report, pair: &Pair, hash: u64) {
    let samples = pair.daemon.len();
    for (name, quantile) in percentiles(samples) {
        let [value, echo] = [&pair.daemon, &pair.echo].map(|h| h.value_at_quantile(quantile) as f64 / 1e3);
        let name = format!("load-{}-{name}", pair.percent);
        let beside = Some(Beside { name: "echo".into(), value: echo, ratio: value / echo });
        let figure = Figure { name: &name, unit: "µs", value, worst: None, beside, samples, hash: Some(hash) };
        match quantile {
            1.0 => {
                let all = Distributions { ours: &pair.daemon, beside: Some(&pair.echo), unit_ns: 1e3 };
                report.distribution(&figure, &all);
            }
            _ => report.figure(&figure),
        }
    }
}

fn show_jitter(report: &mut Report, jitter: &Histogram<u64>) {
    let samples = jitter.len();
    for (name, quantile) in [("p99.9", 0.999), ("p99.99", 0.9999), ("max", 1.0)] {
        let (name, value) = (format!("jitter-{name}"), jitter.value_at_quantile(quantile) as f64 / 1e3);
        let figure = Figure { name: &name, unit: "µs", value, worst: None, beside: None, samples, hash: None };
        match quantile {
            1.0 => report.distribution(&figure, &Distributions { ours: jitter, beside: None, unit_ns: 1e3 }),
            _ => report.figure(&figure),
        }
    }
}
