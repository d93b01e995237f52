//! Writes to partitions: messages are gathered into whole batches, several requests are on their way to each leader,
//! and what fails in passing is sent again in order. Always idempotent, always acknowledged by all replicas.
//!
//! ```no_run
//! use millstream::kafka::direct::build::Entry;
//! use millstream::kafka::direct::{Producer, ProduceSettings, Settings};
//!
//! let mut producer = Producer::open(Settings::new("localhost:9092"), ProduceSettings::default()).unwrap();
//! let entry = Entry { key: Some(b"k"), value: Some(b"v"), timestamp: 1_700_000_000_000, headers: &[] };
//! producer.send("events", 0, &entry).unwrap();
//! producer.flush().unwrap();
//! ```
//!
//! A partition's batches carry numbers without a gap. Where one fails in passing, those behind it are held back
//! until every one that is on its way has been answered; then all of them go again, from the first on.

use super::build::{Builder, Entry};
use super::calls::CoordinatorOf;
use super::cluster::Cluster;
use super::connection::wait_for;
use super::error::{Error, Resource, Result, code};
use super::produce_call::{Outcome, Produce, write_heads};
use super::settings::{ProduceSettings, Settings};
use super::slot::{Batch, RETRY_INTERVAL, Slot};
use super::transaction::Ending;
use super::txn_calls::{Identity, InitProducerId};
use crate::faults;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long one call to a coordinator may take before it is looked up again.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may be late before the leaders are looked up: a broker that is held keeps its connections.
const STALL: Duration = Duration::from_secs(3);

/// Batches of which the room is kept.
const SPARES_MAX: usize = 64;

/// A topic of a producer: see [`Producer::topic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicNumber(usize);

/// A request on its way: its batches, by slot.
#[derive(Debug)]
struct Flight {
    sent: Instant,
    batches: Vec<(usize, Batch)>,
}

/// Writes to partitions of a cluster. It lives on one thread and starts none.
#[derive(Debug)]
pub struct Producer {
    pub(super) cluster: Cluster,
    /// For coordinators: their answers are not to wait behind batches.
    pub(super) control: Cluster,
    pub(super) settings: ProduceSettings,
    pub(super) identity: Identity,
    /// Version 2 of the transactions' protocol.
    pub(super) joins: bool,
    pub(super) topics: Vec<String>,
    pub(super) slots: Vec<Slot>,
    /// The slot that was written last.
    last: usize,
    flights: HashMap<i32, VecDeque<Flight>>,
    spares: Vec<Builder>,
    /// Why nothing more can be sent, where that is so: a batch was given up.
    pub(super) broken: Option<String>,
    pub(super) fenced: bool,
    /// Something of the open transaction may have reached a broker.
    pub(super) touched: bool,
    pub(super) ending: Ending,
    refresh_not_before: Option<Instant>,
    /// When a late answer made it look up the leaders.
    looked: Instant,
    /// Brokers that want to be left alone for a while (quotas).
    quiet: HashMap<i32, Instant>,
}

impl Producer {
    /// Connects and asks for an identity. With a transactional id, this shuts out whoever held it before, and waits
    /// until what he left open has ended.
    ///
    /// # Errors
    /// `Config`, `Broker`; `Io` and `Timeout` where no broker answers within the delivery timeout.
    pub fn open(settings: Settings, how: ProduceSettings) -> Result<Producer> {
        // A coordinator that keeps still may have a successor by then.
        let control = Settings { call_timeout: settings.call_timeout.min(COORDINATOR_TIMEOUT), ..settings.clone() };
        let mut producer = Producer {
            cluster: Cluster::new(settings)?,
            control: Cluster::new(control)?,
            settings: how,
            identity: Identity::NONE,
            joins: false,
            topics: Vec::new(),
            slots: Vec::new(),
            last: 0,
            flights: HashMap::new(),
            spares: Vec::new(),
            broken: None,
            fenced: false,
            touched: false,
            ending: Ending::default(),
            refresh_not_before: None,
            looked: Instant::now(),
            quiet: HashMap::new(),
        };
        producer.identify()?;
        Ok(producer)
    }

