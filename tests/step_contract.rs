//! What every step promises, checked for every kind in several forms: a transform changes no state; what
//! was saved and loaded goes on bit for bit; rows are as wide as the layout says; finite numbers stay
//! finite whatever came before; memory is bounded; and specs that can't be right are refused by the key.
//!
//! The stream is generated: numbers with gaps, infinities and extremes among them, categories that never
//! stop being new, texts that are hardly text. It is the same at every run.

use millstream::batch::{Span, Token, TokenKind};
use millstream::error::Class;
use millstream::preprocess::{DenseKind, KINDS, Layout, Row, Step, TokenColumn, build};
use millstream::schema::{FieldType, Schema, SchemaSpec};
use millstream::state::{Data, State};
use serde_json::{Value, json};

/// Every kind, in the forms that differ in code.
fn specs() -> Vec<Value> {
    vec![
        json!({"kind": "impute"}),
        json!({"kind": "impute", "strategy": "constant", "value": 3.5, "fields": ["b", "n"]}),
        json!({"kind": "impute", "strategy": "last"}),
        json!({"kind": "standard-scale"}),
        json!({"kind": "standard-scale", "with_std": false, "fields": ["a", "t"]}),
        json!({"kind": "min-max-scale"}),
        json!({"kind": "max-abs-scale"}),
        json!({"kind": "clip", "lower": -2, "upper": 2.5}),
        json!({"kind": "clip", "lower_quantile": 0.05, "upper_quantile": 0.95}),
        json!({"kind": "clip", "upper_quantile": 0.9, "fields": ["n"], "observations_min": 5}),
        json!({"kind": "clip", "sigmas": 3}),
        json!({"kind": "one-hot"}),
        json!({"kind": "one-hot", "categories_max": 5, "fields": ["d"]}),
        json!({"kind": "hash", "bits": 12}),
        json!({"kind": "hash", "fields": ["n", "c", "x"], "signed": false, "seed": 9, "lowercase": false, "words_max": 3}),
        json!({"kind": "polynomial", "fields": ["a", "b", "n"], "degree": 3}),
        json!({"kind": "polynomial", "interaction_only": true}),
        json!({"kind": "interact", "pairs": [["a", "n"], ["c", "d"], ["a", "c"]], "bits": 10}),
        json!({"kind": "interact", "pairs": [["a", "b"]]}),
        json!({"kind": "timestamp-parts", "cyclic": true}),
        json!({"kind": "timestamp-parts", "keep": true, "parts": ["year", "month", "day", "day_of_year", "second"]}),
        json!({"kind": "select", "fields": ["x", "n", "a"]}),
        json!({"kind": "drop", "fields": ["c", "a"]}),
    ]
}

fn layout() -> Layout {
    let dense = |name: &str, kind| (name.to_string(), kind);
    let token = |name: &str, kind| (name.to_string(), kind);
    Layout {
        dense: vec![
            dense("a", DenseKind::Number),
            dense("b", DenseKind::Bool),
            dense("t", DenseKind::Timestamp),
            dense("n", DenseKind::Number),
        ],
        tokens: vec![
            token("c", TokenColumn::Category),
            token("x", TokenColumn::Text),
            token("d", TokenColumn::Category),
        ],
        slots: 0,
    }
}

fn step(spec: &Value) -> (Box<dyn Step>, Layout) {
    build(spec.as_object().expect("table"), &layout()).unwrap_or_else(|fault| panic!("{spec}: {fault}"))
}

/// The stream's random numbers: SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn number(&mut self, poison: bool) -> f64 {
        const POISON: [f64; 7] = [f64::MAX, -f64::MAX, f64::INFINITY, f64::NEG_INFINITY, 1e300, 5e-324, -0.0];
        match self.below(12) {
            0 => f64::NAN,
            1 if poison => POISON[self.below(7) as usize],
            _ => (self.next() >> 11) as f64 / (1u64 << 50) as f64 - 4.0,
        }
    }
}

