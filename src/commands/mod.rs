//! The commands: one function each, called by `main` through [`dispatch`].
//!
//! MERGE PLACEHOLDERS, to be replaced by the real functions (same names and signatures): [`run`],
//! [`demo`], [`evaluate`], [`train`], [`replay`], [`inspect`], [`ctl`], and `check_pipeline`.

mod generate;
mod validate;

pub use generate::generate;
pub use validate::validate;

use crate::cli::{
    Cli, Command, ConfigArgs, CtlArgs, DemoArgs, EvaluateArgs, InspectArgs, ReplayArgs, RunArgs, TrainArgs,
};
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
        Command::Run(args) => run(load(&args.config)?, &args),
        Command::Replay(args) => replay(load(&args.config)?, &args),
        Command::Demo(args) => demo(&args),
        Command::Evaluate(args) => evaluate(&args),
        Command::Train(args) => train(&args),
        Command::Inspect(args) => inspect(&args),
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

fn not_built(name: &str) -> Result<()> {
    Err(Fault::internal(format!("{name}: not built yet")))
}

/// Placeholder: what `validate` checks beyond the config.
fn check_pipeline(config: &Config) -> Result<(), Vec<Fault>> {
    match std::fs::metadata(&config.pipeline) {
        Ok(_) => Ok(()),
        Err(error) => Err(vec![Fault::misuse(format!("pipeline {}: {error}", config.pipeline.display()))]),
    }
}

/// Placeholder.
///
/// # Errors
/// Always.
pub fn run(_config: Config, _args: &RunArgs) -> Result<()> {
    not_built("run")
}

/// Placeholder.
///
/// # Errors
/// Always.
pub fn replay(_config: Config, _args: &ReplayArgs) -> Result<()> {
    not_built("replay")
}

/// Placeholder.
///
/// # Errors
/// Always.
pub fn demo(_args: &DemoArgs) -> Result<()> {
    not_built("demo")
}

/// Placeholder.
///
/// # Errors
/// Always.
pub fn evaluate(_args: &EvaluateArgs) -> Result<()> {
    not_built("evaluate")
}

/// Placeholder.
///
/// # Errors
/// Always.
pub fn train(_args: &TrainArgs) -> Result<()> {
    not_built("train")
}

/// Placeholder.
///
/// # Errors
/// Always.
pub fn inspect(_args: &InspectArgs) -> Result<()> {
    not_built("inspect")
}

/// Placeholder.
///
/// # Errors
/// Always.
pub fn ctl(_args: &CtlArgs) -> Result<()> {
    not_built("ctl")
}
