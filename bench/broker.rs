//! The Kafka broker of the workloads that need one: the one that `MILLSTREAM_BENCH_BROKERS` names, or one of
//! this process's own, started by `scripts/kafka-broker` in a folder that is removed with it.

use crate::report::Report;
use millstream::kafka::consumer::Consumer as BatchReader;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long the broker may take for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// Partitions of every topic.
pub const PARTITIONS: i32 = 8;
/// The library's second of pause after each full queue makes minutes of reading two million messages.
const FETCH_BACKOFF_MS: &str = "5";

/// A broker that answers.
pub struct Broker {
    /// Where.
    pub address: String,
    own: Option<(Child, tempfile::TempDir)>,
}

impl Broker {
    /// The named broker, or a new one; or why this machine can't start one.
    pub fn find() -> Result<Broker, String> {
        if let Ok(address) = std::env::var("MILLSTREAM_BENCH_BROKERS") {
            return Ok(Broker::at(&address));
        }
        let script = script().ok_or("scripts/kafka-broker is not here; MILLSTREAM_BENCH_BROKERS can name a broker")?;
        let dir = tempfile::Builder::new().prefix("millstream-bench-kafka-").tempdir().map_err(|e| e.to_string())?;
        let bind = || TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string());
        let port = |held: &TcpListener| held.local_addr().map(|at| at.port()).map_err(|e| e.to_string());
        // Both are held until both are known: what is let go may be given again.
        let held = (bind()?, bind()?);
        let (port, controller) = (port(&held.0)?, port(&held.1)?);
        drop(held);
        let log = std::fs::File::create(dir.path().join("log")).map_err(|e| e.to_string())?;
        let mut command = Command::new(script);
        command.arg("run").env("KAFKA_PORT", port.to_string()).env("KAFKA_CONTROLLER_PORT", controller.to_string());
        command.env("MILLSTREAM_KAFKA_DATA", dir.path().join("data"));
        let errors = log.try_clone().map_err(|e| e.to_string())?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        ends_with_us(&mut command);
        let child = command.spawn().map_err(|e| format!("scripts/kafka-broker: {e}"))?;
        let mut broker = Broker { address: format!("127.0.0.1:{port}"), own: Some((child, dir)) };
        broker.wait()?;
        Ok(broker)
    }

    /// As [`Broker::find`]; the report says why there is none.
    pub fn find_or_say(report: &mut Report) -> Option<Broker> {
        report.doing("starting a broker");
        match Broker::find() {
            Ok(broker) => Some(broker),
            Err(reason) => {
                report.note(&format!("not measured: {reason}"));
                None
            }
        }
    }

    /// A broker that somebody else runs.
    pub fn at(address: &str) -> Broker {
        Broker { address: address.to_string(), own: None }
    }

    fn wait(&mut self) -> Result<(), String> {
        let began = Instant::now();
        let probe: BaseConsumer = self.client().create().map_err(|e| e.to_string())?;
        while began.elapsed() < PATIENCE {
            if let Some((child, dir)) = &mut self.own
                && let Ok(Some(status)) = child.try_wait()
            {
                let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
                return Err(format!("the broker ended with {status}: {}", log.lines().last().unwrap_or_default()));
            }
            if TcpStream::connect(&self.address).is_ok()
                && probe.fetch_metadata(None, Duration::from_secs(5)).is_ok_and(|m| !m.brokers().is_empty())
            {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("no broker answers at {}", self.address))
    }

    /// The properties of every client.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address).set("log_level", "0");
        config
    }

    /// Makes a topic, or finds it made.
    pub fn topic(&self, name: &str) -> Result<(), String> {
        let admin: AdminClient<DefaultClientContext> = self.client().create().map_err(|e| e.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())?;
        let topic = NewTopic::new(name, PARTITIONS, TopicReplication::Fixed(1));
        let wish = AdminOptions::new().operation_timeout(Some(PATIENCE));
        runtime.block_on(admin.create_topics([&topic], &wish)).map_err(|e| format!("{name}: {e}"))?;
        let began = Instant::now();
        let probe: BaseConsumer =
            self.client().set("allow.auto.create.topics", "false").create().map_err(|e| e.to_string())?;
        while began.elapsed() < PATIENCE {
            let seen = probe.fetch_metadata(Some(name), PATIENCE).map_err(|e| format!("{name}: {e}"))?;
            if seen.topics().iter().any(|t| t.partitions().len() == PARTITIONS as usize) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("the topic {name} was made and isn't there"))
    }

    /// Removes a topic, so that a long run doesn't fill the disk.
    pub fn remove(&self, name: &str) -> Result<(), String> {
        let admin: AdminClient<DefaultClientContext> = self.client().create().map_err(|e| e.to_string())?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|e| e.to_string())?;
        runtime.block_on(admin.delete_topics(&[name], &AdminOptions::new())).map_err(|e| format!("{name}: {e}"))?;
        Ok(())
    }

    /// A new topic that holds these values, by turns over the partitions.
    pub fn fill<'v>(&self, topic: &str, values: impl Iterator<Item = &'v [u8]>) -> Result<(), String> {
        self.topic(topic)?;
        let mut config = self.client();
        config.set("linger.ms", "20").set("queue.buffering.max.messages", "500000").set("batch.size", "900000");
        let producer: BaseProducer = config.create().map_err(|e| e.to_string())?;
        for (number, value) in values.enumerate() {
            let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(number as i32 % PARTITIONS).payload(value);
            while let Err((error, again)) = producer.send(record) {
                if error.rdkafka_error_code() != Some(rdkafka::error::RDKafkaErrorCode::QueueFull) {
                    return Err(format!("{topic}: {error}"));
                }
                producer.poll(Duration::from_millis(10));
                record = again;
            }
        }
        producer.flush(PATIENCE).map_err(|e| format!("{topic}: {e}"))
    }

    /// A reader of all of a topic, from its beginning, with these properties more.
    pub fn reader(&self, topic: &str, more: &[(&str, &str)]) -> Result<BaseConsumer, String> {
        let mut config = self.client();
        config.set("group.id", "bench-reader").set("enable.auto.commit", "false");
        config.set("fetch.queue.backoff.ms", FETCH_BACKOFF_MS);
        for &(key, value) in more {
            config.set(key, value);
        }
        let consumer: BaseConsumer = config.create().map_err(|e| e.to_string())?;
        consumer.assign(&whole(topic)?).map_err(|e| e.to_string())?;
        Ok(consumer)
    }

    /// A reader of batches as large as the library makes them, with these properties more; it reads nothing yet.
    pub fn batch_reader(&self, group: &str, more: &[(&str, &str)]) -> Result<BatchReader, String> {
        let properties = [
            ("bootstrap.servers", self.address.as_str()),
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("queued.max.messages.kbytes", "65536"),
            ("fetch.message.max.bytes", "4194304"),
            ("fetch.queue.backoff.ms", FETCH_BACKOFF_MS),
            ("log_level", "0"),
        ];
        let all = properties.iter().chain(more).map(|&(key, value)| (key.to_string(), value.to_string()));
        BatchReader::new(&all.collect::<Vec<_>>()).map_err(|f| f.message)
    }

    /// Shows every value of a topic that a reader of committed messages sees.
    pub fn read(&self, topic: &str, mut see: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        let consumer = self.reader(topic, &[("enable.partition.eof", "true")])?;
        let (mut ended, mut last) = (0, Instant::now());
        while ended < PARTITIONS {
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => {
                    last = Instant::now();
                    see(message.payload().unwrap_or_default())?;
                }
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
                _ if last.elapsed() > PATIENCE => return Err(format!("{topic} doesn't end")),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Every partition of a topic, from its beginning.
pub fn whole(topic: &str) -> Result<TopicPartitionList, String> {
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).map_err(|e| e.to_string())?;
    }
    Ok(list)
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some((child, _)) = &mut self.own {
            // It may have ended before.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// `scripts/kafka-broker` of this checkout: below here, or beside the folder of the binary.
fn script() -> Option<PathBuf> {
    let binary = std::env::current_exe().ok()?;
    let beside = binary.ancestors().nth(3).map(Path::to_path_buf);
    let here = std::env::current_dir().ok();
    [here, beside].into_iter().flatten().map(|dir| dir.join("scripts/kafka-broker")).find(|path| path.exists())
}

/// The kernel ends the child when this process ends, however that happens.
fn ends_with_us(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
}
