//! What travels on the road: a block of bytes, the batch decoded from it, and the outbox it becomes.
//!
//! A [`Block`] is bytes as a source read them, with the place of each record. A [`Batch`] holds up to
//! a fixed number of its events, decoded: numbers in one row-major matrix (rows × numeric fields, f64,
//! NaN where missing), texts in an arena. An [`Outbox`] is the bytes that answer a block. All three are
//! reused; in steady state none of them allocates.

/// A half-open range of bytes in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The range `start..end`.
    pub fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }
    /// The bytes of the range.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }
    /// Length in bytes.
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }
    /// True where the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// How the events inside a record are numbered, and what the record's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// A run of whole events of a file or a connection: each takes the next offset.
    Stream,
    /// A message (of Kafka) that may pack several events: all share its offset and are numbered by row.
    Message,
    /// The header line of a CSV input: names the columns of the input's later records, holds no event.
    Header,
    /// One event that was longer than `event_bytes_max`: its first bytes. It becomes a dead letter.
    Overlong,
}

/// The place of a record in a [`Block`], and its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The record's bytes in `Block::bytes`.
    pub span: Span,
    /// The input's number in the lane's table of inputs.
    pub input: u32,
    /// What the bytes are.
    pub kind: RecordKind,
    /// The offset of the record's first event.
    pub offset: u64,
    /// Where in its input the record's first byte stands (files; 0 elsewhere).
    pub byte: u64,
    /// The message's key in `Block::bytes` (Kafka; `None` elsewhere or where it has none).
    pub key: Option<Span>,
    /// The message's headers in `Block::bytes`, in the encoding of the source that wrote them.
    pub headers: Option<Span>,
}

/// Bytes as a source read them, in order, with the place of each record.
#[derive(Debug, Default)]
pub struct Block {
    /// The bytes of all records (and of keys and headers).
    pub bytes: Vec<u8>,
    /// The records, in the order in which the lane takes them.
    pub records: Vec<Record>,
    /// When the first byte arrived, on the process's monotonic clock (ns). For latency only.
    pub read_at_ns: u64,
}

impl Block {
    /// Empties the block, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.read_at_ns = 0;
    }
}

/// Where decoding stands inside a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Index of the record.
    pub record: usize,
    /// Byte inside the record.
    pub byte: usize,
    /// Events already taken from the record.
    pub row: u32,
}

/// The stage at which an event was turned away; the name is public (dead letters, metrics).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The bytes are not a row of the format.
    Decode,
    /// A limit was broken: bytes, fields, nesting, string length.
    Limit,
    /// The row is well-formed, but a field's value is not of its type.
    Schema,
    /// A field with `missing = "reject"` is missing.
    Missing,
}

impl Stage {
    /// All stages, in the order of their numbers.
    pub const ALL: [Stage; 4] = [Stage::Decode, Stage::Limit, Stage::Schema, Stage::Missing];
    /// The public name.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Decode => "decode",
            Stage::Limit => "limit",
            Stage::Schema => "schema",
            Stage::Missing => "missing",
        }
    }
}

/// Why an event was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reject {
    /// At which stage.
    pub stage: Stage,
    /// What was wrong: a short sentence without the row's own bytes.
    pub reason: &'static str,
    /// Index of the field in the schema, where one is to blame.
    pub field: Option<u16>,
    /// Byte of the row at which it was noticed.
    pub byte: u32,
}

/// What decoding made of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowStatus {
    /// It can be scored.
    Ok,
    /// It becomes a dead letter.
    Rejected(Reject),
}

/// What a token's bytes were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenKind {
    /// Absent, null or empty.
    #[default]
    Missing,
    /// A string: unescaped UTF-8.
    Text,
    /// A number or a boolean, as it was written.
    Literal,
}

/// A category, text, key or id: bytes in [`Batch::text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Token {
    /// Its bytes in the batch's arena.
    pub span: Span,
    /// What they were.
    pub kind: TokenKind,
}

/// Where a row came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowOrigin {
    /// The row's own bytes in the block (without the line's end).
    pub raw: Span,
    /// Index of its record in the block.
    pub record: u32,
    /// The input's number in the lane's table of inputs.
    pub input: u32,
    /// The event's offset in its input.
    pub offset: u64,
    /// Its number inside a packed message; `None` where the message holds one event, or no messages exist.
    pub row: Option<u32>,
    /// Client sequence number of a binary frame; 0 elsewhere.
    pub sequence: u64,
}

/// Consecutive events of one lane, decoded. Capacity is fixed; the memory is reused.
#[derive(Debug, Default)]
pub struct Batch {
    /// Numbers a row: the stride of `numbers`.
    pub number_stride: usize,
    /// Tokens a row: the stride of `tokens`.
    pub token_stride: usize,
    /// rows × number_stride, row-major; NaN is missing. Booleans are 0 and 1, timestamps milliseconds.
    pub numbers: Vec<f64>,
    /// rows × token_stride, row-major.
    pub tokens: Vec<Token>,
    /// The arena of the tokens' bytes.
    pub text: Vec<u8>,
    /// One a row.
    pub origins: Vec<RowOrigin>,
    /// One a row.
    pub status: Vec<RowStatus>,
}

