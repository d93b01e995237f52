//! One connection to one broker: requests go out with a number, answers come back in the same order. Several may
//! be on their way; each has a deadline, and a connection whose oldest request is overdue is of no more use.
//!
//! ```no_run
//! use millstream::kafka::direct::Settings;
//! use millstream::kafka::direct::calls::Metadata;
//! use millstream::kafka::direct::connection::Dialer;
//!
//! let dialer = Dialer::new(Settings::new("localhost:9092")).unwrap();
//! let mut connection = dialer.dial("localhost:9092").unwrap();
//! println!("{:?}", connection.call(&Metadata { topics: &[] }).unwrap().brokers);
//! ```

use super::calls::{ApiVersions, Call, KnownVersions, SaslAuthenticate, SaslHandshake};
use super::error::{Error, Result};
use super::settings::Settings;
use super::transport::{Transport, tls_config, wait_any};
use super::wire::{Reader, Writer};
use super::{sasl, transport};
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::fmt;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Room made for an answer at a time: a length that somebody made up gets no more than this.
const READ_STEP_BYTES: usize = 1 << 20;

/// Makes connections: settings, and what TLS needs, read once.
#[derive(Clone)]
pub struct Dialer {
    settings: Settings,
    tls: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Reads certificates and keys.
    ///
    /// # Errors
    /// `Config`, where they are no good.
    pub fn new(settings: Settings) -> Result<Dialer> {
        let tls = settings.tls.as_ref().map(tls_config).transpose()?;
        Ok(Dialer { settings, tls })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Connects to `host:port`, asks for the broker's versions and logs in.
    ///
    /// # Errors
    /// `Io`, `Timeout`; `Config`: TLS or login refused, or a broker that is too old.
    pub fn dial(&self, address: &str) -> Result<Connection> {
        self.dial_within(address, self.settings.connect_timeout)
    }

    /// As `dial`, with a limit of its own for the connection and for each answer of its making.
    pub(super) fn dial_within(&self, address: &str, limit: Duration) -> Result<Connection> {
        let deadline = Instant::now() + limit;
        let mut connection = Connection {
            transport: Transport::open(address, self.tls.as_ref(), deadline)?,
            address: address.to_string(),
            client_id: self.settings.client_id.clone(),
            patience: limit,
            answer_bytes_max: self.settings.answer_bytes_max,
            next_number: 0,
            on_their_way: VecDeque::new(),
            incoming: Vec::new(),
            out: Writer::default(),
            versions: KnownVersions::default(),
            login_ends: None,
        };
        connection.versions = connection.call(&ApiVersions)?;
        if let Some(login) = &self.settings.login {
            connection.call(&SaslHandshake(login.mechanism.name()))?;
            let mut holds_ms = 0;
            sasl::log_in(login, |message| {
                let (answer, holds) = connection.call(&SaslAuthenticate(message))?;
                holds_ms = holds;
                Ok(answer)
            })?;
            if let Some(holds) = u64::try_from(holds_ms).ok().filter(|holds| *holds > 0) {
                // Made anew when nine tenths are over: the broker would close it at the end.
                connection.login_ends = Some(Instant::now() + Duration::from_millis(holds).mul_f64(0.9));
            }
        }
        connection.patience = self.settings.call_timeout;
        Ok(connection)
    }
}

/// A request that isn't answered yet.
struct Sent {
    number: i32,
    name: &'static str,
    flexible: bool,
    deadline: Instant,
}

/// The bytes of an answer, and where its body begins.
#[derive(Debug, Default)]
pub struct Answer {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Where the body begins.
    pub body: usize,
}

impl Answer {
    /// A reader of the body.
    pub fn reader(&self) -> Reader<'_> {
        Reader::starting_at(&self.bytes, self.body)
    }
}

/// A connection to a broker.
pub struct Connection {
    transport: Transport,
    address: String,
    client_id: String,
    patience: Duration,
    answer_bytes_max: usize,
    next_number: i32,
    on_their_way: VecDeque<Sent>,
    /// The answer that is arriving, its length before it.
    incoming: Vec<u8>,
    out: Writer,
    versions: KnownVersions,
    login_ends: Option<Instant>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({}, {} on their way)", self.address, self.on_their_way.len())
    }
}

impl Connection {
    /// What the broker knows.
    pub fn versions(&self) -> &KnownVersions {
        &self.versions
    }

    /// The broker's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Requests that aren't answered yet.
    pub fn on_their_way(&self) -> usize {
        self.on_their_way.len()
    }

    /// True where its login is about to end: make it anew when nothing is on its way.
    pub fn is_worn(&self) -> bool {
        self.login_ends.is_some_and(|ends| Instant::now() >= ends)
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        self.transport.socket()
    }

    fn failed(&self, name: &str, error: std::io::Error) -> Error {
        Error::io(format!("broker {}: {name}", self.address), error)
    }

    /// Sends a request; the answer comes by `receive`, after those of the requests before it.
    ///
    /// # Errors
    /// `Io`, `Timeout`: the connection is of no more use. `Config`: the broker doesn't speak the call's version.
    pub fn send<C: Call>(&mut self, call: &C) -> Result<()> {
        self.send_with(call, &[])
    }

