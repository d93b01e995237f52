//! The second act: where the input can be read again, a crash leaves no trace. The same generated events
//! go to a file twice; one daemon runs through, the other is killed half way and started again.

use super::daemon::{Daemon, quoted};
use super::{End, stream};
use crate::error::{Fault, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// How often a run that ended before it could be killed is tried again.
const TRIES: u32 = 3;

/// What the second act showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exactness {
    /// Events of each run.
    pub events: u64,
    /// Bytes of the uninterrupted run's output, and their digest.
    pub whole: (u64, String),
    /// Bytes that were there when the other daemon was killed.
    pub killed_at: u64,
    /// The same of the output of the run that was killed.
    pub killed: (u64, String),
    /// Whether the two files are equal, byte for byte.
    pub equal: bool,
}

/// Where a run has its files.
struct Run {
    dir: PathBuf,
    config: PathBuf,
    out: PathBuf,
}

fn prepare(dir: &Path, pipeline: &Path, events: u64, rate: u64) -> Result<Run> {
    std::fs::create_dir_all(dir).map_err(|e| Fault::io(dir.display(), &e))?;
    let (config, out) = (dir.join("millstream.toml"), dir.join("predictions.ndjson"));
    let text = format!(
        "pipeline = {}\nstate_dir = {}\n\
         [source]\nkind = \"rate\"\nformat = \"json\"\ngenerator = \"hyperplane\"\nseed = {}\ndrift_speed = {:?}\n\
         events = {events}\nrate = {rate}\n\
         [sink]\nkind = \"file\"\npath = {}\n\
         [delivery]\ncommit_interval_ms = 20\n[checkpoint]\ninterval_ms = 100\n\
         [admin]\nsocket = {}\n",
        quoted(pipeline),
        quoted(&dir.join("state")),
        stream::SEED,
        stream::DRIFT_SPEED,
        quoted(&out),
        quoted(&dir.join("admin.sock")),
    );
    std::fs::write(&config, text).map_err(|e| Fault::io(config.display(), &e))?;
    Ok(Run { dir: dir.to_path_buf(), config, out })
}

/// Runs `events` events through both, at a pace that leaves time for the kill. `turn` is called every
/// few milliseconds, and may end it.
///
/// # Errors
/// Whatever ended it.
pub(super) fn play(
    dir: &Path,
    pipeline: &Path,
    events: u64,
    pace: Duration,
    turn: &mut dyn FnMut() -> Result<(), End>,
) -> Result<Exactness, End> {
    let whole = prepare(&dir.join("whole"), pipeline, events, 0)?;
    let mut daemon = Daemon::start(&whole.dir, &whole.config, "daemon")?;
    run_out(&mut daemon, turn)?;
    let half = length(&whole.out) / 2;
    let rate = (events as f64 / pace.as_secs_f64()) as u64;
    for attempt in 0..TRIES {
        let run = prepare(&dir.join(format!("killed-{attempt}")), pipeline, events, rate)?;
        let mut daemon = Daemon::start(&run.dir, &run.config, "daemon")?;
        while length(&run.out) < half && daemon.ended()?.is_none() {
            turn()?;
        }
        if let Some(status) = daemon.ended()? {
            if status.success() {
                continue;
            }
            return Err(daemon.unexpected_end(status).into());
        }
        daemon.kill()?;
        let killed_at = length(&run.out);
        let mut daemon = Daemon::start(&run.dir, &run.config, "daemon-again")?;
        run_out(&mut daemon, turn)?;
        let equal = same(&whole.out, &run.out)?;
        return Ok(Exactness { events, whole: digest(&whole.out)?, killed_at, killed: digest(&run.out)?, equal });
    }
    Err(Fault::internal("the demo's second act: the daemon was done each time before it could be killed")
        .hint("the machine is very busy: try again")
        .into())
}

fn run_out(daemon: &mut Daemon, turn: &mut dyn FnMut() -> Result<(), End>) -> Result<(), End> {
    loop {
        match daemon.ended()? {
            None => turn()?,
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(daemon.unexpected_end(status).into()),
        }
    }
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| Fault::io(path.display(), &e))
}

/// Length and XXH3-128 of a file.
fn digest(path: &Path) -> Result<(u64, String)> {
    let (mut file, mut hash, mut chunk, mut length) = (open(path)?, Xxh3::new(), vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut chunk).map_err(|e| Fault::io(path.display(), &e))? {
            0 => return Ok((length, format!("{:032x}", hash.digest128()))),
            count => {
                hash.update(&chunk[..count]);
                length += count as u64;
            }
        }
    }
}

fn same(a: &Path, b: &Path) -> Result<bool> {
    if length(a) != length(b) {
        return Ok(false);
    }
    let (mut left, mut right) = (open(a)?, open(b)?);
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = left.read(&mut one).map_err(|e| Fault::io(a.display(), &e))?;
        if count == 0 {
            return Ok(true);
        }
        right.read_exact(&mut other[..count]).map_err(|e| Fault::io(b.display(), &e))?;
        if one[..count] != other[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_makes_the_difference() {
        let dir = tempfile::tempdir().expect("dir");
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path
        };
        let mut bytes = vec![7; (2 << 20) + 3];
        let (a, b) = (write("a", &bytes), write("b", &bytes));
        bytes[2 << 20] ^= 1;
        let (c, d) = (write("c", &bytes), write("d", &bytes[1..]));
        assert_eq!((same(&a, &b), same(&a, &c), same(&a, &d)), (Ok(true), Ok(false), Ok(false)));
        assert_eq!(digest(&a), digest(&b));
        assert_ne!(digest(&a), digest(&c));
    }
}
