//! Record batches as brokers hand them out: checked, and read where they lie.
//!
//! A batch begins with a header of 61 bytes; its checksum covers everything from the attributes on, so a batch
//! that passes the check was written so by a producer. What is read after that is still not trusted.
//!
//! ```
//! use millstream::kafka::direct::batch::{Header, Records};
//! use millstream::kafka::direct::build::{Builder, Entry};
//! use millstream::kafka::direct::{Compression, Identity};
//!
//! let mut builder = Builder::default();
//! builder.push(&Entry { key: Some(b"k"), value: Some(b"v"), timestamp: 5, headers: &[] });
//! let bytes = builder.seal(Compression::None, Identity::NONE, -1, false).unwrap();
//! let header = Header::peek(bytes).unwrap().unwrap();
//! header.check(bytes).unwrap();
//! let mut records = Records::new(&header, 61, bytes.len());
//! let record = records.next(bytes).unwrap().unwrap();
//! assert_eq!(record.value.unwrap().of(bytes), b"v");
//! assert!(records.next(bytes).unwrap().is_none());
//! ```

use super::build::{HeaderEntry, push_part};
use super::compress::Compression;
use super::error::{Error, Result};
use super::wire::Reader;
use crate::batch::Span;

/// Length of a batch's header in bytes.
pub const HEADER_BYTES: usize = 61;

/// Bytes of a header before those that its length counts.
const BEFORE_LENGTH: usize = 12;

/// Where the checksum's part begins.
pub(super) const CHECKED_FROM: usize = 21;

/// A batch's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Offset of its first record.
    pub base_offset: i64,
    /// Length of the whole batch in bytes.
    pub len: usize,
    /// CRC-32C of the bytes from the attributes on.
    pub crc: u32,
    /// Compression, kind of timestamp, transactional, control.
    pub attributes: i16,
    /// Distance from the first offset to the last one; kept by compaction, which may remove records.
    pub last_offset_delta: i32,
    /// Timestamp that the records' are counted from, ms.
    pub base_timestamp: i64,
    /// The newest timestamp, ms.
    pub max_timestamp: i64,
    /// The producer; −1 for none.
    pub producer: i64,
    /// Records in it.
    pub count: i32,
}

fn damaged(offset: i64, what: &str) -> Error {
    Error::Damaged(format!("the batch at offset {offset} {what}"))
}

impl Header {
    /// Reads the header of a batch; none where the bytes end before the batch does: a broker may cut the last one.
    ///
    /// # Errors
    /// `Damaged`; `Config` for a format from before 2017.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Option<Header>> {
        if bytes.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut from = Reader::new(bytes);
        let (base_offset, length) = (from.i64()?, from.i32()?);
        let (_leader_epoch, magic) = (from.i32()?, from.i8()?);
        if (0..2).contains(&magic) {
            return Err(Error::Config(format!(
                "offset {base_offset} is stored in message format {magic}: set source.client = \"librdkafka\""
            )));
        }
        let len = usize::try_from(length).unwrap_or(0) + BEFORE_LENGTH;
        if magic != 2 || len < HEADER_BYTES || base_offset < 0 {
            return Err(damaged(base_offset, "has a header that can't be"));
        }
        if len > bytes.len() {
            return Ok(None);
        }
        let (crc, attributes, last_offset_delta) = (from.u32()?, from.i16()?, from.i32()?);
        let (base_timestamp, max_timestamp) = (from.i64()?, from.i64()?);
        let (producer, _epoch, _sequence, count) = (from.i64()?, from.i16()?, from.i32()?, from.i32()?);
        if last_offset_delta < 0 || count < 0 || base_offset.checked_add(i64::from(last_offset_delta) + 1).is_none() {
            return Err(damaged(base_offset, "has a header that can't be"));
        }
        Ok(Some(Header {
            base_offset,
            len,
            crc,
            attributes,
            last_offset_delta,
            base_timestamp,
            max_timestamp,
            producer,
            count,
        }))
    }

    /// Compares the checksum of the whole batch, which `bytes` begin with.
    ///
    /// # Errors
    /// `Damaged`.
    #[inline]
    pub fn check(&self, bytes: &[u8]) -> Result<()> {
        if checksum(&bytes[CHECKED_FROM..self.len]) == self.crc {
            return Ok(());
        }
        Err(damaged(self.base_offset, "has another checksum than its bytes"))
    }

    /// The offset after its last.
    #[inline]
    pub fn next_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta) + 1
    }

    /// True where it holds a transaction's end and no messages.
    #[inline]
    pub fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// True where it was written in a transaction.
    #[inline]
    pub fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// How its records are compressed.
    ///
    /// # Errors
    /// `Damaged`.
    #[inline]
    pub fn compression(&self) -> Result<Compression> {
        Compression::of(self.attributes)
    }

    /// True where a control batch says that its producer's transaction was aborted.
    pub fn is_abort(&self, bytes: &[u8]) -> Result<bool> {
        let mut records = Records::new(self, HEADER_BYTES, self.len);
        let key = records.next(bytes)?.and_then(|record| record.key).map_or(&[][..], |key| key.of(bytes));
        // Version, then kind: 0 aborts, 1 commits; others are of no concern to a reader.
        Ok(key.get(2..4) == Some(&[0, 0]))
    }
}

