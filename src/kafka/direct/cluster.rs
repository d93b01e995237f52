//! The brokers of a cluster: who they are, who leads which partition, and a connection to each that is asked.
//!
//! ```no_run
//! use millstream::kafka::direct::{Cluster, Settings};
//! use std::time::{Duration, Instant};
//!
//! let mut cluster = Cluster::new(Settings::new("localhost:9092")).unwrap();
//! let deadline = Instant::now() + Duration::from_secs(10);
//! println!("{:?}", cluster.watermarks("events", 0, true, deadline).unwrap());
//! ```

use super::calls::{At, Call, ClusterAt, CoordinatorOf, FindCoordinator, ListOffsets, Metadata, OffsetFetch};
use super::connection::{Backoff, Connection, Dialer};
use super::error::{Error, Resource, Result, code};
use super::settings::Settings;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How often a call that may pass is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How long one broker may take for a question that any broker could answer.
const ANY_TIMEOUT: Duration = Duration::from_secs(5);

/// The leaders of a topic's partitions: broker (−1: none) and epoch (−1: unknown).
type Leaders = Vec<(i32, i32)>;

/// A cluster, as far as it is known.
#[derive(Debug)]
pub struct Cluster {
    dialer: Dialer,
    addresses: HashMap<i32, String>,
    topics: HashMap<String, Leaders>,
    connections: HashMap<i32, Connection>,
    /// Brokers whose connection went with requests of its user on their way, who hasn't been told yet.
    lost: HashSet<i32>,
    backoffs: HashMap<String, Backoff>,
    coordinators: HashMap<(CoordinatorOf, String), i32>,
    /// The bootstrap broker to ask next.
    turn: usize,
}

impl Cluster {
    /// A cluster that nobody was asked about yet.
    ///
    /// # Errors
    /// `Config`, where certificates or keys are no good.
    pub fn new(settings: Settings) -> Result<Cluster> {
        Ok(Cluster {
            dialer: Dialer::new(settings)?,
            addresses: HashMap::new(),
            topics: HashMap::new(),
            connections: HashMap::new(),
            lost: HashSet::new(),
            backoffs: HashMap::new(),
            coordinators: HashMap::new(),
            turn: 0,
        })
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        self.dialer.settings()
    }

    /// A connection to a broker, made where there is none.
    ///
    /// # Errors
    /// `Io`, where the broker is left alone for a while after a failure, or can't be reached; `Timeout`, `Config`;
    /// `Broker`, where the last one went with requests on their way: [`Cluster::hang_up`] first, and send them again.
    pub fn connection(&mut self, broker: i32) -> Result<&mut Connection> {
        if self.connections.get(&broker).is_some_and(|c| c.is_worn() && c.on_their_way() == 0) {
            self.connections.remove(&broker);
        }
        if !self.connections.contains_key(&broker) {
            // On a new one, the first answer would be taken for that of the first request which was lost.
            if self.lost.contains(&broker) {
                return Err(Error::broker(format!("broker {broker}"), code::NETWORK_EXCEPTION));
            }
            let address = self.addresses.get(&broker).cloned();
            let address =
                address.ok_or_else(|| Error::broker(format!("broker {broker}"), code::LEADER_NOT_AVAILABLE))?;
            let connection = self.dial(&address, self.settings().connect_timeout)?;
            self.connections.insert(broker, connection);
        }
        Ok(self.connections.get_mut(&broker).expect("made above"))
    }

    /// The connection to a broker, where there is one.
    pub fn existing(&mut self, broker: i32) -> Option<&mut Connection> {
        self.connections.get_mut(&broker)
    }

    pub(super) fn peek_connection(&self, broker: i32) -> Option<&Connection> {
        self.connections.get(&broker)
    }

    /// Drops the connection to a broker that has done nothing wrong.
    pub(super) fn drop_connection(&mut self, broker: i32) {
        self.lost.remove(&broker);
        self.connections.remove(&broker);
    }

    fn dial(&mut self, address: &str, limit: Duration) -> Result<Connection> {
        let backoff = self.backoffs.entry(address.to_string()).or_default();
        if backoff.not_before().is_some_and(|when| Instant::now() < when) {
            let source = std::io::Error::new(std::io::ErrorKind::NotConnected, "it is left alone for a moment");
            return Err(Error::Io { what: format!("broker {address}"), source });
        }
        match self.dialer.dial_within(address, limit) {
            Ok(connection) => {
                backoff.succeed();
                Ok(connection)
            }
            Err(error) => {
                backoff.fail(self.dialer.settings());
                Err(error)
            }
        }
    }

    /// Drops the connection to a broker, and what was on its way on it.
    pub fn hang_up(&mut self, broker: i32) {
        self.lost.remove(&broker);
        if self.connections.remove(&broker).is_some()
            && let Some(address) = self.addresses.get(&broker)
        {
            self.backoffs.entry(address.clone()).or_default().fail(self.dialer.settings());
        }
    }

