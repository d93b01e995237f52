//! `recovery`: what a checkpoint each second costs, and the way back from `kill -9`: the time to the first
//! prediction, the rate of replay, and that nothing is lost, nothing comes twice and no byte differs.

use crate::daemon::{Daemon, Place};
use crate::events::PIPELINE;
use crate::report::{Beside, Figure, Outcome, Report, Run, short};
use crate::stats::Samples;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the output is looked at while waiting for the first prediction.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// No prediction for so long after a restart is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// All parts, one after another.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let hash = kill_and_compare(run, report)?;
    replay(run, report, hash)?;
    for (bits, name) in [(18, "checkpoints-2mb"), (24, "checkpoints-128mb")] {
        if bits == 18 || !run.smoke {
            price(run, report, bits, name, hash)?;
        }
    }
    Ok(())
}

/// The hyperplane's floats hashed into a table of 2^`bits` weights of 8 bytes.
fn hashed_spec(bits: u32) -> String {
    let fields = (0..20).map(|i| format!("\"f{i}\"")).collect::<Vec<_>>().join(", ");
    let step = format!("kind = \"hash\"\nfields = [{fields}]\nbits = {bits}\n");
    PIPELINE.replace("kind = \"standard-scale\"\n", &step)
}

fn rate_config(rate: u64, events: u64, checkpoint_ms: u64, sink: &str) -> String {
    format!(
        "[source]\nkind = \"rate\"\ngenerator = \"hyperplane\"\nrate = {rate}\nevents = {events}\n\
         [sink]\n{sink}\n[checkpoint]\ninterval_ms = {checkpoint_ms}\n"
    )
}

/// The rate with a checkpoint each second against that with none, in turn.
fn price(run: &Run, report: &mut Report, bits: u32, name: &str, hash: u64) -> Outcome {
    let events = run.size(200_000, (1.5e6 * run.seconds) as u64);
    let mut place = Place::new(hashed_spec(bits), "")?;
    let (mut with, mut without, mut ratio) = (Samples::default(), Samples::default(), Samples::default());
    let pairs = run.size(1, 5);
    for pair in 0..pairs {
        report.doing(format!("{name}: pair {} of {pairs}", pair + 1));
        let mut rates = [0.0; 2];
        for (rate, interval_ms) in rates.iter_mut().zip([86_400_000, run.size(50, 1_000)]) {
            place.forget()?;
            place.set_config(&rate_config(0, events, interval_ms, "kind = \"none\""));
            *rate = events as f64 / Daemon::start(&place, None)?.wait()?.wall.as_secs_f64();
        }
        without.push(rates[0]);
        with.push(rates[1]);
        ratio.push(rates[1] / rates[0]);
    }
    let beside = Some(Beside { name: "without".into(), value: without.median(), ratio: ratio.median() });
    let (value, worst, samples) = (with.median(), Some(with.least()), with.count());
    report.figure(&Figure { name, unit: "events/s", value, worst, beside, samples, hash: Some(hash) });
    Ok(())
}

