//! `millstream demo`: the whole appliance on this machine, in two acts, every claim checked on the way.
//!
//! Act one: a daemon (this executable) learns a generated stream that comes over a TCP socket at full
//! speed. On the way a candidate is swapped in, and the daemon is killed and started again. Act two: where
//! the input can be read again, a crash leaves no trace: two outputs are compared byte for byte.
//!
//! ```text
//! stream.rs   what flows, what learns, and the candidate      daemon.rs   the child processes
//! client.rs   sends, and checks each answer (answers.rs)      exact.rs    the second act
//! meter.rs    where it stands    view.rs  what is shown        summary.rs  what is said at the end
//! ```

mod answers;
mod client;
mod daemon;
mod exact;
mod meter;
mod stream;
mod summary;
mod view;

use crate::admin::CtlAction;
use crate::admin::ctl::ask;
use crate::admin::status::StatusReport;
use crate::cli::DemoArgs;
use crate::error::{Fault, Result};
use client::{Change, IN_FLIGHT_EVENTS_MAX, Session, Tally, Told};
use daemon::{Daemon, quoted};
use meter::Meter;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};
use summary::{Crash, Summary, Swap};
use tokio::signal::unix::{SignalKind, signal};
use view::{Show, grouped};

/// How long a daemon may take for what it is asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the conductor looks around.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often the daemon is asked for its status.
const STATUS_EVERY: Duration = Duration::from_millis(250);
/// How long the pauses between answers are watched before a swap, and over it.
const WATCH_SWAP: Duration = Duration::from_millis(200);
/// Time of the second act's paced run.
const PACE: Duration = Duration::from_millis(800);

/// Why the demo stopped before its end.
#[derive(Debug)]
pub(crate) enum End {
    /// Somebody asked for it.
    Early,
    /// Something broke, or an answer was wrong.
    Fault(Fault),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Fault(fault)
    }
}

/// Shows the appliance at work, and checks what it shows.
///
/// # Errors
/// Internal, naming the check that did not hold; Environment, where the machine doesn't let it.
pub fn demo(args: &DemoArgs) -> Result<()> {
    let mut stage = Stage::set(args.seconds)?;
    let ended = stage.play();
    let summary = stage.clear();
    let title = match (&ended, summary.fault()) {
        (Ok(()), None) => "That was Millstream, and everything held:",
        (Ok(()), Some(_)) => "Not everything held:",
        (Err(_), _) => "Ended early. Until then:",
    };
    let text = summary.text(title);
    super::print(&text)?;
    match ended {
        Err(End::Fault(fault)) => Err(fault),
        Err(End::Early) => summary.fault().map_or(Ok(()), Err),
        Ok(()) => match summary.fault() {
            Some(fault) => Err(fault),
            None => super::print(NEXT),
        },
    }
}

const NEXT: &str = "
Next: README.md shows it on your own events; `millstream run --help`, `millstream evaluate --help`.
";

/// The demo as it runs. Fields are dropped in their order: the daemon dies before the client is waited for,
/// the folder goes last.
struct Stage {
    began: Instant,
    seconds: u64,
    daemon: Option<Daemon>,
    session: Option<Session>,
    sessions: u32,
    address: SocketAddr,
    config: PathBuf,
    pipeline: PathBuf,
    told: Arc<Told>,
    status: Arc<Mutex<Option<StatusReport>>>,
    stop: Arc<AtomicBool>,
    meter: Meter,
    phase: &'static str,
    /// True while events are sent and answered.
    live: bool,
    notes: Vec<String>,
    summary: Summary,
    show: Show,
    dir: tempfile::TempDir,
}

