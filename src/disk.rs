//! What several rooms ask of the file system, and the file system behind a trait: so that what a power cut may
//! leave of each call can be tried out.

use crate::error::{Fault, Result};
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Makes the names in a directory durable.
///
/// # Errors
/// Environment.
pub fn sync_dir(dir: &Path) -> Result<()> {
    Machine.sync_dir(dir).map_err(|e| Fault::io(format!("sync {}", dir.display()), &e))
}

/// A file system, as far as files that are written whole need one. Nothing is durable before it is synced: a
/// file's bytes by [`DiskFile::sync`], the names in a directory by [`Disk::sync_dir`].
pub trait Disk: Send + Sync {
    /// True for a directory; an error of kind NotFound where nothing is there.
    fn is_dir(&self, path: &Path) -> io::Result<bool>;
    /// Makes one directory; its parent must be there.
    fn make_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names of the files in a directory.
    fn files(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Time since a file was last written to.
    fn age(&self, path: &Path) -> io::Result<Duration>;
    /// A file's bytes.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// An empty file, over one that is there.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Gives a file another name, over a file that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives a file a second name; an error of kind AlreadyExists where it is taken.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send {
    /// Adds bytes at its end.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes its bytes durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine;

impl Disk for Machine {
    fn is_dir(&self, path: &Path) -> io::Result<bool> {
        std::fs::metadata(path).map(|found| found.is_dir())
    }
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::create_dir(dir)
    }
    fn files(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.extend(entry.file_name().into_string());
            }
        }
        Ok(names)
    }
    fn age(&self, path: &Path) -> io::Result<Duration> {
        let written = std::fs::metadata(path)?.modified()?;
        // Written in the future, by a clock that was set back since: not old.
        Ok(SystemTime::now().duration_since(written).unwrap_or_default())
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(File::create(path)?))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::hard_link(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(self, bytes)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Makes a directory and those above it that are missing, each durable in its parent.
///
/// # Errors
/// Environment, naming the directory that can't be made.
pub fn make_dirs(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let failed = |e: io::Error| Fault::io(dir.display(), &e);
    match disk.is_dir(dir) {
        Ok(true) => return Ok(()),
        Ok(false) => return Err(failed(ErrorKind::NotADirectory.into())),
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(failed(e)),
        Err(_) => {}
    }
    let parent = match dir.parent() {
        None => return Err(failed(ErrorKind::NotFound.into())),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    make_dirs(disk, parent)?;
    match disk.make_dir(dir) {
        // Another daemon may have made it meanwhile.
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed(e)),
        _ => {}
    }
    disk.sync_dir(parent).map_err(|e| Fault::io(format!("sync {}", parent.display()), &e))
}
