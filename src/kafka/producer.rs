//! The producer that a lane's sink and journal share, its transactions, and the classes of their errors.
//!
//! One transactional producer a lane, drained before the offsets are sent. Waiting is done here and not by the
//! wrapper's `flush`, which polls in steps of a tenth of a second: with it a commit takes 100 ms longer.

use super::at_large::{self, Ends};
use super::client::{Broken, Messages, NextOffset, Producer, Standing, aborted, broken_by, taken};
use super::group::GroupStanding;
use super::topics::{config, offset_list};
use super::trouble::{Resource, refusal, too_large};
use super::{BROKER_TIMEOUT, KafkaOptions, TRANSACTION_TIMEOUT_MS};
use crate::error::{Fault, Result};
use crate::faults;
use rdkafka::Message;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext, PurgeConfig};
use rdkafka_sys as sys;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long one call of the transaction protocol may take before it is tried again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the log may take to tell of an end that was answered.
const HEARING_MAX: Duration = Duration::from_millis(100);

/// How long the report of a delivery that broke a transaction may take.
const FAILURE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the broker may take no messages; longer than the library tries to deliver one.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(330);

/// Keeps the first delivery that failed, and listens for ends of transactions that were not answered.
#[derive(Default)]
struct Deliveries {
    failed: Mutex<Option<(String, Option<RDKafkaErrorCode>)>>,
    ends: Ends,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.ends.hear(facility, message);
        // Finer lines are asked for only to be heard here.
        if level as i32 <= RDKafkaLogLevel::Warning as i32 {
            super::group::log_line(level as i32, message);
        }
    }
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "millstream::kafka", "producer: {error}: {reason}");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();
    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            let place = || format!("{}/{}: {error}", message.topic(), message.partition());
            failed.get_or_insert_with(|| (place(), error.rdkafka_error_code()));
        }
    }
}

/// A producer and the handles of the topics that it writes to.
struct Client {
    producer: BaseProducer<Deliveries>,
    topics: Vec<(String, *mut sys::rd_kafka_topic_t)>,
    /// Room for the messages of a call, by partition; empty between calls.
    batches: Vec<(i32, Vec<sys::rd_kafka_message_t>)>,
}

// The C client and its topic handles are thread safe.
unsafe impl Send for Client {}

impl Drop for Client {
    fn drop(&mut self) {
        for (_, handle) in self.topics.drain(..) {
            // SAFETY: made by rd_kafka_topic_new of this producer, which is dropped after this.
            unsafe { sys::rd_kafka_topic_destroy(handle) };
        }
    }
}

/// The producer of a lane.
pub struct LaneProducer {
    options: KafkaOptions,
    state: Mutex<State>,
}

struct State {
    client: Option<Client>,
    /// A transaction is open.
    open: bool,
    /// Another producer took over: no new one is made, it would fence the rightful one.
    fenced: bool,
}

