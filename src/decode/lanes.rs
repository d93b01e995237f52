//! Rows by their separators, for processors with AVX-512: where those stand is found ahead of their use, and the
//! numbers between them are read eight at a time. So a number's place doesn't wait for the number before it to be
//! read, which is what reading them one by one spends its time on.
//!
//! A number is taken here only where [`super::number::json`] takes it, with the same bits: at most sixteen bytes, no
//! exponent, a mantissa that is exact in f64, so that one division rounds correctly (Clinger, "How to read floating
//! point numbers accurately", 1990). Whatever is not taken is for the caller to read otherwise: on other processors
//! nothing is, and that costs time alone.

#[cfg(target_arch = "x86_64")]
mod numbers;
mod places;

use super::row::{Cells, Kind, Target};
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;
use places::Places;

/// Numbers that are read at once.
const LANES: usize = 8;
/// Bytes that are compared at once.
const WORD: usize = 16;
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
        let read = numbers::turn::<WIDE, FULL>(bytes, places, &lengths[self.first..], self.first == 0, self.count);
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
mod tests;
