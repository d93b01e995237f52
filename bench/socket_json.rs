//! `socket-json`: 20 floats and a label as JSON lines over TCP to the real daemon (standard-scale and
//! logistic regression with SGD), predictions back on the connection; beside it the floor and, where it is
//! installed, `vw --daemon`.

use crate::daemon::{Daemon, Place, free_address, socket_config};
use crate::events::{PIPELINE, Rows, check_predictions, expected_scores};
use crate::floor::{self, Floor};
use crate::machine::Cores;
use crate::peer_vw::Vw;
use crate::report::{Beside, Figure, Outcome, Report, Run, short};
use crate::stats::{Samples, hash_scores};
use crate::traffic::{self, Flow, Load};

/// What the interleaved runs brought.
#[derive(Default)]
struct Measured {
    rate: Samples,
    daemon_ns: Samples,
    generator_ns: Samples,
    /// With all cores for both.
    shared_rate: Samples,
    shared_ns: Samples,
    floors: Vec<Floor>,
    peer_rate: Samples,
    peer_ns: Samples,
}

/// Checks the answers, then times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    report.doing("making rows");
    let rows = Rows::new(run.size(20_000, 200_000));
    let json = rows.json();
    report.doing("checking answers");
    let hash = check(&json)?;
    let cores = Cores::split();
    let vw = Vw::find();
    let vw_rows = vw.as_ref().map(|_| rows.vw());
    let load = Load { bytes: &json, rows: rows.len(), seconds: run.seconds };
    let mut measured = Measured::default();
    let pairs = run.size(1, 5);
    for pair in 0..pairs {
        report.doing(format!("pair {} of {pairs}: the floor", pair + 1));
        let floor = floor::socket(&json, rows.len(), run.size(0.1, 0.5), &cores)?;
        report.doing(format!("pair {} of {pairs}: the daemon", pair + 1));
        let flow = daemon_flow(&load, &cores)?;
        measured.rate.push(flow.rate());
        measured.daemon_ns.push(flow.daemon_ns());
        measured.generator_ns.push(flow.generator_ns());
        measured.floors.push(floor);
        if cores.apart() {
            report.doing(format!("pair {} of {pairs}: the daemon on all cores", pair + 1));
            let flow = daemon_flow(&load, &cores.shared())?;
            measured.shared_rate.push(flow.rate());
            measured.shared_ns.push(flow.daemon_ns());
        }
        if let (Some(vw), Some(bytes)) = (&vw, &vw_rows) {
            report.doing(format!("pair {} of {pairs}: vw --daemon", pair + 1));
            let flow = peer_flow(vw, &Load { bytes, ..load }, &cores)?;
            measured.peer_rate.push(flow.rate());
            measured.peer_ns.push(flow.daemon_ns());
        }
    }
    show(report, &measured, json.len() as f64 / rows.len() as f64, hash);
    match vw {
        Some(vw) => {
            report.note(&format!("vw {} beside it: `vw --daemon`, one child, the same rows as text", vw.version))
        }
        None => report.note("vw --daemon: not installed (make bench-peers)"),
    }
    Ok(())
}

/// Every row is answered, in order, with the score that a pipeline in this process gives; to the bit.
fn check(json: &[u8]) -> Result<u64, String> {
    let expected = expected_scores(PIPELINE, json)?;
    let address = free_address()?;
    let place = Place::new(PIPELINE, &socket_config(&address))?;
    let mut daemon = Daemon::start(&place, None)?;
    daemon.wait_ready()?;
    let answers = traffic::ask(&address, json)?;
    let count = check_predictions(&answers, &expected)?;
    if count != expected.len() {
        return Err(format!("{} rows were sent, {count} were answered", expected.len()));
    }
    daemon.stop()?;
    Ok(hash_scores(expected.into_iter()))
}

/// One timed run of a fresh daemon.
pub fn daemon_flow(load: &Load<'_>, cores: &Cores) -> Result<Flow, String> {
    let address = free_address()?;
    let place = Place::new(PIPELINE, &socket_config(&address))?;
    let mut daemon = Daemon::start(&place, Some(cores))?;
    daemon.wait_ready()?;
    let warm = Load { seconds: 0.0, ..*load };
    traffic::flow(&address, &warm, daemon.pid(), cores)?;
    let flow = traffic::flow(&address, load, daemon.pid(), cores)?;
    daemon.stop()?;
    Ok(flow)
}

fn peer_flow(vw: &Vw, load: &Load<'_>, cores: &Cores) -> Result<Flow, String> {
    let address = free_address()?;
    let daemon = vw.daemon(&address, cores)?;
    traffic::flow(&address, load, daemon.pid(), cores)
}

fn show(report: &mut Report, m: &Measured, row_bytes: f64, hash: u64) {
    let beside = |peer: &Samples, ours: f64, more_is_better: bool| {
        let value = peer.median();
        let ratio = if more_is_better { ours / value } else { value / ours };
        (peer.count() > 0).then(|| Beside { name: "vw --daemon".into(), value, ratio })
    };
    let hash = Some(hash);
    let (rate, ns) = (m.rate.median(), m.daemon_ns.median());
    let samples = m.rate.count();
    let figure = |name, unit, value, worst| Figure { name, unit, value, worst, beside: None, samples, hash };
    report.figure(&Figure {
        beside: beside(&m.peer_rate, rate, true),
        ..figure("rate", "events/s", rate, Some(m.rate.least()))
    });
    report.figure(&Figure {
        beside: beside(&m.peer_ns, ns, false),
        ..figure("daemon-cpu", "ns/event", ns, Some(m.daemon_ns.most()))
    });
    report.figure(&figure("generator-cpu", "ns/event", m.generator_ns.median(), Some(m.generator_ns.most())));
    floor::show(report, "", "ns/event", &m.floors, &m.daemon_ns, hash);
    if m.shared_rate.count() > 0 {
        let (rate, ns) = (&m.shared_rate, &m.shared_ns);
        report.figure(&figure("rate-all-cores", "events/s", rate.median(), Some(rate.least())));
        report.figure(&figure("daemon-cpu-all-cores", "ns/event", ns.median(), Some(ns.most())));
        let of_wall = m.floors.iter().zip(&rate.0).map(|(floor, rate)| floor.total() * rate / 1e9);
        let fraction = Samples(of_wall.collect());
        let (value, worst) = (fraction.median(), Some(fraction.least()));
        report.figure(&figure("fraction-of-limit-all-cores", "floor/wall", value, worst));
    }
    let wall = 1e9 / rate;
    report.note(&format!("{} bytes a row; {} ns of wall clock an event", short(row_bytes), short(wall)));
    if m.generator_ns.median() > 0.9 * wall {
        report.note("the generator was busy all the time: the daemon may be faster than this rate");
    }
}
