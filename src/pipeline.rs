//! The pipeline: schema + steps + model, as one thing that scores, learns, is snapshotted and restored.
//!
//! One event: the steps and the model score it as they stand; then, if it is labelled (or the model
//! needs no label), the steps learn it, it is transformed again, and the model learns it. A label
//! never leaks into its own prediction, and a row is scored by the state that has learned every
//! earlier labelled row, wherever batches were cut.

mod ahead;
mod event;
mod fill;
mod fitting;
mod golden;
mod together;

pub use golden::GoldenRow;

use crate::artifact;
use crate::batch::{Batch, Reject, RowStatus, Scores, Stage, Task, TokenKind};
use crate::error::{Fault, Result};
use crate::faults;
use crate::model::{self, LabelKind, Learned, Model, Scratch, Shape};
use crate::preprocess::{self, Row, Step};
use crate::schema::{Missing, Role, Schema, SchemaSpec, Slot};
use crate::state::{COUNT_MAX, State};
use ahead::{Ahead, Source};
use event::{feature_cells, features, first_layout, label_of, load};
use fill::Fill;
use golden::{batch_of, event_of};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use together::Together;

/// Classes of a category label that are told apart unless the schema says otherwise.
pub const CLASSES_MAX_DEFAULT: usize = 64;
/// Most classes that a schema may ask for.
pub const CLASSES_MAX: usize = 65_536;
/// Golden rows that an artifact carries.
pub const GOLDEN_ROWS_MAX: usize = 8;

/// A pipeline as it is written: the text of `models/*.toml`, and part of every manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineSpec {
    /// A name for people.
    pub name: String,
    /// The fields of an event.
    pub schema: SchemaSpec,
    /// What happens to a row before the model sees it, in order.
    #[serde(default)]
    pub steps: Vec<Map<String, Value>>,
    /// What scores a row and learns from it.
    pub model: Map<String, Value>,
}

impl PipelineSpec {
    /// Reads a spec's TOML text.
    ///
    /// # Errors
    /// Misuse, with line and column.
    pub fn parse(text: &str) -> Result<PipelineSpec> {
        toml::from_str(text).map_err(|e| Fault::misuse(format!("pipeline spec: {}", e.to_string().trim_end())))
    }
}

/// The manifest of an artifact or a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// `artifact` or `checkpoint`.
    pub kind: String,
    /// What the pipeline is.
    pub pipeline: PipelineSpec,
    /// Examples that the state has learned.
    pub learned: u64,
    /// Rows with their expected scores.
    #[serde(default)]
    pub golden: Vec<GoldenRow>,
    /// Who wrote it, from what.
    #[serde(default)]
    pub provenance: Value,
    /// A checkpoint's place in the stream.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub position: Value,
}

/// What a batch brought, for the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows scored.
    pub scored: u64,
    /// Rows learned.
    pub learned: u64,
    /// Updates refused because a weight would have become non-finite.
    pub refused: u64,
}

/// Takes the scores, made before it was learned, and the target of every labelled row.
pub trait Observer {
    /// One labelled row.
    fn observe(&mut self, scores: &[f64], target: f64);

    /// A batch: one target a row, NaN where it has none.
    fn observe_all(&mut self, scores: &Scores, targets: &[f64]) {
        for (row, target) in targets.iter().enumerate().filter(|(_, target)| !target.is_nan()) {
            self.observe(scores.row(row), *target);
        }
    }
}

impl Observer for () {
    fn observe(&mut self, _: &[f64], _: f64) {}
}

/// A loaded pipeline.
pub struct Pipeline {
    spec: PipelineSpec,
    schema: Schema,
    fill: Fill,
    steps: Vec<Box<dyn Step>>,
    /// How many steps there are before the first that learns.
    fixed_steps: usize,
    model: Box<dyn Model>,
    task: Task,
    label: Option<(LabelKind, Slot)>,
    weight: Option<(usize, u16)>,
    classes: Vec<Vec<u8>>,
    learned: u64,
    golden: Vec<GoldenRow>,
    hash: String,
    shape: Shape,
    /// What the model scores, and what it learns where that isn't the same.
    row: Row,
    learned_row: Row,
    ahead: Ahead,
    together: Together,
    scratch: Scratch,
    /// The targets of a batch's rows, NaN where there is none.
    targets: Vec<f64>,
}

