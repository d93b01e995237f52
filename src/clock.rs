//! What time it is, to those that wait or have something due: the machine's clock, or one that is set by hand
//! (replays of a whole daemon on one thread, tests).
//!
//! Only intervals come from here. What a lane computes never depends on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A clock; its copies show the same time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    /// `None`: the machine's.
    hand: Option<Arc<Hand>>,
}

#[derive(Debug)]
struct Hand {
    /// When the clock was made: its zero.
    zero: Instant,
    /// Nanoseconds since then.
    now_ns: AtomicU64,
}

impl Clock {
    /// The machine's monotonic clock.
    pub fn real() -> Clock {
        Clock { hand: None }
    }

    /// A clock that stands still until it is moved.
    pub fn by_hand() -> Clock {
        Clock { hand: Some(Arc::new(Hand { zero: Instant::now(), now_ns: AtomicU64::new(0) })) }
    }

    /// Now.
    pub fn now(&self) -> Instant {
        match &self.hand {
            None => Instant::now(),
            Some(hand) => hand.zero + Duration::from_nanos(hand.now_ns.load(Relaxed)),
        }
    }

    /// The time since `then`; zero where that lies ahead.
    pub fn since(&self, then: Instant) -> Duration {
        self.now().saturating_duration_since(then)
    }

    /// Waits. By hand, the waiting itself moves the clock.
    pub fn sleep(&self, wait: Duration) {
        match &self.hand {
            None => std::thread::sleep(wait),
            Some(_) => self.advance(wait),
        }
    }

    /// Moves a clock that is set by hand; the machine's goes by itself.
    pub fn advance(&self, by: Duration) {
        if let Some(hand) = &self.hand {
            hand.now_ns.fetch_add(by.as_nanos() as u64, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_by_hand_moves_only_when_moved_and_its_copies_with_it() {
        let clock = Clock::by_hand();
        let (copy, then) = (clock.clone(), clock.now());
        assert_eq!(clock.since(then), Duration::ZERO);
        copy.advance(Duration::from_millis(5));
        copy.sleep(Duration::from_secs(3_600));
        assert_eq!(clock.since(then), Duration::from_millis(3_600_005));
        assert_eq!(clock.since(clock.now() + Duration::from_secs(1)), Duration::ZERO);
    }
}
