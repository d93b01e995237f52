//! The same rows, whatever carries them.
//!
//! A row's values must not depend on which reader took it (the predicted layout or the strict parser),
//! on its format, on where batches were cut, or on its neighbours. Here random rows are written as JSON
//! (keys shuffled, blanks and escapes anywhere), as CSV and as frames, decoded, and compared with each
//! other, with serde_json and with csv-core. Mutated and arbitrary bytes must never panic, and a bad
//! row must not change the rows around it.

use millstream::batch::{Batch, Block, Cursor, Record, RecordKind, RowStatus, Span, TokenKind};
use millstream::decode::{DecodeOptions, Decoder, Format};
use millstream::schema::{Schema, SchemaSpec};
use proptest::prelude::*;
use serde_json::Value;
use std::fmt::Write;

const NAMES: [&str; 6] = ["f", "a_rather_long_key_for_a_number", "n", "b", "c", "x"];

fn schema() -> Schema {
    let types = ["float", "float", "int", "bool", "category", "text"];
    let mut text = String::from("[fields]\n");
    for (name, ty) in NAMES.iter().zip(types) {
        writeln!(text, "{name} = '{ty}'").expect("write");
    }
    let spec: SchemaSpec = toml::from_str(&text).expect("spec");
    Schema::from_spec(&spec).expect("schema")
}

fn options(format: Format) -> DecodeOptions {
    let columns = Some(NAMES.iter().map(|n| n.to_string()).collect());
    DecodeOptions { format, event_bytes_max: 10_000, nesting_max: 8, columns }
}

/// A decoded row, comparable: bits of the numbers, kind and bytes of the tokens; or the rejection.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    offset: u64,
    row: Option<u32>,
    raw: Vec<u8>,
    status: RowStatus,
    numbers: Vec<u64>,
    tokens: Vec<(TokenKind, Vec<u8>)>,
}

impl Row {
    fn accepted(&self) -> bool {
        self.status == RowStatus::Ok
    }
    fn values(&self) -> (&[u64], Vec<&[u8]>) {
        (&self.numbers, self.tokens.iter().map(|t| t.1.as_slice()).collect())
    }
}

fn decode_with(decoder: &mut Decoder, block: &Block, events_max: usize) -> Vec<Row> {
    let schema = schema();
    let mut batch = Batch::new(schema.number_stride, schema.token_stride);
    let (mut cursor, mut rows) = (Cursor::default(), Vec::new());
    while decoder.fill(block, &mut cursor, &mut batch, events_max) {
        assert!(batch.len() <= events_max);
        for i in 0..batch.len() {
            rows.push(Row {
                offset: batch.origins[i].offset,
                row: batch.origins[i].row,
                raw: batch.origins[i].raw.of(&block.bytes).to_vec(),
                status: batch.status[i],
                numbers: batch.row_numbers(i).iter().map(|n| n.to_bits()).collect(),
                tokens: batch.row_tokens(i).iter().map(|t| (t.kind, batch.token_bytes(*t).to_vec())).collect(),
            });
        }
        batch.clear();
    }
    assert_eq!(cursor.record, block.records.len());
    rows
}

fn decode(format: Format, block: &Block, events_max: usize) -> Vec<Row> {
    decode_with(&mut Decoder::new(&schema(), &options(format)).expect("decoder"), block, events_max)
}

fn block<'a>(kind: RecordKind, records: impl IntoIterator<Item = &'a [u8]>) -> Block {
    let mut block = Block::default();
    for (i, bytes) in records.into_iter().enumerate() {
        let start = block.bytes.len();
        block.bytes.extend_from_slice(bytes);
        block.records.push(Record {
            span: Span::new(start, block.bytes.len()),
            input: 0,
            kind,
            offset: i as u64 * 1000,
            byte: 0,
            key: None,
            headers: None,
        });
    }
    block
}

fn stream(format: Format, bytes: &[u8]) -> Vec<Row> {
    decode(format, &block(RecordKind::Stream, [bytes]), 1000)
}

/// A value of an event.
#[derive(Debug, Clone)]
enum Cell {
    Missing,
    Number(f64),
    Int(i64),
    Bool(bool),
    Text(String),
}

