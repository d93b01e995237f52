//! Rows that are made ready before their turn, where the model's hashed table is so large that what a row needs of it
//! must be fetched from far away: while a row is learned, what the next ones need is on its way.
//!
//! Only what depends on nothing that is learned is done ahead: rows without gaps, and the steps before the first that
//! learns. So a row is the same whenever it is made ready, and no score depends on how far ahead that is.

use super::event::{features, load};
use crate::batch::{Batch, RowStatus};
use crate::model::Model;
use crate::preprocess::{Row, Step};
use crate::schema::Schema;

/// How many rows ahead. A row of twenty categories asks for twenty lines of memory, and a core waits for some two
/// dozen at once.
const ROWS: usize = 3;

/// Room for the rows that are ready.
#[derive(Default)]
pub(super) struct Ahead {
    /// The batch's rows are made ready ahead.
    pub on: bool,
    /// Row i of the batch is at i modulo [`ROWS`].
    rows: [(Row, bool); ROWS],
}

impl Ahead {
    pub fn new(on: bool) -> Ahead {
        Ahead { on, ..Ahead::default() }
    }

    /// Makes the batch's first rows ready.
    pub fn begin(&mut self, of: &Source<'_>, batch: &Batch) {
        (0..ROWS).for_each(|row| self.make_ready(of, batch, row));
    }

    /// Row `row`, which takes the place of `to`, and gives its own to the one that is made ready. False where it
    /// isn't ready; then `to` is as it was.
    #[inline]
    pub fn take(&mut self, of: &Source<'_>, batch: &Batch, row: usize, to: &mut Row) -> bool {
        let (ready_row, ready) = &mut self.rows[row % ROWS];
        let ready = *ready;
        if ready {
            std::mem::swap(ready_row, to);
        }
        self.make_ready(of, batch, row + ROWS);
        ready
    }

    #[inline]
    fn make_ready(&mut self, of: &Source<'_>, batch: &Batch, index: usize) {
        let (row, ready) = &mut self.rows[index % ROWS];
        *ready = batch.status.get(index) == Some(&RowStatus::Ok) && !load(row, of.schema, batch, index);
        if *ready {
            of.steps.iter().for_each(|step| step.transform(row, &batch.text));
            of.model.prefetch(features(row).indices);
        }
    }
}

/// What makes rows ready.
pub(super) struct Source<'a> {
    pub schema: &'a Schema,
    /// Those before the first that learns.
    pub steps: &'a [Box<dyn Step>],
    pub model: &'a dyn Model,
}

#[cfg(test)]
pub(super) mod tests {
    use crate::batch::{Batch, Reject, RowOrigin, RowStatus, Span, Stage, Token, TokenKind};
    use crate::pipeline::Pipeline;

    /// Categories and numbers with gaps, rows that were rejected, rows without a label, new classes, batches of all
    /// lengths: made ready ahead or not, everything is the same to the bit.
    #[test]
    fn rows_made_ready_ahead_score_and_teach_the_same() {
        let schema = "name = \"x\"\n[schema]\nlabel = \"y\"\nweight = \"w\"\n[schema.fields]\na = \"category\"\n\
                      b = { type = \"category\", missing = \"reject\" }\nn = \"float\"\nw = \"float\"\n";
        let hash = "[[steps]]\nkind = \"hash\"\nbits = 20\n";
        let scale = "[[steps]]\nkind = \"standard-scale\"\nfields = [\"n\"]\n";
        for (label, model) in [
            ("bool", "logistic-regression\"\noptimizer = \"adagrad"),
            ("bool", "logistic-regression\"\noptimizer = \"vw"),
            ("float", "passive-aggressive"),
            ("category", "softmax-regression\"\noptimizer = \"adam"),
        ] {
            for steps in [hash.to_string(), format!("{hash}{scale}"), format!("{scale}{hash}")] {
                let spec = format!("{schema}y = \"{label}\"\n{steps}[model]\nkind = \"{model}\"\n");
                let ahead = Pipeline::from_spec_text(&spec).expect("spec").ahead.on;
                assert_eq!(ahead, !steps.starts_with(scale), "{spec}");
                assert_eq!(run(&spec, true), run(&spec, false), "{spec}");
            }
        }
    }

    fn run(spec: &str, ahead: bool) -> (Vec<u64>, Vec<RowStatus>, String) {
        let mut pipeline = Pipeline::from_spec_text(spec).expect("spec");
        pipeline.ahead.on &= ahead;
        let (mut scores, mut bits, mut statuses) = (pipeline.scores(0), Vec::new(), Vec::new());
        let mut random = 1u64;
        for rows in [0, 1, 2, 3, 4, 5, 40, 7, 100] {
            let mut batch = pipeline.batch();
            for _ in 0..rows {
                push(&mut batch, &mut random);
            }
            pipeline.run(&mut batch, &mut scores, true, &mut ());
            bits.extend(scores.values.iter().map(|score| score.to_bits()));
            statuses.append(&mut batch.status);
        }
        let (_, state) = pipeline.snapshot("x", serde_json::Value::Null, serde_json::Value::Null);
        let bytes: Vec<u8> = state.tensors.values().flat_map(|tensor| tensor.data.bytes().into_owned()).collect();
        (bits, statuses, format!("{:x}", xxhash_rust::xxh3::xxh3_64(&bytes)))
    }

    /// A row of whatever comes to mind.
    pub fn push(batch: &mut Batch, random: &mut u64) {
        let mut below = |most: u64| {
            *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*random >> 33) % most
        };
        let origin = RowOrigin { raw: Span::default(), record: 0, input: 0, offset: 0, row: None, sequence: 0 };
        let row = batch.push_row(origin);
        for slot in 0..batch.number_stride {
            // Features come first; labels and weights are 0, 1 or missing.
            let any = if slot == 0 { below(1_000) as f64 / 500.0 - 1.0 } else { below(2) as f64 };
            batch.numbers[row * batch.number_stride + slot] = if below(8) == 0 { f64::NAN } else { any };
        }
        for slot in 0..batch.token_stride {
            let start = batch.text.len();
            batch.text.extend_from_slice(format!("v{}", below(9)).as_bytes());
            let kind = if below(9) == 0 { TokenKind::Missing } else { TokenKind::Text };
            batch.tokens[row * batch.token_stride + slot] = Token { span: Span::new(start, batch.text.len()), kind };
        }
        let reject = Reject { stage: Stage::Decode, reason: "made up", field: None, byte: 0 };
        batch.status[row] = if below(7) == 0 { RowStatus::Rejected(reject) } else { RowStatus::Ok };
    }
}
