//! The demo's client: one thread writes generated events into the daemon's socket, another reads the
//! answers and holds each against what was due.
//!
//! A bounded number of events is on its way at a time, so that the latency that is measured is the
//! daemon's and not that of a queue as long as the kernel's buffers. Latency is taken once a block: from
//! just before it is written until the answer to its last event has come.

use super::answers::Answers;
use crate::error::{Fault, Result};
use crate::source::Framing;
use crate::source::generator::{Generator, GeneratorOptions};
use hdrhistogram::Histogram;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Events written at once; a multiple of 64.
const BLOCK_EVENTS: usize = 256;
/// Most events on their way at a time.
pub(super) const IN_FLIGHT_EVENTS_MAX: u64 = 16 * BLOCK_EVENTS as u64;
/// How long a connection is tried for.
const CONNECT_WITHIN: Duration = Duration::from_secs(30);

/// What was right so far, of the model and of the two baselines.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Events counted.
    pub events: u64,
    /// Right answers of the daemon.
    pub right: u64,
    /// What the last label would have got right.
    pub no_change: u64,
    /// What the commonest label so far would have got right.
    pub majority: u64,
    seen: [u64; 2],
    last: bool,
}

impl Tally {
    fn count(&mut self, class: bool, label: bool) {
        self.right += u64::from(class == label);
        self.no_change += u64::from(self.events > 0 && self.last == label);
        let commonest = self.seen[1] > self.seen[0];
        self.majority += u64::from(self.events > 0 && commonest == label);
        self.seen[usize::from(label)] += 1;
        (self.last, self.events) = (label, self.events + 1);
    }

    /// Accuracies of the model, no-change and majority since an earlier tally.
    pub fn since(&self, before: &Tally) -> [f64; 3] {
        let events = (self.events - before.events).max(1) as f64;
        [self.right - before.right, self.no_change - before.no_change, self.majority - before.majority]
            .map(|right| right as f64 / events)
    }
}

/// From this answer on, a version answers (or the same one again, on a new connection).
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// The connection, from 1.
    pub session: u32,
    /// When the answer came.
    pub at: Instant,
    /// The lane's number of the event.
    pub seq: u64,
    /// The version.
    pub version: String,
    /// Its swap number.
    pub swap: u64,
}

/// What the client's threads tell.
pub(super) struct Told {
    /// Events written, each counted once however often it was sent.
    pub sent: AtomicU64,
    /// Events answered.
    pub answered: AtomicU64,
    /// The lane's number of the last event answered.
    pub last_seq: AtomicU64,
    /// Longest time without an answer since it was last set to 0 (nanoseconds).
    pub pause_ns: AtomicU64,
    tally: Mutex<Tally>,
    latency_us: Mutex<Histogram<u64>>,
    changes: Mutex<Vec<Change>>,
    fault: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Told {
    /// Nothing yet.
    pub fn new() -> Told {
        Told {
            sent: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            last_seq: AtomicU64::new(0),
            pause_ns: AtomicU64::new(0),
            tally: Mutex::default(),
            latency_us: Mutex::new(Histogram::new_with_bounds(1, 600_000_000, 3).expect("valid bounds")),
            changes: Mutex::default(),
            fault: Mutex::default(),
        }
    }

    /// What was right so far.
    pub fn tally(&self) -> Tally {
        *lock(&self.tally)
    }

    /// p50, p99, p99.9 and the longest, in milliseconds.
    pub fn latency_ms(&self) -> [f64; 4] {
        let histogram = lock(&self.latency_us);
        let at = |q| histogram.value_at_quantile(q) as f64 / 1e3;
        [at(0.5), at(0.99), at(0.999), histogram.max() as f64 / 1e3]
    }

    /// Every change of the version, in order.
    pub fn changes(&self) -> Vec<Change> {
        lock(&self.changes).clone()
    }

    /// What was wrong with an answer, if anything was.
    pub fn fault(&self) -> Option<String> {
        lock(&self.fault).clone()
    }

    fn wrong(&self, what: String) {
        lock(&self.fault).get_or_insert(what);
    }
}

/// A connection at work.
pub(super) struct Session {
    thread: Option<JoinHandle<()>>,
    finish: Arc<AtomicBool>,
}

/// A block on its way.
struct Sent {
    events: u64,
    at: Instant,
    labels: [u64; BLOCK_EVENTS / 64],
}

impl Session {
    /// Connects as soon as somebody listens, and sends events from number `first` on.
    ///
    /// # Errors
    /// Environment, where no thread can be started; Misuse, where the stream's options are out of range.
    pub fn open(
        number: u32,
        address: SocketAddr,
        stream: &GeneratorOptions,
        first: u64,
        told: &Arc<Told>,
    ) -> Result<Session> {
        let finish = Arc::new(AtomicBool::new(false));
        let generator = Generator::new(stream, Framing::Lines)?;
        let (told, stop) = (told.clone(), finish.clone());
        let run = move || {
            if let Err(what) = converse(number, address, generator, first, &told, &stop) {
                told.wrong(what);
            }
        };
        let thread = std::thread::Builder::new().name("client".into()).spawn(run);
        let thread = thread.map_err(|e| Fault::io("start the client", &e))?;
        Ok(Session { thread: Some(thread), finish })
    }