impl Pipeline {
    /// An untrained pipeline from a spec's TOML text.
    ///
    /// # Errors
    /// Misuse, naming the part of the spec.
    pub fn from_spec_text(text: &str) -> Result<Pipeline> {
        let mut pipeline = Pipeline::build(PipelineSpec::parse(text)?)?;
        pipeline.hash = artifact::content_hash(text.as_bytes());
        Ok(pipeline)
    }

    /// A pipeline from the bytes of a file: an artifact or checkpoint, or a spec's text. Golden rows
    /// are scored and compared.
    ///
    /// # Errors
    /// Misuse or Corruption, naming the tensor, the row or the line.
    pub fn from_bytes(bytes: &[u8]) -> Result<Pipeline> {
        if !artifact::is_artifact(bytes) {
            let text = std::str::from_utf8(bytes)
                .map_err(|_| Fault::corruption("neither an artifact (safetensors) nor a spec (TOML text)"))?;
            return Pipeline::from_spec_text(text);
        }
        let (manifest, state) = artifact::decode(bytes)?;
        let manifest: Manifest =
            serde_json::from_value(manifest).map_err(|e| Fault::corruption(format!("manifest: {e}")))?;
        let mut pipeline = Pipeline::restore(&manifest, &state)?;
        pipeline.hash = artifact::content_hash(bytes);
        Ok(pipeline)
    }

    /// A pipeline from a manifest and its tensors.
    ///
    /// # Errors
    /// As [`Pipeline::from_bytes`].
    pub fn restore(manifest: &Manifest, state: &State) -> Result<Pipeline> {
        let mut pipeline = Pipeline::build(manifest.pipeline.clone())?;
        pipeline.classes = state.get_strings("classes")?;
        pipeline.fill.load(state)?;
        for (i, step) in pipeline.steps.iter_mut().enumerate() {
            if !faults::planted("scaler-state-not-saved") {
                step.load(state, &format!("steps.{i}."))?;
            }
        }
        pipeline.model.load(state, "model.")?;
        if manifest.learned > COUNT_MAX {
            return Err(Fault::corruption(format!("manifest: learned = {} is no count", manifest.learned)));
        }
        pipeline.learned = manifest.learned;
        pipeline.golden.clone_from(&manifest.golden);
        if !faults::planted("scaler-state-not-saved") {
            pipeline.check_golden_rows()?;
        }
        Ok(pipeline)
    }

    /// An untrained pipeline.
    ///
    /// # Errors
    /// Misuse, naming the part of the spec.
    pub fn build(spec: PipelineSpec) -> Result<Pipeline> {
        let schema = Schema::from_spec(&spec.schema)?;
        let label = label_of(&spec.schema, &schema)?;
        let fill = Fill::new(&spec, &schema);
        let mut layout = first_layout(&schema);
        let mut steps = Vec::with_capacity(spec.steps.len());
        let (mut fixed_steps, mut fixed_slots) = (0, 0);
        for (i, step) in spec.steps.iter().enumerate() {
            let (step, next) = preprocess::build(step, &layout).map_err(|f| f.at(format!("steps[{i}]")))?;
            fixed_slots = if steps.len() == fixed_steps && !step.learns() {
                fixed_steps += 1;
                next.slots
            } else {
                fixed_slots
            };
            steps.push(step);
            layout = next;
        }
        let shape = Shape {
            dense: layout.dense.iter().map(|(name, _)| name.clone()).collect(),
            slots: layout.slots,
            label: label.map(|(kind, _)| kind),
        };
        let model = model::build(&spec.model, &shape)?;
        if let Some(field) = schema.features().find(|f| f.missing == Missing::Keep)
            && !model.routes_nan()
        {
            return Err(Fault::misuse(format!(
                "schema.fields.{}: missing = \"keep\" with a model that cannot route NaN",
                field.name
            ))
            .hint("use \"impute\", \"zero\" or \"reject\""));
        }
        if let Some((name, _)) = layout.tokens.first() {
            return Err(Fault::misuse(format!("the category or text {name:?} reaches the model"))
                .hint("add a step that turns it into numbers (one-hot, hash), or drop it (drop, or schema.ignore)"));
        }
        let weight = schema.role(Role::Weight).and_then(|f| match f.slot {
            Slot::Number(i) => Some((i, schema.index_of(&f.name)? as u16)),
            Slot::Token(_) => None,
        });
        let (task, hash) = (model.task(), artifact::content_hash(json!(spec).to_string().as_bytes()));
        let (row, learned_row, scratch, targets) = Default::default();
        let ahead = Ahead::new(fixed_slots > 0 && model.fetches_ahead());
        let together = Together::new(&*model);
        let (classes, golden) = Default::default();
        Ok(Pipeline {
            spec,
            schema,
            fill,
            steps,
            fixed_steps,
            model,
            task,
            label,
            weight,
            classes,
            learned: 0,
            golden,
            hash,
            shape,
            row,
            learned_row,
            ahead,
            together,
            scratch,
            targets,
        })
    }

