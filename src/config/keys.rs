//! The table of keys: name, type, default, range, what it is for, and whether a running daemon takes a change.
//!
//! Everything that speaks of keys reads this table: the check for unknown keys, the checks of type and
//! range, the defaults, the resolved config, `docs/config.md` and `systemctl reload`.

/// What a key's value may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text that isn't empty.
    Text,
    /// A path.
    Path,
    /// `true` or `false`.
    Bool,
    /// A whole number in a range.
    Integer {
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
        /// What it counts; empty where it counts nothing.
        unit: &'static str,
    },
    /// A number from 0 to 1.
    Share,
    /// One of a few words.
    OneOf(&'static [&'static str]),
    /// A list of texts, at least one.
    List,
    /// `address:port`, or a path (it holds a `/`).
    Listen,
    /// `address:port`.
    Address,
    /// A section whose keys are free: texts, numbers and booleans, taken as texts.
    Properties,
}

impl Kind {
    /// What is allowed, in words, for messages and the reference.
    pub fn allowed(self) -> String {
        match self {
            Kind::Text => "a text that isn't empty".into(),
            Kind::Path => "a path".into(),
            Kind::Bool => "true or false".into(),
            Kind::Integer { min, max, unit } => {
                let of = if unit.is_empty() { String::new() } else { format!(" of {unit}") };
                format!("a whole number{of} from {} to {}", grouped(min), grouped(max))
            }
            Kind::Share => "a number from 0 to 1".into(),
            Kind::OneOf(words) => format!("one of {}", words.join(", ")),
            Kind::List => "a list of texts, at least one".into(),
            Kind::Listen => "an address with its port (127.0.0.1:7070), or a path that holds a '/'".into(),
            Kind::Address => "an address with its port (127.0.0.1:9464)".into(),
            Kind::Properties => "a section of properties".into(),
        }
    }
}

/// What holds where a key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It must be there, wherever it applies.
    Required,
    /// A value, as TOML.
    Value(&'static str),
    /// Worked out from the rest, as these words say.
    Computed(&'static str),
    /// Nothing: what it is for does not happen.
    Absent,
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its full name: `section.key`, or the bare key at the top.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What holds where it is absent.
    pub default: Default,
    /// The kinds of its section that have it (`source.kind`, `sink.kind`); empty: all.
    pub only: &'static [&'static str],
    /// True where `systemctl reload` puts a change in force.
    pub reloadable: bool,
    /// What it is for.
    pub doc: &'static str,
}

impl Key {
    /// The section, empty for keys at the top.
    pub fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }
    /// The name within its section.
    pub fn leaf(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, leaf)| leaf)
    }
    const fn only(mut self, kinds: &'static [&'static str]) -> Key {
        self.only = kinds;
        self
    }
    const fn reloadable(mut self) -> Key {
        self.reloadable = true;
        self
    }
}

const fn key(name: &'static str, kind: Kind, default: Default, doc: &'static str) -> Key {
    Key { name, kind, default, only: &[], reloadable: false, doc }
}

const fn integer(min: u64, max: u64, unit: &'static str) -> Kind {
    Kind::Integer { min, max, unit }
}

const KAFKA: &[&str] = &["kafka"];
const SOCKET: &[&str] = &["socket"];
const FILE: &[&str] = &["file"];
const RATE: &[&str] = &["rate"];
const DAY_MS: u64 = 86_400_000;

/// Sections in the order in which they are written, with what each is about.
pub const SECTIONS: &[(&str, &str)] = &[
    ("", "What runs, and where it keeps its state."),
    ("source", "Where events come from."),
    ("source.kafka", "Any librdkafka property, as it is; for all clients of the daemon."),
    ("sink", "Where predictions and dead letters go."),
    ("learn", "Whether the model goes on learning."),
    ("delivery", "What a crash may repeat."),
    ("checkpoint", "How often the state is saved, and where."),
    ("limits", "What no event, client or artifact may exceed."),
    ("engine", "How the work is spread."),
    ("admin", "The API that shows and steers the daemon."),
    ("node", "Who this daemon is among others."),
    ("log", "What is written to standard error."),
];

