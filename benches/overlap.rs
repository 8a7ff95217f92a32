//! How much time does the training thread lose to a buffer that works in the background?
//!
//! The step's computation sleeps (as a thread does that waits for an accelerator) or keeps all
//! cores busy. *All* is what the call of the buffer takes on the training thread, blocked or
//! working, but for appending the representatives; *parts* is taking a mini-batch apart into its
//! columns and putting it together again, without a buffer, in turn with the steps. *Lost* is all
//! but the parts, that is without the assembly of the mini-batch: handing candidates over and
//! waiting for representatives. *Hidden* is the share of the engine's time during which the
//! training thread did not wait for it. Medians over the steps; a busy machine wakes the engine
//! late, hence the mean of the wait, too.
//!
//! Mini-batches come as from a foreign loader, so that appending copies all their rows, which
//! leaves the caches of the training thread without anything else if the rows are large; and from
//! `ShardedLoader`, with room, so that it copies those of the representatives. There the buffer's
//! own counters say what its part is.
//!
//! References, after the same computation, hence with the same cold caches: the same work inline,
//! which is what would be lost without a thread, and waking a thread that sleeps, by a message
//! through a channel.
#![allow(clippy::expect_used)]

use burn::data::dataloader::DataLoader;
use burn::data::dataset::InMemDataset;
use burn::tensor::Device;
use burn_rehearsal::{
    Capacity, EngineTimings, Execution, PolicyKind, RehearsalBatch, RehearsalBuffer,
    RehearsalConfig, RehearsalLoader, ShardedLoader,
};
use burn_rehearsal_benches::{
    Batch, Images, StackImages, fill, head, median, micros, random_batches, random_images, timed,
    verdict,
};
use std::hint::black_box;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

const B: usize = 56;
const C: usize = 14;
const R: usize = 7;
const POOL: usize = 4;
const SHARD_BYTES: usize = 128 << 20;
const COMPUTATION_MS: [u64; 4] = [1, 5, 20, 100];
const TURNS: usize = 5;

/// A step's computation.
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

/// Arithmetic in registers.
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
struct Lost {
    /// All but appending.
    all: f64,
    /// The mean of the wait among it.
    mean_wait: f64,
    /// The engine's work, wherever it was done.
    engine: f64,
    /// Its mean by the clock on the wall.
    mean_engine: f64,
}

fn engine(timings: &EngineTimings) -> Duration {
    timings.insert + timings.plan + timings.exchange + timings.deliver
}

fn run(
    buffer: &RehearsalBuffer<Batch>,
    batches: &[Batch],
    computation: Computation,
    steps: usize,
) -> Lost {
    let (mut all, mut waits, mut engines) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = buffer.timings();
    for step in 0..steps {
        computation.run();
        let batch = batches[step % POOL].clone();
        let started = Instant::now();
        let merged = buffer.rehearse(batch).expect("a step");
        let took = micros(started.elapsed());
        black_box(merged);
        let after = buffer.timings();
        all.push(took - micros(after.append - before.append));
        waits.push(micros(after.wait - before.wait));
        // In the background this is one of the steps before; all are alike.
        engines.push(micros(engine(&after) - engine(&before)));
        before = after;
    }
    Lost {
        mean_wait: mean(&waits),
        all: median(all),
        mean_engine: mean(&engines),
        engine: median(engines),
    }
}

