//! What does a rank do per step in a world of thousands?
//!
//! One rank is real; the others are its mirror images: a [`Collective`] that answers for them with
//! this rank's own words (the same fill, the same changes of class counts) and sends rows of zeros.
//! So the engine's real code plans for the whole world, in one thread. Then a model of the network
//! says what that means for a step of training.
#![allow(clippy::expect_used)]

use burn::tensor::Device;
use burn_rehearsal::{
    Capacity, Execution, PolicyKind, RehearsalBuffer, RehearsalConfig, SamplingKind,
};
use burn_rehearsal_benches::{Batch, head, median, micros, random_batches, timed, verdict};
use burn_rehearsal_collective::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const B: usize = 56;
const C: usize = 14;
const R: usize = 7;
const SIDE: usize = 8;
const CLASSES: usize = 1000;
const SHARD: usize = 500;
const WORLDS: [usize; 7] = [2, 8, 32, 128, 512, 1024, 4096];
const KINDS: [SamplingKind; 3] =
    [SamplingKind::Uniform, SamplingKind::ExcludeCurrent, SamplingKind::ClassBalanced];
const TARGET_US: f64 = 200.0;
/// How long each world is measured.
const TIME: Duration = Duration::from_millis(400);

/// What went over the network, were there one.
#[derive(Default)]
struct Traffic {
    messages: AtomicU64,
    bytes: AtomicU64,
    gathered: AtomicU64,
}

impl Traffic {
    /// Messages and bytes of rows sent, bytes of headers received.
    fn read(&self) -> [f64; 3] {
        [&self.messages, &self.bytes, &self.gathered]
            .map(|counter| counter.load(Ordering::Relaxed) as f64)
    }
}

/// Rank 0 of a world whose other ranks say and do what it does.
struct Mirrors {
    size: usize,
    traffic: Arc<Traffic>,
}

impl Collective for Mirrors {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        self.size
    }

    fn set_step(&mut self, _step: u64) {}

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn broadcast(&mut self, _data: &mut [u8], _root: usize) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        recv.chunks_exact_mut(send.len().max(1)).for_each(|part| part.copy_from_slice(send));
        self.traffic.gathered.fetch_add(recv.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn all_reduce(&mut self, _data: &mut [f32], _op: ReduceOp) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        _incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        self.traffic.messages.fetch_add(outgoing.len() as u64, Ordering::Relaxed);
        self.traffic.bytes.fetch_add(
            outgoing.iter().map(|message| message.bytes.len() as u64).sum(),
            Ordering::Relaxed,
        );
        Ok(())
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        Ok(Box::new(Mirrors { size: self.size, traffic: self.traffic.clone() }))
    }
}

/// Kilobytes of this process in memory.
fn resident() -> f64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// The real rank of a world, after its shard has become full.
fn start(
    size: usize,
    sampling: SamplingKind,
    batches: &[Batch],
) -> (RehearsalBuffer<Batch>, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let config = RehearsalConfig::new(Capacity::Samples(SHARD * size))
        .with_candidates(C)
        .with_representatives(R)
        // Every candidate is stored: the most work.
        .with_policy(PolicyKind::RandomReplacement)
        .with_sampling(sampling)
        .with_classes(Some(CLASSES))
        .with_execution(Execution::Inline);
    let buffer =
        RehearsalBuffer::new(&config, Box::new(Mirrors { size, traffic: traffic.clone() }))
            .expect("a buffer");
    (0..2 * SHARD / C).for_each(|at| step(&buffer, batches, at));
    (buffer, traffic)
}

fn step(buffer: &RehearsalBuffer<Batch>, batches: &[Batch], at: usize) {
    drop(buffer.rehearse(batches[at % batches.len()].clone()).expect("a step"));
}

/// Measures one world; returns the planning time in µs.
fn world(size: usize, sampling: SamplingKind, batches: &[Batch]) -> f64 {
    let (buffer, traffic) = start(size, sampling, batches);
    let (mut plans, mut gathers, mut sent) = (Vec::new(), Vec::new(), [0.0; 3]);
    let started = Instant::now();
    while started.elapsed() < TIME || plans.len() < 20 {
        if plans.len() % 10 == 0 {
            // Otherwise the rows of earlier tasks would soon all be replaced.
            buffer.begin_task(2 + plans.len()).expect("a task");
        }
        let (last, before) = (buffer.timings(), traffic.read());
        let (time, ()) = timed(|| step(&buffer, batches, plans.len()));
        let (now, after) = (buffer.timings(), traffic.read());
        plans.push(micros(now.plan - last.plan) * time.running());
        gathers.push(micros(now.exchange - last.exchange) * time.running());
        sent.iter_mut()
            .zip(after.iter().zip(before))
            .for_each(|(sum, (after, before))| *sum += after - before);
    }
    let [messages, bytes, gathered] = sent.map(|sum| sum / plans.len() as f64);
    let plan = median(plans);
    println!(
        "  {size:>5} ranks: plan {plan:9.1} µs, headers {:8.1} µs; sends {messages:4.1} messages, {:4.1} rows; receives {:6.1} KiB of headers; {:6.2} MiB  {}",
        median(gathers),
        bytes / (3 * SIDE * SIDE + 8 + 8) as f64,
        gathered / 1024.0,
        memory(size, sampling),
        if size == 1024 { verdict(plan <= TARGET_US) } else { "" }
    );
    plan
}

