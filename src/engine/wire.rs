//! From options to parts: which source, sink and journal a lane gets.

use super::ahead::Ahead;
use super::intake::Intake;
use super::lane::{LaneCore, LaneParts};
use super::ledger::Ledger;
use crate::batch::Outbox;
use crate::config::{self, Config, Guarantee, SinkKind, SourceKind};
use crate::decode::{DecodeOptions, Decoder};
use crate::encode::{EncodeOptions, Encoder, dead_letter_json};
use crate::error::{Fault, Result};
use crate::journal::file::FileJournal;
use crate::journal::{Journal, JournalRecord};
use crate::kafka::claim::Standby;
use crate::kafka::{self, KafkaOptions};
use crate::metrics::LaneMetrics;
use crate::pipeline::Pipeline;
use crate::sink::console::ConsoleSink;
use crate::sink::dead_letter::DeadLetterFile;
use crate::sink::file::FileSink;
use crate::sink::none::NoSink;
use crate::sink::{InputNames, OutputLength, Sink};
use crate::source::file::{FileOptions, FileSource};
use crate::source::generator::{Drift, GeneratorOptions, Kind};
use crate::source::kafka_past::KafkaPast;
use crate::source::rate::{RateOptions, RateSource};
use crate::source::socket::SocketSource;
use crate::source::{Framing, Past, ReadOptions, Source};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// About how many bytes a source reads at once.
const BLOCK_BYTES: usize = 256 << 10;

/// How long a broker may take to answer who has a journal; later, nobody begins on it unseen either.
const STRANGER_WAIT: Duration = Duration::from_secs(5);

/// A lane's ends, opened.
pub struct Ends {
    /// Where events come from.
    pub source: SourceEnd,
    /// Where predictions and dead letters go.
    pub sink: Box<dyn Sink>,
    /// Where decisions go.
    pub journal: Box<dyn Journal>,
}

/// A source that only reads, or one whose connections the worker answers.
pub enum SourceEnd {
    /// Only reads.
    Reads(Box<dyn Source>),
    /// The worker answers it.
    Answers(Box<SocketSource>),
}

impl SourceEnd {
    /// As a source.
    pub fn source(&mut self) -> &mut dyn Source {
        match self {
            SourceEnd::Reads(source) => source.as_mut(),
            SourceEnd::Answers(source) => source.as_mut(),
        }
    }

    /// As the near end of a lane, on a thread of its own where `threaded`.
    ///
    /// # Errors
    /// Environment, where no thread can be started.
    pub fn intake(self, threaded: bool, lane: u32) -> Result<Intake> {
        match self {
            SourceEnd::Answers(source) => Ok(Intake::Answering(source)),
            SourceEnd::Reads(source) if threaded => Intake::threaded(source, format!("source-{lane}")),
            SourceEnd::Reads(source) => Ok(Intake::Inline(source)),
        }
    }
}

/// How the source cuts its bytes, and how much it reads at once.
pub fn read_options(config: &Config) -> ReadOptions {
    let framing = match config.source.format {
        config::Format::Json => Framing::Lines,
        config::Format::Csv => Framing::Csv { header: config.source.columns.is_empty() },
        config::Format::Binary => Framing::Binary,
    };
    ReadOptions { framing, event_bytes_max: config.limits.event_bytes_max as usize, block_bytes: BLOCK_BYTES }
}

/// A decoder for the pipeline's events.
///
/// # Errors
/// Misuse, where `source.columns` lacks a field.
pub fn decoder(config: &Config, pipeline: &Pipeline) -> Result<Decoder> {
    let options = DecodeOptions {
        format: match config.source.format {
            config::Format::Json => crate::decode::Format::Json,
            config::Format::Csv => crate::decode::Format::Csv,
            config::Format::Binary => crate::decode::Format::Binary,
        },
        event_bytes_max: config.limits.event_bytes_max as usize,
        nesting_max: config.limits.nesting_max as usize,
        columns: (!config.source.columns.is_empty()).then(|| config.source.columns.clone()),
    };
    Decoder::new(pipeline.schema(), &options)
}