    /// The schema of the events.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }
    /// The spec it was built from.
    pub fn spec(&self) -> &PipelineSpec {
        &self.spec
    }
    /// What the model predicts.
    pub fn task(&self) -> Task {
        self.task
    }
    /// Examples learned so far.
    pub fn learned(&self) -> u64 {
        self.learned
    }
    /// Content hash of the artifact (or spec) as it was loaded: 64 hex digits.
    pub fn hash(&self) -> &str {
        &self.hash
    }
    /// The version: the first 8 digits of the hash.
    pub fn version(&self) -> &str {
        &self.hash[..8]
    }
    /// Says under which hash it is known; for a pipeline restored from a checkpoint.
    pub fn set_hash(&mut self, hash: &str) {
        hash.clone_into(&mut self.hash);
    }
    /// True where the model learns online.
    pub fn learns(&self) -> bool {
        self.model.learns()
    }
    /// Names of the classes, by number.
    pub fn classes(&self) -> &[Vec<u8>] {
        &self.classes
    }
    /// What the model was told about its rows.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }
    /// An empty batch for its events.
    pub fn batch(&self) -> Batch {
        Batch::new(self.schema.number_stride, self.schema.token_stride)
    }
    /// Empty scores for its batches.
    pub fn scores(&self, swap: u64) -> Scores {
        let version = self.version().to_string();
        Scores { task: self.task, values: Vec::new(), ends: Vec::new(), classes: self.classes.clone(), version, swap }
    }

    /// Scores each row of the batch in turn, and learns it where it is labelled and `learn` is set.
    /// Rows that a field's policy turns away are marked in the batch.
    pub fn run(&mut self, batch: &mut Batch, scores: &mut Scores, learn: bool, observer: &mut dyn Observer) -> Counts {
        let mut counts = Counts::default();
        let learn = learn && self.model.learns();
        scores.clear();
        self.targets.clear();
        // Loops of their own, so that the commonest one carries nothing of the others.
        match (self.together.on, self.ahead.on) {
            (true, _) => self.rows_together(batch, scores, learn, &mut counts),
            (_, true) => self.rows::<true>(batch, scores, learn, &mut counts),
            _ => self.rows::<false>(batch, scores, learn, &mut counts),
        }
        self.fill.catch_up(batch);
        observer.observe_all(scores, &self.targets);
        if scores.classes.len() != self.classes.len() {
            scores.classes.clone_from(&self.classes);
        }
        counts
    }

    /// Each row of the batch in turn; `AHEAD`: made ready ahead.
    fn rows<const AHEAD: bool>(&mut self, batch: &mut Batch, scores: &mut Scores, learn: bool, counts: &mut Counts) {
        let checks = self.fill.rejects() || self.weight.is_some();
        if AHEAD {
            let of = Source { schema: &self.schema, steps: &self.steps[..self.fixed_steps], model: &*self.model };
            self.ahead.begin(&of, batch);
        }
        for row in 0..batch.len() {
            let mut target = f64::NAN;
            let ready = AHEAD && self.take_ahead(batch, row);
            if batch.status[row] == RowStatus::Ok {
                match if checks { self.check(batch, row) } else { Ok(()) } {
                    Ok(()) => target = self.score_and_learn(batch, row, ready, scores, learn, counts),
                    Err(reject) => batch.status[row] = RowStatus::Rejected(reject),
                }
            }
            scores.ends.push(scores.values.len() as u32);
            self.targets.push(target);
        }
    }

    /// Makes `self.row` the row, behind the steps before the first that learns, if that was done ahead.
    fn take_ahead(&mut self, batch: &Batch, row: usize) -> bool {
        let of = Source { schema: &self.schema, steps: &self.steps[..self.fixed_steps], model: &*self.model };
        self.ahead.take(&of, batch, row, &mut self.row)
    }

