//! Lanes by AVX-512: a vector holds eight numbers, and masks say which of them are none of this file's business.

use super::part::place;
use super::{CHUNK, LANES, Left, Numbers, Part, Set};
use core::arch::x86_64::*;

/// AVX-512, as far as it is used here.
pub(super) struct Avx512;

/// What came of a turn, number by number.
struct Read {
    values: __m512d,
    /// Not taken.
    bad: u8,
    /// Longer than eight bytes.
    long: u8,
}

/// The numbers of a chunk's bytes.
static COUNTED: [u8; CHUNK] = {
    let mut counted = [0; CHUNK];
    let mut i = 0;
    while i < CHUNK {
        counted[i] = i as u8;
        i += 1;
    }
    counted
};

impl Set for Avx512 {
    fn available() -> bool {
        crate::wide::available()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi2")
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn search(text: &[u8], last: u8, base: usize, found: &mut [u32]) -> usize {
        let mut have = 0;
        for (i, chunk) in text.chunks(CHUNK).enumerate() {
            have += put(chunk, last, base + i * CHUNK, &mut found[have..]);
        }
        have
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn part(part: &mut Part, bytes: &[u8], places: &[u32; LANES + 1], cells: &mut [f64]) -> Option<u8> {
        // SAFETY: as promised.
        unsafe { part.read::<Avx512>(bytes, places, cells) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn turn<const WIDE: bool>(
        bytes: &[u8],
        places: &[u32; LANES + 1],
        numbers: &Numbers,
        cells: &mut [f64],
    ) -> Left {
        let count = numbers.count;
        // SAFETY: as promised.
        let read = unsafe {
            if count == LANES {
                read::<WIDE, true>(bytes, places, numbers)
            } else {
                read::<WIDE, false>(bytes, places, numbers)
            }
        };
        let there = u8::MAX >> (LANES - count);
        let cells = &mut cells[..count];
        // SAFETY: as many cells as there are numbers.
        unsafe { _mm512_mask_storeu_pd(cells.as_mut_ptr(), there, read.values) };
        Left { bad: read.bad, long: read.long }
    }

    fn written(count: usize) -> usize {
        count
    }
}

/// Puts the places of a chunk's separators, the first of whose bytes is number `base`; more that mean nothing may
/// follow. Returns how many there are.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn put(chunk: &[u8], last: u8, base: usize, found: &mut [u32]) -> usize {
    let there = if chunk.len() < CHUNK { (1 << chunk.len()) - 1 } else { u64::MAX };
    // SAFETY: only bytes of the slice are loaded.
    let text = unsafe { _mm512_maskz_loadu_epi8(there, chunk.as_ptr().cast()) };
    let is = |byte: u8| _mm512_mask_cmpeq_epi8_mask(there, text, _mm512_set1_epi8(byte as i8));
    let hits = is(b',') | is(last);
    // SAFETY: sixty-four bytes.
    let counted = unsafe { _mm512_loadu_si512(COUNTED.as_ptr().cast()) };
    let indices = _mm512_maskz_compress_epi8(hits, counted);
    let count = hits.count_ones() as usize;
    let room = &mut found[..CHUNK];
    let base = _mm512_set1_epi32(base as i32);
    let quarters = [
        _mm512_castsi512_si128(indices),
        _mm512_extracti32x4_epi32::<1>(indices),
        _mm512_extracti32x4_epi32::<2>(indices),
        _mm512_extracti32x4_epi32::<3>(indices),
    ];
    for (places, indices) in room.chunks_exact_mut(CHUNK / 4).zip(quarters).take(count.div_ceil(CHUNK / 4)) {
        let found = _mm512_add_epi32(base, _mm512_cvtepu8_epi32(indices));
        // SAFETY: sixteen places of four bytes.
        unsafe { _mm512_storeu_si512(places.as_mut_ptr().cast(), found) };
    }
    count
}

/// As [`Set::turn`], but for the cells.
///
/// # Safety
/// As there.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn read<const WIDE: bool, const FULL: bool>(bytes: &[u8], places: &[u32; LANES + 1], numbers: &Numbers) -> Read {
    let Numbers { lengths, first, count } = numbers;
    let lane = |lane: usize| if FULL { lane } else { lane.min(count - 1) };
    // SAFETY: eight places each.
    let (ends, lengths_8) =
        unsafe { (_mm256_loadu_si256(places[1..].as_ptr().cast()), _mm256_loadu_si256(lengths.as_ptr().cast())) };
    let before = if *first {
        // The row's first place was just stored: it isn't waited for.
        let shifted = _mm256_permutevar8x32_epi32(ends, _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6));
        _mm256_insert_epi32::<0>(shifted, place(&places[0]) as i32)
    } else {
        // SAFETY: as above.
        unsafe { _mm256_loadu_si256(places.as_ptr().cast()) }
    };
    let length = _mm512_cvtepi32_epi64(_mm256_sub_epi32(ends, _mm256_add_epi32(before, lengths_8)));
    // SAFETY: `Lanes::reach` bytes stand behind each number's separator, and more than eight before the row.
    let word = |at: usize| unsafe { bytes.as_ptr().add(at).cast::<i64>().read_unaligned() };
    let head = |i: usize| word(places[lane(i)] as usize + lengths[lane(i)] as usize);
    let heads = _mm512_set_epi64(head(7), head(6), head(5), head(4), head(3), head(2), head(1), head(0));
    if WIDE {
        let tail = |i: usize| word(places[lane(i) + 1] as usize - LANES);
        let tails = _mm512_set_epi64(tail(7), tail(6), tail(5), tail(4), tail(3), tail(2), tail(1), tail(0));
        wide(heads, tails, length)
    } else {
        narrow(heads, length)
    }
}

/// A number's text in two words, digits as their values: the sign is gone, and the last byte is the second's last.
struct Text {
    minus: __mmask8,
    /// Not a number by its first bytes or its length.
    bad: u8,
    /// The first eight bytes, without the sign.
    head: __m512i,
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn all(n: i64) -> __m512i {
    _mm512_set1_epi64(n)
}

/// Takes the sign off, and looks at the first two bytes: digits, of which the first is no zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn opened(heads: __m512i, length: __m512i, length_max: i64) -> Text {
    let text = _mm512_xor_si512(heads, all(0x3030_3030_3030_3030));
    let minus = _mm512_cmpeq_epi64_mask(_mm512_and_si512(text, all(0xFF)), all(i64::from(b'-' ^ 0x30)));
    let head = _mm512_mask_andnot_epi64(text, minus, all(0xFF), text);
    let unsigned = _mm512_mask_srli_epi64::<8>(head, minus, head);
    let digits = _mm512_mask_sub_epi64(length, minus, length, all(1));
    let first = _mm512_and_si512(unsigned, all(0xFF));
    let second = _mm512_and_si512(unsigned, all(0xFF00));
    let no_digit = _mm512_cmpgt_epu64_mask(first, all(9));
    let zero = _mm512_testn_epi64_mask(first, first);
    let more = _mm512_cmplt_epu64_mask(second, all(0x0A00)) & _mm512_cmpgt_epi64_mask(digits, all(1));
    let nothing = _mm512_cmplt_epi64_mask(digits, all(1));
    let too_long = _mm512_cmpgt_epi64_mask(length, all(length_max));
    Text { minus, bad: no_digit | (zero & more) | nothing | too_long, head }
}

/// Eight digits, and perhaps a point among them.
struct Digits {
    /// Their number, without the point.
    number: __m512i,
    /// A one in the point's byte.
    point: __m512i,
    /// Neither digits nor one point.
    bad: u8,
}

/// The number that eight bytes spell, digits as their values; the last is the highest.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn digits(text: __m512i) -> Digits {
    let points = _mm512_cmpeq_epi8_mask(text, _mm512_set1_epi8((b'.' ^ 0x30) as i8));
    let point = _mm512_maskz_set1_epi8(points, 1);
    // What stands before the point moves over it; all of it, where there is none.
    let before = _mm512_sub_epi64(point, all(1));
    let moved = _mm512_slli_epi64::<8>(_mm512_and_si512(text, before));
    let behind = _mm512_mask_mov_epi8(_mm512_andnot_si512(before, text), points, _mm512_setzero_si512());
    let none = _mm512_testn_epi64_mask(point, point);
    let digits = _mm512_mask_mov_epi64(_mm512_or_si512(moved, behind), none, text);
    let beyond = _mm512_subs_epu8(digits, _mm512_set1_epi8(9));
    let bad = _mm512_test_epi64_mask(beyond, beyond) | _mm512_test_epi64_mask(point, before);
    let pairs = _mm512_maddubs_epi16(digits, _mm512_set1_epi16(0x010A));
    let fours = _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x0001_0064));
    let number = _mm512_add_epi64(_mm512_mul_epu32(fours, all(10_000)), _mm512_srli_epi64::<32>(fours));
    Digits { number, point, bad }
}

