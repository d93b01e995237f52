//! Scores to bytes: one JSON line an event, and what becomes of the events that were turned away.
//!
//! `{"input":…,"offset":…,("row":…,)"seq":…,("lane":…,)("id":…,)("key":…,)…,"version":…,"swap":…}`,
//! with `score` and `class` or `scores` by the task. Numbers are the shortest text that reads back to
//! the same f64; what is not finite is null. One record goes out for each record that came in, however
//! many batches it was cut into.

mod text;

pub use text::dead_letter_json;

use crate::batch::{
    Batch, Block, DeadLetter, OutRecord, Outbox, Reject, RowOrigin, RowStatus, Scores, Span, Task, TokenKind,
};
use crate::schema::{Role, Schema, Slot};
use std::sync::Arc;

/// What an encoder needs to know beside the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeOptions {
    /// The lane's number, printed in each prediction; `None` where there is only one lane.
    pub lane: Option<u32>,
    /// An answering socket: a rejected event gets an error line in its place.
    pub answer_rejects: bool,
    /// A newline after each line; without it, lines of one record are joined by newlines (Kafka).
    pub newline: bool,
}

/// Writes the predictions of one lane.
#[derive(Debug)]
pub struct Encoder {
    options: EncodeOptions,
    /// Names of the schema's fields, for errors.
    fields: Vec<String>,
    id: Option<Echo>,
    key: Option<Echo>,
    /// Source record (index in its block) that the outbox's last record answers.
    open_record: Option<u32>,
    pieces: Pieces,
}

/// What is equal in many lines, written once.
#[derive(Debug, Default)]
struct Pieces {
    /// Input that `head` was written for.
    head_input: Option<u32>,
    /// `{"input":"…","offset":`
    head: Vec<u8>,
    /// The line's beginning up to the lane, of the next row.
    opening: Opening,
    /// `,"version":"…","swap":N}`, with the newline where there is one.
    tail: Vec<u8>,
    /// `,"class":false` and `,"class":true`, each with the tail.
    verdicts: [Vec<u8>; 2],
    /// `,"lane":N` or nothing.
    lane: Vec<u8>,
    /// The names of the classes as JSON strings, one after another; and where each ends.
    classes: Vec<u8>,
    class_ends: Vec<usize>,
}

/// Where a field that is echoed stands in a row.
#[derive(Debug, Clone, Copy)]
struct Echo(usize);

impl Echo {
    fn of(schema: &Schema, role: Role) -> Option<Echo> {
        match schema.role(role)?.slot {
            Slot::Token(slot) => Some(Echo(slot)),
            Slot::Number(_) => None,
        }
    }
}

impl Encoder {
    /// An encoder of the predictions for a schema's events.
    pub fn new(schema: &Schema, options: &EncodeOptions) -> Encoder {
        let mut pieces = Pieces::default();
        if let Some(lane) = options.lane {
            pieces.lane.extend_from_slice(b",\"lane\":");
            text::integer(&mut pieces.lane, u64::from(lane));
        }
        Encoder {
            options: *options,
            fields: schema.fields.iter().map(|f| f.name.clone()).collect(),
            id: Echo::of(schema, Role::Id),
            key: Echo::of(schema, Role::Key),
            open_record: None,
            pieces,
        }
    }

    /// Appends the predictions of a batch that was decoded from `block` and scored; rejected rows
    /// become dead letters. `seq` is the lane's number of the batch's first row; `inputs` names every
    /// input of the block. The batches of a block go, in order, to one outbox; a cleared (or new)
    /// outbox begins the next block.
    pub fn encode(
        &mut self,
        block: &Block,
        batch: &Batch,
        scores: &Scores,
        inputs: &[Arc<str>],
        seq: u64,
        outbox: &mut Outbox,
    ) {
        if outbox.records.is_empty() {
            self.open_record = None;
        }
        outbox.read_at_ns = block.read_at_ns;
        self.pieces.begin(scores, self.options.newline);
        let mut predictions = 0;
        for (row, (origin, status)) in batch.origins.iter().zip(&batch.status).enumerate() {
            let seq = seq + row as u64;
            match status {
                RowStatus::Ok => {
                    self.open(block, origin, outbox);
                    self.prediction(batch, scores, inputs, row, seq, &mut outbox.bytes);
                    predictions += 1;
                }
                RowStatus::Rejected(reject) => {
                    outbox.dead.push(self.dead_letter(block, origin, reject));
                    if !self.options.answer_rejects {
                        continue;
                    }
                    self.open(block, origin, outbox);
                    self.error_line(reject, origin, inputs, seq, &mut outbox.bytes);
                    if self.options.newline {
                        outbox.bytes.push(b'\n');
                    }
                }
            }
            if let Some(record) = outbox.records.last_mut() {
                record.span.end = outbox.bytes.len() as u32;
                record.rows += 1;
            }
        }
        outbox.predictions += predictions;
    }

