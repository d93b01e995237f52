//! The generators: the same bytes at any cut, labels as the papers have them, drift that can be seen.

use super::*;
use crate::schema::{Schema, SchemaSpec};
use serde_json::Value;

const CSV: Framing = Framing::Csv { header: true };

fn options(kind: Kind) -> GeneratorOptions {
    GeneratorOptions { noise: 0.0, ..GeneratorOptions::new(kind, 7) }
}

fn rows(options: &GeneratorOptions, from: u64, count: u64) -> Vec<serde_json::Map<String, Value>> {
    let mut out = Vec::new();
    write_rows(options, Framing::Lines, from, count, &mut out).expect("rows");
    let text = String::from_utf8(out).expect("text");
    text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect()
}

fn number(row: &serde_json::Map<String, Value>, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| row[name].as_str().expect("text").parse().expect("number"))
}

#[test]
fn any_cut_gives_the_same_bytes() {
    for kind in Kind::ALL {
        for framing in [Framing::Lines, CSV, Framing::Binary] {
            let mut options = GeneratorOptions::new(kind, 5);
            options.drift = Drift { every: 40, width: 15, speed: 0.01, features: 3 };
            let mut whole = Vec::new();
            write_rows(&options, framing, 0, 300, &mut whole).expect("rows");
            let mut parts = Vec::new();
            for (from, count) in [(0, 1), (1, 37), (38, 2), (40, 260)] {
                write_rows(&options, framing, from, count, &mut parts).expect("rows");
            }
            assert!(whole == parts, "{kind:?} {framing:?}");
            let mut other = Vec::new();
            write_rows(&GeneratorOptions { seed: 6, ..options }, framing, 0, 300, &mut other).expect("rows");
            assert!(whole != other, "{kind:?} {framing:?}");
        }
    }
}

#[test]
fn the_schema_fits_the_rows() {
    for kind in Kind::ALL {
        let options = options(kind);
        let text = schema_toml(&options);
        let mut spec: toml::Table = toml::from_str(&text).expect("toml");
        let spec: SchemaSpec = spec.remove("schema").expect("schema").try_into().expect("spec");
        let schema = Schema::from_spec(&spec).expect("schema");
        let names: Vec<&str> = schema.fields.iter().map(|f| f.name.as_str()).collect();
        let row = rows(&options, 3, 1).remove(0);
        assert_eq!(row.keys().collect::<Vec<_>>(), names);
        assert_eq!(csv_header(&options).trim(), names.join(","));
        assert_eq!(schema.features().count(), options.features);
    }
}

#[test]
fn labels_follow_the_papers() {
    for row in rows(&options(Kind::Sea), 0, 2_000) {
        assert_eq!(row["label"], Value::Bool(number(&row, "x1") + number(&row, "x2") <= 8.0));
    }
    for row in rows(&options(Kind::Stagger), 0, 500) {
        assert_eq!(row["label"], Value::Bool(row["size"] == "small" && row["color"] == "red"));
    }
    let seventh = GeneratorOptions { concept: 6, ..options(Kind::Agrawal) };
    for row in rows(&seventh, 0, 2_000) {
        let [salary, commission, loan] = ["salary", "commission", "loan"].map(|n| number(&row, n));
        assert_eq!(row["label"], Value::Bool(0.67 * (salary + commission) - 0.2 * loan - 20_000.0 > 0.0));
        assert_eq!(salary >= 75_000.0, commission == 0.0);
        let worth = (9.0 - number(&row, "zipcode")) * 100_000.0;
        assert!((worth * 0.5..=worth * 1.5).contains(&number(&row, "hvalue")));
    }
    for row in rows(&options(Kind::Led), 0, 200) {
        let lit: f64 = (0..7).map(|i| number(&row, &format!("d{i}"))).sum();
        let count = [6.0, 2.0, 5.0, 5.0, 4.0, 5.0, 6.0, 3.0, 7.0, 6.0];
        assert_eq!(lit, count[number(&row, "label") as usize]);
    }
}

