//! A folder on a disk. A file is written under a temporary name in the same directory, synced, renamed, and the
//! directory synced. A failed write or sync is never retried on the same descriptor: the temporary file is
//! abandoned. A directory that is made is synced in its parent.

use super::Store;
use crate::disk::{Disk, Machine, make_dirs};
use crate::error::{Fault, Result};
use crate::faults;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const TEMPORARY: &str = ".tmp-";
/// In a shared directory, a younger temporary file may still be written to by another process.
const ABANDONED_AFTER: Duration = Duration::from_secs(3_600);

/// A directory of files that are each whole.
#[derive(Clone)]
pub struct LocalStore {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// How old another process's temporary file must be to be removed.
    abandoned_after: Duration,
}

impl std::fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LocalStore").field(&self.dir).finish()
    }
}

impl LocalStore {
    /// The store in `dir`, a directory of this process alone, which is created if missing. Temporary files of a
    /// crash are removed.
    ///
    /// # Errors
    /// Environment, where the directory can't be made or read.
    pub fn open(dir: &Path) -> Result<LocalStore> {
        LocalStore::on(Arc::new(Machine), dir)
    }

    /// As `open`, for a directory that other processes use as well: what they are about to write is left alone.
    ///
    /// # Errors
    /// As for `open`.
    pub fn shared(dir: &Path) -> Result<LocalStore> {
        LocalStore::new(Arc::new(Machine), dir, ABANDONED_AFTER)
    }

    /// As `open`, on a disk of the caller's.
    ///
    /// # Errors
    /// As for `open`.
    pub fn on(disk: Arc<dyn Disk>, dir: &Path) -> Result<LocalStore> {
        LocalStore::new(disk, dir, Duration::ZERO)
    }

    fn new(disk: Arc<dyn Disk>, dir: &Path, abandoned_after: Duration) -> Result<LocalStore> {
        make_dirs(disk.as_ref(), dir).map_err(|fault| {
            fault.hint("state_dir and checkpoint.store must be directories that the daemon may write to")
        })?;
        let store = LocalStore { disk, dir: dir.to_path_buf(), abandoned_after };
        let ours = format!("{TEMPORARY}{}-", process_name());
        for name in store.entries()? {
            if name.starts_with(TEMPORARY) && !name.starts_with(&ours) && store.is_abandoned(&name) {
                store.remove(&name)?;
            }
        }
        Ok(store)
    }

    fn is_abandoned(&self, name: &str) -> bool {
        self.abandoned_after.is_zero() || self.disk.age(&self.path(name)).is_ok_and(|age| age > self.abandoned_after)
    }

    /// Where a file of that name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn entries(&self) -> Result<Vec<String>> {
        self.disk.files(&self.dir).map_err(|e| Fault::io(self.dir.display(), &e))
    }

    /// Writes a temporary file and gives it its name by `publish`.
    fn write(
        &self,
        name: &str,
        parts: &[&[u8]],
        publish: impl FnOnce(&Path, &Path) -> std::io::Result<bool>,
    ) -> Result<bool> {
        // A name of its own: other threads and processes may write the same file at the same time.
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Relaxed);
        let temporary = self.dir.join(format!("{TEMPORARY}{}-{number}-{name}", process_name()));
        let target = self.dir.join(name);
        let written = (self.disk.create(&temporary))
            .and_then(|mut file| {
                faults::step("store.write");
                file.write_parts(parts)?;
                faults::step("store.fsync");
                if faults::planted("checkpoint-not-fsynced") { Ok(()) } else { file.sync() }
            })
            .and_then(|()| {
                faults::step("store.rename");
                publish(&temporary, &target)
            });
        let published = match written {
            Ok(published) => published,
            Err(e) => {
                // Best effort: opening the store removes what is left.
                let _ = self.disk.remove(&temporary);
                return Err(Fault::io(target.display(), &e)
                    .hint("free space on the disk of state_dir or checkpoint.store, or mend it"));
            }
        };
        faults::step("store.fsync-dir");
        self.disk.sync_dir(&self.dir).map_err(|e| Fault::io(format!("sync {}", self.dir.display()), &e))?;
        Ok(published)
    }
}

impl Store for LocalStore {
    fn place(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.put_parts(name, &[bytes])
    }

    fn put_parts(&self, name: &str, parts: &[&[u8]]) -> Result<()> {
        self.write(name, parts, |temporary, target| self.disk.rename(temporary, target).map(|()| true)).map(|_| ())
    }