    /// Makes the outbox's last record the one that answers the row's record.
    #[inline(always)]
    fn open(&mut self, block: &Block, origin: &RowOrigin, outbox: &mut Outbox) {
        if self.open_record == Some(origin.record) {
            if !self.options.newline {
                outbox.bytes.push(b'\n');
            }
            return;
        }
        self.open_record = Some(origin.record);
        let key = block.records[origin.record as usize].key.map(|key| {
            let start = outbox.keys.len();
            outbox.keys.extend_from_slice(key.of(&block.bytes));
            Span::new(start, outbox.keys.len())
        });
        let at = outbox.bytes.len();
        outbox.records.push(OutRecord { span: Span::new(at, at), input: origin.input, key, rows: 0 });
    }

    fn prediction(
        &mut self,
        batch: &Batch,
        scores: &Scores,
        inputs: &[Arc<str>],
        row: usize,
        seq: u64,
        out: &mut Vec<u8>,
    ) {
        let origin = &batch.origins[row];
        if self.pieces.head_input != Some(origin.input) {
            self.pieces.turn_to(origin.input, inputs);
        }
        if !self.pieces.opening.is_of(origin, seq) {
            self.write_opening(origin, seq);
        }
        out.extend_from_slice(&self.pieces.opening.text);
        self.pieces.opening.count_on();
        if let Some(Echo(slot)) = self.id {
            out.extend_from_slice(b",\"id\":");
            echo(batch, row, slot, out);
        }
        if let Some(Echo(slot)) = self.key {
            out.extend_from_slice(b",\"key\":");
            echo(batch, row, slot, out);
        }
        self.pieces.score(scores.task, scores.row(row), out);
    }

    /// A line's beginning, for a row that doesn't follow on the one before.
    fn write_opening(&mut self, origin: &RowOrigin, seq: u64) {
        let mut opening = std::mem::take(&mut self.pieces.opening);
        let out = &mut opening.text;
        out.clear();
        out.extend_from_slice(&self.pieces.head);
        text::integer(out, origin.offset);
        opening.offset_end = out.len();
        if let Some(row) = origin.row {
            out.extend_from_slice(b",\"row\":");
            text::integer(out, u64::from(row));
        }
        opening.seq_end = self.numbers(origin, seq, out);
        opening.counts = origin.row.is_none() && origin.sequence == 0;
        (opening.offset, opening.seq) = (origin.offset, seq);
        self.pieces.opening = opening;
    }

    /// `,"seq":…`, the client's own number where it gave one, and the lane. Returns where the first ends.
    fn numbers(&self, origin: &RowOrigin, seq: u64, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(b",\"seq\":");
        text::integer(out, seq);
        let end = out.len();
        if origin.sequence != 0 {
            out.extend_from_slice(b",\"sequence\":");
            text::integer(out, origin.sequence);
        }
        out.extend_from_slice(&self.pieces.lane);
        end
    }

    /// `{"error":{…},"seq":…}`: the answer to an event that was turned away.
    fn error_line(&self, reject: &Reject, origin: &RowOrigin, inputs: &[Arc<str>], seq: u64, out: &mut Vec<u8>) {
        let place = text::Place {
            input: name(inputs, origin.input),
            offset: origin.offset,
            row: origin.row,
            field: self.field(reject),
        };
        text::error(out, reject, &place);
        self.numbers(origin, seq, out);
        out.push(b'}');
    }

    fn field(&self, reject: &Reject) -> Option<&str> {
        self.fields.get(usize::from(reject.field?)).map(String::as_str)
    }

    fn dead_letter(&self, block: &Block, origin: &RowOrigin, reject: &Reject) -> DeadLetter {
        let record = &block.records[origin.record as usize];
        DeadLetter {
            raw: origin.raw.of(&block.bytes).to_vec(),
            reject: *reject,
            field: self.field(reject).map(str::to_owned),
            input: origin.input,
            offset: origin.offset,
            row: origin.row,
            key: record.key.map(|key| key.of(&block.bytes).to_vec()),
            headers: record.headers.map(|headers| headers.of(&block.bytes).to_vec()),
        }
    }
}

/// A line up to the lane: `{"input":"…","offset":N(,"row":N),"seq":N(,"sequence":N)(,"lane":N)`. That of the next row
/// mostly differs by one in two numbers, so they are counted on: at once, since bytes that were just written are
/// read more slowly.
#[derive(Debug, Default)]
struct Opening {
    text: Vec<u8>,
    /// The numbers in it, and where they end.
    offset: u64,
    offset_end: usize,
    seq: u64,
    seq_end: usize,
    /// It has no other numbers, and belongs to the input at hand.
    counts: bool,
}

