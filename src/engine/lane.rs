//! A lane's core: decode → score → learn → encode over one block, and nothing that knows of threads,
//! time or disks. Recovery and live running are the same calls.

use super::ledger::Ledger;
use crate::batch::{Batch, Block, Cursor, Outbox, RowStatus, Scores, Stage};
use crate::decode::Decoder;
use crate::encode::Encoder;
use crate::error::{Fault, Result};
use crate::faults;
use crate::journal::{JournalRecord, SwapEntry};
use crate::metrics::{LaneMetrics, ModelCounters, Progressive};
use crate::pipeline::{Counts, Manifest, Observer, Pipeline};
use crate::sink::InputNames;
use crate::state::State;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Labelled events over which the windowed quality is taken.
pub const QUALITY_WINDOW_EVENTS: usize = crate::metrics::quality::WINDOW_EVENTS;

/// What a lane is made of.
pub struct LaneParts {
    /// The lane's number.
    pub lane: u32,
    /// Bytes to rows.
    pub decoder: Decoder,
    /// The pipeline as it stands at the start.
    pub pipeline: Pipeline,
    /// Scores to bytes.
    pub encoder: Encoder,
    /// Where the lane's numbers go.
    pub metrics: Arc<LaneMetrics>,
    /// Most events that are decoded at once.
    pub batch_events_max: usize,
    /// False: the model is frozen.
    pub learn: bool,
}

/// One lane: its pipeline, its place, its digest.
pub struct LaneCore {
    lane: u32,
    /// `None` while it decodes ahead elsewhere.
    decoder: Option<Decoder>,
    encoder: Encoder,
    pipeline: Pipeline,
    /// What a rollback brings back.
    previous: Option<Pipeline>,
    batch: Batch,
    scores: Scores,
    quality: Progressive,
    metrics: Arc<LaneMetrics>,
    counters: Arc<ModelCounters>,
    missing: Vec<u64>,
    batch_events_max: usize,
    learn: bool,
    /// Names of the inputs by number.
    pub names: Arc<InputNames>,
    /// Which events were taken.
    pub ledger: Ledger,
    seq: u64,
    learned: u64,
    digest: u64,
    swap: u64,
}

impl Observer for Progressive {
    fn observe(&mut self, scores: &[f64], target: f64) {
        Progressive::observe(self, scores, target);
    }
}

/// Looks on while the past is run again.
pub trait Watch: Observer {
    /// A record begins.
    fn record(&mut self, _record: &JournalRecord) {}
    /// The lane stands at event `seq`; the next batch ends at the event that this gives, at the latest.
    fn cut(&mut self, _seq: u64) -> u64 {
        u64::MAX
    }
    /// A batch was decoded, and is about to be scored.
    fn decoded(&mut self, _batch: &Batch) {}
    /// It was scored.
    fn batch(&mut self, _batch: &Batch, _scores: &Scores) {}
    /// A block, whose first event is the lane's event `seq`, was taken whole.
    fn block(&mut self, _seq: u64) {}
}

impl Watch for () {}

impl LaneCore {
    /// A lane that begins, or goes on where `at` says.
    pub fn new(parts: LaneParts, ledger: Ledger, at: Option<&JournalRecord>) -> Result<LaneCore> {
        let swap = at.map_or(0, |r| r.swap);
        let metrics = parts.metrics;
        Ok(LaneCore {
            lane: parts.lane,
            batch: parts.pipeline.batch(),
            scores: parts.pipeline.scores(swap),
            quality: Progressive::new(parts.pipeline.task(), QUALITY_WINDOW_EVENTS),
            counters: metrics.set_version(parts.pipeline.version()),
            missing: vec![0; parts.pipeline.schema().fields.len()],
            metrics,
            decoder: Some(parts.decoder),
            encoder: parts.encoder,
            pipeline: parts.pipeline,
            previous: None,
            batch_events_max: parts.batch_events_max.max(1),
            learn: parts.learn,
            names: Arc::default(),
            ledger,
            seq: at.filter(|_| !faults::planted("seq-not-restored")).map_or(0, |r| r.seq),
            learned: at.map_or(0, |r| r.learned),
            digest: at.map_or(Ok(0), parse_digest)?,
            swap,
        })
    }

    /// Takes the next batch of a block, up to the lane's event number `until`: the whole road.
    /// Returns false where the block has no further event (or `until` is reached).
    pub fn step(&mut self, block: &Block, cursor: &mut Cursor, until: u64, outbox: &mut Outbox) -> bool {
        if !self.decode(block, cursor, until) {
            return false;
        }
        self.answer(block, outbox);
        self.count_missing();
        true
    }