fn number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |v| v.is_finite()),
        (-1_000_000i64..1_000_000, 0i32..6).prop_map(|(n, d)| n as f64 / 10f64.powi(d)),
        (-100i64..100).prop_map(|n| n as f64),
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,12}", "[ -~]{1,20}", "[a-zé😀\n\"\\\\,\u{1}\u{7f}]{1,12}"]
}

/// One value for each of `NAMES`.
fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let maybe = |some: BoxedStrategy<Cell>| prop_oneof![1 => Just(Cell::Missing), 8 => some];
    (
        maybe(number().prop_map(Cell::Number).boxed()),
        maybe(number().prop_map(Cell::Number).boxed()),
        maybe((-(1i64 << 53)..=1 << 53).prop_map(Cell::Int).boxed()),
        maybe(any::<bool>().prop_map(Cell::Bool).boxed()),
        maybe(text().prop_map(Cell::Text).boxed()),
        maybe(text().prop_map(Cell::Text).boxed()),
    )
        .prop_map(|(f, g, n, b, c, x)| vec![f, g, n, b, c, x])
}

/// How a JSON object is written: order of keys, blanks, extra keys, escapes.
#[derive(Debug, Clone)]
struct Manner {
    order: Vec<usize>,
    blank: &'static str,
    extra: &'static str,
    escape_all: bool,
}

fn manner() -> impl Strategy<Value = Manner> {
    let orders = prop_oneof![
        3 => Just((0..NAMES.len()).collect::<Vec<usize>>()),
        1 => Just((0..NAMES.len()).collect::<Vec<usize>>()).prop_shuffle(),
    ];
    let blanks = prop_oneof![4 => Just(""), 2 => Just(" "), 1 => Just("\t \r ")];
    let extras = prop_oneof![
        4 => Just(""),
        1 => Just("\"u\":[1,{\"f\":[]},\"\\u00e9\"]"),
        1 => Just("\"ff\":\"z\""),
        1 => Just("\"c\":\"first\""),
    ];
    (orders, blanks, extras, proptest::bool::weighted(0.1)).prop_map(|(order, blank, extra, escape_all)| Manner {
        order,
        blank,
        extra,
        escape_all,
    })
}

fn json_text(out: &mut String, text: &str, escape_all: bool) {
    if !escape_all {
        out.push_str(&serde_json::to_string(text).expect("JSON"));
        return;
    }
    out.push('"');
    for unit in text.encode_utf16() {
        write!(out, "\\u{unit:04x}").expect("write");
    }
    out.push('"');
}

fn json_line(cells: &[Cell], manner: &Manner) -> String {
    let blank = manner.blank;
    let mut out = format!("{{{blank}");
    if !manner.extra.is_empty() {
        write!(out, "{}{blank},", manner.extra).expect("write");
    }
    for (i, &at) in manner.order.iter().enumerate() {
        if i > 0 {
            write!(out, "{blank},{blank}").expect("write");
        }
        json_text(&mut out, NAMES[at], manner.escape_all);
        write!(out, "{blank}:{blank}").expect("write");
        match &cells[at] {
            Cell::Missing => out.push_str("null"),
            Cell::Number(n) => write!(out, "{n:?}").expect("write"),
            Cell::Int(n) => write!(out, "{n}").expect("write"),
            Cell::Bool(b) => write!(out, "{b}").expect("write"),
            Cell::Text(text) => json_text(&mut out, text, manner.escape_all),
        }
    }
    out + blank + "}"
}

