//! Where events end in a stream of bytes: the one framer of files, standard input and sockets.
//!
//! - `Lines`: an event ends at `\n`. Lines of nothing but spaces, tabs and `\r` are no events.
//! - `Csv`: the same, but a line's end inside a quoted cell belongs to the cell (RFC 4180; a quote
//!   opens a cell only as its first byte). Empty lines are no events.
//! - `Binary`: a `u32` (little-endian) that gives the length of the rest, then the rest.
//!
//! An event longer than `event_bytes_max` (a line without its `\n`, a frame's rest) yields one
//! `Overlong` record of its first `event_bytes_max` bytes, which takes an offset; what follows is
//! skipped without being held: for lines and CSV up to the first `\n` (quoted or not, so that a stray
//! quote cannot swallow the stream), for frames by the announced length. Nothing is ever allocated by
//! an announced length.

use super::{Framing, ReadOptions};
use crate::batch::{Block, Record, RecordKind, Span};

/// The bytes of a byte order mark.
const BOM: &[u8; 3] = b"\xEF\xBB\xBF";

/// Where an input stands while it is framed: what its next record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The input's number in the lane's table.
    pub input: u32,
    /// Offset of the next event.
    pub offset: u64,
    /// Position in the input of the first byte that was not yet framed.
    pub byte: u64,
    /// True until the header line (CSV) was seen.
    pub header: bool,
    /// True until the input's first bytes were looked at for a byte order mark.
    pub fresh: bool,
}

impl Place {
    /// The beginning of an input.
    pub fn beginning(input: u32, framing: Framing) -> Place {
        let header = framing == (Framing::Csv { header: true });
        Place { input, offset: 0, byte: 0, header, fresh: framing != Framing::Binary }
    }

    /// A record that begins here.
    fn record(&self, span: Span, kind: RecordKind) -> Record {
        Record { span, input: self.input, kind, offset: self.offset, byte: self.byte, key: None, headers: None }
    }
}

/// What a run of bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// One past the last whole event (and the blank lines around).
    end: usize,
    /// Whole events before it.
    events: u64,
    /// The event that begins at `end` is longer than allowed.
    overlong: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Skip {
    Nothing,
    /// Up to the next `\n`.
    Line,
    /// So many bytes.
    Bytes(u64),
}

/// Finds the ends of events; remembers what it saw of an unfinished one, so no byte is searched twice.
#[derive(Debug, Clone)]
pub struct Framer {
    framing: Framing,
    event_bytes_max: usize,
    /// Bytes of the unfinished event that hold no end.
    scanned: usize,
    /// CSV: whether byte `scanned` stands inside quotes.
    quoted: bool,
    skip: Skip,
}

impl Framer {
    /// A framer at the beginning of an event.
    pub fn new(options: &ReadOptions) -> Framer {
        let event_bytes_max = options.event_bytes_max.max(1);
        Framer { framing: options.framing, event_bytes_max, scanned: 0, quoted: false, skip: Skip::Nothing }
    }

    /// Goes on behind the next line's end: for a position inside a line, which is the rest of an
    /// overlong event.
    pub fn skip_line(&mut self) {
        self.skip = Skip::Line;
    }

    /// True where `bytes`, which begin with the unfinished event, hold the end of it (or more of it
    /// than is allowed): [`Framer::records`] will make progress.
    pub fn is_complete(&mut self, bytes: &[u8]) -> bool {
        if self.skip != Skip::Nothing {
            return true;
        }
        let (scanned, quoted) = (self.scanned, self.quoted);
        let cut = self.cut(bytes, 1, false);
        if cut.end > 0 || cut.overlong {
            (self.scanned, self.quoted) = (scanned, quoted);
            return true;
        }
        false
    }

