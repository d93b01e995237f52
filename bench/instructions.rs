//! `instructions`: how many instructions the kernels and the road take over a fixed input, counted by valgrind
//! (callgrind), and held to within 2 % of `bench/baseline/instructions.json`. Neighbours don't change a count, nor
//! does the processor's model: valgrind shows a program a processor of its own making, one for machines with AVX2
//! and one for those without, so counts are held for each of the two apart.
//!
//! Each workload is a process of its own under valgrind (`--counted NAME`): it makes its input, runs once so that
//! buffers have grown and layouts are learned, then runs again inside [`millstream_counted`], which alone is counted.

use crate::crayfish;
use crate::events::{BATCH_EVENTS, PIPELINE, Rows, block, decoder, for_each_batch};
use crate::learn;
use crate::report::short;
use crate::road::Road;
use millstream::decode::Format;
use millstream::pipeline::Pipeline;
use serde_json::{Map, Value, json};
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The baseline, from the root of the repository.
const BASELINE: &str = "bench/baseline/instructions.json";
/// How far a count may be from the baseline's.
const TOLERANCE: f64 = 0.02;
/// Rows of the fixed input.
const ROWS: usize = 2_000;
/// Events of the network.
const IMAGES: usize = 50;
/// Everything that is counted.
const WORKLOADS: [&str; 17] = [
    "decode-json",
    "decode-json-shuffled",
    "decode-csv",
    "decode-binary",
    "learn-dense-20-sgd",
    "learn-dense-20-adagrad",
    "learn-scaled-20-sgd",
    "learn-hashed-2^18-adagrad",
    "learn-hashed-2^24-adagrad",
    "learn-softmax-20x3",
    "learn-softmax-20x7",
    "learn-softmax-20x10",
    "score-crayfish",
    "road-json",
    "road-json-shuffled",
    "road-csv",
    "road-binary",
];

/// The one function whose instructions count, with all that it calls.
#[unsafe(no_mangle)]
#[inline(never)]
pub fn millstream_counted(work: &mut dyn FnMut()) {
    work();
    // Something behind the call, so that it is one.
    black_box(());
}

/// Under valgrind: makes a workload's input, and runs it. Prints how many rows, and on which kind of processor.
pub fn counted(name: &str) -> Result<(), String> {
    let (rows, mut work) = prepare(name)?;
    work();
    millstream_counted(&mut work);
    println!("{}", json!({ "rows": rows, "processor": processor() }));
    Ok(())
}

/// The kind of processor that this process sees.
fn processor() -> String {
    let arch = std::env::consts::ARCH;
    #[cfg(target_arch = "x86_64")]
    if millstream::wide::available() {
        return format!("{arch} with AVX2");
    }
    arch.into()
}

type Work = Box<dyn FnMut()>;

fn prepare(name: &str) -> Result<(usize, Work), String> {
    let rows = Rows::new(ROWS);
    let bytes = |name: &str| match name {
        "json" => Some((Format::Json, rows.json())),
        "json-shuffled" => Some((Format::Json, rows.json_shuffled())),
        "csv" => Some((Format::Csv, rows.csv())),
        "binary" => Some((Format::Binary, rows.frames())),
        _ => None,
    };
    let unknown = || format!("nothing is counted as {name:?}");
    let (kind, of) = name.split_once('-').ok_or_else(unknown)?;
    match kind {
        "decode" => {
            let (format, bytes) = bytes(of).ok_or_else(unknown)?;
            let pipeline = Pipeline::from_spec_text(PIPELINE).map_err(|f| f.to_string())?;
            let mut decoder = decoder(pipeline.schema(), format)?;
            let (mut batch, block) = (pipeline.batch(), block(bytes));
            let work = move || {
                for_each_batch(&mut decoder, &block, &mut batch, BATCH_EVENTS, |batch| {
                    black_box(&batch.numbers);
                });
            };
            Ok((ROWS, Box::new(work)))
        }
        "road" => {
            let (format, bytes) = bytes(of).ok_or_else(unknown)?;
            let (mut road, block) = (Road::new(PIPELINE, format)?, block(bytes));
            let work = move || assert_eq!(black_box(road.take(&block)), ROWS as u64, "every row has a prediction");
            Ok((ROWS, Box::new(work)))
        }
        "learn" => Ok((ROWS, learn::work(of, ROWS)?)),
        "score" => Ok((IMAGES, crayfish::work(IMAGES)?)),
        _ => Err(unknown()),
    }
}

