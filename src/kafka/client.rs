//! What a lane asks of a Kafka client. The source, the sink, the journal and the claim hold the logic of a lane
//! (runs, rewinds, unknown outcomes, former owners, growth); a client carries bytes and tells the truth about
//! what it knows. The first implementation is over the C library (`group.rs`, `reader.rs`, `producer.rs`).
//!
//! The contract, beside what the methods say:
//!
//! - **Time.** Every call returns: each wait has a bound, which the caller gives or the client knows. A broker
//!   that is away is a fault of class Environment, never a hang; the lane is then opened again from its ends.
//! - **Order.** The messages of a partition come in the order of their offsets, each once, from the offset that
//!   was asked for. Offsets may have gaps (markers, aborted messages, compaction). Only what is committed is
//!   read, and nothing behind the first open transaction.
//! - **Transactions.** One producer a lane under the transactional id `<group>-<lane>`. Opening it (or
//!   reconnecting) fences every older one and settles what that left open: when the call has returned, an older
//!   transaction has been committed or aborted for good, no matter which requests of it are still on their way,
//!   and readers see it as that.
//! - **Membership.** One member a process and group, whatever the lanes it is given; lanes are the partitions of
//!   the journal's topic, handed out by the group's protocol; changes are told to [`Holdings`].

use super::claim::Holdings;
use super::{KafkaOptions, headers};
use crate::batch::{Block, Outbox, Record, RecordKind, Span};
use crate::clock::Clock;
use crate::error::{Fault, Result};
use crate::source::{Framing, ReadOptions};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

/// A Kafka client: what a lane is opened with.
pub trait Client: Send + Sync {
    /// Joins the group, or finds this process's membership in it. The journal's topic is made first where it is
    /// missing (`topics::ensure_journal`), since it is what the group hands out.
    ///
    /// # Errors
    /// Misuse, where the journal has another number of lanes or a property is refused. Environment, where no
    /// broker answers.
    fn join(&self, options: &KafkaOptions) -> Result<Arc<dyn Membership>>;

    /// The lane's producer, connected; with exactly-once it has fenced its predecessors.
    ///
    /// # Errors
    /// Misuse, naming a property that is refused; Environment.
    fn producer(&self, options: &KafkaOptions) -> Result<Arc<dyn Producer>>;

    /// A reader without an assignment.
    ///
    /// # Errors
    /// Misuse, naming a property that is refused; Environment.
    fn reader(&self, options: &KafkaOptions, reading: Reading) -> Result<Box<dyn Reader>>;

    /// What the lane's own waits are timed by.
    fn clock(&self) -> Clock {
        Clock::real()
    }
}

/// What a reader is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Events as they arrive: all places in one stream, much of it fetched ahead.
    Live,
    /// Events of the past: each place by itself ([`Reader::read_place`]), which tells its end.
    Past,
    /// The journal: one place, which tells its end.
    Journal,
}

/// A partition, from where on it is read, and the number by which it is spoken of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Given to every record read from it.
    pub input: u32,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Offset of the first message wanted (the next one, where that offset holds none).
    pub offset: u64,
}

/// Why a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Met {
    /// Nothing more has arrived.
    Nothing,
    /// The filling takes no more.
    Full,
    /// The end of a partition, as it is now (not told by a live reader; once or at every read there).
    End,
    /// This input's next offset is no longer, or not yet, held by its partition.
    OutOfRange(u32),
}

/// Reads partitions that it is assigned by hand; never part of a rebalance. It lives on one thread.
pub trait Reader: Send {
    /// Replaces the assignment. What was fetched for the old one is dropped and never handed over.
    ///
    /// # Errors
    /// Environment.
    fn assign(&mut self, places: &[Place]) -> Result<()>;

    /// Adds places to the assignment.
    ///
    /// # Errors
    /// Environment.
    fn add(&mut self, places: &[Place]) -> Result<()>;

    /// Moves a place to another offset; what was fetched from it is dropped.
    ///
    /// # Errors
    /// Environment.
    fn seek(&mut self, place: &Place) -> Result<()>;

