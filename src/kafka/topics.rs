//! Topics: how many partitions they have, and the making of those that are missing.

use super::client::{Membership, NewTopic, NextOffset, TopicShape};
use super::trouble::{Resource, refusal};
use super::{BROKER_TIMEOUT, KafkaOptions};
use crate::clock::Clock;
use crate::error::{Fault, Result};
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// The topic's shape; makes it where it is missing.
///
/// # Errors
/// Environment, where the broker doesn't answer or refuses to make it.
pub fn ensure(group: &dyn Membership, clock: &Clock, new: &NewTopic<'_>) -> Result<TopicShape> {
    let topic = new.topic;
    if let Some(shape) = group.shape(topic)? {
        return Ok(shape);
    }
    group.make_topic(new)?;
    let deadline = clock.now() + BROKER_TIMEOUT;
    loop {
        match group.shape(topic)? {
            Some(shape) => return Ok(shape),
            None if clock.now() > deadline => {
                return Err(Fault::environment(format!("topic \"{topic}\" was made, and still isn't there")));
            }
            None => clock.sleep(Duration::from_millis(20)),
        }
    }
}

/// Makes the journal's topic where it is missing, a partition a lane, kept for ever but for what lanes trim.
///
/// # Errors
/// Misuse, where it has another number of lanes. As for [`ensure`].
pub fn ensure_journal(group: &dyn Membership, clock: &Clock, options: &KafkaOptions) -> Result<()> {
    let topic = options.journal_topic();
    let config = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
    let new = NewTopic { topic: &topic, partitions: options.lanes as i32, replication: -1, config: &config };
    let shape = ensure(group, clock, &new)?;
    if shape.partitions as u32 != options.lanes {
        return Err(Fault::misuse(format!(
            "the journal \"{topic}\" was made for {} lanes, and lanes = {}",
            shape.partitions, options.lanes
        ))
        .hint("the number of lanes belongs to the past of a group: set it back, or use another group"));
    }
    Ok(())
}

/// Makes a topic by the C library's admin client; fine where it exists by now.
pub(super) fn make(options: &KafkaOptions, topic: &NewTopic<'_>) -> Result<()> {
    let name = topic.topic;
    let mut new = rdkafka::admin::NewTopic::new(name, topic.partitions, TopicReplication::Fixed(topic.replication));
    for (key, value) in topic.config {
        new = new.set(key, value);
    }
    let wish = AdminOptions::new().operation_timeout(Some(BROKER_TIMEOUT)).request_timeout(Some(BROKER_TIMEOUT));
    let answers = block_on(admin(options)?.create_topics([&new], &wish))
        .map_err(|e| Fault::environment(format!("topic \"{name}\" could not be made: {e}")))?;
    for answer in answers {
        match answer {
            Ok(_) => tracing::info!(target: "millstream::kafka", "made the topic \"{name}\""),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                return Err(refusal(options, Resource::Topic, name, "Create"));
            }
            // Some are away, or there never were as many: the next start of the lane tells.
            Err((_, code @ RDKafkaErrorCode::InvalidReplicationFactor)) => {
                return Err(Fault::environment(format!("topic \"{name}\" could not be made: {code}"))
                    .hint("it wants more replicas than brokers are up: start those that are away, or lower default.replication.factor, or make it yourself"));
            }
            Err((_, code)) => {
                return Err(Fault::environment(format!("topic \"{name}\" could not be made: {code}"))
                    .hint("make it yourself, or allow this client to create topics")
                    .lasting());
            }
        }
    }
    Ok(())
}

/// Offsets in the library's form.
pub(super) fn offset_list(offsets: &[NextOffset]) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for NextOffset { topic, partition, offset } in offsets {
        list.add_partition_offset(topic, *partition, rdkafka::Offset::Offset(*offset as i64))
            .map_err(|e| Fault::internal(format!("{topic}/{partition}: {e}")))?;
    }
    Ok(list)
}

/// Removes the records of a partition below `offset`.
///
/// # Errors
/// Environment, where the broker doesn't answer or refuses.
pub(super) fn delete_before(options: &KafkaOptions, topic: &str, partition: i32, offset: u64) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Fault::environment(format!("{topic}/{partition} could not be trimmed: {e}"));
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset as i64)).map_err(|e| fail(&e))?;
    let wish = AdminOptions::new().operation_timeout(Some(BROKER_TIMEOUT));
    let answer = block_on(admin(options)?.delete_records(&list, &wish)).map_err(|e| fail(&e))?;
    for element in answer.elements() {
        if element.error().err().and_then(|e| e.rdkafka_error_code())
            == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
        {
            return Err(refusal(options, Resource::Topic, topic, "Delete"));
        }
        element.error().map_err(|e| fail(&e))?;
    }
    Ok(())
}

fn admin(options: &KafkaOptions) -> Result<AdminClient<DefaultClientContext>> {
    config(&options.client_properties(&[])?).create().map_err(|e| super::producer::refused(&e))
}

/// The wrapper's form of a list of properties.
pub(crate) fn config(properties: &[(String, String)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (key, value) in properties {
        config.set(key, value);
    }
    config
}

/// Runs a future of the admin client on this thread (it is woken by the client's own).
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
