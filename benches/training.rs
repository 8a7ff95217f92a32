//! What does rehearsal itself cost in training?
//!
//! The same network on one rank, in turn: incremental with b rows a step, incremental with b + r,
//! rehearsal with b incoming and r representatives. All do the same number of steps. Medians over
//! the turns; ratios of the same turns.
#![allow(clippy::expect_used)]

use burn_rehearsal::{Capacity, RehearsalConfig};
use burn_rehearsal_benches::{Synthetic, device, median};
use burn_rehearsal_collective::Rank;
use burn_rehearsal_train::experiment::{Experiment, Settings};
use burn_rehearsal_train::methods::{Incremental, MethodRef, Rehearsal};

const B: usize = 56;
const R: usize = 7;
const STEPS: usize = 40;
const TURNS: usize = 7;

fn main() {
    let seconds = |method: MethodRef, batch_size: usize| {
        let workload = Synthetic::new(STEPS * batch_size).expect("enough samples");
        let rehearsal = RehearsalConfig::new(Capacity::Fraction(0.3))
            .with_dataset_len(Some(STEPS * batch_size))
            .with_representatives(R);
        let settings = Settings::new()
            .with_batch_size(batch_size)
            .with_rehearsal(Some(rehearsal))
            .with_learning_rate(0.01)
            .with_seed(1);
        let report =
            Experiment::new(&workload, method, &settings).with_device(device()).run(&Rank::solo());
        let time = report.expect("a run").time;
        time.phases_ms["step"] / 1e3
    };
    let runs = [(&Incremental as MethodRef, B), (&Incremental, B + R), (&Rehearsal, B)];
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        // Every other turn goes backwards, so that a drift of the machine does not favour one of
        // them.
        for at in 0..runs.len() {
            let at = if turn % 2 == 0 { at } else { runs.len() - 1 - at };
            times[at].push(seconds(runs[at].0, runs[at].1));
        }
    }
    let ratio = |reference: usize| {
        median(times[2].iter().zip(&times[reference]).map(|(ours, theirs)| ours / theirs).collect())
    };
    println!(
        "training, 3×32×32 u8, two convolutions, b = {B}, r = {R}, one rank, {TURNS} turns of {STEPS} steps"
    );
    for (name, times) in ["incremental, b rows", "incremental, b + r rows", "rehearsal, b + r rows"]
        .iter()
        .zip(&times)
    {
        println!("  {name:<24} {:8.2} ms per step", median(times.clone()) * 1e3);
    }
    println!(
        "  rehearsal / incremental of b rows      {:.3}  (rows: {:.3})",
        ratio(0),
        (B + R) as f64 / B as f64
    );
    println!("  rehearsal / incremental of b + r rows  {:.3}", ratio(1));
}
