//! Where separators stand, found ahead of their use.

#[cfg(target_arch = "x86_64")]
use super::LANES;
#[cfg(target_arch = "x86_64")]
use core::arch::x86_64::*;

/// Bytes that are searched at once.
const CHUNK: usize = 64;
/// Bytes that are searched at a stretch: far enough ahead for what was found to be in the cache when it is used.
const STRETCH: usize = 64 * CHUNK;

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

/// Where separators stand: of the bytes from a row on, as far as they were searched.
#[derive(Debug, Default)]
pub(super) struct Places {
    last: u8,
    /// Found ones from `used` to `have`. The one before is not needed any more, and there always is one.
    found: Vec<u32>,
    pub used: usize,
    have: usize,
    /// Bytes before this were searched.
    searched: usize,
}

impl Places {
    pub fn make_room_for(&mut self, count: usize, last: u8) {
        // What a stretch may bring to a row that lacks one; and what is written beyond it.
        self.found.resize(1 + count + STRETCH + CHUNK, 0);
        self.last = last;
        self.forget();
    }

    pub fn forget(&mut self) {
        (self.used, self.have, self.searched) = (1, 1, 0);
    }

    /// The next `count` separators from `at` on, behind `at` itself, and [`LANES`] places more that mean nothing. None
    /// where there are fewer.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi2,avx2,bmi1,bmi2,lzcnt,popcnt")]
    pub fn next(&mut self, bytes: &[u8], at: usize, count: usize) -> Option<&[u32]> {
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
