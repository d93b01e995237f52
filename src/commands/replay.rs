//! `millstream replay`: the past again, without emitting: against the record, or versions against each
//! other.

use crate::batch::{Block, Cursor};
use crate::checkpoint::checkpoint_name;
use crate::cli::ReplayArgs;
use crate::config::Config;
use crate::engine::home::{Home, Places};
use crate::engine::lane::LaneCore;
use crate::engine::recover::{Archive, load_checkpoint, name_inputs, replay_record};
use crate::engine::wire;
use crate::error::{Class, Fault, Result};
use crate::journal::{Journal, JournalRecord};
use crate::kafka::{ASSIGNMENT_TIMEOUT, not_handed_over};
use crate::metrics::{LaneMetrics, Progressive};
use crate::pipeline::Pipeline;
use crate::source::{Polled, Position, Source};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Replays what the config's state directory remembers.
///
/// # Errors
/// Corruption, where a lane's digest differs; Environment, where the events are gone or a daemon runs.
pub fn replay(config: &Config, args: &ReplayArgs) -> Result<()> {
    if !config.source.kind.replayable() {
        return Err(Fault::misuse("the source can't be read again").hint("files, Kafka and generators can"));
    }
    let bytes = crate::engine::read_pipeline(config)?;
    let home = Home::open(&Places::of(config), config.lanes, &bytes, false)?;
    let lanes: Vec<u32> = args.lane.map_or_else(|| (0..config.lanes).collect(), |lane| vec![lane]);
    let mut first = None;
    for lane in lanes {
        if lane >= config.lanes {
            return Err(Fault::misuse(format!("--lane {lane}: there are {} lanes, numbered from 0", config.lanes)));
        }
        let (report, fault) = replay_lane(config, &home, lane, args)?;
        super::print(&if args.json { format!("{report}\n") } else { text(&report) })?;
        first = first.or(fault);
    }
    first.map_or(Ok(()), Err)
}

/// A lane's past, opened.
struct Past {
    source: Box<dyn Source>,
    records: Vec<JournalRecord>,
    core: LaneCore,
    from_seq: u64,
}

fn replay_lane(config: &Config, home: &Home, lane: u32, args: &ReplayArgs) -> Result<(Value, Option<Fault>)> {
    let store = home.checkpoints(lane)?;
    let lineage = &home.lineage;
    let (store, artifacts) = (store.as_ref(), home.artifacts.as_ref());
    let archive = Archive { store, artifacts, base: &lineage.base, lineage: &lineage.lineage };
    let mut past = open(config, home, lane, args, &archive)?;
    if !args.artifacts.is_empty() {
        return Ok((compare(config, lane, args, past)?, None));
    }
    let bar = super::events::bar(past.records.len() as u64, "replaying");
    let mut differs = None;
    for record in &past.records {
        match replay_record(&mut past.core, record, past.source.as_mut(), &archive) {
            Ok(()) => bar.inc(1),
            Err(fault) if fault.class == Class::Corruption => {
                differs = Some((record.number, fault));
                break;
            }
            Err(fault) => return Err(fault),
        }
    }
    bar.finish_and_clear();
    let first = differs.as_ref().map(|(number, fault)| json!({ "record": number, "what": fault.message }));
    let to = past.core.seq();
    let report = json!({
        "lane": lane, "from": past.from_seq, "to": to, "events": to - past.from_seq,
        "digest": if first.is_none() { "equal" } else { "differs" }, "first_difference": first,
    });
    Ok((report, differs.map(|(_, fault)| fault.at(format!("lane {lane}")))))
}

