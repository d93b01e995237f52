//! Reads partitions: one fetch a leader is always on its way, and the next one is asked for before the present one
//! is walked, so that the broker works while the caller does.
//!
//! ```no_run
//! use millstream::kafka::direct::{FetchSettings, Fetcher, Settings};
//! use std::time::Duration;
//!
//! let mut fetcher = Fetcher::open(Settings::new("localhost:9092"), FetchSettings::default()).unwrap();
//! fetcher.add("events", 0, 0);
//! while let Some(mut fetched) = fetcher.next(Duration::from_secs(1)).unwrap() {
//!     while let Some(message) = fetched.peek().unwrap() {
//!         println!("{}: {:?}", message.offset, message.value);
//!         fetched.advance();
//!     }
//!     fetcher.give_back(fetched);
//! }
//! ```

use super::calls::Call;
use super::cluster::Cluster;
use super::connection::wait_for;
use super::error::{Error, Resource, Result, code};
use super::fetched::{Fetch, Fetched, Part, Wanted};
use super::settings::Settings;
use crate::faults;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long a partition that failed is left alone.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// How long an answer may be late before the leaders are looked up: a broker that is held keeps its connections.
const STALL: Duration = Duration::from_secs(3);

/// How a fetcher asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchSettings {
    /// Only committed messages, none behind the first open transaction.
    pub committed: bool,
    /// About how many bytes an answer may have; one batch is always sent whole.
    pub fetch_bytes: u32,
    /// The same, for each partition.
    pub partition_bytes: u32,
    /// How long a broker may hold back an answer with nothing in it.
    pub wait: Duration,
    /// [`Fetcher::next`] returns as soon as every partition is known to be at its end.
    pub tells_end: bool,
    /// How long a partition may be unknown to every broker before that is an error.
    pub unknown_for: Duration,
}

impl Default for FetchSettings {
    fn default() -> FetchSettings {
        FetchSettings {
            committed: true,
            fetch_bytes: 4 << 20,
            partition_bytes: 1 << 20,
            wait: Duration::from_millis(250),
            tells_end: false,
            unknown_for: Duration::from_secs(30),
        }
    }
}

/// A partition that is read.
#[derive(Debug)]
struct Slot {
    topic: String,
    partition: i32,
    /// Offset to ask for next.
    next: i64,
    /// Counts its moves: what was asked for before one is dropped.
    moves: u32,
    /// One past the last offset there is, and past the last that may be read, as last told.
    high: Option<i64>,
    stable: Option<i64>,
    /// Not asked for until it is moved.
    stopped: bool,
    not_before: Option<Instant>,
    failing_since: Option<Instant>,
}

/// Reads partitions of a cluster. It lives on one thread and starts none.
#[derive(Debug)]
pub struct Fetcher {
    cluster: Cluster,
    settings: FetchSettings,
    slots: Vec<Slot>,
    /// What is on its way from each broker, and since when.
    flights: HashMap<i32, (Instant, Vec<Wanted>)>,
    ready: VecDeque<Fetched>,
    spares: Vec<Vec<u8>>,
    turn: usize,
    /// Brokers that want not to be asked for a while (quotas).
    quiet: HashMap<i32, Instant>,
    /// Leaders are not asked for again before.
    refresh_not_before: Option<Instant>,
    /// When a late answer made it look up the leaders.
    looked: Instant,
}

impl Fetcher {
    /// A fetcher without partitions. Connects when it is first asked.
    ///
    /// # Errors
    /// `Config`, where certificates or keys are no good.
    pub fn open(settings: Settings, how: FetchSettings) -> Result<Fetcher> {
        Ok(Fetcher {
            cluster: Cluster::new(settings)?,
            settings: how,
            slots: Vec::new(),
            flights: HashMap::new(),
            ready: VecDeque::new(),
            spares: Vec::new(),
            turn: 0,
            quiet: HashMap::new(),
            refresh_not_before: None,
            looked: Instant::now(),
        })
    }

