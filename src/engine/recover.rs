//! Recovery: the newest usable checkpoint, then the journal's records after it, replayed without
//! emitting, each compared with the digest that it recorded. A digest that differs tries the next
//! older checkpoint, and at last stops the lane: it never publishes on a mismatch.

use super::lane::{LaneCore, Watch};
use super::worker::previous_name;
use crate::artifact;
use crate::batch::{Block, Cursor};
use crate::checkpoint::{Store, checkpoint_name};
use crate::error::{Class, Fault, Result};
use crate::faults;
use crate::journal::{Journal, JournalRecord, SwapEntry};
use crate::pipeline::{Manifest, Pipeline};
use crate::source::{Past, Polled, Position, Source};
use std::sync::Arc;

/// Where a lane's past is kept.
pub struct Archive<'a> {
    /// The lane's checkpoints.
    pub store: &'a dyn Store,
    /// Artifacts by their content hash: the lineage's first pipeline, and every candidate that came in.
    pub artifacts: &'a dyn Store,
    /// Content hash of the pipeline that the lineage began with.
    pub base: &'a str,
    /// The lineage.
    pub lineage: &'a str,
}

/// Builds a lane's core around a pipeline, standing at a record (or at the beginning).
pub type MakeCore<'a> = dyn Fn(Pipeline, Option<&JournalRecord>) -> Result<LaneCore> + 'a;

/// What recovery found and did.
pub struct Recovered {
    /// The lane, standing behind its last committed event.
    pub core: LaneCore,
    /// The last committed record; `None` for a lane that begins.
    pub tail: Option<JournalRecord>,
    /// Events replayed.
    pub replayed: u64,
    /// Learned events that no source can give again (a socket's).
    pub lost_learned: u64,
    /// Number of the record that the state was loaded from; `None`: from the first pipeline.
    pub from: Option<u64>,
}

/// Called as the replay moves on: records done, records in all. False: the replay is given up.
pub type Progress<'a> = dyn FnMut(u64, u64) -> bool + 'a;

/// Brings a lane back to its last committed event.
///
/// # Errors
/// Corruption, where no checkpoint leads to the recorded digest, or the journal is gone; Environment,
/// where the events are gone, or `progress` gave up.
pub fn recover(
    source: &mut dyn Source,
    journal: &mut dyn Journal,
    archive: &Archive<'_>,
    make: &MakeCore<'_>,
    progress: &mut Progress<'_>,
) -> Result<Recovered> {
    let mut listed = archive.store.checkpoints()?;
    let tail = match journal.tail()? {
        Some(tail) => tail,
        None if listed.is_empty() => {
            let core = make(archive.load(archive.base)?, None)?;
            return Ok(Recovered { core, tail: None, replayed: 0, lost_learned: 0, from: None });
        }
        // From the beginning, every event would be published and learned a second time.
        None if source.replayable() => {
            return Err(Fault::corruption("checkpoints are there, but the journal that they belong to is empty")
                .hint("restore the journal from a copy, or start over with --new-lineage"));
        }
        None => archive.beginning(),
    };
    faults::step("recovery.tail");
    if tail.lineage != archive.lineage {
        return Err(Fault::misuse(format!(
            "the journal is of lineage {}, the state directory of {}",
            tail.lineage, archive.lineage
        ))
        .hint("point state_dir at the state that belongs to the journal, or start over with --new-lineage"));
    }
    loop {
        let outcome = from_any(&listed, &tail, source, journal, archive, make, progress);
        let Err(Fault { class: Class::Corruption, .. }) = &outcome else { return outcome };
        // In a shared store a former owner may have written a newer one, and removed those, on its way out.
        let now = archive.store.checkpoints()?;
        if now == listed {
            return outcome;
        }
        listed = now;
    }
}

