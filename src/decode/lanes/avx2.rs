//! Lanes by AVX2: a vector holds four numbers, and whatever is wrong with one leaves a bit in its lane of another.
//!
//! A number is loaded from its end, which is known, and told from what stands before it by its length. Nothing is
//! looked up by where its point stands: that is counted and masked, since a vector has no other way.

use super::part::place;
use super::{CHUNK, LANES, Left, Numbers, Part, Set};
use core::arch::x86_64::*;

/// Numbers of a vector.
const HALF: usize = LANES / 2;

/// Places that are written at once.
const GROUP: usize = 8;

/// AVX2, and what comes with it.
pub(super) struct Avx2;

impl Set for Avx2 {
    fn available() -> bool {
        crate::wide::available()
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn search(text: &[u8], last: u8, base: usize, found: &mut [u32]) -> usize {
        let (chunks, rest) = text.as_chunks::<CHUNK>();
        let (mut have, mut base) = (0, base);
        for chunk in chunks {
            have += put(hits(chunk, last), base as u32, &mut found[have..]);
            base += CHUNK;
        }
        if !rest.is_empty() {
            // A zero is no separator.
            let mut chunk = [0; CHUNK];
            chunk[..rest.len()].copy_from_slice(rest);
            // SAFETY: as promised.
            have += unsafe { Avx2::search(&chunk, last, base, &mut found[have..]) };
        }
        have
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn part(part: &mut Part, bytes: &[u8], places: &[u32; LANES + 1], cells: &mut [f64]) -> Option<u8> {
        // SAFETY: as promised.
        unsafe { part.read::<Avx2>(bytes, places, cells) }
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn turn<const WIDE: bool>(
        bytes: &[u8],
        places: &[u32; LANES + 1],
        numbers: &Numbers,
        cells: &mut [f64],
    ) -> Left {
        // SAFETY: eight places each.
        let (ends, lengths) = unsafe {
            (_mm256_loadu_si256(places[1..].as_ptr().cast()), _mm256_loadu_si256(numbers.lengths.as_ptr().cast()))
        };
        let before = if numbers.first {
            // The row's first place was just stored: it isn't waited for.
            let shifted = _mm256_permutevar8x32_epi32(ends, _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6));
            _mm256_insert_epi32::<0>(shifted, place(&places[0]) as i32)
        } else {
            // SAFETY: as above.
            unsafe { _mm256_loadu_si256(places.as_ptr().cast()) }
        };
        let lengths = _mm256_sub_epi32(_mm256_sub_epi32(ends, before), lengths);
        let over = |most| _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(lengths, _mm256_set1_epi32(most))));
        let (cells, _) = cells.as_chunks_mut::<HALF>();
        let ends = places[1..].as_ptr();
        let low = _mm256_permute4x64_epi64::<0x44>(lengths);
        // SAFETY: as promised; four places each.
        let mut bad = unsafe { half::<WIDE>(bytes, ends, low, &mut cells[0]) };
        if numbers.count > HALF {
            let high = _mm256_permute4x64_epi64::<0xEE>(lengths);
            // SAFETY: as above.
            bad |= unsafe { half::<WIDE>(bytes, ends.add(HALF), high, &mut cells[1]) } << HALF;
        }
        let long = over(8) as u8;
        let too_long = if WIDE { over(16) as u8 } else { long };
        Left { bad: bad | too_long, long }
    }

    fn written(count: usize) -> usize {
        count.next_multiple_of(HALF)
    }
}

/// Which bytes are separators.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn hits(chunk: &[u8; CHUNK], last: u8) -> u64 {
    let hits = |half: &[u8]| {
        // SAFETY: thirty-two bytes.
        let text = unsafe { _mm256_loadu_si256(half.as_ptr().cast()) };
        let is = |byte: u8| _mm256_cmpeq_epi8(text, _mm256_set1_epi8(byte as i8));
        u64::from(_mm256_movemask_epi8(_mm256_or_si256(is(b','), is(last))) as u32)
    };
    hits(&chunk[..CHUNK / 2]) | hits(&chunk[CHUNK / 2..]) << (CHUNK / 2)
}

