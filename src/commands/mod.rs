//! The commands: one function each, called by `main` through [`dispatch`].

mod beside;
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
use std::path::PathBuf;

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
        None => find_socket(&Environment::of_process().admin_socket_candidates())?,
    };
    crate::admin::ctl(&socket, action, args.json)
}

/// The first of the admin sockets that is there. One that this user may not see counts: asking it says why.
///
/// # Errors
/// Environment, naming where it was looked for.
fn find_socket(candidates: &[PathBuf]) -> Result<PathBuf> {
    let found = candidates.iter().find(|path| path.try_exists().unwrap_or(true));
    found.cloned().ok_or_else(|| {
        let places: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
        Fault::environment(format!("no daemon: there is no admin socket at {}", places.join(" or ")))
            .hint("is it running? --socket names the admin.socket of its config")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    #[test]
    fn ctl_finds_the_first_socket_that_is_there_or_says_where_it_looked() {
        let dir = tempfile::tempdir().expect("directory");
        let places = [dir.path().join("user.sock"), dir.path().join("system.sock")];
        let fault = find_socket(&places).expect_err("no socket");
        assert_eq!(fault.class, Class::Environment);
        assert!(places.iter().all(|p| fault.message.contains(&p.display().to_string())), "{fault}");
        std::fs::write(&places[1], "").expect("file");
        assert_eq!(find_socket(&places).expect("the second"), places[1]);
        std::fs::write(&places[0], "").expect("file");
        assert_eq!(find_socket(&places).expect("the first"), places[0]);
    }
}