/// CRC-32C of bytes.
#[inline]
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// A record: where its parts lie in the bytes that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, ms since 1970.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Span>,
    /// Its value.
    pub value: Option<Span>,
    /// Its headers, for [`headers`]; empty where there are none.
    pub headers: Span,
}

/// Walks the records of a batch.
#[derive(Debug, Clone)]
pub struct Records {
    at: usize,
    end: usize,
    left: i32,
    base_offset: i64,
    last_delta: i32,
    base_timestamp: i64,
    /// The broker's own timestamp, where it stamps.
    stamped: Option<i64>,
}

impl Records {
    /// The records of a batch that lie, uncompressed, in `start..end` of the bytes that `next` is given.
    pub fn new(header: &Header, start: usize, end: usize) -> Records {
        Records {
            at: start,
            end,
            left: header.count,
            base_offset: header.base_offset,
            last_delta: header.last_offset_delta,
            base_timestamp: header.base_timestamp,
            stamped: (header.attributes & 0x08 != 0).then_some(header.max_timestamp),
        }
    }

    /// No records.
    pub fn none() -> Records {
        Records { at: 0, end: 0, left: 0, base_offset: 0, last_delta: 0, base_timestamp: 0, stamped: None }
    }

    /// Where the next record begins.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// Goes back to the last record, which began at `at`.
    pub(super) fn back_to(&mut self, at: usize) {
        (self.at, self.left) = (at, self.left + 1);
    }

    /// Copies those that are left from the bytes where they lie, and goes on there.
    pub(super) fn move_to(&mut self, to: &mut Vec<u8>, from: &[u8]) {
        let begin = to.len();
        to.extend_from_slice(from.get(self.at..self.end).unwrap_or_default());
        (self.at, self.end) = (begin, to.len());
    }

    /// The next record.
    ///
    /// # Errors
    /// `Damaged`: a part goes beyond its record, a record beyond its batch, or bytes are left over.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Result<Option<Record>> {
        if self.left <= 0 {
            if self.at != self.end {
                return Err(damaged(self.base_offset, "holds more than its records"));
            }
            return Ok(None);
        }
        let whole = bytes.get(..self.end).ok_or_else(|| damaged(self.base_offset, "is cut off"))?;
        let mut from = Reader::starting_at(whole, self.at);
        let len = usize::try_from(from.varint()?).unwrap_or(usize::MAX);
        if len > from.left() {
            return Err(damaged(self.base_offset, "has a record that goes beyond it"));
        }
        let end = from.position() + len;
        let mut from = Reader::starting_at(&whole[..end], from.position());
        let (_attributes, time, delta) = (from.i8()?, from.varlong()?, from.varint()?);
        let (key, value) = (part(&mut from)?, part(&mut from)?);
        let count = from.varint()?;
        let headers = Span::new(from.position(), end);
        if count != 0 {
            check_headers(headers.of(bytes), count)?;
        } else if from.left() != 0 {
            return Err(damaged(self.base_offset, "has a record with more than its parts"));
        }
        if delta < 0 || delta > self.last_delta {
            return Err(damaged(self.base_offset, "has a record with an offset that isn't its own"));
        }
        (self.at, self.left) = (end, self.left - 1);
        Ok(Some(Record {
            offset: self.base_offset + i64::from(delta),
            timestamp: self.stamped.unwrap_or(self.base_timestamp.wrapping_add(time)),
            key,
            value,
            headers,
        }))
    }
}

/// A part with its length before it; −1 for none.
#[inline]
fn part(from: &mut Reader<'_>) -> Result<Option<Span>> {
    let len = from.varint()?;
    if len == -1 {
        return Ok(None);
    }
    let len = usize::try_from(len).map_err(|_| Error::Damaged("a record has a part that can't be".into()))?;
    let start = from.position();
    from.take(len)?;
    Ok(Some(Span::new(start, start + len)))
}

#[cold]
fn check_headers(bytes: &[u8], count: i32) -> Result<()> {
    let mut all = headers(bytes);
    for _ in 0..count {
        all.step()?;
    }
    if all.from.left() == 0 { Ok(()) } else { Err(Error::Damaged("a record has more than its headers".into())) }
}

