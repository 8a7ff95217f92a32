//! What does rehearsal itself cost in training?
//!
//! The same network on one rank, in turn: incremental with b rows a step, incremental with b + r, rehearsal with b incoming and r representatives. All
//! do the same number of steps. Medians over the turns; ratios of the same turns.
#![allow(clippy::expect_used)]

use burn_rehearsal::{Capacity, RehearsalConfig};
use burn_rehearsal_benches::{Synthetic, Unobserved, device, median};
use burn_rehearsal_collective::Solo;
use burn_rehearsal_train::data_parallel::Precision;
use burn_rehearsal_train::experiment::{Settings, run_rank};
use burn_rehearsal_train::report::schema::Method;

const B: usize = 56;
const R: usize = 7;
const STEPS: usize = 40;
const TURNS: usize = 7;

fn main() {
    let seconds = |method, batch_size: usize| {
        let workload = Synthetic::new(STEPS * batch_size).expect("enough samples");
        let rehearsal = RehearsalConfig::new(Capacity::Fraction(0.3)).with_dataset_len(Some(STEPS * batch_size)).with_representatives(R);
        let settings = Settings {
            method,
            epochs: 1,
            batch_size,
            rehearsal,
            learning_rate: 0.01,
            warmup_epochs: 0.0,
            milestones: Vec::new(),
            scale_cap: 1.0,
            keep_optimizer: false,
            seed: 1,
            workers: 1,
            precision: Precision::F32,
            evaluate_every: 0,
            profile: false,
            network: None,
            checkpoints: None,
        };
        let report = run_rank(&workload, &settings, serde_json::Value::Null, Box::new(Solo::new()), &device(), &Unobserved);
        let time = report.expect("a run").time;
        time.phases_ms["step"] / 1e3
    };
    let runs = [(Method::Incremental, B), (Method::Incremental, B + R), (Method::Rehearsal, B)];
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for turn in 0..TURNS {
        // Every other turn goes backwards, so that a drift of the machine does not favour one of them.
        for at in 0..runs.len() {
            let at = if turn % 2 == 0 { at } else { runs.len() - 1 - at };
            times[at].push(seconds(runs[at].0, runs[at].1));
        }
    }
    let ratio = |reference: usize| median(times[2].iter().zip(&times[reference]).map(|(ours, theirs)| ours / theirs).collect());
    println!("training, 3×32×32 u8, two convolutions, b = {B}, r = {R}, one rank, {TURNS} turns of {STEPS} steps");
    for (name, times) in ["incremental, b rows", "incremental, b + r rows", "rehearsal, b + r rows"].iter().zip(&times) {
        println!("  {name:<24} {:8.2} ms per step", median(times.clone()) * 1e3);
    }
    println!("  rehearsal / incremental of b rows      {:.3}  (rows: {:.3})", ratio(0), (B + R) as f64 / B as f64);
    println!("  rehearsal / incremental of b + r rows  {:.3}", ratio(1));
}
