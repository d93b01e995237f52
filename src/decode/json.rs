//! JSON: one object a line, validated in full (RFC 8259), keys in any order.
//!
//! This file is the strict parser, which says what a row is. [`super::layout`] predicts the bytes
//! between the values from the row before and calls the same value parser; where a prediction fails,
//! the row is parsed here from its start. The value of a row never depends on which of them read it.
//!
//! Rules: unknown keys are validated and ignored; of a repeated key the last value counts (but each
//! must be of the field's type); null is missing; a row ends at a line's end, always.

use super::keys::Keys;
use super::layout::Layout;
use super::number;
use super::row::{Cells, Kind, Target, malformed, misfit};
use super::{Event, Events, line_end, without_cr};
use crate::batch::{Reject, Stage};
use crate::schema::Schema;

/// Longest row that is read apart, and the bytes before it there.
const APART_BYTES_MAX: usize = 64 << 10;
const APART_BEFORE: usize = 16;

/// Why a value was not taken: where, and why; `misfit` where it is well-formed, and where it ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Flaw {
    /// The row is not JSON, or breaks a limit.
    Broken(Reject),
    /// The value is JSON, but not of the field's type.
    Misfit {
        /// One past the value.
        end: usize,
    },
}

impl From<Reject> for Flaw {
    fn from(reject: Reject) -> Flaw {
        Flaw::Broken(reject)
    }
}

fn broken<T>(reason: &'static str, at: usize) -> Result<T, Flaw> {
    Err(Flaw::Broken(malformed(reason, at)))
}

/// What the value parser keeps between rows: memory only.
#[derive(Debug)]
pub(super) struct Values {
    nesting_max: usize,
    /// Closing brackets that are awaited.
    stack: Vec<u8>,
    /// A string without its escapes.
    unescaped: Vec<u8>,
}

/// Where one value of a row stood; the layout is learned from these.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub start: usize,
    pub end: usize,
    pub target: Target,
}

/// The reader of JSON lines.
#[derive(Debug)]
pub(super) struct Json {
    keys: Keys,
    values: Values,
    key: Vec<u8>,
    layout: Layout,
    marks: Vec<Mark>,
    /// A row from the end of a block, with room around it.
    apart: Vec<u8>,
}

impl Json {
    pub(super) fn new(schema: &Schema, nesting_max: usize) -> Json {
        Json {
            keys: Keys::new(schema),
            values: Values { nesting_max, stack: Vec::new(), unescaped: Vec::new() },
            key: Vec::new(),
            layout: Layout::default(),
            marks: Vec::new(),
            apart: Vec::new(),
        }
    }

    /// The bytes at hand are others from now on.
    pub(super) fn forget_bytes(&mut self) {
        self.layout.forget_bytes();
    }

    /// Reads the row at `at` if it is laid out as expected, in a place of its own: what reads rows at once looks beyond
    /// their ends. Returns where its line ends.
    #[cold]
    #[inline(never)]
    fn row_apart(&mut self, bytes: &[u8], at: usize, end: usize, cells: &mut Cells<'_>) -> Option<(usize, bool)> {
        let line = line_end(bytes, at, end);
        if line - at > APART_BYTES_MAX {
            return None;
        }
        self.apart.clear();
        self.apart.resize(APART_BEFORE, b'\n');
        self.apart.extend_from_slice(&bytes[at..line]);
        let row_end = self.apart.len();
        self.apart.resize(row_end + self.layout.margin(), b'\n');
        self.layout.forget_bytes();
        let read = self.layout.row(&self.apart, APART_BEFORE, row_end, &mut self.values, cells);
        self.layout.forget_bytes();
        read.filter(|read| read.0 == row_end).map(|read| (line, read.1))
    }

