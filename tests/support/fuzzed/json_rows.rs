//! Rows of JSON: as every format, and each row as serde_json finds it.

use super::rows::{FIELDS, NESTING_MAX, Row, same_rows_however_read};
use millstream::batch::{Stage, TokenKind};
use millstream::decode::Format;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Number, Value};

/// The target.
pub fn json_rows(bytes: &[u8]) {
    for row in same_rows_however_read(Format::Json, bytes) {
        assert!(!row.raw.contains(&b'\n'), "a row of one line");
        match row.stage() {
            None | Some(Stage::Schema) => is_an_object(&row),
            Some(Stage::Decode) => assert!(
                Pairs::of(&row.raw).is_none_or(|pairs| pairs.depth() > NESTING_MAX),
                "serde_json takes it, and {:?} was said",
                row.status
            ),
            Some(Stage::Limit) => assert!(
                row.raw.len() > super::rows::EVENT_BYTES_MAX
                    || row.raw.iter().filter(|b| matches!(b, b'{' | b'[')).count() > NESTING_MAX
            ),
            Some(Stage::Missing) => panic!("not a decoder's stage"),
        }
    }
}

/// A row that was read as JSON: serde_json reads it too, and finds the same values.
fn is_an_object(row: &Row) {
    let text = std::str::from_utf8(&row.raw).expect("what is not UTF-8 is turned away");
    serde_json::from_str::<IgnoredAny>(text).expect("serde_json takes it");
    // It refuses a number beyond f64, which is a missing value here.
    let Some(pairs) = Pairs::of(&row.raw) else {
        let why = serde_json::from_str::<Value>(text).expect_err("no pairs").to_string();
        assert!(why.contains("number out of range"), "{why}: {text}");
        return;
    };
    assert!(pairs.depth() <= NESTING_MAX, "{text}");
    let expected = pairs.expected(row);
    assert_eq!(row.accepted(), expected.is_some(), "{text}: {:?}", row.status);
    let Some(expected) = expected else { return };
    for (i, (name, _)) in FIELDS.iter().enumerate() {
        match &expected[i] {
            Cell::Number(value) => {
                let slot = number_slot(i);
                let value = if value.is_finite() { value.to_bits() } else { f64::NAN.to_bits() };
                assert_eq!(row.numbers[slot], value, "{name} of {text}");
            }
            Cell::Token(kind, value) => {
                let (found, bytes) = &row.tokens[token_slot(i)];
                assert_eq!((found, bytes), (kind, value), "{name} of {text}");
            }
            Cell::Literal(value) => {
                let (found, bytes) = &row.tokens[token_slot(i)];
                assert_eq!(*found, TokenKind::Literal, "{name} of {text}");
                assert_eq!(serde_json::from_slice::<Value>(bytes).expect("a literal"), *value, "{name} of {text}");
            }
            Cell::Unknown => {}
        }
    }
}

/// Slots: numbers f, a_…, n, b, t, y; tokens c, x, i.
fn number_slot(field: usize) -> usize {
    if field == 7 { 5 } else { field }
}
fn token_slot(field: usize) -> usize {
    if field == 8 { 2 } else { field - 5 }
}

#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Number(f64),
    Token(TokenKind, Vec<u8>),
    /// A number or a boolean in a text's place, as it was written.
    Literal(Value),
    /// Not this oracle's to say.
    Unknown,
}

/// An object's pairs, repeated keys and all.
#[derive(Debug)]
struct Pairs(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pairs, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

impl Pairs {
    fn of(row: &[u8]) -> Option<Pairs> {
        serde_json::from_slice(row).ok()
    }

    /// Levels, the object itself included.
    fn depth(&self) -> usize {
        fn of(value: &Value) -> usize {
            match value {
                Value::Array(items) => 1 + items.iter().map(of).max().unwrap_or(0),
                Value::Object(map) => 1 + map.values().map(of).max().unwrap_or(0),
                _ => 0,
            }
        }
        1 + self.0.iter().map(|(_, value)| of(value)).max().unwrap_or(0)
    }

    /// The cells by the rules of docs/protocol.md; `None` where a value is not of its field's type.
    fn expected(&self, row: &Row) -> Option<Vec<Cell>> {
        let empty = |ty: &str| match ty {
            "category" | "text" => Cell::Token(TokenKind::Missing, Vec::new()),
            _ => Cell::Number(f64::NAN),
        };
        let ty = |i: usize| if FIELDS[i].0 == "i" { "text" } else { FIELDS[i].1 };
        let mut cells: Vec<Cell> = (0..FIELDS.len()).map(|i| empty(ty(i))).collect();
        for (key, value) in &self.0 {
            let Some(i) = FIELDS.iter().position(|(name, _)| name == key) else { continue };
            cells[i] = match (ty(i), value) {
                (ty, Value::Null) => empty(ty),
                ("category" | "text", Value::String(text)) if text.is_empty() => empty("text"),
                ("category" | "text", Value::String(text)) => Cell::Token(TokenKind::Text, text.clone().into()),
                ("category" | "text", Value::Number(_) | Value::Bool(_)) => Cell::Literal(value.clone()),
                ("float", Value::String(text))
                    if matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity" | "+Infinity") =>
                {
                    empty("float")
                }
                // The rules of RFC 3339 have tests of their own; what this row made of it is taken.
                ("timestamp", Value::String(_)) if row.accepted() => Cell::Unknown,
                ("bool", Value::Bool(b)) => Cell::Number(f64::from(u8::from(*b))),
                (ty, Value::Number(n)) => Cell::Number(number(ty, n)?),
                _ => return None,
            };
        }
        Some(cells)
    }
}

fn number(ty: &str, n: &Number) -> Option<f64> {
    let value = n.as_f64().expect("a number is an f64");
    let written_beyond =
        n.as_i64().is_some_and(|n| n.unsigned_abs() > 1 << 53) || n.as_u64().is_some_and(|n| n > 1 << 53);
    match ty {
        "int" if value.fract() != 0.0 => None,
        "int" if written_beyond || value.abs() > 2f64.powi(53) => Some(f64::NAN),
        "bool" if value != 0.0 && value != 1.0 => None,
        "bool" => Some(value.abs()),
        _ => Some(value),
    }
}
