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

    /// Copies `source` to `target`, which is as long: past the caches if its place and length allow it.
    pub(in crate::store) fn copy(target: &mut [u8], source: &[u8]) {
        const WORD: usize = size_of::<__m128i>();
        // Less than a line would have to be put together with what is in memory.
        if target.len() < LINE || !target.len().is_multiple_of(WORD) || !target.as_ptr().cast::<__m128i>().is_aligned() {
            return target.copy_from_slice(source);
        }
        for (target, source) in target.chunks_exact_mut(WORD).zip(source.chunks_exact(WORD)) {
            // SAFETY: both chunks are of WORD bytes, and `target` is aligned: the first chunk is, and the others follow it. All x86-64 processors have SSE2.
            unsafe { _mm_stream_si128(target.as_mut_ptr().cast(), _mm_loadu_si128(source.as_ptr().cast())) };
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
