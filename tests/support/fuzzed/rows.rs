//! Rows of any format: the schema that all row targets share, a decoded row as a comparable value, what must
//! hold for every format, and binary frames.

use super::input::Input;
use super::memory;
use millstream::batch::{Batch, Block, Cursor, Record, RecordKind, RowStatus, Span, Stage, TokenKind};
use millstream::decode::{DecodeOptions, Decoder, Format};
use millstream::kafka::headers;
use millstream::schema::Schema;
use std::sync::OnceLock;

/// The fields, in their order; `y` is the label, `i` the id.
pub const FIELDS: [(&str, &str); 9] = [
    ("f", "float"),
    ("a_rather_long_name_of_a_number", "float"),
    ("n", "int"),
    ("b", "bool"),
    ("t", "timestamp"),
    ("c", "category"),
    ("x", "text"),
    ("y", "bool"),
    ("i", "int"),
];
/// Longest event of these targets (bytes).
pub const EVENT_BYTES_MAX: usize = 2_000;
/// Deepest nesting of these targets.
pub const NESTING_MAX: usize = 8;

/// The schema of [`FIELDS`].
pub fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let fields: String = FIELDS.iter().map(|(name, ty)| format!("{name} = '{ty}'\n")).collect();
        let spec = toml::from_str(&format!("label = 'y'\nid = 'i'\n[fields]\n{fields}")).expect("a spec");
        Schema::from_spec(&spec).expect("a schema")
    })
}

/// A decoded row, comparable: bits of the numbers, kind and bytes of the tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Offset of its event.
    pub offset: u64,
    /// Its number in a packed message.
    pub row: Option<u32>,
    /// The client's number.
    pub sequence: u64,
    /// Its own bytes.
    pub raw: Vec<u8>,
    /// What became of it.
    pub status: RowStatus,
    /// Bits of its numbers; NaN is the one NaN.
    pub numbers: Vec<u64>,
    /// Kind and bytes of its tokens.
    pub tokens: Vec<(TokenKind, Vec<u8>)>,
}

impl Row {
    /// True where it can be scored.
    pub fn accepted(&self) -> bool {
        self.status == RowStatus::Ok
    }
    /// The stage that turned it away.
    pub fn stage(&self) -> Option<Stage> {
        match self.status {
            RowStatus::Ok => None,
            RowStatus::Rejected(reject) => Some(reject.stage),
        }
    }
    /// What was made of it, which may not depend on where it stood. (The byte that a rejection names may lie in the
    /// line's end.)
    #[allow(clippy::type_complexity)]
    pub fn made(&self) -> (Option<(Stage, &str, Option<u16>)>, &[u64], &[(TokenKind, Vec<u8>)]) {
        let why = match &self.status {
            RowStatus::Ok => None,
            RowStatus::Rejected(reject) => Some((reject.stage, reject.reason, reject.field)),
        };
        (why, &self.numbers, &self.tokens)
    }
}

/// A decoder for [`schema`].
pub fn decoder(format: Format) -> Decoder {
    let columns = Some(FIELDS.iter().map(|(name, _)| name.to_string()).collect());
    let options = DecodeOptions { format, event_bytes_max: EVENT_BYTES_MAX, nesting_max: NESTING_MAX, columns };
    Decoder::new(schema(), &options).expect("a decoder")
}

/// A block of one record, or of one for each piece.
pub fn block<'a>(kind: RecordKind, pieces: impl IntoIterator<Item = &'a [u8]>) -> Block {
    let mut block = Block::default();
    for (i, piece) in pieces.into_iter().enumerate() {
        let start = block.bytes.len();
        block.bytes.extend_from_slice(piece);
        let span = Span::new(start, block.bytes.len());
        let offset = i as u64 * 100_000;
        block.records.push(Record { span, input: 0, kind, offset, byte: 0, key: None, headers: None });
    }
    block
}

/// All rows of a block, decoded in batches of at most `events_max`; checks what must hold for each.
pub fn decode(decoder: &mut Decoder, block: &Block, events_max: usize) -> Vec<Row> {
    let schema = schema();
    let mut batch = Batch::new(schema.number_stride, schema.token_stride);
    let (mut cursor, mut rows) = (Cursor::default(), Vec::new());
    while decoder.fill(block, &mut cursor, &mut batch, events_max) {
        assert!(batch.len() <= events_max);
        for at in 0..batch.len() {
            rows.push(row(block, &batch, at));
        }
        batch.clear();
    }
    assert_eq!(cursor, Cursor { record: block.records.len(), byte: 0, row: 0 }, "the whole block is decoded");
    rows
}

fn row(block: &Block, batch: &Batch, at: usize) -> Row {
    let origin = batch.origins[at];
    let record = block.records[origin.record as usize];
    assert!(origin.raw.start >= record.span.start && origin.raw.end <= record.span.end, "a row of its own record");
    let number = |n: &f64| {
        assert!(n.is_nan() || n.is_finite(), "an infinity was let through");
        if n.is_nan() { f64::NAN.to_bits() } else { n.to_bits() }
    };
    let token = |t: &millstream::batch::Token| {
        let bytes = batch.token_bytes(*t).to_vec();
        assert!(std::str::from_utf8(&bytes).is_ok(), "a token that is not UTF-8");
        assert_eq!(t.kind == TokenKind::Missing, bytes.is_empty(), "what is empty is missing");
        (t.kind, bytes)
    };
    let row = Row {
        offset: origin.offset,
        row: origin.row,
        sequence: origin.sequence,
        raw: origin.raw.of(&block.bytes).to_vec(),
        status: batch.status[at],
        numbers: batch.row_numbers(at).iter().map(number).collect(),
        tokens: batch.row_tokens(at).iter().map(token).collect(),
    };
    if let RowStatus::Rejected(reject) = row.status {
        assert!(row.numbers.iter().all(|n| f64::from_bits(*n).is_nan()), "a row turned away keeps no number");
        assert!(row.tokens.iter().all(|t| t.0 == TokenKind::Missing), "a row turned away keeps no text");
        assert!(!reject.reason.is_empty());
        assert!(reject.field.is_none_or(|field| usize::from(field) < FIELDS.len()));
    }
    row
}

