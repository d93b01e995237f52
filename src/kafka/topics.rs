//! Topics: how many partitions they have, and the making of those that are missing.

use super::group::KafkaGroup;
use super::trouble::{Resource, refusal};
use super::{BROKER_TIMEOUT, KafkaOptions};
use crate::error::{Fault, Result};
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// What a topic looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicShape {
    /// Its name.
    pub topic: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Replicas a partition.
    pub replication: i32,
}

/// The topic's shape; makes it where it is missing. −1 partitions or replicas: as the broker likes.
///
/// # Errors
/// Environment, where the broker doesn't answer or refuses to make it.
pub fn ensure(
    group: &KafkaGroup,
    options: &KafkaOptions,
    topic: &str,
    partitions: i32,
    replication: i32,
    config: &[(&str, &str)],
) -> Result<TopicShape> {
    if let Some(shape) = group.shape(topic)? {
        return Ok(shape);
    }
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
    for (key, value) in config {
        new = new.set(key, value);
    }
    let admin = admin(options)?;
    let wish = AdminOptions::new().operation_timeout(Some(BROKER_TIMEOUT)).request_timeout(Some(BROKER_TIMEOUT));
    let answers = block_on(admin.create_topics([&new], &wish))
        .map_err(|e| Fault::environment(format!("topic \"{topic}\" could not be made: {e}")))?;
    for answer in answers {
        match answer {
            Ok(_) => tracing::info!(target: "millstream::kafka", "made the topic \"{topic}\""),
            Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed)) => {
                return Err(refusal(options, Resource::Topic, topic, "Create"));
            }
            Err((_, code)) => {
                return Err(Fault::environment(format!("topic \"{topic}\" could not be made: {code}"))
                    .hint("make it yourself, or allow this client to create topics")
                    .lasting());
            }
        }
    }
    let deadline = Instant::now() + BROKER_TIMEOUT;
    loop {
        match group.shape(topic)? {
            Some(shape) => return Ok(shape),
            None if Instant::now() > deadline => {
                return Err(Fault::environment(format!("topic \"{topic}\" was made, and still isn't there")));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Removes the records of a partition below `offset`.
///
/// # Errors
/// Environment, where the broker doesn't answer or refuses.
pub fn delete_before(options: &KafkaOptions, topic: &str, partition: i32, offset: i64) -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Fault::environment(format!("{topic}/{partition} could not be trimmed: {e}"));
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, rdkafka::Offset::Offset(offset)).map_err(|e| fail(&e))?;
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