/// Opens a lane's source and journal, and stands at the newest checkpoint at or before `--from`.
fn open(config: &Config, home: &Home, lane: u32, args: &ReplayArgs, archive: &Archive<'_>) -> Result<Past> {
    let dir = home.lane_dir(lane);
    let until = Instant::now() + ASSIGNMENT_TIMEOUT;
    let ends = wire::open(config, lane, &home.lineage.lineage, &dir, None, &mut |_, _| Instant::now() < until)?;
    let mut ends = ends.ok_or_else(|| not_handed_over(lane))?;
    let from = args.from.unwrap_or(0);
    let mut start: Option<(Pipeline, JournalRecord)> = None;
    for number in archive.store.checkpoints()? {
        let bytes = archive.store.get(&checkpoint_name(number))?.unwrap_or_default();
        let loaded = load_checkpoint(&bytes).map_err(|f| f.at(checkpoint_name(number)))?;
        if loaded.1.seq <= from || (start.is_none() && journal_start(ends.journal.as_mut())? != Some(0)) {
            start = Some(loaded);
        }
    }
    let first = start.as_ref().map_or(0, |(_, record)| record.number + 1);
    let mut records = ends.journal.read(first)?;
    if let Some(to) = args.to {
        let end = records.iter().position(|r| r.seq >= to).map_or(records.len(), |i| i + 1);
        records.truncate(end);
    }
    let (pipeline, at) = match start {
        Some((pipeline, record)) => (pipeline, Some(record)),
        None => (archive.load(archive.base)?, None),
    };
    let fields = pipeline.schema().fields.iter().map(|f| f.name.clone()).collect();
    let metrics = Arc::new(LaneMetrics::new(lane, fields, pipeline.version()));
    let mut core = wire::core(config, lane, &home.lineage.lineage, &metrics, pipeline, at.as_ref())?;
    // A rollback behind the checkpoint needs what was in force before it.
    core.set_previous(at.as_ref().map_or(Ok(None), |record| archive.previous(record.swap))?);
    let wire::SourceEnd::Reads(source) = ends.source else {
        return Err(Fault::misuse("the source can't be read again"));
    };
    let from_seq = core.seq();
    Ok(Past { source, records, core, from_seq })
}

fn journal_start(journal: &mut dyn Journal) -> Result<Option<u64>> {
    Ok(journal.read(0)?.first().map(|r| r.number))
}

/// Runs each artifact over the past, learning as it goes, and says which scores better.
fn compare(config: &Config, lane: u32, args: &ReplayArgs, mut past: Past) -> Result<Value> {
    let mut versions = Vec::new();
    let mut scores_of_first: Option<Vec<u64>> = None;
    let start = past.core.ledger.positions().clone();
    for path in &args.artifacts {
        let mut pipeline = super::evaluate::load(path)?;
        crate::engine::lane::check_fits(past.core.pipeline(), &pipeline).map_err(|f| f.at(path.display()))?;
        let mut quality = Progressive::new(pipeline.task(), crate::metrics::quality::WINDOW_EVENTS);
        let mut decoder = wire::decoder(config, &pipeline)?;
        let (mut batch, mut scores, mut bits) = (pipeline.batch(), pipeline.scores(0), Vec::new());
        let bar = super::events::bar(past.records.len() as u64, &path.display().to_string());
        let mut positions = start.clone();
        for record in &past.records {
            for run in &record.runs {
                let name = &record.inputs[run.input as usize];
                let mut at = positions.get(name).copied().unwrap_or_default();
                while at.offset < run.end {
                    let mut block = Block::default();
                    if past.source.read_run(name, at, run.end, &mut block)? != Polled::Filled {
                        return Err(Fault::environment(format!("{name}: events from {} on are gone", at.offset)));
                    }
                    name_inputs(&mut past.core, past.source.as_ref(), &block);
                    let mut cursor = Cursor::default();
                    batch.clear();
                    while decoder.fill(&block, &mut cursor, &mut batch, 1_024) {
                        pipeline.run(&mut batch, &mut scores, config.learn.enabled, &mut quality);
                        bits.extend(scores.values.iter().map(|s| s.to_bits()));
                        let next = batch.origins.last().map_or(run.end, |o| o.offset + 1);
                        at = Position { offset: next, byte: 0 };
                        batch.clear();
                    }
                    at.byte = block.records.last().map_or(0, |r| r.byte + r.span.len() as u64);
                }
                positions.insert(name.clone(), at);
            }
            positions.clone_from(&record.positions);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let first = scores_of_first.get_or_insert_with(|| bits.clone());
        let differs = first.iter().zip(&bits).position(|(a, b)| a != b);
        let report = quality.report();
        versions.push(json!({
            "artifact": path.display().to_string(), "version": pipeline.version(),
            "metrics": report.metrics, "first_difference": differs.map(|i| i as u64 + past.from_seq),
        }));
    }
    let to = past.records.last().map_or(past.from_seq, |r| r.seq);
    Ok(json!({ "lane": lane, "from": past.from_seq, "to": to, "events": to - past.from_seq, "versions": versions }))
}

fn text(report: &Value) -> String {
    let mut text = format!("lane {}: events {} to {}", report["lane"], report["from"], report["to"]);
    if let Some(digest) = report["digest"].as_str() {
        text += &format!(", digest {digest}");
        if let Some(what) = report["first_difference"]["what"].as_str() {
            text += &format!("\n  {what}");
        }
    }
    for version in report["versions"].as_array().into_iter().flatten() {
        text += &format!("\n  {} (version {}): {}", version["artifact"], version["version"], version["metrics"]);
    }
    text + "\n"
}