    /// Takes a batch of a block that the lane's own decoder has read elsewhere ([`LaneCore::lend_decoder`]).
    pub fn step_decoded(&mut self, block: &Block, batch: &mut Batch, outbox: &mut Outbox) {
        std::mem::swap(&mut self.batch, batch);
        self.answer(block, outbox);
        std::mem::swap(&mut self.batch, batch);
    }

    /// The past again: as [`LaneCore::step`], without an answer and without counting.
    pub fn replay(&mut self, block: &Block, cursor: &mut Cursor, until: u64, watch: &mut dyn Watch) -> bool {
        if !self.decode(block, cursor, until) {
            return false;
        }
        watch.decoded(&self.batch);
        self.score(Some(watch));
        watch.batch(&self.batch, &self.scores);
        self.seq += self.batch.len() as u64;
        true
    }

    /// The decoder, to read the events behind those taken; until it comes back no step may decode.
    pub fn lend_decoder(&mut self) -> Decoder {
        self.decoder.take().expect("not lent twice")
    }

    /// Takes the decoder back, once all that it read was taken or is about to be.
    pub fn return_decoder(&mut self, decoder: Decoder) {
        self.decoder = Some(decoder);
        self.count_missing();
    }

    fn decode(&mut self, block: &Block, cursor: &mut Cursor, until: u64) -> bool {
        let room = until.saturating_sub(self.seq).min(self.batch_events_max as u64) as usize;
        self.batch.clear();
        let decoder = self.decoder.as_mut().expect("back before a step decodes");
        room > 0 && decoder.fill(block, cursor, &mut self.batch, room)
    }

    fn answer(&mut self, block: &Block, outbox: &mut Outbox) {
        let counts = self.score(None);
        self.encoder.encode(block, &self.batch, &self.scores, &self.names, self.seq, outbox);
        self.seq += self.batch.len() as u64;
        self.count(counts);
    }

    fn score(&mut self, replay: Option<&mut dyn Watch>) -> Counts {
        let observer: &mut dyn Observer = match replay {
            Some(watch) => watch,
            None => &mut self.quality,
        };
        let counts = self.pipeline.run(&mut self.batch, &mut self.scores, self.learn, observer);
        self.learned += counts.learned;
        self.ledger.took(&self.batch);
        for (row, status) in self.batch.status.iter().enumerate() {
            match status {
                RowStatus::Ok => {
                    for score in self.scores.row(row) {
                        self.digest = chain(self.digest, score.to_bits());
                    }
                }
                RowStatus::Rejected(reject) => self.digest = chain(self.digest, !(reject.stage as u64)),
            }
        }
        counts
    }

    fn count(&mut self, counts: Counts) {
        self.metrics.batch(self.batch.len() as u64);
        self.counters.predictions.fetch_add(counts.scored, Relaxed);
        self.counters.learned.fetch_add(counts.learned, Relaxed);
        self.counters.refused.fetch_add(counts.refused, Relaxed);
        if counts.scored < self.batch.len() as u64 {
            let mut rejected = [0u64; Stage::ALL.len()];
            for status in &self.batch.status {
                if let RowStatus::Rejected(reject) = status {
                    rejected[reject.stage as usize] += 1;
                }
            }
            for (stage, n) in Stage::ALL.into_iter().zip(rejected).filter(|(_, n)| *n > 0) {
                self.metrics.dead_letter(stage, n);
            }
        }
    }

    fn count_missing(&mut self) {
        let now = self.decoder.as_ref().map_or(&[][..], Decoder::missing);
        for (field, (now, seen)) in now.iter().zip(&mut self.missing).enumerate() {
            if now != seen {
                self.metrics.missing(field, now - *seen);
                *seen = *now;
            }
        }
    }

    /// An empty batch of the strides of the lane's own, and the most events that one may hold.
    pub fn batch_like(&self) -> (&Batch, usize) {
        (&self.batch, self.batch_events_max)
    }

    /// Puts a version in force from the next event on; the one before can be rolled back to.
    ///
    /// # Errors
    /// Misuse, where the candidate's schema differs; then nothing has changed.
    pub fn swap_in(&mut self, candidate: Pipeline) -> Result<u64> {
        check_fits(&self.pipeline, &candidate)?;
        let hash = candidate.hash().to_string();
        self.previous = Some(std::mem::replace(&mut self.pipeline, candidate));
        self.in_force(hash, false);
        Ok(self.seq)
    }