/// What holds for every format: the same rows at any cut, with a decoder of any past, and in memory that
/// grows with the bytes that came. Input: cut, kind of the records, events (messages parted by 0x1E).
pub fn same_rows_however_read(format: Format, bytes: &[u8]) -> Vec<Row> {
    let mut input = Input::new(bytes);
    let (cut, packed) = (1 + input.below(5), input.byte() % 2 == 1);
    let bytes = input.rest();
    let block = if packed {
        block(RecordKind::Message, bytes.split(|b| *b == 0x1E))
    } else {
        block(RecordKind::Stream, [bytes])
    };
    // Some 150 bytes of columns an event, doubled where a vector grows, and the copies made here.
    let bytes_max = 200_000 + 2_500 * bytes.len();
    let rows = memory::within(bytes_max, "decoding", || decode(&mut decoder(format), &block, usize::MAX));
    assert_eq!(rows, decode(&mut decoder(format), &block, cut), "cut to {cut}");
    let mut used = decoder(format);
    decode(&mut used, &block, usize::MAX);
    assert_eq!(rows, decode(&mut used, &block, cut), "a decoder with a past");
    for row in &rows {
        // A carriage return at its end is its own only where another stands behind it.
        let end: &[u8] = if row.raw.ends_with(b"\r") && format != Format::Binary { b"\r\n" } else { b"" };
        if !end.is_empty() && row.raw.contains(&b'"') && format == Format::Csv {
            continue;
        }
        let message = [&row.raw[..], end].concat();
        let alone = decode(&mut decoder(format), &self::block(RecordKind::Message, [&message[..]]), 2);
        let [alone] = alone.as_slice() else { panic!("one row alone: {:?}", String::from_utf8_lossy(&row.raw)) };
        assert_eq!(alone.made(), row.made(), "alone: {:?}", String::from_utf8_lossy(&row.raw));
        assert_eq!(alone.raw, row.raw);
    }
    rows
}

/// Binary frames: as every format, and each value as a reader of a few lines finds it.
pub fn binary_rows(bytes: &[u8]) {
    for row in same_rows_however_read(Format::Binary, bytes) {
        let expected = plainly(&row.raw);
        assert_eq!(row.accepted(), expected.is_some() && row.raw.len() - 4 <= EVENT_BYTES_MAX, "{row:?}");
        if let Some((sequence, numbers, tokens)) = expected.filter(|_| row.accepted()) {
            assert_eq!(row.sequence, sequence);
            assert_eq!(row.numbers, numbers);
            assert_eq!(row.tokens.iter().map(|t| t.1.clone()).collect::<Vec<_>>(), tokens);
        }
    }
}

/// A frame by docs/protocol.md, without regard to speed.
#[allow(clippy::type_complexity)]
fn plainly(frame: &[u8]) -> Option<(u64, Vec<u64>, Vec<Vec<u8>>)> {
    let (length, rest) = frame.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*length) as usize != rest.len() {
        return None;
    }
    let (sequence, mut rest) = rest.split_first_chunk::<8>()?;
    let (mut numbers, mut tokens) = (Vec::new(), Vec::new());
    for (_, ty) in FIELDS.iter().take(8).chain([&("i", "text")]) {
        if matches!(*ty, "category" | "text") {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let length = u32::from_le_bytes(*length);
            let length = if length == u32::MAX { 0 } else { length as usize };
            let (text, after) = after.split_at_checked(length)?;
            tokens.push(std::str::from_utf8(text).ok()?.as_bytes().to_vec());
            rest = after;
        } else {
            let (value, after) = rest.split_first_chunk::<8>()?;
            let value = f64::from_le_bytes(*value);
            let whole = !value.is_finite() || value.fract() == 0.0;
            let kept = match *ty {
                "int" if !whole => return None,
                "int" if value.abs() > 2f64.powi(53) => f64::NAN,
                "bool" if value.is_finite() && value != 0.0 && value != 1.0 => return None,
                "bool" => value.abs(),
                _ => value,
            };
            numbers.push(if kept.is_finite() { kept.to_bits() } else { f64::NAN.to_bits() });
            rest = after;
        }
    }
    rest.is_empty().then_some((u64::from_le_bytes(*sequence), numbers, tokens))
}

/// Headers of a message, in the encoding in which a Kafka source hands them on: what is read is written the
/// same again, and a run that is cut off ends early.
pub fn message_headers(bytes: &[u8]) {
    let read: Vec<_> = memory::within(1_000 + 64 * bytes.len(), "headers", || headers::iter(bytes).collect());
    let mut run = Vec::new();
    for (name, value) in &read {
        headers::push(&mut run, name, *value);
    }
    assert_eq!(headers::iter(&run).collect::<Vec<_>>(), read);
    assert!(run.len() <= bytes.len());
}