/// A row of the stream and its arena.
fn event(random: &mut Random, poison: bool) -> (Row, Vec<u8>) {
    let mut row = Row::default();
    let mut text = Vec::new();
    row.dense.extend([
        random.number(poison),
        random.below(2) as f64,
        random.below(4_000_000_000_000) as f64 - 2e12,
        1000.0 * random.number(poison),
    ]);
    let words: [&[u8]; 6] = [b"Alpha beta", b"\xff\xfe broken", "Ünïted STATES".as_bytes(), b"...", b"a b a b", b"7"];
    for column in 0..3 {
        let start = text.len();
        match (column, random.below(8)) {
            (_, 0) => {}
            (1, _) => (0..random.below(4)).for_each(|_| {
                text.extend_from_slice(words[random.below(6) as usize]);
                text.push(b' ');
            }),
            (_, n) if n < 6 => text.extend_from_slice(format!("class-{}", random.below(9)).as_bytes()),
            _ => text.extend_from_slice(format!("new-{}", random.next()).as_bytes()),
        }
        let kind = if text.len() == start { TokenKind::Missing } else { TokenKind::Text };
        row.tokens.push(Token { span: Span::new(start, text.len()), kind });
    }
    (row, text)
}

fn saved(step: &dyn Step) -> State {
    let mut state = State::new();
    step.save(&mut state, "steps.0.");
    state
}

/// A row's numbers as bits, so that NaN equals itself.
fn bits(row: &Row) -> (Vec<u64>, Vec<Token>, Vec<u32>, Vec<u64>) {
    let of = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect();
    (of(&row.dense), row.tokens.clone(), row.indices.clone(), of(&row.values))
}

#[test]
fn every_kind_is_in_the_table() {
    for kind in KINDS {
        assert!(specs().iter().any(|s| s["kind"] == kind), "{kind} is not under contract");
    }
}

#[test]
fn a_transform_is_a_function_of_state_and_row() {
    for spec in specs() {
        let (mut step, _) = step(&spec);
        let mut random = Random(1);
        for i in 0..300 {
            let (row, text) = event(&mut random, true);
            let (state, arena) = (saved(&*step), text.clone());
            let (mut first, mut second) = (row.clone(), row.clone());
            step.transform(&mut first, &text);
            step.transform(&mut second, &text);
            assert_eq!(bits(&first), bits(&second), "{spec}: event {i}");
            assert_eq!(saved(&*step), state, "{spec}: a transform changed the state at event {i}");
            let before = bits(&row);
            step.learn(&row, &text, 1.0);
            assert_eq!((bits(&row), text), (before, arena), "{spec}: learning changed its input");
        }
    }
}

/// `visit` and `part` may do at once what `transform`, `learn` and `transform` do one after another; a step that says
/// it doesn't learn is never asked to. Rows with tokens and without: what is scaled may be all that a row holds.
#[test]
fn a_visit_is_a_transform_then_learning_then_a_transform() {
    for spec in specs() {
        let [mut apart, mut visit, mut part, never] = [0; 4].map(|_| step(&spec).0);
        let mut random = Random(6);
        for i in 0..600 {
            let (row, text) = event(&mut random, i > 300);
            let run = |how: &mut dyn FnMut(&mut Row, &mut Row)| {
                let (mut before, mut after) = (row.clone(), row.clone());
                how(&mut before, &mut after);
                (bits(&before), bits(&after))
            };
            let expected = run(&mut |before, after| {
                apart.transform(before, &text);
                apart.learn(after, &text, 1.0);
                apart.transform(after, &text);
            });
            let visited = run(&mut |before, after| visit.visit(before, after, &text, 1.0));
            assert_eq!(visited, expected, "{spec}: a visit of event {i}");
            let parted = run(&mut |before, after| {
                // Whatever is left in it from the row before.
                after.dense.push(7.0);
                after.indices.push(7);
                part.part(before, after, &text, 1.0);
            });
            assert_eq!(parted, expected, "{spec}: a parting at event {i}");
            let unlearned = run(&mut |before, after| {
                never.transform(before, &text);
                never.transform(after, &text);
            });
            assert!(apart.learns() || unlearned == expected, "{spec}: learns, and says that it doesn't");
        }
        assert_eq!(saved(&*visit), saved(&*apart), "{spec}");
        assert_eq!(saved(&*part), saved(&*apart), "{spec}");
    }
}

