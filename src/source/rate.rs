//! A generated stream as a source, at a fixed rate or as fast as it is taken.
//!
//! Lane L of n makes the events L, L + n, L + 2n, … of the one stream that the seed gives, so the
//! lanes together see what one lane would see. Any event can be made again: the past is always there.

use super::generator::{Generator, GeneratorOptions, csv_header};
use super::{Framing, Past, Polled, Position, ReadOptions, Source};
use crate::batch::{Block, Record, RecordKind, Span};
use crate::error::{Fault, Result};
use std::time::{Duration, Instant};

/// What to generate.
#[derive(Debug, Clone, PartialEq)]
pub struct RateOptions {
    /// The stream.
    pub generator: GeneratorOptions,
    /// Events a second over all lanes; 0: as fast as they are taken.
    pub rate: u64,
    /// Events in all, over all lanes; 0: without end.
    pub events: u64,
    /// The lane's number.
    pub lane: u32,
    /// Number of lanes.
    pub lanes: u32,
    /// Format and limits.
    pub read: ReadOptions,
}

/// The generated events of one lane.
pub struct RateSource {
    options: RateOptions,
    generator: Generator,
    name: String,
    header: Option<String>,
    header_due: bool,
    /// Offset of the lane's next event.
    next: u64,
    /// Offset at which the lane ends.
    end: u64,
    /// When pacing began, and the offset that was next then.
    since: (Instant, u64),
    paused: bool,
}

impl RateSource {
    /// The source of one lane.
    ///
    /// # Errors
    /// Misuse, where an option is out of range.
    pub fn new(mut options: RateOptions) -> Result<RateSource> {
        options.lanes = options.lanes.max(1);
        let (lane, lanes) = (u64::from(options.lane), u64::from(options.lanes));
        let generator = Generator::new(&options.generator, options.read.framing)?;
        let has_header = options.read.framing == (Framing::Csv { header: true });
        let end = if options.events == 0 { u64::MAX / lanes } else { (options.events + lanes - 1 - lane) / lanes };
        Ok(RateSource {
            name: format!("{}#{lane}", options.generator.kind.name()),
            header: has_header.then(|| csv_header(&options.generator)),
            header_due: has_header,
            generator,
            options,
            next: 0,
            end,
            since: (Instant::now(), 0),
            paused: false,
        })
    }

    /// How many events are due, and how long until the next one is.
    fn due(&self) -> (u64, Duration) {
        if self.options.rate == 0 {
            return (u64::MAX, Duration::ZERO);
        }
        let (began, from) = self.since;
        let elapsed = began.elapsed().as_secs_f64();
        let per_second = self.options.rate as f64 / f64::from(self.options.lanes);
        let due = ((elapsed * per_second) as u64).saturating_sub(self.next - from);
        let until_next = ((self.next - from + 1) as f64 / per_second - elapsed).max(0.0);
        (due, Duration::from_secs_f64(until_next.min(3600.0)))
    }

    /// Adds events from `from` on to the block, up to `end`, `events_max` and the block's size.
    fn fill(&mut self, block: &mut Block, from: u64, end: u64, header: bool) -> u64 {
        let (lane, lanes) = (u64::from(self.options.lane), u64::from(self.options.lanes));
        let record = |span, kind, offset| Record { span, input: 0, kind, offset, byte: 0, key: None, headers: None };
        if let Some(header) = self.header.as_ref().filter(|_| header) {
            let line = header.trim_end();
            block.bytes.extend_from_slice(line.as_bytes());
            block.records.push(record(Span::new(0, line.len()), RecordKind::Header, from));
        }
        let (start, mut offset) = (block.bytes.len(), from);
        while offset < end && (block.bytes.len() < self.options.read.block_bytes || offset == from) {
            self.generator.write(offset * lanes + lane, &mut block.bytes);
            offset += 1;
        }
        block.records.push(record(Span::new(start, block.bytes.len()), RecordKind::Stream, from));
        offset
    }
}

impl Past for RateSource {
    fn read_run(&mut self, input: &str, from: Position, end_offset: u64, block: &mut Block) -> Result<Polled> {
        if input != self.name {
            return Err(Fault::misuse(format!("{input}: this source only makes {}", self.name))
                .hint("the generator or the number of lanes was changed; start over with --new-lineage"));
        }
        if from.offset >= end_offset.min(self.end) {
            return Ok(Polled::End);
        }
        self.fill(block, from.offset, end_offset.min(self.end), true);
        Ok(Polled::Filled)
    }

    fn input_name(&self, _: u32) -> &str {
        &self.name
    }
}

impl Source for RateSource {
    fn start(&mut self, positions: &[(String, Position)]) -> Result<()> {
        self.next = positions.iter().find(|(name, _)| *name == self.name).map_or(0, |(_, at)| at.offset);
        self.since = (Instant::now(), self.next);
        self.header_due = self.header.is_some();
        Ok(())
    }

