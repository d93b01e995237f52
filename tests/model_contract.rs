//! The story: whatever model a user names in a spec, the daemon may score with it, learn with it,
//! checkpoint it at any event and be fed poison, and nothing surprising happens.
//!
//! Every model of the builder passes the same checks, one row of `table()` a model:
//! scoring changes nothing, and rows scored together score as alone; equal rows in equal order give
//! equal bits; save, load and go on is the same bit for bit at every cut; inputs stay as they are;
//! poison leaves all numbers finite, and the state as it was where it is refused; memory doesn't grow
//! with events; weight 0 learns nothing (in River it would count as a step); damaged state is refused
//! by name. A skip carries its reason.

use millstream::error::Class;
use millstream::model::{Features, KINDS, LabelKind, Learned, Model, Scratch, Shape, TOGETHER_MAX, Task, Visit, build};
use millstream::state::{Data, State};
use serde_json::{Value, json};

/// A model under contract: its spec, what its rows look like, and the checks that don't apply, with reasons.
struct Case {
    spec: Value,
    dense: usize,
    slots: usize,
    label: Option<LabelKind>,
    skip: &'static [(Check, &'static str)],
}

/// A check that a model may skip.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Check {
    WeightZero,
    Refuses,
    Learns,
}

const BOOL: Option<LabelKind> = Some(LabelKind::Bool);
const NUMBER: Option<LabelKind> = Some(LabelKind::Number);
const CLASSES: Option<LabelKind> = Some(LabelKind::Category { classes_max: 5 });

fn case(spec: Value, dense: usize, slots: usize, label: Option<LabelKind>) -> Case {
    Case { spec, dense, slots, label, skip: &[] }
}

fn table() -> Vec<Case> {
    let mut table = Vec::new();
    let optimizers = [
        json!("sgd"),
        json!({"kind": "sgd", "learning_rate": {"kind": "inverse-scaling", "learning_rate": 0.3, "power": 0.6}}),
        json!("adagrad"),
        json!("adam"),
        json!({"kind": "ftrl", "l1": 0.01}),
    ];
    for optimizer in &optimizers {
        table.push(case(json!({"kind": "linear-regression", "optimizer": optimizer}), 7, 0, NUMBER));
        table.push(case(json!({"kind": "logistic-regression", "optimizer": optimizer, "l2": 0.01}), 0, 32, BOOL));
        table.push(case(json!({"kind": "logistic-regression", "optimizer": optimizer}), 9, 32, BOOL));
        table.push(case(json!({"kind": "softmax-regression", "optimizer": optimizer, "l2": 0.01}), 9, 16, CLASSES));
    }
    for loss in ["absolute", "cauchy", "huber", "poisson", "quantile", "squared"] {
        table.push(case(json!({"kind": "linear-regression", "loss": loss, "l1": 0.001}), 5, 8, NUMBER));
    }
    for loss in ["focal", "hinge", "log"] {
        table.push(case(json!({"kind": "logistic-regression", "loss": loss, "l1": 0.001}), 5, 8, BOOL));
    }
    for (kind, loss, label) in [
        ("linear-regression", "quantile", NUMBER),
        ("linear-regression", "squared", NUMBER),
        ("logistic-regression", "hinge", BOOL),
        ("logistic-regression", "log", BOOL),
    ] {
        for power_t in [0.5, 0.3] {
            let optimizer = json!({"kind": "vw", "power_t": power_t});
            table.push(case(json!({"kind": kind, "loss": loss, "optimizer": optimizer}), 5, 8, label));
        }
    }
    table.push(case(json!({"kind": "perceptron", "l2": 0.01, "seed": 42}), 4, 8, BOOL));
    for mode in [0, 1, 2] {
        table.push(case(json!({"kind": "passive-aggressive", "mode": mode, "C": 0.5}), 4, 8, BOOL));
        table.push(case(json!({"kind": "passive-aggressive", "mode": mode, "preset": "paper"}), 4, 8, NUMBER));
    }
    for label in [BOOL, NUMBER] {
        const FROZEN: &str = "it is trained in batch, and learns nothing online";
        let skip = const { &[(Check::Learns, FROZEN), (Check::Refuses, FROZEN)] };
        table.push(Case { skip, ..case(json!({"kind": "decision-tree"}), 3, 0, label) });
    }
    for label in [BOOL, CLASSES] {
        table.push(case(json!({"kind": "gaussian-naive-bayes"}), 6, 0, label));
        table.push(case(json!({"kind": "gaussian-naive-bayes", "pdf_floor": 0}), 3, 0, label));
    }
    for p in [1, 2] {
        table.push(case(json!({"kind": "k-means", "p": p, "halflife": 0.2, "seed": 5}), 6, 0, None));
    }
    for (optimizer, label) in
        [(json!("adam"), BOOL), (json!({"kind": "sgd", "momentum": 0.9}), CLASSES), (json!("adam"), NUMBER)]
    {
        for activation in ["relu", "tanh", "sigmoid", "identity"] {
            let spec = json!({"kind": "multilayer-perceptron", "layers": [9, 4], "activation": activation,
                "optimizer": optimizer, "unit_events": 7, "l2": 0.001});
            table.push(case(spec, 5, 0, label));
        }
    }
    table
}

