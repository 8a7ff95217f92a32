//! What does one step of the buffer cost, against the copies that no design can avoid?
//!
//! One rank, shard full. A step chooses and stores 14 of 56 incoming rows, draws 7 and appends
//! them. It is split in
//!
//! * (a) choose, store, draw and deliver: everything but the last copy. Reference: plain copies of
//!   14 rows of a mini-batch to random slots of a slab as large as the shard, and of 7 random slots
//!   to a recycled buffer;
//! * (b) the mini-batch of 63 rows. Through a foreign loader its rows are copied behind one
//!   another; reference: one copy of 63 rows into a recycled buffer. `ShardedLoader` decodes into
//!   memory with room for 63 rows, so that only the 7 drawn rows are copied.
//!
//! Times are medians of single steps, without the time during which the thread had lost its core;
//! ratios are medians over the turns. The engine runs inline, so that one thread does all the work.
//! Then the processor time of both threads in the background. `SIDES=32,64` leaves out the other
//! sizes. Where `python3` (or the program that `PYTHON` names) has torchrl, its step is measured in
//! the same run.
#![allow(clippy::expect_used)]

use burn::data::dataloader::DataLoader;
use burn::data::dataset::InMemDataset;
use burn::tensor::Device;
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{
    Capacity, EngineTimings, Execution, PolicyKind, RehearsalBuffer, RehearsalConfig,
    RehearsalLoader, ShardedLoader,
};
use burn_rehearsal_benches::{
    Batch, Cpu, FloatBatch, Images, StackImages, Time, fill, head, median, micros, random_batches,
    random_images, ratio, timed, verdict,
};
use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

const B: usize = 56;
const C: usize = 14;
const R: usize = 7;
const CLASSES: usize = 100;
const TURNS: usize = 9;
/// Different mini-batches, used in turn.
const POOL: usize = 4;
/// A shard of this size does not fit in a cache.
const SHARD_BYTES: usize = 256 << 20;
/// How long each of the things compared runs in one turn, about.
const TURN: Duration = Duration::from_millis(60);

/// Microseconds per step of other systems that do the same (draw 7, store 14, build 63 rows),
/// measured on two cores at another time, perhaps when memory was faster: name, side, element type,
/// time, and by how much this one is to be faster.
const PEERS: [(&str, usize, &str, f64, f64); 10] = [
    ("torchrl", 32, "u8", 177.0, 10.0),
    ("torchrl", 64, "u8", 272.0, 10.0),
    ("torchrl", 224, "u8", 1842.0, 10.0),
    ("torchrl", 224, "f32", 17800.0, 10.0),
    ("Mammoth", 32, "f32", 295.0, 10.0),
    ("Mammoth", 64, "f32", 394.0, 10.0),
    ("Mammoth", 224, "f32", 18540.0, 10.0),
    ("original engine, core operations", 32, "f32", 56.0, 3.0),
    ("original engine, core operations", 64, "f32", 145.0, 3.0),
    ("original engine, core operations", 224, "f32", 2430.0, 3.0),
];

/// The step of torchrl, if `python3` (or `PYTHON`) has it: what a user would write. Arguments:
/// side, element type, rows in the shard, milliseconds.
const TORCHRL: &str = r#"
import statistics, sys, time
import torch
from tensordict import TensorDict
from torchrl.data import LazyTensorStorage, ReplayBuffer
b, c, r = 56, 14, 7
side, element, capacity, milliseconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
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
print(f"{torch.__version__} {statistics.median(times)}")
"#;

/// Microseconds per step, and the version of PyTorch.
fn torchrl(side: usize, element: &str, capacity: usize) -> Result<(String, f64), String> {
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let milliseconds = (TURNS as u128 * TURN.as_millis()).to_string();
    let arguments =
        ["-c", TORCHRL, &side.to_string(), element, &capacity.to_string(), &milliseconds]
            .map(str::to_owned);
    let output =
        Command::new(python).args(arguments).output().map_err(|error| error.to_string())?;
    // What torchrl logs stands before it.
    let text =
        String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned();
    let time = text.split_whitespace().nth(1).and_then(|time| time.parse().ok());
    let reason = || {
        String::from_utf8_lossy(&output.stderr)
            .lines()
            .last()
            .unwrap_or("no reason given")
            .to_owned()
    };
    Ok((text.split_whitespace().next().unwrap_or_default().to_owned(), time.ok_or_else(reason)?))
}

/// Medians of one turn, or of all, in µs.
#[derive(Default)]
struct Series {
    names: Vec<&'static str>,
    /// `turns[name][turn]`
    turns: Vec<Vec<f64>>,
}

