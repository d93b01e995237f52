//! The client that speaks the protocol itself: reader and producer by `kafka::direct`. The membership in the group
//! and the topics stay with the C library.

use super::client::{
    Broken, Client, Filling, Membership, Messages, Met, NextOffset, Place, Producer, Reader, Reading, Standing,
    broken_by, taken,
};
use super::direct::build::{Entry, HeaderEntry};
use super::direct::{
    self, Cluster, Error, FetchSettings, Fetched, Fetcher, Poured, ProduceSettings, Resource, Settings, code,
};
use super::group::{GroupStanding, KafkaGroup};
use super::trouble::{self, refusal};
use super::{BROKER_TIMEOUT, KafkaOptions, TRANSACTION_TIMEOUT_MS, close, headers};
use crate::batch::{Record, RecordKind};
use crate::error::{Fault, Result};
use crate::faults;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often a batch that arrives damaged is asked for again.
const DAMAGED_MAX: u32 = 3;

/// How long a message may take outside a transaction, where `[source.kafka]` says nothing.
const DELIVERY_TIMEOUT_MS: u64 = 300_000;

/// The client that speaks the protocol itself.
pub struct DirectClient;

/// The client's settings by the lane's properties.
///
/// # Errors
/// Misuse: a property of trust that the direct client doesn't know, or a reserved one.
pub fn settings(options: &KafkaOptions) -> Result<Settings> {
    let settings = Settings::from_properties(&options.brokers, &options.client_properties(&[])?);
    settings.map_err(|error| Fault::misuse(format!("source.kafka: {error}")))
}

/// The client's error as the lane's, with what to do about it. `operation`: what was to be done to a topic.
fn fault(options: &KafkaOptions, error: &Error, operation: &str) -> Fault {
    match error {
        Error::Denied { on: Resource::Topic, name } => refusal(options, trouble::Resource::Topic, name, operation),
        Error::Denied { on: Resource::Group, name } => refusal(options, trouble::Resource::Group, name, "Read"),
        Error::Denied { on: Resource::TransactionalId, name } => {
            refusal(options, trouble::Resource::TransactionalId, name, "Write")
        }
        Error::Broker { code: code::MESSAGE_TOO_LARGE | code::RECORD_LIST_TOO_LARGE, .. } => {
            trouble::too_large(Fault::environment(error.to_string()))
        }
        Error::Broker { code: code::INVALID_PRODUCER_EPOCH, .. } => Fault::environment(format!(
            "{error}: an earlier start of this lane reached the brokers late, or one of them had not heard of this one yet"
        )),
        _ => Fault::environment(error.to_string()),
    }
}

fn number<T: std::str::FromStr>(options: &KafkaOptions, names: &[&str], otherwise: T) -> Result<T> {
    let Some(text) = options.property(names) else { return Ok(otherwise) };
    text.parse().map_err(|_| Fault::misuse(format!("source.kafka.\"{}\": \"{text}\" is no number", names[0])))
}

impl Client for DirectClient {
    fn join(&self, options: &KafkaOptions) -> Result<Arc<dyn Membership>> {
        Ok(KafkaGroup::join(options)?)
    }
    fn producer(&self, options: &KafkaOptions) -> Result<Arc<dyn Producer>> {
        let state = State { producer: None, open: false, fenced: false, places: Vec::new() };
        let producer = DirectProducer { options: options.clone(), state: Mutex::new(state) };
        producer.client(&mut producer.lock())?;
        Ok(Arc::new(producer))
    }
    fn reader(&self, options: &KafkaOptions, reading: Reading) -> Result<Box<dyn Reader>> {
        let settings = settings(options)?;
        let (fetch, live) = (fetch_settings(options, reading)?, reading == Reading::Live);
        // One that doesn't answer at the start is not waited for longer than the start may take.
        let patience = options.first_answer.min(BROKER_TIMEOUT);
        let control = Settings {
            connect_timeout: settings.connect_timeout.min(patience),
            call_timeout: settings.call_timeout.min(patience),
            ..settings.clone()
        };
        Ok(Box::new(DirectReader {
            options: options.clone(),
            control: Mutex::new(Cluster::new(control).map_err(|error| fault(options, &error, "Read"))?),
            stream: Stream::open(options, &settings, fetch, live)?,
            own: HashMap::new(),
            past: (reading == Reading::Past).then_some((settings, fetch)),
        }))
    }
}