/// A row and its target.
#[derive(Clone, PartialEq, Debug)]
struct Row {
    dense: Vec<f64>,
    indices: Vec<u32>,
    values: Vec<f64>,
    target: f64,
    weight: f64,
}

impl Row {
    fn x(&self) -> Features<'_> {
        Features { dense: &self.dense, indices: &self.indices, values: &self.values }
    }
}

/// Numbers from 0 to 1 from a fixed start (splitmix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Case {
    fn shape(&self) -> Shape {
        Shape { dense: (0..self.dense).map(|i| format!("f{i}")).collect(), slots: self.slots, label: self.label }
    }

    fn model(&self) -> Box<dyn Model> {
        build(self.spec.as_object().expect("table"), &self.shape()).unwrap_or_else(|f| panic!("{}: {f}", self.spec))
    }

    /// Rows with a target that depends on the features; classes appear one after another; a slot may
    /// occur twice in a row, weights differ.
    fn rows(&self, count: usize, seed: u64) -> Vec<Row> {
        let mut draw = Draw(seed);
        (0..count).map(|i| self.row(i, &mut draw)).collect()
    }

    fn row(&self, i: usize, draw: &mut Draw) -> Row {
        let dense: Vec<f64> = (0..self.dense).map(|_| draw.next() * 4.0 - 2.0).collect();
        let hashed = if self.slots == 0 { 0 } else { 6 };
        let indices: Vec<u32> = (0..hashed).map(|_| (draw.next() * self.slots as f64) as u32).collect();
        let values: Vec<f64> = (0..hashed).map(|_| draw.next() * 2.0 - 0.5).collect();
        let signal: f64 = dense.iter().chain(&values).enumerate().map(|(j, x)| x / (1.0 + j as f64)).sum();
        let target = match self.label {
            Some(LabelKind::Bool) => f64::from(u8::from(signal > 0.2)),
            Some(LabelKind::Category { classes_max }) => {
                let class = ((signal + 2.0).max(0.0) as usize).min(classes_max - 1);
                class.min(i / 4) as f64
            }
            Some(LabelKind::Number) => 0.5 + signal * 0.3 + draw.next() * 0.1,
            None => f64::NAN,
        };
        Row { dense, indices, values, target, weight: if i % 5 == 3 { 0.5 + draw.next() } else { 1.0 } }
    }

    fn skips(&self, check: Check) -> bool {
        self.skip.iter().any(|(skipped, reason)| *skipped == check && !reason.is_empty())
    }

    /// Width of a row's scores once all classes are known.
    fn width(&self) -> usize {
        match (self.label, self.model().task()) {
            (Some(LabelKind::Category { classes_max }), Task::Multiclass) => classes_max,
            (_, Task::Clusters) => 2,
            _ => 1,
        }
    }

    fn scores(&self, model: &dyn Model, rows: &[Row]) -> Vec<u64> {
        let (mut scratch, mut out) = (Scratch::default(), vec![0.0; self.width()]);
        let mut bits = Vec::new();
        for row in rows {
            model.score(row.x(), &mut scratch, &mut out);
            bits.extend(out.iter().map(|v| v.to_bits()));
        }
        bits
    }
}

/// All rows together, each with as many scores.
fn scores_together(model: &dyn Model, rows: &[Row], width: usize) -> Vec<u64> {
    let (x, mut out): (Vec<_>, _) = (rows.iter().map(Row::x).collect(), vec![9.0; rows.len() * width]);
    model.score_rows(&x, &mut Scratch::default(), &mut out);
    out.iter().map(|v| v.to_bits()).collect()
}