    /// Asks for an identity, showing the present one; sequences begin anew.
    pub(super) fn identify(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.settings.delivery_timeout;
        let (settings, identity) = (self.settings.clone(), self.identity);
        let name = settings.transactional.as_deref();
        let call = InitProducerId {
            transactional: name,
            timeout_ms: settings.transaction_timeout.as_millis() as i32,
            identity: if name.is_some() { identity } else { Identity::NONE },
        };
        let answer = self.control.retrying(deadline, |cluster| match name {
            Some(name) => cluster.ask_coordinator(CoordinatorOf::Transaction, name, &call),
            None => cluster.ask_any(&call),
        });
        if answer.as_ref().is_err_and(|error| {
            let ours = name.is_some() && identity.id >= 0;
            error.code().is_some_and(|c| c == code::PRODUCER_FENCED || (ours && code::is_fence(c)))
        }) {
            self.fenced = true;
        }
        self.identity = answer?;
        if name.is_some() {
            self.joins = self.control.transaction_level() >= 2;
        }
        self.start_over();
        self.broken = None;
        self.touched = false;
        Ok(())
    }

    /// Who this producer is, to the brokers.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Sequences begin anew, as they do with each identity.
    pub(super) fn start_over(&mut self) {
        for slot in &mut self.slots {
            slot.next_sequence = 0;
        }
        self.unannounce();
    }

    /// A new transaction: no partition belongs to it yet.
    pub(super) fn unannounce(&mut self) {
        let needs_none = self.settings.transactional.is_none() || self.joins;
        for slot in &mut self.slots {
            slot.announced = needs_none;
            slot.written = false;
        }
    }

    /// The number by which [`Producer::send_in`] knows a topic. It holds as long as the producer.
    pub fn topic(&mut self, topic: &str) -> TopicNumber {
        TopicNumber(self.topics.iter().position(|known| known == topic).unwrap_or_else(|| {
            self.topics.push(topic.to_string());
            self.topics.len() - 1
        }))
    }

    fn slot(&mut self, topic: usize, partition: i32) -> usize {
        let fits = |slot: &Slot| slot.partition == partition && slot.topic == topic;
        if self.slots.get(self.last).is_some_and(fits) {
            return self.last;
        }
        self.last = self.slots.iter().position(fits).unwrap_or_else(|| {
            let announced = self.settings.transactional.is_none() || self.joins;
            self.slots.push(Slot::new(topic, partition, announced));
            self.slots.len() - 1
        });
        self.last
    }

    /// Takes a message. It is on its way when its batch is full, or by `push` or `flush`.
    ///
    /// # Errors
    /// `Broker` with MESSAGE_TOO_LARGE for a message that is too long, which changes nothing. Anything else: a batch
    /// was given up, and the producer takes nothing more until the transaction is aborted (or it is opened anew).
    pub fn send(&mut self, topic: &str, partition: i32, entry: &Entry<'_>) -> Result<()> {
        let topic = self.topic(topic);
        self.send_in(topic, partition, entry)
    }

    /// As `send`, for many messages of a topic: its name is looked up once.
    ///
    /// # Errors
    /// As for `send`.
    #[inline]
    pub fn send_in(&mut self, topic: TopicNumber, partition: i32, entry: &Entry<'_>) -> Result<()> {
        self.check()?;
        let bytes = entry.bytes_max();
        if bytes > self.settings.message_bytes_max + 64 {
            let topic = &self.topics[topic.0];
            return Err(Error::broker(format!("{topic}/{partition}: {bytes} bytes"), code::MESSAGE_TOO_LARGE));
        }
        let number = self.slot(topic.0, partition);
        let slot = &mut self.slots[number];
        if !slot.open.is_empty() && slot.open.len() + bytes > self.settings.batch_bytes {
            self.seal(number)?;
            self.pump(Duration::ZERO)?;
            self.make_room(number)?;
        }
        self.slots[number].open.push(entry);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        match &self.broken {
            None => Ok(()),
            Some(reason) => Err(Error::broker(reason.clone(), code::TRANSACTION_ABORTABLE)),
        }
    }

    /// Waits while a partition has as many batches waiting as may be on their way.
    fn make_room(&mut self, number: usize) -> Result<()> {
        while self.slots[number].waiting.len() >= self.settings.on_their_way_max {
            self.pump(Duration::from_millis(100))?;
        }
        Ok(())
    }

