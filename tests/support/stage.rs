//! A stream whose daemon reaches its broker through a proxy, and what it must have come to.

use super::broker::Broker;
use super::daemon::{Daemon, Scene, until};
use super::events::{self, SPEC};
use super::proxy::Proxy;
use super::stream::{Stream, by_partition, json, oracle, replay_is_equal};
use super::verdict::{assert_each_once, assert_same, assert_same_model, last_words};
use millstream::admin::CtlAction;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the client waits for an answer, as [`PROPERTIES`] say, in ms.
pub const ANSWER_MS: u64 = 600;

/// Time-outs that keep the tests short.
pub const PROPERTIES: &str = "source.kafka.\"socket.timeout.ms\" = \"600\"\n\
    source.kafka.\"transaction.timeout.ms\" = \"8000\"\n\
    source.kafka.\"session.timeout.ms\" = \"3000\"\nsource.kafka.\"heartbeat.interval.ms\" = \"300\"\n";

/// A stream, its daemon's folder, and the proxy between daemon and broker.
pub struct Stage {
    pub stream: Stream,
    pub scene: Scene,
    pub proxy: &'static Proxy,
    /// Events sent so far.
    pub sent: u64,
    pub exactly_once: bool,
}

/// Sends a few events again and again, until told to stop.
pub struct Drip {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Drip {
    /// How many were sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(SeqCst)
    }

    /// Stops, and returns how many were sent in all.
    pub fn stop(self) -> u64 {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("the sender");
        self.sent.load(SeqCst)
    }
}

impl Stage {
    /// A stage whose config has these lines as well.
    pub fn new(broker: &'static Broker, proxy: &'static Proxy, name: &str, more: &str) -> Stage {
        let stream = Stream::new(broker, name);
        let config = stream.config(&format!("{PROPERTIES}{more}"));
        let scene = Scene::new(SPEC, &config.replace(&broker.address(), &proxy.address()));
        Stage { stream, scene, proxy, sent: 0, exactly_once: !more.contains("at-least-once") }
    }

    /// Starts to send: so many events every 15 ms.
    pub fn drip(&self, events: u64) -> Drip {
        let (stream, first) = (self.stream.clone(), self.sent);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (told, count) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            while !told.load(SeqCst) {
                let number = first + count.load(SeqCst);
                stream.send(&events::json(events, number + 1), number);
                count.fetch_add(events, SeqCst);
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        Drip { stop, sent, thread }
    }

    /// While events come, does something to the daemon; it goes on by itself, and in the end all is committed.
    pub fn meanwhile(
        &mut self,
        daemon: &mut Option<Daemon>,
        what: &str,
        disturb: impl FnOnce(&Stage, &mut Option<Daemon>),
    ) {
        let (drip, began) = (self.drip(20), Instant::now());
        disturb(self, daemon);
        // More than was there when it happened.
        let (disturbed, before) = (Instant::now(), self.sent + drip.sent() + 40);
        let daemon = daemon.as_mut().expect("a daemon");
        until("commits after it", || (committed(daemon) >= before).then_some(()));
        let after = disturbed.elapsed();
        self.sent += drip.stop();
        self.proxy.clear();
        self.stream.committed(daemon, self.sent);
        let (whole, after) = (began.elapsed().as_secs_f64(), after.as_secs_f64());
        eprintln!(
            "{}: {what}: {whole:.1} s, caught up after {after:.1} s; {} events so far",
            self.stream.name, self.sent
        );
    }

    /// Stops the daemon; then output, model and journal are the oracle's.
    pub fn verdict(&self, daemon: Daemon) {
        self.stream.group_is_at_the_end();
        daemon.stop();
        self.verdict_of(&self.scene);
    }

    /// As `verdict`, for a daemon that was stopped, in its folder.
    pub fn verdict_of(&self, scene: &Scene) {
        let mut made = oracle(&self.stream, None, &json(), &[SPEC]);
        let (out, dead) = (by_partition(&self.stream.output("out")), by_partition(&self.stream.output("dead")));
        if self.exactly_once {
            assert_same(&out, &made.predictions);
            assert_same(&dead, &made.dead);
            assert_each_once(&out, &dead, self.sent);
        } else {
            let (last, repeated) = last_words(&out, false);
            eprintln!("{}: {repeated} of {} events were published twice", self.stream.name, self.sent);
            assert_same(&last, &made.predictions);
            assert_eq!(made.seq, self.sent);
        }
        assert_same_model(&self.stream, scene, 0, &mut made);
        replay_is_equal(scene);
    }
}

/// Events committed by the daemon; 0 where it doesn't say.
pub fn committed(daemon: &Daemon) -> u64 {
    let status = daemon.ask(&CtlAction::Status).unwrap_or_default();
    status["lanes"][0]["committed_seq"].as_u64().unwrap_or(0)
}