/// A lane's core for a pipeline that stands at a record (or at the beginning).
///
/// # Errors
/// Misuse, where the decoder can't be made; Corruption, where the record's digest can't be read.
pub fn core(
    config: &Config,
    lane: u32,
    lineage: &str,
    metrics: &Arc<LaneMetrics>,
    pipeline: Pipeline,
    at: Option<&JournalRecord>,
) -> Result<LaneCore> {
    let answers = matches!(config.sink.kind, SinkKind::Socket);
    let encode = EncodeOptions {
        lane: (config.lanes > 1).then_some(lane),
        answer_rejects: answers,
        newline: !matches!(config.sink.kind, SinkKind::Kafka { .. }),
    };
    let resumable = !matches!(config.source.kind, SourceKind::Socket { .. });
    let ledger = Ledger::new(lane, lineage, at, config.source.kind.replayable(), resumable);
    let parts = LaneParts {
        lane,
        decoder: decoder(config, &pipeline)?,
        encoder: Encoder::new(pipeline.schema(), &encode),
        pipeline,
        metrics: metrics.clone(),
        batch_events_max: config.engine.batch_events_max as usize,
        learn: config.learn.enabled,
    };
    LaneCore::new(parts, ledger, at)
}

/// What decodes the next block on a thread of its own, where the lanes leave a core to spare.
///
/// # Errors
/// Environment, where no thread can be started.
pub fn ahead(config: &Config, core: &LaneCore) -> Result<Option<Ahead>> {
    if threads(config) <= config.lanes as usize {
        return Ok(None);
    }
    let (batch, events_max) = core.batch_like();
    Ahead::start(batch, events_max, format!("decode-{}", core.lane())).map(Some)
}

/// True where the source runs on a thread of its own: files and generators, with more than one thread.
pub fn source_is_threaded(config: &Config) -> bool {
    threads(config) > 1 && matches!(config.source.kind, SourceKind::File { .. } | SourceKind::Rate { .. })
}

/// True where the sink runs on a thread of its own: always, but for answers and on a single thread.
pub fn sink_is_threaded(config: &Config) -> bool {
    threads(config) > 1 && !matches!(config.sink.kind, SinkKind::Socket)
}

fn threads(config: &Config) -> usize {
    match config.engine.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n as usize,
    }
}

/// True where a prediction is visible only once its transaction has committed.
pub fn visible_at_commit(config: &Config) -> bool {
    matches!(config.sink.kind, SinkKind::Kafka { .. }) && config.delivery.guarantee == Guarantee::ExactlyOnce
}

/// The sockets of all lanes, for a socket source; `None` for others.
///
/// # Errors
/// Environment, where the address can't be bound.
pub fn sockets(config: &Config, inherited: Option<crate::source::socket::Listen>) -> Result<Option<Vec<SocketSource>>> {
    use crate::source::socket::{Listen, SocketOptions, open};
    let SourceKind::Socket { listen } = &config.source.kind else { return Ok(None) };
    let listen = inherited.unwrap_or_else(|| match listen {
        config::Listen::Tcp(address) => Listen::Tcp(*address),
        config::Listen::Unix(path) => Listen::Unix(path.clone()),
    });
    let options = SocketOptions {
        listen,
        connections_max: config.limits.connections_max as usize,
        connections_per_address_max: config.limits.connections_per_address_max as usize,
        idle_timeout_ms: config.limits.idle_timeout_ms,
        write_buffer_bytes_max: config.limits.answer_bytes_max as usize,
        read: read_options(config),
        answer: matches!(config.sink.kind, SinkKind::Socket),
    };
    open(options, config.lanes).map(Some)
}

