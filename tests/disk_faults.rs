//! The story: the disk fails, call by call. Every system call that touches the state directory or an output
//! returns an error once; the disk fills up in each phase; the state directory turns read-only, or is removed,
//! or comes back damaged.
//!
//! Where nothing durable depends on the call, scoring goes on, the older checkpoints stay, and the failure is
//! counted and said. Where the journal or an output can't be written, the daemon ends with 4, a name and
//! advice. Once the fault is gone, a restart is exact: byte for byte what an undisturbed run writes. No failed
//! sync is tried again on its descriptor.
//!
//! `MILLSTREAM_DISK_FAULTS=long` fails every call in turn, the usual run a few of each kind.

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::daemon::{Daemon, LIMIT, Scene, until};
use support::disk::{SmallDisk, behind, usable};
use support::events::{self, SPEC};

/// Files, each a block and a commit, with checkpoints as often as the config allows.
const FILES: &str = "source.kind = \"file\"\nsource.paths = [\"DIR/in/*.json\"]\nsink.kind = \"file\"\n\
                     sink.path = \"DIR/out.ndjson\"\nsink.dead_letters = \"DIR/dead.ndjson\"\n\
                     engine.commit_events_max = 1\ncheckpoint.interval_ms = 10\n";
/// So many that a run lasts for several checkpoints.
const INPUTS: u64 = 300;

fn long() -> bool {
    std::env::var("MILLSTREAM_DISK_FAULTS").is_ok_and(|v| v == "long")
}

fn with_inputs(config: &str) -> Scene {
    let scene = Scene::new(SPEC, config);
    std::fs::create_dir(scene.path("in")).expect("a folder");
    for i in 0..INPUTS {
        scene.write(&format!("in/{i:03}.json"), events::json(14, 1 + i));
    }
    scene
}

/// What a run wrote, and where its lane stands: all that must be the same after any fault. Folders differ.
#[derive(Debug, PartialEq)]
struct Outcome {
    out: String,
    dead: String,
    digest: String,
    seq: u64,
}

fn outcome(scene: &Scene) -> Outcome {
    let place = if scene.path("o").exists() { "o/" } else { "" };
    let read = |name: &str| String::from_utf8(scene.read(&format!("{place}{name}"))).expect("UTF-8");
    let text = |name: &str| read(name).replace(&scene.text(""), "/");
    let (digest, seq) = scene.digest(0);
    Outcome { out: text("out.ndjson"), dead: text("dead.ndjson"), digest, seq }
}

/// What an undisturbed run of the inputs comes to.
fn oracle() -> Outcome {
    let scene = with_inputs(FILES);
    scene.run_to_end(&[]);
    outcome(&scene)
}

#[track_caller]
fn assert_exact(scene: &Scene, oracle: &Outcome, what: &str) {
    let found = outcome(scene);
    assert_eq!((&found.digest, found.seq), (&oracle.digest, oracle.seq), "{what}");
    assert!(found.out == oracle.out, "{what}: the output has {} bytes, not {}", found.out.len(), oracle.out.len());
    assert!(found.dead == oracle.dead, "{what}: dead letters differ");
    let report = scene.call_with_config("replay", &["--json"]).json();
    assert_eq!(report["digest"], "equal", "{what}: {report}");
}

/// Everything that the daemon writes to in a scene with [`FILES`].
fn own_paths(scene: &Scene) -> Vec<PathBuf> {
    let state = scene.path("state");
    let (lane, artifacts) = (state.join("lane-0"), state.join("artifacts"));
    let base = millstream::artifact::content_hash(SPEC.as_bytes());
    let mut paths = vec![scene.path("out.ndjson"), scene.path("dead.ndjson"), scene.path(""), lane.join("journal")];
    paths.push(lane.join(format!("journal/{:020}.journal", 0)));
    for name in ["lineage.json", "lock"] {
        paths.push(state.join(name));
    }
    paths.push(artifacts.join(&base));
    for number in 0..INPUTS + 4 {
        paths.push(lane.join(millstream::checkpoint::checkpoint_name(number)));
    }
    paths.extend([state, lane, artifacts]);
    paths
}

