//! The story: a test that cannot fail proves nothing. For each invariant of delivery, recovery and learning the daemon
//! can be built with the feature `faults` and told to break it (`MILLSTREAM_PLANT`); here each such mistake must be
//! caught by the shortest suite that is meant to catch it, and the same suites must pass without it.
//!
//! `make planted` prints the table: mistake, suite, what caught it. `MILLSTREAM_PLANTED=NAME` runs one alone.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::daemon::{Scene, until};
use support::disk::PowerDisk;
use support::events::{self, Random, SPEC};
use support::torture::plan::{At, Plan, Road};
use support::torture::{quietly, run};

/// What is run to catch a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Suite {
    /// Kills at the steps of transactions, three lanes' worth of partitions, swaps under way.
    Topics,
    /// Kills while checkpoints are on their way.
    Checkpoints,
    /// Kills at the steps of file outputs.
    Files,
    /// A checkpoint that reads well and holds another model.
    Forged,
    /// Kills while the leaders of a cluster's partitions move, those of its coordinators too.
    Cluster,
    /// Only a machine that loses what was not synced can tell.
    PowerCut,
}

/// Each mistake and the suite that must catch it.
const TABLE: &[(&str, Suite)] = &[
    ("offset-before-produce", Suite::Topics),
    ("scaler-state-not-saved", Suite::Topics),
    ("optimizer-not-saved", Suite::Topics),
    ("learn-before-score", Suite::Topics),
    ("swap-one-late-in-replay", Suite::Topics),
    ("producer-not-fenced", Suite::Topics),
    ("replay-emits", Suite::Topics),
    ("dead-letters-outside-transaction", Suite::Topics),
    ("seq-not-restored", Suite::Topics),
    ("runs-out-of-order", Suite::Topics),
    ("checkpoint-ahead-of-commit", Suite::Checkpoints),
    ("aborted-not-passed-over", Suite::Cluster),
    ("end-taken-as-done", Suite::Cluster),
    ("fetch-begins-at-new-leaders-end", Suite::Cluster),
    ("moved-leader-taken-as-written", Suite::Cluster),
    ("offset-before-produce", Suite::Cluster),
    ("output-not-cut-back", Suite::Files),
    ("digest-not-compared", Suite::Forged),
    ("checkpoint-not-fsynced", Suite::PowerCut),
    ("journal-before-sink-flush", Suite::PowerCut),
];

/// Seeds that a suite may try before a mistake counts as slipped through: what a kill leaves behind is a matter of
/// microseconds.
const TRIES: u64 = 3;

fn ready(ms: u64) -> At {
    At::Ready(Duration::from_millis(ms))
}

/// Runs a suite; `Err` says what it found.
fn try_suite(suite: Suite, seed: u64, plant: Option<&str>) -> Result<(), String> {
    let (road, deaths) = match suite {
        Suite::Topics => (
            Road::Kafka,
            vec![
                ready(400),
                At::Step("kafka.commit", 4),
                ready(300),
                At::Step("kafka.flush", 6),
                At::Step("recovery.record", 1),
                At::Step("kafka.offsets", 9),
                ready(300),
                At::Step("kafka.flush", 12),
            ],
        ),
        Suite::Checkpoints => {
            let pair = [At::Step("checkpoint.kept", 3), At::Step("kafka.committed", 2)];
            (Road::Kafka, [&[ready(300)][..], &pair, &pair, &pair, &[ready(200)]].concat())
        }
        Suite::Cluster => {
            let work = [ready(500), At::Step("checkpoint.kept", 3), ready(900), At::Step("kafka.flush", 12)];
            (Road::Kafka, [&work[..], &[At::Step("kafka.commit", 9)], &work, &work].concat())
        }
        Suite::Files => (
            Road::Files,
            vec![
                ready(200),
                At::Step("file.fsync", 9),
                At::Step("journal.write", 9),
                ready(200),
                At::Step("file.fsync", 5),
            ],
        ),
        Suite::Forged => {
            let outcome = catch_unwind(AssertUnwindSafe(|| a_forged_checkpoint_is_passed_over(plant)));
            return outcome.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default());
        }
        Suite::PowerCut => {
            let outcome = catch_unwind(AssertUnwindSafe(|| what_was_synced_outlives_the_power(seed, plant)));
            return outcome.map_err(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default());
        }
    };
    let mut plan = Plan::with(seed, road, false, deaths);
    plan.plant = plant.map(str::to_string);
    (plan.lanes, plan.partitions, plan.first_spec) = (1, 3, (seed % 3) as usize);
    plan.calm = (suite == Suite::Cluster).then_some(24);
    let alone = std::env::var_os("MILLSTREAM_PLANTED").is_some();
    let say = |line: String| {
        if alone {
            eprintln!("{line}");
        }
    };
    run(&plan, &say).map(|_| ()).map_err(|failure| failure.why)
}

