//! The demo as a newcomer sees it, without a terminal: one command that shows the stream, the swap, the
//! kill, the recovery and the byte-identical file, checks them, and leaves nothing behind: no process, no
//! file. Told to stop, or killed itself, it doesn't leave its daemon behind either.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn demo(folder: &Path, seconds: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.args(["demo", "--seconds", seconds]).env("TMPDIR", folder).stdin(Stdio::null());
    // What is set for other daemons must not reach this one's.
    command.env("MILLSTREAM_LANES", "3").env("RUST_LOG", "off");
    command
}

/// Command lines of processes that work in `folder`.
fn alive(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        if let Ok(line) = std::fs::read(entry.path().join("cmdline")) {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&folder) {
                found.push(line);
            }
        }
    }
    found
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn left_behind(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("the folder").count()
}

#[test]
fn it_shows_and_checks_everything_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("folder");
    let output = demo(folder.path(), "6").output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = || format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{}", said());
    let line = |part: &str| text.lines().find(|l| l.contains(part)).unwrap_or_else(|| panic!("{part}: {}", said()));
    let progress: Vec<&str> = text.lines().filter(|l| l.contains(" events/s") || l.contains("/s  p50 ")).collect();
    assert!(progress.len() >= 3, "{}", said());
    assert!(progress[1].contains("accuracy") && progress[1].contains("lag"), "{}", said());
    assert!(line(" swap: ").contains("longest pause between two answers"));
    assert!(line(" kill: ").contains("kill -9"));
    assert!(line(" recovery: ").contains("first prediction again"));
    assert!(line(" exactness: ").ends_with(": byte-identical"));
    assert!(line("every event was answered once").contains("lost 0, twice 0"));
    let held: Vec<&str> = text.lines().filter(|l| l.starts_with("  ok  ")).collect();
    for check in ["takes force", "numbering", "the version is", "answered once", "baselines", "drains", "same byte"] {
        assert!(held.iter().any(|l| l.contains(check)), "{check}: {}", said());
    }
    assert!(text.contains("README.md"));
    assert_eq!((alive(folder.path()), left_behind(folder.path())), (vec![], 0));
}

/// A demo whose daemon runs.
fn started(folder: &Path) -> Child {
    let child = demo(folder, "600").stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    until("its daemon runs", || !alive(folder).is_empty());
    child
}

fn send(child: &Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).expect("sent");
}

#[test]
fn told_to_stop_it_ends_its_daemon_and_cleans_up() {
    let folder = tempfile::tempdir().expect("folder");
    let mut child = started(folder.path());
    send(&child, rustix::process::Signal::TERM);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert_eq!((alive(folder.path()), left_behind(folder.path())), (vec![], 0));
}

#[test]
fn killed_it_takes_its_daemon_along() {
    let folder = tempfile::tempdir().expect("folder");
    let mut child = started(folder.path());
    send(&child, rustix::process::Signal::KILL);
    assert!(!child.wait().expect("it ends").success());
    until("no daemon is left", || alive(folder.path()).is_empty());
}
