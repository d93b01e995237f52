//! Places where tests may end the daemon, and mistakes that they may plant in it.
//!
//! Only a build with the feature `faults` has any: without it both functions are empty, and the compiler removes
//! their calls. Such a build says so in `--version` and at its start; `scripts/install.sh` doesn't install it.
//!
//! - `MILLSTREAM_KILL_AT=STEP:COUNT` ends the process, as `kill -9` does, when it reaches the named step for the
//!   COUNT-th time (from 1).
//! - `MILLSTREAM_PLANT=MISTAKE` makes the build wrong in a known way, which the tests must notice.

/// Every step at which the process can be ended, by the room that reaches it.
pub const STEPS: &[&str] = &[
    // Kafka's producer, sink and journal: a transaction from its beginning to its end
    "kafka.init",
    "kafka.initialised",
    "kafka.begin",
    "kafka.produce",
    "kafka.dead-letter",
    "kafka.journal",
    "kafka.flush",
    "kafka.offsets",
    "kafka.commit",
    "kafka.committed",
    // files: output and journal
    "file.write",
    "file.fsync",
    "file.rotate",
    "file.cut",
    "journal.write",
    "journal.fsync",
    "journal.written",
    // every file that is written whole
    "store.write",
    "store.fsync",
    "store.rename",
    "store.fsync-dir",
    "store.remove",
    // the engine at work
    "home.lineage",
    "journal.first",
    "journal.trim",
    "checkpoint.begin",
    "checkpoint.kept",
    "swap.artifact",
    "swap.order",
    "swap.taken",
    "swap.rolled-back",
    "swap.previous",
    "drain.begin",
    "drain.committed",
    // recovery
    "recovery.tail",
    "recovery.checkpoint",
    "recovery.record",
    "recovery.previous",
    "recovery.cut",
    "recovery.started",
];

/// Every mistake that can be planted.
pub const MISTAKES: &[&str] = &[
    "offset-before-produce",
    "scaler-state-not-saved",
    "optimizer-not-saved",
    "learn-before-score",
    "swap-one-late-in-replay",
    "checkpoint-not-fsynced",
    "checkpoint-ahead-of-commit",
    "producer-not-fenced",
    "journal-before-sink-flush",
    "output-not-cut-back",
    "replay-emits",
    "digest-not-compared",
    "dead-letters-outside-transaction",
    "seq-not-restored",
    "runs-out-of-order",
    // the direct client's handling of trouble
    "aborted-not-passed-over",
    "end-taken-as-done",
    "fetch-begins-at-new-leaders-end",
    "moved-leader-taken-as-written",
];

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    /// The names in the calls of a function of this file, all over the sources.
    fn called(function: &str) -> BTreeSet<String> {
        fn collect(dir: &Path, call: &str, names: &mut BTreeSet<String>) {
            for entry in std::fs::read_dir(dir).expect("sources") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    collect(&path, call, names);
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                names.extend(text.split(call).skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_string())));
            }
        }
        let mut names = BTreeSet::new();
        let call = ["faults::", function, "(\""].concat();
        collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &call, &mut names);
        names
    }

    fn listed(names: &[&str]) -> BTreeSet<String> {
        let set: BTreeSet<String> = names.iter().map(|name| name.to_string()).collect();
        assert_eq!(set.len(), names.len(), "a name is listed twice");
        set
    }

    #[test]
    fn every_step_and_mistake_is_listed_and_placed() {
        assert_eq!(called("step"), listed(super::STEPS));
        assert_eq!(called("planted"), listed(super::MISTAKES));
    }
}
