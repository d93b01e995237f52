//! The story: once a stream runs, nothing on the road asks for memory.
//!
//! A lane's core takes blocks of events as its worker hands them over: decode, score, learn, encode. After some blocks
//! all buffers have the size that they need; from then on an allocator that counts must have nothing to count, for
//! every format and for models of every shape. What a commit or a checkpoint asks for is not the road's.

use millstream::batch::{Block, Cursor, Outbox, Record, RecordKind, Span};
use millstream::decode::{DecodeOptions, Decoder, Format};
use millstream::encode::{EncodeOptions, Encoder};
use millstream::engine::ahead::Ahead;
use millstream::engine::lane::{LaneCore, LaneParts};
use millstream::engine::ledger::Ledger;
use millstream::metrics::LaneMetrics;
use millstream::pipeline::Pipeline;
use millstream::source::Framing;
use millstream::source::generator::{GeneratorOptions, Kind, schema_toml, write_rows};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

/// The system's allocator; counts what each thread asks for.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

fn asked() {
    // A thread that ends has no counter any more, and need not be counted.
    let _ = ASKED.try_with(|asked| asked.set(asked.get() + 1));
}

// SAFETY: every call is the system allocator's own; counting touches no memory of the caller's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        asked();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        asked();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        asked();
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const EVENTS_A_BLOCK: u64 = 700;
/// Blocks until all buffers have grown, the windows of the live quality are full, and the layout is known.
const BLOCKS_BEFORE: u64 = 60;
const BLOCKS_COUNTED: u64 = 30;

fn block(rows: &Rows, number: u64) -> Block {
    let mut bytes = Vec::new();
    let framing = match rows.format {
        Format::Json => Framing::Lines,
        Format::Csv => Framing::Csv { header: false },
        Format::Binary => Framing::Binary,
    };
    let from = number * EVENTS_A_BLOCK;
    write_rows(&GeneratorOptions::new(rows.kind, 7), framing, from, EVENTS_A_BLOCK, &mut bytes).expect("rows");
    let bytes = (rows.written)(bytes, number);
    let span = Span::new(0, bytes.len());
    let kind = RecordKind::Stream;
    let record = Record { span, input: 0, kind, offset: from, byte: 0, key: None, headers: None };
    Block { bytes, records: vec![record], read_at_ns: 1 }
}

/// A stream: who makes it, in which format, and how the bytes are changed before they are sent.
struct Rows {
    kind: Kind,
    format: Format,
    written: fn(Vec<u8>, u64) -> Vec<u8>,
}

fn as_it_is(bytes: Vec<u8>, _: u64) -> Vec<u8> {
    bytes
}

/// Another key, in another place, in each block's rows: the predicted layout fails again and again.
fn with_a_key_that_moves(bytes: Vec<u8>, number: u64) -> Vec<u8> {
    let text = String::from_utf8(bytes).expect("text");
    let extra = format!("\"x\\u00e9{}\":[{number},{{\"a\":\"\\n\"}}]", number % 7);
    let line = |line: &str| match number % 2 {
        0 => format!("{{{extra},{}\n", &line[1..]),
        _ => format!("{},{extra}}}\n", &line[..line.len() - 1]),
    };
    text.lines().map(line).collect::<String>().into_bytes()
}

/// Each fiftieth line is no row.
fn with_bad_rows(bytes: Vec<u8>, _: u64) -> Vec<u8> {
    let text = String::from_utf8(bytes).expect("text");
    let lines = text.lines().enumerate().map(|(i, l)| if i % 50 == 0 { format!("{l},\n") } else { format!("{l}\n") });
    lines.collect::<String>().into_bytes()
}

