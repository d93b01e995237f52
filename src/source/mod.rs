//! Sources: where events come from. Bytes and offsets only; nothing here knows what a row means.

pub mod file;
pub mod frame;
pub mod generator;
pub mod kafka;
pub mod kafka_past;
pub mod rate;
pub mod socket;

use crate::batch::Block;
use crate::error::Result;
use std::time::Duration;

/// Where an input stands: what a restart needs to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Offset of the next event.
    pub offset: u64,
    /// Byte at which it starts (files; 0 elsewhere).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub byte: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What a call to [`Source::poll`] brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polled {
    /// At least one record was added to the block.
    Filled,
    /// Nothing has arrived within the wait.
    Idle,
    /// Nothing will ever arrive again.
    End,
}

/// How the bytes of an input are cut into events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One event a line (JSON).
    Lines,
    /// One event a line, but a quoted cell may hold a line's end (CSV).
    Csv {
        /// The first line of each input names the columns.
        header: bool,
    },
    /// Length-prefixed frames.
    Binary,
}

/// What every source needs to know of the limits and the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// How bytes are cut into events.
    pub framing: Framing,
    /// Longest event; a longer one becomes an `Overlong` record that holds its first bytes.
    pub event_bytes_max: usize,
    /// About how many bytes a block should hold (a single longer event still fits).
    pub block_bytes: usize,
}

/// Where events can be read again.
pub trait Past: Send {
    /// The past again, for recovery and replay: adds to the (empty) block events of one input from
    /// `from` on, none of an offset ≥ `end_offset`. `End` where none is left before `end_offset`.
    ///
    /// # Errors
    /// Environment, where the events are gone (retention, a file that shrank); Misuse, where the
    /// source cannot be read again (a socket).
    fn read_run(&mut self, input: &str, from: Position, end_offset: u64, block: &mut Block) -> Result<Polled>;

    /// The name of an input that a record carried.
    fn input_name(&self, input: u32) -> &str;
}

/// A source: one lane's inputs, merged in the order of arrival. It lives on one thread.
pub trait Source: Past {
    /// Starts reading: each known input from its position, others from where the source's options say.
    /// Called once, before `poll`, after any `read_run`.
    ///
    /// # Errors
    /// Environment, where an input cannot be opened or no longer holds its position.
    fn start(&mut self, positions: &[(String, Position)]) -> Result<()>;

    /// Adds to the (empty) block whatever has arrived, up to about `block_bytes`. Waits at most `wait`
    /// for the first byte, and never lingers to fill the block.
    ///
    /// # Errors
    /// Environment, after its own retries.
    fn poll(&mut self, block: &mut Block, wait: Duration) -> Result<Polled>;

    /// Where its inputs begin, once it is started, for a source that doesn't begin them at 0 (Kafka: at the
    /// group's offsets, or where the topic's retention has left off).
    fn positions(&self) -> Vec<(String, Position)> {
        Vec::new()
    }

    /// Events of each input that are known to wait behind what was read (Kafka; `None`: unknown).
    fn lag(&mut self) -> Vec<(String, Option<u64>)> {
        Vec::new()
    }

    /// True where events can be read again (`read_run`).
    fn replayable(&self) -> bool {
        true
    }

    /// Stops taking new events while `paused`; what is needed to stay alive (a group's heartbeat)
    /// goes on in `poll`, which answers `Idle`.
    fn pause(&mut self, paused: bool) {
        let _ = paused;
    }
}