    /// Frames `block.bytes[start..]`, which begin with the unfinished event, into records of at most
    /// `events_max` events. `ended`: nothing will follow, so an unfinished event is one (a frame that
    /// was cut short is handed on as a `Stream` record for the decoder to refuse).
    ///
    /// Returns where the unfinished event begins; keep the bytes from there on for the next call.
    pub fn records(
        &mut self,
        block: &mut Block,
        start: usize,
        place: &mut Place,
        events_max: u64,
        ended: bool,
    ) -> usize {
        let Block { bytes, records, .. } = block;
        let (bytes, mut at, mut left) = (bytes.as_slice(), start, events_max);
        if place.fresh {
            match self.skip_bom(&bytes[at..], place, ended) {
                Some(skipped) => at += skipped,
                None => return at,
            }
        }
        loop {
            let skipped = self.skipped(&bytes[at..]);
            at += skipped;
            place.byte += skipped as u64;
            if self.skip != Skip::Nothing || left == 0 && !place.header {
                return at;
            }
            let cut = self.cut(&bytes[at..], if place.header { 1 } else { left }, ended);
            if cut.events > 0 {
                let span = Span::new(at, at + cut.end);
                if place.header {
                    place.header = false;
                    let line = trim_line(bytes, span);
                    let byte = place.byte + u64::from(line.start - span.start);
                    records.push(Record { byte, ..place.record(line, RecordKind::Header) });
                } else {
                    records.push(place.record(span, RecordKind::Stream));
                    place.offset += cut.events;
                    left -= cut.events;
                }
            }
            at += cut.end;
            place.byte += cut.end as u64;
            if cut.overlong && left > 0 {
                let (kept, step) = self.overlong(&bytes[at..]);
                let span = Span::new(at + kept.0, at + kept.1);
                records.push(place.record(span, RecordKind::Overlong));
                place.offset += 1;
                left -= 1;
                at += step;
                place.byte += step as u64;
            } else if cut.events == 0 {
                return at;
            }
        }
    }

    /// The byte order mark's length, if there is one; `None` where that can't be known yet.
    fn skip_bom(&self, bytes: &[u8], place: &mut Place, ended: bool) -> Option<usize> {
        if bytes.len() < BOM.len() && BOM.starts_with(bytes) && !ended {
            return None;
        }
        place.fresh = false;
        let skipped = if bytes.starts_with(BOM) { BOM.len() } else { 0 };
        place.byte += skipped as u64;
        Some(skipped)
    }

    /// Forgets up to the end of what is being skipped; returns how many bytes that were.
    fn skipped(&mut self, bytes: &[u8]) -> usize {
        let (done, count) = match self.skip {
            Skip::Nothing => return 0,
            Skip::Line => match memchr::memchr(b'\n', bytes) {
                Some(i) => (true, i + 1),
                None => (false, bytes.len()),
            },
            Skip::Bytes(n) if n <= bytes.len() as u64 => (true, n as usize),
            Skip::Bytes(n) => {
                self.skip = Skip::Bytes(n - bytes.len() as u64);
                return bytes.len();
            }
        };
        if done {
            self.skip = Skip::Nothing;
        }
        count
    }

    /// The part of an overlong event that is kept, and how far to step; sets what is to be skipped.
    fn overlong(&mut self, bytes: &[u8]) -> ((usize, usize), usize) {
        self.scanned = 0;
        self.quoted = false;
        let max = self.event_bytes_max;
        if self.framing == Framing::Binary {
            let kept = max.min(bytes.len() - 4);
            self.skip = Skip::Bytes(frame_len(bytes).unwrap_or(0) as u64 - kept as u64);
            return ((4, 4 + kept), 4 + kept);
        }
        // A line's end as the last kept byte (in a quoted cell) ends the skip at once, so that a
        // position behind the record means the same when it is read from a journal.
        self.skip = if bytes[max - 1] == b'\n' { Skip::Nothing } else { Skip::Line };
        ((0, max), max)
    }

    fn cut(&mut self, bytes: &[u8], events_max: u64, ended: bool) -> Cut {
        match self.framing {
            Framing::Lines => self.cut_lines(bytes, events_max, ended),
            Framing::Csv { .. } => self.cut_csv(bytes, events_max, ended),
            Framing::Binary => self.cut_frames(bytes, events_max, ended),
        }
    }

