//! The config written out again: every key with its value, as TOML that reads back to the same config;
//! and what differs between two configs.

use super::keys::{self, KEYS, Kind, SECTIONS, grouped};
use super::*;
use toml::Value;

/// What stands for a secret in the resolved config.
pub const MASK: &str = "********";

/// Whether a property of a Kafka client holds a secret: its value is never shown.
pub fn is_secret(property: &str) -> bool {
    let name = property.to_ascii_lowercase();
    ["password", "passphrase", "secret", "key.pem", "jaas", "oauthbearer.config"].iter().any(|p| name.contains(p))
}

fn unless_secret(property: &str, value: &Value) -> Value {
    if is_secret(property) { text(MASK) } else { value.clone() }
}

impl Config {
    /// The resolved config as TOML, defaults included. It reads back to the same config, but for secrets among
    /// the properties of a client (passwords, private keys): they are shown as [`MASK`].
    pub fn to_toml(&self) -> String {
        let values = self.values();
        let mut text = String::new();
        for (section, _) in SECTIONS {
            let properties = KEYS.iter().any(|key| key.name == *section && key.kind == Kind::Properties);
            let lines: Vec<String> = if properties {
                match values.iter().find(|(name, _)| name == section) {
                    Some((_, Value::Table(table))) => {
                        table.iter().map(|(k, v)| format!("{} = {}\n", quoted(k), unless_secret(k, v))).collect()
                    }
                    _ => continue,
                }
            } else {
                let here = values.iter().filter(|(name, value)| {
                    !value.is_table() && keys::find(name).is_some_and(|key| key.section() == *section)
                });
                here.map(|(name, value)| format!("{} = {}\n", leaf(name), shown(value))).collect()
            };
            if !section.is_empty() {
                text.push_str(&format!("\n[{section}]\n"));
            }
            text.extend(lines);
        }
        text
    }

    /// Every key that applies, with its value, in the table's order.
    fn values(&self) -> Vec<(&'static str, Value)> {
        let mut values = vec![
            ("pipeline", path(&self.pipeline)),
            ("state_dir", path(&self.state_dir)),
            ("lanes", integer(self.lanes)),
        ];
        self.source_values(&mut values);
        self.sink_values(&mut values);
        let limits = &self.limits;
        values.extend([
            ("learn.enabled", Value::Boolean(self.learn.enabled)),
            ("delivery.guarantee", text(self.delivery.guarantee.name())),
            ("delivery.commit_interval_ms", integer(self.delivery.commit_interval_ms)),
            ("checkpoint.interval_ms", integer(self.checkpoint.interval_ms)),
            ("checkpoint.keep", integer(self.checkpoint.keep)),
            ("checkpoint.keep_journal", Value::Boolean(self.checkpoint.keep_journal)),
            ("limits.event_bytes_max", integer(limits.event_bytes_max)),
            ("limits.nesting_max", integer(limits.nesting_max)),
            ("limits.connections_max", integer(limits.connections_max)),
            ("limits.connections_per_address_max", integer(limits.connections_per_address_max)),
            ("limits.idle_timeout_ms", integer(limits.idle_timeout_ms)),
            ("limits.answer_bytes_max", integer(limits.answer_bytes_max)),
            ("limits.artifact_bytes_max", integer(limits.artifact_bytes_max)),
            ("limits.swap_timeout_ms", integer(limits.swap_timeout_ms)),
            ("limits.start_timeout_ms", integer(limits.start_timeout_ms)),
            ("engine.batch_events_max", integer(self.engine.batch_events_max)),
            ("engine.threads", integer(self.engine.threads)),
            ("engine.commit_events_max", integer(self.engine.commit_events_max)),
            ("admin.socket", path(&self.admin.socket)),
            ("node.name", text(&self.node.name)),
            ("log.level", text(&self.log.level)),
        ]);
        values.extend(self.checkpoint.store.as_ref().map(|store| ("checkpoint.store", text(store))));
        values.extend(self.admin.http.map(|http| ("admin.http", text(&http.to_string()))));
        values.sort_by_key(|(name, _)| KEYS.iter().position(|key| key.name == *name));
        values
    }

