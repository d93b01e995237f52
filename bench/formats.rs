//! `formats`: bytes to rows through the daemon's decoder, batch by batch with full validation, beside
//! serde_json and sonic-rs (into a struct made for exactly these rows) and csv-core with fast-float2; and, where they
//! are built for this processor (`make bench-peers`), simd-json, sonic-rs and arrow-csv in a process of their own.

use crate::events::{BATCH_EVENTS, FEATURES, PIPELINE, Rows, block, decoder, for_each_batch};
use crate::machine::Cores;
use crate::peers;
use crate::report::{Beside, Figure, Outcome, Report, Run, short};
use crate::stats::{Samples, hash_scores, time_rows};
use millstream::batch::{Block, RowStatus};
use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use serde::Deserialize;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::Command;

/// The rows as serde reads them: unknown keys are skipped, keys may come in any order.
#[derive(Deserialize, Default)]
#[rustfmt::skip]
struct Typed {
    f0: f64, f1: f64, f2: f64, f3: f64, f4: f64, f5: f64, f6: f64, f7: f64, f8: f64, f9: f64,
    f10: f64, f11: f64, f12: f64, f13: f64, f14: f64, f15: f64, f16: f64, f17: f64, f18: f64, f19: f64,
    label: bool,
}

impl Typed {
    #[rustfmt::skip]
    fn numbers(&self) -> [f64; FEATURES + 1] {
        [self.f0, self.f1, self.f2, self.f3, self.f4, self.f5, self.f6, self.f7, self.f8, self.f9,
         self.f10, self.f11, self.f12, self.f13, self.f14, self.f15, self.f16, self.f17, self.f18, self.f19,
         f64::from(u8::from(self.label))]
    }
}

/// A reader beside ours: it hands each row's numbers to `take`.
type Peer = fn(&[u8], &mut dyn FnMut(&[f64; FEATURES + 1])) -> Result<(), String>;

/// One format, and who else reads it.
struct Case {
    name: &'static str,
    format: Format,
    bytes: Vec<u8>,
    peers: &'static [(&'static str, Peer)],
    programs: &'static [&'static str],
}

/// A reader in a process of its own, with the rows in a file.
struct Program {
    path: PathBuf,
    dir: tempfile::TempDir,
}

impl Program {
    /// The program, where it is built, with these rows.
    fn find(bytes: &[u8]) -> Result<Option<Program>, String> {
        let Some(path) = peers::program() else { return Ok(None) };
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        std::fs::write(dir.path().join("rows"), bytes).map_err(|e| format!("rows: {e}"))?;
        Ok(Some(Program { path, dir }))
    }

    fn ask(&self, peer: &str, seconds: f64) -> Result<serde_json::Value, String> {
        let mut command = Command::new(&self.path);
        command.arg(peer).args(["rows", "numbers"].map(|name| self.dir.path().join(name))).arg(seconds.to_string());
        // The thread is the daemon's already.
        peers::answer(&mut command, None)
    }

    /// The numbers that a peer reads.
    fn numbers(&self, peer: &str) -> Result<Vec<f64>, String> {
        self.ask(peer, 0.0)?;
        let bytes = std::fs::read(self.dir.path().join("numbers")).map_err(|e| format!("{peer}: {e}"))?;
        Ok(bytes.chunks_exact(8).filter_map(|b| b.first_chunk().map(|b| f64::from_le_bytes(*b))).collect())
    }
}

/// Checks that all readers see the same numbers, then times each, in turn.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let rows = Rows::new(run.size(5_000, 20_000));
    let json_peers: &[(&str, Peer)] = &[("sonic-rs", sonic), ("serde_json", serde)];
    let csv_peers: &[(&str, Peer)] = &[("csv-core+fast-float2", csv)];
    let json_programs = &["simd-json", "sonic-rs"];
    let case = |name, format, bytes, peers, programs| Case { name, format, bytes, peers, programs };
    let cases = [
        case("json", Format::Json, rows.json(), json_peers, json_programs),
        case("json-shuffled", Format::Json, rows.json_shuffled(), json_peers, json_programs),
        case("csv", Format::Csv, rows.csv(), csv_peers, &["arrow-csv"]),
        case("binary", Format::Binary, rows.frames(), &[], &[]),
    ];
    if peers::program().is_none() {
        report.note("simd-json, arrow-csv: not installed (make bench-peers)");
    }
    let cores = Cores::split();
    cores.as_daemon();
    let outcome = cases.into_iter().try_for_each(|c| measure(c, rows.len(), run, report));
    cores.anywhere();
    outcome
}