    /// Hands over what has arrived from all places, until the filling is full or nothing is left. Waits at most
    /// `wait` for the first message, and never to have more.
    ///
    /// # Errors
    /// Environment, where a place can't be read at all: refused, gone. What passes by itself is retried inside.
    fn read(&mut self, wait: Duration, into: &mut Filling<'_>) -> Result<Met>;

    /// As `read`, from one place alone; a message that the filling declines stays the place's next.
    ///
    /// # Errors
    /// As for `read`.
    fn read_place(&mut self, input: u32, wait: Duration, into: &mut Filling<'_>) -> Result<Met>;

    /// The oldest offset that a partition holds, and the one past the last that can be read, asked of the broker.
    ///
    /// # Errors
    /// Environment.
    fn watermarks(&self, topic: &str, partition: i32) -> Result<(u64, u64)>;

    /// Whether the brokers know a partition, without waiting for one that may be on its way. False where none answers.
    fn knows(&self, topic: &str, partition: i32) -> bool {
        self.watermarks(topic, partition).is_ok()
    }

    /// One past the newest offset of a place, as the last fetch told; `None`: nothing was told yet.
    fn high_seen(&self, input: u32) -> Option<u64>;

    /// What the group has committed for these partitions; `None` where it has nothing.
    ///
    /// # Errors
    /// Environment.
    fn committed(&self, partitions: &[(&str, i32)]) -> Result<Vec<Option<u64>>>;
}

/// The offset of the next event of a partition, on its way to the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The next event's offset.
    pub offset: u64,
}

/// Why a transaction did not commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Broken {
    /// It was aborted: nothing of it is visible, ever.
    Aborted(String),
    /// It was aborted, and what was refused will be refused again until somebody acts.
    Refused(Fault),
    /// Another producer of the same lane has taken over.
    Fenced,
    /// Whether it committed isn't known. The producer is given up; `reconnect` settles the outcome, and the
    /// journal's tail then tells it.
    Unknown(String),
}

/// The producer of a lane, shared by its sink and its journal.
///
/// Exactly-once: a transaction begins with the first message and ends with `commit` or `abort`. Whatever fault a
/// call returns, no transaction is open afterwards and nothing of the one before is ever visible, but for
/// [`Broken::Unknown`]. A producer that was fenced stays so: each further call answers with
/// [`taken`], and none makes a new one, which would fence the rightful owner.
///
/// At least once: there is no transaction; messages become visible one by one, in order within their partition.
pub trait Producer: Send + Sync {
    /// Hands over a message with headers (a run as in `kafka::headers`; empty: none).
    ///
    /// # Errors
    /// Environment: the broker has taken no messages for too long, or a delivery has failed.
    fn send(&self, topic: &str, partition: i32, key: Option<&[u8]>, value: &[u8], headers: &[u8]) -> Result<()>;

    /// Hands over the predictions of an outbox.
    ///
    /// # Errors
    /// As for `send`.
    fn send_all(&self, topic: &str, messages: Messages<'_>) -> Result<()>;

    /// Waits until every message is acknowledged.
    ///
    /// # Errors
    /// Environment, where one was not.
    fn flush(&self) -> Result<()>;

    /// Commits the open transaction with the offsets of the inputs, for a member that stands as `standing` says. A
    /// standing of an older generation is refused by the broker, and the transaction aborted.
    ///
    /// # Errors
    /// See [`Broken`]; in each case no transaction is open any more.
    fn commit(&self, offsets: &[NextOffset], standing: &Standing) -> Result<(), Broken>;

    /// Aborts the open transaction, if there is one.
    fn abort(&self);

    /// Connects anew where the last connection was given up, which settles what that one left open.
    ///
    /// # Errors
    /// Environment; [`taken`] where the producer was fenced.
    fn reconnect(&self) -> Result<()>;

    /// Tells where the lane writes to: topics with partitions. What a transaction of an earlier producer has left open
    /// there although it is over (a coordinator can forget a partition) is aborted, now and with each connection made
    /// anew. A client that can't leaves it.
    ///
    /// # Errors
    /// As for `reconnect`.
    fn writes_to(&self, places: &[(String, Vec<i32>)]) -> Result<()> {
        let _ = places;
        Ok(())
    }
}

/// What a member shows the group's coordinator with its offsets: who it is, in which generation. Only the client
/// that made it can read it.
pub struct Standing(pub Box<dyn Any + Send + Sync>);

/// What a topic looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicShape {
    /// Its name.
    pub topic: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas a partition.
    pub replication: i32,
}

