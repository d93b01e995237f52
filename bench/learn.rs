//! `learn`: scoring and learning through the pipeline on rows that are already decoded; row by row, as the
//! daemon does it. Beside it River and Vowpal Wabbit with the same algorithm, where they have it; the progressive
//! losses are compared, and must be equal where the arithmetic is the same. And several models a pass (`passes.rs`).

use crate::events::{BATCH_EVENTS, PIPELINE, Rows, block, decoder, for_each_batch};
use crate::machine::Cores;
use crate::passes;
use crate::peers;
use crate::report::{Beside, Figure, Outcome, Report, Run, short};
use crate::stats::{Samples, hash_scores, time_rows};
use millstream::batch::{Batch, Task};
use millstream::decode::Format;
use millstream::pipeline::{Observer, Pipeline};
use std::fmt::Write;

/// River's script, and Vowpal Wabbit's.
const RIVER: &str = include_str!("peers/river_learn.py");
const VW: &str = include_str!("peers/vw_learn.py");
/// One model, and its rows as JSON lines.
struct Case {
    name: &'static str,
    spec: String,
    json: Vec<u8>,
    /// How far the progressive loss may be from River's and from Vowpal Wabbit's; `None` where the peer does
    /// something else (or hasn't it): then both losses are shown.
    equal: [Option<f64>; 2],
}

/// Equal but for the last digits of double, and of single, precision.
const SAME_F64: Option<f64> = Some(1e-9);
const SAME_F32: Option<f64> = Some(1e-5);

/// What stands beside a case: its name, and what it answers.
struct Peer {
    name: &'static str,
    equal: Option<f64>,
    ns: Samples,
    loss: f64,
}

/// Checks that cuts don't matter, then times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let count = run.size(5_000, 50_000);
    let cases = cases(count);
    let cores = Cores::split();
    for (name, module) in [("River", "river"), ("vw", "vowpalwabbit")] {
        match peers::version(module) {
            Some(version) => report.note(&format!("{name} {version} beside it")),
            None => report.note(&format!("{name}: not installed (make bench-peers)")),
        }
    }
    cases.iter().try_for_each(|c| measure(c, run, &cores, report))?;
    passes::run(run, report)
}

/// Every model with `count` rows.
fn cases(count: usize) -> Vec<Case> {
    let rows = Rows::new(count);
    let optimizer = "optimizer = { kind = \"sgd\", learning_rate = 0.01 }";
    let bare = PIPELINE.replace("[[steps]]\nkind = \"standard-scale\"\n", "");
    let case = |name, spec, json, equal| Case { name, spec, json, equal };
    let adagrad = bare.replace(optimizer, "optimizer = { kind = \"adagrad\", learning_rate = 0.05 }");
    vec![
        case("dense-20-sgd", bare, rows.json(), [SAME_F64, SAME_F32]),
        case("dense-20-adagrad", adagrad, rows.json(), [SAME_F64, None]),
        case("scaled-20-sgd", PIPELINE.into(), rows.json(), [SAME_F64, None]),
        case("hashed-2^18-adagrad", hashed_spec(18), categories(count, 10_000), [None, None]),
        case("hashed-2^24-adagrad", hashed_spec(24), categories(count, 1_000_000), [None, None]),
        softmax("softmax-20x7", &rows, 7),
    ]
}

/// Scoring and learning `count` decoded rows of a case, as something that can be called again and again.
pub fn work(name: &str, count: usize) -> Result<Box<dyn FnMut()>, String> {
    let case = match name {
        // Beside the case of seven classes: those that fill their fours less well, and better.
        "softmax-20x3" => softmax("softmax-20x3", &Rows::new(count), 3),
        "softmax-20x10" => softmax("softmax-20x10", &Rows::new(count), 10),
        name => cases(count).into_iter().find(|case| case.name == name).ok_or_else(|| format!("no case {name:?}"))?,
    };
    let mut batches = decoded(&case, BATCH_EVENTS)?;
    let mut pipeline = Pipeline::from_spec_text(&case.spec).map_err(|f| f.to_string())?;
    let mut scores = pipeline.scores(0);
    Ok(Box::new(move || {
        for batch in &mut batches {
            pipeline.run(batch, &mut scores, true, &mut ());
        }
    }))
}

