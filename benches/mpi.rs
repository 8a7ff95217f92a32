//! What do our operations cost over MPI, compared with the bare calls that move the same bytes?
//!
//! Started by hand, the program runs itself under `mpirun`, again and again: each turn does every
//! variant once, so that a drift of the machine favours none. A variant is one `mpirun`, since a
//! process can be a rank of ours or make MPI calls of its own, not both. Printed are medians over
//! the turns of rank 0's median, and medians of the ratios within a turn.
#![allow(clippy::expect_used)]
#![allow(unsafe_code, reason = "the bare calls are those of a C library")]

use std::convert::Infallible;
use std::ffi::{c_int, c_void};
use std::fs;
use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{
    Capacity, Execution, PolicyKind, RehearsalBatch, RehearsalBuffer, RehearsalConfig,
};
use burn_rehearsal_benches::median;
use burn_rehearsal_collective::launch::Launch;
use burn_rehearsal_collective::{Collective, Mpi, MpiOptions, ReduceOp, Reduction, run_mpi};
use burn_rehearsal_testing::mpirun;
use mpi::ffi;

const TURNS: usize = 3;
/// Rows that each rank stores and draws in a step.
const INSERT: usize = 14;
const DRAW: usize = 7;
/// Rows of a shard.
const SHARD: usize = 300;
/// What the engine tells all ranks in a step, in bytes.
const HEADER: usize = 72;

/// Steps of one variant after warming up.
fn steps(row: usize) -> usize {
    (30_000_000 / row).clamp(150, 3000)
}

/// All-reduces of one variant after warming up.
const REDUCTIONS: usize = 5;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [variant, size] if Launch::detect().is_some() => {
            rank(variant, size.parse().expect("a number"))
        }
        _ => compare(),
    }
}

/// Microseconds of one step: by the clock, and of processor time of rank 0.
#[derive(Clone, Copy)]
struct Cost {
    clock: f64,
    processor: f64,
}

/// Runs all variants in turn and prints the comparisons.
fn compare() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "mpi, {TURNS} turns, {cores} cores, load {}",
        fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    for ranks in [2, 4] {
        println!("{ranks} ranks");
        if ranks > cores {
            println!(
                "  more ranks than cores: time by the clock is mostly that of waiting for a core; compare processor time"
            );
        }
        for row in [3 << 10, 12 << 10, 150 << 10] {
            let title = format!("store {INSERT}, draw {DRAW} rows of {} KiB", row >> 10);
            table(ranks, &title, row, &["engine", "engine-messages", "bare-copies", "bare"]);
        }
        for values in [11_000_000, 25_000_000] {
            let title = format!("all-reduce of {} M f32", values / 1_000_000);
            table(ranks, &title, values, &["fixed", "fast", "bare-reduce"]);
        }
    }
}

/// Compares variants with the last of them.
fn table(ranks: usize, title: &str, size: usize, variants: &[&str]) {
    let mut costs = vec![Vec::new(); variants.len()];
    for turn in 0..TURNS {
        for at in 0..variants.len() {
            let at = if turn % 2 == 0 { at } else { variants.len() - 1 - at };
            costs[at].push(launch(ranks, variants[at], size));
        }
    }
    println!("  {title}");
    let reference = costs[variants.len() - 1].clone();
    for (variant, costs) in variants.iter().zip(&costs) {
        let of = |value: fn(&Cost) -> f64| median(costs.iter().map(value).collect());
        let ratio = |value: fn(&Cost) -> f64| {
            median(
                costs
                    .iter()
                    .zip(&reference)
                    .map(|(ours, bare)| value(ours) / value(bare))
                    .collect(),
            )
        };
        println!(
            "    {variant:<16} {:>10.1} µs, {:>5.2} x bare; processor {:>10.1} µs, {:>5.2} x bare",
            of(|cost| cost.clock),
            ratio(|cost| cost.clock),
            of(|cost| cost.processor),
            ratio(|cost| cost.processor)
        );
    }
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
    Cost { clock: numbers[0], processor: numbers[1] }
}

/// One process of a variant.
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
        "fixed" | "fast" => ours(all_reduce),
        "bare-copies" => bare(|world| world.step(size, true)),
        "bare" => bare(|world| world.step(size, false)),
        _ => bare(|world| world.all_reduce(size)),
    };
    if let Some(Cost { clock, processor }) = cost {
        println!("{clock} {processor}");
    }
}

/// The median time of `work`, which returns how long it took, and the mean processor time of all
/// threads of this process.
fn measure(rounds: usize, mut work: impl FnMut(usize) -> Duration) -> Cost {
    let warm_up = rounds / 5 + 1;
    (0..warm_up).for_each(|round| {
        work(round);
    });
    let before = processor_time();
    let times = (0..rounds).map(|round| work(warm_up + round).as_secs_f64() * 1e6).collect();
    Cost { clock: median(times), processor: (processor_time() - before) / rounds as f64 }
}

