//! One connection: bytes straight into the block, answers out of a buffer, never blocking.

use super::super::frame::{Framer, Place};
use super::super::{Framing, ReadOptions};
use super::listener::Seat;
use crate::batch::{Block, RecordKind};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::io::Errno;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

/// Least room for a read.
pub(super) const READ_BYTES_MIN: usize = 64 * 1024;
/// An unfinished event longer than this gathers in the connection's own buffer, so that a slow sender
/// of a long event doesn't have it copied at each arrival.
const TAIL_BYTES_LONG: usize = 16 * 1024;

/// A stream that never blocks.
pub(super) enum Stream {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Stream {
    pub fn source(&mut self) -> &mut dyn mio::event::Source {
        match self {
            Stream::Tcp(stream) => stream,
            Stream::Unix(stream) => stream,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }

    /// Says why, as far as that goes without waiting, and closes.
    pub fn refuse(mut self, reason: &str, framing: Framing) {
        if framing != Framing::Binary {
            let line = format!("{{\"error\":{{\"stage\":\"limit\",\"reason\":\"{reason}\"}}}}\n");
            let _ = match &mut self {
                Stream::Tcp(stream) => stream.write(line.as_bytes()),
                Stream::Unix(stream) => stream.write(line.as_bytes()),
            };
        }
        let _ = rustix::net::shutdown(self.fd(), rustix::net::Shutdown::Write);
        // Unread bytes would turn the close into a reset, which may overtake the line.
        let mut unread = [0u8; 16 * 1024];
        for _ in 0..64 {
            if !matches!(rustix::io::read(self.fd(), &mut unread), Ok(n) if n > 0) {
                break;
            }
        }
    }
}

/// What a read came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There may be more.
    More,
    /// Nothing more for now.
    Drained,
    /// The client will send nothing more.
    Ended,
    /// The header line is too long: nothing that follows can be read.
    Hopeless,
    /// The connection is broken.
    Gone,
}

/// A client's connection.
pub(super) struct Connection {
    pub name: Arc<str>,
    /// When bytes last moved.
    pub active: Instant,
    /// It stands in the queue of those that may have bytes.
    pub queued: bool,
    /// It may have bytes, but isn't read until its answers have gone out.
    pub held: bool,
    /// The client has closed its side (so that a short read is not the last).
    pub closing: bool,
    /// Everything the client sent was read.
    pub ended: bool,
    /// Events that were answered.
    pub answered: u64,
    /// Answers of which some bytes wait.
    pub rows_unsent: u64,
    stream: Stream,
    place: Place,
    framer: Framer,
    tail: Vec<u8>,
    out: Vec<u8>,
    sent: usize,
    _seat: Seat,
}

impl Connection {
    pub fn new(stream: Stream, name: String, input: u32, read: &ReadOptions, seat: Seat) -> Connection {
        Connection {
            name: name.into(),
            active: Instant::now(),
            queued: false,
            held: false,
            closing: false,
            ended: false,
            answered: 0,
            rows_unsent: 0,
            stream,
            place: Place::beginning(input, read.framing),
            framer: Framer::new(read),
            tail: Vec::new(),
            out: Vec::new(),
            sent: 0,
            _seat: seat,
        }
    }

    pub fn source(&mut self) -> &mut dyn mio::event::Source {
        self.stream.source()
    }

    pub fn into_stream(self) -> Stream {
        self.stream
    }

    /// Bytes of answers that wait.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Events that were handed out and have no answer yet.
    pub fn unanswered(&self) -> u64 {
        self.place.offset.saturating_sub(self.answered)
    }

    /// Reads once, into the block; whole events become records.
    pub fn read(&mut self, block: &mut Block) -> Progress {
        let start = block.bytes.len();
        let read = if self.tail.len() < TAIL_BYTES_LONG {
            block.bytes.append(&mut self.tail);
            read_once(self.stream.fd(), &mut block.bytes)
        } else {
            let read = read_once(self.stream.fd(), &mut self.tail);
            if matches!(read, Ok((n, _)) if n > 0) && !self.framer.is_complete(&self.tail) {
                return self.progress(read);
            }
            block.bytes.append(&mut self.tail);
            self.tail = Vec::new();
            read
        };
        let first = block.records.len();
        let ended = matches!(read, Ok((0, _)));
        let rest = self.framer.records(block, start, &mut self.place, u64::MAX, ended);
        self.tail.extend_from_slice(&block.bytes[rest..]);
        block.bytes.truncate(rest);
        if self.place.header && block.records.len() > first {
            block.records.retain({
                let mut i = 0;
                move |r| {
                    i += 1;
                    i <= first || r.kind != RecordKind::Overlong
                }
            });
            return Progress::Hopeless;
        }
        self.progress(read)
    }

    fn progress(&mut self, read: Result<(usize, bool), Errno>) -> Progress {
        match read {
            Ok((0, _)) => {
                self.ended = true;
                Progress::Ended
            }
            // A stream whose read came short has nothing more, unless its end is on the way.
            Ok((_, full)) if full || self.closing => Progress::More,
            Ok(_) | Err(Errno::AGAIN) => Progress::Drained,
            Err(Errno::INTR) => Progress::More,
            Err(_) => Progress::Gone,
        }
    }

    /// Sends what can be sent without waiting, and keeps the rest. False where the client is gone.
    pub fn send(&mut self, bytes: &[u8], rows: u64) -> bool {
        self.answered += rows;
        let sent = match self.unsent() {
            0 => match write_some(self.stream.fd(), bytes) {
                Some(sent) => sent,
                None => return false,
            },
            _ => 0,
        };
        if sent < bytes.len() {
            self.out.extend_from_slice(&bytes[sent..]);
            self.rows_unsent += rows;
        }
        true
    }

    /// Sends what waits, as far as that goes. True where bytes moved; `None` where the client is gone.
    pub fn flush(&mut self) -> Option<bool> {
        if self.unsent() == 0 {
            return Some(false);
        }
        let sent = write_some(self.stream.fd(), &self.out[self.sent..])?;
        self.sent += sent;
        if self.unsent() == 0 {
            self.out.clear();
            // A burst's buffer is not kept for as long as the client stays.
            self.out.shrink_to(READ_BYTES_MIN);
            (self.sent, self.rows_unsent) = (0, 0);
        } else if self.sent > self.out.len() / 2 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        Some(sent > 0)
    }
}

/// One read into the spare memory of `bytes`: the count, and whether the memory is now full.
fn read_once(fd: BorrowedFd<'_>, bytes: &mut Vec<u8>) -> Result<(usize, bool), Errno> {
    bytes.reserve_exact(READ_BYTES_MIN);
    let count = rustix::io::read(fd, rustix::buffer::spare_capacity(bytes))?;
    Ok((count, bytes.len() == bytes.capacity()))
}

/// Writes until the kernel takes no more; `None` where the client is gone.
fn write_some(fd: BorrowedFd<'_>, bytes: &[u8]) -> Option<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match rustix::net::send(fd, &bytes[sent..], rustix::net::SendFlags::NOSIGNAL) {
            Ok(count) => sent += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(_) => return None,
        }
    }
    Some(sent)
}
