//! The layout of the last good JSON row, as a prediction of the next one.
//!
//! Producers write the same keys in the same order with the same spaces. So the bytes between the
//! values are remembered and compared in whole words; what remains are the values. A row that differs
//! anywhere is none of this file's business: it returns `None`, and the strict parser reads the row.

use super::json::{Mark, Values};
use super::lanes::Lanes;
use super::number;
use super::row::{Cells, Kind, Target};

/// Bytes compared at once.
const WORD: usize = 16;

/// Longest row that is learned: bounds the memory of a layout.
const ROW_BYTES_MAX: usize = 256 * 1024;

/// What stands before a value, and where the value goes.
#[derive(Debug, Clone, Copy)]
struct Step {
    /// The first bytes (at most [`WORD`]) and which of them count.
    head: u128,
    mask: u128,
    /// Bytes before the value.
    length: usize,
    /// The bytes beyond the first [`WORD`], in `Layout::bytes`.
    rest: (u32, u32),
    target: Target,
}

/// How far a layout is trusted. What lanes need is made only for one that has proved itself: where every row
/// differs, it would be made in vain again and again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// Learned.
    #[default]
    New,
    /// A row was as expected: the next is learned once more, for lanes.
    Proven,
    /// Lanes expect it.
    Full,
}

/// What is expected of a row; empty until a row was learned.
#[derive(Debug, Default)]
pub(super) struct Layout {
    steps: Vec<Step>,
    /// The bytes behind the last value.
    suffix: Vec<u8>,
    bytes: Vec<u8>,
    trust: Trust,
    /// A quicker way to the same.
    lanes: Lanes,
    /// Rows in succession that were not as expected.
    misses: u32,
    /// The length of the last row that was.
    row_bytes: usize,
}

impl Layout {
    /// True where the row at hand, if it is good, should be learned: soon after a change, and rarely
    /// where every row differs.
    pub(super) fn wants_a_row(&mut self) -> bool {
        if self.trust == Trust::Proven {
            return true;
        }
        self.misses = self.misses.wrapping_add(1);
        self.misses.is_power_of_two() || self.misses.is_multiple_of(64)
    }

    /// Remembers the layout of a good row, whose values stood at `marks`.
    pub(super) fn learn(&mut self, row: &[u8], marks: &[Mark]) {
        self.steps.clear();
        self.bytes.clear();
        self.lanes.expect_nothing();
        self.trust = if self.trust == Trust::Proven { Trust::Full } else { Trust::New };
        if row.len() > ROW_BYTES_MAX {
            return;
        }
        let mut at = 0;
        for mark in marks {
            let between = &row[at..mark.start];
            let (first, rest) = between.split_at(between.len().min(WORD));
            let mut head = [0; WORD];
            head[..first.len()].copy_from_slice(first);
            let mask = if first.len() == WORD { u128::MAX } else { (1 << (8 * first.len())) - 1 };
            let start = self.bytes.len() as u32;
            self.bytes.extend_from_slice(rest);
            self.steps.push(Step {
                head: u128::from_le_bytes(head),
                mask,
                length: between.len(),
                rest: (start, self.bytes.len() as u32),
                target: mark.target,
            });
            at = mark.end;
        }
        self.suffix.clear();
        self.suffix.extend_from_slice(&row[at..]);
        if self.trust == Trust::New {
            return;
        }
        let starts = std::iter::once(0).chain(marks.iter().map(|mark| mark.end));
        let plain = |mark: &Mark| !row[mark.start..mark.end].iter().any(|b| matches!(b, b',' | b'}'));
        if self.suffix.first() == Some(&b'}') && marks.iter().all(plain) {
            let values = marks.iter().zip(starts);
            let values = values.map(|(mark, start)| (&row[start..mark.start], row[mark.start], mark.target));
            self.lanes.expect(values, b'}');
        }
    }

    /// True where a row at `at` may end so near to the end of the bytes that it isn't read there.
    #[inline(always)]
    pub(super) fn is_near_the_end(&self, bytes: &[u8], at: usize) -> bool {
        bytes.len() - at < self.row_bytes + self.row_bytes / 4 + self.margin() && !self.steps.is_empty()
    }

    /// Bytes that must stand behind a row for it to be read.
    pub(super) fn margin(&self) -> usize {
        self.lanes.reach().max(number::WINDOW + WORD)
    }