impl Series {
    /// Adds a turn's samples.
    fn add(&mut self, name: &'static str, samples: Vec<f64>) {
        let at = self.names.iter().position(|other| *other == name).unwrap_or_else(|| {
            self.names.push(name);
            self.turns.push(Vec::new());
            self.names.len() - 1
        });
        self.turns[at].push(median(samples));
    }

    fn of(&self, name: &str) -> &[f64] {
        self.names.iter().position(|other| *other == name).map_or(&[], |at| &self.turns[at])
    }

    fn median(&self, name: &str) -> f64 {
        median(self.of(name).to_vec())
    }

    fn ratio(&self, ours: &str, reference: &str) -> f64 {
        ratio(self.of(ours), self.of(reference))
    }
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

fn config(execution: Execution, capacity: usize) -> RehearsalConfig {
    // Every candidate is stored, as in the original engine.
    RehearsalConfig::new(Capacity::Samples(capacity))
        .with_candidates(C)
        .with_representatives(R)
        .with_policy(PolicyKind::RandomReplacement)
        .with_execution(execution)
}

/// The buffer's own step, and where its time goes.
fn ours<T: Images>(buffer: &RehearsalBuffer<T>, batches: &[T], series: &mut Series) {
    let parts =
        ["step", "drop", "(a)", "(b)", "choose", "insert", "plan", "exchange", "deliver", "append"];
    let mut samples = vec![Vec::new(); parts.len()];
    let mut before = buffer.timings();
    repeat(|step| {
        let batch = batches[step % POOL].clone();
        let (time, merged) = timed(|| buffer.rehearse(batch).expect("a step"));
        let (step, drop) = (time.wall, timed(|| drop(black_box(merged))).0.wall);
        let after = buffer.timings();
        let part = |of: fn(&EngineTimings) -> Duration| micros(of(&after) - of(&before));
        let [insert, plan, exchange, deliver] =
            [part(|t| t.insert), part(|t| t.plan), part(|t| t.exchange), part(|t| t.deliver)];
        let append = part(|t| t.append);
        // Inline, the engine's work is a part of what the training thread does around it.
        let choose = part(|t| t.assemble) - append - insert - plan - exchange - deliver;
        let values = [
            step,
            drop,
            step - append,
            append + drop,
            choose,
            insert,
            plan,
            exchange,
            deliver,
            append,
        ];
        samples
            .iter_mut()
            .zip(values)
            .for_each(|(samples, value)| samples.push(value * time.running()));
        before = after;
    });
    parts.iter().zip(samples).for_each(|(name, samples)| series.add(name, samples));
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
            few.push(copies.wall * copies.running());
            // In the same turn, as in a step: what the copies before left in the caches is what
            // this one finds there.
            let (copy, ()) = timed(|| {
                let (incoming, tail) = merged.split_at_mut(B * row);
                incoming.copy_from_slice(batch);
                tail.copy_from_slice(drawn);
                black_box(&*merged);
            });
            whole.push(copy.wall * copy.running());
        });
        series.add("copies", few);
        series.add("one copy", whole);
    }
}

/// Microseconds of each call of `next`, and of the drop of what it gave.
fn loader<T: Images>(loader: &dyn DataLoader<T>, mut after: impl FnMut(Time)) -> Vec<f64> {
    let mut times = Vec::new();
    let started = Instant::now();
    while started.elapsed() < TURN {
        let mut batches = loader.iter();
        loop {
            let (next, batch) = timed(|| batches.next());
            let Some(batch) = batch else { break };
            let (drop, ()) = timed(|| drop(black_box(batch.expect("a mini-batch"))));
            times.push(next.wall * next.running() + drop.wall * drop.running());
            after(next);
        }
    }
    times
}