    /// Parses one row. `learning`: note where the values stand.
    fn strict(&mut self, row: &[u8], learning: bool, cells: &mut Cells<'_>) -> Result<(), Reject> {
        self.marks.clear();
        if let Err(e) = std::str::from_utf8(row) {
            return Err(malformed("not UTF-8", e.valid_up_to()));
        }
        match self.object(row, learning, cells) {
            Ok(None) => Ok(()),
            Ok(Some(reject)) | Err(Flaw::Broken(reject)) => Err(reject),
            Err(Flaw::Misfit { end }) => Err(malformed("not a JSON object", end)),
        }
    }

    /// The object that a row is. Returns the first misfit, once the whole row proved well-formed.
    fn object(&mut self, row: &[u8], learning: bool, cells: &mut Cells<'_>) -> Result<Option<Reject>, Flaw> {
        let mut at = skip_space(row, 0);
        if row.get(at) != Some(&b'{') {
            return broken("not a JSON object", at);
        }
        if self.values.nesting_max == 0 {
            return Err(too_deep(at).into());
        }
        let mut first_misfit = None;
        at = skip_space(row, at + 1);
        if row.get(at) == Some(&b'}') {
            at += 1;
        } else {
            loop {
                if row.get(at) != Some(&b'"') {
                    return broken("a key is expected", at);
                }
                let key_start = at + 1;
                let (key_end, escaped) = string_end(row, at)?;
                let target = if escaped {
                    unescape(&row[key_start..key_end - 1], key_start, &mut self.key)?;
                    self.keys.find(&self.key, 0, self.key.len())
                } else {
                    self.keys.find(row, key_start, key_end - 1)
                };
                at = skip_space(row, key_end);
                if row.get(at) != Some(&b':') {
                    return broken("a colon is expected after the key", at);
                }
                let start = skip_space(row, at + 1);
                at = match self.values.value(row, start, target, cells) {
                    Ok(end) => end,
                    Err(Flaw::Misfit { end }) => {
                        first_misfit.get_or_insert(misfit(target.kind.mismatch(), target.field, start));
                        end
                    }
                    Err(broken) => return Err(broken),
                };
                if learning {
                    self.marks.push(Mark { start, end: at, target });
                }
                at = skip_space(row, at);
                match row.get(at) {
                    Some(b',') => at = skip_space(row, at + 1),
                    Some(b'}') => break,
                    _ => return broken("a comma or the object's end is expected", at),
                }
            }
            at += 1;
        }
        at = skip_space(row, at);
        if at != row.len() {
            return broken("bytes after the object", at);
        }
        Ok(first_misfit)
    }
}

impl Events for Json {
    #[inline(always)]
    fn skip_blank(&self, bytes: &[u8], mut at: usize, end: usize) -> usize {
        // Whatever is above a space begins an event (or a bad one).
        while at < end && bytes[at] <= b' ' {
            let line = line_end(bytes, at, end);
            if !bytes[at..line].iter().all(|b| matches!(b, b' ' | b'\t' | b'\r')) {
                return at;
            }
            at = (line + 1).min(end);
        }
        at
    }

    #[inline(always)]
    fn event(&mut self, bytes: &[u8], at: usize, end: usize, cells: &mut Cells<'_>) -> Event {
        let line = if self.layout.is_near_the_end(bytes, at) {
            self.row_apart(bytes, at, end, cells)
        } else {
            self.layout.row(bytes, at, end, &mut self.values, cells)
        };
        if let Some((line, complete)) = line {
            let raw_end = without_cr(bytes, at, line);
            return Event { line_end: line, raw_end, sequence: 0, complete, outcome: Ok(()) };
        }
        cells.reset();
        let line = line_end(bytes, at, end);
        let raw_end = without_cr(bytes, at, line);
        let row = &bytes[at..raw_end];
        let learning = self.layout.wants_a_row();
        let outcome = self.strict(row, learning, cells);
        if learning && outcome.is_ok() {
            self.layout.learn(row, &self.marks);
        }
        Event { line_end: line, raw_end, sequence: 0, complete: false, outcome }
    }
}