fn saved(model: &dyn Model) -> State {
    let mut state = State::new();
    model.save(&mut state, "model.");
    state
}

fn same(a: &State, b: &State) -> bool {
    let bits = |data: &Data| match data {
        Data::F64(v) => v.iter().map(|v| v.to_bits()).collect::<Vec<u64>>(),
        Data::F32(v) => v.iter().map(|v| u64::from(v.to_bits())).collect(),
        Data::I64(v) => v.iter().map(|v| *v as u64).collect(),
        Data::U64(v) => v.clone(),
        Data::U32(v) => v.iter().map(|v| u64::from(*v)).collect(),
        Data::U8(v) => v.iter().map(|v| u64::from(*v)).collect(),
    };
    let tensors = |state: &State| -> Vec<_> {
        state.tensors.iter().map(|(name, t)| (name.clone(), t.shape.clone(), t.data.dtype(), bits(&t.data))).collect()
    };
    tensors(a) == tensors(b)
}

fn all_finite(state: &State) -> bool {
    state.tensors.values().all(|tensor| match &tensor.data {
        Data::F64(v) => v.iter().all(|v| v.is_finite()),
        Data::F32(v) => v.iter().all(|v| v.is_finite()),
        _ => true,
    })
}

fn learn(model: &mut dyn Model, rows: &[Row]) {
    for (i, row) in rows.iter().enumerate() {
        let learned = model.learn(row.x(), row.target, row.weight);
        assert!(learned != Learned::Refused, "row {i} of clean data was refused");
    }
}

#[test]
fn every_kind_of_the_builder_is_under_contract() {
    let table = table();
    for kind in KINDS {
        assert!(table.iter().any(|case| case.spec["kind"] == *kind), "{kind} has no row in the contract's table");
    }
}

#[test]
fn models_learn_something() {
    for case in table().iter().filter(|case| !case.skips(Check::Learns)) {
        let (mut model, rows) = (case.model(), case.rows(200, 1));
        let before = (saved(&*model), case.scores(&*model, &rows));
        learn(&mut *model, &rows);
        assert!(!same(&before.0, &saved(&*model)), "{}: the state is that of an untrained model", case.spec);
        assert_ne!(before.1, case.scores(&*model, &rows), "{}", case.spec);
    }
}

#[test]
fn scoring_changes_nothing_and_repeats_itself() {
    for case in table() {
        let (mut model, rows) = (case.model(), case.rows(120, 2));
        learn(&mut *model, &rows[..60]);
        let before = saved(&*model);
        let once = case.scores(&*model, &rows);
        assert_eq!(once, case.scores(&*model, &rows), "{}", case.spec);
        assert!(same(&before, &saved(&*model)), "{}", case.spec);
        assert!(once.iter().all(|bits| f64::from_bits(*bits).is_finite()), "{}", case.spec);
    }
}

#[test]
fn equal_rows_in_equal_order_give_equal_bits_whether_or_not_they_were_scored() {
    for case in table() {
        let (mut quiet, mut asked, rows) = (case.model(), case.model(), case.rows(150, 3));
        learn(&mut *quiet, &rows);
        for row in &rows {
            case.scores(&*asked, std::slice::from_ref(row));
            learn(&mut *asked, std::slice::from_ref(row));
        }
        assert!(same(&saved(&*quiet), &saved(&*asked)), "{}", case.spec);
        assert_eq!(case.scores(&*quiet, &rows), case.scores(&*asked, &rows), "{}", case.spec);
    }
}

#[test]
fn rows_scored_together_score_as_each_does_alone() {
    for case in table() {
        let (mut model, rows) = (case.model(), case.rows(60, 12));
        learn(&mut *model, &rows[..30]);
        let classes = matches!(case.label, Some(LabelKind::Category { .. }));
        let widths = if classes { 0..=case.width() } else { case.width()..=case.width() };
        assert!((1..=TOGETHER_MAX).contains(&model.together()) && model.unit_left() > 0, "{}", case.spec);
        for (count, width) in (1..=TOGETHER_MAX).flat_map(|n| widths.clone().map(move |w| (n, w))) {
            for rows in rows.chunks(count) {
                let alone = |row: &Row| {
                    let mut out = vec![0.0; width];
                    model.score(row.x(), &mut Scratch::default(), &mut out);
                    out.into_iter().map(f64::to_bits).collect::<Vec<_>>()
                };
                let alone: Vec<u64> = rows.iter().flat_map(alone).collect();
                assert_eq!(alone, scores_together(&*model, rows, width), "{}: {count} rows", case.spec);
            }
        }
    }
}

