//! Reading a step's spec table: known keys, typed options, and fields by name.

use super::{DenseKind, Layout, TokenColumn};
use crate::error::{Fault, Result};
use serde_json::{Map, Value};

/// Most names that a message lists.
const NAMES_LISTED_MAX: usize = 40;

/// A spec table and the layout of the rows that its step will get.
pub(super) struct Spec<'a> {
    kind: &'a str,
    map: &'a Map<String, Value>,
    layout: &'a Layout,
}

/// Columns chosen by name, in the layout's order.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Indices of dense columns.
    pub dense: Vec<usize>,
    /// Indices of token columns.
    pub tokens: Vec<usize>,
}

impl<'a> Spec<'a> {
    /// Checks that the table has no key but `kind` and the `known` ones.
    pub fn new(map: &'a Map<String, Value>, layout: &'a Layout, known: &[&str]) -> Result<Spec<'a>> {
        let kind = map.get("kind").and_then(Value::as_str).unwrap_or("?");
        for key in map.keys() {
            if key != "kind" && !known.contains(&key.as_str()) {
                let fault = Fault::misuse(format!("{key}: {kind} has no such option"));
                return Err(fault.hint(format!("its options: {}", known.join(", "))));
            }
        }
        Ok(Spec { kind, map, layout })
    }

    /// True where the key is there.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        match value.as_f64().filter(|v| v.is_finite()) {
            Some(v) => Ok(Some(v)),
            None => Err(wrong(key, value, "a finite number")),
        }
    }

    /// A finite number inside an open interval.
    pub fn number_within(&self, key: &str, low: f64, high: f64) -> Result<Option<f64>> {
        match self.number(key)? {
            Some(v) if v <= low || v >= high => {
                Err(wrong(key, &self.map[key], &format!("a number above {low} and below {high}")))
            }
            other => Ok(other),
        }
    }

    /// A whole number in a range.
    pub fn whole(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        match value.as_u64().filter(|v| range.contains(v)) {
            Some(v) => Ok(Some(v)),
            None => Err(wrong(key, value, &format!("a whole number from {} to {}", range.start(), range.end()))),
        }
    }

    /// True or false, with a default.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.map.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(wrong(key, other, "true or false")),
        }
    }

    /// One of a set of words, with a default.
    pub fn word(&self, key: &str, allowed: &[&'static str], default: &'static str) -> Result<&'static str> {
        let Some(value) = self.map.get(key) else { return Ok(default) };
        let found = allowed.iter().find(|a| value.as_str() == Some(a));
        found.copied().ok_or_else(|| wrong(key, value, &format!("one of {}", allowed.join(", "))))
    }

    /// A list of texts without repetition, if the key is there. An empty list is refused.
    pub fn words(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        let list = value.as_array().filter(|l| !l.is_empty());
        let list = list.ok_or_else(|| wrong(key, value, "a list of at least one name"))?;
        let mut words: Vec<&str> = Vec::with_capacity(list.len());
        for item in list {
            let word = item.as_str().ok_or_else(|| wrong(key, item, "a name (text)"))?;
            if words.contains(&word) {
                return Err(Fault::misuse(format!("{key}: {word:?} is named twice")));
            }
            words.push(word);
        }
        Ok(Some(words))
    }

    /// A list of pairs of names.
    pub fn pairs(&self, key: &str) -> Result<Vec<(&'a str, &'a str)>> {
        const WANTED: &str = "a list of pairs of fields, as in [[\"a\", \"b\"], [\"a\", \"c\"]]";
        let value = self.map.get(key).ok_or_else(|| Fault::misuse(format!("{key}: missing")).hint(WANTED))?;
        let list = value.as_array().filter(|l| !l.is_empty()).ok_or_else(|| wrong(key, value, WANTED))?;
        let pair = |item: &'a Value| match item.as_array().map(Vec::as_slice) {
            Some([Value::String(a), Value::String(b)]) => Ok((a.as_str(), b.as_str())),
            _ => Err(wrong(key, item, WANTED)),
        };
        list.iter().map(pair).collect()
    }

    /// The dense columns of `fields`; without that key, all that `by_default` takes.
    pub fn dense(&self, by_default: fn(DenseKind) -> bool) -> Result<Vec<usize>> {
        let chosen = match self.fields()? {
            Some(chosen) => chosen,
            None => {
                let all = self.layout.dense.iter().enumerate();
                let dense = all.filter(|(_, (_, kind))| by_default(*kind)).map(|(i, _)| i).collect();
                Chosen { dense, tokens: Vec::new() }
            }
        };
        if let Some(&token) = chosen.tokens.first() {
            let (name, ty) = &self.layout.tokens[token];
            return Err(Fault::misuse(format!("fields: {name:?} is a {}; {} takes numbers", ty.name(), self.kind))
                .hint(format!("the numbers are {}", list(self.layout.dense.iter().map(|(n, _)| n.as_str())))));
        }
        self.not_empty(chosen.dense)
    }

    /// The token columns of `fields`, categories only; without that key, all categories.
    pub fn categories(&self) -> Result<Vec<usize>> {
        let categories = || self.layout.tokens.iter().filter(|(_, ty)| *ty == TokenColumn::Category);
        let hint = || format!("the categories are {}", list(categories().map(|(n, _)| n.as_str())));
        let Some(chosen) = self.fields()? else {
            let all = self.layout.tokens.iter().enumerate();
            return self.not_empty(
                all.filter(|(_, (_, ty))| *ty == TokenColumn::Category).map(|(i, _)| i).collect::<Vec<_>>(),
            );
        };
        if let Some(&i) = chosen.dense.first() {
            let name = &self.layout.dense[i].0;
            return Err(
                Fault::misuse(format!("fields: {name:?} is a number; {} takes categories", self.kind)).hint(hint())
            );
        }
        if let Some(&i) = chosen.tokens.iter().find(|i| self.layout.tokens[**i].1 != TokenColumn::Category) {
            let name = &self.layout.tokens[i].0;
            return Err(Fault::misuse(format!("fields: {name:?} is a text; {} takes categories", self.kind))
                .hint(format!("{}; a text can be hashed", hint())));
        }
        self.not_empty(chosen.tokens)
    }

    /// The columns of `fields`, whatever their type; `None` without that key.
    pub fn fields(&self) -> Result<Option<Chosen>> {
        let Some(names) = self.words("fields")? else { return Ok(None) };
        let mut chosen = Chosen::default();
        for name in names {
            match (self.layout.dense_index(name), self.layout.token_index(name)) {
                (Some(i), _) => chosen.dense.push(i),
                (None, Some(i)) => chosen.tokens.push(i),
                (None, None) => return Err(self.no_field("fields", name)),
            }
        }
        chosen.dense.sort_unstable();
        chosen.tokens.sort_unstable();
        Ok(Some(chosen))
    }

    /// The fault for a name that no column has.
    pub fn no_field(&self, key: &str, name: &str) -> Fault {
        let dense = self.layout.dense.iter().map(|(n, _)| n.as_str());
        let tokens = self.layout.tokens.iter().map(|(n, _)| n.as_str());
        Fault::misuse(format!("{key}: no field {name:?} reaches {}", self.kind))
            .hint(format!("there are {}", list(dense.chain(tokens))))
    }

    /// Refuses a choice of nothing.
    pub fn not_empty(&self, columns: Vec<usize>) -> Result<Vec<usize>> {
        if columns.is_empty() {
            let fault = Fault::misuse(format!("fields: no field that reaches {} is of a type it takes", self.kind));
            return Err(fault.hint("leave the step out, or name its fields"));
        }
        Ok(columns)
    }
}

impl TokenColumn {
    /// The name used in specs and messages.
    fn name(self) -> &'static str {
        match self {
            TokenColumn::Category => "category",
            TokenColumn::Text => "text",
        }
    }
}

/// Sets the size of the hashed table, refusing a second size.
pub(super) fn set_slots(layout: &mut Layout, bits: u32) -> Result<()> {
    let slots = 1usize << bits;
    if layout.slots != 0 && layout.slots != slots {
        let there = layout.slots.trailing_zeros();
        return Err(Fault::misuse(format!("bits: {bits}, and an earlier step hashes to {there}"))
            .hint("all hashing steps of a pipeline share one table: give them the same bits"));
    }
    layout.slots = slots;
    Ok(())
}

fn wrong(key: &str, value: &Value, wanted: &str) -> Fault {
    Fault::misuse(format!("{key}: {value} is not {wanted}"))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.len() {
        0 => "none".into(),
        n if n > NAMES_LISTED_MAX => {
            format!("{} and {} more", names[..NAMES_LISTED_MAX].join(", "), n - NAMES_LISTED_MAX)
        }
        _ => names.join(", "),
    }
}
