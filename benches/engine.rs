//! What does one step of the buffer cost, compared with copying the rows?
//!
//! One rank with a full shard. A step stores 14 of 56 incoming rows, draws 7 and appends them:
//!
//! * (a) choose, store, draw and deliver: everything except the last copy. Its reference are plain
//!   copies of 14 rows of a mini-batch to random slots of a slab of the shard's size, and of 7
//!   random slots to reused memory.
//! * (b) the mini-batch of 63 rows. The rows of a foreign loader are copied into new memory; the
//!   reference is one copy of 63 rows to reused memory. `ShardedLoader` reserves room for the
//!   representatives, so that only the 7 drawn rows are copied.
//!
//! Times are medians of single steps, without the time during which another program held the
//! thread's core. Ratios are medians over the turns. The engine runs inline, so that one thread
//! does all the work; the last lines add the processor time of both threads in the background.
//!
//! `SIDES=32,64` restricts the sizes. If `python3` (or the program that `PYTHON` names) has
//! torchrl, its step is measured in the same run.
#![allow(clippy::expect_used)]

use burn::data::dataloader::DataLoader;
use burn::data::dataset::InMemDataset;
use burn::tensor::Device;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{EngineTimings, Execution, RehearsalBuffer, RehearsalLoader, ShardedLoader};
use burn_rehearsal_benches::{
    B, Batch, C, Cpu, Figures, FloatBatch, Images, R, Series, StackImages, Target, Time, config,
    fill, median, micros, python, random_batches, random_images, timed,
};
use std::hint::black_box;
use std::time::{Duration, Instant};

const CLASSES: usize = 100;
const TURNS: usize = 9;
/// The number of mini-batches that alternate.
const POOL: usize = 4;
/// A shard of this size fits in no cache.
const SHARD_BYTES: usize = 256 << 20;
/// The approximate time for each measurement in a turn.
const TURN: Duration = Duration::from_millis(60);

/// Microseconds per step of other systems that do the same work (draw 7, store 14, build 63 rows):
/// name, side, element type, time, and the factor by which this project should be faster. The times
/// were measured on two cores at another time, when memory may have been faster.
const PEERS: [(&str, usize, &str, f64, f64); 10] = [
    ("torchrl", 32, "u8", 177.0, 10.0),
    ("torchrl", 64, "u8", 272.0, 10.0),
    ("torchrl", 224, "u8", 1842.0, 10.0),
    ("torchrl", 224, "f32", 17800.0, 10.0),
    ("Mammoth", 32, "f32", 295.0, 10.0),
    ("Mammoth", 64, "f32", 394.0, 10.0),
    ("Mammoth", 224, "f32", 18540.0, 10.0),
    ("the paper's C++ engine", 32, "f32", 56.0, 3.0),
    ("the paper's C++ engine", 64, "f32", 145.0, 3.0),
    ("the paper's C++ engine", 224, "f32", 2430.0, 3.0),
];

/// A step of torchrl as a user would write it. Arguments: side, element type, rows in the shard,
/// milliseconds. Prints the median time in microseconds on its last line.
const TORCHRL: &str = r#"
import statistics, sys, time
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer
b, c, r = 56, 14, 7
side, element = int(sys.argv[1]), sys.argv[2]
capacity, milliseconds = int(sys.argv[3]), int(sys.argv[4])
dtype = torch.uint8 if element == "u8" else torch.float32
def batch():
    images = torch.randint(0, 256, (b, 3, side, side)).to(dtype)
    return TensorDict({"images": images, "targets": torch.randint(0, 100, (b,))}, [b])
batches = [batch() for _ in range(4)]
buffer = ReplayBuffer(storage=LazyTensorStorage(capacity), batch_size=r)
while len(buffer) < capacity:
    buffer.extend(batches[0][: capacity - len(buffer)])
times, begun = [], time.perf_counter()
while (time.perf_counter() - begun) * 1e3 < milliseconds:
    incoming = batches[len(times) % 4]
    started = time.perf_counter()
    buffer.extend(incoming[torch.randperm(b)[:c]])
    torch.cat([incoming, buffer.sample()])
    times.append((time.perf_counter() - started) * 1e6)
print(statistics.median(times))
"#;

/// Microseconds per step of torchrl.
fn torchrl(side: usize, element: &str, capacity: usize) -> Result<f64, String> {
    let milliseconds = TURNS as u128 * TURN.as_millis();
    let [side, capacity, milliseconds] =
        [side.to_string(), capacity.to_string(), milliseconds.to_string()];
    let output = python(TORCHRL, &[&side, element, &capacity, &milliseconds])?;
    // Log lines of torchrl may come first.
    let time = output.lines().last().and_then(|line| line.trim().parse().ok());
    time.ok_or_else(|| format!("it printed {output:?}"))
}

