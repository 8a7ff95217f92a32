//! Copies with non-temporal stores, which neither fetch the target first nor evict cache lines.
//!
//! This module contains all unsafe code of the crate.
#![allow(unsafe_code, reason = "non-temporal stores need intrinsics")]

/// The size of a cache line in bytes.
pub(super) const CACHE_LINE: usize = 64;

#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{copy, fence};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use super::CACHE_LINE;
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    /// Copies `source` to `target` of the same length, with non-temporal stores where alignment and
    /// length allow it.
    ///
    /// The caller must not read or write the target again before it calls [`fence`].
    pub(in crate::store) fn copy(target: &mut [u8], source: &[u8]) {
        const WORD: usize = size_of::<__m128i>();
        let len = target.len();
        let is_of_words =
            target.as_ptr().cast::<__m128i>().is_aligned() && len.is_multiple_of(WORD);
        // The memory combines the words of a partly written line. For parts of a word, an ordinary
        // store is faster.
        let begin = if is_of_words { 0 } else { target.as_ptr().align_offset(CACHE_LINE).min(len) };
        let end = if is_of_words { len } else { begin + (len - begin) / CACHE_LINE * CACHE_LINE };
        if len < CACHE_LINE || begin == end {
            return target.copy_from_slice(source);
        }
        target[..begin].copy_from_slice(&source[..begin]);
        target[end..].copy_from_slice(&source[end..]);
        for (word, source) in
            target[begin..end].chunks_exact_mut(WORD).zip(source[begin..end].chunks_exact(WORD))
        {
            // SAFETY: both slices have WORD bytes. `word` is aligned, because the first one is and
            // all have the same size. All x86-64 processors have SSE2.
            unsafe {
                _mm_stream_si128(word.as_mut_ptr().cast(), _mm_loadu_si128(source.as_ptr().cast()))
            };
        }
    }

    /// Orders earlier copies before later stores, as other threads see them.
    pub(in crate::store) fn fence() {
        // SAFETY: all x86-64 processors have SSE.
        unsafe { _mm_sfence() };
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn copy(target: &mut [u8], source: &[u8]) {
    target.copy_from_slice(source);
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn fence() {}
