//! The bounded ring that joins two threads of the road: one sender, one receiver, whole batches.
//!
//! Pushing and popping are wait-free; a side that finds the ring full or empty spins briefly, then
//! sleeps until the other side has moved. A full ring is the road's backpressure.

use rtrb::{Consumer, Producer, PushError, RingBuffer};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How often a side looks again before it sleeps: about a microsecond.
const SPINS: u32 = 64;
/// A sleeper looks up at least this often.
const SLEEP_MAX: Duration = Duration::from_millis(100);

#[derive(Default)]
struct Sleeper {
    asleep: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Sleeper {
    /// Announces that this thread is about to sleep; the caller must look once more before it does.
    fn announce(&self) {
        *self.thread.lock().expect("no panic while holding it") = Some(std::thread::current());
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }
    fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
    fn wake(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::Relaxed)
            && let Some(thread) = &*self.thread.lock().expect("no panic while holding it")
        {
            thread.unpark();
        }
    }
}

#[derive(Default)]
struct Shared {
    sender: Sleeper,
    receiver: Sleeper,
}

/// The sending side. Dropping it closes the ring; what is in it can still be received.
pub struct Sender<T> {
    ring: Producer<T>,
    shared: Arc<Shared>,
}

/// The receiving side. Dropping it closes the ring.
pub struct Receiver<T> {
    ring: Consumer<T>,
    shared: Arc<Shared>,
}

/// What [`Receiver::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received<T> {
    /// The next item.
    Item(T),
    /// Nothing came within the wait.
    Empty,
    /// Nothing will ever come: the sender is gone.
    Closed,
}

/// A ring for `capacity` items (at least one).
pub fn ring<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = RingBuffer::new(capacity.max(1));
    let shared = Arc::new(Shared::default());
    (Sender { ring: producer, shared: shared.clone() }, Receiver { ring: consumer, shared })
}

impl<T> Sender<T> {
    /// Sends, waiting while the ring is full. Gives the item back if the receiver is gone.
    pub fn send(&mut self, item: T) -> Result<(), T> {
        let mut item = item;
        let mut spins = 0;
        loop {
            if self.ring.is_abandoned() {
                return Err(item);
            }
            match self.ring.push(item) {
                Ok(()) => {
                    self.shared.receiver.wake();
                    return Ok(());
                }
                Err(PushError::Full(back)) => item = back,
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            self.shared.sender.announce();
            if self.ring.is_full() && !self.ring.is_abandoned() {
                std::thread::park_timeout(SLEEP_MAX);
            }
            self.shared.sender.awake();
        }
    }
}

impl<T> Receiver<T> {
    /// The next item, waiting at most `wait` for it.
    pub fn receive(&mut self, wait: Duration) -> Received<T> {
        let mut deadline = None;
        let mut spins = 0;
        loop {
            let closed = self.ring.is_abandoned();
            if let Ok(item) = self.ring.pop() {
                self.shared.sender.wake();
                return Received::Item(item);
            }
            if closed {
                return Received::Closed;
            }
            if wait.is_zero() {
                return Received::Empty;
            }
            if spins < SPINS {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + wait);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Received::Empty;
            }
            self.shared.receiver.announce();
            if self.ring.is_empty() && !self.ring.is_abandoned() {
                std::thread::park_timeout(left.min(SLEEP_MAX));
            }
            self.shared.receiver.awake();
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.receiver.wake();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.sender.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_cross_threads_in_order_through_a_small_ring() {
        let (mut sender, mut receiver) = ring(2);
        let thread = std::thread::spawn(move || (0..50_000u32).for_each(|i| sender.send(i).expect("receiver lives")));
        let mut next = 0;
        loop {
            match receiver.receive(Duration::from_secs(5)) {
                Received::Item(i) => {
                    assert_eq!(i, next);
                    next += 1;
                }
                Received::Empty => panic!("stalled at {next}"),
                Received::Closed => break,
            }
        }
        assert_eq!(next, 50_000);
        thread.join().expect("sender");
    }

    #[test]
    fn a_slow_receiver_holds_the_sender_back_and_its_end_frees_it() {
        let (mut sender, mut receiver) = ring(1);
        sender.send(1).expect("room");
        let thread = std::thread::spawn(move || (sender.send(2), sender.send(3), sender.send(4)));
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(receiver.receive(Duration::ZERO), Received::Item(1));
        assert_eq!(receiver.receive(Duration::from_secs(5)), Received::Item(2));
        drop(receiver);
        let (second, _, fourth) = thread.join().expect("sender");
        assert_eq!(second, Ok(()));
        assert_eq!(fourth, Err(4));
    }

    #[test]
    fn an_empty_ring_times_out() {
        let (_sender, mut receiver) = ring::<u8>(1);
        assert_eq!(receiver.receive(Duration::from_millis(5)), Received::Empty);
    }
}
