//! `millstream run`: the daemon. Starts the engine and the admin API, talks to the service manager,
//! obeys signals, and ends with a summary.

use crate::admin::{self, AdminOptions};
use crate::cli::RunArgs;
use crate::config::{Config, reloadable_changes};
use crate::engine::{Engine, StartOptions, Summary};
use crate::error::{Fault, Result};
use crate::service;
use crate::source::socket::Listen;
use std::time::{Duration, Instant};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long the daemon takes at most from a signal to its end.
pub const DRAIN_MAX: Duration = Duration::from_secs(20);
/// How long lanes that are being recovered get to notice that the daemon drains: a broker that doesn't answer may
/// hold them for longer, and they have nothing to finish.
const RECOVERY_MAX: Duration = Duration::from_secs(2);
/// How often the service manager gets a line about the lanes.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// How often the lanes are looked at, and how often until they are ready.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOK_FIRST: Duration = Duration::from_millis(2);

/// Runs until the sources end, a signal comes or a lane fails.
///
/// # Errors
/// Whatever stopped a lane, or kept the daemon from starting.
pub fn run(config: Config, args: &RunArgs) -> Result<()> {
    service::init_logging(&config.log.level)?;
    let began = Instant::now();
    let options = StartOptions { new_lineage: args.new_lineage, inherited: inherited_listener()? };
    let engine = Engine::start(&config, options)?;
    let past = if engine.has_past() { "goes on from" } else { "begins in" };
    if crate::faults::COMPILED_IN {
        tracing::warn!("this build has planted faults: it is for tests only");
    }
    tracing::info!("millstream {} {past} {}", env!("CARGO_PKG_VERSION"), config.state_dir.display());
    let mut options = AdminOptions::new(&config.admin.socket);
    options.http = config.admin.http;
    options.swap_timeout_ms = config.limits.swap_timeout_ms;
    options.artifact_bytes_max = config.limits.artifact_bytes_max as usize;
    let server = admin::serve(options, engine.handle())?;
    let _watchdog = service::watchdog(engine.handle().health.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Fault::io("start the signal handler", &e))?;
    let summary = runtime.block_on(watch(engine, config, args))?;
    drop(server);
    tell(&summary, began.elapsed());
    Ok(())
}

async fn watch(mut engine: Engine, mut config: Config, args: &RunArgs) -> Result<Summary> {
    let (mut terminate, mut interrupt, mut hangup) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?, listen(SignalKind::hangup())?);
    let (mut ready, mut told, mut draining) = (false, Instant::now(), None::<Instant>);
    loop {
        tokio::select! {
            _ = terminate.recv() => drain(&engine, &mut draining)?,
            _ = interrupt.recv() => drain(&engine, &mut draining)?,
            _ = hangup.recv() => reload(&mut engine, &mut config, args),
            () = tokio::time::sleep(if ready { LOOK_EVERY } else { LOOK_FIRST }) => {}
        }
        if !ready && engine.wait_ready(Duration::from_millis(1)) {
            ready = true;
            service::ready(&status_line(&engine));
        }
        if ready && told.elapsed() >= STATUS_EVERY {
            told = Instant::now();
            service::status(&status_line(&engine));
        }
        if engine.stop_switch().load(std::sync::atomic::Ordering::Relaxed) && draining.is_none() {
            draining = Some(Instant::now());
            service::stopping(DRAIN_MAX);
        }
        if draining.is_some_and(|since| since.elapsed() > DRAIN_MAX) {
            return Err(Fault::environment(format!("not drained within {} s", DRAIN_MAX.as_secs()))
                .hint("what was committed stands; the next start goes on from there"));
        }
        if engine.has_ended() {
            return engine.wait();
        }
        if draining.is_some_and(|since| since.elapsed() > RECOVERY_MAX) && engine.only_recovers() {
            tracing::info!("told to stop while no lane was running: what was committed stands");
            return Ok(engine.summary());
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|e| Fault::io("install a signal handler", &e))
}

fn drain(engine: &Engine, draining: &mut Option<Instant>) -> Result<()> {
    if draining.is_some() {
        return Err(Fault::environment("told twice to stop: ended without draining")
            .hint("what was committed stands; the next start goes on from there"));
    }
    *draining = Some(Instant::now());
    tracing::info!("draining");
    service::stopping(DRAIN_MAX);
    engine.stop();
    Ok(())
}

fn reload(engine: &mut Engine, config: &mut Config, args: &RunArgs) {
    service::reloading();
    match super::load(&args.config) {
        Ok(new) => match reloadable_changes(config, &new) {
            Ok(changes) => {
                engine.retune(&new);
                *config = new;
                let changes = if changes.is_empty() { "no change".into() } else { changes.join(", ") };
                tracing::info!("reloaded: {changes}");
                if let Err(fault) = service::set_log_level(&config.log.level) {
                    tracing::error!("not reloaded: log.level: {fault}");
                }
            }
            Err(faults) => faults.iter().for_each(|f| tracing::error!("not reloaded: {f}")),
        },
        Err(faults) => faults.iter().for_each(|f| tracing::error!("not reloaded: {f}")),
    }
    service::ready(&status_line(engine));
}

fn status_line(engine: &Engine) -> String {
    let s = engine.summary();
    format!("{} events, {} learned, {} dead letters", s.events, s.learned, s.dead_letters)
}

/// The listening socket that the service manager opened, if it did.
fn inherited_listener() -> Result<Option<Listen>> {
    let mut fds = listenfd::ListenFd::from_env();
    if fds.len() == 0 {
        return Ok(None);
    }
    if fds.len() > 1 {
        return Err(Fault::misuse(format!("{} sockets were handed over; one is used", fds.len()))
            .hint("list one ListenStream= in the socket unit"));
    }
    if let Ok(Some(listener)) = fds.take_tcp_listener(0) {
        return Ok(Some(Listen::InheritedTcp(listener)));
    }
    match fds.take_unix_listener(0) {
        Ok(Some(listener)) => Ok(Some(Listen::InheritedUnix(listener))),
        _ => Err(Fault::misuse("the socket that was handed over is not a listening stream socket")),
    }
}

fn tell(summary: &Summary, took: Duration) {
    let rate = summary.events as f64 / took.as_secs_f64().max(1e-9);
    eprintln!(
        "millstream: {} events, {} predictions, {} learned, {} dead letters in {:.1} s ({rate:.0} events/s)",
        summary.events,
        summary.predictions,
        summary.learned,
        summary.dead_letters,
        took.as_secs_f64()
    );
    for (lane, quality) in &summary.quality {
        let metrics: Vec<String> = quality.metrics.iter().map(|(name, value)| format!("{name} {value:.4}")).collect();
        eprintln!("millstream: lane {lane}: {}", metrics.join(", "));
    }
}
