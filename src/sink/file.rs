//! Predictions in a file: NDJSON, a block's predictions in one write, cut back to what was committed.
//!
//! With `rotate_bytes`, a file that has grown to that size is left at a batch's end and the next
//! number follows: `predictions.ndjson`, `predictions.ndjson.1`, `predictions.ndjson.2`, … The
//! committed length names the file that was current; recovery removes those with greater numbers.
//! After a failed write or sync the file is never touched again through the same descriptor: its
//! pages may have been dropped while they are marked clean. A restart cuts it back and goes on.

use super::{InputNames, OutputLength, Sink};
use crate::batch::Outbox;
use crate::error::{Fault, Result};
use crate::faults;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Predictions in a file.
pub struct FileSink {
    output: OutputFile,
}

impl FileSink {
    /// A sink that appends to `path`, and rotates it once it holds `rotate_bytes`. Nothing is opened
    /// before the first write.
    pub fn new(path: impl Into<PathBuf>, rotate_bytes: Option<u64>) -> FileSink {
        FileSink { output: OutputFile::new(path.into(), rotate_bytes) }
    }
}

impl Sink for FileSink {
    fn write(&mut self, outbox: &Outbox, _: &InputNames) -> Result<()> {
        self.output.write(&outbox.bytes)
    }

    fn flush(&mut self) -> Result<Vec<OutputLength>> {
        Ok(vec![self.output.flush()?])
    }

    fn recover(&mut self, lengths: &[OutputLength]) -> Result<()> {
        self.output.recover(lengths)
    }
}

/// An output with a committed length: whole writes, syncs, rotation, recovery.
pub(super) struct OutputFile {
    path: PathBuf,
    rotate_bytes: Option<u64>,
    /// Number of the current file; 0 is the path itself.
    number: u64,
    file: Option<File>,
    /// Length of the current file.
    bytes: u64,
    unsynced: bool,
    poisoned: Option<Fault>,
}

impl OutputFile {
    pub fn new(path: PathBuf, rotate_bytes: Option<u64>) -> OutputFile {
        OutputFile { path, rotate_bytes, number: 0, file: None, bytes: 0, unsynced: false, poisoned: None }
    }