    /// The bytes at hand are others from now on.
    pub(super) fn forget_bytes(&mut self) {
        self.lanes.forget();
    }

    /// Reads the row at `at` if it is laid out as expected, and returns where its line ends (the `\n`, or
    /// `end`, the record's), and whether every number is known to be there. `None` leaves the cells half-written.
    ///
    /// Looks beyond the record (never the slice), but takes nothing from there: a row that would reach
    /// over `end` is not taken.
    #[inline(always)]
    pub(super) fn row(
        &mut self,
        bytes: &[u8],
        mut at: usize,
        end: usize,
        values: &mut Values,
        cells: &mut Cells<'_>,
    ) -> Option<(usize, bool)> {
        if self.steps.is_empty() || self.trust == Trust::Proven {
            return None;
        }
        let steps = &self.steps;
        let start = at;
        if let Some(row) = self.lanes.row(bytes, at, cells, |step, at, cells| match steps[step].target {
            // What is left of the numbers is long.
            target if target.kind == Kind::Float => other_value(bytes, at, end, target, values, cells),
            target => any_value(bytes, at, end, target, values, cells),
        }) && let Some(line) = self.line_end(bytes, row.last, end)
        {
            (self.misses, self.row_bytes) = (0, line - start);
            return Some((line, row.complete));
        }
        for step in &self.steps {
            let head = u128::from_le_bytes(*bytes.get(at..)?.first_chunk::<WORD>()?);
            if (head ^ step.head) & step.mask != 0 {
                return None;
            }
            if step.length > WORD && !self.rest_matches(bytes, at + WORD, step) {
                return None;
            }
            at = any_value(bytes, at + step.length, end, step.target, values, cells)?;
        }
        let line = self.line_end(bytes, at, end)?;
        if self.trust == Trust::New {
            self.trust = Trust::Proven;
        }
        (self.misses, self.row_bytes) = (0, line - start);
        Some((line, false))
    }

    /// Where the line of a row ends whose last value ends at `at`.
    #[inline(always)]
    fn line_end(&self, bytes: &[u8], at: usize, end: usize) -> Option<usize> {
        // Nearly always a single brace.
        let (first, rest) = self.suffix.split_first()?;
        if bytes.get(at) != Some(first) || !(rest.is_empty() || bytes[at + 1..].starts_with(rest)) {
            return None;
        }
        let at = at + self.suffix.len();
        let after_cr = at + usize::from(at < end && bytes[at] == b'\r');
        if at > end || (after_cr != end && bytes[after_cr] != b'\n') {
            return None;
        }
        Some(after_cr)
    }

    fn rest_matches(&self, bytes: &[u8], at: usize, step: &Step) -> bool {
        let rest = &self.bytes[step.rest.0 as usize..step.rest.1 as usize];
        bytes.get(at..).is_some_and(|bytes| bytes.starts_with(rest))
    }
}

/// Any value. Whether a plain number or a truth ends where it should, what is compared next tells.
#[inline(always)]
fn any_value(
    bytes: &[u8],
    at: usize,
    end: usize,
    target: Target,
    values: &mut Values,
    cells: &mut Cells<'_>,
) -> Option<usize> {
    if target.kind == Kind::Float
        && let Some((value, end)) = number::plain(bytes, at)
    {
        cells.numbers[target.slot as usize] = value;
        return Some(end);
    }
    if target.kind == Kind::Bool
        && let Some(end) = cells.truth(target, bytes, at)
    {
        return Some(end);
    }
    other_value(bytes, at, end, target, values, cells)
}

/// Any value, by the strict parser's rules; it must lie inside the record, and be UTF-8.
#[inline]
fn other_value(
    bytes: &[u8],
    at: usize,
    end: usize,
    target: Target,
    values: &mut Values,
    cells: &mut Cells<'_>,
) -> Option<usize> {
    if target.kind == Kind::Float && matches!(bytes.get(at), Some(b'-' | b'0'..=b'9')) {
        let number = number::json(&bytes[..end], at).ok()?;
        cells.number(target, number, b"").ok()?;
        return Some(number.end);
    }
    let value_end = values.value(&bytes[..end], at, target, cells).ok()?;
    let value = bytes.get(at..value_end)?;
    if !value.is_ascii() && std::str::from_utf8(value).is_err() {
        return None;
    }
    Some(value_end)
}
