//! Whether a lane has a core to spare: told by how long its thread waits for one. Where programs beside the daemon take
//! the other cores (a broker on the same machine), handing blocks to another thread costs more than it wins.
//!
//! Only time depends on it: what is scored and learned is the same on either way.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// What the kernel accounts to the calling thread: nanoseconds run, nanoseconds waited for a core, turns.
const SCHEDSTAT: &str = "/proc/thread-self/schedstat";
/// How often is looked.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// A thread that waits for more of its time than this is crowded.
const CROWDED_ABOVE: f64 = 0.2;
/// And is no longer, once it waits for less than this.
const CROWDED_BELOW: f64 = 0.08;

/// The look-out of one thread.
#[derive(Debug)]
pub struct Crowd {
    /// `None` where the kernel doesn't say; then there is always room.
    schedstat: Option<File>,
    looked: Instant,
    waited_ns: u64,
    crowded: bool,
}

impl Crowd {
    /// The look-out of the calling thread, which alone may ask it.
    pub fn here(now: Instant) -> Crowd {
        let mut crowd = Crowd { schedstat: File::open(SCHEDSTAT).ok(), looked: now, waited_ns: 0, crowded: false };
        crowd.waited_ns = crowd.waited().unwrap_or(0);
        crowd
    }

    /// True where the thread lately waited for a core for much of its time.
    pub fn is_crowded(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.looked);
        if since >= LOOK_INTERVAL
            && let Some(waited) = self.waited()
        {
            let share = waited.saturating_sub(self.waited_ns) as f64 / since.as_nanos() as f64;
            self.crowded = is_crowded(share, self.crowded);
            (self.looked, self.waited_ns) = (now, waited);
        }
        self.crowded
    }

    fn waited(&self) -> Option<u64> {
        let mut text = [0; 64];
        let length = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        second_number(&text[..length])
    }
}

/// The border is wider than a line, so that a lane doesn't change its way at each look.
fn is_crowded(share: f64, before: bool) -> bool {
    share > if before { CROWDED_BELOW } else { CROWDED_ABOVE }
}

fn second_number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_make_a_crowd_and_their_end_ends_it() {
        let shares = [0.0, 0.15, 0.25, 0.15, 0.1, 0.05, 0.15];
        let told = [false, false, true, true, true, false, false];
        let mut crowded = false;
        for (share, told) in shares.into_iter().zip(told) {
            crowded = is_crowded(share, crowded);
            assert_eq!(crowded, told, "{share}");
        }
    }

    #[test]
    fn the_kernel_tells_how_long_was_waited() {
        assert_eq!(second_number(b"123 456 7\n"), Some(456));
        assert_eq!(second_number(b""), None);
        let now = Instant::now();
        let mut crowd = Crowd::here(now);
        assert!(!crowd.is_crowded(now));
        if let Some(waited) = crowd.waited() {
            // All of the time that is said to have passed.
            crowd.waited_ns = waited;
            assert!(!crowd.is_crowded(now + Duration::from_secs(3600)));
            assert_eq!(crowd.looked, now + Duration::from_secs(3600));
        }
        crowd.schedstat = None;
        assert!(!crowd.is_crowded(now + Duration::from_secs(7200)));
    }
}
