//! Locks and atomics: those of the standard library, or those of loom for model tests.

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(all(test, loom))]
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::{Arc, Condvar, Mutex, MutexGuard};

#[cfg(all(test, loom))]
pub(crate) use loom::thread::ThreadId;

/// The number of a thread. It is unique in the process, and is never reused.
#[cfg(not(all(test, loom)))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ThreadId(u64);

/// The calling thread. Cheaper than `std::thread::current().id()`, which clones an `Arc`.
#[cfg(not(all(test, loom)))]
pub(crate) fn this_thread() -> ThreadId {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static THIS: ThreadId = ThreadId(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    THIS.with(|this| *this)
}

#[cfg(all(test, loom))]
pub(crate) fn this_thread() -> ThreadId {
    loom::thread::current().id()
}
