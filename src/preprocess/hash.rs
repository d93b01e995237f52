//! `hash`: categories, words and numbers become slots of one fixed-size table, whatever their count.
//!
//! K. Weinberger et al.: Feature hashing for large scale multitask learning, ICML 2009. A feature's hash
//! is XXH3 (64 bits, with `seed`) of the field's name, a zero byte and the value's bytes; its low `bits`
//! are the slot, its top bit the sign.
//!
//! - A category is one feature of value 1; a missing one is a class of its own (no value bytes).
//! - A text is a bag of words: each run of letters and digits (Unicode), in lower case, is a feature of
//!   value 1 as often as it occurs; words behind the first `words_max` are ignored. A missing text has none.
//! - A number is a feature of its own value, without value bytes; a missing one is left out.
//!
//! Options: `fields` (default: all categories and texts), `bits` 1…24 (18), `seed` (0), `signed` (true),
//! `lowercase` (true), `words_max` (4,096). The fields are gone behind the step.

use super::columns::Keep;
use super::spec::{Chosen, Spec, set_slots};
use super::{Built, Layout, Row, Step, TokenColumn};
use crate::batch::{Span, Token, TokenKind};
use crate::error::Fault;
use serde_json::{Map, Value};
use std::cell::Cell;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What turns bytes into a slot and a sign.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hasher {
    pub bits: u32,
    pub seed: u64,
    pub signed: bool,
}

impl Hasher {
    /// The hashing options of a spec, `bits` without its default.
    pub fn from_spec(spec: &Spec) -> crate::error::Result<(Option<u32>, u64, bool)> {
        let bits = spec.whole("bits", 1..=24)?.map(|bits| bits as u32);
        Ok((bits, spec.whole("seed", 0..=u64::MAX)?.unwrap_or(0), spec.flag("signed", true)?))
    }

    /// Adds a feature to the row.
    pub fn push(&self, row: &mut Row, bytes: &[u8], value: f64) {
        let (slot, value) = self.feature(bytes, value);
        row.indices.push(slot);
        row.values.push(value);
    }

    /// A feature's slot, and its value with the sign.
    #[inline]
    fn feature(&self, bytes: &[u8], value: f64) -> (u32, f64) {
        let hash = xxh3_64_with_seed(bytes, self.seed);
        let sign = if self.signed { hash & (1 << 63) } else { 0 };
        (hash as u32 & ((1 << self.bits) - 1), f64::from_bits(value.to_bits() ^ sign))
    }
}

struct Field {
    index: usize,
    /// The field's name and a zero byte.
    prefix: Vec<u8>,
    /// Its first bytes, and zeros.
    short: u128,
}

/// Bytes that are put together in a register, not in the buffer.
const SHORT: usize = 16;

impl Field {
    /// Name and value, which are fewer than [`SHORT`] bytes, at the front of as many as a register holds. `None` where the arena ends too soon behind the value, so that it can't be read whole.
    #[inline]
    fn short_feature(&self, value: Span, text: &[u8]) -> Option<[u8; SHORT]> {
        let bytes = text.get(value.start as usize..)?.first_chunk()?;
        let value = u128::from_le_bytes(*bytes) & ((1 << (8 * value.len())) - 1);
        Some((self.short | value << (8 * self.prefix.len())).to_le_bytes())
    }
}

struct Hash {
    hasher: Hasher,
    lowercase: bool,
    words_max: usize,
    numbers: Vec<Field>,
    categories: Vec<Field>,
    texts: Vec<Field>,
    keep_dense: Keep,
    keep_tokens: Keep,
    /// Where name and value are put together; what is in it means nothing between calls.
    buffer: Cell<Vec<u8>>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let spec = Spec::new(spec, layout, &["fields", "bits", "seed", "signed", "lowercase", "words_max"])?;
    let (bits, seed, signed) = Hasher::from_spec(&spec)?;
    let hasher = Hasher { bits: bits.unwrap_or(18), seed, signed };
    let lowercase = spec.flag("lowercase", true)?;
    let words_max = spec.whole("words_max", 1..=1_000_000)?.unwrap_or(4_096) as usize;
    let chosen = match spec.fields()? {
        Some(chosen) => chosen,
        None => Chosen { dense: Vec::new(), tokens: spec.not_empty((0..layout.tokens.len()).collect())? },
    };
    let mut after = layout.clone();
    set_slots(&mut after, hasher.bits)?;
    let keep_dense = Keep::all_but(layout.dense.len(), &chosen.dense);
    let keep_tokens = Keep::all_but(layout.tokens.len(), &chosen.tokens);
    after.dense = keep_dense.names(&layout.dense);
    after.tokens = keep_tokens.names(&layout.tokens);
    let of_type = |ty: TokenColumn| -> Vec<Field> {
        let of = chosen.tokens.iter().filter(|i| layout.tokens[**i].1 == ty);
        of.map(|i| field(*i, &layout.tokens[*i].0)).collect()
    };
    let step = Hash {
        hasher,
        lowercase,
        words_max,
        numbers: chosen.dense.iter().map(|i| field(*i, &layout.dense[*i].0)).collect(),
        categories: of_type(TokenColumn::Category),
        texts: of_type(TokenColumn::Text),
        keep_dense,
        keep_tokens,
        buffer: Cell::new(Vec::with_capacity(256)),
    };
    if step.texts.is_empty() && (spec.has("words_max") || spec.has("lowercase")) {
        return Err(Fault::misuse("lowercase, words_max: no text is hashed")
            .hint("they are about texts; categories are hashed as they are"));
    }
    Ok((Box::new(step), after))
}

