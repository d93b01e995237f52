//! Transactions of a producer: everything since the last end becomes visible together, with a group's offsets.
//!
//! ```no_run
//! use millstream::kafka::direct::build::Entry;
//! use millstream::kafka::direct::{Membership, ProduceSettings, Producer, Settings};
//!
//! let how = ProduceSettings { transactional: Some("readers-0".into()), ..ProduceSettings::default() };
//! let mut producer = Producer::open(Settings::new("localhost:9092"), how).unwrap();
//! producer.send("out", 0, &Entry { key: None, value: Some(b"v"), timestamp: 0, headers: &[] }).unwrap();
//! producer.commit(&[("in", vec![(0, 42)])], &Membership::outside("readers")).unwrap();
//! ```
//!
//! A commit has three ends beside the good one. `Aborted`: nothing is visible, ever. `Fenced`: another producer has
//! the transactional id. `Unknown`: the broker was asked to commit and didn't answer in all the time there was; the
//! producer then has to be opened anew, which settles it.
//!
//! What a broker refuses means, as for Kafka's own client:
//!
//! - what may pass (`code::may_pass`) is asked again as it is, of the coordinator's successor where there is one
//! - PRODUCER_FENCED from the coordinator: another producer has taken over, for good
//! - INVALID_PRODUCER_EPOCH from a partition or a group is not for good: its broker may have asked a coordinator that
//!   was behind; or somebody has asked for the transactional id and went no further (a producer that died meanwhile,
//!   an attempt that was given up), which ended the transaction. It is aborted, and whether the producer goes on is
//!   for the coordinator to say when it is asked for a new epoch
//! - everything else: aborted, and a new epoch
//!
//! A coordinator that doesn't answer is asked again. The first request may still be on its way then, and would end
//! the next transaction half way: so before that begins, the producer takes a new epoch, which turns it away.
//!
//! A coordinator can forget that a transaction writes to a partition. One that has just been elected reads the log of
//! transactions to its very end, says of what it finds there "that is so", and can lose it again: to a successor that
//! had not copied it yet. The partition then gets no marker, and what was written there becomes visible with the next
//! transaction, or is aborted with it. So the coordinator that is asked to end a transaction is told first what it
//! wrote to; and who takes over from another aborts what that one may have left ([`Producer::abort_at`]).

use super::calls::CoordinatorOf;
use super::error::{Error, Resource, Result, code};
use super::producer::Producer;
use super::txn_calls::{
    AddOffsets, AddPartitions, DescribeTxn, EndTxn, Identity, Membership, TopicOffsets, TxnOffsets,
};
use crate::faults;
use std::fmt;
use std::time::{Duration, Instant};

/// How often a coordinator that is busy is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// How long answers to batches are waited for before they are abandoned with the transaction.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the coordinator is asked whether it is through with the last transaction.
const LOOK_INTERVAL: Duration = Duration::from_micros(500);

/// How long it is asked for: brokers themselves put what is written too early off for no longer than this.
const LOOK_MAX: Duration = Duration::from_millis(100);

/// The end of the last transaction, while its markers are being written.
///
/// What is written into the next transaction by then, a broker of 4.0 or later lets wait for 20 ms at a time
/// (`add.partitions.to.txn.retry.backoff.ms`), and all that comes behind it on the connection. So the coordinator is
/// asked first: the markers take a millisecond or two. Before version 2 it refuses, and is asked again at once.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// When it was answered, and when to look again.
    under_way: Option<(Instant, Instant)>,
    /// The coordinator doesn't say: the broker is older than 3.0, or it isn't allowed.
    untold: bool,
}

impl Ending {
    /// When the coordinator is asked next; none where nothing is waited for.
    pub(super) fn look_at(&self) -> Option<Instant> {
        self.under_way.map(|(_, at)| at)
    }
}

/// Why a transaction did not commit.
#[derive(Debug)]
pub enum Broken {
    /// It was aborted, or will be by the broker: nothing of it is visible, ever.
    Aborted(Error),
    /// Another producer has taken over.
    Fenced,
    /// Whether it committed isn't known. The producer has to be opened anew.
    Unknown(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Aborted(reason) => write!(f, "transaction aborted: {reason}"),
            Broken::Fenced => f.write_str("another producer has taken over"),
            Broken::Unknown(reason) => write!(f, "the transaction's outcome is unknown: {reason}"),
        }
    }
}

