//! The story: a daemon that scores and learns a stream that never stops is killed (kill -9) at random moments and at
//! every named step of its road, and again while it recovers, several deep; commands swap its model meanwhile.
//! Between topics of a real Kafka broker and between files, with one to three lanes, one to eight threads, and
//! intervals and batches that change from life to life.
//!
//! At the end of each round nothing may tell that anything happened: the committed output is the oracle's to the
//! byte (see `support/torture/proof.rs`), the model bit for bit, the digest proven by `millstream replay`; and where
//! the order of the events is forced, an undisturbed daemon makes the same bytes.
//!
//! `cargo test` runs the short form: every step once. `make torture` runs the long form:
//!
//! - `MILLSTREAM_TORTURE_SEED` the seed from which all plans follow; printed at the start and with a failure
//! - `MILLSTREAM_TORTURE_KILLS`, `MILLSTREAM_TORTURE_SECONDS` the long form, until so many kills or so long
//! - `MILLSTREAM_TORTURE_ROUND` the long form's round of that number alone
//! - `MILLSTREAM_TORTURE_JOBS` rounds at a time (default 2)
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

#[test]
fn nothing_tells_that_it_was_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    support::daemon::run_a_copy(folder.path());
    let (kills, seconds, only) = (number("KILLS"), number("SECONDS"), number("ROUND"));
    let long = kills.is_some() || seconds.is_some() || only.is_some();
    let seed = number("SEED").unwrap_or(1);
    let jobs = number("JOBS").unwrap_or(2);
    eprintln!("torture: seed {seed}, {} form", if long { "long" } else { "short" });
    let (kills, limit) = (kills.unwrap_or(u64::MAX), Duration::from_secs(seconds.unwrap_or(u64::MAX >> 10)));
    let (began, next, stop) = (Instant::now(), AtomicU64::new(only.unwrap_or(0)), AtomicBool::new(false));
    let (summary, killed) = (Mutex::new(Summary::default()), AtomicU64::new(0));
    let say = |line: String| eprintln!("{:>7.1} s  {line}", began.elapsed().as_secs_f64());
    let work = || {
        loop {
            let round = next.fetch_add(1, Relaxed);
            let last = match (only, long) {
                (Some(only), _) => round > only,
                (None, true) => killed.load(Relaxed) >= kills || began.elapsed() >= limit,
                (None, false) => round >= SHORT_ROUNDS,
            };
            if last || stop.load(Relaxed) {
                return;
            }
            let mut plan = if long { Plan::long(seed, round) } else { Plan::short(seed, round) };
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
    if !long && summary.failures.is_empty() {
        let missing: Vec<&str> =
            millstream::faults::STEPS.iter().copied().filter(|step| !summary.kills.contains_key(*step)).collect();
        assert!(missing.is_empty(), "no kill came at {missing:?}");
    }
    assert!(summary.failures.is_empty(), "{}", summary.failures.join("\n"));
}