fn field(index: usize, name: &str) -> Field {
    let mut prefix = name.as_bytes().to_vec();
    prefix.push(0);
    let mut short = [0; SHORT];
    let front = prefix.len().min(SHORT);
    short[..front].copy_from_slice(&prefix[..front]);
    Field { index, short: u128::from_le_bytes(short), prefix }
}

impl Hash {
    /// Adds the words of a text. Bytes that aren't UTF-8 separate words.
    fn words(&self, row: &mut Row, token: Token, text: &[u8], buffer: &mut Vec<u8>) {
        let prefix = buffer.len();
        let mut words = 0;
        for chunk in token.span.of(text).utf8_chunks() {
            for word in chunk.valid().split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
                if words == self.words_max {
                    return;
                }
                words += 1;
                buffer.truncate(prefix);
                append_word(buffer, word, self.lowercase);
                self.hasher.push(row, buffer, 1.0);
            }
        }
    }
}

fn append_word(buffer: &mut Vec<u8>, word: &str, lowercase: bool) {
    let start = buffer.len();
    if !lowercase || word.is_ascii() {
        buffer.extend_from_slice(word.as_bytes());
        if lowercase {
            buffer[start..].make_ascii_lowercase();
        }
        return;
    }
    for c in word.chars().flat_map(char::to_lowercase) {
        buffer.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

impl Step for Hash {
    fn learns(&self) -> bool {
        false
    }
    fn transform(&self, row: &mut Row, text: &[u8]) {
        let mut buffer = self.buffer.take();
        for field in &self.numbers {
            let value = row.dense[field.index];
            if !value.is_nan() {
                self.hasher.push(row, &field.prefix, value);
            }
        }
        let first = row.indices.len();
        row.indices.resize(first + self.categories.len(), 0);
        row.values.resize(first + self.categories.len(), 0.0);
        let out = row.indices[first..].iter_mut().zip(&mut row.values[first..]);
        for (field, (slot, value)) in self.categories.iter().zip(out) {
            let token = row.tokens[field.index];
            // A missing one has no bytes.
            let span = if token.kind == TokenKind::Missing { Span::default() } else { token.span };
            let len = field.prefix.len() + span.len();
            (*slot, *value) = match if len < SHORT { field.short_feature(span, text) } else { None } {
                Some(bytes) => self.hasher.feature(&bytes[..len], 1.0),
                _ => {
                    buffer.clear();
                    buffer.extend_from_slice(&field.prefix);
                    buffer.extend_from_slice(span.of(text));
                    self.hasher.feature(&buffer, 1.0)
                }
            };
        }
        for field in &self.texts {
            let token = row.tokens[field.index];
            if token.kind != TokenKind::Missing {
                buffer.clear();
                buffer.extend_from_slice(&field.prefix);
                self.words(row, token, text, &mut buffer);
            }
        }
        self.buffer.set(buffer);
        self.keep_dense.apply(&mut row.dense);
        self.keep_tokens.apply(&mut row.tokens);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DenseKind, build};
    use super::*;

    #[test]
    fn slots_and_signs_are_those_of_the_formula() {
        let layout = Layout {
            dense: vec![("n".into(), DenseKind::Number)],
            tokens: vec![("c".into(), TokenColumn::Category), ("t".into(), TokenColumn::Text)],
            slots: 0,
        };
        let spec = serde_json::json!({"kind": "hash", "fields": ["n", "c", "t"], "bits": 10, "seed": 7});
        let (step, after) = build(spec.as_object().expect("table"), &layout).expect("step");
        assert_eq!((after.slots, after.dense.len(), after.tokens.len()), (1024, 0, 0));
        let text = "blueDo re, \u{c9}T\u{c9} do".as_bytes();
        let token = |start, end| Token { span: Span::new(start, end), kind: TokenKind::Text };
        let mut row = Row { dense: vec![2.5], tokens: vec![token(0, 4), token(4, text.len())], ..Row::default() };
        step.transform(&mut row, text);
        let features =
            [("n\0", 2.5), ("c\0blue", 1.0), ("t\0do", 1.0), ("t\0re", 1.0), ("t\0\u{e9}t\u{e9}", 1.0), ("t\0do", 1.0)];
        let hashes = features.map(|(f, v)| (xxh3_64_with_seed(f.as_bytes(), 7), v));
        assert_eq!(row.indices, hashes.map(|(h, _)| (h % 1024) as u32));
        assert_eq!(row.values, hashes.map(|(h, v)| if h >> 63 == 1 { -v } else { v }));
    }
}
