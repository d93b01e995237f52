//! The ledger of a lane: which events it took, in which order, and what the next journal record says.

use crate::batch::{Batch, Block, RecordKind};
use crate::faults;
use crate::journal::{JournalRecord, Run, SwapEntry};
use crate::sink::InputNames;
use crate::source::Position;
use std::collections::BTreeMap;

/// What a lane took since its last record, and where its inputs stand.
#[derive(Debug, Default)]
pub struct Ledger {
    lane: u32,
    lineage: String,
    next_number: u64,
    /// False for sources that can't be read again: runs would grow without use.
    replayable: bool,
    /// False for connections, which never come back: positions would grow without use.
    resumable: bool,
    positions: BTreeMap<String, Position>,
    /// By the input's number; `None` where nothing was taken from it since it got its number.
    current: Vec<Option<Position>>,
    runs: Vec<(u32, u64)>,
    swaps: Vec<SwapEntry>,
}

impl Ledger {
    /// The ledger of a lane that goes on after `tail` (or begins). `resumable`: inputs are read on after
    /// a restart, also where the past can't be read again (files beside standard input).
    pub fn new(lane: u32, lineage: &str, tail: Option<&JournalRecord>, replayable: bool, resumable: bool) -> Ledger {
        Ledger {
            lane,
            lineage: lineage.to_string(),
            next_number: tail.map_or(0, |t| t.number + 1),
            replayable,
            resumable: resumable || replayable,
            positions: tail.map(|t| t.positions.clone()).unwrap_or_default(),
            ..Ledger::default()
        }
    }

    /// Notes the rows of a batch, in their order.
    pub fn took(&mut self, batch: &Batch) {
        if !self.resumable {
            return;
        }
        for origin in &batch.origins {
            let end = origin.offset + 1;
            match self.runs.last_mut() {
                Some((input, last)) if *input == origin.input => *last = end,
                _ => self.runs.push((origin.input, end)),
            }
        }
    }

    /// Notes that a block was taken whole: its inputs stand behind it.
    pub fn finished(&mut self, block: &Block) {
        if !self.resumable {
            return;
        }
        for record in &block.records {
            let input = record.input as usize;
            if self.current.len() <= input {
                self.current.resize(input + 1, None);
            }
            let byte = record.byte + record.span.len() as u64;
            self.current[input] = match record.kind {
                RecordKind::Message => Some(Position { offset: record.offset + 1, byte: 0 }),
                RecordKind::Stream | RecordKind::Overlong => Some(Position { offset: record.offset, byte }),
                // A header is read again whenever its input is opened.
                RecordKind::Header => continue,
            };
        }
        // A record of a stream says where it begins; its rows say where it ended.
        for &(input, end) in self.runs.iter().rev().take(block.records.len()) {
            if let Some(Some(position)) = self.current.get_mut(input as usize) {
                position.offset = position.offset.max(end);
            }
        }
    }

    /// Notes a swap or rollback that is in force from the lane's next event on.
    pub fn swapped(&mut self, entry: SwapEntry) {
        self.swaps.push(entry);
    }

    /// True where something happened since the last record.
    pub fn is_dirty(&self) -> bool {
        !self.runs.is_empty() || !self.swaps.is_empty() || self.current.iter().any(Option::is_some)
    }

    /// The record of what happened since the last one; the caller fills in what the ledger doesn't know.
    pub fn record(&mut self, names: &InputNames) -> JournalRecord {
        for (input, position) in self.current.iter_mut().enumerate() {
            if let Some(position) = position.take() {
                self.positions.insert(names[input].to_string(), position);
            }
        }
        if !self.replayable {
            self.runs.clear();
        }
        let mut inputs: Vec<String> = Vec::new();
        let mut place: BTreeMap<u32, u32> = BTreeMap::new();
        let mut runs = Vec::with_capacity(self.runs.len());
        if faults::planted("runs-out-of-order") {
            self.runs.sort();
        }
        for (input, end) in self.runs.drain(..) {
            let input = *place.entry(input).or_insert_with(|| {
                inputs.push(names[input as usize].to_string());
                inputs.len() as u32 - 1
            });
            runs.push(Run { input, end });
        }
        let number = self.next_number;
        self.next_number += 1;
        JournalRecord {
            number,
            lineage: self.lineage.clone(),
            lane: self.lane,
            inputs,
            runs,
            swaps: std::mem::take(&mut self.swaps),
            positions: self.positions.clone(),
            ..JournalRecord::default()
        }
    }

    /// Where an input stands, by its number, if anything was taken from it since the last record.
    pub fn reached(&self, input: u32) -> Option<Position> {
        self.current.get(input as usize).copied().flatten()
    }

    /// Takes over the positions that a record gives (after its replay).
    pub fn stand_at(&mut self, positions: &BTreeMap<String, Position>) {
        self.positions.clone_from(positions);
    }

    /// Goes on behind a record whose events were not taken here.
    pub fn go_on_after(&mut self, record: &JournalRecord) {
        self.next_number = record.number + 1;
        self.stand_at(&record.positions);
    }

    /// Where every input stands, as of the last record.
    pub fn positions(&self) -> &BTreeMap<String, Position> {
        &self.positions
    }
}