/// The command line of a daemon whose `when`-th call of the given name on its own files fails.
fn failing(strace: &str, scene: &Scene, call: &str, error: &str, when: u32) -> std::process::Command {
    let log = scene.text(&format!("{call}-{when}"));
    let mut options: Vec<String> =
        ["-D", "-f", "-qq", "-y", "--seccomp-bpf", "-s", "0", "-o", &log].map(String::from).to_vec();
    options.extend(["-e".into(), format!("trace={call},fsync,fdatasync,close")]);
    options.extend(["-e".into(), format!("inject={call}:error={error}:when={when}")]);
    // Temporary files have names that nobody can know before. All that is synced or renamed is the daemon's own.
    let all = ["fsync", "fdatasync", "rename"].contains(&call);
    for path in own_paths(scene).into_iter().filter(|_| !all) {
        options.extend(["-P".into(), path.display().to_string().trim_end_matches('/').into()]);
    }
    behind(scene, strace, &options)
}

/// The trace with each call on one line: one that another thread interrupted stands on two.
fn whole_calls(trace: &str) -> String {
    let mut begun: BTreeMap<&str, &str> = BTreeMap::new();
    let mut whole = String::new();
    for line in trace.lines() {
        let thread = line.split(' ').next().unwrap_or_default();
        if let Some(start) = line.strip_suffix(" <unfinished ...>") {
            begun.insert(thread, start);
        } else if let Some((_, end)) = line.split_once(" resumed>") {
            whole += &format!("{}{end}\n", begun.remove(thread).unwrap_or_default());
        } else {
            whole += &format!("{line}\n");
        }
    }
    whole
}

/// The line of the call that was made to fail, if the run came that far.
fn injected(trace: &str) -> Option<&str> {
    trace.lines().find(|line| line.contains("(INJECTED)"))
}

/// After a sync that failed, its descriptor is closed before anything else is synced through that number.
fn assert_not_retried(trace: &str) {
    let mut lines = trace.lines().skip_while(|line| !line.contains("(INJECTED)"));
    let failed = lines.next().expect("a call that failed");
    let descriptor = |line: &str| -> Option<String> {
        let arguments = line.split_once("sync(").or_else(|| line.split_once("close("))?.1;
        Some(arguments.split(['<', ')', ',']).next()?.to_string())
    };
    let number = descriptor(failed).expect("a descriptor");
    for line in lines.filter(|line| descriptor(line).as_ref() == Some(&number)) {
        if line.contains("close(") {
            return;
        }
        assert!(!line.contains("sync("), "a failed sync was tried again:\n{failed}\n{line}");
    }
}

/// Fails the calls of one name, one a run; gives how many runs ended well and how many with 4.
fn each_fails(call: &str, error: &str) -> Option<(u32, u32)> {
    let strace = match usable("strace", &["-qq", "-o", "/dev/null", "true"]) {
        Ok(strace) => strace,
        Err(reason) => {
            println!("skipped: system calls cannot be made to fail here: {reason}");
            return None;
        }
    };
    let oracle = oracle();
    let (mut survived, mut stopped) = (0, 0);
    let some = [1, 2, 3, 4, 5, 7, 9, 12, 17, 26, 41];
    for when in 1.. {
        if !long() && !some.contains(&when) {
            if when > 41 {
                break;
            }
            continue;
        }
        let scene = with_inputs(FILES);
        let (code, said) = scene.spawn_as(failing(&strace, &scene, call, error, when)).wait();
        let trace = whole_calls(&String::from_utf8_lossy(&scene.read(&format!("{call}-{when}"))));
        let Some(failed) = injected(&trace) else {
            assert_eq!(code, Some(0), "{said}");
            break;
        };
        let what = format!("{call} {error} {when}: {failed}\n{said}");
        match code {
            Some(0) => {
                survived += 1;
                assert!(said.contains("checkpoint failed, scoring goes on"), "nothing is said: {what}");
            }
            Some(4) => {
                stopped += 1;
                assert!(said.contains(&scene.text("")[..scene.text("").len() - 1]), "no path is named: {what}");
                let advice = said.lines().last().is_some_and(|line| line.starts_with("  "));
                assert!(advice, "no advice: {what}");
            }
            code => panic!("ended with {code:?}: {what}"),
        }
        if call.ends_with("sync") {
            assert_not_retried(&trace);
        }
        scene.run_to_end(&[]);
        assert_exact(&scene, &oracle, &what);
    }
    println!("{call} {error}: {survived} runs went on, {stopped} stopped; each restart was exact");
    Some((survived, stopped))
}

#[test]
fn syncs_of_checkpoints_and_directories_that_fail() {
    if let Some((survived, stopped)) = each_fails("fsync", "EIO") {
        assert!(survived > 0 && stopped > 0, "{survived}, {stopped}");
    }
}

