//! The fetch call, and what it brings: the bytes as they came off the socket, and a walk over the messages in them.
//!
//! Each batch is checked before its first message is shown. What was aborted is passed over where only committed
//! messages are wanted, and so are the marks that transactions leave.
//!
//! ```no_run
//! use millstream::kafka::direct::{FetchSettings, Fetcher, Settings, batch};
//! use std::time::Duration;
//!
//! let mut fetcher = Fetcher::open(Settings::new("localhost:9092"), FetchSettings::default()).unwrap();
//! fetcher.add("events", 0, 0);
//! let mut fetched = fetcher.next(Duration::from_secs(1)).unwrap().expect("something came");
//! while let Some(message) = fetched.peek().unwrap() {
//!     let headers = batch::headers(message.headers).count();
//!     println!("{} at {}: {headers} headers", message.offset, message.timestamp);
//!     fetched.advance(); // a message that isn't taken is shown again
//! }
//! ```

use super::batch::{HEADER_BYTES, Header, Record, Records};
use super::calls::{Call, check};
use super::compress::{Compression, unpack};
use super::connection::Answer;
use super::error::{Error, Result, code};
use super::wire::{Reader, Writer};
use crate::faults;
use std::ops::Range;

/// What is asked of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// The fetcher's number of the partition.
    pub slot: usize,
    /// How many times it was moved by then.
    pub moves: u32,
    pub topic: String,
    pub partition: i32,
    pub leader_epoch: i32,
    pub offset: i64,
}

/// Asks a leader for batches, without a session.
pub(super) struct Fetch<'a> {
    /// Partitions; those of one topic stand together.
    pub wanted: &'a [Wanted],
    pub committed: bool,
    pub wait_ms: i32,
    pub bytes_max: i32,
    pub partition_bytes_max: i32,
}

impl Call for Fetch<'_> {
    /// For how many ms the broker wants not to be asked again, and the parts.
    type Answer = (i32, Vec<Part>);
    const KEY: i16 = 1;
    const NAME: &'static str = "fetch";
    fn version(&self) -> i16 {
        12
    }
    fn write(&self, to: &mut Writer) {
        to.i32(-1);
        to.i32(self.wait_ms);
        to.i32(1);
        to.i32(self.bytes_max);
        to.i8(i8::from(self.committed));
        to.i32(0);
        to.i32(-1); // no session
        let topics: Vec<&[Wanted]> = self.wanted.chunk_by(|a, b| a.topic == b.topic).collect();
        to.compact_array(&topics, |to, partitions| {
            to.compact_string(&partitions[0].topic);
            to.compact_array(partitions, |to, wanted| {
                to.i32(wanted.partition);
                to.i32(wanted.leader_epoch);
                to.i64(wanted.offset);
                to.i32(-1);
                to.i64(-1);
                to.i32(self.partition_bytes_max);
                to.no_tagged();
            });
            to.no_tagged();
        });
        to.compact_count(0);
        to.compact_string("");
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<Self::Answer> {
        let quiet_ms = from.i32()?;
        check(Self::NAME, from.i16()?)?;
        let _session = from.i32()?;
        let mut parts = Vec::new();
        for _ in 0..from.compact_count()? {
            let topic = from.compact_string()?;
            for _ in 0..from.compact_count()? {
                parts.extend(self.read_part(topic, from)?);
            }
            from.skip_tagged()?;
        }
        Ok((quiet_ms, parts))
    }
}

impl Fetch<'_> {
    /// A partition's part of the answer; none where it wasn't asked for.
    fn read_part(&self, topic: &str, from: &mut Reader<'_>) -> Result<Option<Part>> {
        let (partition, code, high, stable, low) = (from.i32()?, from.i16()?, from.i64()?, from.i64()?, from.i64()?);
        let mut aborted = from.compact_array(|item| {
            let (producer, first) = (item.i64()?, item.i64()?);
            item.skip_tagged()?;
            Ok((producer, first))
        })?;
        aborted.sort_by_key(|(_, first)| *first);
        let _preferred = from.i32()?;
        let records = from.compact_nullable_bytes()?.unwrap_or_default();
        let end = from.position();
        from.skip_tagged()?;
        let Some(asked) = self.wanted.iter().find(|w| w.partition == partition && w.topic == topic) else {
            return Ok(None);
        };
        let (mut next, mut plain) = (asked.offset, true);
        let mut rest = records;
        // Only what is whole; how far it goes has to be known before it is walked, to ask for what follows.
        while let Ok(Some(header)) = Header::peek(rest) {
            next = next.max(header.next_offset());
            plain &= header.compression().is_ok_and(|compression| compression == Compression::None);
            rest = &rest[header.len..];
        }
        Ok(Some(Part {
            slot: asked.slot,
            moves: asked.moves,
            from: asked.offset,
            code,
            high,
            stable: if self.committed && stable >= 0 { stable } else { high },
            low,
            next,
            plain,
            aborted,
            records: end - records.len()..end,
        }))
    }
}