impl Stage {
    fn set(seconds: u64) -> Result<Stage> {
        let began = Instant::now();
        let dir = tempfile::Builder::new().prefix("millstream-demo-").tempdir();
        let dir = dir.map_err(|e| Fault::io("a folder for the demo", &e).hint("TMPDIR names where it is made"))?;
        let stop = Arc::new(AtomicBool::new(false));
        heed_signals(stop.clone())?;
        let address = free_address()?;
        let (config, pipeline) = (dir.path().join("millstream.toml"), dir.path().join("hyperplane.toml"));
        let write = |path: &Path, text: &str| std::fs::write(path, text).map_err(|e| Fault::io(path.display(), &e));
        write(&pipeline, stream::PIPELINE)?;
        write(&config, &config_text(dir.path(), &pipeline, address, seconds))?;
        let status = Arc::new(Mutex::new(None));
        follow_status(dir.path().join("admin.sock"), Arc::downgrade(&status))?;
        Ok(Stage {
            began,
            seconds,
            daemon: None,
            session: None,
            sessions: 0,
            address,
            config,
            pipeline,
            told: Arc::new(Told::new()),
            status,
            stop,
            meter: Meter::new(),
            phase: "starting",
            live: true,
            notes: Vec::new(),
            summary: Summary::default(),
            show: Show::open()?,
            dir,
        })
    }

    /// Ends what still runs, gives the terminal back, and returns what is to be said.
    fn clear(mut self) -> Summary {
        if self.live {
            self.count();
        }
        std::mem::take(&mut self.summary)
    }

    /// The figures as they stand.
    fn count(&mut self) {
        self.meter.sample(&self.told);
        let status = self.status();
        let frame = self.meter.frame(&self.told, status.as_ref());
        self.summary.events = [self.told.sent.load(SeqCst), frame.answered];
        self.summary.rate = frame.rate_mean;
        self.summary.latency_ms = frame.latency_ms;
        self.summary.inside_ms = frame.inside_ms;
        self.summary.accuracy = frame.whole;
    }

    fn play(&mut self) -> Result<(), End> {
        let whole = self.seconds as f64;
        let first_act = (whole - (whole * 0.1).clamp(2.0, 4.0)).max(2.0);
        self.open()?;
        let opened = self.began.elapsed().as_secs_f64();
        let part = |share: f64| Duration::from_secs_f64(opened + (first_act - opened).max(1.0) * share);
        self.until(part(1.0 / 3.0))?;
        self.swap()?;
        self.until(part(2.0 / 3.0))?;
        self.crash()?;
        self.until(part(1.0))?;
        self.finish()?;
        self.second_act()
    }

    fn open(&mut self) -> Result<(), End> {
        let daemon = Daemon::start(self.dir.path(), &self.config, "daemon")?;
        self.daemon = Some(daemon);
        self.wait("the daemon is ready", |stage| {
            stage.daemon.as_ref().and_then(Daemon::status).is_some_and(|status| status.ready)
        })?;
        self.note(format!(
            "daemon ready after {:.0} ms at {}; events of 20 sensors go in, each is scored and then learned",
            self.began.elapsed().as_secs_f64() * 1e3,
            self.address
        ))?;
        self.phase = "learning at full speed";
        self.connect()
    }

    fn connect(&mut self) -> Result<(), End> {
        self.sessions += 1;
        let first = self.told.answered.load(SeqCst);
        let session = Session::open(self.sessions, self.address, &stream::options(), first, &self.told)?;
        self.session = Some(session);
        Ok(())
    }

