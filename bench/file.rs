//! `file`: rows with 20 floats and a label, from a CSV and a JSON file through the real daemon, learning, to
//! predictions in a file; from the process's start to its end. Beside it Vowpal Wabbit on the same rows, and the
//! floor; and how much faster two cores are than one, with one lane and with two.

use crate::daemon::{Daemon, Place};
use crate::events::{PIPELINE, Rows, check_predictions, csv_header, expected_scores};
use crate::floor::{self, Floor};
use crate::machine::Cores;
use crate::peer_vw::Vw;
use crate::report::{Beside, Figure, Outcome, Report, Run, short};
use crate::stats::{Samples, hash_scores};
use millstream::decode::Format;
use std::fs;

/// What the runs over one file brought.
struct Measured {
    name: &'static str,
    format: Format,
    bytes: Vec<u8>,
    seconds: Samples,
    /// CPU nanoseconds a row.
    ns: Samples,
    floors: Vec<Floor>,
}

/// What Vowpal Wabbit's runs brought.
struct Peer {
    vw: Vw,
    seconds: Samples,
    cpu_seconds: Samples,
    learn_seconds: Samples,
}

/// Checks every prediction against a pipeline in this process, and times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    report.doing("writing files");
    let rows = Rows::new(run.size(100_000, 1_000_000));
    let mut place = Place::new(PIPELINE, "")?;
    let write = |name: &str, bytes: &[u8]| fs::write(place.path(name), bytes).map_err(|e| format!("{name}: {e}"));
    let (csv, json) = (rows.csv(), rows.json());
    write("rows.json", &json)?;
    write("rows.csv", &[csv_header().as_bytes(), &csv].concat())?;
    let expected = expected_scores(PIPELINE, &json)?;
    let hash = Some(hash_scores(expected.iter().copied()));
    let mut peer = Vw::find().map(|vw| {
        let [seconds, cpu_seconds, learn_seconds] = <[Samples; 3]>::default();
        Peer { vw, seconds, cpu_seconds, learn_seconds }
    });
    if peer.is_some() {
        write("rows.vw", &rows.vw())?;
    }
    let measured = |name, format, bytes| {
        let (seconds, ns) = Default::default();
        Measured { name, format, bytes, seconds, ns, floors: Vec::new() }
    };
    let mut all = [measured("csv", Format::Csv, csv), measured("json", Format::Json, json)];
    // Once without timing: what was just written is on its way to the disk.
    report.doing("checking");
    for m in &all {
        once(&mut place, m.name, &expected)?;
    }
    let pairs = run.size(1, 5);
    for pair in 0..pairs {
        for m in &mut all {
            report.doing(format!("pair {} of {pairs}: {}, the floor", pair + 1, m.name));
            m.floors.push(floor::file(&m.bytes, m.format, rows.len(), run.size(0.05, 0.3), &place.path(""))?);
            report.doing(format!("pair {} of {pairs}: {}", pair + 1, m.name));
            let (seconds, cpu_seconds) = once(&mut place, m.name, &expected)?;
            m.seconds.push(seconds);
            m.ns.push(cpu_seconds * 1e9 / rows.len() as f64);
        }
        if let Some(peer) = &mut peer {
            report.doing(format!("pair {} of {pairs}: vw", pair + 1));
            peer.turn(&place)?;
        }
    }
    all.iter().for_each(|m| show(report, m, rows.len() as f64, peer.as_ref(), hash));
    match peer {
        Some(peer) => report.note(&format!(
            "vw {}: {} rows/s with predictions, {} rows/s learning only",
            peer.vw.version,
            short(rows.len() as f64 / peer.seconds.median()),
            short(rows.len() as f64 / peer.learn_seconds.median())
        )),
        None => report.note("vw: not installed (make bench-peers)"),
    }
    let [csv, json] = all;
    scaling(run, report, &mut place, &csv.bytes, &json.bytes, &expected)
}

impl Peer {
    fn turn(&mut self, place: &Place) -> Outcome {
        let run = self.vw.learn(&place.path("rows.vw"), Some(&place.path("vw.out")))?;
        self.seconds.push(run.seconds);
        self.cpu_seconds.push(run.cpu_seconds);
        self.learn_seconds.push(self.vw.learn(&place.path("rows.vw"), None)?.seconds);
        Ok(())
    }
}

fn show(report: &mut Report, m: &Measured, rows: f64, peer: Option<&Peer>, hash: Option<u64>) {
    let (value, samples) = (rows / m.seconds.median(), m.seconds.count());
    let worst = Some(rows / m.seconds.most());
    let beside = peer.map(|peer| {
        let theirs = rows / peer.seconds.median();
        Beside { name: "vw -p".into(), value: theirs, ratio: value / theirs }
    });
    report.figure(&Figure { name: m.name, unit: "rows/s", value, worst, beside, samples, hash });
    let (value, worst) = (m.ns.median(), Some(m.ns.most()));
    let beside = peer.map(|peer| {
        let theirs = peer.cpu_seconds.median() * 1e9 / rows;
        Beside { name: "vw -p".into(), value: theirs, ratio: theirs / value }
    });
    let name = format!("{}-cpu", m.name);
    report.figure(&Figure { name: &name, unit: "ns/row", value, worst, beside, samples, hash });
    floor::show(report, &format!("{}-", m.name), "ns/row", &m.floors, &m.ns, hash);
}

