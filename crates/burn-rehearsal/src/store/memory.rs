//! The memory of a slab, and how rows are copied to it and from it.
//!
//! Rows are visited at random, so that with pages of 4 KiB nearly every visit misses the cache of page addresses. Huge pages are asked for
//! where the system has them. What fits in no core's own cache is written past the caches where the processor can: it need not be fetched first, and does not push out
//! what the caches hold.

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

/// From so many bytes on a slab is written past the caches: it fits in no core's own, and what is written will not be read soon.
const LARGE_SLAB: usize = 8 << 20;

/// From so many bytes on representatives are: though they will be read soon, a core's own cache does not hold them until then.
const LARGE_DRAW: usize = 4 << 20;

impl Memory {
    /// Overwrites `width` bytes from each place on; no two places overlap.
    pub(super) fn overwrite<'a>(&mut self, width: usize, rows: impl Iterator<Item = (usize, &'a [u8])>) {
        let large = self.len() >= LARGE_SLAB;
        copy(self, width, rows, large);
    }
}

/// Copies each row, of `width` bytes, to its place in `target`; no two places overlap.
pub(super) fn gather<'a>(target: &mut [u8], width: usize, rows: impl Iterator<Item = (usize, &'a [u8])>) {
    let large = target.len() >= LARGE_DRAW;
    copy(target, width, rows, large);
}

fn copy<'a>(target: &mut [u8], width: usize, rows: impl Iterator<Item = (usize, &'a [u8])>, past_caches: bool) {
    let skew = target.as_ptr().addr() % LINE;
    if past_caches {
        in_turn(width, skew, rows, |place, part| stream::copy(&mut target[place..place + part.len()], part));
        stream::fence();
    } else {
        in_turn(width, skew, rows, |place, part| target[place..place + part.len()].copy_from_slice(part));
    }
}

/// So many rows are copied in turn. The processor fetches each of them ahead, so that it waits for several at once; with a whole row after the other it waits for one.
const ROWS: usize = 8;

/// So many bytes of a row are copied before the next has its turn.
const TURN: usize = 512;

/// Calls `copy` with every part of every row and the place where it belongs. Parts end where lines of the target do, whose place 0 lies `skew` bytes behind the beginning
/// of one: a line of which only a part was written past the caches would be put together in memory.
fn in_turn<'a>(width: usize, skew: usize, mut rows: impl Iterator<Item = (usize, &'a [u8])>, mut copy: impl FnMut(usize, &[u8])) {
    if width <= TURN {
        return rows.for_each(|(place, row)| copy(place, row));
    }
    loop {
        let mut group: [(usize, &[u8]); ROWS] = [(0, &[]); ROWS];
        let mut filled = 0;
        for (entry, row) in group.iter_mut().zip(&mut rows) {
            *entry = row;
            filled += 1;
        }
        if filled == 0 {
            return;
        }
        for end in (TURN..width + LINE + TURN).step_by(TURN) {
            for &(place, row) in &group[..filled] {
                let ahead = (place + skew) % LINE;
                let part = (end - TURN).saturating_sub(ahead)..(end - ahead).min(width);
                if !part.is_empty() {
                    copy(place + part.start, &row[part]);
                }
            }
        }
    }
}

/// The bytes that memory moves at once.
pub(super) const LINE: usize = 64;

/// Starts fetching rows of at most a line at `places`, so that the misses of several visits overlap. Longer ones need it not: while the processor copies one or several
/// in turn, it fetches their rest ahead.
pub(super) fn touch(bytes: &[u8], places: impl Iterator<Item = usize>) {
    let sum = places.filter_map(|place| bytes.get(place)).fold(0u8, |sum, &byte| sum ^ byte);
    std::hint::black_box(sum);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Up to 15 rows of `width` bytes, none of them 0, in any order of places, and the last at the end of `len` bytes. No two parts of a row are alike.
    fn rows(width: usize, len: usize) -> Vec<(usize, Vec<u8>)> {
        let last = len / width - 1;
        let places = (0..14).map(|n| n * 5 % 14).filter(|&n| n < last).chain([last]);
        places.map(|n| (n * width, (0..width).map(|at| ((n * 31 + at + at / 251) % 255 + 1) as u8).collect())).collect()
    }

    #[test]
    fn rows_are_written_where_they_belong_whether_past_the_caches_or_not() {
        for width in [20_000, 3072, 2352, 784, 520, 512, 80, 16, 24, 7, 1] {
            for len in [1 << 18, LARGE_DRAW, LARGE_SLAB] {
                let rows = rows(width, len);
                let mut expected = vec![0; len];
                rows.iter().for_each(|(place, row)| expected[*place..][..width].copy_from_slice(row));
                let in_order = || rows.iter().map(|(place, row)| (*place, row.as_slice()));

                let mut memory = Memory::zeroed(len).unwrap();
                memory.overwrite(width, in_order());
                assert!(*memory == *expected, "{width} bytes overwritten of {len}");
                for skew in [0, 16, 1] {
                    let mut gathered = vec![0; skew + len];
                    gather(&mut gathered[skew..], width, in_order());
                    assert!(gathered[skew..] == expected, "{width} bytes gathered of {len}, {skew} bytes behind the beginning");
                }
            }
        }
    }

    #[test]
    fn parts_of_a_long_row_end_where_lines_do_and_leave_nothing_out() {
        for (skew, place) in [(0, 0), (0, 2352), (16, 0), (16, 4704), (63, 1)] {
            for width in [513, 520, 2352, 3072, 3073] {
                let row = vec![0; width];
                let mut parts = Vec::new();
                in_turn(width, skew, [(place, row.as_slice())].into_iter(), |place, part| parts.push(place..place + part.len()));
                assert_eq!((parts[0].start, parts[parts.len() - 1].end), (place, place + width));
                assert!(parts.iter().all(|part| (1..=TURN).contains(&part.len())), "{parts:?}");
                assert!(parts.windows(2).all(|two| two[0].end == two[1].start && (two[0].end + skew) % LINE == 0), "{parts:?}");
            }
        }
    }
}
