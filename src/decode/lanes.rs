//! Rows by their separators, for processors with AVX2 or AVX-512: where those stand is found ahead of their use, and
//! the numbers between them are read eight at a time. So a number's place doesn't wait for the number before it to be
//! read, which is what reading them one by one spends its time on.
//!
//! A number is taken here only where [`super::number::json`] takes it, with the same bits: at most sixteen bytes, no
//! exponent, a mantissa that is exact in f64, so that one division rounds correctly (Clinger, "How to read floating
//! point numbers accurately", 1990). Whatever is not taken is for the caller to read otherwise: on other processors
//! nothing is, and that costs time alone.

// Elsewhere there is no set.
#![cfg_attr(not(target_arch = "x86_64"), allow(unused))]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod part;
mod places;

use super::row::{Cells, Kind, Target};
#[cfg(target_arch = "x86_64")]
use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use avx512::Avx512;
use part::{Part, Words};
use places::Places;

/// Numbers that are read at once.
const LANES: usize = 8;
/// Bytes that are compared at once.
const WORD: usize = 16;
/// Bytes before a row that may be looked at.
const BEFORE: usize = 16;
/// Bytes that are searched at once.
const CHUNK: usize = 64;
/// A row that is not as expected counts as so many that are; where such misses are this many ahead, the rest is left to
/// others.
const MISS: u32 = 4;
const MISSES_MAX: u32 = 64;

/// What a set of instructions does for lanes. What is unsafe needs a processor that has the set.
trait Set {
    /// Whether this processor has it.
    fn available() -> bool;

    /// Puts the places of all commas and `last`s, the text's first byte being number `base`; [`CHUNK`] more than there
    /// are may be written to. Returns how many there are.
    unsafe fn search(text: &[u8], last: u8, base: usize, found: &mut [u32]) -> usize;

    /// [`Part::read`], compiled for the set.
    unsafe fn part(part: &mut Part, bytes: &[u8], places: &[u32; LANES + 1], cells: &mut [f64]) -> Option<u8>;

    /// Reads numbers, each of at most eight bytes, or sixteen where `WIDE`, into cells, of which there are as many as
    /// [`Set::written`] says. There are [`BEFORE`] bytes before the first place, and as many behind each number's as
    /// [`Lanes::reach`] says.
    unsafe fn turn<const WIDE: bool>(
        bytes: &[u8],
        places: &[u32; LANES + 1],
        numbers: &Numbers,
        cells: &mut [f64],
    ) -> Left;

    /// How many cells are written to for so many numbers.
    fn written(count: usize) -> usize;
}

/// Numbers to be read.
#[derive(Debug, Default)]
struct Numbers {
    /// Bytes from each one's separator to it.
    lengths: [u32; LANES],
    /// They are the row's first.
    first: bool,
    count: usize,
}

/// What a turn leaves, number by number.
struct Left {
    /// Not taken.
    bad: u8,
    /// Longer than eight bytes.
    long: u8,
}

/// The set that this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Has {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Has {
    /// All of them, the best first.
    fn all() -> impl Iterator<Item = Has> {
        #[cfg(target_arch = "x86_64")]
        let all = [(Has::Avx512, Avx512::available()), (Has::Avx2, Avx2::available())];
        #[cfg(not(target_arch = "x86_64"))]
        let all: [(Has, bool); 0] = [];
        all.into_iter().filter_map(|(set, available)| available.then_some(set))
    }

    fn written(self, count: usize) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Has::Avx512 => Avx512::written(count),
            #[cfg(target_arch = "x86_64")]
            Has::Avx2 => Avx2::written(count),
        }
    }
}

/// A row that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    /// The place of its last separator.
    pub last: usize,
    /// Every number's cell has a number.
    pub complete: bool,
}