fn fetch_settings(options: &KafkaOptions, reading: Reading) -> Result<FetchSettings> {
    let wait = match reading {
        Reading::Live => number(options, &["fetch.wait.max.ms"], 250)?,
        // The end has to be told soon.
        Reading::Past | Reading::Journal => 5,
    };
    let partition = match reading {
        Reading::Live | Reading::Past => 1 << 20,
        Reading::Journal => 256 << 10,
    };
    Ok(FetchSettings {
        committed: true,
        fetch_bytes: number(options, &["fetch.max.bytes"], 2 << 20)?,
        partition_bytes: number(options, &["max.partition.fetch.bytes", "fetch.message.max.bytes"], partition)?,
        wait: Duration::from_millis(wait),
        tells_end: reading != Reading::Live,
        unknown_for: Duration::from_millis(number(options, &["topic.metadata.propagation.max.ms"], 30_000)?),
    })
}

/// A fetcher, and what of its last answer isn't handed over.
struct Stream {
    options: KafkaOptions,
    fetcher: Fetcher,
    current: Option<Fetched>,
    /// By the fetcher's numbers: the place, and its next offset.
    places: Vec<(Place, i64)>,
    live: bool,
    told_end: bool,
    damaged: u32,
}

impl Stream {
    fn open(options: &KafkaOptions, settings: &Settings, fetch: FetchSettings, live: bool) -> Result<Stream> {
        let fetcher = Fetcher::open(settings.clone(), fetch).map_err(|error| fault(options, &error, "Read"))?;
        let options = options.clone();
        Ok(Stream { options, fetcher, current: None, places: Vec::new(), live, told_end: false, damaged: 0 })
    }

    fn assign(&mut self, places: &[Place]) {
        self.current = None;
        self.told_end = false;
        let same = |((known, _), new): (&(Place, i64), &Place)| {
            known.input == new.input && known.partition == new.partition && known.topic == new.topic
        };
        if self.places.len() == places.len() && self.places.iter().zip(places).all(same) {
            for (slot, place) in places.iter().enumerate() {
                self.seek(slot, place.offset as i64);
            }
            return;
        }
        self.fetcher.clear();
        self.places.clear();
        self.add(places);
    }

    fn add(&mut self, places: &[Place]) {
        for place in places {
            self.fetcher.add(&place.topic, place.partition, place.offset as i64);
            self.places.push((place.clone(), place.offset as i64));
        }
    }

    fn seek(&mut self, slot: usize, offset: i64) {
        // The others' messages of the answer at hand are asked for again.
        self.current = None;
        for number in 0..self.places.len() {
            let next = if number == slot { offset } else { self.places[number].1 };
            self.fetcher.seek(number, next);
            self.places[number].1 = next;
        }
        self.told_end = false;
    }

    fn fill(&mut self, mut wait: Duration, into: &mut Filling<'_>) -> Result<Met> {
        loop {
            if into.is_full() {
                return Ok(Met::Full);
            }
            if let Some(fetched) = &mut self.current {
                let done = match into.takes_over() {
                    true => pour(fetched, &mut self.places, into),
                    false => hand_over(fetched, &mut self.places, into),
                };
                match done {
                    Ok(true) => {}
                    Ok(false) => return Ok(Met::Full),
                    Err(error) => {
                        self.mend(error)?;
                        continue;
                    }
                }
                self.damaged = 0;
                self.current.take().into_iter().for_each(|fetched| self.fetcher.give_back(fetched));
            }
            let at_end = !self.live && (0..self.places.len()).all(|slot| self.fetcher.is_at_end(slot));
            if at_end && !self.told_end {
                self.told_end = true;
                return Ok(Met::End);
            }
            match self.fetcher.next(wait) {
                Ok(Some(fetched)) => {
                    self.current = Some(fetched);
                    (wait, self.told_end) = (Duration::ZERO, false);
                }
                Ok(None) if !self.told_end && !self.live && self.fetcher.is_at_end(0) => {}
                Ok(None) => return Ok(Met::Nothing),
                Err(Error::OutOfRange { topic, partition, .. }) => {
                    let found = self.places.iter().find(|(p, _)| p.topic == topic && p.partition == partition);
                    let (place, _) =
                        found.ok_or_else(|| Fault::internal(format!("{topic}/{partition} is no input")))?;
                    return Ok(Met::OutOfRange(place.input));
                }
                Err(error) => return Err(fault(&self.options, &error, "Read")),
            }
        }
    }