/// What one partition brought.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub slot: usize,
    pub moves: u32,
    /// Offset asked for: a batch may begin before it.
    pub from: i64,
    pub code: i16,
    pub high: i64,
    /// One past the last offset that may be read.
    pub stable: i64,
    #[allow(dead_code, reason = "told by the broker; of use to a person who debugs")]
    pub low: i64,
    /// One past the last offset that it brought.
    pub next: i64,
    /// None of its batches is compressed.
    plain: bool,
    /// Producers with aborted transactions, and the first offset of each, by offset.
    aborted: Vec<(i64, i64)>,
    /// Where its batches lie.
    pub records: Range<usize>,
}

impl Part {
    pub(super) fn failed(&self) -> bool {
        self.code != code::NONE
    }
}

/// A message where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// The fetcher's number of its partition.
    pub slot: usize,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, ms since 1970.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers, for [`super::batch::headers`].
    pub headers: &'a [u8],
}

/// What a fetch brought, and how far it was walked.
#[derive(Debug)]
pub struct Fetched {
    pub(super) bytes: Vec<u8>,
    pub(super) unpacked: Vec<u8>,
    committed: bool,
    parts: std::vec::IntoIter<Part>,
    pub(super) part: Option<Part>,
    /// Where the part's next batch begins.
    at: usize,
    pub(super) records: Records,
    /// The records lie in `unpacked`.
    pub(super) is_unpacked: bool,
    pub(super) record: Option<Record>,
    /// Where that one begins.
    pub(super) record_at: usize,
    /// No batch of it is compressed.
    pub(super) is_plain: bool,
    /// Producers whose transaction was aborted, as far as walked.
    aborting: Vec<i64>,
}

impl Fetched {
    pub(super) fn new(answer: Answer, parts: Vec<Part>, committed: bool) -> Fetched {
        Fetched {
            bytes: answer.bytes,
            unpacked: Vec::new(),
            committed,
            is_plain: parts.iter().all(|part| part.plain),
            parts: parts.into_iter(),
            part: None,
            at: 0,
            records: Records::none(),
            is_unpacked: false,
            record: None,
            record_at: 0,
            aborting: Vec::new(),
        }
    }

    /// A walk over the body of a broker's answer (version 12) to a fetch of one partition from an offset on, for
    /// whoever has the bytes without a connection. Compressed records and aborted ones are treated as the fetcher does.
    ///
    /// # Errors
    /// `Damaged`; `Broker` where the answer is a refusal.
    pub fn read(bytes: Vec<u8>, topic: &str, partition: i32, offset: i64, committed: bool) -> Result<Fetched> {
        let wanted = [Wanted { slot: 0, moves: 0, topic: topic.into(), partition, leader_epoch: -1, offset }];
        let call = Fetch { wanted: &wanted, committed, wait_ms: 0, bytes_max: 0, partition_bytes_max: 0 };
        let (_, parts) = call.read(&mut Reader::new(&bytes))?;
        if let Some(failed) = parts.iter().find(|part| part.failed()) {
            return Err(Error::broker(format!("{topic}/{partition}"), failed.code));
        }
        Ok(Fetched::new(Answer { bytes, body: 0 }, parts, committed))
    }

