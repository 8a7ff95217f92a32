//! How much time does the training thread lose to a buffer that works in the background?
//!
//! The computation of a step either sleeps, like a thread that waits for an accelerator, or keeps
//! all cores busy. Per step:
//!
//! * *all* is the time of the buffer on the training thread, blocked or working, without appending
//!   the representatives;
//! * *parts* is the time to take a mini-batch apart into columns and to put it together again
//!   without a buffer, measured in the same turns;
//! * *lost* is all − parts: handing candidates over and waiting for representatives;
//! * *hidden* is the share of the engine's time during which the training thread did not wait.
//!
//! Times are medians over the steps. The wait also has a mean, because a busy machine wakes the
//! engine late.
//!
//! Mini-batches come from a foreign loader, so that appending copies all rows, which evicts the
//! caches of the training thread if the rows are large; or from `ShardedLoader`, which reserves
//! room, so that only the representatives are copied. Behind `ShardedLoader` the buffer's own
//! counters measure its share.
//!
//! The references run after the same computation and therefore with the same cold caches: the same
//! work inline, which is the loss without a background thread, and waking a thread that sleeps by a
//! message through a channel.
#![allow(clippy::expect_used)]

use burn::data::dataloader::DataLoader;
use burn::data::dataset::InMemDataset;
use burn::tensor::{Device, Tensor};
use burn_rehearsal::{
    EngineTimings, Execution, RehearsalBatch, RehearsalBuffer, RehearsalLoader, RowLayout,
    ShardedLoader,
};
use burn_rehearsal_benches::{
    B, Batch, BatchLate, C, Figures, Images, R, StackImages, Target, config, fill, median, micros,
    random_batches, random_images, timed,
};
use std::hint::black_box;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

const POOL: usize = 4;
/// Late logits per row.
const CLASSES: usize = 1_000;
const SHARD_BYTES: usize = 128 << 20;
const COMPUTATION_MS: [u64; 4] = [1, 5, 20, 100];
const TURNS: usize = 5;

/// The computation of a step.
#[derive(Clone, Copy)]
enum Computation {
    Sleep(Duration),
    /// Rounds of [`spin`] on every core.
    Busy(u64),
}

impl Computation {
    fn run(self) {
        match self {
            Computation::Sleep(time) => std::thread::sleep(time),
            Computation::Busy(rounds) => drop(rayon::broadcast(|_| spin(rounds))),
        }
    }
}

