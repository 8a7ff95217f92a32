//! How close are the threads' collective operations to what the memory can do?
//!
//! All-reduce of n ranks reads and writes every rank's values at least once. The reference is a
//! plain copy of as many bytes by as many threads, between the same barriers, in turn with it; a
//! triad (a = b + s·c) is shown as the usual measure of the machine. The exchange of rows is
//! compared with copies of the same bytes from the thread's own memory between two barriers: nobody
//! may read a row before it is there, nor write it before it was read.
#![allow(clippy::expect_used)]

use burn_rehearsal_benches::{head, median, ratio};
use burn_rehearsal_collective::{
    Collective, CollectiveError, Incoming, Outgoing, ReduceOp, Threads, run_threads,
};
use std::hint::black_box;
use std::time::Instant;

const TURNS: usize = 9;
/// Rows that every rank sends to every other one.
const ROWS: usize = 7;

/// Seconds from a barrier until `work` is done on all ranks.
fn together(
    ranks: &mut Threads,
    work: impl FnOnce(&mut Threads) -> Result<(), CollectiveError>,
) -> Result<f64, CollectiveError> {
    ranks.barrier()?;
    let started = Instant::now();
    work(ranks)?;
    ranks.barrier()?;
    Ok(started.elapsed().as_secs_f64())
}

/// What the first rank measured: `[turn]` of each thing.
fn first(
    results: Vec<Result<Vec<Vec<f64>>, burn_rehearsal_collective::RankFailure<CollectiveError>>>,
) -> Vec<Vec<f64>> {
    results.into_iter().map(|result| result.expect("a rank")).next().expect("the first rank")
}

fn all_reduce(ranks: usize, millions: usize) {
    let len = millions * 1_000_000;
    let times = first(run_threads(ranks, |mut ranks| {
        let mut values = vec![ranks.rank() as f32; len];
        let (b, c) = (vec![1f32; len], vec![2f32; len]);
        let mut a = vec![0f32; len];
        let mut times = vec![Vec::new(); 3];
        for _ in 0..TURNS {
            times[0]
                .push(together(&mut ranks, |ranks| ranks.all_reduce(&mut values, ReduceOp::Mean))?);
            times[1].push(together(&mut ranks, |_| {
                a.copy_from_slice(&b);
                Ok(())
            })?);
            black_box(&a);
            times[2].push(together(&mut ranks, |_| {
                a.iter_mut().zip(&b).zip(&c).for_each(|((a, b), c)| *a = b + 3.0 * c);
                Ok(())
            })?);
            black_box(&a);
        }
        Ok::<_, CollectiveError>(times)
    }));
    let ms = |at: usize| median(times[at].clone()) * 1e3;
    let bytes = (ranks * len * 4) as f64;
    let rate = |arrays: f64, at: usize| arrays * bytes / 1e6 / ms(at);
    println!(
        "  {ranks} ranks, {millions:>2} M f32: all-reduce {:7.2} ms, {:5.1} GB/s; copy {:7.2} ms, {:5.1} GB/s; triad {:5.1} GB/s; all-reduce / copy {:.2}",
        ms(0),
        rate(2.0, 0),
        ms(1),
        rate(2.0, 1),
        rate(3.0, 2),
        ratio(&times[0], &times[1])
    );
}

fn exchange(ranks: usize, row: usize, steps: usize) {
    let times = first(run_threads(ranks, |mut ranks| {
        let (rank, size, length) = (ranks.rank(), ranks.size(), ROWS * row);
        let peers: Vec<usize> = (0..size).filter(|peer| *peer != rank).collect();
        let mine = vec![rank as u8; length * peers.len()];
        let mut theirs = vec![0u8; length * peers.len()];
        let mut times = vec![Vec::new(); 3];
        for _ in 0..TURNS {
            times[0].push(together(&mut ranks, |ranks| {
                for _ in 0..steps {
                    let outgoing: Vec<_> = peers
                        .iter()
                        .zip(mine.chunks_exact(length))
                        .map(|(&peer, bytes)| Outgoing { peer, bytes })
                        .collect();
                    let parts = theirs.chunks_exact_mut(length);
                    let mut incoming: Vec<_> = peers
                        .iter()
                        .zip(parts)
                        .map(|(&peer, bytes)| Incoming { peer, bytes })
                        .collect();
                    ranks.exchange(&outgoing, &mut incoming)?;
                }
                Ok(())
            })?);
            times[1].push(together(&mut ranks, |ranks| {
                for _ in 0..steps {
                    ranks.barrier()?;
                    theirs.copy_from_slice(&mine);
                    black_box(&theirs);
                    ranks.barrier()?;
                }
                Ok(())
            })?);
            times[2]
                .push(together(&mut ranks, |ranks| (0..steps).try_for_each(|_| ranks.barrier()))?);
        }
        Ok::<_, CollectiveError>(times)
    }));
    let us = |at: usize| median(times[at].clone()) * 1e6 / steps as f64;
    println!(
        "  {ranks} ranks, {ROWS} rows of {:>5.1} KiB to each: exchange {:8.1} µs; copies between two barriers {:8.1} µs; one barrier {:6.1} µs; ratio {:.2}",
        row as f64 / 1024.0,
        us(0),
        us(1),
        us(2),
        ratio(&times[0], &times[1])
    );
}

fn main() {
    head(&format!("collective: threads, medians of {TURNS} turns"));
    println!("\nall-reduce to the mean; GB/s count every read and write once");
    for (ranks, millions) in [(2, 11), (2, 25), (4, 11), (4, 25)] {
        all_reduce(ranks, millions);
    }
    println!("\nexchange");
    for ranks in [2, 4] {
        for (side, element, steps) in [(32, 1, 400), (64, 1, 400), (224, 1, 100), (224, 4, 30)] {
            exchange(ranks, 3 * side * side * element, steps);
        }
    }
}