#[test]
fn syncs_of_the_journal_and_the_outputs_that_fail() {
    if let Some((survived, stopped)) = each_fails("fdatasync", "EIO") {
        // Nothing may be published behind a commit that is not on the disk.
        assert!(survived == 0 && stopped > 0, "{survived}, {stopped}");
    }
}

#[test]
fn writes_that_fail() {
    for error in ["ENOSPC", "EIO"] {
        if let Some((_, stopped)) = each_fails("write", error) {
            assert!(stopped > 0, "{stopped}");
        }
    }
}

#[test]
fn files_that_cannot_be_opened() {
    each_fails("openat", "EIO");
}

#[test]
fn renames_that_fail() {
    if let Some((survived, stopped)) = each_fails("rename", "EIO") {
        // The first ones are the lineage's.
        assert!(survived > 0 && stopped > 0, "{survived}, {stopped}");
    }
}

#[test]
fn removals_that_fail() {
    if let Some((survived, stopped)) = each_fails("unlink", "EIO") {
        assert!(survived > 0 && stopped == 0, "{survived}, {stopped}");
    }
}

/// Runs on a disk of each size until it is full; then there is room again, and a restart is exact.
fn fills_up(dir: &str, config: &str, sizes_kib: &[u64], named: &str) {
    let oracle = oracle();
    let mut stopped = 0;
    for kib in sizes_kib {
        let scene = with_inputs(config);
        let disk = match SmallDisk::mount(&scene.path(dir), *kib) {
            Ok(disk) => disk,
            Err(reason) => return println!("skipped: {reason}"),
        };
        let (code, said) = scene.spawn(&[]).wait();
        if code != Some(0) {
            stopped += 1;
            assert_eq!(code, Some(4), "{kib} KiB: {said}");
            assert!(said.contains(named) && said.contains("No space left"), "{kib} KiB: {said}");
            assert!(said.lines().last().is_some_and(|l| l.starts_with("  free")), "no advice: {said}");
        }
        disk.resize(64 << 10);
        scene.run_to_end(&[]);
        assert_exact(&scene, &oracle, &format!("{kib} KiB, then {code:?}: {said}"));
    }
    assert!(stopped * 2 > sizes_kib.len(), "only {stopped} of {sizes_kib:?} were too small");
}

#[test]
fn the_disk_of_the_state_fills_up() {
    // Lineage and first pipeline take three blocks; then checkpoints and the journal take turns.
    fills_up("state", FILES, &[20, 24, 28, 32, 36, 40, 48, 56, 64, 72], "state");
}

#[test]
fn the_disk_of_the_outputs_fills_up() {
    // Short writes at every block's end, wherever a line is then.
    let config = FILES.replace("DIR/out", "DIR/o/out").replace("DIR/dead", "DIR/o/dead");
    fills_up("o", &config, &[16, 60, 120, 124, 128, 200, 256], "o/");
}

const SOCKET: &str = "source.kind = \"socket\"\nsource.listen = \"127.0.0.1:0\"\ndelivery.commit_interval_ms = 2\n";

/// Sends each line on its own and waits for its answer.
fn ask(address: &str, lines: &str) -> Vec<serde_json::Value> {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("timeout");
    let mut reader = BufReader::new(stream);
    let mut answers = Vec::new();
    for line in lines.lines() {
        reader.get_mut().write_all(format!("{line}\n").as_bytes()).expect("sent");
        let mut answer = String::new();
        reader.read_line(&mut answer).expect("answer");
        answers.push(serde_json::from_str(&answer).expect("JSON"));
    }
    answers
}

#[test]
fn a_swap_on_a_full_disk_is_refused_and_sockets_are_answered_on() {
    let scene = Scene::new(SPEC, SOCKET);
    scene.write("other.toml", SPEC.replace("learning_rate = 0.1", "learning_rate = 0.5"));
    let disk = match SmallDisk::mount(&scene.path("state"), 512) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let quiet = Scene::new(SPEC, SOCKET);
    let (undisturbed, daemon) = (quiet.start(&[]), scene.start(&[]));
    let both = |seed: u64| {
        let lines = events::json(60, seed);
        let scores =
            |daemon: &Daemon| -> Vec<_> { ask(&daemon.address(), &lines).iter().map(|a| a["score"].clone()).collect() };
        assert_eq!(scores(&daemon), scores(&undisturbed));
    };
    both(1);
    disk.fill();
    let said = scene.ctl(&["swap", &scene.text("other.toml")]).refused(4, &["No space left", "artifacts"]);
    assert!(said.contains("free"), "{said}");
    both(2);
    scene.ctl(&["checkpoint"]).refused(4, &["No space left"]);
    // The journal's own block is full sooner or later; a socket is answered on, and the status says why.
    until("the journal's fault in the status", || {
        both(3);
        daemon.status()["lanes"][0]["faults"].to_string().contains("journal").then_some(())
    });
    let versions = scene.ctl(&["versions", "--json"]).json();
    assert_eq!(versions["lanes"][0]["current"]["swap"], 0, "{versions}");
    std::fs::remove_file(scene.path("state/filler")).expect("removed");
    scene.ctl(&["swap", &scene.text("other.toml")]).good();
    scene.ctl(&["checkpoint"]).good();
    daemon.stop();
    undisturbed.stop();
}

