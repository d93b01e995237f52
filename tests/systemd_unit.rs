//! The daemon as a service: the units are sound and closed enough, installing and uninstalling leaves
//! nothing behind, and the notifications reach a service manager: READY, STATUS, STOPPING, and a
//! watchdog that is fed while the lanes move or are idle, and is not fed while one is stuck.

use millstream::metrics::Health;
use millstream::service;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Highest exposure that `systemd-analyze security` may find.
const EXPOSURE_MAX: f64 = 1.5;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn install(action: &str, prefix: &str, destination: &Path) -> Output {
    let build = Path::new(env!("CARGO_BIN_EXE_millstream")).parent().expect("a directory");
    Command::new("sh")
        .arg(root().join("scripts/install.sh"))
        .arg(action)
        .env("PREFIX", prefix)
        .env("DESTDIR", destination)
        .env("BUILD", build)
        .env_remove("CONFDIR")
        .output()
        .expect("sh runs")
}

fn succeeds(output: Output) {
    assert!(output.status.success(), "{output:?}");
}

fn has_systemd_analyze() -> bool {
    let found = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !found {
        eprintln!("skipped: there is no systemd-analyze (Debian package systemd)");
    }
    found
}

/// The units as installed, the binary's path replaced by one that exists.
fn units() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("directory");
    succeeds(install("install", "/usr", dir.path()));
    let units = dir.path().join("usr/lib/systemd/system");
    for entry in std::fs::read_dir(&units).expect("units") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("unit");
        assert!(!text.contains('@') || !text.contains("DIR@"), "{}: a place is not filled in", path.display());
        let text = text.replace("/usr/bin/millstream", env!("CARGO_BIN_EXE_millstream"));
        std::fs::write(&path, text).expect("unit");
    }
    for template in ["millstream@.service", "millstream@.socket"] {
        let instance = units.join(template.replace('@', "@one"));
        std::fs::copy(units.join(template), instance).expect("instance");
    }
    (dir, units)
}

const UNITS: [&str; 4] = ["millstream.service", "millstream@one.service", "millstream.socket", "millstream@one.socket"];

#[test]
fn the_units_are_sound() {
    if !has_systemd_analyze() {
        return;
    }
    let (_dir, units) = units();
    for unit in UNITS {
        let output = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .arg(units.join(unit))
            .env("SYSTEMD_UNIT_PATH", format!("{}:", units.display()))
            .output()
            .expect("systemd-analyze");
        let told = String::from_utf8_lossy(&output.stderr);
        let ours: Vec<&str> = told.lines().filter(|l| l.contains("millstream")).collect();
        assert!(output.status.success() && ours.is_empty(), "{unit}: {told}");
    }
}

#[test]
fn a_fault_in_a_unit_is_found() {
    if !has_systemd_analyze() {
        return;
    }
    let (_dir, units) = units();
    let unit = units.join("millstream.service");
    let text = std::fs::read_to_string(&unit).expect("unit");
    std::fs::write(&unit, text.replace("WatchdogSec=30", "WatchdogSec=soon")).expect("unit");
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().expect("verify");
    assert!(String::from_utf8_lossy(&output.stderr).contains("millstream.service:"), "{output:?}");
}

#[test]
fn the_services_are_closed_to_what_they_do_not_need() {
    if !has_systemd_analyze() {
        return;
    }
    let (_dir, units) = units();
    for unit in ["millstream.service", "millstream@one.service"] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager"])
            .arg(units.join(unit))
            .output()
            .expect("systemd-analyze");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|l| l.contains("Overall exposure level")).unwrap_or_else(|| panic!("{output:?}"));
        let level: f64 = line
            .split_once(": ")
            .and_then(|(_, rest)| rest.split_whitespace().next())
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("no figure in {line:?}"));
        assert!(level <= EXPOSURE_MAX, "{unit}: exposure {level}");
        println!("{unit}: exposure {level}");
    }
}

