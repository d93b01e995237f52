//! A config with many things wrong at once: the user mends it in one go, because every fault is named
//! with its line, what was found and what is allowed. And: limits at, under and over; who overrides
//! whom; the resolved config reads back to the same config.

use millstream::config::keys::{Default, KEYS, Kind};
use millstream::config::{
    CheckpointConfig, Config, Environment, Format, Guarantee, Listen, SinkKind, SourceKind, Start, reloadable_changes,
};
use millstream::error::{Class, Fault};
use std::path::PathBuf;

const KAFKA: &str = r#"
pipeline = "models/phishing.toml"
[source]
kind = "kafka"
brokers = "127.0.0.1:9092"
topics = ["events"]
[source.kafka]
"security.protocol" = "SSL"
[sink]
kind = "kafka"
topic = "predictions"
dead_letters = "events-dead"
"#;

const SOCKET: &str = "pipeline = \"p.toml\"\nsource.kind = \"socket\"\nsource.listen = \"127.0.0.1:7070\"\n";
const FILE: &str = "pipeline = \"p.toml\"\nsource.kind = \"file\"\nsource.paths = [\"a.csv\"]\nsink.kind = \"none\"\n";

fn environment(variables: &[(&str, &str)]) -> Environment {
    let mut all = vec![("HOME", "/home/u")];
    all.extend_from_slice(variables);
    Environment::of("mill-1", &all)
}

fn parse_with(text: &str, sets: &[&str], variables: &[(&str, &str)]) -> Result<Config, Vec<Fault>> {
    let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
    Config::parse("m.toml", text, &sets, &environment(variables))
}

fn parse(text: &str) -> Result<Config, Vec<Fault>> {
    parse_with(text, &[], &[])
}

/// The faults of a config that must have some, one text each.
fn faults(text: &str, sets: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let faults = parse_with(text, sets, variables).expect_err("this config is wrong");
    assert!(faults.iter().all(|fault| fault.class == Class::Misuse), "{faults:?}");
    faults.iter().map(Fault::to_string).collect()
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|faults| panic!("{text}\n{faults:#?}"))
}

#[test]
fn every_kind_of_fault_in_one_file_is_reported_at_once_with_its_line() {
    let text = r#"pipelin = "p.toml"
lanes = 0
[source]
kind = "file"
paths = []
brokers = "b:9092"
formt = "csv"
[sink]
kind = "socket"
topic = "t"
[limitz]
event_bytes_max = 5
[limits]
event_bytes_max = "big"
connections_max = 2
connections_per_address_max = 3
[engine]
batch_events_max = 99_999_999_999_999_999_999
[delivery]
guarantee = "twice"
[learn]
enabled = 1
[admin]
http = "nowhere"
socket = ""
"#;
    let found = faults(text, &["lanes", "colour=red"], &[("MILLSTREAM_ENGINE__THREADS", "many")]);
    let expected = [
        "m.toml:1:1: unknown key pipelin (did you mean pipeline?)",
        "m.toml:2:9: lanes = 0; it must be a whole number of lanes from 1 to 1_024",
        "m.toml:5:9: source.paths = []; it must be a list of texts, at least one",
        "m.toml:7:1: unknown key source.formt (did you mean source.format?)",
        "m.toml:11:2: unknown section limitz (did you mean limits?)",
        "m.toml:14:19: limits.event_bytes_max = \"big\"; it must be a whole number of bytes from 64 to 268_435_456",
        "m.toml:18:20: engine.batch_events_max = \"99999999999999999999\"; it must be a whole number of events from 1 to 65_536",
        "m.toml:20:13: delivery.guarantee = \"twice\"; it must be one of exactly-once, at-least-once",
        "m.toml:22:11: learn.enabled = 1; it must be true or false",
        "m.toml:24:8: admin.http = \"nowhere\"; it must be an address with its port (127.0.0.1:9464)",
        "m.toml:25:10: admin.socket = \"\"; it must be a path",
        "$MILLSTREAM_ENGINE__THREADS: engine.threads = \"many\"; it must be a whole number of threads from 0 to 1_024",
        "--set lanes: there is no '=' (write --set section.key=value, for example --set engine.threads=2)",
        "--set colour: unknown key colour (docs/config.md lists every key)",
        "m.toml:6:11: source.brokers belongs to source.kind = \"kafka\", but source.kind is \"file\" (remove the one or change the other)",
        "m.toml:10:9: sink.topic belongs to sink.kind = \"kafka\", but sink.kind is \"socket\" (remove the one or change the other)",
        "m.toml: pipeline is missing; it must be a path (write pipeline = … at the top)",
        "m.toml:9:8: sink.kind = \"socket\" answers clients, but source.kind is \"file\" (use kafka (from a kafka source), file, console or none)",
        "m.toml:16:31: limits.connections_per_address_max = 3, more than limits.connections_max = 2 (raise the one or lower the other)",
    ];
    assert_eq!(found, expected, "{found:#?}");
}

