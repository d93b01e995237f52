//! Some values of a row that stand side by side, and are read together.

use super::super::row::{Kind, Target};
use super::{LANES, Left, Numbers, Set, WORD};
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// Numbers that are worth a turn.
const WORTH: u32 = 2;
/// Times in succession that most numbers of a part were too long, after which they are read one by one.
const STRIKES_MAX: u8 = 32;

/// Bytes that stand before two values, the first [`WORD`] of each.
#[derive(Debug, Default, Clone, Copy)]
#[repr(C, align(32))]
pub(super) struct Words {
    bytes: [u128; 2],
    /// Which of them count.
    mask: [u128; 2],
}

impl Words {
    /// At most [`WORD`] bytes.
    pub fn put(&mut self, which: usize, text: &[u8]) {
        let mut bytes = [0; WORD];
        bytes[..text.len()].copy_from_slice(text);
        self.bytes[which] = u128::from_le_bytes(bytes);
        self.mask[which] = u128::MAX.checked_shr(8 * (WORD - text.len()) as u32).unwrap_or(0);
    }
}

#[cfg(target_arch = "x86_64")]
impl Words {
    /// The bytes that differ from those at the places.
    ///
    /// # Safety
    /// [`WORD`] bytes stand at each.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn differ(&self, at: [*const u8; 2]) -> __m256i {
        // SAFETY: as promised; and both have as many.
        unsafe {
            let load = |words: &[u128; 2]| _mm256_load_si256(words.as_ptr().cast());
            let first = _mm256_castsi128_si256(_mm_loadu_si128(at[0].cast()));
            let text = _mm256_inserti128_si256::<1>(first, _mm_loadu_si128(at[1].cast()));
            _mm256_and_si256(_mm256_xor_si256(text, load(&self.bytes)), load(&self.mask))
        }
    }

    /// Whether they differ from the bytes at `at`, side by side.
    ///
    /// # Safety
    /// As many stand there.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub unsafe fn differ_at(&self, bytes: &[u8], at: usize) -> bool {
        // SAFETY: as promised.
        let wrong = unsafe {
            let at = bytes.as_ptr().add(at);
            self.differ([at, at.add(WORD)])
        };
        _mm256_testz_si256(wrong, wrong) == 0
    }
}

/// How numbers are read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// At most eight bytes each.
    #[default]
    Narrow,
    /// At most sixteen.
    Wide,
    /// By the caller, one by one.
    Single,
}

/// Values that are read together: some of them numbers, each in a lane.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// What each value's separator and key begin with, two by two.
    words: [Words; LANES / 2],
    /// The first value, and how many: at most [`LANES`].
    pub first: usize,
    count: usize,
    pub way: Way,
    strikes: u8,
    /// Bits of those that are numbers, truths, neither; and of those that must be whole.
    numbers: u8,
    truths: u8,
    others: u8,
    whole: u8,
    /// For lanes up to the last that is a number.
    turn: Numbers,
    slots: [u32; LANES],
    /// How many of the first values have cells that are neighbours.
    neighbours: usize,
    /// A turn writes to the cells themselves.
    in_place: bool,
}

impl Part {
    pub fn at(first: usize) -> Part {
        Part { first, turn: Numbers { first: first == 0, ..Numbers::default() }, ..Part::default() }
    }

    /// One value more: the bytes from the separator before it on, its own first byte, its target.
    pub fn add(&mut self, before: &[u8], first_byte: u8, target: Target) {
        let lane = self.count;
        self.words[lane / 2].put(lane % 2, &before[..before.len().min(WORD)]);
        self.turn.lengths[lane] = before.len() as u32;
        self.slots[lane] = target.slot;
        let number = matches!(target.kind, Kind::Float | Kind::Int | Kind::Timestamp)
            && matches!(first_byte, b'-' | b'0'..=b'9');
        let bit = 1 << lane;
        *match target.kind {
            _ if number => &mut self.numbers,
            Kind::Bool => &mut self.truths,
            _ => &mut self.others,
        } |= bit;
        if number && target.kind == Kind::Int {
            self.whole |= bit;
        }
        if number {
            self.turn.count = lane + 1;
        }
        // A truth is written over what a turn leaves in its cell.
        let cell = number || target.kind == Kind::Bool;
        if cell && self.neighbours == lane && target.slot == self.slots[0] + lane as u32 {
            self.neighbours += 1;
        }
        self.count += 1;
    }

    /// Once all values are there: turns write to so many cells.
    pub fn settle(&mut self, written: impl Fn(usize) -> usize) {
        self.in_place = written(self.turn.count) <= self.neighbours;
        if self.numbers.count_ones() < WORTH {
            self.way = Way::Single;
        }
    }