fn measure<T: Images>(side: usize) {
    let device = Device::flex();
    let row = T::row_bytes(side);
    let capacity = SHARD_BYTES / row;
    let batches: Vec<T> = random_batches(POOL, B, side, CLASSES, &device);
    let mut series = Series::default();

    let buffer = config(Execution::Inline, capacity).init().expect("a buffer");
    fill(&buffer, &batches).expect("a full buffer");
    let mut reference = Reference::new(row, capacity);
    let dataset = || InMemDataset::new(random_images(POOL * B, row, CLASSES, 9));
    let sharded = || {
        ShardedLoader::<_, T>::builder(StackImages { side, room: R })
            .batch_size(B)
            .shuffle(1)
            .set_device(device.clone())
            .build(dataset())
    };
    let plain = sharded();
    let rehearsed = RehearsalLoader::new(sharded(), buffer.clone());
    for _ in 0..TURNS {
        ours(&buffer, &batches, &mut series);
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
        series.add("append behind loader", appends);
    }
    let cpu = |buffer: &RehearsalBuffer<T>| {
        let (started, before, mut steps) = (Instant::now(), Cpu::now(), 0.0);
        while started.elapsed() < Duration::from_millis(500) {
            black_box(buffer.rehearse(batches[steps as usize % POOL].clone()).expect("a step"));
            steps += 1.0;
        }
        let used = Cpu::now().since(before);
        (micros(started.elapsed()) / steps, used.mine / steps, used.others / steps)
    };
    let inline = cpu(&buffer);
    drop((rehearsed, buffer, reference));
    let buffer = config(Execution::Background, capacity).init().expect("a buffer");
    fill(&buffer, &batches).expect("a full buffer");
    let background = cpu(&buffer);

    let us = |name: &str| series.median(name);
    println!(
        "\n{side}² {}: rows of {:.1} KiB, {capacity} in the shard; µs per step",
        T::NAME,
        row as f64 / 1024.0
    );
    println!(
        "  (a) {:9.1}  = choose {:.1} + insert {:.1} + plan {:.1} + exchange {:.1} + deliver {:.1} + rest {:.1}",
        us("(a)"),
        us("choose"),
        us("insert"),
        us("plan"),
        us("exchange"),
        us("deliver"),
        us("(a)") - ["choose", "insert", "plan", "exchange", "deliver"].map(us).iter().sum::<f64>()
    );
    let limit = if T::ELEMENT == 1 {
        [(32, 10.0), (64, 25.0)].iter().find(|(of, _)| *of == side)
    } else {
        None
    };
    match limit {
        Some((_, limit)) => println!("      target ≤ {limit} µs: {}", verdict(us("(a)") <= *limit)),
        None if side == 224 => println!(
            "      target ≤ 1.25 × copies: {}",
            verdict(series.ratio("(a)", "copies") <= 1.25)
        ),
        None => {}
    }
    println!(
        "      copies of {C} + {R} rows {:.1}; ratio {:.2}",
        us("copies"),
        series.ratio("(a)", "copies")
    );
    println!("  (b) {:9.1}  = append {:.1} + drop {:.1}", us("(b)"), us("append"), us("drop"));
    let of_one = series.ratio("(b)", "one copy");
    println!(
        "      one copy of {} rows {:.1}; ratio {of_one:.2}, target ≤ 1.25: {}",
        B + R,
        us("one copy"),
        verdict(of_one <= 1.25)
    );
    println!(
        "      ShardedLoader alone {:.1}, with rehearsal {:.1}, of which append {:.1}; (loader + append) / one copy {:.2}",
        us("loader"),
        us("loader and rehearsal"),
        us("append behind loader"),
        (us("loader") + us("append behind loader")) / us("one copy")
    );
    let whole = us("(a)") + us("append behind loader");
    println!(
        "  (a) + (b) {:.1} through a foreign loader, {whole:.1} with ShardedLoader",
        us("(a)") + us("(b)")
    );
    // A system that makes these copies with `memcpy`, row after row, and does nothing else.
    let bare = us("copies") + us("one copy") * R as f64 / (B + R) as f64;
    for &(name, _, _, time, factor) in
        PEERS.iter().filter(|peer| peer.1 == side && peer.2 == T::NAME)
    {
        let met = verdict(time / whole >= factor);
        println!(
            "      {name} {time}: (a) + (b) is {:.1} × faster, target {factor}: {met}; bare copies {:.1} ×",
            time / whole,
            time / bare
        );
    }
    match torchrl(side, T::NAME, capacity) {
        Ok((version, time)) => println!(
            "      torchrl now, PyTorch {version}, {time:.0}: (a) + (b) is {:.1} × faster",
            time / whole
        ),
        Err(reason) => println!("      torchrl now: not measured ({reason})"),
    }
    println!(
        "  inline:     {:9.1} per step, CPU of the training thread {:.1}, of others {:.1}",
        inline.0, inline.1, inline.2
    );
    println!(
        "  background: {:9.1} per step, CPU of the training thread {:.1}, of others {:.1}",
        background.0, background.1, background.2
    );
}

fn main() {
    head(&format!(
        "engine: one step, b = {B}, c = {C}, r = {R}, one rank, shards of {} MiB, {TURNS} turns",
        SHARD_BYTES >> 20
    ));
    let sides = std::env::var("SIDES").ok();
    for side in [32, 64, 224]
        .into_iter()
        .filter(|side| sides.as_ref().is_none_or(|sides| sides.contains(&side.to_string())))
    {
        measure::<Batch>(side);
        measure::<FloatBatch>(side);
    }
}