/// Opens the ends of a lane. `socket` is the lane's share of a socket source. A Kafka lane waits for its
/// assignment, of which `standby` is told; `None` where that gave up.
///
/// # Errors
/// Environment or Misuse, from whatever can't be opened.
pub fn open(
    config: &Config,
    lane: u32,
    lineage: &str,
    dir: &Path,
    socket: Option<SocketSource>,
    standby: &mut Standby<'_>,
) -> Result<Option<Ends>> {
    let kafka = match kafka_options(config, lane, lineage) {
        Some(options) => match kafka::open_when_assigned(&kafka::client_of(&options), &options, standby)? {
            None => return Ok(None),
            lane => lane,
        },
        None => None,
    };
    let (kafka_source, kafka_sink, kafka_journal) = match kafka {
        Some(lane) => (lane.source, lane.sink, Some(lane.journal)),
        None => (None, None, None),
    };
    let answers = matches!(config.sink.kind, SinkKind::Socket);
    let read = read_options(config);
    let source = match (&config.source.kind, kafka_source, socket) {
        (SourceKind::Kafka { .. }, Some(source), _) => SourceEnd::Reads(Box::new(source)),
        (SourceKind::Socket { .. }, _, Some(socket)) if answers => SourceEnd::Answers(Box::new(socket)),
        (SourceKind::Socket { .. }, _, Some(socket)) => SourceEnd::Reads(Box::new(socket)),
        (SourceKind::File { paths, follow }, ..) => {
            let options = FileOptions { paths: paths.clone(), follow: *follow, lane, lanes: config.lanes, read };
            SourceEnd::Reads(Box::new(FileSource::new(options)?))
        }
        (SourceKind::Rate { generator, rate, events, seed, stream }, ..) => {
            let generator = generator_options(generator, *seed, stream)?;
            let options = RateOptions { generator, rate: *rate, events: *events, lane, lanes: config.lanes, read };
            SourceEnd::Reads(Box::new(RateSource::new(options)?))
        }
        (SourceKind::Kafka { .. } | SourceKind::Socket { .. }, ..) => {
            return Err(Fault::internal(format!("the {} source of lane {lane} is taken", config.source.kind.name())));
        }
    };
    let predictions: Option<Box<dyn Sink>> = match &config.sink.kind {
        SinkKind::Kafka { .. } => None,
        SinkKind::Socket | SinkKind::None => Some(Box::new(NoSink)),
        SinkKind::Console => Some(Box::new(ConsoleSink::stdout())),
        SinkKind::File { path, rotate_bytes } => {
            Some(Box::new(FileSink::new(config::of_lane(path, lane, config.lanes), *rotate_bytes)))
        }
    };
    let kafka_sink = kafka_sink.map(|sink| Box::new(sink) as Box<dyn Sink>);
    let letters = match &config.sink.dead_letters {
        Some(path) if !matches!(config.sink.kind, SinkKind::Kafka { .. }) => {
            let path = config::of_lane(Path::new(path), lane, config.lanes);
            Some(Box::new(DeadLetterFile::new(path, dead_letter_json)) as Box<dyn Sink>)
        }
        _ => None,
    };
    let mut sinks: Vec<Box<dyn Sink>> = [predictions, kafka_sink, letters].into_iter().flatten().collect();
    let sink = if sinks.len() == 1 { sinks.remove(0) } else { Box::new(Several(sinks)) };
    let journal: Box<dyn Journal> = match kafka_journal {
        Some(journal) => Box::new(journal),
        None => Box::new(FileJournal::open(&dir.join("journal"), config.source.kind.replayable())?),
    };
    Ok(Some(Ends { source, sink, journal }))
}

/// The last record of a Kafka lane's journal where that is of another lineage, before the daemon joins the group.
///
/// # Errors
/// As for [`crate::journal::kafka::stranger`].
pub fn stranger(config: &Config, lane: u32, lineage: &str) -> Result<Option<JournalRecord>> {
    match kafka_options(config, lane, lineage) {
        Some(options) => {
            let options = KafkaOptions { first_answer: STRANGER_WAIT.min(options.first_answer), ..options };
            crate::journal::kafka::stranger(kafka::client_of(&options).as_ref(), &options)
        }
        None => Ok(None),
    }
}