fn too_deep(at: usize) -> Reject {
    Reject { stage: Stage::Limit, reason: "nested deeper than nesting_max", field: None, byte: at as u32 }
}

/// Past the blanks of JSON that may stand inside a line.
#[inline(always)]
fn skip_space(row: &[u8], mut at: usize) -> usize {
    while matches!(row.get(at), Some(b' ' | b'\t' | b'\r')) {
        at += 1;
    }
    at
}

/// One past the string whose opening quote is at `at`, and whether it holds escapes: they are stepped
/// over, not checked.
#[inline(always)]
fn string_end(row: &[u8], at: usize) -> Result<(usize, bool), Flaw> {
    let (mut at, mut escaped) = (at + 1, false);
    loop {
        at = plain_text_end(row, at);
        match row.get(at) {
            Some(b'"') => return Ok((at + 1, escaped)),
            Some(b'\\') => {
                escaped = true;
                at += 2;
            }
            Some(_) => return broken("a control character inside a string", at),
            None => return broken("a string is not closed", row.len()),
        }
    }
}

/// The next quote, backslash or control character from `at` on (or the end of the bytes).
#[inline(always)]
fn plain_text_end(row: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    // Exact for the lowest marked byte: a borrow only ever runs upwards.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    while let Some(chunk) = row.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = zero(word ^ (ONES * b'"' as u64));
        let slash = zero(word ^ (ONES * b'\\' as u64));
        let control = word.wrapping_sub(ONES * 0x20) & !word & TOPS;
        let stops = quote | slash | control;
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while let Some(&byte) = row.get(at) {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            return at;
        }
        at += 1;
    }
    at.min(row.len())
}

/// Checks the escapes of a string's inside (which began at byte `at` of the row) and resolves them.
fn unescape(text: &[u8], at: usize, out: &mut Vec<u8>) -> Result<(), Flaw> {
    out.clear();
    let mut i = 0;
    while let Some(slash) = memchr::memchr(b'\\', &text[i..]) {
        out.extend_from_slice(&text[i..i + slash]);
        i += slash;
        let simple = match text.get(i + 1) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(&c @ (b'"' | b'\\' | b'/')) => c,
            Some(b'u') => {
                let (c, length) = unicode_escape(&text[i..]).ok_or(malformed("a bad \\u escape", at + i))?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                i += length;
                continue;
            }
            _ => return broken("a bad escape", at + i),
        };
        out.push(simple);
        i += 2;
    }
    out.extend_from_slice(&text[i..]);
    Ok(())
}

/// The character of `\uXXXX`, or of a surrogate pair of them, at the start of `text`, and its length.
fn unicode_escape(text: &[u8]) -> Option<(char, usize)> {
    let unit = |at: usize| -> Option<u32> {
        let [b'\\', b'u', digits @ ..] = text.get(at..at + 6)? else { return None };
        digits.iter().try_fold(0, |n, &d| Some(n << 4 | char::from(d).to_digit(16)?))
    };
    let first = unit(0)?;
    if !(0xD800..0xDC00).contains(&first) {
        return Some((char::from_u32(first)?, 6));
    }
    let second = unit(6).filter(|u| (0xDC00..0xE000).contains(u))?;
    Some((char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00))?, 12))
}

