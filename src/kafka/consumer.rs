//! A thin consumer over the C library: messages in batches, no rebalances, no copy but the caller's.
//!
//! The wrapper's consumer hands out one message a call, each with a clock read and a reference count; here a
//! queue is drained by the hundreds. Invariants that make the unsafe code sound: a [`Queue`] keeps its client
//! alive; the messages a queue holds are destroyed before the queue and the client; a [`Message`] borrows the
//! queue, so that it can't outlive its bytes.

use super::group::log_line;
use crate::error::{Fault, Result};
use rdkafka::TopicPartitionList;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

/// Most messages taken from the library at once.
const TAKE_MESSAGES_MAX: usize = 1_024;

/// Owner of the C client.
struct Handle(*mut sys::rd_kafka_t);

// The C client is thread safe throughout.
unsafe impl Send for Handle {}
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        let client = Orphan(self.0);
        super::close::within_bound("consumer", move || client.destroy());
    }
}

/// A C client without an owner, on its way to its end.
struct Orphan(*mut sys::rd_kafka_t);

// As for `Handle`.
unsafe impl Send for Orphan {}

impl Orphan {
    fn destroy(self) {
        // It never joined its group and has nothing to commit: nothing is left to say to a broker.
        let flags = sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE as c_int;
        // SAFETY: made by rd_kafka_new, and nothing refers to it any more: queues hold an Arc of the handle.
        unsafe { sys::rd_kafka_destroy_flags(self.0, flags) };
    }
}

/// A consumer that is assigned its partitions by hand.
pub struct Consumer {
    handle: Arc<Handle>,
}

unsafe extern "C" fn on_log(_: *const sys::rd_kafka_t, level: c_int, _: *const c_char, line: *const c_char) {
    // SAFETY: the library passes a terminated string that lives for the call.
    let line = unsafe { CStr::from_ptr(line) };
    log_line(level, &line.to_string_lossy());
}

unsafe extern "C" fn on_error(_: *mut sys::rd_kafka_t, _: c_int, reason: *const c_char, _: *mut c_void) {
    // SAFETY: as above.
    let reason = unsafe { CStr::from_ptr(reason) };
    tracing::debug!(target: "millstream::kafka", "{}", reason.to_string_lossy());
}

