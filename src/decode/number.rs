//! Numbers as text: the JSON grammar, and values rounded correctly to f64.
//!
//! Short plain decimals are read eight digits at a time inside one machine word; mantissas up to 2^53
//! with a small power of ten need one exact division (Clinger, "How to read floating point numbers
//! accurately", 1990); whatever remains goes to fast-float2 (Lemire, 2021).

const POW10: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// What so many digits more make of a one.
const UNIT: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];

/// Integers of this size and below are exact in f64.
const EXACT_MAX: u64 = 1 << 53;

/// Bytes that [`plain`] may look at, whatever the number's length.
pub(super) const WINDOW: usize = 24;

fn word(window: &[u8; WINDOW], at: usize) -> u64 {
    // Three fixed windows keep the load free of bounds checks.
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&window[at..at + 8]);
    u64::from_le_bytes(bytes)
}

/// Marks (0x80) the bytes of `digits` that are no digit; `digits` is text xor `0x30`.
#[inline(always)]
fn not_digits(digits: u64) -> u64 {
    (((digits & 0x7F7F_7F7F_7F7F_7F7F) + 0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080
}

/// The number that eight digits (values, not text; the first in the lowest byte) spell.
#[inline(always)]
fn eight(digits: u64) -> u64 {
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let high = (pairs & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let low = ((pairs >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    high.wrapping_add(low) >> 32
}

#[inline(always)]
fn signed(mantissa: u64, decimals: usize, negative: usize) -> f64 {
    let value = mantissa as i64 as f64 / POW10[decimals];
    f64::from_bits(value.to_bits() | (negative as u64) << 63)
}

/// A plain decimal of at most 8 digits before the point and 16 behind it, at `bytes[at..]`: its value and its
/// end. `None` says nothing: ask [`json`]. What follows the number is for the caller to check (an
/// exponent or a further point is not part of it).
#[inline(always)]
pub(super) fn plain(bytes: &[u8], at: usize) -> Option<(f64, usize)> {
    let window: &[u8; WINDOW] = bytes.get(at..)?.first_chunk()?;
    let text = word(window, 0) ^ 0x3030_3030_3030_3030;
    // The first byte is a digit or the sign; what comes of it is not waited for to find the end.
    let stops = not_digits(text) & !0xFF;
    let later = stops & stops.wrapping_sub(1);
    if later == 0 {
        return plain_wide(window, at);
    }
    let (point, end) = (stops.trailing_zeros() as usize / 8, later.trailing_zeros() as usize / 8);
    if window[point] != b'.' {
        return plain_wide(window, at);
    }
    let negative = usize::from(window[0] == b'-');
    let digits = text >> (8 * negative);
    let shape = &SHAPES[(negative << 6 | point << 3 | end) & 127];
    // One comparison for all that may be wrong: whether a number begins with 0 cannot be foretold, and a wrong guess
    // costs more than all else.
    if u32::from(digits as u8).wrapping_sub(shape.first_min) > shape.first_span {
        return None;
    }
    let mantissa = eight(((digits & shape.below) | ((digits >> 8) & !shape.below)) << shape.shift);
    let value = mantissa as i64 as f64 / shape.divisor;
    Some((f64::from_bits(value.to_bits() | (negative as u64) << 63), at + end))
}

/// What follows from where a word's sign, point and end stand.
#[derive(Clone, Copy)]
struct Shape {
    /// The bytes before the point.
    below: u64,
    /// Ten to the power of the decimals.
    divisor: f64,
    /// Brings the last digit to the top, once the point is out.
    shift: u32,
    /// The first digit may be this, and so many more; nothing, where a digit is missing before or behind the point.
    first_min: u32,
    first_span: u32,
}

/// By `negative << 6 | point << 3 | end`, counted from the word's first byte.
static SHAPES: [Shape; 128] = {
    let none = Shape { below: 0, divisor: 1.0, shift: 0, first_min: u32::MAX / 2, first_span: 0 };
    let mut all = [none; 128];
    let mut key = 0;
    while key < all.len() {
        let (negative, point, end) = (key >> 6, key >> 3 & 7, key & 7);
        if point > negative && end > point + 1 {
            let (whole, length) = (point - negative, end - negative);
            let first_min = if whole > 1 { 1 } else { 0 };
            all[key] = Shape {
                below: (1 << (8 * whole)) - 1,
                divisor: POW10[length - 1 - whole],
                shift: 8 * (9 - length as u32),
                first_min,
                first_span: 9 - first_min,
            };
        }
        key += 1;
    }
    all
};

/// The digits of a word around its point, as one number.
#[inline(always)]
fn joined(digits: u64, whole: usize, length: usize) -> u64 {
    let below = (1u64 << (8 * whole)) - 1;
    eight(((digits & below) | ((digits >> 8) & !below)) << (8 * (9 - length)))
}

/// The rest of [`plain`]: no point, or the end is not in the first word.
#[inline(always)]
fn plain_wide(window: &[u8; WINDOW], at: usize) -> Option<(f64, usize)> {
    let negative = usize::from(window[0] == b'-');
    let digits = word(window, negative) ^ 0x3030_3030_3030_3030;
    let stops = not_digits(digits);
    let whole = stops.trailing_zeros() as usize / 8;
    if (whole == 0) | ((digits as u8 == 0) & (whole > 1)) {
        return None;
    }
    let point = window[negative + whole] == b'.';
    let later = stops & stops.wrapping_sub(1);
    if point && later != 0 {
        let length = later.trailing_zeros() as usize / 8;
        if length == whole + 1 {
            return None;
        }
        let mantissa = joined(digits, whole, length);
        return Some((signed(mantissa, length - 1 - whole, negative), at + negative + length));
    }
    if !point {
        if whole == 8 && window[negative + 8].is_ascii_digit() {
            return None;
        }
        let mantissa = eight(digits << (8 * (8 - whole)));
        return Some((signed(mantissa, 0, negative), at + negative + whole));
    }
    plain_long(window, at, negative, whole, digits)
}

/// Five to the powers of -1 to -27, to 128 bits, the first of which is set; rounded up.
static RECIPROCALS: [(u64, u64); 27] = {
    let mut all = [(0, 0); 27];
    let (mut i, mut power) = (0, 1u128);
    while i < all.len() {
        power *= 5;
        let bits = 128 - power.leading_zeros();
        // 2^(bits + 127) / power, digit by digit.
        let (mut left, mut quotient, mut digit) = (1u128, 0u128, 0);
        while digit < bits + 127 {
            left <<= 1;
            quotient <<= 1;
            if left >= power {
                left -= power;
                quotient |= 1;
            }
            digit += 1;
        }
        quotient += 1;
        all[i] = ((quotient >> 64) as u64, quotient as u64);
        i += 1;
    }
    all
};

/// `mantissa / 10^decimals`, rounded to nearest, ties to even; a mantissa of at least 1, and 1 to 27 decimals (Lemire,
/// "Number parsing at a gigabyte per second", 2021; that two products are always enough here: Mushtak and Lemire,
/// "Fast number parsing without fallback", 2023).
#[inline]
fn divided(mantissa: u64, decimals: usize, negative: usize) -> f64 {
    let (high, low) = RECIPROCALS[decimals - 1];
    let shift = mantissa.leading_zeros();
    let mantissa = mantissa << shift;
    let mut product = u128::from(mantissa) * u128::from(high);
    if (product >> 64) as u64 & 0x1FF == 0x1FF {
        product += (u128::from(mantissa) * u128::from(low)) >> 64;
    }
    let (upper, lower) = ((product >> 64) as u64, product as u64);
    let top = upper >> 63;
    // 54 bits: one more than are kept.
    let down = top + 9;
    let mut kept = upper >> down;
    // Halfway between two, to the even one; only so few decimals can be so exact.
    if lower <= 1 && decimals <= 4 && kept & 3 == 1 && kept << down == upper {
        kept &= !1;
    }
    kept = (kept + (kept & 1)) >> 1;
    // 217,706 / 2^16 is the logarithm of ten to the base of two.
    let power = ((-217_706 * decimals as i64) >> 16) + 63;
    let exponent = (power + top as i64 - i64::from(shift) + 1023) as u64;
    // A carry out of the mantissa is one more in the exponent, and leaves none.
    let bits = (exponent << 52) + (kept - (1 << 52));
    f64::from_bits(bits | (negative as u64) << 63)
}

/// Past the digits at `at`, which go on a number; it wraps around beyond 2^64.
#[inline(always)]
fn digits(bytes: &[u8], mut at: usize, mut number: u64) -> (usize, u64) {
    while let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let text = u64::from_le_bytes(*word) ^ 0x3030_3030_3030_3030;
        let count = not_digits(text).trailing_zeros() as usize / 8;
        if count < 8 {
            let more = if count == 0 { 0 } else { eight(text << (8 * (8 - count))) };
            return (at + count, number.wrapping_mul(UNIT[count]).wrapping_add(more));
        }
        number = number.wrapping_mul(UNIT[8]).wrapping_add(eight(text));
        at += 8;
    }
    while let Some(digit) = bytes.get(at).filter(|byte| byte.is_ascii_digit()) {
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        at += 1;
    }
    (at, number)
}

/// The rest of [`plain`]: whole part and decimals do not fit into one word together.
#[inline(always)]
fn plain_long(window: &[u8; WINDOW], at: usize, negative: usize, whole: usize, digits: u64) -> Option<(f64, usize)> {
    let from = negative + whole + 1;
    let decimals = word(window, from) ^ 0x3030_3030_3030_3030;
    let count = not_digits(decimals).trailing_zeros() as usize / 8;
    if count == 0 {
        return None;
    }
    let mut mantissa = eight(digits << (8 * (8 - whole))) * UNIT[count] + eight(decimals << (8 * (8 - count)));
    let mut count = count;
    if count == 8 && window[from + 8].is_ascii_digit() {
        // At most 3 + 16 digits: they fit into 64 bits, and into the window.
        if whole > 3 {
            return None;
        }
        let decimals = word(window, from + 8) ^ 0x3030_3030_3030_3030;
        let more = not_digits(decimals).trailing_zeros() as usize / 8;
        if more == 8 && window[from + 16].is_ascii_digit() {
            return None;
        }
        mantissa = mantissa * UNIT[more] + eight(decimals << (8 * (8 - more)));
        count += more;
    }
    if mantissa > EXACT_MAX {
        return None;
    }
    Some((signed(mantissa, count, negative), at + from + count))
}

/// A number by the grammar of JSON, and what it is worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Number {
    /// The nearest f64; an infinity where it overflows.
    pub value: f64,
    /// One past its last byte.
    pub end: usize,
    /// True where it is written without point and exponent, and lies beyond ±2^53.
    pub beyond_exact: bool,
}

/// The number at `bytes[at..]`, by the grammar of JSON (RFC 8259). The error is where it breaks off.
pub(super) fn json(bytes: &[u8], at: usize) -> Result<Number, usize> {
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let negative = usize::from(bytes.get(at) == Some(&b'-'));
    let first = at + negative;
    let (mut end, mut mantissa) = digits(bytes, first, 0);
    let whole = end - first;
    if whole == 0 || (whole > 1 && bytes[first] == b'0') {
        return Err(if whole == 0 { end } else { first + 1 });
    }
    let (mut decimals, mut exponent) = (0, false);
    if bytes.get(end) == Some(&b'.') {
        let from = end + 1;
        (end, mantissa) = digits(bytes, from, mantissa);
        decimals = end - from;
        if decimals == 0 {
            return Err(end);
        }
    }
    let integer = decimals == 0;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        end += 1;
        end += usize::from(matches!(bytes.get(end), Some(b'+' | b'-')));
        let from = end;
        while digit(end) {
            end += 1;
        }
        if end == from {
            return Err(end);
        }
        exponent = true;
    }
    // Nineteen digits never overflow u64, so `mantissa` is what was written.
    if whole + decimals <= 19 && !exponent {
        // Whether seventeen digits are exact can't be foretold: what is long goes one way.
        if decimals > 0 && mantissa > EXACT_MAX >> 4 {
            return Ok(Number { value: divided(mantissa, decimals, negative), end, beyond_exact: false });
        }
        if mantissa <= EXACT_MAX {
            return Ok(Number { value: signed(mantissa, decimals, negative), end, beyond_exact: false });
        }
    }
    let value = fast_float2::parse::<f64, _>(&bytes[at..end]).map_err(|_| at)?;
    let beyond_exact = integer && !exponent;
    Ok(Number { value, end, beyond_exact })
}

/// A number as people and programs write it into CSV cells: also `+1`, `.5`, `5.`, `007`, `inf`, `NaN`.
/// `cell` has no blanks around it. The flag is that of [`Number::beyond_exact`].
pub(super) fn cell(cell: &[u8]) -> Option<(f64, bool)> {
    if let Ok(number) = json(cell, 0)
        && number.end == cell.len()
    {
        return Some((number.value, number.beyond_exact));
    }
    let unsigned = match cell {
        [b'+', rest @ ..] if rest.first() != Some(&b'-') && rest.first() != Some(&b'+') => rest,
        _ => cell,
    };
    let value: f64 = fast_float2::parse(unsigned).ok()?;
    let digits = unsigned.iter().skip_while(|&&b| b == b'-' || b == b'0');
    let beyond = digits.clone().all(u8::is_ascii_digit) && value.abs() >= EXACT_MAX as f64 && {
        digits.clone().count() > 19 || digits.fold(0u64, |n, b| n.wrapping_mul(10) + u64::from(b - b'0')) > EXACT_MAX
    };
    Some((value, beyond))
}

/// True where `bytes` are one number by the grammar of JSON, and nothing else.
pub(super) fn is_json(bytes: &[u8]) -> bool {
    json(bytes, 0).is_ok_and(|number| number.end == bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn padded(text: &str) -> Vec<u8> {
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend_from_slice(&[b','; WINDOW]);
        bytes
    }

    #[test]
    fn the_grammar_of_json() {
        for good in
            ["0", "-0", "1", "-1.5", "0.001", "1e5", "1E+5", "12345678.87654321", "1e999", "123456789012345678901"]
        {
            assert!(is_json(good.as_bytes()), "{good}");
        }
        for bad in ["", "-", "01", "-01", "1.", ".5", "1e", "1e+", "+1", "0x1", "1.e5", "NaN", "inf", "1 "] {
            assert!(!is_json(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn plain_leaves_the_rest_to_the_caller() {
        assert_eq!(plain(&padded("12e5"), 0), Some((12.0, 2)));
        assert_eq!(plain(&padded("1.5.5"), 0), Some((1.5, 3)));
        assert_eq!(plain(&padded("-0"), 0).map(|(v, _)| v.to_bits()), Some((-0.0f64).to_bits()));
        for none in ["01", "-", "1.", "x", "123456789", "0.12345678901234567", "1234.123456789", "-.5"] {
            assert_eq!(plain(&padded(none), 0), None, "{none}");
        }
        assert_eq!(plain(&padded("-0.1234567890123456"), 0), Some((-0.1234567890123456, 19)));
        assert_eq!(plain(b"1.5", 0), None);
    }

    #[test]
    fn whole_numbers_beyond_exactness_are_told() {
        let beyond = |s: &str| json(s.as_bytes(), 0).map(|n| n.beyond_exact);
        assert_eq!(beyond("9007199254740992"), Ok(false));
        assert_eq!(beyond("9007199254740993"), Ok(true));
        assert_eq!(beyond("-9007199254740993"), Ok(true));
        assert_eq!(cell(b"+9007199254740993"), Some((9007199254740992.0, true)));
        assert_eq!(cell(b"+09007199254740992"), Some((9007199254740992.0, false)));
        assert_eq!(cell(b"99999999999999999999999"), Some((1e23, true)));
    }

    #[test]
    fn cells_are_read_leniently() {
        for (text, value) in [("+1", 1.0), (".5", 0.5), ("5.", 5.0), ("007", 7.0), ("-inf", f64::NEG_INFINITY)] {
            assert_eq!(cell(text.as_bytes()), Some((value, false)), "{text}");
        }
        assert!(cell(b"NaN").is_some_and(|(v, _)| v.is_nan()));
        for bad in ["", "x", "1x", "+-1", "++1", "1,5", "--1"] {
            assert_eq!(cell(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn values_are_those_of_the_standard_library(text in "-?(0|[1-9][0-9]{0,10})(\\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?") {
            let expected: f64 = text.parse().expect("number");
            let number = json(text.as_bytes(), 0).expect("grammar");
            prop_assert_eq!(number.value.to_bits(), expected.to_bits());
            prop_assert_eq!(number.end, text.len());
            if let Some((value, end)) = plain(&padded(&text), 0) {
                let part: f64 = text[..end].parse().expect("number");
                prop_assert_eq!(value.to_bits(), part.to_bits());
            }
        }

        #[test]
        fn long_decimals_are_rounded_like_the_standard_library(
            mantissa in prop_oneof![any::<u64>(), (1u64 << 53)..(1 << 57)],
            decimals in 1usize..19,
            tie in any::<bool>(),
        ) {
            // Halfway cases: odd numbers just above 2^53, divided by a power of ten that leaves them whole.
            let digits = if tie { format!("{}", (mantissa >> 10) | 1) } else { format!("{mantissa}") };
            let text = if tie {
                format!("{digits}.{}", "0".repeat(1 + decimals % 2))
            } else {
                format!("{:0>20}", digits).split_at(20 - decimals).0.trim_start_matches('0').to_owned() + "."
                    + &format!("{digits:0>20}")[20 - decimals..]
            };
            let text = if text.starts_with('.') { format!("0{text}") } else { text };
            let expected: f64 = text.parse().expect("number");
            prop_assert_eq!(json(text.as_bytes(), 0).expect("grammar").value.to_bits(), expected.to_bits(), "{}", text);
        }

        #[test]
        fn printed_floats_come_back(value in any::<f64>().prop_filter("finite", |v| v.is_finite())) {
            let text = format!("{value:?}");
            prop_assert_eq!(json(text.as_bytes(), 0).expect("grammar").value.to_bits(), value.to_bits());
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..40), at in 0usize..40) {
            let _ = (plain(&bytes, at), json(&bytes, at), cell(&bytes));
        }
    }
}