/// The same behind `ShardedLoader`, whose own time does not count.
fn run_behind_loader(
    buffer: &RehearsalBuffer<Batch>,
    loader: &dyn DataLoader<Batch>,
    computation: Computation,
    steps: usize,
) -> Lost {
    let (mut all, mut waits, mut engines) = (Vec::new(), Vec::new(), Vec::new());
    let mut before = buffer.timings();
    while all.len() < steps {
        let mut batches = loader.iter();
        loop {
            computation.run();
            let Some(batch) = batches.next() else { break };
            black_box(batch.expect("a mini-batch"));
            let after = buffer.timings();
            all.push(micros(
                after.assemble - before.assemble + after.wait
                    - before.wait
                    - (after.append - before.append),
            ));
            waits.push(micros(after.wait - before.wait));
            engines.push(micros(engine(&after) - engine(&before)));
            before = after;
        }
    }
    Lost {
        mean_wait: mean(&waits),
        all: median(all),
        mean_engine: mean(&engines),
        engine: median(engines),
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
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

/// Sending a message to a thread that sleeps until it comes.
fn wake(computation: Computation, steps: usize) -> f64 {
    let (messages, inbox) = sync_channel(2);
    let sleeper = std::thread::spawn(move || while inbox.recv().is_ok() {});
    let time = after(computation, steps, |_| messages.send(()).expect("a listener"));
    drop(messages);
    sleeper.join().expect("no panic");
    time
}

/// What every buffer does with a mini-batch, whatever it adds to it.
fn apart_and_together(batches: &[Batch], computation: Computation, steps: usize) -> f64 {
    let mut columns = Vec::new();
    let mut pool: Vec<Option<Batch>> =
        (0..steps).map(|step| Some(batches[step % POOL].clone())).collect();
    after(computation, steps, |step| {
        let batch = pool[step].take().expect("one for each step");
        batch.into_parts(&mut columns).expect("columns");
        pool[step] = Some(Batch::from_parts(columns.drain(..), (0,)).expect("a mini-batch"));
    })
}

fn buffer(side: usize, execution: Execution, batches: &[Batch]) -> RehearsalBuffer<Batch> {
    let capacity = Capacity::Samples(SHARD_BYTES / Batch::row_bytes(side));
    let config = RehearsalConfig::new(capacity)
        .with_candidates(C)
        .with_representatives(R)
        .with_policy(PolicyKind::RandomReplacement)
        .with_execution(execution);
    let buffer = config.init().expect("a buffer");
    fill(&buffer, batches).expect("a full buffer");
    buffer
}

/// One table: what [`run`] or [`run_behind_loader`] says after each computation.
fn table(
    title: &str,
    per_ms: f64,
    batches: &[Batch],
    inline: &RehearsalBuffer<Batch>,
    ours: impl Fn(Computation, usize) -> Lost,
) {
    println!("\n{title}; µs per step");
    println!(
        "  {:<22} {:>7} {:>7} {:>7} {:>10} {:>8} {:>10} {:>7} {:>9}",
        "computation", "all", "parts", "lost", "mean wait", "engine", "if inline", "wake", "hidden"
    );
    for milliseconds in COMPUTATION_MS {
        let steps = (600 / milliseconds).clamp(8, 100) as usize;
        let sleep = Computation::Sleep(Duration::from_millis(milliseconds));
        let busy = Computation::Busy((per_ms * milliseconds as f64) as u64);
        for (name, computation) in [("sleeping", sleep), ("on all cores", busy)] {
            let turns: Vec<_> = (0..TURNS)
                .map(|_| {
                    (ours(computation, steps), apart_and_together(batches, computation, steps))
                })
                .collect();
            let of = |part: &dyn Fn(&(Lost, f64)) -> f64| median(turns.iter().map(part).collect());
            let lost = of(&|(ours, parts)| ours.all - parts);
            let hidden = 1.0 - of(&|(ours, _)| ours.mean_wait / ours.mean_engine);
            println!(
                "  {:<22} {:7.1} {:7.1} {lost:7.1} {:10.1} {:8.1} {:10.1} {:7.1} {:7.1} %  lost {}, hidden {}",
                format!("{milliseconds} ms, {name}"),
                of(&|(ours, _)| ours.all),
                of(&|(_, parts)| *parts),
                of(&|(ours, _)| ours.mean_wait),
                of(&|(ours, _)| ours.engine),
                run(inline, batches, computation, steps).all,
                wake(computation, steps),
                100.0 * hidden,
                verdict(lost <= 5.0),
                verdict(hidden >= 0.99)
            );
        }
    }
}

fn main() {
    head(&format!(
        "overlap: b = {B}, c = {C}, r = {R}, u8, one rank, shards of {} MiB",
        SHARD_BYTES >> 20
    ));
    let per_ms = rounds_per_ms();
    let device = Device::flex();
    for side in [64, 224] {
        let batches: Vec<Batch> = random_batches(POOL, B, side, 100, &device);
        let inline = buffer(side, Execution::Inline, &batches);
        let background = buffer(side, Execution::Background, &batches);
        table(
            &format!("{side}² u8, a foreign loader"),
            per_ms,
            &batches,
            &inline,
            |computation, steps| run(&background, &batches, computation, steps),
        );
        let images = InMemDataset::new(random_images(4 * POOL * B, Batch::row_bytes(side), 100, 9));
        let sharded = ShardedLoader::<_, Batch>::builder(StackImages { side, room: R })
            .batch_size(B)
            .shuffle(1)
            .num_workers(1)
            .set_device(device.clone());
        let loader = RehearsalLoader::new(sharded.build(images), background.clone());
        table(
            &format!("{side}² u8, ShardedLoader"),
            per_ms,
            &batches,
            &inline,
            |computation, steps| run_behind_loader(&background, &loader, computation, steps),
        );
    }
    println!("\ntargets: lost ≤ 5 µs, hidden ≥ 99 %");
}