/// Microseconds that the threads of this process have run so far; 0 where that is not known.
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

/// Rows of bytes, nothing else.
#[derive(Debug, Clone, RehearsalBatch)]
struct Rows {
    /// `[rows, bytes]`
    #[rehearsal(bytes)]
    bytes: Tensor<2, Int>,
}

/// A whole step of the engine, or only what it waits for messages.
fn engine(ranks: Mpi, row: usize, messages_only: bool) -> Option<Cost> {
    let (rank, size) = (ranks.rank(), ranks.size());
    let config = RehearsalConfig::new(Capacity::Samples(SHARD * size))
        .with_candidates(INSERT)
        .with_representatives(DRAW)
        // Every candidate is stored: the most work.
        .with_policy(PolicyKind::RandomReplacement)
        .with_execution(Execution::Inline);
    let buffer: RehearsalBuffer<Rows> =
        RehearsalBuffer::new(&config, Box::new(ranks)).expect("a buffer");
    let device = Device::flex();
    let bytes = vec![rank as u8; INSERT * row];
    let batch = Rows {
        bytes: Tensor::from_data(TensorData::new(bytes, [INSERT, row]), (&device, DType::U8)),
    };
    (0..=SHARD / INSERT).for_each(|_| drop(buffer.rehearse(batch.clone()).expect("a step")));
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

/// A process that makes its own calls of MPI.
struct Bare {
    rank: usize,
    size: usize,
}

fn bare(work: impl FnOnce(&Bare) -> Cost) -> Option<Cost> {
    let universe = mpi::initialize().expect("MPI");
    let (mut rank, mut size) = (0, 0);
    // SAFETY: MPI runs, and both integers are writable.
    unsafe {
        ffi::MPI_Comm_rank(ffi::RSMPI_COMM_WORLD, &mut rank);
        ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &mut size);
    }
    let cost = work(&Bare { rank: rank as usize, size: size as usize });
    drop(universe);
    (rank == 0).then_some(cost)
}

impl Bare {
    /// How many rows each rank draws from each at a step: as random as ours, and known to all
    /// without a message.
    fn draws(&self, step: usize) -> Vec<Vec<usize>> {
        let of = |rank: usize| {
            let mut random = Stream::new(1, Purpose::Draw, step as u64, rank as u32);
            let mut rows = vec![0; self.size];
            (0..DRAW).for_each(|_| rows[random.below(self.size as u64) as usize] += 1);
            rows
        };
        (0..self.size).map(of).collect()
    }

    /// A small all-gather, then the rows that others draw here and those drawn from them; with the
    /// copies into and out of the store, or without.
    fn step(&self, row: usize, copies: bool) -> Cost {
        let (header, mut headers) = ([0_u8; HEADER], vec![0_u8; HEADER * self.size]);
        let (incoming, mut store, mut result) =
            (vec![1_u8; INSERT * row], vec![0_u8; SHARD * row], vec![0_u8; DRAW * row]);
        let buffers = || vec![vec![0_u8; DRAW * row]; self.size];
        let (mut outgoing, mut received) = (buffers(), buffers());
        let mut augmented = vec![0_u8; (INSERT + DRAW) * row];
        let mut requests = Vec::new();
        measure(steps(row), |step| {
            // What ours does between two steps, untimed as there: the rows drawn are appended to
            // those that came.
            let (came, drawn) = augmented.split_at_mut(INSERT * row);
            came.copy_from_slice(&incoming);
            drawn.copy_from_slice(&result);
            let draws = self.draws(step);
            let started = Instant::now();
            if copies {
                let at = step % (SHARD / INSERT) * INSERT * row;
                store[at..at + INSERT * row].copy_from_slice(&incoming);
            }
            // SAFETY: `header` has as many bytes as are sent, `headers` as many for each rank.
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
                // SAFETY: both buffers are longer than their messages, and are left alone until all
                // requests are complete.
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
            // SAFETY: that many requests of ours; nobody asks for their statuses.
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

    /// The library's own blocking sum.
    fn all_reduce(&self, values: usize) -> Cost {
        let (data, mut sums) = (vec![1.0_f32; values], vec![0.0_f32; values]);
        measure(REDUCTIONS, |_| {
            // SAFETY: the communicator of all ranks.
            unsafe { ffi::MPI_Barrier(ffi::RSMPI_COMM_WORLD) };
            let started = Instant::now();
            // SAFETY: both buffers hold that many values, and they are different.
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
