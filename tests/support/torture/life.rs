//! One life of a daemon: from its start to its death, watched.

use super::plan::{At, Life, Plan, Road, is_recovery};
use super::{Arena, Report};
use crate::support::daemon::Daemon;
use millstream::admin::CtlAction;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a planned step may be waited for, from the time on when the daemon is ready.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a daemon may take to be ready.
const RECOVERY_MAX: Duration = Duration::from_secs(60);
/// How often the daemon is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// How a daemon died.
#[derive(Debug, Clone)]
pub struct Death {
    /// What was planned.
    pub planned: At,
    /// The planned step wasn't reached in time: it was killed where it stood.
    pub missed: bool,
    /// It had not recovered from the death before.
    pub recovering: bool,
}

impl Death {
    /// The row of the table that it counts in.
    pub fn kind(&self) -> String {
        match self.planned {
            _ if self.missed => "random, for a step".to_string(),
            At::Step(step, _) => step.to_string(),
            At::Ready(_) => "random, at work".to_string(),
            At::Start(_) => "random, after a start".to_string(),
        }
    }
}

/// The lives of a round.
pub struct Lives<'a> {
    pub plan: &'a Plan,
    pub arena: &'a Arena,
    pub report: &'a mut Report,
    pub say: &'a (dyn Fn(String) + Sync),
}

/// What was seen of a daemon so far.
struct Seen {
    born: Instant,
    ready: Option<Instant>,
    /// Committed events when it was ready.
    found: u64,
    committed: u64,
    first_commit: Option<Duration>,
}

impl Seen {
    fn look(&mut self, daemon: &Daemon) {
        let Ok(status) = daemon.ask(&CtlAction::Status) else { return };
        if status["pid"] != daemon.pid() || status["ready"] != true {
            return;
        }
        let Some(lanes) = status["lanes"].as_array() else { return };
        self.committed = lanes.iter().filter_map(|lane| lane["committed_seq"].as_u64()).sum();
        if self.ready.is_none() {
            (self.ready, self.found) = (Some(Instant::now()), self.committed);
        }
        if self.first_commit.is_none() && self.committed > self.found {
            self.first_commit = Some(self.born.elapsed());
        }
    }
}

