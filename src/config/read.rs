//! From what was written to the typed config: defaults, which keys belong to which kind, and the
//! relations between keys.

use super::keys::{self, Default, KEYS, Kind};
use super::raw::Raw;
use super::*;
use std::str::FromStr;
use toml::Value;

/// Longest path of a Unix socket on Linux (`sun_path` without its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(super) struct Reader<'a> {
    name: &'a str,
    raw: Raw,
    environment: &'a Environment,
}

impl<'a> Reader<'a> {
    pub fn new(name: &'a str, raw: Raw, environment: &'a Environment) -> Reader<'a> {
        Reader { name, raw, environment }
    }

    /// The config, or all that is wrong with it.
    pub fn config(mut self) -> Result<Config, Vec<Fault>> {
        self.belonging();
        let source =
            SourceConfig { kind: self.source_kind(), format: self.format(), columns: self.list("source.columns") };
        let sink = self.sink();
        let guarantee = self.guarantee(&source.kind, &sink.kind);
        let state_dir = self.path_or("state_dir", |reader| reader.environment.state_dir());
        let admin_socket =
            self.path_or("admin.socket", |reader| reader.environment.admin_socket(Some(state_dir.clone())));
        let connections_max = self.integer("limits.connections_max");
        let config = Config {
            pipeline: self.text("pipeline").into(),
            state_dir,
            lanes: self.integer("lanes"),
            source,
            sink,
            learn: LearnConfig { enabled: self.boolean("learn.enabled") },
            delivery: DeliveryConfig { guarantee, commit_interval_ms: self.integer("delivery.commit_interval_ms") },
            checkpoint: CheckpointConfig {
                interval_ms: self.integer("checkpoint.interval_ms"),
                keep: self.integer("checkpoint.keep"),
                store: self.optional_text("checkpoint.store"),
                keep_journal: self.boolean("checkpoint.keep_journal"),
            },
            limits: LimitsConfig {
                event_bytes_max: self.integer("limits.event_bytes_max"),
                nesting_max: self.integer("limits.nesting_max"),
                connections_max,
                connections_per_address_max: self
                    .optional_integer("limits.connections_per_address_max")
                    .unwrap_or(connections_max),
                idle_timeout_ms: self.integer("limits.idle_timeout_ms"),
                answer_bytes_max: self.integer("limits.answer_bytes_max"),
                artifact_bytes_max: self.integer("limits.artifact_bytes_max"),
                swap_timeout_ms: self.integer("limits.swap_timeout_ms"),
                start_timeout_ms: self.integer("limits.start_timeout_ms"),
            },
            engine: EngineConfig {
                batch_events_max: self.integer("engine.batch_events_max"),
                threads: self.integer("engine.threads"),
                commit_events_max: self.integer("engine.commit_events_max"),
            },
            admin: AdminConfig {
                socket: admin_socket,
                http: self.optional_text("admin.http").and_then(|text| address(&text)),
            },
            node: NodeConfig {
                name: self.optional_text("node.name").unwrap_or_else(|| self.environment.machine().into()),
            },
            log: LogConfig { level: self.text("log.level") },
        };
        self.relations(&config);
        if self.raw.faults.is_empty() { Ok(config) } else { Err(self.raw.faults) }
    }

    // --- single keys --------------------------------------------------------------------------

    /// The value that was written, else the default. A required key that is missing is a fault.
    fn value(&mut self, name: &str) -> Option<Value> {
        let key = keys::find(name).expect("the key is in the table");
        if let Some(found) = self.raw.found.get(name) {
            return Some(found.value.clone());
        }
        match key.default {
            Default::Value(text) => {
                let table: toml::Table = toml::from_str(&format!("v = {text}")).expect("a default is TOML");
                table.get("v").cloned()
            }
            Default::Required => {
                self.missing(name);
                None
            }
            Default::Computed(_) | Default::Absent => None,
        }
    }

    fn missing(&mut self, name: &str) {
        if self.raw.torn || self.raw.broken.contains(name) {
            return;
        }
        let Some(key) = keys::find(name) else { return };
        let why = match key.only {
            [] => String::new(),
            _ => format!(" for {}.kind = \"{}\"", key.section(), self.kind_of(key.section()).unwrap_or_default()),
        };
        let fault = Fault::misuse(format!("{}: {name} is missing{why}; it must be {}", self.name, key.kind.allowed()));
        let place = if key.section().is_empty() { "at the top".into() } else { format!("under [{}]", key.section()) };
        self.raw.faults.push(fault.hint(format!("write {} = … {place}", key.leaf())));
    }

    fn text(&mut self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }

    fn optional_text(&mut self, name: &str) -> Option<String> {
        self.value(name)?.as_str().map(String::from)
    }

    fn boolean(&mut self, name: &str) -> bool {
        self.value(name).and_then(|value| value.as_bool()).unwrap_or_default()
    }

    fn integer<T: TryFrom<i64> + std::default::Default>(&mut self, name: &str) -> T {
        self.optional_integer(name).unwrap_or_default()
    }

    fn optional_integer<T: TryFrom<i64>>(&mut self, name: &str) -> Option<T> {
        self.value(name)?.as_integer().and_then(|n| T::try_from(n).ok())
    }

    fn share(&mut self, name: &str) -> Option<f64> {
        let value = self.value(name)?;
        value.as_float().or_else(|| value.as_integer().map(|n| n as f64))
    }

    fn list(&mut self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::Array(items)) => items.iter().filter_map(|item| item.as_str().map(String::from)).collect(),
            _ => Vec::new(),
        }
    }

    fn path_or(&mut self, name: &str, otherwise: impl Fn(&Self) -> crate::error::Result<PathBuf>) -> PathBuf {
        match self.optional_text(name) {
            Some(text) => text.into(),
            None => match otherwise(self) {
                Ok(path) => path,
                Err(fault) => {
                    if !self.raw.broken.contains(name) && !self.raw.faults.contains(&fault) {
                        self.raw.faults.push(fault);
                    }
                    PathBuf::new()
                }
            },
        }
    }

    /// `kind` of a section, where it was written as it may be.
    fn kind_of(&self, section: &str) -> Option<String> {
        let written = |section: &str| {
            self.raw
                .found
                .get(format!("{section}.kind").as_str())
                .and_then(|found| found.value.as_str())
                .map(String::from)
        };
        written(section).or_else(|| {
            let answers = section == "sink"
                && !self.raw.broken.contains("sink.kind")
                && written("source").as_deref() == Some("socket");
            answers.then(|| "socket".into())
        })
    }

    // --- sections that depend on their kind ---------------------------------------------------

    /// Refuses keys that belong to another kind than the section's.
    fn belonging(&mut self) {
        for key in KEYS.iter().filter(|key| !key.only.is_empty()) {
            let section = key.section();
            let Some(kind) = self.kind_of(section) else { continue };
            let place = match key.kind {
                Kind::Properties if self.raw.properties.contains_key(key.name) => self.name.to_string(),
                Kind::Properties => continue,
                _ => match self.raw.found.get(key.name) {
                    Some(found) => found.place.to_string(),
                    None => continue,
                },
            };
            if !key.only.contains(&kind.as_str()) {
                self.raw.faults.push(
                    Fault::misuse(format!(
                        "{place}: {} belongs to {section}.kind = \"{}\", but {section}.kind is \"{kind}\"",
                        key.name, key.only[0]
                    ))
                    .hint("remove the one or change the other"),
                );
            }
        }
    }

    fn format(&mut self) -> Format {
        match self.text("source.format").as_str() {
            "csv" => Format::Csv,
            "binary" => Format::Binary,
            _ => Format::Json,
        }
    }

    fn source_kind(&mut self) -> SourceKind {
        match self.text("source.kind").as_str() {
            "kafka" => SourceKind::Kafka {
                brokers: self.text("source.brokers"),
                topics: self.list("source.topics"),
                group: self.text("source.group"),
                start: if self.text("source.start") == "latest" { Start::Latest } else { Start::Earliest },
                direct: self.text("source.client") == "direct",
                properties: self.raw.properties.get("source.kafka").cloned().unwrap_or_default(),
            },
            "file" => SourceKind::File { paths: self.list("source.paths"), follow: self.boolean("source.follow") },
            "rate" => SourceKind::Rate {
                generator: self.text("source.generator"),
                rate: self.integer("source.rate"),
                events: self.integer("source.events"),
                seed: self.integer("source.seed"),
                stream: self.stream(),
            },
            "socket" => {
                let listen = Listen::parse(&self.text("source.listen"));
                SourceKind::Socket { listen: listen.unwrap_or_else(|| Listen::Unix(PathBuf::new())) }
            }
            // The fault is noted; anything serves until all faults are found.
            _ => SourceKind::File { paths: Vec::new(), follow: false },
        }
    }

    fn stream(&mut self) -> StreamConfig {
        StreamConfig {
            features: self.optional_integer("source.features"),
            classes: self.integer("source.classes"),
            noise: self.share("source.noise"),
            concept: self.integer("source.concept"),
            drift_interval_events: self.integer("source.drift_interval_events"),
            drift_width_events: self.integer("source.drift_width_events"),
            drift_speed: self.share("source.drift_speed").unwrap_or_default(),
            drift_features: self.integer("source.drift_features"),
        }
    }

    fn sink(&mut self) -> SinkConfig {
        let kind = self.kind_of("sink");
        if kind.is_none() && self.kind_of("source").is_some() {
            self.missing("sink.kind");
        }
        let kind = match kind.as_deref() {
            Some("kafka") => SinkKind::Kafka { topic: self.text("sink.topic") },
            Some("socket") => SinkKind::Socket,
            Some("file") => SinkKind::File {
                path: self.text("sink.path").into(),
                rotate_bytes: self.optional_integer("sink.rotate_bytes"),
            },
            Some("console") => SinkKind::Console,
            _ => SinkKind::None,
        };
        SinkConfig { kind, dead_letters: self.optional_text("sink.dead_letters") }
    }

    fn guarantee(&mut self, source: &SourceKind, sink: &SinkKind) -> Guarantee {
        let strongest = Guarantee::strongest(source, sink);
        match self.optional_text("delivery.guarantee").as_deref() {
            Some("at-least-once") => Guarantee::AtLeastOnce,
            Some("exactly-once") if strongest == Guarantee::AtLeastOnce && self.kinds_are_known() => {
                self.refuse(
                    "delivery.guarantee",
                    format!(
                        "\"exactly-once\" cannot be kept from a {} source to a {} sink",
                        source.name(),
                        sink.name()
                    ),
                    "leave the key out: the strongest that can be kept is taken",
                );
                strongest
            }
            _ => strongest,
        }
    }

    fn kinds_are_known(&self) -> bool {
        self.kind_of("source").is_some() && self.kind_of("sink").is_some()
    }

    // --- relations between keys ---------------------------------------------------------------

    /// A fault at the place where a key was written (or the file, where it was not).
    fn refuse(&mut self, name: &str, what: String, hint: &str) {
        let place = self.raw.found.get(name).map_or_else(|| self.name.to_string(), |found| found.place.to_string());
        self.raw.faults.push(Fault::misuse(format!("{place}: {name} = {what}")).hint(hint));
    }

    fn relations(&mut self, config: &Config) {
        if !config.source.columns.is_empty()
            && config.source.format != Format::Csv
            && !self.raw.broken.contains("source.format")
        {
            let what = format!("{:?}: only CSV has columns", config.source.columns);
            self.refuse("source.columns", what, "remove it, or set source.format = \"csv\"");
        }
        if let SourceKind::Rate { generator, stream, .. } = &config.source.kind
            && !["hyperplane", "rbf"].contains(&generator.as_str())
            && let Some(features) = stream.features
        {
            let what = format!("{features}: the features of {generator} are given");
            self.refuse("source.features", what, "remove it, or use hyperplane or rbf");
        }
        let needs = match &config.sink.kind {
            SinkKind::Socket => {
                Some(("socket", "answers clients", "kafka (from a kafka source), file, console or none"))
            }
            SinkKind::Kafka { .. } => {
                Some(("kafka", "writes beside its input", "socket (to a socket source), file, console or none"))
            }
            _ => None,
        };
        if let Some((sink, does, others)) = needs
            && self.kind_of("source").is_some_and(|kind| kind != sink)
        {
            let what = format!("\"{sink}\" {does}, but source.kind is \"{}\"", config.source.kind.name());
            self.refuse("sink.kind", what, &format!("use {others}"));
        }
        let limits = &config.limits;
        if limits.connections_per_address_max > limits.connections_max && limits.connections_max > 0 {
            let what = format!(
                "{}, more than limits.connections_max = {}",
                limits.connections_per_address_max, limits.connections_max
            );
            self.refuse("limits.connections_per_address_max", what, "raise the one or lower the other");
        }
        self.socket_paths(config);
        self.loops(config);
        if let Some(store) = &config.checkpoint.store
            && let Some((scheme, rest)) = store.split_once("://")
        {
            let what = match scheme {
                "s3" if !rest.is_empty() && !rest.starts_with('/') => return,
                "s3" => format!("{store:?} names no bucket"),
                _ => format!("{store:?}: there is no store for {scheme}://"),
            };
            let hint = "s3://bucket/prefix, or a folder; or leave the key out to keep checkpoints in state_dir";
            self.refuse("checkpoint.store", what, hint);
        }
    }

    fn socket_paths(&mut self, config: &Config) {
        let listen = match &config.source.kind {
            SourceKind::Socket { listen: Listen::Unix(path) } => Some(path),
            _ => None,
        };
        for (name, path) in [("admin.socket", Some(&config.admin.socket)), ("source.listen", listen)] {
            let bytes = path.map_or(0, |path| path.as_os_str().len());
            if bytes > SOCKET_PATH_BYTES_MAX {
                let what = format!("a path of {bytes} bytes; a Unix socket's has at most {SOCKET_PATH_BYTES_MAX}");
                self.refuse(name, what, "choose a shorter path, for instance below /run");
            }
        }
        if listen.is_some_and(|path| *path == config.admin.socket && !path.as_os_str().is_empty()) {
            self.refuse("source.listen", "the path of admin.socket".into(), "give each a path of its own");
        }
    }

    /// Refuses outputs that would be read as inputs again, or be written twice.
    fn loops(&mut self, config: &Config) {
        let dead_letters = config.sink.dead_letters.clone().unwrap_or_default();
        let (output_key, output) = match &config.sink.kind {
            SinkKind::Kafka { topic, .. } => ("sink.topic", topic.clone()),
            SinkKind::File { path, .. } => ("sink.path", path.display().to_string()),
            _ => ("", String::new()),
        };
        let inputs = match &config.source.kind {
            SourceKind::Kafka { topics, .. } if matches!(config.sink.kind, SinkKind::Kafka { .. }) => topics.clone(),
            SourceKind::File { paths, .. } => paths.clone(),
            _ => Vec::new(),
        };
        let files = matches!(config.source.kind, SourceKind::File { .. });
        for (name, written) in [(output_key, &output), ("sink.dead_letters", &dead_letters)] {
            let input = inputs.iter().find(|input| match files {
                true => reads(input, written, config.lanes),
                false => *input == written,
            });
            if let Some(input) = input.filter(|_| !written.is_empty()) {
                let by = if input == written { String::new() } else { format!(" (by {input:?} in source.paths)") };
                self.refuse(
                    name,
                    format!("{written:?}, which is an input as well{by}"),
                    "write to another place than you read from",
                );
            }
        }
        if !output.is_empty() && output == dead_letters {
            self.refuse(
                "sink.dead_letters",
                format!("{output:?}, where the predictions go"),
                "give dead letters a place of their own",
            );
        }
    }
}

/// True where a path or glob of the source leads to an output file: one lane's, or one that a rotation numbers.
fn reads(input: &str, output: &str, lanes: u32) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let input = absolute(Path::new(input)).display().to_string();
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let pattern = glob::Pattern::new(&input);
    (0..lanes.min(64)).map(|lane| absolute(&of_lane(Path::new(output), lane, lanes))).any(|path| {
        let path = path.display().to_string();
        let matches = |path: &str| pattern.as_ref().is_ok_and(|p| p.matches_with(path, options));
        path == input || matches(&path) || matches(&format!("{path}.1"))
    })
}

impl FromStr for Listen {
    type Err = Fault;

    fn from_str(text: &str) -> Result<Listen, Fault> {
        Listen::parse(text).ok_or_else(|| Fault::misuse(format!("{text:?} is not {}", Kind::Listen.allowed())))
    }
}
