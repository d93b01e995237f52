//! The control calls: what is asked of a broker beside moving records, one type a call, and the answers.
//!
//! Each call is spoken in the versions that brokers from 2.8 to 4 have in common; two that end transactions come
//! in a newer one as well (see `txn_calls.rs`). Everything is written and read by hand: a general codec would
//! believe the counts that an answer holds.
//!
//! ```no_run
//! use millstream::kafka::direct::{Cluster, Settings, calls::Metadata};
//!
//! let mut cluster = Cluster::new(Settings::new("localhost:9092")).unwrap();
//! let answer = cluster.ask_any(&Metadata { topics: &["events".into()] }).unwrap();
//! println!("{} brokers; {:?}", answer.brokers.len(), answer.topics);
//! ```

use super::error::{Error, Resource, Result, code};
use super::wire::{Reader, Writer};

/// A request and how its answer is read.
pub trait Call {
    /// What the broker answers.
    type Answer;
    /// The protocol's number of the call.
    const KEY: i16;
    /// Its name, for messages.
    const NAME: &'static str;
    /// The version spoken, or the newest of them.
    fn version(&self) -> i16;
    /// True where headers hold tagged fields.
    fn is_flexible(&self) -> bool {
        true
    }
    /// True where the answer's header holds tagged fields.
    fn answer_is_flexible(&self) -> bool {
        self.is_flexible()
    }
    /// Writes the body.
    fn write(&self, to: &mut Writer);
    /// Reads the answer's body.
    ///
    /// # Errors
    /// `Damaged`; `Broker` where one code speaks for the whole answer.
    fn read(&self, from: &mut Reader<'_>) -> Result<Self::Answer>;
}

/// Fails where a code is not zero.
///
/// # Errors
/// `Broker`.
pub(crate) fn check(what: &str, code: i16) -> Result<()> {
    if code == code::NONE { Ok(()) } else { Err(Error::broker(what, code)) }
}

/// Asks which calls the broker knows.
#[derive(Debug, Clone, Copy)]
pub struct ApiVersions;

/// What a broker knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownVersions {
    /// Call, oldest and newest version.
    pub calls: Vec<(i16, i16, i16)>,
    /// The level of transactions that the cluster has agreed on (2: partitions join by being written to).
    pub transaction_level: i16,
}

impl KnownVersions {
    /// True where the broker knows a version of a call.
    pub fn has(&self, key: i16, version: i16) -> bool {
        self.calls.iter().any(|(known, oldest, newest)| *known == key && (*oldest..=*newest).contains(&version))
    }
}

impl Call for ApiVersions {
    type Answer = KnownVersions;
    const KEY: i16 = 18;
    const NAME: &'static str = "versions";
    fn version(&self) -> i16 {
        3
    }
    fn answer_is_flexible(&self) -> bool {
        false // so that a client of any age can read it
    }
    fn write(&self, to: &mut Writer) {
        to.compact_string("millstream");
        to.compact_string(env!("CARGO_PKG_VERSION"));
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<KnownVersions> {
        let code = from.i16()?;
        if code == code::UNSUPPORTED_VERSION {
            return Err(Error::Config("the broker is older than 2.8: set source.client = \"librdkafka\"".into()));
        }
        check(Self::NAME, code)?;
        let calls = from.compact_array(|item| {
            let call = (item.i16()?, item.i16()?, item.i16()?);
            item.skip_tagged()?;
            Ok(call)
        })?;
        let _throttle = from.i32()?;
        let mut transaction_level = 0;
        from.tagged(|tag, content| {
            if tag != 2 {
                return Ok(());
            }
            for _ in 0..content.compact_count()? {
                let (name, newest) = (content.compact_string()?, content.i16()?);
                let _oldest = content.i16()?;
                content.skip_tagged()?;
                if name == "transaction.version" {
                    transaction_level = newest;
                }
            }
            Ok(())
        })?;
        Ok(KnownVersions { calls, transaction_level })
    }
}

/// Names the login's mechanism.
#[derive(Debug, Clone, Copy)]
pub struct SaslHandshake<'a>(pub &'a str);

impl Call for SaslHandshake<'_> {
    type Answer = ();
    const KEY: i16 = 17;
    const NAME: &'static str = "login";
    fn version(&self) -> i16 {
        1
    }
    fn is_flexible(&self) -> bool {
        false
    }
    fn write(&self, to: &mut Writer) {
        to.string(self.0);
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<()> {
        let code = from.i16()?;
        if code != code::UNSUPPORTED_SASL_MECHANISM {
            return check(Self::NAME, code);
        }
        let mut offered = Vec::new();
        for _ in 0..from.count()? {
            offered.push(from.string()?.to_string());
        }
        Err(Error::Config(format!("the broker doesn't offer {}; it offers {}", self.0, offered.join(", "))))
    }
}

/// One step of a login. Its bytes are secret: it has no `Debug`.
pub struct SaslAuthenticate<'a>(pub &'a [u8]);