impl LaneProducer {
    /// Connects; exactly-once: fences the lane's last owner and aborts what it left open.
    ///
    /// # Errors
    /// Misuse, naming a property that is refused. Environment, where no broker answers.
    pub fn open(options: &KafkaOptions) -> Result<Arc<LaneProducer>> {
        let producer = LaneProducer {
            options: options.clone(),
            state: Mutex::new(State { client: None, open: false, fenced: false }),
        };
        producer.client(&mut producer.lock())?;
        Ok(Arc::new(producer))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client, made anew where the last one broke.
    fn client<'s>(&self, state: &'s mut State) -> Result<&'s mut Client> {
        if state.fenced {
            return Err(taken(self.options.lane));
        }
        if state.client.is_none() {
            state.open = false;
            state.client = Some(connect(&self.options)?);
        }
        Ok(state.client.as_mut().expect("set above"))
    }

    /// Opens a transaction where none is open (exactly-once), and hands over.
    fn sending(&self, send: impl FnOnce(&mut Client) -> Result<()>) -> Result<()> {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        self.begin(state)?;
        match send(self.client(state)?) {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.break_off(state, fault)),
        }
    }

    /// What a failed delivery comes to: nothing of it may go out with a later message.
    fn break_off(&self, state: &mut State, fault: Fault) -> Fault {
        if self.options.exactly_once {
            let broken = self.abort_locked(state, fault.message.clone());
            return broken_by(broken, fault, self.options.lane);
        }
        self.give_up(state, &fault);
        fault
    }

    fn begin(&self, state: &mut State) -> Result<()> {
        if !self.options.exactly_once || (state.open && state.client.is_some()) {
            return Ok(());
        }
        let client = self.client(state)?;
        match client.producer.begin_transaction() {
            Ok(()) => {
                faults::step("kafka.begin");
                client.producer.context().ends.begin();
                state.open = true;
            }
            Err(error) => {
                // Begin is local: it fails only on a producer that is broken for good.
                self.give_up(state, &error);
                return Err(aborted(&format!("a transaction could not begin: {error}")));
            }
        }
        Ok(())
    }

    fn abort_locked(&self, state: &mut State, reason: String) -> Broken {
        if let Some(client) = state.client.as_mut()
            && !state.fenced
        {
            match client.abort() {
                // An abort of nothing asks nobody.
                Ok(()) if client.an_end_is_at_large(false) => {
                    self.give_up(state, &"an end of a transaction was not answered");
                }
                Ok(()) => {}
                Err(error) => {
                    note(client, &error, &mut state.fenced);
                    self.give_up(state, &error);
                }
            }
        }
        state.open = false;
        match state.fenced {
            true => Broken::Fenced,
            false => Broken::Aborted(reason),
        }
    }

    fn give_up(&self, state: &mut State, error: &dyn std::fmt::Display) {
        tracing::info!(target: "millstream::kafka", "lane {}: the producer is made anew: {error}", self.options.lane);
        let client = state.client.take();
        super::close::within_bound("producer", move || drop(client));
        state.open = false;
    }
}

impl Producer for LaneProducer {
    fn send(&self, topic: &str, partition: i32, key: Option<&[u8]>, value: &[u8], headers: &[u8]) -> Result<()> {
        self.sending(|client| match headers.is_empty() {
            true => client.send_plain(topic, std::iter::once((partition, key, value))),
            false => client.send_with_headers(topic, partition, key, value, owned(headers)),
        })
    }

    fn send_all(&self, topic: &str, messages: Messages<'_>) -> Result<()> {
        self.sending(|client| {
            client.send_plain(topic, messages.iter())?;
            client.producer.poll(Duration::ZERO);
            client.failed()
        })
    }

    fn flush(&self) -> Result<()> {
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        match self.client(state)?.drain(DELIVERY_TIMEOUT) {
            Ok(()) => Ok(()),
            Err(fault) => Err(self.break_off(state, fault)),
        }
    }

