//! The lines of predictions and errors, and the records that they go out in.

use super::*;
use crate::batch::{Record, RecordKind, Stage, Token};
use crate::schema::SchemaSpec;

fn schema(text: &str) -> Schema {
    let spec: SchemaSpec = toml::from_str(text).expect("spec");
    Schema::from_spec(&spec).expect("schema")
}

fn inputs() -> Vec<Arc<str>> {
    vec!["events/3".into(), "a\"b".into()]
}

fn scores(task: Task, rows: &[&[f64]]) -> Scores {
    let mut scores = Scores {
        task,
        values: Vec::new(),
        ends: Vec::new(),
        classes: vec![b"cat".to_vec(), b"d\"og".to_vec(), b"3".to_vec()],
        version: "3f9c2ab1".into(),
        swap: 2,
    };
    for row in rows {
        scores.values.extend_from_slice(row);
        scores.ends.push(scores.values.len() as u32);
    }
    scores
}

const REJECT: Reject = Reject { stage: Stage::Schema, reason: "not a number", field: Some(0), byte: 5 };

/// A block of `records` records with a key each, and a batch of one row for each of `rows` (record,
/// input, row in its message, accepted).
fn case(schema: &Schema, rows: &[(u32, u32, Option<u32>, bool)]) -> (Block, Batch) {
    let mut block = Block { bytes: b"rawkeyhead".to_vec(), records: Vec::new(), read_at_ns: 77 };
    let records = rows.iter().map(|r| r.0).max().unwrap_or(0) + 1;
    for _ in 0..records {
        block.records.push(Record {
            span: Span::new(0, 3),
            input: 0,
            kind: RecordKind::Message,
            offset: 0,
            byte: 0,
            key: Some(Span::new(3, 6)),
            headers: Some(Span::new(6, 10)),
        });
    }
    let mut batch = Batch::new(schema.number_stride, schema.token_stride);
    for (record, input, row, accepted) in rows {
        let index = batch.push_row(RowOrigin {
            raw: Span::new(0, 3),
            record: *record,
            input: *input,
            offset: 123,
            row: *row,
            sequence: 0,
        });
        if !accepted {
            batch.status[index] = RowStatus::Rejected(REJECT);
        }
    }
    (block, batch)
}

/// The bytes of one accepted row.
fn line(spec: &str, options: EncodeOptions, scores: &Scores, change: impl Fn(&mut Batch)) -> String {
    let schema = schema(spec);
    let (block, mut batch) = case(&schema, &[(0, 0, None, true)]);
    change(&mut batch);
    let mut outbox = Outbox::default();
    Encoder::new(&schema, &options).encode(&block, &batch, scores, &inputs(), 4567, &mut outbox);
    assert_eq!((outbox.predictions, outbox.records.len(), outbox.read_at_ns), (1, 1, 77));
    assert_eq!(outbox.records[0].span, Span::new(0, outbox.bytes.len()));
    String::from_utf8(outbox.bytes).expect("UTF-8")
}

const PLAIN: &str = "[fields]\na='float'";
const QUIET: EncodeOptions = EncodeOptions { lane: None, answer_rejects: false, newline: false };