/// A workload, counted.
#[derive(Debug, Clone, PartialEq)]
struct Count {
    name: &'static str,
    processor: String,
    /// Instructions a row.
    instructions: f64,
}

fn count(name: &'static str) -> Result<Count, String> {
    let this = std::env::current_exe().map_err(|e| e.to_string())?;
    let options = ["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=millstream_counted"];
    let mut command = Command::new("valgrind");
    command.args(options).arg("--callgrind-out-file=/dev/null").arg(this).args(["--counted", name]);
    let out =
        command.stdin(Stdio::null()).output().map_err(|e| format!("valgrind: {e} (scripts/setup instructions)"))?;
    let (said, log) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let fault = || format!("{name}: valgrind ended with {}:\n{said}{log}", out.status);
    if !out.status.success() {
        return Err(fault());
    }
    let answer: Value = serde_json::from_str(said.trim()).map_err(|_| fault())?;
    let collected = log.lines().find_map(|line| line.split("Collected : ").nth(1)?.trim().parse::<u64>().ok());
    let rows = answer["rows"].as_u64().filter(|rows| *rows > 0).ok_or_else(fault)?;
    let instructions = collected.filter(|n| *n > 0).ok_or_else(fault)? as f64 / rows as f64;
    Ok(Count { name, processor: answer["processor"].as_str().ok_or_else(fault)?.to_string(), instructions })
}

/// Counts everything, on all cores.
fn count_all() -> Result<Vec<Count>, String> {
    let (next, cores) = (AtomicUsize::new(0), std::thread::available_parallelism().map_or(1, usize::from));
    let work = || {
        let mut mine = Vec::new();
        while let Some((i, name)) = Some(next.fetch_add(1, Relaxed)).and_then(|i| Some((i, WORKLOADS.get(i)?))) {
            mine.push((i, count(name)?));
        }
        Ok::<_, String>(mine)
    };
    let mut all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(WORKLOADS.len())).map(|_| scope.spawn(work)).collect();
        let results = threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("a count panicked".into())));
        results.collect::<Result<Vec<_>, String>>()
    })?
    .concat();
    all.sort_by_key(|(i, _)| *i);
    Ok(all.into_iter().map(|(_, count)| count).collect())
}

/// Counts, and compares with the baseline or (`update`) writes it. False where a count is not within the tolerance.
pub fn run(update: bool) -> Result<bool, String> {
    let counts = count_all()?;
    let processor = counts.first().map_or("", |c| &c.processor).to_string();
    println!("instructions a row, {processor}, {}", compiler());
    let mut baseline = read(Path::new(BASELINE))?;
    if update {
        counts.iter().for_each(|c| println!("  {:<28}{:>12}", c.name, short(c.instructions)));
        let rounded = |n: f64| json!((n * 10.0).round() / 10.0);
        let of: Map<String, Value> = counts.iter().map(|c| (c.name.into(), rounded(c.instructions))).collect();
        baseline.insert(processor, json!({ "compiler": compiler(), "instructions": of }));
        let text = serde_json::to_string_pretty(&baseline).expect("a map of numbers") + "\n";
        std::fs::create_dir_all("bench/baseline").map_err(|e| format!("bench/baseline: {e}"))?;
        std::fs::write(BASELINE, text).map_err(|e| format!("{BASELINE}: {e}"))?;
        println!("written to {BASELINE}");
        return Ok(true);
    }
    let Some(of) = baseline.get(&processor) else {
        println!("nothing is held: {BASELINE} knows no {processor}; make instructions UPDATE=1 adds it");
        return Ok(true);
    };
    let verdicts = compare(&counts, of);
    verdicts.iter().for_each(|(line, _)| println!("  {line}"));
    let held = verdicts.iter().all(|(_, held)| *held);
    let before = of["compiler"].as_str().unwrap_or("an unknown compiler");
    if !held {
        println!("not within {} % of {BASELINE}. If that is meant: make instructions UPDATE=1", TOLERANCE * 100.0);
        if before != compiler() {
            println!("the baseline was compiled by {before}, this by {}: that may be why", compiler());
        }
    }
    Ok(held)
}