#[test]
fn a_file_that_is_not_toml_names_the_line_and_does_not_call_the_rest_missing() {
    let found = faults("pipeline = \"p\"\n[source\nkind = \"kafka\"\nlanes == 2\n", &[], &[]);
    assert!(found[0].starts_with("m.toml:2:"), "{found:#?}");
    assert!(found.iter().all(|fault| !fault.contains("missing")), "{found:#?}");
    let found = faults("lanes = 1\nlanes = 2\npipeline = \"p\"\n", &[], &[]);
    assert!(found[0].starts_with("m.toml:2:1: duplicate key"), "{found:#?}");
}

/// Found by the fuzzer `config`: half a date ended the program.
#[test]
fn half_a_date_is_a_fault_like_others() {
    for value in ["0-1", "[0-1]", "[[1, 0-1]]", "2024-", "12:", "1979-05-27"] {
        let found = faults(&format!("{FILE}[delivery]\ncommit_interval_ms = {value}\n"), &[], &[]);
        assert!(found.iter().all(|fault| fault.starts_with("m.toml:6:")), "{value}: {found:#?}");
        assert!(found.iter().any(|fault| fault.contains("it must be a whole number")), "{value}: {found:#?}");
    }
}

#[test]
fn what_is_missing_is_named_with_the_kind_that_needs_it() {
    let found = faults("pipeline = \"p\"\n[source]\nkind = \"kafka\"\n[sink]\nkind = \"file\"\n", &[], &[]);
    let expected =
        ["source.brokers is missing for source.kind = \"kafka\"", "source.topics is missing", "sink.path is missing"];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{found} / {expected}");
    }
    let found = faults("pipeline = \"p\"\n[source]\nkind = \"file\"\npaths = [\"a\"]\n", &[], &[]);
    assert!(found.len() == 1 && found[0].contains("sink.kind is missing"), "{found:#?}");
}

#[test]
fn a_section_that_is_a_value_and_a_value_that_is_a_section_are_refused() {
    let found = faults("source = \"kafka\"\n[lanes]\nn = 1\n", &[], &[]);
    assert!(found[0].starts_with("m.toml:1:1: source is a section, but this is a string"), "{found:#?}");
    assert!(found[1].contains("lanes = a section; it must be a whole number"), "{found:#?}");
}

#[test]
fn a_share_is_from_0_to_1_and_a_given_stream_keeps_its_features() {
    let rate = "pipeline = \"p\"\nsource.kind = \"rate\"\nsink.kind = \"none\"\n";
    for (share, fits) in [("0", true), ("1", true), ("0.5", true), ("1.0", true), ("1.01", false), ("-0.1", false)] {
        let set = format!("source.noise={share}");
        assert_eq!(parse_with(rate, &[&set], &[]).is_ok(), fits, "{set}");
    }
    assert!(parse_with(rate, &["source.noise=nan"], &[]).is_err(), "NaN is no share");
    let found = faults(rate, &["source.generator=sea", "source.features=4"], &[]);
    assert!(found.len() == 1 && found[0].contains("the features of sea are given"), "{found:#?}");
    assert!(parse_with(rate, &["source.generator=rbf", "source.features=4"], &[]).is_ok());
}

#[test]
fn a_sink_that_needs_its_own_source_is_refused_with_another() {
    let found = faults(FILE, &["sink.kind=kafka", "sink.topic=t"], &[]);
    assert!(found.len() == 1 && found[0].contains("sink.kind = \"kafka\" writes beside its input"), "{found:#?}");
    let found = faults(KAFKA, &["sink.kind=socket"], &[]);
    assert!(found.iter().any(|fault| fault.contains("\"socket\" answers clients")), "{found:#?}");
}

