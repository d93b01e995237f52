//! Scores to bytes: any scores, names and texts give lines of JSON that say the same, to the bit.

use super::input::Input;
use millstream::batch::{
    Batch, Block, Outbox, Record, RecordKind, Reject, RowOrigin, RowStatus, Scores, Span, Stage, Task, Token, TokenKind,
};
use millstream::encode::{EncodeOptions, Encoder, dead_letter_json};
use millstream::schema::Schema;
use serde_json::Value;
use std::sync::{Arc, OnceLock};

fn schema() -> &'static Schema {
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let spec = toml::from_str("id='i'\nkey='k'\n[fields]\nf='float'\ni='text'\nk='category'").expect("a spec");
        Schema::from_spec(&spec).expect("a schema")
    })
}

/// Input: task, options, number of classes, text, then rows.
pub fn predictions(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let task = [Task::Binary, Task::Multiclass, Task::Regression, Task::Anomaly, Task::Clusters][input.below(5)];
    let choice = input.byte();
    let options = EncodeOptions {
        lane: (choice & 1 != 0).then_some(u32::from(choice)),
        answer_rejects: choice & 2 != 0,
        newline: choice & 4 != 0,
    };
    let length = input.byte() as usize;
    let text = String::from_utf8_lossy(input.take(length)).into_owned();
    let class = |n: usize| format!("{n}{text}").into_bytes();
    let classes: Vec<Vec<u8>> = (0..input.below(4)).map(class).collect();
    let mut scores =
        Scores { task, values: Vec::new(), ends: Vec::new(), classes, version: "3f9c2ab1".into(), swap: input.word() };
    let (seq, offset) = (input.word() >> 1, input.word() >> 1);

    let mut block = Block { bytes: text.clone().into_bytes(), ..Block::default() };
    let whole = Span::new(0, block.bytes.len());
    let mut batch = Batch::new(schema().number_stride, schema().token_stride);
    batch.text = block.bytes.clone();
    while !input.is_empty() && batch.len() < 20 {
        row(&mut input, &mut block, &mut batch, &mut scores, whole, offset);
    }
    let (mut encoder, mut outbox) = (Encoder::new(schema(), &options), Outbox::default());
    let inputs: [Arc<str>; 1] = [text.as_str().into()];
    encoder.encode(&block, &batch, &scores, &inputs, seq, &mut outbox);

    let lines = lines(&options, &outbox);
    let mut lines = lines.iter();
    for at in 0..batch.len() {
        let accepted = batch.status[at] == RowStatus::Ok;
        if accepted || options.answer_rejects {
            let line = lines.next().expect("a line for each row");
            assert_eq!(line["seq"], seq + at as u64);
            let place = if accepted { line } else { &line["error"] };
            assert_eq!(place["offset"], batch.origins[at].offset, "{line}");
            assert_eq!(place["input"], text, "{line}");
            assert_eq!(line.get("lane").and_then(Value::as_u64), options.lane.map(u64::from));
            if accepted {
                says(line, task, scores.row(at), &scores.classes);
                echoes(line, &batch, at);
            }
        }
    }
    assert_eq!(lines.next(), None, "no further line");
    assert_eq!(outbox.dead.len(), batch.status.iter().filter(|s| **s != RowStatus::Ok).count());
    for letter in &outbox.dead {
        let mut line = Vec::new();
        dead_letter_json(letter, &text, &mut line);
        let value: Value = serde_json::from_slice(&line).expect("a dead letter is JSON");
        assert_eq!((line.last(), &value["raw"]), (Some(&b'\n'), &Value::from(text.as_str())));
    }
}