    fn seal(&mut self, number: usize) -> Result<()> {
        let slot = &mut self.slots[number];
        let mut builder = std::mem::replace(&mut slot.open, self.spares.pop().unwrap_or_default());
        let sequence = slot.next_sequence;
        let transactional = self.settings.transactional.is_some();
        builder.seal(self.settings.compression, self.identity, sequence, transactional)?;
        // Counted round to 0 after the largest.
        slot.next_sequence = sequence.wrapping_add(builder.count()) & i32::MAX;
        slot.waiting.push_back(Batch { builder, sequence, sealed: Instant::now() });
        Ok(())
    }

    /// Sends what has gathered where the brokers have little to do, and takes in answers that have come. A broker
    /// that is busy is sent fuller batches later.
    ///
    /// # Errors
    /// As for `send`.
    pub fn push(&mut self) -> Result<()> {
        self.check()?;
        self.pump(Duration::ZERO)?;
        for number in 0..self.slots.len() {
            let slot = &self.slots[number];
            if !slot.open.is_empty() && slot.waiting.is_empty() && slot.on_their_way < 2 {
                self.seal(number)?;
            }
        }
        self.pump(Duration::ZERO)
    }

    /// Sends everything and waits until all of it is acknowledged.
    ///
    /// # Errors
    /// As for `send`.
    pub fn flush(&mut self) -> Result<()> {
        self.check()?;
        for number in 0..self.slots.len() {
            if !self.slots[number].open.is_empty() {
                self.seal(number)?;
            }
        }
        while self.is_busy() {
            self.pump(Duration::from_millis(100))?;
        }
        Ok(())
    }

