//! Copying past the caches: what is overwritten is not fetched first, and what is written does not push out what the caches hold.
//!
//! All unsafe code of this crate.
#![allow(unsafe_code, reason = "only intrinsics write past the caches")]

#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{copy, fence};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use crate::store::memory::LINE;
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    /// Copies `source` to `target`, which is as long, past the caches if its place and length allow it.
    ///
    /// Until [`fence`] what was copied is not to be read or written again: the caller sees to that.
    pub(in crate::store) fn copy(target: &mut [u8], source: &[u8]) {
        const WORD: usize = size_of::<__m128i>();
        let len = target.len();
        let is_of_words = target.as_ptr().cast::<__m128i>().is_aligned() && len.is_multiple_of(WORD);
        // A part of a line has to be put together with the rest of it. Memory does so for words; for less, the line is better fetched.
        let begin = if is_of_words { 0 } else { target.as_ptr().align_offset(LINE).min(len) };
        let end = if is_of_words { len } else { begin + (len - begin) / LINE * LINE };
        if len < LINE || begin == end {
            return target.copy_from_slice(source);
        }
        target[..begin].copy_from_slice(&source[..begin]);
        target[end..].copy_from_slice(&source[end..]);
        for (word, source) in target[begin..end].chunks_exact_mut(WORD).zip(source[begin..end].chunks_exact(WORD)) {
            // SAFETY: both are of WORD bytes, and `word` is aligned: the first is, and the others follow it. All x86-64 processors have SSE2.
            unsafe { _mm_stream_si128(word.as_mut_ptr().cast(), _mm_loadu_si128(source.as_ptr().cast())) };
        }
    }

    /// What was copied is seen by other threads before what is written from now on.
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
