//! Reads the options of a `[model]` table: ranges checked, unknown keys refused, every fault names its key.

use crate::error::{Fault, Result};
use serde_json::{Map, Value};

/// What a number may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Any finite number.
    Any,
    /// 0 or more.
    NotNegative,
    /// More than 0.
    Positive,
    /// 0 to 1, both allowed.
    Unit,
    /// 0 or more, less than 1.
    BelowOne,
    /// More than 0, less than 1.
    Between,
}

impl Range {
    fn holds(self, v: f64) -> bool {
        match self {
            Range::Any => v.is_finite(),
            Range::NotNegative => v.is_finite() && v >= 0.0,
            Range::Positive => v.is_finite() && v > 0.0,
            Range::Unit => (0.0..=1.0).contains(&v),
            Range::BelowOne => (0.0..1.0).contains(&v),
            Range::Between => v > 0.0 && v < 1.0,
        }
    }
    fn text(self) -> &'static str {
        match self {
            Range::Any => "a finite number",
            Range::NotNegative => "a number of 0 or more",
            Range::Positive => "a number greater than 0",
            Range::Unit => "a number from 0 to 1",
            Range::BelowOne => "a number of 0 or more and less than 1",
            Range::Between => "a number greater than 0 and less than 1",
        }
    }
}

/// A table of options that notes which keys were asked for, so that [`Options::finish`] can refuse the rest.
#[derive(Debug)]
pub struct Options<'a> {
    path: String,
    map: Option<&'a Map<String, Value>>,
    kind: String,
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    /// The options of the table at `path` (`model`). Its `kind`, if any, counts as known.
    ///
    /// # Errors
    /// Misuse, if there is a `kind` that isn't a string.
    pub fn new(path: &str, map: &'a Map<String, Value>) -> Result<Options<'a>> {
        let kind = match map.get("kind") {
            None => "",
            Some(Value::String(kind)) => kind,
            Some(other) => {
                return Err(Fault::misuse(format!("{path}.kind is {other}; a string in quotes is expected")));
            }
        };
        Ok(Options { path: path.into(), map: Some(map), kind: kind.into(), known: vec!["kind"] })
    }
    /// The value of `kind`; empty where there is none.
    pub fn kind(&self) -> &str {
        &self.kind
    }
    /// Path of a key, for messages: `model.learning_rate`.
    pub fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }
    /// The raw value of a key, which is known from now on.
    pub fn raw(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map.and_then(|map| map.get(key))
    }
    /// True where the key was given. Doesn't make it known.
    pub fn has(&self, key: &str) -> bool {
        self.map.is_some_and(|map| map.contains_key(key))
    }
    /// A fault at a key: what is there, and what is allowed.
    pub fn fault(&self, key: &str, found: &Value, allowed: &str) -> Fault {
        Fault::misuse(format!("{} is {found}; allowed is {allowed}", self.path(key)))
    }
    /// A number.
    ///
    /// # Errors
    /// Misuse, if it is no number or out of range.
    pub fn number(&mut self, key: &'static str, default: f64, range: Range) -> Result<f64> {
        let Some(value) = self.raw(key) else { return Ok(default) };
        match value.as_f64() {
            Some(number) if range.holds(number) => Ok(number),
            _ => Err(self.fault(key, value, range.text())),
        }
    }
    /// A whole number from `min` to `max`.
    ///
    /// # Errors
    /// Misuse, if it is none, or out of range.
    pub fn whole(&mut self, key: &'static str, default: u64, min: u64, max: u64) -> Result<u64> {
        let Some(value) = self.raw(key) else { return Ok(default) };
        match value.as_u64() {
            Some(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(self.fault(key, value, &format!("a whole number from {min} to {max}"))),
        }
    }
    /// true or false.
    ///
    /// # Errors
    /// Misuse, if it is neither.
    pub fn switch(&mut self, key: &'static str, default: bool) -> Result<bool> {
        match self.raw(key) {
            None => Ok(default),
            Some(Value::Bool(on)) => Ok(*on),
            Some(other) => Err(self.fault(key, other, "true or false")),
        }
    }
    /// One of a set of words.
    ///
    /// # Errors
    /// Misuse, if it is another.
    pub fn word(&mut self, key: &'static str, default: &'static str, words: &[&'static str]) -> Result<&'static str> {
        let Some(value) = self.raw(key) else { return Ok(default) };
        let found = words.iter().find(|word| value.as_str() == Some(word));
        found.copied().ok_or_else(|| self.fault(key, value, &quoted(words)))
    }
    /// The seed: taken by every model, so that a spec keeps its meaning when the kind changes.
    ///
    /// # Errors
    /// Misuse, if it is no whole number.
    pub fn seed(&mut self) -> Result<u64> {
        self.whole("seed", 0, 0, u64::MAX)
    }
    /// Options that were written as a table with a `kind`, or as the kind's name alone. Where the key is
    /// missing, the options of `default` with nothing set.
    ///
    /// # Errors
    /// Misuse, if the value is neither, or its kind isn't among `kinds`.
    pub fn choice(&mut self, key: &'static str, default: &str, kinds: &[&'static str]) -> Result<Options<'a>> {
        let path = self.path(key);
        let choice = match self.raw(key) {
            None => Options { path, map: None, kind: default.into(), known: vec!["kind"] },
            Some(Value::String(kind)) => Options { path, map: None, kind: kind.clone(), known: vec!["kind"] },
            Some(Value::Object(map)) => Options::new(&path, map)?,
            Some(other) => return Err(self.fault(key, other, &format!("a table with a kind: {}", quoted(kinds)))),
        };
        if kinds.contains(&choice.kind.as_str()) {
            return Ok(choice);
        }
        let at = choice.path("kind");
        Err(Fault::misuse(format!("{at} is {:?}; allowed is {}", choice.kind, quoted(kinds))))
    }
    /// Refuses keys that nobody asked for.
    ///
    /// # Errors
    /// Misuse, naming the first such key and the known ones.
    pub fn finish(self) -> Result<()> {
        let Some(map) = self.map else { return Ok(()) };
        match map.keys().find(|key| !self.known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let mut known = self.known.clone();
                known.sort_unstable();
                known.dedup();
                let fault = Fault::misuse(format!("{} is not an option of {:?}", self.path(key), self.kind));
                Err(fault.hint(format!("known keys: {}", known.join(", "))))
            }
        }
    }
}