    /// Sends no more; the connection ends once everything is answered.
    pub fn finish(&self) {
        self.finish.store(true, Relaxed);
    }

    /// True once the connection has ended, whoever ended it.
    pub fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.finish();
        if let Some(thread) = self.thread.take() {
            // What went wrong in it is told already.
            let _ = thread.join();
        }
    }
}

/// One connection from its beginning to its end. That the daemon went away is no fault here.
fn converse(
    number: u32,
    address: SocketAddr,
    mut generator: Generator,
    first: u64,
    told: &Arc<Told>,
    finish: &AtomicBool,
) -> Result<(), String> {
    let Some(mut socket) = connect(address, finish)? else { return Ok(()) };
    let far = socket.try_clone().map_err(|e| format!("the client's socket: {e}"))?;
    let (way, sent) = flume::unbounded();
    let ended = Arc::new(AtomicBool::new(false));
    let reading =
        Reading { told: told.clone(), session: number, sent, block: None, seq: None, right: Tally::default() };
    let (over, writer) = (ended.clone(), std::thread::current());
    let read = move || reading.run(far, &over, &writer);
    let reader = std::thread::Builder::new().name("client-answers".into()).spawn(read);
    let reader = reader.map_err(|e| format!("start the client's reader: {e}"))?;
    let (mut bytes, mut next) = (Vec::new(), first);
    while !finish.load(Relaxed) && !ended.load(SeqCst) {
        let block = write_block(&mut generator, next, &mut bytes);
        while next - told.answered.load(SeqCst) >= IN_FLIGHT_EVENTS_MAX && !ended.load(SeqCst) {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        next += block.events;
        told.sent.fetch_max(next, SeqCst);
        let gone = way.send(Sent { at: Instant::now(), ..block }).is_err();
        if gone || socket.write_all(&bytes).is_err() {
            break;
        }
    }
    // Where the daemon is gone, there is nobody left to tell.
    let _ = socket.shutdown(Shutdown::Write);
    drop(way);
    reader.join().map_err(|_| "the client's reader panicked".to_string())?
}

fn connect(address: SocketAddr, finish: &AtomicBool) -> Result<Option<TcpStream>, String> {
    let began = Instant::now();
    while !finish.load(Relaxed) {
        match TcpStream::connect(address) {
            Ok(socket) => return Ok(Some(socket)),
            Err(e) if began.elapsed() > CONNECT_WITHIN => return Err(format!("connect to {address}: {e}")),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    Ok(None)
}

fn write_block(generator: &mut Generator, first: u64, bytes: &mut Vec<u8>) -> Sent {
    bytes.clear();
    let mut labels = [0; BLOCK_EVENTS / 64];
    for row in 0..BLOCK_EVENTS {
        generator.write(first + row as u64, bytes);
        // The label is the last field: the row ends in `true}` or `false}` and a line's end.
        let is_true = bytes.ends_with(b"true}\n");
        labels[row / 64] |= u64::from(is_true) << (row % 64);
    }
    Sent { events: BLOCK_EVENTS as u64, at: Instant::now(), labels }
}

/// The reading half of a connection.
struct Reading {
    told: Arc<Told>,
    session: u32,
    sent: flume::Receiver<Sent>,
    /// The block whose answers are coming, and the offset of its first event.
    block: Option<(Sent, u64)>,
    /// The lane's number of the last event answered here.
    seq: Option<u64>,
    right: Tally,
}

impl Reading {
    fn run(mut self, mut socket: TcpStream, ended: &AtomicBool, writer: &Thread) -> Result<(), String> {
        let outcome = self.answers(&mut socket, writer);
        ended.store(true, SeqCst);
        writer.unpark();
        if outcome.is_err() {
            // The writer may be waiting for room that nobody makes any more.
            let _ = socket.shutdown(Shutdown::Both);
        }
        *lock(&self.told.tally) = self.right;
        outcome
    }

    fn answers(&mut self, socket: &mut TcpStream, writer: &Thread) -> Result<(), String> {
        self.right = self.told.tally();
        let (mut answers, mut bytes, mut filled) = (Answers::default(), vec![0; 256 << 10], 0);
        let (mut due, mut last) = (0, Instant::now());
        loop {
            let count = match socket.read(&mut bytes[filled..]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Ok(count) if count > 0 => count,
                // A daemon that was killed closes as well; whether all was answered is seen by the counts.
                _ => return Ok(()),
            };
            let now = Instant::now();
            filled += count;
            let mut start = 0;
            while let Some(end) = memchr::memchr(b'\n', &bytes[start..filled]) {
                self.answer(&mut answers, &bytes[start..start + end], due, now)?;
                (due, start) = (due + 1, start + end + 1);
            }
            if start > 0 {
                self.told.pause_ns.fetch_max((now - last).as_nanos() as u64, Relaxed);
                last = now;
                writer.unpark();
            } else if filled == bytes.len() {
                return Err("an answer of 256 KiB without an end".to_string());
            }
            bytes.copy_within(start..filled, 0);
            filled -= start;
        }
    }

    fn answer(&mut self, answers: &mut Answers, line: &[u8], due: u64, now: Instant) -> Result<(), String> {
        let swap = answers.swap;
        let answer = answers.read(line)?;
        if answer.offset != due {
            let what = if answer.offset > due { "an answer is lost" } else { "an event was answered twice" };
            return Err(format!("{what}: event {due} was due, event {} was answered", answer.offset));
        }
        if self.seq.is_some_and(|seq| answer.seq != seq + 1) {
            return Err(format!("event {due}: seq {} after {:?}", answer.seq, self.seq));
        }
        if self.seq.is_none() || swap != answers.swap {
            let (version, swap) = (answers.version.clone(), answers.swap);
            lock(&self.told.changes).push(Change { session: self.session, at: now, seq: answer.seq, version, swap });
        }
        self.seq = Some(answer.seq);
        if self.block.is_none() {
            let sent = self.sent.recv().map_err(|_| format!("event {due} was answered before it was sent"))?;
            self.block = Some((sent, due));
        }
        let Some((sent, first)) = &self.block else { return Ok(()) };
        let row = due - first;
        let label = sent.labels[row as usize / 64] >> (row % 64) & 1 == 1;
        self.right.count(answer.class, label);
        if row + 1 == sent.events {
            let took = now.saturating_duration_since(sent.at).as_micros() as u64;
            lock(&self.told.latency_us).saturating_record(took.max(1));
            *lock(&self.told.tally) = self.right;
            self.block = None;
        }
        self.told.last_seq.store(answer.seq, Relaxed);
        self.told.answered.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::generator::Kind;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// A peer that answers each line as the daemon would, with the offset that `number` makes of the
    /// line's; returns what the client found wrong.
    fn talk(number: impl Fn(u64) -> u64) -> (Option<String>, u64, Tally) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
        let address = listener.local_addr().expect("address");
        let told = Arc::new(Told::new());
        let session = Session::open(1, address, &GeneratorOptions::new(Kind::Sea, 1), 0, &told).expect("session");
        let (socket, _) = listener.accept().expect("a client");
        let mut back = socket.try_clone().expect("clone");
        for (i, line) in BufReader::new(socket).lines().map_while(Result::ok).enumerate() {
            let (n, class) = (number(i as u64), line.ends_with("true}"));
            let answer = format!(
                "{{\"input\":\"x#0\",\"offset\":{n},\"seq\":{i},\"score\":0.5,\"class\":{class},\"version\":\"aaaaaaaa\",\"swap\":0}}\n"
            );
            if back.write_all(answer.as_bytes()).is_err() {
                break;
            }
            if i == 2_000 {
                session.finish();
            }
        }
        drop(back);
        drop(session);
        (told.fault(), told.sent.load(SeqCst) - told.answered.load(SeqCst), told.tally())
    }

    #[test]
    fn every_answer_is_held_against_what_was_due() {
        let (fault, missing, tally) = talk(|n| n);
        assert_eq!((fault, missing), (None, 0));
        assert!(tally.events > 2_000 && tally.right == tally.events && tally.no_change < tally.events);
        let (lost, _, _) = talk(|n| if n < 700 { n } else { n + 1 });
        assert!(lost.expect("told").starts_with("an answer is lost: event 700 was due"));
        let (twice, _, _) = talk(|n| if n < 700 { n } else { n - 1 });
        assert!(twice.expect("told").starts_with("an event was answered twice: event 700 was due"));
    }
}
