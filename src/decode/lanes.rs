//! Rows by their separators, for processors with AVX-512: where those stand is found ahead of their use, and the
//! numbers between them are read eight at a time. So a number's place doesn't wait for the number before it to be
//! read, which is what reading them one by one spends its time on.
//!
//! A number is taken here only where [`super::number::json`] takes it, with the same bits: at most sixteen bytes, no
//! exponent, a mantissa that is exact in f64, so that one division rounds correctly (Clinger, "How to read floating
//! point numbers accurately", 1990). Whatever is not taken is for the caller to read otherwise: on other processors
//! nothing is, and that costs time alone.

use super::row::{Cells, Kind, Target};
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// Numbers that are read at once.
const LANES: usize = 8;
/// Bytes that are compared at once.
const WORD: usize = 16;
/// Bytes that are searched at once.
const CHUNK: usize = 64;
/// Bytes that are searched at a stretch: far enough ahead for what was found to be in the cache when it is used.
const STRETCH: usize = 64 * CHUNK;
/// A row that is not as expected counts as so many that are; where such misses are this many ahead, the rest is left to
/// others.
const MISS: u32 = 4;
const MISSES_MAX: u32 = 64;
/// Times in succession that most numbers of a part were too long, after which they are read one by one.
const STRIKES_MAX: u8 = 32;

/// Some bytes that stand before a value.
#[derive(Debug)]
struct Word {
    bytes: u128,
    /// Which of them count.
    mask: u128,
}

impl Word {
    /// At most [`WORD`] bytes.
    fn of(text: &[u8]) -> Word {
        let mut bytes = [0; WORD];
        bytes[..text.len()].copy_from_slice(text);
        let mask = u128::MAX.checked_shr(8 * (WORD - text.len()) as u32).unwrap_or(0);
        Word { bytes: u128::from_le_bytes(bytes), mask }
    }

    /// The bytes of this word's that differ from those at `at`.
    ///
    /// # Safety
    /// [`WORD`] bytes stand there.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    unsafe fn differs(&self, at: *const u8) -> __m128i {
        // SAFETY: as promised; and both words have as many.
        unsafe {
            let load = |word: &u128| _mm_loadu_si128(std::ptr::from_ref(word).cast());
            let text = _mm_loadu_si128(at.cast());
            _mm_and_si128(_mm_xor_si128(text, load(&self.bytes)), load(&self.mask))
        }
    }
}

/// The numbers of a chunk's bytes.
#[cfg(target_arch = "x86_64")]
static COUNTED: [u8; CHUNK] = {
    let mut counted = [0; CHUNK];
    let mut i = 0;
    while i < CHUNK {
        counted[i] = i as u8;
        i += 1;
    }
    counted
};

/// How numbers are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// At most eight bytes each.
    Narrow,
    /// At most sixteen.
    Wide,
    /// By the caller, one by one.
    Single,
}

/// Values that are read together.
#[derive(Debug)]
struct Part {
    /// The first value, and how many: at most [`LANES`].
    first: usize,
    count: usize,
    way: Way,
    strikes: u8,
    /// Bits of those that must be whole.
    whole: u8,
    slots: [u32; LANES],
    /// The slots are neighbours.
    in_order: bool,
}

impl Part {
    /// Learns from how a turn went: `bad` numbers were not read, `long` ones are longer than a narrow turn reads.
    #[cold]
    #[inline(never)]
    fn adapt(&mut self, bad: u8, long: u8) {
        match self.way {
            Way::Narrow if bad & long != 0 => self.way = Way::Wide,
            Way::Wide if bad.count_ones() as usize * 2 > self.count => self.strikes += 1,
            _ => self.strikes = 0,
        }
        if self.strikes >= STRIKES_MAX {
            self.way = Way::Single;
        }
    }
}

/// What is expected of a row, and where the separators of the bytes at hand stand; nothing at first.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// What each value's separator and key begin with.
    words: Vec<Word>,
    /// What follows in longer ones: the value's number, and how far behind its separator.
    more_words: Vec<(usize, usize, Word)>,
    /// Bytes from a separator to the value behind it; [`LANES`] more than there are values.
    lengths: Vec<u32>,
    /// Bytes behind the last separator that may be looked at.
    reach: usize,
    parts: Vec<Part>,
    places: Places,
    /// Rows that were not as expected, less those that were.
    misses: u32,
}

