//! The command line: parse, call, exit code. The only file that ends the process.

use clap::Parser;
use millstream::cli::Cli;
use millstream::commands;
use millstream::error::Fault;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help is an "error" that goes to standard output; whoever closed it has seen enough.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match commands::dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(faults) => report(&faults),
    }
}

/// Names every fault on standard error; the first one gives the exit code.
fn report(faults: &[Fault]) -> ExitCode {
    let mut out = std::io::stderr().lock();
    for fault in faults {
        let _ = writeln!(out, "millstream: {}", fault.message);
        if !fault.hint.is_empty() {
            let _ = writeln!(out, "  {}", fault.hint);
        }
    }
    ExitCode::from(faults.first().map_or(1, |fault| fault.class.exit_code()))
}
