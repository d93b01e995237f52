//! Generated rows as bytes: JSON, CSV, or binary frames (see the decoder's description of them).

use super::super::Framing;
use super::Cell;

/// The thousand groups of three digits.
static TRIPLES: [[u8; 3]; 1000] = triples();

const fn triples() -> [[u8; 3]; 1000] {
    let mut table = [[0; 3]; 1000];
    let mut i = 0;
    while i < 1000 {
        table[i] = [b'0' + (i / 100) as u8, b'0' + (i / 10 % 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    table
}

/// Writes rows of fixed fields.
#[derive(Debug, Clone)]
pub(super) struct RowWriter {
    framing: Framing,
    /// What stands before each cell: `{"f0":`, `,"f1":` …
    before: Vec<Vec<u8>>,
}

impl RowWriter {
    pub fn new(framing: Framing, names: &[String]) -> RowWriter {
        let before = |(i, name): (usize, &String)| match (framing, i) {
            (Framing::Lines, 0) => format!("{{\"{name}\":").into_bytes(),
            (Framing::Lines, _) => format!(",\"{name}\":").into_bytes(),
            (Framing::Csv { .. }, 1..) => vec![b','],
            _ => Vec::new(),
        };
        RowWriter { framing, before: names.iter().enumerate().map(before).collect() }
    }

    /// Appends a row; frames carry the event's number as their sequence number.
    pub fn row(&self, event: u64, cells: &[Cell], out: &mut Vec<u8>) {
        match self.framing {
            Framing::Lines => {
                for (before, cell) in self.before.iter().zip(cells) {
                    out.extend_from_slice(before);
                    write_text(*cell, true, out);
                }
                out.extend_from_slice(b"}\n");
            }
            Framing::Csv { .. } => {
                for (before, cell) in self.before.iter().zip(cells) {
                    out.extend_from_slice(before);
                    write_text(*cell, false, out);
                }
                out.push(b'\n');
            }
            Framing::Binary => write_frame(event, cells, out),
        }
    }
}

fn write_text(cell: Cell, quoted: bool, out: &mut Vec<u8>) {
    match cell {
        Cell::Micro(micro) => write_micro(micro, out),
        Cell::Whole(whole) => out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes()),
        Cell::Flag(true) => out.extend_from_slice(b"true"),
        Cell::Flag(false) => out.extend_from_slice(b"false"),
        Cell::Word(word) if quoted => {
            out.push(b'"');
            out.extend_from_slice(word.as_bytes());
            out.push(b'"');
        }
        Cell::Word(word) => out.extend_from_slice(word.as_bytes()),
    }
}

/// Millionths with six decimals.
fn write_micro(micro: i64, out: &mut Vec<u8>) {
    let absolute = micro.unsigned_abs();
    let (whole, part) = (absolute / 1_000_000, (absolute % 1_000_000) as usize);
    let (a, b) = (TRIPLES[part / 1000], TRIPLES[part % 1000]);
    if micro < 0 {
        out.push(b'-');
    }
    if whole < 10 {
        out.extend_from_slice(&[b'0' + whole as u8, b'.', a[0], a[1], a[2], b[0], b[1], b[2]]);
    } else {
        out.extend_from_slice(itoa::Buffer::new().format(whole).as_bytes());
        out.extend_from_slice(&[b'.', a[0], a[1], a[2], b[0], b[1], b[2]]);
    }
}

fn write_frame(event: u64, cells: &[Cell], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&event.to_le_bytes());
    for cell in cells {
        let number = match *cell {
            Cell::Word(word) => {
                out.extend_from_slice(&(word.len() as u32).to_le_bytes());
                out.extend_from_slice(word.as_bytes());
                continue;
            }
            Cell::Micro(micro) => micro as f64 / 1e6,
            Cell::Whole(whole) => whole as f64,
            Cell::Flag(flag) => f64::from(u8::from(flag)),
        };
        out.extend_from_slice(&number.to_le_bytes());
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(framing: Framing) -> Vec<u8> {
        let names = ["a", "b", "c", "d"].map(String::from);
        let cells = [Cell::Micro(-12_000_034), Cell::Whole(7), Cell::Flag(true), Cell::Word("x")];
        let mut out = Vec::new();
        RowWriter::new(framing, &names).row(9, &cells, &mut out);
        out
    }

    #[test]
    fn a_row_in_each_format() {
        let json = r#"{"a":-12.000034,"b":7,"c":true,"d":"x"}"#;
        assert_eq!(row(Framing::Lines), format!("{json}\n").as_bytes());
        assert_eq!(row(Framing::Csv { header: false }), b"-12.000034,7,true,x\n");
        let numbers = [-12.000034f64, 7.0, 1.0].map(f64::to_le_bytes).concat();
        let expected = [&[37, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0][..], &numbers, &[1, 0, 0, 0, b'x']].concat();
        assert_eq!(row(Framing::Binary), expected);
    }

    #[test]
    fn millionths_read_back_to_what_was_meant() {
        for micro in [0, 1, 999_999, 1_000_000, 9_999_999, 10_000_000, 123_456_789, -1] {
            let mut out = Vec::new();
            write_micro(micro, &mut out);
            let text = String::from_utf8(out).expect("text");
            assert_eq!(text.parse::<f64>().expect("number"), micro as f64 / 1e6, "{text}");
        }
    }
}
