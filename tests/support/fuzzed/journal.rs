//! The journal: a record as JSON (of a Kafka journal's topic), and the bytes of a file journal's segment.

use super::input::Input;
use super::memory;
use millstream::error::Class;
use millstream::journal::file::FileJournal;
use millstream::journal::{Journal, JournalRecord};
use std::path::Path;

/// A record: what is read is written the same again.
pub fn journal_record(bytes: &[u8]) {
    let bytes_max = 10_000 + 200 * bytes.len();
    let read = memory::within(bytes_max, "a record", || serde_json::from_slice::<JournalRecord>(bytes));
    let Ok(record) = read else { return };
    let text = serde_json::to_string(&record).expect("a record is plain data");
    assert_eq!(serde_json::from_str::<JournalRecord>(&text).expect("what was written"), record);
}

/// A segment. Input: one byte (1: the lines' checksums are mended; 2: a whole record stands before), its bytes.
///
/// Opening gives the records of whole lines, or says that there is corruption, and never panics; what is
/// appended then comes back behind them, and the next opening finds nothing torn.
pub fn journal_segment(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.byte();
    let mut segment = Vec::new();
    if choice & 2 != 0 {
        segment.extend(line(&record(0)));
    }
    match choice & 1 {
        0 => segment.extend_from_slice(input.rest()),
        _ => segment.extend(mended(input.rest())),
    }
    let dir = tempfile::tempdir_in(folder()).expect("a folder");
    let path = dir.path().join("00000000000000000000.journal");
    std::fs::write(&path, &segment).expect("a segment");
    let bytes_max = 100_000 + 300 * segment.len();
    let opened = memory::within(bytes_max, "opening a journal", || FileJournal::open(dir.path(), false));
    let mut journal = match opened {
        Ok(journal) => journal,
        Err(fault) => {
            assert_eq!(fault.class, Class::Corruption, "{fault}");
            assert_eq!(std::fs::read(&path).expect("a segment"), segment, "corruption is left as it is");
            return;
        }
    };
    let kept = std::fs::read(&path).expect("a segment");
    assert!(segment.starts_with(&kept), "only the end is ever cut off");
    let Some(found) = read(&mut journal) else { return };
    assert_eq!(found.last(), journal.tail().expect("the tail").as_ref());
    assert_eq!(found, whole_lines(&kept), "each whole line, and nothing else");
    let next = record(found.last().map_or(0, |last| last.number.saturating_add(1)));
    journal.append(&next).expect("append");
    let mut again = FileJournal::open(dir.path(), false).expect("what was just written");
    assert_eq!(std::fs::read(&path).expect("a segment"), [kept, line(&next)].concat());
    assert_eq!(again.tail().expect("the tail"), Some(next));
    assert_eq!(read(&mut again).map(|all| all.len()), Some(found.len() + 1));
}

/// All records, where they follow one another.
fn read(journal: &mut FileJournal) -> Option<Vec<JournalRecord>> {
    match journal.read(0) {
        Ok(records) => {
            assert!(records.windows(2).all(|pair| pair[0].number.checked_add(1) == Some(pair[1].number)));
            Some(records)
        }
        Err(fault) => {
            assert_eq!(fault.class, Class::Corruption, "{fault}");
            None
        }
    }
}

/// Where the segments go: memory, where the machine has such a folder.
fn folder() -> &'static Path {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory } else { Path::new("/tmp") }
}

fn record(number: u64) -> JournalRecord {
    JournalRecord { number, lineage: "l".into(), seq: 10, ..JournalRecord::default() }
}

fn line(record: &JournalRecord) -> Vec<u8> {
    checked(serde_json::to_string(record).expect("a record is plain data").as_bytes())
}

fn checked(json: &[u8]) -> Vec<u8> {
    [format!("{:08x} ", crc(json)).as_bytes(), json, b"\n"].concat()
}

/// The lines with the checksum that each should have.
fn mended(bytes: &[u8]) -> Vec<u8> {
    let whole = bytes.ends_with(b"\n");
    let mut out: Vec<u8> = (bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|b| *b == b'\n'))
        .flat_map(|line| checked(line.get(9..).unwrap_or_default()))
        .collect();
    if !whole {
        out.pop();
    }
    out
}

fn whole_lines(bytes: &[u8]) -> Vec<JournalRecord> {
    let lines = bytes.split_inclusive(|b| *b == b'\n');
    let record = |line: &[u8]| {
        let json = line.get(9..line.len() - 1).expect("a checksum and a blank");
        assert_eq!(line, checked(json), "a line as it is written");
        serde_json::from_slice(json).expect("a record")
    };
    lines.map(record).collect()
}

/// CRC-32 (IEEE), bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}
