//! The protocol's primitives: numbers, varints, strings, arrays and tagged fields, read from a slice and written
//! to a vector.
//!
//! A reader never goes past its bytes and never trusts a length: a count is only believed where as many elements
//! can still follow, so that nothing is allocated for a number that somebody made up.
//!
//! ```
//! use millstream::kafka::direct::wire::{Reader, Writer};
//!
//! let mut writer = Writer::default();
//! writer.compact_string("events");
//! writer.varint(-3);
//! let mut reader = Reader::new(writer.bytes());
//! assert_eq!(reader.compact_string().unwrap(), "events");
//! assert_eq!(reader.varint().unwrap(), -3);
//! assert!(reader.i32().is_err(), "nothing is left");
//! ```

use super::error::{Error, Result};

/// Reads primitives from a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

#[cold]
fn cut() -> Error {
    Error::Damaged("an answer ends too early".into())
}

#[cold]
fn impossible(what: &str) -> Error {
    Error::Damaged(format!("an answer holds {what} that can't be"))
}

macro_rules! numbers {
    ($($name:ident)*) => {
        $(
            /// The next number, big-endian.
            ///
            /// # Errors
            /// `Damaged`, where the bytes end.
            #[inline]
            pub fn $name(&mut self) -> Result<$name> {
                let (head, _) = self.bytes[self.at..].split_first_chunk().ok_or_else(cut)?;
                self.at += head.len();
                Ok($name::from_be_bytes(*head))
            }
        )*
    };
}

impl<'a> Reader<'a> {
    /// A reader of all the bytes.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    /// A reader that starts at a place in the bytes.
    pub fn starting_at(bytes: &'a [u8], at: usize) -> Reader<'a> {
        Reader { bytes, at: at.min(bytes.len()) }
    }

    numbers!(i8 i16 i32 i64 u8 u16 u32);

    /// Where it stands, counted from the first byte.
    #[inline]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    #[inline]
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next bytes.
    ///
    /// # Errors
    /// `Damaged`, where there are fewer.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let head = rest.get(..len).ok_or_else(cut)?;
        self.at += len;
        Ok(head)
    }

    /// A byte that means yes or no.
    ///
    /// # Errors
    /// `Damaged`, where the bytes end.
    pub fn bool(&mut self) -> Result<bool> {
        Ok(self.u8()? != 0)
    }

    /// An unsigned varint of at most 32 bits.
    ///
    /// # Errors
    /// `Damaged`: the bytes end, or it is longer than it may be.
    #[inline]
    pub fn uvarint(&mut self) -> Result<u32> {
        // Lengths in records nearly always have one byte or two.
        match *self.bytes.get(self.at..).unwrap_or_default() {
            [first @ ..0x80, ..] => {
                self.at += 1;
                Ok(u32::from(first))
            }
            [first, second @ ..0x80, ..] => {
                self.at += 2;
                Ok(u32::from(first & 0x7f) | u32::from(second) << 7)
            }
            _ => self.long_uvarint(),
        }
    }

    #[cold]
    fn long_uvarint(&mut self) -> Result<u32> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(impossible("a number"))
    }

    /// A signed (zigzag) varint of at most 32 bits.
    ///
    /// # Errors
    /// As for `uvarint`.
    #[inline]
    pub fn varint(&mut self) -> Result<i32> {
        let raw = self.uvarint()?;
        Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
    }

    /// A signed (zigzag) varint of at most 64 bits.
    ///
    /// # Errors
    /// As for `uvarint`.
    #[inline]
    pub fn varlong(&mut self) -> Result<i64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(impossible("a number"))
    }

    fn text(&mut self, len: usize) -> Result<&'a str> {
        std::str::from_utf8(self.take(len)?).map_err(|_| impossible("a string"))
    }

    /// A string with a length of two bytes.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn string(&mut self) -> Result<&'a str> {
        let len = usize::try_from(self.i16()?).map_err(|_| impossible("a string"))?;
        self.text(len)
    }

    /// A string with a varint length; none where it is null.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn compact_nullable_string(&mut self) -> Result<Option<&'a str>> {
        match self.uvarint()? {
            0 => Ok(None),
            len => self.text(len as usize - 1).map(Some),
        }
    }

    /// A string with a varint length.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn compact_string(&mut self) -> Result<&'a str> {
        self.compact_nullable_string()?.ok_or_else(|| impossible("a string"))
    }

    /// Bytes with a varint length; none where they are null.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn compact_nullable_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        match self.uvarint()? {
            0 => Ok(None),
            len => self.take(len as usize - 1).map(Some),
        }
    }

    fn believed(&self, count: usize) -> Result<usize> {
        // Every element takes a byte at least.
        if count > self.left() { Err(impossible("a count")) } else { Ok(count) }
    }

    /// The number of an array's elements, four bytes long; a null array has none.
    ///
    /// # Errors
    /// `Damaged`, also where so many elements can't follow.
    pub fn count(&mut self) -> Result<usize> {
        let count = self.i32()?;
        self.believed(usize::try_from(count).unwrap_or(0))
    }

    /// The number of an array's elements as a varint; a null array has none.
    ///
    /// # Errors
    /// As for `count`.
    pub fn compact_count(&mut self) -> Result<usize> {
        let count = self.uvarint()?;
        self.believed(count.saturating_sub(1) as usize)
    }

    /// An array of which each element is read by `read`.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn compact_array<T>(&mut self, mut read: impl FnMut(&mut Reader<'a>) -> Result<T>) -> Result<Vec<T>> {
        // Grown as elements are read: an element in memory may be much wider than the byte it takes at least.
        (0..self.compact_count()?).map(|_| read(self)).collect()
    }

    /// Shows the tagged fields at the end of a structure: tag and content.
    ///
    /// # Errors
    /// `Damaged`, and those of `see`.
    pub fn tagged(&mut self, mut see: impl FnMut(u32, &mut Reader<'a>) -> Result<()>) -> Result<()> {
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let len = self.uvarint()?;
            see(tag, &mut Reader::new(self.take(len as usize)?))?;
        }
        Ok(())
    }

    /// Goes past the tagged fields at the end of a structure.
    ///
    /// # Errors
    /// `Damaged`.
    #[inline]
    pub fn skip_tagged(&mut self) -> Result<()> {
        self.tagged(|_, _| Ok(()))
    }
}

