//! `file`: rows with 20 floats and a label, from a CSV and a JSON file through the real daemon, learning, to
//! predictions in a file; from the process's start to its end. Beside it Vowpal Wabbit on the same rows.

use crate::daemon::{Daemon, Place};
use crate::events::{PIPELINE, Rows, check_predictions, csv_header, expected_scores};
use crate::peer_vw::Vw;
use crate::report::{Beside, Figure, Outcome, Report, Run, short};
use crate::stats::{Samples, hash_scores};
use std::fs;

/// Checks every prediction against a pipeline in this process, and times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    report.doing("writing files");
    let rows = Rows::new(run.size(100_000, 1_000_000));
    let count = rows.len() as f64;
    let mut place = Place::new(PIPELINE, "")?;
    let write = |name: &str, bytes: &[u8]| fs::write(place.path(name), bytes).map_err(|e| format!("{name}: {e}"));
    let json = rows.json();
    write("rows.json", &json)?;
    write("rows.csv", &[csv_header().as_bytes(), &rows.csv()].concat())?;
    let expected = expected_scores(PIPELINE, &json)?;
    drop(json);
    let hash = Some(hash_scores(expected.iter().copied()));
    let vw = Vw::find();
    if vw.is_some() {
        write("rows.vw", &rows.vw())?;
    }
    let (mut wall, mut cpu) = (<[Samples; 2]>::default(), <[Samples; 2]>::default());
    let (mut peer, mut peer_cpu, mut peer_learn) = (Samples::default(), Samples::default(), Samples::default());
    let pairs = run.size(1, 5);
    for pair in 0..pairs {
        report.doing(format!("pair {} of {pairs}", pair + 1));
        for (i, format) in ["csv", "json"].into_iter().enumerate() {
            let (seconds, cpu_seconds) = once(&mut place, format, &expected)?;
            wall[i].push(seconds);
            cpu[i].push(cpu_seconds);
        }
        if let Some(vw) = &vw {
            let run = vw.learn(&place.path("rows.vw"), Some(&place.path("vw.out")))?;
            peer.push(run.seconds);
            peer_cpu.push(run.cpu_seconds);
            peer_learn.push(vw.learn(&place.path("rows.vw"), None)?.seconds);
        }
    }
    for (i, format) in ["csv", "json"].into_iter().enumerate() {
        let (value, samples) = (count / wall[i].median(), wall[i].count());
        let worst = Some(count / wall[i].most());
        let theirs = count / peer.median();
        let beside = |value: f64, ratio| vw.as_ref().map(|_| Beside { name: "vw -p".into(), value, ratio });
        report.figure(&Figure {
            name: format,
            unit: "rows/s",
            value,
            worst,
            beside: beside(theirs, value / theirs),
            samples,
            hash,
        });
        let (ns, theirs) = (cpu[i].median() * 1e9 / count, peer_cpu.median() * 1e9 / count);
        let worst = Some(cpu[i].most() * 1e9 / count);
        let (name, beside) = (format!("{format}-cpu"), beside(theirs, theirs / ns));
        report.figure(&Figure { name: &name, unit: "ns/row", value: ns, worst, beside, samples, hash });
    }
    match vw {
        Some(vw) => report.note(&format!(
            "vw {}: {} rows/s with predictions, {} rows/s learning only",
            vw.version,
            short(count / peer.median()),
            short(count / peer_learn.median())
        )),
        None => report.note("vw: not installed (make bench-peers)"),
    }
    Ok(())
}

/// One run over a file: wall and CPU seconds of the whole process. Every prediction is checked.
fn once(place: &mut Place, format: &str, expected: &[f64]) -> Result<(f64, f64), String> {
    let (input, output) = (place.path(&format!("rows.{format}")), place.path("predictions.ndjson"));
    place.set_config(&format!(
        "[source]\nkind = \"file\"\nformat = \"{format}\"\npaths = [\"{}\"]\n\
         [sink]\nkind = \"file\"\npath = \"{}\"\n[log]\nlevel = \"warn\"\n",
        input.display(),
        output.display()
    ));
    place.forget()?;
    let _ = fs::remove_file(&output);
    let ended = Daemon::start(place, None)?.wait()?;
    let lines = fs::read(&output).map_err(|e| format!("{}: {e}", output.display()))?;
    let count = check_predictions(&lines, expected)?;
    if count != expected.len() {
        return Err(format!("{format}: {} rows, {count} predictions", expected.len()));
    }
    Ok((ended.wall.as_secs_f64(), ended.cpu_seconds))
}
