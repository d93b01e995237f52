//! A group's offsets outside transactions, for the usual tools: committed by a thread of its own, newest only. The
//! position in the journal is the truth, so nobody waits: a coordinator takes five milliseconds (brokers from 4.0 on
//! gather commits for that long), and one that is away doesn't answer.

use super::client::NextOffset;
use crate::error::{Fault, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What waits to be committed.
#[derive(Debug, Default)]
struct Waiting {
    /// By topic and partition.
    newest: BTreeMap<(String, i32), u64>,
    ended: bool,
}

/// Takes offsets, and hands the newest of each partition to its thread.
#[derive(Debug, Default)]
struct Desk {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come since the last time; `None` at the end.
    fn take(&self) -> Option<Vec<NextOffset>> {
        let mut waiting = self.lock();
        while waiting.newest.is_empty() && !waiting.ended {
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        let newest = std::mem::take(&mut waiting.newest);
        let one = |((topic, partition), offset)| NextOffset { topic, partition, offset };
        (!newest.is_empty()).then(|| newest.into_iter().map(one).collect())
    }
}

/// The thread and its desk.
#[derive(Debug)]
pub(super) struct Offsets {
    desk: Arc<Desk>,
    thread: JoinHandle<()>,
}

impl Offsets {
    /// Starts the thread, which commits in this way.
    ///
    /// # Errors
    /// Environment, where no thread can be started.
    pub(super) fn start(commit: impl Fn(&[NextOffset]) -> Result<()> + Send + 'static) -> Result<Offsets> {
        let desk = Arc::new(Desk::default());
        let served = desk.clone();
        let work = move || {
            while let Some(offsets) = served.take() {
                if let Err(error) = commit(&offsets) {
                    tracing::debug!(target: "millstream::kafka", "offsets: {error}");
                }
            }
        };
        let thread = std::thread::Builder::new().name("kafka-offsets".into()).spawn(work);
        let thread = thread.map_err(|e| Fault::io("the thread of the group's offsets could not be started", &e))?;
        Ok(Offsets { desk, thread })
    }

    /// Takes offsets. One that waits for the same partition is forgotten.
    pub(super) fn hand_over(&self, offsets: &[NextOffset]) {
        let mut waiting = self.desk.lock();
        for NextOffset { topic, partition, offset } in offsets {
            waiting.newest.insert((topic.clone(), *partition), *offset);
        }
        drop(waiting);
        self.desk.changed.notify_one();
    }

    /// Commits what waits, and ends.
    pub(super) fn finish(self) {
        self.desk.lock().ended = true;
        self.desk.changed.notify_one();
        if self.thread.join().is_err() {
            tracing::warn!(target: "millstream::kafka", "the thread of the group's offsets panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32, offset: u64) -> NextOffset {
        NextOffset { topic: "t".into(), partition, offset }
    }

    #[test]
    fn nobody_waits_and_the_newest_are_committed_by_the_end() {
        let (seen, commits) = flume::unbounded();
        let (go, gate) = flume::unbounded::<()>();
        let offsets = Offsets::start(move |offsets| {
            seen.send(offsets.to_vec()).expect("the test");
            gate.recv().expect("the test");
            Err(Fault::environment("no coordinator")) // which ends nothing
        });
        let offsets = offsets.expect("a thread");
        offsets.hand_over(&[at(0, 1)]);
        assert_eq!(commits.recv().expect("a commit"), [at(0, 1)]);
        // The thread is busy; these come together, without what is old.
        offsets.hand_over(&[at(0, 2), at(1, 7)]);
        offsets.hand_over(&[at(0, 3)]);
        (0..2).for_each(|_| go.send(()).expect("the thread"));
        offsets.finish();
        assert_eq!(commits.drain().collect::<Vec<_>>(), [vec![at(0, 3), at(1, 7)]]);
    }
}