/// Puts the places of set bits, counted from `base`, in groups that are whole: what that writes beyond them means
/// nothing. Returns how many there are.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn put(mut hits: u64, base: u32, found: &mut [u32]) -> usize {
    let count = hits.count_ones() as usize;
    let (groups, _) = found[..CHUNK].as_chunks_mut::<GROUP>();
    for group in groups {
        for place in group {
            // One by one: the compiler would gather them in a vector first, which is slower.
            // SAFETY: it is a place's own.
            unsafe { std::ptr::from_mut(place).write_volatile(base + hits.trailing_zeros()) };
            hits &= hits.wrapping_sub(1);
        }
        if hits == 0 {
            break;
        }
    }
    count
}

#[inline]
#[target_feature(enable = "avx2")]
fn all(n: i64) -> __m256i {
    _mm256_set1_epi64x(n)
}

/// Reads four numbers that end at the places and are so long (in four bytes each, in either half), into their cells.
/// Returns the bits of those that are not taken.
///
/// # Safety
/// There are four places, and sixteen bytes before each.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
unsafe fn half<const WIDE: bool>(bytes: &[u8], ends: *const u32, lengths: __m256i, cells: &mut [f64; HALF]) -> u8 {
    // From memory: the compiler would take them out of the vector in which they are at hand, which is slower.
    // SAFETY: as promised.
    let before = |lane: usize, length: usize| unsafe { bytes.as_ptr().add(place(&*ends.add(lane))).sub(length) };
    let lengths = _mm256_shuffle_epi8(
        lengths,
        _mm256_setr_epi8(
            0, 0, 0, 0, 0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8, 12, 12, 12, 12, 12, 12, 12, 12,
        ),
    );
    let (values, bad) = if WIDE {
        // SAFETY: as promised.
        let load = |lane: usize| unsafe { _mm_loadu_si128(before(lane, 16).cast()) };
        let even = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(0)), load(2));
        let odd = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(1)), load(3));
        wide(_mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd), lengths)
    } else {
        // SAFETY: as promised.
        let load = |lane: usize| unsafe {
            let low = _mm_castsi128_pd(_mm_loadl_epi64(before(lane, 8).cast()));
            _mm_castpd_si128(_mm_loadh_pd(low, before(lane + 1, 8).cast()))
        };
        narrow(_mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(0)), load(2)), lengths)
    };
    // SAFETY: four cells.
    unsafe { _mm256_storeu_pd(cells.as_mut_ptr(), values) };
    bad
}

/// Numbers of at most eight bytes, each at the end of its word; each byte of `lengths` is the length of its word's.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn narrow(words: __m256i, lengths: __m256i) -> (__m256d, u8) {
    // For each byte, how many there are from it to the end.
    let to_end = all(0x0102_0304_0506_0708);
    let there = _mm256_cmpgt_epi8(lengths, _mm256_sub_epi8(to_end, _mm256_set1_epi8(1)));
    let word = Word::of(words, there, _mm256_cmpeq_epi8(lengths, to_end));
    // The first byte and the last are digits; behind a zero that is the first there is none.
    let first = _mm256_andnot_si256(_mm256_slli_epi64::<8>(word.unsigned), word.unsigned);
    let missing = _mm256_andnot_si256(word.digits, _mm256_or_si256(first, all(TOP)));
    let second = _mm256_and_si256(word.digits, _mm256_slli_epi64::<8>(word.noughts(first)));
    let points = _mm256_and_si256(word.shape, all(0xF0));
    let bad = _mm256_or_si256(_mm256_or_si256(missing, second), _mm256_or_si256(word.beyond(), points));
    let power = _mm256_slli_epi64::<32>(_mm256_permutevar8x32_epi32(powers(), word.shape));
    let minus = _mm256_sub_epi64(_mm256_setzero_si256(), word.minus);
    value(word.number(), power, minus, bad)
}

