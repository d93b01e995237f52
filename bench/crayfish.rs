//! `crayfish`: the feed-forward network of the benchmark Crayfish (Horchidan and others, EDBT 2024): 784 inputs, four
//! hidden layers of 32 with relu, 10 outputs; 28,618 parameters. A frozen artifact of it in the real daemon, events
//! one by one over TCP; beside it bare onnxruntime with the same weights on rows that are numbers already.
//!
//! As in the published generator, a pixel is a random number from 0 to 1 in single precision, printed as it is;
//! `json-pixels` has whole numbers from 0 to 255 instead, as cameras give them. The weights are the untrained
//! network's (He's), which neither side's speed depends on.

use crate::daemon::{Daemon, Place, free_address, socket_config};
use crate::events::{BATCH_EVENTS, block, decoder, for_each_batch};
use crate::machine::Cores;
use crate::peers;
use crate::report::{Beside, Figure, Outcome, Report, Run, short};
use crate::stats::{Samples, hash_scores, time_rows};
use crate::traffic::{self, Load};
use millstream::artifact;
use millstream::batch::Batch;
use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;

/// Width of each layer, the inputs first.
const WIDTHS: [usize; 6] = [784, 32, 32, 32, 32, 10];
const PIXELS: usize = WIDTHS[0];
const CLASSES: usize = WIDTHS[5];
/// How far a score may be from onnxruntime's, which adds up in another order.
const TOLERANCE: f64 = 2e-6;
/// The peer's script.
const SCRIPT: &str = include_str!("peers/onnx_crayfish.py");

/// One way to write the events.
struct Case {
    name: &'static str,
    format: Format,
    bytes: Vec<u8>,
    expected: Vec<f64>,
    rate: Samples,
    cpu: Samples,
}

/// What onnxruntime needs, in files.
struct Peer {
    version: String,
    dir: tempfile::TempDir,
    one: [Samples; 2],
    many: [Samples; 2],
}

/// Checks the scores of all ways and of the peer, then times them in turn.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    report.doing("making events");
    let artifact = network()?;
    let count = run.size(400, 4_000);
    let pixels = pixels(count);
    let mut cases = cases(&artifact, &pixels)?;
    report.doing("checking");
    for case in &cases {
        check(&artifact, case)?;
    }
    let cores = Cores::split();
    let mut peer = Peer::find(&artifact, &pixels)?;
    if let Some(peer) = &peer {
        compare(&peer.ask(0.0, &cores)?, &peer.scores()?, &cases[0].expected)?;
    }
    let mut score = Samples::default();
    let pairs = run.size(1, 5);
    for pair in 0..pairs {
        for case in &mut cases {
            report.doing(format!("pair {} of {pairs}: {}", pair + 1, case.name));
            let flow = flow(&artifact, case, count, run.seconds / 2.0, &cores)?;
            case.rate.push(flow.0);
            case.cpu.push(flow.1);
        }
        report.doing(format!("pair {} of {pairs}: the network alone", pair + 1));
        score.push(alone(&artifact, &cases[0], run.size(0.1, 0.5), &cores)?);
        if let Some(peer) = &mut peer {
            report.doing(format!("pair {} of {pairs}: onnxruntime", pair + 1));
            let answer = peer.ask(run.size(0.1, 0.5), &cores)?;
            for (samples, way) in [(&mut peer.one, "one"), (&mut peer.many, "many")] {
                samples[0].push(peers::number(&answer, &format!("{way}_ns"))?);
                samples[1].push(peers::number(&answer, &format!("{way}_rate"))?);
            }
        }
    }
    show(report, &cases, &score, peer.as_ref());
    Ok(())
}

/// Scoring `count` decoded images, as something that can be called again and again.
pub fn work(count: usize) -> Result<Box<dyn FnMut()>, String> {
    let artifact = network()?;
    let mut pipeline = Pipeline::from_bytes(&artifact).map_err(|f| f.to_string())?;
    let mut batches = batches(&pipeline, Format::Binary, &as_frames(&pixels(count)))?;
    let mut scores = pipeline.scores(0);
    Ok(Box::new(move || {
        for batch in &mut batches {
            pipeline.run(batch, &mut scores, false, &mut ());
        }
    }))
}

