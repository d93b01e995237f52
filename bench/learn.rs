//! `learn`: scoring and learning through the pipeline on rows that are already decoded; row by row, as the
//! daemon does it.

use crate::events::{BATCH_EVENTS, PIPELINE, Rows, block, decoder, for_each_batch};
use crate::machine::Cores;
use crate::report::{Figure, Outcome, Report, Run};
use crate::stats::{Samples, hash_scores, time_rows};
use millstream::batch::Batch;
use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use std::fmt::Write;

/// Classes of the softmax case.
const CLASSES: usize = 7;

/// One model, and its rows as JSON lines.
struct Case {
    name: &'static str,
    spec: String,
    json: Vec<u8>,
}

/// Checks that cuts don't matter, then times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let count = run.size(5_000, 50_000);
    let cases = cases(count);
    let cores = Cores::split();
    cores.as_daemon();
    let outcome = cases.iter().try_for_each(|c| case(c, run, report));
    cores.anywhere();
    outcome
}

/// Every model with `count` rows.
fn cases(count: usize) -> Vec<Case> {
    let rows = Rows::new(count);
    let optimizer = "optimizer = { kind = \"sgd\", learning_rate = 0.01 }";
    let bare = PIPELINE.replace("[[steps]]\nkind = \"standard-scale\"\n", "");
    vec![
        Case { name: "dense-20-sgd", spec: bare.clone(), json: rows.json() },
        Case {
            name: "dense-20-adagrad",
            spec: bare.replace(optimizer, "optimizer = { kind = \"adagrad\", learning_rate = 0.05 }"),
            json: rows.json(),
        },
        Case { name: "scaled-20-sgd", spec: PIPELINE.into(), json: rows.json() },
        Case { name: "hashed-2^18-adagrad", spec: hashed_spec(18), json: categories(count) },
        Case { name: "softmax-20x7", spec: softmax_spec(), json: classes(&rows.json()) },
    ]
}

/// Scoring and learning `count` decoded rows of a case, as something that can be called again and again.
pub fn work(name: &str, count: usize) -> Result<Box<dyn FnMut()>, String> {
    let case = cases(count).into_iter().find(|case| case.name == name).ok_or_else(|| format!("no case {name:?}"))?;
    let mut batches = decoded(&case, BATCH_EVENTS)?;
    let mut pipeline = Pipeline::from_spec_text(&case.spec).map_err(|f| f.to_string())?;
    let mut scores = pipeline.scores(0);
    Ok(Box::new(move || {
        for batch in &mut batches {
            pipeline.run(batch, &mut scores, true, &mut ());
        }
    }))
}

fn case(case: &Case, run: &Run, report: &mut Report) -> Outcome {
    report.doing(format!("{}: checking", case.name));
    let hash = scores_hash(case, BATCH_EVENTS)?;
    if scores_hash(case, 37)? != hash {
        return Err(format!("{}: scores depend on where batches are cut", case.name));
    }
    let mut batches = decoded(case, BATCH_EVENTS)?;
    let rows: usize = batches.iter().map(Batch::len).sum();
    let mut samples = Samples::default();
    let turns = run.size(1, 5);
    for turn in 0..turns {
        report.doing(format!("{}: {} of {turns}", case.name, turn + 1));
        let mut pipeline = Pipeline::from_spec_text(&case.spec).map_err(|f| f.to_string())?;
        let mut scores = pipeline.scores(0);
        let seconds = run.seconds * run.size(0.1, 0.5) / f64::from(turns);
        let turn = time_rows(seconds, rows, || {
            for batch in &mut batches {
                pipeline.run(batch, &mut scores, true, &mut ());
            }
        });
        samples.push(turn.median());
    }
    let (value, worst) = (samples.median(), Some(samples.most()));
    let (unit, samples, hash) = ("ns/row", samples.count(), Some(hash));
    report.figure(&Figure { name: case.name, unit, value, worst, beside: None, samples, hash });
    Ok(())
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

/// A digest of all scores, batches cut after so many rows.
fn scores_hash(case: &Case, events_max: usize) -> Result<u64, String> {
    let mut pipeline = Pipeline::from_spec_text(&case.spec).map_err(|f| f.to_string())?;
    let (mut scores, mut all) = (pipeline.scores(0), Vec::new());
    for batch in &mut decoded(case, events_max)? {
        let counts = pipeline.run(batch, &mut scores, true, &mut ());
        if counts.scored != batch.len() as u64 || counts.learned != counts.scored {
            return Err(format!("{}: {} rows, {counts:?}", case.name, batch.len()));
        }
        all.extend_from_slice(&scores.values);
    }
    Ok(hash_scores(all.into_iter()))
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

/// Rows of twenty categories, each of ten thousand values.
fn categories(count: usize) -> Vec<u8> {
    let mut out = String::new();
    let mut state = 7_u64;
    for _ in 0..count {
        out.push('{');
        let mut sum = 0;
        for i in 0..20 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let value = (state >> 33) % 10_000;
            sum += value;
            write!(out, "\"c{i}\":\"v{value}\",").expect("a String takes all");
        }
        writeln!(out, "\"label\":{}}}", sum > 100_000).expect("a String takes all");
    }
    out.into_bytes()
}

/// Seven classes over the twenty floats.
fn softmax_spec() -> String {
    PIPELINE
        .replace("[[steps]]\nkind = \"standard-scale\"\n", "")
        .replace("label = \"bool\"", "label = \"category\"")
        .replace("logistic-regression", "softmax-regression")
        .replace("intercept_lr = 0.01\n", "")
}

/// The rows with a class in the label's place: the row's number modulo seven, shifted where it was true.
fn classes(json: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(json);
    let mut out = String::with_capacity(text.len());
    for (row, line) in text.lines().enumerate() {
        let class = (row + 3 * usize::from(line.ends_with("true}"))) % CLASSES;
        let end = line.rfind(':').map_or(line.len(), |at| at + 1);
        writeln!(out, "{}\"k{class}\"}}", &line[..end]).expect("a String takes all");
    }
    out.into_bytes()
}
