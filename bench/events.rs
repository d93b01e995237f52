//! The rows that the workloads share: 20 floats with three decimals and a label, made once, as JSON,
//! CSV and frames; and what a pipeline must answer to them.

use millstream::batch::{Batch, Block, Cursor, Record, RecordKind, Span};
use millstream::decode::{DecodeOptions, Decoder, Format};
use millstream::pipeline::Pipeline;
use millstream::schema::Schema;
use millstream::source::Framing;
use millstream::source::generator::{GeneratorOptions, Kind, write_rows};

/// Features of a row.
pub const FEATURES: usize = 20;
/// Rows that are decoded at once, as in the daemon.
pub const BATCH_EVENTS: usize = 1_024;

/// `models/hyperplane.toml`: standard-scale and logistic regression with SGD.
pub const PIPELINE: &str = include_str!("../models/hyperplane.toml");

/// Rows as numbers: thousandths, and the label.
pub struct Rows {
    milli: Vec<i32>,
    labels: Vec<bool>,
}

impl Rows {
    /// The first `count` rows of the hyperplane stream, spread over -2 to 2.
    pub fn new(count: usize) -> Rows {
        let mut frames = Vec::new();
        let options = GeneratorOptions::new(Kind::Hyperplane, 1);
        write_rows(&options, Framing::Binary, 0, count as u64, &mut frames).expect("the generator's own options");
        let frame = 4 + 8 + (FEATURES + 1) * 8;
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(f64::NAN, |b| f64::from_le_bytes(*b));
        let mut rows = Rows { milli: Vec::with_capacity(count * FEATURES), labels: Vec::with_capacity(count) };
        for frame in frames.chunks_exact(frame) {
            let cells = frame[12..].chunks_exact(8).map(number);
            rows.milli.extend(cells.take(FEATURES).map(|x| ((4.0 * x - 2.0) * 1e3).round() as i32));
            rows.labels.push(number(&frame[12 + FEATURES * 8..]) == 1.0);
        }
        rows
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    fn row(&self, row: usize) -> &[i32] {
        &self.milli[row * FEATURES..(row + 1) * FEATURES]
    }

    /// JSON lines, keys in the schema's order.
    pub fn json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 260);
        for row in 0..self.len() {
            for (i, milli) in self.row(row).iter().enumerate() {
                out.extend_from_slice(if i == 0 { b"{\"f" } else { b",\"f" });
                out.extend_from_slice(itoa::Buffer::new().format(i).as_bytes());
                out.extend_from_slice(b"\":");
                decimal(*milli, &mut out);
            }
            out.extend_from_slice(b",\"label\":");
            out.extend_from_slice(if self.labels[row] { b"true}\n" } else { b"false}\n" });
        }
        out
    }

    /// JSON lines, keys in another order each time, with three keys that the schema doesn't know.
    pub fn json_shuffled(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 330);
        let mut state = 1_u64;
        for row in 0..self.len() {
            let mut cells: Vec<Vec<u8>> = (0..FEATURES)
                .map(|i| {
                    let mut cell = format!("\"f{i}\":").into_bytes();
                    decimal(self.row(row)[i], &mut cell);
                    cell
                })
                .collect();
            cells.push(format!("\"label\":{}", self.labels[row]).into_bytes());
            cells.push(format!("\"trace\":\"{row:08x}\"").into_bytes());
            cells.push(b"\"host\":\"sensor-7.example\"".to_vec());
            cells.push(b"\"tags\":[\"a\",\"b\",{\"c\":null}]".to_vec());
            for i in (1..cells.len()).rev() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                cells.swap(i, (state >> 33) as usize % (i + 1));
            }
            out.push(b'{');
            out.extend_from_slice(&cells.join(&b','));
            out.extend_from_slice(b"}\n");
        }
        out
    }

    /// CSV without its header.
    pub fn csv(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 150);
        for row in 0..self.len() {
            for milli in self.row(row) {
                decimal(*milli, &mut out);
                out.push(b',');
            }
            out.extend_from_slice(if self.labels[row] { b"true\n" } else { b"false\n" });
        }
        out
    }

    /// Binary frames with sequence number 0.
    pub fn frames(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 180);
        for row in 0..self.len() {
            out.extend_from_slice(&(8 + (FEATURES as u32 + 1) * 8).to_le_bytes());
            out.extend_from_slice(&0_u64.to_le_bytes());
            self.row(row).iter().for_each(|m| out.extend_from_slice(&(f64::from(*m) / 1e3).to_le_bytes()));
            out.extend_from_slice(&f64::from(u8::from(self.labels[row])).to_le_bytes());
        }
        out
    }

    /// Vowpal Wabbit's text: `1 | 0:… 1:…`.
    pub fn vw(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() * 200);
        for row in 0..self.len() {
            out.extend_from_slice(if self.labels[row] { b"1 |" } else { b"-1 |" });
            for (i, milli) in self.row(row).iter().enumerate() {
                out.extend_from_slice(format!(" f{i}:").as_bytes());
                decimal(*milli, &mut out);
            }
            out.push(b'\n');
        }
        out
    }
}

/// The header of [`Rows::csv`].
pub fn csv_header() -> String {
    (0..FEATURES).map(|i| format!("f{i},")).collect::<String>() + "label\n"
}