impl Call for SaslAuthenticate<'_> {
    /// The server's message, and for how many ms the login holds (0: for good).
    type Answer = (Vec<u8>, i64);
    const KEY: i16 = 36;
    const NAME: &'static str = "login";
    fn version(&self) -> i16 {
        2
    }
    fn write(&self, to: &mut Writer) {
        to.compact_bytes(self.0);
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<Self::Answer> {
        let code = from.i16()?;
        let words = from.compact_nullable_string()?.unwrap_or_default().to_string();
        if code == code::SASL_AUTHENTICATION_FAILED {
            return Err(Error::Config(format!("the login was refused: {words}")));
        }
        check(Self::NAME, code)?;
        Ok((from.compact_nullable_bytes()?.unwrap_or_default().to_vec(), from.i64()?))
    }
}

/// Asks who the brokers are, and which of them lead the partitions of topics.
#[derive(Debug, Clone)]
pub struct Metadata<'a> {
    /// The topics; none: only the brokers.
    pub topics: &'a [String],
}

/// A broker's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerAt {
    /// Its number.
    pub id: i32,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: i32,
}

/// A topic and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicAt {
    /// Its name.
    pub name: String,
    /// The broker's word on it.
    pub code: i16,
    /// Its partitions, in no order.
    pub partitions: Vec<PartitionAt>,
}

/// A partition and its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionAt {
    /// Its number.
    pub partition: i32,
    /// The broker's word on it.
    pub code: i16,
    /// The leading broker; −1 where there is none.
    pub leader: i32,
    /// Counts changes of the leader; −1 where unknown.
    pub leader_epoch: i32,
}

/// The answer to [`Metadata`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterAt {
    /// The brokers.
    pub brokers: Vec<BrokerAt>,
    /// The topics that were asked for.
    pub topics: Vec<TopicAt>,
}

fn skip_i32s(from: &mut Reader<'_>) -> Result<()> {
    from.compact_array(Reader::i32).map(|_| ())
}

impl Call for Metadata<'_> {
    type Answer = ClusterAt;
    const KEY: i16 = 3;
    const NAME: &'static str = "metadata";
    fn version(&self) -> i16 {
        9
    }
    fn write(&self, to: &mut Writer) {
        to.compact_array(self.topics, |to, topic| {
            to.compact_string(topic);
            to.no_tagged();
        });
        to.bool(false); // make no topic
        to.bool(false);
        to.bool(false);
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<ClusterAt> {
        let _throttle = from.i32()?;
        let brokers = from.compact_array(|item| {
            let (id, host, port) = (item.i32()?, item.compact_string()?.to_string(), item.i32()?);
            let _rack = item.compact_nullable_string()?;
            item.skip_tagged()?;
            Ok(BrokerAt { id, host, port })
        })?;
        let (_cluster, _controller) = (from.compact_nullable_string()?, from.i32()?);
        let topics = from.compact_array(|item| {
            let (code, name) = (item.i16()?, item.compact_string()?.to_string());
            let _internal = item.bool()?;
            let partitions = item.compact_array(partition_at)?;
            let _operations = item.i32()?;
            item.skip_tagged()?;
            Ok(TopicAt { name, code, partitions })
        })?;
        Ok(ClusterAt { brokers, topics })
    }
}

fn partition_at(item: &mut Reader<'_>) -> Result<PartitionAt> {
    let (code, partition) = (item.i16()?, item.i32()?);
    let (leader, leader_epoch) = (item.i32()?, item.i32()?);
    for _replicas_in_sync_offline in 0..3 {
        skip_i32s(item)?;
    }
    item.skip_tagged()?;
    Ok(PartitionAt { partition, code, leader, leader_epoch })
}

/// Who coordinates what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CoordinatorOf {
    /// A consumer group.
    Group = 0,
    /// A transactional id.
    Transaction = 1,
}

impl CoordinatorOf {
    /// What a client needs to be allowed.
    pub(super) fn resource(self) -> Resource {
        match self {
            CoordinatorOf::Group => Resource::Group,
            CoordinatorOf::Transaction => Resource::TransactionalId,
        }
    }
}

/// Asks for a coordinator.
#[derive(Debug, Clone, Copy)]
pub struct FindCoordinator<'a> {
    /// Its kind.
    pub of: CoordinatorOf,
    /// The group, or the transactional id.
    pub name: &'a str,
}

impl Call for FindCoordinator<'_> {
    type Answer = BrokerAt;
    const KEY: i16 = 10;
    const NAME: &'static str = "coordinator";
    fn version(&self) -> i16 {
        3
    }
    fn write(&self, to: &mut Writer) {
        to.compact_string(self.name);
        to.i8(self.of as i8);
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<BrokerAt> {
        let _throttle = from.i32()?;
        let code = from.i16()?;
        let _words = from.compact_nullable_string()?;
        check(Self::NAME, code)?;
        Ok(BrokerAt { id: from.i32()?, host: from.compact_string()?.to_string(), port: from.i32()? })
    }
}

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The oldest that it holds.
    Earliest,
    /// One past the newest (read committed: past the last that is settled).
    Latest,
}

