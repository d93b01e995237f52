//! Bytes to rows: JSON lines, CSV and binary frames.
//!
//! A row that cannot be decoded is flagged ([`RowStatus::Rejected`]), never fatal, and never touches
//! its neighbours. Decoding is a function of the bytes (and of the CSV header of their input): the
//! layout that the JSON reader remembers makes it faster and changes nothing else.

mod binary;
mod csv;
mod json;
mod keys;
mod lanes;
mod layout;
mod number;
mod row;

use crate::batch::{Batch, Block, Cursor, Record, RecordKind, Reject, RowOrigin, RowStatus, Span, Stage, TokenKind};
use crate::error::{Fault, Result};
use crate::schema::{Role, Schema, Slot};
use row::Cells;

/// How events are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// One CSV row a line.
    Csv,
    /// Length-prefixed frames (docs/protocol.md).
    Binary,
}

/// What a decoder needs to know beside the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodeOptions {
    /// How events are written.
    pub format: Format,
    /// Longest event (a line without its `\n`, a frame without its length).
    pub event_bytes_max: usize,
    /// Deepest JSON nesting; the event's own object is level 1.
    pub nesting_max: usize,
    /// The columns of CSV rows whose input has no header. Other formats ignore it.
    pub columns: Option<Vec<String>>,
}

/// What a reader made of one event.
struct Event {
    /// Where its line ends: the `\n`, or the record's end. For frames, one past the frame.
    line_end: usize,
    /// One past the row's own bytes (without `\r`).
    raw_end: usize,
    /// Client sequence number (frames).
    sequence: u64,
    /// Every number of the row is known to be there.
    complete: bool,
    outcome: std::result::Result<(), Reject>,
}

/// A reader of one format. `bytes[..end]` is the record; a reader takes nothing from beyond.
trait Events {
    /// Past lines that are no events.
    fn skip_blank(&self, bytes: &[u8], at: usize, end: usize) -> usize;
    /// Reads the event at `at < end`. On a rejection the cells may be half-written.
    fn event(&mut self, bytes: &[u8], at: usize, end: usize, cells: &mut Cells<'_>) -> Event;
}

#[derive(Debug)]
enum Reader {
    Json(Box<json::Json>),
    Csv(Box<csv::Csv>),
    Binary(binary::Binary),
}

/// Decodes the blocks of one lane into batches of one schema.
#[derive(Debug)]
pub struct Decoder {
    reader: Reader,
    rows: Rows,
}

/// What is the same for all formats.
#[derive(Debug)]
struct Rows {
    event_bytes_max: usize,
    /// 4 where the format's lengths leave out a prefix of that size.
    prefix_bytes: usize,
    feature_numbers: usize,
    /// Field of each feature among a row's numbers, then among its tokens.
    number_fields: Vec<u16>,
    token_fields: Vec<u16>,
    missing: Vec<u64>,
}

impl Decoder {
    /// A decoder of a schema's events.
    ///
    /// # Errors
    /// Misuse: a limit of zero; columns that lack a feature or name a field twice.
    pub fn new(schema: &Schema, options: &DecodeOptions) -> Result<Decoder> {
        for (limit, name) in [(options.event_bytes_max, "event_bytes_max"), (options.nesting_max, "nesting_max")] {
            if limit == 0 {
                return Err(Fault::misuse(format!("limits.{name} = 0: no event would fit")).hint("use at least 1"));
            }
        }
        let reader = match options.format {
            Format::Json => Reader::Json(Box::new(json::Json::new(schema, options.nesting_max))),
            Format::Csv => Reader::Csv(Box::new(csv::Csv::new(schema, options.columns.as_deref())?)),
            Format::Binary => Reader::Binary(binary::Binary::new(schema)),
        };
        let (mut number_fields, mut token_fields) = (Vec::new(), Vec::new());
        for (i, field) in schema.fields.iter().enumerate().filter(|(_, f)| f.role == Role::Feature) {
            match field.slot {
                Slot::Number(_) => number_fields.push(i as u16),
                Slot::Token(_) => token_fields.push(i as u16),
            }
        }
        let rows = Rows {
            event_bytes_max: options.event_bytes_max,
            prefix_bytes: if options.format == Format::Binary { 4 } else { 0 },
            feature_numbers: schema.feature_numbers,
            number_fields,
            token_fields,
            missing: vec![0; schema.fields.len()],
        };
        Ok(Decoder { reader, rows })
    }

    /// Decodes on from `cursor` until the batch (whose strides are the schema's) holds `events_max`
    /// rows or the block ends. Returns true if any row was added.
    pub fn fill(&mut self, block: &Block, cursor: &mut Cursor, batch: &mut Batch, events_max: usize) -> bool {
        match &mut self.reader {
            Reader::Json(json) => json.forget_bytes(),
            Reader::Csv(csv) => csv.forget_bytes(),
            Reader::Binary(_) => {}
        }
        fill(self, block, cursor, batch, events_max)
    }

    /// Missing values of each field of the schema since the start, counted for features, in rows that
    /// were not rejected.
    pub fn missing(&self) -> &[u64] {
        &self.rows.missing
    }