/// A generated stream into a file, slow enough to be met half way.
const STREAM: &str = "source.kind = \"rate\"\nsource.events = 20_000\nsource.rate = 10_000\nsource.format = \"json\"\n\
                      sink.kind = \"file\"\nsink.path = \"DIR/out.ndjson\"\ndelivery.commit_interval_ms = 5\n";
const GENERATED: &str = include_str!("../models/hyperplane.toml");
const FAST: [&str; 2] = ["--set", "source.rate=0"];

fn stream_oracle() -> Outcome {
    let scene = Scene::new(GENERATED, STREAM);
    scene.run_to_end(&FAST);
    outcome(&scene)
}

fn grown(scene: &Scene, bytes: u64) {
    let length = scene.length("out.ndjson");
    until("output", || (scene.length("out.ndjson") > length + bytes).then_some(()));
}

fn failures(scene: &Scene) -> u64 {
    let mut stream = std::os::unix::net::UnixStream::connect(scene.path("admin.sock")).expect("connect");
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").expect("sent");
    let metrics = std::io::read_to_string(stream).expect("answer");
    let line = metrics.lines().find(|l| l.starts_with("millstream_checkpoint_failures_total")).expect("a counter");
    line.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
}

/// A shell command in the mount namespace of a daemon.
fn inside(daemon: &Daemon, script: &str, dir: &Path) {
    let pid = daemon.pid().to_string();
    let done = Command::new("nsenter").args(["-t", &pid, "-m", "sh", "-c", script]).arg(dir).output().expect("nsenter");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// A file that is being written keeps a mount from turning read-only: then it is tried again.
const READ_ONLY: &str = "mount --bind \"$0\" \"$0\" && tries=0 && \
    until mount -o remount,ro,bind \"$0\"; do tries=$((tries + 1)); [ $tries -lt 1000 ] || exit 1; sleep 0.01; done";

#[test]
fn a_state_directory_that_turns_read_only() {
    let unshare = match usable("unshare", &["-m", "true"]) {
        Ok(unshare) => unshare,
        Err(reason) => return println!("skipped: a private mount namespace: {reason}"),
    };
    let oracle = stream_oracle();
    let scene = Scene::new(GENERATED, &format!("{STREAM}checkpoint.interval_ms = 20\n"));
    // While it runs: what is open goes on, new files can't be made.
    let mut daemon = scene.spawn_as(behind(&scene, &unshare, &["-m".into()]));
    daemon.ready();
    until("a checkpoint", || daemon.status()["lanes"][0]["checkpoint"]["seq"].as_u64());
    inside(&daemon, READ_ONLY, &scene.path("state"));
    let error = until("a failed checkpoint", || {
        daemon.status()["lanes"][0]["checkpoint"]["error"].as_str().map(str::to_string)
    });
    assert!(error.contains("Read-only") && error.contains("checkpoint-"), "{error}");
    grown(&scene, 20_000);
    assert!(failures(&scene) > 0);
    scene.ctl(&["checkpoint"]).refused(4, &["Read-only"]);
    let kept = scene.checkpoints(0);
    assert!(!kept.is_empty(), "the older ones stay");
    daemon.kill();
    // At the start: nothing is begun, and it says why.
    let script = format!("{READ_ONLY} && exec \"$@\"");
    let options = ["-m".into(), "sh".into(), "-c".into(), script, scene.text("state")];
    let before = scene.read("out.ndjson");
    let (code, said) = scene.spawn_as(behind(&scene, &unshare, &options)).wait();
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("Read-only") && said.contains("state_dir must be"), "{said}");
    assert!(scene.read("out.ndjson") == before, "nothing was touched");
    scene.run_to_end(&FAST);
    assert_exact(&scene, &oracle, "writable again");
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-r").args([from, to]).output().expect("cp");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn what_is_removed_under_a_running_daemon_stops_it() {
    let oracle = stream_oracle();
    for gone in ["state", "state/lane-0/journal", "out.ndjson"] {
        let scene = Scene::new(GENERATED, STREAM);
        let daemon = scene.start(&[]);
        grown(&scene, 100_000);
        daemon.stop();
        copy(&scene.path("state"), &scene.path("copy"));
        let kept = scene.read("out.ndjson");
        let daemon = scene.start(&[]);
        grown(&scene, 100_000);
        let path = scene.path(gone);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).expect("removed");
        } else {
            std::fs::remove_file(&path).expect("removed");
        }
        let (code, said) = daemon.wait();
        assert_eq!(code, Some(4), "{gone}: {said}");
        assert!(said.contains("was removed") && said.contains("copy"), "{gone}: {said}");
        // Back from a copy, whatever was written since.
        let _ = std::fs::remove_dir_all(scene.path("state"));
        copy(&scene.path("copy"), &scene.path("state"));
        if gone == "out.ndjson" {
            scene.write("out.ndjson", kept);
        }
        scene.run_to_end(&FAST);
        assert_exact(&scene, &oracle, gone);
    }
}