fn config(paths: &[String], format: &str, lanes: usize, output: &std::path::Path) -> String {
    format!(
        "lanes = {lanes}\n[source]\nkind = \"file\"\nformat = \"{format}\"\npaths = {paths:?}\n\
         [sink]\nkind = \"file\"\npath = \"{}\"\n[log]\nlevel = \"warn\"\n",
        output.display()
    )
}

/// One run over a file: wall and CPU seconds of the whole process. Every prediction is checked.
fn once(place: &mut Place, format: &str, expected: &[f64]) -> Result<(f64, f64), String> {
    let (input, output) = (place.path(&format!("rows.{format}")), place.path("predictions.ndjson"));
    place.set_config(&config(&[input.display().to_string()], format, 1, &output));
    place.forget()?;
    let _ = fs::remove_file(&output);
    let ended = Daemon::start(place, None)?.wait()?;
    check(&output, expected)?;
    Ok((ended.wall.as_secs_f64(), ended.cpu_seconds))
}

fn check(output: &std::path::Path, expected: &[f64]) -> Outcome {
    let lines = fs::read(output).map_err(|e| format!("{}: {e}", output.display()))?;
    let count = check_predictions(&lines, expected)?;
    if count != expected.len() {
        return Err(format!("{}: {count} predictions for {} rows", output.display(), expected.len()));
    }
    Ok(())
}

/// Rows a second on two cores beside those on one: one lane over the CSV file, and two lanes over a half of it each.
fn scaling(run: &Run, report: &mut Report, place: &mut Place, csv: &[u8], json: &[u8], expected: &[f64]) -> Outcome {
    let cores = Cores::split();
    if !cores.apart() {
        report.note("one core: nothing to scale to");
        return Ok(());
    }
    let half = expected.len() / 2;
    let lines = |bytes: &[u8]| memchr::memchr_iter(b'\n', bytes).nth(half - 1).map_or(bytes.len(), |at| at + 1);
    let (csv, json) = (csv.split_at(lines(csv)), json.split_at(lines(json)));
    let halves = [(csv.0, json.0), (csv.1, json.1)];
    let (mut scores, mut paths) = (Vec::new(), Vec::new());
    for (lane, (csv, json)) in halves.iter().enumerate() {
        // A file's lane is a hash of its path.
        let names = (0..).map(|i| place.path(&format!("half-{lane}-{i}.csv")).display().to_string());
        let mut of_lane = names.filter(|path| xxhash_rust::xxh3::xxh3_64(path.as_bytes()) % 2 == lane as u64);
        let path = of_lane.next().expect("one path in two");
        fs::write(&path, [csv_header().as_bytes(), csv].concat()).map_err(|e| format!("{path}: {e}"))?;
        paths.push(path);
        scores.push(expected_scores(PIPELINE, json)?);
    }
    let whole = vec![place.path("rows.csv").display().to_string()];
    let ways = [("one-lane", whole), ("two-lanes", paths)];
    for (name, paths) in ways {
        let (output, lanes) = (place.path("scaled.ndjson"), paths.len());
        place.set_config(&config(&paths, "csv", lanes, &output));
        let mut rates = <[Samples; 2]>::default();
        for pair in 0..run.size(1, 5) {
            for (on, rates) in [Some(&cores), None].into_iter().zip(&mut rates) {
                report.doing(format!("{name}, pair {}: {} core(s)", pair + 1, if on.is_some() { 1 } else { 2 }));
                place.forget()?;
                let wall = Daemon::start(place, on)?.wait()?.wall;
                rates.push(expected.len() as f64 / wall.as_secs_f64());
                match lanes {
                    1 => check(&output, expected)?,
                    _ => (0..lanes)
                        .try_for_each(|i| check(&place.path(&format!("scaled.lane-{i}.ndjson")), &scores[i]))?,
                }
                (0..lanes).for_each(|i| drop(fs::remove_file(place.path(&format!("scaled.lane-{i}.ndjson")))));
                let _ = fs::remove_file(&output);
            }
        }
        let [one, two] = rates;
        let (value, samples, hash) = (two.median(), two.count(), hash_scores(expected.iter().copied()));
        let beside = Some(Beside { name: "one core".into(), value: one.median(), ratio: value / one.median() });
        let (name, worst) = (format!("two-cores-{name}"), Some(two.least()));
        report.figure(&Figure { name: &name, unit: "rows/s", value, worst, beside, samples, hash: Some(hash) });
    }
    Ok(())
}
