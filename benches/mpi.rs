//! What do the operations cost over MPI, compared with bare MPI calls?
//!
//! The benchmark starts itself under `mpirun`, once per variant and turn, because a process can
//! either be a rank of the library or make MPI calls of its own. The variants alternate, so that a
//! drift of the machine's speed favors none.
//!
//! Each process measures the median of its steps. Figures are medians over the turns of rank 0, and
//! ratios are medians of the ratios within a turn. With more ranks than cores, elapsed time is
//! mostly waiting for a core, and ratios are those of processor time.
#![allow(clippy::expect_used)]
#![allow(unsafe_code, reason = "the bare calls are those of a C library")]

use std::convert::Infallible;
use std::ffi::{c_int, c_void};
use std::fs;
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{Execution, RehearsalBatch, RehearsalBuffer};
use burn_rehearsal_benches::{C, Figures, R, Series, Target, config, interleave, median, micros};
use burn_rehearsal_collective::launch::Launch;
use burn_rehearsal_collective::{Collective, Mpi, MpiOptions, ReduceOp, Reduction, run_mpi};
use burn_rehearsal_testing::mpirun;
use mpi::ffi;

const TURNS: usize = 3;
/// Rows in a shard.
const SHARD: usize = 300;
/// The header that the engine sends to all ranks in a step, in bytes.
const HEADER: usize = 96;

/// Measured steps of a variant.
fn steps(row: usize) -> usize {
    (30_000_000 / row).clamp(150, 3000)
}

/// Measured all-reduces of a variant.
const REDUCTIONS: usize = 5;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [variant, size] if Launch::detect().is_some() => {
            rank(variant, size.parse().expect("a number"));
        }
        _ => compare(),
    }
}

/// Microseconds of a step.
#[derive(Clone, Copy)]
struct Cost {
    elapsed: f64,
    /// Processor time of all threads of rank 0.
    processor: f64,
}

/// Runs all variants and records the comparisons.
fn compare() {
    let mut figures = Figures::new(
        "mpi",
        "what do the operations cost over MPI, compared with bare MPI calls?",
        &format!("store {C} rows, draw {R}; processes on one machine, {TURNS} turns"),
    );
    for ranks in [2, 4] {
        for row in [3 << 10, 12 << 10, 150 << 10] {
            let case = format!("step, rows of {} KiB", row >> 10);
            let variants = ["engine", "engine-messages", "calls", "calls-and-copies"];
            let series = measured(ranks, row, &variants);
            let target = Some(Target::AtMost(1.3));
            record(&mut figures, &case, ranks, &series, ["engine", "calls-and-copies"], target);
        }
        for values in [11_000_000, 25_000_000] {
            let series = measured(ranks, values, &["fixed-order", "fast", "MPI_Allreduce"]);
            for ours in ["fixed-order", "fast"] {
                let order = ours.replace('-', " ");
                let case = format!("all-reduce, {} M f32, {order}", values / 1_000_000);
                let target = Some(Target::AtMost(1.05));
                record(&mut figures, &case, ranks, &series, [ours, "MPI_Allreduce"], target);
            }
        }
    }
    figures.write();
}

/// The elapsed time of each variant, and its processor time.
fn measured(ranks: usize, size: usize, variants: &[&str]) -> [Series; 2] {
    let mut series = [Series::default(), Series::default()];
    interleave(TURNS, variants, |variant| {
        let cost = launch(ranks, variant, size);
        series[0].add(*variant, cost.elapsed);
        series[1].add(*variant, cost.processor);
    });
    println!("\n{ranks} ranks: µs elapsed, µs of processor time");
    for variant in variants {
        let [elapsed, processor] = [0, 1].map(|at: usize| series[at].median(variant));
        println!("  {variant:<24} {elapsed:>10.1} {processor:>10.1}");
    }
    series
}

/// Records the elapsed time of a variant and its ratio to the bare calls.
fn record(
    figures: &mut Figures,
    case: &str,
    ranks: usize,
    [elapsed, processor]: &[Series; 2],
    [ours, bare]: [&str; 2],
    target: Option<Target>,
) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let time = if ranks > cores { processor } else { elapsed };
    figures.add(case, &format!("{ranks} ranks"), elapsed.median(ours), "µs", None);
    let quantity = format!("{ranks} ranks / bare calls");
    figures.add(case, &quantity, time.ratio(ours, bare), "×", target);
}

/// Runs one variant on `ranks` processes.
fn launch(ranks: usize, variant: &str, size: usize) -> Cost {
    let mut command = mpirun(ranks, std::env::current_exe().expect("a path"));
    let output = command.args([variant, &size.to_string()]).output().expect("mpirun is installed");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> =
        stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(
        output.status.success() && numbers.len() == 2,
        "{variant}: {}{stdout}",
        String::from_utf8_lossy(&output.stderr)
    );
    Cost { elapsed: numbers[0], processor: numbers[1] }
}