/// Writes primitives to a vector.
#[derive(Debug, Default, Clone)]
pub struct Writer {
    bytes: Vec<u8>,
}

macro_rules! write_numbers {
    ($($name:ident)*) => {
        $(
            /// Writes a number, big-endian.
            pub fn $name(&mut self, value: $name) {
                self.bytes.extend_from_slice(&value.to_be_bytes());
            }
        )*
    };
}

impl Writer {
    write_numbers!(i8 i16 i32 i64 u8 u32);

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Forgets what was written, keeps the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }

    /// Length of what was written, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True where nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Overwrites four bytes that were written before.
    ///
    /// # Panics
    /// Where there are none at `at`.
    pub fn set_i32(&mut self, at: usize, value: i32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes a yes or no.
    pub fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }

    /// Writes an unsigned varint.
    pub fn uvarint(&mut self, value: u32) {
        push_varint(&mut self.bytes, u64::from(value));
    }

    /// Writes a signed (zigzag) varint.
    pub fn varint(&mut self, value: i32) {
        push_varint(&mut self.bytes, zigzag(i64::from(value)));
    }

    /// Writes a string with a length of two bytes. A longer one than that can say is cut.
    pub fn string(&mut self, text: &str) {
        let text = &text.as_bytes()[..text.len().min(i16::MAX as usize)];
        self.i16(text.len() as i16);
        self.raw(text);
    }

    /// Writes a string with a varint length.
    pub fn compact_string(&mut self, text: &str) {
        self.compact_bytes(text.as_bytes());
    }

    /// Writes a string with a varint length, or null.
    pub fn compact_nullable_string(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.compact_string(text),
            None => self.uvarint(0),
        }
    }

    /// Writes bytes with a varint length.
    pub fn compact_bytes(&mut self, bytes: &[u8]) {
        self.uvarint(bytes.len() as u32 + 1);
        self.raw(bytes);
    }

    /// Writes the number of an array's elements.
    pub fn compact_count(&mut self, count: usize) {
        self.uvarint(count as u32 + 1);
    }

    /// Writes an array.
    pub fn compact_array<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Writer, &T)) {
        self.compact_count(items.len());
        items.iter().for_each(|item| write(self, item));
    }

    /// Writes that there are no tagged fields.
    pub fn no_tagged(&mut self) {
        self.bytes.push(0);
    }
}

/// A signed number as the unsigned one that small values keep small.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Appends an unsigned varint.
#[inline]
pub fn push_varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// Length of an unsigned varint, in bytes.
#[inline]
pub fn varint_len(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_read_back_and_have_the_length_they_say() {
        let edges = [0, 1, -1, 63, 64, -64, -65, 8191, 8192, i32::MAX, i32::MIN];
        for value in edges {
            let mut writer = Writer::default();
            writer.varint(value);
            assert_eq!(writer.len(), varint_len(zigzag(value.into())), "{value}");
            assert_eq!(Reader::new(writer.bytes()).varint().unwrap(), value);
            assert_eq!(Reader::new(writer.bytes()).varlong().unwrap(), i64::from(value));
        }
        for value in [i64::MAX, i64::MIN, 1 << 40, -(1 << 62)] {
            let mut bytes = Vec::new();
            push_varint(&mut bytes, zigzag(value));
            assert_eq!(bytes.len(), varint_len(zigzag(value)));
            assert_eq!(Reader::new(&bytes).varlong().unwrap(), value);
        }
    }

    #[test]
    fn a_varint_that_is_too_long_is_refused() {
        assert!(Reader::new(&[0xff; 11]).varlong().is_err());
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).uvarint().is_err());
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).uvarint().unwrap(), u32::MAX);
        let mut ten = [0xff; 10];
        ten[9] = 2;
        assert!(Reader::new(&ten).varlong().is_err());
    }

    #[test]
    fn a_count_that_cannot_be_is_not_believed() {
        let mut writer = Writer::default();
        writer.i32(i32::MAX);
        assert!(Reader::new(writer.bytes()).count().is_err());
        writer.clear();
        writer.uvarint(u32::MAX);
        assert!(Reader::new(writer.bytes()).compact_count().is_err());
        assert!(Reader::new(writer.bytes()).compact_nullable_bytes().is_err());
    }

    #[test]
    fn tagged_fields_are_shown_and_gone_past() {
        let bytes = [2, 0, 1, 7, 9, 0, 42];
        let (mut reader, mut seen) = (Reader::new(&bytes), Vec::new());
        reader
            .tagged(|tag, content| {
                seen.push((tag, content.left()));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [(0, 1), (9, 0)]);
        assert_eq!(reader.u8().unwrap(), 42);
    }
}