    /// Forgets the CSV header of an input that has ended.
    pub fn forget_input(&mut self, input: u32) {
        if let Reader::Csv(csv) = &mut self.reader {
            csv.forget(input);
        }
    }
}

crate::wide! {
    // Numbers are read by shifts of a varying width, which are cheaper there.
    fn fill(decoder: &mut Decoder, block: &Block, cursor: &mut Cursor, batch: &mut Batch, events_max: usize) -> bool {
        let before = batch.len();
        while let Some(record) = block.records.get(cursor.record) {
            if batch.len() >= events_max {
                break;
            }
            let done = match (record.kind, &mut decoder.reader) {
                (RecordKind::Header, reader) => {
                    if let Reader::Csv(csv) = reader {
                        csv.header(record.input, record.span.of(&block.bytes));
                    }
                    true
                }
                (RecordKind::Overlong, _) => {
                    push_overlong(record, cursor, batch);
                    true
                }
                (_, Reader::Json(json)) => decoder.rows.record(json.as_mut(), block, record, cursor, batch, events_max),
                (_, Reader::Csv(csv)) => {
                    csv.select(record.input);
                    decoder.rows.record(csv.as_mut(), block, record, cursor, batch, events_max)
                }
                (_, Reader::Binary(binary)) => decoder.rows.record(binary, block, record, cursor, batch, events_max),
            };
            if done {
                *cursor = Cursor { record: cursor.record + 1, byte: 0, row: 0 };
            }
        }
        batch.len() > before
    }
}

const OVERLONG: &str = "event longer than event_bytes_max";

fn push_overlong(record: &Record, cursor: &Cursor, batch: &mut Batch) {
    let row = batch.push_row(RowOrigin {
        raw: record.span,
        record: cursor.record as u32,
        input: record.input,
        offset: record.offset,
        row: None,
        sequence: 0,
    });
    let reject = Reject { stage: Stage::Limit, reason: OVERLONG, field: None, byte: record.span.len() as u32 };
    batch.status[row] = RowStatus::Rejected(reject);
}

impl Rows {
    /// Decodes on in a record; returns true once it holds no further event.
    #[inline(always)]
    fn record<E: Events>(
        &mut self,
        events: &mut E,
        block: &Block,
        record: &Record,
        cursor: &mut Cursor,
        batch: &mut Batch,
        events_max: usize,
    ) -> bool {
        let bytes = block.bytes.as_slice();
        let (start, end) = (record.span.start as usize, record.span.end as usize);
        let (input, message) = (record.input, record.kind == RecordKind::Message);
        let (record_index, mut number) = (cursor.record as u32, cursor.row);
        let mut at = events.skip_blank(bytes, start + cursor.byte, end);
        while at < end && batch.len() < events_max {
            batch.push_cells();
            let mut cells = Cells::last(batch);
            let event = events.event(bytes, at, end, &mut cells);
            let length = event.line_end - at - self.prefix_bytes.min(event.line_end - at);
            let mut outcome = event.outcome;
            if length > self.event_bytes_max {
                let byte = self.event_bytes_max as u32;
                outcome = Err(Reject { stage: Stage::Limit, reason: OVERLONG, field: None, byte });
            }
            match outcome {
                Ok(()) => {
                    self.count_missing(&cells, event.complete);
                    batch.status.push(RowStatus::Ok);
                }
                Err(reject) => {
                    cells.reset();
                    batch.status.push(RowStatus::Rejected(reject));
                }
            }
            let next = if self.prefix_bytes == 0 { event.line_end + 1 } else { event.line_end };
            let next = events.skip_blank(bytes, next.min(end), end);
            let alone = number == 0 && next >= end;
            batch.origins.push(RowOrigin {
                raw: Span::new(at, event.raw_end),
                record: record_index,
                input,
                offset: if message { record.offset } else { record.offset + u64::from(number) },
                row: (message && !alone).then_some(number),
                sequence: event.sequence,
            });
            number += 1;
            at = next;
        }
        cursor.row = number;
        cursor.byte = at - start;
        at >= end
    }

    #[inline(always)]
    fn count_missing(&mut self, cells: &Cells<'_>, complete: bool) {
        let numbers = &cells.numbers[..self.feature_numbers];
        if !complete && numbers.iter().fold(false, |any, n| any | n.is_nan()) {
            for (number, &field) in numbers.iter().zip(&self.number_fields) {
                self.missing[field as usize] += u64::from(number.is_nan());
            }
        }
        for (token, &field) in cells.tokens.iter().zip(&self.token_fields) {
            self.missing[field as usize] += u64::from(token.kind == TokenKind::Missing);
        }
    }
}

/// The next `\n` from `at` on, or `end`.
fn line_end(bytes: &[u8], at: usize, end: usize) -> usize {
    memchr::memchr(b'\n', &bytes[at..end]).map_or(end, |i| at + i)
}

/// `line` (a line's end), or one less where a carriage return stands before it.
#[inline(always)]
fn without_cr(bytes: &[u8], at: usize, line: usize) -> usize {
    if line > at && bytes[line - 1] == b'\r' { line - 1 } else { line }
}

#[cfg(test)]
mod tests;
