//! A listening socket as a source, and the way back for its answers.
//!
//! One thread a lane reads, and answers, with one `epoll`. Connections that have bytes take turns;
//! whole events go into the block, unfinished ones stay with their connection. Lane 0 accepts for all:
//! connection number mod lanes is the lane. Inputs are named `listener#number`, and numbers go on
//! over restarts (where the past knows them), so that an input's offsets never start over.
//!
//! Backpressure: a connection whose unsent answers exceed `write_buffer_bytes_max` isn't read until
//! they have gone out (one block's answers may come on top); others go on.

mod connection;
mod listener;

pub use listener::Listen;

use super::{Past, Polled, Position, ReadOptions, Source};
use crate::batch::{Block, Outbox};
use crate::error::{Fault, Result};
use connection::{Connection, Progress, READ_BYTES_MIN, Stream};
use listener::{Listener, Seat, Shared};
use mio::{Events, Interest, Poll, Token, Waker};
use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// Tokens of connections are their inputs' numbers plus this.
const FIRST: usize = 2;
/// How soon a failed `accept` (no descriptor left) is tried again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where to listen, and the limits.
#[derive(Debug)]
pub struct SocketOptions {
    /// The address, the path, or the inherited listener.
    pub listen: Listen,
    /// Most connections at a time, over all lanes; one more is refused with an error line.
    pub connections_max: usize,
    /// Most connections at a time from one IP address.
    pub connections_per_address_max: usize,
    /// A connection on which nothing moves for so long is closed; 0: never.
    pub idle_timeout_ms: u64,
    /// Unsent answers beyond which a connection isn't read.
    pub write_buffer_bytes_max: usize,
    /// Format and limits.
    pub read: ReadOptions,
    /// Predictions go back on the connection: it is closed once all is answered. Otherwise it is
    /// closed once all is read.
    pub answer: bool,
}

/// What happened on the sockets of a lane so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SocketCounts {
    /// Connections taken in.
    pub accepted: u64,
    /// Connections refused by a limit (lane 0 counts for all).
    pub refused: u64,
    /// Connections closed for idleness.
    pub idle_closed: u64,
    /// Answers that could not be delivered: the client was gone.
    pub answers_dropped: u64,
}

/// A connection on its way to its lane.
struct Incoming {
    stream: Stream,
    number: u64,
    seat: Seat,
}

/// What lane 0 needs to accept for all.
struct Door {
    listener: Listener,
    /// The way to each lane; none to lane 0 itself.
    lanes: Vec<Option<(mpsc::Sender<Incoming>, Arc<Waker>)>>,
    /// Connections may be waiting.
    open: bool,
}

/// The connections of one lane.
pub struct SocketSource {
    poll: Poll,
    events: Events,
    waker: Arc<Waker>,
    shared: Arc<Shared>,
    lanes: u32,
    door: Option<Door>,
    inbox: mpsc::Receiver<Incoming>,
    read: ReadOptions,
    answer: bool,
    write_buffer_bytes_max: usize,
    idle_timeout: Duration,
    next_idle_check: Instant,
    connections: HashMap<u32, Connection>,
    next_input: u32,
    /// Numbers of closed inputs that no block speaks of any more: they are given out again.
    free: Vec<u32>,
    /// Inputs that may have bytes, in turn.
    ready: VecDeque<u32>,
    /// Names of connections closed since the last poll, and since the one before.
    closed: [Vec<(u32, Arc<str>)>; 2],
    counts: SocketCounts,
    paused: bool,
}

/// Binds the listener and makes a source a lane, in the lanes' order. Connections are accepted once
/// every lane was started, and while lane 0 is polled.
///
/// # Errors
/// Environment: the address cannot be bound, or the system refuses an `epoll`.
pub fn open(options: SocketOptions, lanes: u32) -> Result<Vec<SocketSource>> {
    let lanes = lanes.max(1);
    let (listener, name) = Listener::bind(options.listen)?;
    let shared = Arc::new(Shared::new(name, options.connections_max, options.connections_per_address_max));
    let mut sources = Vec::new();
    let mut ways = Vec::new();
    for lane in 0..lanes {
        let poll = Poll::new().map_err(|e| Fault::io("epoll", &e))?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).map_err(|e| Fault::io("eventfd", &e))?);
        let (way, inbox) = mpsc::channel();
        ways.push((lane > 0).then(|| (way, Arc::clone(&waker))));
        sources.push(SocketSource {
            poll,
            events: Events::with_capacity(1024),
            waker,
            shared: Arc::clone(&shared),
            lanes,
            door: None,
            inbox,
            read: options.read,
            answer: options.answer,
            write_buffer_bytes_max: options.write_buffer_bytes_max,
            idle_timeout: Duration::from_millis(options.idle_timeout_ms),
            next_idle_check: Instant::now(),
            connections: HashMap::new(),
            next_input: 0,
            free: Vec::new(),
            ready: VecDeque::new(),
            closed: Default::default(),
            counts: SocketCounts::default(),
            paused: false,
        });
    }
    let mut door = Door { listener, lanes: ways, open: true };
    let registry = sources[0].poll.registry();
    let registered = registry.register(door.listener.source(), LISTENER, Interest::READABLE);
    registered.map_err(|e| Fault::io("source.listen", &e))?;
    let _ = shared.door.set(sources[0].waker());
    sources[0].door = Some(door);
    Ok(sources)
}