    /// The next message; the same again until `advance` is called.
    ///
    /// # Errors
    /// `Damaged`: a batch that isn't whole, has another checksum or holds what can't be; [`Fetched::place`] says
    /// which partition.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Message<'_>>> {
        while self.record.is_none() {
            let bytes = if self.is_unpacked { &self.unpacked } else { &self.bytes };
            self.record_at = self.records.position();
            match self.records.next(bytes)? {
                Some(record) if self.part.as_ref().is_some_and(|part| record.offset >= part.from) => {
                    self.record = Some(record);
                }
                Some(_) => {}
                None => {
                    if !self.next_batch(None)? {
                        return Ok(None);
                    }
                }
            }
        }
        let (Some(record), Some(part)) = (&self.record, &self.part) else { return Ok(None) };
        let bytes: &[u8] = if self.is_unpacked { &self.unpacked } else { &self.bytes };
        Ok(Some(Message {
            slot: part.slot,
            offset: record.offset,
            timestamp: record.timestamp,
            key: record.key.map(|key| key.of(bytes)),
            value: record.value.map(|value| value.of(bytes)),
            headers: record.headers.of(bytes),
        }))
    }

    /// Goes past the message that `peek` showed.
    #[inline]
    pub fn advance(&mut self) {
        self.record = None;
    }

    /// The partition that is being walked, by the fetcher's number.
    pub fn place(&self) -> Option<usize> {
        self.part.as_ref().map(|part| part.slot)
    }

    /// The partitions of which nothing was shown yet, and the offset each was asked for from.
    pub(super) fn unread(&self) -> Vec<(usize, i64)> {
        self.parts.as_slice().iter().map(|part| (part.slot, part.from)).collect()
    }

    /// Goes to the next batch with messages, which are brought `into` a buffer where one is given; false where there is
    /// none.
    pub(super) fn next_batch(&mut self, mut into: Option<&mut Vec<u8>>) -> Result<bool> {
        loop {
            let end = self.part.as_ref().map_or(0, |part| part.records.end);
            let Some(header) = Header::peek(&self.bytes[self.at.min(end)..end])? else {
                let Some(part) = self.parts.next() else {
                    (self.part, self.records) = (None, Records::none());
                    return Ok(false);
                };
                self.at = part.records.start;
                self.aborting.clear();
                (self.part, self.records) = (Some(part), Records::none());
                continue;
            };
            let start = self.at;
            self.at += header.len;
            if self.open_batch(&header, start, into.as_deref_mut())? {
                return Ok(true);
            }
        }
    }

    /// Checks a batch and gets at its records; false where it is to be passed over.
    fn open_batch(&mut self, header: &Header, start: usize, into: Option<&mut Vec<u8>>) -> Result<bool> {
        self.records = Records::none();
        let batch = &self.bytes[start..start + header.len];
        header.check(batch)?;
        let part = self.part.as_mut().expect("a batch is of a part");
        if self.committed && header.is_transactional() {
            let begun = part.aborted.partition_point(|(_, first)| *first < header.next_offset());
            self.aborting.extend(part.aborted.drain(..begun).map(|(producer, _)| producer));
            if header.is_control() && header.is_abort(batch)? {
                self.aborting.retain(|producer| *producer != header.producer);
            }
            if self.aborting.contains(&header.producer) && !faults::planted("aborted-not-passed-over") {
                return Ok(false);
            }
        }
        if header.is_control() || header.next_offset() <= part.from {
            return Ok(false);
        }
        let compression = header.compression()?;
        self.is_unpacked = compression != Compression::None;
        let to = match into {
            Some(into) => into,
            None if !self.is_unpacked => {
                self.records = Records::new(header, start + HEADER_BYTES, start + header.len);
                return Ok(true);
            }
            None => {
                self.unpacked.clear();
                &mut self.unpacked
            }
        };
        let begin = to.len();
        unpack(compression, &batch[HEADER_BYTES..], to)?;
        self.records = Records::new(header, begin, to.len());
        Ok(true)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::build::{Builder, Entry};
    use super::super::txn_calls::Identity;
    use super::*;

    pub const ONE: Identity = Identity { id: 1, epoch: 0 };
    pub const TWO: Identity = Identity { id: 2, epoch: 0 };

    /// A batch of one message at an offset.
    pub fn batch(
        offset: i64,
        value: &[u8],
        identity: Identity,
        compression: Compression,
        transactional: bool,
    ) -> Vec<u8> {
        let mut builder = Builder::default();
        builder.push(&Entry { key: None, value: Some(value), timestamp: 1, headers: &[] });
        let mut bytes = builder.seal(compression, identity, 0, transactional).unwrap().to_vec();
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes
    }

    /// A transaction's end.
    pub fn end(offset: i64, identity: Identity, commit: bool) -> Vec<u8> {
        let mut builder = Builder::default();
        let key = [0, 0, 0, u8::from(commit)];
        builder.push(&Entry { key: Some(&key), value: Some(&[0; 6]), timestamp: 1, headers: &[] });
        let mut bytes = builder.seal(Compression::None, identity, -1, true).unwrap().to_vec();
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes[22] |= 0x20;
        let crc = super::super::batch::checksum(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn wanted(offset: i64) -> Wanted {
        Wanted { slot: 3, moves: 0, topic: "t".into(), partition: 5, leader_epoch: -1, offset }
    }

    /// An answer as a broker writes it.
    pub fn answer(records: &[u8], aborted: &[(i64, i64)], stable: i64) -> Writer {
        let mut to = Writer::default();
        to.i32(0);
        to.i16(0);
        to.i32(0);
        to.compact_count(1);
        to.compact_string("t");
        to.compact_count(1);
        to.i32(5);
        to.i16(0);
        to.i64(stable);
        to.i64(stable);
        to.i64(0);
        to.compact_array(aborted, |to, (producer, first)| (to.i64(*producer), to.i64(*first), to.no_tagged()).0);
        to.i32(-1);
        to.compact_bytes(records);
        to.no_tagged();
        to.no_tagged();
        to.no_tagged();
        to
    }

    fn read(bytes: &[u8], from: i64, committed: bool) -> Result<Vec<(i64, Vec<u8>)>> {
        let wanted = [wanted(from)];
        let call = Fetch { wanted: &wanted, committed, wait_ms: 0, bytes_max: 1, partition_bytes_max: 1 };
        let (_, parts) = call.read(&mut Reader::new(bytes))?;
        let mut fetched = Fetched::new(Answer { bytes: bytes.to_vec(), body: 0 }, parts, committed);
        let mut seen = Vec::new();
        while let Some(message) = fetched.peek()? {
            assert_eq!(message.slot, 3);
            seen.push((message.offset, message.value.unwrap().to_vec()));
            fetched.advance();
        }
        Ok(seen)
    }

    fn offsets(bytes: &[u8], from: i64, committed: bool) -> Vec<i64> {
        read(bytes, from, committed).unwrap().into_iter().map(|(offset, _)| offset).collect()
    }

    #[test]
    fn what_was_aborted_is_passed_over_and_the_others_are_not() {
        let none = Compression::None;
        let log = [
            batch(0, b"plain", Identity::NONE, none, false),
            batch(1, b"one, aborted", ONE, none, true),
            batch(2, b"two, committed", TWO, none, true),
            end(3, ONE, false),
            batch(4, b"one again, committed", ONE, none, true),
            end(5, TWO, true),
            end(6, ONE, true),
            batch(9, b"after a gap", Identity::NONE, none, false),
        ]
        .concat();
        let bytes = answer(&log, &[(1, 1)], 10);
        assert_eq!(offsets(bytes.bytes(), 0, true), [0, 2, 4, 9]);
        assert_eq!(offsets(bytes.bytes(), 0, false), [0, 1, 2, 4, 9], "marks are never messages");
        assert_eq!(offsets(bytes.bytes(), 3, true), [4, 9]);
    }

    #[test]
    fn a_batch_that_begins_early_or_is_cut_brings_what_it_holds() {
        let mut builder = Builder::default();
        for n in 0..10u8 {
            builder.push(&Entry { key: None, value: Some(&[n]), timestamp: 1, headers: &[] });
        }
        for compression in
            [Compression::None, Compression::Lz4, Compression::Snappy, Compression::Zstd, Compression::Gzip]
        {
            let whole = builder.seal(compression, Identity::NONE, -1, false).unwrap().to_vec();
            let log = [whole.clone(), whole[..whole.len() / 2].to_vec()].concat();
            assert_eq!(offsets(answer(&log, &[], 20).bytes(), 7, true), [7, 8, 9], "{compression:?}");
        }
    }

    #[test]
    fn cuts_and_flips_of_a_whole_answer_never_panic_or_show_what_was_not_written() {
        let log = [
            batch(0, b"first", ONE, Compression::None, true),
            batch(1, b"second", ONE, Compression::Lz4, true),
            end(2, ONE, true),
        ];
        let whole = answer(&log.concat(), &[(9, 9)], 3);
        for cut in 0..whole.len() - 1 {
            assert!(read(&whole.bytes()[..cut], 0, true).is_err(), "cut at {cut}");
        }
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.bytes().to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            for (offset, value) in read(&changed, 0, true).unwrap_or_default() {
                // The offset alone isn't covered by the checksum.
                assert!(value == b"first" || value == b"second", "bit {bit}: {offset}");
            }
        }
    }
}