fn lane(spec: &str, rows: &Rows, resumable: bool) -> LaneCore {
    let pipeline = Pipeline::from_spec_text(spec).expect("the spec");
    let names: Vec<String> = pipeline.schema().fields.iter().map(|f| f.name.clone()).collect();
    let columns = (rows.format == Format::Csv).then(|| names.clone());
    let decode = DecodeOptions { format: rows.format, event_bytes_max: 1 << 20, nesting_max: 64, columns };
    let encode = EncodeOptions { lane: None, answer_rejects: true, newline: true };
    let parts = LaneParts {
        lane: 0,
        decoder: Decoder::new(pipeline.schema(), &decode).expect("a decoder"),
        encoder: Encoder::new(pipeline.schema(), &encode),
        metrics: Arc::new(LaneMetrics::new(0, names, pipeline.version())),
        pipeline,
        batch_events_max: 256,
        learn: true,
    };
    let ledger = Ledger::new(0, "lineage", None, resumable, resumable);
    let mut core = LaneCore::new(parts, ledger, None).expect("a lane");
    core.names = Arc::new(vec!["events/0".into()]);
    core
}

/// How often the road asked for memory over some blocks, once it ran; and how many predictions it made meanwhile.
fn asked_on_the_road(spec: &str, rows: &Rows, resumable: bool) -> (u64, u64) {
    let mut core = lane(spec, rows, resumable);
    let mut outbox = Outbox::default();
    let (mut count, mut predictions) = (0, 0);
    for number in 0..BLOCKS_BEFORE + BLOCKS_COUNTED {
        let block = block(rows, number);
        let before = ASKED.with(Cell::get);
        outbox.clear();
        let mut cursor = Cursor::default();
        while core.step(&block, &mut cursor, u64::MAX, &mut outbox) {}
        core.ledger.finished(&block);
        if number >= BLOCKS_BEFORE {
            count += ASKED.with(Cell::get) - before;
            predictions += outbox.predictions;
        }
    }
    (count, predictions)
}

fn hyperplane() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/models/hyperplane.toml")).expect("the model")
}

/// A spec over the fields of a generated stream.
fn spec(kind: Kind, steps: &str, model: &str) -> String {
    let pipeline = schema_toml(&GeneratorOptions::new(kind, 7));
    format!("name = \"road\"\n{pipeline}{steps}[model]\n{model}\n")
}

fn streams() -> Vec<(&'static str, String, Rows)> {
    let rows = |kind, format| Rows { kind, format, written: as_it_is };
    let scale = "[[steps]]\nkind = \"standard-scale\"\n";
    let moving = Rows { kind: Kind::Hyperplane, format: Format::Json, written: with_a_key_that_moves };
    vec![
        ("json", hyperplane(), rows(Kind::Hyperplane, Format::Json)),
        ("json, keys that move", hyperplane(), moving),
        ("csv", hyperplane(), rows(Kind::Hyperplane, Format::Csv)),
        ("binary", hyperplane(), rows(Kind::Hyperplane, Format::Binary)),
        (
            "categories, hashed",
            spec(Kind::Stagger, "[[steps]]\nkind = \"hash\"\nbits = 10\n", "kind = \"logistic-regression\""),
            rows(Kind::Stagger, Format::Json),
        ),
        (
            "categories, hashed into a table so large that rows are made ready ahead",
            spec(Kind::Stagger, "[[steps]]\nkind = \"hash\"\nbits = 20\n", "kind = \"logistic-regression\""),
            rows(Kind::Stagger, Format::Json),
        ),
        (
            "categories, one-hot",
            spec(Kind::Stagger, "[[steps]]\nkind = \"one-hot\"\n", "kind = \"passive-aggressive\""),
            rows(Kind::Stagger, Format::Csv),
        ),
        (
            "classes, softmax",
            spec(Kind::Led, "", "kind = \"softmax-regression\"\noptimizer = \"adam\""),
            rows(Kind::Led, Format::Json),
        ),
        (
            "classes, network",
            spec(Kind::Rbf, scale, "kind = \"multilayer-perceptron\"\nlayers = [8]\nunit_events = 16"),
            rows(Kind::Rbf, Format::Json),
        ),
        ("classes, bayes", spec(Kind::Rbf, "", "kind = \"gaussian-naive-bayes\""), rows(Kind::Rbf, Format::Binary)),
        (
            "quantiles",
            spec(
                Kind::Sea,
                "[[steps]]\nkind = \"clip\"\nlower_quantile = 0.01\nupper_quantile = 0.99\n",
                "kind = \"logistic-regression\"\noptimizer = { kind = \"ftrl\", alpha = 0.1 }",
            ),
            rows(Kind::Sea, Format::Json),
        ),
    ]
}