    /// A batch is damaged: it may have been so on its way, so it is asked for again.
    fn mend(&mut self, error: Error) -> Result<()> {
        let slot = self.current.as_ref().and_then(Fetched::place);
        self.damaged += 1;
        let (Some(slot), true, Error::Damaged(what)) = (slot, self.damaged < DAMAGED_MAX, &error) else {
            let at = slot.and_then(|slot| self.places.get(slot));
            let at =
                at.map_or_else(String::new, |(place, next)| format!("{}/{} from {next}", place.topic, place.partition));
            return Err(fault(&self.options, &error, "Read").at(at));
        };
        tracing::warn!(target: "millstream::kafka", "{what}: asked for again");
        let next = self.places[slot].1;
        self.seek(slot, next);
        Ok(())
    }
}

/// Hands over the messages of an answer in the memory in which they came; false where the filling takes no more.
fn pour(fetched: &mut Fetched, places: &mut [(Place, i64)], into: &mut Filling<'_>) -> Result<bool, Error> {
    into.take_over(|bytes, bytes_max, records| {
        fetched.pour(bytes, bytes_max, |Poured { slot, record }| {
            let (place, next) = &mut places[slot];
            *next = record.offset + 1;
            records.push(Record {
                span: record.value.unwrap_or_default(),
                input: place.input,
                kind: RecordKind::Message,
                offset: record.offset as u64,
                byte: 0,
                key: record.key,
                headers: Some(record.headers).filter(|headers| !headers.is_empty()),
            });
        })
    })
}

/// Hands over the messages of an answer; false where the filling takes no more.
fn hand_over(fetched: &mut Fetched, places: &mut [(Place, i64)], into: &mut Filling<'_>) -> Result<bool, Error> {
    while let Some(message) = fetched.peek()? {
        let (place, next) = &mut places[message.slot];
        let run = |to: &mut Vec<u8>| {
            to.extend_from_slice(message.headers);
            !message.headers.is_empty()
        };
        if !into.offer(place.input, message.offset as u64, message.key, message.value.unwrap_or_default(), run) {
            return Ok(false);
        }
        *next = message.offset + 1;
        fetched.advance();
    }
    Ok(true)
}

/// A reader by fetchers: one for all places, or for the past one a place.
struct DirectReader {
    options: KafkaOptions,
    /// For questions: their answers are not to wait behind batches.
    control: Mutex<Cluster>,
    stream: Stream,
    own: HashMap<u32, Stream>,
    past: Option<(Settings, FetchSettings)>,
}

impl DirectReader {
    fn control(&self) -> MutexGuard<'_, Cluster> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the brokers must have answered a question that is asked now.
    fn answer_by(&self) -> Instant {
        Instant::now() + self.options.first_answer.min(BROKER_TIMEOUT)
    }
}

impl Reader for DirectReader {
    fn assign(&mut self, places: &[Place]) -> Result<()> {
        self.own.clear();
        self.stream.assign(places);
        Ok(())
    }

    fn add(&mut self, places: &[Place]) -> Result<()> {
        let Some((settings, fetch)) = &self.past else {
            self.stream.add(places);
            return Ok(());
        };
        for place in places {
            let mut stream = Stream::open(&self.options, settings, *fetch, false)?;
            stream.add(std::slice::from_ref(place));
            self.own.insert(place.input, stream);
        }
        Ok(())
    }

    fn seek(&mut self, place: &Place) -> Result<()> {
        let stream = self.own.get_mut(&place.input).unwrap_or(&mut self.stream);
        let Some(slot) = stream.places.iter().position(|(known, _)| known.input == place.input) else {
            return Err(Fault::internal(format!("input {} is moved and was not assigned", place.input)));
        };
        stream.seek(slot, place.offset as i64);
        Ok(())
    }

    fn read(&mut self, wait: Duration, into: &mut Filling<'_>) -> Result<Met> {
        self.stream.fill(wait, into)
    }

    fn read_place(&mut self, input: u32, wait: Duration, into: &mut Filling<'_>) -> Result<Met> {
        match self.own.get_mut(&input) {
            Some(stream) => stream.fill(wait, into),
            None => Err(Fault::internal(format!("input {input} is read and was not assigned"))),
        }
    }

    fn watermarks(&self, topic: &str, partition: i32) -> Result<(u64, u64)> {
        let found = self.control().watermarks(topic, partition, true, self.answer_by());
        let (low, high) = found.map_err(|error| fault(&self.options, &error, "Read"))?;
        Ok((low.max(0) as u64, high.max(0) as u64))
    }

