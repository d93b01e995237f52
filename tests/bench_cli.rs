//! The story: somebody asks the benchmarks what there is, runs one, keeps the run, and makes its page again.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// Names that never change.
const NAMES: [&str; 11] = [
    "socket-json",
    "formats",
    "kafka",
    "learn",
    "latency",
    "kafka-latency",
    "kafka-client",
    "file",
    "crayfish",
    "recovery",
    "footprint",
];

fn bench(args: &[&str], dir: &Path) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream-bench"));
    // No peer: the test is of the program, not of what stands beside it.
    let out: Output =
        command.args(args).current_dir(dir).env("MILLSTREAM_BENCH_PYTHON", "false").output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap_or(-1), text(&out.stdout), text(&out.stderr))
}

#[test]
fn the_list_names_everything_and_how_long_it_takes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (code, list, _) = bench(&["--list"], dir.path());
    assert_eq!(code, 0);
    for name in NAMES {
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not listed:\n{list}"));
        assert!(line.split_whitespace().any(|word| word == "s" || word == "min"), "how long? {line}");
    }
    assert!(list.contains("\nreport ") && list.contains("\ninstructions "), "{list}");
}

#[test]
fn what_it_does_not_know_is_misuse() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(bench(&["sockets"], dir.path()).0, 2);
    assert_eq!(bench(&["report"], dir.path()).0, 2);
    let (code, _, said) = bench(&["report", "gone.jsonl"], dir.path());
    assert_eq!(code, 4);
    assert!(said.contains("gone.jsonl"), "{said}");
}

#[test]
fn a_run_is_kept_with_its_page_and_the_page_can_be_made_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let args = ["formats", "--smoke", "--keep", "--json", "figures.json"];
    let (code, said, fault) = bench(&args, dir.path());
    assert_eq!(code, 0, "{said}{fault}");
    let kept = dir.path().join("bench/runs");
    let files = |end: &str| -> Vec<_> {
        let entries = std::fs::read_dir(&kept).expect("bench/runs").map(|entry| entry.expect("an entry").path());
        entries.filter(|path| path.extension().is_some_and(|e| e == end)).collect()
    };
    let (lines, pages) = (files("jsonl"), files("html"));
    assert_eq!((lines.len(), pages.len()), (1, 1));
    let text = std::fs::read_to_string(&lines[0]).expect("lines");
    assert_eq!(text, std::fs::read_to_string(dir.path().join("figures.json")).expect("figures"));
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        assert!(line["name"].as_str().is_some_and(|name| name.starts_with("formats/")), "{line}");
        for key in ["unit", "value", "samples", "machine", "result_hash", "at", "version"] {
            assert!(!line[key].is_null(), "{key}: {line}");
        }
        assert_eq!(line["size"], "smoke");
    }
    let page = std::fs::read_to_string(&pages[0]).expect("a page");
    assert!(page.starts_with("<!doctype html>") && page.contains("formats"), "{page}");
    std::fs::remove_file(&pages[0]).expect("removed");
    let (code, said, fault) = bench(&["report", &lines[0].display().to_string()], dir.path());
    assert_eq!(code, 0, "{fault}");
    assert_eq!(said.trim(), pages[0].display().to_string());
    assert_eq!(std::fs::read_to_string(&pages[0]).expect("the page"), page);
}
