//! `kafka`: eight partitions of JSON rows through the real daemon to predictions in another topic, scored and
//! learned; one row a record and a hundred, by the direct client and by librdkafka. Beside it, in the same run and in
//! turn, a loop over librdkafka that looks at nothing (`kafka_loop.rs`). Broker, daemon and loop share the machine's
//! cores.

use crate::broker::Broker;
use crate::daemon::{Daemon, Place};
use crate::events::{PIPELINE, Rows, read_prediction};
use crate::kafka_loop::Loop;
use crate::machine;
use crate::report::{Beside, Figure, Outcome, Report, Run};
use crate::stats::{Samples, hash_scores};
use millstream::admin::ctl::{CtlAction, ask};
use std::time::{Duration, Instant};

/// How often the rows go through a turn at full size: a turn of a second would be its start and its last commit.
const REPEATS: usize = 4;
/// More memory than broker and daemon take in a turn. Where a virtual machine gives what is free back to its host, the
/// first to touch a page waits for the host: half of the broker's CPU time, and not the broker's.
const TURN_BYTES: usize = 2 << 30;
/// Rows in a packed record.
const PACKED_ROWS: usize = 100;
/// How long a run may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// Milliseconds between two commits, of the daemon and of the loop.
const COMMIT_MS: u64 = 100;

/// A way to run the daemon.
struct Way {
    name: &'static str,
    exactly_once: bool,
    packed: bool,
    client: &'static str,
    /// A turn of the loop goes with it.
    looped: bool,
}

const fn way(name: &'static str, exactly_once: bool, packed: bool, client: &'static str) -> Way {
    Way { name, exactly_once, packed, client, looped: !packed && matches!(client.as_bytes(), b"direct") }
}

const WAYS: [Way; 6] = [
    way("exactly-once", true, false, "direct"),
    way("exactly-once-librdkafka", true, false, "librdkafka"),
    way("at-least-once", false, false, "direct"),
    way("at-least-once-librdkafka", false, false, "librdkafka"),
    way("exactly-once-packed", true, true, "direct"),
    way("at-least-once-packed", false, true, "direct"),
];

/// What the turns of one way brought.
#[derive(Default)]
struct Measured {
    rate: Samples,
    cpu: Samples,
    loop_rate: Samples,
    loop_cpu: Samples,
    hash: u64,
}

/// Topics that hold the input.
struct Inputs {
    rows: usize,
    single: String,
    packed: String,
}

/// Checks the predictions of every way, then times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let Some(broker) = Broker::find_or_say(report) else { return Ok(()) };
    let inputs = fill(&broker, run, report)?;
    let pairs = run.size(1, 5);
    if !run.smoke {
        // The broker compiles itself while it runs at first, on the cores that all share.
        report.doing("warming the broker up");
        warm_up(&broker, &WAYS[0], &inputs)?;
    }
    let mut measured: [Measured; WAYS.len()] = Default::default();
    for pair in 0..pairs {
        for (way, m) in WAYS.iter().zip(&mut measured) {
            report.doing(format!("turn {} of {pairs}: {}", pair + 1, way.name));
            let to = format!("out-{}-{pair}-{}", way.name, std::process::id());
            fetch_memory(run);
            let (seconds, cpu_seconds) = daemon_turn(&broker, way, &inputs, &to)?;
            m.rate.push(inputs.rows as f64 / seconds);
            m.cpu.push(cpu_seconds * 1e9 / inputs.rows as f64);
            if pair == 0 {
                m.hash = check(&broker, &to, inputs.rows)?;
            }
            broker.remove(&to)?;
            if way.looped {
                let to = format!("loop-{}-{pair}-{}", way.name, std::process::id());
                fetch_memory(run);
                let looped = loop_turn(&broker, way, &inputs, &to)?;
                m.loop_rate.push(inputs.rows as f64 / looped.0);
                m.loop_cpu.push(looped.1 * 1e9 / inputs.rows as f64);
                broker.remove(&to)?;
            }
        }
    }
    WAYS.iter().zip(&measured).for_each(|(way, m)| show(report, way, m));
    report.note(&format!(
        "{} rows, {COMMIT_MS} ms between commits; beside it: librdkafka, batch reads, answers of 90 bytes unlooked at",
        inputs.rows
    ));
    Ok(())
}

/// Has the machine's free memory at hand for a turn at full size.
fn fetch_memory(run: &Run) {
    if !run.smoke {
        machine::touch_memory(TURN_BYTES.min(machine::available_bytes() / 2));
    }
}

/// A turn of the daemon and one of the loop that don't count.
fn warm_up(broker: &Broker, way: &Way, inputs: &Inputs) -> Outcome {
    let (daemon, looped) = ("warm-daemon", "warm-loop");
    daemon_turn(broker, way, inputs, daemon)?;
    loop_turn(broker, way, inputs, looped)?;
    broker.remove(daemon)?;
    broker.remove(looped)
}

fn fill(broker: &Broker, run: &Run, report: &Report) -> Result<Inputs, String> {
    report.doing("filling topics");
    let (rows, repeats) = (Rows::new(run.size(50_000, 2_000_000)), run.size(1, REPEATS));
    let json = rows.json();
    let name = |kind: &str| format!("in-{kind}-{}", std::process::id());
    let inputs = Inputs { rows: rows.len() * repeats, single: name("single"), packed: name("packed") };
    let lines: Vec<&[u8]> = json.split(|b| *b == b'\n').filter(|line| !line.is_empty()).collect();
    broker.fill(&inputs.single, (0..repeats).flat_map(|_| lines.iter().copied()))?;
    let packed: Vec<Vec<u8>> = lines.chunks(PACKED_ROWS).map(|rows| rows.join(&b'\n')).collect();
    broker.fill(&inputs.packed, (0..repeats).flat_map(|_| packed.iter().map(Vec::as_slice)))?;
    Ok(inputs)
}