/// The network as an artifact that knows its ten classes; its weights are the first ones, since no learning unit
/// is full after ten events.
fn network() -> Result<Vec<u8>, String> {
    let mut spec = "name = \"crayfish\"\n[schema]\nlabel = \"class\"\n[schema.fields]\n".to_string();
    (0..PIXELS).for_each(|i| writeln!(spec, "p{i} = {{ type = \"float\", missing = \"zero\" }}").expect("a String"));
    writeln!(
        spec,
        "class = \"category\"\n[model]\nkind = \"multilayer-perceptron\"\nclasses = {CLASSES}\n\
         layers = {:?}\nactivation = \"relu\"\nseed = 28",
        &WIDTHS[1..5]
    )
    .expect("a String");
    let mut pipeline = Pipeline::from_spec_text(&spec).map_err(|f| f.to_string())?;
    let mut rows = String::new();
    (0..CLASSES).for_each(|class| writeln!(rows, "{{\"p0\":0,\"class\":\"c{class}\"}}").expect("a String"));
    let mut batch = pipeline.batch();
    let mut scores = pipeline.scores(0);
    let mut decoder = decoder(pipeline.schema(), Format::Json)?;
    for_each_batch(&mut decoder, &block(rows.into_bytes()), &mut batch, CLASSES, |batch| {
        pipeline.run(batch, &mut scores, true, &mut ());
    });
    if pipeline.classes().len() != CLASSES {
        return Err(format!("the network knows {} classes", pipeline.classes().len()));
    }
    Ok(pipeline.to_artifact(json!({ "command": "millstream-bench crayfish" })))
}

/// Random numbers from 0 to 1 in single precision.
fn pixels(count: usize) -> Vec<f32> {
    let mut state = 28_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count * PIXELS).map(|_| next()).collect()
}

fn cases(artifact: &[u8], pixels: &[f32]) -> Result<Vec<Case>, String> {
    let case = |name, format, bytes: Vec<u8>| {
        let expected = expected(artifact, format, &bytes)?;
        Ok::<_, String>(Case { name, format, bytes, expected, rate: Samples::default(), cpu: Samples::default() })
    };
    let mut floats = zmij::Buffer::new();
    let published = as_json(pixels, |pixel, out| out.extend_from_slice(floats.format_finite(pixel).as_bytes()));
    let mut whole = itoa::Buffer::new();
    let camera = as_json(pixels, |pixel, out| out.extend_from_slice(whole.format((pixel * 256.0) as u8).as_bytes()));
    Ok(vec![
        case("json", Format::Json, published)?,
        case("json-pixels", Format::Json, camera)?,
        case("binary", Format::Binary, as_frames(pixels))?,
    ])
}

fn as_json(pixels: &[f32], mut print: impl FnMut(f32, &mut Vec<u8>)) -> Vec<u8> {
    let keys: Vec<String> = (0..PIXELS).map(|i| format!("{}\"p{i}\":", if i == 0 { '{' } else { ',' })).collect();
    let mut out = Vec::new();
    for row in pixels.chunks_exact(PIXELS) {
        for (key, pixel) in keys.iter().zip(row) {
            out.extend_from_slice(key.as_bytes());
            print(*pixel, &mut out);
        }
        out.extend_from_slice(b"}\n");
    }
    out
}

/// Frames without a label.
fn as_frames(pixels: &[f32]) -> Vec<u8> {
    let mut out = Vec::new();
    for row in pixels.chunks_exact(PIXELS) {
        out.extend_from_slice(&(8 + 8 * PIXELS as u32 + 4).to_le_bytes());
        out.extend_from_slice(&0_u64.to_le_bytes());
        row.iter().for_each(|pixel| out.extend_from_slice(&f64::from(*pixel).to_le_bytes()));
        out.extend_from_slice(&u32::MAX.to_le_bytes());
    }
    out
}

fn batches(pipeline: &Pipeline, format: Format, bytes: &[u8]) -> Result<Vec<Batch>, String> {
    let mut decoder = decoder(pipeline.schema(), format)?;
    let (mut batch, mut all) = (pipeline.batch(), Vec::new());
    for_each_batch(&mut decoder, &block(bytes.to_vec()), &mut batch, BATCH_EVENTS, |batch| {
        let empty = Batch::new(batch.number_stride, batch.token_stride);
        all.push(std::mem::replace(batch, empty));
    });
    Ok(all)
}

/// The scores that a pipeline in this process gives.
fn expected(artifact: &[u8], format: Format, bytes: &[u8]) -> Result<Vec<f64>, String> {
    let mut pipeline = Pipeline::from_bytes(artifact).map_err(|f| f.to_string())?;
    let (mut scores, mut all) = (pipeline.scores(0), Vec::new());
    for batch in &mut batches(&pipeline, format, bytes)? {
        pipeline.run(batch, &mut scores, false, &mut ());
        all.extend_from_slice(&scores.values);
    }
    Ok(all)
}

