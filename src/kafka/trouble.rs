//! What stands between this daemon and its brokers, in words that say what to do: connections that fail, and what
//! brokers refuse. A refusal names the resource, the operation and the grant that it lacks.

use super::KafkaOptions;
use super::group::KafkaGroup;
use crate::error::{Fault, Result};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_int};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The last thing that a client said about its connections.
#[derive(Debug, Default)]
pub(crate) struct Trouble(Mutex<Option<(RDKafkaErrorCode, String)>>);

impl Trouble {
    /// The one of these brokers: a membership that is made anew must not forget why the last one failed.
    pub fn with(brokers: &str) -> Arc<Trouble> {
        static KNOWN: OnceLock<Mutex<HashMap<String, Arc<Trouble>>>> = OnceLock::new();
        let mut known = KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(brokers.to_string()).or_default().clone()
    }

    /// Keeps what the library only logs: a connection that was closed without a word.
    pub fn note_log(&self, facility: &str, line: &str) {
        if facility == "FAIL" {
            let reason = line.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(line, |(_, r)| r);
            self.note(Some(RDKafkaErrorCode::BrokerTransportFailure), reason);
        }
    }

    /// Keeps an error of a client's own. That no broker is left is a consequence, never the cause.
    pub fn note(&self, code: Option<RDKafkaErrorCode>, reason: &str) {
        use RDKafkaErrorCode::{AllBrokersDown, Authentication, SSL};
        let Some(code) = code.filter(|code| *code != AllBrokersDown) else { return };
        // How long it took, and how often it was said, is no part of the cause.
        let reason = reason.split(" (after ").next().unwrap_or(reason);
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = last.as_ref().is_some_and(|(code, _)| matches!(code, SSL | Authentication));
        if !known || matches!(code, SSL | Authentication) {
            *last = Some((code, reason.trim_end_matches(['.', ' ']).to_string()));
        }
    }

    /// A broker has answered.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The fault of a broker that doesn't answer.
    pub fn fault(&self, brokers: &str, otherwise: &str) -> Fault {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            None => Fault::environment(format!("no broker answers at {brokers}: {otherwise}")).hint(CLOSED),
            Some((code, reason)) => {
                Fault::environment(format!("no broker answers at {brokers}: {reason}")).hint(advice(*code, reason))
            }
        }
    }
}

/// What to do about a connection that comes about and ends without a reason.
const CLOSED: &str = "is it up, is source.brokers right? A listener that wants TLS or a log-in closes connections without a word: set \"security.protocol\" in [source.kafka] (SSL, SASL_SSL, SASL_PLAINTEXT)";

/// What to do about a connection that fails.
fn advice(code: RDKafkaErrorCode, reason: &str) -> &'static str {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    if says(&["certificate required", "bad certificate", "handshake failure", "unknown ca"]) {
        "the broker wants a certificate of this client that it trusts: set \"ssl.certificate.location\" and \"ssl.key.location\" in [source.kafka]"
    } else if says(&["certificate verify failed", "could not be verified"]) {
        "put the CA that signed the broker's certificate into the file of \"ssl.ca.location\" in [source.kafka], and name the broker in source.brokers as its certificate does"
    } else if says(&["PLAINTEXT broker listener", "wrong version number", "packet length too long"]) {
        "the listener at that port speaks no TLS: take the broker's TLS port, or another \"security.protocol\" in [source.kafka]"
    } else if says(&["SSL listener", "security.protocol"]) {
        "the listener at that port speaks another protocol: set \"security.protocol\" in [source.kafka] to SSL or SASL_SSL, or take another port"
    } else if code == RDKafkaErrorCode::Authentication {
        "the broker refuses the log-in: check \"sasl.username\", \"sasl.password\" and \"sasl.mechanism\" in [source.kafka], and that the listener asks for SASL"
    } else if code == RDKafkaErrorCode::SSL {
        "check the \"ssl.…\" properties in [source.kafka]"
    } else if code == RDKafkaErrorCode::BrokerTransportFailure && !says(&["Connect to"]) {
        CLOSED
    } else {
        "is it up, is source.brokers right, does a firewall stand between?"
    }
}

/// What a client may be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// A topic.
    Topic,
    /// A consumer group.
    Group,
    /// The name of a lane's producer.
    TransactionalId,
}

/// The fault of a client that lacks a grant.
pub(crate) fn refusal(options: &KafkaOptions, resource: Resource, name: &str, operation: &str) -> Fault {
    let user = options.property(&["sasl.username"]);
    let (kind, option) = match resource {
        Resource::Topic => ("topic", "topic"),
        Resource::Group => ("group", "group"),
        Resource::TransactionalId => ("transactional id", "transactional-id"),
    };
    let all: String = grants(options, resource, name, operation).iter().map(|o| format!(" --operation {o}")).collect();
    let who = user.map_or("this client".to_string(), |user| format!("the user \"{user}\""));
    Fault::environment(format!("the broker doesn't allow {who} {operation} on the {kind} \"{name}\""))
        .hint(format!(
            "grant it: kafka-acls --add --allow-principal User:{}{all} --{option} {name} (docs/operations.md, Permissions, lists all)",
            user.unwrap_or("NAME")
        ))
        .lasting()
}

