//! A real Apache Kafka broker on loopback: one node, both broker and controller.
//!
//! The jars come through Maven (tests/kafka/pom.xml), once, into `target/kafka-lib` or
//! `$MILLSTREAM_KAFKA_LIB`; `$MILLSTREAM_KAFKA_VERSION` takes another one than the pom's. The broker dies with the test process, however that ends: the kernel is told to.

use super::free_port;
use millstream::kafka::ClientKind;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How long any call of these helpers may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A message as it lies in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Vec<u8>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Stored {
    /// The value of a header, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(key, _)| key == name)?;
        Some(String::from_utf8_lossy(found.1.as_deref()?).into_owned())
    }
}

/// The client that tests are run with: `MILLSTREAM_TEST_CLIENT=direct` or `librdkafka`; the daemon's own choice where
/// that says nothing.
pub fn client() -> ClientKind {
    match std::env::var("MILLSTREAM_TEST_CLIENT").as_deref() {
        Ok("direct") => ClientKind::Direct,
        Ok("librdkafka") => ClientKind::Library,
        Ok(other) => panic!("MILLSTREAM_TEST_CLIENT={other}: direct or librdkafka"),
        Err(_) => ClientKind::default(),
    }
}

/// The line of a config that names that client.
pub fn client_line() -> &'static str {
    match client() {
        ClientKind::Direct => "source.client = \"direct\"\n",
        ClientKind::Library => "source.client = \"librdkafka\"\n",
    }
}

/// A batch of messages as the broker keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    pub offset: i64,
    pub is_marker: bool,
    pub producer: i64,
    pub epoch: i16,
    /// By the number of the protocol; 0: none.
    pub compression: u8,
}

/// A broker of its own, stopped and removed with this value.
pub struct Broker {
    dir: PathBuf,
    port: u16,
    /// Itself and the others of its cluster.
    address: String,
    /// Replicas of the topics that these helpers make.
    replicas: i32,
    process: Mutex<Option<Child>>,
    producer: OnceLock<BaseProducer>,
}

