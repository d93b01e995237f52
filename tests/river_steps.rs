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
