//! The headers of a message as one run of bytes: what a Kafka source writes into a block, and what a
//! Kafka sink reads back for a dead letter.
//!
//! One header after another: the name's length (u32, little-endian), the name, the value's length (i32,
//! little-endian; −1 where there is none), the value. Order and repetitions are kept as they came.

/// Adds a header to a run.
pub fn push(run: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    run.extend_from_slice(&(name.len() as u32).to_le_bytes());
    run.extend_from_slice(name);
    match value {
        Some(value) => {
            run.extend_from_slice(&(value.len() as i32).to_le_bytes());
            run.extend_from_slice(value);
        }
        None => run.extend_from_slice(&(-1i32).to_le_bytes()),
    }
}

/// The headers of a run, in order. It ends early where the bytes are cut off.
pub fn iter(run: &[u8]) -> Headers<'_> {
    Headers { rest: run }
}

/// An iterator over the headers of a run: name and value.
#[derive(Debug, Clone)]
pub struct Headers<'a> {
    rest: &'a [u8],
}

impl<'a> Headers<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn take_u32(&mut self) -> Option<u32> {
        self.take(4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes)
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let name_len = self.take_u32()?;
        let name = self.take(name_len as usize)?;
        let value_len = self.take_u32()? as i32;
        if value_len < 0 {
            return Some((name, None));
        }
        Some((name, Some(self.take(value_len as usize)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_back_as_it_was_written() {
        let mut run = Vec::new();
        push(&mut run, b"trace", Some(b"1"));
        push(&mut run, b"none", None);
        push(&mut run, b"trace", Some(b""));
        let read: Vec<_> = iter(&run).collect();
        assert_eq!(read, vec![(&b"trace"[..], Some(&b"1"[..])), (b"none", None), (b"trace", Some(b""))]);
    }

    #[test]
    fn a_run_that_is_cut_off_ends_early() {
        let mut run = Vec::new();
        push(&mut run, b"a", Some(b"1"));
        let whole = run.len();
        push(&mut run, b"b", Some(b"22"));
        for cut in whole..run.len() {
            assert_eq!(iter(&run[..cut]).count(), 1, "cut at {cut}");
        }
    }
}