/// Rows with labels and without, with and without a weight, poison among them; some are learned as another row than
/// the one that is scored, as behind steps that learn.
#[test]
fn rows_learned_together_are_learned_as_each_would_be_alone() {
    for case in table() {
        let (mut together, mut alone, mut rows) = (case.model(), case.model(), case.rows(300, 14));
        for (i, poison) in poisons(&case).into_iter().enumerate().filter(|(i, _)| i % 3 == 0) {
            rows[7 * i + 5] = poison;
        }
        rows[100].weight = 0.0;
        let (mut at, mut size, width) = (0, 1, case.width());
        while at < rows.len() {
            let end = (at + size.min(together.unit_left() as usize)).min(rows.len());
            let visit = |i: usize| {
                let after = (i % 40 > 20).then(|| rows[(i + 1) % rows.len()].x());
                let learns = (i % 50 != 49).then_some((rows[i].target, rows[i].weight));
                Visit { before: rows[i].x(), after, learns }
            };
            let visits: Vec<Visit<'_>> = (at..end).map(visit).collect();
            let mut scores = vec![9.0; visits.len() * width];
            let learned = together.score_learn_rows(&visits, &mut Scratch::default(), &mut scores);
            let mut expected = vec![0.0; visits.len() * width];
            for (i, visit) in visits.iter().enumerate() {
                alone.score(visit.before, &mut Scratch::default(), &mut expected[i * width..][..width]);
                let what = visit.learns.map(|(y, w)| alone.learn(visit.after.unwrap_or(visit.before), y, w));
                assert_eq!(learned[i], what.unwrap_or(Learned::Frozen), "{}: row {}", case.spec, at + i);
            }
            let bits = |scores: &[f64]| scores.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&scores), bits(&expected), "{}: rows {at} to {end}", case.spec);
            assert!(same(&saved(&*together), &saved(&*alone)), "{}: rows {at} to {end}", case.spec);
            (at, size) = (end, size % TOGETHER_MAX + 1);
        }
    }
}

#[test]
fn no_score_changes_before_a_unit_is_full() {
    for case in table() {
        let (mut model, rows) = (case.model(), case.rows(120, 13));
        for cut in [0, 3, 40] {
            learn(&mut *model, &rows[..cut]);
            let before = case.scores(&*model, &rows);
            let rest = model.unit_left() as usize - 1;
            learn(&mut *model, &rows[cut..cut + rest]);
            assert_eq!(before, case.scores(&*model, &rows), "{}: after {rest} of a unit", case.spec);
        }
    }
}

#[test]
fn inputs_stay_as_they_are() {
    for case in table() {
        let (mut model, rows) = (case.model(), case.rows(40, 4));
        let before = rows.clone();
        learn(&mut *model, &rows);
        case.scores(&*model, &rows);
        // As text, in which a missing target (NaN) equals itself.
        assert_eq!(format!("{before:?}"), format!("{rows:?}"), "{}", case.spec);
    }
}

#[test]
fn a_loaded_model_goes_on_bit_for_bit_at_every_cut() {
    for case in table() {
        let rows = case.rows(60, 5);
        let mut whole = case.model();
        learn(&mut *whole, &rows);
        let (end, scores) = (saved(&*whole), case.scores(&*whole, &rows));
        let mut until = case.model();
        for cut in 0..=rows.len() {
            let state = saved(&*until);
            let mut resumed = case.model();
            // A model that was used before must forget all of it.
            learn(&mut *resumed, &rows[30..40]);
            resumed.load(&state, "model.").unwrap_or_else(|fault| panic!("{} at {cut}: {fault}", case.spec));
            assert!(same(&state, &saved(&*resumed)), "{} at {cut}: what was loaded differs", case.spec);
            learn(&mut *resumed, &rows[cut..]);
            assert!(same(&end, &saved(&*resumed)), "{} at {cut}: the end differs", case.spec);
            assert_eq!(scores, case.scores(&*resumed, &rows), "{} at {cut}", case.spec);
            if cut < rows.len() {
                learn(&mut *until, &rows[cut..=cut]);
            }
        }
    }
}

