//! Rows that are scored together, where the model gains from it: all rows of a frozen model; of one that learns, the
//! rows that are not labelled, and in a model that learns in units, those up to the end of a unit.
//!
//! Nothing but the order of the work changes. The steps learn each row before the next one passes them, as ever;
//! the model scores rows that it has collected when what it knows is about to change, and then learns them, in order.

use super::event::{feature_cells, features, load};
use super::fill::has_nan;
use super::{Counts, GOLDEN_ROWS_MAX, GoldenRow, Pipeline, event_of};
use crate::batch::{Batch, RowStatus, Scores};
use crate::model::{Features, Learned, Model, TOGETHER_MAX, Visit};
use crate::preprocess::Row;
use crate::schema::Schema;
use std::array::from_fn;

/// Room for the rows that wait to be scored.
#[derive(Default)]
pub(super) struct Together {
    /// The model gains from it.
    pub on: bool,
    /// Rows that go together.
    most: usize,
    waiting: [Waiting; TOGETHER_MAX],
    count: usize,
    /// Those of them that will be learned.
    to_learn: u64,
    /// Numbers a row's scores.
    width: usize,
    /// Where the first row's scores begin.
    start: usize,
}

/// A row that waits.
#[derive(Default)]
struct Waiting {
    /// Its place in the batch.
    index: usize,
    /// What the model scores, and what it learns where that isn't the same.
    row: Row,
    learned_row: Row,
    /// It is scored as it was decoded: `row` is not used.
    bare: bool,
    differs: bool,
    /// Target and weight, where it is learned.
    learns: Option<(f64, f64)>,
}

impl Together {
    pub fn new(model: &dyn Model) -> Together {
        let most = model.together().min(TOGETHER_MAX);
        Together { on: most > 1, most, ..Together::default() }
    }
}

impl Waiting {
    fn before<'a>(&'a self, schema: &Schema, batch: &'a Batch) -> Features<'a> {
        match self.bare {
            true => Features { dense: feature_cells(schema, batch, self.index).0, indices: &[], values: &[] },
            false => features(&self.row),
        }
    }

    fn visit<'a>(&'a self, schema: &Schema, batch: &'a Batch) -> Visit<'a> {
        let after = self.differs.then(|| features(&self.learned_row));
        Visit { before: self.before(schema, batch), after, learns: self.learns }
    }
}

impl Pipeline {
    /// Each row of the batch in turn, as [`Pipeline::rows`].
    pub(super) fn rows_together(&mut self, batch: &mut Batch, scores: &mut Scores, learn: bool, counts: &mut Counts) {
        let checks = self.fill.rejects() || self.weight.is_some();
        for row in 0..batch.len() {
            let mut target = f64::NAN;
            if batch.status[row] == RowStatus::Ok {
                match if checks { self.check(batch, row) } else { Ok(()) } {
                    Ok(()) => target = self.wait(batch, row, scores, learn, counts),
                    Err(reject) => batch.status[row] = RowStatus::Rejected(reject),
                }
            }
            // What waits has its place among the scores already.
            scores.ends.push(scores.values.len() as u32);
            self.targets.push(target);
        }
        self.score_waiting(batch, scores, counts);
    }

    /// Lets the steps have a row, which then waits for its score. Returns its target, NaN where it has none.
    fn wait(&mut self, batch: &Batch, row: usize, scores: &mut Scores, learn: bool, counts: &mut Counts) -> f64 {
        // The classes known so far may have grown.
        let width = self.width();
        if self.together.width != width {
            self.score_waiting(batch, scores, counts);
        }
        if self.together.count == 0 {
            (self.together.width, self.together.start) = (width, scores.values.len());
        }
        scores.values.resize(scores.values.len() + width, 0.0);
        counts.scored += 1;
        let target = self.target(batch, row).unwrap_or(f64::NAN);
        let learns = learn && (!target.is_nan() || self.model.learns_unlabelled());
        let learns = learns.then(|| (target, self.weight_of(batch, row)));
        let bare = self.steps.is_empty() && !has_nan(feature_cells(&self.schema, batch, row).0);
        let differs = if bare { self.pass_bare(batch, row, learns) } else { self.pass_steps(batch, row, learns) };
        let together = &mut self.together;
        let waiting = &mut together.waiting[together.count];
        if !bare {
            std::mem::swap(&mut waiting.row, &mut self.row);
        }
        if differs {
            std::mem::swap(&mut waiting.learned_row, &mut self.learned_row);
        }
        (waiting.index, waiting.bare, waiting.differs, waiting.learns) = (row, bare, differs, learns);
        together.count += 1;
        together.to_learn += u64::from(learns.is_some());
        if together.count == together.most || (together.to_learn > 0 && together.to_learn >= self.model.unit_left()) {
            self.score_waiting(batch, scores, counts);
        }
        target
    }