/// One run of a fresh daemon over a whole topic: wall and CPU seconds from its readiness to its last commit.
fn daemon_turn(broker: &Broker, way: &Way, inputs: &Inputs, to: &str) -> Result<(f64, f64), String> {
    broker.topic(to)?;
    let from = if way.packed { &inputs.packed } else { &inputs.single };
    let config = config(broker, from, to, way.exactly_once, COMMIT_MS);
    let config = config.replace("[source]\n", &format!("[source]\nclient = \"{}\"\n", way.client));
    let place = Place::new(PIPELINE, &config)?;
    let mut daemon = Daemon::start(&place, None)?;
    daemon.wait_ready()?;
    let (began, cpu) = (Instant::now(), machine::process_cpu_ns(daemon.pid()));
    let socket = place.path("admin");
    let rows = inputs.rows as u64;
    loop {
        let status = ask(&socket, &CtlAction::Status).map_err(|f| format!("{}\n{}", f.message, daemon.log()))?;
        let committed = status["lanes"][0]["committed_seq"].as_u64().unwrap_or(0);
        if committed == rows {
            break;
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{rows} rows were not committed within {} s: {status}", PATIENCE.as_secs()));
        }
        // Each question costs the daemon CPU time that is counted: the end alone is looked for closely.
        std::thread::sleep(Duration::from_millis(if committed + rows / 4 < rows { 50 } else { 5 }));
    }
    let seconds = began.elapsed().as_secs_f64();
    let cpu_seconds = (machine::process_cpu_ns(daemon.pid()) - cpu) as f64 / 1e9;
    daemon.stop()?;
    Ok((seconds, cpu_seconds))
}

/// A config of a Kafka lane.
pub fn config(broker: &Broker, from: &str, to: &str, exactly_once: bool, commit_ms: u64) -> String {
    let guarantee = if exactly_once { "exactly-once" } else { "at-least-once" };
    format!(
        "[source]\nkind = \"kafka\"\nformat = \"json\"\nbrokers = \"{}\"\ntopics = [\"{from}\"]\ngroup = \"{to}\"\n\
         [sink]\nkind = \"kafka\"\ntopic = \"{to}\"\n\
         [delivery]\nguarantee = \"{guarantee}\"\ncommit_interval_ms = {commit_ms}\n[log]\nlevel = \"warn\"\n",
        broker.address
    )
}

fn loop_turn(broker: &Broker, way: &Way, inputs: &Inputs, to: &str) -> Result<(f64, f64), String> {
    broker.topic(to)?;
    let plan = Loop {
        brokers: broker.address.clone(),
        from: inputs.single.clone(),
        to: to.to_string(),
        messages: inputs.rows as u64,
        exactly_once: way.exactly_once,
        commit_ms: COMMIT_MS,
    };
    let looped = plan.start()?.finish()?;
    Ok((looped.seconds, looped.cpu_seconds))
}

/// Every row has one prediction: each number of the lane's sequence once, with a score between 0 and 1. Returns
/// a hash of the scores in the lane's order.
fn check(broker: &Broker, topic: &str, rows: usize) -> Result<u64, String> {
    let mut scores = vec![f64::NAN; rows];
    broker.read(topic, |value| {
        for line in value.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let text = || String::from_utf8_lossy(line).into_owned();
            let (_, score) = read_prediction(line).ok_or_else(|| format!("no prediction: {}", text()))?;
            let seq = seq_of(line).ok_or_else(|| format!("no seq: {}", text()))?;
            let slot = scores.get_mut(seq).ok_or_else(|| format!("seq {seq} of {rows} rows: {}", text()))?;
            if !slot.is_nan() || !(0.0..=1.0).contains(&score) {
                return Err(format!("a second prediction, or one that can't be: {}", text()));
            }
            *slot = score;
        }
        Ok(())
    })?;
    match scores.iter().position(|score| score.is_nan()) {
        Some(seq) => Err(format!("{topic}: event {seq} has no prediction")),
        None => Ok(hash_scores(scores.into_iter())),
    }
}

fn seq_of(line: &[u8]) -> Option<usize> {
    let at = memchr::memmem::find(line, b"\"seq\":")? + 6;
    let end = at + memchr::memchr2(b',', b'}', &line[at..])?;
    std::str::from_utf8(&line[at..end]).ok()?.parse().ok()
}

fn show(report: &mut Report, way: &Way, m: &Measured) {
    let (value, samples, hash) = (m.rate.median(), m.rate.count(), Some(m.hash));
    let beside = |peer: &Samples, ratio| {
        (peer.count() > 0).then(|| Beside { name: "librdkafka, no-op".into(), value: peer.median(), ratio })
    };
    report.figure(&Figure {
        name: way.name,
        unit: "events/s",
        value,
        worst: Some(m.rate.least()),
        beside: beside(&m.loop_rate, value / m.loop_rate.median()),
        samples,
        hash,
    });
    let value = m.cpu.median();
    report.figure(&Figure {
        name: &format!("{}-cpu", way.name),
        unit: "ns/event",
        value,
        worst: Some(m.cpu.most()),
        beside: beside(&m.loop_cpu, m.loop_cpu.median() / value),
        samples,
        hash,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prediction_has_a_number_in_the_lane() {
        assert_eq!(seq_of(b"{\"input\":\"a\",\"seq\":17,\"score\":0.5}"), Some(17));
        assert_eq!(seq_of(b"{\"seq\":3}"), Some(3));
        assert_eq!(seq_of(b"{\"score\":0.5}"), None);
    }
}
