//! The addresses of the buffers that ranks lend to each other.
#![allow(unsafe_code, reason = "addresses cross threads, see threads.rs")]

use std::ptr;

/// The start of a buffer that a rank has published. The ranks have agreed on its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address(*mut u8);

// SAFETY: an address is only used in unsafe blocks, each of which states why the access is valid.
unsafe impl Send for Address {}

impl Address {
    pub(super) const NULL: Self = Self(ptr::null_mut());

    /// The address of a buffer that other ranks read.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(bytes.as_ptr().cast_mut())
    }

    /// The address of a buffer that other ranks read and write.
    pub(super) fn of_values(values: &mut [f32]) -> Self {
        Self(values.as_mut_ptr().cast())
    }

    pub(super) fn start(self) -> *mut u8 {
        self.0
    }

    /// The published bytes.
    ///
    /// # Safety
    ///
    /// During `'a`, the buffer at this address is alive, has at least `len` bytes, and is not
    /// written.
    pub(super) unsafe fn bytes<'a>(self, len: usize) -> &'a [u8] {
        // SAFETY: the caller's promise; addresses come from slices, so they are not null.
        unsafe { std::slice::from_raw_parts(self.0, len) }
    }
}
