//! The journal of lanes outside Kafka: segments of lines, each a checksum and a record as JSON.
//!
//! A line is `crc32 (8 hex digits), space, JSON, newline`. Segments are named by the number of their
//! first record (`00000000000000000000.journal`); a new one begins at about `SEGMENT_BYTES_MAX`, and
//! trimming removes whole segments. A torn last line (a crash while appending) is cut off on opening;
//! damage anywhere else is corruption. A failed write or sync poisons the descriptor: it is never
//! retried, the segment is closed and the next append opens another.

use super::{Journal, JournalRecord};
use crate::error::{Fault, Result};
use crate::faults;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A segment that has grown beyond this many bytes is followed by a new one.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// What to do about a journal that is damaged.
const DAMAGED: &str = "restore the state directory from a copy, or start over with --new-lineage";

/// A journal in a directory of its own.
pub struct FileJournal {
    dir: PathBuf,
    sync: bool,
    current: Option<(File, u64)>,
    tail: Option<JournalRecord>,
}

impl FileJournal {
    /// Opens (or begins) the journal in `dir`, cuts off a torn last line, and reads the tail. With
    /// `sync`, an append returns only when the record is on the disk.
    ///
    /// # Errors
    /// Environment, where the directory can't be read or written; Corruption, where a record before
    /// the last is damaged.
    pub fn open(dir: &Path, sync: bool) -> Result<FileJournal> {
        crate::disk::make_dirs(&crate::disk::Machine, dir)?;
        let mut journal = FileJournal { dir: dir.to_path_buf(), sync, current: None, tail: None };
        journal.mend_last_segment()?;
        for (_, path) in journal.segments()?.iter().rev() {
            if let Some(last) = parse_segment(path)?.0.pop() {
                journal.tail = Some(last);
                break;
            }
        }
        Ok(journal)
    }

    fn segments(&self) -> Result<Vec<(u64, PathBuf)>> {
        let entries = std::fs::read_dir(&self.dir).map_err(|e| Fault::io(self.dir.display(), &e))?;
        let mut segments = Vec::new();
        for entry in entries {
            let path = entry.map_err(|e| Fault::io(self.dir.display(), &e))?.path();
            let number = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok());
            if let (Some(number), Some("journal")) = (number, path.extension().and_then(|e| e.to_str())) {
                segments.push((number, path));
            }
        }
        segments.sort();
        Ok(segments)
    }

    /// A crash can tear the last line of the last segment, and of no other.
    fn mend_last_segment(&mut self) -> Result<()> {
        let Some((_, path)) = self.segments()?.pop() else { return Ok(()) };
        // Whoever made the segment may have died before its name was safe.
        crate::disk::sync_dir(&self.dir)?;
        let (_, good, torn) = parse_segment_to_damage(&path)?;
        if torn {
            let file = OpenOptions::new().write(true).open(&path).map_err(|e| Fault::io(path.display(), &e))?;
            file.set_len(good).map_err(|e| Fault::io(path.display(), &e))?;
            file.sync_all().map_err(|e| Fault::io(path.display(), &e))?;
        }
        Ok(())
    }

    /// Cuts the last segment back to `length`, through a new descriptor.
    fn cut_back(&self, length: u64) -> Result<()> {
        let Some((_, path)) = self.segments()?.pop() else { return Ok(()) };
        let file = OpenOptions::new().write(true).open(&path).map_err(|e| Fault::io(path.display(), &e))?;
        file.set_len(length).map_err(|e| Fault::io(path.display(), &e))
    }

    fn open_segment(&self, number: u64) -> Result<(File, u64)> {
        let last = self.segments()?.pop();
        if let Some((_, path)) = last {
            let length = std::fs::metadata(&path).map_err(|e| Fault::io(path.display(), &e))?.len();
            if length < SEGMENT_BYTES_MAX {
                let file = OpenOptions::new().append(true).open(&path).map_err(|e| Fault::io(path.display(), &e))?;
                return Ok((file, length));
            }
        }
        let path = self.dir.join(format!("{number:020}.journal"));
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Fault::io(path.display(), &e))?;
        crate::disk::sync_dir(&self.dir)?;
        Ok((file, 0))
    }
}

