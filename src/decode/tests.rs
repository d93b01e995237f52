//! The rules of decoding, one by one.

use super::*;
use crate::schema::SchemaSpec;

fn schema(text: &str) -> Schema {
    let spec: SchemaSpec = toml::from_str(text).expect("spec");
    Schema::from_spec(&spec).expect("schema")
}

/// One field of each type; `y` is the label, `i` the id.
fn all_types() -> Schema {
    schema(
        "label='y'\nid='i'\n[fields]\nf='float'\nn='int'\nb='bool'\nt='timestamp'\nc='category'\nx='text'\ny='bool'\ni='int'",
    )
}

fn options(format: Format) -> DecodeOptions {
    DecodeOptions { format, event_bytes_max: 1000, nesting_max: 4, columns: None }
}

fn record(kind: RecordKind, start: usize, end: usize) -> Record {
    Record { span: Span::new(start, end), input: 0, kind, offset: 100, byte: 0, key: None, headers: None }
}

fn block(parts: &[(RecordKind, &[u8])]) -> Block {
    let mut block = Block::default();
    for (kind, bytes) in parts {
        let start = block.bytes.len();
        block.bytes.extend_from_slice(bytes);
        block.records.push(record(*kind, start, block.bytes.len()));
    }
    block
}

fn decode(schema: &Schema, options: &DecodeOptions, block: &Block) -> (Batch, Decoder) {
    let mut decoder = Decoder::new(schema, options).expect("decoder");
    let mut batch = Batch::new(schema.number_stride, schema.token_stride);
    let mut cursor = Cursor::default();
    decoder.fill(block, &mut cursor, &mut batch, usize::MAX);
    assert_eq!(cursor, Cursor { record: block.records.len(), byte: 0, row: 0 });
    (batch, decoder)
}

fn stream(format: Format, bytes: &[u8]) -> Batch {
    decode(&all_types(), &options(format), &block(&[(RecordKind::Stream, bytes)])).0
}

/// The only row of a JSON text.
fn json(text: &str) -> Batch {
    let batch = stream(Format::Json, text.as_bytes());
    assert_eq!(batch.len(), 1, "{text}");
    batch
}

fn csv(lines: &str) -> Batch {
    let parts: [(RecordKind, &[u8]); 2] =
        [(RecordKind::Header, b"f,n,b,t,c,x,y,i"), (RecordKind::Stream, lines.as_bytes())];
    decode(&all_types(), &options(Format::Csv), &block(&parts)).0
}

fn reject(batch: &Batch, row: usize) -> Reject {
    match batch.status[row] {
        RowStatus::Rejected(reject) => reject,
        RowStatus::Ok => panic!("row {row} was accepted: {batch:?}"),
    }
}

fn token(batch: &Batch, row: usize, slot: usize) -> (TokenKind, String) {
    let token = batch.row_tokens(row)[slot];
    (token.kind, String::from_utf8(batch.token_bytes(token).to_vec()).expect("UTF-8"))
}

fn bits(numbers: &[f64]) -> Vec<u64> {
    numbers.iter().map(|n| n.to_bits()).collect()
}

