//! Where events end in a stream of bytes: the same events whatever pieces the stream arrives in, whatever the
//! framer was asked for at a time, and as a reader of the whole finds them.

use super::input::Input;
use super::memory;
use millstream::batch::{Block, RecordKind};
use millstream::decode::Format;
use millstream::source::frame::{Framer, Place};
use millstream::source::{Framing, ReadOptions};

/// An event, or what became of it: kind, offset, first byte, bytes.
type Event = (RecordKind, u64, u64, Vec<u8>);

/// Input: framing, longest event, events at a time, four lengths of pieces (used in turn), the stream.
pub fn frames(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let framing = match input.below(4) {
        0 => Framing::Lines,
        1 => Framing::Csv { header: false },
        2 => Framing::Csv { header: true },
        _ => Framing::Binary,
    };
    let event_bytes_max = [1, 5, 40, 1_000][input.below(4)];
    let at_a_time = 1 + u64::from(input.byte() % 4);
    let pieces: Vec<usize> = (0..4).map(|_| 1 + usize::from(input.byte())).collect();
    let options = ReadOptions { framing, event_bytes_max, block_bytes: 1_024 };
    let stream = input.rest();

    let bytes_max = 20_000 + 400 * stream.len();
    let whole = memory::within(bytes_max, "framing", || read(&options, stream, &[usize::MAX], 1));
    if framing == (Framing::Csv { header: true }) && whole.first().is_some_and(|e| e.0 == RecordKind::Overlong) {
        // The sources refuse an input whose header is longer than an event may be.
        return;
    }
    assert_eq!(whole, read(&options, stream, &pieces, 1), "pieces of {pieces:?}");
    assert_eq!(whole, read(&options, stream, &[1], 1), "byte by byte");
    several_at_a_time(&options, stream, &pieces, at_a_time, &whole);
    for (at, event) in whole.iter().filter(|e| e.0 != RecordKind::Header).enumerate() {
        assert_eq!(event.1, at as u64, "offsets without a gap");
        let from = event.2 as usize;
        let skipped = if framing == Framing::Binary && event.0 == RecordKind::Overlong { 4 } else { 0 };
        assert_eq!(event.3, stream[from + skipped..from + skipped + event.3.len()], "its own bytes");
    }
    if framing == Framing::Lines {
        as_lines(stream, event_bytes_max, &whole);
    }
    resumed(&options, stream, &whole);
    decoded(framing, &whole);
}

/// Asked for several events at a time, the framer gives the same rows at the same places.
fn several_at_a_time(options: &ReadOptions, stream: &[u8], pieces: &[usize], at_a_time: u64, whole: &[Event]) {
    let (mut framer, mut place) = (Framer::new(options), Place::beginning(0, options.framing));
    let several = read_with(options.framing, &mut framer, &mut place, stream, pieces, at_a_time);
    assert_eq!(rows(options.framing, whole), rows(options.framing, &several), "{at_a_time} at a time");
    assert_eq!(place.byte, stream.len() as u64, "every byte is accounted for");
    assert_eq!(place.offset, whole.iter().filter(|e| e.0 != RecordKind::Header).count() as u64);
}

/// The offset and the bytes of each row, as the decoder parts the records.
fn rows(framing: Framing, events: &[Event]) -> Vec<(u64, Vec<u8>)> {
    let mut rows = Vec::new();
    for (kind, offset, _, bytes) in events {
        match kind {
            RecordKind::Stream => {
                let block = super::rows::block(*kind, [&bytes[..]]);
                let decoded = super::rows::decode(&mut super::rows::decoder(format(framing)), &block, 100);
                rows.extend(decoded.into_iter().map(|row| (offset + row.offset, row.raw)));
            }
            _ => rows.push((*offset, bytes.clone())),
        }
    }
    rows
}

fn format(framing: Framing) -> Format {
    match framing {
        Framing::Lines => Format::Json,
        Framing::Csv { .. } => Format::Csv,
        Framing::Binary => Format::Binary,
    }
}