impl Opening {
    /// True where it is the row's. False: it is to be written anew.
    #[inline]
    fn is_of(&self, origin: &RowOrigin, seq: u64) -> bool {
        let same = (origin.offset == self.offset) & (seq == self.seq);
        self.counts & same & origin.row.is_none() & (origin.sequence == 0)
    }

    #[inline]
    fn count_on(&mut self) {
        if self.counts {
            self.counts = add_one(&mut self.text, self.offset_end) && add_one(&mut self.text, self.seq_end);
            (self.offset, self.seq) = (self.offset.wrapping_add(1), self.seq.wrapping_add(1));
        }
    }
}

/// Adds one to the decimal number that ends there. False, and the digits mean nothing, where it gets longer.
#[inline]
fn add_one(text: &mut [u8], end: usize) -> bool {
    for digit in text[..end].iter_mut().rev() {
        match digit {
            b'9' => *digit = b'0',
            b'0'..=b'8' => {
                *digit += 1;
                return true;
            }
            _ => return false,
        }
    }
    false
}

impl Pieces {
    /// Writes what is equal in all lines of a batch.
    fn begin(&mut self, scores: &Scores, newline: bool) {
        self.head_input = None;
        self.tail.clear();
        self.tail.extend_from_slice(b",\"version\":");
        text::string(&mut self.tail, scores.version.as_bytes());
        self.tail.extend_from_slice(b",\"swap\":");
        text::integer(&mut self.tail, scores.swap);
        self.tail.extend_from_slice(if newline { b"}\n" } else { b"}" });
        for (verdict, text) in self.verdicts.iter_mut().zip([&b",\"class\":false"[..], b",\"class\":true"]) {
            verdict.clear();
            verdict.extend_from_slice(text);
            verdict.extend_from_slice(&self.tail);
        }
        self.classes.clear();
        self.class_ends.clear();
        if scores.task == Task::Multiclass {
            for class in &scores.classes {
                text::string(&mut self.classes, String::from_utf8_lossy(class).as_bytes());
                self.class_ends.push(self.classes.len());
            }
        }
    }

    /// Writes the head of an input's lines.
    fn turn_to(&mut self, input: u32, inputs: &[Arc<str>]) {
        self.head_input = Some(input);
        self.opening.counts = false;
        self.head.clear();
        self.head.extend_from_slice(b"{\"input\":");
        text::string(&mut self.head, name(inputs, input).as_bytes());
        self.head.extend_from_slice(b",\"offset\":");
    }

    /// The name of a class, as a JSON string.
    fn class(&self, number: usize) -> &[u8] {
        let start = if number == 0 { 0 } else { self.class_ends[number - 1] };
        &self.classes[start..self.class_ends[number]]
    }

    /// The score, and what follows it to the line's end.
    #[inline(always)]
    fn score(&self, task: Task, values: &[f64], out: &mut Vec<u8>) {
        match task {
            Task::Binary => {
                out.extend_from_slice(b",\"score\":");
                text::float(out, values[0]);
                out.extend_from_slice(&self.verdicts[usize::from(values[0] > 0.5)]);
                return;
            }
            Task::Regression | Task::Anomaly => {
                out.extend_from_slice(b",\"score\":");
                text::float(out, values[0]);
            }
            Task::Clusters => {
                out.extend_from_slice(b",\"class\":");
                if values[0].is_finite() {
                    text::integer(out, values[0] as u64);
                } else {
                    out.extend_from_slice(b"null");
                }
                out.extend_from_slice(b",\"score\":");
                text::float(out, values[1]);
            }
            Task::Multiclass => self.classes(values, out),
        }
        out.extend_from_slice(&self.tail);
    }

    fn classes(&self, values: &[f64], out: &mut Vec<u8>) {
        let mut best: Option<usize> = None;
        for (i, value) in values.iter().enumerate() {
            if !value.is_nan() && best.is_none_or(|b| *value > values[b]) {
                best = Some(i);
            }
        }
        out.extend_from_slice(b",\"class\":");
        out.extend_from_slice(best.map_or(b"null", |best| self.class(best)));
        out.extend_from_slice(b",\"scores\":{");
        for (i, value) in values.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            out.extend_from_slice(self.class(i));
            out.push(b':');
            text::float(out, *value);
        }
        out.push(b'}');
    }
}

/// The name of an input. A number without a name cannot come from a source that keeps its word.
fn name(inputs: &[Arc<str>], input: u32) -> &str {
    inputs.get(input as usize).map_or("", |name| name)
}

/// The value of an id or a key: a string, a literal as it was written, or null.
fn echo(batch: &Batch, row: usize, slot: usize, out: &mut Vec<u8>) {
    let token = batch.row_tokens(row)[slot];
    match token.kind {
        TokenKind::Missing => out.extend_from_slice(b"null"),
        TokenKind::Text => text::string(out, batch.token_bytes(token)),
        TokenKind::Literal => out.extend_from_slice(batch.token_bytes(token)),
    }
}

#[cfg(test)]
mod tests;
