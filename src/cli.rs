//! The command line: what may be typed, and the help that teaches it. Parsing only; `commands` acts.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Turns an event stream into predictions, learns from it as it goes, and never loses its place.
#[derive(Debug, Clone, Parser)]
#[command(name = "millstream", version = VERSION, max_term_width = 100, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What `--version` says: a build that tests can break must not be taken for a release.
const VERSION: &str = match crate::faults::COMPILED_IN {
    false => env!("CARGO_PKG_VERSION"),
    true => concat!(env!("CARGO_PKG_VERSION"), " with planted faults: for tests only"),
};

const EXAMPLES: &str = "\
Examples:
  millstream demo                                    see it all on this machine, nothing to set up
  millstream validate -c millstream.toml             is the config right? every fault is named
  millstream run -c millstream.toml                  the daemon; SIGTERM drains it
  millstream evaluate --pipeline models/phishing.toml --input datasets/phishing.csv
  millstream ctl status                              how is the daemon doing?

Exit codes: 0 done; 2 misuse or refused; 3 corruption; 4 environment (broker, disk, port); 1 anything else.
Messages go to standard error, results to standard output.";

/// The commands.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Run the daemon.
    ///
    /// Reads events, scores and learns from each, and writes predictions, until SIGTERM or SIGINT (both
    /// drain within 20 s) or until a finite source ends (exit 0, with a summary on standard error). A
    /// state folder that has a past is continued from.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Check config, pipeline and artifact.
    ///
    /// Prints the resolved config as TOML, defaults included. Exits with 2 if anything is wrong, naming
    /// every fault with its key, line and what is allowed.
    #[command(after_help = VALIDATE_EXAMPLES)]
    Validate(ConfigArgs),
    /// See the whole appliance at work, nothing to install.
    ///
    /// A generated stream over a real socket, a model that learns from it, a live view, a hot swap on
    /// the way, and a summary.
    #[command(after_help = DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Judge pipelines on files: test, then train, event by event.
    ///
    /// Every event is scored before its label is learned. The no-change and majority-class baselines
    /// stand beside each pipeline.
    #[command(after_help = EVALUATE_EXAMPLES)]
    Evaluate(EvaluateArgs),
    /// Train a pipeline on files in one batch: the warm start.
    #[command(after_help = TRAIN_EXAMPLES)]
    Train(TrainArgs),
    /// Run the past again, without emitting.
    ///
    /// Against the record of what was emitted (exit 0 if every score is bit-equal, 3 if not), or
    /// versions against each other.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArgs),
    /// Show what is in an artifact or a checkpoint.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// Steer a running daemon.
    #[command(after_help = CTL_EXAMPLES)]
    Ctl(CtlArgs),
    /// Write man pages, completions or the config reference.
    #[command(hide = true)]
    Generate(GenerateArgs),
}

const RUN_EXAMPLES: &str = "\
Examples:
  millstream run -c millstream.toml
  millstream run -c millstream.toml --set engine.threads=2 --set log.level=debug
  MILLSTREAM_SOURCE__BROKERS=kafka:9092 millstream run -c millstream.toml
  millstream run -c millstream.toml --new-lineage     set the old state aside and start over";

const VALIDATE_EXAMPLES: &str = "\
Examples:
  millstream validate -c millstream.toml
  millstream validate -c millstream.toml --set lanes=4 > resolved.toml";

const DEMO_EXAMPLES: &str = "\
Examples:
  millstream demo
  millstream demo --seconds 10";

const EVALUATE_EXAMPLES: &str = "\
Examples:
  millstream evaluate --pipeline models/phishing.toml --input datasets/phishing.csv
  millstream evaluate --pipeline a.toml b.toml --input day1.csv day2.csv --metrics accuracy,log-loss --json
  millstream evaluate --pipeline a.toml --input day1.csv --out a.safetensors     keep what was learned";

const TRAIN_EXAMPLES: &str = "\
Examples:
  millstream train --pipeline models/phishing.toml --input datasets/phishing.csv --out phishing.safetensors
  millstream ctl swap phishing.safetensors           and put it to work";

const REPLAY_EXAMPLES: &str = "\
Examples:
  millstream replay -c millstream.toml               does the past give the same bits again?
  millstream replay -c millstream.toml --lane 0 --from 1000000 --to 2000000 --json
  millstream replay -c millstream.toml --artifact old.safetensors new.safetensors";

const INSPECT_EXAMPLES: &str = "\
Examples:
  millstream inspect phishing.safetensors
  millstream inspect --json /var/lib/millstream/lane-0/checkpoint-00000000000000000042.safetensors";

const CTL_EXAMPLES: &str = "\
Examples:
  millstream ctl status
  millstream ctl --socket /run/millstream/admin.sock versions --json
  millstream ctl swap better.safetensors             in force when the command returns
  millstream ctl rollback

The same by hand:
  curl --unix-socket /run/millstream/admin.sock http://localhost/v1/status";

