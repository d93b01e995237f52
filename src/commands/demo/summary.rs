//! What the demo says at its end: what was checked, and what came out.

use super::exact::Exactness;
use super::view::grouped;
use crate::error::Fault;
use std::fmt::Write;
use std::time::Duration;

/// Something that must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    /// What must hold.
    pub name: &'static str,
    /// Whether it did.
    pub held: bool,
    /// What was found.
    pub found: String,
}

/// How the swap went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Swap {
    /// The candidate's version.
    pub version: String,
    /// The first event that it scored.
    pub seq: u64,
    /// Events that it was trained on before.
    pub trained: u64,
    /// From the request to the daemon's answer.
    pub took: Duration,
    /// Longest time without an answer meanwhile.
    pub pause: Duration,
    /// The same over as long a time before.
    pub usual: Duration,
}

/// How the crash went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Crash {
    /// Number of the last event that was answered before.
    pub last_seq: u64,
    /// Events that were on their way, and were sent again.
    pub resent: u64,
    /// Number of the first event after it.
    pub first_seq: u64,
    /// From the kill to the first answer.
    pub back_after: Duration,
    /// Learned events that were younger than the last checkpoint.
    pub lost_learned: u64,
}

/// Everything that the end tells.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Checks in the order in which they were made.
    pub checks: Vec<Check>,
    /// Events sent, each counted once, and answered.
    pub events: [u64; 2],
    /// Events a second.
    pub rate: u64,
    /// Sent to answered: p50, p99, p99.9, longest.
    pub latency_ms: [f64; 4],
    /// Inside the daemon.
    pub inside_ms: [f64; 4],
    /// Accuracy of the model, no-change and majority.
    pub accuracy: [f64; 3],
    /// The hot swap, if it came to that.
    pub swap: Option<Swap>,
    /// The kill, if it came to that.
    pub crash: Option<Crash>,
    /// The second act, if it came to that.
    pub exactness: Option<Exactness>,
}

impl Summary {
    /// Notes whether something held.
    pub fn check(&mut self, name: &'static str, held: bool, found: String) {
        self.checks.push(Check { name, held, found });
    }

    /// The fault of the checks that did not hold.
    pub fn fault(&self) -> Option<Fault> {
        let failed: Vec<String> =
            self.checks.iter().filter(|c| !c.held).map(|c| format!("{}: {}", c.name, c.found)).collect();
        (!failed.is_empty()).then(|| {
            Fault::internal(format!("the demo's check failed: {}", failed.join("; ")))
                .hint("this should not happen: please report it with the output above")
        })
    }

    /// The text, for people.
    pub fn text(&self, title: &str) -> String {
        let mut text = format!("\n{title}\n");
        let mut row = |name: &str, what: String| _ = writeln!(text, "  {name:<12}{what}");
        let [sent, answered] = self.events;
        row(
            "events",
            format!("{} sent, {} answered, each scored before it was learned", grouped(sent), grouped(answered)),
        );
        row("rate", format!("{} events/s over the socket, the crash included", grouped(self.rate)));
        for (name, ms) in [("latency", self.latency_ms), ("", self.inside_ms)] {
            let [p50, p99, p999, longest] = ms;
            let what =
                if name.is_empty() { "inside the daemon since its start" } else { "sent to answered, at full load" };
            row(
                name,
                format!("p50 {p50:.2} ms, p99 {p99:.2} ms, p99.9 {p999:.2} ms, longest {longest:.1} ms ({what})"),
            );
        }
        let [model, no_change, majority] = self.accuracy;
        row(
            "accuracy",
            format!(
                "{model:.4} (no-change {no_change:.4}, majority {majority:.4}; 5 % of the labels are wrong, so that 0.95 is the best there is)"
            ),
        );
        if let Some(swap) = &self.swap {
            row("hot swap", swap_text(swap));
        }
        if let Some(crash) = &self.crash {
            row("kill -9", crash_text(crash));
        }
        if let Some(exact) = &self.exactness {
            row("exactness", exact_text(exact));
        }
        for check in &self.checks {
            let verdict = if check.held { "ok" } else { "FAILED" };
            row(verdict, format!("{}: {}", check.name, check.found));
        }
        text
    }
}

pub(super) fn swap_text(swap: &Swap) -> String {
    format!(
        "version {} (another optimizer, trained on the last {} events) answers from event {} on; in force and on disk \
         within {:.1} ms, longest pause between two answers meanwhile {:.1} ms (just before: {:.1} ms)",
        swap.version,
        grouped(swap.trained),
        grouped(swap.seq),
        swap.took.as_secs_f64() * 1e3,
        swap.pause.as_secs_f64() * 1e3,
        swap.usual.as_secs_f64() * 1e3,
    )
}

pub(super) fn crash_text(crash: &Crash) -> String {
    format!(
        "killed after event {}; first prediction again {:.0} ms later, as event {} (numbering goes on from the last \
         commit); {} unanswered events sent again; {} learned events since the last checkpoint lost (a socket cannot \
         be read again)",
        grouped(crash.last_seq),
        crash.back_after.as_secs_f64() * 1e3,
        grouped(crash.first_seq),
        grouped(crash.resent),
        grouped(crash.lost_learned),
    )
}

pub(super) fn exact_text(exact: &Exactness) -> String {
    format!(
        "{} generated events to a file: run through, {} bytes, xxh3 {}; killed at byte {} and started again, {} bytes, \
         xxh3 {}: {}",
        grouped(exact.events),
        grouped(exact.whole.0),
        exact.whole.1,
        grouped(exact.killed_at),
        grouped(exact.killed.0),
        exact.killed.1,
        if exact.equal { "byte-identical" } else { "they differ" },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_failed_is_named() {
        let mut summary = Summary::default();
        summary.check("none lost", true, "lost 0".into());
        assert_eq!(summary.fault(), None);
        summary.check("the version", false, "a instead of b".into());
        let fault = summary.fault().expect("a fault");
        assert_eq!(fault.message, "the demo's check failed: the version: a instead of b");
        assert_eq!(fault.class.exit_code(), 1);
        let text = summary.text("The end");
        assert!(text.contains("ok          none lost: lost 0") && text.contains("FAILED      the version"), "{text}");
    }
}