    /// Trains a candidate on the stream's recent past, and swaps it in under load.
    fn swap(&mut self) -> Result<(), End> {
        self.phase = "hot swap";
        let (told, file) = (self.told.clone(), self.dir.path().join("candidate.safetensors"));
        let socket = self.dir.path().join("admin.sock");
        let trained = if self.seconds >= 10 { 100_000 } else { 10_000 };
        let work = move || -> Result<Swap> {
            let usual = longest_pause(&told);
            let now = told.answered.load(SeqCst);
            let trained = trained.min(now);
            let bytes = stream::candidate(now - trained, trained)?;
            std::fs::write(&file, bytes).map_err(|e| Fault::io(file.display(), &e))?;
            told.pause_ns.store(0, Relaxed);
            let asked = Instant::now();
            let answer = ask(&socket, &CtlAction::Swap(file))?;
            let took = asked.elapsed();
            std::thread::sleep(WATCH_SWAP.saturating_sub(took));
            let pause = Duration::from_nanos(told.pause_ns.load(Relaxed));
            let seq = answer["lanes"][0]["seq"].as_u64().unwrap_or_default();
            let version = answer["version"].as_str().unwrap_or_default().to_string();
            Ok(Swap { version, seq, trained, took, pause, usual })
        };
        let thread = std::thread::Builder::new().name("swap".into()).spawn(work);
        let thread = thread.map_err(|e| Fault::io("start the swap", &e))?;
        self.wait("the swap is answered", |_| thread.is_finished())?;
        let swap = thread.join().map_err(|_| Fault::internal("the demo's swap panicked"))??;
        self.wait("the new version answers", |stage| stage.told.last_seq.load(Relaxed) > swap.seq)?;
        let found = self.told.changes();
        let after: Vec<&Change> = found.iter().filter(|c| c.swap > 0).collect();
        let held = matches!(after[..], [one] if (one.seq, &one.version, one.swap) == (swap.seq, &swap.version, 1));
        let what = after.iter().map(|c| format!("version {} from event {} on", c.version, grouped(c.seq)));
        let what: Vec<String> = what.collect();
        self.summary.check("the swap takes force at the event that the daemon named", held, what.join(", "));
        self.note(format!("swap: {}", summary::swap_text(&swap)))?;
        self.summary.swap = Some(swap);
        self.phase = "learning at full speed";
        Ok(())
    }

