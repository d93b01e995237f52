//! `kafka-client`: the client that speaks Kafka's protocol itself, without a daemon around it. Messages of 250 bytes
//! are written to eight partitions, read, and read, answered and committed every 100 ms in transactions; messages a
//! second and CPU a message, beside librdkafka with batches as large as it makes them.

use crate::broker::{Broker, PARTITIONS, whole};
use crate::kafka_loop::Loop;
use crate::machine::own_cpu_ns;
use crate::report::{Beside, Figure, Outcome, Report, Run};
use crate::stats::Samples;
use millstream::kafka::direct::build::Entry;
use millstream::kafka::direct::{FetchSettings, Fetcher, Membership, ProduceSettings, Producer, Settings};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Bytes of a message, the first eight its number.
const MESSAGE_BYTES: usize = 250;
/// Bytes of an answer: the message's first, as in the loop beside it.
const ANSWER_BYTES: usize = 90;
/// Messages in a row to one partition, as an outbox has them.
const RUN: u64 = 500;
/// Time between two commits.
const COMMIT_EVERY: Duration = Duration::from_millis(100);
/// No message for so long is a failure.
const SILENCE: Duration = Duration::from_secs(30);

/// What some turns of one thing brought, ours and beside it.
#[derive(Default)]
struct Measured {
    rate: Samples,
    cpu: Samples,
    their_rate: Samples,
    their_cpu: Samples,
}

/// Wall and CPU seconds.
type Took = (f64, f64);

impl Measured {
    fn push(&mut self, messages: u64, ours: Took, theirs: Took) {
        let messages = messages as f64;
        self.rate.push(messages / ours.0);
        self.cpu.push(ours.1 * 1e9 / messages);
        self.their_rate.push(messages / theirs.0);
        self.their_cpu.push(theirs.1 * 1e9 / messages);
    }

    fn show(&self, report: &mut Report, name: &str) {
        let beside = |value: f64, ratio: f64| Some(Beside { name: "librdkafka".into(), value, ratio });
        let (value, theirs) = (self.rate.median(), self.their_rate.median());
        let (samples, hash) = (self.rate.count(), None);
        let worst = Some(self.rate.least());
        let both = beside(theirs, value / theirs);
        report.figure(&Figure { name, unit: "messages/s", value, worst, beside: both, samples, hash });
        let (value, theirs) = (self.cpu.median(), self.their_cpu.median());
        let name = format!("{name}-cpu");
        let (worst, both) = (Some(self.cpu.most()), beside(theirs, theirs / value));
        report.figure(&Figure { name: &name, unit: "ns", value, worst, beside: both, samples, hash });
    }
}

/// Checks what is read while it times.
pub fn run(run: &Run, report: &mut Report) -> Outcome {
    let Some(broker) = Broker::find_or_say(report) else { return Ok(()) };
    let messages = run.size(100_000, 2_000_000);
    let (mut write, mut read, mut answer) = (Measured::default(), Measured::default(), Measured::default());
    let mut commits = Samples::default();
    for turn in 0..run.size(1, 3) {
        let name = |what: &str| format!("client-{what}-{}-{turn}", std::process::id());
        let (from, to, other) = (name("in"), name("out"), name("other"));
        [&from, &to, &other].iter().try_for_each(|topic| broker.topic(topic))?;
        report.doing(format!("turn {}: writing", turn + 1));
        let ours = timed(|| write_direct(&broker, &from, messages))?;
        let theirs = timed(|| {
            let values: Vec<_> = (0..messages).map(message).collect();
            broker.fill(&other, values.iter().map(|value| &value[..]))
        })?;
        write.push(messages, ours, theirs);
        broker.remove(&other)?;
        report.doing(format!("turn {}: reading", turn + 1));
        let ours = timed(|| read_direct(&broker, &from, messages, None).map(drop))?;
        read.push(messages, ours, timed(|| read_by_library(&broker, &from, messages))?);
        report.doing(format!("turn {}: reading, answering, committing", turn + 1));
        let ours = timed(|| {
            let took = read_direct(&broker, &from, messages, Some(&to))?;
            took.into_iter().for_each(|each| commits.push(each.as_secs_f64() * 1e3));
            Ok(())
        })?;
        let mut answers = 0;
        broker.read(&to, |value| {
            answers += u64::from(value.len() == ANSWER_BYTES);
            Ok(())
        })?;
        if answers != messages {
            return Err(format!("{answers} answers to {messages} messages"));
        }
        broker.remove(&to)?;
        broker.topic(&other)?;
        let plan = Loop {
            brokers: broker.address.clone(),
            from: from.clone(),
            to: other.clone(),
            messages,
            exactly_once: true,
            commit_ms: COMMIT_EVERY.as_millis() as u64,
        };
        let looped = plan.start()?.finish()?;
        answer.push(messages, ours, (looped.seconds, looped.cpu_seconds));
        [&from, &other].iter().try_for_each(|topic| broker.remove(topic))?;
    }
    write.show(report, "write");
    read.show(report, "read");
    answer.show(report, "answer-committed");
    let (value, worst, samples) = (commits.median(), Some(commits.most()), commits.count());
    report.figure(&Figure { name: "commit", unit: "ms", value, worst, beside: None, samples, hash: None });
    report.note(&format!("{messages} messages of {MESSAGE_BYTES} bytes; making their bytes is in the time of both"));
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<(), String>) -> Result<Took, String> {
    let (began, cpu) = (Instant::now(), own_cpu_ns());
    work()?;
    Ok((began.elapsed().as_secs_f64(), (own_cpu_ns() - cpu) as f64 / 1e9))
}

