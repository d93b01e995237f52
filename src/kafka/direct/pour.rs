//! What a fetch brought, handed over as a whole in the memory in which it came: a message isn't copied on its way from
//! the socket to whoever reads it.
//!
//! ```no_run
//! use millstream::kafka::direct::{FetchSettings, Fetcher, Settings};
//! use std::time::Duration;
//!
//! let mut fetcher = Fetcher::open(Settings::new("localhost:9092"), FetchSettings::default()).unwrap();
//! fetcher.add("events", 0, 0);
//! let (mut bytes, mut values) = (Vec::new(), Vec::new());
//! let mut fetched = fetcher.next(Duration::from_secs(1)).unwrap().expect("something came");
//! let is_all = fetched.pour(&mut bytes, 1 << 20, |poured| values.extend(poured.record.value)).unwrap();
//! println!("{} values, {is_all}", values.iter().filter(|value| !value.of(&bytes).is_empty()).count());
//! fetcher.give_back(fetched);
//! ```

use super::batch::Record;
use super::error::Result;
use super::fetched::Fetched;

/// A message by the places of its parts in the bytes that it was poured into ([`Fetched::pour`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poured {
    /// The fetcher's number of its partition.
    pub slot: usize,
    /// Its offset, timestamp, key, value and headers.
    pub record: Record,
}

impl Fetched {
    /// Hands over all that is left, with its bytes, which come to lie in `into`; false where `into` had `bytes_max` bytes
    /// before all was handed over. `take` is told where each message lies.
    ///
    /// Nothing is copied where no batch is compressed and `into` is empty: the answer's own memory is exchanged for
    /// it, as a whole. Else batches are copied or unpacked right into it, each as a whole.
    ///
    /// # Errors
    /// As for `peek`. What was told before is in `into`.
    pub fn pour(&mut self, into: &mut Vec<u8>, bytes_max: usize, take: impl FnMut(Poured)) -> Result<bool> {
        if into.is_empty() && self.is_plain {
            let done = self.pour_whole(take);
            std::mem::swap(into, &mut self.bytes);
            self.bytes.clear();
            return done.map(|()| true);
        }
        self.pour_batches(into, bytes_max, take)
    }

    fn pour_whole(&mut self, mut take: impl FnMut(Poured)) -> Result<()> {
        let mut shown = self.record.take();
        loop {
            while let Some(record) = shown.take().map_or_else(|| self.records.next(&self.bytes), |r| Ok(Some(r)))? {
                self.tell(record, &mut take);
            }
            if !self.next_batch(None)? {
                return Ok(());
            }
        }
    }

    fn pour_batches(&mut self, into: &mut Vec<u8>, bytes_max: usize, mut take: impl FnMut(Poured)) -> Result<bool> {
        // Of a batch that was walked in part, the rest.
        if self.record.take().is_some() {
            self.records.back_to(self.record_at);
        }
        self.records.move_to(into, if self.is_unpacked { &self.unpacked } else { &self.bytes });
        loop {
            while let Some(record) = self.records.next(into)? {
                self.tell(record, &mut take);
            }
            if into.len() >= bytes_max {
                return Ok(false);
            }
            if !self.next_batch(Some(into))? {
                return Ok(true);
            }
        }
    }

