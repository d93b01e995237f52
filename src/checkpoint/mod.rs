//! Checkpoints on disk: written whole or not at all, read back before an older one goes.
//!
//! This room sees bytes and record numbers, not models. A file is written under a temporary name in
//! the same directory, synced, renamed, and the directory synced. A failed write or sync is never
//! retried on the same descriptor: the temporary file is abandoned.

use crate::disk::sync_dir;
use crate::error::{Fault, Result};
use crate::faults;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".safetensors";

/// A directory of files that are each whole: one lane's checkpoints and artifacts.
#[derive(Debug, Clone)]
pub struct LocalStore {
    dir: PathBuf,
}

impl LocalStore {
    /// The store in `dir`, which is created if missing. Temporary files of a crash are removed.
    ///
    /// # Errors
    /// Environment, where the directory can't be made or read.
    pub fn open(dir: &Path) -> Result<LocalStore> {
        std::fs::create_dir_all(dir).map_err(|e| {
            Fault::io(dir.display(), &e).hint("state_dir must be a directory that the daemon may write to")
        })?;
        let store = LocalStore { dir: dir.to_path_buf() };
        for name in store.names()? {
            if name.starts_with(".tmp-") {
                let path = dir.join(&name);
                std::fs::remove_file(&path).map_err(|e| Fault::io(path.display(), &e))?;
            }
        }
        Ok(store)
    }

    /// Where a file of that name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file atomically and durably.
    ///
    /// # Errors
    /// Environment; then a file of that name is as it was before.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let temporary = self.dir.join(format!(".tmp-{name}"));
        let target = self.dir.join(name);
        let written = File::create(&temporary)
            .and_then(|mut file| {
                faults::step("store.write");
                file.write_all(bytes)?;
                faults::step("store.fsync");
                if faults::planted("checkpoint-not-fsynced") { Ok(()) } else { file.sync_all() }
            })
            .and_then(|()| {
                faults::step("store.rename");
                std::fs::rename(&temporary, &target)
            });
        if let Err(e) = written {
            // Best effort: opening the store removes what is left.
            let _ = std::fs::remove_file(&temporary);
            return Err(Fault::io(target.display(), &e).hint("free space on the disk of state_dir, or mend it"));
        }
        faults::step("store.fsync-dir");
        sync_dir(&self.dir)
    }

    /// The bytes of a file, `None` where there is none of that name.
    ///
    /// # Errors
    /// Environment, where it can't be read.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match std::fs::read(self.dir.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Fault::io(self.dir.join(name).display(), &e)),
        }
    }

    /// Writes the checkpoint of a journal record, reads it back, and then removes all but the newest `keep`.
    /// Returns the record number of the oldest that is kept.
    ///
    /// # Errors
    /// Environment, or Corruption where what was read back differs; older checkpoints stay.
    pub fn put_checkpoint(&self, number: u64, bytes: &[u8], keep: usize) -> Result<u64> {
        let name = checkpoint_name(number);
        self.put(&name, bytes)?;
        if self.get(&name)?.as_deref() != Some(bytes) {
            let path = self.path(&name);
            return Err(Fault::corruption(format!("{}: reads back differently", path.display()))
                .hint("the disk of state_dir is not to be trusted; replace it"));
        }
        let numbers = self.checkpoints()?;
        let (old, kept) = numbers.split_at(numbers.len().saturating_sub(keep.max(1)));
        for number in old {
            faults::step("store.remove");
            let path = self.path(&checkpoint_name(*number));
            std::fs::remove_file(&path).map_err(|e| Fault::io(path.display(), &e))?;
        }
        Ok(kept.first().copied().unwrap_or(number))
    }

    /// Removes the files `PREFIX…SUFFIX` whose number is below `before`.
    ///
    /// # Errors
    /// Environment.
    pub fn remove_before(&self, prefix: &str, before: u64) -> Result<()> {
        for name in self.names()? {
            let number: Option<u64> = name.strip_prefix(prefix).and_then(|n| n.strip_suffix(SUFFIX)?.parse().ok());
            if number.is_some_and(|number| number < before) {
                let path = self.path(&name);
                std::fs::remove_file(&path).map_err(|e| Fault::io(path.display(), &e))?;
            }
        }
        Ok(())
    }

    /// Record numbers of the checkpoints that are there, ascending.
    ///
    /// # Errors
    /// Environment, where the directory can't be read.
    pub fn checkpoints(&self) -> Result<Vec<u64>> {
        let mut numbers: Vec<u64> = (self.names()?.iter())
            .filter_map(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = std::fs::read_dir(&self.dir).map_err(|e| Fault::io(self.dir.display(), &e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Fault::io(self.dir.display(), &e))?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }
}

/// File name of the checkpoint that belongs to a journal record.
pub fn checkpoint_name(number: u64) -> String {
    format!("{PREFIX}{number:020}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_a_crash_leaves_no_litter() {
        let dir = tempfile::tempdir().expect("dir");
        let store = LocalStore::open(dir.path()).expect("open");
        for number in [3, 12, 100, 7_000] {
            store.put_checkpoint(number, &number.to_le_bytes(), 3).expect("put");
        }
        assert_eq!(store.checkpoints().expect("list"), [12, 100, 7_000]);
        assert_eq!(store.get(&checkpoint_name(100)).expect("get"), Some(100u64.to_le_bytes().to_vec()));
        assert_eq!(store.get(&checkpoint_name(3)).expect("get"), None);
        std::fs::write(dir.path().join(".tmp-checkpoint-9"), b"half").expect("write");
        LocalStore::open(dir.path()).expect("open");
        assert!(!dir.path().join(".tmp-checkpoint-9").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let fault = LocalStore::open(Path::new("/proc/none")).expect_err("proc");
        assert!(fault.message.contains("/proc/none"), "{fault}");
    }
}
