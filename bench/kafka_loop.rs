//! The peer of the Kafka workloads: a loop over librdkafka that looks at nothing. It reads in batches, sends an
//! answer of fixed bytes for each message, and commits each interval, in a transaction or without one. It runs
//! as a process of its own (`millstream-bench --kafka-loop`), so that its CPU time is counted like the daemon's.

use crate::broker::{Broker, PARTITIONS, whole};
use crate::machine;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Bytes of an answer: about what a prediction has.
const ANSWER_BYTES: usize = 90;
/// How long a call of the transaction protocol may take.
const CALL: Duration = Duration::from_secs(30);

/// What the loop shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loop {
    /// Brokers.
    pub brokers: String,
    /// From this topic.
    pub from: String,
    /// To that.
    pub to: String,
    /// Ends after so many messages; 0: when its standard input ends.
    pub messages: u64,
    /// Transactions, or plain.
    pub exactly_once: bool,
    /// Milliseconds between two commits.
    pub commit_ms: u64,
}

/// What the loop did.
pub struct Looped {
    /// From the first message taken to the last commit.
    pub seconds: f64,
    /// CPU seconds of the whole process in that time.
    pub cpu_seconds: f64,
}

impl Loop {
    /// As one argument.
    fn text(&self) -> String {
        let Loop { brokers, from, to, messages, exactly_once, commit_ms } = self;
        format!("{brokers} {from} {to} {messages} {exactly_once} {commit_ms}")
    }

    fn parse(text: &str) -> Option<Loop> {
        let mut words = text.split(' ');
        let mut word = || words.next();
        Some(Loop {
            brokers: word()?.into(),
            from: word()?.into(),
            to: word()?.into(),
            messages: word()?.parse().ok()?,
            exactly_once: word()?.parse().ok()?,
            commit_ms: word()?.parse().ok()?,
        })
    }

    /// Starts it as a child, and waits until it is about to read.
    pub fn start(&self) -> Result<Running, String> {
        let here = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut command = Command::new(here);
        command.arg("--kafka-loop").arg(self.text()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("start the loop: {e}"))?;
        let mut says = BufReader::new(child.stdout.take().ok_or("the loop has no output")?);
        let mut line = String::new();
        says.read_line(&mut line).map_err(|e| e.to_string())?;
        match line.trim() {
            "ready" => Ok(Running { child, says }),
            other => Err(format!("the loop said {other:?}")),
        }
    }
}

/// The loop as a child.
pub struct Running {
    child: Child,
    says: BufReader<std::process::ChildStdout>,
}

