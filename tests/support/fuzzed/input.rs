//! The input of a target, taken apart: a few choices from its first bytes, then the bytes themselves.

/// Bytes that are taken one after another; zeros once they are used up.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// The whole input.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }
    /// True where nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }
    /// The next `u64`, little-endian.
    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
    /// A number below `n` (at most 256).
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }
    /// At most `n` bytes.
    pub fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(n.min(self.rest.len()));
        self.rest = rest;
        taken
    }
    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
    /// What stands before the first `separator` (or all), which is stepped over.
    pub fn until(&mut self, separator: u8) -> &'a [u8] {
        let end = self.rest.iter().position(|b| *b == separator).unwrap_or(self.rest.len());
        let taken = self.take(end);
        self.take(1);
        taken
    }
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (mut array, taken) = ([0; N], self.take(N));
        array[..taken.len()].copy_from_slice(taken);
        array
    }
}
