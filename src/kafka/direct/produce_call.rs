//! The produce call: its head and what stands between the batches is written, the batches are sent from where they
//! lie.
//!
//! ```
//! use millstream::kafka::direct::calls::Call;
//! use millstream::kafka::direct::produce_call::Produce;
//! use millstream::kafka::direct::wire::{Reader, Writer};
//!
//! let mut answer = Writer::default();
//! answer.compact_count(0); // no topics
//! answer.i32(20); // the broker wants to be left alone for so many ms
//! let call = Produce { transactional: None, timeout_ms: 30_000, joins: false };
//! assert_eq!(call.read(&mut Reader::new(answer.bytes())).unwrap(), (Vec::new(), 20));
//! ```

use super::calls::Call;
use super::error::Result;
use super::wire::{Reader, Writer};

/// Writes batches. The body ends before the topics: they are sent as parts of their own (`write_heads`).
pub struct Produce<'a> {
    /// The transactional id.
    pub transactional: Option<&'a str>,
    /// How long the leader may wait for its replicas.
    pub timeout_ms: i32,
    /// Partitions join the transaction by being written to (version 2 of its protocol).
    pub joins: bool,
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The protocol's code.
    pub code: i16,
    /// The broker's words, where it has some.
    pub words: Option<String>,
}

impl Call for Produce<'_> {
    /// What became of each batch, and for how many ms the broker wants to be left alone.
    type Answer = (Vec<Outcome>, i32);
    const KEY: i16 = 0;
    const NAME: &'static str = "produce";
    fn version(&self) -> i16 {
        if self.joins && self.transactional.is_some() { 12 } else { 9 }
    }
    fn write(&self, to: &mut Writer) {
        to.compact_nullable_string(self.transactional);
        to.i16(-1); // acknowledged by all
        to.i32(self.timeout_ms);
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<Self::Answer> {
        Produce::outcomes(from)
    }
}

impl Produce<'_> {
    /// Reads an answer; it is the same in all versions that are spoken.
    pub(super) fn outcomes(from: &mut Reader<'_>) -> Result<(Vec<Outcome>, i32)> {
        let mut outcomes = Vec::new();
        for _ in 0..from.compact_count()? {
            let topic = from.compact_string()?;
            for _ in 0..from.compact_count()? {
                let (partition, code) = (from.i32()?, from.i16()?);
                let (_offset, _appended, _low) = (from.i64()?, from.i64()?, from.i64()?);
                let _records = from.compact_array(|item| {
                    let _index = item.i32()?;
                    item.compact_nullable_string()?;
                    item.skip_tagged()
                })?;
                let words = from.compact_nullable_string()?.map(String::from);
                from.skip_tagged()?;
                outcomes.push(Outcome { topic: topic.to_string(), partition, code, words });
            }
            from.skip_tagged()?;
        }
        Ok((outcomes, from.i32()?))
    }
}

/// What goes before each batch, and what goes behind the last one. Batches of one topic stand together.
pub(super) fn write_heads(batches: &[(&str, i32, &[u8])]) -> (Vec<Vec<u8>>, Vec<u8>) {
    let topics: Vec<_> = batches.chunk_by(|a, b| a.0 == b.0).collect();
    let mut heads = Vec::with_capacity(batches.len());
    let mut to = Writer::default();
    to.compact_count(topics.len());
    for (number, of_topic) in topics.iter().enumerate() {
        if number > 0 {
            to.no_tagged(); // of the topic before
        }
        to.compact_string(of_topic[0].0);
        to.compact_count(of_topic.len());
        for (_, partition, batch) in *of_topic {
            to.i32(*partition);
            to.uvarint(batch.len() as u32 + 1);
            heads.push(to.bytes().to_vec());
            to.clear();
            to.no_tagged(); // of the partition
        }
    }
    // The last partition's, the last topic's, the body's.
    to.no_tagged();
    to.no_tagged();
    (heads, to.bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_batches_make_a_body() {
        let batches: [(&str, i32, &[u8]); 3] = [("a", 0, b"xx"), ("a", 1, b"y"), ("b", 7, b"zzz")];
        let (heads, tail) = write_heads(&batches);
        let mut body = Vec::new();
        for (head, (_, _, batch)) in heads.iter().zip(&batches) {
            body.extend_from_slice(head);
            body.extend_from_slice(batch);
        }
        body.extend_from_slice(&tail);
        let (mut from, mut seen) = (Reader::new(&body), Vec::new());
        for _ in 0..from.compact_count().unwrap() {
            let topic = from.compact_string().unwrap();
            for _ in 0..from.compact_count().unwrap() {
                let partition = from.i32().unwrap();
                seen.push((topic, partition, from.compact_nullable_bytes().unwrap().unwrap()));
                from.skip_tagged().unwrap();
            }
            from.skip_tagged().unwrap();
        }
        from.skip_tagged().unwrap();
        assert_eq!((seen.as_slice(), from.left()), (&batches[..], 0));
    }

    #[test]
    fn no_cut_or_flip_of_an_answer_panics() {
        let mut to = Writer::default();
        to.compact_count(1);
        to.compact_string("t");
        to.compact_count(1);
        to.i32(4);
        to.i16(45);
        to.i64(1);
        to.i64(-1);
        to.i64(0);
        to.compact_count(0);
        to.compact_nullable_string(Some("words"));
        to.no_tagged();
        to.no_tagged();
        to.i32(20);
        to.no_tagged();
        let whole = Produce::outcomes(&mut Reader::new(to.bytes())).unwrap();
        let outcome = Outcome { topic: "t".into(), partition: 4, code: 45, words: Some("words".into()) };
        assert_eq!(whole, (vec![outcome], 20));
        for at in 0..to.len() {
            let _ = Produce::outcomes(&mut Reader::new(&to.bytes()[..at]));
            for bit in 0..8 {
                let mut changed = to.bytes().to_vec();
                changed[at] ^= 1 << bit;
                let _ = Produce::outcomes(&mut Reader::new(&changed));
            }
        }
    }
}