fn csv_line(cells: &[Cell]) -> String {
    let cell = |cell: &Cell| match cell {
        Cell::Missing => String::new(),
        Cell::Number(n) => format!("{n:?}"),
        Cell::Int(n) => n.to_string(),
        Cell::Bool(b) => b.to_string(),
        Cell::Text(text) if text.contains(['"', ',', '\n', '\r']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Cell::Text(text) => text.clone(),
    };
    cells.iter().map(cell).collect::<Vec<_>>().join(",")
}

fn frame(cells: &[Cell], sequence: u64) -> Vec<u8> {
    let mut rest = sequence.to_le_bytes().to_vec();
    for (i, cell) in cells.iter().enumerate() {
        let number = match cell {
            Cell::Missing if i < 4 => f64::NAN,
            Cell::Missing => {
                rest.extend_from_slice(&u32::MAX.to_le_bytes());
                continue;
            }
            Cell::Text(text) => {
                rest.extend_from_slice(&(text.len() as u32).to_le_bytes());
                rest.extend_from_slice(text.as_bytes());
                continue;
            }
            Cell::Number(n) => *n,
            Cell::Int(n) => *n as f64,
            Cell::Bool(b) => f64::from(u8::from(*b)),
        };
        rest.extend_from_slice(&number.to_le_bytes());
    }
    let mut frame = (rest.len() as u32).to_le_bytes().to_vec();
    frame.extend(rest);
    frame
}

/// What a row must hold, from the values alone.
fn expected(cells: &[Cell]) -> (Vec<u64>, Vec<&[u8]>) {
    let (mut numbers, mut tokens) = (Vec::new(), Vec::new());
    for (i, cell) in cells.iter().enumerate() {
        match cell {
            Cell::Missing if i < 4 => numbers.push(f64::NAN.to_bits()),
            Cell::Missing => tokens.push(&b""[..]),
            Cell::Number(n) => numbers.push(n.to_bits()),
            Cell::Int(n) => numbers.push((*n as f64).to_bits()),
            Cell::Bool(b) => numbers.push(f64::from(u8::from(*b)).to_bits()),
            Cell::Text(text) => tokens.push(text.as_bytes()),
        }
    }
    (numbers, tokens)
}

/// The members of an object in their order, repeated keys included.
struct Members(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Members, D::Error> {
        struct Visit;
        impl<'de> serde::de::Visitor<'de> for Visit {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Visit)
    }
}

/// What a member's value is worth to its field: a number (NaN is missing) or a token; `None` where it
/// is not of the field's type. A literal token is `?`: as it was written, which the reference has lost.
fn reference_value(field: usize, value: &Value) -> Option<Result<f64, Vec<u8>>> {
    let not_a_number = ["NaN", "Infinity", "-Infinity", "+Infinity"];
    Some(match (field, value) {
        (0..=3, Value::Null) => Ok(f64::NAN),
        (0..=1, Value::String(s)) if not_a_number.contains(&s.as_str()) => Ok(f64::NAN),
        (0..=1, Value::Number(n)) => Ok(n.as_f64()?),
        (2, Value::Number(n)) => {
            let value = n.as_f64()?;
            if value.trunc() != value {
                return None;
            }
            let exact = n.as_i64().map_or(n.as_u64().is_none(), |n| n.unsigned_abs() <= 1 << 53);
            Ok(if exact && value.abs() <= 2f64.powi(53) { value } else { f64::NAN })
        }
        (3, Value::Bool(b)) => Ok(f64::from(u8::from(*b))),
        (3, Value::Number(n)) if n.as_f64()? == 1.0 || n.as_f64()? == 0.0 => Ok(n.as_f64()?.abs()),
        (4.., Value::Null) => Err(Vec::new()),
        (4.., Value::String(s)) => Err(s.as_bytes().to_vec()),
        (4.., Value::Number(_) | Value::Bool(_)) => Err(b"?".to_vec()),
        _ => return None,
    })
}

/// What a line holds, by serde_json; `None` where a value is not of its type.
fn reference(members: &[(String, Value)]) -> Option<(Vec<u64>, Vec<Vec<u8>>)> {
    let (mut numbers, mut tokens) = (vec![f64::NAN.to_bits(); 4], vec![Vec::new(); 2]);
    for (name, value) in members {
        let Some(field) = NAMES.iter().position(|n| n == name) else { continue };
        match reference_value(field, value)? {
            Ok(number) => numbers[field] = number.to_bits(),
            Err(token) => tokens[field - 4] = token,
        }
    }
    Some((numbers, tokens))
}

/// Holds a JSON line, decoded, to serde_json: both accept it with the same values, or both refuse it.
fn check_against_reference(line: &[u8], row: &Row) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(line);
    let members = match serde_json::from_slice::<Members>(line) {
        Ok(Members(members)) => members,
        // Where a number overflows, this crate refuses the row; we take it as missing.
        Err(e) if e.to_string().contains("out of range") => return Ok(()),
        Err(e) => {
            prop_assert!(!row.accepted(), "accepted: {} ({})", text, e);
            return Ok(());
        }
    };
    match reference(&members) {
        Some((numbers, tokens)) => {
            prop_assert!(row.accepted(), "refused: {} {:?}", text, row.status);
            prop_assert_eq!(&row.numbers, &numbers);
            for (token, expected) in row.tokens.iter().zip(&tokens) {
                prop_assert!(token.0 == TokenKind::Literal && expected == b"?" || token.1 == *expected);
            }
        }
        None => prop_assert!(!row.accepted(), "accepted: {}", text),
    }
    Ok(())
}