/// Recovers from the newest of these checkpoints that leads to the tail.
fn from_any(
    listed: &[u64],
    tail: &JournalRecord,
    source: &mut dyn Source,
    journal: &mut dyn Journal,
    archive: &Archive<'_>,
    make: &MakeCore<'_>,
    progress: &mut Progress<'_>,
) -> Result<Recovered> {
    // Where nothing is replayed the journal isn't synced: after a power cut, checkpoints may be ahead of it.
    let usable = listed.iter().copied().filter(|n| !source.replayable() || *n <= tail.number);
    let numbers: Vec<Option<u64>> = std::iter::once(None).chain(usable.map(Some)).collect();
    // A damaged version before is made again from a checkpoint before its swap, where one is left; where none is,
    // and where nothing can be replayed, only that rollback is lost: no digest depends on it.
    let mut rollback = if source.replayable() { Rollback::Needed } else { Rollback::Optional };
    let mut last = None;
    loop {
        for number in numbers.iter().rev() {
            match attempt(*number, tail, source, journal, archive, make, progress, &mut rollback) {
                Ok(recovered) => return Ok(recovered),
                Err(fault) if fault.class == Class::Corruption => {
                    let from = number.map_or("the first pipeline".to_string(), checkpoint_name);
                    tracing::warn!("recovery from {from} failed, trying an older one: {fault}");
                    last.get_or_insert(fault.at(from));
                }
                Err(fault) => return Err(fault),
            }
        }
        match rollback {
            Rollback::Damaged => rollback = Rollback::Optional,
            Rollback::Needed | Rollback::Optional => break,
        }
    }
    Err(last
        .unwrap_or_else(|| Fault::corruption("no checkpoint is there"))
        .hint("restore the state directory from a copy, or start over with --new-lineage"))
}

/// What becomes of a checkpoint whose version before is damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rollback {
    /// An older checkpoint is tried.
    Needed,
    /// The same, and it has happened.
    Damaged,
    /// The lane goes on without that rollback.
    Optional,
}