    /// Kills the daemon as `kill -9` does, and starts it again.
    fn crash(&mut self) -> Result<(), End> {
        let committed = self.status().and_then(|s| Some(s.lanes.first()?.status.committed_seq)).unwrap_or(0);
        let before = self.told.changes().last().cloned();
        self.phase = "killed, recovering";
        let killed = Instant::now();
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill()?;
        }
        self.wait("the connection has ended", |stage| stage.session.as_ref().is_none_or(Session::has_ended))?;
        self.session = None;
        let (sent, answered) = (self.told.sent.load(SeqCst), self.told.answered.load(SeqCst));
        let last_seq = self.told.last_seq.load(Relaxed);
        self.note(format!("kill: the daemon was killed (kill -9) after event {}", grouped(last_seq)))?;
        self.daemon = Some(Daemon::start(self.dir.path(), &self.config, "daemon-again")?);
        self.connect()?;
        let session = self.sessions;
        self.wait("the first prediction after the kill", |stage| {
            stage.told.changes().last().is_some_and(|c| c.session == session)
        })?;
        self.wait("what was unanswered is answered", |stage| stage.told.answered.load(SeqCst) >= sent)?;
        let changes = self.told.changes();
        let (Some(before), Some(after)) = (before, changes.iter().find(|c| c.session == session)) else {
            return Err(Fault::internal("the demo's kill: nothing was answered before it").into());
        };
        let lost_learned = self.daemon.as_ref().map_or(0, |d| lost_learned(&d.log()));
        let crash = Crash {
            last_seq,
            resent: sent - answered,
            first_seq: after.seq,
            back_after: after.at.saturating_duration_since(killed),
            lost_learned,
        };
        let goes_on = after.seq >= committed && after.seq > 0 && after.seq <= last_seq + 1 + IN_FLIGHT_EVENTS_MAX;
        let found = format!("event {} (committed before: at least {})", grouped(after.seq), grouped(committed));
        self.summary.check("after the kill, the numbering of events goes on", goes_on, found);
        let same = (&before.version, before.swap) == (&after.version, after.swap);
        let found = format!("version {}, swap {}", after.version, after.swap);
        self.summary.check("after the kill, the version is the one that was in force", same, found);
        self.note(format!("recovery: {}", summary::crash_text(&crash)))?;
        self.summary.crash = Some(crash);
        self.phase = "learning at full speed";
        Ok(())
    }

    /// Lets everything be answered, and the daemon drain.
    fn finish(&mut self) -> Result<(), End> {
        self.phase = "draining";
        if let Some(session) = &self.session {
            session.finish();
        }
        self.wait("everything is answered", |stage| stage.session.as_ref().is_none_or(Session::has_ended))?;
        self.session = None;
        self.turn()?;
        self.count();
        self.live = false;
        let (sent, answered) = (self.told.sent.load(SeqCst), self.told.answered.load(SeqCst));
        let found =
            format!("{} of {} events, in order: lost {}, twice 0", grouped(answered), grouped(sent), sent - answered);
        self.summary.check("every event was answered once", sent == answered && sent > 0, found);
        let [model, no_change, majority] = self.told.tally().since(&Tally::default());
        let found = format!("{model:.4} against {no_change:.4} and {majority:.4}");
        self.summary.check("the model beats both baselines", model > no_change.max(majority), found);
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        daemon.terminate()?;
        let asked = Instant::now();
        let mut ended = None;
        while ended.is_none() && asked.elapsed() < PATIENCE {
            self.turn()?;
            ended = daemon.ended()?;
        }
        let held = ended.is_some_and(|status| status.success());
        let found = ended.map_or("it still ran".to_string(), |status| status.to_string());
        let found = format!("{found} after {:.0} ms", asked.elapsed().as_secs_f64() * 1e3);
        self.summary.check("the daemon drains when told to, and ends with 0", held, found);
        Ok(())
    }

    fn second_act(&mut self) -> Result<(), End> {
        self.phase = "second act: a file, exactly";
        let share = if self.seconds >= 10 { 0.5 } else { 0.25 };
        let events = ((self.summary.rate as f64 * share) as u64).clamp(10_000, 400_000);
        self.note(format!(
            "second act: {} generated events into a file, twice; one daemon runs through, the other is killed half way",
            grouped(events)
        ))?;
        let (dir, pipeline) = (self.dir.path().to_path_buf(), self.pipeline.clone());
        let exactness = exact::play(&dir, &pipeline, events, PACE, &mut || self.turn())?;
        self.note(format!("exactness: {}", summary::exact_text(&exactness)))?;
        let found = format!("xxh3 {} and {}", exactness.whole.1, exactness.killed.1);
        self.summary.check("killed or not, the file is the same byte for byte", exactness.equal, found);
        self.summary.exactness = Some(exactness);
        Ok(())
    }

    fn status(&self) -> Option<StatusReport> {
        self.status.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn note(&mut self, text: String) -> Result<()> {
        let text = format!("{:4.1} s  {text}", self.began.elapsed().as_secs_f64());
        self.show.note(&text)?;
        self.notes.push(text);
        Ok(())
    }

    /// Goes on until so long after the beginning.
    fn until(&mut self, after: Duration) -> Result<(), End> {
        while self.began.elapsed() < after {
            self.turn()?;
        }
        Ok(())
    }

    fn wait(&mut self, what: &str, mut done: impl FnMut(&Stage) -> bool) -> Result<(), End> {
        let began = Instant::now();
        while !done(self) {
            if began.elapsed() > PATIENCE {
                return Err(Fault::internal(format!("the demo waited {PATIENCE:?} in vain: {what}")).into());
            }
            self.turn()?;
        }
        Ok(())
    }

    /// One look around: shows where things stand, and ends what must end.
    fn turn(&mut self) -> Result<(), End> {
        std::thread::sleep(LOOK_EVERY);
        if let Some(wrong) = self.told.fault() {
            return Err(Fault::internal(format!("the demo's check failed: {wrong}")).into());
        }
        if let Some(daemon) = &mut self.daemon
            && let Some(status) = daemon.ended()?
        {
            return Err(daemon.unexpected_end(status).into());
        }
        if self.stop.load(Relaxed) || self.show.quit_pressed()? {
            return Err(End::Early);
        }
        if self.live {
            self.meter.sample(&self.told);
        }
        let status = self.status();
        let mut frame = self.meter.frame(&self.told, status.as_ref());
        (frame.elapsed, frame.seconds) = (self.began.elapsed(), self.seconds);
        (frame.phase, frame.live, frame.notes) = (self.phase, self.live, &self.notes);
        Ok(self.show.turn(&frame)?)
    }
}