/// Numbers of at most sixteen bytes, each at the end of its two words; a mantissa of 2^52 or more is left.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn wide(heads: __m256i, tails: __m256i, lengths: __m256i) -> (__m256d, u8) {
    let to_end = all(0x0102_0304_0506_0708);
    let word = |words: __m256i, lengths: __m256i| {
        let there = _mm256_cmpgt_epi8(lengths, _mm256_sub_epi8(to_end, _mm256_set1_epi8(1)));
        Word::of(words, there, _mm256_cmpeq_epi8(lengths, to_end))
    };
    let tail = word(tails, lengths);
    let head = word(heads, _mm256_sub_epi8(lengths, _mm256_set1_epi8(8)));
    // One byte on, out of the head into the tail.
    let next = |head, tail| _mm256_or_si256(_mm256_slli_epi64::<8>(tail), _mm256_srli_epi64::<56>(head));
    // The first byte and the last are digits; behind a zero that is the first there is none.
    let first_in_head = _mm256_andnot_si256(_mm256_slli_epi64::<8>(head.unsigned), head.unsigned);
    let first_in_tail = _mm256_andnot_si256(next(head.unsigned, tail.unsigned), tail.unsigned);
    let missing = _mm256_or_si256(
        _mm256_andnot_si256(head.digits, first_in_head),
        _mm256_andnot_si256(tail.digits, _mm256_or_si256(first_in_tail, all(TOP))),
    );
    let (in_head, in_tail) = (head.noughts(first_in_head), tail.noughts(first_in_tail));
    let second = _mm256_or_si256(
        _mm256_and_si256(head.digits, _mm256_slli_epi64::<8>(in_head)),
        _mm256_and_si256(tail.digits, next(in_head, in_tail)),
    );
    let points = _mm256_or_si256(
        _mm256_and_si256(_mm256_or_si256(head.shape, tail.shape), all(0xF0)),
        _mm256_and_si256(_mm256_and_si256(head.shape, tail.shape), all(8)),
    );
    // A point takes one of the eight digits.
    let point_in_tail = _mm256_castsi256_pd(_mm256_slli_epi64::<60>(tail.shape));
    let units = [100_000_000, 10_000_000].map(|unit| _mm256_castsi256_pd(all(unit)));
    let unit = _mm256_castpd_si256(_mm256_blendv_pd(units[0], units[1], point_in_tail));
    let mantissa = _mm256_add_epi64(_mm256_mul_epu32(head.number(), unit), tail.number());
    let inexact = _mm256_srli_epi64::<52>(mantissa);
    let bad = [missing, second, points, head.beyond(), tail.beyond(), inexact];
    let bad = bad.into_iter().reduce(|a, b| _mm256_or_si256(a, b)).unwrap_or(missing);
    let few = _mm256_slli_epi64::<32>(_mm256_permutevar8x32_epi32(powers(), tail.shape));
    let many = _mm256_or_si256(
        _mm256_slli_epi64::<32>(_mm256_permutevar8x32_epi32(more_powers(), head.shape)),
        _mm256_permutevar8x32_epi32(more_powers_low(), head.shape),
    );
    let point_in_head = _mm256_castsi256_pd(_mm256_slli_epi64::<60>(head.shape));
    let power = _mm256_blendv_pd(_mm256_castsi256_pd(few), _mm256_castsi256_pd(many), point_in_head);
    let minus = _mm256_or_si256(head.minus, tail.minus);
    let minus = _mm256_or_si256(minus, _mm256_sub_epi64(_mm256_setzero_si256(), minus));
    value(mantissa, _mm256_castpd_si256(power), minus, bad)
}

/// The uppermost byte.
const TOP: i64 = 0xFF << 56;

/// Eight bytes of numbers, looked at.
struct Word {
    /// Digits as their values, nothing elsewhere.
    text: __m256i,
    minus: __m256i,
    unsigned: __m256i,
    /// Bytes that should be digits.
    digits: __m256i,
    point: __m256i,
    /// Eight for a point, and one for each byte behind it.
    shape: __m256i,
}

