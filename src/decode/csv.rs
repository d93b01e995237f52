//! CSV: one event a line, cells parted by commas, quoting as in RFC 4180.
//!
//! A quote opens a cell only as its first byte; elsewhere it is a character like others. What follows
//! a closing quote must be a comma or the line's end. A quoted cell may hold commas, line ends and
//! doubled quotes. Numbers and booleans may have blanks around them; texts are taken as they stand. An
//! empty cell is missing. Columns that the schema doesn't know are ignored.

use super::lanes::Lanes;
use super::number;
use super::row::{Cells, Kind, Target, malformed, misfit};
use super::{Event, Events, without_cr};
use crate::batch::{Reject, Stage};
use crate::error::{Fault, Result};
use crate::schema::{Role, Schema};
use std::collections::HashMap;
use std::sync::Arc;

/// What the columns of an input mean; or why none of its rows can be read.
type Columns = std::result::Result<Vec<Target>, Reject>;

/// The reader of CSV lines.
#[derive(Debug)]
pub(super) struct Csv {
    /// Names and targets of the schema's fields; required where it is a feature.
    fields: Vec<(String, Target, bool)>,
    /// The columns of inputs without a header of their own.
    preset: Arc<Columns>,
    by_input: HashMap<u32, Arc<Columns>>,
    /// Those of the record at hand.
    current: Arc<Columns>,
    /// The last header seen, so that a thousand equal ones are kept once.
    last_header: (Vec<u8>, Arc<Columns>),
    unquoted: Vec<u8>,
    /// A quicker way to rows of `expected`.
    lanes: Lanes,
    expected: Option<Arc<Columns>>,
}

const NO_HEADER: Reject = Reject {
    stage: Stage::Decode,
    reason: "no header is known for this input (set source.columns)",
    field: None,
    byte: 0,
};

impl Csv {
    pub(super) fn new(schema: &Schema, columns: Option<&[String]>) -> Result<Csv> {
        let fields: Vec<_> = schema
            .fields
            .iter()
            .zip(Target::all(schema))
            .map(|(field, target)| (field.name.clone(), target, field.role == Role::Feature))
            .collect();
        let preset = match columns {
            None => Err(NO_HEADER),
            Some([]) => return Err(Fault::misuse("source.columns is empty").hint("name the columns of the rows")),
            Some(names) => {
                let names: Vec<&[u8]> = names.iter().map(|n| n.as_bytes()).collect();
                let targets = targets(&fields, &names).map_err(|reject| {
                    let field = reject.field.map_or("", |f| &fields[f as usize].0);
                    Fault::misuse(format!("source.columns: {}: {field:?}", reject.reason))
                        .hint("name every column of the rows, in their order; each feature of the schema once")
                })?;
                Ok(targets)
            }
        };
        let preset = Arc::new(preset);
        Ok(Csv {
            fields,
            current: preset.clone(),
            last_header: (Vec::new(), preset.clone()),
            preset,
            by_input: HashMap::new(),
            unquoted: Vec::new(),
            lanes: Lanes::default(),
            expected: None,
        })
    }

    /// Takes the header line of an input.
    pub(super) fn header(&mut self, input: u32, line: &[u8]) {
        if line != self.last_header.0 || self.by_input.is_empty() {
            self.last_header = (line.to_vec(), Arc::new(self.columns(line)));
        }
        self.by_input.insert(input, self.last_header.1.clone());
    }

    /// Turns to the columns of an input.
    pub(super) fn select(&mut self, input: u32) {
        self.current = self.by_input.get(&input).unwrap_or(&self.preset).clone();
        if self.expected.as_ref().is_some_and(|expected| Arc::ptr_eq(expected, &self.current)) {
            return;
        }
        self.expected = Some(self.current.clone());
        let columns = self.current.as_ref().as_ref().map_or(&[][..], Vec::as_slice);
        // Cells are expected to be numbers where their columns are.
        let values = columns.iter().enumerate().map(|(i, target)| (&b","[..usize::from(i > 0)], b'0', *target));
        self.lanes.expect(values, b'\n');
    }

    /// The bytes at hand are others from now on.
    pub(super) fn forget_bytes(&mut self) {
        self.lanes.forget();
    }

    pub(super) fn forget(&mut self, input: u32) {
        self.by_input.remove(&input);
    }

