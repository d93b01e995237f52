//! `interact`: what two fields say together, for named pairs. The fields themselves stay.
//!
//! Option `pairs` (required): `[["a", "b"], …]`.
//! - number × number: their product, appended as a column `a*b`;
//! - category × category: one hashed feature of value 1;
//! - number × category: one hashed feature of the category, whose value is the number; none where the
//!   number is missing.
//!
//! Hashed features need `bits` (the same as in a `hash` step of the pipeline) and take `seed` and
//! `signed` as there. Hashed bytes: `a*b`, zero, a's value, zero, b's value; a number has no value bytes.

use super::columns::tame;
use super::hash::Hasher;
use super::spec::{Spec, set_slots};
use super::{Built, DenseKind, Layout, Row, Step, TokenColumn};
use crate::batch::{Token, TokenKind};
use crate::error::{Fault, Result};
use serde_json::{Map, Value};
use std::cell::Cell;

#[derive(Debug, Clone, Copy)]
enum Side {
    Number(usize),
    Category(usize),
}

struct Hashed {
    sides: [Side; 2],
    /// The pair's name and a zero byte.
    prefix: Vec<u8>,
}

struct Interact {
    products: Vec<(usize, usize)>,
    hashed: Vec<Hashed>,
    hasher: Hasher,
    /// Where name and values are put together; what is in it means nothing between calls.
    buffer: Cell<Vec<u8>>,
}

/// Builds the step from its spec.
pub(super) fn build(spec: &Map<String, Value>, layout: &Layout) -> Built {
    let spec = Spec::new(spec, layout, &["pairs", "bits", "seed", "signed"])?;
    let (bits, seed, signed) = Hasher::from_spec(&spec)?;
    let mut after = layout.clone();
    let (mut products, mut hashed) = (Vec::new(), Vec::<Hashed>::new());
    for (a, b) in spec.pairs("pairs")? {
        let name = format!("{a}*{b}");
        match [side(&spec, layout, a)?, side(&spec, layout, b)?] {
            [Side::Number(i), Side::Number(j)] => {
                after.dense.push((name, DenseKind::Number));
                products.push((i, j));
            }
            sides => {
                let prefix = [name.as_bytes(), b"\0"].concat();
                if hashed.iter().any(|h| h.prefix == prefix) {
                    return Err(Fault::misuse(format!("pairs: {name} is named twice")));
                }
                hashed.push(Hashed { sides, prefix });
            }
        }
    }
    let bits = match (bits, hashed.is_empty()) {
        (Some(bits), false) => {
            set_slots(&mut after, bits)?;
            bits
        }
        (None, false) => {
            return Err(Fault::misuse("bits: missing").hint("a pair with a category is hashed: bits = 18, say"));
        }
        (None, true) if !spec.has("seed") && !spec.has("signed") => 1,
        _ => return Err(Fault::misuse("bits, seed, signed: no pair is hashed").hint("they go with categories")),
    };
    let hasher = Hasher { bits, seed, signed };
    Ok((Box::new(Interact { products, hashed, hasher, buffer: Cell::new(Vec::with_capacity(256)) }), after))
}

fn side(spec: &Spec, layout: &Layout, name: &str) -> Result<Side> {
    if let Some(i) = layout.dense_index(name) {
        return Ok(Side::Number(i));
    }
    let i = layout.token_index(name).ok_or_else(|| spec.no_field("pairs", name))?;
    match layout.tokens[i].1 {
        TokenColumn::Category => Ok(Side::Category(i)),
        TokenColumn::Text => Err(Fault::misuse(format!("pairs: {name:?} is a text"))
            .hint("numbers and categories interact; a text can be hashed")),
    }
}

fn append(buffer: &mut Vec<u8>, token: Token, text: &[u8]) {
    if token.kind != TokenKind::Missing {
        buffer.extend_from_slice(token.span.of(text));
    }
}

impl Step for Interact {
    fn learns(&self) -> bool {
        false
    }
    fn transform(&self, row: &mut Row, text: &[u8]) {
        for (i, j) in &self.products {
            row.dense.push(tame(row.dense[*i] * row.dense[*j]));
        }
        let mut buffer = self.buffer.take();
        for pair in &self.hashed {
            buffer.clear();
            buffer.extend_from_slice(&pair.prefix);
            let mut value = 1.0;
            for (at, side) in pair.sides.iter().enumerate() {
                if at == 1 {
                    buffer.push(0);
                }
                match side {
                    Side::Number(i) => value = row.dense[*i],
                    Side::Category(i) => append(&mut buffer, row.tokens[*i], text),
                }
            }
            if !value.is_nan() {
                self.hasher.push(row, &buffer, value);
            }
        }
        self.buffer.set(buffer);
    }
}