/// Repeats `work` for [`TURN`].
fn repeat(mut work: impl FnMut(usize)) {
    let started = Instant::now();
    let mut step = 0;
    while started.elapsed() < TURN || step < 4 {
        work(step);
        step += 1;
    }
}

/// Measures the step of the buffer and its parts.
fn step<T: Images>(buffer: &RehearsalBuffer<T>, batches: &[T], series: &mut Series) {
    let parts = ["(a)", "(b)", "choose", "insert", "plan", "exchange", "deliver", "append", "drop"];
    let mut samples = parts.map(|_| Vec::new());
    let mut before = buffer.timings();
    repeat(|step| {
        let batch = batches[step % POOL].clone();
        let (time, merged) = timed(|| buffer.rehearse(batch).expect("a step"));
        let drop = timed(|| drop(black_box(merged))).0.wall;
        let after = buffer.timings();
        let part = |of: fn(&EngineTimings) -> Duration| micros(of(&after) - of(&before));
        let [insert, plan, exchange, deliver] =
            [part(|t| t.insert), part(|t| t.plan), part(|t| t.exchange), part(|t| t.deliver)];
        let append = part(|t| t.append);
        // The assembly on the training thread includes the work of an inline engine.
        let choose = part(|t| t.assemble) - append - insert - plan - exchange - deliver;
        let step = time.wall - append;
        let values = [step, append + drop, choose, insert, plan, exchange, deliver, append, drop];
        for (samples, value) in samples.iter_mut().zip(values) {
            samples.push(value * time.running());
        }
        before = after;
    });
    parts.iter().zip(samples).for_each(|(name, samples)| series.add(*name, median(samples)));
}

/// The copies that no design can avoid.
struct Reference {
    row: usize,
    slab: Vec<u8>,
    batches: Vec<Vec<u8>>,
    drawn: Vec<u8>,
    merged: Vec<u8>,
    random: Stream,
}

impl Reference {
    fn new(row: usize, capacity: usize) -> Self {
        let batches = (0..POOL).map(|seed| {
            random_images(B, row, CLASSES, seed as u64)
                .iter()
                .flat_map(|image| image.bytes.to_vec())
                .collect()
        });
        Self {
            row,
            slab: vec![1; row * capacity],
            batches: batches.collect(),
            drawn: vec![1; R * row],
            merged: vec![1; (B + R) * row],
            random: Stream::new(3, Purpose::Evict, 0, 0),
        }
    }

    fn run(&mut self, series: &mut Series) {
        let Self { row, slab, batches, drawn, merged, random } = self;
        let (row, capacity) = (*row, slab.len() / *row);
        let (mut few, mut whole) = (Vec::new(), Vec::new());
        let mut start = |bound: usize| random.below(bound as u64) as usize * row;
        repeat(|step| {
            let batch = &batches[step % POOL];
            let stores: Vec<(usize, usize)> = (0..C).map(|_| (start(B), start(capacity))).collect();
            let draws: Vec<usize> = (0..R).map(|_| start(capacity)).collect();
            let (copies, ()) = timed(|| {
                for &(from, to) in &stores {
                    slab[to..to + row].copy_from_slice(&batch[from..from + row]);
                }
                for (to, &from) in drawn.chunks_exact_mut(row).zip(&draws) {
                    to.copy_from_slice(&slab[from..from + row]);
                }
                black_box(&*drawn);
            });
            few.push(copies.undisturbed());
            // As in a step, the caches hold what the earlier copies left there.
            let (copy, ()) = timed(|| {
                let (incoming, tail) = merged.split_at_mut(B * row);
                incoming.copy_from_slice(batch);
                tail.copy_from_slice(drawn);
                black_box(&*merged);
            });
            whole.push(copy.undisturbed());
        });
        series.add("copies", median(few));
        series.add("one copy", median(whole));
    }
}

/// The median time in microseconds of a call of `next` and the drop of its mini-batch.
fn loader<T: Images>(loader: &dyn DataLoader<T>, mut after: impl FnMut(Time)) -> f64 {
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < TURN {
        let mut batches = loader.iter();
        loop {
            let (next, batch) = timed(|| batches.next());
            let Some(batch) = batch else { break };
            let (drop, ()) = timed(|| drop(black_box(batch.expect("a mini-batch"))));
            times.push(next.undisturbed() + drop.undisturbed());
            after(next);
        }
    }
    median(times)
}

/// Microseconds per step: elapsed, of the training thread, and of all other threads.
fn processor_time<T: Images>(buffer: &RehearsalBuffer<T>, batches: &[T]) -> [f64; 3] {
    let (started, before, mut steps) = (Instant::now(), Cpu::now(), 0.0);
    while started.elapsed() < Duration::from_millis(500) {
        black_box(buffer.rehearse(batches[steps as usize % POOL].clone()).expect("a step"));
        steps += 1.0;
    }
    let used = Cpu::now().since(before);
    [micros(started.elapsed()), used.mine, used.others].map(|time| time / steps)
}