/// Arithmetic that uses registers only.
fn spin(rounds: u64) -> u64 {
    (0..rounds).fold(1, |value, round| black_box(value ^ round).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Rounds of [`spin`] per millisecond of a core.
fn rounds_per_ms() -> f64 {
    let rounds = 200_000;
    let times = (0..20).map(|_| timed(|| spin(rounds)).0.cpu).collect();
    rounds as f64 / (median(times) / 1e3)
}

/// Microseconds per step.
struct Costs {
    /// On the training thread, without appending.
    all: f64,
    /// The mean of the wait, which is part of `all`.
    mean_wait: f64,
    /// The median of the engine's work on either thread.
    engine: f64,
    /// The mean of the engine's work.
    mean_engine: f64,
}

/// Runs steps and reads the buffer's counters after each.
///
/// `step` returns the microseconds that the buffer took on the training thread, or `None` if only
/// the counters contain them.
fn run(
    buffer: &RehearsalBuffer<Batch>,
    steps: usize,
    mut step: impl FnMut(usize) -> Option<f64>,
) -> Costs {
    let engine = |timings: &EngineTimings| {
        timings.insert + timings.plan + timings.exchange + timings.deliver
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (mut all, mut waits, mut engines) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = buffer.timings();
    for at in 0..steps {
        let elapsed = step(at);
        let after = buffer.timings();
        let since = |of: fn(&EngineTimings) -> Duration| micros(of(&after) - of(&before));
        let wait = since(|t| t.wait);
        let elapsed = elapsed.unwrap_or_else(|| since(|t| t.assemble) + wait);
        all.push(elapsed - since(|t| t.append));
        waits.push(wait);
        // In the background this is the work of an earlier step, but steps are alike.
        engines.push(since(engine));
        before = after;
    }
    Costs {
        mean_wait: mean(&waits),
        all: median(all),
        mean_engine: mean(&engines),
        engine: median(engines),
    }
}

/// Steps with mini-batches of a foreign loader.
fn foreign(
    buffer: &RehearsalBuffer<Batch>,
    batches: &[Batch],
    computation: Computation,
    steps: usize,
) -> Costs {
    run(buffer, steps, |step| {
        computation.run();
        let batch = batches[step % POOL].clone();
        let started = Instant::now();
        let merged = buffer.rehearse(batch).expect("a step");
        let elapsed = micros(started.elapsed());
        black_box(merged);
        Some(elapsed)
    })
}

/// Steps with mini-batches of a foreign loader, whose rows get logits after the step. The buffer's
/// time is that of both calls.
fn annotated(
    buffer: &RehearsalBuffer<Batch>,
    batches: &[Batch],
    logits: &Tensor<2>,
    computation: Computation,
    steps: usize,
) -> Costs {
    run(buffer, steps, |step| {
        let batch = batches[step % POOL].clone();
        let started = Instant::now();
        let merged = buffer.rehearse(batch).expect("a step");
        merged.rows.annotate(BatchLate { logits: logits.clone() });
        let elapsed = micros(started.elapsed());
        black_box(merged);
        computation.run();
        Some(elapsed)
    })
}

/// Steps behind `ShardedLoader`, whose own time does not count.
fn behind_loader(
    buffer: &RehearsalBuffer<Batch>,
    loader: &dyn DataLoader<Batch>,
    computation: Computation,
    steps: usize,
) -> Costs {
    let mut epoch = Some(loader.iter());
    run(buffer, steps, |_| {
        computation.run();
        let batch = epoch.as_mut().and_then(Iterator::next).or_else(|| {
            // The next epoch may begin only after the iterator of this one is gone.
            drop(epoch.take());
            epoch.insert(loader.iter()).next()
        });
        black_box(batch.expect("a full data set").expect("a mini-batch"));
        None
    })
}

/// Microseconds that `work` takes after the computation.
fn after(computation: Computation, steps: usize, mut work: impl FnMut(usize)) -> f64 {
    let times = (0..steps).map(|step| {
        computation.run();
        let started = Instant::now();
        work(step);
        micros(started.elapsed())
    });
    median(times.collect())
}

/// Microseconds to send a message to a thread that sleeps until it arrives.
fn wake(computation: Computation, steps: usize) -> f64 {
    let (messages, inbox) = sync_channel(2);
    let sleeper = std::thread::spawn(move || while inbox.recv().is_ok() {});
    let time = after(computation, steps, |_| messages.send(()).expect("a listener"));
    drop(messages);
    sleeper.join().expect("no panic");
    time
}

/// Microseconds to take a mini-batch apart and put it together, which every buffer has to do.
fn apart_and_together(batches: &[Batch], computation: Computation, steps: usize) -> f64 {
    let mut columns = Vec::new();
    let mut pool: Vec<Option<Batch>> =
        (0..steps).map(|step| Some(batches[step % POOL].clone())).collect();
    after(computation, steps, |step| {
        let batch = pool[step].take().expect("one per step");
        batch.into_parts(&mut columns).expect("columns");
        pool[step] = Some(
            Batch::from_parts(columns.drain(..), (), RowLayout::default()).expect("a mini-batch"),
        );
    })
}

fn buffer(side: usize, execution: Execution, batches: &[Batch]) -> RehearsalBuffer<Batch> {
    let capacity = SHARD_BYTES / Batch::row_bytes(side);
    let buffer = config(capacity, execution).init().expect("a buffer");
    fill(&buffer, batches).expect("a full buffer");
    buffer
}

/// Measures `background` after each computation.
fn measure(
    figures: &mut Figures,
    title: &str,
    per_ms: f64,
    batches: &[Batch],
    inline: impl Fn(Computation, usize) -> Costs,
    background: impl Fn(Computation, usize) -> Costs,
) {
    for (name, busy) in [("asleep", false), ("all cores busy", true)] {
        let case = format!("{title}, {name}");
        let mut least_hidden = f64::INFINITY;
        for milliseconds in COMPUTATION_MS {
            let computation = if busy {
                Computation::Busy((per_ms * milliseconds as f64) as u64)
            } else {
                Computation::Sleep(Duration::from_millis(milliseconds))
            };
            let steps = (600 / milliseconds).clamp(8, 100) as usize;
            let turns: Vec<(Costs, f64)> = (0..TURNS)
                .map(|_| {
                    let costs = background(computation, steps);
                    (costs, apart_and_together(batches, computation, steps))
                })
                .collect();
            let of = |part: &dyn Fn(&(Costs, f64)) -> f64| median(turns.iter().map(part).collect());
            let lost = of(&|(costs, parts)| costs.all - parts);
            let hidden = 100.0 * (1.0 - of(&|(costs, _)| costs.mean_wait / costs.mean_engine));
            least_hidden = least_hidden.min(hidden);
            let quantity = format!("lost after {milliseconds} ms");
            figures.add(&case, &quantity, lost, "µs", Some(Target::AtMost(5.0)));
            println!(
                "    all {:.1}, parts {:.1}, mean wait {:.1}, engine {:.1}, if inline {:.1}, wake {:.1}, hidden {hidden:.1} %",
                of(&|(costs, _)| costs.all),
                of(&|(_, parts)| *parts),
                of(&|(costs, _)| costs.mean_wait),
                of(&|(costs, _)| costs.engine),
                inline(computation, steps).all,
                wake(computation, steps),
            );
        }
        let target = Some(Target::AtLeast(99.0));
        figures.add(&case, "least hidden", least_hidden, "%", target);
    }
}

fn main() {
    let mut figures = Figures::new(
        "overlap",
        "how much time does the training thread lose to a background engine?",
        &format!(
            "b = {B}, c = {C}, r = {R}, u8, one rank, shards of {} MiB, {TURNS} turns",
            SHARD_BYTES >> 20
        ),
    );
    let per_ms = rounds_per_ms();
    let device = Device::flex();
    for side in [64, 224] {
        let batches: Vec<Batch> = random_batches(POOL, B, side, 100, &device);
        let inline = buffer(side, Execution::Inline, &batches);
        let background = buffer(side, Execution::Background, &batches);
        let title = format!("{side}², foreign loader");
        let of_inline = |computation, steps| foreign(&inline, &batches, computation, steps);
        measure(&mut figures, &title, per_ms, &batches, of_inline, |computation, steps| {
            foreign(&background, &batches, computation, steps)
        });
        let with_late = |execution| -> RehearsalBuffer<Batch> {
            let capacity = SHARD_BYTES / (Batch::row_bytes(side) + 4 * CLASSES);
            config(capacity, execution).with_late_fields(true).init().expect("a buffer")
        };
        let logits = Tensor::zeros([B, CLASSES], &device);
        let (late_inline, late) = (with_late(Execution::Inline), with_late(Execution::Background));
        for buffer in [&late_inline, &late] {
            let full = 2 * SHARD_BYTES / Batch::row_bytes(side) / C;
            let none = Computation::Sleep(Duration::ZERO);
            annotated(buffer, &batches, &logits, none, full);
        }
        let title = format!("{side}², foreign loader, {CLASSES} late logits");
        measure(
            &mut figures,
            &title,
            per_ms,
            &batches,
            |computation, steps| annotated(&late_inline, &batches, &logits, computation, steps),
            |computation, steps| annotated(&late, &batches, &logits, computation, steps),
        );
        let images = InMemDataset::new(random_images(4 * POOL * B, Batch::row_bytes(side), 100, 9));
        let sharded = ShardedLoader::<_, Batch>::builder(StackImages { side, room: R })
            .batch_size(B)
            .shuffle(1)
            .num_workers(1)
            .set_device(device.clone());
        let loader = RehearsalLoader::new(sharded.build(images), background.clone());
        let title = format!("{side}², `ShardedLoader`");
        measure(&mut figures, &title, per_ms, &batches, of_inline, |computation, steps| {
            behind_loader(&background, &loader, computation, steps)
        });
    }
    figures.write();
}
