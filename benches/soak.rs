//! A long life: do memory and the time of a step stay what they are over a million steps and a
//! thousand tasks?
//!
//! `soak [STEPS [RANKS]]`: three buffers one after the other, each with another policy and another
//! rule of sampling, on thread ranks whose engines work in the background. Every task brings two of
//! 100 classes, and samples come again after a while. The memory at the end is compared with that
//! after the first tenth, when all classes have been seen. Then a young buffer takes turns with the
//! old one, task by task, over the same mini-batches: how much longer does a step of the old one
//! take, in processor time of the whole process? A comparison with the beginning would also measure
//! how the machine's speed has changed meanwhile.
#![allow(clippy::expect_used, reason = "a step that fails ends the soak")]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::{
    Capacity, OnRepeat, PolicyKind, RehearsalBatch, RehearsalBuffer, RehearsalConfig, SamplingKind,
};
use burn_rehearsal_benches::{Cpu, head, median, micros, ratio, verdict};
use burn_rehearsal_collective::{Collective, run_threads};
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

const TASKS: usize = 1000;
/// The young buffer's tasks until it is full and has seen all classes, and those of the comparison.
const YOUTH: usize = 50;
const COMPARED: usize = 100;
const B: usize = 16;
const C: usize = 4;
const R: usize = 4;
const SIDE: usize = 8;
const CAPACITY: usize = 4000;
const CLASSES: usize = 100;
/// After so many samples of a rank the first comes again.
const SAMPLES: usize = 50_000;
/// How much more a step of the old buffer may take than one of the young.
const SLOWER: f64 = 1.10;
/// How much the memory of the process may grow, in MiB: less than three bytes a step.
const GROWTH: f64 = 2.0;

#[derive(RehearsalBatch, Clone, Debug)]
struct Batch {
    #[rehearsal(bytes)]
    images: Tensor<4, Int>,
    #[rehearsal(class)]
    targets: Tensor<1, Int>,
    #[rehearsal(id)]
    ids: Tensor<1, Int>,
}

/// The mini-batch of one step: bytes that follow from the step, two classes that follow from the
/// task.
fn batch(images: &Tensor<4, Int>, rank: usize, task: usize, step: usize, device: &Device) -> Batch {
    let ints = |value: &dyn Fn(usize) -> usize| {
        let values: Vec<i64> = (0..B).map(|row| value(row) as i64).collect();
        Tensor::from_data(TensorData::new(values, [B]), (device, DType::I64))
    };
    Batch {
        images: images.clone(),
        targets: ints(&|row| (2 * task + row % 2) % CLASSES),
        ids: ints(&|row| rank * SAMPLES + (step * B + row) % SAMPLES),
    }
}

/// What was measured after a task.
struct Mark {
    /// Processor time of the process per step, in µs.
    cpu: f64,
    /// By the clock on the wall, per step, in µs.
    wall: f64,
    /// Memory of the process, in MiB.
    resident: Option<f64>,
}

/// The process's memory in MiB, where the system tells.
fn resident() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib: f64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .ok()?;
    Some(kib / 1024.0)
}

fn process_time() -> f64 {
    let Cpu { mine, others } = Cpu::now();
    mine + others
}

/// One rank of a buffer, and what it is fed.
struct Rank {
    buffer: RehearsalBuffer<Batch>,
    rank: usize,
    pool: Vec<Tensor<4, Int>>,
    per_task: usize,
}

impl Rank {
    fn new(config: &RehearsalConfig, ranks: Box<dyn Collective>, per_task: usize) -> Self {
        let rank = ranks.rank();
        let pool = (0..16).map(|seed| {
            let bytes: Vec<u8> =
                (0..B * 3 * SIDE * SIDE).map(|at| (at * 31 + seed * 7 + rank) as u8).collect();
            Tensor::from_data(
                TensorData::new(bytes, [B, 3, SIDE, SIDE]),
                (&Device::flex(), DType::U8),
            )
        });
        Self {
            rank,
            pool: pool.collect(),
            per_task,
            buffer: RehearsalBuffer::new(config, ranks).expect("a buffer"),
        }
    }

    /// Lives through one task.
    fn task(&self, task: usize) -> Mark {
        let (cpu, wall) = (process_time(), Instant::now());
        self.buffer.begin_task(task).expect("a task");
        for step in task * self.per_task..(task + 1) * self.per_task {
            let incoming =
                batch(&self.pool[step % self.pool.len()], self.rank, task, step, &Device::flex());
            black_box(self.buffer.rehearse(incoming).expect("a step"));
        }
        let per_step = |time: f64| time / self.per_task as f64;
        Mark {
            cpu: per_step(process_time() - cpu),
            wall: per_step(micros(wall.elapsed())),
            resident: resident(),
        }
    }

