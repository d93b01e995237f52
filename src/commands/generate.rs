//! `millstream generate`: man pages and completions for packages, the config reference, and data sets.

use crate::cli::{Cli, GenerateArgs, Generated};
use crate::config;
use crate::error::{Fault, Result};
use crate::source::Framing;
use crate::source::generator::{Drift, GeneratorOptions, Kind, csv_header, write_rows};
use clap::CommandFactory;
use clap_complete::Shell;
use std::io::Write;
use std::path::Path;

/// Writes what was asked for into the folder `--out`, which is made if it is missing.
///
/// # Errors
/// Misuse without a folder, environment where it cannot be written to.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let Some(folder) = &args.out else {
        return match args.what {
            Generated::ConfigReference => super::print(&config::reference()),
            Generated::Man | Generated::Completions | Generated::Datasets => {
                Err(Fault::misuse("--out is missing").hint("name the folder to write to: --out DIR"))
            }
        };
    };
    if args.what == Generated::Datasets {
        return datasets(folder, args.rows);
    }
    write(args.what, folder).map_err(|error| Fault::io(folder.display(), &error))
}

/// Rows made at once.
const CHUNK_ROWS: u64 = 10_000;

/// Writes two CSV files for each generated stream: as it is, and with drift.
fn datasets(folder: &Path, rows: u64) -> Result<()> {
    let io = |error| Fault::io(folder.display(), &error);
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut bar = super::events::bar(Kind::ALL.len() as u64 * 2 * rows, "generating");
    for kind in Kind::ALL {
        for drifts in [false, true] {
            let mut options = GeneratorOptions::new(kind, 1);
            if drifts {
                let speed = if matches!(kind, Kind::Hyperplane | Kind::Rbf) { 0.0001 } else { 0.0 };
                options.drift = Drift { every: rows / 4, width: rows / 100, speed, features: 0 };
            }
            let name = format!("{}{}", kind.name(), if drifts { "-drift" } else { "" });
            let mut file = std::fs::File::create(folder.join(format!("{name}.csv"))).map_err(io)?;
            let mut text = csv_header(&options).into_bytes();
            if text.last() != Some(&b'\n') {
                text.push(b'\n');
            }
            let mut from = 0;
            while from < rows {
                let count = CHUNK_ROWS.min(rows - from);
                write_rows(&options, Framing::Csv { header: false }, from, count, &mut text)?;
                file.write_all(&text).map_err(io)?;
                text.clear();
                from += count;
                bar.inc(count);
            }
        }
    }
    bar.finish_and_clear();
    super::print(&format!("{} files of {rows} rows in {}\n", Kind::ALL.len() * 2, folder.display()))
}

fn write(what: Generated, folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    match what {
        Generated::Man => clap_mangen::generate_to(Cli::command(), folder),
        Generated::Completions => {
            for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
                clap_complete::generate_to(shell, &mut Cli::command(), "millstream", folder)?;
            }
            Ok(())
        }
        Generated::Datasets => Ok(()),
        Generated::ConfigReference => std::fs::write(folder.join("config.md"), config::reference()),
    }
}