    fn poll(&mut self, block: &mut Block, wait: Duration) -> Result<Polled> {
        if self.next >= self.end {
            return Ok(Polled::End);
        }
        if self.paused {
            std::thread::sleep(wait);
            return Ok(Polled::Idle);
        }
        let (mut due, until_next) = self.due();
        if due == 0 {
            std::thread::sleep(until_next.min(wait));
            due = self.due().0;
            if due == 0 {
                return Ok(Polled::Idle);
            }
        }
        let end = self.end.min(self.next.saturating_add(due));
        self.next = self.fill(block, self.next, end, self.header_due);
        self.header_due = false;
        Ok(Polled::Filled)
    }

    fn pause(&mut self, paused: bool) {
        if self.paused && !paused {
            // What was not made during the pause isn't made up for.
            self.since = (Instant::now(), self.next);
        }
        self.paused = paused;
    }
}

#[cfg(test)]
mod tests {
    use super::super::generator::Kind;
    use super::*;

    fn options(framing: Framing, rate: u64, events: u64, lane: u32, lanes: u32) -> RateOptions {
        let read = ReadOptions { framing, event_bytes_max: 1 << 20, block_bytes: 1_000 };
        RateOptions { generator: GeneratorOptions::new(Kind::Sea, 1), rate, events, lane, lanes, read }
    }

    fn read(source: &mut RateSource) -> (Vec<u8>, usize, usize) {
        let (mut block, mut bytes, mut headers, mut polls) = (Block::default(), Vec::new(), 0, 0);
        let mut next = None;
        while source.poll(&mut block, Duration::from_millis(1)).expect("poll") != Polled::End {
            for record in &block.records {
                match record.kind {
                    RecordKind::Header => headers += 1,
                    _ => {
                        let rows = record.span.of(&block.bytes);
                        assert_eq!(next.unwrap_or(record.offset), record.offset);
                        next = Some(record.offset + rows.iter().filter(|b| **b == b'\n').count() as u64);
                        bytes.extend_from_slice(rows);
                    }
                }
            }
            block.clear();
            polls += 1;
        }
        (bytes, headers, polls)
    }

    #[test]
    fn lanes_share_one_stream_and_restarts_go_on() {
        let csv = Framing::Csv { header: true };
        let (whole, headers, _) = read(&mut RateSource::new(options(csv, 0, 301, 0, 1)).expect("source"));
        assert_eq!(headers, 1);
        let lines: Vec<&[u8]> = whole.split_inclusive(|b| *b == b'\n').collect();
        assert_eq!(lines.len(), 301);
        for lane in 0..3 {
            let expected: Vec<_> = lines.iter().skip(lane).step_by(3).copied().collect();
            let mut source = RateSource::new(options(csv, 0, 301, lane as u32, 3)).expect("source");
            assert_eq!(read(&mut source).0, expected.concat());
            let name = format!("sea#{lane}");
            source.start(&[(name.clone(), Position { offset: 60, byte: 0 })]).expect("start");
            assert_eq!(read(&mut source), (expected[60..].concat(), 1, 2));
            let (mut block, mut at, mut past) = (Block::default(), 7, Vec::new());
            while source.read_run(&name, Position { offset: at, byte: 0 }, 93, &mut block).expect("run")
                == Polled::Filled
            {
                let rows = block.records[1].span.of(&block.bytes);
                at += rows.iter().filter(|b| **b == b'\n').count() as u64;
                past.extend_from_slice(rows);
                block.clear();
            }
            assert_eq!(past, expected[7..93].concat());
        }
    }

    #[test]
    fn the_rate_is_kept() {
        let began = Instant::now();
        let mut source = RateSource::new(options(Framing::Lines, 2_000, 400, 0, 1)).expect("source");
        source.start(&[]).expect("start");
        let (bytes, _, _) = read(&mut source);
        assert_eq!(bytes.iter().filter(|b| **b == b'\n').count(), 400);
        let elapsed = began.elapsed();
        assert!(elapsed >= Duration::from_millis(199), "{elapsed:?}");
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    }

    #[test]
    fn a_pause_makes_nothing_and_owes_nothing() {
        let mut source = RateSource::new(options(Framing::Lines, 100_000, 0, 0, 1)).expect("source");
        source.pause(true);
        let mut block = Block::default();
        assert_eq!(source.poll(&mut block, Duration::from_millis(30)), Ok(Polled::Idle));
        source.pause(false);
        source.poll(&mut block, Duration::from_millis(1)).expect("poll");
        assert!(block.bytes.len() < 3_000 * 60);
        assert!(source.read_run("rbf#0", Position::default(), 1, &mut block).is_err());
    }
}