#[test]
fn what_was_saved_goes_on_bit_for_bit() {
    for spec in specs() {
        let mut random = Random(2);
        let mut original = step(&spec).0;
        for cut in [0, 1, 3, 40, 400] {
            for _ in 0..cut {
                let (row, text) = event(&mut random, true);
                original.learn(&row, &text, 1.0);
            }
            let state = saved(&*original);
            let mut copy = step(&spec).0;
            copy.load(&state, "steps.0.").unwrap_or_else(|fault| panic!("{spec}: {fault}"));
            assert_eq!(saved(&*copy), state, "{spec}: saved, loaded, saved");
            for i in 0..100 {
                let (row, text) = event(&mut random, true);
                let (mut first, mut second) = (row.clone(), row.clone());
                original.transform(&mut first, &text);
                copy.transform(&mut second, &text);
                assert_eq!(bits(&first), bits(&second), "{spec}: {i} events after a cut at {cut}");
                original.learn(&row, &text, 1.0);
                copy.learn(&row, &text, 1.0);
            }
            assert_eq!(saved(&*original), saved(&*copy), "{spec}: state after a cut at {cut}");
        }
    }
}

#[test]
fn rows_are_as_wide_as_the_layout_says() {
    for spec in specs() {
        let (mut step, after) = step(&spec);
        let mut random = Random(3);
        for i in 0..500 {
            let (mut row, text) = event(&mut random, true);
            step.learn(&row, &text, 1.0);
            step.transform(&mut row, &text);
            assert_eq!(row.dense.len(), after.dense.len(), "{spec}: dense columns of event {i}");
            assert_eq!(row.tokens.len(), after.tokens.len(), "{spec}: tokens of event {i}");
            assert_eq!(row.indices.len(), row.values.len(), "{spec}: slots and values of event {i}");
            assert!(row.indices.iter().all(|s| (*s as usize) < after.slots), "{spec}: a slot out of the table");
        }
    }
}

#[test]
fn finite_under_poison() {
    for spec in specs() {
        let mut step = step(&spec).0;
        let mut random = Random(4);
        for i in 0..2_000 {
            let (row, text) = event(&mut random, true);
            step.learn(&row, &text, 1.0);
            for (name, tensor) in saved(&*step).tensors {
                if let Data::F64(values) = tensor.data {
                    assert!(values.iter().all(|v| v.is_finite()), "{spec}: {name} after event {i}");
                }
            }
            // Numbers as a decoder lets them through: finite or missing.
            let mut row = row;
            let extreme = |x: &mut f64| *x = if x.is_infinite() { f64::MAX.copysign(*x) } else { *x };
            row.dense.iter_mut().for_each(extreme);
            let gaps = row.dense.iter().any(|x| x.is_nan());
            step.transform(&mut row, &text);
            let numbers = row.dense.iter().chain(&row.values);
            assert!(numbers.clone().all(|x| !x.is_infinite()), "{spec}: an infinity at event {i}: {row:?}");
            let made_nan = !gaps && numbers.clone().any(|x| x.is_nan());
            assert!(!made_nan, "{spec}: a NaN out of nothing at event {i}: {row:?}");
            assert!(row.values.iter().all(|x| !x.is_nan()), "{spec}: a hashed NaN at event {i}");
        }
    }
}