fn everything_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(everything_below(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn installing_and_uninstalling_leaves_nothing_behind() {
    for prefix in ["/usr", "/usr/local", "/opt/stream"] {
        let dir = tempfile::tempdir().expect("directory");
        let at = |path: &str| dir.path().join(path.trim_start_matches('/'));
        succeeds(install("install", prefix, dir.path()));
        assert!(at(prefix).join("bin/millstream").is_file());
        assert!(at(prefix).join("lib/systemd/system/millstream.service").is_file());
        assert!(at(prefix).join("lib/sysusers.d/millstream.conf").is_file());
        assert!(at(prefix).join("share/doc/millstream/operations.md").is_file());
        let config =
            at(if prefix == "/opt/stream" { "/opt/stream/etc" } else { "/etc" }).join("millstream/millstream.toml");
        let text = std::fs::read_to_string(&config).expect("config");
        assert!(toml::from_str::<toml::Table>(&text).is_ok(), "the config is TOML");
        assert!(!text.contains("DIR@"), "{text}");
        // A second time is an upgrade: it works, and uninstalling still finds everything.
        succeeds(install("install", prefix, dir.path()));
        succeeds(install("uninstall", prefix, dir.path()));
        assert_eq!(everything_below(dir.path()), Vec::<PathBuf>::new(), "{prefix}");
        assert_eq!(install("uninstall", prefix, dir.path()).status.code(), Some(2), "nothing is installed");
    }
}

#[test]
fn an_edited_config_and_what_others_put_there_are_kept() {
    let dir = tempfile::tempdir().expect("directory");
    succeeds(install("install", "/usr", dir.path()));
    let config = dir.path().join("etc/millstream/millstream.toml");
    let other = dir.path().join("usr/bin/another");
    std::fs::write(&config, "pipeline = 'mine.toml'\n").expect("config");
    std::fs::write(&other, "another program").expect("file");
    succeeds(install("install", "/usr", dir.path()));
    assert_eq!(std::fs::read_to_string(&config).expect("config"), "pipeline = 'mine.toml'\n", "upgraded");
    succeeds(install("uninstall", "/usr", dir.path()));
    let mut files = everything_below(dir.path());
    files.retain(|p| p.is_file());
    files.sort();
    assert_eq!(files, [config, other]);
}

/// Runs a test of this file in a process of its own, with a service manager's socket in its
/// environment, and returns what it was told until the process ended, with the times.
fn told_by(scene: &str, watchdog: Option<Duration>) -> Vec<(Duration, String)> {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bind");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("timeout");
    let mut process = Command::new(std::env::current_exe().expect("this test"));
    process.args(["--exact", scene, "--ignored", "--nocapture"]).env("NOTIFY_SOCKET", &path);
    process.env_remove("WATCHDOG_PID").env_remove("WATCHDOG_USEC");
    if let Some(interval) = watchdog {
        process.env("WATCHDOG_USEC", interval.as_micros().to_string());
    }
    let mut child = process.stdout(std::process::Stdio::null()).spawn().expect("a process");
    let started = Instant::now();
    let mut told = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        // Ended first, then empty: nothing that was sent before the end is missed.
        let ended = child.try_wait().expect("wait");
        match socket.recv(&mut buffer) {
            Ok(n) => {
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                told.extend(text.lines().map(|line| (started.elapsed(), line.to_owned())));
            }
            Err(_) if ended.is_some() => {
                assert!(ended.is_some_and(|s| s.success()), "{scene} failed");
                return told;
            }
            Err(_) => assert!(started.elapsed() < Duration::from_secs(30), "{scene} takes too long"),
        }
    }
}

#[test]
fn the_manager_is_told_of_ready_status_reload_and_stop() {
    let told: Vec<String> = told_by("scene_life", None).into_iter().map(|(_, line)| line).collect();
    let monotonic = told.iter().find(|l| l.starts_with("MONOTONIC_USEC=")).expect("the time of the reload").clone();
    assert_eq!(
        told,
        [
            "READY=1",
            "STATUS=serving 2 lanes",
            "STATUS=one two",
            "RELOADING=1",
            &monotonic,
            "STOPPING=1",
            "STATUS=draining: finishing what was read",
            "EXTEND_TIMEOUT_USEC=20000000",
        ]
    );
    assert!(monotonic["MONOTONIC_USEC=".len()..].parse::<u64>().is_ok_and(|n| n > 0), "{monotonic}");
}

#[test]
#[ignore = "a scene: run by the_manager_is_told_of_ready_status_reload_and_stop"]
fn scene_life() {
    service::ready("serving 2 lanes");
    service::status("one\ntwo");
    service::reloading();
    service::stopping(Duration::from_secs(20));
    // No watchdog is asked for: none is fed.
    assert!(service::watchdog(Arc::new(Health::new(1))).expect("watchdog").is_none());
}

/// How long the scenes below let one thing last, in watchdog intervals of 200 ms.
const INTERVAL: Duration = Duration::from_millis(200);

#[test]
fn the_watchdog_is_fed_while_the_lanes_move_and_not_while_one_is_stuck() {
    let told = told_by("scene_watchdog", Some(INTERVAL));
    let at = |what: &str| told.iter().find(|(_, line)| line == what).unwrap_or_else(|| panic!("{what}: {told:?}")).0;
    let fed = |from: &str, to: &str| {
        let (from, to) = (at(from), at(to));
        told.iter().filter(|(t, line)| line == "WATCHDOG=1" && *t >= from && *t <= to).count()
    };
    // Each scene lasts eight intervals: fed at half of it, that is some sixteen times.
    assert!(fed("STATUS=idle", "STATUS=moving") >= 8, "{told:?}");
    assert!(fed("STATUS=moving", "STATUS=stuck") >= 8, "{told:?}");
    // Stuck: fed until the interval is over, then no more.
    assert!(fed("STATUS=stuck", "STATUS=free") <= 4, "{told:?}");
    assert!(fed("STATUS=free", "STATUS=end") >= 8, "{told:?}");
}

#[test]
#[ignore = "a scene: run by the_watchdog_is_fed_while_the_lanes_move_and_not_while_one_is_stuck"]
fn scene_watchdog() {
    if std::env::var_os("WATCHDOG_USEC").is_none() {
        return; // run by itself, it has nobody to tell
    }
    let health = Arc::new(Health::new(2));
    let _watchdog = service::watchdog(Arc::clone(&health)).expect("thread").expect("asked for");
    let last = || std::thread::sleep(8 * INTERVAL);
    service::status("idle");
    last();
    service::status("moving");
    let end = Instant::now() + 8 * INTERVAL;
    while Instant::now() < end {
        health.lane(0).busy();
        std::thread::sleep(INTERVAL / 10);
    }
    health.lane(0).busy();
    service::status("stuck");
    last();
    service::status("free");
    health.lane(0).idle();
    last();
    service::status("end");
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().expect("directory");
    let log = std::fs::File::create(dir.path().join("log")).expect("file");
    let found = log.metadata().expect("metadata");
    let stream = format!("{}:{}", found.dev(), found.ino());
    let run = |stream: &str| {
        let file = std::fs::File::create(dir.path().join("log")).expect("file");
        let mut process = Command::new(std::env::current_exe().expect("this test"));
        process.args(["--exact", "scene_log", "--ignored", "--nocapture"]).env("JOURNAL_STREAM", stream);
        process.env_remove("RUST_LOG").stdout(std::process::Stdio::null()).stderr(file);
        assert!(process.status().expect("a process").success());
        std::fs::read_to_string(dir.path().join("log")).expect("log")
    };
    assert_eq!(run(&stream), "<6>ready lanes=2\n<4>slow disk\n<3>one two\n");
    // Another file than the journal: times and levels.
    let plain = run("1:1");
    let line = plain.lines().next().expect("a line");
    assert!(line.starts_with("20") && line.ends_with("Z INFO  ready lanes=2"), "{line}");
    assert!(!plain.contains('\u{1b}'), "no colors in a file");
}

#[test]
#[ignore = "a scene: run by the_journal_gets_priorities_and_no_times"]
fn scene_log() {
    service::init_logging("info").expect("log");
    tracing::info!(lanes = 2, "ready");
    tracing::debug!("not shown");
    tracing::warn!("slow disk");
    tracing::error!("one\ntwo");
    assert!(service::init_logging("info").is_err(), "a second time");
}
