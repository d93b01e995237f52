//! One file (or standard input) being read: from its position, chunk by chunk, whole events only.

use super::super::frame::{Framer, Place};
use super::super::{Framing, Polled, Position, ReadOptions};
use crate::batch::{Block, Record, RecordKind, Span};
use crate::error::{Fault, Result};
use rustix::fd::{AsFd, BorrowedFd};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

/// Why a file could not be opened.
pub(super) enum Opening {
    /// There is no such file.
    Absent,
    /// Anything else.
    Fault(Fault),
}

impl From<Fault> for Opening {
    fn from(fault: Fault) -> Opening {
        Opening::Fault(fault)
    }
}

/// A file that is being read.
pub(super) struct Reader {
    pub path: String,
    pub name: String,
    /// Its path leads to another file now.
    pub replaced: bool,
    /// Read to its end for good.
    pub done: bool,
    place: Place,
    framer: Framer,
    /// `None`: standard input.
    file: Option<File>,
    /// Bytes of the unfinished event.
    tail: Vec<u8>,
    header: Option<Vec<u8>>,
    /// The next block begins with the header.
    header_due: bool,
}

enum Chunk {
    Bytes,
    Nothing,
    End,
}

impl Reader {
    /// Opens a file at a position: the byte, or where the position has none the row, is looked up.
    ///
    /// # Errors
    /// Absent; Environment, where the file is shorter than its position or cannot be read.
    pub fn open(
        path: &str,
        name: &str,
        input: u32,
        at: Position,
        read: &ReadOptions,
    ) -> std::result::Result<Reader, Opening> {
        let file = match path {
            "-" => None,
            _ => Some(open_file(path)?),
        };
        let mut reader = Reader {
            path: path.to_string(),
            name: name.to_string(),
            replaced: false,
            done: false,
            place: Place::beginning(input, read.framing),
            framer: Framer::new(read),
            file,
            tail: Vec::new(),
            header: None,
            header_due: false,
        };
        if reader.file.is_none() {
            // Standard input holds new events; its offsets go on where they stood.
            reader.place.offset = at.offset;
        } else if at.offset > 0 {
            reader.go_to(at, read)?;
        }
        Ok(reader)
    }

    /// Where it stands: the first event that was not handed out.
    pub fn position(&self) -> Position {
        Position { offset: self.place.offset, byte: self.place.byte }
    }

    /// The next blocks begin with the header (CSV), as if the input began anew.
    pub fn repeat_header(&mut self) {
        self.header_due = self.header.is_some();
    }

    fn go_to(&mut self, at: Position, read: &ReadOptions) -> Result<()> {
        let length = self.length()?;
        if length < at.byte {
            return Err(Fault::environment(format!(
                "{}: {length} bytes long, but it was read up to byte {} (row {})",
                self.path, at.byte, at.offset
            ))
            .hint("restore the file, or start over with --new-lineage"));
        }
        // Frames have no mark by which a byte could be checked, so they are counted.
        let by_row = at.byte == 0 || read.framing == Framing::Binary;
        if by_row || self.place.header {
            self.pass_over(if by_row { at.offset } else { 0 }, read)?;
        }
        if by_row {
            return Ok(());
        }
        self.tail.clear();
        self.framer = Framer::new(read);
        self.place = Place { offset: at.offset, byte: at.byte, header: false, fresh: false, ..self.place };
        let file = self.file.as_mut().expect("only files have a past");
        let mut before = [0];
        file.read_exact_at(&mut before, at.byte - 1).map_err(|e| Fault::io(&self.path, &e))?;
        if before[0] != b'\n' {
            self.framer.skip_line();
        }
        file.seek(SeekFrom::Start(at.byte)).map_err(|e| Fault::io(&self.path, &e))?;
        Ok(())
    }

    /// Reads the header and `rows` events, and forgets the events.
    fn pass_over(&mut self, rows: u64, read: &ReadOptions) -> Result<()> {
        let mut block = Block::default();
        while self.place.offset < rows || self.place.header {
            block.clear();
            let left = rows - self.place.offset;
            let had_header = !self.place.header;
            let polled = self.fill(&mut block, read.block_bytes, left, true, Duration::ZERO)?;
            if polled != Polled::Filled && (had_header || self.place.header) {
                return Err(Fault::environment(format!(
                    "{}: {} rows long, but it was read up to row {rows}",
                    self.path, self.place.offset
                ))
                .hint("restore the file, or start over with --new-lineage"));
            }
        }
        self.done = false;
        self.repeat_header();
        Ok(())
    }

