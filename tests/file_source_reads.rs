//! Files as a source: every event once and in order, whatever the chunks; a restart at any position
//! gives the same events; followers see growth, new files and rotation; damage is named.

use millstream::batch::{Block, RecordKind};
use millstream::source::file::{FileOptions, FileSource};
use millstream::source::{Framing, Past, Polled, Position, ReadOptions, Source};
use std::io::Write;
use std::time::{Duration, Instant};

const CSV: Framing = Framing::Csv { header: true };
const WAIT: Duration = Duration::from_millis(20);

fn options(paths: &[String], framing: Framing, block_bytes: usize, follow: bool) -> FileOptions {
    let read = ReadOptions { framing, event_bytes_max: 64, block_bytes };
    FileOptions { paths: paths.to_vec(), follow, lane: 0, lanes: 1, read }
}

/// An event as it was read: input, offset, bytes without blank lines around; its position.
#[derive(Debug, Clone, PartialEq)]
struct Event {
    input: String,
    offset: u64,
    text: String,
    at: Position,
}

/// Cuts a block into events: good for rows without quoted line ends, and for `Overlong`.
fn events(source: &dyn Source, block: &Block, headers: &mut Vec<String>) -> Vec<Event> {
    let mut events = Vec::new();
    for record in &block.records {
        let bytes = record.span.of(&block.bytes);
        let input = source.input_name(record.input).to_string();
        let text = |b: &[u8]| String::from_utf8_lossy(b).trim().to_string();
        match record.kind {
            RecordKind::Header => headers.push(text(bytes)),
            RecordKind::Overlong => events.push(Event {
                input,
                offset: record.offset,
                text: format!("overlong {}", text(bytes)),
                at: Position { offset: record.offset, byte: record.byte },
            }),
            _ => {
                let (mut offset, mut byte) = (record.offset, record.byte);
                for line in bytes.split_inclusive(|b| *b == b'\n') {
                    if !text(line).is_empty() {
                        let at = Position { offset, byte };
                        events.push(Event { input: input.clone(), offset, text: text(line), at });
                        offset += 1;
                    }
                    byte += line.len() as u64;
                }
            }
        }
    }
    events
}

fn read_all(options: &FileOptions, positions: &[(String, Position)]) -> (Vec<Event>, Vec<String>) {
    let mut source = FileSource::new(options.clone()).expect("source");
    source.start(positions).expect("start");
    let (mut block, mut all, mut headers) = (Block::default(), Vec::new(), Vec::new());
    while source.poll(&mut block, WAIT).expect("poll") == Polled::Filled {
        all.extend(events(&source, &block, &mut headers));
        block.clear();
    }
    (all, headers)
}

fn texts(events: &[Event]) -> Vec<String> {
    events.iter().map(|e| format!("{} {}", e.offset, e.text)).collect()
}

#[test]
fn globs_are_read_by_name_and_paths_in_their_order() {
    let dir = tempfile::tempdir().expect("dir");
    for name in ["b.csv", "a.csv", "z.csv"] {
        std::fs::write(dir.path().join(name), format!("\u{feff}h{name}\r\n{name}1\r\n\r\n{name}2")).expect("write");
    }
    let path = |name: &str| dir.path().join(name).to_str().expect("path").to_string();
    let options = options(&[path("z.csv"), path("[ab]*.csv"), path("*.csv")], CSV, 5, false);
    let (events, headers) = read_all(&options, &[]);
    assert_eq!(texts(&events), ["0 z.csv1", "1 z.csv2", "0 a.csv1", "1 a.csv2", "0 b.csv1", "1 b.csv2"]);
    assert_eq!(headers, ["hz.csv", "ha.csv", "hb.csv"]);
    assert_eq!(events[0].input, path("z.csv"));
}

fn corpus(dir: &std::path::Path, header: &str) -> String {
    let mut text = format!("\u{feff}{header}");
    for i in 0..40 {
        text += &format!("row{i},{}\n", "x".repeat(i % 13));
        text += ["", "\n", "\r\n\n"][i % 3];
        if i % 9 == 4 {
            text += &format!("{}\n", "long".repeat(17 + i));
        }
    }
    text += "last";
    let path = dir.join("corpus");
    std::fs::write(&path, text).expect("write");
    path.to_str().expect("path").to_string()
}