    /// Appends; the bytes of one call stay in one file.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.refuse_if_poisoned()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if self.rotate_bytes.is_some_and(|limit| self.bytes >= limit.max(1)) {
            self.rotate()?;
        }
        let path = numbered(&self.path, self.number);
        faults::step("file.write");
        let written = self.opened().and_then(|file| file.write_all(bytes));
        if let Err(e) = written {
            return Err(self.poison(Fault::io(path.display(), &e)));
        }
        self.bytes += bytes.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Syncs the current file, and says how long it is.
    pub fn flush(&mut self) -> Result<OutputLength> {
        self.refuse_if_poisoned()?;
        self.sync()?;
        Ok(OutputLength { output: name(&numbered(&self.path, self.number)), bytes: self.bytes })
    }

    /// Cuts the output back to its committed length. What was never committed is removed, except a
    /// file that stood there before the first commit: new lines follow it.
    pub fn recover(&mut self, lengths: &[OutputLength]) -> Result<()> {
        (self.file, self.bytes, self.number, self.unsynced, self.poisoned) = (None, 0, 0, false, None);
        let committed = lengths.iter().find_map(|l| Some((number_of(&self.path, &l.output)?, l.bytes)));
        let Some((number, bytes)) = committed else {
            // Rotated files of a past that was set aside are not ours: only what comes behind them is.
            while self.rotate_bytes.is_some() && length(&numbered(&self.path, self.number + 1))?.is_some() {
                self.number += 1;
            }
            self.bytes = length(&numbered(&self.path, self.number))?.unwrap_or(0);
            return Ok(());
        };
        let current = numbered(&self.path, number);
        let found = length(&current)?;
        if found.unwrap_or(0) < bytes {
            let found = found.map_or("is missing".to_string(), |n| format!("is {n} bytes long"));
            let fault = Fault::corruption(format!("{}: {found}; {bytes} bytes were committed", current.display()));
            return Err(fault.hint("restore the file, or start over with --new-lineage"));
        }
        if found.is_some_and(|found| found > bytes) && !faults::planted("output-not-cut-back") {
            faults::step("file.cut");
            let cut = OpenOptions::new().write(true).open(&current).and_then(|f| {
                f.set_len(bytes)?;
                f.sync_all()
            });
            cut.map_err(|e| Fault::io(current.display(), &e))?;
        }
        if found.is_some_and(|found| found > 0) {
            // Whoever made the file may have died before its name was safe.
            sync_directory(&current).map_err(|e| Fault::io(current.display(), &e))?;
        }
        let mut beyond = number + 1;
        // Without rotation nothing beyond was written here: such files are someone's copies.
        while self.rotate_bytes.is_some() && remove(&numbered(&self.path, beyond))? {
            beyond += 1;
        }
        (self.number, self.bytes) = (number, bytes);
        Ok(())
    }

    fn rotate(&mut self) -> Result<()> {
        self.sync()?;
        faults::step("file.rotate");
        self.file = None;
        self.number += 1;
        // Left behind by a run whose past was set aside: its numbers are not ours to overwrite.
        while length(&numbered(&self.path, self.number))?.is_some() {
            self.number += 1;
        }
        self.bytes = 0;
        Ok(())
    }

    fn opened(&mut self) -> std::io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let path = numbered(&self.path, self.number);
                let is_new = !path.exists();
                let file = OpenOptions::new().append(true).create(true).open(&path)?;
                if is_new {
                    sync_directory(&path)?;
                }
                self.bytes = file.metadata()?.len();
                file
            }
        };
        Ok(self.file.insert(file))
    }

    fn sync(&mut self) -> Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.unsynced) else { return Ok(()) };
        if faults::planted("journal-before-sink-flush") {
            return Ok(());
        }
        faults::step("file.fsync");
        // Pipes and devices (`/dev/stdout`) have nothing to sync.
        let synced = match file.sync_data() {
            Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(()),
            other => other.and_then(|()| still_there(file)),
        };
        if let Err(e) = synced {
            let path = numbered(&self.path, self.number);
            return Err(self.poison(Fault::io(path.display(), &e)));
        }
        self.unsynced = false;
        Ok(())
    }

    fn poison(&mut self, fault: Fault) -> Fault {
        self.file = None;
        let fault = fault.hint("free the disk or mend it, then restart: the output is cut back to its last commit");
        self.poisoned = Some(fault.clone());
        fault
    }

    fn refuse_if_poisoned(&self) -> Result<()> {
        match &self.poisoned {
            Some(fault) => Err(fault.clone().at("no more is written after a failed write or sync")),
            None => Ok(()),
        }
    }
}

/// A file that someone removed takes every byte, and nobody reads one.
fn still_there(file: &File) -> std::io::Result<()> {
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.nlink() == 0 {
        return Err(std::io::Error::other("was removed while it was written: bring it back from a copy"));
    }
    Ok(())
}

/// The path of a number: `path`, `path.1`, `path.2`, …
fn numbered(path: &Path, number: u64) -> PathBuf {
    match number {
        0 => path.to_path_buf(),
        _ => {
            let mut name = path.as_os_str().to_owned();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        }
    }
}

/// The number of a path as [`numbered`] gave it.
fn number_of(path: &Path, output: &str) -> Option<u64> {
    let suffix = output.strip_prefix(&name(path))?;
    if suffix.is_empty() { Some(0) } else { suffix.strip_prefix('.')?.parse().ok() }
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

fn length(path: &Path) -> Result<Option<u64>> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.len())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Fault::io(path.display(), &e)),
    }
}

/// Removes a file; false where there was none.
fn remove(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Fault::io(path.display(), &e)),
    }
}