    fn cut_lines(&mut self, bytes: &[u8], events_max: u64, ended: bool) -> Cut {
        let (mut start, mut from, mut events) = (0, self.scanned, 0);
        self.scanned = 0;
        while events < events_max {
            let Some(i) = memchr::memchr(b'\n', &bytes[from..]) else {
                return self.unfinished(bytes, start, events, ended);
            };
            let end = from + i;
            if end - start > self.event_bytes_max {
                return Cut { end: start, events, overlong: true };
            }
            events += u64::from(!is_blank_line(&bytes[start..end]));
            start = end + 1;
            from = start;
        }
        Cut { end: start, events, overlong: false }
    }

    fn cut_csv(&mut self, bytes: &[u8], events_max: u64, ended: bool) -> Cut {
        let (mut start, mut at, mut quoted, mut events) = (0, self.scanned, self.quoted, 0);
        (self.scanned, self.quoted) = (0, false);
        while events < events_max {
            if quoted {
                match memchr::memchr(b'"', &bytes[at..]) {
                    Some(i) if at + i + 1 < bytes.len() => {
                        quoted = bytes[at + i + 1] == b'"';
                        at += i + 1 + usize::from(quoted);
                        continue;
                    }
                    // A quote as the last byte may be the first half of a doubled one.
                    Some(i) => at += i,
                    None => at = bytes.len(),
                }
            } else {
                match memchr::memchr2(b'\n', b'"', &bytes[at..]) {
                    Some(i) if bytes[at + i] == b'"' => {
                        quoted = at + i == start || bytes[at + i - 1] == b',';
                        at += i + 1;
                        continue;
                    }
                    Some(i) if at + i - start <= self.event_bytes_max => {
                        events += u64::from(!is_empty_line(&bytes[start..at + i]));
                        at += i + 1;
                        start = at;
                        continue;
                    }
                    Some(_) => return Cut { end: start, events, overlong: true },
                    None => at = bytes.len(),
                }
            }
            let cut = self.unfinished(bytes, start, events, ended);
            if cut.end == start && !cut.overlong && start < bytes.len() {
                (self.scanned, self.quoted) = (at - start, quoted);
            }
            return cut;
        }
        Cut { end: start, events, overlong: false }
    }

    /// What to make of the line without an end that begins at `start`.
    fn unfinished(&mut self, bytes: &[u8], start: usize, events: u64, ended: bool) -> Cut {
        let rest = &bytes[start..];
        if rest.len() > self.event_bytes_max {
            return Cut { end: start, events, overlong: true };
        }
        if ended {
            let blank = match self.framing {
                Framing::Csv { .. } => is_empty_line(rest),
                _ => is_blank_line(rest),
            };
            return Cut { end: bytes.len(), events: events + u64::from(!blank), overlong: false };
        }
        self.scanned = rest.len();
        Cut { end: start, events, overlong: false }
    }

    fn cut_frames(&mut self, bytes: &[u8], events_max: u64, ended: bool) -> Cut {
        let (mut start, mut events) = (0, 0);
        while events < events_max {
            let rest = &bytes[start..];
            let whole = match frame_len(rest) {
                Some(len) if len > self.event_bytes_max => {
                    let overlong = ended || rest.len() - 4 >= self.event_bytes_max;
                    return Cut { end: start, events, overlong };
                }
                Some(len) => rest.len() - 4 >= len,
                None => false,
            };
            if whole {
                start += 4 + frame_len(rest).unwrap_or(0);
            } else if ended && !rest.is_empty() {
                start = bytes.len();
            } else {
                break;
            }
            events += 1;
        }
        Cut { end: start, events, overlong: false }
    }
}

/// True for a line that is no event: spaces, tabs and `\r` only.
fn is_blank_line(line: &[u8]) -> bool {
    match line.first() {
        None => true,
        Some(b' ' | b'\t' | b'\r') => line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r')),
        Some(_) => false,
    }
}