#[test]
fn any_chunk_and_any_restart_give_the_same_events() {
    let dir = tempfile::tempdir().expect("dir");
    for (framing, header) in [(Framing::Lines, ""), (CSV, "name,x\n")] {
        let path = corpus(dir.path(), header);
        let (whole, _) = read_all(&options(std::slice::from_ref(&path), framing, 1 << 16, false), &[]);
        assert_eq!(whole.len(), 40 + 4 + 1);
        assert_eq!(whole.iter().filter(|e| e.text.starts_with("overlong")).count(), 4);
        for block_bytes in [1, 7, 100, 4096] {
            let options = options(std::slice::from_ref(&path), framing, block_bytes, false);
            let (events, _) = read_all(&options, &[]);
            assert_eq!(events, whole);
            for (i, event) in whole.iter().enumerate() {
                let (rest, headers) = read_all(&options, &[(path.clone(), event.at)]);
                assert_eq!(texts(&rest), texts(&whole[i..]), "from {:?}", event.at);
                assert!(framing == Framing::Lines || headers == ["name,x"], "{headers:?}");
                // Without a byte, the row is looked up; behind an overlong row's first bytes is behind it.
                let at = Position { offset: event.offset, byte: 0 };
                assert_eq!(texts(&read_all(&options, &[(path.clone(), at)]).0), texts(&whole[i..]));
                if event.text.starts_with("overlong") {
                    let at = Position { offset: event.offset + 1, byte: event.at.byte + 64 };
                    assert_eq!(texts(&read_all(&options, &[(path.clone(), at)]).0), texts(&whole[i + 1..]));
                }
            }
        }
    }
}

#[test]
fn a_run_of_the_past_gives_the_same_events() {
    let dir = tempfile::tempdir().expect("dir");
    for (framing, header) in [(Framing::Lines, ""), (CSV, "name,x\n")] {
        let path = corpus(dir.path(), header);
        let options = options(std::slice::from_ref(&path), framing, 64, false);
        let (whole, _) = read_all(&options, &[]);
        let mut source = FileSource::new(options).expect("source");
        for (from, to) in [(0, 45), (0, 1), (1, 7), (7, 30), (30, 45), (3, 9), (44, 45)] {
            let (mut block, mut headers, mut run) = (Block::default(), Vec::new(), Vec::new());
            let mut at = whole[from].at;
            while source.read_run(&path, at, to as u64, &mut block).expect("run") == Polled::Filled {
                headers.clear();
                run.extend(events(&source, &block, &mut headers));
                at = whole.get(run.len() + from).map_or(Position { offset: 45, byte: 0 }, |e| e.at);
                assert!(framing == Framing::Lines || headers == ["name,x"], "each block names its columns");
                block.clear();
            }
            assert_eq!(run, whole[from..to]);
        }
        let fault = source.read_run(&path, Position { offset: 45, byte: 0 }, 46, &mut Block::default());
        assert!(fault.expect_err("past the end").message.contains("ends at row 45"));
    }
}

#[test]
fn frames_are_found_again_by_their_row() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("frames").to_str().expect("path").to_string();
    let frames: Vec<Vec<u8>> = [3u32, 64, 65, 0, 9, 500, 1].iter().map(|n| frame(*n)).collect();
    std::fs::write(&path, frames.concat()).expect("write");
    let options = options(std::slice::from_ref(&path), Framing::Binary, 10, false);
    for skip in 0..frames.len() as u64 {
        let mut source = FileSource::new(options.clone()).expect("source");
        source.start(&[(path.clone(), Position { offset: skip, byte: u64::from(skip > 0) })]).expect("start");
        let (mut block, mut kinds) = (Block::default(), Vec::new());
        while source.poll(&mut block, WAIT).expect("poll") == Polled::Filled {
            for r in &block.records {
                kinds.extend(std::iter::repeat_n(r.kind, count_frames(r.span.of(&block.bytes), r.kind)));
            }
            block.clear();
        }
        let expected = frames.iter().map(|f| if f.len() > 68 { RecordKind::Overlong } else { RecordKind::Stream });
        assert_eq!(kinds, expected.collect::<Vec<_>>()[skip as usize..]);
    }
}

fn frame(n: u32) -> Vec<u8> {
    [&n.to_le_bytes()[..], &vec![7; n as usize]].concat()
}

fn count_frames(mut bytes: &[u8], kind: RecordKind) -> usize {
    let mut count = 0;
    while kind == RecordKind::Stream && !bytes.is_empty() {
        bytes = &bytes[4 + u32::from_le_bytes(bytes[..4].try_into().expect("length")) as usize..];
        count += 1;
    }
    if kind == RecordKind::Stream { count } else { 1 }
}

#[test]
fn what_is_missing_or_too_short_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("x").to_str().expect("path").to_string();
    let start = |path: &str, at: &[(String, Position)]| {
        let mut source = FileSource::new(options(&[path.to_string()], Framing::Lines, 99, false)).expect("source");
        source.start(at).expect_err("a fault").to_string()
    };
    assert!(start(&path, &[]).contains("no such file"));
    assert!(start(&format!("{path}*"), &[]).contains("no file matches"));
    assert!(start(dir.path().to_str().expect("path"), &[]).contains("is a directory"));
    std::fs::write(&path, "1\n2\n").expect("write");
    let message = start(&path, &[(path.clone(), Position { offset: 3, byte: 6 })]);
    assert!(message.contains("4 bytes long, but it was read up to byte 6"), "{message}");
    assert!(FileSource::new(options(&[], Framing::Lines, 99, false)).is_err());
}