#[test]
fn memory_is_bounded() {
    let size = |step: &dyn Step| -> usize { saved(step).tensors.values().map(|t| t.data.len()).sum() };
    for spec in specs() {
        let mut step = step(&spec).0;
        let mut random = Random(5);
        // An unbounded dictionary would hold some 2,500 new categories by the first mark.
        let mut sizes = [0; 2];
        for mark in &mut sizes {
            for _ in 0..10_000 {
                let (row, text) = event(&mut random, false);
                step.learn(&row, &text, 1.0);
            }
            *mark = size(&*step);
        }
        assert_eq!(sizes[0], sizes[1], "{spec}: the state still grows after 10,000 events");
    }
}

#[test]
fn a_weight_does_not_matter() {
    for spec in specs() {
        let (mut one, mut other) = (step(&spec).0, step(&spec).0);
        let mut random = Random(6);
        for i in 0..200 {
            let (row, text) = event(&mut random, false);
            one.learn(&row, &text, 1.0);
            other.learn(&row, &text, (i % 3) as f64);
        }
        assert_eq!(saved(&*one), saved(&*other), "{spec}");
    }
}

#[test]
fn a_damaged_state_is_corruption_and_names_the_tensor() {
    for spec in specs() {
        let mut learned = step(&spec).0;
        let mut random = Random(7);
        for _ in 0..100 {
            let (row, text) = event(&mut random, false);
            learned.learn(&row, &text, 1.0);
        }
        let state = saved(&*learned);
        for name in state.tensors.keys() {
            let mut damaged = [state.clone(), state.clone()];
            damaged[0].tensors.remove(name);
            let longer = [tensor_of(&state, name), tensor_of(&state, name)].concat();
            damaged[1].put_f64(name.clone(), &[longer, vec![f64::NAN]].concat());
            for (i, bad) in damaged.iter().enumerate() {
                let fault = step(&spec).0.load(bad, "steps.0.").expect_err("damage");
                assert_eq!(fault.class, Class::Corruption, "{spec}: {fault}");
                assert!(fault.message.contains("steps.0."), "{spec}: damage {i} to {name}: {fault}");
            }
        }
    }
}

fn tensor_of(state: &State, name: &str) -> Vec<f64> {
    match &state.tensors[name].data {
        Data::F64(values) => values.clone(),
        other => vec![0.0; other.len()],
    }
}

