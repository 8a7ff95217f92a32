//! Does the time of a step depend on the capacity, the number of classes, or the steps done?
//!
//! One rank with a full shard and an inline engine. For each axis the benchmark fits log time over
//! log x by least squares: a slope of 0 is flat, 1 is linear. Times are medians of single steps,
//! and of turns in which the values of an axis alternate.
//!
//! A larger shard misses the caches more often, and so do bare copies. The reference of the
//! capacity axis therefore copies 14 rows to, and 7 rows from, random places of a slab of the same
//! size. The largest shards and the axis of steps use rows of 3×8×8 bytes, which need less memory
//! and time; the others use 3×32×32 bytes.
#![allow(clippy::expect_used)]

use burn::tensor::Device;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Execution, RehearsalBuffer};
use burn_rehearsal_benches::{
    B, Batch, C, Figures, Images, R, Series, config, fill, interleave, log_slope, median,
    random_batches, timed,
};
use std::hint::black_box;

const SIDE: usize = 32;
const SMALL_SIDE: usize = 8;
const TURNS: usize = 7;
const STEPS: usize = 300;
const POOL: usize = 16;

/// A full buffer, and the mini-batches for its steps.
struct Full {
    buffer: RehearsalBuffer<Batch>,
    batches: Vec<Batch>,
}

impl Full {
    fn new(capacity: usize, side: usize, classes: usize) -> Self {
        let device = Device::flex();
        let buffer = config(capacity, Execution::Inline).init().expect("a buffer");
        let mut batches = random_batches::<Batch>(POOL, B, side, classes, &device);
        // Every class must occur, but more images than these would not fit in any cache.
        let targets = random_batches::<Batch>(4 * classes / B, B, 1, classes, &device);
        for (at, Batch { targets, .. }) in targets.into_iter().enumerate() {
            batches.push(Batch { targets, ..batches[at % POOL].clone() });
        }
        fill(&buffer, &batches).expect("a full buffer");
        Self { buffer, batches }
    }

    /// The median time of a step in microseconds.
    fn step(&self, count: usize) -> f64 {
        steady(count, |step| {
            let batch = self.batches[step % self.batches.len()].clone();
            let (time, merged) = timed(|| self.buffer.rehearse(batch).expect("a step"));
            black_box(merged);
            time.undisturbed()
        })
    }
}

/// The median of `count` values of `work`, after a warm-up that fills the caches.
fn steady(count: usize, mut work: impl FnMut(usize) -> f64) -> f64 {
    for step in 0..STEPS / 4 {
        black_box(work(step));
    }
    median((0..count).map(work).collect())
}

/// The median time of copying the rows of a step to and from random places of `slab`.
fn copies(slab: &mut [u8], row: usize, random: &mut Stream) -> f64 {
    let batch = vec![1u8; B * row];
    let mut drawn = vec![0u8; R * row];
    let rows = (slab.len() / row) as u64;
    steady(STEPS, |_| {
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
        time.undisturbed()
    })
}

/// Prints the points of an axis, and records how its time grows.
fn record(figures: &mut Figures, axis: &str, of: &str, points: &[(f64, f64)]) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    figures.add(axis, &format!("{of}, last / first"), last.1 / first.1, "×", None);
    let (slope, error) = log_slope(points);
    println!("  slope {slope:+.4} ± {error:.4}");
    points.iter().for_each(|(x, time)| println!("  {x:>9} {time:8.2} µs"));
}

fn capacity_axis(figures: &mut Figures, side: usize, capacities: &[usize]) {
    let row = Batch::row_bytes(side);
    let buffers: Vec<(usize, Full)> =
        capacities.iter().map(|&capacity| (capacity, Full::new(capacity, side, 10))).collect();
    // One slab serves all sizes.
    let mut slab = vec![1u8; row * capacities.iter().max().expect("a capacity")];
    let mut random = Stream::new(1, Purpose::Evict, 0, 0);
    let (mut steps, mut bare) = (Series::default(), Series::default());
    interleave(TURNS, &buffers, |(capacity, full)| {
        steps.add(capacity.to_string(), full.step(STEPS));
        bare.add(capacity.to_string(), copies(&mut slab[..capacity * row], row, &mut random));
    });
    let points = |time: &dyn Fn(&str) -> f64| -> Vec<(f64, f64)> {
        capacities.iter().map(|x| (*x as f64, time(&x.to_string()))).collect()
    };
    let axis = format!("capacity × {}, rows of {row} bytes", growth(capacities));
    record(figures, &axis, "step", &points(&|x| steps.median(x)));
    record(figures, &axis, "bare copies", &points(&|x| bare.median(x)));
    let rest = points(&|x| steps.median(x) - bare.median(x));
    record(figures, &axis, "step without copies", &rest);
}

fn classes_axis(figures: &mut Figures, classes: &[usize]) {
    let buffers: Vec<(usize, Full)> =
        classes.iter().map(|&classes| (classes, Full::new(20_000, SIDE, classes))).collect();
    let mut steps = Series::default();
    interleave(TURNS, &buffers, |(classes, full)| {
        steps.add(classes.to_string(), full.step(STEPS));
    });
    let points: Vec<(f64, f64)> =
        classes.iter().map(|x| (*x as f64, steps.median(&x.to_string()))).collect();
    record(figures, &format!("classes × {}", growth(classes)), "step", &points);
}

fn steps_axis(figures: &mut Figures, most: usize) {
    let full = Full::new(1000, SMALL_SIDE, 10);
    let (mut points, mut done, mut next) = (Vec::new(), 0, 10);
    while next <= most {
        while done < next {
            let batch = full.batches[done % full.batches.len()].clone();
            black_box(full.buffer.rehearse(batch).expect("a step"));
            done += 1;
        }
        // The measured steps must not outnumber those before them.
        let count = STEPS.min(next);
        points.push((next as f64, full.step(count)));
        done += count + STEPS / 4;
        next *= 10;
    }
    record(figures, &format!("steps done × {}", most / 10), "step", &points);
}

/// How many times larger the last value is than the first.
fn growth(values: &[usize]) -> usize {
    values.last().zip(values.first()).map_or(0, |(last, first)| last / first)
}

fn main() {
    let mut figures = Figures::new(
        "flat",
        "does the time of a step depend on capacity, classes or steps done?",
        &format!(
            "c = {C}, r = {R}, b = {B}, u8, one rank, engine inline, {TURNS} turns of {STEPS} steps"
        ),
    );
    capacity_axis(&mut figures, SIDE, &[1_000, 3_000, 10_000, 30_000, 100_000, 300_000]);
    capacity_axis(&mut figures, SMALL_SIDE, &[1_000, 10_000, 100_000, 1_000_000]);
    classes_axis(&mut figures, &[10, 100, 1_000, 10_000]);
    steps_axis(&mut figures, 1_000_000);
    figures.write();
}