impl SocketSource {
    /// The listener's name: its address (with the port that the system chose), or its path.
    pub fn listener_name(&self) -> &str {
        &self.shared.name
    }

    /// Interrupts a `poll` that waits, from any thread.
    pub fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// What happened so far.
    pub fn counts(&self) -> SocketCounts {
        self.counts
    }

    /// Open connections of this lane.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Bytes of answers that wait for their clients.
    pub fn unsent_bytes(&self) -> usize {
        self.connections.values().map(Connection::unsent).sum()
    }

    /// Sends the outbox's records to the connections whose events they answer, as far as that goes
    /// without waiting; [`Source::poll`] sends the rest. Answers to clients that are gone are counted
    /// and dropped.
    pub fn answer(&mut self, outbox: &Outbox) {
        let records = &outbox.records;
        let mut i = 0;
        while i < records.len() {
            let (input, mut span, mut rows) = (records[i].input, records[i].span, u64::from(records[i].rows));
            i += 1;
            while i < records.len() && records[i].input == input && records[i].span.start == span.end {
                span.end = records[i].span.end;
                rows += u64::from(records[i].rows);
                i += 1;
            }
            match self.connections.get_mut(&input) {
                None => self.counts.answers_dropped += rows,
                Some(connection) => {
                    if connection.send(span.of(&outbox.bytes), rows) {
                        self.close_if_finished(input);
                    } else {
                        self.counts.answers_dropped += rows;
                        self.close(input);
                    }
                }
            }
        }
    }

