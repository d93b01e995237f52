//! The Kafka client that the engine has in this world: as the one over the C library, a producer queues messages, tells
//! of a failure at a later call, takes back what it can, and gives itself up where an outcome is unknown.

use super::broker::{Entry, Stale};
use super::{Me, call, may_die, name, tell, world};
use millstream::clock::Clock;
use millstream::error::{Fault, Result};
use millstream::kafka::claim::Holdings;
use millstream::kafka::client::{
    Broken, Client, Filling, Membership, Messages, Met, NewTopic, NextOffset, Place, Producer, Reader, Reading,
    Standing, TopicShape, aborted, taken,
};
use millstream::kafka::{KafkaOptions, topics};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A daemon's client.
pub struct SimClient {
    pub me: Me,
    pub clock: Clock,
    pub member: Arc<SimMember>,
}

pub struct SimMember {
    me: Me,
    pub holdings: Arc<Holdings>,
    joined: Mutex<bool>,
}

impl SimMember {
    pub fn new(me: Me) -> SimMember {
        SimMember { me, holdings: Arc::default(), joined: Mutex::default() }
    }
}

impl Client for SimClient {
    fn join(&self, options: &KafkaOptions) -> Result<Arc<dyn Membership>> {
        let mut joined = self.member.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if !*joined {
            call(self.me, "join")?;
            topics::ensure_journal(self.member.as_ref(), &self.clock, options)?;
            world(|w| w.broker.group.join(self.me, &self.member.holdings));
            *joined = true;
        }
        Ok(self.member.clone())
    }

    fn producer(&self, options: &KafkaOptions) -> Result<Arc<dyn Producer>> {
        let mut id = format!("{}-{}", options.group, options.lane);
        if millstream::faults::planted("producer-not-fenced") {
            id = format!("{id}-{}-{}", self.me.daemon, self.me.life);
        }
        let producer =
            SimProducer { me: self.me, lane: options.lane, id, once: options.exactly_once, state: Mutex::default() };
        producer.connect(&mut producer.lock())?;
        Ok(Arc::new(producer))
    }

    fn reader(&self, _: &KafkaOptions, reading: Reading) -> Result<Box<dyn Reader>> {
        Ok(Box::new(SimReader { me: self.me, reading, places: Vec::new() }))
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
}

impl Membership for SimMember {
    fn holdings(&self) -> &Holdings {
        &self.holdings
    }

    fn wait(&self, seen: u64, most: Duration) {
        let mut left = most;
        while self.holdings.changes() == seen && !left.is_zero() {
            let step = left.min(Duration::from_millis(500));
            left -= step;
            world(|w| {
                w.clock.advance(step);
                (0..8).for_each(|_| w.background());
            });
            may_die(self.me);
        }
    }

    fn standing(&self) -> Result<Standing> {
        call(self.me, "standing")?;
        let standing = world(|w| w.broker.group.standing(self.me));
        let standing = standing.ok_or_else(|| Fault::environment("this daemon is no member of its group"))?;
        Ok(Standing(Box::new(standing)))
    }

    fn commit(&self, offsets: &[NextOffset]) -> Result<()> {
        call(self.me, "commit offsets")?;
        super::oracle::not_ahead(offsets);
        world(|w| {
            for offset in offsets {
                w.broker.group.offsets.insert((offset.topic.clone(), offset.partition), offset.offset);
            }
        });
        may_die(self.me);
        Ok(())
    }

    fn shape(&self, topic: &str) -> Result<Option<TopicShape>> {
        call(self.me, "shape")?;
        let shape =
            |partitions: usize| TopicShape { topic: topic.to_string(), partitions: partitions as i32, replication: 1 };
        Ok(world(|w| w.broker.topics.get(topic).map(|t| shape(t.len()))))
    }

    fn check_permissions(&self, _: &KafkaOptions) -> Result<()> {
        Ok(())
    }

    fn make_topic(&self, new: &NewTopic<'_>) -> Result<()> {
        call(self.me, "make topic")?;
        world(|w| {
            let partitions = || (0..new.partitions.max(1)).map(|_| Default::default()).collect();
            w.broker.topics.entry(new.topic.to_string()).or_insert_with(partitions);
        });
        Ok(())
    }

