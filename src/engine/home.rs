//! A daemon's state directory: its lock, its lineage, the artifacts that it has served.
//!
//! ```text
//! state_dir/
//!   lock              held while a daemon runs
//!   lineage.json      the lineage: lanes, first pipeline
//!   artifacts/HASH    every pipeline that was ever in force, by content hash
//!   lane-N/           checkpoints, the version that a rollback brings back
//!   lane-N/journal/   the journal (lanes outside Kafka)
//!   past-TIME/        what --new-lineage set aside
//! ```

use crate::artifact;
use crate::checkpoint::{LocalStore, Store};
use crate::disk::sync_dir;
use crate::error::{Fault, Result};
use crate::faults;
use crate::pipeline::Pipeline;
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What must stay as it is while a lineage goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// Its name: 16 hex digits.
    pub lineage: String,
    /// Number of lanes.
    pub lanes: u32,
    /// Content hash of the pipeline that it began with.
    pub base: String,
}

/// An opened and locked state directory.
pub struct Home {
    dir: PathBuf,
    /// Artifacts by content hash.
    pub artifacts: Arc<dyn Store>,
    /// The lineage that goes on here.
    pub lineage: Lineage,
    /// True where the directory held a lineage before.
    pub has_past: bool,
    _lock: File,
}

impl Home {
    /// Opens a state directory for the pipeline in `bytes`, going on with the lineage that is there or
    /// beginning one. With `new_lineage`, what is there is moved aside first.
    ///
    /// # Errors
    /// Environment, where the directory can't be used or another daemon holds it; Misuse, where the
    /// lineage there has other lanes or another schema.
    pub fn open(dir: &Path, lanes: u32, bytes: &[u8], new_lineage: bool) -> Result<Home> {
        std::fs::create_dir_all(dir).map_err(|e| {
            Fault::io(dir.display(), &e).hint("state_dir must be a directory that the daemon may write to")
        })?;
        let lock = lock(dir)?;
        if new_lineage {
            set_aside(dir)?;
        }
        let artifacts: Arc<dyn Store> = Arc::new(LocalStore::open(&dir.join("artifacts"))?);
        let path = dir.join("lineage.json");
        let known = match std::fs::read(&path) {
            Ok(text) => Some(serde_json::from_slice::<Lineage>(&text).map_err(|e| {
                Fault::corruption(format!("{}: {e}", path.display()))
                    .hint("restore it, or start over with --new-lineage")
            })?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Fault::io(path.display(), &e)),
        };
        let base = artifact::content_hash(bytes);
        let has_past = known.is_some();
        let lineage = match known {
            Some(lineage) => {
                check_goes_on(&lineage, lanes, bytes, &base, artifacts.as_ref())?;
                lineage
            }
            None => {
                artifacts.put(&base, bytes)?;
                let lineage = Lineage { lineage: new_name(&base, lanes), lanes, base };
                faults::step("home.lineage");
                let text = serde_json::to_vec_pretty(&lineage).expect("plain data");
                LocalStore::open(dir)?.put("lineage.json", &text)?;
                lineage
            }
        };
        Ok(Home { dir: dir.to_path_buf(), artifacts, lineage, has_past, _lock: lock })
    }

    /// True where a directory holds a lineage.
    pub fn is_begun(dir: &Path) -> bool {
        dir.join("lineage.json").exists()
    }

    /// A lane's own directory.
    pub fn lane_dir(&self, lane: u32) -> PathBuf {
        self.dir.join(format!("lane-{lane}"))
    }

    /// Where a lane's checkpoints are: in its own directory, or in `checkpoint.store`, apart from those
    /// of other lineages.
    ///
    /// # Errors
    /// Environment, where the directory can't be made or read.
    pub fn checkpoints(&self, store: Option<&str>, lane: u32) -> Result<Arc<dyn Store>> {
        let dir = match store {
            Some(store) => Path::new(store).join(&self.lineage.lineage).join(format!("lane-{lane}")),
            None => self.lane_dir(lane),
        };
        Ok(Arc::new(LocalStore::open(&dir)?))
    }
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(|e| {
        Fault::io(path.display(), &e).hint("state_dir must be a directory that the daemon may write to")
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Fault::environment(format!("{}: another daemon uses this state directory", dir.display()))
                .hint("stop it, or give this one a state_dir of its own"))
        }
        Err(TryLockError::Error(e)) => Err(Fault::io(path.display(), &e)),
    }
}

fn set_aside(dir: &Path) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|e| Fault::io(dir.display(), &e))?;
    let mut old = Vec::new();
    for entry in entries {
        let name = entry.map_err(|e| Fault::io(dir.display(), &e))?.file_name();
        let text = name.to_string_lossy();
        if text == "lineage.json" || text == "artifacts" || text.starts_with("lane-") {
            old.push(name);
        }
    }
    if old.is_empty() {
        return Ok(());
    }
    // The lineage first: after a crash on the way, the journals that are left belong to no lineage here,
    // and the next start refuses them instead of beginning the old lineage anew.
    old.sort_by_key(|name| name != "lineage.json");
    let aside = dir.join(format!("past-{}", unix_ms()));
    std::fs::create_dir(&aside).map_err(|e| Fault::io(aside.display(), &e))?;
    for name in old {
        std::fs::rename(dir.join(&name), aside.join(&name)).map_err(|e| Fault::io(aside.display(), &e))?;
    }
    sync_dir(dir)
}

fn check_goes_on(lineage: &Lineage, lanes: u32, bytes: &[u8], base: &str, artifacts: &dyn Store) -> Result<()> {
    if lineage.lanes != lanes {
        return Err(Fault::misuse(format!("lanes = {lanes}, but the lineage in state_dir has {}", lineage.lanes))
            .hint("set lanes back, or start over with --new-lineage (the old state is kept aside)"));
    }
    if lineage.base == base {
        return Ok(());
    }
    let Some(first) = artifacts.get(&lineage.base)? else {
        return Err(Fault::corruption(format!("artifact {} is missing in the state directory", lineage.base))
            .hint("restore the state directory from a copy, or start over with --new-lineage"));
    };
    let (first, configured) = (Pipeline::from_bytes(&first)?, Pipeline::from_bytes(bytes)?);
    super::lane::check_fits(&first, &configured).map_err(|f| {
        Fault::misuse(format!("pipeline: {}", f.message.replace("candidate's", "configured pipeline's")))
            .hint("set pipeline back, or start over with --new-lineage (the old state is kept aside)")
    })?;
    tracing::warn!(
        "pipeline is now version {}, but the lineage goes on with its own; put it in force with: millstream ctl swap FILE",
        &base[..8]
    );
    Ok(())
}

fn new_name(base: &str, lanes: u32) -> String {
    let text = format!("{base} {lanes} {} {}", std::process::id(), unix_ms());
    artifact::content_hash(text.as_bytes())[..16].to_string()
}

fn unix_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis())
}
