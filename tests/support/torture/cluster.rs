//! Who troubles a cluster of three while daemons die: leaders move from broker to broker, those of the coordinators
//! too; brokers are told to stop, killed, or held until the others have gone on without them.

use super::plan::Plan;
use crate::support::broker::Broker;
use crate::support::events::Random;
use crate::support::stream::Stream;
use millstream::kafka::direct::calls::Call;
use millstream::kafka::direct::wire::{Reader, Writer};
use millstream::kafka::direct::{Cluster, Result, Settings};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many brokers there are; each has a replica of every partition.
const BROKERS: i32 = 3;

/// Longer than the controller waits for a broker's heartbeat.
const GIVEN_UP: Duration = Duration::from_millis(4_500);

/// How long a move may take.
const MOVE_MAX_MS: i32 = 10_000;

/// What was done to the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Partitions whose leader moved, with every broker well.
    pub moved: u64,
    /// Brokers that were told to stop.
    pub stopped: u64,
    /// Brokers that were killed.
    pub killed: u64,
    /// Brokers that were held until they led nothing.
    pub held: u64,
}

impl std::ops::AddAssign for Troubles {
    fn add_assign(&mut self, more: Troubles) {
        self.moved += more.moved;
        self.stopped += more.stopped;
        self.killed += more.killed;
        self.held += more.held;
    }
}

/// The cluster of this process.
pub fn brokers() -> &'static [Broker] {
    static ALL: OnceLock<Vec<Broker>> = OnceLock::new();
    ALL.get_or_init(|| Broker::cluster(BROKERS as usize, "auto.leader.rebalance.enable=false\n"))
}

/// The thread that troubles, until told to stop; then all brokers are well.
pub struct Mover {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Troubles>>,
}

impl Mover {
    /// Troubles by the plan's seed: `calm` of 24 times it moves leaders, otherwise a broker gets it.
    pub fn start(plan: &Plan, stream: &Stream, calm: u64) -> Mover {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, mut random) = (stop.clone(), Random(plan.seed ^ plan.round << 16 ^ 0xC105));
        let ends = [("in", plan.partitions), ("out", plan.partitions), ("journal", plan.lanes as i32)];
        let mut topics: Vec<(String, i32)> =
            ends.iter().map(|(end, partitions)| (stream.topic(end), *partitions)).collect();
        topics.extend(["__transaction_state", "__consumer_offsets"].map(|name| (name.to_string(), 1)));
        let settings = Settings::new(&stream.broker.address());
        let thread = std::thread::spawn(move || {
            let mut cluster = Cluster::new(settings).expect("a cluster");
            let mut troubles = Troubles::default();
            while !told.load(Relaxed) {
                std::thread::sleep(Duration::from_millis(30 + random.below(300)));
                match random.below(24) {
                    choice if choice < calm => {
                        let (topic, partitions) = &topics[random.below(topics.len() as u64) as usize];
                        troubles.moved += move_leaders(&mut cluster, topic, *partitions, random.below(3) as i32);
                    }
                    _ => {
                        let broker = &brokers()[random.below(BROKERS as u64) as usize];
                        trouble(random.below(3), broker, &mut troubles);
                    }
                }
            }
            troubles
        });
        Mover { stop, thread: Some(thread) }
    }

    /// Ends the troubles, and waits until all is well.
    pub fn stop(mut self) -> Troubles {
        self.stop.store(true, Relaxed);
        self.thread.take().expect("a thread").join().expect("the mover")
    }
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn trouble(kind: u64, broker: &Broker, troubles: &mut Troubles) {
    match kind {
        0 => {
            broker.stop();
            troubles.stopped += 1;
        }
        1 => {
            broker.kill();
            troubles.killed += 1;
        }
        _ => {
            broker.signal(libc::SIGSTOP);
            std::thread::sleep(GIVEN_UP);
            broker.signal(libc::SIGCONT);
            troubles.held += 1;
            return;
        }
    }
    broker.start();
}

/// Gives the partitions of a topic another first replica, and has it elected. How many leaders that moved.
fn move_leaders(cluster: &mut Cluster, topic: &str, partitions: i32, turn: i32) -> u64 {
    let of = |partition: i32| (0..BROKERS).map(move |n| (partition + turn + n) % BROKERS + 1).collect();
    let replicas: Vec<(i32, Vec<i32>)> = (0..partitions).map(|partition| (partition, of(partition))).collect();
    // A broker that is away, a topic that isn't made yet: another time.
    if cluster.ask_any(&Reassign { topic, replicas: &replicas }).is_err() {
        return 0;
    }
    cluster.ask_any(&Elect { topic, partitions }).unwrap_or(0)
}

/// Gives partitions other replicas (here: the same in another order).
struct Reassign<'a> {
    topic: &'a str,
    replicas: &'a [(i32, Vec<i32>)],
}

impl Call for Reassign<'_> {
    type Answer = ();
    const KEY: i16 = 45;
    const NAME: &'static str = "reassignment";
    fn version(&self) -> i16 {
        0
    }
    fn write(&self, to: &mut Writer) {
        to.i32(MOVE_MAX_MS);
        to.compact_array(&[self.topic], |to, topic| {
            to.compact_string(topic);
            to.compact_array(self.replicas, |to, (partition, replicas)| {
                to.i32(*partition);
                to.compact_array(replicas, |to, broker| to.i32(*broker));
                to.no_tagged();
            });
            to.no_tagged();
        });
        to.no_tagged();
    }
    fn read(&self, _: &mut Reader<'_>) -> Result<()> {
        Ok(())
    }
}

/// Has the first replica of each partition elected.
struct Elect<'a> {
    topic: &'a str,
    partitions: i32,
}

impl Call for Elect<'_> {
    /// How many leaders moved.
    type Answer = u64;
    const KEY: i16 = 43;
    const NAME: &'static str = "election";
    fn version(&self) -> i16 {
        2
    }
    fn write(&self, to: &mut Writer) {
        to.raw(&[0]); // the preferred ones
        to.compact_array(&[self.topic], |to, topic| {
            to.compact_string(topic);
            let all: Vec<i32> = (0..self.partitions).collect();
            to.compact_array(&all, |to, partition| to.i32(*partition));
            to.no_tagged();
        });
        to.i32(MOVE_MAX_MS);
        to.no_tagged();
    }
    fn read(&self, from: &mut Reader<'_>) -> Result<u64> {
        let (_throttle, _code) = (from.i32()?, from.i16()?);
        let mut moved = 0;
        from.compact_array(|topic| {
            topic.compact_string()?;
            topic.compact_array(|partition| {
                let (_, code) = (partition.i32()?, partition.i16()?);
                // Others stay: they lead already, or can't yet.
                moved += u64::from(code == 0);
                partition.compact_nullable_string()?;
                partition.skip_tagged()
            })?;
            topic.skip_tagged()
        })?;
        Ok(moved)
    }
}
