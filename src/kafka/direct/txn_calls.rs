//! The calls of a transaction's life, in both versions of the protocol: before 2, partitions and offsets are
//! announced to the coordinator; from 2 on they join by being written, and each end hands out a new epoch.

use super::calls::{Call, check};
use super::error::{Error, Resource, Result, code};
use super::wire::{Reader, Writer};

/// Who a producer is, to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its id; −1 where none was given yet.
    pub id: i64,
    /// Its epoch: the newest of an id shuts the others out.
    pub epoch: i16,
}

impl Identity {
    /// Nobody yet.
    pub const NONE: Identity = Identity { id: -1, epoch: -1 };
}

/// A membership in a group, as offsets in a transaction have to show it.
///
/// ```
/// use millstream::kafka::direct::Membership;
///
/// let outside = Membership::outside("readers"); // offsets are taken from anybody
/// assert_eq!(outside.generation, -1);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: String,
    /// The member's generation; −1 for none.
    pub generation: i32,
    /// The member's id.
    pub member: String,
    /// The member's name, where it is a static one.
    pub instance: Option<String>,
}

impl Membership {
    /// No membership: the coordinator then takes offsets only of a group without members.
    pub fn outside(group: &str) -> Membership {
        Membership { group: group.into(), generation: -1, member: String::new(), instance: None }
    }
}

/// Asks for an identity; shuts out who held the transactional id before, and ends what he left open.
#[derive(Debug, Clone, Copy)]
pub struct InitProducerId<'a> {
    /// The transactional id; none for a producer that is only idempotent.
    pub transactional: Option<&'a str>,
    /// How long its transactions may take, in ms.
    pub timeout_ms: i32,
    /// Who the producer is, to be told if another has taken over; [`Identity::NONE`] takes over.
    pub identity: Identity,
}

impl Call for InitProducerId<'_> {
    type Answer = Identity;
    const KEY: i16 = 22;
    const NAME: &'static str = "a producer's identity";
    fn version(&self) -> i16 {
        4
    }
    fn write(&self, to: &mut Writer) {
        to.compact_nullable_string(self.transactional);
        to.i32(self.timeout_ms);
        to.i64(self.identity.id);
        to.i16(self.identity.epoch);
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<Identity> {
        let _throttle = from.i32()?;
        check(Self::NAME, from.i16()?)?;
        Ok(Identity { id: from.i64()?, epoch: from.i16()? })
    }
}

/// Announces partitions that the transaction will write to (version 1), or has written to.
#[derive(Debug, Clone, Copy)]
pub struct AddPartitions<'a> {
    /// The transactional id.
    pub transactional: &'a str,
    /// The producer.
    pub identity: Identity,
    /// Topics with their partitions.
    pub topics: &'a [(String, Vec<i32>)],
}

impl Call for AddPartitions<'_> {
    type Answer = ();
    const KEY: i16 = 24;
    const NAME: &'static str = "partitions of the transaction";
    fn version(&self) -> i16 {
        3
    }
    fn write(&self, to: &mut Writer) {
        to.compact_string(self.transactional);
        to.i64(self.identity.id);
        to.i16(self.identity.epoch);
        to.compact_array(self.topics, |to, (topic, partitions)| {
            to.compact_string(topic);
            to.compact_array(partitions, |to, partition| to.i32(*partition));
            to.no_tagged();
        });
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<()> {
        let _throttle = from.i32()?;
        worst(Self::NAME, from)
    }
}

/// Topics → partitions → code: the first code that says more than that another failed.
fn worst(what: &str, from: &mut Reader<'_>) -> Result<()> {
    let topics = from.compact_array(|item| {
        let topic = item.compact_string()?;
        let codes = item.compact_array(|item| {
            let (_partition, code) = (item.i32()?, item.i16()?);
            item.skip_tagged()?;
            Ok(code)
        })?;
        item.skip_tagged()?;
        Ok((topic, codes))
    })?;
    let all = || topics.iter().flat_map(|(topic, codes)| codes.iter().map(move |code| (*topic, *code)));
    let bad = || all().filter(|(_, code)| *code != code::NONE);
    let telling = bad().find(|(_, code)| *code != code::OPERATION_NOT_ATTEMPTED);
    telling.or_else(|| bad().next()).map_or(Ok(()), |(topic, code)| {
        check(&format!("{what}: {topic}"), code).map_err(|error| error.on(Resource::Topic, topic))
    })
}

