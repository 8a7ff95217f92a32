//! The memory of a slab.
//!
//! Rows are visited at random, so that with pages of 4 KiB nearly every visit misses the cache of page addresses. Huge pages are asked for
//! where the system has them. A slab that fits in no core's own cache is written past the caches where the processor can: what is overwritten need not be
//! fetched, and what is written will not be read soon.

use super::stream;
use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};

/// Zeroed memory, all of it in place from the start.
#[derive(Debug)]
pub(super) struct Memory(MmapMut);

impl Memory {
    /// `len` bytes; `None` if they cannot be had.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        // The system maps no empty range.
        let mut map = MmapMut::map_anon(len.max(1)).ok()?;
        #[cfg(target_os = "linux")]
        // Advice: a kernel without huge pages refuses it, and nothing is lost.
        let _ = map.advise(memmap2::Advice::HugePage);
        // A page is taken when it is first written: now, and not in the middle of training.
        map.fill(0);
        Some(Self(map))
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// A slab of so many bytes fits in no core's own cache: from here on writing past the caches is faster.
const FITS_NO_CACHE: usize = 8 << 20;

impl Memory {
    /// Overwrites the bytes from each place on.
    pub(super) fn overwrite<'a>(&mut self, rows: impl Iterator<Item = (usize, &'a [u8])>) {
        let copy = if self.len() < FITS_NO_CACHE { <[u8]>::copy_from_slice } else { stream::copy };
        for (place, source) in rows {
            copy(&mut self[place..place + source.len()], source);
        }
        stream::fence();
    }
}

/// The bytes that memory moves at once.
pub(super) const LINE: usize = 64;

/// Starts fetching rows of at most a line at `places`, so that the misses of several visits overlap. Longer ones need it not: while the processor copies one, it
/// fetches the rest of it ahead, and the beginning of the next.
pub(super) fn touch(bytes: &[u8], places: impl Iterator<Item = usize>) {
    let sum = places.filter_map(|place| bytes.get(place)).fold(0u8, |sum, &byte| sum ^ byte);
    std::hint::black_box(sum);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn rows_are_written_where_they_belong_whether_past_the_caches_or_not() {
        for width in [3072, 80, 16, 24, 7, 1] {
            for len in [1 << 16, FITS_NO_CACHE] {
                let mut memory = Memory::zeroed(len).unwrap();
                let rows: Vec<Vec<u8>> = (1..5).map(|row| (0..width).map(|at| (row * 31 + at) as u8 | 1).collect()).collect();
                let places = [5 * width, 0, (len / width - 1) * width, 6 * width];
                memory.overwrite(places.into_iter().zip(rows.iter().map(Vec::as_slice)));
                for (place, row) in places.iter().zip(&rows) {
                    assert_eq!(&memory[*place..][..width], row, "{width} bytes at {place} of {len}");
                }
                let written = memory.iter().filter(|&&byte| byte != 0).count();
                assert_eq!(written, 4 * width, "nothing else is touched");
            }
        }
    }
}
