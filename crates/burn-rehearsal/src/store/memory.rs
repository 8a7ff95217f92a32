//! The memory of a slab.
//!
//! Rows are visited at random, so that with pages of 4 KiB nearly every visit misses the cache of page addresses. Huge pages are asked for
//! where the system has them.

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

/// Starts fetching what lies at `places`, so that the misses of several visits overlap.
pub(super) fn touch(bytes: &[u8], places: impl Iterator<Item = usize>) {
    let sum = places.filter_map(|place| bytes.get(place)).fold(0u8, |sum, &byte| sum ^ byte);
    std::hint::black_box(sum);
}
