//! Does the time of a step depend on the capacity, the number of classes, or the steps done?
//!
//! One rank, rows of 3×32×32 bytes, c = 14, r = 7, b = 56, engine inline, shard full. On each axis
//! the least-squares slope of log time over log x, with its standard error: 0 is flat, 1 is linear.
//! Times are medians of single steps, of several turns that visit the values of an axis in turn.
//!
//! Larger shards miss the caches more often, and so do bare copies: the copies of 14 + 7 rows to
//! and from random places of a slab as large are the reference of the first axis. Its largest
//! shards, and the axis of steps, have rows of 3×8×8 bytes, which need less memory and time.
#![allow(clippy::expect_used)]

use burn::tensor::Device;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Capacity, Execution, PolicyKind, RehearsalBuffer, RehearsalConfig};
use burn_rehearsal_benches::{Batch, Images, fill, head, log_slope, median, random_batches, timed};
use std::hint::black_box;

const B: usize = 56;
const C: usize = 14;
const R: usize = 7;
const SIDE: usize = 32;
const SMALL_SIDE: usize = 8;
const TURNS: usize = 7;
const STEPS: usize = 300;
const POOL: usize = 16;

type Buffer = RehearsalBuffer<Batch>;

fn buffer(capacity: usize) -> Buffer {
    let config = RehearsalConfig::new(Capacity::Samples(capacity))
        .with_candidates(C)
        .with_representatives(R)
        .with_policy(PolicyKind::RandomReplacement)
        .with_execution(Execution::Inline);
    config.init().expect("a buffer")
}

/// A full buffer and the mini-batches that go through it.
fn full(capacity: usize, side: usize, classes: usize) -> (Buffer, Vec<Batch>) {
    let buffer = buffer(capacity);
    let mut batches = random_batches::<Batch>(POOL, B, side, classes, &Device::flex());
    // As many mini-batches as it takes for every class to come; but no more images, which would be
    // in no cache.
    for (at, targets) in random_batches::<Batch>(4 * classes / B, B, 1, classes, &Device::flex())
        .into_iter()
        .enumerate()
    {
        batches.push(Batch {
            images: batches[at % POOL].images.clone(),
            targets: targets.targets,
            representatives: 0,
        });
    }
    fill(&buffer, &batches).expect("a full buffer");
    (buffer, batches)
}

/// The median time of a step, in µs.
fn steps(buffer: &Buffer, batches: &[Batch], count: usize) -> f64 {
    let step = |step: usize| {
        let batch = batches[step % batches.len()].clone();
        let (time, merged) = timed(|| buffer.rehearse(batch).expect("a step"));
        black_box(merged);
        time.wall * time.running()
    };
    // The first ones find cold caches.
    (0..STEPS / 4).map(step).for_each(|_| ());
    median((0..count).map(step).collect())
}

/// The median time of copying 14 rows to random places of `slab` and 7 from there.
fn copies(slab: &mut [u8], row: usize, random: &mut Stream) -> f64 {
    let batch = vec![1u8; B * row];
    let mut drawn = vec![0u8; R * row];
    let rows = (slab.len() / row) as u64;
    let mut step = || {
        let places: Vec<usize> = (0..C + R).map(|_| random.below(rows) as usize * row).collect();
        let (time, ()) = timed(|| {
            for (from, &to) in batch.chunks_exact(row).zip(&places[..C]) {
                slab[to..to + row].copy_from_slice(from);
            }
            for (to, &from) in drawn.chunks_exact_mut(row).zip(&places[C..]) {
                to.copy_from_slice(&slab[from..from + row]);
            }
            black_box(&drawn);
        });
        time.wall * time.running()
    };
    (0..STEPS / 4).map(|_| step()).for_each(|_| ());
    median((0..STEPS).map(|_| step()).collect())
}

/// Prints an axis and its slope.
fn axis(name: &str, points: &[(f64, f64)]) {
    let (slope, error) = log_slope(points);
    println!("\n{name}: slope {slope:+.4} ± {error:.4}");
    points.iter().for_each(|(x, time)| println!("  {x:>9} {time:8.2} µs"));
}

/// One point for each x: the median over the turns.
fn medians(xs: &[usize], times: Vec<Vec<f64>>) -> Vec<(f64, f64)> {
    xs.iter().zip(times).map(|(&x, times)| (x as f64, median(times))).collect()
}

fn capacity_axis(side: usize, capacities: &[usize]) {
    let row = Batch::row_bytes(side);
    let buffers: Vec<_> = capacities.iter().map(|&capacity| full(capacity, side, 10)).collect();
    // One slab serves all sizes.
    let mut slab = vec![1u8; row * capacities.iter().max().expect("a capacity")];
    let mut random = Stream::new(1, Purpose::Evict, 0, 0);
    let (mut ours, mut reference) =
        (vec![Vec::new(); capacities.len()], vec![Vec::new(); capacities.len()]);
    for _ in 0..TURNS {
        for (at, (buffer, batches)) in buffers.iter().enumerate() {
            ours[at].push(steps(buffer, batches, STEPS));
            reference[at].push(copies(&mut slab[..capacities[at] * row], row, &mut random));
        }
    }
    let (ours, reference) = (medians(capacities, ours), medians(capacities, reference));
    let rest: Vec<_> =
        ours.iter().zip(&reference).map(|(ours, copies)| (ours.0, ours.1 - copies.1)).collect();
    axis(&format!("capacity, rows of {row} bytes"), &ours);
    axis("  the copies alone", &reference);
    axis("  the step without the copies", &rest);
}

fn classes_axis(classes: &[usize]) {
    let buffers: Vec<_> = classes.iter().map(|&classes| full(20_000, SIDE, classes)).collect();
    let mut times = vec![Vec::new(); classes.len()];
    for _ in 0..TURNS {
        for (times, (buffer, batches)) in times.iter_mut().zip(&buffers) {
            times.push(steps(buffer, batches, STEPS));
        }
    }
    axis("classes, 20,000 rows", &medians(classes, times));
}

fn steps_axis(most: usize) {
    let (buffer, batches) = full(1000, SMALL_SIDE, 10);
    let (mut points, mut done, mut next) = (Vec::new(), 0, 10);
    while next <= most {
        while done < next {
            black_box(buffer.rehearse(batches[done % batches.len()].clone()).expect("a step"));
            done += 1;
        }
        // What is measured must not outgrow what was done before.
        points.push((next as f64, steps(&buffer, &batches, STEPS.min(next))));
        done += STEPS.min(next) + STEPS / 4;
        next *= 10;
    }
    axis("steps done, 1,000 rows of 3×8×8 bytes", &points);
}

fn main() {
    head(&format!(
        "flat: one step, c = {C}, r = {R}, b = {B}, u8, one rank, engine inline, {TURNS} turns of {STEPS} steps"
    ));
    capacity_axis(SIDE, &[1_000, 3_000, 10_000, 30_000, 100_000, 300_000]);
    capacity_axis(SMALL_SIDE, &[1_000, 10_000, 100_000, 1_000_000]);
    classes_axis(&[10, 100, 1_000, 10_000]);
    steps_axis(1_000_000);
}