/// Share of true labels; for the concepts here it differs from one to the next.
fn share(options: &GeneratorOptions, from: u64, count: u64) -> f64 {
    rows(options, from, count).iter().filter(|r| r["label"] == true).count() as f64 / count as f64
}

#[test]
fn labels_are_balanced_and_noise_flips_them() {
    let plane = options(Kind::Hyperplane);
    assert!((0.35..0.65).contains(&share(&plane, 0, 4_000)));
    let noisy = GeneratorOptions { noise: 0.1, ..plane.clone() };
    let (clean, noisy) = (rows(&plane, 0, 4_000), rows(&noisy, 0, 4_000));
    let flipped = clean.iter().zip(&noisy).filter(|(a, b)| a["label"] != b["label"]).count();
    assert!((300..500).contains(&flipped), "{flipped}");
    assert_eq!(clean[9]["f3"], noisy[9]["f3"]);
    for class in ["0", "1", "2"] {
        let rbf = GeneratorOptions { classes: 3, ..options(Kind::Rbf) };
        assert!(rows(&rbf, 0, 2_000).iter().filter(|r| r["label"] == class).count() > 100);
    }
}

#[test]
fn concepts_change_at_once_or_gradually() {
    let sea = options(Kind::Sea);
    let at_once = GeneratorOptions { drift: Drift { every: 3_000, ..Drift::default() }, ..sea.clone() };
    // θ = 8, 9, 7: the share of true labels is θ² / 200.
    for (from, theta) in [(0, 8.0), (3_000, 9.0), (6_000, 7.0f64)] {
        assert!((share(&at_once, from, 3_000) - theta * theta / 200.0).abs() < 0.03);
    }
    let gradual = GeneratorOptions { drift: Drift { every: 3_000, width: 1_000, ..Drift::default() }, ..sea.clone() };
    let new_share = |from, count| {
        let between = |r: &&serde_json::Map<String, Value>| (8.0..9.0).contains(&(number(r, "x1") + number(r, "x2")));
        let all = rows(&gradual, from, count);
        let decided: Vec<_> = all.iter().filter(between).collect();
        decided.iter().filter(|r| r["label"] == true).count() as f64 / decided.len() as f64
    };
    assert!(new_share(1_000, 1_000) < 0.05 && new_share(4_000, 500) > 0.95);
    assert!((0.3..0.7).contains(&new_share(2_850, 300)));
}

#[test]
fn weights_move_and_come_back() {
    let moving = GeneratorOptions { drift: Drift { speed: 0.001, ..Drift::default() }, ..options(Kind::Hyperplane) };
    let still = options(Kind::Hyperplane);
    let differ = |from, count| {
        let (a, b) = (rows(&moving, from, count), rows(&still, from, count));
        a.iter().zip(&b).filter(|(a, b)| a["label"] != b["label"]).count()
    };
    // 1,000 events take a weight across the unit interval, 2,000 there and back.
    assert!(differ(500, 1_000) > 100);
    assert!(differ(2_000_000 - 10, 20) <= 2);
}

#[test]
fn options_out_of_range_are_refused() {
    let refused = |options: GeneratorOptions| Generator::new(&options, CSV).expect_err("refused").to_string();
    assert!(refused(GeneratorOptions { features: 4, ..options(Kind::Sea) }).contains("features = 4"));
    assert!(refused(GeneratorOptions { features: 0, ..options(Kind::Rbf) }).contains("1 to 10000"));
    assert!(refused(GeneratorOptions { classes: 21, ..options(Kind::Rbf) }).contains("classes"));
    assert!(refused(GeneratorOptions { noise: 1.1, ..options(Kind::Sea) }).contains("noise = 1.1"));
    assert!(Kind::from_name("hyperplan").expect_err("no such").hint.contains("hyperplane, sea"));
    assert_eq!(Kind::from_name("led"), Ok(Kind::Led));
}
