//! The commands: one function each, called by `main` through [`dispatch`].

mod demo;
pub mod evaluate;
pub mod events;
mod generate;
pub mod inspect;
mod replay;
mod run;
pub mod train;
mod validate;

pub use demo::demo;
pub use generate::generate;
pub use validate::validate;

use crate::cli::{Cli, Command, ConfigArgs, CtlArgs};
use crate::config::{Config, Environment};
use crate::error::{Fault, Result};
use std::io::Write;

/// Carries out a command line.
///
/// # Errors
/// Every fault that stopped it, in the order in which they were found.
pub fn dispatch(cli: Cli) -> Result<(), Vec<Fault>> {
    let done = match cli.command {
        Command::Validate(args) => return validate(&args, check_pipeline),
        Command::Run(args) => run::run(load(&args.config)?, &args),
        Command::Replay(args) => replay::replay(&load(&args.config)?, &args),
        Command::Demo(args) => demo(&args),
        Command::Evaluate(args) => evaluate::evaluate(&args),
        Command::Train(args) => train::train(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Ctl(args) => ctl(&args),
        Command::Generate(args) => generate(&args),
    };
    done.map_err(|fault| vec![fault])
}

/// The config that a command line names, with its overrides and this process's environment.
///
/// # Errors
/// Every fault of the config.
pub fn load(args: &ConfigArgs) -> Result<Config, Vec<Fault>> {
    Config::load(&args.config, &args.sets, &Environment::of_process())
}

/// Writes a result to standard output. A reader that has gone away is no fault.
///
/// # Errors
/// Environment, where standard output cannot be written to.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Fault::io("standard output", &error)),
        _ => Ok(()),
    }
}

/// What `validate` checks beyond the config: the pipeline, its golden rows, and the columns.
fn check_pipeline(config: &Config) -> Result<(), Vec<Fault>> {
    crate::engine::read_pipeline(config).map(|_| ()).map_err(|fault| vec![fault])
}

/// Asks a running daemon.
///
/// # Errors
/// Environment, where no daemon answers; Misuse, where it refuses.
pub fn ctl(args: &CtlArgs) -> Result<()> {
    use crate::admin::CtlAction as Ask;
    let action = match &args.action {
        crate::cli::CtlAction::Status => Ask::Status,
        crate::cli::CtlAction::Versions => Ask::Versions,
        crate::cli::CtlAction::Swap { file } => Ask::Swap(file.clone()),
        crate::cli::CtlAction::Rollback => Ask::Rollback,
        crate::cli::CtlAction::Checkpoint => Ask::Checkpoint,
        crate::cli::CtlAction::Pause => Ask::Pause,
        crate::cli::CtlAction::Resume => Ask::Resume,
        crate::cli::CtlAction::Drain => Ask::Drain,
    };
    let socket = match &args.socket {
        Some(socket) => socket.clone(),
        None => default_socket(),
    };
    crate::admin::ctl(&socket, action, args.json)
}

/// Where a daemon of this user has its admin socket: as the config's default, else the system service's.
fn default_socket() -> std::path::PathBuf {
    let user = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| std::path::Path::new(&dir).join("millstream/admin.sock"));
    match user {
        Some(path) if path.exists() => path,
        _ => "/run/millstream/admin.sock".into(),
    }
}