/// One value of a row as it is expected: the bytes from the separator before it on, its own first byte, its target.
pub(super) type Expected<'a> = (&'a [u8], u8, Target);

impl Lanes {
    /// Expects rows of these values, each followed by a comma, the last by `last`; nothing, where this processor can't
    /// read them or separators stand elsewhere too.
    pub(super) fn expect<'a>(&mut self, values: impl Iterator<Item = Expected<'a>>, last: u8) {
        self.expect_nothing();
        if !available() || self.add_all(values, last).is_none() {
            return self.expect_nothing();
        }
        let longest = self.lengths.iter().max().map_or(0, |length| *length as usize);
        self.reach = longest + 2 * WORD;
        self.places.make_room_for(self.lengths.len(), last);
        self.lengths.extend([0; LANES]);
        self.misses = 0;
    }

    /// Reads no row until something is expected again.
    pub(super) fn expect_nothing(&mut self) {
        self.words.clear();
        self.more_words.clear();
        self.lengths.clear();
        self.parts.clear();
        self.misses = MISSES_MAX;
    }

    fn add_all<'a>(&mut self, values: impl Iterator<Item = Expected<'a>>, last: u8) -> Option<()> {
        for (step, (before, first_byte, target)) in values.enumerate() {
            let separators = before.iter().filter(|&&b| b == b',' || b == last).count();
            if separators != usize::from(step > 0) || (step > 0 && before[0] != b',') {
                return None;
            }
            let (head, rest) = before.split_at(before.len().min(WORD));
            self.words.push(Word::of(head));
            let more = rest.chunks(WORD).enumerate();
            self.more_words.extend(more.map(|(i, chunk)| (step, (i + 1) * WORD, Word::of(chunk))));
            self.lengths.push(before.len() as u32);
            self.add(step, first_byte, target);
        }
        (!self.parts.is_empty()).then_some(())
    }

    fn add(&mut self, step: usize, first_byte: u8, target: Target) {
        let number = matches!(target.kind, Kind::Float | Kind::Int | Kind::Timestamp)
            && matches!(first_byte, b'-' | b'0'..=b'9');
        let way = if number { Way::Narrow } else { Way::Single };
        let part = match self.parts.pop() {
            Some(part) if part.way == way && part.count < LANES => part,
            other => {
                self.parts.extend(other);
                Part { first: step, count: 0, way, strikes: 0, whole: 0, slots: [0; LANES], in_order: true }
            }
        };
        let mut part = part;
        part.slots[part.count] = target.slot;
        part.whole |= u8::from(target.kind == Kind::Int) << part.count;
        part.in_order &= target.slot == part.slots[0] + part.count as u32;
        part.count += 1;
        self.parts.push(part);
    }

    /// Bytes behind a row's last separator without which it isn't read.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    /// The bytes at hand are others from now on.
    pub(super) fn forget(&mut self) {
        self.places.forget();
    }

    /// Reads the row at `at`, and returns the place of its last separator. `single` reads the value of a number that
    /// begins at a byte, and says where it ends. What it writes while `None` comes of it is for the caller to write
    /// over.
    #[inline]
    pub(super) fn row(
        &mut self,
        bytes: &[u8],
        at: usize,
        cells: &mut Cells<'_>,
        single: impl FnMut(usize, usize, &mut Cells<'_>) -> Option<usize>,
    ) -> Option<usize> {
        if self.misses >= MISSES_MAX {
            return None;
        }
        #[cfg(target_arch = "x86_64")]
        // SAFETY: there are no lanes unless the processor has all of it.
        let last = unsafe { self.read(bytes, at, cells, single) };
        #[cfg(not(target_arch = "x86_64"))]
        let last = None;
        last
    }
}

/// Where separators stand: of the bytes from a row on, as far as they were searched.
#[derive(Debug, Default)]
struct Places {
    last: u8,
    /// Found ones from `used` to `have`. The one before is not needed any more, and there always is one.
    found: Vec<u32>,
    used: usize,
    have: usize,
    /// Bytes before this were searched.
    searched: usize,
}

impl Places {
    fn make_room_for(&mut self, count: usize, last: u8) {
        // What a stretch may bring to a row that lacks one; and what is written beyond it.
        self.found.resize(1 + count + STRETCH + CHUNK, 0);
        self.last = last;
        self.forget();
    }

