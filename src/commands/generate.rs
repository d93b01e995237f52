//! `millstream generate`: man pages and completions for packages, and the config reference.

use crate::cli::{Cli, GenerateArgs, Generated};
use crate::config;
use crate::error::{Fault, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// Writes what was asked for into the folder `--out`, which is made if it is missing.
///
/// # Errors
/// Misuse without a folder, environment where it cannot be written to.
pub fn generate(args: &GenerateArgs) -> Result<()> {
    let Some(folder) = &args.out else {
        return match args.what {
            Generated::ConfigReference => super::print(&config::reference()),
            Generated::Man | Generated::Completions => {
                Err(Fault::misuse("--out is missing").hint("name the folder to write to: --out DIR"))
            }
        };
    };
    write(args.what, folder).map_err(|error| Fault::io(folder.display(), &error))
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
        Generated::ConfigReference => std::fs::write(folder.join("config.md"), config::reference()),
    }
}
