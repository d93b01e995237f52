//! What was written, before it means anything: the file, then the environment, then `--set`, each
//! value with its place, so that every fault can name it.

use super::keys::{self, KEYS, Key, Kind, SECTIONS};
use crate::error::Fault;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use toml::Value;
use toml::de::{DeTable, DeValue};

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file.
    File {
        /// The file's name.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// On the command line.
    Set(String),
    /// In an environment variable.
    Variable(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Place::Set(name) => write!(f, "--set {name}"),
            Place::Variable(name) => write!(f, "${name}"),
        }
    }
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub value: Value,
    pub place: Place,
}

/// Everything that was written, and what was wrong with it.
#[derive(Debug, Default)]
pub(super) struct Raw {
    /// Name of a key → its value. Of the right type and in range.
    pub found: BTreeMap<&'static str, Found>,
    /// Section of properties → its properties.
    pub properties: BTreeMap<&'static str, BTreeMap<String, String>>,
    /// Keys that were written, but wrongly: not to be called missing.
    pub broken: BTreeSet<&'static str>,
    /// True where the file isn't TOML: what is missing can't be told.
    pub torn: bool,
    /// What was wrong.
    pub faults: Vec<Fault>,
}

impl Raw {
    /// Reads the file's text.
    pub fn read_file(&mut self, file: &str, text: &str) {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut line_before = 0;
        for error in errors {
            self.torn = true;
            let place = place(file, text, error.span().map_or(0, |span| span.start));
            if let Place::File { line, .. } = place
                && line != line_before
            {
                line_before = line;
                self.faults.push(Fault::misuse(format!("{place}: {}", error.message())));
            }
        }
        self.walk("", table.get_ref(), &|offset| place(file, text, offset));
    }

    fn walk(&mut self, section: &'static str, table: &DeTable<'_>, place: &dyn Fn(usize) -> Place) {
        for (name, value) in table {
            let full = joined(section, name.get_ref());
            let known_section = SECTIONS.iter().map(|(name, _)| *name).find(|known| *known == full);
            match (known_section, value.get_ref()) {
                (Some(properties), DeValue::Table(table)) if is_properties(properties) => {
                    self.properties.entry(properties).or_default();
                    self.walk_properties(properties, "", table, place);
                }
                (Some(section), DeValue::Table(table)) => self.walk(section, table, place),
                (Some(_), other) => self.faults.push(Fault::misuse(format!(
                    "{}: {full} is a section, but this is {}; write [{full}] and its keys below",
                    place(name.span().start),
                    article(other.type_str()),
                ))),
                (None, value_read) => match keys::find(&full) {
                    Some(key) => self.put(key, owned(value_read), place(value.span().start)),
                    None => self.unknown(&full, value_read.is_table(), &place(name.span().start)),
                },
            }
        }
    }

    /// Takes the properties of a section; a dotted name that was not quoted is put together again.
    fn walk_properties(
        &mut self,
        section: &'static str,
        prefix: &str,
        table: &DeTable<'_>,
        place: &dyn Fn(usize) -> Place,
    ) {
        for (name, value) in table {
            let full = joined(prefix, name.get_ref());
            match value.get_ref() {
                DeValue::Table(table) => self.walk_properties(section, &full, table, place),
                other => self.put_property(section, full, &owned(other), &place(value.span().start)),
            }
        }
    }

    fn put_property(&mut self, section: &'static str, name: String, value: &Value, place: &Place) {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(yes) => yes.to_string(),
            other => {
                self.faults.push(Fault::misuse(format!(
                    "{place}: {section}.{name} is {}; a property is a text, a number, true or false",
                    article(other.type_str())
                )));
                return;
            }
        };
        self.properties.entry(section).or_default().insert(name, text);
    }

    /// Takes a value if it is of the right type and in range; a later layer overrides an earlier one.
    fn put(&mut self, key: &'static Key, value: Value, place: Place) {
        match check(key, &value) {
            Ok(()) => {
                self.broken.remove(key.name);
                self.found.insert(key.name, Found { value, place });
            }
            Err(found) => {
                self.found.remove(key.name);
                self.broken.insert(key.name);
                self.faults.push(Fault::misuse(format!(
                    "{place}: {} = {found}; it must be {}",
                    key.name,
                    key.kind.allowed()
                )));
            }
        }
    }

    fn unknown(&mut self, name: &str, is_section: bool, place: &Place) {
        let what = if is_section { "section" } else { "key" };
        let fault = Fault::misuse(format!("{place}: unknown {what} {name}"));
        let leaf = name.rsplit('.').next().unwrap_or(name);
        let elsewhere = || KEYS.iter().find(|key| key.leaf() == leaf).map(|key| key.name);
        let near = if is_section {
            keys::nearest(name, SECTIONS.iter().map(|(name, _)| *name))
        } else {
            elsewhere().or_else(|| keys::nearest(name, KEYS.iter().map(|key| key.name)))
        };
        self.faults.push(match near {
            Some(near) => fault.hint(format!("did you mean {near}?")),
            None => fault.hint("docs/config.md lists every key"),
        });
    }

    /// Takes one override: a key's full name and its value as text.
    fn put_text(&mut self, name: &str, text: &str, place: Place) {
        let properties =
            SECTIONS.iter().map(|(name, _)| *name).filter(|section| is_properties(section)).find_map(|section| {
                let rest = name.strip_prefix(section)?.strip_prefix('.')?;
                // In quotes as in a file, or without.
                let quoted = |quote| rest.strip_prefix(quote)?.strip_suffix(quote);
                let property = quoted('"').or_else(|| quoted('\'')).unwrap_or(rest);
                (!property.is_empty()).then_some((section, property))
            });
        if let Some((section, property)) = properties {
            // As it was given, but for quotes: a password may look like a number, and is none.
            let value = scalar(text).filter(Value::is_str).unwrap_or_else(|| Value::String(text.into()));
            self.put_property(section, property.into(), &value, &place);
            return;
        }
        match keys::find(name).filter(|key| key.kind != Kind::Properties) {
            Some(key) => self.put(key, value_of_text(key.kind, text), place),
            None => self.unknown(name, SECTIONS.iter().any(|(section, _)| *section == name), &place),
        }
    }

    /// Takes the overrides of the environment: `MILLSTREAM_SECTION__KEY`, or `MILLSTREAM_KEY` for a key
    /// at the top. Other variables of the prefix are none of ours.
    pub fn read_environment<'a>(&mut self, variables: impl Iterator<Item = (&'a str, &'a str)>) {
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix("MILLSTREAM_") else { continue };
            let name = name.to_ascii_lowercase().replace("__", ".");
            if name.contains('.') || keys::find(&name).is_some() {
                self.put_text(&name, text, Place::Variable(variable.into()));
            }
        }
    }

    /// Takes the overrides of the command line: `section.key=value`.
    pub fn read_sets(&mut self, sets: &[String]) {
        for set in sets {
            match set.split_once('=') {
                Some((name, text)) => {
                    let name = name.trim();
                    self.put_text(name, text.trim(), Place::Set(name.into()));
                }
                None => self.faults.push(
                    Fault::misuse(format!("--set {set}: there is no '='"))
                        .hint("write --set section.key=value, for example --set engine.threads=2"),
                ),
            }
        }
    }
}