#[test]
fn outputs_that_are_inputs_and_sockets_that_meet_are_refused() {
    let loops = KAFKA.replace("\"predictions\"", "\"events\"").replace("events-dead", "events");
    let found = faults(&loops, &[], &[]);
    assert!(found.iter().any(|fault| fault.contains("sink.topic = \"events\", which is an input")), "{found:#?}");
    assert!(found.iter().any(|fault| fault.contains("where the predictions go")), "{found:#?}");
    let long = "/".repeat(108);
    let found = faults(SOCKET, &[&format!("admin.socket={long}"), "source.listen=/run/a"], &[]);
    assert!(found.len() == 1 && found[0].contains("a path of 108 bytes"), "{found:#?}");
    assert!(parse_with(SOCKET, &[&format!("admin.socket={}", &long[1..])], &[]).is_ok());
    let found = faults(SOCKET, &["admin.socket=/run/a", "source.listen=/run/a"], &[]);
    assert!(found.len() == 1 && found[0].contains("the path of admin.socket"), "{found:#?}");
}

#[test]
fn every_limit_holds_at_under_and_over() {
    for key in KEYS {
        let Kind::Integer { min, max, .. } = key.kind else { continue };
        let base = match key.only {
            [] => FILE.to_string(),
            ["file"] if key.section() == "sink" => FILE.replace("\"none\"", "\"file\"\nsink.path = \"out\""),
            ["file"] => FILE.to_string(),
            ["rate"] => "pipeline = \"p\"\nsource.kind = \"rate\"\nsink.kind = \"none\"\n".to_string(),
            other => panic!("{}: no base config for {other:?}", key.name),
        };
        let set = |value: String| {
            parse_with(&base, &["limits.connections_max=1000000", &format!("{}={value}", key.name)], &[])
        };
        for value in [min, max] {
            let config = if key.name == "limits.connections_max" {
                parse_with(&base, &[&format!("{}={value}", key.name)], &[])
            } else {
                set(value.to_string())
            };
            let resolved: toml::Table = toml::from_str(&config.expect("in range").to_toml()).expect("TOML");
            let resolved = key.name.split('.').fold(toml::Value::Table(resolved), |value, part| value[part].clone());
            assert_eq!(resolved.as_integer(), i64::try_from(value).ok(), "{}", key.name);
        }
        for value in [i128::from(min) - 1, i128::from(max) + 1] {
            let found = set(value.to_string()).expect_err(key.name);
            assert!(found[0].message.contains(key.name) && found[0].message.contains("from"), "{found:#?}");
        }
    }
}

#[test]
fn every_key_that_measures_has_a_unit_and_a_range() {
    let units = [("_ms", "milliseconds"), ("bytes_max", "bytes"), ("_bytes", "bytes"), ("events_max", "events")];
    for key in KEYS {
        let measures = key.name.ends_with("_max") || units.iter().any(|(suffix, _)| key.name.ends_with(suffix));
        let Kind::Integer { min, max, unit } = key.kind else {
            assert!(!measures, "{} has no range", key.name);
            continue;
        };
        assert!(min < max && !(measures && unit.is_empty()), "{}", key.name);
        for (suffix, expected) in units {
            assert!(!key.name.ends_with(suffix) || unit == expected, "{} counts {unit}", key.name);
        }
        if let Default::Value(text) = key.default {
            let value: u64 = text.replace('_', "").parse().expect("a number");
            assert!((min..=max).contains(&value), "{}'s default is out of its range", key.name);
        }
    }
}