    fn forget(&mut self) {
        (self.used, self.have, self.searched) = (1, 1, 0);
    }

    /// The next `count` separators from `at` on, behind `at` itself, and [`LANES`] places more that mean nothing. None
    /// where there are fewer.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn next(&mut self, bytes: &[u8], at: usize, count: usize) -> Option<&[u32]> {
        while self.used < self.have && (self.found[self.used] as usize) < at {
            self.used += 1;
        }
        if self.have - self.used < count {
            self.found.copy_within(self.used..self.have, 1);
            (self.have, self.used) = (1 + self.have - self.used, 1);
            if self.searched < at {
                (self.have, self.searched) = (1, at);
            }
            while self.have - self.used < count {
                let end = bytes.len().min(self.searched + STRETCH);
                if self.searched >= end {
                    return None;
                }
                while self.searched < end {
                    self.search(bytes);
                }
            }
        }
        let next = self.found.get_mut(self.used - 1..self.used + count + LANES)?;
        next[0] = at as u32;
        Some(next)
    }

    /// Searches the next chunk.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn search(&mut self, bytes: &[u8]) {
        let Some(chunk) = bytes.get(self.searched..) else { return };
        let there = if chunk.len() < CHUNK { (1 << chunk.len()) - 1 } else { u64::MAX };
        // SAFETY: only bytes of the slice are loaded.
        let text = unsafe { _mm512_maskz_loadu_epi8(there, chunk.as_ptr().cast()) };
        let is = |byte: u8| _mm512_mask_cmpeq_epi8_mask(there, text, _mm512_set1_epi8(byte as i8));
        let hits = is(b',') | is(self.last);
        // SAFETY: sixty-four bytes.
        let counted = unsafe { _mm512_loadu_si512(COUNTED.as_ptr().cast()) };
        let indices = _mm512_maskz_compress_epi8(hits, counted);
        let count = hits.count_ones() as usize;
        let room = &mut self.found[self.have..self.have + CHUNK];
        let base = _mm512_set1_epi32(self.searched as i32);
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
        self.have += count;
        self.searched += CHUNK;
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes {
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn read(
        &mut self,
        bytes: &[u8],
        at: usize,
        cells: &mut Cells<'_>,
        mut single: impl FnMut(usize, usize, &mut Cells<'_>) -> Option<usize>,
    ) -> Option<usize> {
        let count = self.lengths.len().checked_sub(LANES)?;
        let places = self.places.next(bytes, at, count)?;
        let last = places[count] as usize;
        // Numbers are looked at from eight bytes before their end on.
        if at < LANES || last + self.reach > bytes.len() {
            return None;
        }
        // Until the row proves otherwise.
        self.misses += MISS;
        let mut wrong = _mm_setzero_si128();
        for (word, place) in self.words.iter().zip(places) {
            // SAFETY: `reach` bytes stand behind the last separator.
            wrong = _mm_or_si128(wrong, unsafe { word.differs(bytes.as_ptr().add(*place as usize)) });
        }
        for (step, skip, word) in &self.more_words {
            // SAFETY: `reach` is more than any key.
            wrong = _mm_or_si128(wrong, unsafe { word.differs(bytes.as_ptr().add(places[*step] as usize + skip)) });
        }
        if _mm_test_all_zeros(wrong, wrong) == 0 {
            return None;
        }
        for part in &mut self.parts {
            let mut left = match (part.way, part.count) {
                (Way::Narrow, LANES) => part.numbers::<false, true>(bytes, places, &self.lengths, cells),
                (Way::Narrow, _) => part.numbers::<false, false>(bytes, places, &self.lengths, cells),
                (Way::Wide, _) => part.numbers::<true, false>(bytes, places, &self.lengths, cells),
                (Way::Single, _) => u8::MAX >> (LANES - part.count),
            };
            while left != 0 {
                let lane = left.trailing_zeros() as usize;
                let step = part.first + lane;
                let start = places[step] as usize + self.lengths[step] as usize;
                if single(step, start, cells)? != places[step + 1] as usize {
                    return None;
                }
                left &= left - 1;
            }
        }
        self.misses = self.misses.saturating_sub(MISS + 1);
        self.places.used += count;
        Some(last)
    }
}

#[cfg(target_arch = "x86_64")]
impl Part {
    /// Reads the part's numbers into their cells; returns the bits of those that were not taken.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn numbers<const WIDE: bool, const FULL: bool>(
        &mut self,
        bytes: &[u8],
        places: &[u32],
        lengths: &[u32],
        cells: &mut Cells<'_>,
    ) -> u8 {
        let there = u8::MAX >> (LANES - self.count);
        let places = &places[self.first..self.first + LANES + 1];
        let read = turn::<WIDE, FULL>(bytes, places, &lengths[self.first..], self.first == 0, self.count);
        let mut bad = read.bad & there;
        if self.whole != 0 {
            let whole = _mm512_roundscale_pd::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(read.values);
            bad |= _mm512_cmpneq_pd_mask(read.values, whole) & self.whole & there;
        }
        if bad != 0 {
            self.adapt(bad, read.long);
        }
        if self.in_order {
            let cells = &mut cells.numbers[self.slots[0] as usize..][..self.count];
            // SAFETY: as many cells as there are numbers.
            unsafe { _mm512_mask_storeu_pd(cells.as_mut_ptr(), there, read.values) };
        } else {
            let mut values = [0.0; LANES];
            // SAFETY: eight numbers.
            unsafe { _mm512_storeu_pd(values.as_mut_ptr(), read.values) };
            for (slot, value) in self.slots.iter().zip(values).take(self.count) {
                cells.numbers[*slot as usize] = value;
            }
        }
        bad
    }
}