impl Running {
    /// Waits for its end, or ends it where it has none.
    pub fn finish(mut self) -> Result<Looped, String> {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.says.read_line(&mut line).map_err(|e| e.to_string())?;
        let mut numbers = line.split_whitespace().filter_map(|n| n.parse::<f64>().ok());
        let status = self.child.wait().map_err(|e| e.to_string())?;
        match (numbers.next(), numbers.next(), status.success()) {
            (Some(seconds), Some(cpu_seconds), true) => Ok(Looped { seconds, cpu_seconds }),
            _ => Err(format!("the loop ended with {status}: {line}")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the loop in this process, and prints what it took.
pub fn run(text: &str) -> Result<(), String> {
    let plan = Loop::parse(text).ok_or("--kafka-loop is not for people")?;
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = ended.clone();
    std::thread::spawn(move || {
        // Whoever started the loop closes its input to end it.
        let _ = std::io::stdin().read(&mut [0]);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let broker = Broker::at(&plan.brokers);
    let group = format!("{}-loop", plan.to);
    let reader = broker.batch_reader(&group, &[("isolation.level", "read_committed"), ("fetch.wait.max.ms", "5")])?;
    let producer = producer(&broker, &plan)?;
    // A group to send offsets for, as a consumer that subscribes would have.
    let member: BaseConsumer = broker.client().set("group.id", &group).create().map_err(|e| e.to_string())?;
    reader.assign(&whole(&plan.from)?).map_err(|f| f.message)?;
    println!("ready");
    std::io::stdout().flush().map_err(|e| e.to_string())?;
    let mut queue = reader.queue();
    let mut offsets = [None::<i64>; PARTITIONS as usize];
    let (mut seen, mut last, mut begun) = (0_u64, Instant::now(), None);
    let mut uncommitted = 0_u64;
    let over = || ended.load(std::sync::atomic::Ordering::Relaxed);
    while plan.messages == 0 && !over() || plan.messages > seen {
        if let Some(message) = queue.peek(Duration::from_millis(5)) {
            if let Some(error) = message.error() {
                return Err(format!("{}: {error:?}", plan.from));
            }
            begun.get_or_insert_with(|| (Instant::now(), machine::process_cpu_ns(std::process::id())));
            if uncommitted == 0 && plan.exactly_once {
                producer.begin_transaction().map_err(|e| e.to_string())?;
            }
            let value = message.value();
            let answer = &value[..value.len().min(ANSWER_BYTES)];
            answer_with(&producer, &plan.to, message.partition(), message.key(), answer)?;
            offsets[message.partition() as usize] = Some(message.offset() + 1);
            (seen, uncommitted) = (seen + 1, uncommitted + 1);
            queue.advance();
        }
        let is_due = last.elapsed() >= Duration::from_millis(plan.commit_ms);
        if uncommitted > 0 && (is_due || seen == plan.messages) {
            commit(&producer, &member, &plan, &mut offsets)?;
            (last, uncommitted) = (Instant::now(), 0);
        }
    }
    let (began, cpu) = begun.ok_or("nothing was read")?;
    let cpu = machine::process_cpu_ns(std::process::id()) - cpu;
    println!("{} {}", began.elapsed().as_secs_f64(), cpu as f64 / 1e9);
    Ok(())
}

fn producer(broker: &Broker, plan: &Loop) -> Result<BaseProducer, String> {
    let mut config = broker.client();
    config.set("linger.ms", "5").set("enable.idempotence", "true").set("delivery.report.only.error", "true");
    config.set("queue.buffering.max.messages", "1000000").set("batch.num.messages", "100000");
    if plan.exactly_once {
        config.set("transactional.id", format!("{}-loop", plan.to));
    }
    let producer: BaseProducer = config.create().map_err(|e| e.to_string())?;
    if plan.exactly_once {
        producer.init_transactions(CALL).map_err(|e| e.to_string())?;
    }
    Ok(producer)
}

fn answer_with(
    producer: &BaseProducer,
    to: &str,
    partition: i32,
    key: Option<&[u8]>,
    answer: &[u8],
) -> Result<(), String> {
    let mut record = BaseRecord::<[u8], [u8]>::to(to).partition(partition).payload(answer);
    record.key = key;
    while let Err((error, again)) = producer.send(record) {
        if error.rdkafka_error_code() != Some(rdkafka::error::RDKafkaErrorCode::QueueFull) {
            return Err(error.to_string());
        }
        producer.poll(Duration::from_millis(1));
        record = again;
    }
    Ok(())
}

fn commit(
    producer: &BaseProducer,
    member: &BaseConsumer,
    plan: &Loop,
    offsets: &mut [Option<i64>],
) -> Result<(), String> {
    // SAFETY: the client is live. The wrapper's own flush polls in steps of a tenth of a second.
    unsafe { sys::rd_kafka_flush(producer.client().native_ptr(), CALL.as_millis() as i32) };
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets.iter_mut().enumerate() {
        if let Some(offset) = offset.take() {
            let at = Offset::Offset(offset);
            list.add_partition_offset(&plan.from, partition as i32, at).map_err(|e| e.to_string())?;
        }
    }
    if !plan.exactly_once {
        return member.commit(&list, rdkafka::consumer::CommitMode::Sync).map_err(|e| e.to_string());
    }
    let metadata = member.group_metadata().ok_or("no group")?;
    producer.send_offsets_to_transaction(&list, &metadata, CALL).map_err(|e| e.to_string())?;
    producer.commit_transaction(CALL).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_survives_the_command_line() {
        let plan = Loop {
            brokers: "127.0.0.1:9092".into(),
            from: "a".into(),
            to: "b".into(),
            messages: 7,
            exactly_once: true,
            commit_ms: 100,
        };
        assert_eq!(Loop::parse(&plan.text()), Some(plan));
        assert_eq!(Loop::parse("a b"), None);
    }
}