    /// Adds a chunk of whole events to the block, at most `events_max` of them. `ended`: the end of
    /// the file ends its last line, and the file.
    ///
    /// # Errors
    /// Environment: it cannot be read, or its header line is longer than an event may be.
    pub fn fill(
        &mut self,
        block: &mut Block,
        block_bytes: usize,
        events_max: u64,
        ended: bool,
        wait: Duration,
    ) -> Result<Polled> {
        if self.done {
            return Ok(Polled::End);
        }
        let ends = ended || self.file.is_none();
        self.begin(block);
        let mut at = block.bytes.len();
        let first = block.records.len();
        block.bytes.append(&mut self.tail);
        let mut filled;
        loop {
            at = self.framer.records(block, at, &mut self.place, events_max, self.done);
            filled = self.look_at_header(block, first)?;
            if filled || self.done || events_max == 0 && !self.place.header {
                break;
            }
            match read_chunk(self.file.as_ref(), &mut block.bytes, block_bytes, wait) {
                Ok(Chunk::Bytes) => {}
                Ok(Chunk::End) if ends => self.done = true,
                Ok(_) => break,
                Err(e) => return Err(Fault::io(&self.path, &e)),
            }
        }
        self.tail.extend_from_slice(&block.bytes[at..]);
        block.bytes.truncate(at);
        if filled {
            return Ok(Polled::Filled);
        }
        if !block.records.is_empty() {
            // A header alone is no reason to wake anyone: it comes with the first events.
            self.repeat_header();
        }
        block.clear();
        Ok(if self.done { Polled::End } else { Polled::Idle })
    }

    /// Begins a block, with the header where it is due.
    fn begin(&mut self, block: &mut Block) {
        let Some(header) = self.header.as_ref().filter(|_| self.header_due) else { return };
        let start = block.bytes.len();
        block.bytes.extend_from_slice(header);
        block.records.push(Record {
            span: Span::new(start, block.bytes.len()),
            input: self.place.input,
            kind: RecordKind::Header,
            offset: self.place.offset,
            byte: 0,
            key: None,
            headers: None,
        });
        self.header_due = false;
    }

    /// Keeps the header for later; true where the block holds an event.
    fn look_at_header(&mut self, block: &Block, first: usize) -> Result<bool> {
        let records = &block.records[first..];
        if let Some(record) = records.iter().find(|r| r.kind == RecordKind::Header) {
            self.header = Some(record.span.of(&block.bytes).to_vec());
        }
        if self.place.header && records.iter().any(|r| r.kind == RecordKind::Overlong) {
            return Err(Fault::environment(format!("{}: the header line is longer than event_bytes_max", self.path))
                .hint("raise limits.event_bytes_max"));
        }
        Ok(records.iter().any(|r| r.kind != RecordKind::Header))
    }

    fn length(&self) -> Result<u64> {
        match &self.file {
            Some(file) => Ok(file.metadata().map_err(|e| Fault::io(&self.path, &e))?.len()),
            None => Ok(u64::MAX),
        }
    }

    /// # Errors
    /// Environment, where the file is shorter than what was read of it.
    pub fn check_length(&self) -> Result<()> {
        let read = self.place.byte + self.tail.len() as u64;
        if self.done || self.length()? >= read {
            return Ok(());
        }
        Err(Fault::environment(format!(
            "{}: cut to {} bytes while it was followed; {read} bytes were read",
            self.path,
            self.length()?
        ))
        .hint("rotate by renaming, not by truncating (copytruncate); start over with --new-lineage"))
    }

    /// True where its path leads to another file now.
    pub fn is_rotated(&self) -> bool {
        let Some(open) = self.file.as_ref().and_then(|f| f.metadata().ok()) else { return false };
        match std::fs::metadata(&self.path) {
            Ok(now) => (now.dev(), now.ino()) != (open.dev(), open.ino()),
            Err(_) => false,
        }
    }
}

fn open_file(path: &str) -> std::result::Result<File, Opening> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(Opening::Absent),
        Err(e) => return Err(Fault::io(path, &e).into()),
    };
    let metadata = file.metadata().map_err(|e| Fault::io(path, &e))?;
    if metadata.is_dir() {
        let fault = Fault::environment(format!("{path}: is a directory"));
        return Err(fault.hint(format!("name its files: \"{path}/*\"")).into());
    }
    Ok(file)
}

/// One read, straight into the spare memory of `bytes`.
fn read_chunk(file: Option<&File>, bytes: &mut Vec<u8>, count: usize, wait: Duration) -> std::io::Result<Chunk> {
    let stdin = std::io::stdin();
    let fd: BorrowedFd<'_> = match file {
        Some(file) => file.as_fd(),
        None if !has_bytes(stdin.as_fd(), wait)? => return Ok(Chunk::Nothing),
        None => stdin.as_fd(),
    };
    bytes.reserve(count.max(4096));
    loop {
        match rustix::io::read(fd, rustix::buffer::spare_capacity(bytes)) {
            Ok(0) => return Ok(Chunk::End),
            Ok(_) => return Ok(Chunk::Bytes),
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Waits for a pipe or terminal to have bytes, or an end.
fn has_bytes(fd: BorrowedFd<'_>, wait: Duration) -> std::io::Result<bool> {
    let mut fds = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec::try_from(wait).ok();
    match rustix::event::poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
