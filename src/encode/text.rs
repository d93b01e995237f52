//! The pieces of a line: strings with their escapes, numbers, and dead letters as NDJSON.

use crate::batch::{DeadLetter, Reject};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Appends an f64 as the shortest text that reads back to it; null where it is not finite.
#[inline(always)]
pub(super) fn float(out: &mut Vec<u8>, value: f64) {
    if value.is_finite() {
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

/// Appends a whole number.
#[inline(always)]
pub(super) fn integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends UTF-8 as a JSON string, quotes included.
pub(super) fn string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = rest.iter().position(|&b| b < 0x20 || b == b'"' || b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        escape(out, rest[at]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        8 => b'b',
        12 => b'f',
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// Where a rejected event came from.
pub(super) struct Place<'a> {
    pub input: &'a str,
    pub offset: u64,
    pub row: Option<u32>,
    pub field: Option<&'a str>,
}

/// Appends `{"error":{…}`, without the last brace.
pub(super) fn error(out: &mut Vec<u8>, reject: &Reject, place: &Place<'_>) {
    out.extend_from_slice(b"{\"error\":{\"stage\":");
    string(out, reject.stage.name().as_bytes());
    out.extend_from_slice(b",\"reason\":");
    string(out, reject.reason.as_bytes());
    out.extend_from_slice(b",\"input\":");
    string(out, place.input.as_bytes());
    out.extend_from_slice(b",\"offset\":");
    integer(out, place.offset);
    if let Some(row) = place.row {
        out.extend_from_slice(b",\"row\":");
        integer(out, u64::from(row));
    }
    out.extend_from_slice(b",\"field\":");
    match place.field {
        Some(field) => string(out, field.as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
}

/// Appends a dead letter as one line of NDJSON, newline included:
/// `{"error":{"stage","reason","input","offset",("row",)"field"},"raw":…}`, with `raw_base64` in the
/// place of `raw` where the event's bytes are not UTF-8.
pub fn dead_letter_json(letter: &DeadLetter, input: &str, out: &mut Vec<u8>) {
    let place = Place { input, offset: letter.offset, row: letter.row, field: letter.field.as_deref() };
    error(out, &letter.reject, &place);
    if std::str::from_utf8(&letter.raw).is_ok() {
        out.extend_from_slice(b",\"raw\":");
        string(out, &letter.raw);
    } else {
        out.extend_from_slice(b",\"raw_base64\":\"");
        out.extend_from_slice(BASE64_STANDARD.encode(&letter.raw).as_bytes());
        out.push(b'"');
    }
    out.extend_from_slice(b"}\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Stage;
    use proptest::prelude::*;

    fn letter(raw: &[u8]) -> DeadLetter {
        DeadLetter {
            raw: raw.to_vec(),
            reject: Reject { stage: Stage::Schema, reason: "not a number", field: Some(1), byte: 7 },
            field: Some("a\"b".into()),
            input: 0,
            offset: 12,
            row: None,
            key: None,
            headers: None,
        }
    }

    #[test]
    fn dead_letters_as_lines() {
        let mut out = Vec::new();
        dead_letter_json(&letter(b"{\"a\":\"x\"}"), "t/0", &mut out);
        let expected = r#"{"error":{"stage":"schema","reason":"not a number","input":"t/0","offset":12,"field":"a\"b"},"raw":"{\"a\":\"x\"}"}"#;
        assert_eq!(String::from_utf8(out).expect("UTF-8"), format!("{expected}\n"));
        let mut out = Vec::new();
        let mut binary = letter(b"\xFF\x00");
        (binary.field, binary.row) = (None, Some(3));
        dead_letter_json(&binary, "t/0", &mut out);
        let expected = r#"{"error":{"stage":"schema","reason":"not a number","input":"t/0","offset":12,"row":3,"field":null},"raw_base64":"/wA="}"#;
        assert_eq!(String::from_utf8(out).expect("UTF-8"), format!("{expected}\n"));
    }

    proptest! {
        #[test]
        fn strings_read_back(text in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).expect("JSON"), text);
        }

        #[test]
        fn floats_read_back(value in any::<f64>()) {
            let mut out = Vec::new();
            float(&mut out, value);
            let back: Option<f64> = serde_json::from_slice(&out).expect("JSON");
            prop_assert_eq!(back.map(f64::to_bits), value.is_finite().then_some(value.to_bits()));
        }

        #[test]
        fn any_dead_letter_is_a_json_line(raw in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut out = Vec::new();
            dead_letter_json(&letter(&raw), "in\"put", &mut out);
            prop_assert_eq!(out.pop(), Some(b'\n'));
            prop_assert!(!out.contains(&b'\n'));
            let value: serde_json::Value = serde_json::from_slice(&out).expect("JSON");
            prop_assert_eq!(value.get("raw").is_some(), std::str::from_utf8(&raw).is_ok());
        }
    }
}
