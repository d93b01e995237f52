//! Record batches on their way to a broker: records are written once, straight into the buffer that is sent.
//!
//! ```
//! use millstream::kafka::direct::build::{Builder, Entry};
//! use millstream::kafka::direct::{Compression, Identity};
//!
//! let mut builder = Builder::default();
//! builder.push(&Entry { key: None, value: Some(b"one"), timestamp: 0, headers: &[] });
//! assert_eq!(builder.count(), 1);
//! let bytes = builder.seal(Compression::Zstd, Identity { id: 4, epoch: 0 }, 0, false).unwrap();
//! assert_eq!(bytes[16], 2, "the format's magic number");
//! builder.clear();
//! assert_eq!(builder.count(), 0);
//! ```

use super::batch::{CHECKED_FROM, HEADER_BYTES, checksum};
use super::compress::{Compression, pack};
use super::error::Result;
use super::txn_calls::Identity;
use super::wire::{push_varint, varint_len, zigzag};

/// A header of a record: name and value.
pub type HeaderEntry<'a> = (&'a [u8], Option<&'a [u8]>);

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its timestamp, ms since 1970.
    pub timestamp: i64,
    /// Its headers.
    pub headers: &'a [HeaderEntry<'a>],
}

impl Entry<'_> {
    /// Most bytes that it takes in a batch.
    pub fn bytes_max(&self) -> usize {
        let part = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len) + 5;
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + 5 + part(*value)).sum();
        part(self.key) + part(self.value) + headers + 26
    }
}

/// A batch that records are added to.
#[derive(Debug)]
pub struct Builder {
    /// Header and records.
    bytes: Vec<u8>,
    /// The batch with its records compressed.
    packed: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl Default for Builder {
    fn default() -> Builder {
        Builder { bytes: vec![0; HEADER_BYTES], packed: Vec::new(), count: 0, base_timestamp: 0, max_timestamp: 0 }
    }
}

impl Builder {
    /// Forgets the records, keeps the room.
    pub fn clear(&mut self) {
        self.bytes.truncate(HEADER_BYTES);
        self.count = 0;
    }

    /// Records in it.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Its length so far, in bytes, before compression.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True where it has no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a record.
    #[inline]
    pub fn push(&mut self, entry: &Entry<'_>) {
        if self.count == 0 {
            (self.base_timestamp, self.max_timestamp) = (entry.timestamp, entry.timestamp);
        }
        self.max_timestamp = self.max_timestamp.max(entry.timestamp);
        let time = zigzag(entry.timestamp.wrapping_sub(self.base_timestamp));
        let delta = zigzag(i64::from(self.count));
        let len = 1
            + varint_len(time)
            + varint_len(delta)
            + part_len(entry.key)
            + part_len(entry.value)
            + varint_len(zigzag(entry.headers.len() as i64))
            + entry.headers.iter().map(|(name, value)| part_len(Some(name)) + part_len(*value)).sum::<usize>();
        let to = &mut self.bytes;
        let mut head = Head { bytes: [0; 48], len: 0 };
        head.varint(zigzag(len as i64));
        head.varint(0);
        head.varint(time);
        head.varint(delta);
        head.varint(entry.key.map_or(1, |key| zigzag(key.len() as i64)));
        if let Some(key) = entry.key {
            to.extend_from_slice(head.take());
            to.extend_from_slice(key);
        }
        head.varint(entry.value.map_or(1, |value| zigzag(value.len() as i64)));
        to.extend_from_slice(head.take());
        to.extend_from_slice(entry.value.unwrap_or_default());
        push_varint(to, zigzag(entry.headers.len() as i64));
        for (name, value) in entry.headers {
            push_part(to, Some(name));
            push_part(to, *value);
        }
        self.count += 1;
    }

    /// Compresses the records, fills in the header and the checksum, and shows the batch.
    ///
    /// # Errors
    /// `Config`, where the records can't be compressed.
    pub fn seal(
        &mut self,
        compression: Compression,
        identity: Identity,
        sequence: i32,
        transactional: bool,
    ) -> Result<&[u8]> {
        if compression != Compression::None {
            self.packed.clear();
            self.packed.resize(HEADER_BYTES, 0);
            pack(compression, &self.bytes[HEADER_BYTES..], &mut self.packed)?;
        }
        let attributes = compression as i16 | if transactional { 0x10 } else { 0 };
        let to = if compression == Compression::None { &mut self.bytes } else { &mut self.packed };
        let len = to.len();
        let mut put = |at: usize, bytes: &[u8]| to[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &0i64.to_be_bytes());
        put(8, &(len as i32 - 12).to_be_bytes());
        put(12, &(-1i32).to_be_bytes());
        put(16, &[2]);
        put(21, &attributes.to_be_bytes());
        put(23, &(self.count - 1).to_be_bytes());
        put(27, &self.base_timestamp.to_be_bytes());
        put(35, &self.max_timestamp.to_be_bytes());
        put(43, &identity.id.to_be_bytes());
        put(51, &identity.epoch.to_be_bytes());
        put(53, &sequence.to_be_bytes());
        put(57, &self.count.to_be_bytes());
        let crc = checksum(&to[CHECKED_FROM..]);
        to[17..21].copy_from_slice(&crc.to_be_bytes());
        Ok(to)
    }

    /// What `seal` showed last.
    pub fn sealed(&self, compression: Compression) -> &[u8] {
        if compression == Compression::None { &self.bytes } else { &self.packed }
    }
}

/// Small numbers that are written together.
struct Head {
    bytes: [u8; 48],
    len: usize,
}

impl Head {
    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes[self.len] = value as u8 | 0x80;
            self.len += 1;
            value >>= 7;
        }
        self.bytes[self.len] = value as u8;
        self.len += 1;
    }

    /// What was written, once.
    #[inline]
    fn take(&mut self) -> &[u8] {
        &self.bytes[..std::mem::take(&mut self.len)]
    }
}

#[inline]
fn part_len(part: Option<&[u8]>) -> usize {
    part.map_or(1, |part| varint_len(zigzag(part.len() as i64)) + part.len())
}

/// Appends a part behind its length; −1 for none.
#[inline]
pub(super) fn push_part(to: &mut Vec<u8>, part: Option<&[u8]>) {
    match part {
        None => to.push(1),
        Some(part) => {
            push_varint(to, zigzag(part.len() as i64));
            to.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_takes_no_more_than_it_said() {
        let long = vec![b'x'; 70_000];
        let headers: &[HeaderEntry<'_>] = &[(b"name", Some(&long)), (b"", None)];
        for (key, value) in [(None, None), (Some(&long[..]), Some(&b""[..])), (Some(&b"k"[..]), Some(&long[..]))] {
            let mut builder = Builder::default();
            let entry = Entry { key, value, timestamp: i64::MAX, headers };
            builder.push(&Entry { key: None, value: None, timestamp: i64::MIN / 2, headers: &[] });
            let before = builder.len();
            builder.push(&entry);
            assert!(builder.len() - before <= entry.bytes_max());
        }
    }
}