fn measure(case: &Case, run: &Run, cores: &Cores, report: &mut Report) -> Outcome {
    report.doing(format!("{}: checking", case.name));
    let (hash, loss) = scores_of(case, BATCH_EVENTS)?;
    if scores_of(case, 37)?.0 != hash {
        return Err(format!("{}: scores depend on where batches are cut", case.name));
    }
    let mut batches = decoded(case, BATCH_EVENTS)?;
    let rows: usize = batches.iter().map(Batch::len).sum();
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    std::fs::write(dir.path().join("rows.json"), &case.json).map_err(|e| format!("rows.json: {e}"))?;
    let mut peers = beside(case, run);
    let mut samples = Samples::default();
    let turns = run.size(1, 5);
    for turn in 0..turns {
        report.doing(format!("{}: {} of {turns}", case.name, turn + 1));
        let mut pipeline = Pipeline::from_spec_text(&case.spec).map_err(|f| f.to_string())?;
        let mut scores = pipeline.scores(0);
        let seconds = run.seconds * run.size(0.1, 0.5) / f64::from(turns);
        cores.as_daemon();
        let turn = time_rows(seconds, rows, || {
            for batch in &mut batches {
                pipeline.run(batch, &mut scores, true, &mut ());
            }
        });
        cores.anywhere();
        samples.push(turn.median());
        for peer in &mut peers {
            report.doing(format!("{}: {}", case.name, peer.name));
            peer.ask(case, dir.path(), cores)?;
        }
    }
    peers.iter().try_for_each(|peer| peer.check(case, loss))?;
    show(report, case, &samples, loss, hash, &peers);
    Ok(())
}

/// The peers that have the case's model; at smoke size only some, since River takes its time.
fn beside(case: &Case, run: &Run) -> Vec<Peer> {
    let mut peers = Vec::new();
    let peer = |name, equal| Peer { name, equal, ns: Samples::default(), loss: f64::NAN };
    if peers::version("river").is_some() && (!run.smoke || case.name == "scaled-20-sgd") {
        peers.push(peer("River", case.equal[0]));
    }
    if VW.contains(&format!("\"{}\":", case.name)) && peers::version("vowpalwabbit").is_some() {
        peers.push(peer("vw", case.equal[1]));
    }
    peers
}

impl Peer {
    fn ask(&mut self, case: &Case, dir: &std::path::Path, cores: &Cores) -> Outcome {
        let rows = peers::argument(&dir.join("rows.json"));
        let answer = match self.name {
            "River" => peers::ask(RIVER, &[case.name, &rows], Some(cores))?,
            // Its threads are two; their CPU time is added up, so that they may have both cores.
            _ => peers::ask(VW, &[case.name, &rows, &peers::argument(dir), "3"], None)?,
        };
        self.ns.push(peers::number(&answer, "ns")?);
        self.loss = peers::number(&answer, "loss")?;
        Ok(())
    }

    /// The same arithmetic gives the same loss.
    fn check(&self, case: &Case, loss: f64) -> Outcome {
        match self.equal {
            Some(most) if (self.loss / loss - 1.0).abs().is_nan() || (self.loss / loss - 1.0).abs() > most => {
                Err(format!("{}: a progressive loss of {loss}, and of {} by {}", case.name, self.loss, self.name))
            }
            _ => Ok(()),
        }
    }
}

fn show(report: &mut Report, case: &Case, ours: &Samples, loss: f64, hash: u64, peers: &[Peer]) {
    let (value, worst, samples, hash) = (ours.median(), Some(ours.most()), ours.count(), Some(hash));
    let beside = |peer: &Peer| {
        let theirs = peer.ns.median();
        Some(Beside { name: peer.name.into(), value: theirs, ratio: theirs / value })
    };
    let first = peers.first().and_then(beside);
    report.figure(&Figure { name: case.name, unit: "ns/row", value, worst, beside: first, samples, hash });
    for peer in peers.iter().skip(1) {
        let name = format!("{}-beside-{}", case.name, peer.name.to_lowercase());
        report.figure(&Figure { name: &name, unit: "ns/row", value, worst, beside: beside(peer), samples, hash });
    }
    let losses =
        peers.iter().map(|p| format!(", {} {:.6}{}", p.name, p.loss, if p.equal.is_some() { " (equal)" } else { "" }));
    report.note(&format!(
        "progressive loss {loss:.6}{}; {} rows/s a core",
        losses.collect::<String>(),
        short(1e9 / value)
    ));
}

