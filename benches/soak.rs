//! Does a buffer grow or slow down over a million steps and a thousand tasks?
//!
//! `soak [STEPS [RANKS]]` runs three buffers one after the other, each with another policy and
//! another sampling rule, on thread ranks with background engines. Every task brings two of 100
//! classes, and samples recur after a while.
//!
//! The memory at the end is compared with that after the first tenth, when all classes have been
//! seen. Then a young buffer and the old one alternate, task by task, over the same mini-batches,
//! and their processor time per step is compared. A comparison with the first steps would also
//! measure how the machine's speed has changed meanwhile.
#![allow(clippy::expect_used, reason = "a step that fails ends the soak")]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::{
    Capacity, OnRepeat, PolicyKind, RehearsalBatch, RehearsalBuffer, RehearsalConfig, SamplingKind,
};
use burn_rehearsal_benches::{Cpu, Figures, Series, Target, median, micros, resident_mib};
use burn_rehearsal_collective::{Collective, run_threads};
use std::convert::Infallible;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

const TASKS: usize = 1000;
/// Tasks after which the young buffer is full and has seen all classes.
const YOUTH: usize = 50;
/// Tasks in which the buffers are compared.
const COMPARED: usize = 100;
const B: usize = 16;
const C: usize = 4;
const R: usize = 4;
const SIDE: usize = 8;
const CAPACITY: usize = 4000;
const CLASSES: usize = 100;
/// The number of different samples of a rank.
const SAMPLES: usize = 50_000;
/// The largest allowed ratio of the processor time of a step: old buffer to young buffer.
const SLOWER: f64 = 1.10;
/// The largest allowed growth of the process's memory, in MiB. It is less than three bytes per
/// step.
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

/// The mini-batch of a step: the task determines its two classes, the step its identifiers.
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

/// The measurements of a task.
struct Mark {
    /// Processor time of the process per step, in µs.
    cpu: f64,
    /// Elapsed time per step, in µs.
    wall: f64,
    /// Memory of the process after the task, in MiB.
    resident: Option<f64>,
}

fn process_time() -> f64 {
    let Cpu { mine, others } = Cpu::now();
    mine + others
}

/// One rank of a buffer, and its mini-batches.
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

    /// Runs the steps of a task.
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
            resident: resident_mib(),
        }
    }

    /// Checks that the buffer is full.
    fn end(self) {
        let report = self.buffer.report().expect("a report");
        assert_eq!((report.len, report.capacity), (CAPACITY, CAPACITY), "the buffer is full");
    }
}

/// The measurements of one rank.
struct Life {
    /// The old buffer alone, in each of the [`TASKS`].
    alone: Vec<Mark>,
    /// The old and the young buffer in the same task.
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

/// The largest memory after any of these tasks, or NaN if it is unknown.
fn most_memory(marks: &[Mark]) -> f64 {
    marks.iter().filter_map(|mark| mark.resident).fold(f64::NAN, f64::max)
}

fn soak(
    figures: &mut Figures,
    name: &str,
    config: &RehearsalConfig,
    ranks: usize,
    per_task: usize,
) {
    let lives = run_threads(ranks, |threads| {
        Ok::<_, Infallible>(live(config, Box::new(threads), per_task))
    });
    let life = lives.into_iter().next().expect("at least one rank");
    let Life { alone, compared } = life.expect("a rank");
    let mut series = Series::default();
    for [old, young] in &compared {
        series.add("old", old.cpu);
        series.add("young", young.cpu);
        series.add("old, elapsed", old.wall);
        series.add("young, elapsed", young.wall);
    }
    let tenth = TASKS / 10;
    let (first, last) = (&alone[..tenth], &alone[TASKS - tenth..]);
    let time = |marks: &[Mark]| median(marks.iter().map(|mark| mark.cpu).collect());
    figures.add(name, "processor time per step", series.median("old"), "µs", None);
    let slower = Some(Target::AtMost(SLOWER));
    figures.add(name, "old / young buffer", series.ratio("old", "young"), "×", slower);
    let before = most_memory(&first[tenth - 1..]);
    let growth = Some(Target::AtMost(GROWTH));
    figures.add(name, "memory growth", most_memory(last) - before, "MiB", growth);
    println!(
        "  processor time per step, young buffer {:.1} µs; old buffer alone, first tenth {:.1} µs, last tenth {:.1} µs",
        series.median("young"),
        time(first),
        time(last)
    );
    println!(
        "  elapsed time per step, old buffer {:.1} µs, young buffer {:.1} µs; memory {before:.1} MiB",
        series.median("old, elapsed"),
        series.median("young, elapsed")
    );
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
            "soak: {steps} steps do not fill a young buffer in {YOUTH} of {TASKS} tasks; use at least {}",
            CAPACITY * TASKS / C / YOUTH
        );
        return ExitCode::FAILURE;
    }
    let mut figures = Figures::new(
        "soak",
        "does a buffer grow or slow down over a million steps?",
        &format!(
            "b = {B}, c = {C}, r = {R}, |B| = {CAPACITY}, rows of {} bytes, {CLASSES} classes, \
             {ranks} ranks, {steps} steps in {TASKS} tasks, then {} tasks next to a young buffer",
            3 * SIDE * SIDE,
            YOUTH + COMPARED
        ),
    );
    let base = RehearsalConfig::new(Capacity::Samples(CAPACITY))
        .with_candidates(C)
        .with_representatives(R);
    let buffers = [
        ("class-balanced, uniform sampling", base.clone()),
        (
            "reservoir, class-balanced sampling, each sample once",
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
    for (name, config) in &buffers {
        soak(&mut figures, name, config, ranks, steps / TASKS);
    }
    let met = figures.all_met();
    figures.write();
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
