//! Numbers and separators against plain readings of the same bytes.

use super::super::number;
use super::*;
use crate::batch::{Batch, RowOrigin, Span};
use proptest::prelude::*;

const FLOAT: Target = Target { kind: Kind::Float, slot: 0, field: 0 };

/// Reads values that stand side by side; NaN where one was left to the caller.
fn read(lanes: &mut Lanes, texts: &[Vec<u8>]) -> Vec<f64> {
    let mut bytes = vec![b' '; LANES];
    let at = bytes.len();
    for text in texts {
        bytes.extend_from_slice(b",k:");
        bytes.extend_from_slice(text);
    }
    bytes[at] = b'{';
    bytes.push(b'}');
    let last = bytes.len() - 1;
    bytes.extend_from_slice(&[b'7'; 200]);
    let mut batch = Batch::new(texts.len(), 0);
    let raw = Span::new(0, 0);
    batch.push_row(RowOrigin { raw, record: 0, input: 0, offset: 0, row: None, sequence: 0 });
    let mut left = Vec::new();
    lanes.forget();
    let found = lanes.row(&bytes, at, &mut Cells::last(&mut batch), |step, start, _| {
        left.push(step);
        assert!(bytes[start..].starts_with(&texts[step]), "value {step} begins at {start}");
        Some(start + texts[step].len())
    });
    assert_eq!(found, Some(last));
    left.into_iter().for_each(|step| batch.numbers[step] = f64::NAN);
    batch.numbers
}

fn expecting(count: usize) -> Lanes {
    let mut lanes = Lanes::default();
    let target = |slot| Target { slot: slot as u32, ..FLOAT };
    lanes.expect((0..count).map(|i| (if i == 0 { &b"{k:"[..] } else { b",k:" }, b'0', target(i))), b'}');
    lanes
}

