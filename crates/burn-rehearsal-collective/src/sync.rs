//! What threads share: the standard library's locks and counters, or loom's, with which a test goes
//! through every order of the threads' turns.

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

/// This thread's number, which no other thread of the process ever has.
#[cfg(not(all(test, loom)))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ThreadId(u64);

/// The calling thread. Cheaper than `std::thread::current().id()`, which counts a reference.
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