impl Broker {
    /// The broker of this test binary. Started by the first who asks; dies with the process.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(Broker::new)
    }

    /// A broker of the test's own, to be stopped and killed.
    pub fn new() -> Broker {
        Broker::with(|_, properties| properties, &[])
    }

    /// A broker whose properties are made from the usual ones, in the folder named; `format` are arguments of the
    /// storage's formatting.
    pub fn with(properties_of: impl FnOnce(&Path, String) -> String, format: &[String]) -> Broker {
        let (dir, (port, controller)) = (new_folder(), (free_port(), free_port()));
        let properties = properties_of(&dir, properties(port, controller, &dir));
        let broker = Broker::prepared(dir, port, &properties, format);
        broker.start();
        broker
    }

    /// The brokers of a cluster, each of them a controller too. Topics have a replica on each, and take messages as
    /// long as all but one are there. What `more` says goes to each.
    pub fn cluster(count: usize, more: &str) -> Vec<Broker> {
        let all: Vec<(PathBuf, (u16, u16))> = (0..count).map(|_| (new_folder(), (free_port(), free_port()))).collect();
        let list = |of: &dyn Fn(usize, (u16, u16)) -> String| -> String {
            let each: Vec<String> = all.iter().enumerate().map(|(number, (_, ports))| of(number + 1, *ports)).collect();
            each.join(",")
        };
        let voters = list(&|id, (_, controller)| format!("{id}@127.0.0.1:{controller}"));
        let address = list(&|_, (port, _)| format!("127.0.0.1:{port}"));
        let made = all.into_iter().enumerate().map(|(number, (dir, (port, controller)))| {
            let usual = properties(port, controller, &dir).replace("node.id=1", &format!("node.id={}", number + 1));
            let usual = usual.replace(&format!("1@127.0.0.1:{controller}"), &voters);
            let usual = usual.replace("replication.factor=1", &format!("replication.factor={count}"));
            let usual = usual.replace("min.isr=1", &format!("min.isr={}", count - 1));
            let usual = usual.replace("min.insync.replicas=1", &format!("min.insync.replicas={}", count - 1));
            let mut broker = Broker::prepared(dir, port, &format!("{usual}{more}"), &[]);
            (broker.address, broker.replicas) = (address.clone(), count as i32);
            broker
        });
        let made: Vec<Broker> = made.collect();
        // None answers before most are there.
        made.iter().for_each(Broker::spawn);
        made.iter().for_each(Broker::wait_ready);
        made
    }

    /// A broker with its data folder, not started.
    fn prepared(dir: PathBuf, port: u16, properties: &str, format: &[String]) -> Broker {
        fs::write(dir.join("server.properties"), properties).expect("the broker's properties");
        let formatted = java()
            .args(["kafka.tools.StorageTool", "format", "-t", "bWlsbHN0cmVhbXRlc3QwMA", "-c"])
            .arg(dir.join("server.properties"))
            .args(format)
            .output()
            .expect("java runs (install a Java runtime, 17 or later)");
        let said = String::from_utf8_lossy(&formatted.stderr);
        let last = said.lines().count().saturating_sub(20);
        assert!(formatted.status.success(), "kafka format: {}", said.lines().skip(last).collect::<Vec<_>>().join("\n"));
        let address = format!("127.0.0.1:{port}");
        Broker { dir, port, address, replicas: 1, process: Mutex::new(None), producer: OnceLock::new() }
    }

    /// `127.0.0.1:port`; in a cluster those of all.
    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// The number of the broker that leads a partition; none where it has no leader at the moment.
    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        let probe: BaseConsumer = self.config().set("allow.auto.create.topics", "false").create().expect("probe");
        let metadata = probe.fetch_metadata(Some(topic), PATIENCE).ok()?;
        let leader = metadata.topics().first()?.partitions().iter().find(|p| p.id() == partition)?.leader();
        (leader > 0).then_some(leader)
    }

    /// What the console consumer shows of messages of a partition: timestamp, headers, key, value.
    pub fn console_consumer(&self, topic: &str, partition: i32, messages: usize) -> String {
        let shown = java()
            .args(["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", &self.address()])
            .args(["--topic", topic, "--partition", &partition.to_string(), "--offset", "earliest"])
            .args(["--max-messages", &messages.to_string(), "--timeout-ms", "30000"])
            .args(
                ["print.timestamp=true", "print.headers=true", "print.key=true"].iter().flat_map(|p| ["--property", p]),
            )
            .output()
            .expect("java runs");
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    /// The broker's own output.
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("broker.log")
    }

    /// Starts it again after `stop` or `kill`, on the same port and data. Returns when it answers.
    pub fn start(&self) {
        self.spawn();
        self.wait_ready();
    }

    fn spawn(&self) {
        let log = File::options().create(true).append(true).open(self.log_path()).expect("the broker's log");
        let mut command = java();
        command.arg("kafka.Kafka").arg(self.dir.join("server.properties"));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("log")).stderr(log);
        let child = spawn_bound(command);
        *self.process.lock().unwrap() = Some(child);
    }

    /// Waits until it answers.
    fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        let own = format!("127.0.0.1:{}", self.port);
        let probe: BaseConsumer = self.config().set("bootstrap.servers", own).create().expect("probe");
        loop {
            if let Some(child) = self.process.lock().unwrap().as_mut()
                && let Ok(Some(status)) = child.try_wait()
            {
                panic!("the broker ended with {status}: see {}", self.log_path().display());
            }
            let address = SocketAddr::from(([127, 0, 0, 1], self.port));
            if TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok()
                && probe.fetch_metadata(None, Duration::from_secs(5)).is_ok_and(|m| !m.brokers().is_empty())
            {
                return;
            }
            assert!(Instant::now() < deadline, "the broker doesn't answer: see {}", self.log_path().display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Kills it (SIGKILL): nothing is flushed or closed.
    pub fn kill(&self) {
        if let Some(mut child) = self.process.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks it to stop (SIGTERM), and waits until it has.
    pub fn stop(&self) {
        if let Some(mut child) = self.process.lock().unwrap().take() {
            let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process id");
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = child.wait();
        }
    }

    /// Sends it a signal: SIGSTOP holds it, SIGCONT lets it go on.
    pub fn signal(&self, signal: i32) {
        let process = self.process.lock().unwrap();
        let pid = process.as_ref().expect("a running broker").id() as i32;
        // SAFETY: the child was not waited for, so the number is its own.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "a running broker");
    }

    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address()).set("reconnect.backoff.max.ms", "200").set("log_level", "0");
        config
    }

    /// Removes a topic, and waits until it is gone.
    pub fn delete_topic(&self, name: &str) {
        let answer = block_on(self.admin().delete_topics(&[name], &AdminOptions::new())).expect("delete_topics");
        answer.into_iter().for_each(|gone| assert!(gone.is_ok(), "{name}: {gone:?}"));
        let probe: BaseConsumer = self.config().set("allow.auto.create.topics", "false").create().expect("probe");
        let deadline = Instant::now() + PATIENCE;
        while probe.fetch_metadata(Some(name), PATIENCE).map_or(1, |m| m.topics()[0].partitions().len()) > 0 {
            assert!(Instant::now() < deadline, "{name} was removed and is still there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Makes a topic.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.create_topic_with(name, partitions, &[]);
    }

    /// Makes a topic with settings.
    pub fn create_topic_with(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(self.replicas));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let admin = self.admin();
        let wish = AdminOptions::new().operation_timeout(Some(PATIENCE));
        let answer = block_on(admin.create_topics([&topic], &wish)).expect("create_topics answers");
        answer.into_iter().for_each(|made| assert!(made.is_ok(), "{name}: {made:?}"));
        let deadline = Instant::now() + PATIENCE;
        let probe: BaseConsumer = self.config().set("allow.auto.create.topics", "false").create().expect("probe");
        while probe.fetch_metadata(Some(name), PATIENCE).map_or(0, |m| m.topics()[0].partitions().len()) == 0 {
            assert!(Instant::now() < deadline, "{name} was made and isn't there");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Adds partitions to a topic, up to a number.
    pub fn grow_topic(&self, name: &str, partitions: usize) {
        let wish = rdkafka::admin::NewPartitions::new(name, partitions);
        let answer = block_on(self.admin().create_partitions([&wish], &AdminOptions::new())).expect("answer");
        answer.into_iter().for_each(|grown| assert!(grown.is_ok(), "{name}: {grown:?}"));
        // The producer of these helpers would know only later.
        let client = self.producer().client();
        while client.fetch_metadata(Some(name), PATIENCE).expect("metadata").topics()[0].partitions().len() < partitions
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("admin client")
    }

    /// Sends a message; `flush` waits for it.
    pub fn produce(
        &self,
        topic: &str,
        partition: i32,
        key: Option<&[u8]>,
        value: &[u8],
        headers: &[(&str, Option<&[u8]>)],
    ) {
        let producer = self.producer();
        let mut all = OwnedHeaders::new();
        for (key, value) in headers {
            all = all.insert(Header { key, value: *value });
        }
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value);
        record.key = key;
        if !headers.is_empty() {
            record = record.headers(all);
        }
        while let Err((error, again)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(rdkafka::error::RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(10));
            record = again;
        }
    }

    fn producer(&self) -> &BaseProducer {
        self.producer.get_or_init(|| {
            let mut config = self.config();
            config.set("linger.ms", "2").set("enable.idempotence", "true").set("delivery.report.only.error", "true");
            config.set("queue.buffering.max.messages", "1000000").create().expect("producer")
        })
    }

    /// Waits until everything produced is in its topic.
    pub fn flush(&self) {
        let producer = self.producer();
        producer.flush(PATIENCE).expect("everything is acknowledged");
    }

    /// Everything that a topic holds, by partition and offset; with `committed`, as a reader of committed
    /// messages sees it.
    pub fn consume_all(&self, topic: &str, committed: bool) -> Vec<Stored> {
        let mut config = self.config();
        config.set("group.id", "test-reader").set("enable.auto.commit", "false").set("enable.partition.eof", "true");
        config.set("isolation.level", if committed { "read_committed" } else { "read_uncommitted" });
        config.set("fetch.wait.max.ms", "20");
        let consumer: BaseConsumer = config.create().expect("consumer");
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).expect("metadata");
        let partitions = metadata.topics()[0].partitions().len();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition as i32, Offset::Beginning).expect("offset");
        }
        consumer.assign(&list).expect("assign");
        let (mut stored, mut ended) = (Vec::new(), 0);
        let deadline = Instant::now() + PATIENCE;
        while ended < partitions {
            assert!(Instant::now() < deadline, "{topic} doesn't end");
            match consumer.poll(Duration::from_millis(200)) {
                Some(Ok(message)) => stored.push(store(&message)),
                Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => ended += 1,
                Some(Err(_)) | None => {}
            }
        }
        stored.sort_by_key(|message| (message.partition, message.offset));
        stored
    }

    /// The offset that a group has committed for a partition.
    pub fn committed_offset(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        self.offset_of(self.config().set("group.id", group), topic, partition)
    }

    /// The same, without waiting for a transaction that is still open.
    pub fn offset_so_far(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let mut config = self.config();
        config.set("group.id", group).set("isolation.level", "read_uncommitted");
        self.offset_of(&config, topic, partition)
    }

    fn offset_of(&self, config: &ClientConfig, topic: &str, partition: i32) -> Option<i64> {
        let consumer: BaseConsumer = config.create().expect("consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition(topic, partition);
        let deadline = Instant::now() + PATIENCE;
        // The coordinator may just be moving.
        let answer = loop {
            match consumer.committed_offsets(list.clone(), PATIENCE) {
                Ok(answer) => break answer,
                Err(error) => assert!(Instant::now() < deadline, "committed offsets: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        match answer.elements()[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    /// The oldest offset of a partition, and the one past its newest.
    pub fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        let consumer: BaseConsumer = self.config().create().expect("consumer");
        consumer.fetch_watermarks(topic, partition, PATIENCE).expect("watermarks")
    }

    /// Where it keeps a partition.
    pub fn partition_dir(&self, topic: &str, partition: i32) -> PathBuf {
        self.dir.join("data").join(format!("{topic}-{partition}"))
    }

    /// Keeps a partition as it is, for `bring_back`. The broker is not running.
    pub fn keep(&self, topic: &str, partition: i32) {
        replace_folder(&self.partition_dir(topic, partition), &self.dir.join("kept"));
    }

    /// Takes a partition back to where it was when it was kept. The broker is not running.
    pub fn bring_back(&self, topic: &str, partition: i32) {
        replace_folder(&self.dir.join("kept"), &self.partition_dir(topic, partition));
    }

    /// The batches of a partition as they lie on the broker's disk: by whom they were written, and whether they are
    /// a transaction's marker.
    pub fn batches(&self, topic: &str, partition: i32) -> Vec<Batch> {
        let dir = self.partition_dir(topic, partition);
        let mut files: Vec<PathBuf> =
            fs::read_dir(dir).expect("the partition").map(|e| e.expect("entry").path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "log"));
        files.sort();
        let mut batches = Vec::new();
        for bytes in files.iter().map(|path| fs::read(path).expect("a segment")) {
            let mut at = 0;
            // Offset, length; leader's epoch, magic, checksum, attributes, last offset, two times; producer, epoch.
            while at + 61 <= bytes.len() {
                let number = |from: usize, length: usize| {
                    bytes[at + from..at + from + length].iter().fold(0i64, |n, byte| n << 8 | i64::from(*byte))
                };
                if number(8, 4) == 0 {
                    break;
                }
                let (offset, attributes) = (number(0, 8), number(21, 2));
                let (is_marker, compression) = (attributes & 0x20 != 0, (attributes & 7) as u8);
                let (producer, epoch) = (number(43, 8), number(51, 2) as i16);
                batches.push(Batch { offset, is_marker, producer, epoch, compression });
                at += 12 + number(8, 4) as usize;
            }
        }
        batches
    }

    /// Removes the messages of a partition below an offset, as retention would.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset)).expect("offset");
        let answer = block_on(self.admin().delete_records(&list, &AdminOptions::new())).expect("delete_records");
        answer.elements().iter().for_each(|element| element.error().expect("deleted"));
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn store(message: &rdkafka::message::BorrowedMessage<'_>) -> Stored {
    let headers = message.headers().map_or(Vec::new(), |all| {
        all.iter().map(|header| (header.key.to_string(), header.value.map(<[u8]>::to_vec))).collect()
    });
    Stored {
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().unwrap_or(&[]).to_vec(),
        headers,
    }
}

/// A folder for a broker.
fn new_folder() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = target_dir().join("kafka-run").join(format!("{}-{number}", std::process::id()));
    remove_leftovers(&target_dir().join("kafka-run"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).expect("a folder for the broker");
    dir
}

/// Removes the folders of test processes that are gone: a shared broker lives until its process ends.
fn remove_leftovers(runs: &Path) {
    for entry in fs::read_dir(runs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = name.split('-').next().unwrap_or_default().to_string();
        if !process.is_empty() && !Path::new("/proc").join(process).exists() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Makes a folder hold what another does, and nothing else.
fn replace_folder(with: &Path, folder: &Path) {
    let _ = fs::remove_dir_all(folder);
    super::copy_folder(with, folder);
}

/// Where the build puts its things.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
}

fn properties(port: u16, controller: u16, dir: &Path) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
         transaction.state.log.num.partitions=1\n\
         share.coordinator.state.topic.replication.factor=1\nshare.coordinator.state.topic.min.isr=1\n\
         share.coordinator.state.topic.num.partitions=1\n\
         default.replication.factor=1\nmin.insync.replicas=1\nnum.partitions=1\n\
         group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=false\n\
         group.min.session.timeout.ms=1000\n\
         broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\n",
        dir.join("data").display()
    )
}

/// `java` with the jars on its path.
fn java() -> Command {
    let mut command = Command::new("java");
    command.args(["-Xmx1g", "-cp"]).arg(format!("{}/*", library().display()));
    command
}

/// The folder of the jars; fetched once, by whichever test process comes first.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let version = std::env::var("MILLSTREAM_KAFKA_VERSION").ok();
        let name = version.as_ref().map_or("kafka-lib".to_string(), |version| format!("kafka-lib-{version}"));
        let dir = std::env::var_os("MILLSTREAM_KAFKA_LIB").map_or_else(|| target_dir().join(name), PathBuf::from);
        fs::create_dir_all(&dir).expect("a folder for the jars");
        let lock = File::create(dir.join(".lock")).expect("the jars' lock");
        lock.lock().expect("the jars' lock");
        if !dir.join(".complete").exists() {
            let pom = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/pom.xml");
            let fetched = Command::new("mvn")
                .args(["-q", "-B", "-f"])
                .arg(pom)
                .arg("dependency:copy-dependencies")
                .arg(format!("-DoutputDirectory={}", dir.display()))
                .args(version.map(|version| format!("-Dkafka.version={version}")))
                .output()
                .expect("mvn runs (install Maven)");
            assert!(fetched.status.success(), "mvn: {}", String::from_utf8_lossy(&fetched.stdout));
            File::create(dir.join(".complete")).expect("the jars' mark");
        }
        dir
    })
}

/// Starts a process that the kernel kills when this one ends. The kernel watches the *thread* that started it,
/// so that thread stays for as long as the process.
pub fn spawn_bound(mut command: Command) -> Child {
    use std::os::unix::process::CommandExt;
    static STARTER: OnceLock<Mutex<std::sync::mpsc::Sender<Job>>> = OnceLock::new();
    type Job = (Command, std::sync::mpsc::Sender<std::io::Result<Child>>);
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(|| {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            Ok(())
        });
    }
    let starter = STARTER.get_or_init(|| {
        let (jobs, queue) = std::sync::mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, answer) in queue {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (answer, answered) = std::sync::mpsc::channel();
    starter.lock().unwrap().send((command, answer)).expect("the starter lives");
    answered.recv().expect("the starter answers").expect("it starts (scripts/setup test installs what is missing)")
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}