impl Consumer {
    /// A client with the given properties.
    ///
    /// # Errors
    /// Misuse, naming a property that the library refuses.
    pub fn new(properties: &[(String, String)]) -> Result<Consumer> {
        let mut text = [0 as c_char; 512];
        // SAFETY: `conf` is ours until rd_kafka_new takes it; on failure it is destroyed here. `text` is as long
        // as the library is told.
        unsafe {
            let conf = sys::rd_kafka_conf_new();
            for (key, value) in properties {
                let (Ok(name), Ok(setting)) = (CString::new(key.as_str()), CString::new(value.as_str())) else {
                    sys::rd_kafka_conf_destroy(conf);
                    return Err(Fault::misuse(format!("source.kafka.\"{key}\" holds a zero byte")));
                };
                let done = sys::rd_kafka_conf_set(conf, name.as_ptr(), setting.as_ptr(), text.as_mut_ptr(), text.len());
                if done != sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                    sys::rd_kafka_conf_destroy(conf);
                    return Err(Fault::misuse(format!("source.kafka.\"{key}\": {}", words(&text))));
                }
            }
            sys::rd_kafka_conf_set_log_cb(conf, Some(on_log));
            sys::rd_kafka_conf_set_error_cb(conf, Some(on_error));
            let kind = sys::rd_kafka_type_t::RD_KAFKA_CONSUMER;
            let client = sys::rd_kafka_new(kind, conf, text.as_mut_ptr(), text.len());
            if client.is_null() {
                sys::rd_kafka_conf_destroy(conf);
                return Err(Fault::misuse(format!("source.kafka: {}", words(&text))));
            }
            sys::rd_kafka_poll_set_consumer(client);
            Ok(Consumer { handle: Arc::new(Handle(client)) })
        }
    }

    /// Replaces the assignment.
    ///
    /// # Errors
    /// Environment.
    pub fn assign(&self, list: &TopicPartitionList) -> Result<()> {
        // SAFETY: both pointers are live; the library copies the list.
        let code = unsafe { sys::rd_kafka_assign(self.handle.0, list.ptr()) };
        check(code, "assign")
    }

    /// Adds partitions to the assignment.
    ///
    /// # Errors
    /// Environment.
    pub fn assign_more(&self, list: &TopicPartitionList) -> Result<()> {
        // SAFETY: as for `assign`; the error object is ours to destroy.
        unsafe {
            let error = sys::rd_kafka_incremental_assign(self.handle.0, list.ptr());
            if error.is_null() {
                return Ok(());
            }
            let fault = Fault::environment(format!(
                "partitions could not be assigned: {}",
                CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy()
            ));
            sys::rd_kafka_error_destroy(error);
            Err(fault)
        }
    }

    /// Moves partitions that are assigned to other offsets; what was fetched before is dropped.
    ///
    /// # Errors
    /// Environment.
    pub fn seek(&self, list: &TopicPartitionList, wait: Duration) -> Result<()> {
        // SAFETY: as for `assign_more`.
        unsafe {
            let error = sys::rd_kafka_seek_partitions(self.handle.0, list.ptr(), millis(wait));
            if !error.is_null() {
                let text = CStr::from_ptr(sys::rd_kafka_error_string(error)).to_string_lossy().into_owned();
                sys::rd_kafka_error_destroy(error);
                return Err(Fault::environment(format!("seek: {text}")));
            }
        }
        list.elements().iter().try_for_each(|e| e.error()).map_err(|e| Fault::environment(format!("seek: {e}")))
    }

    /// The oldest offset that a partition holds, and the one past its newest, asked of the broker.
    ///
    /// # Errors
    /// Environment.
    pub fn watermarks(&self, topic: &str, partition: i32, wait: Duration) -> Result<(i64, i64)> {
        let (mut low, mut high) = (0, 0);
        let name = c_name(topic)?;
        // SAFETY: the out-pointers live for the call.
        let code = unsafe {
            sys::rd_kafka_query_watermark_offsets(
                self.handle.0,
                name.as_ptr(),
                partition,
                &mut low,
                &mut high,
                millis(wait),
            )
        };
        check(code, &format!("the offsets of {topic}/{partition} could not be asked for"))?;
        Ok((low, high))
    }

    /// One past the newest offset of a partition, as the last fetch told.
    pub fn high_seen(&self, topic: &CStr, partition: i32) -> Option<u64> {
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the out-pointers live for the call.
        let code = unsafe {
            sys::rd_kafka_get_watermark_offsets(self.handle.0, topic.as_ptr(), partition, &mut low, &mut high)
        };
        (code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high as u64)
    }

    /// Fills a list with the offsets that the group has committed.
    ///
    /// # Errors
    /// Environment.
    pub fn committed(&self, list: &mut TopicPartitionList, wait: Duration) -> Result<()> {
        // SAFETY: both pointers are live.
        let code = unsafe { sys::rd_kafka_committed(self.handle.0, list.ptr(), millis(wait)) };
        check(code, "the group's offsets could not be read")
    }

    /// The queue of all assigned partitions that have no queue of their own.
    pub fn queue(&self) -> Queue {
        // SAFETY: the handle is live; the queue's reference is released by Queue's drop.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(self.handle.0) };
        Queue::new(Arc::clone(&self.handle), queue)
    }

    /// A queue of one partition. To be taken before the partition is assigned, or its first messages go to the
    /// common queue.
    ///
    /// # Errors
    /// Environment, where the partition has no queue.
    pub fn partition_queue(&self, topic: &str, partition: i32) -> Result<Queue> {
        let name = c_name(topic)?;
        // SAFETY: as for `queue`; forwarding to null makes the queue the caller's.
        let queue = unsafe { sys::rd_kafka_queue_get_partition(self.handle.0, name.as_ptr(), partition) };
        if queue.is_null() {
            return Err(Fault::environment(format!("{topic}/{partition} has no queue")));
        }
        unsafe { sys::rd_kafka_queue_forward(queue, std::ptr::null_mut()) };
        Ok(Queue::new(Arc::clone(&self.handle), queue))
    }

    /// Serves the client's own events (logs, errors) where all partitions have queues of their own.
    pub fn serve(&self) {
        // SAFETY: the handle is live. A message here would belong to no partition queue; it is given back.
        unsafe {
            let message = sys::rd_kafka_consumer_poll(self.handle.0, 0);
            if !message.is_null() {
                sys::rd_kafka_message_destroy(message);
            }
        }
    }
}