/// Runs one process of a variant, which prints its cost if it is rank 0.
fn rank(variant: &str, size: usize) {
    let options = MpiOptions {
        reduction: if variant == "fast" { Reduction::Fast } else { Reduction::FixedOrder },
        ..MpiOptions::default()
    };
    let ours = |work: fn(Mpi, usize) -> Option<Cost>| {
        run_mpi(&options, |ranks| Ok::<_, Infallible>(work(ranks, size))).expect("a run")
    };
    let cost = match variant {
        "engine" => ours(|ranks, row| engine(ranks, row, false)),
        "engine-messages" => ours(|ranks, row| engine(ranks, row, true)),
        "fixed-order" | "fast" => ours(all_reduce),
        "calls-and-copies" => bare(|world| world.step(size, true)),
        "calls" => bare(|world| world.step(size, false)),
        _ => bare(|world| world.all_reduce(size)),
    };
    if let Some(Cost { elapsed, processor }) = cost {
        println!("{elapsed} {processor}");
    }
}

/// The median of the times that `work` returns, and the mean processor time of all threads of this
/// process.
fn measure(rounds: usize, mut work: impl FnMut(usize) -> Duration) -> Cost {
    let warm_up = rounds / 5 + 1;
    for round in 0..warm_up {
        work(round);
    }
    let before = processor_time();
    let times = (0..rounds).map(|round| micros(work(warm_up + round))).collect();
    Cost { elapsed: median(times), processor: (processor_time() - before) / rounds as f64 }
}

/// The processor time of all threads of this process in microseconds, or 0 if it is unknown.
fn processor_time() -> f64 {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let run = |text: String| {
        text.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok())
    };
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok().and_then(run))
        .sum::<f64>()
        / 1e3
}

/// A mini-batch of bytes.
#[derive(Debug, Clone, RehearsalBatch)]
struct Rows {
    /// `[rows, bytes]`
    #[rehearsal(bytes)]
    bytes: Tensor<2, Int>,
}

/// A step of the engine, or only its messages.
fn engine(ranks: Mpi, row: usize, messages_only: bool) -> Option<Cost> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let config = config(SHARD * size, Execution::Inline);
    let buffer: RehearsalBuffer<Rows> =
        RehearsalBuffer::new(&config, Box::new(ranks)).expect("a buffer");
    let device = Device::flex();
    let bytes = vec![rank as u8; C * row];
    let batch =
        Rows { bytes: Tensor::from_data(TensorData::new(bytes, [C, row]), (&device, DType::U8)) };
    (0..=SHARD / C).for_each(|_| drop(buffer.rehearse(batch.clone()).expect("a step")));
    let so_far = || {
        let timings = buffer.timings();
        if messages_only {
            timings.exchange
        } else {
            timings.insert + timings.plan + timings.exchange + timings.deliver
        }
    };
    let cost = measure(steps(row), |_| {
        let before = so_far();
        buffer.rehearse(batch.clone()).expect("a step");
        so_far() - before
    });
    (rank == 0).then_some(cost)
}

fn all_reduce(mut ranks: Mpi, values: usize) -> Option<Cost> {
    let mut data = vec![1.0; values];
    let cost = measure(REDUCTIONS, |_| {
        ranks.barrier().expect("all ranks");
        let started = Instant::now();
        ranks.all_reduce(&mut data, ReduceOp::Mean).expect("a mean");
        started.elapsed()
    });
    (ranks.rank() == 0).then_some(cost)
}

/// A process that makes MPI calls of its own.
struct Bare {
    rank: usize,
    size: usize,
}

fn bare(work: impl FnOnce(&Bare) -> Cost) -> Option<Cost> {
    let universe = mpi::initialize().expect("MPI");
    let (mut rank, mut size) = (0, 0);
    // SAFETY: MPI is initialized, and both integers are writable.
    unsafe {
        ffi::MPI_Comm_rank(ffi::RSMPI_COMM_WORLD, &mut rank);
        ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &mut size);
    }
    let cost = work(&Bare { rank: rank as usize, size: size as usize });
    drop(universe);
    (rank == 0).then_some(cost)
}

impl Bare {
    /// The number of rows that each rank draws from each other rank in a step. The draws are
    /// random, and every rank knows them without a message.
    fn draws(&self, step: usize) -> Vec<Vec<usize>> {
        let of = |rank: usize| {
            let mut random = Stream::new(1, Purpose::Draw, step as u64, rank as u32);
            let mut rows = vec![0; self.size];
            (0..R).for_each(|_| rows[random.below(self.size as u64) as usize] += 1);
            rows
        };
        (0..self.size).map(of).collect()
    }