/// The cells of one CSV row, by csv-core.
fn csv_core_cells(line: &[u8]) -> Vec<Vec<u8>> {
    let mut reader = csv_core::Reader::new();
    let (mut out, mut ends) = (vec![0; line.len() + 8], vec![0; 64]);
    let (_, read, mut written, mut count) = reader.read_record(line, &mut out, &mut ends);
    let (_, _, more, fields) = reader.read_record(&line[read..], &mut out[written..], &mut ends[count..]);
    (written, count) = (written + more, count + fields);
    let _ = written;
    (0..count).map(|i| out[if i == 0 { 0 } else { ends[i - 1] }..ends[i]].to_vec()).collect()
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn json_csv_and_frames_agree(rows in proptest::collection::vec((cells(), manner()), 1..12)) {
        let json: Vec<String> = rows.iter().map(|(cells, manner)| json_line(cells, manner)).collect();
        let csv: Vec<String> = rows.iter().map(|(cells, _)| csv_line(cells)).collect();
        let frames: Vec<u8> = rows.iter().enumerate().flat_map(|(i, (cells, _))| frame(cells, i as u64)).collect();
        let decoded = [
            stream(Format::Json, json.join("\n").as_bytes()),
            stream(Format::Csv, csv.join("\r\n").as_bytes()),
            stream(Format::Binary, &frames),
        ];
        for (i, (cells, _)) in rows.iter().enumerate() {
            let (numbers, tokens) = expected(cells);
            for (format, rows) in decoded.iter().enumerate() {
                prop_assert!(rows[i].accepted(), "format {} row {}: {:?}", format, i, rows[i]);
                prop_assert_eq!(rows[i].values(), (&numbers[..], tokens.clone()), "format {} row {}", format, i);
                prop_assert_eq!(rows[i].offset, i as u64);
            }
            prop_assert_eq!(&decoded[0][i].raw, json[i].as_bytes());
            prop_assert_eq!(&decoded[1][i].raw, csv[i].as_bytes());
            check_against_reference(json[i].as_bytes(), &decoded[0][i])?;
        }
    }

    /// A decoder that has just learned the layout of a good row reads the mutated row as one that has
    /// learned nothing does, and as serde_json does.
    #[test]
    fn a_prediction_never_changes_a_row(
        good in cells(),
        manner in manner(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 0..4),
        then in cells(),
    ) {
        let first = json_line(&good, &manner);
        let mut second = json_line(&then, &manner).into_bytes();
        for (at, byte, how) in changes {
            let at = at.index(second.len());
            match how {
                0 => second[at] = byte,
                1 => second.insert(at, b" \"{}[],:0e.-\\"[byte as usize % 12]),
                2 => drop(second.remove(at)),
                _ => second[at] = b" \"{}[],:01e.-\\"[byte as usize % 13],
            }
            if second.is_empty() {
                second.push(b'x');
            }
        }
        second.iter_mut().filter(|b| **b == b'\n').for_each(|b| *b = b' ');
        let blank = second.iter().all(|b| b" \t\r".contains(b));
        // Followed by other bytes, as records are: nothing may be taken from there.
        let lines = [first.as_bytes(), &second, first.as_bytes()].join(&b'\n');
        let learned = stream(Format::Json, &lines);
        prop_assert_eq!(learned.len(), if blank { 2 } else { 3 });
        let alone = stream(Format::Json, &second);
        if !blank {
            let mut from_start = learned[1].clone();
            from_start.offset = 0;
            prop_assert_eq!(&from_start, &alone[0]);
            let row = second.strip_suffix(b"\r").unwrap_or(&second);
            check_against_reference(row, &alone[0])?;
        }
        // The neighbours are untouched.
        let neighbour = learned.last().expect("rows");
        prop_assert_eq!(neighbour.values(), learned[0].values());
        prop_assert!(neighbour.accepted());
        // The same as messages, which stand in the block without anything between them.
        let messages = block(RecordKind::Message, [first.as_bytes(), &second, &second, first.as_bytes()]);
        let rows = decode(Format::Json, &messages, 1000);
        prop_assert_eq!(rows.len(), if blank { 2 } else { 4 });
        for row in rows.iter().filter(|row| !blank && (row.offset == 1000 || row.offset == 2000)) {
            prop_assert_eq!((&row.status, row.values()), (&alone[0].status, alone[0].values()));
        }
    }

    #[test]
    fn quoted_cells_are_those_of_csv_core(
        texts in proptest::collection::vec("[a-z ,\"\n;é]{0,8}", 2..3),
        quote in proptest::collection::vec(any::<bool>(), 2..3),
    ) {
        let cell = |text: &String, quote: bool| {
            if quote || text.contains([',', '\n']) || text.starts_with('"') {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text.clone()
            }
        };
        let line = format!("1,2.5,3,yes,{},{}", cell(&texts[0], quote[0]), cell(&texts[1], quote[1]));
        let rows = stream(Format::Csv, format!("{line}\n{line}\r\n{line}").as_bytes());
        let reference = csv_core_cells(line.as_bytes());
        prop_assert_eq!(rows.len(), 3);
        for row in &rows {
            prop_assert!(row.accepted(), "{:?}", row);
            prop_assert_eq!(&row.raw, line.as_bytes());
            prop_assert_eq!(&row.tokens[0].1, &reference[4]);
            prop_assert_eq!(&row.tokens[1].1, &reference[5]);
        }
    }

    #[test]
    fn any_bytes_are_survived_and_cuts_change_nothing(
        pieces in proptest::collection::vec(
            prop_oneof![
                (cells(), manner()).prop_map(|(c, m)| json_line(&c, &m).into_bytes()),
                cells().prop_map(|c| csv_line(&c).into_bytes()),
                cells().prop_map(|c| frame(&c, 1)),
                proptest::collection::vec(any::<u8>(), 0..40),
                proptest::collection::vec(prop::sample::select(&b"{}[]\",:\n\r \\u01e-.tfn"[..]), 0..30),
                Just(b"\n".to_vec()),
            ],
            0..12,
        ),
        cut in any::<prop::sample::Index>(),
        message in any::<bool>(),
    ) {
        let bytes = pieces.concat();
        let (left, right) = bytes.split_at(cut.index(bytes.len() + 1));
        let kind = if message { RecordKind::Message } else { RecordKind::Stream };
        let block = block(kind, [left, right]);
        for format in [Format::Json, Format::Csv, Format::Binary] {
            let whole = decode(format, &block, 1000);
            for events_max in [1, 7] {
                prop_assert_eq!(&decode(format, &block, events_max), &whole);
            }
            // A decoder with a past reads the same.
            let mut decoder = Decoder::new(&schema(), &options(format)).expect("decoder");
            decode_with(&mut decoder, &block, 1000);
            prop_assert_eq!(&decode_with(&mut decoder, &block, 1000), &whole);
            for row in whole.iter().filter(|row| !row.accepted()) {
                prop_assert!(row.numbers.iter().all(|n| f64::from_bits(*n).is_nan()));
                prop_assert!(row.tokens.iter().all(|t| t.0 == TokenKind::Missing));
            }
        }
    }
}