fn measure(case: Case, rows: usize, run: &Run, report: &mut Report) -> Outcome {
    report.doing(format!("{}: checking", case.name));
    let pipeline = Pipeline::from_spec_text(PIPELINE).map_err(|f| f.to_string())?;
    let mut decoder = decoder(pipeline.schema(), case.format)?;
    let mut batch = pipeline.batch();
    let program = if case.programs.is_empty() { None } else { Program::find(&case.bytes)? };
    let programs: Vec<&str> = program.iter().flat_map(|_| case.programs).copied().collect();
    let block: Block = block(case.bytes);
    let (mut numbers, mut rejected) = (Vec::new(), 0);
    for_each_batch(&mut decoder, &block, &mut batch, BATCH_EVENTS, |batch| {
        numbers.extend_from_slice(&batch.numbers);
        rejected += batch.status.iter().filter(|s| **s != RowStatus::Ok).count();
    });
    if rejected > 0 || numbers.len() != rows * (FEATURES + 1) {
        return Err(format!("{}: {rejected} rows rejected, {} numbers of {rows} rows", case.name, numbers.len()));
    }
    let hash = hash_scores(numbers.iter().copied());
    let same = |name: &str, theirs: Vec<f64>| match hash_scores(theirs.into_iter()) == hash {
        true => Ok(()),
        false => Err(format!("{}: {name} reads other numbers", case.name)),
    };
    for (name, peer) in case.peers {
        let mut theirs = Vec::new();
        peer(&block.bytes, &mut |row| theirs.extend_from_slice(row))?;
        same(name, theirs)?;
    }
    for name in &programs {
        same(name, program.as_ref().map_or(Ok(Vec::new()), |p| p.numbers(name))?)?;
    }
    let mut ours = Samples::default();
    let mut theirs = vec![Samples::default(); case.peers.len() + programs.len()];
    let pairs = run.size(1, 5);
    let seconds = run.seconds * run.size(0.1, 1.0) / f64::from(pairs);
    for pair in 0..pairs {
        report.doing(format!("{}: pair {} of {pairs}", case.name, pair + 1));
        let turn = time_rows(seconds, rows, || {
            for_each_batch(&mut decoder, &block, &mut batch, BATCH_EVENTS, |batch| {
                black_box(&batch.numbers);
            });
        });
        ours.push(turn.median());
        for ((_, peer), samples) in case.peers.iter().zip(&mut theirs) {
            samples.push(time_peer(*peer, &block.bytes, seconds, rows));
        }
        for (name, samples) in programs.iter().zip(&mut theirs[case.peers.len()..]) {
            if let Some(program) = &program {
                samples.push(peers::number(&program.ask(name, seconds)?, "ns")?);
            }
        }
    }
    let names =
        case.peers.iter().map(|p| p.0.to_string()).chain(programs.iter().map(|p| format!("{p}, this processor")));
    let besides: Vec<(String, f64)> = names.zip(theirs.iter().map(Samples::median)).collect();
    show(report, case.name, &ours, &besides, block.bytes.len() as f64 / rows as f64, hash);
    Ok(())
}

fn time_peer(peer: Peer, bytes: &[u8], seconds: f64, rows: usize) -> f64 {
    let read = || {
        // It read them without a fault before.
        let _ = peer(bytes, &mut |row| {
            black_box(row);
        });
    };
    time_rows(seconds, rows, read).median()
}

fn show(report: &mut Report, case: &str, ours: &Samples, besides: &[(String, f64)], row_bytes: f64, hash: u64) {
    let (ns, samples, hash) = (ours.median(), ours.count(), Some(hash));
    let beside = |(name, value): &(String, f64)| Beside { name: name.clone(), value: *value, ratio: value / ns };
    let worst = Some(ours.most());
    let first = besides.first().map(beside);
    report.figure(&Figure { name: case, unit: "ns/row", value: ns, worst, beside: first, samples, hash });
    for other in besides.iter().skip(1) {
        let name = format!("{case}-beside-{}", other.0.replace(", this processor", "-native"));
        let beside = Some(beside(other));
        report.figure(&Figure { name: &name, unit: "ns/row", value: ns, worst, beside, samples, hash });
    }
    let name = format!("{case}-bytes");
    let unit = "GB/s";
    report.figure(&Figure { name: &name, unit, value: row_bytes / ns, worst: None, beside: None, samples, hash });
    report.note(&format!("{} bytes a row", short(row_bytes)));
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty())
}

fn sonic(bytes: &[u8], take: &mut dyn FnMut(&[f64; FEATURES + 1])) -> Result<(), String> {
    for line in lines(bytes) {
        take(&sonic_rs::from_slice::<Typed>(line).map_err(|e| e.to_string())?.numbers());
    }
    Ok(())
}

fn serde(bytes: &[u8], take: &mut dyn FnMut(&[f64; FEATURES + 1])) -> Result<(), String> {
    for line in lines(bytes) {
        take(&serde_json::from_slice::<Typed>(line).map_err(|e| e.to_string())?.numbers());
    }
    Ok(())
}

fn csv(bytes: &[u8], take: &mut dyn FnMut(&[f64; FEATURES + 1])) -> Result<(), String> {
    let mut reader = csv_core::Reader::new();
    let (mut cells, mut ends) = ([0_u8; 4096], [0_usize; 64]);
    let mut rest = bytes;
    while !rest.is_empty() {
        let (result, used, _, count) = reader.read_record(rest, &mut cells, &mut ends);
        rest = &rest[used..];
        if result != csv_core::ReadRecordResult::Record {
            continue;
        }
        let mut row = [0.0; FEATURES + 1];
        let mut start = 0;
        for (i, end) in ends[..count].iter().enumerate() {
            let cell = &cells[start..*end];
            start = *end;
            row[i] = match i {
                FEATURES => f64::from(u8::from(cell == b"true")),
                _ => fast_float2::parse(cell).map_err(|e| e.to_string())?,
            };
        }
        take(&row);
    }
    Ok(())
}