    /// A small all-gather, then an exchange of the drawn rows. With `copies`, rows are also copied
    /// into and out of a store.
    fn step(&self, row: usize, copies: bool) -> Cost {
        let (header, mut headers) = ([0_u8; HEADER], vec![0_u8; HEADER * self.size]);
        let (incoming, mut store, mut result) =
            (vec![1_u8; C * row], vec![0_u8; SHARD * row], vec![0_u8; R * row]);
        let buffers = || vec![vec![0_u8; R * row]; self.size];
        let (mut outgoing, mut received) = (buffers(), buffers());
        let mut augmented = vec![0_u8; (C + R) * row];
        let mut requests = Vec::new();
        measure(steps(row), |step| {
            // The library also appends the drawn rows between two steps, where it is not timed.
            let (came, drawn) = augmented.split_at_mut(C * row);
            came.copy_from_slice(&incoming);
            drawn.copy_from_slice(&result);
            let draws = self.draws(step);
            let started = Instant::now();
            if copies {
                let at = step % (SHARD / C) * C * row;
                store[at..at + C * row].copy_from_slice(&incoming);
            }
            // SAFETY: `header` holds `HEADER` bytes, and `headers` holds as many for each rank.
            unsafe {
                let (byte, world) = (ffi::RSMPI_UINT8_T, ffi::RSMPI_COMM_WORLD);
                let (from, to) =
                    (header.as_ptr().cast::<c_void>(), headers.as_mut_ptr().cast::<c_void>());
                ffi::MPI_Allgather(from, HEADER as c_int, byte, to, HEADER as c_int, byte, world);
            }
            requests.clear();
            for peer in (0..self.size).filter(|peer| *peer != self.rank) {
                let (to_us, to_them) = (draws[self.rank][peer] * row, draws[peer][self.rank] * row);
                if copies {
                    for (at, message) in outgoing[peer][..to_them].chunks_exact_mut(row).enumerate()
                    {
                        let slot = (step + 31 * at) % SHARD;
                        message.copy_from_slice(&store[slot * row..][..row]);
                    }
                }
                // SAFETY: both buffers are at least as long as their messages, and nothing else
                // uses them until all requests are complete.
                unsafe {
                    let (byte, world) = (ffi::RSMPI_UINT8_T, ffi::RSMPI_COMM_WORLD);
                    let mut request = ffi::RSMPI_REQUEST_NULL;
                    let to = received[peer].as_mut_ptr().cast::<c_void>();
                    ffi::MPI_Irecv(to, to_us as c_int, byte, peer as c_int, 0, world, &mut request);
                    requests.push(request);
                    let from = outgoing[peer].as_ptr().cast::<c_void>();
                    ffi::MPI_Isend(
                        from,
                        to_them as c_int,
                        byte,
                        peer as c_int,
                        0,
                        world,
                        &mut request,
                    );
                    requests.push(request);
                }
            }
            // SAFETY: `requests` holds that many requests, and their statuses are ignored.
            unsafe {
                ffi::MPI_Waitall(
                    requests.len() as c_int,
                    requests.as_mut_ptr(),
                    ffi::RSMPI_STATUSES_IGNORE,
                )
            };
            if copies {
                let mut rows = result.chunks_exact_mut(row);
                for peer in 0..self.size {
                    for at in 0..draws[self.rank][peer] {
                        let own = (step + 17 * at) % SHARD;
                        let source = if peer == self.rank {
                            &store[own * row..][..row]
                        } else {
                            &received[peer][at * row..][..row]
                        };
                        rows.next().into_iter().for_each(|row| row.copy_from_slice(source));
                    }
                }
            }
            started.elapsed()
        })
    }

    /// MPI's blocking sum.
    fn all_reduce(&self, values: usize) -> Cost {
        let (data, mut sums) = (vec![1.0_f32; values], vec![0.0_f32; values]);
        measure(REDUCTIONS, |_| {
            // SAFETY: the communicator is that of all ranks.
            unsafe { ffi::MPI_Barrier(ffi::RSMPI_COMM_WORLD) };
            let started = Instant::now();
            // SAFETY: both buffers hold that many values and do not overlap.
            unsafe {
                let (from, to) =
                    (data.as_ptr().cast::<c_void>(), sums.as_mut_ptr().cast::<c_void>());
                ffi::MPI_Allreduce(
                    from,
                    to,
                    values as c_int,
                    ffi::RSMPI_FLOAT,
                    ffi::RSMPI_SUM,
                    ffi::RSMPI_COMM_WORLD,
                );
            }
            started.elapsed()
        })
    }
}