/// Rows with one poisonous number each, in every role.
fn poisons(case: &Case) -> Vec<Row> {
    let mut rows = Vec::new();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e308, -1e308, 1e200, -1e200, 5e-324] {
        for (place, mut row) in case.rows(4, 6).into_iter().enumerate() {
            match place {
                0 if case.dense > 0 => row.dense[0] = bad,
                0 => row.values[1] = bad,
                1 if case.slots > 0 => row.values[5] = bad,
                1 => row.dense[case.dense - 1] = bad,
                2 if case.label == NUMBER => row.target = bad,
                2 => row.dense.fill(bad),
                _ if bad.is_finite() && bad >= 0.0 => row.weight = bad,
                _ => row.values.fill(bad),
            }
            rows.push(row);
        }
    }
    rows
}

#[test]
fn poison_leaves_all_numbers_finite_and_the_state_as_it_was_where_it_is_refused() {
    for case in table() {
        for trained in [0, 50] {
            let (mut model, rows) = (case.model(), case.rows(100, 7));
            learn(&mut *model, &rows[..trained]);
            let mut refused = 0;
            for row in poisons(&case) {
                let before = saved(&*model);
                let learned = model.learn(row.x(), row.target, row.weight);
                let after = saved(&*model);
                assert!(all_finite(&after), "{}: {row:?} left {after:?}", case.spec);
                if learned == Learned::Refused {
                    refused += 1;
                    assert!(same(&before, &after), "{}: refused {row:?}, yet the state changed", case.spec);
                }
                let numbers = row.dense.iter().chain(&row.values).chain([&row.weight]);
                let bad = numbers.clone().any(|v| !v.is_finite()) || (case.label.is_some() && !row.target.is_finite());
                let allowed = case.skips(Check::Refuses) || !bad || learned == Learned::Refused;
                assert!(allowed, "{}: {row:?} was learned", case.spec);
                // Start again from the clean state: one poison must not hide the next.
                model.load(&before, "model.").expect("own state");
            }
            assert!(case.skips(Check::Refuses) || refused > 0, "{}: nothing was refused", case.spec);
            let mut clean = case.model();
            learn(&mut *clean, &rows[..trained]);
            learn(&mut *clean, &rows[trained..]);
            learn(&mut *model, &rows[trained..]);
            assert!(same(&saved(&*clean), &saved(&*model)), "{}: poison left a trace", case.spec);
        }
    }
}

#[test]
fn a_stream_of_poison_between_clean_rows_never_leaves_a_non_finite_number() {
    for case in table() {
        let mut model = case.model();
        for (row, poison) in case.rows(200, 8).iter().zip(poisons(&case).iter().cycle()) {
            model.learn(poison.x(), poison.target, poison.weight);
            model.learn(row.x(), row.target, row.weight);
        }
        assert!(all_finite(&saved(&*model)), "{}", case.spec);
    }
}

#[test]
fn memory_does_not_grow_with_events() {
    for case in table() {
        let sizes = |model: &dyn Model| -> Vec<(String, usize)> {
            saved(model).tensors.iter().map(|(name, tensor)| (name.clone(), tensor.data.len())).collect()
        };
        let (mut model, rows) = (case.model(), case.rows(2_000, 9));
        learn(&mut *model, &rows[..300]);
        let early = sizes(&*model);
        learn(&mut *model, &rows[300..]);
        assert_eq!(early, sizes(&*model), "{}", case.spec);
        if let Some(LabelKind::Category { classes_max }) = case.label {
            let before = saved(&*model);
            let learned = model.learn(rows[0].x(), classes_max as f64, 1.0);
            assert_eq!(learned, Learned::Refused, "{}: one class too many", case.spec);
            assert!(same(&before, &saved(&*model)), "{}", case.spec);
        }
    }
}

#[test]
fn an_event_of_weight_zero_teaches_nothing() {
    for case in table().iter().filter(|case| !case.skips(Check::WeightZero)) {
        let (mut model, rows) = (case.model(), case.rows(60, 10));
        learn(&mut *model, &rows[..30]);
        let before = saved(&*model);
        for row in &rows[30..] {
            model.learn(row.x(), row.target, 0.0);
        }
        assert!(same(&before, &saved(&*model)), "{}", case.spec);
    }
}

