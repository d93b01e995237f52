//! `millstream-bench`: the bundled measurements. `docs/benchmarks.md` says how each is made and read.
//!
//! A workload first checks that outputs are right, then times; names are permanent, and a changed
//! workload gets a new name. Only this file ends the process.

mod broker;
mod crayfish;
mod daemon;
mod events;
mod file;
mod floor;
mod footprint;
mod formats;
mod instructions;
mod kafka;
mod kafka_client;
mod kafka_latency;
mod kafka_loop;
mod latency;
mod learn;
mod machine;
mod page;
mod passes;
mod peer_vw;
mod peers;
mod plot;
mod recovery;
mod report;
mod road;
mod socket_json;
mod stats;
mod traffic;

use clap::Parser;
use report::{Outcome, Report, Run};
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Millstream on this machine, and checks its answers before it believes a timing.
#[derive(Debug, Parser)]
#[command(name = "millstream-bench", version)]
struct Args {
    /// What to measure; none, or `all`: everything. See --list. `report FILE…`: pages of kept runs; `instructions`: counts.
    names: Vec<String>,
    /// A few seconds each: shows that nothing is broken, says little about speed.
    #[arg(long)]
    smoke: bool,
    /// Seconds of one timed run (default: 4; 1 with --smoke).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: Option<u64>,
    /// Write one JSON line a figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the run in a folder: its JSON lines, and a page that shows them.
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = "bench/runs")]
    keep: Option<PathBuf>,
    /// Print the names, what each measures, and how long it takes.
    #[arg(long)]
    list: bool,
    /// The no-op peer of the Kafka workloads, as a process of its own.
    #[arg(long, value_name = "PLAN", hide = true)]
    kafka_loop: Option<String>,
    /// With `instructions`: take the counts as the new baseline.
    #[arg(long)]
    update: bool,
    /// What valgrind counts the instructions of.
    #[arg(long, value_name = "NAME", hide = true)]
    counted: Option<String>,
}

/// One measurement: its permanent name, what it is, and how it is made.
struct Workload {
    name: &'static str,
    what: &'static str,
    /// About how long it takes on two cores, with what stands beside it: at smoke size, at full size.
    takes: [&'static str; 2],
    run: fn(&Run, &mut Report) -> Outcome,
}

/// All of them, in the order in which `all` runs them.
const WORKLOADS: [Workload; 11] = [
    Workload {
        name: "formats",
        what: "bytes to rows: JSON, CSV, binary; ns a row beside sonic-rs, simd-json, serde_json, arrow-csv",
        takes: ["2 s", "90 s"],
        run: formats::run,
    },
    Workload {
        name: "learn",
        what: "score and learn on decoded rows: dense, hashed, softmax; ns a row beside River and vw",
        takes: ["8 s", "4 min"],
        run: learn::run,
    },
    Workload {
        name: "socket-json",
        what: "JSON lines over TCP, learned, answered; events/s, CPU ns, the floor",
        takes: ["3 s", "1 min"],
        run: socket_json::run,
    },
    Workload {
        name: "latency",
        what: "the same with an open loop at 10/50/80/95 % of the sustainable rate, beside an echo",
        takes: ["3 s", "1 min"],
        run: latency::run,
    },
    Workload {
        name: "file",
        what: "CSV and JSON files, learned, predictions to a file; rows/s beside Vowpal Wabbit",
        takes: ["4 s", "1 min"],
        run: file::run,
    },
    Workload {
        name: "kafka",
        what: "8 partitions of JSON, learned, to another topic; events/s beside a no-op librdkafka loop",
        takes: ["40 s", "4 min"],
        run: kafka::run,
    },
    Workload {
        name: "kafka-latency",
        what: "event produced to prediction readable, open loop, beside a no-op librdkafka loop",
        takes: ["1 min", "5 min"],
        run: kafka_latency::run,
    },
    Workload {
        name: "kafka-client",
        what: "the Kafka client alone: write, read, answer and commit; messages/s, CPU ns, beside librdkafka",
        takes: ["20 s", "1 min"],
        run: kafka_client::run,
    },
    Workload {
        name: "recovery",
        what: "the price of checkpoints; kill -9, the way back, nothing lost or twice",
        takes: ["3 s", "2 min"],
        run: recovery::run,
    },
    Workload {
        name: "crayfish",
        what: "784 pixels through a frozen network, over TCP; events/s beside onnxruntime",
        takes: ["4 s", "1 min"],
        run: crayfish::run,
    },
    Workload {
        name: "footprint",
        what: "memory, start, CPU-seconds a million events",
        takes: ["2 s", "30 s"],
        run: footprint::run,
    },
];

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // Help is an "error" that goes to standard output; whoever closed it has seen enough.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Some(plan) = &args.kafka_loop {
        return ended("--kafka-loop", kafka_loop::run(plan).map(|()| true));
    }
    if let Some(name) = &args.counted {
        return ended("--counted", instructions::counted(name).map(|()| true));
    }
    if args.list {
        list();
        return ExitCode::SUCCESS;
    }
    match args.names.first().map(String::as_str) {
        Some("report") => return pages(&args.names[1..]),
        Some("instructions") => return ended("instructions", instructions::run(args.update)),
        _ => {}
    }
    let all = args.names.is_empty() || args.names.iter().any(|n| n == "all");
    if let Some(unknown) = args.names.iter().find(|n| *n != "all" && !WORKLOADS.iter().any(|w| w.name == *n)) {
        eprintln!("millstream-bench: no workload {unknown:?}\n  --list names them all");
        return ExitCode::from(2);
    }
    let chosen = WORKLOADS.iter().filter(|w| all || args.names.iter().any(|n| n == w.name));
    let run = Run { smoke: args.smoke, seconds: args.seconds.unwrap_or(if args.smoke { 1 } else { 4 }) as f64 };
    match measure(&chosen.collect::<Vec<_>>(), &run, &args) {
        Ok(sound) => ended("", Ok(sound)),
        Err(message) => {
            eprintln!("millstream-bench: {message}");
            ExitCode::from(4)
        }
    }
}