impl Word {
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn of(words: __m256i, there: __m256i, first: __m256i) -> Word {
        let text = _mm256_xor_si256(words, all(0x3030_3030_3030_3030));
        let minus = _mm256_and_si256(_mm256_cmpeq_epi8(text, _mm256_set1_epi8((b'-' ^ 0x30) as i8)), first);
        let unsigned = _mm256_andnot_si256(minus, there);
        let points = _mm256_cmpeq_epi8(text, _mm256_set1_epi8((b'.' ^ 0x30) as i8));
        let point = _mm256_and_si256(points, unsigned);
        let digits = _mm256_andnot_si256(points, unsigned);
        let shape = _mm256_sad_epu8(_mm256_and_si256(point, all(0x0809_0A0B_0C0D_0E0F)), _mm256_setzero_si256());
        Word { text: _mm256_and_si256(text, digits), minus, unsigned, digits, point, shape }
    }

    /// Zeros among some bytes.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn noughts(&self, among: __m256i) -> __m256i {
        _mm256_and_si256(_mm256_cmpeq_epi8(self.text, _mm256_setzero_si256()), among)
    }

    /// What is no digit, where one should be.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn beyond(&self) -> __m256i {
        _mm256_subs_epu8(self.text, _mm256_set1_epi8(9))
    }

    /// The number that the digits spell; the last is the highest.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn number(&self) -> __m256i {
        // What stands before the point moves over it; nothing, where there is none.
        let before = _mm256_and_si256(_mm256_sub_epi64(self.point, all(1)), self.text);
        let behind = _mm256_xor_si256(before, self.text);
        let before = _mm256_sllv_epi64(before, _mm256_and_si256(self.shape, all(8)));
        let digits = _mm256_or_si256(before, behind);
        let pairs = _mm256_maddubs_epi16(digits, _mm256_set1_epi16(0x010A));
        let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi32(0x0001_0064));
        _mm256_add_epi64(_mm256_mul_epu32(fours, all(10_000)), _mm256_srli_epi64::<32>(fours))
    }
}

/// Mantissas below 2^52 divided by powers of ten, with their signs; and the bits of those lanes that are bad.
#[inline]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn value(mantissa: __m256i, power: __m256i, minus: __m256i, bad: __m256i) -> (__m256d, u8) {
    let good = _mm256_cmpeq_epi64(bad, _mm256_setzero_si256());
    let good = _mm256_movemask_pd(_mm256_castsi256_pd(good)) as u8;
    let magic = all(0x4330_0000_0000_0000);
    let exact = _mm256_castsi256_pd(_mm256_or_si256(mantissa, magic));
    let value = _mm256_div_pd(_mm256_sub_pd(exact, _mm256_castsi256_pd(magic)), _mm256_castsi256_pd(power));
    let sign = _mm256_and_si256(minus, all(i64::MIN));
    (_mm256_or_pd(value, _mm256_castsi256_pd(sign)), good ^ 0xF)
}

/// The upper half of a number's bits.
const fn high(n: f64) -> i32 {
    (n.to_bits() >> 32) as i32
}

const fn low(n: f64) -> i32 {
    n.to_bits() as i32
}

/// The upper halves of 1e0 to 1e7; the lower ones are zero.
#[inline]
#[target_feature(enable = "avx2")]
fn powers() -> __m256i {
    _mm256_setr_epi32(high(1e0), high(1e1), high(1e2), high(1e3), high(1e4), high(1e5), high(1e6), high(1e7))
}

/// Those of 1e8 to 1e15, and the lower halves of the same.
#[inline]
#[target_feature(enable = "avx2")]
fn more_powers() -> __m256i {
    _mm256_setr_epi32(high(1e8), high(1e9), high(1e10), high(1e11), high(1e12), high(1e13), high(1e14), high(1e15))
}

#[inline]
#[target_feature(enable = "avx2")]
fn more_powers_low() -> __m256i {
    _mm256_setr_epi32(low(1e8), low(1e9), low(1e10), low(1e11), low(1e12), low(1e13), low(1e14), low(1e15))
}
