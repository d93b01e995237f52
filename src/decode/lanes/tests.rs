//! Numbers and separators against plain readings of the same bytes, by every set of instructions that is there.

use super::super::number;
use super::part::Way;
use super::*;
use crate::batch::{Batch, RowOrigin, Span};
use proptest::prelude::*;

const FLOAT: Target = Target { kind: Kind::Float, slot: 0, field: 0 };

/// Reads values that stand side by side; NaN where one was left to the caller.
fn read(lanes: &mut Lanes, texts: &[Vec<u8>]) -> Vec<f64> {
    let mut bytes = vec![b' '; BEFORE];
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
    assert_eq!(found, Some(Row { last, complete: left.is_empty() }));
    left.into_iter().for_each(|step| batch.numbers[step] = f64::NAN);
    batch.numbers
}

fn expecting(set: Has, count: usize) -> Lanes {
    let mut lanes = Lanes::default();
    let target = |slot| Target { slot: slot as u32, ..FLOAT };
    let values = (0..count).map(|i| (if i == 0 { &b"{k:"[..] } else { b",k:" }, b'0', target(i)));
    lanes.expect_by(Some(set), values, b'}');
    lanes
}

/// Texts without separators, in rows of `width`: by short turns, and once a part has learned of long ones.
fn check(texts: &[Vec<u8>], width: usize) -> Result<(), TestCaseError> {
    Has::all().try_for_each(|set| check_by(set, texts, width))
}

fn check_by(set: Has, texts: &[Vec<u8>], width: usize) -> Result<(), TestCaseError> {
    let (mut short, mut long) = (expecting(set, width), expecting(set, width));
    read(&mut long, &vec![b"0.123456789".to_vec(); width]);
    // A number alone isn't worth a turn.
    let alone = (width % LANES == 1).then_some(width / LANES);
    let way = |part: usize, way| if alone == Some(part) { Way::Single } else { way };
    prop_assert!(long.parts.iter().enumerate().all(|(i, part)| part.way == way(i, Way::Wide)));
    for texts in texts.chunks_exact(width) {
        for (lanes, length_max) in [(&mut short, 8), (&mut long, 16)] {
            lanes.parts.iter_mut().enumerate().for_each(|(i, part)| {
                part.way = way(i, if length_max == 8 { Way::Narrow } else { Way::Wide });
            });
            for (i, (text, value)) in texts.iter().zip(read(lanes, texts)).enumerate() {
                let shown = String::from_utf8_lossy(text);
                match number::json(text, 0).ok().filter(|n| n.end == text.len()) {
                    // Whatever is taken has the same bits.
                    Some(number) if !value.is_nan() => {
                        prop_assert_eq!(value.to_bits(), number.value.to_bits(), "{}", shown)
                    }
                    Some(number) => prop_assert!(
                        alone == Some(i / LANES)
                            || text.len() > length_max
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
    for (set, way) in Has::all().flat_map(|set| [(set, Way::Narrow), (set, Way::Wide)]) {
        let mut lanes = Lanes::default();
        let target = |slot| Target { kind: Kind::Int, slot, ..FLOAT };
        let values = [(&b"{k:"[..], b'0', target(0)), (&b",k:"[..], b'0', target(1))];
        lanes.expect_by(Some(set), values.into_iter(), b'}');
        let texts = ["2", "-3", "2.0", "2.5", "4503599627370495", "9007199254740993", "-9007199254740994"];
        let taken = [true, true, true, false, way == Way::Wide, false, false];
        for (text, taken) in texts.into_iter().zip(taken) {
            lanes.parts[0].way = way;
            let value = read(&mut lanes, &[b"7".to_vec(), text.as_bytes().to_vec()])[1];
            assert_eq!(Some(value).filter(|v| !v.is_nan()), taken.then(|| text.parse().expect("a number")), "{text}");
        }
    }
}

#[test]
fn truths_are_read_and_whatever_looks_like_one_is_left() {
    for set in Has::all() {
        let mut lanes = Lanes::default();
        let values = [(&b"{k:"[..], b'0', FLOAT), (&b",k:"[..], b't', Target { kind: Kind::Bool, slot: 1, ..FLOAT })];
        lanes.expect_by(Some(set), values.into_iter(), b'}');
        for (text, worth) in [("true", 1.0), ("false", 0.0), ("1", 1.0), ("0", 0.0)] {
            assert_eq!(read(&mut lanes, &[b"7".to_vec(), text.as_bytes().to_vec()])[1], worth, "{text}");
        }
        for text in
            ["", "t", "truE", "true ", " true", "tru", "falsf", "fals", "falsee", "2", "10", "1e0", "-0", "null"]
        {
            assert!(read(&mut lanes, &[b"7".to_vec(), text.as_bytes().to_vec()])[1].is_nan(), "{text}");
        }
    }
}

#[test]
fn nothing_is_expected_at_first_and_after_many_misses() {
    let mut cells = Batch::new(1, 0);
    let raw = Span::new(0, 0);
    cells.push_row(RowOrigin { raw, record: 0, input: 0, offset: 0, row: None, sequence: 0 });
    let before = [b' '; BEFORE];
    let bytes = [&before[..], b"{k:1}", &[b' '; 100]].concat();
    let other = [&before[..], b"{j:1}", &[b' '; 100]].concat();
    let mut row = |lanes: &mut Lanes, bytes: &[u8], at: usize| {
        lanes.forget();
        lanes.row(bytes, at, &mut Cells::last(&mut cells), |_, start, _| Some(start + 1)).map(|row| row.last)
    };
    assert_eq!(row(&mut Lanes::default(), &bytes, BEFORE), None);
    for set in Has::all() {
        let mut lanes = expecting(set, 1);
        for _ in 0..MISSES_MAX / MISS {
            assert_eq!(row(&mut lanes, &bytes, BEFORE), Some(BEFORE + 4));
            assert_eq!(row(&mut lanes, &other, BEFORE), None);
        }
        for _ in 0..MISSES_MAX {
            row(&mut lanes, &other, BEFORE);
        }
        assert_eq!(row(&mut lanes, &bytes, BEFORE), None);
        lanes = expecting(set, 1);
        // Too near to either end.
        assert_eq!(row(&mut lanes, &bytes[..BEFORE + 30], BEFORE), None);
        assert_eq!(row(&mut lanes, &bytes[1..], BEFORE - 1), None);
        assert_eq!(row(&mut lanes, &bytes, BEFORE), Some(BEFORE + 4));
    }
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
        for set in Has::all() {
            let mut places = Places::default();
            places.make_room_for(60, b'}');
            let mut at = 0;
            for (skip, count, used) in &turns {
                at += skip;
                let separators = (at..bytes.len()).filter(|i| matches!(bytes[*i], b',' | b'}')).map(|i| i as u32);
                let expected: Vec<u32> = separators.take(*count).collect();
                // SAFETY: the processor has the set.
                let found = match set {
                    Has::Avx512 => unsafe { places.next::<Avx512>(&bytes, at, *count) },
                    Has::Avx2 => unsafe { places.next::<Avx2>(&bytes, at, *count) },
                };
                if let Some(found) = found {
                    let more = &found[count + 1..=count + LANES];
                    prop_assert!(more.iter().all(|place| (at..bytes.len()).contains(&(*place as usize))));
                }
                let found = found.map(|found| found[1..=*count].to_vec());
                prop_assert_eq!(&found, &(expected.len() == *count).then_some(expected));
                if *used && let Some(found) = found {
                    at = found[count - 1] as usize + 1;
                    places.used += count;
                }
            }
        }
    }
}