/// Asks a leader for offsets of partitions of one topic.
#[derive(Debug, Clone, Copy)]
pub struct ListOffsets<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Partitions that the broker leads.
    pub partitions: &'a [i32],
    /// Which offset.
    pub at: At,
    /// Whether what isn't committed counts.
    pub committed: bool,
}

impl Call for ListOffsets<'_> {
    /// Partition, code, offset.
    type Answer = Vec<(i32, i16, i64)>;
    const KEY: i16 = 2;
    const NAME: &'static str = "offsets";
    fn version(&self) -> i16 {
        6
    }
    fn write(&self, to: &mut Writer) {
        to.i32(-1);
        to.i8(i8::from(self.committed));
        to.compact_count(1);
        to.compact_string(self.topic);
        to.compact_array(self.partitions, |to, partition| {
            to.i32(*partition);
            to.i32(-1);
            to.i64(if self.at == At::Earliest { -2 } else { -1 });
            to.no_tagged();
        });
        to.no_tagged();
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<Self::Answer> {
        let _throttle = from.i32()?;
        let topics = from.compact_array(|item| {
            let _name = item.compact_string()?;
            let partitions = item.compact_array(|item| {
                let (partition, code, _time) = (item.i32()?, item.i16()?, item.i64()?);
                let (offset, _epoch) = (item.i64()?, item.i32()?);
                item.skip_tagged()?;
                Ok((partition, code, offset))
            })?;
            item.skip_tagged()?;
            Ok(partitions)
        })?;
        Ok(topics.into_iter().flatten().collect())
    }
}

/// Asks for the offsets that a group has committed in one topic.
#[derive(Debug, Clone, Copy)]
pub struct OffsetFetch<'a> {
    /// The group.
    pub group: &'a str,
    /// The topic.
    pub topic: &'a str,
    /// Its partitions.
    pub partitions: &'a [i32],
}

impl Call for OffsetFetch<'_> {
    /// Partition, code, offset (−1: none).
    type Answer = Vec<(i32, i16, i64)>;
    const KEY: i16 = 9;
    const NAME: &'static str = "committed offsets";
    fn version(&self) -> i16 {
        7
    }
    fn write(&self, to: &mut Writer) {
        to.compact_string(self.group);
        to.compact_count(1);
        to.compact_string(self.topic);
        to.compact_array(self.partitions, |to, partition| to.i32(*partition));
        to.no_tagged();
        to.bool(true); // wait for transactions that hold offsets
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<Self::Answer> {
        let _throttle = from.i32()?;
        let topics = from.compact_array(|item| {
            let _name = item.compact_string()?;
            let partitions = item.compact_array(|item| {
                let (partition, offset, _epoch) = (item.i32()?, item.i64()?, item.i32()?);
                let (_metadata, code) = (item.compact_nullable_string()?, item.i16()?);
                item.skip_tagged()?;
                Ok((partition, code, offset))
            })?;
            item.skip_tagged()?;
            Ok(partitions)
        })?;
        check(Self::NAME, from.i16()?)?;
        Ok(topics.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer to `Metadata` as a broker writes it.
    fn metadata() -> Writer {
        let mut to = Writer::default();
        to.i32(0);
        to.compact_count(1);
        to.i32(4);
        to.compact_string("kafka.test");
        to.i32(9092);
        to.compact_nullable_string(None);
        to.no_tagged();
        to.compact_nullable_string(Some("cluster"));
        to.i32(4);
        to.compact_count(1);
        to.i16(0);
        to.compact_string("in");
        to.bool(false);
        to.compact_count(1);
        to.i16(0);
        to.i32(2);
        to.i32(4);
        to.i32(7);
        for _ in 0..3 {
            to.compact_count(1);
            to.i32(4);
        }
        to.no_tagged();
        to.i32(0);
        to.no_tagged();
        to.no_tagged();
        to
    }

    #[test]
    fn an_answer_is_read_and_a_part_of_it_is_an_error() {
        let (call, bytes) = (Metadata { topics: &[] }, metadata());
        let read = call.read(&mut Reader::new(bytes.bytes())).unwrap();
        assert_eq!(read.brokers, [BrokerAt { id: 4, host: "kafka.test".into(), port: 9092 }]);
        let partition = PartitionAt { partition: 2, code: 0, leader: 4, leader_epoch: 7 };
        assert_eq!(read.topics, [TopicAt { name: "in".into(), code: 0, partitions: vec![partition] }]);
        for cut in 0..bytes.len() - 1 {
            assert!(call.read(&mut Reader::new(&bytes.bytes()[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn no_flip_of_a_bit_panics_or_allocates_beyond_the_answer() {
        let bytes = metadata();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.bytes().to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            let _ = Metadata { topics: &[] }.read(&mut Reader::new(&changed));
            let _ = ApiVersions.read(&mut Reader::new(&changed));
            let _ = FindCoordinator { of: CoordinatorOf::Group, name: "g" }.read(&mut Reader::new(&changed));
            let offsets = ListOffsets { topic: "in", partitions: &[0], at: At::Latest, committed: true };
            let _ = offsets.read(&mut Reader::new(&changed));
        }
    }
}