    #[inline]
    fn tell(&self, record: Record, take: &mut impl FnMut(Poured)) {
        if let Some(part) = self.part.as_ref().filter(|part| record.offset >= part.from) {
            take(Poured { slot: part.slot, record });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::compress::Compression;
    use super::super::fetched::tests::{ONE, TWO, answer, batch, end};
    use super::super::txn_calls::Identity;
    use super::*;

    fn fetched(bytes: &[u8], from: i64) -> Fetched {
        Fetched::read(bytes.to_vec(), "t", 5, from, true).expect("an answer")
    }

    /// Offset and value of each message, one by one.
    fn walked(bytes: &[u8], from: i64) -> Vec<(i64, Vec<u8>)> {
        let (mut fetched, mut seen) = (fetched(bytes, from), Vec::new());
        while let Some(message) = fetched.peek().expect("a message") {
            seen.push((message.offset, message.value.expect("a value").to_vec()));
            fetched.advance();
        }
        seen
    }

    /// The same, poured into memory that holds `before` and a new one whenever there is `bytes_max`, after `first`
    /// messages were walked and one more was looked at.
    fn poured(bytes: &[u8], from: i64, before: &[u8], bytes_max: usize, first: usize) -> Vec<(i64, Vec<u8>)> {
        let (mut fetched, mut seen) = (fetched(bytes, from), Vec::new());
        for _ in 0..first {
            if let Some(message) = fetched.peek().expect("a message") {
                seen.push((message.offset, message.value.expect("a value").to_vec()));
                fetched.advance();
            }
        }
        fetched.peek().expect("a message");
        loop {
            let (mut into, mut told) = (before.to_vec(), Vec::new());
            let is_all = fetched.pour(&mut into, bytes_max, |poured| told.push(poured)).expect("poured");
            assert!(before.is_empty() || into.starts_with(before));
            seen.extend(told.iter().map(|poured| {
                assert_eq!(poured.slot, 0);
                (poured.record.offset, poured.record.value.expect("a value").of(&into).to_vec())
            }));
            if is_all {
                return seen;
            }
        }
    }

    fn log(compression: [Compression; 5]) -> Vec<u8> {
        let [a, b, c, d, e] = compression;
        let log = [
            batch(0, b"plain", Identity::NONE, a, false),
            batch(1, b"one, aborted", ONE, b, true),
            batch(2, &[b'x'; 400], TWO, c, true),
            end(3, ONE, false),
            batch(4, b"one again", ONE, d, true),
            end(5, TWO, true),
            end(6, ONE, true),
            batch(9, b"after a gap", Identity::NONE, e, false),
        ];
        answer(&log.concat(), &[(1, 1)], 10).bytes().to_vec()
    }

    #[test]
    fn what_is_poured_is_what_is_walked() {
        use Compression::{Gzip, Lz4, None, Snappy, Zstd};
        for compression in [[None; 5], [Lz4; 5], [None, Snappy, None, Zstd, Gzip], [Zstd, Lz4, Snappy, None, None]] {
            let bytes = log(compression);
            for from in [0, 1, 4, 7] {
                let walked = walked(&bytes, from);
                for (before, bytes_max, first) in [
                    (&b""[..], 1 << 20, 0),
                    (b"", 1, 0),
                    (b"before", 300, 0),
                    (b"", 1 << 20, 1),
                    (b"b", 2, 2),
                    (b"", 1, 9),
                ] {
                    let poured = poured(&bytes, from, before, bytes_max, first);
                    assert_eq!(poured, walked, "{compression:?} from {from}, {bytes_max} bytes, behind {first}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_copied_where_nothing_is_compressed() {
        let mut fetched = fetched(&log([Compression::None; 5]), 0);
        let (came, mut into) = (fetched.bytes.as_ptr(), Vec::with_capacity(7));
        let mut count = 0;
        assert!(fetched.pour(&mut into, 1, |_| count += 1).expect("poured"));
        assert_eq!((into.as_ptr(), count), (came, 4));
        assert!(fetched.bytes.is_empty(), "the memory that was given is taken for the next answer");
    }

    #[test]
    fn what_stands_before_damage_is_handed_over() {
        for compression in [Compression::None, Compression::Lz4] {
            let mut bytes = log([compression; 5]);
            let at =
                memchr::memmem::find(&bytes, b"after a gap").expect("it is short: it stays as it is, packed or not");
            bytes[at] ^= 1;
            let (mut fetched, mut into, mut told) = (fetched(&bytes, 0), Vec::new(), Vec::new());
            fetched.pour(&mut into, 1 << 20, |poured| told.push(poured.record)).expect_err("damaged");
            let values: Vec<&[u8]> = told.iter().map(|record| record.value.expect("a value").of(&into)).collect();
            assert_eq!(values, [&b"plain"[..], &[b'x'; 400], b"one again"], "{compression:?}");
        }
    }
}