impl Journal for FileJournal {
    fn append(&mut self, record: &JournalRecord) -> Result<()> {
        let json = serde_json::to_string(record).expect("a record is plain data");
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        let (mut file, length) = match self.current.take() {
            Some((file, length)) if length < SEGMENT_BYTES_MAX => (file, length),
            _ => self.open_segment(record.number)?,
        };
        faults::step("journal.write");
        let mut written = file.write_all(line.as_bytes());
        if self.sync && written.is_ok() {
            faults::step("journal.fsync");
            written = file.sync_data();
        }
        if written.is_ok() {
            written = still_there(&file);
        }
        if let Err(e) = written {
            // What the disk holds now is unknown: the descriptor is abandoned, the line cut off again.
            drop(file);
            let cut = self.cut_back(length).err().map(|f| format!("; {}", f.message)).unwrap_or_default();
            return Err(Fault::io(format!("journal {}{cut}", self.dir.display()), &e)
                .hint("free space on the disk of state_dir, or mend it, then start again: the output is cut back to the last record"));
        }
        faults::step("journal.written");
        self.current = Some((file, length + line.len() as u64));
        self.tail = Some(record.clone());
        Ok(())
    }

    fn tail(&mut self) -> Result<Option<JournalRecord>> {
        Ok(self.tail.clone())
    }

    fn read(&mut self, from: u64) -> Result<Vec<JournalRecord>> {
        let segments = self.segments()?;
        let mut records: Vec<JournalRecord> = Vec::new();
        for (i, (_, path)) in segments.iter().enumerate() {
            let behind = segments.get(i + 1).is_some_and(|(next, _)| *next <= from);
            if behind {
                continue;
            }
            for record in parse_segment(path)?.0 {
                if let Some(last) = records.last()
                    && last.number.checked_add(1) != Some(record.number)
                {
                    let (path, last, next) = (path.display(), last.number, record.number);
                    return Err(Fault::corruption(format!("{path}: record {next} follows record {last}")).hint(DAMAGED));
                }
                if record.number >= from {
                    records.push(record);
                }
            }
        }
        Ok(records)
    }

    fn trim(&mut self, before: u64) -> Result<()> {
        let segments = self.segments()?;
        for pair in segments.windows(2) {
            if pair[1].0 <= before {
                std::fs::remove_file(&pair[0].1).map_err(|e| Fault::io(pair[0].1.display(), &e))?;
            }
        }
        Ok(())
    }
}

/// A segment that someone removed takes every line, and gives none back.
fn still_there(file: &File) -> std::io::Result<()> {
    match file.metadata()?.nlink() {
        0 => Err(std::io::Error::other("was removed while it was written: bring it back from a copy")),
        _ => Ok(()),
    }
}

fn parse_segment(path: &Path) -> Result<(Vec<JournalRecord>, u64)> {
    let (records, good, torn) = parse_segment_to_damage(path)?;
    if torn {
        return Err(Fault::corruption(format!("{}: the line at byte {good} is damaged", path.display())).hint(DAMAGED));
    }
    Ok((records, good))
}

/// The records before the first damage, the length of the good part, and whether a damaged line follows.
/// Damage with good lines behind it is never a torn write: it is corruption.
fn parse_segment_to_damage(path: &Path) -> Result<(Vec<JournalRecord>, u64, bool)> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|mut f| f.read_to_end(&mut bytes)).map_err(|e| Fault::io(path.display(), &e))?;
    let (mut records, mut good) = (Vec::new(), 0usize);
    while good < bytes.len() {
        let line_end = memchr::memchr(b'\n', &bytes[good..]).map(|n| good + n);
        match line_end.and_then(|end| parse_line(&bytes[good..end])) {
            Some(record) => {
                records.push(record);
                good = line_end.expect("a parsed line has an end") + 1;
            }
            None => {
                let rest = line_end.map_or(&[][..], |end| &bytes[end + 1..]);
                if rest.split(|b| *b == b'\n').any(|line| parse_line(line).is_some()) {
                    return Err(Fault::corruption(format!("{}: the record at byte {good} is damaged", path.display()))
                        .hint(DAMAGED));
                }
                return Ok((records, good as u64, true));
            }
        }
    }
    Ok((records, good as u64, false))
}