    fn commit(&self, offsets: &[NextOffset], standing: &Standing) -> Result<(), Broken> {
        let Some(group) = standing.0.downcast_ref::<GroupStanding>() else {
            return Err(self.abort_locked(&mut self.lock(), "the standing is of another client".into()));
        };
        let mut guard = self.lock();
        let state: &mut State = &mut guard;
        let Some(client) = state.client.as_mut() else {
            return Err(Broken::Aborted("the producer broke before the commit".into()));
        };
        let patience = transaction_timeout(&self.options);
        faults::step("kafka.flush");
        let before = client.drain(patience).and_then(|()| {
            if offsets.is_empty() {
                return Ok(());
            }
            faults::step("kafka.offsets");
            let (list, metadata) = (offset_list(offsets)?, &group.metadata);
            retried(patience, || client.producer.send_offsets_to_transaction(&list, metadata, CALL_TIMEOUT))
                .map_err(|error| Fault::environment(note(client, &error, &mut state.fenced)))
        });
        if let Err(fault) = before {
            return Err(match self.abort_locked(state, fault.message.clone()) {
                Broken::Aborted(_) if fault.lasting => Broken::Refused(fault),
                broken => broken,
            });
        }
        let client = state.client.as_mut().expect("checked above");
        faults::step("kafka.commit");
        match retried(patience, || client.producer.commit_transaction(CALL_TIMEOUT)) {
            Ok(()) => {
                faults::step("kafka.committed");
                state.open = false;
                if client.an_end_is_at_large(true) {
                    self.give_up(state, &"an end of a transaction was not answered");
                }
                Ok(())
            }
            Err(KafkaError::Transaction(error)) if error.txn_requires_abort() => {
                Err(self.abort_locked(state, error.to_string()))
            }
            Err(error) => {
                let reason = note(client, &error, &mut state.fenced);
                self.give_up(state, &error);
                match state.fenced {
                    true => Err(Broken::Fenced),
                    false => Err(Broken::Unknown(reason)),
                }
            }
        }
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
}

/// A run of headers in the wrapper's form.
fn owned(run: &[u8]) -> OwnedHeaders {
    super::headers::iter(run).fold(OwnedHeaders::new(), |all, (name, value)| {
        all.insert(Header { key: &String::from_utf8_lossy(name), value })
    })
}

/// The error in words; notes it where it says that another producer took over.
fn note(client: &Client, error: &KafkaError, fenced: &mut bool) -> String {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    // An old epoch alone can be mended by an abort; as the cause of a fatal error it means a successor.
    let cause = client.producer.client().fatal_error().map(|(code, _)| code);
    *fenced |= matches!(cause, Some(Fenced | ProducerFenced | InvalidProducerEpoch))
        || matches!(error.rdkafka_error_code(), Some(Fenced | ProducerFenced));
    error.to_string()
}

impl Drop for LaneProducer {
    fn drop(&mut self) {
        let mut state = self.lock();
        let (open, fenced, client) = (std::mem::take(&mut state.open), state.fenced, state.client.take());
        let Some(mut client) = client else { return };
        super::close::within_bound("producer", move || {
            // Otherwise readers of the outputs would wait for the broker to time the transaction out.
            if open && !fenced {
                let _ = client.abort();
            }
            drop(client);
        });
    }
}

impl Client {
    /// The fast path: no headers, no copy of the topic's name, and one call for all messages of a partition, which
    /// reads the clocks and takes the locks once and not for each.
    fn send_plain<'m>(
        &mut self,
        topic: &str,
        messages: impl Iterator<Item = (i32, Option<&'m [u8]>, &'m [u8])>,
    ) -> Result<()> {
        let handle = self.topic(topic)?;
        let mut batches = std::mem::take(&mut self.batches);
        for (partition, key, value) in messages {
            let batch = match batches.iter_mut().position(|(of, _)| *of == partition) {
                Some(known) => &mut batches[known].1,
                None => {
                    batches.push((partition, Vec::new()));
                    &mut batches.last_mut().expect("just pushed").1
                }
            };
            batch.push(sys::rd_kafka_message_t {
                err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: std::ptr::null_mut(),
                partition,
                payload: value.as_ptr() as *mut c_void,
                len: value.len(),
                key: key.map_or(std::ptr::null(), <[u8]>::as_ptr) as *mut c_void,
                key_len: key.map_or(0, <[u8]>::len),
                offset: 0,
                _private: std::ptr::null_mut(),
            });
        }
        let mut full = batches.iter_mut().filter(|(_, batch)| !batch.is_empty());
        let outcome = full.try_for_each(|(partition, batch)| self.hand_over(topic, handle, *partition, batch));
        batches.iter_mut().for_each(|(_, batch)| batch.clear());
        self.batches = batches;
        outcome
    }