/// Every key, in the order in which it is written.
pub const KEYS: &[Key] = &[
    key("pipeline", Kind::Path, Default::Required, "A spec (`.toml`, starts untrained) or an artifact (`.safetensors`)."),
    key(
        "state_dir",
        Kind::Path,
        Default::Computed("`$STATE_DIRECTORY` (systemd), else `$XDG_STATE_HOME/millstream`, else `~/.local/state/millstream`"),
        "Folder of checkpoints, journals and swapped-in artifacts.",
    ),
    key(
        "lanes",
        integer(1, 1_024, "lanes"),
        Default::Value("1"),
        "Number of learners. Each owns the inputs whose number modulo `lanes` is its own (files: by their path; sockets: by connection). A change is a new lineage: refused on a state with a past, unless `--new-lineage` is given.",
    ),
    key("source.kind", Kind::OneOf(&["kafka", "socket", "file", "rate"]), Default::Required, "What to read from."),
    key("source.format", Kind::OneOf(&["json", "csv", "binary"]), Default::Value("\"json\""), "How an event is written."),
    key(
        "source.columns",
        Kind::List,
        Default::Absent,
        "Names of the columns, for CSV without a header. Absent: the first line of each input names them.",
    ),
    key("source.brokers", Kind::Text, Default::Required, "Brokers to ask first: `host:port`, several separated by commas.")
        .only(KAFKA),
    key("source.topics", Kind::List, Default::Required, "Topics to read.").only(KAFKA),
    key("source.group", Kind::Text, Default::Value("\"millstream\""), "Consumer group under which the offsets are committed.")
        .only(KAFKA),
    key(
        "source.start",
        Kind::OneOf(&["earliest", "latest"]),
        Default::Value("\"earliest\""),
        "Where to begin where the group has no position yet.",
    )
    .only(KAFKA),
    key(
        "source.client",
        Kind::OneOf(&["direct", "librdkafka"]),
        Default::Value("\"direct\""),
        "Who reads and writes records, for source and sink alike: Millstream itself, at a fraction of the CPU, or the C library (docs/operations.md, Two clients).",
    )
    .only(KAFKA),
    key("source.listen", Kind::Listen, Default::Required, "Address or path to listen at. Port 0 takes a free one.").only(SOCKET),
    key(
        "source.paths",
        Kind::List,
        Default::Required,
        "Files, in this order; a glob's matches by name. `-` is standard input.",
    )
    .only(FILE),
    key("source.follow", Kind::Bool, Default::Value("false"), "Wait for more lines, and for new files that match.").only(FILE),
    key(
        "source.generator",
        Kind::OneOf(&["hyperplane", "sea", "agrawal", "led", "rbf", "stagger"]),
        Default::Value("\"hyperplane\""),
        "Which stream to make, each as in its paper: rotating hyperplane, SEA, loan applicants (Agrawal), a digit's segments (LED), radial basis functions, STAGGER.",
    )
    .only(RATE),
    key("source.rate", integer(0, 1_000_000_000, "events a second"), Default::Value("0"), "Events a second; 0 is as fast as they are taken.")
        .only(RATE),
    key("source.events", integer(0, u64::MAX >> 1, "events"), Default::Value("0"), "Events in all; 0 never ends.").only(RATE),
    key("source.seed", integer(0, u64::MAX >> 1, ""), Default::Value("1"), "Seed of the stream: equal seeds give equal events.").only(RATE),
    key("source.features", integer(1, 10_000, "features"), Default::Computed("the generator's own"), "Features an event (hyperplane, rbf).").only(RATE),
    key("source.classes", integer(2, 20, "classes"), Default::Value("2"), "Classes of the label (rbf).").only(RATE),
    key("source.noise", Kind::Share, Default::Computed("the generator's own"), "Share of wrong labels (led: of wrong segments).").only(RATE),
    key("source.concept", integer(0, 1_000, ""), Default::Value("0"), "Number of the concept to begin with.").only(RATE),
    key(
        "source.drift_interval_events",
        integer(0, u64::MAX >> 1, "events"),
        Default::Value("0"),
        "Events from one concept to the next; 0 stays with the first.",
    )
    .only(RATE),
    key(
        "source.drift_width_events",
        integer(0, u64::MAX >> 1, "events"),
        Default::Value("0"),
        "Events over which the next concept takes over; 0 is at once.",
    )
    .only(RATE),
    key("source.drift_speed", Kind::Share, Default::Value("0.0"), "Movement an event of each weight (hyperplane) or centre (rbf).").only(RATE),
    key("source.drift_features", integer(0, 10_000, "features"), Default::Value("0"), "How many weights move (hyperplane); 0 is all.").only(RATE),
    key("source.kafka", Kind::Properties, Default::Absent, "A property, for example `\"security.protocol\" = \"SSL\"`.").only(KAFKA),
    key(
        "sink.kind",
        Kind::OneOf(&["kafka", "socket", "file", "console", "none"]),
        Default::Computed("`socket` where the source is a socket; required otherwise"),
        "Where predictions go. `socket` answers the client on its connection; `kafka` needs a kafka source, and writes to its brokers.",
    ),
    key(
        "sink.topic",
        Kind::Text,
        Default::Required,
        "Topic of the predictions. Made like the input if it is missing and the broker allows it; one with fewer partitions than the input is refused.",
    )
    .only(KAFKA),
    key("sink.path", Kind::Path, Default::Required, "File of the predictions (NDJSON).").only(FILE),
    key(
        "sink.rotate_bytes",
        integer(4_096, 1 << 50, "bytes"),
        Default::Absent,
        "Length at which the file is set aside and a new one begun. Absent: never.",
    )
    .only(FILE),
    key(
        "sink.dead_letters",
        Kind::Text,
        Default::Absent,
        "Where events go that cannot be decoded or break a limit: a topic for a kafka sink, else a path. Absent: they are counted and dropped.",
    ),
    key("learn.enabled", Kind::Bool, Default::Value("true"), "`false` freezes the model.").reloadable(),
    key(
        "delivery.guarantee",
        Kind::OneOf(&["exactly-once", "at-least-once"]),
        Default::Computed("`exactly-once` where source and sink can keep it, else `at-least-once`"),
        "What a crash may repeat. A socket and standard input cannot be read again, and a console cannot take back what it was given: there it is `at-least-once`.",
    ),
    key(
        "delivery.commit_interval_ms",
        integer(1, 60_000, "milliseconds"),
        Default::Value("100"),
        "Longest time between two commits.",
    )
    .reloadable(),
    key("checkpoint.interval_ms", integer(10, DAY_MS, "milliseconds"), Default::Value("10_000"), "Time between two checkpoints.")
        .reloadable(),
    key("checkpoint.keep", integer(1, 1_000, "checkpoints"), Default::Value("3"), "How many are kept.").reloadable(),
    key(
        "checkpoint.store",
        Kind::Text,
        Default::Computed("`state_dir`"),
        "Another place for the checkpoints: a folder, for instance a mounted one, or `s3://bucket/prefix` (endpoint, region and credentials come from the variables `AWS_*`). With a Kafka source it also holds the lineage and the artifacts, under the name of the group, so that several daemons of one group share it.",
    ),
    key(
        "checkpoint.keep_journal",
        Kind::Bool,
        Default::Value("false"),
        "Keep the whole journal, so that `replay` reaches back to the first event. Otherwise it is trimmed behind the oldest checkpoint.",
    ),
    key("limits.event_bytes_max", integer(64, 1 << 28, "bytes"), Default::Value("1_048_576"), "Longest event; a longer one is a dead letter."),
    key("limits.nesting_max", integer(1, 1_024, "levels"), Default::Value("64"), "Deepest nesting of a JSON event; a deeper one is a dead letter."),
    key("limits.connections_max", integer(1, 1_000_000, "connections"), Default::Value("1_024"), "Connections at a time; more are closed at once."),
    key(
        "limits.connections_per_address_max",
        integer(1, 1_000_000, "connections"),
        Default::Computed("`limits.connections_max`"),
        "Connections at a time from one address.",
    ),
    key(
        "limits.idle_timeout_ms",
        integer(0, DAY_MS, "milliseconds"),
        Default::Value("600_000"),
        "A connection that neither sends nor takes a byte for so long is closed; 0 never closes it.",
    ),
    key(
        "limits.answer_bytes_max",
        integer(4_096, 1 << 30, "bytes"),
        Default::Value("4_194_304"),
        "Answers that wait for a slow client; beyond, its connection is not read until it takes them.",
    ),
    key(
        "limits.artifact_bytes_max",
        integer(1_024, 1 << 40, "bytes"),
        Default::Value("1_073_741_824"),
        "Largest artifact that is opened or taken in a swap.",
    ),
    key(
        "limits.swap_timeout_ms",
        integer(100, 3_600_000, "milliseconds"),
        Default::Value("30_000"),
        "Longest time for a swap to be loaded, verified and taken by every lane.",
    ),
    key(
        "limits.start_timeout_ms",
        integer(100, DAY_MS, "milliseconds"),
        Default::Value("60_000"),
        "How long a daemon that starts tries to reach its brokers before it gives up (exit code 4). One that ran tries for as long as it lives, but gives up as well when a broker refuses for that long what it needs: a permission, a topic that is gone, a message that is too long.",
    ),
    key("engine.batch_events_max", integer(1, 65_536, "events"), Default::Value("1_024"), "Capacity of a batch. Results do not depend on it."),
    key("engine.threads", integer(0, 1_024, "threads"), Default::Value("0"), "With 1, a lane reads, works and writes on one thread; with more (0: as many as there are cores), files and generators are read, and outputs written, on threads of their own; with more than there are lanes, large blocks are decoded ahead on another, as long as the lane's thread need not wait for a core. Results do not depend on it."),
    key(
        "engine.commit_events_max",
        integer(1, 1_000_000_000, "events"),
        Default::Value("1_000_000"),
        "Most events in one commit; it comes early where they are reached before `delivery.commit_interval_ms`.",
    ),
    key(
        "admin.socket",
        Kind::Path,
        Default::Computed("`$RUNTIME_DIRECTORY/admin.sock` (systemd), else `$XDG_RUNTIME_DIR/millstream/admin.sock`, else `admin.sock` in `state_dir`"),
        "Unix socket of the API.",
    ),
    key("admin.http", Kind::Address, Default::Absent, "Address of a read-only API: metrics, health, status."),
    key(
        "node.name",
        Kind::Text,
        Default::Computed("the machine's name"),
        "Name of this daemon in its consumer group; unique, and kept over restarts.",
    ),
    key("log.level", Kind::OneOf(&["error", "warn", "info", "debug", "trace"]), Default::Value("\"info\""), "How much is logged.").reloadable(),
];

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known name nearest to an unknown one, if it is near enough to be what was meant.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.map(|candidate| (distance(name, candidate), candidate)).min()?;
    (near.0 <= 1 + name.len() / 5).then_some(near.1)
}