fn parse_line(line: &[u8]) -> Option<JournalRecord> {
    let checksum = line.get(..8)?;
    let json = line.get(9..)?;
    if line[8] != b' ' || checksum != format!("{:08x}", crc32fast::hash(json)).as_bytes() {
        return None;
    }
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> JournalRecord {
        JournalRecord { number, lineage: "l".into(), seq: number.wrapping_mul(10), ..JournalRecord::default() }
    }

    fn numbers(records: &[JournalRecord]) -> Vec<u64> {
        records.iter().map(|r| r.number).collect()
    }

    #[test]
    fn records_come_back_after_reopening() {
        let dir = tempfile::tempdir().expect("dir");
        let mut journal = FileJournal::open(dir.path(), true).expect("open");
        assert_eq!(journal.tail().expect("tail"), None);
        (0..5).for_each(|n| journal.append(&record(n)).expect("append"));
        let mut journal = FileJournal::open(dir.path(), true).expect("open");
        assert_eq!(journal.tail().expect("tail"), Some(record(4)));
        assert_eq!(numbers(&journal.read(2).expect("read")), [2, 3, 4]);
    }

    #[test]
    fn a_torn_line_is_cut_off_at_every_length() {
        let dir = tempfile::tempdir().expect("dir");
        let mut journal = FileJournal::open(dir.path(), false).expect("open");
        (0..3).for_each(|n| journal.append(&record(n)).expect("append"));
        let path = dir.path().join("00000000000000000000.journal");
        let whole = std::fs::read(&path).expect("bytes");
        let second_end = whole.len() - whole.len() / 3;
        for length in second_end..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("write");
            let mut journal = FileJournal::open(dir.path(), false).expect("open");
            assert_eq!(journal.tail().expect("tail"), Some(record(1)), "cut at {length}");
            journal.append(&record(2)).expect("append");
            assert_eq!(numbers(&journal.read(0).expect("read")), [0, 1, 2]);
        }
    }

    #[test]
    fn a_flip_before_the_last_record_is_corruption() {
        let dir = tempfile::tempdir().expect("dir");
        let mut journal = FileJournal::open(dir.path(), false).expect("open");
        (0..3).for_each(|n| journal.append(&record(n)).expect("append"));
        let path = dir.path().join("00000000000000000000.journal");
        let mut bytes = std::fs::read(&path).expect("bytes");
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).expect("write");
        let fault = FileJournal::open(dir.path(), false).err().expect("corrupt");
        assert_eq!(fault.class, crate::error::Class::Corruption);
    }

    /// Found by the fuzzer `journal_segment`: record 0 behind another ended the program.
    #[test]
    fn records_that_do_not_follow_one_another_are_corruption() {
        for numbers in [&[3, 0][..], &[0, 2], &[1, 1], &[u64::MAX, 0], &[u64::MAX, 1]] {
            let dir = tempfile::tempdir().expect("dir");
            let mut journal = FileJournal::open(dir.path(), false).expect("open");
            numbers.iter().for_each(|n| journal.append(&record(*n)).expect("append"));
            let mut journal = FileJournal::open(dir.path(), false).expect("open");
            let fault = journal.read(0).expect_err("a gap");
            assert_eq!(fault.class, crate::error::Class::Corruption);
            let said = format!("record {} follows record {}", numbers[1], numbers[0]);
            assert!(fault.message.contains(&said), "{fault}");
        }
    }

    #[test]
    fn trimming_removes_whole_segments_behind_the_number() {
        let dir = tempfile::tempdir().expect("dir");
        let mut journal = FileJournal::open(dir.path(), false).expect("open");
        let mut number = 0;
        while journal.segments().expect("segments").len() < 3 {
            let mut big = record(number);
            big.inputs = vec!["x".repeat(1 << 20)];
            journal.append(&big).expect("append");
            number += 1;
        }
        let second = journal.segments().expect("segments")[1].0;
        journal.trim(second).expect("trim");
        assert_eq!(journal.read(0).expect("read")[0].number, second);
    }
}