    /// Learns from how a turn went: `bad` numbers were not read, `long` ones are longer than a narrow turn reads.
    #[cold]
    #[inline(never)]
    fn adapt(&mut self, bad: u8, long: u8) {
        match self.way {
            Way::Narrow if bad & long != 0 => self.way = Way::Wide,
            Way::Wide if bad.count_ones() * 2 > self.numbers.count_ones() => self.strikes += 1,
            _ => self.strikes = 0,
        }
        if self.strikes >= STRIKES_MAX {
            self.way = Way::Single;
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Part {
    /// Whether anything but what is expected stands before a value.
    ///
    /// # Safety
    /// As many bytes stand behind each of the values' places, and behind the next, as [`super::Lanes::reach`] says.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn differs(&self, bytes: &[u8], places: &[u32; LANES + 1]) -> bool {
        let mut wrong = _mm256_setzero_si256();
        let pairs = places.as_chunks::<2>().0;
        for (words, pair) in self.words.iter().zip(pairs).take(self.count.div_ceil(2)) {
            // SAFETY: as promised.
            wrong =
                _mm256_or_si256(wrong, unsafe { words.differ([0, 1].map(|i| bytes.as_ptr().add(place(&pair[i])))) });
        }
        _mm256_testz_si256(wrong, wrong) == 0
    }

    /// Reads the part's numbers and truths into their cells; returns the bits of the values that are left, or nothing
    /// where anything but what is expected stands before a value.
    ///
    /// # Safety
    /// The processor has the set; and as [`Part::differs`] and [`Set::turn`] have it.
    #[inline(always)]
    pub unsafe fn read<S: Set>(&mut self, bytes: &[u8], places: &[u32; LANES + 1], cells: &mut [f64]) -> Option<u8> {
        // SAFETY: as promised.
        if unsafe { self.differs(bytes, places) } {
            return None;
        }
        let mut left = self.others;
        if self.way == Way::Single {
            left |= self.numbers;
        } else {
            let mut apart = [0.0; LANES];
            let to = if self.in_place {
                &mut cells[self.slots[0] as usize..][..S::written(self.turn.count)]
            } else {
                &mut apart[..]
            };
            // SAFETY: as promised.
            let Left { mut bad, long } = unsafe {
                match self.way {
                    Way::Wide => S::turn::<true>(bytes, places, &self.turn, to),
                    _ => S::turn::<false>(bytes, places, &self.turn, to),
                }
            };
            if self.whole != 0 {
                // SAFETY: every set has AVX2.
                bad |= unsafe { fractions(to) } & self.whole;
            }
            bad &= self.numbers;
            if bad != 0 {
                self.adapt(bad, long);
            }
            left |= bad;
            if !self.in_place {
                lanes(self.numbers, |lane| cells[self.slots[lane] as usize] = apart[lane]);
            }
        }
        lanes(self.truths, |lane| {
            let (start, end) = (self.start(lane, places), places[lane + 1] as usize);
            match truth(bytes, start, end) {
                Some(truth) => cells[self.slots[lane] as usize] = truth,
                None => left |= 1 << lane,
            }
        });
        Some(left)
    }

    /// Where a lane's value begins.
    #[inline(always)]
    fn start(&self, lane: usize, places: &[u32; LANES + 1]) -> usize {
        places[lane] as usize + self.turn.lengths[lane] as usize
    }

    /// Takes the next value out of those that are left: its lane, and where it begins.
    #[inline(always)]
    pub fn next_left(&self, left: &mut u8, places: &[u32; LANES + 1]) -> (usize, usize) {
        let lane = left.trailing_zeros() as usize % LANES;
        *left &= *left - 1;
        (lane, self.start(lane, places))
    }
}

/// A place, by a load of its own: the row's first was just stored, and a load of it together with its neighbour, which
/// the compiler would prefer, would wait until it is in the cache.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn place(place: &u32) -> usize {
    // SAFETY: it is there.
    unsafe { std::ptr::from_ref(place).read_volatile() as usize }
}

/// For each bit that is set.
#[inline(always)]
fn lanes(mut bits: u8, mut f: impl FnMut(usize)) {
    while bits != 0 {
        f(bits.trailing_zeros() as usize % LANES);
        bits &= bits - 1;
    }
}

/// The bits of those that are not whole.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn fractions(numbers: &[f64]) -> u8 {
    let (fours, rest) = numbers.as_chunks::<4>();
    let rest = rest.iter().rev().fold(0, |all, n| all << 1 | u8::from(n.trunc() != *n)) << (4 * fours.len() % 8);
    fours.iter().enumerate().fold(rest, |all, (i, four)| {
        // SAFETY: four numbers.
        let values = unsafe { _mm256_loadu_pd(four.as_ptr()) };
        let whole = _mm256_round_pd::<{ _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC }>(values);
        all | (_mm256_movemask_pd(_mm256_cmp_pd::<_CMP_NEQ_UQ>(values, whole)) as u8) << (4 * i)
    })
}

/// What `true` or `false`, a one or a zero is worth. Which of them it is can't be foretold, so nothing branches on it.
#[inline(always)]
fn truth(bytes: &[u8], start: usize, end: usize) -> Option<f64> {
    let word = u64::from_le_bytes(*bytes.get(start..)?.first_chunk()?);
    let length = (end - start) as u64;
    // Nothing, where it is this text.
    let other = |text: &[u8]| {
        let expected = text.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        (word ^ expected) << (64 - 8 * text.len()) | (length ^ text.len() as u64)
    };
    let (not_true, not_false) = (other(b"true").min(other(b"1")), other(b"false").min(other(b"0")));
    let worth = u64::from(not_true == 0).wrapping_neg() & 1f64.to_bits();
    (not_true.min(not_false) == 0).then_some(f64::from_bits(worth))
}