/// The exit code of what ended well, not well, or not at all.
fn ended(what: &str, outcome: Result<bool, String>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("millstream-bench: {what}: {message}");
            ExitCode::from(1)
        }
    }
}

fn list() {
    println!("{:<15}{:>8}{:>8}  what", "name", "--smoke", "full");
    for w in &WORKLOADS {
        println!("{:<15}{:>8}{:>8}  {}", w.name, w.takes[0], w.takes[1], w.what);
    }
    println!(
        "{:<15}{:>8}{:>8}  instructions a row, by valgrind, beside the baseline; --update: a new one",
        "instructions", "", "30 s"
    );
    println!("{:<15}{:>8}{:>8}  FILE…: the page of a run that --keep or --json wrote, beside it", "report", "", "");
}

fn pages(files: &[String]) -> ExitCode {
    if files.is_empty() {
        eprintln!("millstream-bench: report: of which run?\n  report bench/runs/DATE.jsonl …");
        return ExitCode::from(2);
    }
    match page::make(&files.iter().map(PathBuf::from).collect::<Vec<_>>()) {
        Ok(pages) => {
            pages.iter().for_each(|page| println!("{}", page.display()));
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("millstream-bench: report: {message}");
            ExitCode::from(4)
        }
    }
}

/// Runs workloads one after another; false where a check failed.
fn measure(chosen: &[&Workload], run: &Run, args: &Args) -> Result<bool, String> {
    let mut report = Report::new(run, args.json.as_deref())?;
    println!("{}{}", report.machine(), if run.smoke { " (smoke: sizes too small to judge speed by)" } else { "" });
    let mut sound = true;
    for (i, workload) in chosen.iter().enumerate() {
        println!("\n{}: {}", workload.name, workload.what);
        report.begin(workload.name, i + 1, chosen.len());
        if let Err(message) = (workload.run)(run, &mut report) {
            eprintln!("millstream-bench: {}: {message}", workload.name);
            sound = false;
        }
        report.end();
    }
    if let Some(dir) = &args.keep {
        println!("\nkept: {}", report.keep(dir)?.display());
    }
    Ok(sound)
}