struct Follower {
    source: FileSource,
    headers: Vec<String>,
}

impl Follower {
    fn new(paths: &[String], framing: Framing) -> Follower {
        let mut source = FileSource::new(options(paths, framing, 32, true)).expect("source");
        source.start(&[]).expect("start");
        Follower { source, headers: Vec::new() }
    }
    /// Reads until so many events have come (at most five seconds).
    fn read(&mut self, count: usize) -> Vec<Event> {
        let (mut block, mut all, until) = (Block::default(), Vec::new(), Instant::now() + Duration::from_secs(5));
        while all.len() < count && Instant::now() < until {
            self.source.poll(&mut block, WAIT).expect("poll");
            all.extend(events(&self.source, &block, &mut self.headers));
            block.clear();
        }
        all
    }
    fn is_idle(&mut self) -> bool {
        let polled = self.source.poll(&mut Block::default(), Duration::from_millis(120));
        polled.expect("poll") == Polled::Idle
    }
}

#[test]
fn a_follower_sees_growth_and_new_files() {
    let dir = tempfile::tempdir().expect("dir");
    let glob = dir.path().join("*.csv").to_str().expect("path").to_string();
    let mut follower = Follower::new(&[glob], CSV);
    assert!(follower.is_idle());
    let mut a = std::fs::File::create(dir.path().join("a.csv")).expect("create");
    a.write_all(b"h\n1\n2").expect("write");
    assert_eq!(texts(&follower.read(1)), ["0 1"]);
    assert!(follower.is_idle(), "a line waits for its end");
    a.write_all(b"3\n4\n").expect("write");
    assert_eq!(texts(&follower.read(2)), ["1 23", "2 4"]);
    std::fs::write(dir.path().join("b.csv"), "h\n9\n").expect("write");
    assert_eq!(texts(&follower.read(1)), ["0 9"]);
    a.write_all(b"5\n").expect("write");
    assert_eq!(texts(&follower.read(1)), ["3 5"]);
    assert_eq!(follower.headers, ["h", "h"]);
    follower.source.pause(true);
    a.write_all(b"6\n").expect("write");
    assert!(follower.is_idle());
    follower.source.pause(false);
    assert_eq!(texts(&follower.read(1)), ["4 6"]);
}

#[test]
fn a_rotated_file_becomes_a_new_input_and_a_cut_one_a_fault() {
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("log");
    let path = file.to_str().expect("path").to_string();
    std::fs::write(&file, "1\n2\n").expect("write");
    let mut follower = Follower::new(std::slice::from_ref(&path), Framing::Lines);
    assert_eq!(follower.read(2).len(), 2);
    std::fs::rename(&file, dir.path().join("log.old")).expect("rename");
    let mut old = std::fs::OpenOptions::new().append(true).open(dir.path().join("log.old")).expect("open");
    old.write_all(b"3").expect("write");
    std::fs::write(&file, "4\n5\n").expect("write");
    let events = follower.read(3);
    assert_eq!(texts(&events), ["2 3", "0 4", "1 5"]);
    assert_eq!(events[2].input, format!("{path}#1"));

    // A restart goes on in the new file.
    let at = [(path.clone(), Position { offset: 3, byte: 5 }), (format!("{path}#1"), Position { offset: 1, byte: 2 })];
    let (rest, _) = read_all(&options(std::slice::from_ref(&path), Framing::Lines, 32, false), &at);
    assert_eq!(texts(&rest), ["1 5"]);

    std::fs::write(&file, "").expect("cut");
    let until = Instant::now() + Duration::from_secs(5);
    let fault = loop {
        match follower.source.poll(&mut Block::default(), WAIT) {
            Err(fault) => break fault.to_string(),
            Ok(polled) => assert!(polled == Polled::Idle && Instant::now() < until),
        }
    };
    assert!(fault.contains("cut to 0 bytes") && fault.contains(&path), "{fault}");
}

#[test]
fn each_file_belongs_to_one_lane() {
    let dir = tempfile::tempdir().expect("dir");
    for i in 0..20 {
        std::fs::write(dir.path().join(format!("{i:02}")), format!("{i}\n")).expect("write");
    }
    let glob = dir.path().join("*").to_str().expect("path").to_string();
    let mut all = Vec::new();
    for lane in 0..3 {
        let events = read_all(
            &FileOptions { lane, lanes: 3, ..options(std::slice::from_ref(&glob), Framing::Lines, 64, false) },
            &[],
        )
        .0;
        assert!(!events.is_empty());
        all.extend(events.into_iter().map(|e| e.text.parse::<u32>().expect("number")));
    }
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}