/// The config and its overrides.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The config file.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: PathBuf,
    /// Override a key of the config: section.key=value. May be given several times.
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub sets: Vec<String>,
}

/// `run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The config and its overrides.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Set the old state aside and start over.
    #[arg(long)]
    pub new_lineage: bool,
}

/// `demo`
#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    /// How long it runs.
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
}

/// `evaluate`
#[derive(Debug, Clone, Args)]
pub struct EvaluateArgs {
    /// Specs or artifacts to judge.
    #[arg(long = "pipeline", value_name = "PIPELINE", required = true, num_args = 1..)]
    pub pipelines: Vec<PathBuf>,
    /// Files of labelled events, in this order; - is standard input.
    #[arg(long = "input", value_name = "FILE", required = true, num_args = 1..)]
    pub inputs: Vec<PathBuf>,
    /// Metrics to report; by default those that suit the label.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub metrics: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Artifacts to write what was learned to, one a pipeline.
    #[arg(long = "out", value_name = "FILE", num_args = 1..)]
    pub outs: Vec<PathBuf>,
}

/// `train`
#[derive(Debug, Clone, Args)]
pub struct TrainArgs {
    /// The spec to train.
    #[arg(long, value_name = "SPEC")]
    pub pipeline: PathBuf,
    /// Files of labelled events, in this order; - is standard input.
    #[arg(long = "input", value_name = "FILE", required = true, num_args = 1..)]
    pub inputs: Vec<PathBuf>,
    /// The artifact to write.
    #[arg(long, value_name = "ARTIFACT")]
    pub out: PathBuf,
}

/// `replay`
#[derive(Debug, Clone, Args)]
pub struct ReplayArgs {
    /// The config and its overrides.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// One lane; by default all.
    #[arg(long, value_name = "N")]
    pub lane: Option<u32>,
    /// The first event, by its number in the lane; by default the oldest within reach.
    #[arg(long, value_name = "SEQ")]
    pub from: Option<u64>,
    /// One past the last event; by default the newest that was committed.
    #[arg(long, value_name = "SEQ")]
    pub to: Option<u64>,
    /// Versions to run against each other instead of against the record.
    #[arg(long = "artifact", value_name = "FILE", num_args = 1..)]
    pub artifacts: Vec<PathBuf>,
    /// Print JSON, a line a lane.
    #[arg(long)]
    pub json: bool,
}

/// `inspect`
#[derive(Debug, Clone, Args)]
pub struct InspectArgs {
    /// An artifact or a checkpoint.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ctl`
#[derive(Debug, Clone, Args)]
pub struct CtlArgs {
    /// The daemon's admin socket; by default where a daemon of this user has it, else the system's
    /// (/run/millstream/admin.sock).
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Print the daemon's answer as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What is asked.
    #[command(subcommand)]
    pub action: CtlAction,
}

/// What `ctl` asks of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum CtlAction {
    /// Where every lane stands.
    Status,
    /// The versions in force, and the one that a rollback would bring back.
    Versions,
    /// Swap in another artifact (or a spec); no event waits, none is lost.
    Swap {
        /// The file; its bytes are sent.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Bring back the version before, as learned when it was swapped out.
    Rollback,
    /// Write a checkpoint now.
    Checkpoint,
    /// Stop taking events.
    Pause,
    /// Go on.
    Resume,
    /// Stop the intake, finish, commit, checkpoint, and exit.
    Drain,
}

/// `generate`
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// What to write.
    #[arg(value_enum)]
    pub what: Generated,
    /// The folder to write to. The config reference goes to standard output without it.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Rows of each data set.
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..=100_000_000))]
    pub rows: u64,
}

/// What `generate` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// Man pages, one a command.
    Man,
    /// Completions for bash, zsh and fish.
    Completions,
    /// `config.md`, the reference of all keys.
    ConfigReference,
    /// CSV files of every generated stream, as it is and with drift.
    Datasets,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_has_examples_that_parse() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().unwrap_or_else(|| panic!("{} has no examples", command.get_name()));
            let help = help.to_string();
            let examples: Vec<&str> = help.lines().filter_map(|line| line.trim().strip_prefix("millstream ")).collect();
            assert!(!examples.is_empty(), "{}", command.get_name());
            for example in examples {
                let typed =
                    example.split("     ").next().unwrap_or(example).split(['|', '>']).next().unwrap_or(example);
                let words = std::iter::once("millstream").chain(typed.split_whitespace());
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{example}\n{error}");
                }
            }
        }
    }

    #[test]
    fn lists_take_several_values_or_repeat() {
        let line = "millstream evaluate --pipeline a b --input x --input y --metrics mae,rmse --out p q --json";
        let Ok(Cli { command: Command::Evaluate(args) }) = Cli::try_parse_from(line.split(' ')) else {
            panic!("{line} does not parse");
        };
        assert_eq!((args.pipelines.len(), args.inputs.len(), args.outs.len()), (2, 2, 2));
        assert_eq!(args.metrics, ["mae", "rmse"]);
    }
}