impl Lives<'_> {
    /// One life, to its planned end.
    pub fn live(&mut self, number: usize, life: &Life) {
        let more: Vec<&str> = life.tuning.iter().map(String::as_str).collect();
        let mut command = self.arena.scene.daemon_command(&more);
        if let Some(mistake) = &self.plan.plant {
            command.env("MILLSTREAM_PLANT", mistake);
        }
        if let At::Step(step, count) = life.at {
            command.env("MILLSTREAM_KILL_AT", format!("{step}:{count}"));
        }
        let mut daemon = self.arena.scene.spawn_as(command);
        let mut seen = Seen { born: Instant::now(), ready: None, found: 0, committed: 0, first_commit: None };
        let drains = matches!(life.at, At::Step(step, _) if step.starts_with("drain."));
        let (mut told, mut missed) = (false, false);
        let ended = loop {
            if let Some(status) = daemon.ended() {
                break status;
            }
            let due = match life.at {
                At::Start(after) => seen.born.elapsed() >= after,
                At::Ready(after) => seen.ready.is_some_and(|ready| ready.elapsed() >= after),
                At::Step(..) => {
                    missed = seen.ready.is_some_and(|ready| ready.elapsed() >= PATIENCE);
                    missed
                }
            };
            if due {
                // It may have died by itself just now.
                daemon.signal(libc::SIGKILL);
                break loop {
                    match daemon.ended() {
                        Some(status) => break status,
                        None => std::thread::sleep(Duration::from_millis(1)),
                    }
                };
            }
            assert!(seen.born.elapsed() < RECOVERY_MAX, "not ready after {RECOVERY_MAX:?}: {}", daemon.said());
            seen.look(&daemon);
            if drains && !told && seen.first_commit.is_some() {
                daemon.signal(libc::SIGTERM);
                told = true;
            }
            std::thread::sleep(LOOK);
        };
        let said = daemon.said();
        // Told to stop while its lane waits for brokers, a daemon ends without coming by the steps of a drain.
        let left = drains && told && self.plan.calm.is_some() && ended.success();
        missed |= left;
        let is_killed = ended.signal() == Some(libc::SIGKILL);
        assert!(is_killed || left, "life {number} ({}) ended by {ended}: {said}", life.at);
        for (kind, line) in check_log(&said, self.report.damaged > 0, self.plan.calm.is_some()) {
            (self.say)(format!("round {} kill {number}: {line}", self.plan.round));
            *self.report.setbacks.entry(kind).or_default() += 1;
        }
        let recovering = match life.at {
            At::Step(step, _) if !missed => is_recovery(step),
            _ => seen.ready.is_none(),
        };
        let death = Death { planned: life.at, missed, recovering: recovering && number > 0 };
        self.tell(number, &death, &seen);
        self.report.deaths.push(death);
        self.report.restarts.extend(seen.first_commit.filter(|_| number > 0));
        if let Some((lane, way)) = life.damage {
            self.report.damaged += u64::from(damage(&self.arena.scene.path(&format!("state/lane-{lane}")), way));
        }
        if self.plan.road == Road::Kafka && number % 4 == 3 {
            super::proof::offsets_are_not_ahead(self.plan, &self.arena.stream);
        }
    }

    fn tell(&self, number: usize, death: &Death, seen: &Seen) {
        let plan = self.plan;
        let missed = if death.missed { " (not reached: killed where it stood)" } else { "" };
        let recovering = if death.recovering { ", in its recovery" } else { "" };
        let first = seen.first_commit.map_or("-".to_string(), |t| format!("{} ms", t.as_millis()));
        (self.say)(format!(
            "round {} ({:?}, {} lanes, {} inputs) kill {number}: {}{missed}{recovering}; {} events committed; first commit after {first}",
            plan.round,
            plan.road,
            plan.lanes,
            super::feed::inputs(plan),
            death.planned,
            seen.committed
        ));
    }
}

/// Damages the newest checkpoint in a lane's folder, if there is one: cut to nothing, cut short, or a bit turned.
fn damage(folder: &Path, way: u64) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_checkpoint =
        |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("checkpoint-"));
    let Some(newest) = entries.filter(is_checkpoint).max() else { return false };
    let mut bytes = std::fs::read(&newest).expect("readable");
    let at = (way >> 8) as usize % bytes.len().max(1);
    match way % 3 {
        0 => bytes.clear(),
        1 => bytes.truncate(at),
        _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (way >> 4 & 7)),
    }
    std::fs::write(&newest, bytes).expect("written");
    true
}

/// What a lane may get over where brokers are in trouble, and how many times it did.
const SETBACKS: [(&str, &str); 4] = [
    ("could not be made: ", "a topic waited for brokers"),
    ("INVALID_PRODUCER_EPOCH", "aborted for a stale epoch"),
    ("the lane goes on from its last commit", "aborted for another reason"),
    // A request for a new epoch whose sender died, or gave up, and which came late.
    ("was taken by another daemon", "shut out by an earlier start"),
];

/// What no daemon may say, however it dies; that it takes an older checkpoint, only where one was damaged; that its
/// lane was set back, only where brokers are in trouble. Returns what kinds of setbacks those were.
pub fn check_log(said: &str, damaged: bool, in_trouble: bool) -> Vec<(&'static str, String)> {
    let (setbacks, said): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| is_setback(line) && in_trouble);
    for word in ["ERROR", "a setback", "differs", "trying an older one", "panicked"] {
        if damaged && word == "trying an older one" {
            continue;
        }
        assert!(!said.iter().any(|line| line.contains(word)), "the daemon says {word:?}: {}", said.join("\n"));
    }
    let kind = |line: &&str| SETBACKS.iter().find(|(words, _)| line.contains(words)).map(|(_, kind)| *kind);
    setbacks.into_iter().filter_map(|line| Some((kind(&line)?, line.to_string()))).collect()
}

fn is_setback(line: &str) -> bool {
    line.contains("a setback") && SETBACKS.iter().any(|(words, _)| line.contains(words))
}