    /// Brings back the version before, as learned when it was swapped out, from the next event on.
    ///
    /// # Errors
    /// Misuse, where there is none.
    pub fn roll_back(&mut self) -> Result<u64> {
        let Some(previous) = self.previous.take() else {
            return Err(Fault::misuse("there is no version before this one to roll back to"));
        };
        let hash = previous.hash().to_string();
        self.previous = Some(std::mem::replace(&mut self.pipeline, previous));
        self.in_force(hash, true);
        Ok(self.seq)
    }

    fn in_force(&mut self, artifact: String, rollback: bool) {
        self.swap += 1;
        self.scores = self.pipeline.scores(self.swap);
        self.quality = Progressive::new(self.pipeline.task(), QUALITY_WINDOW_EVENTS);
        self.counters = self.metrics.set_version(self.pipeline.version());
        self.ledger.swapped(SwapEntry { seq: self.seq, swap: self.swap, artifact, rollback });
    }

    /// The record of what happened since the last one.
    pub fn record(&mut self) -> JournalRecord {
        JournalRecord {
            version: self.pipeline.hash().to_string(),
            swap: self.swap,
            frozen: !self.learn,
            seq: self.seq,
            learned: self.learned,
            digest: format!("{:016x}", self.digest),
            ..self.ledger.record(&self.names)
        }
    }

    /// Freezes or thaws the model from the next event on; the caller has just taken a record.
    pub fn set_learn(&mut self, learn: bool) {
        self.learn = learn;
    }
    /// True where the model may learn.
    pub fn learn(&self) -> bool {
        self.learn
    }
    /// Gives the lane the version that a rollback brings back (after a restart).
    pub fn set_previous(&mut self, previous: Option<Pipeline>) {
        self.previous = previous;
    }
    /// The version that a rollback would bring back.
    pub fn previous(&mut self) -> Option<&mut Pipeline> {
        self.previous.as_mut()
    }
    /// The version that a rollback would bring back, as it is kept in a file: whole, under its own hash.
    pub fn previous_snapshot(&mut self) -> Option<(Manifest, State)> {
        let previous = self.previous.as_mut()?;
        let hash = serde_json::json!({ "hash": previous.hash() });
        Some(previous.snapshot("artifact", hash, serde_json::Value::Null))
    }
    /// The pipeline in force.
    pub fn pipeline(&mut self) -> &mut Pipeline {
        &mut self.pipeline
    }
    /// The live quality since the version came in force.
    pub fn quality(&self) -> &Progressive {
        &self.quality
    }
    /// The lane's number.
    pub fn lane(&self) -> u32 {
        self.lane
    }
    /// Number of the lane's next event.
    pub fn seq(&self) -> u64 {
        self.seq
    }
    /// Examples learned.
    pub fn learned(&self) -> u64 {
        self.learned
    }
    /// The chained digest of the bits of all scores so far.
    pub fn digest(&self) -> u64 {
        self.digest
    }
    /// The swap number in force.
    pub fn swap(&self) -> u64 {
        self.swap
    }
    /// Skips to a committed place that cannot be replayed to (a socket's): numbers and digest go on
    /// from there, the state stays that of the checkpoint.
    pub fn jump_to(&mut self, record: &JournalRecord) -> Result<()> {
        self.seq = record.seq;
        self.learned = record.learned;
        self.digest = parse_digest(record)?;
        self.swap = record.swap;
        self.scores = self.pipeline.scores(self.swap);
        self.ledger.go_on_after(record);
        Ok(())
    }
}

/// True fit: the candidate reads the same events.
///
/// # Errors
/// Misuse, naming the first field that differs.
pub fn check_fits(running: &Pipeline, candidate: &Pipeline) -> Result<()> {
    let (a, b) = (running.schema(), candidate.schema());
    if a.same_shape(b) {
        return Ok(());
    }
    let differs = a.fields.iter().zip(&b.fields).find(|(x, y)| x.name != y.name || x.ty != y.ty || x.role != y.role);
    let what = match differs {
        Some((x, y)) => {
            format!("field {:?} ({}) where the running schema has {:?} ({})", y.name, y.ty.name(), x.name, x.ty.name())
        }
        None => format!("{} fields where the running schema has {}", b.fields.len(), a.fields.len()),
    };
    Err(Fault::misuse(format!("the candidate's schema does not fit: {what}"))
        .hint("a swap keeps names, types and roles of the fields; another schema needs a new lineage"))
}

/// Adds a score to the digest. Order matters; every bit matters.
fn chain(digest: u64, bits: u64) -> u64 {
    let mixed = (digest ^ bits).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed ^ (mixed >> 32)
}

fn parse_digest(record: &JournalRecord) -> Result<u64> {
    u64::from_str_radix(&record.digest, 16)
        .map_err(|_| Fault::corruption(format!("journal record {}: digest {:?}", record.number, record.digest)))
}
