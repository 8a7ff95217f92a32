//! The memory of a slab.
//!
//! Rows are visited at random, so that with pages of 4 KiB nearly every visit misses the cache of page addresses. Huge pages are asked for
//! where the system has them. A slab that fits in no core's own cache is written past the caches where the processor can: what is overwritten need not be
//! fetched, and what is written will not be read soon. The same holds for representatives that do not stay in one until they are read.

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

/// Representatives of so many bytes leave a core's own cache before they are read, which is sooner than a slab's rows are.
const LEAVES_CACHE: usize = 4 << 20;

impl Memory {
    /// Overwrites the bytes from each place on, in order, with rows of `width` bytes.
    pub(super) fn overwrite<'a>(&mut self, width: usize, rows: impl Iterator<Item = (usize, &'a [u8])>) {
        if self.len() < FITS_NO_CACHE { copy(self, width, rows) } else { copy_past_caches(self, width, rows) }
    }
}

/// Copies each row, of `width` bytes, to its place in `target`, in order.
pub(super) fn gather<'a>(target: &mut [u8], width: usize, rows: impl Iterator<Item = (usize, &'a [u8])>) {
    if target.len() < LEAVES_CACHE { copy(target, width, rows) } else { copy_past_caches(target, width, rows) }
}

fn copy<'a>(target: &mut [u8], width: usize, rows: impl Iterator<Item = (usize, &'a [u8])>) {
    in_turn(width, rows, |place, part| target[place..place + part.len()].copy_from_slice(part));
}

fn copy_past_caches<'a>(target: &mut [u8], width: usize, rows: impl Iterator<Item = (usize, &'a [u8])>) {
    in_turn(width, rows, |place, part| stream::copy(&mut target[place..place + part.len()], part));
    stream::fence();
}

/// So many rows are copied in turn, and so many bytes of one before the next has its turn. The processor fetches each of them ahead, so that it waits for several at
/// once; with a whole row after the other it waits for one.
const ROWS: usize = 8;
const TURN: usize = 512;

/// Calls `copy` with every part of every row and the place where it belongs; of the parts that belong to one place, the last row's comes last.
fn in_turn<'a>(width: usize, mut rows: impl Iterator<Item = (usize, &'a [u8])>, mut copy: impl FnMut(usize, &[u8])) {
    if width <= TURN {
        return rows.for_each(|(place, row)| copy(place, row));
    }
    loop {
        let mut group: [(usize, &[u8]); ROWS] = [(0, &[]); ROWS];
        let rows = group.iter_mut().zip(&mut rows).map(|(entry, row)| *entry = row).count();
        if rows == 0 {
            return;
        }
        for from in (0..width).step_by(TURN) {
            let to = width.min(from + TURN);
            group[..rows].iter().for_each(|(place, row)| copy(place + from, &row[from..to]));
        }
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

    /// Rows of `width` bytes, none of them 0, of which two belong to one place.
    fn rows(width: usize, last: usize) -> Vec<(usize, Vec<u8>)> {
        let places = [5, 0, 11, 6, 2, 9, 8, 3, 5, 10].map(|n| n * width);
        let row = |n: usize| (0..width).map(|at| (n * 31 + at) as u8 | 1).collect();
        places.into_iter().chain([last]).enumerate().map(|(n, place)| (place, row(n))).collect()
    }

    #[test]
    fn rows_are_written_where_they_belong_whether_past_the_caches_or_not() {
        for width in [20_000, 3072, 520, 512, 80, 16, 24, 7, 1] {
            for len in [1 << 18, LEAVES_CACHE, FITS_NO_CACHE] {
                let rows = rows(width, (len / width - 1) * width);
                let mut expected = vec![0; len];
                rows.iter().for_each(|(place, row)| expected[*place..][..width].copy_from_slice(row));
                let in_order = || rows.iter().map(|(place, row)| (*place, row.as_slice()));

                let mut memory = Memory::zeroed(len).unwrap();
                memory.overwrite(width, in_order());
                assert!(*memory == *expected, "{width} bytes overwritten of {len}");
                let mut gathered = vec![0; len];
                gather(&mut gathered, width, in_order());
                assert!(gathered == expected, "{width} bytes gathered of {len}");
            }
        }
    }
}