/// Opens a lane's past: its inputs, to be read again, and its journal's records. Nothing is written, and no lane
/// claimed: it may be read while a daemon of the group runs the lane.
///
/// # Errors
/// As [`open`]; Misuse for a source that can't be read again.
pub fn open_past(config: &Config, lane: u32, lineage: &str, dir: &Path) -> Result<(Box<dyn Past>, Vec<JournalRecord>)> {
    if let Some(options) = kafka_options(config, lane, lineage) {
        let client = kafka::client_of(&options);
        let records = crate::journal::kafka::records(client.as_ref(), &options)?;
        return Ok((Box::new(KafkaPast::new(client, &options)), records));
    }
    let ends = open(config, lane, lineage, dir, None, &mut |_, _| false)?;
    match ends.map(|ends| (ends.source, ends.journal)) {
        Some((SourceEnd::Reads(source), mut journal)) => Ok((source, journal.read(0)?)),
        _ => Err(Fault::misuse("the source can't be read again")),
    }
}

/// What a lane's Kafka ends need to know; `None` where neither end is Kafka.
pub fn kafka_options(config: &Config, lane: u32, lineage: &str) -> Option<KafkaOptions> {
    let mut options = KafkaOptions {
        brokers: String::new(),
        topics: Vec::new(),
        group: String::from("millstream"),
        node_name: config.node.name.clone(),
        start: kafka::Start::Earliest,
        lane,
        lanes: config.lanes,
        read: read_options(config),
        properties: Vec::new(),
        sink_topic: None,
        dead_letters: None,
        exactly_once: config.delivery.guarantee == Guarantee::ExactlyOnce,
        lineage: lineage.to_string(),
        client: kafka::ClientKind::default(),
        first_answer: Duration::from_millis(config.limits.start_timeout_ms),
    };
    let SourceKind::Kafka { brokers, topics, group, start, direct, properties } = &config.source.kind else {
        return None;
    };
    if let SinkKind::Kafka { topic } = &config.sink.kind {
        options.sink_topic = Some(topic.clone());
        options.dead_letters.clone_from(&config.sink.dead_letters);
    }
    options.brokers.clone_from(brokers);
    options.topics.clone_from(topics);
    options.group.clone_from(group);
    options.properties = properties.clone().into_iter().collect();
    options.client = if *direct { kafka::ClientKind::Direct } else { kafka::ClientKind::Library };
    options.start = match start {
        config::Start::Earliest => kafka::Start::Earliest,
        config::Start::Latest => kafka::Start::Latest,
    };
    Some(options)
}

/// The parameters of a generated stream.
///
/// # Errors
/// Misuse, where there is no such generator.
pub fn generator_options(name: &str, seed: u64, stream: &config::StreamConfig) -> Result<GeneratorOptions> {
    let mut options = GeneratorOptions::new(Kind::from_name(name)?, seed);
    if let Some(features) = stream.features {
        options.features = features as usize;
    }
    if let Some(noise) = stream.noise {
        options.noise = noise;
    }
    options.classes = stream.classes as usize;
    options.concept = stream.concept;
    options.drift = Drift {
        every: stream.drift_interval_events,
        width: stream.drift_width_events,
        speed: stream.drift_speed,
        features: stream.drift_features as usize,
    };
    Ok(options)
}

/// Several sinks as one.
struct Several(Vec<Box<dyn Sink>>);

impl Sink for Several {
    fn write(&mut self, outbox: &Outbox, inputs: &InputNames) -> Result<()> {
        self.0.iter_mut().try_for_each(|sink| sink.write(outbox, inputs))
    }
    fn flush(&mut self) -> Result<Vec<OutputLength>> {
        let mut lengths = Vec::new();
        for sink in &mut self.0 {
            lengths.extend(sink.flush()?);
        }
        Ok(lengths)
    }
    fn recover(&mut self, lengths: &[OutputLength]) -> Result<()> {
        self.0.iter_mut().try_for_each(|sink| sink.recover(lengths))
    }
}
