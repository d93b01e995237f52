//! Where separators stand, found ahead of their use.

use super::{CHUNK, LANES, Set};

/// Bytes that are searched at a stretch: far enough ahead for what was found to be in the cache when it is used.
const STRETCH: usize = 64 * CHUNK;

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

    /// The next `count` separators from `at` on, behind `at` itself, and [`LANES`] places more that mean nothing but
    /// lie between `at` and the bytes' end. None where there are fewer.
    ///
    /// # Safety
    /// The processor has the set.
    #[inline(always)]
    pub unsafe fn next<S: Set>(&mut self, bytes: &[u8], at: usize, count: usize) -> Option<&[u32]> {
        while self.used < self.have && (self.found[self.used] as usize) < at {
            self.used += 1;
        }
        // SAFETY: as promised.
        if self.have - self.used < count && !unsafe { self.search::<S>(bytes, at, count) } {
            return None;
        }
        let next = self.found.get_mut(self.used - 1..self.used + count + LANES)?;
        next[0] = at as u32;
        Some(next)
    }

    /// Searches on until there are `count`; false where the bytes end before.
    ///
    /// # Safety
    /// The processor has the set.
    #[inline(never)]
    unsafe fn search<S: Set>(&mut self, bytes: &[u8], at: usize, count: usize) -> bool {
        self.found.copy_within(self.used..self.have, 1);
        (self.have, self.used) = (1 + self.have - self.used, 1);
        if self.searched < at {
            (self.have, self.searched) = (1, at);
        }
        let enough = loop {
            let stretch = &bytes[self.searched.min(bytes.len())..];
            let stretch = &stretch[..stretch.len().min(STRETCH)];
            if self.have - self.used >= count || stretch.is_empty() {
                break self.have - self.used >= count;
            }
            // SAFETY: as promised.
            self.have += unsafe { S::search(stretch, self.last, self.searched, &mut self.found[self.have..]) };
            self.searched += stretch.len();
        };
        let last = self.found[self.have - 1];
        self.found[self.have..self.have + LANES].fill(last);
        enough
    }
}