fn measure<T: Images>(figures: &mut Figures, side: usize) {
    let device = Device::flex();
    let row = T::row_bytes(side);
    let capacity = SHARD_BYTES / row;
    let batches: Vec<T> = random_batches(POOL, B, side, CLASSES, &device);
    let mut series = Series::default();

    let buffer = config(capacity, Execution::Inline).init().expect("a buffer");
    fill(&buffer, &batches).expect("a full buffer");
    let mut reference = Reference::new(row, capacity);
    let sharded = || {
        ShardedLoader::<_, T>::builder(StackImages { side, room: R })
            .batch_size(B)
            .shuffle(1)
            .set_device(device.clone())
            .build(InMemDataset::new(random_images(POOL * B, row, CLASSES, 9)))
    };
    let plain = sharded();
    let rehearsed = RehearsalLoader::new(sharded(), buffer.clone());
    for _ in 0..TURNS {
        step(&buffer, &batches, &mut series);
        reference.run(&mut series);
        series.add("loader", loader(&*plain, |_| ()));
        let mut appends = Vec::new();
        let mut before = buffer.timings().append;
        let with_rehearsal = loader(&rehearsed, |time| {
            let now = buffer.timings().append;
            appends.push(micros(now - before) * time.running());
            before = now;
        });
        series.add("loader and rehearsal", with_rehearsal);
        series.add("append behind loader", median(appends));
    }
    let inline = processor_time(&buffer, &batches);
    drop((rehearsed, buffer, reference));
    let buffer = config(capacity, Execution::Background).init().expect("a buffer");
    fill(&buffer, &batches).expect("a full buffer");
    let background = processor_time(&buffer, &batches);

    let us = |name: &str| series.median(name);
    let case = format!("{side}² {}", T::NAME);
    let limit = match (side, T::ELEMENT) {
        (32, 1) => Some(Target::AtMost(10.0)),
        (64, 1) => Some(Target::AtMost(25.0)),
        _ => None,
    };
    let close = Target::AtMost(1.25);
    figures.add(&case, "(a)", us("(a)"), "µs", limit);
    let of_copies = series.ratio("(a)", "copies");
    figures.add(&case, "(a) / copies", of_copies, "×", (side == 224).then_some(close));
    figures.add(&case, "(b) / one copy", series.ratio("(b)", "one copy"), "×", Some(close));
    let whole = us("(a)") + us("append behind loader");
    figures.add(&case, "(a) + (b), `ShardedLoader`", whole, "µs", None);
    // A system that makes these copies one row after another, and does nothing else.
    let bare = us("copies") + us("one copy") * R as f64 / (B + R) as f64;
    for (name, _, _, time, factor) in
        PEERS.iter().filter(|peer| peer.1 == side && peer.2 == T::NAME)
    {
        let target = Some(Target::AtLeast(*factor));
        figures.add(&case, &format!("{name} / (a) + (b)"), time / whole, "×", target);
        println!("  {name} {time} µs, {:.1} × the bare copies", time / bare);
    }
    match torchrl(side, T::NAME, capacity) {
        Ok(time) => {
            figures.add(&case, "torchrl in this run / (a) + (b)", time / whole, "×", None);
        }
        Err(reason) => println!("  torchrl was not measured: {reason}"),
    }
    println!("  rows of {:.1} KiB, {capacity} in the shard; µs per step", row as f64 / 1024.0);
    for name in ["choose", "insert", "plan", "exchange", "deliver", "append", "drop", "(b)"]
        .into_iter()
        .chain(["copies", "one copy", "loader", "loader and rehearsal", "append behind loader"])
    {
        println!("  {name:<22} {:9.1}", us(name));
    }
    for (name, [elapsed, mine, others]) in [("inline", inline), ("background", background)] {
        println!(
            "  {name:<22} {elapsed:9.1}, processor time of the training thread {mine:.1}, of others {others:.1}"
        );
    }
}

fn main() {
    let mut figures = Figures::new(
        "engine",
        "what does one step of the buffer cost, compared with copying the rows?",
        &format!(
            "b = {B}, c = {C}, r = {R}, one rank, shards of {} MiB, {TURNS} turns",
            SHARD_BYTES >> 20
        ),
    );
    let sides = std::env::var("SIDES").unwrap_or_else(|_| "32,64,224".into());
    for side in [32, 64, 224] {
        if sides.split(',').any(|wanted| wanted.trim() == side.to_string()) {
            measure::<Batch>(&mut figures, side);
            measure::<FloatBatch>(&mut figures, side);
        }
    }
    figures.write();
}
