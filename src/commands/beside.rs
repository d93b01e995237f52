//! Pipelines beside each other over the same events: these are read and decoded once, and each pipeline runs its own
//! copy of every batch, in order, on a thread of its own. What a pipeline does depends on nothing of the others.

use crate::batch::Batch;
use crate::queue::{Received, Receiver, Sender, ring};
use std::thread::JoinHandle;
use std::time::Duration;

/// Batches that a pipeline may be behind.
const ITEMS: usize = 4;
/// How long a side sleeps before it looks again by itself.
const WAIT: Duration = Duration::from_secs(1);

/// A batch on its way to a pipeline's thread, and back.
#[derive(Default)]
pub struct Item<E> {
    /// The pipeline's own copy.
    pub batch: Batch,
    /// What goes with it, and what the pipeline made of it.
    pub with: E,
}

/// A pipeline, or what else has state, on its thread.
pub struct Beside<S, E> {
    to: Sender<Item<E>>,
    back: Receiver<Item<E>>,
    out: usize,
    thread: JoinHandle<S>,
}

impl<S: Send + 'static, E: Default + Send + 'static> Beside<S, E> {
    /// Gives `state` a thread, which lets `work` have each batch in turn.
    pub fn start(mut state: S, mut work: impl FnMut(&mut S, &mut Item<E>) + Send + 'static) -> Beside<S, E> {
        let (to, mut from) = ring::<Item<E>>(ITEMS);
        let (mut done, back) = ring(ITEMS);
        let thread = std::thread::spawn(move || {
            loop {
                match from.receive(WAIT) {
                    Received::Item(mut item) => {
                        work(&mut state, &mut item);
                        if done.send(item).is_err() {
                            return state;
                        }
                    }
                    Received::Empty => {}
                    Received::Closed => return state,
                }
            }
        });
        Beside { to, back, out: 0, thread }
    }

    /// True where another batch may go out before one has come back.
    pub fn has_room(&self) -> bool {
        self.out < ITEMS
    }

    /// Sends a batch on its way; there must be room.
    pub fn hand(&mut self, item: Item<E>) {
        debug_assert!(self.has_room());
        // A thread that panicked takes nothing; whoever asks for its state is told.
        self.out += usize::from(self.to.send(item).is_ok());
    }

    /// The batch that went out first, done; `None` where none is out.
    pub fn done(&mut self) -> Option<Item<E>> {
        while self.out > 0 {
            match self.back.receive(WAIT) {
                Received::Item(item) => {
                    self.out -= 1;
                    return Some(item);
                }
                Received::Empty => {}
                Received::Closed => self.out = 0,
            }
        }
        None
    }

    /// The state, once all that was handed over is done.
    pub fn finish(mut self) -> S {
        while self.done().is_some() {}
        drop(self.to);
        match self.thread.join() {
            Ok(state) => state,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{RowOrigin, Span};

    fn batch(rows: u64) -> Batch {
        let mut batch = Batch::new(1, 0);
        for offset in 0..rows {
            batch.push_row(RowOrigin { raw: Span::default(), record: 0, input: 0, offset, row: None, sequence: 0 });
        }
        batch
    }

    #[test]
    fn batches_are_done_in_order_and_the_state_comes_back() {
        let mut beside = Beside::<Vec<usize>, u64>::start(Vec::new(), |seen, item| {
            seen.push(item.batch.len());
            item.with *= 10;
        });
        let mut back = Vec::new();
        for n in 0..100 {
            if !beside.has_room() {
                back.push(beside.done().expect("out").with);
            }
            beside.hand(Item { batch: batch(n), with: n });
        }
        while let Some(item) = beside.done() {
            back.push(item.with);
        }
        assert_eq!(back, (0..100).map(|n| n * 10).collect::<Vec<_>>());
        assert_eq!(beside.finish(), (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_panic_reaches_whoever_asks_for_the_state() {
        let mut beside = Beside::<(), ()>::start((), |(), item| assert!(item.batch.is_empty(), "made up"));
        for _ in 0..2 * ITEMS {
            if !beside.has_room() && beside.done().is_none() {
                break;
            }
            beside.hand(Item { batch: batch(1), with: () });
        }
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| beside.finish()));
        assert!(panic.is_err());
    }
}