impl Batch {
    /// An empty batch of the given strides.
    pub fn new(number_stride: usize, token_stride: usize) -> Batch {
        Batch { number_stride, token_stride, ..Batch::default() }
    }
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.origins.len()
    }
    /// True where it holds no row.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }
    /// Empties the batch, keeping its memory.
    pub fn clear(&mut self) {
        self.numbers.clear();
        self.tokens.clear();
        self.text.clear();
        self.origins.clear();
        self.status.clear();
    }
    /// Makes `to` equal; its memory is used again.
    pub fn copy_to(&self, to: &mut Batch) {
        (to.number_stride, to.token_stride) = (self.number_stride, self.token_stride);
        to.numbers.clone_from(&self.numbers);
        to.tokens.clone_from(&self.tokens);
        to.text.clone_from(&self.text);
        to.origins.clone_from(&self.origins);
        to.status.clone_from(&self.status);
    }
    /// Adds a row, all missing, and returns its index. Its strides are filled; the caller overwrites.
    pub fn push_row(&mut self, origin: RowOrigin) -> usize {
        self.push_cells();
        self.origins.push(origin);
        self.status.push(RowStatus::Ok);
        self.origins.len() - 1
    }
    /// Adds the cells of a row, all missing, whose origin and status are not yet known: for the caller to push.
    #[inline]
    pub(crate) fn push_cells(&mut self) {
        self.numbers.resize(self.numbers.len() + self.number_stride, f64::NAN);
        self.tokens.resize(self.tokens.len() + self.token_stride, Token::default());
    }
    /// The numbers of a row.
    #[inline]
    pub fn row_numbers(&self, row: usize) -> &[f64] {
        &self.numbers[row * self.number_stride..(row + 1) * self.number_stride]
    }
    /// The tokens of a row.
    #[inline]
    pub fn row_tokens(&self, row: usize) -> &[Token] {
        &self.tokens[row * self.token_stride..(row + 1) * self.token_stride]
    }
    /// The bytes of a token.
    pub fn token_bytes(&self, token: Token) -> &[u8] {
        token.span.of(&self.text)
    }
}

/// What a model predicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Probability of true. Targets are 0 and 1.
    Binary,
    /// A score a class. Targets are class numbers.
    Multiclass,
    /// A number.
    Regression,
    /// How unusual a row is, in [0, 1]; higher is more unusual.
    Anomaly,
    /// The number of the nearest cluster, and the distance to it.
    Clusters,
}

/// The scores of a batch, row-major, and what an encoder needs to name them.
#[derive(Debug)]
pub struct Scores {
    /// What the model predicts.
    pub task: Task,
    /// Numbers a row: Binary, Regression, Anomaly 1; Clusters 2 (number, distance); Multiclass one a
    /// class known so far, which may grow from row to row inside a batch: hence `ends`.
    pub values: Vec<f64>,
    /// Where each row's numbers end in `values`; one a row. A rejected row has none.
    pub ends: Vec<u32>,
    /// Names of the classes by number (Multiclass).
    pub classes: Vec<Vec<u8>>,
    /// Version of the pipeline that scored the batch: 8 hex digits.
    pub version: String,
    /// Its swap number.
    pub swap: u64,
}

impl Scores {
    /// The numbers of a row.
    #[inline]
    pub fn row(&self, row: usize) -> &[f64] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] as usize };
        &self.values[start..self.ends[row] as usize]
    }
    /// Forgets the rows, keeping the memory and the names.
    pub fn clear(&mut self) {
        self.values.clear();
        self.ends.clear();
    }
}

/// The answer to one record of a block: its bytes in [`Outbox::bytes`].
///
/// A packed message is answered by one record, however many batches it was cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutRecord {
    /// Its bytes in `Outbox::bytes`.
    pub span: Span,
    /// The input of the events that it answers.
    pub input: u32,
    /// Key of the message that it answers, in `Outbox::keys` (Kafka).
    pub key: Option<Span>,
    /// Number of predictions (and, on an answering socket, error lines) in it.
    pub rows: u32,
}

/// A bad event on its way to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event's own bytes, as they came.
    pub raw: Vec<u8>,
    /// Why.
    pub reject: Reject,
    /// The field to blame, by name.
    pub field: Option<String>,
    /// The input it came from.
    pub input: u32,
    /// Its offset there.
    pub offset: u64,
    /// Its number inside a packed message.
    pub row: Option<u32>,
    /// Key of its message.
    pub key: Option<Vec<u8>>,
    /// Headers of its message, in the encoding of the source that wrote them.
    pub headers: Option<Vec<u8>>,
}

/// The predictions and dead letters of one block, as bytes ready to go out.
#[derive(Debug, Default)]
pub struct Outbox {
    /// The bytes of all records.
    pub bytes: Vec<u8>,
    /// The records, in the order of the events.
    pub records: Vec<OutRecord>,
    /// The keys of the records.
    pub keys: Vec<u8>,
    /// The bad events.
    pub dead: Vec<DeadLetter>,
    /// Number of predictions in `bytes`.
    pub predictions: u64,
    /// When the first byte of the events was read (ns, monotonic).
    pub read_at_ns: u64,
    /// When the predictions were ready (ns, monotonic).
    pub encoded_at_ns: u64,
}

impl Outbox {
    /// Empties the outbox, keeping its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.keys.clear();
        self.dead.clear();
        self.predictions = 0;
        self.read_at_ns = 0;
        self.encoded_at_ns = 0;
    }
    /// True where nothing is to go out.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.dead.is_empty()
    }
}

/// The process's monotonic clock in nanoseconds: what blocks and outboxes are stamped with, for latency
/// alone. The same clock as other processes of the machine read as `CLOCK_MONOTONIC`.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
