//! The engine's answer to admin commands: a thread that loads and verifies candidates, posts orders to
//! the lanes, and gathers their answers. No event waits for it.

use super::home::Home;
use super::worker::{Order, Tuning};
use crate::admin::command::{Command, Refusal, Request};
use crate::error::{Class, Fault, Result};
use crate::faults;
use crate::metrics::Health;
use crate::pipeline::Pipeline;
use flume::RecvTimeoutError;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often control looks whether the lanes that owe an answer still run.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What control needs of the engine.
pub struct Control {
    /// Where artifacts are kept.
    pub home: Arc<Home>,
    /// One a lane.
    pub orders: Vec<flume::Sender<Order>>,
    /// Set to stop all intakes.
    pub stop: Arc<AtomicBool>,
    /// Told of a drain.
    pub health: Arc<Health>,
    /// How long lanes may take to obey.
    pub timeout: Duration,
}

impl Control {
    /// Answers requests until the last asker is gone.
    pub fn run(&self, requests: &flume::Receiver<Request>) {
        for request in requests {
            let answer = self.obey(request.command).map_err(|fault| refusal(&fault));
            // The asker may have given up waiting.
            let _ = request.reply.send(answer);
        }
    }

    /// Carries out a command.
    ///
    /// # Errors
    /// Why it was not carried out; then nothing has changed.
    pub fn obey(&self, command: Command) -> Result<Value> {
        match command {
            Command::Swap { bytes, origin } => self.swap(&bytes, &origin),
            Command::Rollback => self.all(|done| Ok(Order::Rollback(done))),
            Command::Checkpoint => self.all(|done| Ok(Order::Checkpoint(done))),
            Command::Pause => self.all(|done| Ok(Order::Pause(true, done))),
            Command::Resume => self.all(|done| Ok(Order::Pause(false, done))),
            Command::Drain => {
                self.health.set_draining();
                self.stop.store(true, Relaxed);
                Ok(json!({ "draining": true }))
            }
            Command::Status | Command::Versions => {
                Err(Fault::misuse("status and versions are answered from what the lanes publish"))
            }
        }
    }

    /// Tells every lane about new intervals and switches.
    pub fn retune(orders: &[flume::Sender<Order>], tuning: Tuning) {
        for lane in orders {
            // A lane that has ended has nothing to retune.
            let _ = lane.send(Order::Retune(tuning));
        }
    }

    fn swap(&self, bytes: &[u8], origin: &str) -> Result<Value> {
        let candidate = Pipeline::from_bytes(bytes).map_err(|f| f.at(origin))?;
        let (version, hash) = (candidate.version().to_string(), candidate.hash().to_string());
        let base = self.home.artifacts.get(&self.home.lineage.base)?;
        let base = base.ok_or_else(|| Fault::corruption("the lineage's first pipeline is missing"))?;
        super::lane::check_fits(&Pipeline::from_bytes(&base)?, &candidate)?;
        faults::step("swap.artifact");
        self.home.artifacts.put(&hash, bytes)?;
        faults::step("swap.order");
        let mut answer =
            self.all(|done| Ok(Order::Swap(Box::new(Pipeline::from_bytes(bytes)?), origin.to_string(), done)))?;
        answer["version"] = json!(version);
        Ok(answer)
    }

