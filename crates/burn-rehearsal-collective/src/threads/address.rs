//! The addresses of the buffers that ranks lend each other.
#![allow(unsafe_code, reason = "an address crosses threads; the protocol is in threads.rs")]

use std::ptr;

/// The start of a buffer that another rank has published; its length is what the ranks agreed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Address(*mut u8);

// SAFETY: an address is a number until an unsafe block uses it, and each of them argues for itself.
unsafe impl Send for Address {}

impl Address {
    pub(super) const NULL: Self = Self(ptr::null_mut());

    /// For others to read.
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self(bytes.as_ptr().cast_mut())
    }

    /// For others to read and write.
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
    /// The buffer behind this address is at least `len` bytes long, alive, and not written, as long
    /// as `'a`.
    pub(super) unsafe fn bytes<'a>(self, len: usize) -> &'a [u8] {
        // SAFETY: the caller's promise; addresses come from slices, so they are not null.
        unsafe { std::slice::from_raw_parts(self.0, len) }
    }
}