/// What is expected of a row, and where the separators of the bytes at hand stand; nothing at first.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    set: Option<Has>,
    /// How many values there are.
    count: usize,
    parts: Vec<Part>,
    /// The numbers' cells that values go to, and how many.
    taken: Vec<bool>,
    cells: usize,
    /// What stands in longer keys than a part compares: the value's number, and how far behind its separator.
    more_words: Vec<(usize, usize, Words)>,
    /// Bytes behind the last separator that may be looked at.
    reach: usize,
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
        self.expect_by(Has::all().next(), values, last);
    }

    fn expect_by<'a>(&mut self, set: Option<Has>, values: impl Iterator<Item = Expected<'a>>, last: u8) {
        self.expect_nothing();
        let Some(set) = set else { return };
        if self.add_all(values, last).is_none() {
            return self.expect_nothing();
        }
        self.set = Some(set);
        self.parts.iter_mut().for_each(|part| part.settle(|count| set.written(count)));
        self.places.make_room_for(self.count, last);
        self.misses = 0;
    }

    /// Reads no row until something is expected again.
    pub(super) fn expect_nothing(&mut self) {
        self.set = None;
        self.more_words.clear();
        self.parts.clear();
        (self.count, self.cells, self.reach) = (0, 0, 0);
        self.misses = MISSES_MAX;
    }

    /// None where lanes would go wrong: separators stand in a key, or two values go to one cell, and the order counts.
    fn add_all<'a>(&mut self, values: impl Iterator<Item = Expected<'a>>, last: u8) -> Option<()> {
        self.taken.clear();
        for (step, (before, first_byte, target)) in values.enumerate() {
            let separators = before.iter().filter(|&&b| b == b',' || b == last).count();
            if separators != usize::from(step > 0) || (step > 0 && before[0] != b',') {
                return None;
            }
            if matches!(target.kind, Kind::Float | Kind::Int | Kind::Bool | Kind::Timestamp) {
                let cell = target.slot as usize;
                self.taken.resize(self.taken.len().max(cell + 1), false);
                if std::mem::replace(&mut self.taken[cell], true) {
                    return None;
                }
                self.cells += 1;
            }
            if step % LANES == 0 {
                self.parts.push(Part::at(step));
            }
            self.parts[step / LANES].add(before, first_byte, target);
            for (i, chunk) in before.chunks(2 * WORD).enumerate() {
                let mut words = Words::default();
                chunk.chunks(WORD).enumerate().for_each(|(which, text)| words.put(which, text));
                if before.len() > WORD {
                    self.more_words.push((step, i * 2 * WORD, words));
                }
            }
            self.reach = self.reach.max(before.len() + 2 * WORD);
            self.count = step + 1;
        }
        (self.count > 0).then_some(())
    }

    /// Bytes behind a row's last separator without which it isn't read.
    pub(super) fn reach(&self) -> usize {
        self.reach
    }

    /// The bytes at hand are others from now on.
    pub(super) fn forget(&mut self) {
        self.places.forget();
    }

    /// Reads the row at `at`. `single` reads the value of a number that begins at a byte, and says where it ends. What
    /// is written while `None` comes of it is for the caller to write over.
    #[inline(always)]
    pub(super) fn row(
        &mut self,
        bytes: &[u8],
        at: usize,
        cells: &mut Cells<'_>,
        single: impl FnMut(usize, usize, &mut Cells<'_>) -> Option<usize>,
    ) -> Option<Row> {
        if self.misses >= MISSES_MAX {
            return None;
        }
        match self.set? {
            // SAFETY: the processor has the set.
            #[cfg(target_arch = "x86_64")]
            Has::Avx512 => unsafe { self.read_by_avx512(bytes, at, cells, single) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Has::Avx2 => unsafe { self.read_by_avx2(bytes, at, cells, single) },
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Lanes {
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn read_by_avx512(
        &mut self,
        bytes: &[u8],
        at: usize,
        cells: &mut Cells<'_>,
        single: impl FnMut(usize, usize, &mut Cells<'_>) -> Option<usize>,
    ) -> Option<Row> {
        // SAFETY: whoever calls this has seen to the processor.
        unsafe { self.read::<Avx512>(bytes, at, cells, single) }
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
    fn read_by_avx2(
        &mut self,
        bytes: &[u8],
        at: usize,
        cells: &mut Cells<'_>,
        single: impl FnMut(usize, usize, &mut Cells<'_>) -> Option<usize>,
    ) -> Option<Row> {
        // SAFETY: as above.
        unsafe { self.read::<Avx2>(bytes, at, cells, single) }
    }

    /// # Safety
    /// The processor has the set.
    #[inline(always)]
    unsafe fn read<S: Set>(
        &mut self,
        bytes: &[u8],
        at: usize,
        cells: &mut Cells<'_>,
        mut single: impl FnMut(usize, usize, &mut Cells<'_>) -> Option<usize>,
    ) -> Option<Row> {
        if at < BEFORE {
            return None;
        }
        // SAFETY: as promised.
        let places = unsafe { self.places.next::<S>(bytes, at, self.count)? };
        let last = places[self.count] as usize;
        if last + self.reach > bytes.len() {
            return None;
        }
        // Until the row proves otherwise.
        self.misses += MISS;
        for (step, skip, words) in &self.more_words {
            // SAFETY: `reach` bytes stand behind the last separator, and it is more than any key.
            if unsafe { words.differ_at(bytes, places[*step] as usize + skip) } {
                return None;
            }
        }
        let mut complete = self.cells == cells.numbers.len();
        for part in &mut self.parts {
            let places = places[part.first..].first_chunk()?;
            // SAFETY: as promised, and as above.
            let mut left = unsafe { S::part(part, bytes, places, cells.numbers)? };
            complete &= left == 0;
            while left != 0 {
                let (lane, start) = part.next_left(&mut left, places);
                if single(part.first + lane, start, cells)? != places[lane + 1] as usize {
                    return None;
                }
            }
        }
        self.misses = self.misses.saturating_sub(MISS + 1);
        self.places.used += self.count;
        Some(Row { last, complete })
    }
}

#[cfg(test)]
mod tests;