    /// `ready`: the row was made ready ahead. Returns its target, NaN where it has none.
    #[inline(always)]
    fn score_and_learn(
        &mut self,
        batch: &Batch,
        row: usize,
        ready: bool,
        scores: &mut Scores,
        learn: bool,
        counts: &mut Counts,
    ) -> f64 {
        let start = scores.values.len();
        match self.width() {
            1 => scores.values.push(0.0),
            width => scores.values.resize(start + width, 0.0),
        }
        let out = &mut scores.values[start..];
        counts.scored += 1;
        let target = self.target(batch, row).unwrap_or(f64::NAN);
        let gaps = !ready && load(&mut self.row, &self.schema, batch, row);
        if gaps {
            self.fill.catch_up(batch);
        }
        let done = if ready { self.fixed_steps } else { 0 };
        if !learn || (target.is_nan() && !self.model.learns_unlabelled()) {
            self.transform_row(gaps, done, &batch.text);
            self.model.score(features(&self.row), &mut self.scratch, out);
            return target;
        }
        let weight = self.weight_of(batch, row);
        let differs = self.learn_row(batch, row, gaps, done, weight);
        let (before, after) = (features(&self.row), differs.then(|| features(&self.learned_row)));
        if faults::planted("learn-before-score") {
            self.model.learn(before, target, 1.0);
        }
        match self.model.score_learn(before, after, target, weight, &mut self.scratch, out) {
            Learned::Applied => {
                counts.learned += 1;
                self.learned += 1;
            }
            Learned::Refused => counts.refused += 1,
            Learned::Frozen => {}
        }
        if self.golden.len() < GOLDEN_ROWS_MAX {
            self.golden.push(GoldenRow { event: event_of(&self.schema, batch, row), scores: Vec::new() });
        }
        target
    }

    /// `self.row`, behind its first `done` steps, becomes what the model scores.
    fn transform_row(&mut self, gaps: bool, done: usize, text: &[u8]) {
        if gaps {
            self.fill.transform(&mut self.row);
        }
        for step in &self.steps[done..] {
            step.transform(&mut self.row, text);
        }
    }

    /// Lets the steps behind the first `done`, which learn nothing, learn `self.row`, which becomes what the model
    /// scores. Returns true where what it learns is something else, which is in `self.learned_row` then.
    #[inline]
    fn learn_row(&mut self, batch: &Batch, row: usize, gaps: bool, done: usize, weight: f64) -> bool {
        let mut differs = false;
        if gaps && self.fill.imputes {
            self.row.copy_to(&mut self.learned_row);
            differs = true;
            self.fill.transform(&mut self.row);
            self.fill.learn(&self.learned_row);
            self.fill.transform(&mut self.learned_row);
        } else if gaps {
            self.fill.transform(&mut self.row);
        } else {
            self.fill.learn_later(batch, row);
        }
        let (fixed, learning) = self.steps.split_at_mut(self.fixed_steps);
        for step in &fixed[done..] {
            step.transform(&mut self.row, &batch.text);
            if differs {
                step.transform(&mut self.learned_row, &batch.text);
            }
        }
        let mut learning = learning.iter_mut();
        if !differs && let Some(step) = learning.next() {
            step.part(&mut self.row, &mut self.learned_row, &batch.text, weight);
            differs = true;
        }
        for step in learning {
            step.visit(&mut self.row, &mut self.learned_row, &batch.text, weight);
        }
        differs
    }

    #[inline]
    fn width(&self) -> usize {
        match self.task {
            Task::Multiclass => self.classes.len(),
            Task::Clusters => 2,
            Task::Binary | Task::Regression | Task::Anomaly => 1,
        }
    }

    /// Faults where a policy turns the row away.
    #[inline]
    fn check(&self, batch: &Batch, row: usize) -> Result<(), Reject> {
        let (numbers, tokens) = feature_cells(&self.schema, batch, row);
        self.fill.check(numbers, tokens)?;
        if let Some((slot, field)) = self.weight {
            let weight = batch.row_numbers(row)[slot];
            if weight < 0.0 {
                let reason = "the event's weight is below 0";
                return Err(Reject { stage: Stage::Schema, reason, field: Some(field), byte: 0 });
            }
        }
        Ok(())
    }

