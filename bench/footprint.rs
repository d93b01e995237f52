//! `footprint`: memory idle and under load, the time from start to READY, CPU-seconds a million events.

use crate::daemon::{Daemon, Place, free_address, socket_config};
use crate::events::{PIPELINE, Rows, check_predictions, expected_scores};
use crate::machine::{Cores, memory_mib};
use crate::report::{Figure, Outcome, Report, Run};
use crate::stats::{Samples, hash_scores};
use crate::traffic::{self, Load};

/// Starts, looks, loads, looks again.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let rows = Rows::new(run.size(20_000, 100_000));
    let json = rows.json();
    let expected = expected_scores(PIPELINE, &json)?;
    let hash = Some(hash_scores(expected.iter().copied()));
    let cores = Cores::split();
    let [mut start, mut idle, mut peak, mut cpu] = <[Samples; 4]>::default();
    let turns = run.size(2, 7);
    for turn in 0..turns {
        report.doing(format!("{} of {turns}", turn + 1));
        let address = free_address()?;
        let place = Place::new(PIPELINE, &socket_config(&address))?;
        let mut daemon = Daemon::start(&place, Some(&cores))?;
        start.push(daemon.wait_ready()?.as_secs_f64() * 1e3);
        std::thread::sleep(std::time::Duration::from_millis(100));
        idle.push(memory_mib(daemon.pid(), "VmRSS"));
        let answers = traffic::ask(&address, &json)?;
        let count = check_predictions(&answers, &expected)?;
        if count != expected.len() {
            return Err(format!("{} rows were sent, {count} were answered", expected.len()));
        }
        let load = Load { bytes: &json, rows: rows.len(), seconds: run.seconds / 2.0 };
        let flow = traffic::flow(&address, &load, daemon.pid(), &cores)?;
        cpu.push(flow.daemon_ns() * 1e6 / 1e9);
        peak.push(memory_mib(daemon.pid(), "VmHWM"));
        daemon.stop()?;
    }
    let samples = start.count();
    for (name, unit, figure) in [
        ("cold-start", "ms", &start),
        ("rss-idle", "MiB", &idle),
        ("rss-peak", "MiB", &peak),
        ("cpu-million-json", "CPU-s", &cpu),
    ] {
        let (value, worst) = (figure.median(), Some(figure.most()));
        report.figure(&Figure { name, unit, value, worst, beside: None, samples, hash });
    }
    Ok(())
}
