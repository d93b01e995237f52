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
//!
//! With `checkpoint.store` the checkpoints and the versions before are in `STORE/LINEAGE/lane-N`. With a Kafka
//! source as well, all but the lock is in the store, and is shared by the daemons of the group:
//!
//! ```text
//! STORE/GROUP/
//!   lineage-N.json    the lineages; the one with the highest number is in force
//!   artifacts/HASH    as above
//!   LINEAGE/lane-N/   as above
//! ```

use crate::artifact;
use crate::checkpoint::{self, LocalStore, Store};
use crate::config::{Config, SourceKind};
use crate::disk::{Machine, make_dirs, sync_dir};
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

/// Where a daemon keeps its state.
#[derive(Debug, Clone)]
pub struct Places {
    /// The state directory.
    pub dir: PathBuf,
    /// `checkpoint.store`.
    pub store: Option<String>,
    /// The consumer group, where the source is Kafka: what is in the store belongs to all its daemons.
    pub group: Option<String>,
}

impl Places {
    /// Where a config says.
    pub fn of(config: &Config) -> Places {
        let group = match &config.source.kind {
            SourceKind::Kafka { group, .. } => Some(group.clone()),
            _ => None,
        };
        Places { dir: config.state_dir.clone(), store: config.checkpoint.store.clone(), group }
    }

    /// What the daemons of a group share; `None` where this one has its state for itself.
    fn shared(&self) -> Result<Option<Arc<dyn Store>>> {
        match (&self.store, &self.group) {
            (Some(_), Some(group)) if group.chars().all(|c| c == '.') => {
                Err(Fault::misuse(format!("source.group {group:?} names no folder in checkpoint.store"))
                    .hint("use a group whose name isn't of dots alone"))
            }
            (Some(store), Some(group)) => Ok(Some(checkpoint::open(store)?.folder(group)?)),
            _ => Ok(None),
        }
    }

    /// Where that is, in words.
    pub fn name(&self) -> String {
        let store = self.store.iter().filter(|_| self.group.is_some());
        store.fold(self.dir.display().to_string(), |dir, store| format!("{dir} and {store}"))
    }

    /// All in one directory.
    pub fn local(dir: &Path) -> Places {
        Places { dir: dir.to_path_buf(), store: None, group: None }
    }
}

/// An opened and locked state directory, and the store beside it.
pub struct Home {
    dir: PathBuf,
    /// Artifacts by content hash.
    pub artifacts: Arc<dyn Store>,
    /// The lineage that goes on here.
    pub lineage: Lineage,
    /// True where the directory (or the shared store) held a lineage before.
    pub has_past: bool,
    /// Where the lanes' checkpoints are; `None`: in their own directories.
    lanes: Option<Arc<dyn Store>>,
    /// True where other daemons of the group have the same.
    pub is_shared: bool,
    _lock: Option<File>,
}

impl Home {
    /// Opens a state directory for the pipeline in `bytes`, going on with the lineage that is there (or in
    /// the shared store) or beginning one. With `new_lineage`, what is there is set aside first.
    ///
    /// # Errors
    /// Environment, where the directory or the store can't be used or another daemon holds it; Misuse, where
    /// the lineage there has other lanes or another schema.
    pub fn open(places: &Places, lanes: u32, bytes: &[u8], new_lineage: bool) -> Result<Home> {
        let dir = &places.dir;
        make_dirs(&Machine, dir).map_err(|f| f.hint("state_dir must be a directory that the daemon may write to"))?;
        let lock = lock(dir)?;
        if new_lineage {
            set_aside(dir)?;
        }
        let shared = places.shared()?;
        let is_shared = shared.is_some();
        let (artifacts, found): (Arc<dyn Store>, Found) = match &shared {
            Some(shared) => {
                move_in(dir, shared.as_ref())?;
                let artifacts = shared.folder("artifacts")?;
                let found = shared_lineage(shared.as_ref(), artifacts.as_ref(), lanes, bytes, new_lineage)?;
                (artifacts, found)
            }
            None => {
                let artifacts = Arc::new(LocalStore::open(&dir.join("artifacts"))?);
                let found = own_lineage(dir, artifacts.as_ref(), lanes, bytes)?;
                (artifacts, found)
            }
        };
        if found.has_past {
            check_goes_on(&found.lineage, lanes, bytes, artifacts.as_ref(), is_shared)?;
        }
        let place = match (shared, &places.store) {
            (None, Some(store)) => Some(checkpoint::open(store)?),
            (shared, _) => shared,
        };
        let lanes = place.map(|place| place.folder(&found.lineage.lineage)).transpose()?;
        let (lineage, has_past) = (found.lineage, found.has_past);
        Ok(Home { dir: dir.clone(), artifacts, lineage, has_past, lanes, is_shared, _lock: Some(lock) })
    }

