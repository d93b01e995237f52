//! Made-up events: the same seed gives the same text.

use std::fmt::Write;

/// A small generator of numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// One below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// One from -1 to 1.
    pub fn signed(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }
}

/// What the classifiers of the scenarios learn from.
pub const SPEC: &str = r#"
name = "made-up"
[schema]
label = "y"
id = "id"
[schema.fields]
id = "category"
x1 = "float"
x2 = { type = "float", missing = "impute" }
x3 = { type = "float", missing = "reject" }
y = "bool"
[[steps]]
kind = "standard-scale"
[model]
kind = "logistic-regression"
optimizer = { kind = "adagrad", learning_rate = 0.1 }
l2 = 0.001
"#;

/// One event of [`SPEC`]: id, x1, x2 (may be missing), x3 (may be missing: rejected), y (may be absent).
struct Event {
    id: String,
    x1: f64,
    x2: Option<f64>,
    x3: Option<f64>,
    y: Option<bool>,
}

fn event(random: &mut Random, row: u64) -> Event {
    let (x1, x2, x3) = (random.signed(), random.signed() * 10.0, random.signed() + 3.0);
    let y = x1 * 2.0 - x2 * 0.1 + (x3 - 3.0) + random.signed() * 0.3 > 0.0;
    Event {
        id: format!("e{row}"),
        x1,
        x2: (random.below(20) != 0).then_some(x2),
        x3: (random.below(100) != 0).then_some(x3),
        y: (random.below(5) != 0).then_some(y),
    }
}

/// Rows of [`SPEC`] as CSV with a header; about one in a hundred is bad.
pub fn csv(rows: u64, seed: u64) -> String {
    let mut random = Random(seed);
    let mut text = String::from("id,x1,x2,x3,y\n");
    for row in 0..rows {
        let e = event(&mut random, row);
        let cell = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
        let y = e.y.map_or("", |y| if y { "true" } else { "false" });
        let line = match random.below(200) {
            0 => format!("{},not a number,1,2,true", e.id),
            1 => format!("{},1", e.id),
            _ => format!("{},{},{},{},{y}", e.id, e.x1, cell(e.x2), cell(e.x3)),
        };
        text.push_str(&line);
        text.push('\n');
        if random.below(300) == 0 {
            text.push('\n');
        }
    }
    text
}

/// The same as newline-delimited JSON.
pub fn json(rows: u64, seed: u64) -> String {
    let mut random = Random(seed);
    let mut text = String::new();
    for row in 0..rows {
        let e = event(&mut random, row);
        let number = |x: Option<f64>| x.map_or("null".to_string(), |x| x.to_string());
        match random.below(200) {
            0 => text.push_str("{\"id\":\"broken\",\"x1\":"),
            1 => text.push_str("\"no object\""),
            _ => {
                let y = e.y.map_or("null", |y| if y { "true" } else { "false" });
                let (x1, x2, x3) = (e.x1, number(e.x2), number(e.x3));
                let _ = write!(text, "{{\"id\":\"{}\",\"x1\":{x1},\"x2\":{x2},\"x3\":{x3},\"y\":{y}}}", e.id);
            }
        }
        text.push('\n');
    }
    text
}

/// The lines of an output, as JSON.
pub fn lines(bytes: &[u8]) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}