    fn delete_before(&self, topic: &str, partition: i32, offset: u64) -> Result<()> {
        call(self.me, "trim")?;
        world(|w| {
            let partition = w.broker.partition(topic, partition);
            partition.low = partition.low.max(offset as usize);
        });
        may_die(self.me);
        Ok(())
    }
}

struct SimReader {
    me: Me,
    reading: Reading,
    places: Vec<Place>,
}

impl SimReader {
    /// Up to `most` messages of a place.
    fn take(&mut self, at: usize, most: usize, into: &mut Filling<'_>) -> Met {
        world(|w| {
            let place = &mut self.places[at];
            let partition = w.broker.partition(&place.topic, place.partition);
            let stable = partition.stable() as u64;
            if place.offset < partition.low as u64 || place.offset > partition.log.len() as u64 {
                return Met::OutOfRange(place.input);
            }
            let mut taken = 0;
            while place.offset < stable {
                let entry = &partition.log[place.offset as usize];
                if partition.is_visible(entry) {
                    if taken == most {
                        return Met::Nothing;
                    }
                    let headers = |run: &mut Vec<u8>| {
                        run.extend_from_slice(&entry.headers);
                        !entry.headers.is_empty()
                    };
                    if !into.offer(place.input, place.offset, entry.key.as_deref(), &entry.value, headers) {
                        return Met::Full;
                    }
                    taken += 1;
                }
                place.offset += 1;
            }
            Met::End
        })
    }

    fn at(&self, input: u32) -> Result<usize> {
        let at = self.places.iter().position(|place| place.input == input);
        at.ok_or_else(|| Fault::internal(format!("input {input} was not assigned")))
    }
}

impl Reader for SimReader {
    fn assign(&mut self, places: &[Place]) -> Result<()> {
        call(self.me, "assign")?;
        self.places = places.to_vec();
        Ok(())
    }

    fn add(&mut self, places: &[Place]) -> Result<()> {
        call(self.me, "assign more")?;
        self.places.extend_from_slice(places);
        Ok(())
    }

    fn seek(&mut self, place: &Place) -> Result<()> {
        call(self.me, "seek")?;
        let at = self.at(place.input)?;
        self.places[at].offset = place.offset;
        Ok(())
    }

    fn read(&mut self, wait: Duration, into: &mut Filling<'_>) -> Result<Met> {
        call(self.me, if self.reading == Reading::Live { "read" } else { "read journal" })?;
        if self.places.is_empty() {
            world(|w| w.clock.advance(wait));
            return Ok(Met::Nothing);
        }
        let tries = if self.reading == Reading::Live { 1 + world(|w| w.chance.below(4)) } else { 1 };
        for _ in 0..tries {
            let (at, most) = world(|w| (w.chance.below(self.places.len()), 1 + w.chance.below(12)));
            match self.take(at, most, into) {
                Met::End if self.reading == Reading::Live => {}
                Met::Nothing => {}
                met => return Ok(met),
            }
        }
        if into.is_empty() {
            world(|w| w.clock.advance(wait));
        }
        Ok(Met::Nothing)
    }

    fn read_place(&mut self, input: u32, _: Duration, into: &mut Filling<'_>) -> Result<Met> {
        call(self.me, "read past")?;
        let (at, most) = (self.at(input)?, 1 + world(|w| w.chance.below(12)));
        Ok(self.take(at, most, into))
    }

    fn watermarks(&self, topic: &str, partition: i32) -> Result<(u64, u64)> {
        call(self.me, "watermarks")?;
        Ok(world(|w| {
            let partition = w.broker.partition(topic, partition);
            (partition.low as u64, partition.stable() as u64)
        }))
    }

    fn high_seen(&self, _: u32) -> Option<u64> {
        None
    }

