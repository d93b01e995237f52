//! Documents that are made from the code must be what the code makes today. `UPDATE_DOCS=1 cargo test
//! --test docs_are_current` writes them anew.

use millstream::config::{Config, Environment, reference};
use millstream::schema::{Schema, SchemaSpec};
use std::path::Path;

/// As much of a spec as is checked here.
#[derive(serde::Deserialize)]
struct Spec {
    schema: SchemaSpec,
}

#[test]
fn the_config_reference_is_what_the_table_of_keys_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|value| value == "1") {
        std::fs::write(&path, reference()).expect("docs/config.md can be written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let made = reference();
    let differs = made.lines().zip(written.lines()).position(|(made, written)| made != written);
    assert!(
        written == made,
        "docs/config.md is out of date from line {} on; run UPDATE_DOCS=1 cargo test --test docs_are_current",
        differs.unwrap_or_else(|| made.lines().count().min(written.lines().count())) + 1
    );
}

#[test]
fn every_config_and_schema_in_the_documents_is_valid() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut checked = 0;
    for entry in std::fs::read_dir(docs).expect("docs is there") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a readable document");
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            if let Err(error) = toml::from_str::<toml::Table>(block) {
                panic!("{}: {error}\n{block}", path.display());
            }
            if block.contains("[schema]") {
                let spec: Spec = toml::from_str(block).unwrap_or_else(|error| panic!("{error}\n{block}"));
                Schema::from_spec(&spec.schema).unwrap_or_else(|fault| panic!("{fault}\n{block}"));
            }
            if !block.contains("[source]") {
                continue;
            }
            checked += 1;
            let environment = Environment::of("docs", &[("HOME", "/home/u")]);
            if let Err(faults) = Config::parse(&path.display().to_string(), block, &[], &environment) {
                panic!("{faults:#?}\n{block}");
            }
        }
    }
    assert!(checked > 0, "no config was found in docs");
}