    /// True where something was sealed and isn't acknowledged.
    fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.on_their_way > 0 || !slot.waiting.is_empty())
    }

    /// Drops what isn't on its way and hangs up on what is.
    pub(super) fn discard(&mut self) {
        for (broker, flights) in std::mem::take(&mut self.flights) {
            if !flights.is_empty() {
                self.cluster.drop_connection(broker);
            }
        }
        for slot in &mut self.slots {
            slot.open.clear();
            slot.waiting.clear();
            (slot.on_their_way, slot.held, slot.not_before) = (0, false, None);
        }
    }

    /// Takes in the answers on their way, as far as they come within `wait`.
    pub(super) fn settle(&mut self, wait: Duration) {
        let deadline = Instant::now() + wait;
        while self.slots.iter().any(|slot| slot.on_their_way > 0) && Instant::now() < deadline {
            if self.receive(deadline).is_err() {
                return;
            }
        }
    }

    /// Sends what may be sent and takes in what has come; waits for the latter at most `wait`.
    fn pump(&mut self, wait: Duration) -> Result<()> {
        let done = self.give_up_overdue().and_then(|()| self.dispatch()).and_then(|()| {
            let until = Instant::now() + wait;
            self.receive(until)?;
            self.look_after()?;
            self.dispatch()
        });
        if let Err(error) = &done {
            self.broken.get_or_insert_with(|| error.to_string());
        }
        done
    }

    fn give_up_overdue(&self) -> Result<()> {
        let limit = self.settings.delivery_timeout;
        let overdue = self.slots.iter().find(|s| s.waiting.front().is_some_and(|batch| batch.sealed.elapsed() > limit));
        let Some(slot) = overdue else { return Ok(()) };
        Err(Error::Timeout(format!("{}/{}: the broker takes no messages", self.topics[slot.topic], slot.partition)))
    }

    /// Sends a request to each broker that has room, with a batch for each partition that has one waiting.
    fn dispatch(&mut self) -> Result<()> {
        let mut looked_up = false;
        loop {
            let now = Instant::now();
            self.quiet.retain(|_, until| *until > now);
            let (mut by_broker, mut unknown) = (HashMap::<i32, Vec<usize>>::new(), Vec::new());
            for (number, slot) in self.slots.iter().enumerate() {
                if slot.waiting.is_empty() || slot.held || slot.not_before.is_some_and(|when| now < when) {
                    continue;
                }
                let topic = &self.topics[slot.topic];
                match self.cluster.leader(topic, slot.partition) {
                    // A new leader would get them before those that the old one still has to turn away.
                    Some((leader, _)) if slot.on_their_way > 0 && slot.leader != leader => {}
                    Some((leader, _)) => {
                        let flying = self.flights.get(&leader).map_or(0, VecDeque::len);
                        if flying < self.settings.on_their_way_max.clamp(1, 5) && !self.quiet.contains_key(&leader) {
                            by_broker.entry(leader).or_default().push(number);
                        }
                    }
                    None => unknown.push(topic.clone()),
                }
            }
            if !unknown.is_empty() && !looked_up {
                looked_up = true;
                self.look_up(&mut unknown, now)?;
                continue;
            }
            if by_broker.is_empty() || !self.may_begin() {
                return Ok(());
            }
            for (broker, slots) in by_broker {
                if self.announce(&slots)? {
                    self.send_to(broker, &slots)?;
                }
            }
        }
    }

    fn look_up(&mut self, topics: &mut Vec<String>, now: Instant) -> Result<()> {
        if self.refresh_not_before.is_some_and(|when| now < when) {
            return Ok(());
        }
        self.refresh_not_before = Some(now + RETRY_INTERVAL * 2);
        topics.sort();
        topics.dedup();
        match self.cluster.refresh(topics) {
            Err(error) if error.may_pass() || error.breaks_connection() => Ok(()),
            done => done,
        }
    }

    /// Where a broker keeps still, looks whether it leads yet. One that the others have given up is gone from their
    /// list, and its connection with it.
    fn look_after(&mut self) -> Result<()> {
        let now = Instant::now();
        let late = |flights: &&VecDeque<Flight>| flights.front().is_some_and(|f| now.duration_since(f.sent) > STALL);
        if now.duration_since(self.looked) < STALL || !self.flights.values().any(|flights| late(&flights)) {
            return Ok(());
        }
        self.looked = now;
        let batches = self.flights.values().filter(late).flatten().flat_map(|flight| &flight.batches);
        let mut topics: Vec<String> =
            batches.map(|(number, _)| self.topics[self.slots[*number].topic].clone()).collect();
        self.look_up(&mut topics, now)
    }

    fn send_to(&mut self, broker: i32, slots: &[usize]) -> Result<()> {
        let mut slots = slots.to_vec();
        slots.sort_by_key(|number| (self.slots[*number].topic, *number));
        let mut batches = Vec::with_capacity(slots.len());
        for number in slots {
            let slot = &mut self.slots[number];
            if let Some(batch) = slot.waiting.pop_front() {
                slot.on_their_way += 1;
                slot.written = true;
                slot.leader = broker;
                slot.not_before = None;
                batches.push((number, batch));
            }
        }
        let compression = self.settings.compression;
        let parts: Vec<(&str, i32, &[u8])> = batches
            .iter()
            .map(|(number, batch)| {
                let slot = &self.slots[*number];
                (self.topics[slot.topic].as_str(), slot.partition, batch.builder.sealed(compression))
            })
            .collect();
        let call = Produce {
            transactional: self.settings.transactional.as_deref(),
            timeout_ms: self.cluster.settings().call_timeout.as_millis() as i32,
            joins: self.joins,
        };
        let (heads, tail) = write_heads(&parts);
        let mut slices: Vec<&[u8]> = Vec::with_capacity(parts.len() * 2 + 1);
        for (head, (_, _, batch)) in heads.iter().zip(&parts) {
            slices.extend([head.as_slice(), batch]);
        }
        slices.push(&tail);
        let sent = self.cluster.connection(broker).and_then(|connection| connection.send_with(&call, &slices));
        self.flights.entry(broker).or_default().push_back(Flight { sent: Instant::now(), batches });
        // With the connection, what was sent before is lost from sight as well.
        sent.or_else(|error| self.lose(broker, error))
    }

    /// Takes in answers, waiting for the first at most until a deadline.
    fn receive(&mut self, until: Instant) -> Result<()> {
        let mut came = false;
        loop {
            let brokers: Vec<i32> = self.flights.iter().filter(|(_, f)| !f.is_empty()).map(|(b, _)| *b).collect();
            for broker in &brokers {
                came |= self.receive_from(*broker)?;
            }
            let now = Instant::now();
            if came || now >= until {
                return Ok(());
            }
            let waiting = self.slots.iter().filter(|slot| !slot.waiting.is_empty());
            let again = waiting.filter_map(|slot| slot.not_before).chain(self.quiet.values().copied());
            let again = again.chain(self.ending.look_at());
            let until = again.filter(|when| *when > now).fold(until, Instant::min);
            if brokers.is_empty() {
                std::thread::sleep(until.min(now + RETRY_INTERVAL).saturating_duration_since(now));
                return Ok(());
            }
            let flying = brokers.iter().filter_map(|broker| self.cluster.peek_connection(*broker));
            if !wait_for(flying, until)? && until <= Instant::now() {
                // Once more, for a request that is overdue is only found out by asking.
                for broker in &brokers {
                    self.receive_from(*broker)?;
                }
                return Ok(());
            }
        }
    }

    /// Takes in the answers of a broker that have come; true where there was one.
    fn receive_from(&mut self, broker: i32) -> Result<bool> {
        let mut came = false;
        while self.flights.get(&broker).is_some_and(|flights| !flights.is_empty()) {
            let mut spare = Vec::new();
            let answer = match self.cluster.existing(broker) {
                Some(connection) => connection.receive(Instant::now(), &mut spare),
                None => Err(Error::broker(format!("broker {broker}"), code::NETWORK_EXCEPTION)),
            };
            let outcomes = match answer {
                Ok(None) => return Ok(came),
                Ok(Some(answer)) => Produce::outcomes(&mut answer.reader()),
                Err(error) => Err(error),
            };
            came = true;
            match outcomes {
                Ok((outcomes, quiet_ms)) => {
                    if let Ok(quiet @ 1..) = u64::try_from(quiet_ms) {
                        self.quiet.insert(broker, Instant::now() + Duration::from_millis(quiet));
                    }
                    let flight = self.flights.get_mut(&broker).and_then(VecDeque::pop_front);
                    self.take_in(flight.expect("looked at above"), &outcomes)?;
                }
                Err(error) => self.lose(broker, error)?,
            }
        }
        Ok(came)
    }

    fn take_in(&mut self, flight: Flight, outcomes: &[Outcome]) -> Result<()> {
        let mut fault = Ok(());
        for (number, batch) in flight.batches {
            let (topic, partition) = (self.slots[number].topic, self.slots[number].partition);
            let found = outcomes.iter().find(|o| o.partition == partition && o.topic == self.topics[topic]);
            let code = found.map_or(code::NETWORK_EXCEPTION, |outcome| outcome.code);
            let slot = &mut self.slots[number];
            slot.on_their_way -= 1;
            // Behind a batch that failed, the next ones are out of order: they go again with it.
            let behind = slot.held && code == code::OUT_OF_ORDER_SEQUENCE_NUMBER;
            let moved = code::is_stale_leader(code) && faults::planted("moved-leader-taken-as-written");
            if code == code::NONE || code == code::DUPLICATE_SEQUENCE_NUMBER || moved {
                if self.spares.len() < SPARES_MAX {
                    let mut builder = batch.builder;
                    builder.clear();
                    self.spares.push(builder);
                }
            } else if behind || code::may_pass(code) {
                self.slots[number].put_back(batch);
                if code::is_stale_leader(code) {
                    self.cluster.forget_leaders(&self.topics[topic]);
                }
            } else {
                let words = found.and_then(|outcome| outcome.words.as_deref()).unwrap_or_default();
                let mut what = format!("{}/{partition}", self.topics[topic]);
                if !words.is_empty() {
                    what = format!("{what}: {words}");
                }
                let name = self.settings.transactional.as_deref().unwrap_or_default();
                let error = Error::broker(what, code).on(Resource::Topic, &self.topics[topic]);
                fault = fault.and(Err(error.on(Resource::TransactionalId, name)));
            }
            self.slots[number].release();
        }
        fault
    }

    /// A connection broke: whatever was on its way on it goes again.
    fn lose(&mut self, broker: i32, error: Error) -> Result<()> {
        tracing::debug!(target: "millstream::kafka", "produce: {error}");
        self.cluster.hang_up(broker);
        for flight in self.flights.remove(&broker).unwrap_or_default() {
            for (number, batch) in flight.batches {
                self.slots[number].on_their_way -= 1;
                let topic = self.topics[self.slots[number].topic].clone();
                self.cluster.forget_leaders(&topic);
                self.slots[number].put_back(batch);
                self.slots[number].release();
            }
        }
        if let Error::Config(_) = error { Err(error) } else { Ok(()) }
    }
}