impl Rollback {
    /// The version before, or what is to become of its fault.
    fn judge(&mut self, previous: Result<Option<Pipeline>>) -> Result<Option<Pipeline>> {
        match previous {
            Err(fault) if matches!(fault.class, Class::Corruption | Class::Misuse) => {
                if *self == Rollback::Optional {
                    tracing::error!("the version before can't be brought back by a rollback any more: {fault}");
                    return Ok(None);
                }
                *self = Rollback::Damaged;
                Err(Fault { class: Class::Corruption, ..fault })
            }
            other => other,
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn attempt(
    number: Option<u64>,
    tail: &JournalRecord,
    source: &mut dyn Source,
    journal: &mut dyn Journal,
    archive: &Archive<'_>,
    make: &MakeCore<'_>,
    progress: &mut Progress<'_>,
    rollback: &mut Rollback,
) -> Result<Recovered> {
    let mut ahead = None;
    let (mut core, from) = match number {
        Some(number) => {
            let (pipeline, record) = archive.checkpoint(number)?;
            let mut core = make(pipeline, Some(&record))?;
            core.set_previous(rollback.judge(archive.previous(record.swap))?);
            faults::step("recovery.checkpoint");
            ahead = Some(record).filter(|r| r.number > tail.number);
            (core, Some(number))
        }
        None => (make(archive.load(archive.base)?, None)?, None),
    };
    let tail = ahead.as_ref().unwrap_or(tail);
    let (seq, learned) = (core.seq(), core.learned());
    if source.replayable() {
        let mut records = journal.read(from.unwrap_or(0))?;
        if records.first().is_some_and(|r| Some(r.number) == from) {
            check_own_record(&core, &records.remove(0))?;
        }
        if let Some(first) = records.first().filter(|r| Some(r.number) != from.map_or(Some(0), |n| n.checked_add(1))) {
            return Err(Fault::corruption(format!("the journal begins at record {}, which is too late", first.number)));
        }
        for (done, record) in records.iter().enumerate() {
            replay_record(&mut core, record, source, archive, &mut ())?;
            faults::step("recovery.record");
            if !progress(done as u64 + 1, records.len() as u64) {
                return Err(Fault::environment("the recovery was given up"));
            }
        }
        let replayed = core.seq() - seq;
        faults::step("recovery.previous");
        archive.keep_previous(&mut core)?;
        return Ok(Recovered { core, tail: Some(tail.clone()), replayed, lost_learned: 0, from });
    }
    // The events can't be read again; the version in force can still be the committed one.
    if core.swap() != tail.swap {
        if core.pipeline().hash() != tail.version {
            // A version that was rolled back to had learned something before it was swapped out.
            let kept = rollback.judge(archive.previous(core.swap()))?.filter(|p| p.hash() == tail.version);
            let pipeline = kept.map_or_else(|| archive.load(&tail.version), Ok)?;
            core = make(pipeline, Some(tail))?;
        }
        core.set_previous(rollback.judge(archive.previous(tail.swap))?);
    }
    core.jump_to(tail)?;
    Ok(Recovered {
        core,
        tail: Some(tail.clone()),
        replayed: 0,
        lost_learned: tail.learned.saturating_sub(learned),
        from,
    })
}

/// A checkpoint is a cache of what its record leads to: one of a past that was never committed is none.
///
/// # Errors
/// Corruption, where the journal's record of that number is another.
fn check_own_record(core: &LaneCore, record: &JournalRecord) -> Result<()> {
    let digest = format!("{:016x}", core.digest());
    let ours = (core.seq(), core.learned(), core.swap(), &digest, core.ledger.positions());
    if ours == (record.seq, record.learned, record.swap, &record.digest, &record.positions) {
        return Ok(());
    }
    Err(Fault::corruption(format!(
        "journal record {} says seq {}, learned {}, digest {}; the checkpoint has {}, {}, {digest}",
        record.number, record.seq, record.learned, record.digest, ours.0, ours.1
    )))
}

/// Takes a record's runs and swaps again, and compares what comes out with what was recorded.
///
/// # Errors
/// Corruption, where the digest differs; Environment, where the events are gone.
pub fn replay_record(
    core: &mut LaneCore,
    record: &JournalRecord,
    source: &mut dyn Past,
    archive: &Archive<'_>,
    watch: &mut dyn Watch,
) -> Result<()> {
    core.set_learn(!record.frozen);
    watch.record(record);
    let mut swaps = record.swaps.iter().peekable();
    let mut from: Vec<Position> =
        record.inputs.iter().map(|input| core.ledger.positions().get(input).copied().unwrap_or_default()).collect();
    let mut block = Block::default();
    for run in &record.runs {
        let input = run.input as usize;
        let name = record
            .inputs
            .get(input)
            .ok_or_else(|| Fault::corruption(format!("journal record {}: run of input {input}", record.number)))?;
        while from[input].offset < run.end {
            block.clear();
            if source.read_run(name, from[input], run.end, &mut block)? != Polled::Filled {
                return Err(Fault::environment(format!(
                    "{name}: events {} to {} are gone",
                    from[input].offset, run.end
                ))
                .hint("bring the input back as it was, or start over with --new-lineage"));
            }
            name_inputs(core, source, &block);
            let seq = core.seq();
            replay_block(core, &block, &mut swaps, archive, watch)?;
            watch.block(seq);
            core.ledger.finished(&block);
            let reached = block.records.last().and_then(|r| core.ledger.reached(r.input));
            match reached.filter(|p| *p != from[input]) {
                Some(position) => from[input] = position,
                None => return Err(Fault::corruption(format!("{name}: no event at offset {}", from[input].offset))),
            }
        }
    }
    apply_due(core, &mut swaps, archive)?;
    let ours = core.record();
    core.ledger.stand_at(&record.positions);
    let differs = (ours.seq, ours.learned, &ours.digest) != (record.seq, record.learned, &record.digest);
    if differs && !faults::planted("digest-not-compared") {
        return Err(Fault::corruption(format!(
            "journal record {}: replay gives seq {}, learned {}, digest {}; recorded are {}, {}, {}",
            record.number, ours.seq, ours.learned, ours.digest, record.seq, record.learned, record.digest
        )));
    }
    Ok(())
}

fn replay_block(
    core: &mut LaneCore,
    block: &Block,
    swaps: &mut std::iter::Peekable<std::slice::Iter<'_, SwapEntry>>,
    archive: &Archive<'_>,
    watch: &mut dyn Watch,
) -> Result<()> {
    let mut cursor = Cursor::default();
    loop {
        apply_due(core, swaps, archive)?;
        let late = u64::from(faults::planted("swap-one-late-in-replay"));
        let until = swaps.peek().map_or(u64::MAX, |s| s.seq + late).min(watch.cut(core.seq()));
        while core.replay(block, &mut cursor, until, watch) {}
        if core.seq() != until {
            return Ok(());
        }
    }
}

fn apply_due(
    core: &mut LaneCore,
    swaps: &mut std::iter::Peekable<std::slice::Iter<'_, SwapEntry>>,
    archive: &Archive<'_>,
) -> Result<()> {
    let late = u64::from(faults::planted("swap-one-late-in-replay"));
    while let Some(entry) = swaps.next_if(|s| s.seq + late <= core.seq()) {
        let at = if entry.rollback { core.roll_back() } else { core.swap_in(archive.load(&entry.artifact)?) };
        let at = at.map_err(|f| Fault::corruption(format!("swap {}: {f}", entry.swap)))?;
        if at != entry.seq + late || core.swap() != entry.swap {
            return Err(Fault::corruption(format!(
                "swap {} was in force from event {} on, not {at}",
                entry.swap, entry.seq
            )));
        }
    }
    Ok(())
}

/// Makes sure that the core knows the names of the inputs in a block.
pub fn name_inputs(core: &mut LaneCore, source: &dyn Past, block: &Block) {
    for record in &block.records {
        for number in core.names.len()..=record.input as usize {
            Arc::make_mut(&mut core.names).push(Arc::from(source.input_name(number as u32)));
        }
    }
}

impl Archive<'_> {
    /// A pipeline by the content hash of its artifact.
    ///
    /// # Errors
    /// Corruption, where it is gone or damaged.
    pub fn load(&self, hash: &str) -> Result<Pipeline> {
        let bytes = self.artifacts.get(hash)?;
        let bytes = bytes
            .ok_or_else(|| Fault::corruption(format!("artifact {hash} is missing ({})", self.artifacts.place(hash))))?;
        if artifact::content_hash(&bytes) != hash {
            return Err(Fault::corruption(format!("artifact {hash} is damaged ({})", self.artifacts.place(hash))));
        }
        Pipeline::from_bytes(&bytes)
    }

    /// A lane's core as a checkpoint left it; `None`: as the lineage began.
    ///
    /// # Errors
    /// As [`Archive::checkpoint`].
    pub fn stand_at(&self, number: Option<u64>, make: &MakeCore<'_>) -> Result<LaneCore> {
        let Some(number) = number else { return make(self.load(self.base)?, None) };
        let (pipeline, record) = self.checkpoint(number)?;
        let mut core = make(pipeline, Some(&record))?;
        // Without it, only a rollback behind the checkpoint can't be replayed.
        core.set_previous(Rollback::Optional.judge(self.previous(record.swap))?);
        Ok(core)
    }

    /// A record that stands before the first event.
    fn beginning(&self) -> JournalRecord {
        let (lineage, version) = (self.lineage.to_string(), self.base.to_string());
        JournalRecord { lineage, version, digest: format!("{:016x}", 0), ..JournalRecord::default() }
    }

    /// The checkpoint of a journal record.
    ///
    /// # Errors
    /// Corruption, where it is gone, damaged, or of another lineage; Environment, where it can't be read.
    pub fn checkpoint(&self, number: u64) -> Result<(Pipeline, JournalRecord)> {
        let name = checkpoint_name(number);
        let bytes = self.store.get(&name)?.ok_or_else(|| Fault::corruption(format!("{name} is gone")))?;
        let (pipeline, record) =
            load_checkpoint(&bytes).map_err(|f| Fault { class: Class::Corruption, ..f.at(&name) })?;
        if record.lineage != self.lineage || record.number != number {
            return Err(Fault::corruption(format!(
                "{name} belongs to lineage {}, record {}",
                record.lineage, record.number
            )));
        }
        Ok((pipeline, record))
    }

    /// The version that a rollback from swap number `swap` brings back, if one was kept.
    ///
    /// # Errors
    /// Corruption or Misuse, where it is damaged; Environment, where it can't be read.
    pub fn previous(&self, swap: u64) -> Result<Option<Pipeline>> {
        let name = previous_name(swap);
        let Some(bytes) = self.store.get(&name)? else { return Ok(None) };
        let (manifest, state) = artifact::decode(&bytes).map_err(|f| f.at(&name))?;
        let manifest: Manifest =
            serde_json::from_value(manifest).map_err(|e| Fault::corruption(format!("{name}: {e}")))?;
        let mut pipeline = Pipeline::restore(&manifest, &state).map_err(|f| f.at(&name))?;
        if let Some(hash) = manifest.provenance["hash"].as_str() {
            pipeline.set_hash(hash);
        }
        Ok(Some(pipeline))
    }

    /// A swap that was replayed may not have reached the disk before the crash; and what is there may be
    /// of a swap of the same number that was never committed.
    fn keep_previous(&self, core: &mut LaneCore) -> Result<()> {
        let name = previous_name(core.swap());
        if let Some((manifest, state)) = core.previous_snapshot() {
            let bytes = artifact::encode(&serde_json::json!(manifest), &state);
            if self.store.get(&name)?.as_deref() != Some(&bytes[..]) {
                self.store.put(&name, &bytes)?;
            }
        }
        Ok(())
    }
}

/// A checkpoint's pipeline, and the record at which it was taken.
///
/// # Errors
/// Corruption, with what is damaged.
pub fn load_checkpoint(bytes: &[u8]) -> Result<(Pipeline, JournalRecord)> {
    let (manifest, state) = artifact::decode(bytes)?;
    let manifest: Manifest =
        serde_json::from_value(manifest).map_err(|e| Fault::corruption(format!("manifest: {e}")))?;
    let record: JournalRecord = serde_json::from_value(manifest.position.clone())
        .map_err(|e| Fault::corruption(format!("manifest: position: {e}")))?;
    let mut pipeline = Pipeline::restore(&manifest, &state)?;
    pipeline.set_hash(&record.version);
    Ok((pipeline, record))
}