#[test]
fn damaged_state_is_refused_by_name() {
    for case in table() {
        let (mut model, rows) = (case.model(), case.rows(40, 11));
        learn(&mut *model, &rows);
        let whole = saved(&*model);
        assert!(!whole.tensors.is_empty(), "{}", case.spec);
        for (name, tensor) in &whole.tensors {
            assert!(name.starts_with("model."), "{}: {name} is outside of its prefix", case.spec);
            let mut damaged = vec![whole.clone(), whole.clone()];
            damaged[0].tensors.remove(name);
            damaged[1].put(name.clone(), &[tensor.data.len() + 1], longer(&tensor.data));
            if let Data::F64(values) = &tensor.data {
                let mut values = values.clone();
                if let Some(last) = values.last_mut() {
                    *last = f64::INFINITY;
                    let mut state = whole.clone();
                    state.put(name.clone(), &tensor.shape, Data::F64(values));
                    damaged.push(state);
                }
            }
            for (i, state) in damaged.iter().enumerate() {
                let fault = case.model().load(state, "model.");
                let fault = fault.expect_err(&format!("{}: damage {i} of {name} was taken", case.spec));
                assert_eq!(fault.class, Class::Corruption, "{}: {fault}", case.spec);
                assert!(fault.message.contains("model."), "{}: {fault}", case.spec);
            }
        }
    }
}

fn longer(data: &Data) -> Data {
    let mut data = data.clone();
    match &mut data {
        Data::F64(v) => v.push(0.0),
        Data::F32(v) => v.push(0.0),
        Data::I64(v) => v.push(0),
        Data::U64(v) => v.push(0),
        Data::U32(v) => v.push(0),
        Data::U8(v) => v.push(0),
    }
    data
}

#[test]
fn unfit_specs_are_refused_with_the_key_and_what_is_allowed() {
    let refusals = [
        (json!({}), BOOL, "model.kind is missing"),
        (json!({"kind": "oracle"}), BOOL, "model.kind is \"oracle\"; allowed is "),
        (json!({"kind": "logistic-regression", "l3": 1}), BOOL, "model.l3 is not an option"),
        (json!({"kind": "logistic-regression", "l2": -1}), BOOL, "model.l2 is -1; allowed is a number of 0 or more"),
        (
            json!({"kind": "logistic-regression", "optimizer": {"kind": "sgd", "learning_rate": "x"}}),
            BOOL,
            "model.optimizer.learning_rate",
        ),
        (
            json!({"kind": "logistic-regression", "optimizer": {"kind": "sgd", "rate": 1}}),
            BOOL,
            "model.optimizer.rate is not",
        ),
        (json!({"kind": "logistic-regression", "optimizer": "newton"}), BOOL, "model.optimizer.kind is \"newton\""),
        (json!({"kind": "logistic-regression", "loss": "squared"}), BOOL, "model.loss.kind is \"squared\""),
        (json!({"kind": "logistic-regression"}), NUMBER, "is a binary classifier, and the label is a number"),
        (json!({"kind": "logistic-regression"}), CLASSES, "is a binary classifier, and the label is a category"),
        (json!({"kind": "linear-regression"}), BOOL, "is a regressor, and the label is a bool"),
        (json!({"kind": "linear-regression"}), None, "is a regressor, and the label is not there"),
        (json!({"kind": "linear-regression", "l1": 1, "l2": 1}), NUMBER, "model.l1 and model.l2"),
        (json!({"kind": "linear-regression", "l1": 1, "optimizer": "ftrl"}), NUMBER, "model.l1 doesn't go"),
        (json!({"kind": "linear-regression", "l2": 1, "optimizer": "vw"}), NUMBER, "model.l2 doesn't go"),
        (json!({"kind": "softmax-regression"}), BOOL, "needs a label of type category"),
        (json!({"kind": "softmax-regression", "optimizer": "vw"}), CLASSES, "model.optimizer.kind is \"vw\""),
        (
            json!({"kind": "passive-aggressive", "mode": 3}),
            BOOL,
            "model.mode is 3; allowed is a whole number from 0 to 2",
        ),
        (json!({"kind": "passive-aggressive", "C": 0}), BOOL, "model.C is 0; allowed is a number greater than 0"),
        (json!({"kind": "passive-aggressive"}), CLASSES, "needs a label of type bool, float or int"),
        (json!({"kind": "perceptron", "optimizer": "sgd"}), BOOL, "model.optimizer is not an option"),
    ];
    for (spec, label, text) in refusals {
        let shape = Shape { dense: vec!["a".into()], slots: 0, label };
        let fault = build(spec.as_object().expect("table"), &shape).err().unwrap_or_else(|| panic!("{spec} was taken"));
        assert_eq!(fault.class, Class::Misuse);
        assert!(fault.message.contains(text), "{spec}: {fault}");
    }
}