    /// A row that no step sees and that has no gap.
    fn pass_bare(&mut self, batch: &Batch, row: usize, learns: Option<(f64, f64)>) -> bool {
        if learns.is_some() {
            self.fill.learn_later(batch, row);
        }
        false
    }

    /// Makes `self.row` what the model scores. True where what it learns is something else, in `self.learned_row`.
    fn pass_steps(&mut self, batch: &Batch, row: usize, learns: Option<(f64, f64)>) -> bool {
        let gaps = load(&mut self.row, &self.schema, batch, row);
        if gaps {
            self.fill.catch_up(batch);
        }
        match learns {
            Some((_, weight)) => self.learn_row(batch, row, gaps, 0, weight),
            None => {
                self.transform_row(gaps, 0, &batch.text);
                false
            }
        }
    }

    /// Scores the rows that wait, then learns those that are to be learned.
    fn score_waiting(&mut self, batch: &Batch, scores: &mut Scores, counts: &mut Counts) {
        let (count, schema) = (std::mem::take(&mut self.together.count), &self.schema);
        let waiting = &self.together.waiting[..count];
        let Some(last) = waiting.last() else { return };
        let out = &mut scores.values[self.together.start..];
        let each = |i: usize| waiting.get(i).unwrap_or(last);
        if std::mem::take(&mut self.together.to_learn) == 0 {
            let rows: [Features<'_>; TOGETHER_MAX] = from_fn(|i| each(i).before(schema, batch));
            return self.model.score_rows(&rows[..count], &mut self.scratch, out);
        }
        let rows: [Visit<'_>; TOGETHER_MAX] = from_fn(|i| each(i).visit(schema, batch));
        let learned = self.model.score_learn_rows(&rows[..count], &mut self.scratch, out);
        for (waiting, learned) in waiting.iter().zip(learned).filter(|(waiting, _)| waiting.learns.is_some()) {
            match learned {
                Learned::Applied => {
                    counts.learned += 1;
                    self.learned += 1;
                }
                Learned::Refused => counts.refused += 1,
                Learned::Frozen => {}
            }
            if self.golden.len() < GOLDEN_ROWS_MAX {
                let event = event_of(schema, batch, waiting.index);
                self.golden.push(GoldenRow { event, scores: Vec::new() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::batch::RowStatus;
    use crate::model::tree::Ensemble;
    use crate::pipeline::Pipeline;
    use crate::pipeline::ahead::tests::push;
    use crate::state::State;
    use crate::wide::narrowly;
    use proptest::prelude::*;

    const SCHEMA: &str = "name = \"x\"\n[schema]\nlabel = \"y\"\nweight = \"w\"\n[schema.fields]\nn = \"float\"\n\
                          b = { type = \"float\", missing = \"reject\" }\nz = { type = \"float\", missing = \"zero\" }\n\
                          w = \"float\"\n";
    const SCALE: &str = "[[steps]]\nkind = \"standard-scale\"\n";
    const IMPUTE: &str = "[[steps]]\nkind = \"impute\"\n";
    const CATEGORY: &str = "c = \"category\"\n[[steps]]\nkind = \"one-hot\"\n";

    /// How a pipeline is run: whether rows go together, whether it learns, and the batches' lengths.
    #[derive(Debug, Clone, Copy)]
    struct Way<'a> {
        together: bool,
        learn: bool,
        lengths: &'a [usize],
    }

    /// Scores, statuses, and all that was learned.
    fn run(mut pipeline: Pipeline, way: Way<'_>) -> (Vec<u64>, Vec<RowStatus>, String) {
        assert!(pipeline.together.on, "it gains from it");
        pipeline.together.on = way.together;
        let (mut scores, mut bits, mut statuses) = (pipeline.scores(0), Vec::new(), Vec::new());
        let mut random = 1u64;
        for rows in way.lengths {
            let mut batch = pipeline.batch();
            (0..*rows).for_each(|_| push(&mut batch, &mut random));
            let counts = pipeline.run(&mut batch, &mut scores, way.learn, &mut ());
            bits.extend(scores.values.iter().map(|score| score.to_bits()));
            bits.extend(scores.ends.iter().map(|end| u64::from(*end)));
            bits.extend([counts.scored, counts.learned, counts.refused]);
            statuses.append(&mut batch.status);
        }
        let (manifest, state) = pipeline.snapshot("x", serde_json::Value::Null, serde_json::Value::Null);
        let tensors: Vec<u8> = state.tensors.values().flat_map(|tensor| tensor.data.bytes().into_owned()).collect();
        let hash = xxhash_rust::xxh3::xxh3_64(&tensors);
        (bits, statuses, format!("{hash:x} {} {:?}", manifest.learned, manifest.golden))
    }

    fn same_together_and_alone(make: impl Fn() -> Pipeline, learn: bool, lengths: &[usize]) {
        let alone = run(make(), Way { together: false, learn, lengths });
        let way = Way { together: true, learn, lengths };
        assert_eq!(alone, run(make(), way), "{:?}", make().spec());
        assert_eq!(alone, narrowly(|| run(make(), way)), "narrow: {:?}", make().spec());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        /// Networks of all shapes behind steps that learn and steps that don't, with gaps, rejected rows, rows
        /// without a label, new classes and weights, in batches of all lengths: rows that go together change nothing.
        #[test]
        fn a_network_scores_and_learns_the_same_whether_rows_go_together(
            lengths in prop::collection::vec(0usize..40, 1..8),
            layers in prop::collection::vec(1usize..40, 0..4),
            unit in 1u32..20,
            way in (0usize..4, 0usize..3, 0usize..4, any::<bool>()),
        ) {
            let activation = ["relu", "tanh", "sigmoid", "identity"][way.0];
            let label = ["bool", "float", "category"][way.1];
            let steps = ["", SCALE, IMPUTE, CATEGORY][way.2];
            // What comes behind the schema's fields, with the field that one of them needs.
            let (field, steps) = if steps == CATEGORY { steps.split_at(steps.find('[').unwrap()) } else { ("", steps) };
            let spec = format!(
                "{SCHEMA}{field}y = \"{label}\"\n{steps}[model]\nkind = \"multilayer-perceptron\"\nlayers = {layers:?}\n\
                 unit_events = {unit}\nactivation = \"{activation}\"\n"
            );
            same_together_and_alone(|| Pipeline::from_spec_text(&spec).expect("spec"), way.3, &lengths);
        }
    }

    #[test]
    fn trees_score_the_same_whether_rows_go_together() {
        let keep = SCHEMA.replace("n = \"float\"", "n = { type = \"float\", missing = \"keep\" }");
        for (label, outputs, width) in [("bool", 1, 1), ("float", 1, 1), ("category", 3, 1), ("category", 3, 3)] {
            for less_or_equal in [false, true] {
                let make = || {
                    let spec = format!("{keep}y = \"{label}\"\n[model]\nkind = \"decision-tree\"\n");
                    let mut pipeline = Pipeline::from_spec_text(&spec).expect("spec");
                    let mut state = State::new();
                    trees(outputs, width, less_or_equal).save(&mut state, "model.");
                    pipeline.load_model(&state, 0).expect("trees");
                    pipeline
                };
                for learn in [false, true] {
                    same_together_and_alone(make, learn, &[0, 1, 7, 8, 9, 40, 3, 17]);
                    let spec = format!("{keep}y = \"{label}\"\n[model]\nkind = \"decision-tree\"\n");
                    let untrained = || Pipeline::from_spec_text(&spec).expect("spec");
                    same_together_and_alone(untrained, learn, &[5, 30]);
                }
            }
        }
    }

    /// Chains of splits of several depths.
    fn trees(outputs: usize, width: usize, less_or_equal: bool) -> Ensemble {
        let mut random = crate::model::random::Random::new(7);
        let mut trees = Ensemble::new(outputs, width);
        trees.less_or_equal = less_or_equal;
        let mut leaf = |trees: &mut Ensemble| {
            let values: Vec<f64> = (0..width).map(|_| random.normal()).collect();
            trees.push_leaf(&values)
        };
        for tree in 0..11_usize {
            trees.start_tree(if width == 1 { (tree % outputs) as u32 } else { 0 });
            let mut open = None;
            for depth in 0..tree % 5 {
                let split = trees.push_split((depth % 3) as u32, 0.3 * depth as f64 - 0.4, depth % 2 == 0);
                if let Some((parent, leaf)) = open {
                    trees.set_children(parent, split, leaf);
                }
                open = Some((split, leaf(&mut trees)));
            }
            let last = leaf(&mut trees);
            if let Some((parent, leaf)) = open {
                trees.set_children(parent, leaf, last);
            }
        }
        trees
    }
}