/// A topic to be made; −1 partitions or replicas: as the broker likes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic<'a> {
    /// Its name.
    pub topic: &'a str,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas a partition.
    pub replication: i32,
    /// Its own settings.
    pub config: &'a [(&'a str, &'a str)],
}

/// A daemon's membership in a group, and what its connection can be asked about topics.
pub trait Membership: Send + Sync {
    /// What the group has decided so far; kept up to date by the client.
    fn holdings(&self) -> &Holdings;

    /// Waits at most `most` for the holdings to change from what they were at `seen` ([`Holdings::changes`]).
    fn wait(&self, seen: u64, most: Duration) {
        self.holdings().wait(seen, most);
    }

    /// How this member stands in the group at this moment.
    ///
    /// # Errors
    /// Environment, where there is no membership.
    fn standing(&self) -> Result<Standing>;

    /// Commits offsets outside a transaction.
    ///
    /// # Errors
    /// Environment.
    fn commit(&self, offsets: &[NextOffset]) -> Result<()>;

    /// Has offsets committed outside a transaction, without waiting for it; where that fails, the next ones do.
    fn commit_soon(&self, offsets: &[NextOffset]) {
        if let Err(error) = self.commit(offsets) {
            tracing::debug!(target: "millstream::kafka", "offsets: {error}");
        }
    }

    /// The shape of a topic; `None` where it doesn't exist. Asking never makes it.
    ///
    /// # Errors
    /// Environment, where no broker answers.
    fn shape(&self, topic: &str) -> Result<Option<TopicShape>>;

    /// Makes a topic; fine where it exists by now.
    ///
    /// # Errors
    /// Environment, where the broker doesn't answer or refuses to make it.
    fn make_topic(&self, topic: &NewTopic<'_>) -> Result<()>;

    /// Fails where the broker says that one of the lane's topics may not be read or written as the lane has to. One
    /// that doesn't say is believed.
    ///
    /// # Errors
    /// Environment, naming topic and operation.
    fn check_permissions(&self, options: &KafkaOptions) -> Result<()>;

    /// Removes the records of a partition below `offset`.
    ///
    /// # Errors
    /// Environment, where the broker doesn't answer or refuses.
    fn delete_before(&self, topic: &str, partition: i32, offset: u64) -> Result<()>;
}

/// The predictions of an outbox as messages: the keys and bytes stay where they are.
#[derive(Clone, Copy)]
pub struct Messages<'a> {
    outbox: &'a Outbox,
    /// The partition that answers each input, by the input's number.
    partitions: &'a [i32],
}

impl<'a> Messages<'a> {
    /// One message for each record of the outbox, to the partition of its input.
    pub fn new(outbox: &'a Outbox, partitions: &'a [i32]) -> Messages<'a> {
        Messages { outbox, partitions }
    }

    /// Partition, key, value, in order.
    pub fn iter(&self) -> impl Iterator<Item = (i32, Option<&'a [u8]>, &'a [u8])> {
        let Messages { outbox, partitions } = *self;
        outbox.records.iter().map(move |record| {
            let key = record.key.map(|key| key.of(&outbox.keys));
            (partitions[record.input as usize], key, record.span.of(&outbox.bytes))
        })
    }
}

/// A block that a reader fills. Calls of it are direct, so that a message costs its copy and no more.
pub struct Filling<'b> {
    block: &'b mut Block,
    read: ReadOptions,
    /// Offsets below are passed over, offsets from `until` on are left.
    from: u64,
    until: u64,
    passed: Option<u64>,
}