/// Texts without separators, in rows of `width`: by short turns, and once a part has learned of long ones.
fn check(texts: &[Vec<u8>], width: usize) -> Result<(), TestCaseError> {
    if !available() {
        return Ok(());
    }
    let (mut short, mut long) = (expecting(width), expecting(width));
    read(&mut long, &vec![b"0.123456789".to_vec(); width]);
    prop_assert!(long.parts.iter().all(|part| part.way == Way::Wide));
    for texts in texts.chunks_exact(width) {
        for (lanes, length_max) in [(&mut short, 8), (&mut long, 16)] {
            lanes.parts.iter_mut().for_each(|part| {
                part.way = if length_max == 8 { Way::Narrow } else { Way::Wide };
            });
            for (text, value) in texts.iter().zip(read(lanes, texts)) {
                let shown = String::from_utf8_lossy(text);
                match number::json(text, 0).ok().filter(|n| n.end == text.len()) {
                    // Whatever is taken has the same bits.
                    Some(number) if !value.is_nan() => {
                        prop_assert_eq!(value.to_bits(), number.value.to_bits(), "{}", shown)
                    }
                    Some(number) => prop_assert!(
                        text.len() > length_max
                            || text.iter().any(|b| matches!(b, b'e' | b'E'))
                            || number.beyond_exact
                            || text.len() >= 16,
                        "{shown} was left"
                    ),
                    None => prop_assert!(value.is_nan(), "{shown:?} is no number"),
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_short_text_of_the_bytes_that_matter() {
    let mut texts = vec![Vec::new()];
    for length in 0..5 {
        let longer: Vec<Vec<u8>> = texts.iter().filter(|t: &&Vec<u8>| t.len() == length).cloned().collect();
        texts.extend(longer.iter().flat_map(|t| b"019.-+e x".iter().map(move |b| [t.as_slice(), &[*b]].concat())));
    }
    check(&texts, 8).expect("equal");
}

#[test]
fn whole_numbers_are_whole_and_exact() {
    if !available() {
        return;
    }
    let mut lanes = Lanes::default();
    lanes.expect([(&b"{k:"[..], b'0', Target { kind: Kind::Int, ..FLOAT })].into_iter(), b'}');
    for way in [Way::Narrow, Way::Wide] {
        let texts = ["2", "-3", "2.0", "2.5", "9007199254740992", "9007199254740993", "-9007199254740994"];
        let taken = [true, true, true, false, way == Way::Wide, false, false];
        for (text, taken) in texts.into_iter().zip(taken) {
            lanes.parts[0].way = way;
            let value = read(&mut lanes, &[text.as_bytes().to_vec()])[0];
            assert_eq!(Some(value).filter(|v| !v.is_nan()), taken.then(|| text.parse().expect("a number")), "{text}");
        }
    }
}

#[test]
fn nothing_is_expected_at_first_and_after_many_misses() {
    let mut cells = Batch::new(1, 0);
    let raw = Span::new(0, 0);
    cells.push_row(RowOrigin { raw, record: 0, input: 0, offset: 0, row: None, sequence: 0 });
    let bytes = [&b"        {k:1}"[..], &[b' '; 100]].concat();
    let row = |lanes: &mut Lanes, bytes: &[u8], cells: &mut Batch| {
        lanes.forget();
        lanes.row(bytes, 8, &mut Cells::last(cells), |_, _, _| None)
    };
    assert_eq!(row(&mut Lanes::default(), &bytes, &mut cells), None);
    let mut lanes = expecting(1);
    if !available() {
        return;
    }
    let other = [&b"        {j:1}"[..], &[b' '; 100]].concat();
    for _ in 0..MISSES_MAX / MISS {
        assert_eq!(row(&mut lanes, &bytes, &mut cells), Some(12));
        assert_eq!(row(&mut lanes, &other, &mut cells), None);
    }
    for _ in 0..MISSES_MAX {
        row(&mut lanes, &other, &mut cells);
    }
    assert_eq!(row(&mut lanes, &bytes, &mut cells), None);
    lanes = expecting(1);
    // Too near to either end.
    assert_eq!(row(&mut lanes, &bytes[..40], &mut cells), None);
    assert_eq!(lanes.row(&bytes[1..], 7, &mut Cells::last(&mut cells), |_, _, _| None), None);
    assert_eq!(row(&mut lanes, &bytes, &mut cells), Some(12));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decimals_of_all_shapes(
        texts in prop::collection::vec("-?(0|[1-9][0-9]{0,15})(\\.[0-9]{1,17})?", 24),
        width in 1usize..20,
    ) {
        check(&texts.into_iter().map(String::into_bytes).collect::<Vec<_>>(), width)?;
    }

    #[test]
    fn any_bytes(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..18), 24),
        width in 1usize..20,
    ) {
        let plain = |text: Vec<u8>| text.into_iter().filter(|b| !matches!(b, b',' | b'}')).collect();
        check(&texts.into_iter().map(plain).collect::<Vec<_>>(), width)?;
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn separators_are_where_they_are(
        bytes in prop::collection::vec(prop_oneof![9 => any::<u8>(), 1 => Just(b','), 1 => Just(b'}')], 0..12_000),
        turns in prop::collection::vec((0usize..400, 1usize..60, any::<bool>()), 1..40),
    ) {
        if !available() {
            return Ok(());
        }
        let mut places = Places::default();
        places.make_room_for(60, b'}');
        let mut at = 0;
        for (skip, count, used) in turns {
            at += skip;
            let expected: Vec<u32> =
                (at..bytes.len()).filter(|i| matches!(bytes[*i], b',' | b'}')).map(|i| i as u32).take(count).collect();
            // SAFETY: the processor has these features.
            let found = unsafe { places.next(&bytes, at, count) }.map(|found| found[1..=count].to_vec());
            prop_assert_eq!(&found, &(expected.len() == count).then_some(expected.clone()));
            if used && let Some(found) = found {
                at = found[count - 1] as usize + 1;
                places.used += count;
            }
        }
    }
}
