//! What stands beside Millstream: `make bench-peers` installs it in `.cache/peers`; where a peer isn't there, the
//! benchmarks say so and go on. Python's scripts are `bench/peers/*.py`, built into this binary; the readers in Rust
//! are a program of their own, `peers/`.

use crate::machine::Cores;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `make bench-peers` puts them, from the root of the repository.
const PEERS_PYTHON: &str = ".cache/peers/bin/python";

/// The program of readers that `make bench-peers` builds of `peers/`, for this very processor.
const PEERS_PROGRAM: &str = ".cache/peers/target/release/millstream-peers";

/// A path from the root of the repository: from where this is called, or beside the `target` that this binary is in.
fn find(path: &str) -> Option<PathBuf> {
    let built = std::env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(3)?.join(path)));
    [Some(PathBuf::from(path)), built].into_iter().flatten().find(|path| path.exists())
}

/// The Python to ask: `MILLSTREAM_BENCH_PYTHON`, else that of `make bench-peers`, else `python3`.
pub fn python() -> String {
    let named = std::env::var("MILLSTREAM_BENCH_PYTHON").ok();
    named.or_else(|| Some(find(PEERS_PYTHON)?.display().to_string())).unwrap_or_else(|| "python3".into())
}

/// The program of readers, where it is built.
pub fn program() -> Option<PathBuf> {
    find(PEERS_PROGRAM)
}

/// The version of a module that the Python can import.
pub fn version(module: &str) -> Option<String> {
    let ask = format!("import {module} as m; print(m.__version__)");
    let out = Command::new(python()).args(["-c", &ask]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let version = String::from_utf8_lossy(&out.stdout).trim().to_string();
    (out.status.success() && !version.is_empty()).then_some(version)
}

/// Runs a script on the daemon's core (where `cores` are given); it answers with one line of JSON.
pub fn ask(script: &str, args: &[&str], cores: Option<&Cores>) -> Result<Value, String> {
    answer(Command::new(python()).arg("-c").arg(script).args(args), cores)
}

/// Runs a command on the daemon's core (where `cores` are given); its last line is its answer, as JSON.
pub fn answer(command: &mut Command, cores: Option<&Cores>) -> Result<Value, String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    cores.inspect(|c| c.as_daemon());
    let child = command.spawn();
    cores.inspect(|c| c.anywhere());
    let fault = |e| format!("{}: {e}", command.get_program().display());
    let out = child.and_then(std::process::Child::wait_with_output).map_err(fault)?;
    let said = String::from_utf8_lossy(&out.stdout);
    match serde_json::from_str(said.lines().last().unwrap_or_default()) {
        Ok(answer) if out.status.success() => Ok(answer),
        _ => Err(format!("a peer ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr))),
    }
}

/// A number of an answer.
pub fn number(answer: &Value, key: &str) -> Result<f64, String> {
    answer[key].as_f64().ok_or_else(|| format!("a peer says no {key}: {answer}"))
}

/// A path as an argument.
pub fn argument(path: &Path) -> String {
    path.display().to_string()
}
