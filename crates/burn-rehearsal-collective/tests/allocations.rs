//! Warm operations allocate nothing. This is a separate binary because it replaces the global
//! allocator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(unsafe_code, reason = "an allocator can only be wrapped with unsafe code")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use burn_rehearsal_collective::{
    Collective, CollectiveError, Incoming, Outgoing, ReduceOp, run_threads,
};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system allocator does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // The counter of an ending thread no longer exists.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller upholds the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn warm_operations_allocate_nothing() {
    for size in [1, 2, 4] {
        let results = run_threads(size, |mut ranks| {
            let rank = ranks.rank();
            let (mut gradients, mut gathered) = (vec![1.0; 10_000], vec![0; 8 * size]);
            let (sent, mut received) = ([1; 64], [0; 64]);
            let mut before = 0;
            for step in 0..50 {
                if step == 5 {
                    before = ALLOCATIONS.get();
                }
                ranks.barrier()?;
                ranks.all_reduce(&mut gradients, ReduceOp::Mean)?;
                ranks.all_gather(&[7; 8], &mut gathered)?;
                ranks.broadcast(&mut gathered, 0)?;
                if size > 1 {
                    let outgoing = [Outgoing { peer: (rank + 1) % size, bytes: &sent }];
                    ranks.exchange(
                        &outgoing,
                        &mut [Incoming { peer: (rank + size - 1) % size, bytes: &mut received }],
                    )?;
                }
            }
            Ok::<_, CollectiveError>(ALLOCATIONS.get() - before)
        });
        for allocations in results {
            assert_eq!(allocations.unwrap(), 0);
        }
    }
}
