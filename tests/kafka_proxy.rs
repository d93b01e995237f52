//! The story: between the daemon and its broker stands a proxy that loses, delays and cuts what a test picks: an
//! EndTxn whose answer never comes, one that arrives in the middle of a later transaction, a Fetch torn in half,
//! a heartbeat that is missed until the group has gone on without the member. Whatever it does, the
//! committed output is the oracle's, byte for byte, each event once, and the model is the oracle's.
//!
//! `MILLSTREAM_PROXY_ROUNDS` (and `_SEED`) make the random mix longer.

mod support;

use millstream::admin::CtlAction;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::daemon::{Daemon, Scene, until};
use support::events::{self, Random, SPEC};
use support::proxy::{Act, Api, Proxy, broker_behind};
use support::stream::{Stream, by_partition, json, oracle, replay_is_equal};
use support::verdict::{assert_each_once, assert_same, assert_same_model};

/// A delay that is past the client's time-out.
const LATE: Duration = Duration::from_millis(1_400);

/// Time-outs that keep the tests short.
const PROPERTIES: &str = "source.kafka.\"socket.timeout.ms\" = \"1000\"\n\
    source.kafka.\"message.timeout.ms\" = \"6000\"\nsource.kafka.\"transaction.timeout.ms\" = \"8000\"\n\
    source.kafka.\"session.timeout.ms\" = \"3000\"\nsource.kafka.\"heartbeat.interval.ms\" = \"300\"\n";

/// One way to the broker for each test that wants its own.
const WAYS: usize = 6;

fn ways() -> &'static (Vec<Proxy>, Broker) {
    static ALL: OnceLock<(Vec<Proxy>, Broker)> = OnceLock::new();
    ALL.get_or_init(|| {
        let proxies: Vec<Proxy> = (0..WAYS).map(|_| Proxy::new()).collect();
        let broker = broker_behind(&proxies.iter().collect::<Vec<_>>());
        (proxies, broker)
    })
}

/// A stream, its daemon's folder, and the proxy between daemon and broker.
struct Stage {
    stream: Stream,
    scene: Scene,
    proxy: &'static Proxy,
    sent: u64,
    seed: u64,
}

impl Stage {
    fn new(name: &str, way: usize, more: &str) -> Stage {
        let (proxies, broker) = ways();
        let stream = Stream::new(broker, name);
        let config = stream.config(&format!("{PROPERTIES}{more}"));
        let scene = Scene::new(SPEC, &config.replace(&broker.address(), &proxies[way].address()));
        Stage { stream, scene, proxy: &proxies[way], sent: 0, seed: 1 }
    }

    /// Sends a few events, until told to stop. Returns how many.
    fn drip(&self, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
        let (stream, stop, first, seed) = (self.stream.clone(), stop.clone(), self.sent, self.seed);
        std::thread::spawn(move || {
            let mut sent = 0;
            while !stop.load(Relaxed) {
                stream.send(&events::json(20, seed + sent), first + sent);
                sent += 20;
                std::thread::sleep(Duration::from_millis(15));
            }
            sent
        })
    }

    /// While events come, does something to the daemon; then everything that was sent is committed.
    fn meanwhile(
        &mut self,
        daemon: &mut Option<Daemon>,
        what: &str,
        mut disturb: impl FnMut(&Stage, &mut Option<Daemon>),
    ) {
        let stop = Arc::new(AtomicBool::new(false));
        let sender = self.drip(&stop);
        let began = Instant::now();
        disturb(self, daemon);
        // It goes on while events come.
        let (seq, from) = (|daemon: &mut Option<Daemon>| committed(daemon.as_mut().expect("a daemon")), Instant::now());
        let before = seq(daemon);
        until("commits after it", || (seq(daemon) > before + 20).then_some(()));
        eprint!("[{:.1} s] ", from.elapsed().as_secs_f64());
        stop.store(true, Relaxed);
        self.sent += sender.join().expect("the sender");
        self.proxy.clear();
        let daemon = daemon.as_mut().expect("a daemon");
        self.stream.committed(daemon, self.sent);
        eprintln!("{what}: {} events in all, {:.1} s", self.sent, began.elapsed().as_secs_f64());
    }