/// Announces that the transaction will hold offsets of a group (version 1).
#[derive(Debug, Clone, Copy)]
pub struct AddOffsets<'a> {
    /// The transactional id.
    pub transactional: &'a str,
    /// The producer.
    pub identity: Identity,
    /// The group.
    pub group: &'a str,
}

impl Call for AddOffsets<'_> {
    type Answer = ();
    const KEY: i16 = 25;
    const NAME: &'static str = "offsets of the transaction";
    fn version(&self) -> i16 {
        3
    }
    fn write(&self, to: &mut Writer) {
        to.compact_string(self.transactional);
        to.i64(self.identity.id);
        to.i16(self.identity.epoch);
        to.compact_string(self.group);
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<()> {
        let _throttle = from.i32()?;
        check(Self::NAME, from.i16()?)
    }
}

/// Offsets of one topic: each partition's next.
pub type TopicOffsets<'a> = (&'a str, Vec<(i32, i64)>);

/// Writes a group's offsets into the transaction.
#[derive(Debug, Clone, Copy)]
pub struct TxnOffsets<'a> {
    /// The transactional id.
    pub transactional: &'a str,
    /// The producer.
    pub identity: Identity,
    /// Whose offsets.
    pub membership: &'a Membership,
    /// The offsets.
    pub topics: &'a [TopicOffsets<'a>],
    /// True for version 2 of the protocol.
    pub joins: bool,
}

impl Call for TxnOffsets<'_> {
    type Answer = ();
    const KEY: i16 = 28;
    const NAME: &'static str = "offsets in the transaction";
    fn version(&self) -> i16 {
        if self.joins { 5 } else { 3 }
    }
    fn write(&self, to: &mut Writer) {
        to.compact_string(self.transactional);
        to.compact_string(&self.membership.group);
        to.i64(self.identity.id);
        to.i16(self.identity.epoch);
        to.i32(self.membership.generation);
        to.compact_string(&self.membership.member);
        to.compact_nullable_string(self.membership.instance.as_deref());
        to.compact_array(self.topics, |to, (topic, offsets)| {
            to.compact_string(topic);
            to.compact_array(offsets, |to, (partition, offset)| {
                to.i32(*partition);
                to.i64(*offset);
                to.i32(-1);
                to.compact_nullable_string(None);
                to.no_tagged();
            });
            to.no_tagged();
        });
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<()> {
        let _throttle = from.i32()?;
        worst(Self::NAME, from)
    }
}

/// Ends a transaction.
#[derive(Debug, Clone, Copy)]
pub struct EndTxn<'a> {
    /// The transactional id.
    pub transactional: &'a str,
    /// The producer.
    pub identity: Identity,
    /// True to commit, false to abort.
    pub commit: bool,
    /// True for version 2 of the protocol.
    pub joins: bool,
}

impl Call for EndTxn<'_> {
    /// Who the producer is from now on, where that changed.
    type Answer = Option<Identity>;
    const KEY: i16 = 26;
    const NAME: &'static str = "the transaction's end";
    fn version(&self) -> i16 {
        if self.joins { 5 } else { 3 }
    }
    fn write(&self, to: &mut Writer) {
        to.compact_string(self.transactional);
        to.i64(self.identity.id);
        to.i16(self.identity.epoch);
        to.bool(self.commit);
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<Option<Identity>> {
        let _throttle = from.i32()?;
        check(Self::NAME, from.i16()?)?;
        if !self.joins {
            return Ok(None);
        }
        let identity = Identity { id: from.i64()?, epoch: from.i16()? };
        Ok((identity.id >= 0).then_some(identity))
    }
}

/// Asks the coordinator what a transactional id's last transaction has come to (brokers from 3.0 on).
#[derive(Debug, Clone, Copy)]
pub struct DescribeTxn<'a> {
    /// The transactional id.
    pub transactional: &'a str,
}