#[test]
fn the_line_of_each_task() {
    for (task, row, part) in [
        (Task::Binary, &[0.7312][..], r#""score":0.7312,"class":true"#),
        (Task::Binary, &[0.5], r#""score":0.5,"class":false"#),
        (Task::Binary, &[f64::NAN], r#""score":null,"class":false"#),
        (Task::Regression, &[-1.0], r#""score":-1.0"#),
        (Task::Regression, &[f64::INFINITY], r#""score":null"#),
        (Task::Anomaly, &[1e-9], r#""score":1e-9"#),
        (Task::Clusters, &[3.0, 2.5], r#""class":3,"score":2.5"#),
        (Task::Multiclass, &[0.25, 0.5, 0.25], r#""class":"d\"og","scores":{"cat":0.25,"d\"og":0.5,"3":0.25}"#),
        (Task::Multiclass, &[0.5, 0.5], r#""class":"cat","scores":{"cat":0.5,"d\"og":0.5}"#),
        (Task::Multiclass, &[f64::NAN, 0.5], r#""class":"d\"og","scores":{"cat":null,"d\"og":0.5}"#),
        (Task::Multiclass, &[], r#""class":null,"scores":{}"#),
    ] {
        let text = line(PLAIN, QUIET, &scores(task, &[row]), |_| {});
        let expected =
            format!(r#"{{"input":"events/3","offset":123,"seq":4567,{part},"version":"3f9c2ab1","swap":2}}"#);
        assert_eq!(text, expected);
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
    }
}

#[test]
fn what_else_a_line_may_hold() {
    let spec = "id='i'\nkey='k'\n[fields]\na='float'\ni='int'\nk='category'";
    let options = EncodeOptions { lane: Some(1), newline: true, ..QUIET };
    let one = scores(Task::Regression, &[&[1.0]]);
    let text = line(spec, options, &one, |batch| {
        batch.text.extend_from_slice(b"17k\n");
        batch.tokens[0] = Token { span: Span::new(0, 2), kind: TokenKind::Literal };
        batch.tokens[1] = Token { span: Span::new(2, 4), kind: TokenKind::Text };
        (batch.origins[0].row, batch.origins[0].sequence) = (Some(0), 9);
        batch.origins[0].input = 1;
    });
    let expected = concat!(
        r#"{"input":"a\"b","offset":123,"row":0,"seq":4567,"sequence":9,"lane":1,"id":17,"key":"k\n","score":1.0,"#,
        r#""version":"3f9c2ab1","swap":2}"#,
        "\n"
    );
    assert_eq!(text, expected);
    assert!(line(spec, QUIET, &one, |_| {}).contains(r#""seq":4567,"id":null,"key":null,"score""#));
}

#[test]
fn rejected_rows_become_dead_letters() {
    let schema = schema(PLAIN);
    let (block, batch) = case(&schema, &[(0, 0, None, false), (1, 1, Some(4), true), (1, 1, Some(5), false)]);
    let scored = scores(Task::Regression, &[&[], &[1.5], &[]]);
    let mut outbox = Outbox::default();
    Encoder::new(&schema, &QUIET).encode(&block, &batch, &scored, &inputs(), 0, &mut outbox);
    assert_eq!((outbox.predictions, outbox.records.len(), outbox.records[0].rows), (1, 1, 1));
    let expected = DeadLetter {
        raw: b"raw".to_vec(),
        reject: REJECT,
        field: Some("a".into()),
        input: 1,
        offset: 123,
        row: Some(5),
        key: Some(b"key".to_vec()),
        headers: Some(b"head".to_vec()),
    };
    assert_eq!((outbox.dead.len(), &outbox.dead[1]), (2, &expected));

    let mut outbox = Outbox::default();
    let options = EncodeOptions { answer_rejects: true, newline: true, lane: None };
    Encoder::new(&schema, &options).encode(&block, &batch, &scored, &inputs(), 8, &mut outbox);
    let text = String::from_utf8(outbox.bytes.clone()).expect("UTF-8");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        r#"{"error":{"stage":"schema","reason":"not a number","input":"events/3","offset":123,"field":"a"},"seq":8}"#
    );
    assert!(lines[1].contains(r#""row":4,"seq":9,"score":1.5"#));
    assert!(lines[2].contains(r#""offset":123,"row":5,"field":"a"},"seq":10}"#));
    assert_eq!((outbox.predictions, outbox.dead.len()), (1, 2));
    assert_eq!(outbox.records.iter().map(|r| r.rows).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn one_record_answers_one_record_however_it_was_cut() {
    let schema = schema(PLAIN);
    let rows: Vec<_> = [0, 0, 1, 2, 2, 2, 2, 3].iter().map(|&r| (r, 0, None, true)).collect();
    let values: Vec<f64> = (0..rows.len()).map(|i| i as f64).collect();
    let encode = |cuts: usize| {
        let (mut outbox, mut encoder) = (Outbox::default(), Encoder::new(&schema, &QUIET));
        for block in 0..2 {
            outbox.clear();
            for (i, chunk) in rows.chunks(cuts).enumerate() {
                let (_, batch) = case(&schema, chunk);
                let (whole, _) = case(&schema, &rows);
                let part: Vec<&[f64]> = values[i * cuts..].chunks(1).take(chunk.len()).collect();
                let seq = (block * rows.len() + i * cuts) as u64;
                encoder.encode(&whole, &batch, &scores(Task::Regression, &part), &inputs(), seq, &mut outbox);
            }
        }
        outbox
    };
    let whole = encode(rows.len());
    assert_eq!(whole.records.iter().map(|r| r.rows).collect::<Vec<_>>(), [2, 1, 4, 1]);
    assert_eq!(whole.keys, b"keykeykeykey");
    for record in &whole.records {
        let lines: Vec<&[u8]> = record.span.of(&whole.bytes).split(|&b| b == b'\n').collect();
        assert_eq!(lines.len(), record.rows as usize);
        assert_eq!(record.key.map(|k| k.of(&whole.keys)), Some(&b"key"[..]));
        lines.iter().for_each(|l| drop(serde_json::from_slice::<serde_json::Value>(l).expect("JSON")));
    }
    for cuts in [1, 3] {
        let cut = encode(cuts);
        assert_eq!((cut.bytes, cut.records), (whole.bytes.clone(), whole.records.clone()), "{cuts}");
    }
}

/// Lines are counted on from row to row, over every change in the number of digits and past rows that were turned
/// away: each is as it would be if it were written alone.
#[test]
fn lines_counted_on_are_as_lines_written_alone() {
    let schema = schema("label = \"y\"\nfields.x = \"float\"\nfields.y = \"bool\"\n");
    let options = EncodeOptions { newline: true, answer_rejects: true, lane: Some(3) };
    let rows: Vec<_> = (0..2_500).map(|i| (0, u32::from(i > 2_000), None, i % 97 != 5)).collect();
    let (block, mut batch) = case(&schema, &rows);
    for (i, origin) in batch.origins.iter_mut().enumerate() {
        // A jump, then on from there; a client's numbers near the end.
        origin.offset = if i < 700 { i as u64 } else { 98_000 + i as u64 };
        origin.sequence = if i > 2_300 { i as u64 } else { 0 };
    }
    let values: Vec<[f64; 1]> = (0..rows.len()).map(|i| [i as f64 / 2_500.0]).collect();
    let slices: Vec<&[f64]> = values.iter().map(|v| &v[..]).collect();
    let mut together = Outbox::default();
    let all = scores(Task::Binary, &slices);
    Encoder::new(&schema, &options).encode(&block, &batch, &all, &inputs(), 95, &mut together);
    let mut alone = Vec::new();
    for (i, slice) in slices.iter().enumerate() {
        let (block, mut one) = case(&schema, &rows[i..i + 1]);
        one.origins[0] = batch.origins[i];
        let mut outbox = Outbox::default();
        let score = scores(Task::Binary, &[slice]);
        Encoder::new(&schema, &options).encode(&block, &one, &score, &inputs(), 95 + i as u64, &mut outbox);
        alone.extend_from_slice(&outbox.bytes);
    }
    let (together, alone) = (String::from_utf8_lossy(&together.bytes), String::from_utf8_lossy(&alone));
    assert_eq!(together.lines().count(), rows.len());
    together.lines().zip(alone.lines()).for_each(|(together, alone)| assert_eq!(together, alone));
}
