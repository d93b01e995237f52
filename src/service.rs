//! The daemon among the system's services: systemd's notifications and watchdog, and the log.

use crate::error::{Fault, Result};
use crate::metrics::Health;
use sd_notify::NotifyState;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, time::SystemTime};
use tracing_subscriber::registry::LookupSpan;

/// Tells the service manager something. Without one (no `NOTIFY_SOCKET`) nothing happens; a manager
/// that cannot be told is logged, never fatal.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(states) {
        tracing::warn!("the service manager cannot be notified: {e}");
    }
}

/// The lanes are recovered and their inputs open; `status` is a line for `systemctl status`.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A line for `systemctl status`. Line ends in it become spaces.
pub fn status(text: &str) {
    notify(&[NotifyState::Status(&text.replace(['\n', '\r'], " "))]);
}

/// What the daemon runs is being exchanged; [`ready`] ends that.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!("the monotonic clock cannot be read: {e}"),
    }
}

/// The daemon drains; it needs at most `within` for it.
pub fn stopping(within: Duration) {
    let microseconds = u32::try_from(within.as_micros()).unwrap_or(u32::MAX);
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("draining: finishing what was read"),
        NotifyState::ExtendTimeoutUsec(microseconds),
    ]);
}

/// Feeds the service manager's watchdog for as long as it lives and the lanes are healthy.
#[derive(Debug)]
pub struct Watchdog {
    stop: Option<flume::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts to feed the watchdog at half its interval, if the service manager asks for it
/// (`WATCHDOG_USEC`). It is not fed while a lane has been inside one piece of work for longer than the
/// interval: the manager then ends the process and starts it again.
///
/// # Errors
/// Environment, where no thread can be started.
pub fn watchdog(health: Arc<Health>) -> Result<Option<Watchdog>> {
    let Some(interval) = sd_notify::watchdog_enabled().filter(|i| !i.is_zero()) else { return Ok(None) };
    let (stop, stopped) = flume::bounded::<()>(0);
    let feed = move || {
        let mut was_stuck = false;
        loop {
            let stuck = health.stuck(interval);
            if stuck.is_empty() {
                notify(&[NotifyState::Watchdog]);
            } else if !was_stuck {
                tracing::error!("lanes {stuck:?} have been inside one batch for over {interval:?}: watchdog not fed");
            }
            was_stuck = !stuck.is_empty();
            match stopped.recv_timeout(interval / 2) {
                Err(flume::RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
    };
    let thread = std::thread::Builder::new().name("watchdog".into()).spawn(feed);
    let thread = thread.map_err(|e| Fault::io("starting the watchdog's thread", &e))?;
    Ok(Some(Watchdog { stop: Some(stop), thread: Some(thread) }))
}

/// Starts the log on standard error. Under systemd lines carry their priority and leave the time to the
/// journal. `RUST_LOG` overrides `filter` (`info`, `millstream=debug`, …).
///
/// # Errors
/// Misuse, where the filter cannot be read, or a log was started before.
pub fn init_logging(filter: &str) -> Result<()> {
    use std::io::IsTerminal;
    let levels = levels(filter)?;
    let lines = Lines { journal: stderr_is_journal(), color: std::io::stderr().is_terminal() };
    let log = tracing_subscriber::fmt().with_env_filter(levels).with_writer(std::io::stderr).with_ansi(lines.color);
    let log = log.event_format(lines).with_filter_reloading();
    let handle = log.reload_handle();
    log.try_init().map_err(|e| Fault::misuse(format!("the log was started before: {e}")))?;
    // Only the first log of a process gets here.
    let _ = RELOAD.set(Box::new(move |levels| handle.reload(levels).map_err(|e| Fault::internal(e.to_string()))));
    Ok(())
}

/// Puts other levels in force in the running log.
type Reload = dyn Fn(EnvFilter) -> Result<()> + Send + Sync;

static RELOAD: OnceLock<Box<Reload>> = OnceLock::new();

/// Changes what is logged from now on, as `filter` (or `RUST_LOG`, which overrides it) says.
///
/// # Errors
/// Misuse, where the filter cannot be read.
pub fn set_log_level(filter: &str) -> Result<()> {
    let levels = levels(filter)?;
    RELOAD.get().map_or(Ok(()), |reload| reload(levels))
}

fn levels(filter: &str) -> Result<EnvFilter> {
    let chosen = std::env::var("RUST_LOG").ok().filter(|v| !v.is_empty());
    let chosen = chosen.as_deref().unwrap_or(filter);
    EnvFilter::try_new(chosen)
        .map_err(|e| Fault::misuse(format!("log filter {chosen:?}: {e}")).hint("error, warn, info, debug or trace"))
}

/// True where `JOURNAL_STREAM` names the very file that standard error is (it may have been redirected
/// since, and children inherit the variable).
fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let Ok(found) = rustix::fs::fstat(rustix::stdio::stderr()) else { return false };
    stream == format!("{}:{}", found.st_dev, found.st_ino)
}

/// A line an event: `<N>` and the message for the journal; else time, level and message.
struct Lines {
    journal: bool,
    color: bool,
}

/// The priority of a level, as syslog numbers them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        use tracing_subscriber::fmt::time::FormatTime;
        let level = *event.metadata().level();
        if self.journal {
            write!(out, "<{}>", priority(level))?;
        } else {
            SystemTime.format_time(&mut out)?;
            let color = match level {
                Level::ERROR => "\u{1b}[31m",
                Level::WARN => "\u{1b}[33m",
                _ => "",
            };
            match self.color && !color.is_empty() {
                true => write!(out, " {color}{level:5}\u{1b}[0m ")?,
                false => write!(out, " {level:5} ")?,
            }
        }
        // The journal splits at line ends, and only the first part would carry the priority.
        let mut fields = String::new();
        context.format_fields(Writer::new(&mut fields), event)?;
        writeln!(out, "{}", fields.replace('\n', " "))
    }
}

/// Lets a fault that repeats into the log at most once in a while, with the count of those held back.
///
/// One a place in the code:
/// ```
/// use millstream::service::RateLimited;
/// let limit = RateLimited::new(std::time::Duration::from_secs(10));
/// let mut lines = 0;
/// for _ in 0..1_000 {
///     if let Some(_held_back) = limit.pass() {
///         lines += 1;
///     }
/// }
/// assert_eq!(lines, 1);
/// ```
#[derive(Debug)]
pub struct RateLimited {
    born: Instant,
    every: Duration,
    /// Nanoseconds after `born` from which on the next one passes.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl RateLimited {
    /// At most one in `every`.
    pub fn new(every: Duration) -> RateLimited {
        RateLimited { born: Instant::now(), every, next: AtomicU64::new(0), held_back: AtomicU64::new(0) }
    }
    /// `Some` where this one may be logged, with how many were held back since the last that was.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(self.born.elapsed())
    }
    fn pass_at(&self, age: Duration) -> Option<u64> {
        let (now, next) = (age.as_nanos() as u64, self.next.load(Relaxed));
        let after = now.saturating_add(self.every.as_nanos() as u64);
        // Of two threads that come at once, the one that moves `next` logs.
        if now < next || self.next.compare_exchange(next, after, Relaxed, Relaxed).is_err() {
            self.held_back.fetch_add(1, Relaxed);
            return None;
        }
        Some(self.held_back.swap(0, Relaxed))
    }
    /// Logs a warning, if this one passes.
    pub fn warn(&self, message: impl fmt::Display) {
        match self.pass() {
            Some(0) => tracing::warn!("{message}"),
            Some(n) => tracing::warn!("{message} (and {n} more like it in the last {:?} or longer)", self.every),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_while_passes_and_tells_of_the_others() {
        let limit = RateLimited::new(Duration::from_secs(5));
        let at = |seconds| limit.pass_at(Duration::from_secs(seconds));
        assert_eq!(
            [at(0), at(1), at(4), at(5), at(6), at(20), at(25)],
            [Some(0), None, None, Some(2), None, Some(1), Some(0)]
        );
    }

    #[test]
    fn priorities_are_syslogs() {
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        assert_eq!(levels.map(priority), [3, 4, 6, 7, 7]);
    }
}
