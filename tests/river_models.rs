//! The story: a user moves a model over from River (or Vowpal Wabbit) and wants the same scores.
//!
//! tests/data/river/*.json holds what River 0.26.1 scored, row by row, before it learned each row, and
//! its weights at the end; tests/data/vw/vw.json the same for Vowpal Wabbit 9.11. record.py beside
//! them made them. Ours must agree to 1e-9 on every row; with VW, which computes in f32, to f32's
//! accuracy.

use millstream::model::{Features, LabelKind, Learned, Model, Scratch, Shape, Task, build};
use millstream::state::State;
use serde_json::{Value, json};

fn read(path: &str) -> Value {
    let path = format!("{}/tests/data/{path}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("oracle file")).expect("JSON")
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("list").iter().map(|v| v.as_f64().expect("number")).collect()
}

#[derive(Default)]
struct Row {
    dense: Vec<f64>,
    indices: Vec<u32>,
    values: Vec<f64>,
}

impl Row {
    fn features(&self) -> Features<'_> {
        Features { dense: &self.dense, indices: &self.indices, values: &self.values }
    }
}

struct Data {
    rows: Vec<Row>,
    targets: Vec<f64>,
    shape: Shape,
}

impl Data {
    fn new(file: &Value) -> Data {
        let slots = file["slots"].as_u64().expect("slots") as usize;
        let row = |row: &Value| {
            if slots == 0 {
                return Row { dense: numbers(row), ..Row::default() };
            }
            let pairs: Vec<Vec<f64>> = row.as_array().expect("pairs").iter().map(numbers).collect();
            let indices = pairs.iter().map(|pair| pair[0] as u32).collect();
            Row { indices, values: pairs.iter().map(|pair| pair[1]).collect(), dense: Vec::new() }
        };
        let label = match file["task"].as_str().expect("task") {
            "binary" => LabelKind::Bool,
            "regression" => LabelKind::Number,
            _ => LabelKind::Category { classes_max: 64 },
        };
        let names = file["features"].as_array().expect("features");
        Data {
            rows: file["rows"].as_array().expect("rows").iter().map(row).collect(),
            targets: numbers(&file["targets"]),
            shape: Shape {
                dense: names.iter().map(|name| name.as_str().expect("name").to_owned()).collect(),
                slots,
                label: Some(label),
            },
        }
    }

    fn model(&self, spec: &Value) -> Box<dyn Model> {
        build(spec.as_object().expect("table"), &self.shape).unwrap_or_else(|fault| panic!("{spec}: {fault}"))
    }

    /// Scores and learns each row; a row's scores are as many as there are classes so far.
    fn run(&self, model: &mut dyn Model, weights: impl Fn(usize) -> f64) -> Vec<Vec<f64>> {
        let (mut scratch, mut classes) = (Scratch::default(), 0);
        let rows = self.rows.iter().zip(&self.targets).enumerate();
        rows.map(|(i, (row, &target))| {
            let mut out = vec![0.0; if model.task() == Task::Multiclass { classes } else { 1 }];
            model.score(row.features(), &mut scratch, &mut out);
            assert_eq!(model.learn(row.features(), target, weights(i)), Learned::Applied, "row {i}");
            classes = classes.max(target as usize + 1);
            out
        })
        .collect()
    }
}

/// Largest difference, relative where numbers are greater than 1.
fn difference(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let pairs = ours.iter().zip(theirs);
    pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

fn agrees_with_river(name: &str, cases_min: usize) {
    let file = read(&format!("river/{name}.json"));
    let data = Data::new(&file);
    let cases = file["cases"].as_array().expect("cases");
    assert!(cases.len() >= cases_min, "{name} lost cases");
    for case in cases {
        let place = format!("{name}, {}: {}", case["name"], case["spec"]);
        let mut model = data.model(&case["spec"]);
        let weights = numbers(&case["weights"]);
        let ours = data.run(&mut *model, |i| weights.get(i).copied().unwrap_or(1.0));
        for (i, (ours, theirs)) in ours.iter().zip(case["scores"].as_array().expect("scores")).enumerate() {
            let theirs = if theirs.is_array() { numbers(theirs) } else { vec![theirs.as_f64().expect("score")] };
            let far = difference(ours, &theirs);
            assert!(far <= 1e-9, "{place}: row {i}: {ours:?} here, {theirs:?} in River");
        }
        let mut state = State::new();
        model.save(&mut state, "m.");
        let theirs: Vec<f64> = case["final"].as_array().expect("final").iter().flat_map(numbers).collect();
        let ours = state.get_f64("m.weights", None).expect("weights");
        // A hashed table also has slots that no row ever named; River lists the ones that were.
        let used: Vec<f64> = if data.shape.slots == 0 { ours.to_vec() } else { used_slots(&data, ours) };
        assert!(difference(&used, &theirs) <= 1e-9, "{place}: weights {used:?} here, {theirs:?} in River");
        if let Ok(intercept) = state.get_one_f64("m.intercept") {
            let theirs = case["intercept"].as_f64().expect("intercept");
            assert!(difference(&[intercept], &[theirs]) <= 1e-9, "{place}: intercept {intercept}, {theirs} in River");
        }
    }
}

fn used_slots(data: &Data, weights: &[f64]) -> Vec<f64> {
    let mut slots: Vec<u32> = data.rows.iter().flat_map(|row| row.indices.iter().copied()).collect();
    slots.sort_unstable();
    slots.dedup();
    slots.iter().map(|&slot| weights[slot as usize]).collect()
}

#[test]
fn binary_models_on_phishing() {
    agrees_with_river("phishing", 22);
}

#[test]
fn binary_models_on_bananas() {
    agrees_with_river("bananas", 9);
}

#[test]
fn regressors_on_trump_approval() {
    agrees_with_river("trump_approval", 17);
}

#[test]
fn regressors_on_chick_weights() {
    agrees_with_river("chick_weights", 6);
}

#[test]
fn softmax_on_image_segments() {
    agrees_with_river("image_segments", 4);
}

#[test]
fn hashed_features() {
    agrees_with_river("hashed", 7);
}

#[test]
fn vowpal_wabbit() {
    let file = read("vw/vw.json");
    for case in file["cases"].as_array().expect("cases") {
        let data = Data::new(&read(&format!("river/{}.json", case["data"].as_str().expect("name"))));
        let binary = data.shape.label == Some(LabelKind::Bool);
        let kind = if binary { "logistic-regression" } else { "linear-regression" };
        let power_t = case["power_t"].as_f64().expect("power_t");
        let spec = json!({"kind": kind, "loss": case["loss"], "optimizer": {"kind": "vw", "power_t": power_t}});
        let weighted = case["weighted"].as_bool().expect("bool");
        let mut model = data.model(&spec);
        let ours = data.run(&mut *model, |i| if weighted { [1.0, 0.25, 3.0, 1.5][i % 4] } else { 1.0 });
        let theirs = numbers(&case["scores"]);
        // VW gives a margin, we give its probability.
        let sigmoid = |z: f64| 1.0 / (1.0 + (-z).exp());
        let theirs: Vec<f64> = if binary { theirs.into_iter().map(sigmoid).collect() } else { theirs };
        let far = difference(&ours.concat(), &theirs);
        println!("{spec} weighted {weighted}: largest difference {far:.2e}");
        assert!(far <= 5e-6, "{spec} weighted {weighted}: {far}");
    }
}
