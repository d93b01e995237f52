//! One row while it is written: a value of a known kind goes into its cell, or is turned away.

use super::number::{self, Number};
use crate::batch::{Batch, Reject, Span, Stage, Token, TokenKind};
use crate::schema::{Field, FieldType, Schema, Slot};

/// What a column or a key means to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Float,
    Int,
    Bool,
    Timestamp,
    /// A category or a text.
    Token,
    /// A key or an id that is a number or a boolean: literal where it is written as one.
    Literal,
    /// Not in the schema: validated, not kept.
    Skip,
}

impl Kind {
    /// What is said of a value that is not of the kind.
    pub(super) fn mismatch(self) -> &'static str {
        match self {
            Kind::Float => "not a number",
            Kind::Int => "not a whole number",
            Kind::Bool => "not a boolean (true, false, 1 or 0)",
            Kind::Timestamp => "not a timestamp (RFC 3339 text, or milliseconds)",
            Kind::Token | Kind::Literal | Kind::Skip => "not a single value",
        }
    }
}

/// Where a value goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub kind: Kind,
    /// Index into the row's numbers or tokens, by kind.
    pub slot: u32,
    /// Index of the field in the schema.
    pub field: u16,
}

impl Target {
    /// The target of what is not in the schema.
    pub(super) const SKIP: Target = Target { kind: Kind::Skip, slot: 0, field: 0 };

    fn of(index: usize, field: &Field) -> Target {
        let (kind, slot) = match (field.slot, field.ty) {
            (Slot::Number(slot), FieldType::Int) => (Kind::Int, slot),
            (Slot::Number(slot), FieldType::Bool) => (Kind::Bool, slot),
            (Slot::Number(slot), FieldType::Timestamp) => (Kind::Timestamp, slot),
            (Slot::Number(slot), _) => (Kind::Float, slot),
            (Slot::Token(slot), FieldType::Float | FieldType::Int | FieldType::Bool) => (Kind::Literal, slot),
            (Slot::Token(slot), _) => (Kind::Token, slot),
        };
        Target { kind, slot: slot as u32, field: index as u16 }
    }

    /// The targets of a schema's fields, in their order.
    pub(super) fn all(schema: &Schema) -> Vec<Target> {
        schema.fields.iter().enumerate().map(|(i, f)| Target::of(i, f)).collect()
    }
}

/// Shorthands for the two rejections that decoding itself makes.
pub(super) fn malformed(reason: &'static str, byte: usize) -> Reject {
    Reject { stage: Stage::Decode, reason, field: None, byte: byte as u32 }
}

pub(super) fn misfit(reason: &'static str, field: u16, byte: usize) -> Reject {
    Reject { stage: Stage::Schema, reason, field: Some(field), byte: byte as u32 }
}

/// The cells of one row of a batch.
pub(super) struct Cells<'a> {
    pub numbers: &'a mut [f64],
    pub tokens: &'a mut [Token],
    pub text: &'a mut Vec<u8>,
    text_start: usize,
}

/// A value that is not of its target's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Misfit;

