//! A write to a store on the device copies only the written rows. Allocations do not grow with the
//! capacity.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::{
    Capacity, Execution, PolicyKind, RehearsalBatch, RehearsalConfig, StoreLocation,
    StorePreference,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is forwarded unchanged to the system's allocator. Counting in a
// constant-initialized thread local does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.with(|bytes| bytes.set(bytes.get() + layout.size()));
        // SAFETY: the caller upholds the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `dealloc`, and `alloc` above is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes that this thread allocates in `work`.
fn allocated(work: impl FnOnce()) -> usize {
    let before = BYTES.with(Cell::get);
    work();
    BYTES.with(Cell::get) - before
}

const WIDTH: usize = 64;

#[derive(RehearsalBatch, Clone)]
struct Batch {
    #[rehearsal(bytes)]
    image: Tensor<2, Int>,
    feature: Tensor<2>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
}

fn batch(step: usize, device: &Device) -> Batch {
    let rows = 8;
    let classes: Vec<i64> = (0..rows).map(|row| (step + row) as i64 % 5).collect();
    Batch {
        image: Tensor::from_data(
            TensorData::new(vec![step as u8; rows * WIDTH], [rows, WIDTH]),
            (device, DType::U8),
        ),
        feature: Tensor::full([rows, WIDTH], step as f32, device),
        class: Tensor::from_data(TensorData::new(classes, [rows]), (device, DType::I64)),
    }
}

/// The bytes allocated in each of the last steps of a run. All work is on this thread. A small
/// shard is full by then.
fn steps(capacity: usize) -> Vec<usize> {
    let device = Device::flex();
    let config = RehearsalConfig::new(Capacity::Samples(capacity))
        .with_candidates(4)
        .with_representatives(3)
        // Every candidate is written.
        .with_policy(PolicyKind::RandomReplacement)
        .with_store(StorePreference::Device)
        .with_execution(Execution::Inline);
    let buffer = config.init().unwrap();
    for step in 0..100 {
        buffer.rehearse(batch(step, &device)).unwrap();
    }
    assert_eq!(buffer.inspect().unwrap().store, Some(StoreLocation::Device));
    (0..20)
        .map(|step| {
            let batch = batch(step, &device);
            allocated(|| drop(buffer.rehearse(batch).unwrap()))
        })
        .collect()
}

#[test]
fn the_allocations_of_a_step_do_not_grow_with_the_capacity() {
    let most = |steps: Vec<usize>| steps.into_iter().max().unwrap_or(0);
    let row_bytes = WIDTH * 5 + 8;
    // The small shards are soon full, so slots are overwritten at random. The large one never fills
    // up, so slots are written in order.
    let (small, medium, large) = (most(steps(64)), most(steps(200)), most(steps(40_000)));
    assert!(
        medium <= small + row_bytes && large <= small + row_bytes,
        "{small}, {medium} and {large} bytes"
    );
    // Less than a copy of the smallest field of the large store.
    assert!(large < 40_000 * 8 / 4, "{large} bytes");
}

#[test]
fn burn_copies_a_shared_tensor_on_write() {
    // Shows that the counter would count the copies that the store avoids.
    let device = Device::flex();
    let row = || Tensor::<2>::ones([1, WIDTH], &device);
    let (mut tensor, size) = (Tensor::<2>::zeros([10_000, WIDTH], &device), 10_000 * WIDTH * 4);
    let alone = allocated(|| tensor = tensor.clone().slice_assign(5..6, row()));
    assert!(alone >= size, "a clone is alive: {alone} bytes");
    let mut owned = Some(tensor);
    let alone = allocated(|| owned = owned.take().map(|tensor| tensor.slice_assign(5..6, row())));
    assert!(alone < size / 100, "no other owner: {alone} bytes");
}