    fn committed(&self, partitions: &[(&str, i32)]) -> Result<Vec<Option<u64>>> {
        call(self.me, "committed offsets")?;
        Ok(world(|w| {
            w.broker.settle();
            let offset = |(topic, partition): &(&str, i32)| {
                w.broker.group.offsets.get(&(topic.to_string(), *partition)).copied()
            };
            partitions.iter().map(offset).collect()
        }))
    }
}

#[derive(Default)]
struct State {
    /// The epoch of the connection; `None`: given up.
    epoch: Option<u32>,
    open: bool,
    fenced: bool,
    /// Messages that are still on their way.
    queue: VecDeque<(String, i32, Entry)>,
}

struct SimProducer {
    me: Me,
    lane: u32,
    id: String,
    once: bool,
    state: Mutex<State>,
}

impl SimProducer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self, state: &mut State) -> Result<u32> {
        if state.fenced {
            return Err(taken(self.lane));
        }
        if let Some(epoch) = state.epoch {
            return Ok(epoch);
        }
        call(self.me, "init transactions")?;
        (state.open, state.epoch) = (false, Some(0));
        state.queue.clear();
        if self.once {
            state.epoch = Some(world(|w| w.broker.init(&self.id)));
        }
        may_die(self.me);
        Ok(state.epoch.expect("set above"))
    }

    /// Sends what is queued: all, or (put off) some.
    fn transmit(&self, state: &mut State, all: bool) -> Result<()> {
        let epoch = self.connect(state)?;
        while !state.queue.is_empty() {
            if !all && world(|w| w.chance.one_in(w.plan.put_off)) {
                return Ok(());
            }
            let failed = world(|w| w.chance.one_in(w.plan.failed_call.saturating_mul(4)));
            if failed {
                return Err(Fault::environment("a message was not taken by the broker"));
            }
            let (topic, partition, entry) = state.queue.pop_front().expect("not empty");
            let stale = world(|w| {
                let now = w.clock.now();
                if self.once {
                    return w.broker.produce(now, &self.id, epoch, (&topic, partition), entry).is_err();
                }
                w.broker.partition(&topic, partition).log.push(entry);
                false
            });
            if stale {
                self.fence(state);
                return Err(taken(self.lane));
            }
        }
        Ok(())
    }

    fn fence(&self, state: &mut State) {
        world(|w| w.counts.fenced += 1);
        tell(|| format!("  {}: lane {} is fenced", name(self.me.daemon), self.lane));
        (state.fenced, state.open, state.epoch) = (true, false, None);
        state.queue.clear();
    }

    fn hand(&self, messages: impl Iterator<Item = (String, i32, Entry)>) -> Result<()> {
        let mut state = self.lock();
        self.connect(&mut state)?;
        call(self.me, "produce").map_err(|fault| self.break_off(&mut state, fault))?;
        state.open = self.once;
        state.queue.extend(messages);
        let sent = self.transmit(&mut state, false);
        may_die(self.me);
        sent.map_err(|fault| self.break_off(&mut state, fault))
    }

    fn break_off(&self, state: &mut State, fault: Fault) -> Fault {
        if !self.once {
            state.epoch = None;
            return fault;
        }
        match self.abort_open(state, fault.message) {
            Broken::Fenced => taken(self.lane),
            Broken::Refused(fault) => fault,
            Broken::Aborted(reason) | Broken::Unknown(reason) => aborted(&reason),
        }
    }

    /// Takes back what is open. Where that gets no answer the connection is given up, and the next one does it.
    fn abort_open(&self, state: &mut State, reason: String) -> Broken {
        state.queue.clear();
        world(|w| w.counts.aborted += 1);
        if let Some(epoch) = state.epoch.filter(|_| state.open && !state.fenced) {
            match world(|w| {
                if w.chance.one_in(w.plan.lost_answer) { None } else { Some(w.broker.end(&self.id, epoch, false)) }
            }) {
                Some(Ok(())) => {}
                Some(Err(Stale)) => self.fence(state),
                None => {
                    world(|w| {
                        let at = w.clock.now() + Duration::from_millis(w.chance.next() % 20_000);
                        w.broker.end_later(at, &self.id, epoch, false);
                    });
                    state.epoch = None;
                }
            }
        }
        state.open = false;
        if state.fenced { Broken::Fenced } else { Broken::Aborted(reason) }
    }

    /// Decides the transaction; the answer may be lost, the request as well, or it comes late.
    fn end(&self, state: &mut State, epoch: u32) -> Result<(), Broken> {
        enum Way {
            Answered(Result<(), Stale>),
            Silent(&'static str),
        }
        let way = world(|w| {
            if !w.chance.one_in(w.plan.lost_answer) {
                return Way::Answered(w.broker.end(&self.id, epoch, true));
            }
            w.counts.unknown += 1;
            let now = w.clock.now();
            let late = now + Duration::from_millis(w.chance.next() % 30_000);
            w.clock.advance(Duration::from_millis(w.chance.next() % 15_000));
            match w.chance.below(4) {
                0 | 1 => {
                    w.counts.unknown_committed += u64::from(w.broker.end(&self.id, epoch, true).is_ok());
                    Way::Silent("its answer is lost")
                }
                2 => Way::Silent("it is lost"),
                _ => {
                    w.broker.end_later(late, &self.id, epoch, true);
                    Way::Silent("it will be late")
                }
            }
        });
        state.open = false;
        match way {
            Way::Answered(Ok(())) => {
                world(|w| w.counts.commits += 1);
                Ok(())
            }
            Way::Answered(Err(Stale)) => {
                self.fence(state);
                Err(Broken::Fenced)
            }
            Way::Silent(what) => {
                tell(|| format!("  {}: commit of lane {}: {what}", name(self.me.daemon), self.lane));
                state.epoch = None;
                if millstream::faults::planted("unknown-outcome-taken-as-committed") {
                    return Ok(());
                }
                Err(Broken::Unknown(what.to_string()))
            }
        }
    }
}

