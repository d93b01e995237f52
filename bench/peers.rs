//! What stands beside Millstream in Python: `make bench-peers` installs it in `.cache/peers`; where a peer isn't
//! there, the benchmarks say so and go on. The scripts are `bench/peers/*.py`, built into this binary.

use crate::machine::Cores;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where `make bench-peers` puts them, from the root of the repository.
const PEERS_PYTHON: &str = ".cache/peers/bin/python";

/// The Python to ask: `MILLSTREAM_BENCH_PYTHON`, else that of `make bench-peers`, else `python3`.
pub fn python() -> String {
    if let Ok(python) = std::env::var("MILLSTREAM_BENCH_PYTHON") {
        return python;
    }
    // Beside `target`, wherever this is called from.
    let built = std::env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(3)?.join(PEERS_PYTHON)));
    let places = [Some(PathBuf::from(PEERS_PYTHON)), built];
    let found = places.into_iter().flatten().find(|path| path.exists());
    found.map_or_else(|| "python3".into(), |path| path.display().to_string())
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
    let python = python();
    let mut command = Command::new(&python);
    command.arg("-c").arg(script).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    cores.inspect(|c| c.as_daemon());
    let child = command.spawn().map_err(|e| format!("{python}: {e}"));
    cores.inspect(|c| c.anywhere());
    let out = child?.wait_with_output().map_err(|e| format!("{python}: {e}"))?;
    let said = String::from_utf8_lossy(&out.stdout);
    let line = said.lines().last().unwrap_or_default();
    match serde_json::from_str(line) {
        Ok(answer) if out.status.success() => Ok(answer),
        _ => Err(format!("a peer's script ended with {}: {}", out.status, String::from_utf8_lossy(&out.stderr))),
    }
}

/// A number of an answer.
pub fn number(answer: &Value, key: &str) -> Result<f64, String> {
    answer[key].as_f64().ok_or_else(|| format!("a peer's script says no {key}: {answer}"))
}

/// A path as an argument.
pub fn argument(path: &Path) -> String {
    path.display().to_string()
}
