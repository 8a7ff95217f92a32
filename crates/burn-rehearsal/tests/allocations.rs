//! A warm step in host memory allocates only the mini-batch that it returns.
//!
//! The reference takes a mini-batch apart, appends existing rows, and puts it together. A step of
//! the buffer may not allocate more often. The engine runs inline, so that the counter of one
//! thread counts all allocations.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Int, Shape, Tensor, TensorData};
use burn_rehearsal::batch::{Column, Kind, LateFields};
use burn_rehearsal::{
    Capacity, DrawConfig, Execution, RehearsalBatch, RehearsalConfig, RowLayout, SamplingKind,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is forwarded unchanged to the system's allocator. Counting in a
// constant-initialized thread local does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
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
        features: Tensor::from_data(
            TensorData::new(vec![step as f32; ROWS * WIDTH], [ROWS, WIDTH]),
            device,
        ),
        class: Tensor::from_data(TensorData::new(classes, [ROWS]), (device, DType::I64)),
    }
}

/// The minimal work of a step, without a buffer.
fn reference(
    batch: Batch,
    columns: &mut Vec<Column>,
    merged: &mut Vec<Column>,
    drawn: &[Column],
) -> Batch {
    batch.into_parts(columns).unwrap();
    for (column, tail) in columns.drain(..).zip(drawn) {
        merged.push(column.append(tail.clone(), "field").unwrap());
    }
    Batch::from_parts(merged.drain(..), (), RowLayout::default()).unwrap()
}

#[test]
fn a_warm_step_allocates_only_the_mini_batch_that_it_returns() {
    let device = Device::flex();
    let draws = SamplingKind::ALL.iter().flat_map(|&sampling| {
        let first = |rows: usize| DrawConfig::new(rows).with_sampling(sampling);
        [vec![first(REPRESENTATIVES)], vec![first(REPRESENTATIVES - 1), DrawConfig::new(1)]]
    });
    for draws in draws {
        let config = RehearsalConfig::new(Capacity::Samples(40))
            .with_candidates(CANDIDATES)
            .with_draws(draws.clone())
            .with_execution(Execution::Inline);
        let buffer = config.init().unwrap();
        for step in 0..200 {
            buffer.rehearse(batch(step, &device)).unwrap();
        }
        buffer.begin_task(1).unwrap();
        for step in 0..200 {
            buffer.rehearse(batch(step, &device)).unwrap();
        }
        let (mut columns, mut merged, mut drawn) =
            (Vec::with_capacity(2), Vec::with_capacity(2), Vec::new());
        let rows = batch(0, &device);
        let rows = Batch {
            features: rows.features.slice(0..REPRESENTATIVES),
            class: rows.class.slice(0..REPRESENTATIVES),
        };
        rows.into_parts(&mut drawn).unwrap();
        for step in 0..50 {
            let (ours, theirs) = (batch(step, &device), batch(step, &device));
            let needed = allocations(|| drop(reference(theirs, &mut columns, &mut merged, &drawn)));
            let used = allocations(|| drop(buffer.rehearse(ours).unwrap()));
            assert!(
                used <= needed,
                "{draws:?}, step {step}: {used} allocations, but the mini-batch needs {needed}"
            );
        }
    }
}

#[derive(RehearsalBatch, Clone)]
struct Late {
    features: Tensor<2>,
    #[rehearsal(late)]
    logits: Option<Tensor<2>>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

fn late(step: usize, device: &Device) -> (Late, LateLate) {
    let features = batch(step, device).features;
    let late = LateLate { logits: features.clone().slice([0..ROWS, 0..WIDTH]) };
    (Late { features, logits: None, rows: RowLayout::default() }, late)
}

#[test]
fn a_warm_step_with_a_late_field_allocates_only_the_mini_batch_that_it_returns() {
    let device = Device::flex();
    let buffer = RehearsalConfig::new(Capacity::Samples(40))
        .with_candidates(CANDIDATES)
        .with_representatives(REPRESENTATIVES)
        .with_execution(Execution::Inline)
        .init()
        .unwrap();
    let mut columns = Vec::with_capacity(2);
    let drawn: Vec<Column> = {
        let mut drawn = Vec::new();
        let features = batch(0, &device).features.slice(0..REPRESENTATIVES);
        let rows = Late { features, logits: None, rows: RowLayout::default() };
        rows.into_parts(&mut drawn).unwrap();
        drawn
    };
    // The mini-batch has no rows of its own for the late field, so its rows are new memory.
    let reference = |step, columns: &mut Vec<Column>| {
        let (batch, late) = late(step, &device);
        let drawn = drawn[0].clone();
        allocations(|| {
            batch.into_parts(columns).unwrap();
            let features = columns.pop().unwrap().append(drawn, "features").unwrap();
            let logits =
                TensorData::new(vec![0f32; REPRESENTATIVES * WIDTH], [REPRESENTATIVES, WIDTH]);
            let logits = Column::from_data(logits, Kind::Float, Shape::new([WIDTH]), &device);
            let parts = [features, logits].into_iter();
            drop(Late::from_parts(parts, (), RowLayout::default()).unwrap());
            late.into_columns(columns).unwrap();
            columns.clear();
        })
    };
    for step in 0..250 {
        let (ours, values) = late(step, &device);
        let used = allocations(|| {
            let batch = buffer.rehearse(ours).unwrap();
            batch.rows.annotate(values);
        });
        let needed = reference(step, &mut columns);
        assert!(
            step < 200 || used <= needed,
            "step {step}: {used} allocations, but the mini-batch needs {needed}"
        );
    }
}