/// The case's rows in batches of a size.
fn decoded(case: &Case, events_max: usize) -> Result<Vec<Batch>, String> {
    let pipeline = Pipeline::from_spec_text(&case.spec).map_err(|f| f.to_string())?;
    let mut decoder = decoder(pipeline.schema(), Format::Json)?;
    let (mut batch, mut batches) = (pipeline.batch(), Vec::new());
    for_each_batch(&mut decoder, &block(case.json.clone()), &mut batch, events_max, |batch| {
        let empty = Batch::new(batch.number_stride, batch.token_stride);
        batches.push(std::mem::replace(batch, empty));
    });
    Ok(batches)
}

/// Adds up the logarithmic loss of each row, scored before it was learned; rows of a class that was never seen, and
/// so never scored, are left out.
#[derive(Default)]
struct Loss {
    sum: f64,
    rows: u64,
    binary: bool,
    classes: usize,
}

impl Observer for Loss {
    fn observe(&mut self, scores: &[f64], target: f64) {
        let of_label = match scores {
            // A binary model's one score is the probability of true.
            [score] if self.binary => {
                if target > 0.5 {
                    *score
                } else {
                    1.0 - score
                }
            }
            // Classes have numbers in the order in which they came.
            _ if target as usize >= self.classes => return self.classes = target as usize + 1,
            _ => scores.get(target as usize).copied().unwrap_or(0.0),
        };
        self.sum -= of_label.max(f64::MIN_POSITIVE).ln();
        self.rows += 1;
    }
}

/// A digest of all scores, batches cut after so many rows; and the progressive loss.
fn scores_of(case: &Case, events_max: usize) -> Result<(u64, f64), String> {
    let mut pipeline = Pipeline::from_spec_text(&case.spec).map_err(|f| f.to_string())?;
    let (mut scores, mut all) = (pipeline.scores(0), Vec::new());
    let mut loss = Loss { binary: pipeline.task() == Task::Binary, ..Loss::default() };
    for batch in &mut decoded(case, events_max)? {
        let counts = pipeline.run(batch, &mut scores, true, &mut loss);
        if counts.scored != batch.len() as u64 || counts.learned != counts.scored {
            return Err(format!("{}: {} rows, {counts:?}", case.name, batch.len()));
        }
        all.extend_from_slice(&scores.values);
    }
    Ok((hash_scores(all.into_iter()), loss.sum / loss.rows as f64))
}

/// Twenty categories hashed into 2^`bits` slots, logistic regression with AdaGrad.
fn hashed_spec(bits: u32) -> String {
    let mut spec = "name = \"hashed\"\n[schema]\nlabel = \"label\"\n[schema.fields]\n".to_string();
    (0..20).for_each(|i| writeln!(spec, "c{i} = \"category\"").expect("a String takes all"));
    spec += "label = \"bool\"\n[[steps]]\nkind = \"hash\"\n";
    spec + &format!(
        "bits = {bits}\n[model]\nkind = \"logistic-regression\"\n\
         optimizer = {{ kind = \"adagrad\", learning_rate = 0.05 }}\n"
    )
}

/// Rows of twenty categories, each of so many values; true where their sum is above the middle.
fn categories(count: usize, values: u64) -> Vec<u8> {
    let mut out = String::new();
    let mut state = 7_u64;
    for _ in 0..count {
        out.push('{');
        let mut sum = 0;
        for i in 0..20 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = (state >> 33) % values;
            sum += value;
            write!(out, "\"c{i}\":\"v{value}\",").expect("a String takes all");
        }
        writeln!(out, "\"label\":{}}}", sum > 10 * values).expect("a String takes all");
    }
    out.into_bytes()
}

/// Classes over the twenty floats.
fn softmax(name: &'static str, rows: &Rows, count: usize) -> Case {
    let spec = PIPELINE
        .replace("[[steps]]\nkind = \"standard-scale\"\n", "")
        .replace("label = \"bool\"", "label = \"category\"")
        .replace("logistic-regression", "softmax-regression")
        .replace("intercept_lr = 0.01\n", "");
    Case { name, spec, json: classes(&rows.json(), count), equal: [SAME_F64, None] }
}

/// The rows with a class in the label's place: the row's number modulo so many, shifted where it was true.
fn classes(json: &[u8], count: usize) -> Vec<u8> {
    let text = String::from_utf8_lossy(json);
    let mut out = String::with_capacity(text.len());
    for (row, line) in text.lines().enumerate() {
        let class = (row + 3 * usize::from(line.ends_with("true}"))) % count;
        let end = line.rfind(':').map_or(line.len(), |at| at + 1);
        writeln!(out, "{}\"k{class}\"}}", &line[..end]).expect("a String takes all");
    }
    out.into_bytes()
}