    fn source_values(&self, values: &mut Vec<(&'static str, Value)>) {
        values.push(("source.kind", text(self.source.kind.name())));
        let format = match self.source.format {
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Binary => "binary",
        };
        values.push(("source.format", text(format)));
        if !self.source.columns.is_empty() {
            values.push(("source.columns", list(&self.source.columns)));
        }
        match &self.source.kind {
            SourceKind::Kafka { brokers, topics, group, start, direct, properties } => values.extend([
                ("source.brokers", text(brokers)),
                ("source.topics", list(topics)),
                ("source.group", text(group)),
                ("source.start", text(if *start == Start::Latest { "latest" } else { "earliest" })),
                ("source.client", text(if *direct { "direct" } else { "librdkafka" })),
                ("source.kafka", table(properties)),
            ]),
            SourceKind::Socket { listen } => values.push(("source.listen", text(&listen.to_string()))),
            SourceKind::File { paths, follow } => {
                values.extend([("source.paths", list(paths)), ("source.follow", Value::Boolean(*follow))]);
            }
            SourceKind::Rate { generator, rate, events, seed, stream } => {
                values.extend([
                    ("source.generator", text(generator)),
                    ("source.rate", integer(*rate)),
                    ("source.events", integer(*events)),
                    ("source.seed", integer(*seed)),
                    ("source.classes", integer(stream.classes)),
                    ("source.concept", integer(stream.concept)),
                    ("source.drift_interval_events", integer(stream.drift_interval_events)),
                    ("source.drift_width_events", integer(stream.drift_width_events)),
                    ("source.drift_speed", Value::Float(stream.drift_speed)),
                    ("source.drift_features", integer(stream.drift_features)),
                ]);
                values.extend(stream.features.map(|features| ("source.features", integer(features))));
                values.extend(stream.noise.map(|noise| ("source.noise", Value::Float(noise))));
            }
        }
    }

    fn sink_values(&self, values: &mut Vec<(&'static str, Value)>) {
        values.push(("sink.kind", text(self.sink.kind.name())));
        match &self.sink.kind {
            SinkKind::Kafka { topic } => values.push(("sink.topic", text(topic))),
            SinkKind::File { path: file, rotate_bytes } => {
                values.push(("sink.path", path(file)));
                values.extend(rotate_bytes.map(|bytes| ("sink.rotate_bytes", integer(bytes))));
            }
            SinkKind::Socket | SinkKind::Console | SinkKind::None => {}
        }
        values.extend(self.sink.dead_letters.as_ref().map(|place| ("sink.dead_letters", text(place))));
    }
}

/// What a reload would change: the names of the keys that differ, all of which a running daemon takes.
///
/// # Errors
/// One fault for each key that differs and needs a restart.
pub fn reloadable_changes(old: &Config, new: &Config) -> Result<Vec<String>, Vec<Fault>> {
    let (old, new) = (old.values(), new.values());
    let (mut changes, mut faults) = (Vec::new(), Vec::new());
    for key in KEYS {
        let value =
            |values: &[(&str, Value)]| values.iter().find(|(name, _)| *name == key.name).map(|(_, v)| v.clone());
        let (before, after) = (value(&old), value(&new));
        if before == after {
            continue;
        }
        if key.reloadable {
            changes.push(key.name.to_string());
            continue;
        }
        let words = |value: &Option<Value>| value.as_ref().map_or_else(|| "absent".to_string(), shown);
        faults.push(
            Fault::misuse(format!("{} changed from {} to {}", key.name, words(&before), words(&after)))
                .hint("a running daemon does not take this change: restart it, or put the old value back"),
        );
    }
    if faults.is_empty() { Ok(changes) } else { Err(faults) }
}

fn leaf(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, leaf)| leaf)
}

fn quoted(name: &str) -> String {
    Value::String(name.into()).to_string()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Integer(n) => u64::try_from(*n).map_or_else(|_| n.to_string(), grouped),
        value => value.to_string(),
    }
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}

fn path(path: &Path) -> Value {
    text(&path.display().to_string())
}

fn integer(n: impl TryInto<i64>) -> Value {
    Value::Integer(n.try_into().unwrap_or(i64::MAX))
}

fn list(items: &[String]) -> Value {
    Value::Array(items.iter().map(|item| text(item)).collect())
}

fn table(properties: &BTreeMap<String, String>) -> Value {
    Value::Table(properties.iter().map(|(k, v)| (k.clone(), text(v))).collect())
}