#[test]
fn the_command_line_overrides_the_environment_and_that_the_file() {
    let text = format!("{KAFKA}[engine]\nthreads = 1\nbatch_events_max = 10\n[log]\nlevel = \"warn\"\n");
    let variables = [
        ("MILLSTREAM_ENGINE__THREADS", "2"),
        ("MILLSTREAM_ENGINE__BATCH_EVENTS_MAX", "20"),
        ("MILLSTREAM_LANES", "4"),
        ("MILLSTREAM_SOURCE__KAFKA__SSL__CA__LOCATION", "/ca.pem"),
        ("MILLSTREAM_HOME", "/none/of/ours"),
    ];
    let sets = [
        "engine.threads=3",
        "source.topics=[\"a\", \"b\"]",
        "source.group=42",
        "source.kafka.security.protocol=PLAINTEXT",
    ];
    let config = parse_with(&text, &sets, &variables).expect("a good config");
    assert_eq!((config.engine.threads, config.engine.batch_events_max, config.lanes), (3, 20, 4));
    assert_eq!(config.log.level, "warn");
    let SourceKind::Kafka { topics, group, properties, start, .. } = config.source.kind else { panic!("not kafka") };
    assert_eq!((topics, group.as_str(), start), (vec!["a".to_string(), "b".to_string()], "42", Start::Earliest));
    let expected = [("security.protocol", "PLAINTEXT"), ("ssl.ca.location", "/ca.pem")];
    assert!(properties.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected), "{properties:?}");
    let found = faults(&text, &[], &[("MILLSTREAM_ENGINE__THREDS", "2")]);
    assert_eq!(found, ["$MILLSTREAM_ENGINE__THREDS: unknown key engine.threds (did you mean engine.threads?)"]);
}

#[test]
fn a_property_may_be_written_with_or_without_quotes() {
    let text = KAFKA.replace("\"security.protocol\" = \"SSL\"", "security.protocol = \"SSL\"\n\"linger.ms\" = 5");
    let SourceKind::Kafka { properties, .. } = good(&text).source.kind else { panic!("not kafka") };
    assert_eq!((properties["security.protocol"].as_str(), properties["linger.ms"].as_str()), ("SSL", "5"));
    let found = faults(&KAFKA.replace("\"SSL\"", "[\"SSL\"]"), &[], &[]);
    assert!(found[0].contains("source.kafka.security.protocol is an array"), "{found:#?}");
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = good(KAFKA);
    assert_eq!(config.state_dir, PathBuf::from("/home/u/.local/state/millstream"));
    assert_eq!(config.admin.socket, PathBuf::from("/home/u/.local/state/millstream/admin.sock"));
    assert_eq!((config.lanes, config.source.format, config.learn.enabled), (1, Format::Json, true));
    assert_eq!(config.delivery.guarantee, Guarantee::ExactlyOnce);
    assert_eq!(config.delivery.commit_interval_ms, 100);
    let checkpoint = CheckpointConfig { interval_ms: 10_000, keep: 3, store: None, keep_journal: false };
    assert_eq!(config.checkpoint, checkpoint);
    let limits = config.limits;
    assert_eq!((limits.event_bytes_max, limits.nesting_max, limits.connections_max), (1_048_576, 64, 1_024));
    assert_eq!(limits.connections_per_address_max, 1_024);
    assert_eq!((config.engine.batch_events_max, config.engine.threads), (1_024, 0));
    assert_eq!((config.admin.http, config.node.name.as_str()), (None, "mill-1"));
    assert_eq!(config.sink.kind, SinkKind::Kafka { topic: "predictions".into() });
}

#[test]
fn the_guarantee_is_the_strongest_that_can_be_kept_and_more_is_refused() {
    assert_eq!(good(SOCKET).delivery.guarantee, Guarantee::AtLeastOnce);
    assert_eq!(good(SOCKET).sink.kind, SinkKind::Socket);
    assert_eq!(good(FILE).delivery.guarantee, Guarantee::ExactlyOnce);
    assert_eq!(good(&FILE.replace("a.csv", "-")).delivery.guarantee, Guarantee::AtLeastOnce);
    assert_eq!(good(&FILE.replace("none", "console")).delivery.guarantee, Guarantee::AtLeastOnce);
    let found = faults(SOCKET, &["delivery.guarantee=exactly-once"], &[]);
    assert!(
        found[0].starts_with("--set delivery.guarantee: delivery.guarantee = \"exactly-once\" cannot be kept"),
        "{found:#?}"
    );
    let weaker = parse_with(FILE, &["delivery.guarantee=at-least-once"], &[]).expect("good");
    assert_eq!(weaker.delivery.guarantee, Guarantee::AtLeastOnce);
}

#[test]
fn a_listener_is_an_address_or_a_path() {
    for (text, expected) in [
        ("127.0.0.1:0", Some(Listen::Tcp(([127, 0, 0, 1], 0).into()))),
        ("localhost:7070", Some(Listen::Tcp(([127, 0, 0, 1], 7070).into()))),
        ("[::1]:7070", Some(Listen::Tcp("[::1]:7070".parse().expect("an address")))),
        ("/run/m/events.sock", Some(Listen::Unix("/run/m/events.sock".into()))),
        ("./events.sock", Some(Listen::Unix("./events.sock".into()))),
        ("7070", None),
        ("localhost", None),
        ("127.0.0.1:65536", None),
        ("", None),
    ] {
        assert_eq!(Listen::parse(text), expected, "{text}");
    }
}