impl<'a> Cells<'a> {
    /// The cells of the batch's last row.
    #[inline(always)]
    pub(super) fn last(batch: &'a mut Batch) -> Cells<'a> {
        let numbers = batch.numbers.len() - batch.number_stride;
        let tokens = batch.tokens.len() - batch.token_stride;
        let text_start = batch.text.len();
        Cells {
            numbers: &mut batch.numbers[numbers..],
            tokens: &mut batch.tokens[tokens..],
            text: &mut batch.text,
            text_start,
        }
    }

    /// All missing again.
    pub(super) fn reset(&mut self) {
        self.numbers.fill(f64::NAN);
        self.tokens.fill(Token::default());
        self.text.truncate(self.text_start);
    }

    fn put_token(&mut self, target: Target, bytes: &[u8], kind: TokenKind) {
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        let kind = if bytes.is_empty() { TokenKind::Missing } else { kind };
        self.tokens[target.slot as usize] = Token { span: Span::new(start, self.text.len()), kind };
    }

    /// A finite number into a number's cell, or a misfit.
    #[inline(always)]
    fn put_number(&mut self, target: Target, value: f64, beyond_exact: bool) -> Result<(), Misfit> {
        let kept = match target.kind {
            Kind::Int if value.is_finite() && value.trunc() != value => return Err(Misfit),
            Kind::Int if beyond_exact || value.abs() > 9_007_199_254_740_992.0 => f64::NAN,
            Kind::Bool if value.is_finite() && value != 0.0 && value != 1.0 => return Err(Misfit),
            Kind::Bool => value.abs(),
            _ => value,
        };
        // An overflow is missing.
        self.numbers[target.slot as usize] = if kept.is_finite() { kept } else { f64::NAN };
        Ok(())
    }

    /// A JSON number; `literal` is how it was written.
    #[inline(always)]
    pub(super) fn number(&mut self, target: Target, number: Number, literal: &[u8]) -> Result<(), Misfit> {
        match target.kind {
            Kind::Skip => Ok(()),
            Kind::Token | Kind::Literal => {
                self.put_token(target, literal, TokenKind::Literal);
                Ok(())
            }
            _ => self.put_number(target, number.value, number.beyond_exact),
        }
    }

    /// A JSON string, unescaped.
    pub(super) fn string(&mut self, target: Target, value: &[u8]) -> Result<(), Misfit> {
        match target.kind {
            Kind::Skip => Ok(()),
            Kind::Token | Kind::Literal => {
                self.put_token(target, value, TokenKind::Text);
                Ok(())
            }
            Kind::Float if matches!(value, b"NaN" | b"Infinity" | b"-Infinity" | b"+Infinity") => {
                self.null(target);
                Ok(())
            }
            Kind::Timestamp => {
                self.numbers[target.slot as usize] = rfc3339(value).ok_or(Misfit)?;
                Ok(())
            }
            _ => Err(Misfit),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, target: Target, value: bool) -> Result<(), Misfit> {
        match target.kind {
            Kind::Skip => Ok(()),
            Kind::Bool => {
                self.numbers[target.slot as usize] = f64::from(u8::from(value));
                Ok(())
            }
            Kind::Token | Kind::Literal => {
                self.put_token(target, if value { b"true" } else { b"false" }, TokenKind::Literal);
                Ok(())
            }
            _ => Err(Misfit),
        }
    }

    /// The `true` or `false` that the bytes at `at` begin with, into a bool's cell. Returns where it ends.
    #[inline(always)]
    pub(super) fn truth(&mut self, target: Target, bytes: &[u8], at: usize) -> Option<usize> {
        let word = bytes.get(at..)?.first_chunk::<5>()?;
        if !matches!(word, b"false" | [b't', b'r', b'u', b'e', _]) {
            return None;
        }
        let yes = word[0] == b't';
        self.numbers[target.slot as usize] = f64::from(u8::from(yes));
        Some(at + 5 - usize::from(yes))
    }

    /// `null`.
    #[inline(always)]
    pub(super) fn null(&mut self, target: Target) {
        match target.kind {
            Kind::Skip => {}
            Kind::Token | Kind::Literal => self.tokens[target.slot as usize] = Token::default(),
            _ => self.numbers[target.slot as usize] = f64::NAN,
        }
    }

    /// The cell of a CSV row, unquoted.
    pub(super) fn csv(&mut self, target: Target, cell: &[u8]) -> Result<(), Misfit> {
        match target.kind {
            Kind::Skip => return Ok(()),
            Kind::Token | Kind::Literal => {
                self.raw_token(target, cell);
                return Ok(());
            }
            _ => {}
        }
        let cell = trim(cell);
        if cell.is_empty() {
            self.null(target);
            return Ok(());
        }
        if let Some((value, beyond_exact)) = number::cell(cell) {
            return self.put_number(target, value, beyond_exact);
        }
        match target.kind {
            Kind::Timestamp => self.string(target, cell),
            Kind::Bool if cell.eq_ignore_ascii_case(b"true") || cell.eq_ignore_ascii_case(b"yes") => {
                self.boolean(target, true)
            }
            Kind::Bool if cell.eq_ignore_ascii_case(b"false") || cell.eq_ignore_ascii_case(b"no") => {
                self.boolean(target, false)
            }
            _ => Err(Misfit),
        }
    }

    /// The number of a binary frame.
    pub(super) fn binary(&mut self, target: Target, value: f64) -> Result<(), Misfit> {
        self.put_number(target, value, false)
    }

    /// A token without JSON's marks: literal only where its field is a number or a boolean and it is written as one.
    pub(super) fn raw_token(&mut self, target: Target, bytes: &[u8]) {
        let literal = target.kind == Kind::Literal && (matches!(bytes, b"true" | b"false") || number::is_json(bytes));
        self.put_token(target, bytes, if literal { TokenKind::Literal } else { TokenKind::Text });
    }
}

/// Without the blanks around it.
fn trim(cell: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = cell.iter().position(|b| !blank(b)).unwrap_or(cell.len());
    let end = cell.iter().rposition(|b| !blank(b)).map_or(start, |i| i + 1);
    &cell[start..end]
}

/// Milliseconds since 1970-01-01 UTC of an RFC 3339 text (`2024-05-01T12:00:00.5+02:00`).
fn rfc3339(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    // jiff also reads annotations in brackets, which RFC 3339 does not have.
    if text.contains('[') {
        return None;
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(at.as_second() as f64 * 1000.0 + f64::from(at.subsec_nanosecond()) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(rfc3339(b"1970-01-01T00:00:01.5Z"), Some(1500.0));
        assert_eq!(rfc3339(b"2024-05-01T02:00:00+02:00"), Some(1_714_521_600_000.0));
        assert_eq!(rfc3339(b"1969-12-31T23:59:59.250Z"), Some(-750.0));
        for bad in
            ["2024-05-01", "2024-05-01T00:00:00", "2024-05-01T00:00:00Z[UTC]", "yesterday", "2024-13-01T00:00:00Z"]
        {
            assert_eq!(rfc3339(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn trimming() {
        assert_eq!(trim(b" \t1.5 "), b"1.5");
        assert_eq!(trim(b"  "), b"");
        assert_eq!(trim(b""), b"");
    }
}