    /// Asks a broker, and drops its connection where that broke.
    ///
    /// # Errors
    /// Those of the connection and of the call.
    pub fn ask<C: Call>(&mut self, broker: i32, call: &C) -> Result<C::Answer> {
        let patience = self.settings().call_timeout;
        self.ask_within(broker, call, patience)
    }

    fn ask_within<C: Call>(&mut self, broker: i32, call: &C, patience: Duration) -> Result<C::Answer> {
        let answer = self.connection(broker)?.call_within(call, patience);
        if answer.as_ref().is_err_and(Error::breaks_connection) {
            self.hang_up(broker);
        }
        answer
    }

    /// Tries until it succeeds, fails for good, or the deadline has come. `attempt` is shown the cluster each time.
    ///
    /// # Errors
    /// The last attempt's.
    pub fn retrying<T>(&mut self, deadline: Instant, mut attempt: impl FnMut(&mut Cluster) -> Result<T>) -> Result<T> {
        loop {
            match attempt(self) {
                Err(error) if error.may_pass() && Instant::now() + RETRY_INTERVAL < deadline => {
                    std::thread::sleep(RETRY_INTERVAL);
                }
                done => return done,
            }
        }
    }

    /// The level of transactions that the brokers have agreed on, as far as one was asked.
    pub fn transaction_level(&self) -> i16 {
        self.connections.values().map(|c| c.versions().transaction_level).max().unwrap_or(0)
    }

    /// Asks any broker: one that is connected and idle, else those of the bootstrap list by turns.
    ///
    /// # Errors
    /// The last broker's.
    pub fn ask_any<C: Call>(&mut self, call: &C) -> Result<C::Answer> {
        let idle = self.connections.iter().find(|(_, c)| c.on_their_way() == 0 && !c.is_worn()).map(|(id, _)| *id);
        let patience = ANY_TIMEOUT.min(self.settings().call_timeout);
        let mut last = match idle.map(|id| self.ask_within(id, call, patience)) {
            Some(Err(error)) if error.may_pass() || error.breaks_connection() => error,
            Some(done) => return done,
            None => Error::Config("no broker is named".into()),
        };
        let known: Vec<String> = self.addresses.values().cloned().collect();
        let named = self.settings().brokers.clone();
        self.turn = self.turn.wrapping_add(1);
        let first = self.turn % named.len().max(1);
        for address in named[first..].iter().chain(&named[..first]).chain(&known) {
            let connected = self.dial(address, ANY_TIMEOUT.min(self.settings().connect_timeout));
            match connected.and_then(|mut connection| connection.call_within(call, patience)) {
                Err(error @ Error::Config(_)) => return Err(error),
                Err(error) => last = error,
                done => return done,
            }
        }
        Err(last)
    }

    /// Asks for the leaders of topics; those that are gone are forgotten.
    ///
    /// # Errors
    /// Those of the call; a topic that isn't there is none.
    pub fn refresh(&mut self, topics: &[String]) -> Result<()> {
        let answer: ClusterAt = self.ask_any(&Metadata { topics })?;
        let addresses: HashMap<i32, String> = answer.brokers.iter().map(|b| (b.id, join(&b.host, b.port))).collect();
        let moved = |id: &i32| addresses.get(id) != self.addresses.get(id);
        let gone: Vec<i32> = self.connections.keys().copied().filter(|id| moved(id)).collect();
        for id in gone {
            if self.connections.remove(&id).is_some_and(|connection| connection.on_their_way() > 0) {
                self.lost.insert(id);
            }
        }
        self.addresses = addresses;
        for topic in answer.topics {
            if topic.code != code::NONE {
                self.topics.remove(&topic.name);
                if !code::may_pass(topic.code) {
                    let error = Error::broker(format!("topic \"{}\"", topic.name), topic.code);
                    return Err(error.on(Resource::Topic, &topic.name));
                }
                continue;
            }
            let mut leaders: Leaders = Vec::new();
            for partition in topic.partitions {
                // As many as were sent, whatever they call themselves.
                let Ok(at) = usize::try_from(partition.partition) else { continue };
                if at > 1_000_000 {
                    continue;
                }
                if leaders.len() <= at {
                    leaders.resize(at + 1, (-1, -1));
                }
                leaders[at] = (partition.leader, partition.leader_epoch);
            }
            self.topics.insert(topic.name, leaders);
        }
        Ok(())
    }