#[test]
fn the_resolved_config_reads_back_to_the_same_config_anywhere() {
    let odd = "pipeline = 'a \"quoted\" \\ name.toml'\nlanes = 7\n[source]\nkind = 'rate'\nrate = 5\nevents = 9_000\nseed = 3\nnoise = 0.25\nfeatures = 7\ndrift_speed = 1\n[sink]\nkind = 'file'\npath = 'o\tut'\nrotate_bytes = 4096\ndead_letters = 'd'\n[admin]\nhttp = '[::1]:80'\n[checkpoint]\nstore = '/mnt/s'\nkeep_journal = true\n";
    let csv = FILE.to_string() + "source.format = \"csv\"\nsource.columns = [\"a\", \"b c\"]\nlearn.enabled = false\n";
    let latest = KAFKA.replace("topics", "start = \"latest\"\ntopics");
    for text in [KAFKA, SOCKET, FILE, odd, &csv, &latest] {
        let config = good(text);
        let resolved = config.to_toml();
        let elsewhere = Environment::of("another", &[("STATE_DIRECTORY", "/s"), ("RUNTIME_DIRECTORY", "/r")]);
        let again = Config::parse("resolved.toml", &resolved, &[], &elsewhere);
        assert_eq!(again.as_ref(), Ok(&config), "{resolved}");
        assert_eq!(again.map(|again| again.to_toml()), Ok(resolved));
    }
}

#[test]
fn secrets_are_never_printed_and_a_password_is_taken_as_it_is_written() {
    let secrets = [
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
        "sasl.jaas.config",
        "sasl.oauthbearer.client.secret",
    ];
    let mut sets: Vec<String> = secrets.iter().map(|key| format!("source.kafka.{key}=hush-{key}")).collect();
    sets.push("source.kafka.sasl.username=shown".into());
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let config = parse_with(KAFKA, &sets, &[]).expect("good");
    let text = config.to_toml();
    assert!(!text.contains("hush-") && text.contains("shown"), "{text}");
    assert_eq!(text.matches(millstream::config::MASK).count(), secrets.len(), "{text}");
    for password in ["1e5", "0x10", "1_000", "true", "'"] {
        let set = format!("source.kafka.sasl.password={password}");
        let config = parse_with(KAFKA, &[&set], &[]).expect("good");
        let SourceKind::Kafka { properties, .. } = &config.source.kind else { panic!("kafka") };
        assert_eq!(properties["sasl.password"], password);
    }
}

#[test]
fn a_property_of_the_command_line_may_be_quoted_as_in_a_file() {
    for name in ["fetch.max.bytes", "\"fetch.max.bytes\"", "'fetch.max.bytes'"] {
        let config = parse_with(KAFKA, &[&format!("source.kafka.{name}=65536")], &[]).expect("good");
        let SourceKind::Kafka { properties, .. } = &config.source.kind else { panic!("kafka") };
        assert_eq!(properties["fetch.max.bytes"], "65536", "{name}");
    }
}

#[test]
fn a_reload_takes_what_it_can_and_names_what_needs_a_restart() {
    let old = good(KAFKA);
    assert_eq!(reloadable_changes(&old, &old), Ok(Vec::new()));
    let new = parse_with(
        KAFKA,
        &["learn.enabled=false", "checkpoint.keep=5", "log.level=debug", "checkpoint.interval_ms=500"],
        &[],
    );
    let changes = reloadable_changes(&old, &new.expect("good")).expect("all can be taken");
    assert_eq!(changes, ["learn.enabled", "checkpoint.interval_ms", "checkpoint.keep", "log.level"]);
    let new = parse_with(KAFKA, &["learn.enabled=false", "lanes=2", "admin.http=127.0.0.1:1"], &[]).expect("good");
    let refused: Vec<String> = reloadable_changes(&old, &new)
        .expect_err("two need a restart")
        .iter()
        .map(|fault| fault.message.clone())
        .collect();
    assert_eq!(refused, ["lanes changed from 1 to 2", "admin.http changed from absent to \"127.0.0.1:1\""]);
}