#[test]
fn a_stream_that_runs_asks_for_no_memory() {
    let mut faults = Vec::new();
    for (name, spec, rows) in streams() {
        for resumable in [false, true] {
            let (count, predictions) = asked_on_the_road(&spec, &rows, resumable);
            assert_eq!(predictions, BLOCKS_COUNTED * EVENTS_A_BLOCK, "{name}: every event has a prediction");
            if count > 0 {
                faults.push(format!("{name} (resumable: {resumable}): asked {count} times in {predictions} events"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The counter counts: a bad row becomes a dead letter, which owns its bytes.
#[test]
fn a_dead_letter_is_seen_by_the_counter() {
    let rows = Rows { kind: Kind::Hyperplane, format: Format::Csv, written: with_bad_rows };
    let (count, predictions) = asked_on_the_road(&hyperplane(), &rows, false);
    let bad = BLOCKS_COUNTED * EVENTS_A_BLOCK / 50;
    assert_eq!(predictions, BLOCKS_COUNTED * EVENTS_A_BLOCK - bad);
    assert!(count >= bad, "{bad} dead letters, memory was asked for {count} times");
}

/// The lane as its worker drives it where the next block is decoded ahead, and the lane that decodes for itself.
#[test]
fn decoding_ahead_changes_nothing_and_asks_for_no_memory() {
    for (name, spec, rows) in streams() {
        let (mut plain, mut core) = (lane(&spec, &rows, true), lane(&spec, &rows, true));
        let (like, most) = core.batch_like();
        let mut ahead = Ahead::start(like, most, "decode".into()).expect("a thread");
        let (mut expected, mut found) = (Outbox::default(), Outbox::default());
        let names = core.names.clone();
        for number in 0..=BLOCKS_BEFORE + BLOCKS_COUNTED {
            let mut next = block(&rows, number);
            assert!(Ahead::is_worth(&next) || rows.kind == Kind::Stagger, "{name}: {} bytes", next.bytes.len());
            let mut cursor = Cursor::default();
            expected.clear();
            while number > 0 && plain.step(&block(&rows, number - 1), &mut cursor, u64::MAX, &mut expected) {}
            let before = ASKED.with(Cell::get);
            let taken = ahead.wait().expect("a living thread").map(|(decoded, decoder)| {
                core.return_decoder(decoder);
                decoded
            });
            ahead.submit(&mut next, &names, core.lend_decoder()).expect("a living thread");
            assert_eq!((ahead.under_way(), taken.is_some()), (true, number > 0));
            if let Some(mut decoded) = taken {
                let (block, batches) = decoded.parts();
                found.clear();
                batches.iter_mut().for_each(|batch| core.step_decoded(block, batch, &mut found));
                ahead.recycle(decoded);
            }
            let asked = ASKED.with(Cell::get) - before;
            assert!(number <= BLOCKS_BEFORE || asked == 0, "{name}: asked {asked} times in block {number}");
            assert!(found.bytes == expected.bytes, "{name}: block {number} is answered differently");
        }
        assert_eq!(core.digest(), plain.digest(), "{name}");
        assert_eq!(core.seq(), (BLOCKS_BEFORE + BLOCKS_COUNTED) * EVENTS_A_BLOCK, "{name}");
    }
}