/// The headers of a record, in order: name and value. Ends early where the bytes are no headers, which those of a
/// [`Record`] are.
///
/// ```
/// assert_eq!(millstream::kafka::direct::batch::headers(&[2, b'a', 1]).collect::<Vec<_>>(), [(&b"a"[..], None)]);
/// ```
pub fn headers(bytes: &[u8]) -> Headers<'_> {
    Headers { from: Reader::new(bytes) }
}

/// Appends a header to those of a record.
pub fn push_header(to: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    push_part(to, Some(name));
    push_part(to, value);
}

/// See [`headers`].
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    from: Reader<'a>,
}

impl<'a> Headers<'a> {
    fn step(&mut self) -> Result<HeaderEntry<'a>> {
        let name = usize::try_from(self.from.varint()?).map_err(|_| Error::Damaged("a header has no name".into()))?;
        let name = self.from.take(name)?;
        let value = match self.from.varint()? {
            -1 => None,
            len => {
                let len = usize::try_from(len).map_err(|_| Error::Damaged("a header can't be".into()))?;
                Some(self.from.take(len)?)
            }
        };
        Ok((name, value))
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);
    fn next(&mut self) -> Option<Self::Item> {
        self.step().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::build::{Builder, Entry};
    use super::super::txn_calls::Identity;
    use super::*;

    fn batch() -> Vec<u8> {
        let mut builder = Builder::default();
        for n in 0..20u8 {
            let value = vec![n; usize::from(n) * 11];
            let headers: &[(&[u8], Option<&[u8]>)] = &[(b"trace", Some(b"1")), (b"none", None)];
            let headers = if n % 3 == 0 { headers } else { &[] };
            let key = [n];
            let entry = Entry {
                key: (n % 2 == 0).then_some(&key[..]),
                value: Some(&value),
                timestamp: 1_000 - i64::from(n),
                headers,
            };
            builder.push(&entry);
        }
        builder.seal(Compression::None, Identity { id: 7, epoch: 1 }, 5, true).unwrap().to_vec()
    }

    fn walk(bytes: &[u8]) -> Result<Vec<Record>> {
        let mut all = Vec::new();
        let Some(header) = Header::peek(bytes)? else { return Ok(all) };
        let mut records = Records::new(&header, HEADER_BYTES, header.len);
        while let Some(record) = records.next(bytes)? {
            all.push(record);
        }
        Ok(all)
    }

    #[test]
    fn a_batch_reads_back_as_it_was_built() {
        let bytes = batch();
        let header = Header::peek(&bytes).unwrap().unwrap();
        header.check(&bytes).unwrap();
        assert!(header.is_transactional() && !header.is_control());
        assert_eq!((header.next_offset(), header.producer, header.count), (20, 7, 20));
        let records = walk(&bytes).unwrap();
        for (n, record) in records.iter().enumerate() {
            assert_eq!((record.offset, record.timestamp), (n as i64, 1_000 - n as i64));
            assert_eq!(record.key.map(|key| key.of(&bytes)), (n % 2 == 0).then_some(&[n as u8][..]));
            assert_eq!(record.value.unwrap().of(&bytes), vec![n as u8; n * 11]);
            let all: Vec<_> = headers(record.headers.of(&bytes)).collect();
            assert_eq!(all.len(), if n % 3 == 0 { 2 } else { 0 });
        }
        assert_eq!(records.len(), 20);
    }

    #[test]
    fn every_cut_is_no_batch_and_every_flip_of_a_checked_bit_is_found() {
        let bytes = batch();
        for cut in 0..bytes.len() {
            assert_eq!(Header::peek(&bytes[..cut]).unwrap(), None, "cut at {cut}");
        }
        for bit in CHECKED_FROM * 8..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let found = Header::peek(&changed).and_then(|header| header.expect("whole").check(&changed));
            assert!(found.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn records_that_lie_behind_a_right_checksum_are_not_trusted() {
        let bytes = batch();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            if let Ok(records) = walk(&changed) {
                // Whatever was read lies in the batch.
                let inside = |span: Span| span.end as usize <= changed.len() && span.start <= span.end;
                assert!(records.iter().all(|r| r.key.is_none_or(inside) && r.value.is_none_or(inside)));
            }
        }
        let mut many = bytes.clone();
        many[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        assert!(walk(&many).is_err(), "more records than bytes");
        many[57..61].copy_from_slice(&3i32.to_be_bytes());
        assert!(walk(&many).is_err(), "bytes that belong to no record");
    }

    #[test]
    fn an_old_format_is_told_by_name() {
        let mut bytes = batch();
        bytes[16] = 1;
        assert!(matches!(Header::peek(&bytes), Err(Error::Config(_))));
        bytes[16] = 9;
        assert!(matches!(Header::peek(&bytes), Err(Error::Damaged(_))));
    }
}