/// What to do about a message that is refused for its length.
pub(crate) fn too_large(fault: Fault) -> Fault {
    fault
        .hint("raise max.message.bytes of the topic, and \"message.max.bytes\" in [source.kafka] with it; for the journal, a lower engine.commit_events_max helps too")
        .lasting()
}

/// What the daemon needs on a resource.
fn grants<'o>(options: &KafkaOptions, resource: Resource, name: &str, operation: &'o str) -> Vec<&'o str> {
    let is = |topic: &Option<String>| topic.as_deref() == Some(name);
    match resource {
        Resource::Topic if name == options.journal_topic() => vec!["Read", "Write", "Create", "Delete"],
        Resource::Topic if is(&options.sink_topic) || is(&options.dead_letters) => vec!["Write", "Create"],
        _ => vec![operation],
    }
}

/// What must at least be allowed on a topic whose name alone is refused.
pub(crate) fn least(options: &KafkaOptions, topic: &str) -> &'static str {
    let read = topic == options.journal_topic() || options.topics.iter().any(|input| input == topic);
    if read { "Read" } else { "Write" }
}

/// Fails where the broker says that one of the topics may not be read or written as the lane has to. A broker that
/// doesn't say (none before 2.3 does) is believed.
///
/// # Errors
/// Environment, naming topic and operation.
pub(crate) fn check_topics(group: &KafkaGroup, options: &KafkaOptions, wait: Duration) -> Result<()> {
    use sys::rd_kafka_AclOperation_t::{RD_KAFKA_ACL_OPERATION_READ as READ, RD_KAFKA_ACL_OPERATION_WRITE as WRITE};
    let mut needs: Vec<(String, Vec<(sys::rd_kafka_AclOperation_t, &str)>)> =
        options.topics.iter().map(|topic| (topic.clone(), vec![(READ, "Read")])).collect();
    needs.push((options.journal_topic(), vec![(READ, "Read"), (WRITE, "Write")]));
    needs.extend(
        [&options.sink_topic, &options.dead_letters]
            .into_iter()
            .flatten()
            .map(|topic| (topic.clone(), vec![(WRITE, "Write")])),
    );
    let names: Vec<&str> = needs.iter().map(|(topic, _)| topic.as_str()).collect();
    let Some(allowed) = allowed(group, &names, wait)? else { return Ok(()) };
    for ((topic, operations), allowed) in needs.iter().zip(&allowed) {
        let Some(allowed) = allowed else { continue };
        for (operation, name) in operations {
            if !allowed.contains(operation) {
                return Err(refusal(options, Resource::Topic, topic, name));
            }
        }
    }
    Ok(())
}

/// What this client may do with each topic, as far as the broker tells.
type Allowed = Vec<Option<Vec<sys::rd_kafka_AclOperation_t>>>;

fn allowed(group: &KafkaGroup, topics: &[&str], wait: Duration) -> Result<Option<Allowed>> {
    let names: Vec<CString> = topics.iter().filter_map(|topic| CString::new(*topic).ok()).collect();
    let mut pointers: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
    if pointers.len() != topics.len() {
        return Err(Fault::misuse("a topic's name holds a zero byte"));
    }
    let client = group.native();
    // SAFETY: the client outlives the call; every object made here is destroyed once, after its last use; names and
    // answers live until then.
    unsafe {
        let queue = sys::rd_kafka_queue_new(client);
        let wish = sys::rd_kafka_AdminOptions_new(client, sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let none = sys::rd_kafka_AdminOptions_set_include_authorized_operations(wish, 1);
        if !none.is_null() {
            sys::rd_kafka_error_destroy(none);
        }
        let millis = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        let mut text = [0; 64];
        sys::rd_kafka_AdminOptions_set_request_timeout(wish, millis.max(1), text.as_mut_ptr(), text.len());
        let asked = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        sys::rd_kafka_DescribeTopics(client, asked, wish, queue);
        let event = sys::rd_kafka_queue_poll(queue, millis);
        let read = if event.is_null() { None } else { read_allowed(event, &names) };
        if !event.is_null() {
            sys::rd_kafka_event_destroy(event);
        }
        sys::rd_kafka_TopicCollection_destroy(asked);
        sys::rd_kafka_AdminOptions_destroy(wish);
        sys::rd_kafka_queue_destroy(queue);
        Ok(read)
    }
}

/// # Safety
/// The event must be live.
unsafe fn read_allowed(event: *mut sys::rd_kafka_event_t, names: &[CString]) -> Option<Allowed> {
    let mut all: Allowed = names.iter().map(|_| None).collect();
    // SAFETY: results belong to the event; counts are those that the library gives with each list.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() || sys::rd_kafka_event_error(event) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return None;
        }
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        for at in 0..count {
            let topic = *topics.add(at);
            let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic));
            let Some(place) = names.iter().position(|known| known.as_c_str() == name) else { continue };
            let error = sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic));
            if error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED {
                all[place] = Some(Vec::new());
                continue;
            }
            let mut length = 0;
            let operations = sys::rd_kafka_TopicDescription_authorized_operations(topic, &mut length);
            if error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR && !operations.is_null() {
                all[place] = Some(std::slice::from_raw_parts(operations, length).to_vec());
            }
        }
    }
    Some(all)
}
