//! Places where tests may end the daemon, and mistakes that they may plant in it.
//!
//! Only a build with the feature `faults` has any: without it both functions are empty, and the compiler removes
//! their calls. Such a build says so in `--version` and at its start; `scripts/install.sh` doesn't install it.
//!
//! - `MILLSTREAM_KILL_AT=STEP:COUNT` ends the process, as `kill -9` does, when it reaches the named step for the
//!   COUNT-th time (from 1).
//! - `MILLSTREAM_PLANT=MISTAKE` makes the build wrong in a known way, which the tests must notice.

/// True in a build with the feature `faults`.
pub const COMPILED_IN: bool = cfg!(feature = "faults");

#[cfg(feature = "faults")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    struct Kill {
        step: String,
        left: AtomicU64,
    }

    fn kill() -> Option<&'static Kill> {
        static KILL: OnceLock<Option<Kill>> = OnceLock::new();
        KILL.get_or_init(|| {
            let plan = std::env::var("MILLSTREAM_KILL_AT").ok()?;
            let (step, count) = plan.rsplit_once(':').unwrap_or((&plan, "1"));
            let left = AtomicU64::new(count.parse().expect("MILLSTREAM_KILL_AT is STEP:COUNT"));
            Some(Kill { step: step.to_string(), left })
        })
        .as_ref()
    }

    /// Ends the process here, where the tests want it.
    pub fn step(name: &str) {
        if let Some(kill) = kill()
            && kill.step == name
            && kill.left.fetch_sub(1, Relaxed) == 1
        {
            // SAFETY: no arguments that could be wrong; does not return.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
    }

    /// True where the tests have planted this mistake.
    pub fn planted(mistake: &str) -> bool {
        static PLANT: OnceLock<Option<String>> = OnceLock::new();
        PLANT.get_or_init(|| std::env::var("MILLSTREAM_PLANT").ok()).as_deref() == Some(mistake)
    }
}

#[cfg(feature = "faults")]
pub use armed::{planted, step};

/// A step at which the tests may end the process.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn step(_name: &str) {}

/// True where the tests have planted this mistake.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub const fn planted(_mistake: &str) -> bool {
    false
}