/// True for a CSV line that is no event: nothing, or `\r`.
fn is_empty_line(line: &[u8]) -> bool {
    line.is_empty() || line == b"\r"
}

/// The announced length of a frame's rest, once its four bytes are there.
fn frame_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<4>().map(|b| u32::from_le_bytes(*b) as usize)
}

/// The span without the line's ends around it.
fn trim_line(bytes: &[u8], span: Span) -> Span {
    let (mut start, mut end) = (span.start as usize, span.end as usize);
    while start < end && matches!(bytes[start], b'\n' | b'\r') {
        start += 1;
    }
    while start < end && matches!(bytes[end - 1], b'\n' | b'\r') {
        end -= 1;
    }
    Span::new(start, end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a reader makes of a stream that arrives in the given pieces: kind, offset, byte, bytes;
    /// stream records cut into single events.
    fn read(framing: Framing, max: usize, pieces: &[&[u8]]) -> Vec<(RecordKind, u64, u64, Vec<u8>)> {
        let options = ReadOptions { framing, event_bytes_max: max, block_bytes: 1024 };
        let (mut framer, mut place) = (Framer::new(&options), Place::beginning(7, framing));
        let (mut block, mut tail, mut out) = (Block::default(), Vec::new(), Vec::new());
        for i in 0..=pieces.len() {
            block.clear();
            block.bytes.append(&mut tail);
            block.bytes.extend_from_slice(pieces.get(i).copied().unwrap_or_default());
            let ended = i == pieces.len();
            loop {
                // One event a call: the bytes of each stream record are then one event's.
                let from = out.len();
                let rest = framer.records(&mut block, 0, &mut place, 1, ended);
                for r in &block.records {
                    assert_eq!(r.input, 7);
                    out.push((r.kind, r.offset, r.byte, r.span.of(&block.bytes).to_vec()));
                }
                block.records.clear();
                block.bytes.drain(..rest);
                if out.len() == from {
                    break;
                }
            }
            tail.append(&mut block.bytes);
        }
        assert!(tail.is_empty(), "bytes left behind: {tail:?}");
        out
    }

    fn texts(framing: Framing, max: usize, input: &str) -> Vec<String> {
        let out = read(framing, max, &[input.as_bytes()]);
        out.iter().map(|(k, o, _, b)| format!("{k:?} {o} {}", String::from_utf8_lossy(b))).collect()
    }

    const CSV: Framing = Framing::Csv { header: true };

    #[test]
    fn blank_lines_hold_no_event() {
        assert_eq!(texts(Framing::Lines, 99, "\n \r\n{1}\n\t\n{2}"), ["Stream 0 \n \r\n{1}\n", "Stream 1 {2}"]);
        assert_eq!(texts(CSV, 99, "\r\na,b\r\n\n1,2\n"), ["Header 0 a,b", "Stream 0 \n1,2\n"]);
        assert_eq!(texts(Framing::Lines, 99, " \n\n"), Vec::<String>::new());
    }

    #[test]
    fn a_quoted_cell_may_hold_line_ends_and_quotes() {
        let rows = "h\n\"a\nb\",\"c\"\"\n\"\nd\"e,\"f\n";
        assert_eq!(texts(CSV, 99, rows), ["Header 0 h", "Stream 0 \"a\nb\",\"c\"\"\n\"\n", "Stream 1 d\"e,\"f\n"]);
    }

    #[test]
    fn limits_at_under_and_over() {
        assert_eq!(texts(Framing::Lines, 4, "123\n1234\nx\n"), ["Stream 0 123\n", "Stream 1 1234\n", "Stream 2 x\n"]);
        assert_eq!(texts(Framing::Lines, 4, "a\n12345\nb"), ["Stream 0 a\n", "Overlong 1 1234", "Stream 2 b"]);
        assert_eq!(texts(Framing::Lines, 4, "123456789"), ["Overlong 0 1234"]);
        let frame = |n: u8| [&[n, 0, 0, 0][..], &b"abcdefgh"[..n as usize]].concat();
        let out = read(Framing::Binary, 4, &[&frame(4), &frame(5), &frame(3), &frame(8)[..9]]);
        let kinds: Vec<_> = out.iter().map(|r| (r.0, r.1, r.2, r.3.len())).collect();
        use RecordKind::{Overlong, Stream};
        assert_eq!(kinds, [(Stream, 0, 0, 8), (Overlong, 1, 8, 4), (Stream, 2, 17, 7), (Overlong, 3, 24, 4)]);
    }

    #[test]
    fn a_stray_quote_costs_at_most_the_limit() {
        let out = texts(Framing::Csv { header: false }, 8, "a\n\"b\nc\nd\ne\nfghij\nk\n");
        assert_eq!(out, ["Stream 0 a\n", "Overlong 1 \"b\nc\nd\ne", "Stream 2 fghij\n", "Stream 3 k\n"]);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_and_counted_in_bytes() {
        let out = read(Framing::Lines, 9, &[b"\xEF", b"\xBB", b"\xBF{}\n"]);
        assert_eq!(out, [(RecordKind::Stream, 0, 3, b"{}\n".to_vec())]);
    }

    #[test]
    fn an_announced_length_allocates_nothing() {
        let options = ReadOptions { framing: Framing::Binary, event_bytes_max: 8, block_bytes: 64 };
        let mut framer = Framer::new(&options);
        let mut block = Block { bytes: vec![0xFF, 0xFF, 0xFF, 0xFF, 1, 2], ..Block::default() };
        let mut place = Place::beginning(0, Framing::Binary);
        assert_eq!(framer.records(&mut block, 0, &mut place, 9, false), 0);
        block.bytes.extend_from_slice(&[0; 20]);
        assert_eq!(framer.records(&mut block, 0, &mut place, 9, false), 26);
        assert_eq!((block.records.len(), block.records[0].span.len()), (1, 8));
        assert_eq!(framer.skip, Skip::Bytes(u64::from(u32::MAX) - 22));
    }

    type Read = (RecordKind, u64, u64, Vec<u8>);

    /// Blank lines belong to the event before or after, as they come: without them.
    fn events(framing: Framing, mut read: Vec<Read>) -> Vec<Read> {
        for (kind, _, byte, bytes) in read.iter_mut().filter(|r| r.0 == RecordKind::Stream) {
            let mut lines = bytes.split_inclusive(|b| *b == b'\n');
            let blank = |l: &[u8]| match framing {
                Framing::Lines => l.iter().all(|b| b.is_ascii_whitespace()),
                _ => l == b"\n" || l == b"\r\n",
            };
            let skipped: usize = lines.by_ref().take_while(|l| blank(l)).map(<[u8]>::len).sum();
            *byte += skipped as u64;
            bytes.drain(..skipped);
            assert!(!bytes.is_empty(), "{kind:?} without an event");
        }
        read
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(
            input in "[ab,\"\n\r ]{0,60}",
            cuts in proptest::collection::vec(0usize..60, 0..6),
            max in 1usize..12,
        ) {
            for framing in [Framing::Lines, CSV, Framing::Csv { header: false }] {
                let whole = read(framing, max, &[input.as_bytes()]);
                let mut cuts = cuts.clone();
                cuts.sort_unstable();
                let (mut pieces, mut from) = (Vec::new(), 0);
                for cut in cuts.iter().map(|c| c % (input.len() + 1)).filter(|c| *c >= from).collect::<Vec<_>>() {
                    if cut >= from {
                        pieces.push(&input.as_bytes()[from..cut]);
                        from = cut;
                    }
                }
                pieces.push(&input.as_bytes()[from..]);
                prop_assert_eq!(events(framing, read(framing, max, &pieces)), events(framing, whole));
            }
        }
    }
}