/// The number of bytes behind a point's; of no meaning where there is none.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn behind(point: __m512i) -> __m512i {
    _mm512_srli_epi64::<3>(_mm512_lzcnt_epi64(point))
}

/// The mantissa divided by a power of ten of at most 15, with its sign.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn value(mantissa: __m512i, decimals: __m512i, minus: __mmask8) -> __m512d {
    let low = _mm512_setr_pd(1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7);
    let high = _mm512_setr_pd(1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15);
    let power = _mm512_permutex2var_pd(low, decimals, high);
    let value = _mm512_div_pd(_mm512_cvtepu64_pd(mantissa), power);
    _mm512_mask_or_pd(value, minus, value, _mm512_castsi512_pd(all(i64::MIN)))
}

/// Numbers of at most eight bytes, each at the beginning of its word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn narrow(heads: __m512i, length: __m512i) -> Read {
    let text = opened(heads, length, 8);
    // To the end of the word; a shift by more than a word leaves nothing.
    let shift = _mm512_sub_epi64(all(64), _mm512_slli_epi64::<3>(length));
    let tail = digits(_mm512_sllv_epi64(text.head, shift));
    let at_end = _mm512_test_epi64_mask(tail.point, all(1 << 56));
    let decimals = _mm512_maskz_mov_epi64(_mm512_test_epi64_mask(tail.point, tail.point), behind(tail.point));
    Read {
        values: value(tail.number, decimals, text.minus),
        bad: text.bad | tail.bad | at_end,
        long: _mm512_cmpgt_epi64_mask(length, all(8)),
    }
}