/// How a group consumer stands in its group; `None` where it is no member.
pub(super) fn membership(client: *mut sys::rd_kafka_t) -> Option<super::direct::Membership> {
    // SAFETY: the caller's client is live; the object is ours to destroy, and its strings are copied before that.
    unsafe {
        let metadata = sys::rd_kafka_consumer_group_metadata(client);
        if metadata.is_null() {
            return None;
        }
        let text = |text: *const c_char| match text.is_null() {
            true => None,
            false => Some(CStr::from_ptr(text).to_string_lossy().into_owned()),
        };
        let membership = super::direct::Membership {
            group: text(sys::rd_kafka_consumer_group_metadata_group_id(metadata)).unwrap_or_default(),
            generation: sys::rd_kafka_consumer_group_metadata_generation_id(metadata),
            member: text(sys::rd_kafka_consumer_group_metadata_member_id(metadata)).unwrap_or_default(),
            instance: text(sys::rd_kafka_consumer_group_metadata_group_instance_id(metadata)).filter(|i| !i.is_empty()),
        };
        sys::rd_kafka_consumer_group_metadata_destroy(metadata);
        Some(membership)
    }
}

/// Messages of a client, in order, taken in batches.
pub struct Queue {
    queue: *mut sys::rd_kafka_queue_t,
    taken: Vec<*mut sys::rd_kafka_message_t>,
    next: usize,
    // Last: the client goes after everything that it made.
    _handle: Arc<Handle>,
}

// The C queue is thread safe, and the messages are only reached through `&mut self`.
unsafe impl Send for Queue {}

impl Queue {
    fn new(handle: Arc<Handle>, queue: *mut sys::rd_kafka_queue_t) -> Queue {
        Queue { queue, taken: Vec::with_capacity(TAKE_MESSAGES_MAX), next: 0, _handle: handle }
    }

    /// The next message; waits for it at most `wait`, and never to have more.
    pub fn peek(&mut self, wait: Duration) -> Option<Message<'_>> {
        if self.next == self.taken.len() {
            self.release();
            // With room for more than one message the library would wait to fill it: so one, then what is there.
            if self.take(1, wait) == 1 {
                self.take(TAKE_MESSAGES_MAX - 1, Duration::ZERO);
            }
        }
        let message = *self.taken.get(self.next)?;
        // SAFETY: not null (the library fills as many as it says), and destroyed only by `release`, with `&mut self`.
        Some(Message { message: unsafe { &mut *message }, _queue: PhantomData })
    }

    /// Goes past the message that `peek` showed.
    pub fn advance(&mut self) {
        self.next += 1;
    }

    /// Drops what was taken and not read.
    pub fn discard(&mut self) {
        self.release();
    }

    fn take(&mut self, most: usize, wait: Duration) -> usize {
        let held = self.taken.len();
        // SAFETY: the vector has room for TAKE_MESSAGES_MAX pointers from its start, and at most that many are
        // asked for in all; as many are set as the call returns.
        unsafe {
            let room = self.taken.as_mut_ptr().add(held);
            let got = sys::rd_kafka_consume_batch_queue(self.queue, millis(wait), room, most);
            let got = usize::try_from(got).unwrap_or(0);
            self.taken.set_len(held + got);
            got
        }
    }

    fn release(&mut self) {
        for message in self.taken.drain(..) {
            // SAFETY: given to us by the library, and destroyed once.
            unsafe { sys::rd_kafka_message_destroy(message) };
        }
        self.next = 0;
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.release();
        // SAFETY: the reference is ours.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) };
    }
}

