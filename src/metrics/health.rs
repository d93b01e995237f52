//! Whether the lanes move: one heartbeat a lane, bumped by its thread, read by the watchdog and `healthz`.
//!
//! A lane is healthy where it is idle, or where it has moved within the limit. A lane that is stuck
//! inside one batch (a hung disk, a loop without end) has been busy since longer than the limit.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// The heartbeats of all lanes, and the state of the whole.
#[derive(Debug)]
pub struct Health {
    born: Instant,
    lanes: Vec<Heartbeat>,
    ready: AtomicBool,
    draining: AtomicBool,
}

/// One lane's heartbeat.
#[derive(Debug)]
pub struct Heartbeat {
    born: Instant,
    /// Nanoseconds since `born`, plus one; 0 while idle.
    busy_since: AtomicU64,
    beats: AtomicU64,
    failed: AtomicBool,
}

impl Heartbeat {
    /// A batch (or another piece of work) starts, or goes on: whatever was before it is done.
    pub fn busy(&self) {
        self.beats.fetch_add(1, Relaxed);
        self.busy_since.store(self.born.elapsed().as_nanos() as u64 + 1, Relaxed);
    }
    /// Nothing to do: the lane waits for events, is paused, or has come to the end of its inputs.
    pub fn idle(&self) {
        self.beats.fetch_add(1, Relaxed);
        self.busy_since.store(0, Relaxed);
    }
    /// The lane has stopped by a fault and takes no more events.
    pub fn fail(&self) {
        self.failed.store(true, SeqCst);
        self.idle();
    }
    /// True after [`Heartbeat::fail`].
    pub fn failed(&self) -> bool {
        self.failed.load(SeqCst)
    }
    /// How often it moved.
    pub fn beats(&self) -> u64 {
        self.beats.load(Relaxed)
    }
    /// How long it has been inside one piece of work; zero while idle.
    pub fn busy_for(&self) -> Duration {
        match self.busy_since.load(Relaxed) {
            0 => Duration::ZERO,
            since => self.born.elapsed().saturating_sub(Duration::from_nanos(since - 1)),
        }
    }
}

impl Health {
    /// `lanes` idle lanes, not ready.
    pub fn new(lanes: usize) -> Health {
        let born = Instant::now();
        let heartbeat = || Heartbeat {
            born,
            busy_since: AtomicU64::new(0),
            beats: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        };
        Health {
            born,
            lanes: (0..lanes).map(|_| heartbeat()).collect(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
        }
    }
    /// A lane's heartbeat.
    pub fn lane(&self, lane: usize) -> &Heartbeat {
        &self.lanes[lane]
    }
    /// All lanes are recovered and their inputs open: `readyz` answers 200 from now on.
    pub fn set_ready(&self) {
        self.ready.store(true, SeqCst);
    }
    /// The intake stops for good: `readyz` answers 503 from now on.
    pub fn set_draining(&self) {
        self.draining.store(true, SeqCst);
    }
    /// True between recovery and drain, while no lane has failed.
    pub fn ready(&self) -> bool {
        self.ready.load(SeqCst) && !self.draining() && self.failed().is_empty()
    }
    /// True once the daemon drains.
    pub fn draining(&self) -> bool {
        self.draining.load(SeqCst)
    }
    /// Numbers of the lanes that have been inside one piece of work for longer than `limit`.
    pub fn stuck(&self, limit: Duration) -> Vec<usize> {
        self.numbers(|lane| lane.busy_for() > limit)
    }
    /// Numbers of the lanes that a fault has stopped.
    pub fn failed(&self) -> Vec<usize> {
        self.numbers(Heartbeat::failed)
    }
    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.born.elapsed()
    }
    fn numbers(&self, which: impl Fn(&Heartbeat) -> bool) -> Vec<usize> {
        self.lanes.iter().enumerate().filter(|(_, lane)| which(lane)).map(|(number, _)| number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lane_inside_one_batch_is_stuck() {
        let health = Health::new(3);
        let limit = Duration::from_millis(30);
        health.lane(0).busy();
        health.lane(1).idle();
        std::thread::sleep(2 * limit);
        health.lane(2).busy();
        assert_eq!(health.stuck(limit), [0]);
        health.lane(0).busy();
        assert!(health.stuck(limit).is_empty());
        assert_eq!(health.lane(0).beats(), 2);
    }

    #[test]
    fn ready_between_recovery_and_drain_unless_a_lane_failed() {
        let health = Health::new(2);
        assert!(!health.ready());
        health.set_ready();
        assert!(health.ready());
        health.lane(1).fail();
        assert!(!health.ready());
        assert_eq!(health.failed(), [1]);
        let health = Health::new(1);
        health.set_ready();
        health.set_draining();
        assert!(!health.ready() && health.draining());
    }
}
