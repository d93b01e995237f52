//! Rows of CSV: as every format, and the cells as csv-core finds them.

use super::rows::{EVENT_BYTES_MAX, FIELDS, Row, same_rows_however_read};
use csv_core::{ReadFieldResult, Reader};
use millstream::batch::{Stage, TokenKind};
use millstream::decode::Format;

/// The target.
pub fn csv_rows(bytes: &[u8]) {
    for row in same_rows_however_read(Format::Csv, bytes) {
        match row.stage() {
            None | Some(Stage::Schema) => has_its_cells(&row),
            Some(Stage::Decode) => {}
            Some(Stage::Limit) => assert!(row.raw.len() >= EVENT_BYTES_MAX),
            Some(Stage::Missing) => panic!("not a decoder's stage"),
        }
    }
}

/// A row that was read: csv-core finds as many cells, and the values are theirs.
fn has_its_cells(row: &Row) {
    // A carriage return outside quotes is a character of its cell here; csv-core ends the line there.
    // And it takes a byte order mark away, which is a file's business (`frames`), not a row's.
    let strange = row.raw.contains(&b'\r') || row.raw.starts_with(b"\xEF\xBB\xBF");
    match (strange, row.raw.contains(&b'"')) {
        (false, _) => compare(row, &cells(&row.raw)),
        (true, false) => compare(row, &row.raw.split(|b| *b == b',').map(<[u8]>::to_vec).collect::<Vec<_>>()),
        (true, true) => {}
    }
}

fn cells(line: &[u8]) -> Vec<Vec<u8>> {
    let (mut reader, mut rest) = (Reader::new(), line);
    let (mut cells, mut cell, mut out) = (Vec::new(), Vec::new(), [0; 256]);
    loop {
        // The line's end is announced by an empty input.
        let (result, read, written) = reader.read_field(rest, &mut out);
        rest = &rest[read..];
        cell.extend_from_slice(&out[..written]);
        match result {
            ReadFieldResult::Field { .. } => cells.push(std::mem::take(&mut cell)),
            ReadFieldResult::InputEmpty | ReadFieldResult::OutputFull => {}
            ReadFieldResult::End => return cells,
        }
    }
}

fn compare(row: &Row, cells: &[Vec<u8>]) {
    let text = String::from_utf8_lossy(&row.raw);
    assert_eq!(cells.len(), FIELDS.len(), "{text:?}: {cells:?}");
    if !row.accepted() {
        return;
    }
    let (mut numbers, mut tokens) = (row.numbers.iter(), row.tokens.iter());
    for (i, (name, ty)) in FIELDS.iter().enumerate() {
        let cell = &cells[i];
        if matches!(*ty, "category" | "text") || *name == "i" {
            let (kind, bytes) = tokens.next().expect("a token");
            assert_eq!(bytes, cell, "{name} of {text:?}");
            if *kind == TokenKind::Literal {
                assert_eq!(*name, "i", "a category of CSV is a text");
                serde_json::from_slice::<serde::de::IgnoredAny>(cell).expect("a literal of JSON");
            }
            continue;
        }
        let found = f64::from_bits(*numbers.next().expect("a number"));
        let plain = std::str::from_utf8(cell).map(|c| c.trim_matches([' ', '\t'])).expect("a number's cell");
        match plain.parse::<f64>() {
            Ok(value) => {
                let missing = !value.is_finite() || (*ty == "int" && found.is_nan() && value.abs() >= 2f64.powi(53));
                let value = if *ty == "bool" { value.abs() } else { value };
                let value = if missing { f64::NAN } else { value };
                assert_eq!(found.to_bits(), value.to_bits(), "{name} of {text:?}");
            }
            // Booleans in words and timestamps; anything else is missing, or was turned away.
            Err(_) => match *ty {
                "bool" if !plain.is_empty() => {
                    let yes = ["true", "yes"].iter().any(|w| plain.eq_ignore_ascii_case(w));
                    let no = ["false", "no"].iter().any(|w| plain.eq_ignore_ascii_case(w));
                    assert!(yes || no, "{text:?}");
                    assert_eq!(found, f64::from(u8::from(yes)), "{text:?}");
                }
                "timestamp" if !plain.is_empty() => assert!(found.is_finite(), "{text:?}"),
                _ => assert!(plain.is_empty() && found.is_nan(), "{name} of {text:?}"),
            },
        }
    }
}
