//! Once warm, a step allocates what Burn needs for its tensors and nothing else.
//!
//! The reference does by hand what every design must do with Burn: copy the candidates out of the mini-batch and read them, build the
//! representatives' tensors, append them. What the buffer allocates beyond that is counted. The engine runs inline, so that one thread's
//! counter sees everything.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::{Capacity, Execution, RehearsalBatch, RehearsalBuffer, RehearsalConfig, SamplingKind};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting in a constant-initialised thread local allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` above is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> u64 {
    let before = COUNT.with(Cell::get);
    work();
    COUNT.with(Cell::get) - before
}

const ROWS: usize = 8;
const WIDTH: usize = 5;
const CANDIDATES: usize = 4;
const REPRESENTATIVES: usize = 3;

#[derive(RehearsalBatch, Clone)]
struct Batch {
    features: Tensor<2>,
    #[rehearsal(class)]
    class: Tensor<1, Int>,
}

fn batch(step: usize, device: &Device) -> Batch {
    let classes: Vec<i64> = (0..ROWS).map(|row| ((step + row) % 5) as i64).collect();
    Batch {
        features: Tensor::from_data(TensorData::new(vec![step as f32; ROWS * WIDTH], [ROWS, WIDTH]), device),
        class: Tensor::from_data(TensorData::new(classes, [ROWS]), (device, DType::I64)),
    }
}

/// What one step must do with Burn, without any buffer.
fn reference(batch: Batch, device: &Device) -> Batch {
    let (features, class) = (batch.features.reshape([ROWS, WIDTH]), batch.class.reshape([ROWS, 1]));
    let index = Tensor::<1, Int>::from_data(TensorData::new(vec![0i64, 2, 4, 6], [CANDIDATES]), (device, DType::I64));
    let _ = features.clone().inner().select(0, index.clone()).into_data();
    let _ = class.clone().inner().select(0, index.clone()).into_data();
    let drawn = vec![0u8; REPRESENTATIVES * WIDTH * 4];
    let drawn = Tensor::<2>::from_data(TensorData::from_bytes_vec(drawn, [REPRESENTATIVES, WIDTH], DType::F32), (device, DType::F32));
    let classes = vec![0u8; REPRESENTATIVES * 8];
    let classes = Tensor::<2, Int>::from_data(TensorData::from_bytes_vec(classes, [REPRESENTATIVES, 1], DType::I64), (device, DType::I64));
    Batch {
        features: Tensor::cat(vec![features, drawn], 0).reshape([ROWS + REPRESENTATIVES, WIDTH]),
        class: Tensor::cat(vec![class, classes], 0).reshape([ROWS + REPRESENTATIVES]),
    }
}

#[test]
fn a_warm_step_allocates_nothing_beyond_what_burn_needs() {
    let device = Device::flex();
    for sampling in [SamplingKind::Uniform, SamplingKind::ClassBalanced, SamplingKind::ExcludeCurrent] {
        let config = RehearsalConfig::new(Capacity::Samples(40))
            .with_candidates(CANDIDATES)
            .with_representatives(REPRESENTATIVES)
            .with_sampling(sampling)
            .with_execution(Execution::Inline);
        let buffer = RehearsalBuffer::solo(&config).unwrap();
        for step in 0..200 {
            buffer.rehearse(batch(step, &device)).unwrap();
        }
        buffer.begin_task(1).unwrap();
        for step in 0..200 {
            buffer.rehearse(batch(step, &device)).unwrap();
        }
        for step in 0..50 {
            let (ours, theirs) = (batch(step, &device), batch(step, &device));
            let needed = allocations(|| drop(reference(theirs, &device)));
            let used = allocations(|| drop(buffer.rehearse(ours).unwrap()));
            assert!(used <= needed, "{sampling:?}, step {step}: {used} allocations, Burn alone needs {needed}");
        }
    }
}