    /// The leader of a partition and its epoch, as far as known.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<(i32, i32)> {
        let leaders = self.topics.get(topic)?;
        leaders.get(usize::try_from(partition).ok()?).copied().filter(|(leader, _)| *leader >= 0)
    }

    /// The number of a topic's partitions, as far as known.
    pub fn partitions(&self, topic: &str) -> Option<usize> {
        self.topics.get(topic).map(Vec::len)
    }

    /// Whether a topic has a partition, asked of any broker until the deadline. What was made a moment ago may not
    /// have come to that broker yet.
    ///
    /// # Errors
    /// The last broker's; `Broker`, where the topic is refused.
    pub fn knows(&mut self, topic: &str, partition: i32, deadline: Instant) -> Result<bool> {
        self.retrying(deadline, |cluster| cluster.refresh(&[topic.to_string()]))?;
        Ok(self.partitions(topic).is_some_and(|count| (0..count as i32).contains(&partition)))
    }

    /// The leader of a partition, asked for where it isn't known.
    ///
    /// # Errors
    /// `Broker`, where it has none at the moment.
    pub fn find_leader(&mut self, topic: &str, partition: i32) -> Result<i32> {
        if self.leader(topic, partition).is_none() {
            self.refresh(&[topic.to_string()])?;
        }
        let code = match self.partitions(topic) {
            Some(count) if (0..count as i32).contains(&partition) => code::LEADER_NOT_AVAILABLE,
            _ => code::UNKNOWN_TOPIC_OR_PARTITION,
        };
        self.leader(topic, partition)
            .map(|(leader, _)| leader)
            .ok_or_else(|| Error::broker(format!("{topic}/{partition}"), code))
    }

    /// Asks the leader of a partition, and forgets who leads where it doesn't.
    fn ask_leader<C: Call>(&mut self, topic: &str, partition: i32, call: &C) -> Result<C::Answer> {
        let leader = self.find_leader(topic, partition)?;
        let answer = self.ask(leader, call);
        if answer.as_ref().is_err_and(Error::breaks_connection) {
            self.topics.remove(topic);
        }
        answer
    }

    /// Forgets who leads a topic's partitions.
    pub fn forget_leaders(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    /// Asks a coordinator, found first where it isn't known.
    ///
    /// # Errors
    /// Those of the connection and of the call.
    pub fn ask_coordinator<C: Call>(&mut self, of: CoordinatorOf, name: &str, call: &C) -> Result<C::Answer> {
        let key = (of, name.to_string());
        let broker = match self.coordinators.get(&key) {
            Some(broker) => *broker,
            None => {
                let found =
                    self.ask_any(&FindCoordinator { of, name }).map_err(|error| error.on(of.resource(), name))?;
                self.addresses.insert(found.id, join(&found.host, found.port));
                self.coordinators.insert(key.clone(), found.id);
                found.id
            }
        };
        let answer = self.ask(broker, call);
        if answer.as_ref().is_err_and(|e| e.breaks_connection() || e.code().is_some_and(code::is_stale_coordinator)) {
            self.coordinators.remove(&key);
        }
        answer.map_err(|error| error.on(of.resource(), name))
    }

    /// The oldest offset of a partition, and the one past the last that can be read (`committed`: past the last that
    /// is settled).
    ///
    /// # Errors
    /// Those of the leader; `Timeout` and `Io` where none answers by the deadline.
    pub fn watermarks(
        &mut self,
        topic: &str,
        partition: i32,
        committed: bool,
        deadline: Instant,
    ) -> Result<(i64, i64)> {
        let mut ask = |at| {
            self.retrying(deadline, |cluster| {
                let call = ListOffsets { topic, partitions: &[partition], at, committed };
                let answer = cluster.ask_leader(topic, partition, &call)?;
                let Some((_, code, offset)) = answer.into_iter().find(|(p, ..)| *p == partition) else {
                    return Err(Error::Damaged("offsets: an answer without the partition".into()));
                };
                if code::is_stale_leader(code) {
                    cluster.forget_leaders(topic);
                }
                let checked = super::calls::check(&format!("offsets of {topic}/{partition}"), code);
                checked.map(|()| offset).map_err(|error| error.on(Resource::Topic, topic))
            })
        };
        Ok((ask(At::Earliest)?, ask(At::Latest)?))
    }

    /// What a group has committed for partitions of a topic; none where it has nothing.
    ///
    /// # Errors
    /// Those of the group's coordinator, tried until the deadline.
    pub fn committed(
        &mut self,
        group: &str,
        topic: &str,
        partitions: &[i32],
        deadline: Instant,
    ) -> Result<Vec<Option<i64>>> {
        self.retrying(deadline, |cluster| {
            let call = OffsetFetch { group, topic, partitions };
            let answer = cluster.ask_coordinator(CoordinatorOf::Group, group, &call)?;
            let of = |partition: &i32| {
                let found = answer.iter().find(|(p, ..)| p == partition);
                let (_, code, offset) = found.copied().unwrap_or((*partition, code::NONE, -1));
                super::calls::check(&format!("committed offset of {topic}/{partition}"), code)
                    .map_err(|error| error.on(Resource::Topic, topic).on(Resource::Group, group))?;
                Ok((offset >= 0).then_some(offset))
            };
            partitions.iter().map(of).collect()
        })
    }
}

fn join(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