impl Producer for SimProducer {
    fn send(&self, topic: &str, partition: i32, key: Option<&[u8]>, value: &[u8], headers: &[u8]) -> Result<()> {
        let (key, value, headers) = (key.map(<[u8]>::to_vec), value.to_vec(), headers.to_vec());
        let entry = Entry { key, value, headers, ..Entry::default() };
        self.hand(std::iter::once((topic.to_string(), partition, entry)))
    }

    fn send_all(&self, topic: &str, messages: Messages<'_>) -> Result<()> {
        self.hand(messages.iter().map(|(partition, key, value)| {
            let entry = Entry { key: key.map(<[u8]>::to_vec), value: value.to_vec(), ..Entry::default() };
            (topic.to_string(), partition, entry)
        }))
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.lock();
        call(self.me, "flush").map_err(|fault| self.break_off(&mut state, fault))?;
        let sent = self.transmit(&mut state, true);
        sent.map_err(|fault| self.break_off(&mut state, fault))
    }

    fn commit(&self, offsets: &[NextOffset], standing: &Standing) -> Result<(), Broken> {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let Some(epoch) = state.epoch else {
            return Err(Broken::Aborted("the producer broke before the commit".into()));
        };
        let standing = standing.0.downcast_ref::<(u64, u64)>().expect("of this client");
        let before = call(self.me, "send offsets").and_then(|()| self.transmit(state, true));
        if let Err(fault) = before {
            return Err(self.abort_open(state, fault.message));
        }
        let accepted = world(|w| w.broker.group.accepts(*standing));
        if !accepted && !offsets.is_empty() {
            tell(|| format!("  {}: its generation is over", name(self.me.daemon)));
            return Err(self.abort_open(state, "illegal generation".into()));
        }
        let added = world(|w| w.broker.add_offsets(w.clock.now(), &self.id, epoch, offsets));
        if added.is_err() {
            self.fence(state);
            return Err(Broken::Fenced);
        }
        if let Err(fault) = call(self.me, "commit") {
            return Err(self.abort_open(state, fault.message));
        }
        let done = self.end(state, epoch);
        may_die(self.me);
        done
    }

    fn abort(&self) {
        let mut state = self.lock();
        if state.open {
            self.abort_open(&mut state, String::new());
        }
    }

    fn reconnect(&self) -> Result<()> {
        self.connect(&mut self.lock()).map(|_| ())
    }
}

impl Drop for SimProducer {
    fn drop(&mut self) {
        let living = !std::thread::panicking()
            && world(|w| w.processes[self.me.daemon].alive && w.processes[self.me.daemon].life == self.me.life);
        if living {
            self.abort();
        }
    }
}