    /// As `send`, with parts behind what the call writes, sent from where they lie.
    ///
    /// # Errors
    /// As for `send`.
    pub fn send_with<C: Call>(&mut self, call: &C, parts: &[&[u8]]) -> Result<()> {
        if !self.versions.calls.is_empty() && !self.versions.has(C::KEY, call.version()) {
            let (at, version) = (&self.address, call.version());
            return Err(Error::Config(format!(
                "broker {at} doesn't speak version {version} of {}: set source.client = \"librdkafka\"",
                C::NAME
            )));
        }
        let number = self.next_number;
        self.next_number = number.wrapping_add(1) & i32::MAX;
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        out.i32(0);
        out.i16(C::KEY);
        out.i16(call.version());
        out.i32(number);
        out.string(&self.client_id);
        if call.is_flexible() {
            out.no_tagged();
        }
        call.write(&mut out);
        let rest: usize = parts.iter().map(|part| part.len()).sum();
        out.set_i32(0, (out.len() - 4 + rest) as i32);
        let deadline = Instant::now() + self.patience;
        let mut all = Vec::with_capacity(parts.len() + 1);
        all.push(out.bytes());
        all.extend_from_slice(parts);
        let done = self.write_all(&all, C::NAME, deadline);
        self.out = out;
        done?;
        self.on_their_way.push_back(Sent { number, name: C::NAME, flexible: call.answer_is_flexible(), deadline });
        Ok(())
    }

    fn write_all(&mut self, parts: &[&[u8]], name: &str, deadline: Instant) -> Result<()> {
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        let mut written = 0;
        loop {
            let done = match written < whole {
                true => self.transport.write_some(parts, written).map(|n| (written += n, n > 0)),
                false => self.transport.flush_some().map(|flushed| ((), flushed)),
            };
            match done {
                Ok(((), true)) if written == whole && self.transport.flush_some().is_ok_and(|flushed| flushed) => {
                    return Ok(());
                }
                Ok(((), true)) => continue,
                Ok(((), false)) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {}
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted) => continue,
                Err(error) => return Err(self.failed(name, error)),
            }
            if !self.transport.wait(true, deadline).map_err(|error| self.failed(name, error))? {
                return Err(Error::Timeout(format!("broker {}: {name}", self.address)));
            }
        }
    }

    /// The next answer; none where it isn't whole by `until`. `spare` gives its room to the answer after it.
    ///
    /// # Errors
    /// `Timeout`, where the oldest request is overdue; `Io`, `Damaged`. The connection is of no more use then.
    pub fn receive(&mut self, until: Instant, spare: &mut Vec<u8>) -> Result<Option<Answer>> {
        let Some(oldest) = self.on_their_way.front() else { return Ok(None) };
        let (name, mut overdue) = (oldest.name, oldest.deadline);
        loop {
            let need = self.missing()?;
            if need == 0 {
                return self.take_answer(spare).map(Some);
            }
            if self.incoming.capacity() - self.incoming.len() < need.min(READ_STEP_BYTES) {
                self.incoming.reserve(need.min(READ_STEP_BYTES));
            }
            match self.transport.read_some(&mut self.incoming, need.min(READ_STEP_BYTES)) {
                // What is arriving is not overdue, however slow the link.
                Ok(_) => {
                    let until = Instant::now() + self.patience;
                    self.on_their_way.iter_mut().for_each(|sent| sent.deadline = sent.deadline.max(until));
                    overdue = overdue.max(until);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.failed(name, error)),
            }
            let now = Instant::now();
            if now < until
                && self.transport.wait(false, until.min(overdue)).map_err(|error| self.failed(name, error))?
            {
                continue;
            }
            if Instant::now() >= overdue {
                return Err(Error::Timeout(format!("broker {}: {name}", self.address)));
            }
            return Ok(None);
        }
    }

    /// Bytes that the answer still lacks.
    fn missing(&self) -> Result<usize> {
        let Some(length) = self.incoming.first_chunk::<4>() else { return Ok(4 - self.incoming.len()) };
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > self.answer_bytes_max {
            return Err(Error::Damaged(format!("broker {}: an answer says a length that can't be", self.address)));
        }
        Ok(4 + length - self.incoming.len())
    }

    fn take_answer(&mut self, spare: &mut Vec<u8>) -> Result<Answer> {
        let mut next = std::mem::take(spare);
        next.clear();
        let bytes = std::mem::replace(&mut self.incoming, next);
        let sent = self.on_their_way.pop_front().expect("asked for by receive");
        let mut from = Reader::starting_at(&bytes, 4);
        let number = from.i32()?;
        if number != sent.number {
            return Err(Error::Damaged(format!("broker {}: the answer to another request", self.address)));
        }
        if sent.flexible {
            from.skip_tagged()?;
        }
        let body = from.position();
        Ok(Answer { bytes, body })
    }

    /// Asks and waits for the answer. Only while nothing else is on its way.
    ///
    /// # Errors
    /// `Io`, `Timeout`, `Damaged`: the connection is of no more use; those of the call's answer.
    pub fn call<C: Call>(&mut self, call: &C) -> Result<C::Answer> {
        self.call_within(call, self.patience)
    }

    /// As `call`, waiting no longer than this for the answer to begin.
    pub(super) fn call_within<C: Call>(&mut self, call: &C, patience: Duration) -> Result<C::Answer> {
        let own = std::mem::replace(&mut self.patience, patience);
        let answer = self.call_now(call);
        self.patience = own;
        answer
    }

    fn call_now<C: Call>(&mut self, call: &C) -> Result<C::Answer> {
        if !self.on_their_way.is_empty() {
            return Err(Error::Config(format!("{}: other requests are on their way", C::NAME)));
        }
        self.send(call)?;
        let mut spare = Vec::new();
        let answer = loop {
            // Ends by the request's own deadline at the latest.
            if let Some(answer) = self.receive(Instant::now() + self.patience, &mut spare)? {
                break answer;
            }
        };
        let read = call.read(&mut answer.reader());
        self.incoming = answer.bytes;
        self.incoming.clear();
        read
    }
}

