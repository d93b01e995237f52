//! Whoever gives orders while daemons die: swaps, rollbacks, and candidates that must be refused.

use super::feed;
use super::plan::Plan;
use crate::support::daemon::Scene;
use crate::support::events::Random;
use millstream::admin::{CtlAction, ctl};
use millstream::error::Class;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// What came of the orders.
#[derive(Debug, Default, Clone)]
pub struct Orders {
    /// Swaps and rollbacks that a daemon said are in force: by lane, the event from which on.
    pub answered: Vec<(u32, u64)>,
    /// Candidates that were refused, as they must be.
    pub refused: u64,
    /// Orders that a death cut off: they may have taken effect or not.
    pub cut_off: u64,
    /// What must never be.
    pub wrong: Vec<String>,
}

/// The thread that gives orders until told to stop.
pub struct Driver {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Orders>>,
}

impl Driver {
    /// Orders by the plan's seed to whichever daemon listens in the scene.
    pub fn start(plan: &Plan, scene: &Scene) -> Driver {
        let candidates: Vec<PathBuf> = feed::specs()
            .iter()
            .enumerate()
            .map(|(i, spec)| {
                scene.write(&format!("candidate-{i}.toml"), spec);
                scene.path(&format!("candidate-{i}.toml"))
            })
            .collect();
        scene.write("misfit.toml", feed::misfit());
        let (socket, misfit) = (scene.path("admin.sock"), scene.path("misfit.toml"));
        let stop = Arc::new(AtomicBool::new(false));
        let (told, mut random) = (stop.clone(), Random(plan.seed ^ plan.round << 24 ^ 0x5A5A));
        let thread = std::thread::spawn(move || {
            let mut orders = Orders::default();
            while !told.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(20 + random.below(150)));
                let (action, must_fail) = match random.below(8) {
                    0 => (CtlAction::Swap(misfit.clone()), true),
                    1..=3 => (CtlAction::Rollback, false),
                    _ => (CtlAction::Swap(candidates[random.below(candidates.len() as u64) as usize].clone()), false),
                };
                match ctl::ask(&socket, &action) {
                    Ok(answer) if must_fail => orders.wrong.push(format!("a misfit was swapped in: {answer}")),
                    Ok(answer) => {
                        let lanes = answer["lanes"].as_array().expect("lanes");
                        orders.answered.extend(lanes.iter().map(|lane| {
                            (lane["lane"].as_u64().expect("lane") as u32, lane["seq"].as_u64().expect("seq"))
                        }));
                    }
                    // Also a rollback without a version to go back to.
                    Err(fault) if fault.class == Class::Misuse => orders.refused += 1,
                    Err(fault) if fault.message.contains("broke off") => orders.cut_off += 1,
                    // Nobody listens: dead, or not yet up.
                    Err(_) => {}
                }
            }
            orders
        });
        Driver { stop, thread: Some(thread) }
    }

    /// No more orders. Returns what came of them.
    pub fn stop(mut self) -> Orders {
        self.stop.store(true, Relaxed);
        self.thread.take().expect("a thread").join().expect("the driver")
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