    fn columns(&mut self, line: &[u8]) -> Columns {
        let line = line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line);
        let end = without_cr(line, 0, line.len() - usize::from(line.ends_with(b"\n")));
        let (mut names, mut at) = (Vec::new(), 0);
        loop {
            let (cell, stop) = match cell(line, at, end, &mut self.unquoted) {
                Ok(cell) => cell,
                Err((_, byte)) => return Err(malformed("the input's header is not a CSV line", byte)),
            };
            names.push(cell.to_vec());
            if line.get(stop) != Some(&b',') || stop >= end {
                break;
            }
            at = stop + 1;
        }
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        targets(&self.fields, &names)
    }

    /// As [`Csv::plain_row`], where a `\n` ends the row; and whether every number is known to be there.
    #[inline(always)]
    fn row_in_lanes(
        lanes: &mut Lanes,
        columns: &[Target],
        bytes: &[u8],
        at: usize,
        end: usize,
        cells: &mut Cells<'_>,
    ) -> Option<(usize, bool)> {
        let row = lanes.row(bytes, at, cells, |step, at, cells| {
            let stop = plain_cell(bytes, at, &columns[step], cells)?;
            let at_end = step + 1 == columns.len() && bytes.get(stop) == Some(&b'\r');
            Some(stop + usize::from(at_end))
        })?;
        (row.last < end && bytes[row.last] == b'\n').then_some((row.last, row.complete))
    }

    /// Reads a row whose numbers are plain; `None` where anything is unusual. What it takes is what
    /// [`Csv::row`] takes.
    #[inline(always)]
    fn plain_row(columns: &[Target], bytes: &[u8], mut at: usize, end: usize, cells: &mut Cells<'_>) -> Option<usize> {
        let last = columns.len() - 1;
        for target in &columns[..last] {
            let stop = plain_cell(bytes, at, target, cells)?;
            if *bytes.get(stop)? != b',' {
                return None;
            }
            at = stop + 1;
        }
        let stop = plain_cell(bytes, at, &columns[last], cells)?;
        let line = stop + usize::from(stop < end && bytes[stop] == b'\r');
        (line <= end && (line == end || bytes[line] == b'\n')).then_some(line)
    }

    /// Reads any row. Returns its line's end.
    fn row(&mut self, bytes: &[u8], start: usize, end: usize, cells: &mut Cells<'_>) -> (usize, Option<Reject>) {
        let Csv { current, unquoted, .. } = self;
        let columns = match current.as_ref() {
            Ok(columns) => columns,
            Err(reject) => return (row_end(bytes, start, end), Some(*reject)),
        };
        let (mut at, mut flaw) = (start, None);
        for (i, target) in columns.iter().enumerate() {
            let (cell, stop) = match cell(bytes, at, end, unquoted) {
                Ok(cell) => cell,
                Err((reason, byte)) => return (row_end(bytes, start, end), Some(malformed(reason, byte - start))),
            };
            if !matches!(target.kind, Kind::Token | Kind::Literal) {
                if cells.csv(*target, cell).is_err() {
                    flaw.get_or_insert(misfit(target.kind.mismatch(), target.field, at - start));
                }
            } else if std::str::from_utf8(cell).is_err() {
                return (row_end(bytes, start, end), Some(malformed("not UTF-8", at - start)));
            } else {
                cells.raw_token(*target, cell);
            }
            let more = stop < end && bytes[stop] == b',';
            if more != (i + 1 < columns.len()) {
                let reason = if more { "more cells than columns" } else { "fewer cells than columns" };
                return (row_end(bytes, start, end), Some(malformed(reason, stop - start)));
            }
            at = stop + 1;
        }
        ((at - 1).min(end), flaw)
    }
}

impl Events for Csv {
    #[inline(always)]
    fn skip_blank(&self, bytes: &[u8], mut at: usize, end: usize) -> usize {
        while at < end {
            match bytes[at] {
                b'\n' => at += 1,
                b'\r' if at + 1 == end => at += 1,
                b'\r' if bytes[at + 1] == b'\n' => at += 2,
                _ => break,
            }
        }
        at
    }

    #[inline(always)]
    fn event(&mut self, bytes: &[u8], at: usize, end: usize, cells: &mut Cells<'_>) -> Event {
        if let Ok(columns) = self.current.as_ref()
            && let Some((line, complete)) = Csv::row_in_lanes(&mut self.lanes, columns, bytes, at, end, cells)
                .or_else(|| Csv::plain_row(columns, bytes, at, end, cells).map(|line| (line, false)))
        {
            let raw_end = without_cr(bytes, at, line);
            return Event { line_end: line, raw_end, sequence: 0, complete, outcome: Ok(()) };
        }
        cells.reset();
        let (line, reject) = self.row(bytes, at, end, cells);
        // The framing's own end of the line's bytes: a carriage return at it is no part of the row.
        let raw_end = without_cr(bytes, at, line);
        Event { line_end: line, raw_end, sequence: 0, complete: false, outcome: reject.map_or(Ok(()), Err) }
    }
}

