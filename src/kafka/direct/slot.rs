//! A partition that is written to: its open batch, and those that wait or are on their way.

use super::build::Builder;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a partition whose batch failed in passing is left alone.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_millis(10);

/// A sealed batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) builder: Builder,
    pub(super) sequence: i32,
    pub(super) sealed: Instant,
}

/// A partition that is written to.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) topic: usize,
    pub(super) partition: i32,
    pub(super) open: Builder,
    pub(super) next_sequence: i32,
    /// Sealed and not on their way, in order.
    pub(super) waiting: VecDeque<Batch>,
    pub(super) on_their_way: usize,
    /// The broker that they are on their way to.
    pub(super) leader: i32,
    /// One has failed: nothing more goes until the others are answered.
    pub(super) held: bool,
    pub(super) not_before: Option<Instant>,
    /// The coordinator knows that the transaction writes here (or needn't be told).
    pub(super) announced: bool,
    /// Something of the open transaction may be here.
    pub(super) written: bool,
}

impl Slot {
    /// Nothing is written yet.
    pub(super) fn new(topic: usize, partition: i32, announced: bool) -> Slot {
        Slot {
            topic,
            partition,
            open: Builder::default(),
            next_sequence: 0,
            waiting: VecDeque::new(),
            on_their_way: 0,
            leader: -1,
            held: false,
            not_before: None,
            announced,
            written: false,
        }
    }

    /// Holds the partition, and puts a batch back to its place among those that wait.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.held = true;
        // By age: sequences are counted round.
        let at = self.waiting.partition_point(|other| other.sealed < batch.sealed || comes_before(other, &batch));
        self.waiting.insert(at, batch);
    }

    /// Lets a held partition go again when nothing of it is on its way.
    pub(super) fn release(&mut self) {
        if self.held && self.on_their_way == 0 {
            (self.held, self.not_before) = (false, Some(Instant::now() + RETRY_INTERVAL));
        }
    }
}

/// True where a batch's sequence is before another's, counted round.
fn comes_before(one: &Batch, other: &Batch) -> bool {
    one.sealed == other.sealed && (other.sequence.wrapping_sub(one.sequence) & i32::MAX) < i32::MAX / 2
}