#[test]
fn refused_specs_name_the_key() {
    let refused = [
        (json!({"fields": ["a"]}), "kind: missing"),
        (json!({"kind": "standardise"}), "standard-scale"),
        (json!({"kind": "standard-scale", "with_sd": true}), "with_std"),
        (json!({"kind": "standard-scale", "with_std": 1}), "with_std: 1 is not true or false"),
        (json!({"kind": "standard-scale", "fields": ["a", "q"]}), "there are a, b, t, n, c, x, d"),
        (json!({"kind": "standard-scale", "fields": ["a", "a"]}), "\"a\" is named twice"),
        (json!({"kind": "standard-scale", "fields": []}), "fields: [] is not"),
        (json!({"kind": "standard-scale", "fields": "a"}), "fields: \"a\" is not"),
        (json!({"kind": "standard-scale", "fields": ["c"]}), "\"c\" is a category"),
        (json!({"kind": "impute", "strategy": "median"}), "one of mean, constant, last"),
        (json!({"kind": "impute", "value": 3}), "value: goes with"),
        (json!({"kind": "clip"}), "one way"),
        (json!({"kind": "clip", "lower": 0, "sigmas": 3}), "one way"),
        (json!({"kind": "clip", "lower": 2, "upper": 1}), "lower: 2 is not below"),
        (json!({"kind": "clip", "lower_quantile": 0}), "lower_quantile: 0 is not"),
        (json!({"kind": "clip", "upper_quantile": 1}), "upper_quantile: 1 is not"),
        (json!({"kind": "clip", "lower": 0, "observations_min": 9}), "observations_min"),
        (json!({"kind": "clip", "sigmas": 3, "observations_min": 4}), "from 5 to"),
        (json!({"kind": "one-hot", "fields": ["a"]}), "\"a\" is a number"),
        (json!({"kind": "one-hot", "fields": ["x"]}), "\"x\" is a text"),
        (json!({"kind": "one-hot", "categories_max": 0}), "categories_max: 0"),
        (json!({"kind": "one-hot", "categories_max": 65_535}), "from 1 to 65534"),
        (json!({"kind": "one-hot", "categories_max": 60_000}), "categories_max: one-hot would make"),
        (json!({"kind": "hash", "bits": 0}), "from 1 to 24"),
        (json!({"kind": "hash", "bits": 25}), "from 1 to 24"),
        (json!({"kind": "hash", "fields": ["c"], "words_max": 5}), "no text is hashed"),
        (json!({"kind": "polynomial", "degree": 4}), "from 2 to 3"),
        (json!({"kind": "polynomial", "fields": ["a"], "interaction_only": true}), "no product"),
        (json!({"kind": "interact"}), "pairs: missing"),
        (json!({"kind": "interact", "pairs": [["a"]]}), "list of pairs"),
        (json!({"kind": "interact", "pairs": [["a", "q"]]}), "no field \"q\""),
        (json!({"kind": "interact", "pairs": [["a", "x"]], "bits": 5}), "\"x\" is a text"),
        (json!({"kind": "interact", "pairs": [["c", "d"]]}), "bits: missing"),
        (json!({"kind": "interact", "pairs": [["a", "b"]], "bits": 5}), "no pair is hashed"),
        (json!({"kind": "interact", "pairs": [["a", "b"], ["a", "b"]]}), "a column \"a*b\""),
        (json!({"kind": "timestamp-parts", "fields": ["a"]}), "\"a\" is not a timestamp"),
        (json!({"kind": "timestamp-parts", "parts": ["hours"]}), "hour, minute"),
        (json!({"kind": "timestamp-parts", "parts": ["year"], "cyclic": true}), "year"),
        (json!({"kind": "select"}), "fields: missing"),
        (json!({"kind": "drop", "fields": ["a", "b", "t", "n", "c", "x", "d"]}), "nothing is left"),
    ];
    for (spec, part) in refused {
        let fault = build(spec.as_object().expect("table"), &layout()).err().unwrap_or_else(|| panic!("{spec} built"));
        assert_eq!(fault.class, Class::Misuse, "{spec}");
        assert!(fault.to_string().contains(part), "{spec}: {fault}");
    }
}

#[test]
fn limits_at_under_and_over() {
    for (spec, columns) in [
        (json!({"kind": "one-hot", "fields": ["c"], "categories_max": 1}), 4 + 3),
        (json!({"kind": "one-hot", "fields": ["c"], "categories_max": 65_530}), 4 + 65_532),
    ] {
        assert_eq!(step(&spec).1.dense.len(), columns);
    }
    let over = json!({"kind": "one-hot", "fields": ["c"], "categories_max": 65_531});
    assert!(build(over.as_object().expect("table"), &layout()).is_err());
    for bits in [1, 24] {
        assert_eq!(step(&json!({"kind": "hash", "bits": bits})).1.slots, 1 << bits);
    }
    let hashed = Layout { slots: 1 << 12, ..layout() };
    let hash = |bits: u32| build(json!({"kind": "hash", "bits": bits}).as_object().expect("table"), &hashed);
    assert!(hash(12).is_ok());
    assert!(hash(13).err().expect("two sizes").message.contains("bits: 13"));
}