/// Waits until one of the connections has something to read; false where the deadline came first.
pub(super) fn wait_for<'c>(connections: impl Iterator<Item = &'c Connection>, until: Instant) -> Result<bool> {
    let sockets: Vec<BorrowedFd<'_>> = connections.map(Connection::socket).collect();
    wait_any(&sockets, false, until).map_err(|error| Error::io("waiting for brokers", error))
}

/// The waits between attempts to reach one broker.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    failures: u32,
    not_before: Option<Instant>,
}

impl Backoff {
    /// Notes a failure, and for how long to leave the broker alone.
    pub fn fail(&mut self, settings: &Settings) {
        let base = settings.backoff_min.saturating_mul(1 << self.failures.min(16)).min(settings.backoff_max);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(Instant::now() + transport::jittered(base));
    }

    /// Notes a success.
    pub fn succeed(&mut self) {
        *self = Backoff::default();
    }

    /// When the next attempt may be made; none: at once.
    pub fn not_before(&self) -> Option<Instant> {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::Metadata;
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// A broker that answers each connection with the same bytes, and then keeps still.
    fn answering(bytes: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request);
                let _ = stream.write_all(&bytes);
                std::thread::spawn(move || while stream.read(&mut request).is_ok_and(|n| n > 0) {});
            }
        });
        address
    }

    fn dial(address: &str) -> Result<Connection> {
        let quick = Duration::from_millis(300);
        let settings = Settings { connect_timeout: quick, call_timeout: quick, ..Settings::new(address) };
        Dialer::new(settings).unwrap().dial(address)
    }

    /// An answer to the versions call.
    fn versions() -> Vec<u8> {
        let mut body = Writer::default();
        body.i32(0);
        body.i16(0);
        body.compact_count(1);
        body.i16(1);
        body.i16(0);
        body.i16(12);
        body.no_tagged();
        body.i32(0);
        body.no_tagged();
        let mut frame = Writer::default();
        frame.i32(body.len() as i32);
        frame.raw(body.bytes());
        frame.bytes().to_vec()
    }

    #[test]
    fn the_versions_are_asked_for_first() {
        let mut connection = dial(&answering(versions())).unwrap();
        assert!(connection.versions().has(1, 12) && !connection.versions().has(1, 13));
        let error = connection.call(&Metadata { topics: &[] }).unwrap_err().to_string();
        assert!(error.contains("version 9 of metadata") && error.contains("librdkafka"), "{error}");
    }

    #[test]
    fn a_broker_that_keeps_still_is_waited_for_no_longer_than_said() {
        let began = Instant::now();
        for cut in [0, 3, 9, versions().len() - 1] {
            let error = dial(&answering(versions()[..cut].to_vec())).unwrap_err();
            assert!(matches!(error, Error::Timeout(_)), "{cut}: {error}");
        }
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn lengths_and_numbers_that_cannot_be_are_refused() {
        let mut long = versions();
        long[..4].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(matches!(dial(&answering(long)).unwrap_err(), Error::Damaged(_)));
        let mut negative = versions();
        negative[..4].copy_from_slice(&(-1i32).to_be_bytes());
        assert!(matches!(dial(&answering(negative)).unwrap_err(), Error::Damaged(_)));
        let mut other = versions();
        other[7] = 9;
        assert!(matches!(dial(&answering(other)).unwrap_err(), Error::Damaged(_)));
    }

    #[test]
    fn waits_grow_to_a_bound_and_a_success_ends_them() {
        let settings = Settings::new("a:1");
        let mut backoff = Backoff::default();
        assert!(backoff.not_before().is_none());
        for _ in 0..40 {
            backoff.fail(&settings);
            assert!(backoff.not_before().unwrap() <= Instant::now() + settings.backoff_max);
        }
        assert!(backoff.not_before().unwrap() > Instant::now() + settings.backoff_max / 4);
        backoff.succeed();
        assert!(backoff.not_before().is_none());
    }
}