/// A checkpoint whose checksum is right and whose model is another's: only the digest tells.
fn a_forged_checkpoint_is_passed_over(plant: Option<&str>) {
    let config = "source.kind = \"file\"\nsource.paths = [\"DIR/in.json\"]\nsink.kind = \"file\"\n\
                  sink.path = \"DIR/out.ndjson\"\nsink.dead_letters = \"DIR/dead.ndjson\"\n\
                  checkpoint.keep_journal = true\ncheckpoint.interval_ms = 10\ncheckpoint.keep = 1_000\n\
                  delivery.commit_interval_ms = 2\n";
    let scene = Scene::new(SPEC, config);
    scene.run_in_parts("in.json", &events::json(60_000, 31), 6);
    let (digest, (_, learned)) = (scene.digest(0), scene.newest_checkpoint(0));
    let checkpoints = scene.checkpoints(0);
    assert!(checkpoints.len() > 3, "{} checkpoints", checkpoints.len());
    let (victim, later) = checkpoints[checkpoints.len() / 2..].split_first().expect("several");
    later.iter().for_each(|path| std::fs::remove_file(path).expect("removed"));
    let (mut manifest, mut state) =
        millstream::artifact::decode(&std::fs::read(victim).expect("readable")).expect("a checkpoint");
    manifest["golden"] = serde_json::json!([]);
    state.put_f64("model.intercept", &[7.5]);
    std::fs::write(victim, millstream::artifact::encode(&manifest, &state)).expect("written");
    let mut command = scene.daemon_command(&[]);
    if let Some(mistake) = plant {
        command.env("MILLSTREAM_PLANT", mistake);
    }
    let (code, said) = scene.spawn_as(command).wait();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("trying an older one"), "the forged checkpoint was believed: {said}");
    assert_eq!(scene.digest(0), digest);
    assert!(scene.newest_checkpoint(0).1 == learned, "the model is the forger's");
}

/// The power fails again and again; nothing that was committed is lost, and no checkpoint is damaged.
fn what_was_synced_outlives_the_power(seed: u64, plant: Option<&str>) {
    let config = "state_dir = \"DIR/disk/state\"\nsource.kind = \"file\"\nsource.paths = [\"DIR/disk/in.json\"]\n\
                  sink.kind = \"file\"\nsink.path = \"DIR/disk/out.ndjson\"\nsink.dead_letters = \"DIR/disk/dead.ndjson\"\n\
                  delivery.commit_interval_ms = 2\ncheckpoint.interval_ms = 10\nengine.batch_events_max = 256\n";
    let (calm, scene) = (Scene::new(SPEC, config), Scene::new(SPEC, config));
    let outputs = |scene: &Scene| {
        let bytes = [scene.read("disk/out.ndjson"), scene.read("disk/dead.ndjson")].concat();
        String::from_utf8(bytes).expect("UTF-8").replace(&scene.text(""), "/")
    };
    std::fs::create_dir(calm.path("disk")).expect("a folder");
    let disk = PowerDisk::mount(&scene.path("image"), &scene.path("disk"), 96).expect("mounted before");
    for scene in [&calm, &scene] {
        scene.write("disk/in.json", events::json(60_000, 32));
        let sync = |name: &str| std::fs::File::open(scene.path(name)).and_then(|f| f.sync_all()).expect("synced");
        ["disk/in.json", "disk"].into_iter().for_each(sync);
    }
    calm.run_to_end(&[]);
    let (expected, mut random) = (outputs(&calm), Random(seed));
    let start = || {
        let mut command = scene.daemon_command(&[]);
        if let Some(mistake) = plant {
            command.env("MILLSTREAM_PLANT", mistake);
        }
        scene.spawn_as(command)
    };
    let believed = |said: &str| assert!(!said.contains("trying an older one"), "a checkpoint was lost: {said}");
    for _ in 0..5 {
        let mut daemon = start();
        let reach = scene.length("disk/out.ndjson") + 1 + random.below(expected.len() as u64 / 8);
        until("output", || (scene.length("disk/out.ndjson") > reach || !daemon.runs()).then_some(()));
        let cut = disk.cut(random.below(2) == 0);
        believed(&daemon.kill());
        disk.power_off();
        disk.power_on().expect("it was mounted before");
        cut.expect("the power fails");
    }
    let (code, said) = start().wait();
    believed(&said);
    assert_eq!(code, Some(0), "{said}");
    assert!(outputs(&scene) == expected, "the output differs");
}

