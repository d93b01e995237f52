//! What several rooms ask of the file system, and the file system behind a trait: so that what a power cut may
//! leave of each call can be tried out.

use crate::error::{Fault, Result};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
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
    /// True where a file holds these parts, one behind another, and nothing else.
    fn holds(&self, path: &Path, parts: &[&[u8]]) -> io::Result<bool> {
        Ok(is_of(&self.read(path)?, parts))
    }
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
    /// Adds parts at its end, one behind another. It was empty.
    fn write_parts(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        self.write_all(&parts.concat())
    }
    /// Makes its bytes durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// True where bytes are these parts, one behind another.
pub fn is_of(mut bytes: &[u8], parts: &[&[u8]]) -> bool {
    for part in parts {
        match bytes.strip_prefix(*part) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    bytes.is_empty()
}

/// A file of more bytes goes to the disk, and comes back from it, past the system's cache where that can be: the
/// copy there costs several times what the copy here does, and nobody reads it. What is read back is what the disk has.
const WHOLE_BYTES_MAX: usize = 1 << 20;
/// Then so many bytes at a time, which stay in the processor's cache meanwhile.
const PIECE_BYTES: usize = 512 << 10;
/// What memory, places and lengths must be multiples of past the cache.
const BLOCK_BYTES: usize = 4 << 10;

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
    fn holds(&self, path: &Path, parts: &[&[u8]]) -> io::Result<bool> {
        let mut file = File::open(path)?;
        if file.metadata()?.len() != length(parts) as u64 {
            return Ok(false);
        }
        let (mut past_cache, mut expected) = (PastCache::of(&file), Parts { parts, gone: 0 });
        let mut buffer = Aligned::new();
        loop {
            match file.read(buffer.all()) {
                Ok(0) => return Ok(expected.is_empty()),
                Ok(bytes) if expected.begin_with(&buffer.all()[..bytes]) => {}
                Ok(_) => return Ok(false),
                Err(e) if past_cache.ends_by(&file, &e) || e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
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
    fn write_parts(&mut self, parts: &[&[u8]]) -> io::Result<()> {
        if length(parts) <= WHOLE_BYTES_MAX {
            return Write::write_all(self, &parts.concat());
        }
        let (mut past_cache, mut parts, mut buffer) = (PastCache::of(self), Parts { parts, gone: 0 }, Aligned::new());
        loop {
            let taken = parts.take(buffer.all());
            let mut bytes = &buffer.all()[..taken];
            if bytes.is_empty() {
                return Ok(());
            }
            while !bytes.is_empty() {
                if !bytes.len().is_multiple_of(BLOCK_BYTES) {
                    past_cache.end(self)?;
                }
                match self.write(bytes) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(written) => bytes = &bytes[written..],
                    Err(e) if past_cache.ends_by(self, &e) || e.kind() == ErrorKind::Interrupted => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

fn length(parts: &[&[u8]]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

/// Parts, one behind another, of which the first are gone.
struct Parts<'a> {
    parts: &'a [&'a [u8]],
    /// So many bytes of the first that is left are gone too.
    gone: usize,
}

impl Parts<'_> {
    /// The next bytes that lie in one piece, at most so many.
    fn next(&mut self, most: usize) -> &[u8] {
        while let Some((first, rest)) = self.parts.split_first() {
            if self.gone < first.len() {
                let start = self.gone;
                self.gone = (start + most).min(first.len());
                return &first[start..self.gone];
            }
            (self.parts, self.gone) = (rest, 0);
        }
        &[]
    }

    /// Fills a buffer; returns how many bytes there were for it.
    fn take(&mut self, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        loop {
            let bytes = self.next(buffer.len() - filled);
            if bytes.is_empty() {
                return filled;
            }
            buffer[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        }
    }

    /// Takes as many bytes as are given; false where they aren't those.
    fn begin_with(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.next(bytes.len());
            match bytes.strip_prefix(expected) {
                Some(rest) if !expected.is_empty() => bytes = rest,
                _ => return false,
            }
        }
        true
    }

    fn is_empty(&mut self) -> bool {
        self.next(1).is_empty()
    }
}

/// A buffer whose memory begins at a multiple of [`BLOCK_BYTES`].
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Aligned {
        let memory = vec![0; PIECE_BYTES + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        Aligned { memory, start }
    }
    fn all(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + PIECE_BYTES]
    }
}

/// Whether a file is written or read past the system's cache.
struct PastCache(bool);

impl PastCache {
    /// From now on, where the file's system can.
    fn of(file: &File) -> PastCache {
        PastCache(switch(file, true).is_ok())
    }

    /// Through the cache from now on.
    fn end(&mut self, file: &File) -> io::Result<()> {
        if std::mem::take(&mut self.0) { switch(file, false) } else { Ok(()) }
    }

    /// True where an error may say only that this can't be done past the cache: then it ends.
    fn ends_by(&mut self, file: &File, error: &io::Error) -> bool {
        self.0 && error.kind() == ErrorKind::InvalidInput && self.end(file).is_ok()
    }
}

#[cfg(target_os = "linux")]
fn switch(file: &File, past_cache: bool) -> io::Result<()> {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, past_cache);
    Ok(fcntl_setfl(file, flags)?)
}

#[cfg(not(target_os = "linux"))]
fn switch(_: &File, _: bool) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_written_in_pieces_and_every_difference_is_seen() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("large");
        let parts: Vec<Vec<u8>> = [24, 0, 2 * PIECE_BYTES + 3, 3 * PIECE_BYTES - 1, 5]
            .into_iter()
            .map(|bytes| (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect())
            .collect();
        let mut slices: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        let mut file = Machine.create(&path).expect("create");
        file.write_parts(&slices).expect("written");
        file.sync().expect("synced");
        assert!(std::fs::read(&path).expect("read") == parts.concat());
        assert!(Machine.holds(&path, &slices).expect("read"));
        assert!(Machine.holds(&path, &[&parts.concat()]).expect("read"), "wherever it is cut");
        for (part, place) in [(0, 0), (2, PIECE_BYTES), (2, 2 * PIECE_BYTES + 2), (3, 17), (4, 4)] {
            let mut other = parts[part].clone();
            other[place] ^= 1;
            let mut others = slices.clone();
            others[part] = &other;
            assert!(!Machine.holds(&path, &others).expect("read"), "part {part}, byte {place}");
        }
        slices.pop();
        assert!(!Machine.holds(&path, &slices).expect("read"), "longer than expected");
        slices.push(&[0; 6]);
        assert!(!Machine.holds(&path, &slices).expect("read"), "shorter than expected");
        let gone = Machine.holds(&dir.path().join("none"), &slices).expect_err("no file");
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn parts_are_told_from_bytes_that_only_begin_so() {
        assert!(is_of(b"abc", &[b"a", b"", b"bc"]) && is_of(b"", &[]));
        assert!(!is_of(b"abc", &[b"ab"]) && !is_of(b"ab", &[b"a", b"bc"]) && !is_of(b"abd", &[b"a", b"bc"]));
    }
}