    fn all(&self, order: impl Fn(super::worker::Done) -> Result<Order>) -> Result<Value> {
        let (done, answers) = flume::unbounded();
        let orders: Result<Vec<Order>> = self.orders.iter().map(|_| order(done.clone())).collect();
        drop(done);
        let orders = orders?;
        // Told to all lanes or to none: before anything is posted.
        if self.orders.iter().any(flume::Sender::is_disconnected) {
            return Err(has_ended());
        }
        for (lane, order) in self.orders.iter().zip(orders) {
            lane.send(order).map_err(|_| has_ended())?;
        }
        let deadline = Instant::now() + self.timeout;
        let mut lanes: Vec<(u32, Option<u64>)> = Vec::new();
        while lanes.len() < self.orders.len() {
            let look = deadline.min(Instant::now() + LOOK_EVERY);
            // Looked at before the answers: what a lane answers, it answers before it ends.
            let owes = |lane: usize| lanes.iter().all(|(answered, _)| *answered as usize != lane);
            let ended = self.orders.iter().enumerate().any(|(lane, way)| way.is_disconnected() && owes(lane));
            match answers.recv_deadline(look) {
                Ok((lane, outcome)) => lanes.push((lane, outcome?)),
                Err(RecvTimeoutError::Timeout) if ended => return Err(has_ended()),
                Err(RecvTimeoutError::Timeout) if look < deadline => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Fault::environment(format!(
                        "a lane did not answer within {} ms",
                        self.timeout.as_millis()
                    ))
                    .hint("look at `millstream ctl status`: the order may still take effect"));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(has_ended()),
            }
        }
        lanes.sort_unstable();
        if !lanes.is_empty() && lanes.iter().all(|(_, seq)| seq.is_none()) {
            return Err(Fault::environment("no lane is here: the group has given them all to other daemons")
                .hint("ask the daemons that hold them; `millstream ctl status` shows where a lane is"));
        }
        let elsewhere: Vec<u32> = lanes.iter().filter(|(_, seq)| seq.is_none()).map(|(lane, _)| *lane).collect();
        let here = lanes.iter().filter_map(|(lane, seq)| Some(json!({ "lane": lane, "seq": (*seq)? })));
        let mut answer = json!({ "lanes": here.collect::<Vec<Value>>() });
        if !elsewhere.is_empty() {
            answer["elsewhere"] = json!(elsewhere);
        }
        Ok(answer)
    }
}

fn has_ended() -> Fault {
    Fault::environment("a lane has ended before it could obey").hint("look at `millstream ctl status`")
}

fn refusal(fault: &Fault) -> Refusal {
    let status = match fault.class {
        Class::Misuse => 422,
        Class::Corruption => 422,
        Class::Environment => 507,
        Class::Internal => 500,
    };
    Refusal { status, error: fault.message.clone(), hint: fault.hint.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::home::Places;

    const SPEC: &str = "name = \"t\"\n[schema]\nlabel = \"y\"\n[schema.fields]\nx = \"float\"\ny = \"bool\"\n\
                        [model]\nkind = \"logistic-regression\"\n";

    #[test]
    fn an_order_that_a_lane_took_to_its_grave_is_answered_at_once() {
        let dir = tempfile::tempdir().expect("dir");
        let home = Arc::new(Home::open(&Places::local(dir.path()), 1, SPEC.as_bytes(), false).expect("home"));
        let (way, orders) = flume::unbounded();
        let timeout = Duration::from_secs(30);
        let health = Arc::new(Health::new(1));
        let control = Control { home, orders: vec![way], stop: Arc::default(), health, timeout };
        let lane = std::thread::spawn(move || {
            while orders.is_empty() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let began = Instant::now();
        let fault = control.obey(Command::Checkpoint).expect_err("the lane has ended");
        assert!(fault.message.contains("has ended"), "{fault}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        lane.join().expect("lane");
    }

    #[test]
    fn where_one_lane_has_ended_no_other_is_told() {
        let dir = tempfile::tempdir().expect("dir");
        let home = Arc::new(Home::open(&Places::local(dir.path()), 2, SPEC.as_bytes(), false).expect("home"));
        let ((runs, orders), (ended, _)) = (flume::unbounded(), flume::unbounded());
        let health = Arc::new(Health::new(2));
        let timeout = Duration::from_secs(30);
        let control = Control { home, orders: vec![runs, ended], stop: Arc::default(), health, timeout };
        let swap = || Command::Swap { bytes: format!("{SPEC}# other\n").into_bytes(), origin: "o".into() };
        for command in [swap(), Command::Rollback, Command::Checkpoint, Command::Pause] {
            let fault = control.obey(command).expect_err("a lane has ended");
            assert!(fault.message.contains("has ended"), "{fault}");
            assert!(orders.is_empty(), "the lane that runs was told");
        }
    }

    #[test]
    fn a_drain_stops_the_intake_and_ends_readiness() {
        let dir = tempfile::tempdir().expect("directory");
        let home = Home::open(&Places::local(dir.path()), 1, b"a pipeline", false).expect("home");
        let health = Arc::new(Health::new(1));
        health.set_ready();
        let control = Control {
            home: Arc::new(home),
            orders: Vec::new(),
            stop: Arc::default(),
            health: health.clone(),
            timeout: Duration::from_secs(1),
        };
        assert!(health.ready());
        let answer = control.obey(Command::Drain).expect("drains");
        assert_eq!(answer, json!({ "draining": true }));
        assert!(control.stop.load(Relaxed));
        assert!(health.draining() && !health.ready(), "readyz must answer 503 from here on");
    }
}
