//! Closing of clients, within a bound: the library's own close waits for brokers, threads and callbacks, and a
//! daemon that drains or recovers must not wait with it for ever.

use std::time::{Duration, Instant};

/// How long a client may take to close before it is left to itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Ends a client on a thread of its own, and waits for that: at most [`CLOSE_TIMEOUT`]. A later end is said in
/// the log; a client that never ends costs its memory.
pub(crate) fn within_bound(what: &str, close: impl FnOnce() + Send + 'static) {
    let (done, ended) = flume::bounded::<()>(1);
    let name = what.to_string();
    let run = move || {
        let began = Instant::now();
        close();
        if done.send(()).is_err() {
            tracing::info!(target: "millstream::kafka", "the {name} closed after {:.1} s", began.elapsed().as_secs_f64());
        }
    };
    let thread = std::thread::Builder::new().name("kafka-close".into()).spawn(run);
    match thread {
        Ok(_) if ended.recv_timeout(CLOSE_TIMEOUT) == Err(flume::RecvTimeoutError::Timeout) => {
            tracing::warn!(target: "millstream::kafka", "the {what} doesn't close; left to itself");
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(target: "millstream::kafka", "the {what} is not closed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    #[test]
    fn what_closes_is_waited_for_and_what_does_not_is_left() {
        let closed = Arc::new(AtomicBool::new(false));
        let mark = closed.clone();
        within_bound("client", move || {
            std::thread::sleep(Duration::from_millis(50));
            mark.store(true, Relaxed);
        });
        assert!(closed.load(Relaxed), "it was waited for");
        let (began, (end, never)) = (Instant::now(), flume::bounded::<()>(0));
        within_bound("client", move || assert!(never.recv().is_err()));
        assert!(began.elapsed() >= CLOSE_TIMEOUT && began.elapsed() < CLOSE_TIMEOUT * 2, "{:?}", began.elapsed());
        drop(end);
    }
}
