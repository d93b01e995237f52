//! Binary frames: length, client sequence number, the fields in the schema's order. See docs/protocol.md.

use super::row::{Cells, Kind, Target, malformed, misfit};
use super::{Event, Events};
use crate::batch::Reject;
use crate::schema::Schema;

/// Length of a token that is missing.
const MISSING: u32 = u32::MAX;

/// The reader of frames.
#[derive(Debug)]
pub(super) struct Binary {
    targets: Vec<Target>,
}

impl Binary {
    pub(super) fn new(schema: &Schema) -> Binary {
        Binary { targets: Target::all(schema) }
    }

    /// Reads what follows the length. `byte` positions count from the frame's start.
    fn rest(&self, rest: &[u8], cells: &mut Cells<'_>) -> Result<(), Reject> {
        let short = |at: usize| malformed("the frame ends inside a field", 4 + at);
        let (mut at, mut flaw) = (8, None);
        for target in &self.targets {
            if matches!(target.kind, Kind::Token | Kind::Literal) {
                let length = rest.get(at..).and_then(|r| r.first_chunk()).ok_or(short(at))?;
                let length = u32::from_le_bytes(*length);
                at += 4;
                if length != MISSING {
                    let bytes = rest.get(at..).and_then(|r| r.get(..length as usize)).ok_or(short(at))?;
                    std::str::from_utf8(bytes).map_err(|e| malformed("not UTF-8", 4 + at + e.valid_up_to()))?;
                    cells.raw_token(*target, bytes);
                    at += bytes.len();
                }
            } else {
                let value = rest.get(at..).and_then(|r| r.first_chunk()).ok_or(short(at))?;
                if cells.binary(*target, f64::from_le_bytes(*value)).is_err() {
                    flaw.get_or_insert(misfit(target.kind.mismatch(), target.field, 4 + at));
                }
                at += 8;
            }
        }
        if at != rest.len() {
            return Err(malformed("bytes after the last field", 4 + at));
        }
        flaw.map_or(Ok(()), Err)
    }
}

impl Events for Binary {
    #[inline(always)]
    fn skip_blank(&self, _bytes: &[u8], at: usize, _end: usize) -> usize {
        at
    }

    #[inline(always)]
    fn event(&mut self, bytes: &[u8], at: usize, end: usize, cells: &mut Cells<'_>) -> Event {
        let refused = |reason, line_end| Event {
            line_end,
            raw_end: line_end,
            sequence: 0,
            complete: false,
            outcome: Err(malformed(reason, line_end - at)),
        };
        let Some(length) = bytes[at..end].first_chunk() else {
            return refused("a frame is cut short inside its length", end);
        };
        let length = u32::from_le_bytes(*length) as usize;
        let start = at + 4;
        if length > end - start {
            return refused("a frame is cut short", end);
        }
        let rest = &bytes[start..start + length];
        let Some(sequence) = rest.first_chunk() else {
            return refused("a frame is too short for its sequence number", start + length);
        };
        Event {
            line_end: start + length,
            raw_end: start + length,
            sequence: u64::from_le_bytes(*sequence),
            complete: false,
            outcome: self.rest(rest, cells),
        }
    }
}