    fn holds(&self, name: &str, parts: &[&[u8]]) -> Result<bool> {
        match self.disk.holds(&self.path(name), parts) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            outcome => outcome.map_err(|e| Fault::io(self.path(name).display(), &e)),
        }
    }

    fn put_if_absent(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.write(name, &[bytes], |temporary, target| {
            // A link, unlike a rename, fails where the name is taken.
            let linked = match self.disk.link(temporary, target) {
                Ok(()) => true,
                Err(e) if e.kind() == ErrorKind::AlreadyExists => false,
                Err(e) => return Err(e),
            };
            self.disk.remove(temporary).map(|()| linked)
        })
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self.disk.read(&self.path(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Fault::io(self.path(name).display(), &e)),
        }
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = self.entries()?;
        names.retain(|name| !name.starts_with(TEMPORARY));
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<()> {
        match self.disk.remove(&self.path(name)) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Fault::io(self.path(name).display(), &e)),
            _ => Ok(()),
        }
    }

    fn folder(&self, name: &str) -> Result<Arc<dyn Store>> {
        Ok(Arc::new(LocalStore::new(self.disk.clone(), &self.dir.join(name), self.abandoned_after)?))
    }
}

/// A name of this process: its number alone comes back, in a container with each start.
fn process_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        format!("{:x}.{now:x}", std::process::id())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::checkpoint_name;

    #[test]
    fn the_newest_are_kept_and_a_crash_leaves_no_litter() {
        let dir = tempfile::tempdir().expect("dir");
        let store: &dyn Store = &LocalStore::open(dir.path()).expect("open");
        for number in [3, 12, 100, 7_000] {
            store.put_checkpoint(number, &[&number.to_le_bytes()], 3).expect("put");
        }
        assert_eq!(store.checkpoints().expect("list"), [12, 100, 7_000]);
        assert_eq!(store.get(&checkpoint_name(100)).expect("get"), Some(100u64.to_le_bytes().to_vec()));
        assert_eq!(store.get(&checkpoint_name(3)).expect("get"), None);
        let litter = dir.path().join(".tmp-1.2-0-checkpoint-9");
        std::fs::write(&litter, b"half").expect("write");
        assert_eq!(store.names().expect("names").len(), 3, "what is half written isn't there");
        LocalStore::shared(dir.path()).expect("open");
        assert!(litter.exists(), "another process may be about to write it");
        LocalStore::open(dir.path()).expect("open");
        assert!(!litter.exists());
    }

    #[test]
    fn of_many_at_once_one_makes_the_file() {
        let dir = tempfile::tempdir().expect("dir");
        let made: Vec<u8> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8u8)
                .map(|n| {
                    let store = LocalStore::shared(&dir.path().join("a/b")).expect("open");
                    scope.spawn(move || store.put_if_absent("lineage", &[n; 999]).expect("put").then_some(n))
                })
                .collect();
            threads.into_iter().filter_map(|t| t.join().expect("a thread")).collect()
        });
        assert_eq!(made.len(), 1, "{made:?}");
        let store = LocalStore::shared(&dir.path().join("a/b")).expect("open");
        assert_eq!(store.get("lineage").expect("get"), Some(vec![made[0]; 999]));
        assert_eq!(std::fs::read_dir(dir.path().join("a/b")).expect("dir").count(), 1, "no litter");
        store.remove("lineage").expect("removed");
        store.remove("lineage").expect("it is gone already");
        assert!(store.put_if_absent("lineage", b"again").expect("put"));
    }

    #[test]
    fn folders_are_no_files() {
        let dir = tempfile::tempdir().expect("dir");
        let store = LocalStore::open(dir.path()).expect("open");
        let folder = store.folder("lane-0").expect("folder");
        folder.put("x", b"1").expect("put");
        assert_eq!(store.names().expect("names"), Vec::<String>::new());
        assert_eq!(folder.names().expect("names"), ["x"]);
        assert_eq!(folder.place("x"), dir.path().join("lane-0/x").display().to_string());
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let fault = LocalStore::open(Path::new("/proc/none")).expect_err("proc");
        assert!(fault.message.contains("/proc/none"), "{fault}");
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("file"), b"").expect("write");
        let fault = LocalStore::open(&dir.path().join("file")).expect_err("a file");
        assert!(fault.message.contains("file") && !fault.hint.is_empty(), "{fault}");
    }
}