impl<'b> Filling<'b> {
    /// Takes everything until the block has its bytes.
    pub fn all(block: &'b mut Block, read: &ReadOptions) -> Filling<'b> {
        Filling::run(block, read, 0, u64::MAX)
    }

    /// Takes the offsets `from..until`.
    pub fn run(block: &'b mut Block, read: &ReadOptions, from: u64, until: u64) -> Filling<'b> {
        Filling { block, read: *read, from, until, passed: None }
    }

    /// True where the block has its bytes.
    pub fn is_full(&self) -> bool {
        self.block.bytes.len() >= self.read.block_bytes
    }

    /// True where nothing was taken yet.
    pub fn is_empty(&self) -> bool {
        self.block.records.is_empty()
    }

    /// One past the last offset that was taken or passed over.
    pub fn passed(&self) -> Option<u64> {
        self.passed
    }

    /// True where messages can be taken over with the memory in which they lie.
    pub fn takes_over(&self) -> bool {
        self.from == 0 && self.until == u64::MAX
    }

    /// Takes messages over with their bytes: `pour` brings these into the block's (until there are so many, about),
    /// and adds a record for each message. Only for a filling that takes everything.
    pub fn take_over<T>(&mut self, pour: impl FnOnce(&mut Vec<u8>, usize, &mut Vec<Record>) -> T) -> T {
        debug_assert!(self.takes_over());
        let block = &mut *self.block;
        let before = block.records.len();
        let poured = pour(&mut block.bytes, self.read.block_bytes, &mut block.records);
        for record in &mut block.records[before..] {
            record.kind = kind(&self.read, record.span.of(&block.bytes));
            if record.kind == RecordKind::Overlong {
                record.span.end = record.span.start + self.read.event_bytes_max as u32;
            }
        }
        if block.read_at_ns == 0 && block.records.len() > before {
            block.read_at_ns = crate::batch::now_ns();
        }
        poured
    }

    /// Offers a message. False: it is not taken, and is the first of the next read. `headers` writes the message's
    /// headers as a run (`kafka::headers`), and says whether it has any.
    #[inline]
    pub fn offer(
        &mut self,
        input: u32,
        offset: u64,
        key: Option<&[u8]>,
        value: &[u8],
        headers: impl FnOnce(&mut Vec<u8>) -> bool,
    ) -> bool {
        if offset >= self.until || self.is_full() {
            return false;
        }
        self.passed = Some(offset + 1);
        if offset < self.from {
            return true;
        }
        if self.block.read_at_ns == 0 {
            self.block.read_at_ns = crate::batch::now_ns();
        }
        let kind = kind(&self.read, value);
        let value = if kind == RecordKind::Overlong { &value[..self.read.event_bytes_max] } else { value };
        let block = &mut *self.block;
        let span = append(&mut block.bytes, value);
        let key = key.map(|key| append(&mut block.bytes, key));
        let start = block.bytes.len();
        let headers = headers(&mut block.bytes).then(|| Span::new(start, block.bytes.len()));
        block.records.push(Record { span, input, kind, offset, byte: 0, key, headers });
        true
    }
}

/// How a message of this value is taken: an event that is too long is cut (a record that may pack several is not).
#[inline]
fn kind(read: &ReadOptions, value: &[u8]) -> RecordKind {
    let packs = || match read.framing {
        Framing::Lines | Framing::Csv { .. } => memchr::memchr(b'\n', value).is_some_and(|at| at + 1 < value.len()),
        Framing::Binary => true,
    };
    if value.len() > read.event_bytes_max && !packs() { RecordKind::Overlong } else { RecordKind::Message }
}

fn append(bytes: &mut Vec<u8>, part: &[u8]) -> Span {
    let start = bytes.len();
    bytes.extend_from_slice(part);
    Span::new(start, bytes.len())
}

/// Adds a header with a text to a run.
pub(crate) fn push_text(run: &mut Vec<u8>, name: &str, value: &str) {
    headers::push(run, name.as_bytes(), Some(value.as_bytes()));
}

/// The fault of a transaction that left no trace.
pub fn aborted(reason: &str) -> Fault {
    Fault::environment(format!("transaction aborted: {reason}"))
        .hint("nothing of it is visible; the lane goes on from its last commit")
}

/// The fault of an input that isn't there.
pub fn missing(topic: &str) -> Fault {
    Fault::environment(format!("the topic \"{topic}\" doesn't exist"))
        .hint("make it, or correct source.topics")
        .lasting()
}

/// The fault of a lane whose transaction ended like this, because of `cause`.
pub(super) fn broken_by(broken: Broken, cause: Fault, lane: u32) -> Fault {
    match broken {
        Broken::Fenced => taken(lane),
        _ if cause.lasting => cause,
        Broken::Refused(fault) => fault,
        Broken::Aborted(reason) | Broken::Unknown(reason) => aborted(&reason),
    }
}

/// The fault of a lane that has another owner.
pub fn taken(lane: u32) -> Fault {
    Fault::environment(format!("lane {lane} was taken by another daemon"))
        .hint("its new owner goes on from the last commit; this one may ask for the lane again")
}