/// A line for each workload, and whether it is as it was.
fn compare(counts: &[Count], baseline: &Value) -> Vec<(String, bool)> {
    let before = &baseline["instructions"];
    let mut verdicts: Vec<(String, bool)> = Vec::new();
    for count in counts {
        let shown = format!("{:<28}{:>12}", count.name, short(count.instructions));
        verdicts.push(match before[count.name].as_f64() {
            Some(was) => {
                let change = count.instructions / was - 1.0;
                let held = change.abs() <= TOLERANCE;
                let mark = if held { "" } else { "   NOT HELD" };
                (format!("{shown}   was {:>12}   {:+.2} %{mark}", short(was), change * 100.0), held)
            }
            None => (format!("{shown}   not in the baseline   NOT HELD"), false),
        });
    }
    let gone = before.as_object().into_iter().flatten().filter(|(name, _)| !counts.iter().any(|c| c.name == *name));
    verdicts
        .extend(gone.map(|(name, _)| (format!("{name:<28}   in the baseline, no longer counted   NOT HELD"), false)));
    verdicts
}

fn read(path: &Path) -> Result<Map<String, Value>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

/// The compiler at hand; the binary was most likely built by it.
fn compiler() -> String {
    let out = Command::new("rustc").arg("--version").stderr(Stdio::null()).output();
    let said = out.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_string()).unwrap_or_default();
    if said.is_empty() { "an unknown compiler".into() } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(instructions: f64) -> Vec<Count> {
        vec![Count { name: "road-json", processor: "any".into(), instructions }]
    }

    #[test]
    fn a_count_is_held_to_two_percent_either_way() {
        let baseline = json!({ "instructions": { "road-json": 1000.0 } });
        for (instructions, held) in [(1_000.0, true), (1_019.0, true), (981.0, true), (1_021.0, false), (979.0, false)]
        {
            let verdicts = compare(&counts(instructions), &baseline);
            assert_eq!(verdicts.iter().map(|v| v.1).collect::<Vec<_>>(), [held], "{verdicts:?}");
        }
    }

    #[test]
    fn what_only_one_side_knows_is_not_held() {
        let verdicts = compare(&counts(5.0), &json!({ "instructions": { "road-csv": 5.0 } }));
        assert_eq!(verdicts.len(), 2);
        assert!(verdicts.iter().all(|(_, held)| !held), "{verdicts:?}");
    }

    #[test]
    fn every_workload_can_be_prepared_and_runs() {
        for name in WORKLOADS {
            let (rows, mut work) = prepare(name).expect("prepared");
            assert!(rows > 0);
            work();
        }
        assert!(prepare("decode-yaml").is_err() && prepare("nothing").is_err());
    }

    #[test]
    fn the_baseline_knows_every_workload() {
        let baseline = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(BASELINE)).expect("the baseline");
        assert!(!baseline.is_empty(), "{BASELINE} is not there");
        for (processor, of) in &baseline {
            for name in WORKLOADS {
                assert!(of["instructions"][name].as_f64().is_some_and(|n| n > 0.0), "{processor}: {name}");
            }
        }
    }
}