    fn knows(&self, topic: &str, partition: i32) -> bool {
        self.control().knows(topic, partition, self.answer_by()).unwrap_or(false)
    }

    fn high_seen(&self, input: u32) -> Option<u64> {
        let slot = self.stream.places.iter().position(|(place, _)| place.input == input)?;
        self.stream.fetcher.high(slot).and_then(|high| u64::try_from(high).ok())
    }

    fn committed(&self, partitions: &[(&str, i32)]) -> Result<Vec<Option<u64>>> {
        let deadline = Instant::now() + BROKER_TIMEOUT;
        let one = |(topic, partition): &(&str, i32)| {
            let offsets = self.control().committed(&self.options.group, topic, &[*partition], deadline);
            let offsets = offsets.map_err(|error| fault(&self.options, &error, "Read"))?;
            Ok(offsets.first().copied().flatten().and_then(|offset| u64::try_from(offset).ok()))
        };
        partitions.iter().map(one).collect()
    }
}

/// The producer of a lane.
struct DirectProducer {
    options: KafkaOptions,
    state: Mutex<State>,
}

struct State {
    producer: Option<direct::Producer>,
    /// A transaction is open.
    open: bool,
    /// Another producer took over: no new one is made, it would fence the rightful one.
    fenced: bool,
    /// Where the lane writes to.
    places: Vec<(String, Vec<i32>)>,
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

impl DirectProducer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The producer, made anew where the last one broke.
    fn client<'s>(&self, state: &'s mut State) -> Result<&'s mut direct::Producer> {
        if state.fenced {
            return Err(taken(self.options.lane));
        }
        if state.producer.is_none() {
            state.open = false;
            let mut producer = connect(&self.options)?;
            self.abort_left_open(&mut producer, &state.places)?;
            state.producer = Some(producer);
        }
        Ok(state.producer.as_mut().expect("set above"))
    }

    /// Whoever had the lane before may have left something open that the coordinator knows nothing of.
    fn abort_left_open(&self, producer: &mut direct::Producer, places: &[(String, Vec<i32>)]) -> Result<()> {
        if !self.options.exactly_once {
            return Ok(());
        }
        producer.abort_at(places).map_err(|error| fault(&self.options, &error, "Write").at("transactions left open"))
    }

    fn sending(&self, send: impl FnOnce(&mut direct::Producer) -> direct::Result<()>) -> Result<()> {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let producer = self.client(state)?;
        let done = send(producer);
        if self.options.exactly_once && !state.open {
            faults::step("kafka.begin");
            state.open = true;
        }
        done.map_err(|error| self.break_off(state, error))
    }

    /// What a failed delivery comes to: nothing of it may go out with a later message.
    fn break_off(&self, state: &mut State, error: Error) -> Fault {
        let fault = fault(&self.options, &error, "Write");
        if !self.options.exactly_once {
            self.give_up(state, &fault.message);
            return fault;
        }
        let broken = self.abort_locked(state, fault.message.clone());
        broken_by(broken, fault, self.options.lane)
    }

    fn abort_locked(&self, state: &mut State, reason: String) -> Broken {
        let done = state.producer.as_mut().map_or(Ok(()), direct::Producer::abort);
        state.open = false;
        match done {
            Err(direct::Broken::Fenced) => self.judge(state, direct::Broken::Fenced),
            Err(direct::Broken::Unknown(more)) => {
                // Nobody was asked to commit; the next producer ends what this one could not.
                self.give_up(state, &more);
                Broken::Aborted(format!("{reason}; {more}"))
            }
            Ok(()) | Err(direct::Broken::Aborted(_)) => Broken::Aborted(reason),
        }
    }

    /// The client's word on a transaction that did not commit as the lane's, and the books kept.
    fn judge(&self, state: &mut State, broken: direct::Broken) -> Broken {
        match broken {
            direct::Broken::Fenced => {
                (state.fenced, state.producer) = (true, None);
                Broken::Fenced
            }
            direct::Broken::Unknown(reason) => {
                self.give_up(state, &reason);
                Broken::Unknown(reason)
            }
            direct::Broken::Aborted(error) => {
                let fault = fault(&self.options, &error, "Write");
                if state.producer.as_ref().is_some_and(direct::Producer::is_broken) {
                    self.give_up(state, &fault.message);
                }
                if error.lasts() { Broken::Refused(fault) } else { Broken::Aborted(fault.message) }
            }
        }
    }

    fn give_up(&self, state: &mut State, reason: &str) {
        tracing::info!(target: "millstream::kafka", "lane {}: the producer is made anew: {reason}", self.options.lane);
        (state.producer, state.open) = (None, false);
    }
}