#[test]
fn the_contracts_example_is_accepted_as_it_stands() {
    let text = r#"
pipeline = "models/phishing.toml"       # a spec (starts untrained) or an artifact (.safetensors)
state_dir = "/var/lib/millstream"
lanes = 1

[source]
kind = "kafka"
format = "json"
brokers = "127.0.0.1:9092"
topics = ["events"]
group = "millstream"
start = "earliest"
[source.kafka]
"security.protocol" = "SSL"

[sink]
kind = "kafka"
topic = "predictions"
dead_letters = "events-dead"

[learn]
enabled = true

[delivery]
guarantee = "exactly-once"
commit_interval_ms = 100

[checkpoint]
interval_ms = 10_000
keep = 3

[limits]
event_bytes_max = 1_048_576
nesting_max = 64
connections_max = 1_024
[engine]
batch_events_max = 1_024
threads = 0

[admin]
socket = "/run/millstream/admin.sock"
http = "127.0.0.1:9464"
"#;
    let config = good(text);
    assert_eq!(config.admin.http, Some(([127, 0, 0, 1], 9464).into()));
    let without: String = text
        .lines()
        .filter(|line| !["format", "group", "start", "guarantee"].iter().any(|key| line.starts_with(key)))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(good(&without), config);
}

#[test]
fn a_file_that_is_not_there_is_misuse() {
    let found =
        Config::load(std::path::Path::new("/no/such/file.toml"), &[], &environment(&[])).expect_err("not there");
    assert!(found.len() == 1 && found[0].class == Class::Misuse && found[0].message.contains("/no/such/file.toml"));
}

#[test]
fn values_as_odd_as_can_be_never_panic() {
    let odd = ["", "=", "[", "\"", "'''", "nan", "1e400", "1979-05-27", "{a=1}", "[[1]]", "\u{0}", "é=", "\n[x]"];
    for key in KEYS {
        for value in odd {
            let _ = parse_with(FILE, &[&format!("{}={value}", key.name)], &[]);
            let _ = parse(&format!("{} = {value}\n", key.name));
            let _ = parse(&format!("é{} = {value}", key.name));
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_config_or_a_list_of_faults(text in "\\PC{0,200}", cut in 0_usize..400, set in "\\PC{0,40}") {
        let _ = parse_with(&text, std::slice::from_ref(&set.as_str()), &[("MILLSTREAM_SOURCE__TOPICS", &text)]);
        let contract: String = KAFKA.chars().take(cut).chain(text.chars()).chain(KAFKA.chars().skip(cut)).collect();
        if let Err(faults) = parse(&contract) {
            assert!(!faults.is_empty());
        }
    }
}

#[test]
fn an_output_that_would_be_read_again_is_refused() {
    let source = |paths: &str| format!("pipeline = \"p.toml\"\nsource.kind = \"file\"\nsource.paths = [{paths}]\n");
    let sink = "sink.kind = \"file\"\nsink.path = \"/d/out.ndjson\"\n";
    for (paths, more) in [
        ("\"/d/out.ndjson\"", ""),
        ("\"/d/a.csv\", \"/d/*.ndjson\"", ""),
        ("\"/d/*\"", ""),
        ("\"/**/o*\"", ""),
        ("\"/d/out.ndjson.?\"", ""),
        ("\"/d/out.lane-1.ndjson\"", "lanes = 2\n"),
    ] {
        let found = faults(&format!("{more}{}{sink}", source(paths)), &[], &[]);
        assert!(
            found.len() == 1 && found[0].contains("sink.path") && found[0].contains("an input as well"),
            "{found:?}"
        );
    }
    let found = faults(&format!("{}{sink}sink.dead_letters = \"x/dead\"\n", source("\"x/*\"")), &[], &[]);
    assert!(found.len() == 1 && found[0].contains("sink.dead_letters") && found[0].contains("\"x/*\""), "{found:?}");
    for (paths, more) in [
        ("\"/d/*.json\"", ""),
        ("\"/d/e/*\"", ""),
        ("\"/*\"", ""),
        ("\"/d/out.lane-1.ndjson\"", ""),
        ("\"/d/out.lane-2.ndjson\"", "lanes = 2\n"),
    ] {
        good(&format!("{more}{}{sink}", source(paths)));
    }
}