/// What came of a turn, number by number.
#[cfg(target_arch = "x86_64")]
struct Read {
    values: __m512d,
    /// Not taken.
    bad: u8,
    /// Longer than eight bytes.
    long: u8,
}

/// Reads `count` numbers (all of [`LANES`] where `FULL`) between `places`, each so many bytes behind its separator.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn turn<const WIDE: bool, const FULL: bool>(
    bytes: &[u8],
    places: &[u32],
    lengths: &[u32],
    first: bool,
    count: usize,
) -> Read {
    let (places, lengths) = (&places[..LANES + 1], &lengths[..LANES]);
    let lane = |lane: usize| if FULL { lane } else { lane.min(count - 1) };
    // SAFETY: eight places each.
    let (ends, lengths_8) =
        unsafe { (_mm256_loadu_si256(places[1..].as_ptr().cast()), _mm256_loadu_si256(lengths.as_ptr().cast())) };
    let before = if first {
        // The row's first place was just stored: it isn't waited for.
        let shifted = _mm256_permutevar8x32_epi32(ends, _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6));
        _mm256_insert_epi32::<0>(shifted, places[0] as i32)
    } else {
        // SAFETY: as above.
        unsafe { _mm256_loadu_si256(places.as_ptr().cast()) }
    };
    let length = _mm512_cvtepi32_epi64(_mm256_sub_epi32(ends, _mm256_add_epi32(before, lengths_8)));
    // SAFETY: `Lanes::reach` bytes stand behind the last separator, and eight before the row's first byte.
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
#[cfg(target_arch = "x86_64")]
struct Text {
    minus: __mmask8,
    /// Not a number by its first bytes or its length.
    bad: u8,
    /// The first eight bytes, without the sign.
    head: __m512i,
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn all(n: i64) -> __m512i {
    _mm512_set1_epi64(n)
}

/// Takes the sign off, and looks at the first two bytes: digits, of which the first is no zero.
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
struct Digits {
    /// Their number, without the point.
    number: __m512i,
    /// A one in the point's byte.
    point: __m512i,
    /// Neither digits nor one point.
    bad: u8,
}

/// The number that eight bytes spell, digits as their values; the last is the highest.
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn behind(point: __m512i) -> __m512i {
    _mm512_srli_epi64::<3>(_mm512_lzcnt_epi64(point))
}

/// The mantissa divided by a power of ten of at most 15, with its sign.
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
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

/// Whether this processor has what the functions here are compiled for.
fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return crate::wide::available()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512cd")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

#[cfg(test)]
mod tests {
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
                assert_eq!(
                    Some(value).filter(|v| !v.is_nan()),
                    taken.then(|| text.parse().expect("a number")),
                    "{text}"
                );
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
}
