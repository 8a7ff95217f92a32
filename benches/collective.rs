//! How close do the collective operations of thread ranks come to the speed of memory?
//!
//! An all-reduce reads and writes the values of every rank at least once. Its reference is a plain
//! copy of the same number of bytes by the same number of threads, between the same barriers. A
//! triad (a = b + s·c) shows the usual measure of a machine's memory. The reference of the exchange
//! is a copy of the same bytes from the thread's own memory between two barriers: a row may not be
//! read before it is written, nor overwritten before it is read.
#![allow(clippy::expect_used)]

use burn_rehearsal_benches::{Figures, R, Series, interleave, micros};
use burn_rehearsal_collective::{
    Collective, CollectiveError, Incoming, Outgoing, RankFailure, ReduceOp, Threads, run_threads,
};
use std::convert::Infallible;
use std::hint::black_box;
use std::time::Instant;

const TURNS: usize = 9;

/// Adds the microseconds from a barrier until all ranks have done `work`.
fn together(
    series: &mut Series,
    name: &str,
    ranks: &mut Threads,
    work: impl FnOnce(&mut Threads) -> Result<(), CollectiveError>,
) {
    ranks.barrier().expect("all ranks");
    let started = Instant::now();
    work(ranks).expect("all ranks");
    ranks.barrier().expect("all ranks");
    series.add(name, micros(started.elapsed()));
}

/// The measurements of the first of `ranks`.
fn measured(ranks: usize, work: impl Fn(Threads) -> Series + Sync) -> Series {
    let results = run_threads(ranks, |threads| Ok::<_, Infallible>(work(threads)));
    let series = |result: Result<Series, RankFailure<Infallible>>| result.expect("a rank");
    results.into_iter().map(series).next().expect("the first rank")
}

fn all_reduce(figures: &mut Figures, millions: usize, ranks: usize) {
    let len = millions * 1_000_000;
    let series = measured(ranks, |mut ranks| {
        let mut values = vec![ranks.rank() as f32; len];
        let (mut a, b, c) = (vec![0f32; len], vec![1f32; len], vec![2f32; len]);
        let mut series = Series::default();
        interleave(TURNS, &["ours", "copy", "triad"], |name| {
            together(&mut series, name, &mut ranks, |ranks| {
                match *name {
                    "ours" => ranks.all_reduce(&mut values, ReduceOp::Mean)?,
                    "copy" => a.copy_from_slice(&b),
                    _ => a.iter_mut().zip(&b).zip(&c).for_each(|((a, b), c)| *a = b + 3.0 * c),
                }
                black_box(&a);
                Ok(())
            });
        });
        series
    });
    record(figures, &format!("all-reduce, {millions} M f32"), ranks, 1, &series);
    let rate =
        |name: &str, arrays: f64| arrays * (ranks * len * 4) as f64 / series.median(name) / 1e3;
    println!(
        "  every read and write counted once, GB/s: all-reduce {:.1}, copy {:.1}, triad {:.1}",
        rate("ours", 2.0),
        rate("copy", 2.0),
        rate("triad", 3.0)
    );
}

fn exchange(figures: &mut Figures, row: usize, steps: usize, ranks: usize) {
    let series = measured(ranks, |mut ranks| {
        let (rank, size, length) = (ranks.rank(), ranks.size(), R * row);
        let peers: Vec<usize> = (0..size).filter(|peer| *peer != rank).collect();
        let mine = vec![rank as u8; length * peers.len()];
        let mut theirs = vec![0u8; length * peers.len()];
        let mut series = Series::default();
        interleave(TURNS, &["ours", "copy", "barrier"], |name| {
            together(&mut series, name, &mut ranks, |ranks| {
                (0..steps).try_for_each(|_| match *name {
                    "ours" => {
                        let parts = peers.iter().zip(mine.chunks_exact(length));
                        let outgoing: Vec<_> =
                            parts.map(|(&peer, bytes)| Outgoing { peer, bytes }).collect();
                        let parts = peers.iter().zip(theirs.chunks_exact_mut(length));
                        let mut incoming: Vec<_> =
                            parts.map(|(&peer, bytes)| Incoming { peer, bytes }).collect();
                        ranks.exchange(&outgoing, &mut incoming)
                    }
                    "copy" => {
                        ranks.barrier()?;
                        theirs.copy_from_slice(&mine);
                        black_box(&theirs);
                        ranks.barrier()
                    }
                    _ => ranks.barrier(),
                })
            });
        });
        series
    });
    let case = format!("exchange, {R} rows of {:.0} KiB to each peer", row as f64 / 1024.0);
    record(figures, &case, ranks, steps, &series);
    println!("  a barrier {:.1} µs", series.median("barrier") / steps as f64);
}

/// Records the time of an operation that was repeated `steps` times, and its ratio to the copy.
fn record(figures: &mut Figures, case: &str, ranks: usize, steps: usize, series: &Series) {
    let time = series.median("ours") / steps as f64;
    figures.add(case, &format!("{ranks} ranks"), time, "µs", None);
    figures.add(case, &format!("{ranks} ranks / copy"), series.ratio("ours", "copy"), "×", None);
}

fn main() {
    let mut figures = Figures::new(
        "collective",
        "how close do thread ranks come to the speed of memory?",
        &format!("thread ranks, {TURNS} turns"),
    );
    for millions in [11, 25] {
        for ranks in [2, 4] {
            all_reduce(&mut figures, millions, ranks);
        }
    }
    for (side, element, steps) in [(32, 1, 400), (64, 1, 400), (224, 1, 100), (224, 4, 30)] {
        for ranks in [2, 4] {
            exchange(&mut figures, 3 * side * side * element, steps, ranks);
        }
    }
    figures.write();
}