/// Kills a daemon in full swing, starts it again, and compares its output with that of an undisturbed one.
fn kill_and_compare(run: &Run, report: &mut Report) -> Result<u64, String> {
    let (rate, events) = run.size((200_000, 200_000), (400_000, 1_600_000));
    let mut place = Place::new(PIPELINE, "")?;
    let (whole, output) = (place.path("whole.ndjson"), place.path("predictions.ndjson"));
    let file = |path: &Path| format!("kind = \"file\"\npath = \"{}\"", path.display());
    report.doing("an undisturbed run");
    place.set_config(&rate_config(0, events, 1_000, &file(&whole)));
    Daemon::start(&place, None)?.wait()?;
    let expected = fs::read(&whole).map_err(|e| e.to_string())?;
    let lines = memchr::memchr_iter(b'\n', &expected).count() as u64;
    if lines != events {
        return Err(format!("{events} events, {lines} predictions"));
    }
    let mut first = Samples::default();
    for turn in 0..run.size(1, 5) {
        report.doing(format!("kill -9, turn {}", turn + 1));
        place.forget()?;
        let _ = fs::remove_file(&output);
        place.set_config(&rate_config(rate, events, 1_000, &file(&output)));
        let mut daemon = Daemon::start(&place, None)?;
        daemon.wait_ready()?;
        std::thread::sleep(Duration::from_secs_f64(run.size(0.4, 1.7) + 0.1 * f64::from(turn)));
        daemon.kill()?;
        let mut daemon = Daemon::start(&place, None)?;
        first.push(first_growth(&output, &daemon)?.as_secs_f64() * 1e3);
        daemon.wait_ready()?;
        daemon.wait()?;
        let found = fs::read(&output).map_err(|e| e.to_string())?;
        if found != expected {
            return Err(difference(&found, &expected));
        }
    }
    let hash = xxhash_rust::xxh3::xxh3_64(&expected);
    let (value, worst, samples) = (first.median(), Some(first.most()), first.count());
    let name = "first-prediction";
    report.figure(&Figure { name, unit: "ms", value, worst, beside: None, samples, hash: Some(hash) });
    report.note("0 lost, 0 twice: byte for byte the output of an undisturbed run");
    Ok(hash)
}

/// How long after its start a daemon has added to an output (which it may first cut back).
fn first_growth(output: &Path, daemon: &Daemon) -> Result<Duration, String> {
    let length = || fs::metadata(output).map_or(0, |m| m.len());
    let mut least = length();
    while daemon.started.elapsed() < PATIENCE {
        let now = length();
        if now > least {
            return Ok(daemon.started.elapsed());
        }
        least = least.min(now);
        std::thread::sleep(LOOK_EVERY);
    }
    Err(format!("no prediction within {} s of the restart:\n{}", PATIENCE.as_secs(), daemon.log()))
}

/// The first line in which two outputs differ.
fn difference(found: &[u8], expected: &[u8]) -> String {
    let (mut a, mut b) = (found.split(|c| *c == b'\n'), expected.split(|c| *c == b'\n'));
    for line in 0_u64.. {
        let (x, y) = (a.next(), b.next());
        if x != y {
            let text = |l: Option<&[u8]>| l.map_or("nothing".into(), |l| String::from_utf8_lossy(l).into_owned());
            return format!("after kill -9, line {line} is {}; an undisturbed run wrote {}", text(x), text(y));
        }
        if x.is_none() {
            break;
        }
    }
    "after kill -9, the output differs".into()
}

/// Events a second when the past is run again: everything since the start, no checkpoint in between.
fn replay(run: &Run, report: &mut Report, hash: u64) -> Outcome {
    let mut place = Place::new(PIPELINE, "")?;
    let (mut rate, mut past) = (Samples::default(), Samples::default());
    for turn in 0..run.size(1, 3) {
        report.doing(format!("replay, turn {}", turn + 1));
        place.forget()?;
        place.set_config(&rate_config(0, 0, 86_400_000, "kind = \"none\""));
        let mut daemon = Daemon::start(&place, None)?;
        let fresh = daemon.wait_ready()?;
        std::thread::sleep(Duration::from_secs_f64(run.size(0.5, run.seconds)));
        daemon.kill()?;
        let began = Instant::now();
        let mut daemon = Daemon::start(&place, None)?;
        let back = daemon.wait_ready()?;
        let log = daemon.log();
        let replayed = log
            .split("replayed=")
            .nth(1)
            .and_then(|t| t.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse::<f64>().ok()));
        let replayed = replayed.ok_or_else(|| format!("the restart says nothing of a replay:\n{log}"))?;
        rate.push(replayed / back.saturating_sub(fresh).max(Duration::from_millis(1)).as_secs_f64());
        past.push(replayed);
        report.doing(format!("{} events in {:.1} s", short(replayed), began.elapsed().as_secs_f64()));
        daemon.kill()?;
    }
    let (value, worst, samples) = (rate.median(), Some(rate.least()), rate.count());
    report.figure(&Figure { name: "replay", unit: "events/s", value, worst, beside: None, samples, hash: Some(hash) });
    report.note(&format!("replayed {} events", short(past.median())));
    Ok(())
}