#[test]
fn json_values_by_type() {
    let b = json(r#"{"f":-1.5e2,"n":7,"b":true,"t":"1970-01-01T00:00:01Z","c":"a\u00e9\n","x":12.50,"y":0,"i":"id"}"#);
    assert_eq!(b.status[0], RowStatus::Ok);
    assert_eq!(b.row_numbers(0), [-150.0, 7.0, 1.0, 1000.0, 0.0]);
    assert_eq!(token(&b, 0, 0), (TokenKind::Text, "aé\n".into()));
    assert_eq!(token(&b, 0, 1), (TokenKind::Literal, "12.50".into()));
    assert_eq!(token(&b, 0, 2), (TokenKind::Text, "id".into()));
    let b = json(" { \"i\" : 3 ,\t\"unknown\":[{\"a\":[]},\"\\u0041\",null,-0], \"t\":5, \"\\u0066\":2 } \r\n");
    assert_eq!((b.row_numbers(0)[0], b.row_numbers(0)[3]), (2.0, 5.0));
    assert_eq!(token(&b, 0, 2), (TokenKind::Literal, "3".into()));
    assert_eq!(token(&b, 0, 0), (TokenKind::Missing, "".into()));
}

#[test]
fn json_what_is_missing() {
    let missing = [
        "{}",
        r#"{"f":null,"n":null,"b":null,"t":null,"c":null,"x":null,"y":null}"#,
        r#"{"f":"NaN"}"#,
        r#"{"f":"-Infinity"}"#,
        r#"{"f":1e999,"n":9007199254740993,"t":-1e999}"#,
        r#"{"f":1,"f":null,"c":"a","c":null}"#,
        r#"{"n":1e400,"c":""}"#,
    ];
    for text in missing {
        let b = json(text);
        assert_eq!(b.status[0], RowStatus::Ok, "{text}");
        assert!(b.row_numbers(0).iter().all(|n| n.is_nan()), "{text}");
        assert!(b.row_tokens(0).iter().all(|t| t.kind == TokenKind::Missing), "{text}");
    }
    assert_eq!(json(r#"{"n":9007199254740992}"#).row_numbers(0)[1], 9007199254740992.0);
    assert_eq!(json(r#"{"f":1,"f":2}"#).row_numbers(0)[0], 2.0);
}

#[test]
fn json_values_of_a_wrong_type() {
    for (text, field) in [
        (r#"{"f":"abc"}"#, 0),
        (r#"{"f":"1.5"}"#, 0),
        (r#"{"f":true}"#, 0),
        (r#"{"n":1.5}"#, 1),
        (r#"{"n":"NaN"}"#, 1),
        (r#"{"b":2}"#, 2),
        (r#"{"b":"true"}"#, 2),
        (r#"{"t":"yesterday"}"#, 3),
        (r#"{"t":false}"#, 3),
        (r#"{"c":{"a":1}}"#, 4),
        (r#"{"f":1,"x":[1]}"#, 5),
        (r#"{"b":2,"b":1,"f":"x"}"#, 2),
    ] {
        let b = json(text);
        let r = reject(&b, 0);
        assert_eq!((r.stage, r.field), (Stage::Schema, Some(field)), "{text}");
        assert!(b.row_numbers(0).iter().all(|n| n.is_nan()), "{text}");
        assert!(b.text.is_empty(), "{text}");
    }
    for (text, value) in [(r#"{"n":3.0}"#, 3.0), (r#"{"n":2e3}"#, 2000.0), (r#"{"n":-5}"#, -5.0)] {
        assert_eq!(json(text).row_numbers(0)[1], value, "{text}");
    }
}

#[test]
fn json_that_is_none() {
    for text in [
        "[1]",
        "5",
        "x",
        "{",
        "{\"f\":1",
        "{\"f\":1}}",
        "{\"f\":1} 2",
        "{f:1}",
        "{\"f\" 1}",
        "{\"f\":1,}",
        "{,}",
        "{\"f\":01}",
        "{\"f\":1.}",
        "{\"f\":.5}",
        "{\"f\":+1}",
        "{\"f\":NaN}",
        "{\"f\":nul}",
        "{\"c\":\"a}",
        "{\"c\":\"\\x\"}",
        "{\"c\":\"\\ud800\"}",
        "{\"c\":\"\\udc00\"}",
        "{\"c\":\"\\ud800\\u0041\"}",
        "{\"c\":\"\\u00g0\"}",
        "{\"c\":\"\t\"}",
        "{\"u\":[1,]}",
        "{\"u\":[}",
        "{\"u\":{\"a\"}}",
        "{\"u\":{1:2}}",
        "{\"f\":\"x\",",
        "{\"\\q\":1}",
        "{\"u\":\"\\u12\"}",
        "{\"f\":-}",
        "{\"f\":1e}",
        "{\"f\":1 2}",
        "{\"f\":\"abc\"",
        "{\"f\":1}\u{b}",
        "{\"c\":\"\\",
        "{\"u\":[1}}",
    ] {
        assert_eq!(reject(&json(text), 0).stage, Stage::Decode, "{text}");
    }
    let b = stream(Format::Json, b"{\"c\":\"\xFF\"}\n{\"f\":1}\n{\"u\":\"\xC3\"}");
    assert_eq!((reject(&b, 0).reason, reject(&b, 0).byte), ("not UTF-8", 6));
    assert_eq!(b.row_numbers(1)[0], 1.0);
    assert_eq!(reject(&b, 2).reason, "not UTF-8");
    assert_eq!(json(r#"{"c":"\ud83d\ude00"}"#).text, "😀".as_bytes());
}

#[test]
fn limits_at_under_and_over() {
    let nested = |levels: usize| format!("{{\"u\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    for (levels, ok) in [(2, true), (3, true), (4, true), (5, false), (60_000, false)] {
        let mut o = options(Format::Json);
        o.event_bytes_max = 1_000_000;
        let (b, _) = decode(&all_types(), &o, &block(&[(RecordKind::Stream, nested(levels).as_bytes())]));
        assert_eq!(b.status[0] == RowStatus::Ok, ok, "{levels}");
        assert!(ok || reject(&b, 0).stage == Stage::Limit);
    }
    for (length, ok) in [(999, true), (1000, true), (1001, false)] {
        let text = format!("{{\"c\":\"{}\"}}\n{{\"f\":1}}\n", "a".repeat(length - 8));
        let b = stream(Format::Json, text.as_bytes());
        assert_eq!(b.len(), 2);
        assert_eq!(b.status[0] == RowStatus::Ok, ok, "{length}");
        assert!(ok || (reject(&b, 0).stage, reject(&b, 0).reason) == (Stage::Limit, OVERLONG));
        assert_eq!(b.status[1], RowStatus::Ok);
        let b = csv(&format!("1,2,1,0,{},,,\n", "a".repeat(length - 11)));
        assert_eq!(b.status[0] == RowStatus::Ok, ok, "csv {length}");
        let mut frame = ((length as u32).to_le_bytes()).to_vec();
        frame.resize(4 + length, 0);
        let b = stream(Format::Binary, &frame);
        assert_eq!(reject(&b, 0).stage, if ok { Stage::Decode } else { Stage::Limit }, "binary {length}");
    }
    for (name, o) in [
        ("event_bytes_max", DecodeOptions { event_bytes_max: 0, ..options(Format::Json) }),
        ("nesting_max", DecodeOptions { nesting_max: 0, ..options(Format::Json) }),
    ] {
        assert!(Decoder::new(&all_types(), &o).expect_err(name).message.contains(name));
    }
}

#[test]
fn lines_rows_and_offsets() {
    let text = b"\n{\"f\":1}\r\n \t\r\n{\"f\":2}\nbad\n\n{\"f\":3}";
    let b = stream(Format::Json, text);
    let offsets: Vec<_> = b.origins.iter().map(|o| (o.offset, o.row)).collect();
    assert_eq!(offsets, [(100, None), (101, None), (102, None), (103, None)]);
    assert_eq!(b.origins[0].raw.of(text), b"{\"f\":1}");
    assert_eq!(b.origins[2].raw.of(text), b"bad");
    assert_eq!(b.row_numbers(3)[0], 3.0);
}

#[test]
fn messages_share_an_offset_and_number_their_rows() {
    let parts: [(RecordKind, &[u8]); 5] = [
        (RecordKind::Message, b"{\"f\":1}"),
        (RecordKind::Message, b"{\"f\":2}\n\n{\"f\":3}\nx"),
        (RecordKind::Message, b"\n{\"f\":4}\n\r\n"),
        (RecordKind::Message, b""),
        (RecordKind::Message, b"1}"),
    ];
    let b = decode(&all_types(), &options(Format::Json), &block(&parts)).0;
    let origins: Vec<_> = b.origins.iter().map(|o| (o.record, o.offset, o.row)).collect();
    let expected =
        [(0, 100, None), (1, 100, Some(0)), (1, 100, Some(1)), (1, 100, Some(2)), (2, 100, None), (4, 100, None)];
    assert_eq!(origins, expected);
    assert_eq!(reject(&b, 3).stage, Stage::Decode);
    assert_eq!(reject(&b, 5).stage, Stage::Decode);
}

#[test]
fn a_row_never_reaches_into_the_next_record() {
    // The first record teaches the layout; the second would fit only with the third's bytes.
    let parts: [(RecordKind, &[u8]); 4] = [
        (RecordKind::Message, b"{\"n\":11,\"f\":22}"),
        (RecordKind::Message, b"{\"n\":11,\"f\":2"),
        (RecordKind::Message, b"2}\n                             "),
        (RecordKind::Message, b"{\"n\":12,\"f\":23}                                        "),
    ];
    let b = decode(&all_types(), &options(Format::Json), &block(&parts)).0;
    assert_eq!(b.status[0], RowStatus::Ok);
    assert_eq!(reject(&b, 1).stage, Stage::Decode);
    assert_eq!(reject(&b, 2).stage, Stage::Decode);
    assert_eq!(b.row_numbers(3)[..2], [23.0, 12.0]);
}

#[test]
fn overlong_and_header_records() {
    let parts: [(RecordKind, &[u8]); 3] =
        [(RecordKind::Header, b"x"), (RecordKind::Overlong, b"{\"f\":1}"), (RecordKind::Stream, b"{\"f\":2}")];
    let block = block(&parts);
    let b = decode(&all_types(), &options(Format::Json), &block).0;
    assert_eq!(b.len(), 2);
    assert_eq!((reject(&b, 0).stage, reject(&b, 0).reason), (Stage::Limit, "event longer than event_bytes_max"));
    assert_eq!(b.origins[0].raw.of(&block.bytes), b"{\"f\":1}");
    assert_eq!(b.row_numbers(1)[0], 2.0);
}

#[test]
fn missing_features_are_counted() {
    let text = b"{\"f\":null,\"n\":1}\n{\"f\":1,\"b\":1,\"t\":1,\"c\":\"a\",\"x\":\"b\"}\nbad\n{\"f\":\"x\"}\n";
    let (_, decoder) = decode(&all_types(), &options(Format::Json), &block(&[(RecordKind::Stream, text)]));
    assert_eq!(decoder.missing(), [1, 1, 1, 1, 1, 1, 0, 0]);
}

#[test]
fn csv_values_by_type() {
    let b = csv("1.5, 7 ,YES,1970-01-01T00:00:01Z,a b,\"q\"\"u,o\nte\",no,12\r\n+.5,3.0,false,5,,,True,0x\n");
    assert_eq!(b.status, [RowStatus::Ok, RowStatus::Ok]);
    assert_eq!(b.row_numbers(0), [1.5, 7.0, 1.0, 1000.0, 0.0]);
    assert_eq!(token(&b, 0, 0), (TokenKind::Text, "a b".into()));
    assert_eq!(token(&b, 0, 1), (TokenKind::Text, "q\"u,o\nte".into()));
    assert_eq!(token(&b, 0, 2), (TokenKind::Literal, "12".into()));
    assert_eq!(b.row_numbers(1), [0.5, 3.0, 0.0, 5.0, 1.0]);
    assert_eq!(token(&b, 1, 0).0, TokenKind::Missing);
    assert_eq!(token(&b, 1, 2), (TokenKind::Text, "0x".into()));
}

#[test]
fn csv_what_is_missing() {
    for line in [
        ",,,,,,,",
        " ,\t,,,\"\",,,",
        "NaN,nan,NaN,nan,,,,",
        "inf,1e999,,-Infinity,,,nan,",
        "1e400,9007199254740993,,,,,,",
    ] {
        let b = csv(line);
        assert_eq!(b.status[0], RowStatus::Ok, "{line}");
        assert!(b.row_numbers(0).iter().all(|n| n.is_nan()), "{line}");
        assert!(b.row_tokens(0).iter().all(|t| t.kind == TokenKind::Missing), "{line}");
    }
}

#[test]
fn csv_rows_that_are_turned_away() {
    for (line, stage, field) in [
        ("1,2", Stage::Decode, None),
        ("1,2,1,0,a,b,1,1,9", Stage::Decode, None),
        ("1,2,1,0,a,b,1,1,", Stage::Decode, None),
        ("1,2,1,0,\"a\"b,b,1,1", Stage::Decode, None),
        ("1,2,1,0,\"a,b,1,1", Stage::Decode, None),
        ("x,2,1,0,a,b,1,1", Stage::Schema, Some(0)),
        ("1,2.5,1,0,a,b,1,1", Stage::Schema, Some(1)),
        ("1,2,maybe,0,a,b,1,1", Stage::Schema, Some(2)),
        ("1,2,7,0,a,b,1,1", Stage::Schema, Some(2)),
        ("1,2,1,now,a,b,1,1", Stage::Schema, Some(3)),
        ("x,2,1", Stage::Decode, None),
    ] {
        let b = csv(&format!("1,2,1,0,a,b,1,1\n{line}"));
        assert_eq!(b.len(), 2);
        assert_eq!(b.status[0], RowStatus::Ok);
        assert_eq!((reject(&b, 1).stage, reject(&b, 1).field), (stage, field), "{line}");
    }
    let b = csv("1,2\n1,2,1,0,\"a\nb\"x,b,1,1\n\r\n1,2,1,0,a\"b,b,1,1\n");
    assert_eq!(b.len(), 3);
    assert_eq!(b.status[2], RowStatus::Ok);
    assert_eq!(token(&b, 2, 0).1, "a\"b");
}

#[test]
fn csv_columns_come_from_the_header_or_the_options() {
    let s = schema("label='y'\n[fields]\na='float'\nc='category'\ny='bool'");
    let parts: [(RecordKind, &[u8]); 2] =
        [(RecordKind::Header, b"\xEF\xBB\xBF\"c\",more,a\r\n"), (RecordKind::Stream, b"k,9,1.5\n")];
    let b = decode(&s, &options(Format::Csv), &block(&parts)).0;
    assert_eq!((b.row_numbers(0)[0], token(&b, 0, 0).1.as_str()), (1.5, "k"));
    assert!(b.row_numbers(0)[1].is_nan());
    let with = |names: &[&str]| DecodeOptions {
        columns: Some(names.iter().map(|n| n.to_string()).collect()),
        ..options(Format::Csv)
    };
    let b = decode(&s, &with(&["y", "c", "a"]), &block(&[(RecordKind::Message, b"yes,k,2\nno,,3")])).0;
    assert_eq!((b.row_numbers(0), b.row_numbers(1)), (&[2.0, 1.0][..], &[3.0, 0.0][..]));
    for (names, part) in [(&["y", "a"][..], "\"c\""), (&["a", "a", "c"], "\"a\""), (&[], "empty")] {
        let fault = Decoder::new(&s, &with(names)).expect_err("misuse");
        assert_eq!(fault.class, crate::error::Class::Misuse);
        assert!(fault.message.contains(part), "{fault}");
    }
}

#[test]
fn csv_inputs_without_a_usable_header() {
    let b = decode(&all_types(), &options(Format::Csv), &block(&[(RecordKind::Message, b"1,2\n3,4")])).0;
    assert_eq!(b.len(), 2);
    assert!(reject(&b, 0).reason.contains("no header"));
    for (header, field) in [(&b"f,n,b,t,c,c"[..], Some(4)), (b"f,n", Some(2)), (b"\"f", None)] {
        let b = decode(
            &all_types(),
            &options(Format::Csv),
            &block(&[(RecordKind::Header, header), (RecordKind::Stream, b"1,2\n3,4\n")]),
        )
        .0;
        assert_eq!((reject(&b, 0).field, reject(&b, 1).field), (field, field));
    }
}

#[test]
fn csv_headers_are_kept_by_input() {
    let s = schema("[fields]\na='float'\nb='float'");
    let mut blk = block(&[
        (RecordKind::Header, b"a,b"),
        (RecordKind::Header, b"b,a"),
        (RecordKind::Stream, b"1,2"),
        (RecordKind::Stream, b"1,2"),
    ]);
    (blk.records[1].input, blk.records[2].input) = (1, 1);
    let (b, mut decoder) = decode(&s, &options(Format::Csv), &blk);
    assert_eq!((b.row_numbers(0), b.row_numbers(1)), (&[2.0, 1.0][..], &[1.0, 2.0][..]));
    decoder.forget_input(1);
    blk.records.truncate(3);
    blk.records.drain(..2);
    let mut batch = Batch::new(2, 0);
    assert!(decoder.fill(&blk, &mut Cursor::default(), &mut batch, 9));
    assert!(reject(&batch, 0).reason.contains("no header"));
}

/// A frame of the schema of all types.
fn frame(sequence: u64, numbers: [f64; 4], tokens: [Option<&[u8]>; 2], label: f64, id: &[u8]) -> Vec<u8> {
    let mut rest = sequence.to_le_bytes().to_vec();
    numbers.iter().for_each(|n| rest.extend_from_slice(&n.to_le_bytes()));
    let token = |rest: &mut Vec<u8>, token: Option<&[u8]>| {
        rest.extend_from_slice(&token.map_or(u32::MAX, |t| t.len() as u32).to_le_bytes());
        rest.extend_from_slice(token.unwrap_or_default());
    };
    tokens.iter().for_each(|t| token(&mut rest, *t));
    rest.extend_from_slice(&label.to_le_bytes());
    token(&mut rest, Some(id));
    let mut frame = (rest.len() as u32).to_le_bytes().to_vec();
    frame.extend(rest);
    frame
}

#[test]
fn binary_frames() {
    let mut bytes = frame(7, [1.5, 2.0, 1.0, 3.0], [Some("é".as_bytes()), None], 0.0, b"12");
    let first = bytes.len();
    bytes.extend(frame(8, [f64::INFINITY, 1e16, f64::NAN, 0.0], [None, None], 1.0, b"x"));
    bytes.extend(frame(9, [1.0, 1.5, 0.0, 0.0], [None, None], 1.0, b""));
    bytes.extend(frame(10, [1.0, 1.0, 0.0, 0.0], [Some(b"\xFF"), None], 1.0, b""));
    bytes.extend([3, 0, 0, 0, 1, 2, 3]);
    let mut long = frame(11, [0.0; 4], [None, None], 1.0, b"");
    long.push(0);
    long[0] += 1;
    bytes.extend(long);
    bytes.extend(&frame(12, [0.0; 4], [None, None], 1.0, b"")[..30]);
    let b = stream(Format::Binary, &bytes);
    assert_eq!(b.len(), 7);
    assert_eq!((b.origins[0].sequence, b.origins[0].raw.of(&bytes)), (7, &bytes[..first]));
    assert_eq!(b.row_numbers(0), [1.5, 2.0, 1.0, 3.0, 0.0]);
    assert_eq!(token(&b, 0, 0), (TokenKind::Text, "é".into()));
    assert_eq!(token(&b, 0, 2), (TokenKind::Literal, "12".into()));
    assert_eq!(bits(b.row_numbers(1))[..3], [f64::NAN.to_bits(); 3]);
    assert_eq!((reject(&b, 2).stage, reject(&b, 2).field), (Stage::Schema, Some(1)));
    let reasons: Vec<_> = (3..7).map(|i| reject(&b, i).reason).collect();
    let expected = [
        "not UTF-8",
        "a frame is too short for its sequence number",
        "bytes after the last field",
        "a frame is cut short",
    ];
    assert_eq!(reasons, expected);
    assert_eq!(b.origins[5].sequence, 11);
    assert_eq!(b.origins[6].offset, 106);
}

#[test]
fn of_a_repeated_key_the_last_value_counts_in_a_learned_layout_too() {
    let mut rows = vec!["{\"f\":1.5,\"f\":2.5,\"n\":1}"; 40];
    rows[30] = "{\"f\":0.12345678901234567,\"f\":2.5,\"n\":1}";
    rows[35] = "{\"f\":null,\"f\":2.5,\"n\":1}";
    let b = stream(Format::Json, rows.join("\n").as_bytes());
    assert!((0..40).all(|row| b.row_numbers(row)[..2] == [2.5, 1.0]));
}

#[test]
fn a_learned_layout_changes_no_value() {
    let rows = [
        "{\"f\": 1.5, \"n\": 2, \"b\": true, \"c\": \"x\", \"a_key_longer_than_sixteen\": 1, \"i\": 5}",
        "{\"f\": 2.5, \"n\": 3, \"b\": false, \"c\": \"y\\\"\", \"a_key_longer_than_sixteen\": [1], \"i\": \"q\"}",
        "{\"f\": null, \"n\": null, \"b\": null, \"c\": null, \"a_key_longer_than_sixteen\": null, \"i\": null}",
        "{\"f\": 01, \"n\": 3, \"b\": false, \"c\": \"y\", \"a_key_longer_than_sixteen\": 2, \"i\": 1}",
        "{\"f\": 1, \"n\": 3.5, \"b\": false, \"c\": \"y\", \"a_key_longer_than_sixteen\": 2, \"i\": 1}",
        "{\"f\": 1e3, \"n\": 3, \"b\": 0, \"c\": 4, \"a_key_longer_than_sixteem\": 2, \"i\": 1}",
        "{\"f\": 1, \"n\": 3, \"b\": 0, \"c\": 4, \"a_key_longer_than_sixteen\": 2, \"i\": 1} x",
        "{\"f\": 3, \"n\": 3, \"b\": 0, \"c\": \"\u{e9}\", \"a_key_longer_than_sixteen\": 2, \"i\": 1}",
    ];
    let together = stream(Format::Json, rows.join("\n").as_bytes());
    for (i, row) in rows.iter().enumerate() {
        let alone = json(row);
        assert_eq!(together.status[i], alone.status[0], "{row}");
        assert_eq!(bits(together.row_numbers(i)), bits(alone.row_numbers(0)), "{row}");
        for slot in 0..3 {
            assert_eq!(token(&together, i, slot), token(&alone, 0, slot), "{row}");
        }
    }
}

mod in_lanes_and_one_by_one {
    use super::*;
    use crate::wide::narrowly;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            12 => "-?[0-9]\\.[0-9]{1,6}",
            4 => "-?(0|[1-9][0-9]{0,10})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,2})?",
            2 => "-?[0-9]{1,17}",
            2 => "true|false|null",
            1 => "\"[a-z,}{\\\\\"é]{0,6}\"",
            1 => "\"[a-z,}]{0,20}\"",
            1 => "[0-9.eE+-]{0,9}",
        ]
    }

    /// Rows of the same keys, long and short; now and then one that is otherwise.
    fn rows() -> impl Strategy<Value = String> {
        let keys = prop::sample::subsequence(
            vec!["f", "n", "b", "t", "c", "x", "y", "i", "a_key_that_is_longer_than_sixteen_bytes"],
            1..9,
        );
        let row = (prop::collection::vec(value(), 9), 0..40u8);
        (keys.prop_shuffle(), prop::collection::vec(row, 1..40), any::<bool>()).prop_map(|(keys, rows, spaced)| {
            let (comma, colon) = if spaced { (", ", ": ") } else { (",", ":") };
            let mut text = String::new();
            for (values, odd) in rows {
                let members: Vec<String> =
                    keys.iter().zip(&values).map(|(key, value)| format!("\"{key}\"{colon}{value}")).collect();
                let end = match odd {
                    0 => "}\r\n",
                    1 => " }\n",
                    2 => "}\n\n",
                    3 => ",\"extra\":1}\n",
                    4 => "\n",
                    _ => "}\n",
                };
                text += &format!("{{{}{end}", members.join(comma));
            }
            text
        })
    }

    /// Lines of CSV cells, of the right number or not, some of them quoted.
    fn lines() -> impl Strategy<Value = String> {
        let cell = prop_oneof![
            9 => value().prop_map(|text| text.replace(['\n', '"'], "")),
            1 => "|\"[a-z,\n]{0,5}\"| 1\\.5 |\\+7|007|\\.5|TRUE|true1|truer|false|é",
        ];
        let line = (prop::collection::vec(cell, 8), 0..30u8).prop_map(|(cells, odd)| match odd {
            0 => cells[..7].join(",") + "\n",
            1 => cells.join(",") + ",9\n",
            2 => cells.join(",") + "\r\n",
            3 => cells.join(",") + "\n\r\n",
            _ => cells.join(",") + "\n",
        });
        prop::collection::vec(line, 1..60).prop_map(|lines| lines.concat())
    }

    /// All that is to be known of the rows of a block, `cut` at a time.
    fn told(block: &Block, options: &DecodeOptions, cut: usize) -> String {
        let mut decoder = Decoder::new(&all_types(), options).expect("decoder");
        let (mut cursor, mut rows) = (Cursor::default(), Vec::new());
        let mut batch = Batch::new(all_types().number_stride, all_types().token_stride);
        while decoder.fill(block, &mut cursor, &mut batch, cut) {
            for row in 0..batch.len() {
                let tokens: Vec<_> = (0..all_types().token_stride).map(|slot| token(&batch, row, slot)).collect();
                rows.push((bits(batch.row_numbers(row)), tokens, batch.status[row], batch.origins[row]));
            }
            batch.clear();
        }
        format!("{rows:?} {:?}", decoder.missing())
    }

    fn packed(text: &str) -> Block {
        let lines: Vec<(RecordKind, &[u8])> =
            text.split_inclusive('\n').map(|line| (RecordKind::Message, line.as_bytes())).collect();
        block(&lines)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn are_the_same_rows(text in rows(), cut in 1usize..9, messages in any::<bool>()) {
            let block = if messages { packed(&text) } else { block(&[(RecordKind::Stream, text.as_bytes())]) };
            let options = DecodeOptions { event_bytes_max: 100_000, ..options(Format::Json) };
            let all = || told(&block, &options, cut);
            prop_assert_eq!(all(), narrowly(all));
        }

        #[test]
        fn are_the_same_lines(text in lines(), cut in 1usize..9, messages in any::<bool>(), wider in any::<bool>()) {
            let block = if messages { packed(&text) } else { block(&[(RecordKind::Stream, text.as_bytes())]) };
            // A column that the schema doesn't know, or eight that it does.
            let names = if wider { "c,f,n,b,t,other,x,y" } else { "f,n,b,t,c,x,y,i" };
            let columns = Some(names.split(',').map(str::to_string).collect());
            let options = DecodeOptions { event_bytes_max: 100_000, columns, ..options(Format::Csv) };
            let all = || told(&block, &options, cut);
            prop_assert_eq!(all(), narrowly(all));
        }
    }
}
