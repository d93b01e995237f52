//! The story: a daemon that scores and learns a stream that never stops is killed (kill -9) at random moments and at
//! every named step of its road, and again while it recovers, several deep; commands swap its model meanwhile.
//! Between topics of a real Kafka broker and between files, with one to three lanes, one to eight threads, and
//! intervals and batches that change from life to life.
//!
//! At the end of each round nothing may tell that anything happened: the committed output is the oracle's to the
//! byte (see `support/torture/proof.rs`), the model bit for bit, the digest proven by `millstream replay`; and where
//! the order of the events is forced, an undisturbed daemon makes the same bytes.
//!
//! The same on a cluster of three, whose leaders move from broker to broker while daemons die, and whose brokers are
//! told to stop, killed and held.
//!
//! `cargo test` runs the short forms: every step once; a few deaths on the cluster. `make torture` runs the long form:
//!
//! - `MILLSTREAM_TORTURE_SEED` the seed from which all plans follow; printed at the start and with a failure
//! - `MILLSTREAM_TORTURE_KILLS`, `MILLSTREAM_TORTURE_SECONDS` the long form, until so many kills or so long
//! - `MILLSTREAM_TORTURE_ROUND` the long form's round of that number alone
//! - `MILLSTREAM_TORTURE_FROM` the long form's first round (default 0)
//! - `MILLSTREAM_TORTURE_CLUSTER` the long form on the cluster
//! - `MILLSTREAM_TORTURE_JOBS` rounds at a time (default 2; one on the cluster)
//! - `MILLSTREAM_PLANT` a mistake for the daemons to make (`faults::MISTAKES`): then this must fail

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::torture::plan::Plan;
use support::torture::{Summary, quietly, run};

/// Rounds of the short form.
const SHORT_ROUNDS: u64 = 3;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(format!("MILLSTREAM_TORTURE_{name}")).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("MILLSTREAM_TORTURE_{name}: {text:?} is not a number")))
}

/// What the environment asks for.
struct Wish {
    seed: u64,
    kills: Option<u64>,
    seconds: Option<u64>,
    only: Option<u64>,
}

impl Wish {
    fn new() -> Wish {
        let seed = number("SEED").unwrap_or(1);
        Wish { seed, kills: number("KILLS"), seconds: number("SECONDS"), only: number("ROUND") }
    }

    fn is_long(&self) -> bool {
        self.kills.is_some() || self.seconds.is_some() || self.only.is_some()
    }
}

/// One test at a time, and all daemons from one copy of the binary.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    static COPY: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    COPY.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        support::daemon::run_a_copy(folder.path());
        folder
    });
    one
}

#[test]
fn nothing_tells_that_it_was_killed() {
    let _alone = alone();
    let wish = Wish::new();
    let long = wish.is_long();
    if long && number("CLUSTER").is_some() {
        return;
    }
    let plan = if long { Plan::long } else { Plan::short };
    let summary = torture(&wish, SHORT_ROUNDS, number("JOBS").unwrap_or(2), &plan);
    if !long {
        let missing: Vec<&str> =
            millstream::faults::STEPS.iter().copied().filter(|step| !summary.kills.contains_key(*step)).collect();
        assert!(missing.is_empty(), "no kill came at {missing:?}");
    }
}

#[test]
fn nothing_tells_that_leaders_moved_meanwhile() {
    let _alone = alone();
    let wish = Wish::new();
    let long = wish.is_long();
    if long && number("CLUSTER").is_none() {
        return;
    }
    let plan = if long { Plan::long_in_trouble } else { Plan::short_in_trouble };
    // Two rounds at a time would find each other's brokers gone while they count.
    let summary = torture(&wish, 1, 1, &plan);
    assert!(summary.troubles.moved > 0, "no leader moved");
}

/// Runs rounds: the short form's, or as many as are wished for.
fn torture(wish: &Wish, rounds: u64, jobs: u64, plan_of: &(dyn Fn(u64, u64) -> Plan + Sync)) -> Summary {
    let (&Wish { seed, kills, seconds, only }, long) = (wish, wish.is_long());
    eprintln!("torture: seed {seed}, {} form", if long { "long" } else { "short" });
    let (kills, limit) = (kills.unwrap_or(u64::MAX), Duration::from_secs(seconds.unwrap_or(u64::MAX >> 10)));
    let (began, next, stop) =
        (Instant::now(), AtomicU64::new(only.or(number("FROM")).unwrap_or(0)), AtomicBool::new(false));
    let (summary, killed) = (Mutex::new(Summary::default()), AtomicU64::new(0));
    let say = |line: String| eprintln!("{:>7.1} s  {line}", began.elapsed().as_secs_f64());
    let work = || {
        loop {
            let round = next.fetch_add(1, Relaxed);
            let last = match (only, long) {
                (Some(only), _) => round > only,
                (None, true) => killed.load(Relaxed) >= kills || began.elapsed() >= limit,
                (None, false) => round >= rounds,
            };
            if last || stop.load(Relaxed) {
                return;
            }
            let mut plan = plan_of(seed, round);
            plan.plant = std::env::var("MILLSTREAM_PLANT").ok();
            // Counted at the start, so that rounds under way together don't overshoot.
            killed.fetch_add(plan.lives.len() as u64, Relaxed);
            let outcome = run(&plan, &say);
            let mut summary = summary.lock().expect("no panic holds it");
            match outcome {
                Ok(report) => {
                    summary.add(&report);
                    say(format!("round {round} is good: {} events, {} kills", report.events, report.deaths.len()));
                }
                Err(failure) => {
                    summary.add(&failure.report);
                    let (kept, again) = (failure.kept.display(), plan.again(long));
                    let why = format!(
                        "round {round} FAILED (seed {seed}): {}\n  kept: {kept}\n  again: {again}",
                        failure.why
                    );
                    say(why.clone());
                    summary.failures.push(why);
                    stop.store(true, Relaxed);
                }
            }
        }
    };
    quietly(|| std::thread::scope(|scope| (0..jobs.max(1)).for_each(|_| drop(scope.spawn(work)))));
    let summary = summary.into_inner().expect("no panic holds it");
    eprintln!("torture: seed {seed}, {:.0} s\n{}", began.elapsed().as_secs_f64(), summary.table());
    assert!(summary.failures.is_empty(), "{}", summary.failures.join("\n"));
    summary
}