impl Values {
    /// Any value at `row[at..]` into its target. Returns its end.
    pub(super) fn value(
        &mut self,
        row: &[u8],
        at: usize,
        target: Target,
        cells: &mut Cells<'_>,
    ) -> Result<usize, Flaw> {
        let (end, taken) = match row.get(at) {
            Some(b'-' | b'0'..=b'9') => {
                if matches!(target.kind, Kind::Float | Kind::Skip)
                    && let Some((value, end)) = number::plain(row, at)
                    && matches!(row.get(end), Some(b',' | b'}'))
                {
                    (end, cells.number(target, number::Number { value, end, beyond_exact: false }, b""))
                } else {
                    let number = match number::json(row, at) {
                        Ok(number) => number,
                        Err(at) => return broken("a bad number", at),
                    };
                    (number.end, cells.number(target, number, &row[at..number.end]))
                }
            }
            Some(b'"') => return self.string(row, at, target, cells),
            Some(b't') => (literal(row, at, b"true")?, cells.boolean(target, true)),
            Some(b'f') => (literal(row, at, b"false")?, cells.boolean(target, false)),
            Some(b'n') => {
                let end = literal(row, at, b"null")?;
                cells.null(target);
                (end, Ok(()))
            }
            Some(b'{' | b'[') => {
                let end = self.skip_nested(row, at, cells)?;
                return if target.kind == Kind::Skip { Ok(end) } else { Err(Flaw::Misfit { end }) };
            }
            _ => return broken("a value is expected", at.min(row.len())),
        };
        taken.map_err(|_| Flaw::Misfit { end })?;
        Ok(end)
    }

    fn string(&mut self, row: &[u8], at: usize, target: Target, cells: &mut Cells<'_>) -> Result<usize, Flaw> {
        let (end, escaped) = string_end(row, at)?;
        let inside = &row[at + 1..end - 1];
        let taken = if escaped {
            unescape(inside, at + 1, &mut self.unescaped)?;
            cells.string(target, &self.unescaped)
        } else {
            cells.string(target, inside)
        };
        taken.map_err(|_| Flaw::Misfit { end })?;
        Ok(end)
    }

    /// Validates an object or array; it stands inside the row's object, at depth 2. No recursion.
    fn skip_nested(&mut self, row: &[u8], start: usize, cells: &mut Cells<'_>) -> Result<usize, Flaw> {
        let mut stack = std::mem::take(&mut self.stack);
        stack.clear();
        let outcome = self.nested(row, start, &mut stack, cells);
        self.stack = stack;
        outcome
    }

    fn nested(&mut self, row: &[u8], mut at: usize, stack: &mut Vec<u8>, cells: &mut Cells<'_>) -> Result<usize, Flaw> {
        loop {
            // A value is expected here.
            match row.get(at) {
                Some(&open @ (b'{' | b'[')) => {
                    if stack.len() + 2 > self.nesting_max {
                        return Err(too_deep(at).into());
                    }
                    let close = if open == b'{' { b'}' } else { b']' };
                    at = skip_space(row, at + 1);
                    if row.get(at) != Some(&close) {
                        stack.push(close);
                        at = if close == b'}' { self.member(row, at)? } else { at };
                        continue;
                    }
                    at += 1;
                }
                _ => at = self.value(row, at, Target::SKIP, cells)?,
            }
            // A value has ended: close what ends with it.
            loop {
                let Some(&close) = stack.last() else { return Ok(at) };
                at = skip_space(row, at);
                match row.get(at) {
                    Some(b',') => {
                        at = skip_space(row, at + 1);
                        at = if close == b'}' { self.member(row, at)? } else { at };
                        break;
                    }
                    Some(&byte) if byte == close => {
                        at += 1;
                        stack.pop();
                    }
                    _ => return broken("a comma or a closing bracket is expected", at.min(row.len())),
                }
            }
        }
    }

    /// Past a member's key and colon, to its value.
    fn member(&mut self, row: &[u8], at: usize) -> Result<usize, Flaw> {
        if row.get(at) != Some(&b'"') {
            return broken("a key is expected", at.min(row.len()));
        }
        let (end, escaped) = string_end(row, at)?;
        if escaped {
            unescape(&row[at + 1..end - 1], at + 1, &mut self.unescaped)?;
        }
        let colon = skip_space(row, end);
        if row.get(colon) != Some(&b':') {
            return broken("a colon is expected after the key", colon.min(row.len()));
        }
        Ok(skip_space(row, colon + 1))
    }
}

#[inline(always)]
fn literal(row: &[u8], at: usize, word: &[u8]) -> Result<usize, Flaw> {
    if row[at..].starts_with(word) { Ok(at + word.len()) } else { broken("a value is expected", at) }
}