/// A message, or an error in its place.
pub struct Message<'a> {
    message: &'a mut sys::rd_kafka_message_t,
    _queue: PhantomData<&'a mut Queue>,
}

impl Message<'_> {
    /// What stands in the message's place, where it isn't one.
    pub fn error(&self) -> Option<RDKafkaErrorCode> {
        let code = self.message.err;
        (code != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| code.into())
    }
    /// The error in words.
    pub fn error_text(&self) -> String {
        // SAFETY: an error's payload is its text; rd_kafka_message_errstr picks that or the code's own words.
        let text = unsafe { sys::rd_kafka_message_errstr(self.message) };
        if text.is_null() {
            return String::new();
        }
        // SAFETY: terminated, and lives as long as the message.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }
    /// Its offset.
    pub fn offset(&self) -> i64 {
        self.message.offset
    }
    /// Its value; empty for none.
    pub fn value(&self) -> &[u8] {
        part(self.message.payload, self.message.len).unwrap_or(&[])
    }
    /// Its key.
    pub fn key(&self) -> Option<&[u8]> {
        part(self.message.key, self.message.key_len)
    }
    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.message.partition
    }
    /// Identity of its topic: the same number for all messages of a topic, while the client lives.
    pub fn topic_id(&self) -> usize {
        self.message.rkt as usize
    }
    /// Name of its topic; empty for errors of no topic.
    pub fn topic(&self) -> &str {
        if self.message.rkt.is_null() {
            return "";
        }
        // SAFETY: the topic lives as long as the message, its name is terminated (and ASCII, by Kafka's rules).
        unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(self.message.rkt)) }.to_str().unwrap_or("")
    }
    /// Offers it to a filling; false where it isn't taken.
    #[inline]
    pub fn offer_to(&mut self, into: &mut super::client::Filling<'_>, input: u32) -> bool {
        let (key, value) = (part(self.message.key, self.message.key_len), part(self.message.payload, self.message.len));
        let offset = self.offset() as u64;
        into.offer(input, offset, key, value.unwrap_or(&[]), |run| self.write_headers(run))
    }
    /// Writes its headers as [`super::headers`] has them; false where it has none.
    fn write_headers(&mut self, run: &mut Vec<u8>) -> bool {
        let mut list = std::ptr::null_mut();
        let ok = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        // SAFETY: the list and what it shows live as long as the message; the out-pointers for the call.
        unsafe {
            if sys::rd_kafka_message_headers(self.message, &mut list) != ok {
                return false;
            }
            let (mut name, mut value, mut len) = (std::ptr::null(), std::ptr::null(), 0);
            for index in 0.. {
                if sys::rd_kafka_header_get_all(list, index, &mut name, &mut value, &mut len) != ok {
                    return index > 0;
                }
                super::headers::push(run, CStr::from_ptr(name).to_bytes(), part(value, len));
            }
        }
        false
    }
}

fn part<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the library's pointer and length belong together, and callers tie the result to the message.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) })
}

fn millis(wait: Duration) -> c_int {
    c_int::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
}

fn c_name(topic: &str) -> Result<CString> {
    CString::new(topic).map_err(|_| Fault::misuse(format!("the topic {topic:?} holds a zero byte")))
}

fn check(code: sys::rd_kafka_resp_err_t, what: &str) -> Result<()> {
    match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
        code => Err(Fault::environment(format!("{what}: {}", RDKafkaErrorCode::from(code)))),
    }
}

fn words(text: &[c_char]) -> String {
    // SAFETY: the library terminates what it writes, and the buffer was zeroed.
    unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy().into_owned()
}
