//! How long does planning take in a world of thousands of ranks?
//!
//! One rank is real. The others mirror it: a [`Collective`] answers for them with the words of this
//! rank (the same fill, the same changes of class counts) and sends rows of zeros. The real code of
//! the engine therefore plans for the whole world in one thread. A model of the network then
//! estimates the effect on a training step.
#![allow(clippy::expect_used)]

use burn::tensor::Device;
use burn_rehearsal::{Execution, RehearsalBuffer, SamplingKind};
use burn_rehearsal_benches::{
    B, Batch, C, Figures, R, Target, config, median, micros, random_batches, resident_mib, timed,
};
use burn_rehearsal_collective::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const SIDE: usize = 8;
const CLASSES: usize = 1000;
const SHARD: usize = 500;
const WORLDS: [usize; 7] = [2, 8, 32, 128, 512, 1024, 4096];
/// The world for which there is a target, in microseconds, and whose memory is measured.
const LARGE: usize = 1024;
const TARGET: f64 = 200.0;
const KINDS: [(SamplingKind, &str); 3] = [
    (SamplingKind::Uniform, "uniform"),
    (SamplingKind::ExcludeCurrent, "exclude current"),
    (SamplingKind::ClassBalanced, "class-balanced"),
];
/// The time for which each world is measured.
const TIME: Duration = Duration::from_millis(400);

/// The traffic that a network would have carried.
#[derive(Default)]
struct Traffic {
    messages: AtomicU64,
    bytes: AtomicU64,
    gathered: AtomicU64,
}

impl Traffic {
    /// Sent messages, sent bytes of rows, and received bytes of headers.
    fn read(&self) -> [f64; 3] {
        [&self.messages, &self.bytes, &self.gathered]
            .map(|counter| counter.load(Ordering::Relaxed) as f64)
    }
}

/// Rank 0 of a world whose other ranks do the same as this one.
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

/// The real rank of a world, with a full shard.
fn start(
    size: usize,
    sampling: SamplingKind,
    batches: &[Batch],
) -> (RehearsalBuffer<Batch>, Arc<Traffic>) {
    let traffic = Arc::new(Traffic::default());
    let config =
        config(SHARD * size, Execution::Inline).with_sampling(sampling).with_classes(Some(CLASSES));
    let mirrors = Mirrors { size, traffic: traffic.clone() };
    let buffer = RehearsalBuffer::new(&config, Box::new(mirrors)).expect("a buffer");
    (0..2 * SHARD / C).for_each(|at| step(&buffer, batches, at));
    (buffer, traffic)
}

fn step(buffer: &RehearsalBuffer<Batch>, batches: &[Batch], at: usize) {
    drop(buffer.rehearse(batches[at % batches.len()].clone()).expect("a step"));
}

/// The time in microseconds to plan a step in a world, and other figures in words.
fn plan(size: usize, sampling: SamplingKind, batches: &[Batch]) -> (f64, String) {
    let (buffer, traffic) = start(size, sampling, batches);
    let (mut plans, mut gathers, mut sent) = (Vec::new(), Vec::new(), [0.0; 3]);
    let started = Instant::now();
    while started.elapsed() < TIME || plans.len() < 20 {
        if plans.len() % 10 == 0 {
            // Without new tasks, the rows of earlier tasks would soon be gone.
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
    let details = format!(
        "headers {:.1} µs; sends {messages:.1} messages with {:.1} rows; receives {:.1} KiB of headers",
        median(gathers),
        bytes / (3 * SIDE * SIDE + 8 + 8) as f64,
        gathered / 1024.0,
    );
    (median(plans), details)
}

/// The memory in MiB that a world adds to a fresh process, or NaN if that is unknown.
fn memory(size: usize, kind: usize) -> f64 {
    let measure = || -> Option<f64> {
        let output = Command::new(std::env::current_exe().ok()?)
            .args(["memory", &kind.to_string(), &size.to_string()])
            .output()
            .ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    measure().unwrap_or(f64::NAN)
}

/// Runs in the fresh process and prints by how much its memory grows.
fn measure_memory(kind: usize, size: usize) {
    let batches = batches();
    // A world of one rank has everything that does not depend on the size.
    let alone = start(1, KINDS[kind].0, &batches);
    let before = resident_mib();
    let world = start(size, KINDS[kind].0, &batches);
    println!("{:.3}", resident_mib().zip(before).map_or(f64::NAN, |(now, before)| now - before));
    drop((alone, world));
}

fn batches() -> Vec<Batch> {
    random_batches(64, B, SIDE, CLASSES, &Device::flex())
}

/// A network, on which a message of n bytes takes α + β n.
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
/// The size of ResNet-50's parameters in `f32`.
const GRADIENT_BYTES: f64 = 25.6e6 * 4.0;
const ROW_BYTES: f64 = 150.0 * 1024.0;
/// The header that every rank sends to all others in a step.
const HEADER_BYTES: f64 = 96.0;
/// Images of ResNet-50 per second on one accelerator. A fast accelerator leaves little time in
/// which the engine's work can be hidden.
const IMAGES_PER_SECOND: f64 = 800.0;
/// Bytes per second that one core copies from row to row.
const COPY_RATE: f64 = 10e9;

/// Prints a comparison of a training step with a step of the engine.
///
/// The engine's step is an all-gather by doubling, the plan, sending r rows and receiving r, and
/// copying c + 3 r rows in memory (store, pack, unpack, deliver). The gradients need a
/// reduce-scatter and an all-gather, each of which moves (N - 1)/N of the bytes. The engine works
/// while its rank computes; rows and gradients share the wire.
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
            "  {ranks:>5} ranks, {name:<14}: computation {:.1} ms, gradients {:.1} ms; \
             engine {:.2} ms (headers {:.3}, plan {:.3}, rows {:.3}, copies {:.3}): \
             {:.0} % hidden, {:.1} × room; if no row could travel next to gradients, +{:.2} %",
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
    let mut figures = Figures::new(
        "scale",
        "how long does planning take in a world of thousands of ranks?",
        &format!(
            "one real rank among mirrors, c = {C}, r = {R}, {SHARD} rows per shard, {CLASSES} classes"
        ),
    );
    let batches = batches();
    let mut modeled = Vec::new();
    for (at, (sampling, name)) in KINDS.into_iter().enumerate() {
        for size in WORLDS {
            let (plan, details) = plan(size, sampling, &batches);
            let target = (size == LARGE).then_some(Target::AtMost(TARGET));
            figures.add(name, &format!("plan, {size} ranks"), plan, "µs", target);
            println!("    {details}");
            if sampling == SamplingKind::Uniform && [128, LARGE].contains(&size) {
                modeled.push((size, plan));
            }
        }
        figures.add(name, &format!("memory, {LARGE} ranks"), memory(LARGE, at), "MiB", None);
    }
    println!(
        "\nmodel: a step of ResNet-50 with uniform sampling, b = {B}, rows of 150 KiB, \
         {IMAGES_PER_SECOND} images/s per rank, and the measured plans"
    );
    modeled.into_iter().for_each(|(size, plan)| model(size, plan));
    figures.write();
}