/// Lines as the standard library parts them.
fn as_lines(stream: &[u8], max: usize, whole: &[Event]) {
    let stream = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let blank = |line: &&[u8]| !line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r')) || line.len() > max;
    let lines: Vec<(bool, &[u8])> =
        stream.split(|b| *b == b'\n').filter(blank).map(|l| (l.len() > max, &l[..l.len().min(max)])).collect();
    let found: Vec<(bool, &[u8])> = (whole.iter())
        .map(|e| (e.0 == RecordKind::Overlong, e.3.as_slice()))
        .map(|(overlong, bytes)| (overlong, if overlong { bytes } else { event_of(bytes) }))
        .collect();
    assert_eq!(lines, found);
}

/// The event of a record of one: without the blank lines around it, and without its end.
fn event_of(record: &[u8]) -> &[u8] {
    let blank = |line: &&[u8]| !line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r'));
    record.split(|b| *b == b'\n').find(blank).unwrap_or_default()
}

/// A restart at any event's byte finds the events that follow, as they were.
fn resumed(options: &ReadOptions, stream: &[u8], whole: &[Event]) {
    for (at, event) in whole.iter().enumerate().filter(|(_, e)| e.0 != RecordKind::Header).take(8) {
        let mut place = Place { input: 0, offset: event.1, byte: event.2, header: false, fresh: false };
        let mut framer = Framer::new(options);
        let rest = read_with(options.framing, &mut framer, &mut place, &stream[event.2 as usize..], &[usize::MAX], 1);
        assert_eq!(whole[at..], rest, "read on at byte {}", event.2);
    }
}

/// What the framer calls one event, the decoder does too.
fn decoded(framing: Framing, whole: &[Event]) {
    for event in whole.iter().filter(|e| e.0 == RecordKind::Stream) {
        let rows = rows(framing, std::slice::from_ref(event));
        assert_eq!(rows.len(), 1, "{:?}", String::from_utf8_lossy(&event.3));
    }
}

/// Blank lines belong to the event before or behind, as they come: a record of one event without those before it.
fn without_blanks(framing: Framing, mut event: Event) -> Event {
    while event.0 == RecordKind::Stream
        && framing != Framing::Binary
        && let Some(end) = event.3.iter().position(|b| *b == b'\n')
    {
        let line = &event.3[..end];
        let blank = match framing {
            Framing::Lines => line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r')),
            _ => line.is_empty() || line == b"\r",
        };
        if !blank {
            break;
        }
        event.3.drain(..=end);
        event.2 += end as u64 + 1;
    }
    event
}

fn read(options: &ReadOptions, stream: &[u8], pieces: &[usize], at_a_time: u64) -> Vec<Event> {
    let (mut framer, mut place) = (Framer::new(options), Place::beginning(0, options.framing));
    read_with(options.framing, &mut framer, &mut place, stream, pieces, at_a_time)
}

/// What a reader makes of a stream that arrives in pieces.
fn read_with(
    framing: Framing,
    framer: &mut Framer,
    place: &mut Place,
    mut stream: &[u8],
    pieces: &[usize],
    at_a_time: u64,
) -> Vec<Event> {
    let (mut block, mut tail, mut events) = (Block::default(), Vec::new(), Vec::new());
    let mut lengths = pieces.iter().cycle();
    loop {
        let length = (*lengths.next().expect("at least one length")).min(stream.len());
        let ended = stream.is_empty();
        block.clear();
        block.bytes.append(&mut tail);
        block.bytes.extend_from_slice(&stream[..length]);
        stream = &stream[length..];
        loop {
            // As a connection asks, once the input's first bytes were looked at for a byte order mark.
            let complete = !place.fresh && framer.is_complete(&block.bytes);
            let rest = framer.records(&mut block, 0, place, at_a_time, ended);
            assert!(rest > 0 || !complete || block.bytes.is_empty(), "complete, and no progress");
            let quiet = block.records.is_empty() && rest == 0;
            events.extend(block.records.iter().map(|r| (r.kind, r.offset, r.byte, r.span.of(&block.bytes).to_vec())));
            block.bytes.drain(..rest);
            block.records.clear();
            if quiet || block.bytes.is_empty() {
                break;
            }
        }
        tail.append(&mut block.bytes);
        if ended {
            assert!(tail.is_empty(), "nothing is left at the end");
            let one = |event| if at_a_time == 1 { without_blanks(framing, event) } else { event };
            return events.into_iter().map(one).collect();
        }
    }
}