/// The longest time without an answer in as long as a swap is watched.
fn longest_pause(told: &Told) -> Duration {
    told.pause_ns.store(0, Relaxed);
    std::thread::sleep(WATCH_SWAP);
    Duration::from_nanos(told.pause_ns.load(Relaxed))
}

/// A port that is free now; the daemon takes it a moment later.
fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map_err(|e| Fault::io("a free port on 127.0.0.1", &e))
}

fn config_text(dir: &Path, pipeline: &Path, address: SocketAddr, seconds: u64) -> String {
    let checkpoint_ms = (seconds * 1_000 / 30).clamp(100, 250);
    format!(
        "pipeline = {}\nstate_dir = {}\n\
         [source]\nkind = \"socket\"\nformat = \"json\"\nlisten = \"{address}\"\n\
         [sink]\nkind = \"socket\"\n\
         [delivery]\ncommit_interval_ms = 20\n[checkpoint]\ninterval_ms = {checkpoint_ms}\n\
         [admin]\nsocket = {}\n",
        quoted(pipeline),
        quoted(&dir.join("state")),
        quoted(&dir.join("admin.sock")),
    )
}

/// How many learned events a daemon that recovered says are lost.
fn lost_learned(log: &str) -> u64 {
    let said = log.lines().find_map(|line| line.split_once(" learned events since the last checkpoint are lost"));
    said.and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// Asks for the status in the background, for as long as somebody keeps it.
fn follow_status(socket: PathBuf, kept: Weak<Mutex<Option<StatusReport>>>) -> Result<()> {
    let follow = move || {
        while let Some(place) = kept.upgrade() {
            if let Some(report) = daemon::status(&socket) {
                *place.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(report);
            }
            drop(place);
            std::thread::sleep(STATUS_EVERY);
        }
    };
    let thread = std::thread::Builder::new().name("status".into()).spawn(follow);
    thread.map(|_| ()).map_err(|e| Fault::io("start the status thread", &e))
}

/// Sets `stop` when a signal asks the demo to end.
fn heed_signals(stop: Arc<AtomicBool>) -> Result<()> {
    let broken = |e: std::io::Error| Fault::io("install a signal handler", &e);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(broken)?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(broken)?, signal(SignalKind::terminate()).map_err(broken)?)
    };
    let heed = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        stop.store(true, Relaxed);
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(heed);
    thread.map(|_| ()).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_read_from_the_log() {
        let line = "2026-01-01T00:00:00Z  WARN 1234 learned events since the last checkpoint are lost: a socket";
        assert_eq!(lost_learned(&format!("first\n{line} lane=0\n")), 1_234);
        assert_eq!(lost_learned("2026-01-01T00:00:00Z  INFO goes on where it stopped"), 0);
    }

    #[test]
    fn the_config_is_one_that_the_daemon_takes() {
        let dir = tempfile::tempdir().expect("dir");
        let pipeline = dir.path().join("hyperplane.toml");
        std::fs::write(&pipeline, stream::PIPELINE).expect("written");
        let path = dir.path().join("millstream.toml");
        let address = free_address().expect("a free port");
        std::fs::write(&path, config_text(dir.path(), &pipeline, address, 30)).expect("written");
        let config = crate::config::Config::load(&path, &[], &crate::config::Environment::default()).expect("a config");
        assert!(crate::engine::read_pipeline(&config).is_ok());
        assert_eq!(config.checkpoint.interval_ms, 250);
    }
}
