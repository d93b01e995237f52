//! `docs/config.md`, made from the table of keys.

use super::keys::{Default, KEYS, Key, Kind, SECTIONS};

const HEAD: &str = "# The config

Made from the table of keys in `src/config/keys.rs` by `millstream generate config-reference`; edit the table, not this page.

`millstream run -c FILE` and `millstream validate -c FILE` read a TOML file. Everything that is wrong with it is reported at once, each fault with its line; `validate` also prints the resolved config, defaults included.

A key can be overridden, in this order of precedence:

1. on the command line, `--set section.key=value`;
2. by the environment, `MILLSTREAM_SECTION__KEY=value` (a key at the top: `MILLSTREAM_LANES`);
3. in the file;
4. by its default.

An override's value is read as TOML, and as plain text where it isn't: `--set source.topics='[\"a\", \"b\"]'`, `--set sink.topic=predictions`. A property of a Kafka client is named after its section: `--set source.kafka.security.protocol=SSL`, `MILLSTREAM_SOURCE__KAFKA__SECURITY__PROTOCOL=SSL`.

Relative paths start at the working directory. Names of limits end in their unit: `_bytes_max`, `_ms`, `_max`. A change of the keys marked *reload* comes into force with `systemctl reload` (SIGHUP); any other needs a restart.
";

/// The reference of all keys, in Markdown.
pub fn reference() -> String {
    let mut text = String::from(HEAD);
    for (section, about) in SECTIONS {
        let title = if section.is_empty() { "At the top".into() } else { format!("`[{section}]`") };
        text.push_str(&format!("\n## {title}\n{about}\n"));
        if let Some(key) = KEYS.iter().find(|key| key.name == *section && key.kind == Kind::Properties) {
            text.push_str(&format!("\n{}{} Default: {}.\n", applies(key), key.doc, default(key)));
            continue;
        }
        text.push_str("\n| key | allowed | default | |\n|---|---|---|---|\n");
        for key in KEYS.iter().filter(|key| key.section() == *section && key.kind != Kind::Properties) {
            let reload = if key.reloadable { " *reload*" } else { "" };
            text.push_str(&format!(
                "| `{}` | {} | {} | {}{}{reload} |\n",
                key.leaf(),
                allowed(key),
                default(key),
                applies(key),
                key.doc
            ));
        }
    }
    text
}

fn allowed(key: &Key) -> String {
    match key.kind {
        Kind::OneOf(words) => words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(" "),
        Kind::Bool => "`true` `false`".into(),
        kind => kind.allowed(),
    }
}

fn default(key: &Key) -> String {
    match key.default {
        Default::Required => "required".into(),
        Default::Value(text) => format!("`{text}`"),
        Default::Computed(words) => words.into(),
        Default::Absent if key.kind == Kind::Properties => "none".into(),
        Default::Absent => "–".into(),
    }
}

fn applies(key: &Key) -> String {
    if key.only.is_empty() { String::new() } else { format!("({}) ", key.only.join(", ")) }
}
