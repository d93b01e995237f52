//! A simulation of whole daemons, by seeds: the real engine between a made-up broker, made-up disks and a clock that is
//! set by hand, on one thread. Daemons die at any call, also while they recover; answers are lost or late; the group
//! moves lanes; disks forget. Then the faults end, and what was published must be, byte for byte, what one plain run
//! over the input and the journal gives, with the digests and the learned state equal, and no daemon stranded.
//!
//! ```text
//! cargo test --test simulation                                     a few thousand seeds
//! MILLSTREAM_SIM_SEED=123 cargo test --test simulation -- --nocapture     one seed, told call by call
//! MILLSTREAM_SIM_SEEDS=100000 MILLSTREAM_SIM_FROM=0 cargo test …   many (or: make simulate SEEDS=100000)
//! MILLSTREAM_SIM_FAILURES=10                                       goes on until so many have failed
//! ```

#[path = "support/simulation/mod.rs"]
#[allow(dead_code)]
mod simulation;

use simulation::{Counts, run};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Seeds in the short form.
const SEEDS: u64 = 2_000;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn seeds() {
    if let Some(seed) = number("MILLSTREAM_SIM_SEED") {
        let outcome = run::seed(seed, true);
        println!("seed {seed}: {outcome:?}");
        return assert!(outcome.is_ok(), "seed {seed}: {}", outcome.unwrap_err());
    }
    let (count, from) = (number("MILLSTREAM_SIM_SEEDS").unwrap_or(SEEDS), number("MILLSTREAM_SIM_FROM").unwrap_or(0));
    let most = number("MILLSTREAM_SIM_FAILURES").unwrap_or(1);
    let (next, failed, stop) = (AtomicU64::new(from), Mutex::new(Vec::new()), AtomicBool::new(false));
    let (all, began) = (Mutex::new(Counts::default()), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    match run::seed(seed, false) {
                        Ok(counts) => all.lock().unwrap_or_else(PoisonError::into_inner).add(&counts),
                        Err(what) => {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            failed.push((seed, what));
                            stop.store(failed.len() as u64 >= most, Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (done, seconds) = (next.load(Relaxed).min(from + count) - from, began.elapsed().as_secs_f64());
    println!("{done} seeds from {from} in {seconds:.1} s: {:?}", all.lock().unwrap_or_else(PoisonError::into_inner));
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort();
    failed.iter().for_each(|(seed, what)| println!("seed {seed}: {what}"));
    if let Some((seed, what)) = failed.first() {
        panic!(
            "seed {seed} (the {done}th): {what}\nagain, told call by call: MILLSTREAM_SIM_SEED={seed} cargo test --test simulation -- --nocapture"
        );
    }
}

#[test]
fn a_seed_is_the_same_again() {
    for seed in 0..20 {
        let (one, two) = (run::seed(seed, false), run::seed(seed, false));
        assert_eq!(format!("{one:?}"), format!("{two:?}"), "seed {seed}");
    }
}