    /// Waits at most `wait` until all answers have gone out, reading nothing; returns how many bytes
    /// are left. For a drain.
    ///
    /// # Errors
    /// Environment, where the system refuses to wait.
    pub fn send_all(&mut self, wait: Duration) -> Result<usize> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let unsent = self.unsent_bytes();
            if unsent == 0 || left.is_zero() {
                return Ok(unsent);
            }
            self.wait(left)?;
        }
    }

    /// Waits for something to happen, and sees to all of it but the reading.
    fn wait(&mut self, wait: Duration) -> Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(wait)) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(Fault::io("epoll", &e)),
            _ => {}
        }
        for event in &events {
            match event.token() {
                WAKER => {}
                LISTENER => {
                    if let Some(door) = &mut self.door {
                        door.open = true;
                    }
                }
                token => self.on_event((token.0 - FIRST) as u32, event),
            }
        }
        self.events = events;
        self.accept()?;
        while let Ok(incoming) = self.inbox.try_recv() {
            self.take_in(incoming);
        }
        Ok(())
    }

    fn on_event(&mut self, input: u32, event: &mio::event::Event) {
        let Some(connection) = self.connections.get_mut(&input) else { return };
        connection.closing |= event.is_read_closed() || event.is_error();
        if event.is_writable() {
            match connection.flush() {
                Some(moved) => {
                    if moved {
                        connection.active = Instant::now();
                    }
                    if connection.held && connection.unsent() <= self.write_buffer_bytes_max {
                        connection.held = false;
                        connection.queued = true;
                        self.ready.push_back(input);
                    }
                    self.close_if_finished(input);
                }
                None => return self.close(input),
            }
        }
        if !event.is_readable() && !event.is_read_closed() && !event.is_error() {
            return;
        }
        if let Some(connection) = self.connections.get_mut(&input)
            && !connection.queued
            && !connection.held
            && !connection.ended
        {
            connection.queued = true;
            self.ready.push_back(input);
        }
    }

    /// Takes in whoever waits at the door, and hands each to its lane.
    fn accept(&mut self) -> Result<()> {
        let Some(mut door) = self.door.take() else { return Ok(()) };
        while door.open && self.shared.started.load(Ordering::Acquire) >= self.lanes {
            match door.listener.accept() {
                Ok((stream, address)) => match self.shared.seat(address) {
                    Err(reason) => {
                        self.counts.refused += 1;
                        stream.refuse(&reason, self.read.framing);
                    }
                    Ok(seat) => {
                        let number = self.shared.next_number.fetch_add(1, Ordering::AcqRel);
                        let incoming = Incoming { stream, number, seat };
                        match &door.lanes[(number % u64::from(self.lanes)) as usize] {
                            None => self.take_in(incoming),
                            Some((way, waker)) => {
                                // A lane that has ended takes no more connections: this one is closed.
                                if way.send(incoming).is_ok() {
                                    let _ = waker.wake();
                                }
                            }
                        }
                    }
                },
                Err(e) if e.kind() == ErrorKind::WouldBlock => door.open = false,
                Err(e) if matches!(e.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                // No descriptor or memory left: those who wait go on waiting.
                Err(_) => break,
            }
        }
        self.door = Some(door);
        Ok(())
    }

    fn take_in(&mut self, incoming: Incoming) {
        let name = format!("{}#{}", self.shared.name, incoming.number);
        let input = self.free.pop().unwrap_or_else(|| {
            self.next_input += 1;
            self.next_input - 1
        });
        let mut connection = Connection::new(incoming.stream, name, input, &self.read, incoming.seat);
        let token = Token(input as usize + FIRST);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self.poll.registry().register(connection.source(), token, interest).is_ok() {
            // Read at once: what it has to say has often arrived with it.
            connection.queued = true;
            self.ready.push_back(input);
            self.connections.insert(input, connection);
            self.counts.accepted += 1;
        }
    }

    /// Reads those that have bytes, in turn, until the block is full or none has more.
    fn read_ready(&mut self, block: &mut Block) {
        if block.bytes.capacity() < self.read.block_bytes {
            block.bytes.reserve_exact(self.read.block_bytes + READ_BYTES_MIN);
        }
        while block.bytes.len() < self.read.block_bytes {
            let Some(input) = self.ready.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&input) else { continue };
            connection.queued = false;
            if connection.unsent() > self.write_buffer_bytes_max {
                connection.held = true;
                continue;
            }
            match connection.read(block) {
                Progress::More => {
                    connection.active = Instant::now();
                    connection.queued = true;
                    self.ready.push_back(input);
                }
                Progress::Drained => connection.active = Instant::now(),
                Progress::Ended => self.close_if_finished(input),
                Progress::Gone => self.close(input),
                Progress::Hopeless => self.close_because(input, "the header line is longer than event_bytes_max"),
            }
        }
    }

    fn close_if_finished(&mut self, input: u32) {
        let Some(connection) = self.connections.get(&input) else { return };
        if connection.ended && (!self.answer || connection.unanswered() == 0 && connection.unsent() == 0) {
            self.close(input);
        }
    }

    fn close(&mut self, input: u32) {
        self.remove(input);
    }

    fn close_because(&mut self, input: u32, reason: &str) {
        if let Some(connection) = self.remove(input)
            && connection.unsent() == 0
        {
            connection.into_stream().refuse(reason, self.read.framing);
        }
    }

    fn remove(&mut self, input: u32) -> Option<Connection> {
        let mut connection = self.connections.remove(&input)?;
        let _ = self.poll.registry().deregister(connection.source());
        self.counts.answers_dropped += connection.rows_unsent;
        self.closed[0].push((input, Arc::clone(&connection.name)));
        Some(connection)
    }

    /// Closes connections on which nothing has moved for too long.
    fn check_idle(&mut self) {
        if self.idle_timeout.is_zero() || self.paused {
            return;
        }
        let now = Instant::now();
        if now < self.next_idle_check {
            return;
        }
        self.next_idle_check = now + self.idle_timeout / 8;
        let waits_for_us = |c: &Connection| self.answer && c.unsent() == 0 && c.unanswered() > 0;
        let idle = |c: &Connection| now.duration_since(c.active) >= self.idle_timeout && !c.queued && !waits_for_us(c);
        let mut inputs: Vec<u32> = self.connections.iter().filter(|(_, c)| idle(c)).map(|(i, _)| *i).collect();
        inputs.sort_unstable();
        for input in inputs {
            self.counts.idle_closed += 1;
            self.close_because(input, "nothing moved for idle_timeout_ms");
        }
    }

    /// How long `poll` may sleep.
    fn patience(&self, wait: Duration) -> Duration {
        if !self.ready.is_empty() && !self.paused {
            return Duration::ZERO;
        }
        let mut wait = wait;
        if !self.idle_timeout.is_zero() && !self.connections.is_empty() {
            wait = wait.min(self.idle_timeout / 8);
        }
        if self.door.as_ref().is_some_and(|d| d.open) {
            wait = wait.min(ACCEPT_AGAIN);
        }
        wait
    }
}

impl Past for SocketSource {
    fn read_run(&mut self, input: &str, _: Position, _: u64, _: &mut Block) -> Result<Polled> {
        Err(Fault::misuse(format!("{input}: a socket's events cannot be read again")))
    }

    fn input_name(&self, input: u32) -> &str {
        if let Some(connection) = self.connections.get(&input) {
            return &connection.name;
        }
        let mut closed = self.closed.iter().flatten();
        closed.find(|(number, _)| *number == input).map_or("", |(_, name)| name)
    }
}

impl Source for SocketSource {
    fn start(&mut self, positions: &[(String, Position)]) -> Result<()> {
        self.shared.start_after(positions.iter().map(|(name, _)| name.clone()));
        Ok(())
    }

    fn poll(&mut self, block: &mut Block, wait: Duration) -> Result<Polled> {
        self.closed.swap(0, 1);
        self.free.extend(self.closed[0].drain(..).map(|(input, _)| input));
        self.wait(self.patience(wait))?;
        if !self.paused {
            self.read_ready(block);
        }
        self.check_idle();
        Ok(if block.records.is_empty() { Polled::Idle } else { Polled::Filled })
    }

    fn replayable(&self) -> bool {
        false
    }

    fn pause(&mut self, paused: bool) {
        if self.paused && !paused {
            let now = Instant::now();
            self.connections.values_mut().for_each(|c| c.active = now);
        }
        self.paused = paused;
    }
}