    /// Adds a partition, to be read from an offset on; returns its number.
    pub fn add(&mut self, topic: &str, partition: i32, offset: i64) -> usize {
        self.slots.push(Slot {
            topic: topic.into(),
            partition,
            next: offset,
            moves: 0,
            high: None,
            stable: None,
            stopped: false,
            not_before: None,
            failing_since: None,
        });
        self.slots.len() - 1
    }

    /// Moves a partition to another offset. What was fetched of it and not handed out is dropped.
    ///
    /// # Panics
    /// Where no partition has the number.
    pub fn seek(&mut self, slot: usize, offset: i64) {
        // What waits was parsed with the old place; it is little, and asked for again.
        self.drop_ready();
        let slot = &mut self.slots[slot];
        (slot.next, slot.moves) = (offset, slot.moves.wrapping_add(1));
        (slot.stopped, slot.not_before, slot.stable) = (false, None, None);
    }

    /// Forgets all partitions. Connections are kept.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.ready.clear();
        // Their answers would speak of other partitions under the same numbers.
        for (broker, _) in std::mem::take(&mut self.flights) {
            self.cluster.drop_connection(broker);
        }
    }

    fn drop_ready(&mut self) {
        for fetched in self.ready.drain(..).rev() {
            for (slot, from) in fetched.unread() {
                // What is on its way goes on from where this ended: it has to be dropped as well.
                self.slots[slot].moves = self.slots[slot].moves.wrapping_add(1);
                self.slots[slot].next = from;
            }
        }
    }

    /// One past the last offset of a partition, as last told.
    pub fn high(&self, slot: usize) -> Option<i64> {
        self.slots.get(slot)?.high
    }

    /// True where everything that may be read of a partition was handed out, as far as the last answer told.
    pub fn is_at_end(&self, slot: usize) -> bool {
        self.ready.is_empty() && self.slots.get(slot).is_some_and(|s| s.stable.is_some_and(|stable| s.next >= stable))
    }

    /// Gives the room of what was walked to the answers to come.
    pub fn give_back(&mut self, fetched: Fetched) {
        if self.spares.len() < 4 {
            self.spares.push(fetched.bytes);
        }
    }

    /// What has arrived; waits for it at most `wait`.
    ///
    /// # Errors
    /// `OutOfRange`: the partition is left alone until it is moved. `Broker`: refused, or unknown for too long.
    /// `Config`. A broker that is away is tried again and is no error.
    pub fn next(&mut self, wait: Duration) -> Result<Option<Fetched>> {
        let deadline = Instant::now() + wait;
        loop {
            self.ask()?;
            self.collect()?;
            if let Some(fetched) = self.ready.pop_front() {
                return Ok(Some(fetched));
            }
            let now = Instant::now();
            if now >= deadline || (self.settings.tells_end && (0..self.slots.len()).all(|slot| self.is_at_end(slot))) {
                return Ok(None);
            }
            let again = self
                .slots
                .iter()
                .filter_map(|slot| slot.not_before)
                .chain(self.refresh_not_before)
                .chain(self.quiet.values().copied());
            let until = again.filter(|when| *when > now).fold(deadline, Instant::min);
            self.look_after(now)?;
            if self.flights.is_empty() {
                let nap = until.min(now + RETRY_INTERVAL).saturating_duration_since(now);
                std::thread::sleep(nap);
                continue;
            }
            let flying = self.flights.keys().filter_map(|broker| self.cluster.peek_connection(*broker));
            // An answer that keeps still is found out by its own deadline.
            wait_for(flying, until.min(now + Duration::from_secs(1)))?;
        }
    }

    /// Sends a fetch to each leader that has none on its way.
    fn ask(&mut self) -> Result<()> {
        let now = Instant::now();
        self.quiet.retain(|_, until| *until > now);
        let mut wanted: HashMap<i32, Vec<Wanted>> = HashMap::new();
        let mut unknown: Vec<String> = Vec::new();
        let count = self.slots.len();
        self.turn = self.turn.wrapping_add(1);
        for number in 0..count {
            let number = (number + self.turn) % count;
            let slot = &self.slots[number];
            if slot.stopped || slot.not_before.is_some_and(|when| now < when) {
                continue;
            }
            match self.cluster.leader(&slot.topic, slot.partition) {
                Some((leader, _)) if self.flights.contains_key(&leader) || self.quiet.contains_key(&leader) => {}
                Some((leader, leader_epoch)) => wanted.entry(leader).or_default().push(Wanted {
                    slot: number,
                    moves: slot.moves,
                    topic: slot.topic.clone(),
                    partition: slot.partition,
                    leader_epoch,
                    offset: slot.next,
                }),
                None => unknown.push(slot.topic.clone()),
            }
        }
        for (broker, wanted) in wanted {
            self.send(broker, wanted)?;
        }
        if !unknown.is_empty() && self.refresh_not_before.is_none_or(|when| now >= when) {
            unknown.sort();
            unknown.dedup();
            self.look_up(&unknown)?;
        }
        Ok(())
    }

    fn send(&mut self, broker: i32, mut wanted: Vec<Wanted>) -> Result<()> {
        wanted.sort_by(|a, b| a.topic.cmp(&b.topic)); // stable: the turn of the partitions stays
        let call = Fetch {
            wanted: &wanted,
            committed: self.settings.committed,
            wait_ms: self.settings.wait.as_millis() as i32,
            bytes_max: self.settings.fetch_bytes.min(i32::MAX as u32) as i32,
            partition_bytes_max: self.settings.partition_bytes.min(i32::MAX as u32) as i32,
        };
        match self.cluster.connection(broker).and_then(|connection| connection.send(&call)) {
            Ok(()) => drop(self.flights.insert(broker, (Instant::now(), wanted))),
            Err(error @ Error::Config(_)) => return Err(error),
            Err(error) => self.lose(broker, &error, &wanted),
        }
        Ok(())
    }

    /// Where a broker keeps still for longer than it was asked to, looks whether it leads yet. One that the others
    /// have given up is gone from their list, and its connection with it.
    fn look_after(&mut self, now: Instant) -> Result<()> {
        let late = |(sent, _): &&(Instant, Vec<Wanted>)| now.duration_since(*sent) > self.settings.wait + STALL;
        let mut topics: Vec<String> =
            self.flights.values().filter(late).flat_map(|(_, all)| all.iter().map(|w| w.topic.clone())).collect();
        if topics.is_empty() || now.duration_since(self.looked) < STALL {
            return Ok(());
        }
        self.looked = now;
        topics.sort();
        topics.dedup();
        self.look_up(&topics)
    }

    /// Asks who leads topics.
    fn look_up(&mut self, topics: &[String]) -> Result<()> {
        self.refresh_not_before = Some(Instant::now() + RETRY_INTERVAL);
        match self.cluster.refresh(topics) {
            Err(error) if error.may_pass() || error.breaks_connection() => {
                tracing::debug!(target: "millstream::kafka", "{error}");
                return Ok(());
            }
            done => done?,
        }
        let now = Instant::now();
        for number in 0..self.slots.len() {
            let slot = &self.slots[number];
            if self.cluster.leader(&slot.topic, slot.partition).is_none() && topics.contains(&slot.topic) {
                let known = self.cluster.partitions(&slot.topic).is_some();
                let code = if known { code::LEADER_NOT_AVAILABLE } else { code::UNKNOWN_TOPIC_OR_PARTITION };
                self.note_failure(number, code, now)?;
            }
        }
        Ok(())
    }

    /// Takes in the answers that have come.
    fn collect(&mut self) -> Result<()> {
        let brokers: Vec<i32> = self.flights.keys().copied().collect();
        for broker in brokers {
            let mut spare = self.spares.pop().unwrap_or_default();
            let answer = match self.cluster.existing(broker) {
                Some(connection) => connection.receive(Instant::now(), &mut spare),
                None => Err(Error::broker(format!("broker {broker}"), code::NETWORK_EXCEPTION)),
            };
            if spare.capacity() > 0 {
                self.spares.push(spare);
            }
            let wanted = match &answer {
                Ok(None) => continue,

                _ => self.flights.remove(&broker).map_or_else(Vec::new, |(_, wanted)| wanted),
            };
            let read = answer.and_then(|answer| {
                let answer = answer.expect("none went on above");
                let how = self.settings;
                let call = Fetch {
                    wanted: &wanted,
                    committed: how.committed,
                    wait_ms: 0,
                    bytes_max: 0,
                    partition_bytes_max: 0,
                };
                let (quiet_ms, parts) = call.read(&mut answer.reader())?;
                Ok((answer, quiet_ms, parts))
            });
            match read {
                Ok((answer, quiet_ms, parts)) => {
                    if let Ok(quiet @ 1..) = u64::try_from(quiet_ms) {
                        self.quiet.insert(broker, Instant::now() + Duration::from_millis(quiet));
                    }
                    let parts = self.judge(parts)?;
                    if !parts.is_empty() {
                        self.ready.push_back(Fetched::new(answer, parts, self.settings.committed));
                    } else if self.spares.len() < 4 {
                        self.spares.push(answer.bytes);
                    }
                    // Before the caller walks what has come.
                    self.ask()?;
                }
                Err(error) => self.lose(broker, &error, &wanted),
            }
        }
        Ok(())
    }

    /// A broker can't be asked: its partitions may have another leader by now.
    fn lose(&mut self, broker: i32, error: &Error, wanted: &[Wanted]) {
        tracing::debug!(target: "millstream::kafka", "fetch: {error}");
        self.cluster.hang_up(broker);
        let again = Instant::now() + RETRY_INTERVAL;
        for wanted in wanted {
            self.cluster.forget_leaders(&wanted.topic);
            if let Some(slot) = self.slots.get_mut(wanted.slot) {
                slot.not_before = Some(again);
            }
        }
    }

    /// Notes how far the parts go, and keeps those that brought something.
    fn judge(&mut self, parts: Vec<Part>) -> Result<Vec<Part>> {
        let (now, mut kept, mut failed) = (Instant::now(), Vec::new(), Ok(()));
        for part in parts {
            let Some(slot) = self.slots.get_mut(part.slot).filter(|slot| slot.moves == part.moves) else { continue };
            if part.failed() {
                let done = self.note_failure(part.slot, part.code, now);
                failed = failed.and(done);
                continue;
            }
            slot.high = Some(part.high);
            slot.stable = Some(part.stable);
            let skips = slot.failing_since.is_some() && faults::planted("fetch-begins-at-new-leaders-end");
            slot.failing_since = None;
            slot.not_before = None;
            slot.next = if skips { part.high } else { part.next };
            if !part.records.is_empty() && !skips {
                kept.push(part);
            }
        }
        if let Err(error) = failed {
            // What came with the failure is asked for again after it.
            kept.iter().for_each(|part| self.slots[part.slot].next = part.from);
            return Err(error);
        }
        Ok(kept)
    }

    fn note_failure(&mut self, number: usize, code: i16, now: Instant) -> Result<()> {
        let slot = &mut self.slots[number];
        if code == code::OFFSET_OUT_OF_RANGE {
            slot.stopped = true;
            let (topic, partition, offset) = (slot.topic.clone(), slot.partition, slot.next);
            return Err(Error::OutOfRange { topic, partition, offset });
        }
        let error = Error::broker(format!("{}/{}", slot.topic, slot.partition), code).on(Resource::Topic, &slot.topic);
        if !error.may_pass() {
            slot.not_before = Some(now + Duration::from_secs(1));
            return Err(error);
        }
        slot.not_before = Some(now + RETRY_INTERVAL);
        let since = *slot.failing_since.get_or_insert(now);
        if code::is_stale_leader(code) {
            let topic = slot.topic.clone();
            self.cluster.forget_leaders(&topic);
        }
        let unknown = code == code::UNKNOWN_TOPIC_OR_PARTITION || code == code::UNKNOWN_TOPIC_ID;
        if unknown && now.duration_since(since) > self.settings.unknown_for { Err(error) } else { Ok(()) }
    }
}
