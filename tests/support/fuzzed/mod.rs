//! What the fuzzers run: one function a target, from bytes to a panic where a promise is broken.
//!
//! `fuzz/fuzz_targets` feeds them what a coverage-guided fuzzer makes up (`make fuzz`), the scenario
//! `tests/fuzz_corpora.rs` the committed corpora and seeded mutations of them. Wherever there is a second
//! opinion (serde_json, csv-core, the standard library, another way through the same code) the two are
//! compared: that nothing crashes is the least.

#![allow(dead_code)]

pub mod csv_rows;
pub mod files;
pub mod frames;
pub mod input;
pub mod journal;
pub mod json_rows;
pub mod kafka;
pub mod learning;
pub mod memory;
pub mod requests;
pub mod rows;
pub mod scores;
pub mod settings;

/// A target: its name (of its file, its corpus and its dictionary), and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("admin_request", requests::admin_request),
    ("artifact", files::artifact),
    ("binary_rows", rows::binary_rows),
    ("config", settings::config),
    ("csv_rows", csv_rows::csv_rows),
    ("frames", frames::frames),
    ("journal_record", journal::journal_record),
    ("journal_segment", journal::journal_segment),
    ("json_rows", json_rows::json_rows),
    ("kafka_answer", kafka::kafka_answer),
    ("kafka_fetch", kafka::kafka_fetch),
    ("learning", learning::learning),
    ("message_headers", rows::message_headers),
    ("predictions", scores::predictions),
    ("record_batch", kafka::record_batch),
    ("spec", settings::spec),
    ("state", files::state),
];