#[test]
fn one_hot_learns_in_order_of_appearance_and_up_to_its_limit() {
    let layout = Layout { tokens: vec![("c".into(), TokenColumn::Category)], ..Layout::default() };
    let spec = json!({"kind": "one-hot", "categories_max": 2});
    let (mut step, after) = build(spec.as_object().expect("table"), &layout).expect("step");
    let names: Vec<&str> = after.dense.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["c.0", "c.1", "c.other", "c.missing"]);
    let row = |text: &str| {
        let kind = if text.is_empty() { TokenKind::Missing } else { TokenKind::Text };
        Row { tokens: vec![Token { span: Span::new(0, text.len()), kind }], ..Row::default() }
    };
    let column = |step: &dyn Step, text: &str| {
        let mut row = row(text);
        step.transform(&mut row, text.as_bytes());
        assert_eq!(row.dense.iter().sum::<f64>(), 1.0);
        row.dense.iter().position(|v| *v == 1.0)
    };
    assert_eq!(column(&*step, "blue"), Some(2), "unknown before it was learned");
    for text in ["blue", "", "red", "blue", "green"] {
        step.learn(&row(text), text.as_bytes(), 1.0);
    }
    let columns = ["blue", "red", "green", ""].map(|text| column(&*step, text));
    assert_eq!(columns, [Some(0), Some(1), Some(2), Some(3)]);
}

#[test]
fn learned_limits_clip_the_outlier() {
    let layout = Layout { dense: vec![("a".into(), DenseKind::Number)], ..Layout::default() };
    for spec in
        [json!({"kind": "clip", "sigmas": 3}), json!({"kind": "clip", "lower_quantile": 0.01, "upper_quantile": 0.99})]
    {
        let mut step = build(spec.as_object().expect("table"), &layout).expect("step").0;
        let clipped = |step: &dyn Step, x: f64| {
            let mut row = Row { dense: vec![x], ..Row::default() };
            step.transform(&mut row, b"");
            row.dense[0]
        };
        for i in 0..29 {
            step.learn(&Row { dense: vec![(i % 10) as f64], ..Row::default() }, b"", 1.0);
        }
        assert_eq!(clipped(&*step, 1e9), 1e9, "{spec}: 29 observations are one too few");
        step.learn(&Row { dense: vec![9.0], ..Row::default() }, b"", 1.0);
        let (low, high) = (clipped(&*step, -1e9), clipped(&*step, 1e9));
        assert!((-10.0..=0.5).contains(&low) && (8.0..=20.0).contains(&high), "{spec}: {low} … {high}");
        assert_eq!(clipped(&*step, 5.0), 5.0);
        assert!(clipped(&*step, f64::NAN).is_nan());
    }
}

/// The fields of a ready spec, as rows of its features.
fn layout_of(schema: &Schema) -> Layout {
    let mut layout = Layout::default();
    for field in schema.features() {
        let name = field.name.clone();
        match field.ty {
            FieldType::Bool => layout.dense.push((name, DenseKind::Bool)),
            FieldType::Timestamp => layout.dense.push((name, DenseKind::Timestamp)),
            FieldType::Category => layout.tokens.push((name, TokenColumn::Category)),
            FieldType::Text => layout.tokens.push((name, TokenColumn::Text)),
            FieldType::Float | FieldType::Int => layout.dense.push((name, DenseKind::Number)),
        }
    }
    layout
}

#[test]
fn ready_specs_fit_their_data_and_leave_nothing_unused() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut specs = 0;
    for entry in std::fs::read_dir(root.join("models")).expect("models") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        specs += 1;
        let text = std::fs::read_to_string(&path).expect("spec");
        let spec: Value = toml::from_str(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let name = spec["name"].as_str().expect("name");
        assert_eq!(path.file_stem().expect("stem"), name);
        let schema: SchemaSpec = serde_json::from_value(spec["schema"].clone()).expect("schema");
        let fields: Vec<&String> = schema.fields.keys().collect();
        let mut layout = layout_of(&Schema::from_spec(&schema).unwrap_or_else(|f| panic!("{path:?}: {f}")));
        for (i, step) in spec["steps"].as_array().into_iter().flatten().enumerate() {
            let built = build(step.as_object().expect("table"), &layout).map_err(|f| f.at(format!("steps[{i}]")));
            layout = built.unwrap_or_else(|fault| panic!("{path:?}: {fault}")).1;
        }
        assert!(layout.tokens.is_empty(), "{path:?}: a model can't use {:?}", layout.tokens);
        let data = root.join("datasets").join(format!("{}.csv", name.replace('-', "_")));
        if let Ok(data) = std::fs::read_to_string(&data) {
            let header: Vec<&str> = data.lines().next().expect("header").split(',').collect();
            assert!(fields.iter().all(|f| header.contains(&f.as_str())), "{path:?}: fields against {header:?}");
            assert_eq!(fields.len(), header.len(), "{path:?}: a column without a field");
        }
    }
    assert_eq!(specs, 12);
}

