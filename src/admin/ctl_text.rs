//! How `millstream ctl` shows an answer to a person: compact tables.

use crate::admin::ctl::CtlAction;
use crate::admin::status::{LaneReport, StatusReport, VersionStatus, VersionsReport};
use serde_json::Value;
use std::fmt::Write;

/// The answer as text. One that isn't what it should be (of a newer daemon) is shown as JSON.
pub fn text(action: &CtlAction, answer: &Value) -> String {
    let shown = match action {
        CtlAction::Status => serde_json::from_value(answer.clone()).map(|report| status(&report)),
        CtlAction::Versions => serde_json::from_value(answer.clone()).map(|report| versions(&report)),
        _ => return change(action, answer),
    };
    shown.unwrap_or_else(|_| format!("{answer:#}"))
}

/// Left-aligned columns, two spaces apart.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for row in rows {
        let mut line = String::new();
        for (text, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{text:width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn status(report: &StatusReport) -> String {
    let word = match (report.ready, report.stuck.is_empty()) {
        (_, false) => "stuck",
        (true, true) => "ready",
        (false, true) => "not ready",
    };
    let mut out = format!(
        "millstream {}  pid {}  up {}  {word}  {} events/s\n\n",
        report.millstream,
        report.pid,
        duration(report.uptime_seconds),
        report.events_per_second.round(),
    );
    let head = ["lane", "state", "seq", "committed", "version", "swap", "events/s", "learned", "dead", "lag", "p99 ms"];
    let mut rows = vec![row(head)];
    rows.extend(report.lanes.iter().map(lane_row));
    out.push_str(&table(&rows));
    for lane in &report.lanes {
        out.push_str(&details(lane));
    }
    out
}

fn lane_row(lane: &LaneReport) -> Vec<String> {
    let s = &lane.status;
    vec![
        s.lane.to_string(),
        s.state.name().to_owned(),
        s.seq.to_string(),
        s.committed_seq.to_string(),
        s.current.version.clone(),
        s.current.swap.to_string(),
        lane.events_per_second.round().to_string(),
        lane.learned.to_string(),
        lane.dead_letters.to_string(),
        lane.lag_events.map_or("-".to_owned(), |lag| lag.to_string()),
        format!("{:.3}", lane.latency_ms.p99),
    ]
}

fn details(lane: &LaneReport) -> String {
    let mut out = format!("\nlane {}\n", lane.status.lane);
    let checkpoint = &lane.status.checkpoint;
    let seq = checkpoint.seq.map_or("none yet".to_owned(), |seq| format!("seq {seq}"));
    let _ = writeln!(out, "  checkpoint  {seq}, age {}", duration(lane.checkpoint_age_seconds));
    if let Some(error) = &checkpoint.error {
        let _ = writeln!(out, "  CHECKPOINTS FAIL  {error}");
    }
    for input in &lane.status.inputs {
        let _ = writeln!(out, "  input  {}  next offset {}", input.input, input.position.offset);
    }
    if let Some(quality) = &lane.quality {
        for (span, report) in [("window", quality.window.as_deref()), ("start", Some(quality))] {
            for (predictor, metrics) in report.iter().flat_map(|r| r.predictors()) {
                let metrics: Vec<String> = metrics.iter().map(|(name, v)| format!("{name} {v:.4}")).collect();
                let _ = writeln!(out, "  {span:6}  {predictor:9}  {}", metrics.join("  "));
            }
        }
    }
    for fault in &lane.status.faults {
        let _ = writeln!(out, "  fault  {} ({} times)", fault.message, fault.count);
    }
    out
}

fn versions(report: &VersionsReport) -> String {
    let mut rows = vec![row(["lane", "", "version", "swap", "since seq", "origin"])];
    for lane in &report.lanes {
        let mut push = |what: &str, v: &VersionStatus| {
            let (number, swap, seq) = (lane.lane.to_string(), v.swap.to_string(), v.since_seq.to_string());
            rows.push(row([&number, what, &v.version, &swap, &seq, &v.origin]));
        };
        push("current", &lane.current);
        if let Some(previous) = &lane.previous {
            push("previous", previous);
        }
    }
    table(&rows)
}

/// What a change did: `done`, and what the daemon told of it, a key a line.
fn change(action: &CtlAction, answer: &Value) -> String {
    let mut out = format!("{}: done\n", action.name());
    let Value::Object(map) = answer else { return out };
    for (key, value) in map {
        match value {
            Value::Array(items) => items.iter().for_each(|item| {
                let named = if item.is_object() { String::new() } else { format!("{key} ") };
                let _ = writeln!(out, "  {named}{}", flat(item));
            }),
            _ => {
                let _ = writeln!(out, "  {key} {}", flat(value));
            }
        }
    }
    out
}

fn flat(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key} {}", flat(value))).collect::<Vec<_>>().join("  ")
        }
        other => other.to_string(),
    }
}

fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    match s {
        0..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_say_where_they_took_effect() {
        let answer =
            json!({"version": "3f9c2ab1", "lanes": [{"lane": 0, "seq": 17}, {"lane": 1, "seq": 19}], "elsewhere": [2]});
        let text = text(&CtlAction::Rollback, &answer);
        assert_eq!(text, "rollback: done\n  version 3f9c2ab1\n  lane 0  seq 17\n  lane 1  seq 19\n  elsewhere 2\n");
    }

    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let text = table(&[row(["a", "long", ""]), row(["ccc", "d", "e"])]);
        assert_eq!(text, "a    long\nccc  d     e\n");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!([5.9, 61.0, 3_700.0, 90_000.0].map(duration), ["5s", "1m01s", "1h01m", "1d01h"]);
    }

    #[test]
    fn an_unknown_answer_is_shown_as_it_is() {
        assert!(text(&CtlAction::Status, &json!({"new": true})).contains("\"new\": true"));
    }
}