impl Call for DescribeTxn<'_> {
    /// True while the markers of its end are being written: no transaction can begin.
    type Answer = bool;
    const KEY: i16 = 65;
    const NAME: &'static str = "the transaction's state";
    fn version(&self) -> i16 {
        0
    }
    fn write(&self, to: &mut Writer) {
        to.compact_array(&[self.transactional], |to, name| to.compact_string(name));
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<bool> {
        let _throttle = from.i32()?;
        let states = from.compact_array(|item| {
            let (code, name, state) = (item.i16()?, item.compact_string()?, item.compact_string()?);
            let (_timeout, _began, _id, _epoch) = (item.i32()?, item.i64()?, item.i64()?, item.i16()?);
            item.compact_array(|topic| {
                let _name = topic.compact_string()?;
                topic.compact_array(Reader::i32)?;
                topic.skip_tagged()
            })?;
            item.skip_tagged()?;
            Ok((code, name, state))
        })?;
        let found = states.iter().find(|(_, name, _)| *name == self.transactional);
        let Some((code, _, state)) = found else {
            return Err(Error::Damaged(format!("{}: an answer without the id", Self::NAME)));
        };
        check(Self::NAME, *code)?;
        Ok(state.starts_with("Prepare"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_that_is_being_ended_is_told_from_one_that_has() {
        let read = |code: i16, name: &str, state: &str| {
            let mut to = Writer::default();
            to.i32(0);
            to.compact_count(1);
            to.i16(code);
            to.compact_string(name);
            to.compact_string(state);
            to.i32(60_000);
            to.i64(-1);
            to.i64(7);
            to.i16(3);
            to.compact_array(&["t"], |to, topic| {
                to.compact_string(topic);
                to.compact_array(&[0, 1], |to, partition| to.i32(*partition));
                to.no_tagged();
            });
            to.no_tagged();
            to.no_tagged();
            let mut from = Reader::new(to.bytes());
            let answer = DescribeTxn { transactional: "x" }.read(&mut from);
            answer.inspect(|_| assert_eq!(from.left(), 1, "the answer's own tagged fields"))
        };
        assert!(read(0, "x", "PrepareCommit").unwrap() && read(0, "x", "PrepareAbort").unwrap());
        assert!(!read(0, "x", "CompleteCommit").unwrap() && !read(0, "x", "Ongoing").unwrap());
        assert!(matches!(read(0, "y", "Ongoing"), Err(Error::Damaged(_))));
        let denied = read(code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "x", "").unwrap_err();
        assert_eq!(denied.code(), Some(code::TRANSACTIONAL_ID_AUTHORIZATION_FAILED));
    }

    #[test]
    fn the_code_that_says_most_is_the_answer() {
        let answer = |codes: &[i16]| {
            let mut to = Writer::default();
            to.i32(0);
            to.compact_count(1);
            to.compact_string("t");
            to.compact_array(codes, |to, code| (to.i32(0), to.i16(*code), to.no_tagged()).0);
            to.no_tagged();
            to.no_tagged();
            let topics = [("t".to_string(), vec![0])];
            let call = AddPartitions { transactional: "x", identity: Identity::NONE, topics: &topics };
            call.read(&mut Reader::new(to.bytes())).err().and_then(|error| error.code())
        };
        assert_eq!(answer(&[0, 0]), None);
        assert_eq!(answer(&[code::OPERATION_NOT_ATTEMPTED, code::CONCURRENT_TRANSACTIONS]), Some(51));
        assert_eq!(answer(&[0, code::OPERATION_NOT_ATTEMPTED]), Some(55));
    }

    #[test]
    fn an_end_hands_out_an_epoch_from_version_2_on() {
        let mut to = Writer::default();
        to.i32(0);
        to.i16(0);
        to.i64(7);
        to.i16(3);
        to.no_tagged();
        let end = |joins| EndTxn { transactional: "x", identity: Identity::NONE, commit: true, joins };
        assert_eq!(end(true).read(&mut Reader::new(to.bytes())).unwrap(), Some(Identity { id: 7, epoch: 3 }));
        assert_eq!(end(false).read(&mut Reader::new(to.bytes())).unwrap(), None);
    }
}