    /// Checks a row and loads it into `self.row`.
    fn take_row(&mut self, batch: &Batch, row: usize) -> Result<(), Reject> {
        self.check(batch, row)?;
        load(&mut self.row, &self.schema, batch, row);
        Ok(())
    }

    /// The target of a row: its label as a number, or as a class's number.
    #[inline(always)]
    fn target(&mut self, batch: &Batch, row: usize) -> Option<f64> {
        match self.label? {
            (LabelKind::Category { classes_max }, Slot::Token(slot)) => self.class(batch, row, slot, classes_max),
            (_, Slot::Number(slot)) => Some(batch.row_numbers(row)[slot]).filter(|y| !y.is_nan()),
            (_, Slot::Token(_)) => None,
        }
    }

    /// A class that is new gets the next number while there is room, and no target (nothing is learned) when there
    /// is none.
    #[inline(never)]
    fn class(&mut self, batch: &Batch, row: usize, slot: usize, classes_max: usize) -> Option<f64> {
        let token = batch.row_tokens(row)[slot];
        if token.kind == TokenKind::Missing {
            return None;
        }
        let name = batch.token_bytes(token);
        let known = self.classes.iter().position(|c| c == name);
        known.or_else(|| self.new_class(name, classes_max)).map(|class| class as f64)
    }

    #[cold]
    fn new_class(&mut self, name: &[u8], classes_max: usize) -> Option<usize> {
        if self.classes.len() >= classes_max {
            return None;
        }
        self.classes.push(name.to_vec());
        Some(self.classes.len() - 1)
    }

    #[inline]
    fn weight_of(&self, batch: &Batch, row: usize) -> f64 {
        let weight = self.weight.map_or(1.0, |(i, _)| batch.row_numbers(row)[i]);
        if weight.is_nan() { 1.0 } else { weight }
    }

    /// Everything that a later score depends on, and the manifest that belongs to it.
    pub fn snapshot(&mut self, kind: &str, provenance: Value, position: Value) -> (Manifest, State) {
        self.snapshot_in(State::new(), kind, provenance, position)
    }

    /// [`Pipeline::snapshot`] in an empty state, which may have memory ([`State::in_memory_of`]).
    pub fn snapshot_in(
        &mut self,
        mut state: State,
        kind: &str,
        provenance: Value,
        position: Value,
    ) -> (Manifest, State) {
        state.put_strings("classes", &self.classes);
        self.fill.save(&mut state);
        for (i, step) in self.steps.iter().enumerate() {
            step.save(&mut state, &format!("steps.{i}."));
        }
        self.model.save(&mut state, "model.");
        let golden = self.golden.iter().map(|g| g.event.clone()).collect::<Vec<_>>();
        let golden = golden.into_iter().map(|event| GoldenRow { scores: self.score_event(&event), event }).collect();
        let pipeline = self.spec.clone();
        let kind = kind.to_string();
        (Manifest { kind, pipeline, learned: self.learned, golden, provenance, position }, state)
    }

    /// The bytes of an artifact.
    pub fn to_artifact(&mut self, provenance: Value) -> Vec<u8> {
        let (manifest, state) = self.snapshot("artifact", provenance, Value::Null);
        artifact::encode(&json!(manifest), &state)
    }

    /// Scores one event, given as field → value, without learning from it.
    fn score_event(&mut self, event: &Map<String, Value>) -> Vec<f64> {
        let batch = batch_of(&self.schema, event);
        if self.take_row(&batch, 0).is_err() {
            return Vec::new();
        }
        self.transform_row(true, 0, &batch.text);
        let mut out = vec![0.0; self.width()];
        self.model.score(features(&self.row), &mut self.scratch, &mut out);
        if out.iter().all(|s| s.is_finite()) { out } else { Vec::new() }
    }

    fn check_golden_rows(&mut self) -> Result<()> {
        for (i, golden) in self.golden.clone().iter().enumerate() {
            let scores = self.score_event(&golden.event);
            let same = scores.len() == golden.scores.len()
                && scores.iter().zip(&golden.scores).all(|(a, b)| a.to_bits() == b.to_bits());
            if !same {
                return Err(Fault::corruption(format!(
                    "golden row {i} scores {scores:?}; the artifact's writer found {:?}",
                    golden.scores
                ))
                .hint("the artifact was changed, or was written by a version whose kernels differ"));
            }
        }
        Ok(())
    }
}