/// Words in quotes, for messages.
pub fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn ranges_are_tested_at_under_and_over() {
        let cases = [
            (Range::Any, -1e300, true),
            (Range::NotNegative, 0.0, true),
            (Range::NotNegative, -1e-300, false),
            (Range::Positive, 0.0, false),
            (Range::Positive, 1e-300, true),
            (Range::Unit, 1.0, true),
            (Range::Unit, 1.0000001, false),
            (Range::BelowOne, 0.0, true),
            (Range::BelowOne, 1.0, false),
            (Range::Between, 0.0, false),
            (Range::Between, 0.999, true),
            (Range::Between, 1.0, false),
        ];
        for (range, value, allowed) in cases {
            assert_eq!(range.holds(value), allowed, "{range:?} {value}");
            assert!(!range.holds(f64::NAN) && !range.holds(f64::INFINITY));
        }
    }

    #[test]
    fn a_fault_names_the_key_and_what_is_allowed() {
        let map = map(r#"{"kind":"x","l2":-1,"n":0,"on":1,"mode":"c","o":{"kind":"q"},"more":1}"#);
        let mut options = Options::new("model", &map).expect("options");
        let text = options.number("l2", 0.0, Range::NotNegative).expect_err("range").message;
        assert_eq!(text, "model.l2 is -1; allowed is a number of 0 or more");
        assert!(options.whole("n", 1, 1, 9).expect_err("range").message.contains("from 1 to 9"));
        assert!(options.switch("on", true).expect_err("type").message.contains("true or false"));
        assert!(options.word("mode", "a", &["a", "b"]).expect_err("word").message.contains("\"a\", \"b\""));
        let text = options.choice("o", "a", &["a", "b"]).expect_err("kind").message;
        assert_eq!(text, "model.o.kind is \"q\"; allowed is \"a\", \"b\"");
        let fault = options.finish().expect_err("unknown");
        assert!(fault.message.contains("model.more") && fault.hint.contains("kind, l2, mode"), "{fault}");
    }
}