fn message(number: u64) -> [u8; MESSAGE_BYTES] {
    let mut value = [b'v'; MESSAGE_BYTES];
    value[..8].copy_from_slice(&number.to_le_bytes());
    value
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn write_direct(broker: &Broker, topic: &str, messages: u64) -> Result<(), String> {
    let failed = |e| format!("{topic}: {e}");
    let mut producer = Producer::open(Settings::new(&broker.address), ProduceSettings::default()).map_err(failed)?;
    let timestamp = now_ms();
    for number in 0..messages {
        let value = message(number);
        let partition = (number / RUN % PARTITIONS as u64) as i32;
        let entry = Entry { key: None, value: Some(&value), timestamp, headers: &[] };
        producer.send(topic, partition, &entry).map_err(failed)?;
    }
    producer.flush().map_err(failed)
}

/// Reads all messages, each once; where there is a topic for answers, answers each and commits. How long each commit
/// took.
fn read_direct(broker: &Broker, from: &str, messages: u64, to: Option<&str>) -> Result<Vec<Duration>, String> {
    let failed = |e| format!("{from}: {e}");
    let settings = Settings::new(&broker.address);
    let mut fetcher = Fetcher::open(settings.clone(), FetchSettings::default()).map_err(failed)?;
    for partition in 0..PARTITIONS {
        fetcher.add(from, partition, 0);
    }
    let how = ProduceSettings { transactional: to.map(String::from), ..ProduceSettings::default() };
    let mut answers = to.map(|to| Producer::open(settings, how).map(|p| (to, p))).transpose().map_err(failed)?;
    let (mut seen, mut sum, mut next) = (0, 0_u64, [0_i64; PARTITIONS as usize]);
    let (mut last, mut commits, outside) = (Instant::now(), Vec::new(), Membership::outside(from));
    while seen < messages {
        let fetched = fetcher.next(SILENCE).map_err(failed)?;
        let mut fetched = fetched.ok_or_else(|| format!("{from}: {seen} of {messages} messages came"))?;
        let timestamp = now_ms();
        while let Some(message) = fetched.peek().map_err(failed)? {
            let value =
                message.value.filter(|value| value.len() == MESSAGE_BYTES).ok_or("a message of another size")?;
            sum = sum.wrapping_add(value.first_chunk().map_or(0, |number| u64::from_le_bytes(*number)));
            next[message.slot] = message.offset + 1;
            if let Some((to, producer)) = &mut answers {
                let answer = Entry { key: None, value: Some(&value[..ANSWER_BYTES]), timestamp, headers: &[] };
                producer.send(to, message.slot as i32, &answer).map_err(failed)?;
            }
            fetched.advance();
            seen += 1;
        }
        fetcher.give_back(fetched);
        if let Some((_, producer)) = &mut answers {
            producer.push().map_err(failed)?;
            if last.elapsed() >= COMMIT_EVERY || seen == messages {
                let began = Instant::now();
                let offsets = (0..PARTITIONS).map(|partition| (partition, next[partition as usize])).collect();
                producer.commit(&[(from, offsets)], &outside).map_err(|e| format!("{from}: {e}"))?;
                commits.push(began.elapsed());
                last = Instant::now();
            }
        }
    }
    match sum == messages * (messages - 1) / 2 {
        true => Ok(commits),
        false => Err(format!("{from}: not each message once")),
    }
}

/// The same by librdkafka, in batches.
fn read_by_library(broker: &Broker, from: &str, messages: u64) -> Result<(), String> {
    let reader = broker.batch_reader("bench-client", &[])?;
    reader.assign(&whole(from)?).map_err(|f| f.message)?;
    let (mut queue, mut seen, mut sum, mut last) = (reader.queue(), 0, 0_u64, Instant::now());
    while seen < messages {
        if let Some(message) = queue.peek(Duration::from_millis(100))
            && message.error().is_none()
        {
            sum = sum.wrapping_add(message.value().first_chunk().map_or(0, |number| u64::from_le_bytes(*number)));
            seen += 1;
            queue.advance();
            if seen % 10_000 == 0 {
                last = Instant::now();
            }
        } else if last.elapsed() > SILENCE {
            return Err(format!("{from}: {seen} of {messages} messages came"));
        }
    }
    match sum == messages * (messages - 1) / 2 {
        true => Ok(()),
        false => Err(format!("{from}: not each message once")),
    }
}