/// Thousandths with three decimals.
fn decimal(milli: i32, out: &mut Vec<u8>) {
    if milli < 0 {
        out.push(b'-');
    }
    let (whole, part) = (milli.unsigned_abs() / 1000, milli.unsigned_abs() % 1000);
    out.push(b'0' + whole as u8);
    out.push(b'.');
    out.extend_from_slice(&[b'0' + (part / 100) as u8, b'0' + (part / 10 % 10) as u8, b'0' + (part % 10) as u8]);
}

/// The bytes as one record of a block, as a socket would hand them on.
pub fn block(bytes: Vec<u8>) -> Block {
    let span = Span::new(0, bytes.len());
    let kind = RecordKind::Stream;
    let record = Record { span, input: 0, kind, offset: 0, byte: 0, key: None, headers: None };
    Block { bytes, records: vec![record], read_at_ns: 0 }
}

/// A decoder with the daemon's default limits.
pub fn decoder(schema: &Schema, format: Format) -> Result<Decoder, String> {
    let columns = (format == Format::Csv).then(|| schema.fields.iter().map(|f| f.name.clone()).collect());
    let options = DecodeOptions { format, event_bytes_max: 1 << 20, nesting_max: 64, columns };
    Decoder::new(schema, &options).map_err(|f| f.to_string())
}

/// Decodes a whole block, batch after batch.
pub fn for_each_batch(
    decoder: &mut Decoder,
    block: &Block,
    batch: &mut Batch,
    events_max: usize,
    mut take: impl FnMut(&mut Batch),
) {
    let mut cursor = Cursor::default();
    loop {
        batch.clear();
        if !decoder.fill(block, &mut cursor, batch, events_max) {
            return;
        }
        take(batch);
    }
}

/// The scores that a pipeline gives to the JSON rows, learning as it goes: what the daemon must answer.
pub fn expected_scores(spec: &str, json: &[u8]) -> Result<Vec<f64>, String> {
    let mut pipeline = Pipeline::from_spec_text(spec).map_err(|f| f.to_string())?;
    let mut decoder = decoder(pipeline.schema(), Format::Json)?;
    let (mut batch, mut scores) = (pipeline.batch(), pipeline.scores(0));
    let mut all = Vec::new();
    for_each_batch(&mut decoder, &block(json.to_vec()), &mut batch, BATCH_EVENTS, |batch| {
        pipeline.run(batch, &mut scores, true, &mut ());
        all.extend_from_slice(&scores.values);
    });
    Ok(all)
}

/// The offset and the score that a prediction line carries.
pub fn read_prediction(line: &[u8]) -> Option<(u64, f64)> {
    let after = |key: &[u8]| {
        let at = memchr::memmem::find(line, key)? + key.len();
        let end = at + memchr::memchr2(b',', b'}', &line[at..])?;
        std::str::from_utf8(&line[at..end]).ok()
    };
    Some((after(b"\"offset\":")?.parse().ok()?, after(b"\"score\":")?.parse().ok()?))
}

/// Checks prediction lines against the scores expected of the first rows: in order, and to the last bit.
/// Returns how many lines there were.
pub fn check_predictions(lines: &[u8], expected: &[f64]) -> Result<usize, String> {
    let mut count = 0;
    for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let text = || String::from_utf8_lossy(line).into_owned();
        let (offset, score) = read_prediction(line).ok_or_else(|| format!("no prediction: {}", text()))?;
        if offset != count as u64 {
            return Err(format!("answer {count} is for offset {offset}: {}", text()));
        }
        if let Some(expected) = expected.get(count)
            && expected.to_bits() != score.to_bits()
        {
            return Err(format!("row {count} scores {score}, and {expected} in this process"));
        }
        count += 1;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_formats_hold_the_same_rows() {
        let rows = Rows::new(50);
        let pipeline = Pipeline::from_spec_text(PIPELINE).expect("the spec");
        let numbers = |bytes, format| {
            let mut all = Vec::new();
            let mut batch = pipeline.batch();
            let mut decoder = decoder(pipeline.schema(), format).expect("a decoder");
            for_each_batch(&mut decoder, &block(bytes), &mut batch, 7, |b| all.extend_from_slice(&b.numbers));
            all
        };
        let json = numbers(rows.json(), Format::Json);
        assert_eq!(json.len(), 50 * 21);
        assert_eq!(json, numbers(rows.json_shuffled(), Format::Json));
        assert_eq!(json, numbers(rows.csv(), Format::Csv));
        assert_eq!(json, numbers(rows.frames(), Format::Binary));
    }

    #[test]
    fn a_wrong_answer_is_noticed() {
        let line = |offset, score| {
            format!("{{\"input\":\"a\",\"offset\":{offset},\"seq\":0,\"score\":{score},\"class\":true}}\n")
        };
        let good = line(0, 0.5) + &line(1, 0.25);
        assert_eq!(check_predictions(good.as_bytes(), &[0.5, 0.25]), Ok(2));
        assert!(check_predictions(good.as_bytes(), &[0.5, 0.250_000_000_000_000_06]).is_err());
        assert!(check_predictions((line(1, 0.5)).as_bytes(), &[]).is_err());
        assert!(check_predictions(b"{\"error\":{}}\n", &[]).is_err());
    }
}