    /// True where a lineage was begun there.
    ///
    /// # Errors
    /// Environment, where the shared store can't be read.
    pub fn is_begun(places: &Places) -> Result<bool> {
        let shared = match places.shared()? {
            Some(shared) => newest_lineage(&shared.names()?).is_some(),
            None => false,
        };
        Ok(shared || places.dir.join(LINEAGE).exists())
    }

    /// A home whose parts are elsewhere (on a disk that a test makes up), and which nobody else can open.
    pub fn of(dir: &Path, lineage: Lineage, artifacts: Arc<dyn Store>) -> Home {
        let (lanes, is_shared) = (None, false);
        Home { dir: dir.to_path_buf(), artifacts, lineage, has_past: true, lanes, is_shared, _lock: None }
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
    pub fn checkpoints(&self, lane: u32) -> Result<Arc<dyn Store>> {
        match &self.lanes {
            Some(lanes) => lanes.folder(&format!("lane-{lane}")),
            None => Ok(Arc::new(LocalStore::open(&self.lane_dir(lane))?)),
        }
    }
}

/// A lineage, and whether it was there before.
struct Found {
    lineage: Lineage,
    has_past: bool,
}

/// The lineage of a state directory; one is begun where there is none.
fn own_lineage(dir: &Path, artifacts: &dyn Store, lanes: u32, bytes: &[u8]) -> Result<Found> {
    let store = LocalStore::open(dir)?;
    if let Some(lineage) = read_lineage(&store, LINEAGE)? {
        return Ok(Found { lineage, has_past: true });
    }
    let lineage = begin(artifacts, lanes, bytes)?;
    faults::step("home.lineage");
    store.put(LINEAGE, &lineage.to_bytes())?;
    Ok(Found { lineage, has_past: false })
}

/// The lineage that the daemons of a group share; one is begun where there is none, or by `new_lineage`. Of
/// several daemons that begin at the same instant, one makes the lineage, and the others go on with it.
fn shared_lineage(
    shared: &dyn Store,
    artifacts: &dyn Store,
    lanes: u32,
    bytes: &[u8],
    new_lineage: bool,
) -> Result<Found> {
    let known = newest_lineage(&shared.names()?);
    let number = match known {
        Some(known) if !new_lineage => known,
        _ => {
            let lineage = begin(artifacts, lanes, bytes)?;
            faults::step("home.lineage");
            let number = known.map_or(0, |known| known + 1);
            if shared.put_if_absent(&lineage_name(number), &lineage.to_bytes())? {
                return Ok(Found { lineage, has_past: false });
            }
            number
        }
    };
    match read_lineage(shared, &lineage_name(number))? {
        Some(lineage) => Ok(Found { lineage, has_past: true }),
        None => Err(Fault::environment(format!("{} is gone", shared.place(&lineage_name(number))))),
    }
}

/// The highest number among the lineages of a shared store.
fn newest_lineage(names: &[String]) -> Option<u32> {
    names.iter().filter_map(|n| n.strip_prefix("lineage-")?.strip_suffix(".json")?.parse().ok()).max()
}

fn lineage_name(number: u32) -> String {
    format!("lineage-{number:04}.json")
}

const LINEAGE: &str = "lineage.json";

/// What a state directory holds from the time before it got a shared store goes into that, if that is empty.
fn move_in(dir: &Path, shared: &dyn Store) -> Result<()> {
    let own = LocalStore::open(dir)?;
    let Some(lineage) = read_lineage(&own, LINEAGE)? else { return Ok(()) };
    let first = lineage_name(0);
    match read_lineage(shared, &first)? {
        // An earlier start came this far.
        Some(known) if known == lineage => {}
        Some(known) => {
            return Err(Fault::misuse(format!(
                "{} holds lineage {}, and {} lineage {}",
                dir.display(),
                lineage.lineage,
                shared.place(&first),
                known.lineage
            ))
            .hint("give this daemon an empty state_dir to go on with the store's, or name another checkpoint.store"));
        }
        None => {
            let copy = |from: &str, to: Arc<dyn Store>| -> Result<()> {
                let from = own.folder(from)?;
                for name in from.names()? {
                    to.put(&name, &from.get(&name)?.unwrap_or_default())?;
                }
                Ok(())
            };
            copy("artifacts", shared.folder("artifacts")?)?;
            let lanes = shared.folder(&lineage.lineage)?;
            for lane in (0..lineage.lanes).map(|lane| format!("lane-{lane}")) {
                copy(&lane, lanes.folder(&lane)?)?;
            }
            if !shared.put_if_absent(&first, &lineage.to_bytes())? {
                return move_in(dir, shared);
            }
            tracing::info!("lineage {} moved from {} to {}", lineage.lineage, dir.display(), shared.place(""));
        }
    }
    // From now on the store's is the one in force.
    set_aside(dir)
}

/// A lineage's first pipeline, kept, and its name.
fn begin(artifacts: &dyn Store, lanes: u32, bytes: &[u8]) -> Result<Lineage> {
    let base = artifact::content_hash(bytes);
    artifacts.put(&base, bytes)?;
    Ok(Lineage { lineage: new_name(&base, lanes), lanes, base })
}

fn read_lineage(store: &dyn Store, name: &str) -> Result<Option<Lineage>> {
    let Some(text) = store.get(name)? else { return Ok(None) };
    let lineage = serde_json::from_slice(&text).map_err(|e| {
        Fault::corruption(format!("{}: {e}", store.place(name))).hint("restore it, or start over with --new-lineage")
    })?;
    Ok(Some(lineage))
}

impl Lineage {
    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("plain data")
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
    let aside = dir.join(format!("past-{}", unix_ns() / 1_000_000));
    std::fs::create_dir(&aside).map_err(|e| Fault::io(aside.display(), &e))?;
    for name in old {
        std::fs::rename(dir.join(&name), aside.join(&name)).map_err(|e| Fault::io(aside.display(), &e))?;
    }
    sync_dir(dir)
}

fn check_goes_on(lineage: &Lineage, lanes: u32, bytes: &[u8], artifacts: &dyn Store, is_shared: bool) -> Result<()> {
    let place = if is_shared { "checkpoint.store" } else { "state_dir" };
    if lineage.lanes != lanes {
        return Err(Fault::misuse(format!("lanes = {lanes}, but the lineage in {place} has {}", lineage.lanes))
            .hint("set lanes back, or start over with --new-lineage (the old state is kept aside)"));
    }
    let base = artifact::content_hash(bytes);
    if lineage.base == base {
        return Ok(());
    }
    let Some(first) = artifacts.get(&lineage.base)? else {
        return Err(Fault::corruption(format!("artifact {} is missing in {place}", lineage.base))
            .hint(format!("restore {place} from a copy, or start over with --new-lineage")));
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
    let text = format!("{base} {lanes} {} {}", std::process::id(), unix_ns());
    artifact::content_hash(text.as_bytes())[..16].to_string()
}

fn unix_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "name = \"t\"\n[schema]\nlabel = \"y\"\n[schema.fields]\nx = \"float\"\ny = \"bool\"\n\
                        [model]\nkind = \"logistic-regression\"\n";

    /// Places of a daemon: its own directory beside a store that all share.
    fn member(dir: &Path, name: &str) -> Places {
        let store = Some(dir.join("store").display().to_string());
        Places { dir: dir.join(name), store, group: Some("orders".into()) }
    }

    fn open(places: &Places, lanes: u32, new_lineage: bool) -> Result<Home> {
        Home::open(places, lanes, SPEC.as_bytes(), new_lineage)
    }

    #[test]
    fn daemons_that_start_at_the_same_instant_share_one_lineage() {
        let dir = tempfile::tempdir().expect("dir");
        let homes: Vec<Home> = std::thread::scope(|scope| {
            let places = (0..6).map(|n| member(dir.path(), &format!("node-{n}")));
            let threads: Vec<_> = places.map(|p| scope.spawn(move || open(&p, 2, false).expect("home"))).collect();
            threads.into_iter().map(|t| t.join().expect("a thread")).collect()
        });
        assert!(homes.iter().all(|home| home.lineage == homes[0].lineage && home.is_shared));
        assert_eq!(homes.iter().filter(|home| !home.has_past).count(), 1, "one has begun it");
        homes[0].checkpoints(1).expect("store").put("checkpoint-x", b"here").expect("put");
        let seen = homes[5].checkpoints(1).expect("store").get("checkpoint-x").expect("get");
        assert_eq!(seen.as_deref(), Some(&b"here"[..]), "what one writes, another reads");
        let artifact = homes[3].artifacts.get(&homes[0].lineage.base).expect("get");
        assert_eq!(artifact.as_deref(), Some(SPEC.as_bytes()));
        assert!(!dir.path().join("node-0/lineage.json").exists(), "nothing stale can be left in a state_dir");
        let fault = open(&member(dir.path(), "late"), 3, false).err().expect("other lanes");
        assert!(fault.message.contains("the lineage in checkpoint.store has 2"), "{fault}");
    }

    #[test]
    fn a_new_lineage_leaves_the_old_one_in_its_place() {
        let dir = tempfile::tempdir().expect("dir");
        let first = open(&member(dir.path(), "a"), 2, false).expect("home").lineage;
        let second = open(&member(dir.path(), "a"), 5, true).expect("home").lineage;
        assert!(first.lineage != second.lineage && second.lanes == 5);
        let home = open(&member(dir.path(), "b"), 5, false).expect("home");
        assert_eq!((&home.lineage, home.has_past), (&second, true), "the newest is in force");
        assert!(dir.path().join("store/orders").join(&first.lineage).exists());
    }

    #[test]
    fn a_state_directory_moves_into_an_empty_store_and_into_no_other() {
        let dir = tempfile::tempdir().expect("dir");
        let alone = Places::local(&dir.path().join("a"));
        let lineage = {
            let home = open(&alone, 1, false).expect("home");
            home.checkpoints(0).expect("store").put("checkpoint-x", b"here").expect("put");
            home.lineage.clone()
        };
        let home = open(&member(dir.path(), "a"), 1, false).expect("home");
        assert_eq!((&home.lineage, home.has_past), (&lineage, true));
        let moved = home.checkpoints(0).expect("store").get("checkpoint-x").expect("get");
        assert_eq!(moved.as_deref(), Some(&b"here"[..]));
        drop(home);
        assert_eq!(open(&member(dir.path(), "a"), 1, false).expect("again").lineage, lineage);
        open(&Places::local(&dir.path().join("b")), 1, false).expect("another's past");
        let fault = open(&member(dir.path(), "b"), 1, false).err().expect("not mixed");
        assert!(fault.message.contains("holds lineage") && fault.hint.contains("empty state_dir"), "{fault}");
    }

    #[test]
    fn without_a_group_only_checkpoints_are_in_the_store() {
        let dir = tempfile::tempdir().expect("dir");
        let places = |name| Places { group: None, ..member(dir.path(), name) };
        let (a, b) = (open(&places("a"), 1, false).expect("home"), open(&places("b"), 1, false).expect("home"));
        assert!(a.lineage != b.lineage, "each has its own");
        a.checkpoints(0).expect("store").put("x", b"a").expect("put");
        assert_eq!(b.checkpoints(0).expect("store").names().expect("names"), Vec::<String>::new());
        assert!(dir.path().join("a/lineage.json").exists());
    }
}