/// Adds a row, of a record of its own or of the last one.
fn row(input: &mut Input<'_>, block: &mut Block, batch: &mut Batch, scores: &mut Scores, raw: Span, offset: u64) {
    let choice = input.byte();
    if block.records.is_empty() || choice & 1 != 0 {
        let (kind, key) = (RecordKind::Message, Some(raw));
        block.records.push(Record { span: raw, input: 0, kind, offset, byte: 0, key, headers: None });
    }
    let record = block.records.len() as u32 - 1;
    let (offset, sequence) = (offset + u64::from(record), u64::from(choice & 8));
    let packed = (choice & 2 != 0).then_some(u32::from(choice));
    let at = batch.push_row(RowOrigin { raw, record, input: 0, offset, row: packed, sequence });
    let tokens = at * batch.token_stride;
    for token in &mut batch.tokens[tokens..] {
        let kind = if raw.is_empty() || choice & 4 == 0 { TokenKind::Missing } else { TokenKind::Text };
        *token = Token { span: raw, kind };
    }
    if choice & 0x30 == 0x30 {
        let field = (choice & 0x40 != 0).then_some(u16::from(choice & 1));
        batch.status[at] = RowStatus::Rejected(Reject { stage: Stage::Schema, reason: "not so", field, byte: 1 });
    } else {
        let width = match scores.task {
            Task::Multiclass => input.below(1 + scores.classes.len()),
            Task::Clusters => 2,
            _ => 1,
        };
        scores.values.extend((0..width).map(|_| f64::from_bits(input.word())));
        if scores.task == Task::Clusters {
            // The cluster is a number of one.
            let at = scores.values.len() - 2;
            scores.values[at] = f64::from(choice);
        }
    }
    scores.ends.push(scores.values.len() as u32);
}

/// The lines of all records, each a value.
fn lines(options: &EncodeOptions, outbox: &Outbox) -> Vec<Value> {
    let mut lines = Vec::new();
    for record in &outbox.records {
        let bytes = record.span.of(&outbox.bytes);
        let text = std::str::from_utf8(bytes).expect("UTF-8");
        assert_eq!(text.ends_with('\n'), options.newline);
        assert_eq!(text.lines().count(), record.rows as usize);
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON")));
        for line in text.lines() {
            shortest(line);
        }
    }
    assert_eq!(outbox.records.iter().map(|r| r.span.len()).sum::<usize>(), outbox.bytes.len());
    lines
}

/// Each number that has a fraction or an exponent is as short as the standard library's shortest (by digits).
fn shortest(line: &str) {
    let Some(at) = line.rfind("\"score\":") else { return };
    let number: String = line[at + 8..].chars().take_while(|c| !matches!(c, ',' | '}')).collect();
    let Ok(value) = number.parse::<f64>() else { return };
    let digits = |text: &str| {
        let mantissa: String =
            text.split(['e', 'E']).next().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
        mantissa.trim_matches('0').len()
    };
    assert_eq!(digits(&number), digits(&format!("{value:e}")), "{number}");
}

/// The line says what the scores are.
fn says(line: &Value, task: Task, scores: &[f64], classes: &[Vec<u8>]) {
    let same = |value: &Value, score: f64| match value.as_f64() {
        Some(read) => assert_eq!(read.to_bits(), score.to_bits(), "{line}"),
        None => assert!(value.is_null() && !score.is_finite(), "{line}: {score}"),
    };
    match task {
        Task::Multiclass => {
            let best = (0..scores.len()).filter(|i| !scores[*i].is_nan());
            let best = best.reduce(|best, i| if scores[i] > scores[best] { i } else { best });
            let name = |i: usize| String::from_utf8_lossy(&classes[i]).into_owned();
            assert_eq!(line["class"], best.map_or(Value::Null, |i| name(i).into()), "{line}");
            let by_class = line["scores"].as_object().expect("scores by class");
            assert_eq!(by_class.len(), scores.len(), "{line}");
            for (i, score) in scores.iter().enumerate() {
                same(&by_class[&name(i)], *score);
            }
        }
        Task::Clusters => {
            assert_eq!(line["class"], scores[0] as u64, "{line}");
            same(&line["score"], scores[1]);
        }
        Task::Binary => {
            assert_eq!(line["class"], scores[0] > 0.5, "{line}");
            same(&line["score"], scores[0]);
        }
        Task::Regression | Task::Anomaly => same(&line["score"], scores[0]),
    }
}

fn echoes(line: &Value, batch: &Batch, at: usize) {
    for (name, token) in ["id", "key"].iter().zip(batch.row_tokens(at)) {
        match token.kind {
            TokenKind::Missing => assert!(line[name].is_null(), "{line}"),
            _ => assert_eq!(line[name].as_str().map(str::as_bytes), Some(batch.token_bytes(*token)), "{line}"),
        }
    }
}