fn is_properties(section: &str) -> bool {
    KEYS.iter().any(|key| key.name == section && key.kind == Kind::Properties)
}

fn joined(section: &str, name: &str) -> String {
    if section.is_empty() { name.into() } else { format!("{section}.{name}") }
}

/// Line and column of a byte offset.
fn place(file: &str, text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |line| line.chars().count()) + 1;
    Place::File { file: file.into(), line, column }
}

/// An override's text as TOML, if it is.
fn scalar(text: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(&format!("v = {text}\n")).ok()?;
    (table.len() == 1).then(|| table.get("v").cloned()).flatten()
}

/// An override's value: TOML of the key's type, else the text as it stands.
fn value_of_text(kind: Kind, text: &str) -> Value {
    let read = scalar(text);
    match (kind, read) {
        (Kind::List, Some(list @ Value::Array(_))) => list,
        (Kind::List, Some(Value::String(one))) => Value::Array(vec![Value::String(one)]),
        (Kind::List, _) => Value::Array(vec![Value::String(text.into())]),
        (Kind::Integer { .. } | Kind::Bool | Kind::Share, Some(value)) => value,
        (_, Some(Value::String(text))) => Value::String(text),
        _ => Value::String(text.into()),
    }
}

/// The value without its spans. A number that no i64 holds becomes a text that says so.
fn owned(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| Value::String(number.to_string()), Value::Integer),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(yes) => Value::Boolean(*yes),
        DeValue::Datetime(time) => Value::Datetime(*time),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| owned(item.get_ref())).collect()),
        DeValue::Table(table) => {
            Value::Table(table.iter().map(|(k, v)| (k.get_ref().to_string(), owned(v.get_ref()))).collect())
        }
    }
}

fn article(kind: &str) -> String {
    let an = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if an { "an" } else { "a" })
}

/// Type and range.
///
/// # Errors
/// What was found, as it should appear in a message.
fn check(key: &Key, value: &Value) -> Result<(), String> {
    let fits = match (key.kind, value) {
        (Kind::Text | Kind::Path, Value::String(text)) => !text.is_empty(),
        (Kind::Bool, Value::Boolean(_)) => true,
        (Kind::Integer { min, max, .. }, Value::Integer(n)) => {
            u64::try_from(*n).is_ok_and(|n| (min..=max).contains(&n))
        }
        (Kind::Share, Value::Float(share)) => (0.0..=1.0).contains(share),
        (Kind::Share, Value::Integer(share)) => (0..=1).contains(share),
        (Kind::OneOf(words), Value::String(text)) => words.contains(&text.as_str()),
        (Kind::List, Value::Array(items)) => {
            !items.is_empty() && items.iter().all(|item| item.as_str().is_some_and(|text| !text.is_empty()))
        }
        (Kind::Listen, Value::String(text)) => super::Listen::parse(text).is_some(),
        (Kind::Address, Value::String(text)) => super::address(text).is_some(),
        _ => false,
    };
    if fits { Ok(()) } else { Err(shown(value)) }
}

/// A value's text. A text that is no TOML may hold half a date (`0-1`), which has no TOML of its own.
fn text_of(value: &Value) -> String {
    match value {
        Value::Table(_) => "a section".into(),
        Value::Datetime(time) => match time.to_string() {
            nothing if nothing.is_empty() => "half a date".into(),
            text => text,
        },
        Value::Array(items) => format!("[{}]", items.iter().map(text_of).collect::<Vec<_>>().join(", ")),
        value => value.to_string(),
    }
}

/// A value as a message shows it: cut, on one line.
fn shown(value: &Value) -> String {
    let text = text_of(value);
    let one_line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if one_line.chars().count() <= 60 {
        return one_line;
    }
    one_line.chars().take(57).chain("...".chars()).collect()
}