/// A new file's name is safe only once its directory is.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Class;

    fn outbox(text: &str) -> Outbox {
        Outbox { bytes: text.as_bytes().to_vec(), ..Outbox::default() }
    }

    fn read(directory: &Path) -> Vec<(String, String)> {
        let entries = std::fs::read_dir(directory).expect("directory").map(|e| e.expect("entry").path());
        let mut files: Vec<_> = entries
            .map(|p| {
                let name = p.file_name().expect("name").to_string_lossy().into_owned();
                (name, std::fs::read_to_string(&p).expect("file"))
            })
            .collect();
        files.sort();
        files
    }

    const BATCHES: [&str; 6] = ["aa\n", "bbbbbb\n", "c\n", "dddd\ndd\n", "e\n", "f\n"];

    /// Writes the batches from one number on, with a flush after each; lengths after each.
    fn run(sink: &mut FileSink, from: usize) -> Vec<Vec<OutputLength>> {
        let write = |b: &&str| {
            sink.write(&outbox(b), &InputNames::new()).expect("write");
            sink.flush().expect("flush")
        };
        BATCHES[from..].iter().map(write).collect()
    }

    #[test]
    fn a_crash_after_any_commit_leaves_the_same_files() {
        for rotate in [None, Some(1), Some(8), Some(9)] {
            let whole = tempfile::tempdir().expect("dir");
            let lengths = run(&mut FileSink::new(whole.path().join("p.ndjson"), rotate), 0);
            assert_eq!(read(whole.path()).len(), rotate.map_or(1, |r| if r == 1 { 6 } else { 3 }), "{rotate:?}");
            for (i, committed) in lengths.iter().enumerate() {
                let dir = tempfile::tempdir().expect("dir");
                // The crash comes at any later batch: what follows the commit is cut back.
                run(&mut FileSink::new(dir.path().join("p.ndjson"), rotate), 0);
                let base = whole.path().to_str().expect("path");
                let mut committed = committed.clone();
                committed[0].output = committed[0].output.replace(base, dir.path().to_str().expect("path"));
                let mut sink = FileSink::new(dir.path().join("p.ndjson"), rotate);
                sink.recover(&committed).expect("recover");
                assert_eq!(read(dir.path()).iter().map(|f| f.1.as_str()).collect::<String>(), BATCHES[..=i].concat());
                assert_eq!(sink.flush().expect("flush"), committed);
                run(&mut sink, i + 1);
                assert_eq!(read(dir.path()), read(whole.path()), "{rotate:?} {i}");
            }
        }
    }

    #[test]
    fn a_loss_of_committed_bytes_is_corruption() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("p");
        let committed = |bytes| [OutputLength { output: name(&path), bytes }];
        let recover = |bytes| FileSink::new(&path, None).recover(&committed(bytes));
        assert_eq!(recover(0), Ok(()));
        let fault = recover(1).expect_err("missing");
        assert!(fault.class == Class::Corruption && fault.message.contains("is missing"), "{fault}");
        std::fs::write(&path, "abc").expect("write");
        assert!(recover(4).expect_err("short").message.contains("is 3 bytes long; 4 bytes were committed"));
        assert_eq!(recover(2), Ok(()));
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "ab");
    }

    #[test]
    fn lines_that_stood_there_before_stay() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("p");
        std::fs::write(&path, "old\n").expect("write");
        let mut sink = FileSink::new(&path, None);
        sink.recover(&[]).expect("recover");
        sink.write(&outbox("new\n"), &InputNames::new()).expect("write");
        assert_eq!(sink.flush().expect("flush")[0].bytes, 8);
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "old\nnew\n");
    }

    #[test]
    fn files_that_were_there_before_the_first_commit_outlive_recovery() {
        for rotate in [None, Some(1)] {
            let dir = tempfile::tempdir().expect("dir");
            let path = dir.path().join("p");
            for (name, text) in [("p", "old\n"), ("p.1", "older\n"), ("p.2", "oldest\n")] {
                std::fs::write(dir.path().join(name), text).expect("write");
            }
            let before = read(dir.path());
            let mut sink = FileSink::new(&path, rotate);
            sink.recover(&[]).expect("begin");
            let committed = sink.flush().expect("flush");
            sink.write(&outbox("lost\n"), &InputNames::new()).expect("write");
            sink.flush().expect("flush");
            FileSink::new(&path, rotate).recover(&committed).expect("recover");
            assert_eq!(read(dir.path()), before, "{rotate:?}");
        }
    }

    #[test]
    fn a_failed_write_poisons() {
        let mut sink = FileSink::new("/dev/full", None);
        let fault = sink.write(&outbox("x"), &InputNames::new()).expect_err("full");
        assert!(fault.class == Class::Environment && fault.message.contains("/dev/full"), "{fault}");
        assert!(sink.write(&outbox("x"), &InputNames::new()).expect_err("still").message.starts_with("no more"));
        assert!(sink.flush().is_err());
    }
}
