//! Steps answer what River 0.26.1 answers, to 1e-9: each row transformed, learned, and transformed again.
//!
//! `data/river_steps/record.py` made the record. Where a field is missing, River is given a row without
//! it, and statistics must not see it. One answer differs on purpose: before its first value River's
//! MinMaxScaler answers NaN (recorded as null), and ours 0.

use millstream::preprocess::{DenseKind, Layout, Row, build};
use serde_json::Value;

fn numbers(row: &Value) -> Vec<f64> {
    row.as_array().expect("row").iter().map(|v| v.as_f64().unwrap_or(f64::NAN)).collect()
}

#[test]
fn equal_to_river() {
    let record: Value = serde_json::from_str(include_str!("data/river_steps/river_steps.json")).expect("record");
    let fields = record["fields"].as_array().expect("fields").iter();
    let dense = fields.map(|f| (f.as_str().expect("name").to_string(), DenseKind::Number)).collect();
    let layout = Layout { dense, ..Layout::default() };
    let mut compared = 0;
    for case in record["cases"].as_array().expect("cases") {
        let (mut step, after) = build(case["spec"].as_object().expect("spec"), &layout).expect("step");
        let columns: Vec<usize> = case["columns"]
            .as_array()
            .expect("columns")
            .iter()
            .map(|c| after.dense_index(c.as_str().expect("name")).unwrap_or_else(|| panic!("no column {c}")))
            .collect();
        assert_eq!(columns.len(), after.dense.len(), "{}", case["spec"]);
        let rows = record["rows"][case["rows"].as_str().expect("rows")].as_array().expect("rows");
        for (i, (row, answers)) in rows.iter().zip(case["answers"].as_array().expect("answers")).enumerate() {
            let start = numbers(row);
            for (when, answer) in answers.as_array().expect("answers").iter().enumerate() {
                let mut row = Row { dense: start.clone(), ..Row::default() };
                step.transform(&mut row, b"");
                for (column, expected) in columns.iter().zip(numbers(answer)) {
                    let found = row.dense[*column];
                    let place = format!("{} row {i}, transform {when}: {}", case["spec"], after.dense[*column].0);
                    if expected.is_nan() {
                        // Missing in the row, or not seen yet.
                        assert!(found.is_nan() || (found == 0.0 && i < 12), "{place}: {found}");
                        continue;
                    }
                    let tolerance = 1e-9 * expected.abs().max(1.0);
                    assert!((found - expected).abs() <= tolerance, "{place}: {found}, River {expected}");
                    compared += 1;
                }
                if when == 0 {
                    step.learn(&Row { dense: start.clone(), ..Row::default() }, b"", 1.0);
                }
            }
        }
    }
    assert!(compared > 12_000, "only {compared} numbers compared");
}

/// A data set as the pipelines of `models/` see it: features in the header's order, and the label.
fn data(csv: &str, label: &str) -> (Vec<String>, Vec<(Vec<f64>, f64)>) {
    let mut lines = csv.lines();
    let header: Vec<&str> = lines.next().expect("header").split(',').collect();
    let at = header.iter().position(|name| *name == label).expect("label");
    let row = |line: &str| {
        let mut values: Vec<f64> = line.split(',').map(|v| v.parse().expect("number")).collect();
        let label = values.remove(at);
        (values, label)
    };
    let names = header.iter().filter(|name| **name != label).map(|name| name.to_string()).collect();
    (names, lines.map(row).collect())
}

/// The plainest linear model that learns by gradient descent: what River's does without regularisation.
struct Linear {
    weights: Vec<f64>,
    intercept: f64,
    rate: f64,
    logistic: bool,
}

impl Linear {
    fn score(&self, x: &[f64]) -> f64 {
        let raw = self.intercept + self.weights.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        if self.logistic { 1.0 / (1.0 + (-raw).exp()) } else { raw }
    }
    fn learn(&mut self, x: &[f64], y: f64) {
        let slope = (self.score(x) - y) * if self.logistic { 1.0 } else { 2.0 };
        self.intercept -= 0.01 * slope;
        self.weights.iter_mut().zip(x).for_each(|(w, x)| *w -= self.rate * slope * x);
    }
}

/// The data sets are those that River's figures were made from, row for row, and the scaler serves a
/// model in River's order: transform, score, learn the scaler, transform again, learn the model.
#[test]
fn scaled_data_gives_a_linear_model_rivers_scores() {
    for (csv, record, label, rate) in [
        (
            include_str!("../datasets/phishing.csv"),
            include_str!("data/river_pipelines/phishing.json"),
            "is_phishing",
            0.005,
        ),
        (include_str!("../datasets/bananas.csv"), include_str!("data/river_pipelines/bananas.json"), "label", 0.005),
        (
            include_str!("../datasets/chick_weights.csv"),
            include_str!("data/river_pipelines/chick-weights.json"),
            "weight",
            0.01,
        ),
        (
            include_str!("../datasets/trump_approval.csv"),
            include_str!("data/river_pipelines/trump-approval.json"),
            "five_thirty_eight",
            0.01,
        ),
    ] {
        let record: Value = serde_json::from_str(record).expect("record");
        let (names, rows) = data(csv, label);
        let layout = Layout { dense: names.into_iter().map(|n| (n, DenseKind::Number)).collect(), ..Layout::default() };
        let spec = serde_json::json!({"kind": "standard-scale"});
        let mut step = build(spec.as_object().expect("table"), &layout).expect("step").0;
        let logistic = record["metrics"]["accuracy"].is_number();
        let mut model = Linear { weights: vec![0.0; layout.dense.len()], intercept: 0.0, rate, logistic };
        let scores = numbers(&record["scores"]);
        let mut total = 0.0;
        for (i, (x, y)) in rows.iter().enumerate() {
            let raw = Row { dense: x.clone(), ..Row::default() };
            let mut row = raw.clone();
            step.transform(&mut row, b"");
            let score = model.score(&row.dense);
            if let Some(expected) = scores.get(i) {
                assert!(
                    (score - expected).abs() <= 1e-9 * expected.abs().max(1.0),
                    "{label} row {i}: {score} {expected}"
                );
            }
            total += if logistic { f64::from((score > 0.5) == (*y == 1.0)) } else { (score - y).abs() };
            step.learn(&raw, b"", 1.0);
            row = raw;
            step.transform(&mut row, b"");
            model.learn(&row.dense, *y);
        }
        assert_eq!(record["rows"], rows.len());
        let metric = record["metrics"][if logistic { "accuracy" } else { "mae" }].as_f64().expect("metric");
        let found = total / rows.len() as f64;
        assert!((found - metric).abs() < 1e-9 * metric, "{label}: {found}, River {metric}");
    }
}