impl Producer for DirectProducer {
    fn send(&self, topic: &str, partition: i32, key: Option<&[u8]>, value: &[u8], headers: &[u8]) -> Result<()> {
        let list: Vec<HeaderEntry<'_>> = headers::iter(headers).collect();
        let entry = Entry { key, value: Some(value), timestamp: now_ms(), headers: &list };
        self.sending(|producer| producer.send(topic, partition, &entry))
    }

    fn send_all(&self, topic: &str, messages: Messages<'_>) -> Result<()> {
        let timestamp = now_ms();
        self.sending(|producer| {
            let topic = producer.topic(topic);
            for (partition, key, value) in messages.iter() {
                producer.send_in(topic, partition, &Entry { key, value: Some(value), timestamp, headers: &[] })?;
                faults::step("kafka.produce");
            }
            producer.push()
        })
    }

    fn flush(&self) -> Result<()> {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let done = self.client(state)?.flush();
        done.map_err(|error| self.break_off(state, error))
    }

    fn commit(&self, offsets: &[NextOffset], standing: &Standing) -> Result<(), Broken> {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let Some(group) = standing.0.downcast_ref::<GroupStanding>() else {
            return Err(self.abort_locked(state, "the standing is of another client".into()));
        };
        let Some(producer) = state.producer.as_mut() else {
            return Err(Broken::Aborted("the producer broke before the commit".into()));
        };
        let mut topics: Vec<(&str, Vec<(i32, i64)>)> = Vec::new();
        for NextOffset { topic, partition, offset } in offsets {
            let next = (*partition, *offset as i64);
            match topics.iter_mut().find(|(known, _)| known == topic) {
                Some((_, all)) => all.push(next),
                None => topics.push((topic, vec![next])),
            }
        }
        let done = producer.commit(&topics, &group.membership);
        let is_broken = producer.is_broken();
        state.open = false;
        if done.is_ok() && is_broken {
            self.give_up(state, "an end of a transaction was not answered");
        }
        done.map_err(|broken| self.judge(state, broken))
    }

    fn abort(&self) {
        let mut state = self.lock();
        if state.open {
            self.abort_locked(&mut state, String::new());
        }
    }

    fn reconnect(&self) -> Result<()> {
        self.client(&mut self.lock()).map(|_| ())
    }

    fn writes_to(&self, places: &[(String, Vec<i32>)]) -> Result<()> {
        let mut state = self.lock();
        state.places = places.to_vec();
        if state.producer.is_none() {
            return self.client(&mut state).map(|_| ());
        }
        self.abort_left_open(self.client(&mut state)?, places)
    }
}

impl Drop for DirectProducer {
    fn drop(&mut self) {
        let mut state = self.lock();
        let (open, producer) = (state.open, state.producer.take());
        if let Some(mut producer) = producer.filter(|_| open) {
            // Otherwise readers of the outputs would wait for the broker to time the transaction out.
            close::within_bound("producer", move || drop(producer.abort()));
        }
    }
}

fn connect(options: &KafkaOptions) -> Result<direct::Producer> {
    let compression = options.property(&["compression.codec", "compression.type"]).unwrap_or("none");
    let transaction_ms = number(options, &["transaction.timeout.ms"], TRANSACTION_TIMEOUT_MS)?;
    let delivery_ms = number(
        options,
        &["message.timeout.ms", "delivery.timeout.ms"],
        match options.exactly_once {
            true => transaction_ms,
            false => DELIVERY_TIMEOUT_MS,
        },
    )?;
    let how = ProduceSettings {
        compression: compression.parse().map_err(|error| Fault::misuse(format!("source.kafka: {error}")))?,
        message_bytes_max: number(options, &["message.max.bytes"], 1_000_000)?,
        transactional: options.exactly_once.then(|| options.transactional_id()),
        transaction_timeout: Duration::from_millis(transaction_ms),
        delivery_timeout: Duration::from_millis(delivery_ms),
        ..ProduceSettings::default()
    };
    if options.exactly_once {
        faults::step("kafka.init");
    }
    let producer = direct::Producer::open(settings(options)?, how).map_err(|error| {
        let what = if options.exactly_once { "the lane's transactions could not be opened" } else { "the producer" };
        fault(options, &error, "Write").at(what)
    })?;
    if options.exactly_once {
        faults::step("kafka.initialised");
    }
    Ok(producer)
}
