//! Closed-loop traffic: one thread sends rows round and round, one takes the answers.

use crate::machine::{self, Cores};
use memchr::memchr_iter;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

/// Bytes that are sent at a time.
const WRITE_BYTES: usize = 256 << 10;
/// No answer for so long is a failure.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// What to send.
pub struct Load<'a> {
    /// Whole lines, sent round and round.
    pub bytes: &'a [u8],
    /// Lines in `bytes`.
    pub rows: usize,
    /// Send for so long, then finish the round.
    pub seconds: f64,
}

/// What came of it.
pub struct Flow {
    /// Rows sent, and answered.
    pub rows: u64,
    /// From the first byte sent to the last byte answered.
    pub wall: Duration,
    /// CPU nanoseconds of sender and receiver.
    pub generator_cpu_ns: u64,
    /// CPU nanoseconds of the process that answers, in that time.
    pub daemon_cpu_ns: u64,
}

impl Flow {
    /// Rows a second.
    pub fn rate(&self) -> f64 {
        self.rows as f64 / self.wall.as_secs_f64()
    }
    /// CPU nanoseconds a row of the process that answers.
    pub fn daemon_ns(&self) -> f64 {
        self.daemon_cpu_ns as f64 / self.rows as f64
    }
    /// CPU nanoseconds a row of sender and receiver.
    pub fn generator_ns(&self) -> f64 {
        self.generator_cpu_ns as f64 / self.rows as f64
    }
}

/// Connects, trying again for a while: a daemon may be ready before its door is open.
pub fn connect(address: &str) -> Result<TcpStream, String> {
    let began = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|e| e.to_string())?;
                stream.set_read_timeout(Some(SILENCE_MAX)).map_err(|e| e.to_string())?;
                return Ok(stream);
            }
            Err(e) if began.elapsed() > SILENCE_MAX => return Err(format!("{address}: {e}")),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Sends all of `bytes` and returns all that is answered.
pub fn ask(address: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    let stream = connect(address)?;
    let mut answers = Vec::new();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            (&stream).write_all(bytes)?;
            stream.shutdown(Shutdown::Write)
        });
        let read = (&stream).read_to_end(&mut answers).map_err(|e| format!("answers: {e}"));
        sender.join().map_err(|_| "the sender panicked")?.map_err(|e| format!("send: {e}"))?;
        read.map(|_| ())
    })?;
    Ok(answers)
}

/// Sends a load and counts its answers; `pid` is the process whose CPU time counts.
pub fn flow(address: &str, load: &Load<'_>, pid: u32, cores: &Cores) -> Result<Flow, String> {
    let stream = connect(address)?;
    let (before, began) = (machine::process_cpu_ns(pid), Instant::now());
    let (sent, answered) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(&stream, load, cores));
        let receiver = scope.spawn(|| receive(&stream, cores));
        (sender.join(), receiver.join())
    });
    let (sent, sender_ns) = sent.map_err(|_| "the sender panicked")??;
    let (lines, last, receiver_ns) = answered.map_err(|_| "the receiver panicked")??;
    let daemon_cpu_ns = machine::process_cpu_ns(pid) - before;
    if lines != sent {
        return Err(format!("{sent} rows were sent, {lines} lines came back"));
    }
    let generator_cpu_ns = sender_ns + receiver_ns;
    Ok(Flow { rows: sent, wall: last.duration_since(began), generator_cpu_ns, daemon_cpu_ns })
}

fn send(mut stream: &TcpStream, load: &Load<'_>, cores: &Cores) -> Result<(u64, u64), String> {
    cores.as_generator();
    let (cpu, began) = (machine::thread_cpu_ns(), Instant::now());
    let mut rows = 0;
    while rows == 0 || began.elapsed().as_secs_f64() < load.seconds {
        for chunk in load.bytes.chunks(WRITE_BYTES) {
            stream.write_all(chunk).map_err(|e| format!("send: {e}"))?;
        }
        rows += load.rows as u64;
    }
    stream.shutdown(Shutdown::Write).map_err(|e| format!("send: {e}"))?;
    Ok((rows, machine::thread_cpu_ns() - cpu))
}

fn receive(mut stream: &TcpStream, cores: &Cores) -> Result<(u64, Instant, u64), String> {
    cores.as_generator();
    let cpu = machine::thread_cpu_ns();
    let mut buffer = vec![0_u8; 1 << 20];
    let (mut lines, mut last) = (0, Instant::now());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((lines, last, machine::thread_cpu_ns() - cpu)),
            Ok(n) => {
                lines += memchr_iter(b'\n', &buffer[..n]).count() as u64;
                last = Instant::now();
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("after {lines} answers: {e}")),
        }
    }
}
