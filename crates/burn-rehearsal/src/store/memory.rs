//! The memory of slabs, and fast copies of rows.
//!
//! Rows are accessed at random, so with pages of 4 KiB nearly every access misses the TLB. The
//! memory uses huge pages where the system has them. Slabs and draws that do not fit in a core's
//! private cache are written with non-temporal stores.

use super::non_temporal::{self, CACHE_LINE};
use memmap2::MmapMut;

/// Allocates `len` zeroed bytes, and at least one. `None` if the memory cannot be allocated.
pub(super) fn zeroed(len: usize) -> Option<MmapMut> {
    // An empty range cannot be mapped.
    let mut map = MmapMut::map_anon(len.max(1)).ok()?;
    #[cfg(target_os = "linux")]
    // This is only advice. A kernel without huge pages returns an error, which does no harm.
    let _ = map.advise(memmap2::Advice::HugePage);
    // The first write allocates a page. It happens here instead of during training.
    map.fill(0);
    Some(map)
}

/// Slabs of at least this size are written with non-temporal stores. They do not fit in a core's
/// private cache and are not read again soon.
pub(super) const LARGE_SLAB: usize = 8 << 20;

/// Draws of at least this size are written with non-temporal stores. They are read soon, but do not
/// stay in a core's private cache until then.
pub(super) const LARGE_DRAW: usize = 4 << 20;

/// Copies each row of `width` bytes to its position in `target`. Positions must not overlap. A
/// target of at least `large` bytes is written with non-temporal stores.
pub(super) fn copy_rows<'a>(
    target: &mut [u8],
    width: usize,
    large: usize,
    rows: impl Iterator<Item = (usize, &'a [u8])>,
) {
    let skew = target.as_ptr().addr() % CACHE_LINE;
    if target.len() >= large {
        interleave_chunks(width, skew, rows, |place, part| {
            non_temporal::copy(&mut target[place..place + part.len()], part)
        });
        non_temporal::fence();
    } else {
        interleave_chunks(width, skew, rows, |place, part| {
            target[place..place + part.len()].copy_from_slice(part)
        });
    }
}

/// The number of rows that are copied alternately, chunk by chunk. The hardware prefetches each of
/// them, so that the cache misses of several rows overlap.
const ROWS_IN_FLIGHT: usize = 8;

/// The number of bytes of a row that are copied before the next row gets its turn.
const CHUNK_BYTES: usize = 512;

/// Calls `copy` with every chunk of every row and its position in the target.
///
/// Position 0 is `skew` bytes after the beginning of a cache line. Chunks end at cache lines, so
/// that no line is written in two parts, which the memory would have to combine.
fn interleave_chunks<'a>(
    width: usize,
    skew: usize,
    mut rows: impl Iterator<Item = (usize, &'a [u8])>,
    mut copy: impl FnMut(usize, &[u8]),
) {
    if width <= CHUNK_BYTES {
        return rows.for_each(|(place, row)| copy(place, row));
    }
    loop {
        let mut group: [(usize, &[u8]); ROWS_IN_FLIGHT] = [(0, &[]); ROWS_IN_FLIGHT];
        let mut filled = 0;
        for (entry, row) in group.iter_mut().zip(&mut rows) {
            *entry = row;
            filled += 1;
        }
        if filled == 0 {
            return;
        }
        for end in (CHUNK_BYTES..width + CACHE_LINE + CHUNK_BYTES).step_by(CHUNK_BYTES) {
            for &(place, row) in &group[..filled] {
                let ahead = (place + skew) % CACHE_LINE;
                let part = (end - CHUNK_BYTES).saturating_sub(ahead)..(end - ahead).min(width);
                if !part.is_empty() {
                    copy(place + part.start, &row[part]);
                }
            }
        }
    }
}

/// Prefetches rows of at most one cache line at `places`, so that their cache misses overlap.
/// Longer rows gain nothing, since the hardware prefetches their remaining lines.
pub(super) fn prefetch(bytes: &[u8], places: impl Iterator<Item = usize>) {
    let sum = places.filter_map(|place| bytes.get(place)).fold(0u8, |sum, &byte| sum ^ byte);
    std::hint::black_box(sum);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// Up to 15 rows of `width` nonzero bytes, in mixed order of places, with the last row at the
    /// end of `len` bytes. All parts of a row differ.
    fn rows(width: usize, len: usize) -> Vec<(usize, Vec<u8>)> {
        let last = len / width - 1;
        let places = (0..14).map(|n| n * 5 % 14).filter(|&n| n < last).chain([last]);
        places
            .map(|n| {
                (
                    n * width,
                    (0..width).map(|at| ((n * 31 + at + at / 251) % 255 + 1) as u8).collect(),
                )
            })
            .collect()
    }

    #[test]
    fn rows_reach_their_places_with_and_without_non_temporal_stores() {
        for width in [20_000, 3072, 2352, 784, 520, 512, 80, 16, 24, 7, 1] {
            for len in [1 << 18, LARGE_DRAW, LARGE_SLAB] {
                let rows = rows(width, len);
                let mut expected = vec![0; len];
                rows.iter()
                    .for_each(|(place, row)| expected[*place..][..width].copy_from_slice(row));
                let in_order = || rows.iter().map(|(place, row)| (*place, row.as_slice()));

                let mut memory = zeroed(len).unwrap();
                copy_rows(&mut memory, width, LARGE_SLAB, in_order());
                assert!(*memory == *expected, "rows of {width} bytes in a slab of {len}");
                for skew in [0, 16, 1] {
                    let mut gathered = vec![0; skew + len];
                    copy_rows(&mut gathered[skew..], width, LARGE_DRAW, in_order());
                    assert!(
                        gathered[skew..] == expected,
                        "rows of {width} bytes in a draw of {len}, {skew} bytes after a cache line"
                    );
                }
            }
        }
    }

    #[test]
    fn chunks_of_a_long_row_end_at_cache_lines_and_cover_it() {
        for (skew, place) in [(0, 0), (0, 2352), (16, 0), (16, 4704), (63, 1)] {
            for width in [513, 520, 2352, 3072, 3073] {
                let row = vec![0; width];
                let mut parts = Vec::new();
                interleave_chunks(
                    width,
                    skew,
                    [(place, row.as_slice())].into_iter(),
                    |place, part| parts.push(place..place + part.len()),
                );
                assert_eq!((parts[0].start, parts[parts.len() - 1].end), (place, place + width));
                assert!(
                    parts.iter().all(|part| (1..=CHUNK_BYTES).contains(&part.len())),
                    "{parts:?}"
                );
                assert!(
                    parts
                        .windows(2)
                        .all(|two| two[0].end == two[1].start
                            && (two[0].end + skew) % CACHE_LINE == 0),
                    "{parts:?}"
                );
            }
        }
    }
}