/// Numbers of at most sixteen bytes, by their first eight and their last eight.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn wide(heads: __m512i, tails: __m512i, length: __m512i) -> Read {
    let text = opened(heads, length, 16);
    let long = _mm512_cmpgt_epi64_mask(length, all(8));
    let bits = _mm512_slli_epi64::<3>(length);
    let short = _mm512_sllv_epi64(text.head, _mm512_sub_epi64(all(64), bits));
    let tails = _mm512_xor_si512(tails, all(0x3030_3030_3030_3030));
    let tail = digits(_mm512_mask_mov_epi64(short, long, tails));
    let head = digits(_mm512_maskz_sllv_epi64(long, text.head, _mm512_sub_epi64(all(128), bits)));
    let (in_tail, in_head) =
        (_mm512_test_epi64_mask(tail.point, tail.point), _mm512_test_epi64_mask(head.point, head.point));
    let at_end = _mm512_test_epi64_mask(tail.point, all(1 << 56));
    // A point takes one of the eight digits.
    let unit = _mm512_mask_mov_epi64(all(100_000_000), in_tail, all(10_000_000));
    let mantissa = _mm512_add_epi64(_mm512_mul_epu32(head.number, unit), tail.number);
    let inexact = _mm512_cmpgt_epu64_mask(mantissa, all(1 << 53));
    let decimals = _mm512_maskz_mov_epi64(in_tail, behind(tail.point));
    let decimals = _mm512_mask_add_epi64(decimals, in_head, behind(head.point), all(8));
    Read {
        values: value(mantissa, decimals, text.minus),
        bad: text.bad | tail.bad | head.bad | (in_tail & in_head) | at_end | inexact,
        long,
    }
}
