//! Disks of which a power cut leaves this or that: bytes that were not synced are lost, torn or zeros; names that were
//! not synced are as before or as after, each by itself.

use super::{Chance, Me, call, may_die, world};
use millstream::disk::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// A disk's files.
#[derive(Debug, Default, Clone)]
pub struct Files {
    contents: Vec<Content>,
    names: BTreeMap<PathBuf, usize>,
    dirs: BTreeSet<PathBuf>,
    /// Changes of names since the directory was synced, in order; `None`: removed.
    unsynced: Vec<Vec<(PathBuf, Option<usize>)>>,
    /// The names as they are on the platter.
    synced: BTreeMap<PathBuf, usize>,
}

impl Files {
    fn rename(&mut self, changes: Vec<(PathBuf, Option<usize>)>) {
        for (path, content) in &changes {
            match content {
                Some(content) => drop(self.names.insert(path.clone(), *content)),
                None => drop(self.names.remove(path)),
            }
        }
        self.unsynced.push(changes);
    }

    fn apply(&mut self, changes: &[(PathBuf, Option<usize>)]) {
        for (path, content) in changes {
            match content {
                Some(content) => drop(self.synced.insert(path.clone(), *content)),
                None => drop(self.synced.remove(path)),
            }
        }
    }

    fn sync_dir(&mut self, dir: &Path) {
        let (ours, others) = std::mem::take(&mut self.unsynced)
            .into_iter()
            .partition(|changes| changes.iter().all(|(path, _)| path.parent() == Some(dir)));
        self.unsynced = others;
        let ours: Vec<Vec<(PathBuf, Option<usize>)>> = ours;
        ours.iter().for_each(|changes| self.apply(changes));
    }

    /// A file that was always there.
    pub fn install(&mut self, path: &Path, bytes: &[u8]) {
        let content = self.contents.len();
        self.contents.push(Content { now: bytes.to_vec(), synced: bytes.to_vec() });
        self.names.insert(path.to_path_buf(), content);
        self.synced.insert(path.to_path_buf(), content);
        self.make_dir(path.parent().unwrap_or(path));
    }

    /// Other bytes in a file that is there, as if they had always been.
    pub fn replace(&mut self, path: &Path, bytes: &[u8]) {
        if let Some(content) = self.names.get(path) {
            self.contents[*content] = Content { now: bytes.to_vec(), synced: bytes.to_vec() };
        }
    }

    /// A directory that was always there.
    pub fn make_dir(&mut self, dir: &Path) {
        self.dirs.extend(dir.ancestors().map(Path::to_path_buf));
    }

    /// What the system writes out by itself, at a time of its own.
    pub fn write_back(&mut self, chance: &mut Chance) {
        if chance.one_in(2) && !self.contents.is_empty() {
            let content = chance.below(self.contents.len());
            let content = &mut self.contents[content];
            content.synced.clone_from(&content.now);
        } else if !self.unsynced.is_empty() {
            let changes = self.unsynced.remove(0);
            self.apply(&changes);
        }
    }

    /// What is left after the power went.
    pub fn power_cut(&mut self, chance: &mut Chance) {
        for changes in std::mem::take(&mut self.unsynced) {
            if chance.one_in(2) {
                self.apply(&changes);
            }
        }
        self.names.clone_from(&self.synced);
        for content in &mut self.contents {
            if content.now == content.synced {
                continue;
            }
            let torn = chance.below(content.now.len() + 1);
            match chance.below(4) {
                0 => content.now.clone_from(&content.synced),
                1 => content.now.truncate(torn),
                2 => content.now[torn..].fill(0),
                _ => {}
            }
            content.synced.clone_from(&content.now);
        }
    }

    /// The files of a folder, as they are now.
    pub fn folder(&self, dir: &Path) -> Vec<(String, Vec<u8>)> {
        (self.names.iter())
            .filter(|(path, _)| path.parent() == Some(dir))
            .map(|(path, content)| (file_name(path), self.contents[*content].now.clone()))
            .collect()
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned())
}

/// A daemon's view of a disk: its own, or one that it shares.
#[derive(Clone, Copy)]
pub struct SimDisk {
    pub me: Me,
    /// Number of the disk in the world.
    pub number: usize,
}

struct Open {
    disk: SimDisk,
    content: usize,
}

fn gone() -> Error {
    ErrorKind::NotFound.into()
}

impl SimDisk {
    fn call<R>(&self, what: &str, path: &Path, f: impl FnOnce(&mut Files) -> Result<R>) -> Result<R> {
        let shown = file_name(path);
        let shown = if shown.starts_with(".tmp-") { "a temporary file" } else { &shown };
        call(self.me, &format!("disk {what} {shown}")).map_err(|fault| Error::other(fault.to_string()))?;
        let outcome = world(|w| f(&mut w.disks[self.number]));
        may_die(self.me);
        outcome
    }
}

impl Disk for SimDisk {
    fn is_dir(&self, path: &Path) -> Result<bool> {
        world(|w| if w.disks[self.number].dirs.contains(path) { Ok(true) } else { Err(gone()) })
    }
    fn make_dir(&self, dir: &Path) -> Result<()> {
        // Kept at once: the daemons of this world begin with their directories.
        world(|w| w.disks[self.number].dirs.insert(dir.to_path_buf()));
        Ok(())
    }
    fn files(&self, dir: &Path) -> Result<Vec<String>> {
        self.call("list", dir, |files| Ok(files.folder(dir).into_iter().map(|(name, _)| name).collect()))
    }
    fn age(&self, _: &Path) -> Result<Duration> {
        Ok(Duration::ZERO)
    }
    fn read(&self, path: &Path) -> Result<Vec<u8>> {
        self.call("read", path, |files| {
            files.names.get(path).map(|content| files.contents[*content].now.clone()).ok_or_else(gone)
        })
    }
    fn create(&self, path: &Path) -> Result<Box<dyn DiskFile>> {
        let content = self.call("create", path, |files| {
            files.contents.push(Content::default());
            let content = files.contents.len() - 1;
            files.rename(vec![(path.to_path_buf(), Some(content))]);
            Ok(content)
        })?;
        Ok(Box::new(Open { disk: *self, content }))
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.call("rename to", to, |files| {
            let content = *files.names.get(from).ok_or_else(gone)?;
            files.rename(vec![(from.to_path_buf(), None), (to.to_path_buf(), Some(content))]);
            Ok(())
        })
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        self.call("link to", to, |files| {
            let content = *files.names.get(from).ok_or_else(gone)?;
            if files.names.contains_key(to) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            files.rename(vec![(to.to_path_buf(), Some(content))]);
            Ok(())
        })
    }
    fn remove(&self, path: &Path) -> Result<()> {
        self.call("remove", path, |files| {
            files.names.get(path).ok_or_else(gone)?;
            files.rename(vec![(path.to_path_buf(), None)]);
            Ok(())
        })
    }
    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.call("sync directory", dir, |files| {
            files.sync_dir(dir);
            Ok(())
        })
    }
}

impl DiskFile for Open {
    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.disk.call("write", Path::new("bytes"), |files| {
            files.contents[self.content].now.extend_from_slice(bytes);
            Ok(())
        })
    }
    fn sync(&mut self) -> Result<()> {
        self.disk.call("sync", Path::new("bytes"), |files| {
            let content = &mut files.contents[self.content];
            content.synced.clone_from(&content.now);
            Ok(())
        })
    }
}