fn place(artifact: &[u8], format: Format) -> Result<(Place, String), String> {
    let address = free_address()?;
    let format = if format == Format::Binary { "binary" } else { "json" };
    let config = socket_config(&address).replace("format = \"json\"", &format!("format = \"{format}\""));
    Ok((Place::new(artifact, &(config + "[learn]\nenabled = false\n"))?, address))
}

/// Every event is answered, in order, with the ten scores that a pipeline in this process gives; to the bit.
fn check(artifact: &[u8], case: &Case) -> Outcome {
    let (place, address) = place(artifact, case.format)?;
    let mut daemon = Daemon::start(&place, None)?;
    daemon.wait_ready()?;
    let answers = traffic::ask(&address, &case.bytes)?;
    daemon.stop()?;
    let mut count = 0;
    for line in answers.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let answer: Value = serde_json::from_slice(line).map_err(|e| format!("{}: {e}", case.name))?;
        let expected = case.expected.get(count * CLASSES..(count + 1) * CLASSES).ok_or("more answers than events")?;
        for (class, expected) in expected.iter().enumerate() {
            let score = answer["scores"][format!("c{class}")].as_f64();
            if answer["offset"] != count as u64 || score.map(f64::to_bits) != Some(expected.to_bits()) {
                return Err(format!("{}: event {count}, class {class}: {expected} is due: {answer}", case.name));
            }
        }
        count += 1;
    }
    if count * CLASSES != case.expected.len() {
        return Err(format!("{}: {} events, {count} answers", case.name, case.expected.len() / CLASSES));
    }
    Ok(())
}

/// One timed run of a fresh daemon: events a second, CPU nanoseconds an event.
fn flow(artifact: &[u8], case: &Case, rows: usize, seconds: f64, cores: &Cores) -> Result<(f64, f64), String> {
    let (place, address) = place(artifact, case.format)?;
    let mut daemon = Daemon::start(&place, Some(cores))?;
    daemon.wait_ready()?;
    let load = Load { bytes: &case.bytes, rows, seconds };
    traffic::flow(&address, &Load { seconds: 0.0, ..load }, daemon.pid(), cores)?;
    let flow = traffic::flow(&address, &load, daemon.pid(), cores)?;
    daemon.stop()?;
    Ok((flow.rate(), flow.daemon_ns()))
}

/// The pipeline in this process on rows already decoded: CPU nanoseconds a row.
fn alone(artifact: &[u8], case: &Case, seconds: f64, cores: &Cores) -> Result<f64, String> {
    let mut pipeline = Pipeline::from_bytes(artifact).map_err(|f| f.to_string())?;
    let mut batches = batches(&pipeline, case.format, &case.bytes)?;
    let mut scores = pipeline.scores(0);
    cores.as_daemon();
    let samples = time_rows(seconds, batches.iter().map(Batch::len).sum(), || {
        for batch in &mut batches {
            pipeline.run(batch, &mut scores, false, &mut ());
        }
    });
    cores.anywhere();
    Ok(samples.median())
}