/// The targets of named columns.
fn targets(fields: &[(String, Target, bool)], names: &[&[u8]]) -> Columns {
    let mut targets = Vec::with_capacity(names.len());
    for name in names {
        let target = fields.iter().find(|f| f.0.as_bytes() == *name).map_or(Target::SKIP, |f| f.1);
        if target.kind != Kind::Skip && targets.contains(&target) {
            return Err(misfit("a field is named by two columns", target.field, 0));
        }
        targets.push(target);
    }
    match fields.iter().find(|(_, target, required)| *required && !targets.contains(target)) {
        Some((_, target, _)) => Err(misfit("the input's columns lack a feature", target.field, 0)),
        None => Ok(targets),
    }
}

/// A plain number, a short ASCII text or nothing at `at`, into its cell. Returns where it stops; that
/// a comma or a line's end stands there is for the caller to see.
#[inline(always)]
fn plain_cell(bytes: &[u8], at: usize, target: &Target, cells: &mut Cells<'_>) -> Option<usize> {
    if target.kind == Kind::Float
        && let Some((value, stop)) = number::plain(bytes, at)
    {
        cells.numbers[target.slot as usize] = value;
        return Some(stop);
    }
    if target.kind == Kind::Bool
        && let Some(stop) = cells.truth(*target, bytes, at)
    {
        return Some(stop);
    }
    if *bytes.get(at)? == b'"' {
        return None;
    }
    let stop = cell_stop(bytes, at, bytes.len());
    let cell = &bytes[at..without_cr(bytes, at, stop)];
    if !cell.is_ascii() {
        return None;
    }
    cells.csv(*target, cell).ok()?;
    Some(at + cell.len())
}

/// The next comma or `\n` from `at` on, or `end`.
#[inline(always)]
fn cell_stop(bytes: &[u8], mut at: usize, end: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word & TOPS;
    while at + 8 <= end
        && let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>())
    {
        let word = u64::from_le_bytes(*chunk);
        let stops = zero(word ^ (ONES * b',' as u64)) | zero(word ^ (ONES * b'\n' as u64));
        if stops != 0 {
            return at + stops.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    while at < end && bytes[at] != b',' && bytes[at] != b'\n' {
        at += 1;
    }
    at
}

/// The cell at `at`, without its quotes, and where it stops (a comma, a `\n` or `end`; a carriage
/// return before the latter two is not part of it). The error is a reason and a byte of `bytes`.
fn cell<'a>(
    bytes: &'a [u8],
    at: usize,
    end: usize,
    unquoted: &'a mut Vec<u8>,
) -> std::result::Result<(&'a [u8], usize), (&'static str, usize)> {
    if at >= end || bytes[at] != b'"' {
        let stop = cell_stop(bytes, at, end);
        let cell_end = if stop < end && bytes[stop] == b',' { stop } else { without_cr(bytes, at, stop) };
        return Ok((&bytes[at..cell_end], stop));
    }
    unquoted.clear();
    let (mut from, opened) = (at + 1, at);
    loop {
        let Some(quote) = memchr::memchr(b'"', &bytes[from..end]).map(|i| from + i) else {
            return Err(("a quoted cell is not closed", opened));
        };
        unquoted.extend_from_slice(&bytes[from..quote]);
        if quote + 1 < end && bytes[quote + 1] == b'"' {
            unquoted.push(b'"');
            from = quote + 2;
            continue;
        }
        let mut stop = quote + 1;
        if stop < end && bytes[stop] == b'\r' && (stop + 1 == end || bytes[stop + 1] == b'\n') {
            stop += 1;
        }
        if stop < end && !matches!(bytes[stop], b',' | b'\n') {
            return Err(("bytes after a closing quote", stop));
        }
        return Ok((unquoted, stop));
    }
}

/// Where the line that begins at `start` ends: the first `\n` outside quotes (a quote opens only as a
/// cell's first byte), or `end`.
fn row_end(bytes: &[u8], start: usize, end: usize) -> usize {
    let mut at = start;
    while let Some(i) = memchr::memchr2(b'\n', b'"', &bytes[at..end]) {
        let found = at + i;
        at = found + 1;
        if bytes[found] == b'\n' {
            return found;
        }
        if found > start && bytes[found - 1] != b',' {
            continue;
        }
        loop {
            let Some(i) = memchr::memchr(b'"', &bytes[at..end]) else { return end };
            at += i + 1;
            if at >= end || bytes[at] != b'"' {
                break;
            }
            at += 1;
        }
    }
    end
}
