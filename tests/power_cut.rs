//! The story: the power fails. A file system of its own holds state, inputs and outputs of a daemon from files to
//! a file; at random times it is shut off under the running daemon, so that whatever was not synced is lost, the
//! file system's own journal included. It is mounted again, and the daemon goes on: output, dead letters and
//! digest are those of an undisturbed run, byte for byte.
//!
//! `MILLSTREAM_POWER_CUTS=N` cuts N times (the usual run: 6); `MILLSTREAM_SEED` picks the times.

mod support;

use std::time::Duration;
use support::daemon::{Scene, until};
use support::disk::PowerDisk;
use support::events::{self, Random, SPEC};

/// Commits and checkpoints as often as the config allows.
const CONFIG: &str = "state_dir = \"DIR/disk/state\"\nsource.kind = \"file\"\nsource.paths = [\"DIR/disk/in.csv\"]\n\
                      source.format = \"csv\"\nsink.kind = \"file\"\nsink.path = \"DIR/disk/out.ndjson\"\n\
                      sink.dead_letters = \"DIR/disk/dead.ndjson\"\ndelivery.commit_interval_ms = 2\n\
                      checkpoint.interval_ms = 10\nengine.batch_events_max = 256\n";
const ROWS: u64 = 60_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("{name}={v}: {e}")))
}

/// Output, dead letters, digest and place. Folders differ.
fn outcome(scene: &Scene) -> (String, String, String, u64) {
    let text = |name: &str| String::from_utf8(scene.read(name)).expect("UTF-8").replace(&scene.text(""), "/");
    let lane = scene.path("disk/state/lane-0");
    let entries = std::fs::read_dir(&lane).expect("a lane's folder").map(|e| e.expect("an entry").path());
    let mut checkpoints: Vec<_> = entries.filter(|p| p.to_string_lossy().contains("/checkpoint-")).collect();
    checkpoints.sort();
    let newest = std::fs::read(checkpoints.pop().expect("a checkpoint")).expect("readable");
    let position = millstream::artifact::decode(&newest).expect("a checkpoint").0["position"].clone();
    let digest = position["digest"].as_str().expect("a digest").to_string();
    (text("disk/out.ndjson"), text("disk/dead.ndjson"), digest, position["seq"].as_u64().expect("a number"))
}

#[test]
fn power_cuts_lose_nothing_that_was_committed() {
    let (cuts, seed) = (number("MILLSTREAM_POWER_CUTS", 6), number("MILLSTREAM_SEED", 1));
    let mut random = Random(seed);
    let oracle = Scene::new(SPEC, CONFIG);
    std::fs::create_dir(oracle.path("disk")).expect("a folder");
    oracle.write("disk/in.csv", events::csv(ROWS, 1));
    oracle.run_to_end(&[]);
    let expected = outcome(&oracle);
    let (mut done, mut lost_bytes, mut rounds) = (0, 0, 0);
    while done < cuts {
        rounds += 1;
        let scene = Scene::new(SPEC, CONFIG);
        let disk = match PowerDisk::mount(&scene.path("image"), &scene.path("disk"), 96) {
            Ok(disk) => disk,
            Err(reason) => return println!("skipped: power cuts need a file system of their own: {reason}"),
        };
        scene.write("disk/in.csv", events::csv(ROWS, 1));
        std::fs::File::open(scene.path("disk/in.csv")).and_then(|f| f.sync_all()).expect("synced");
        std::fs::File::open(scene.path("disk")).and_then(|f| f.sync_all()).expect("synced");
        // A few deaths on the way to the end of the same stream; a cut may also hit the recovery.
        for _ in 0..4 {
            let mut daemon = scene.spawn(&[]);
            let reach = scene.length("disk/out.ndjson") + random.below(expected.0.len() as u64 / 4);
            if random.below(4) > 0 {
                until("output", || (scene.length("disk/out.ndjson") > reach || !daemon.runs()).then_some(()));
            } else {
                std::thread::sleep(Duration::from_micros(random.below(60_000)));
            }
            let ran = daemon.runs();
            if let Err(reason) = disk.cut(random.below(2) == 0) {
                return println!("skipped: {reason}");
            }
            let written = scene.length("disk/out.ndjson");
            let (code, said) = if random.below(2) == 0 { daemon.wait() } else { (None, daemon.kill()) };
            assert!(matches!(code, None | Some(0 | 4)), "ended with {code:?}: {said}");
            disk.power_off();
            disk.power_on().expect("it was mounted before");
            done += u64::from(ran);
            lost_bytes += written.saturating_sub(scene.length("disk/out.ndjson"));
        }
        let said = scene.run_to_end(&[]);
        let found = outcome(&scene);
        assert_eq!((&found.2, found.3), (&expected.2, expected.3), "seed {seed}, round {rounds}: {said}");
        assert!(found.0 == expected.0, "seed {seed}, round {rounds}: the output differs: {said}");
        assert!(found.1 == expected.1, "seed {seed}, round {rounds}: dead letters differ: {said}");
        let report = scene.call_with_config("replay", &["--json"]).json();
        assert_eq!(report["digest"], "equal", "{report}");
    }
    println!(
        "{done} cuts in {rounds} rounds, seed {seed}: {lost_bytes} bytes of unsynced output were lost and made again"
    );
}