#[test]
fn a_damaged_lineage_is_named_and_nothing_is_begun() {
    let oracle = oracle();
    let scene = with_inputs(FILES);
    scene.run_to_end(&[]);
    let good = scene.read("state/lineage.json");
    for bad in [&b""[..], &good[..good.len() / 2], b"{}", b"\xFF\xFE"] {
        scene.write("state/lineage.json", bad);
        let (code, said) = scene.spawn(&[]).wait();
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("lineage.json") && said.contains("--new-lineage"), "{said}");
    }
    // Without it, the journal is of a lineage that nobody knows.
    std::fs::remove_file(scene.path("state/lineage.json")).expect("removed");
    let (code, said) = scene.spawn(&[]).wait();
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the journal is of lineage") && said.contains("--new-lineage"), "{said}");
    scene.write("state/lineage.json", good);
    scene.run_to_end(&[]);
    assert_exact(&scene, &oracle, "restored");
}

#[test]
fn a_torn_journal_is_cut_and_the_events_are_taken_again() {
    let oracle = oracle();
    let scene = with_inputs(FILES);
    // The last checkpoint is of the last record: without it, the end of the journal is what counts.
    scene.run_to_end(&["--set", "checkpoint.interval_ms=600000"]);
    let newest = scene.checkpoints(0).pop().expect("a checkpoint");
    let path = format!("state/lane-0/journal/{:020}.journal", 0);
    let whole = scene.read(&path);
    let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').expect("a line") + 1;
    for cut in [last, last + 1, last + 9, (last + whole.len()) / 2, whole.len() - 1] {
        std::fs::remove_file(&newest).expect("removed");
        scene.write(&path, &whole[..cut]);
        scene.run_to_end(&["--set", "checkpoint.interval_ms=600000"]);
        assert_exact(&scene, &oracle, &format!("cut at byte {cut} of {}", whole.len()));
    }
}

#[test]
fn a_damaged_artifact_is_found_before_anything_is_published() {
    let scene = Scene::new(GENERATED, &format!("{STREAM}checkpoint.interval_ms = 600_000\n"));
    let other = GENERATED.replace("learning_rate = 0.01", "learning_rate = 0.2");
    scene.write("other.toml", &other);
    let daemon = scene.start(&[]);
    grown(&scene, 100_000);
    scene.ctl(&["swap", &scene.text("other.toml")]).good();
    grown(&scene, 100_000);
    daemon.kill();
    let hash = millstream::artifact::content_hash(other.as_bytes());
    let (path, before) = (format!("state/artifacts/{hash}"), scene.read("out.ndjson"));
    for bad in [&b""[..], &other.as_bytes()[..99], other.replace("0.2", "0.3").as_bytes()] {
        scene.write(&path, bad);
        let (code, said) = scene.spawn(&[]).wait();
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains(&hash) && said.contains("damaged") && said.contains("--new-lineage"), "{said}");
        assert!(scene.read("out.ndjson") == before, "nothing was touched");
    }
    scene.write(&path, &other);
    scene.run_to_end(&FAST);
    let report = scene.call_with_config("replay", &["--json"]).json();
    assert_eq!(report["digest"], "equal", "{report}");
    assert_eq!(events::lines(&scene.read("out.ndjson")).len(), 20_000);
}