/// Nanoseconds a row of decoding and encoding: `cargo test --release --test formats_agree -- --ignored
/// --nocapture`. Rows are those of PERFORMANCE.md: 20 floats and a label, about 250 bytes as JSON.
mod timing {
    use super::*;
    use millstream::batch::{Outbox, Scores, Task};
    use millstream::encode::{EncodeOptions, Encoder};
    use std::hint::black_box;
    use std::time::Instant;

    const ROWS: usize = 20_000;

    fn wide_schema() -> Schema {
        let mut text = String::from("label = 'y'\n[fields]\n");
        (0..20).for_each(|i| writeln!(text, "f{i} = 'float'").expect("write"));
        let spec: SchemaSpec = toml::from_str(&(text + "y = 'bool'\n")).expect("spec");
        Schema::from_spec(&spec).expect("schema")
    }

    /// Rows of 20 floats and a label, from a fixed sequence.
    fn values() -> Vec<Vec<f64>> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        (0..ROWS).map(|_| (0..21).map(|_| next()).collect()).collect()
    }

    fn write_json(values: &[Vec<f64>], digits: usize, shuffled: bool, blank: &str) -> Vec<u8> {
        let mut out = String::new();
        for (r, row) in values.iter().enumerate() {
            out.push('{');
            for i in 0..21 {
                let at = if shuffled { (i * 8 + r * 5) % 21 } else { i };
                let comma = if i > 0 { "," } else { "" };
                let lead = if i > 0 { blank } else { "" };
                match at {
                    20 => write!(out, "{comma}{lead}\"y\":{blank}{}", row[20] > 0.5).expect("write"),
                    _ => write!(out, "{comma}{lead}\"f{at}\":{blank}{:.digits$}", row[at]).expect("write"),
                }
            }
            if shuffled {
                write!(out, ",\"extra\":\"abcdefgh\",\"more\":[1,2]").expect("write");
            }
            out.push_str("}\n");
        }
        out.into_bytes()
    }

    fn measure(name: &str, format: Format, bytes: Vec<u8>) {
        let schema = wide_schema();
        let columns = Some(schema.fields.iter().map(|f| f.name.clone()).collect());
        let options = DecodeOptions { format, event_bytes_max: 1 << 20, nesting_max: 64, columns };
        let mut decoder = Decoder::new(&schema, &options).expect("decoder");
        let bytes_a_row = bytes.len() / ROWS;
        // Blocks of about 64 KiB, as a source hands them out.
        let (mut blocks, mut start) = (Vec::new(), 0);
        let ends: Vec<usize> = match format {
            Format::Binary => (1..=ROWS).map(|i| i * bytes_a_row).collect(),
            _ => memchr::memchr_iter(b'\n', &bytes).map(|i| i + 1).collect(),
        };
        for (i, &end) in ends.iter().enumerate() {
            if end - start > 64 * 1024 || i + 1 == ends.len() {
                blocks.push(block(RecordKind::Stream, [&bytes[start..end]]));
                start = end;
            }
        }
        let mut batch = Batch::new(schema.number_stride, schema.token_stride);
        let mut times = Vec::new();
        for _ in 0..15 {
            let (begun, mut rows) = (Instant::now(), 0);
            for block in &blocks {
                let mut cursor = Cursor::default();
                batch.clear();
                while decoder.fill(block, &mut cursor, &mut batch, 1024) {
                    rows += batch.len();
                    assert!(batch.status.iter().all(|s| *s == RowStatus::Ok));
                    black_box(&batch);
                    batch.clear();
                }
            }
            assert_eq!(rows, ROWS);
            times.push(begun.elapsed().as_nanos() as f64 / ROWS as f64);
        }
        times.sort_by(f64::total_cmp);
        println!("{name:<28} {bytes_a_row:>4} B  {:>7.1} ns a row (best {:.1})", times[7], times[0]);
    }

    #[test]
    #[ignore = "a measurement, not a check"]
    fn nanoseconds_a_row() {
        let values = values();
        measure("json, 3 decimals", Format::Json, write_json(&values, 3, false, ""));
        measure("json, 3 decimals, spaces", Format::Json, write_json(&values, 3, false, " "));
        measure("json, 6 decimals", Format::Json, write_json(&values, 6, false, ""));
        measure("json, 17 digits", Format::Json, write_json(&values, 17, false, ""));
        measure("json, shuffled and more", Format::Json, write_json(&values, 3, true, ""));
        let csv = |digits: usize| -> Vec<u8> {
            let line = |row: &Vec<f64>| {
                let cells: Vec<String> = row[..20].iter().map(|v| format!("{v:.digits$}")).collect();
                format!("{},{}\n", cells.join(","), u8::from(row[20] > 0.5))
            };
            values.iter().map(line).collect::<String>().into_bytes()
        };
        measure("csv, 3 decimals", Format::Csv, csv(3));
        measure("csv, 6 decimals", Format::Csv, csv(6));
        let frame = |row: &Vec<f64>| {
            let mut cells: Vec<Cell> = row[..20].iter().map(|v| Cell::Number(*v)).collect();
            cells.push(Cell::Bool(row[20] > 0.5));
            frame_of(&cells)
        };
        measure("binary", Format::Binary, values.iter().flat_map(frame).collect());
        sonic(&write_json(&values, 3, false, ""));
        encode(&values);
    }

    fn frame_of(cells: &[Cell]) -> Vec<u8> {
        let mut rest = 1u64.to_le_bytes().to_vec();
        for cell in cells {
            let number = match cell {
                Cell::Number(n) => *n,
                Cell::Bool(b) => f64::from(u8::from(*b)),
                _ => f64::NAN,
            };
            rest.extend_from_slice(&number.to_le_bytes());
        }
        let mut frame = (rest.len() as u32).to_le_bytes().to_vec();
        frame.extend(rest);
        frame
    }

    /// The same values through sonic-rs' lazy object iterator, keys looked up in a map.
    fn sonic(bytes: &[u8]) {
        let names: std::collections::HashMap<String, usize> = (0..20).map(|i| (format!("f{i}"), i)).collect();
        let mut times = Vec::new();
        for _ in 0..9 {
            let begun = Instant::now();
            let mut row = [f64::NAN; 21];
            for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
                for member in sonic_rs::to_object_iter(line) {
                    let (key, value) = member.expect("JSON");
                    match names.get(&*key) {
                        Some(&at) => row[at] = sonic_rs::from_str(value.as_raw_str()).expect("number"),
                        None => row[20] = f64::from(u8::from(value.as_raw_str() == "true")),
                    }
                }
                black_box(&row);
            }
            times.push(begun.elapsed().as_nanos() as f64 / ROWS as f64);
        }
        times.sort_by(f64::total_cmp);
        println!("{:<28}         {:>7.1} ns a row", "sonic-rs, 3 decimals", times[4]);
    }

    fn encode(values: &[Vec<f64>]) {
        let schema = wide_schema();
        let bytes = write_json(&values[..1000], 3, false, "");
        let block = block(RecordKind::Stream, [&bytes[..]]);
        let mut decoder = Decoder::new(
            &schema,
            &DecodeOptions { format: Format::Json, event_bytes_max: 1 << 20, nesting_max: 8, columns: None },
        )
        .expect("decoder");
        let mut batch = Batch::new(schema.number_stride, schema.token_stride);
        decoder.fill(&block, &mut Cursor::default(), &mut batch, 1000);
        let scores = Scores {
            task: Task::Binary,
            values: values[..1000].iter().map(|row| row[0] * row[1]).collect(),
            ends: (1..=1000).collect(),
            classes: Vec::new(),
            version: "3f9c2ab1".into(),
            swap: 2,
        };
        let options = EncodeOptions { lane: None, answer_rejects: true, newline: true };
        let (mut encoder, mut outbox) = (Encoder::new(&schema, &options), Outbox::default());
        let mut times = Vec::new();
        for round in 0..200 {
            let begun = Instant::now();
            outbox.clear();
            encoder.encode(&block, &batch, &scores, &["127.0.0.1:7070#1".into()], round * 1000, &mut outbox);
            black_box(&outbox);
            times.push(begun.elapsed().as_nanos() as f64 / 1000.0);
        }
        times.sort_by(f64::total_cmp);
        println!("{:<28} {:>4} B  {:>7.1} ns a row", "encode, binary task", outbox.bytes.len() / 1000, times[100]);
    }
}
