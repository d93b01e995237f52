//! `millstream replay`: the past again, without emitting: against the record, or versions against each
//! other.
//!
//! Against the record, whole commits are replayed, from the checkpoint at or before `--from` to the commit
//! that holds the event before `--to`: a digest stands at commits only, and the report says which events it
//! covers. Versions are compared over exactly the events asked for, each learning as it goes: two and more
//! with each other, a single one with what was in force (swaps, rollbacks and a frozen model included).

mod compare;

use crate::cli::ReplayArgs;
use crate::config::Config;
use crate::engine::home::{Home, Places};
use crate::engine::lane::{LaneCore, Watch};
use crate::engine::recover::{Archive, replay_record};
use crate::engine::wire;
use crate::error::{Class, Fault, Result};
use crate::journal::JournalRecord;
use crate::metrics::LaneMetrics;
use crate::pipeline::Pipeline;
use crate::source::Past;
use compare::Comparison;
use serde_json::{Value, json};
use std::sync::Arc;

/// Replays what the config's state directory remembers.
///
/// # Errors
/// Corruption, where a lane's digest differs or no checkpoint is usable; Misuse, where the range is out of
/// reach; Environment, where the events are gone or a daemon runs.
pub fn replay(config: &Config, args: &ReplayArgs) -> Result<()> {
    if !config.source.kind.replayable() {
        return Err(Fault::misuse("the source can't be read again").hint("files, Kafka and generators can"));
    }
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from >= to
    {
        return Err(Fault::misuse(format!("--from {from} --to {to}: no event is in between")));
    }
    let bytes = crate::engine::read_pipeline(config)?;
    let places = Places::of(config);
    if !Home::is_begun(&places)? {
        return Err(Fault::misuse(format!("{}: there is no past to replay", places.name()))
            .hint("check state_dir and checkpoint.store: a daemon begins its past there at its first start"));
    }
    let home = Home::open(&places, config.lanes, &bytes, false)?;
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
struct LanePast {
    source: Box<dyn Past>,
    records: Vec<JournalRecord>,
    core: LaneCore,
}

fn replay_lane(config: &Config, home: &Home, lane: u32, args: &ReplayArgs) -> Result<(Value, Option<Fault>)> {
    let store = home.checkpoints(lane)?;
    let lineage = &home.lineage;
    let (store, artifacts) = (store.as_ref(), home.artifacts.as_ref());
    let archive = Archive { store, artifacts, base: &lineage.base, lineage: &lineage.lineage };
    let at = |fault: Fault| fault.at(format!("lane {lane}"));
    let Some(mut past) = open(config, home, lane, args, &archive).map_err(at)? else {
        let report =
            json!({ "lane": lane, "from": 0, "to": 0, "events": 0, "digest": "equal", "first_difference": null });
        return Ok((report, None));
    };
    let begins = past.core.seq();
    let reaches = past.records.last().map_or(begins, |r| r.seq);
    let mut comparison = match args.artifacts.is_empty() {
        true => None,
        false => {
            let range = args.from.unwrap_or(begins)..args.to.unwrap_or(reaches);
            Some(Comparison::new(past.core.pipeline(), &args.artifacts, range).map_err(at)?)
        }
    };
    let watch: &mut dyn Watch = match &mut comparison {
        Some(comparison) => comparison,
        None => &mut (),
    };
    let differs = run(&mut past, &archive, watch).map_err(at)?;
    let (from, to) = comparison.as_ref().map_or((begins, past.core.seq()), |c| (c.range.start, c.range.end));
    let mut report = json!({
        "lane": lane, "from": from, "to": to, "events": to - from,
        "digest": if differs.is_none() { "equal" } else { "differs" },
        "first_difference": differs.as_ref().map(|(difference, _)| difference),
    });
    if let Some(comparison) = comparison {
        (report["versions"], report["better"]) = comparison.report();
    }
    Ok((report, differs.map(|(_, fault)| at(fault))))
}

/// Replays the records; the first one that differs, and how.
fn run(past: &mut LanePast, archive: &Archive<'_>, watch: &mut dyn Watch) -> Result<Option<(Value, Fault)>> {
    let mut bar = super::events::bar(past.records.len() as u64, "replaying");
    for record in &past.records {
        let from = past.core.seq();
        match replay_record(&mut past.core, record, past.source.as_mut(), archive, watch) {
            Ok(()) => bar.inc(1),
            Err(fault) if fault.class == Class::Corruption => {
                let what = json!({ "record": record.number, "from": from, "to": record.seq, "what": fault.message });
                return Ok(Some((what, fault)));
            }
            Err(fault) => return Err(fault),
        }
    }
    bar.finish_and_clear();
    Ok(None)
}

/// Opens a lane's source and journal, and stands at the newest usable checkpoint at or before `--from`, or at the
/// oldest within reach. `None` where the lane has taken nothing.
fn open(config: &Config, home: &Home, lane: u32, args: &ReplayArgs, archive: &Archive<'_>) -> Result<Option<LanePast>> {
    let (source, mut records) = wire::open_past(config, lane, archive.lineage, &home.lane_dir(lane))?;
    let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(None) };
    let (first, end) = (first.number, last.seq);
    for (name, seq) in [("--from", args.from.map(|from| from + 1)), ("--to", args.to)] {
        if seq.is_some_and(|seq| seq > end) {
            return Err(Fault::misuse(format!("{name}: events up to {end} were committed"))
                .hint("events are numbered from 0; --to is one past the last"));
        }
    }
    let make = |pipeline: Pipeline, at: Option<&JournalRecord>| {
        let fields = pipeline.schema().fields.iter().map(|f| f.name.clone()).collect();
        let metrics = Arc::new(LaneMetrics::new(lane, fields, pipeline.version()));
        wire::core(config, lane, archive.lineage, &metrics, pipeline, at)
    };
    let mut last_fault = None;
    for number in beginnings(archive, &records, first, args.from)? {
        match archive.stand_at(number, &make) {
            Ok(core) => {
                records.retain(|r| number.is_none_or(|n| r.number > n));
                if let Some(to) = args.to {
                    let commits = records.iter().position(|r| r.seq >= to).map_or(records.len(), |i| i + 1);
                    records.truncate(commits);
                }
                return Ok(Some(LanePast { source, records, core }));
            }
            Err(fault) if fault.class == Class::Corruption => {
                eprintln!("millstream: lane {lane}: trying another checkpoint: {fault}");
                last_fault.get_or_insert(fault);
            }
            Err(fault) => return Err(fault),
        }
    }
    Err(last_fault.unwrap_or_else(|| out_of_reach(archive, &records, args.from.unwrap_or(0))))
}