impl std::error::Error for Broken {}

impl Producer {
    /// Commits what was sent since the last end, with offsets of a group (topic, then partition and next offset).
    /// Without either nothing is said to anybody.
    ///
    /// # Errors
    /// See [`Broken`]. After `Aborted` the producer goes on with a new transaction; after the others it is of no
    /// more use.
    pub fn commit(&mut self, offsets: &[TopicOffsets<'_>], membership: &Membership) -> Result<(), Broken> {
        faults::step("kafka.flush");
        let before = self.flush().and_then(|()| self.send_offsets(offsets, membership));
        if let Err(error) = before {
            return Err(self.abort_for(error));
        }
        if !self.touched {
            return Ok(());
        }
        faults::step("kafka.commit");
        match self.end(true) {
            Ok(()) => {
                faults::step("kafka.committed");
                Ok(())
            }
            Err(End::Unknown(reason)) => Err(Broken::Unknown(reason)),
            Err(End::Refused(error)) => Err(self.abort_for(error)),
        }
    }

    /// Aborts what was sent since the last end.
    ///
    /// # Errors
    /// `Fenced`; `Unknown`, where no coordinator answers: nothing becomes visible, but the producer is of no more
    /// use.
    pub fn abort(&mut self) -> Result<(), Broken> {
        // An answer that comes later than the end could belong to a batch of the next transaction.
        self.settle(SETTLE_TIMEOUT.min(self.cluster.settings().call_timeout));
        self.discard();
        if self.fenced {
            return Err(Broken::Fenced);
        }
        let written = self.written();
        // Refused, where the broker itself has aborted it, or another has taken over: the identity decides which, and
        // ends whatever is left, as far as the coordinator knows of it.
        let ended = !self.touched || self.end(false).is_ok();
        let left = if ended { Vec::new() } else { written };
        match self.identify().and_then(|()| self.abort_at(&left)) {
            Ok(()) => Ok(()),
            Err(_) if self.fenced => Err(Broken::Fenced),
            Err(error) => {
                // The old identity may still have the transaction open: nothing more goes out under it.
                let reason = error.to_string();
                self.broken = Some(reason.clone());
                Err(Broken::Unknown(reason))
            }
        }
    }

    /// Aborts what earlier transactions of the same id may have left open in these partitions (topics with theirs),
    /// whether the coordinator knows of it or not. For a producer that has sent nothing yet.
    ///
    /// # Errors
    /// `Broker`, `Denied`; `Io` and `Timeout` where no coordinator answers. The producer is of no more use then.
    pub fn abort_at(&mut self, places: &[(String, Vec<i32>)]) -> Result<()> {
        if places.iter().all(|(_, partitions)| partitions.is_empty()) {
            return Ok(());
        }
        let name = self.transactional()?;
        let deadline = Instant::now() + self.settings.delivery_timeout;
        self.touched = true;
        let told = self.patiently(deadline, |p| p.tell(&name, places));
        let done = told.map_err(End::Refused).and_then(|()| self.end(false));
        done.map_err(|end| {
            let error = match end {
                End::Refused(error) => error,
                End::Unknown(reason) => Error::Timeout(reason),
            };
            self.broken = Some(error.to_string());
            error
        })
    }

    /// True where it takes nothing more until it is opened anew, or has aborted.
    pub fn is_broken(&self) -> bool {
        self.broken.is_some() || self.fenced
    }

    /// True where another producer has taken over.
    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    fn abort_for(&mut self, error: Error) -> Broken {
        match self.abort() {
            Err(Broken::Fenced) => Broken::Fenced,
            // Nobody was asked to commit: whatever becomes of the producer, nothing becomes visible.
            Ok(()) | Err(Broken::Unknown(_) | Broken::Aborted(_)) => Broken::Aborted(error),
        }
    }

    fn send_offsets(&mut self, topics: &[TopicOffsets<'_>], membership: &Membership) -> Result<()> {
        if topics.iter().all(|(_, offsets)| offsets.is_empty()) {
            return Ok(());
        }
        faults::step("kafka.offsets");
        let name = self.transactional()?;
        let deadline = Instant::now() + self.settings.delivery_timeout;
        let (identity, joins) = (self.identity, self.joins);
        while !self.may_begin() {
            std::thread::sleep(LOOK_INTERVAL);
        }
        self.touched = true;
        let group = membership.group.as_str();
        if !joins {
            let call = AddOffsets { transactional: &name, identity, group };
            self.patiently(deadline, |p| p.control.ask_coordinator(CoordinatorOf::Transaction, &name, &call))
                .map_err(|error| error.on(Resource::Group, group))?;
        }
        let call = TxnOffsets { transactional: &name, identity, membership, topics, joins };
        self.patiently(deadline, |p| p.control.ask_coordinator(CoordinatorOf::Group, group, &call))
            .map_err(|error| error.on(Resource::Group, group).on(Resource::TransactionalId, &name))
    }

    /// False while the coordinator is busy with the last transaction's end; then it is asked again a little later.
    pub(super) fn may_begin(&mut self) -> bool {
        let Some((since, look_at)) = self.ending.under_way.filter(|_| !self.touched) else { return true };
        let Some(name) = self.settings.transactional.clone() else { return true };
        if Instant::now() < look_at {
            return false;
        }
        let call = DescribeTxn { transactional: &name };
        match self.control.ask_coordinator(CoordinatorOf::Transaction, &name, &call) {
            Ok(true) if since.elapsed() < LOOK_MAX => {
                self.ending.under_way = Some((since, Instant::now() + LOOK_INTERVAL));
                return false;
            }
            Ok(_) => {}
            Err(error) => {
                self.ending.untold |= matches!(error, Error::Config(_) | Error::Denied { .. });
                tracing::debug!(target: "millstream::kafka", "{error}");
            }
        }
        self.ending.under_way = None;
        true
    }

    /// Tells the coordinator which partitions the transaction writes to (version 1). False: later.
    pub(super) fn announce(&mut self, slots: &[usize]) -> Result<bool> {
        let Some(name) = self.settings.transactional.clone() else { return Ok(true) };
        self.touched = true;
        let new: Vec<usize> = slots.iter().copied().filter(|number| !self.slots[*number].announced).collect();
        if new.is_empty() {
            return Ok(true);
        }
        let topics = self.places_of(&new);
        let call = AddPartitions { transactional: &name, identity: self.identity, topics: &topics };
        match self.control.ask_coordinator(CoordinatorOf::Transaction, &name, &call) {
            Ok(()) => {
                new.iter().for_each(|number| self.slots[*number].announced = true);
                Ok(true)
            }
            Err(error) if error.may_pass() => {
                let again = Instant::now() + RETRY_INTERVAL * 2;
                slots.iter().for_each(|number| self.slots[*number].not_before = Some(again));
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Topics with partitions, of some slots.
    fn places_of(&self, slots: &[usize]) -> Vec<(String, Vec<i32>)> {
        let mut topics: Vec<(String, Vec<i32>)> = Vec::new();
        for slot in slots.iter().map(|number| &self.slots[*number]) {
            let topic = &self.topics[slot.topic];
            match topics.iter_mut().find(|(known, _)| known == topic) {
                Some((_, partitions)) => partitions.push(slot.partition),
                None => topics.push((topic.clone(), vec![slot.partition])),
            }
        }
        topics
    }

    /// What the open transaction has written to.
    fn written(&self) -> Vec<(String, Vec<i32>)> {
        let written: Vec<usize> = (0..self.slots.len()).filter(|number| self.slots[*number].written).collect();
        self.places_of(&written)
    }

    fn transactional(&self) -> Result<String> {
        let name = self.settings.transactional.clone();
        name.ok_or_else(|| Error::Config("the producer has no transactional id".into()))
    }

    /// Tries as long as it may help.
    fn patiently<T>(&mut self, deadline: Instant, mut attempt: impl FnMut(&mut Producer) -> Result<T>) -> Result<T> {
        loop {
            match attempt(self) {
                Err(error) if error.may_pass() && Instant::now() < deadline => std::thread::sleep(RETRY_INTERVAL),
                done => return done,
            }
        }
    }

    /// Ends the transaction, one way or the other.
    fn end(&mut self, commit: bool) -> Result<(), End> {
        let name = self.transactional().map_err(End::Refused)?;
        let deadline = Instant::now() + self.settings.delivery_timeout;
        let written = self.written();
        // Asked, and who knows what became of it; and: the request itself may still be on its way.
        let (mut asked, mut at_large) = (false, false);
        loop {
            // Each time anew: only what the same coordinator is told right before counts.
            let told = self.tell(&name, &written);
            let call = EndTxn { transactional: &name, identity: self.identity, commit, joins: self.joins };
            let answer = match told {
                // It may have ended, or be about to: only the end itself is answered then.
                Err(error) if (asked || at_large) && (!error.may_pass() || is_busy(&error)) => {
                    self.control.ask_coordinator(CoordinatorOf::Transaction, &name, &call)
                }
                Err(error) if (error.may_pass() || error.breaks_connection()) && Instant::now() < deadline => {
                    std::thread::sleep(RETRY_INTERVAL);
                    continue;
                }
                Err(error) if commit => Err(error),
                // What nobody can be told of (a topic that was deleted) needs no abort.
                Ok(()) | Err(_) => self.control.ask_coordinator(CoordinatorOf::Transaction, &name, &call),
            };
            match answer {
                Ok(identity) => {
                    self.ended(identity);
                    if at_large && let Err(error) = self.identify() {
                        self.broken = Some(format!("no new epoch after an end that was not answered: {error}"));
                    }
                    return Ok(());
                }
                Err(error)
                    if (error.breaks_connection() || error.code().is_some_and(code::is_stale_coordinator))
                        && faults::planted("end-taken-as-done") =>
                {
                    self.ended(None);
                    return Ok(());
                }
                Err(error) if (error.may_pass() || error.breaks_connection()) && Instant::now() < deadline => {
                    // These two say that the coordinator may have begun with it before it stepped back.
                    let stepped_back = [code::COORDINATOR_NOT_AVAILABLE, code::REQUEST_TIMED_OUT];
                    asked |= error.code().is_some_and(|code| stepped_back.contains(&code));
                    at_large |= error.breaks_connection() && was_sent(&error);
                    std::thread::sleep(RETRY_INTERVAL);
                }
                // Whatever became of it, the one who took over has it settled.
                Err(error) if error.code().is_some_and(code::is_fence) => {
                    self.fenced = true;
                    return Err(End::Refused(error));
                }
                Err(error) if asked || at_large || error.may_pass() || error.breaks_connection() => {
                    return Err(End::Unknown(error.to_string()));
                }
                Err(error) => return Err(End::Refused(error)),
            }
        }
    }

    /// Tells the coordinator which partitions the transaction has written to. It writes down those that it didn't know.
    fn tell(&mut self, name: &str, written: &[(String, Vec<i32>)]) -> Result<()> {
        if written.is_empty() {
            return Ok(());
        }
        let call = AddPartitions { transactional: name, identity: self.identity, topics: written };
        self.control.ask_coordinator(CoordinatorOf::Transaction, name, &call)
    }

    /// A new transaction may begin.
    fn ended(&mut self, identity: Option<Identity>) {
        match identity {
            Some(identity) => {
                self.identity = identity;
                self.start_over();
                let now = Instant::now();
                self.ending.under_way = (!self.ending.untold).then_some((now, now));
            }
            None => self.unannounce(),
        }
        self.touched = false;
    }
}

/// True where the coordinator has the transaction's end, or another step of it, in hand.
fn is_busy(error: &Error) -> bool {
    error.code() == Some(code::CONCURRENT_TRANSACTIONS)
}

/// False where the error came before anything could have been sent.
fn was_sent(error: &Error) -> bool {
    // A connection that could not be made says so by its place alone; see `Cluster::dial`.
    !matches!(error, Error::Io { source, .. } if matches!(
        source.kind(),
        std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotConnected
    ))
}

/// How an end failed.
enum End {
    /// The coordinator said no.
    Refused(Error),
    /// Nobody knows.
    Unknown(String),
}