    fn hand_over(
        &self,
        topic: &str,
        handle: *mut sys::rd_kafka_topic_t,
        partition: i32,
        mut batch: &mut [sys::rd_kafka_message_t],
    ) -> Result<()> {
        let patience = Instant::now();
        while !batch.is_empty() {
            // One partition a call: with several, the library takes one that it doesn't know yet for part of the
            // transaction by the number -1, and the broker refuses.
            // SAFETY: the handle is of this producer; values and keys live as long as this call, and the library copies
            // them (F_COPY) and changes nothing but the errors.
            unsafe {
                let (messages, count) = (batch.as_mut_ptr(), batch.len() as i32);
                sys::rd_kafka_produce_batch(handle, partition, sys::RD_KAFKA_MSG_F_COPY, messages, count)
            };
            let refused = |m: &sys::rd_kafka_message_t| m.err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            let taken = batch.iter().position(refused).unwrap_or(batch.len());
            (0..taken).for_each(|_| faults::step("kafka.produce"));
            batch = &mut batch[taken..];
            if let Some(first) = batch.first() {
                // A full queue takes none of those behind the first either: they keep their order.
                self.wait_for_room(topic, partition, RDKafkaErrorCode::from(first.err), patience)?;
            }
        }
        Ok(())
    }

    fn send_with_headers(
        &mut self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        headers: OwnedHeaders,
    ) -> Result<()> {
        let patience = Instant::now();
        loop {
            let mut record =
                BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value).headers(headers.clone());
            record.key = key;
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, _)) => {
                    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                    self.wait_for_room(topic, partition, code, patience)?;
                }
            }
        }
    }

    fn wait_for_room(&self, topic: &str, partition: i32, code: RDKafkaErrorCode, since: Instant) -> Result<()> {
        if code == RDKafkaErrorCode::State {
            // The transaction has failed already: the delivery that failed first says why.
            self.drain(FAILURE_TIMEOUT)?;
        }
        if code != RDKafkaErrorCode::QueueFull || since.elapsed() > DELIVERY_TIMEOUT {
            let fault = Fault::environment(format!("{topic}/{partition} takes no messages: {code}"));
            return Err(judged(fault, Some(code)));
        }
        self.producer.poll(Duration::from_millis(5));
        self.failed()
    }

    fn topic(&mut self, topic: &str) -> Result<*mut sys::rd_kafka_topic_t> {
        if let Some((_, handle)) = self.topics.iter().find(|(name, _)| name == topic) {
            return Ok(*handle);
        }
        let name = CString::new(topic).map_err(|_| Fault::misuse(format!("the topic {topic:?} holds a zero byte")))?;
        // SAFETY: the client is live; a null configuration means the client's own.
        let handle = unsafe {
            sys::rd_kafka_topic_new(self.producer.client().native_ptr(), name.as_ptr(), std::ptr::null_mut())
        };
        if handle.is_null() {
            return Err(Fault::environment(format!("the topic \"{topic}\" can't be written to")));
        }
        self.topics.push((topic.to_string(), handle));
        Ok(handle)
    }

    /// After an end of a transaction: true where a request for it may still be on its way. The log that tells
    /// comes through the client's queue, ahead of the answer: it is there, and has to be fetched. `unheard`: what a
    /// log that says nothing means.
    fn an_end_is_at_large(&self, unheard: bool) -> bool {
        let ends = &self.producer.context().ends;
        let deadline = Instant::now() + HEARING_MAX;
        while !ends.any_answered() && Instant::now() < deadline {
            self.producer.poll(Duration::from_millis(1));
        }
        ends.any_lost() || unheard && !ends.any_answered()
    }

    /// Aborts the open transaction; not for long: a producer that is made anew aborts it as well.
    fn abort(&mut self) -> Result<(), KafkaError> {
        // An abort while the first message is under way can break the producer: let it land, if it does soon.
        if self.drain(Duration::from_secs(5)).is_err() {
            self.producer.purge(PurgeConfig::default().queue().inflight());
            let _ = self.drain(CALL_TIMEOUT);
        }
        let done = retried(CALL_TIMEOUT, || {
            self.producer.poll(Duration::ZERO);
            self.producer.abort_transaction(CALL_TIMEOUT)
        });
        self.forget_failed();
        done
    }

    /// Waits until nothing is under way.
    fn drain(&self, wait: Duration) -> Result<()> {
        let deadline = Instant::now() + wait;
        let native = self.producer.client().native_ptr();
        loop {
            // SAFETY: the client is live.
            let done = unsafe { sys::rd_kafka_flush(native, 10) };
            self.producer.poll(Duration::ZERO);
            self.failed()?;
            if done == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Fault::environment("the broker doesn't acknowledge what was sent to it"));
            }
        }
    }

    fn failed(&self) -> Result<()> {
        match &*self.producer.context().failed.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some((failed, code)) => {
                Err(judged(Fault::environment(format!("a message was not taken by the broker: {failed}")), *code))
            }
        }
    }

    fn forget_failed(&self) {
        *self.producer.context().failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn connect(options: &KafkaOptions) -> Result<Client> {
    let id = options.transactional_id();
    let patience = transaction_timeout(options);
    let timeout = patience.as_millis().to_string();
    let mut own = vec![
        ("enable.idempotence", "true"),
        ("delivery.report.only.error", "true"),
        ("linger.ms", "5"),
        ("batch.size", "900000"),
        ("queue.buffering.max.messages", "1000000"),
        ("queue.buffering.max.kbytes", "65536"),
        ("retry.backoff.ms", "10"),
        ("message.timeout.ms", "300000"),
    ];
    if options.exactly_once {
        own.extend([
            ("transactional.id", id.as_str()),
            ("transaction.timeout.ms", timeout.as_str()),
            ("message.timeout.ms", timeout.as_str()),
        ]);
    }
    let mut config = config(&options.client_properties(&own)?);
    if options.exactly_once {
        let debug = config.get("debug").map(|own| format!("{own},{}", at_large::DEBUG_CONTEXT));
        config.set("debug", debug.as_deref().unwrap_or(at_large::DEBUG_CONTEXT));
        config.set_log_level(RDKafkaLogLevel::Debug);
    }
    let producer: BaseProducer<Deliveries> =
        config.create_with_context(Deliveries::default()).map_err(|error| refused(&error))?;
    if options.exactly_once {
        faults::step("kafka.init");
        retried(patience, || producer.init_transactions(BROKER_TIMEOUT.min(patience))).map_err(|e| {
            match e.rdkafka_error_code() {
                Some(RDKafkaErrorCode::TransactionalIdAuthorizationFailed) => {
                    refusal(options, Resource::TransactionalId, &id, "Write")
                }
                _ => Fault::environment(format!("the lane's transactions could not be opened: {e}")),
            }
        })?;
        faults::step("kafka.initialised");
    }
    Ok(Client { producer, topics: Vec::new(), batches: Vec::new() })
}

/// What to do about a message that is refused for its length.
fn judged(fault: Fault, code: Option<RDKafkaErrorCode>) -> Fault {
    match code {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => too_large(fault),
        _ => fault,
    }
}

/// After this time the broker aborts what was not committed: no use to try for longer.
fn transaction_timeout(options: &KafkaOptions) -> Duration {
    let own = options.property(&["transaction.timeout.ms"]).and_then(|value| value.parse().ok());
    Duration::from_millis(own.unwrap_or(TRANSACTION_TIMEOUT_MS))
}

/// The same call again, as long as the library says that this may help.
fn retried(most: Duration, mut call: impl FnMut() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let deadline = Instant::now() + most;
    loop {
        match call() {
            Err(KafkaError::Transaction(error))
                if error.is_retriable()
                    && !error.is_fatal()
                    && !error.txn_requires_abort()
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// The fault of a client that could not be made.
pub(crate) fn refused(error: &KafkaError) -> Fault {
    match error {
        KafkaError::ClientConfig(_, text, key, _) => Fault::misuse(format!("source.kafka.\"{key}\": {text}")),
        other => Fault::misuse(format!("source.kafka: {other}")),
    }
}