/// Transforms one row by a step that was just built.
fn once(spec: &Value, row: &Row, text: &str) -> (Vec<String>, Row) {
    let (step, after) = step(spec);
    let mut row = row.clone();
    step.transform(&mut row, text.as_bytes());
    (after.dense.into_iter().map(|(name, _)| name).collect(), row)
}

#[test]
fn steps_without_state_do_what_they_say() {
    let text = "redsome wordsblue";
    let token = |start, end| Token { span: Span::new(start, end), kind: TokenKind::Text };
    // 2024-02-29T06:00:00Z, a Thursday.
    let tokens = vec![token(0, 3), token(3, 13), token(13, 17)];
    let row = Row { dense: vec![2.0, 1.0, 1_709_186_400_000.0, -3.0], tokens, ..Row::default() };

    let (names, out) = once(&json!({"kind": "select", "fields": ["n", "a", "d"]}), &row, text);
    assert_eq!((names, out.dense, out.tokens), (vec!["a".into(), "n".into()], vec![2.0, -3.0], vec![token(13, 17)]));
    let (names, out) = once(&json!({"kind": "drop", "fields": ["t", "x"]}), &row, text);
    assert_eq!((names, out.dense), (vec!["a".into(), "b".into(), "n".into()], vec![2.0, 1.0, -3.0]));
    assert_eq!(out.tokens, [token(0, 3), token(13, 17)]);

    let (names, out) = once(&json!({"kind": "timestamp-parts"}), &row, text);
    assert_eq!(names, ["a", "b", "n", "t.hour", "t.day_of_week", "t.month"]);
    assert_eq!(out.dense, [2.0, 1.0, -3.0, 6.0, 3.0, 2.0]);
    let cyclic = json!({"kind": "timestamp-parts", "parts": ["hour"], "cyclic": true, "keep": true});
    let (names, out) = once(&cyclic, &row, text);
    assert_eq!(names, ["a", "b", "t", "n", "t.hour.sin", "t.hour.cos"]);
    assert!((out.dense[4] - 1.0).abs() < 1e-15 && out.dense[5].abs() < 1e-15, "6 h is a quarter of a day");

    let pairs = json!({"kind": "interact", "pairs": [["n", "a"], ["d", "c"], ["c", "n"]], "bits": 20, "signed": false});
    let (names, out) = once(&pairs, &row, text);
    assert_eq!((names[4].as_str(), out.dense[4]), ("n*a", -6.0));
    assert_eq!((out.values, out.tokens.len()), (vec![1.0, -3.0], 3));
    let swapped = json!({"kind": "interact", "pairs": [["c", "d"]], "bits": 20, "signed": false});
    assert_ne!(once(&swapped, &row, text).1.indices[0], out.indices[0], "a pair has an order");

    let (_, out) = once(&json!({"kind": "hash", "fields": ["c", "d"], "seed": 1}), &row, text);
    let (_, other) = once(&json!({"kind": "hash", "fields": ["c", "d"], "seed": 2}), &row, text);
    assert_ne!(out.indices, other.indices, "the seed matters");
    assert_eq!(out.tokens, [token(3, 13)], "hashed fields are gone");
}