    /// Stops the daemon; then output, model and journal are the oracle's.
    fn verdict(&self, daemon: Daemon) {
        self.stream.group_is_at_the_end();
        daemon.stop();
        let mut made = oracle(&self.stream, None, &json(), &[SPEC]);
        let (out, dead) = (by_partition(&self.stream.output("out")), by_partition(&self.stream.output("dead")));
        assert_same(&out, &made.predictions);
        assert_same(&dead, &made.dead);
        assert_each_once(&out, &dead, self.sent);
        assert_same_model(&self.stream, &self.scene, 0, &mut made);
        replay_is_equal(&self.scene);
    }
}

/// Events committed by the daemon; 0 where it doesn't say.
fn committed(daemon: &Daemon) -> u64 {
    let status = daemon.ask(&CtlAction::Status).unwrap_or_default();
    status["lanes"][0]["committed_seq"].as_u64().unwrap_or(0)
}

/// Everything that may happen to a request.
fn acts() -> Vec<Act> {
    vec![
        Act::LoseRequest,
        Act::DelayRequest(LATE),
        Act::CutBefore,
        Act::CutInRequest,
        Act::LoseAnswer,
        Act::DelayAnswer(LATE),
        Act::CutAfter,
        Act::CutInAnswer,
    ]
}

/// One fault after the other, each while events come; after each the daemon has caught up by itself.
fn through(name: &str, way: usize, more: &str, faults: impl IntoIterator<Item = (Api, Act)>) {
    let mut stage = Stage::new(name, way, more);
    let mut daemon = Some(stage.scene.start(&[]));
    for (api, act) in faults {
        stage.meanwhile(&mut daemon, &format!("{api:?} {act:?}"), |stage, _| {
            stage.proxy.next(api, act).wait_met();
        });
    }
    stage.verdict(daemon.expect("a daemon"));
}

#[test]
fn the_end_of_a_transaction_is_lost_late_or_cut() {
    through("end", 0, "", acts().into_iter().map(|act| (Api::EndTxn, act)));
}

#[test]
fn what_a_transaction_says_before_its_end_is_lost_late_or_cut() {
    let apis = [Api::TxnOffsetCommit, Api::AddOffsetsToTxn, Api::AddPartitionsToTxn];
    through("says", 1, "", apis.into_iter().flat_map(|api| acts().into_iter().map(move |act| (api, act))));
}

#[test]
fn messages_fetches_and_heartbeats_are_lost_late_or_cut() {
    let apis = [Api::Produce, Api::Fetch, Api::Heartbeat];
    through("data", 2, "", apis.into_iter().flat_map(|api| acts().into_iter().map(move |act| (api, act))));
}

/// The commit of one transaction arrives while the next is open: it must not commit the half that is there.
#[test]
fn an_end_that_arrives_in_the_next_transaction_ends_nothing() {
    let mut stage = Stage::new("late", 3, "");
    let mut daemon = Some(stage.scene.start(&["--set", "delivery.commit_interval_ms=1500"]));
    stage.meanwhile(&mut daemon, "a late end", |stage, daemon| {
        let late = stage.proxy.next(Api::EndTxn, Act::HoldRequest);
        late.wait_met();
        let again = stage.proxy.next(Api::EndTxn, Act::Watch);
        again.wait_answered();
        // Predictions of the next transaction are at the broker; their journal record is not yet made.
        stage.proxy.next(Api::Produce, Act::Watch).wait_answered();
        late.release();
        late.wait_answered();
        daemon.take().expect("a daemon").kill();
        *daemon = Some(stage.scene.start(&[]));
    });
    stage.verdict(daemon.expect("a daemon"));
}