/// Edits (insert, delete, replace, swap of neighbours) from one text to the other: the optimal string
/// alignment distance.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

/// A number with its thousands set apart, as TOML allows.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_sections_are_listed_and_stand_together() {
        let mut seen = Vec::new();
        for key in KEYS.iter().filter(|key| key.kind != Kind::Properties) {
            assert_eq!(KEYS.iter().filter(|other| other.name == key.name).count(), 1, "{}", key.name);
            assert!(SECTIONS.iter().any(|(name, _)| *name == key.section()), "{} has no section", key.name);
            if seen.last() != Some(&key.section()) {
                assert!(!seen.contains(&key.section()), "{} stands apart from its section", key.name);
                seen.push(key.section());
            }
        }
    }

    #[test]
    fn the_nearest_name_is_offered_and_a_far_one_is_not() {
        let names = || KEYS.iter().map(|key| key.name);
        assert_eq!(nearest("source.brokres", names()), Some("source.brokers"));
        assert_eq!(nearest("lane", names()), Some("lanes"));
        assert_eq!(nearest("limits.event_byte_max", names()), Some("limits.event_bytes_max"));
        assert_eq!(nearest("colour", names()), None);
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!((grouped(0), grouped(999), grouped(1_000)), ("0".into(), "999".into(), "1_000".into()));
        assert_eq!(grouped(1_048_576), "1_048_576");
    }
}
