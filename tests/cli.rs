//! The built binary as a user meets it: help that teaches, results on standard output, faults on
//! standard error, and the exit code of each.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const GOOD: &str = "pipeline = \"SPEC\"\nsource.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\n";

const SPEC: &str = "name = \"sum\"\n[schema]\nlabel = \"y\"\n[schema.fields]\nx = \"float\"\ny = \"float\"\n\
                    [[steps]]\nkind = \"standard-scale\"\n[model]\nkind = \"linear-regression\"\n";

fn millstream(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(args).env_clear().env("HOME", "/nonexistent");
    command
}

fn output(args: &[&str]) -> Output {
    millstream(args).output().expect("the binary starts")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with a spec and a config that names it.
fn with_config(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = folder.path().join("sum.toml");
    std::fs::write(&spec, SPEC).expect("written");
    let config = folder.path().join("m.toml");
    std::fs::write(&config, text.replace("SPEC", spec.to_str().expect("UTF-8"))).expect("written");
    (folder, config)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn help_teaches_by_examples_and_goes_to_standard_output() {
    for args in
        [&["--help"][..], &["run", "--help"], &["ctl", "--help"], &["evaluate", "--help"], &["replay", "--help"]]
    {
        let output = output(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(out(&output).contains("Examples:\n"), "{args:?}\n{}", out(&output));
        assert!(output.stderr.is_empty(), "{}", err(&output));
    }
    assert!(!out(&output(&["--help"])).contains("generate"), "generate is for packages");
    assert!(out(&output(&["--version"])).starts_with("millstream 0."));
}

#[test]
fn wrong_arguments_exit_with_2_and_say_what_is_allowed() {
    for (args, expected) in [
        (&["validat"][..], "'validate'"),
        (&["run"], "--config"),
        (&["demo", "--seconds", "0"], "1..=86400"),
        (&["generate", "man"], "--out"),
        (&["ctl", "swap"], "FILE"),
    ] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(err(&output).contains(expected) && output.stdout.is_empty(), "{args:?}\n{}", err(&output));
    }
    assert_eq!(output(&[]).status.code(), Some(2));
}

#[test]
fn validate_prints_the_resolved_config_and_that_validates_as_well() {
    let (folder, config) = with_config(GOOD);
    let first = output(&["validate", "-c", text(&config), "--set", "lanes=3"]);
    assert_eq!(first.status.code(), Some(0), "{}", err(&first));
    assert!(out(&first).contains("lanes = 3\n") && out(&first).contains("[limits]\n"), "{}", out(&first));
    let resolved = folder.path().join("resolved.toml");
    std::fs::write(&resolved, &first.stdout).expect("written");
    assert_eq!(out(&output(&["validate", "-c", text(&resolved)])), out(&first));
}

#[test]
fn validate_names_every_fault_on_standard_error_and_exits_with_2() {
    let (_folder, config) = with_config(&format!("lanse = 2\n{GOOD}limits.nesting_max = 0\n"));
    let output = output(&["validate", "-c", text(&config)]);
    assert_eq!(output.status.code(), Some(2));
    let said = err(&output);
    assert!(said.contains("m.toml:1:1: unknown key lanse\n  did you mean lanes?\n"), "{said}");
    assert!(said.contains("m.toml:5:22: limits.nesting_max = 0; it must be"), "{said}");
    assert!(said.starts_with("millstream: ") && output.stdout.is_empty(), "{said}");
}

#[test]
fn a_config_or_a_pipeline_that_is_not_there_exits_with_2() {
    let absent = output(&["run", "-c", "/nonexistent/m.toml"]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(err(&absent).contains("/nonexistent/m.toml"), "{}", err(&absent));
    let (_folder, config) = with_config(&GOOD.replace("SPEC", "/nonexistent/p.toml"));
    let absent = output(&["validate", "-c", text(&config)]);
    assert_eq!(absent.status.code(), Some(2));
    assert!(err(&absent).contains("/nonexistent/p.toml"), "{}", err(&absent));
}

#[test]
fn the_environment_overrides_the_file() {
    let (_folder, config) = with_config(GOOD);
    let output = millstream(&["validate", "-c", text(&config)]).env("MILLSTREAM_ENGINE__THREADS", "5").output();
    assert!(out(&output.expect("the binary starts")).contains("threads = 5\n"));
}

#[test]
fn a_reader_that_goes_away_is_no_fault() {
    let (_folder, config) = with_config(GOOD);
    for args in [&["generate", "config-reference"][..], &["validate", "-c", text(&config)], &["--help"]] {
        let mut child =
            millstream(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!((output.status.code(), err(&output).as_str()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn packages_get_man_pages_and_completions() {
    let folder = tempfile::tempdir().expect("a folder");
    for what in ["man", "completions", "config-reference"] {
        let output = output(&["generate", what, "--out", text(folder.path())]);
        assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    }
    for (file, holds) in [
        ("millstream.1", "evaluate"),
        ("millstream-run.1", "new\\-lineage"),
        ("millstream-ctl-swap.1", "FILE"),
        ("millstream.bash", "--new-lineage"),
        ("_millstream", "new-lineage"),
        ("millstream.fish", "new-lineage"),
        ("config.md", "commit_interval_ms"),
    ] {
        let text = std::fs::read_to_string(folder.path().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(text.contains(holds), "{file} does not speak of {holds}");
    }
}

#[test]
fn a_folder_that_cannot_be_written_to_exits_with_4() {
    let output = output(&["generate", "man", "--out", "/proc/nonexistent"]);
    assert_eq!(output.status.code(), Some(4), "{}", err(&output));
    assert!(err(&output).starts_with("millstream: /proc/nonexistent: "), "{}", err(&output));
}

#[test]
fn an_evaluation_of_nothing_exits_with_2_and_says_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str, content: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("written");
        path.display().to_string()
    };
    let spec = "name = \"p\"\n[schema]\nlabel = \"y\"\n[schema.fields]\na = \"float\"\ny = \"bool\"\n\
                [model]\nkind = \"logistic-regression\"\n";
    let spec = place("p.toml", spec);
    // CSV under a name that says JSON lines.
    let wrong = place("rows.txt", "a,y\n1,true\n2,false\n");
    let output = output(&["evaluate", "--pipeline", &spec, "--input", &wrong, "--json"]);
    assert_eq!(output.status.code(), Some(2), "{}", err(&output));
    assert!(
        err(&output).contains("all 3 events were turned away") && err(&output).contains(".csv"),
        "{}",
        err(&output)
    );
    // Without a label there is no figure, rather than one of 0.
    let unlabelled = place("rows.csv", "a,y\n1,\n2,\n");
    let output = self::output(&["evaluate", "--pipeline", &spec, "--input", &unlabelled, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["pipelines"][0]["metrics"], serde_json::json!({}), "{report}");
    let output = self::output(&["evaluate", "--pipeline", &spec, "--input", &unlabelled]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("nothing was labelled") && !text.contains("accuracy"), "{text}");
}