impl Peer {
    /// onnxruntime, where it is installed, with the artifact's weights and the rows in files.
    fn find(artifact: &[u8], pixels: &[f32]) -> Result<Option<Peer>, String> {
        let (Some(version), Some(_)) = (peers::version("onnxruntime"), peers::version("onnx")) else { return Ok(None) };
        let (_, state) = artifact::decode(artifact).map_err(|f| f.to_string())?;
        let mut weights = Vec::new();
        for layer in 0..WIDTHS.len() - 1 {
            for part in ["weights", "bias"] {
                let name = format!("model.layers.{layer}.{part}");
                weights.extend_from_slice(state.get_f32(&name, None).map_err(|f| f.to_string())?);
            }
        }
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        for (name, values) in [("weights", &weights[..]), ("rows", pixels)] {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            fs::write(dir.path().join(name), bytes).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(Some(Peer { version, dir, one: Default::default(), many: Default::default() }))
    }

    /// Scores all rows into a file; with `seconds`, times itself on the daemon's core.
    fn ask(&self, seconds: f64, cores: &Cores) -> Result<Value, String> {
        let [weights, rows, scores] = ["weights", "rows", "scores"].map(|n| peers::argument(&self.dir.path().join(n)));
        let widths = WIDTHS.map(|w| w.to_string()).join(",");
        peers::ask(SCRIPT, &[&widths, &weights, &rows, &scores, &seconds.to_string()], Some(cores))
    }

    fn scores(&self) -> Result<Vec<f64>, String> {
        let bytes = fs::read(self.dir.path().join("scores")).map_err(|e| format!("the peer's scores: {e}"))?;
        Ok(bytes.chunks_exact(8).filter_map(|b| b.first_chunk().map(|b| f64::from_le_bytes(*b))).collect())
    }
}

/// The peer's scores are ours, to within what the order of sums changes.
fn compare(answer: &Value, theirs: &[f64], ours: &[f64]) -> Outcome {
    if theirs.len() != ours.len() {
        return Err(format!("onnxruntime gave {} scores, {} are due: {answer}", theirs.len(), ours.len()));
    }
    match ours.iter().zip(theirs).position(|(a, b)| (a - b).abs().is_nan() || (a - b).abs() > TOLERANCE) {
        Some(i) => Err(format!("row {}: {} here, {} in onnxruntime", i / CLASSES, ours[i], theirs[i])),
        None => Ok(()),
    }
}

fn show(report: &mut Report, cases: &[Case], score: &Samples, peer: Option<&Peer>) {
    let beside = |peer: &Samples, value: f64, rate: bool| {
        let theirs = peer.median();
        let ratio = if rate { value / theirs } else { theirs / value };
        Beside { name: "onnxruntime, batch 1".into(), value: theirs, ratio }
    };
    for case in cases {
        let (value, samples) = (case.rate.median(), case.rate.count());
        let hash = Some(hash_scores(case.expected.iter().copied()));
        let (worst, with) = (Some(case.rate.least()), peer.map(|p| beside(&p.one[1], value, true)));
        report.figure(&Figure { name: case.name, unit: "events/s", value, worst, beside: with, samples, hash });
        let (name, value, worst) = (format!("{}-cpu", case.name), case.cpu.median(), Some(case.cpu.most()));
        let beside = peer.map(|p| beside(&p.one[0], value, false));
        report.figure(&Figure { name: &name, unit: "ns/event", value, worst, beside, samples, hash });
        let bytes = case.bytes.len() as f64 / (case.expected.len() / CLASSES) as f64;
        report.note(&format!("{} bytes an event", short(bytes)));
    }
    let (value, worst, samples) = (score.median(), Some(score.most()), score.count());
    let with = peer.map(|p| beside(&p.one[0], value, false));
    let (unit, hash) = ("ns/event", Some(hash_scores(cases[0].expected.iter().copied())));
    report.figure(&Figure { name: "score", unit, value, worst, beside: with, samples, hash });
    match peer {
        Some(peer) => report.note(&format!(
            "onnxruntime {}: one thread, from Python, rows already numbers, scores equal to {TOLERANCE:.0e}; with 1,024 \
             rows a call {} ns a row, {} rows/s",
            peer.version,
            short(peer.many[0].median()),
            short(peer.many[1].median())
        )),
        None => report.note("onnxruntime: not installed (make bench-peers)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_has_the_published_shape_and_every_way_the_same_events() {
        let artifact = network().expect("the network");
        let (_, state) = artifact::decode(&artifact).expect("an artifact");
        let parameters: usize = (0..WIDTHS.len() - 1)
            .flat_map(|layer| ["weights", "bias"].map(|part| format!("model.layers.{layer}.{part}")))
            .map(|name| state.get(&name).expect("a tensor").data.len())
            .sum();
        assert_eq!(parameters, 28_618);
        let cases = cases(&artifact, &pixels(3)).expect("the cases");
        assert_eq!(cases[0].expected.len(), 3 * CLASSES);
        assert_eq!(cases[0].expected, cases[2].expected, "JSON and frames");
        let sums: Vec<f64> = cases[1].expected.chunks_exact(CLASSES).map(|row| row.iter().sum()).collect();
        assert!(sums.iter().all(|sum| (sum - 1.0).abs() < 1e-9), "{sums:?}");
    }

    #[test]
    fn another_score_of_the_peer_is_noticed() {
        let answer = Value::Null;
        assert!(compare(&answer, &[0.25, 0.75], &[0.25, 0.75]).is_ok());
        assert!(compare(&answer, &[0.25, 0.750_01], &[0.25, 0.75]).is_err());
        assert!(compare(&answer, &[0.25], &[0.25, 0.75]).is_err());
        assert!(compare(&answer, &[0.25, f64::NAN], &[0.25, 0.75]).is_err());
    }
}