/// Where a replay may begin, best first: checkpoints that the journal goes on behind, and (`None`) the lineage's
/// first pipeline. With `from`, none behind it: the newest first; without, the one that reaches back furthest.
fn beginnings(
    archive: &Archive<'_>,
    records: &[JournalRecord],
    first: u64,
    from: Option<u64>,
) -> Result<Vec<Option<u64>>> {
    let seq_of = |number: u64| records.iter().find(|r| r.number == number).map(|r| r.seq);
    let mut usable: Vec<Option<u64>> = if first == 0 { vec![None] } else { Vec::new() };
    for number in archive.store.checkpoints()? {
        // Its own record may have been trimmed away; then it is the oldest, and only `from` = none may mean it.
        let before = match seq_of(number) {
            Some(seq) => from.is_none_or(|from| seq <= from),
            None => number + 1 == first && from.is_none(),
        };
        if before {
            usable.push(Some(number));
        }
    }
    if from.is_some() {
        usable.reverse();
    }
    Ok(usable)
}

fn out_of_reach(archive: &Archive<'_>, records: &[JournalRecord], from: u64) -> Fault {
    let kept = archive.store.checkpoints().unwrap_or_default();
    let oldest = kept.iter().find_map(|n| records.iter().find(|r| r.number == *n)).map(|r| r.seq);
    match oldest {
        Some(oldest) => Fault::misuse(format!("--from {from}: the past reaches back to event {oldest}"))
            .hint("checkpoint.keep_journal = true keeps it all, from then on"),
        None => Fault::corruption("no checkpoint is there that the journal goes on behind")
            .hint("restore the state directory from a copy"),
    }
}

fn text(report: &Value) -> String {
    let mut text = format!("lane {}: events {} to {}", report["lane"], report["from"], report["to"]);
    text += &format!(", digest {}", report["digest"].as_str().unwrap_or("unknown"));
    if let Some(what) = report["first_difference"]["what"].as_str() {
        text += &format!("\n  {what}");
    }
    for version in report["versions"].as_array().into_iter().flatten() {
        let name = |value: &Value| value.as_str().unwrap_or_default().to_string();
        text += &format!("\n  {} (version {})", name(&version["artifact"]), name(&version["version"]));
        for (metric, value) in version["metrics"].as_object().into_iter().flatten() {
            text += &format!(" {metric} {:.6}", value.as_f64().unwrap_or(f64::NAN));
        }
        if let Some(seq) = version["first_difference"].as_u64() {
            text += &format!(", differs from event {seq} on");
        }
    }
    if let Some(better) = report["better"]["artifact"].as_str() {
        text += &format!("\n  {better} is better by {}", report["better"]["metric"].as_str().unwrap_or_default());
    }
    text + "\n"
}