    /// Its shard must be full.
    fn end(self) {
        let report = self.buffer.report().expect("a report");
        assert_eq!((report.len, report.capacity), (CAPACITY, CAPACITY), "the buffer is full");
    }
}

/// What one rank measured.
struct Life {
    /// After each of the [`TASKS`].
    alone: Vec<Mark>,
    /// The old buffer and the young one, in the same task.
    compared: Vec<[Mark; 2]>,
}

fn live(config: &RehearsalConfig, mut ranks: Box<dyn Collective>, per_task: usize) -> Life {
    let others = ranks.duplicate().expect("another group of the same ranks");
    let old = Rank::new(config, ranks, per_task);
    let alone = (0..TASKS).map(|task| old.task(task)).collect();
    let young = Rank::new(config, others, per_task);
    let mut compared: Vec<[Mark; 2]> =
        (TASKS..TASKS + YOUTH + COMPARED).map(|task| [old.task(task), young.task(task)]).collect();
    old.end();
    young.end();
    compared.drain(..YOUTH);
    Life { alone, compared }
}

/// The largest memory after any of these tasks, if the system tells.
fn most(marks: &[Mark]) -> Option<f64> {
    marks.iter().filter_map(|mark| mark.resident).reduce(f64::max)
}

fn soak(name: &str, config: &RehearsalConfig, ranks: usize, per_task: usize) -> bool {
    let lives = run_threads(ranks, |threads| {
        Ok::<_, std::convert::Infallible>(live(config, Box::new(threads), per_task))
    });
    let Some(Ok(Life { alone, compared })) = lives.into_iter().next() else { return false };
    println!(
        "\n{name}: {ranks} ranks, {} steps each, {TASKS} tasks, then {} tasks beside a young buffer",
        TASKS * per_task,
        YOUTH + COMPARED
    );
    let of = |which: usize, time: fn(&Mark) -> f64| {
        compared.iter().map(|marks| time(&marks[which])).collect::<Vec<f64>>()
    };
    let (old, young) = (of(0, |mark| mark.cpu), of(1, |mark| mark.cpu));
    let slower = ratio(&old, &young);
    println!(
        "  processor time per step, old and young: {:.1} and {:.1} µs, ratio {slower:.3} (at most {SLOWER}): {}",
        median(old),
        median(young),
        verdict(slower <= SLOWER)
    );
    println!(
        "  by the clock: {:.1} and {:.1} µs",
        median(of(0, |mark| mark.wall)),
        median(of(1, |mark| mark.wall))
    );
    let tenth = TASKS / 10;
    let (first, last) = (&alone[..tenth], &alone[TASKS - tenth..]);
    let time = |marks: &[Mark]| median(marks.iter().map(|mark| mark.cpu).collect());
    println!(
        "  processor time per step, first and last tenth: {:.1} and {:.1} µs",
        time(first),
        time(last)
    );
    let grown = match (most(&first[tenth - 1..]), most(last)) {
        (Some(then), Some(now)) => {
            println!(
                "  memory: {then:.1} MiB after the first tenth, {now:.1} MiB in the last (at most {GROWTH} more): {}",
                verdict(now - then <= GROWTH)
            );
            now - then
        }
        _ => {
            println!("  memory: this system does not tell");
            0.0
        }
    };
    slower <= SLOWER && grown <= GROWTH
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let mut number = |default: usize| arguments.next().unwrap_or(Ok(default));
    let (Ok(steps), Ok(ranks)) = (number(1_000_000), number(2)) else {
        eprintln!("usage: soak [STEPS [RANKS]]");
        return ExitCode::FAILURE;
    };
    if steps * C * YOUTH / TASKS < CAPACITY {
        eprintln!(
            "soak: a young buffer is not full after {YOUTH} of {TASKS} tasks; at least {} steps are needed",
            CAPACITY * TASKS / C / YOUTH
        );
        return ExitCode::FAILURE;
    }
    head(&format!(
        "soak: b = {B}, c = {C}, r = {R}, |B| = {CAPACITY}, rows of {} bytes, {CLASSES} classes",
        3 * SIDE * SIDE
    ));
    let base = RehearsalConfig::new(Capacity::Samples(CAPACITY))
        .with_candidates(C)
        .with_representatives(R);
    let buffers = [
        ("class-balanced, uniform sampling", base.clone()),
        (
            "reservoir, class-balanced sampling, samples stored once",
            base.clone()
                .with_policy(PolicyKind::Reservoir)
                .with_sampling(SamplingKind::ClassBalanced)
                .with_on_repeat(OnRepeat::SkipIfStored),
        ),
        (
            "first in, first out, sampling without the current task",
            base.with_policy(PolicyKind::Fifo).with_sampling(SamplingKind::ExcludeCurrent),
        ),
    ];
    // All of them, also when the first grows.
    let flat =
        buffers.iter().filter(|(name, config)| soak(name, config, ranks, steps / TASKS)).count();
    if flat == buffers.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