/// Whether this machine lends a file system whose power can fail.
fn power_can_fail() -> Result<(), String> {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = folder.path().join("disk");
    PowerDisk::mount(&folder.path().join("image"), &disk, 96)?.cut(false)
}

/// The part of a finding that fits into a table: where the daemon itself says what is wrong, that.
fn short(text: &str) -> String {
    let telling =
        |line: &&str| ["trying an older one", "replay gives", "the checkpoint has"].iter().any(|w| line.contains(w));
    let line = text.lines().skip(1).find(telling).or_else(|| text.lines().next()).unwrap_or_default();
    let line = line.split_once("WARN  ").map_or(line, |(_, said)| said);
    line.chars().take(120).collect()
}

#[test]
fn every_planted_mistake_is_caught() {
    let folder = tempfile::tempdir().expect("a folder");
    support::daemon::run_a_copy(folder.path());
    let listed: std::collections::BTreeSet<&str> = TABLE.iter().map(|(mistake, _)| *mistake).collect();
    let all = millstream::faults::MISTAKES.iter().copied().collect();
    assert_eq!(listed, all, "the table and faults::MISTAKES");
    let only = std::env::var("MILLSTREAM_PLANTED").ok();
    // Each suite without a mistake, then each mistake.
    let mut jobs: Vec<(Option<&str>, Suite)> =
        [Suite::Topics, Suite::Checkpoints, Suite::Cluster, Suite::Files, Suite::Forged, Suite::PowerCut]
            .map(|suite| (None, suite))
            .to_vec();
    jobs.extend(TABLE.iter().map(|(mistake, suite)| (Some(*mistake), *suite)));
    jobs.retain(|(mistake, _)| only.is_none() || *mistake == only.as_deref());
    if let Err(reason) = power_can_fail() {
        eprintln!("left out: what only a power cut shows: {reason}");
        jobs.retain(|(_, suite)| *suite != Suite::PowerCut);
    }
    // One thread has the cluster for itself, then helps the other.
    let (on_cluster, others): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(_, suite)| *suite == Suite::Cluster);
    let (next, rows) = ([AtomicUsize::new(0), AtomicUsize::new(0)], Mutex::new(Vec::new()));
    let take = |queue: usize| [&on_cluster, &others][queue].get(next[queue].fetch_add(1, Relaxed)).copied();
    let work = |has_cluster: bool| {
        while let Some((mistake, which)) = has_cluster.then(|| take(0)).flatten().or_else(|| take(1)) {
            let began = Instant::now();
            let tries = if mistake.is_some() { TRIES } else { 1 };
            let found = (1..=tries).find_map(|seed| try_suite(which, seed, mistake).err());
            let right = mistake.is_some() == found.is_some();
            let (name, verdict) = (
                mistake.unwrap_or("(none)"),
                match (&found, mistake) {
                    (Some(found), Some(_)) => format!("caught: {}", short(found)),
                    (None, None) => "passes".to_string(),
                    (None, Some(_)) => "SLIPPED THROUGH".to_string(),
                    (Some(found), None) => format!("FAILS WITHOUT A MISTAKE: {found}"),
                },
            );
            let row =
                format!("{name:<34}{:<13}{:>4.0} s  {verdict}", format!("{which:?}"), began.elapsed().as_secs_f64());
            eprintln!("{row}");
            rows.lock().expect("no panic holds it").push((right, row));
        }
    };
    let work = &work;
    quietly(|| std::thread::scope(|scope| [true, false].map(|has| drop(scope.spawn(move || work(has))))));
    let rows = rows.into_inner().expect("no panic holds it");
    let table: Vec<&str> = rows.iter().map(|(_, row)| row.as_str()).collect();
    eprintln!("\n{:<34}{:<13}{:>6}  outcome\n{}", "mistake", "suite", "time", table.join("\n"));
    let wrong: Vec<&str> = rows.iter().filter(|(right, _)| !right).map(|(_, row)| row.as_str()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