/// How much a world adds to the memory of a fresh process, in MiB.
fn memory(size: usize, sampling: SamplingKind) -> f64 {
    let kind = KINDS.iter().position(|kind| *kind == sampling).unwrap_or(0);
    let measure = || -> Option<f64> {
        let output = Command::new(std::env::current_exe().ok()?)
            .args(["memory", &kind.to_string(), &size.to_string()])
            .output()
            .ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    measure().unwrap_or(f64::NAN)
}

/// What the fresh process does: prints the difference of this process's memory.
fn measure_memory(kind: usize, size: usize) {
    let batches = batches();
    // A world of one has all that does not depend on the size.
    let alone = start(1, KINDS[kind], &batches);
    let before = resident();
    let world = start(size, KINDS[kind], &batches);
    println!("{:.3}", (resident() - before) / 1024.0);
    drop((alone, world));
}

fn batches() -> Vec<Batch> {
    random_batches(64, B, SIDE, CLASSES, &Device::flex())
}

/// A network: the time of a message of n bytes is α + β n.
struct Network {
    name: &'static str,
    /// Seconds per message.
    alpha: f64,
    /// Seconds per byte.
    beta: f64,
}

/// InfiniBand HDR: 200 Gb/s, of which about 23 GB/s reach a program, and about 1.5 µs between two
/// MPI programs. Ten-gigabit Ethernet: 1.15 GB/s, about 25 µs over TCP.
const NETWORKS: [Network; 2] = [
    Network { name: "InfiniBand HDR", alpha: 1.5e-6, beta: 1.0 / 23e9 },
    Network { name: "10 GbE", alpha: 25e-6, beta: 1.0 / 1.15e9 },
];
/// ResNet-50's parameters, in bytes of f32.
const GRADIENT_BYTES: f64 = 25.6e6 * 4.0;
const ROW_BYTES: f64 = 150.0 * 1024.0;
/// Words of 8 bytes that every rank tells the others in every step.
const HEADER_BYTES: f64 = 72.0;
/// Images per second that one accelerator trains ResNet-50 with; a fast one, so little time to hide
/// anything in.
const IMAGES_PER_SECOND: f64 = 800.0;
/// Bytes per second of copying rows in memory by one core.
const COPY_RATE: f64 = 10e9;

/// The engine's step: an all-gather by doubling, the plan, pushing r rows and receiving r, copying
/// c + 3 r rows in memory (store, pack, unpack, deliver). The gradients' step: a reduce-scatter and
/// an all-gather, each of which moves (N - 1)/N of the bytes. While a rank computes, its engine
/// works; while gradients travel, rows compete with them for the wire.
fn model(ranks: usize, plan: f64) {
    let n = ranks as f64;
    let computation = (B + R) as f64 / IMAGES_PER_SECOND;
    for Network { name, alpha, beta } in &NETWORKS {
        let gather = n.log2().ceil() * alpha + n * HEADER_BYTES * beta;
        let rows = R as f64 * (alpha + ROW_BYTES * beta);
        let copies = (C + 3 * R) as f64 * ROW_BYTES / COPY_RATE;
        let engine = gather + plan * 1e-6 + rows + copies;
        let gradients = 2.0 * n.log2().ceil() * alpha + 2.0 * (n - 1.0) / n * GRADIENT_BYTES * beta;
        let step = computation + gradients;
        let hidden = (step / engine).min(1.0);
        let wire = R as f64 * ROW_BYTES * beta / step;
        println!(
            "  {ranks:>5} ranks, {name:<14}: computation {:.1} ms, gradients {:.1} ms; engine {:.2} ms (headers {:.3}, plan {:.3}, rows {:.3}, copies {:.3}): \
             {:.0} % hidden, {:.1} × room; if no row could travel beside gradients or computation, +{:.2} %",
            computation * 1e3,
            gradients * 1e3,
            engine * 1e3,
            gather * 1e3,
            plan / 1e3,
            rows * 1e3,
            copies * 1e3,
            hidden * 100.0,
            step / engine,
            wire * 100.0
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, kind, size] = arguments.as_slice()
        && command == "memory"
    {
        return measure_memory(kind.parse().expect("a number"), size.parse().expect("a number"));
    }
    head(&format!(
        "scale: one real rank among mirrors, c = {C}, r = {R}, {SHARD} rows a shard, {CLASSES} classes; target for plan: {TARGET_US} µs at 1,024 ranks"
    ));
    let batches = batches();
    let mut planned = Vec::new();
    for sampling in KINDS {
        println!("\n{sampling:?}");
        for size in WORLDS {
            let plan = world(size, sampling, &batches);
            if sampling == SamplingKind::Uniform && [128, 1024].contains(&size) {
                planned.push((size, plan));
            }
        }
    }
    println!(
        "\nmodel: a step of ResNet-50, uniform sampling, b = {B}, rows of 150 KiB, {IMAGES_PER_SECOND} images/s a rank, plans as measured"
    );
    for (size, plan) in planned {
        model(size, plan);
    }
}
