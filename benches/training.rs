//! What does rehearsal cost in training?
//!
//! The same network is trained on one rank in three ways: incrementally with b rows per step,
//! incrementally with b + r rows, and by rehearsal with b incoming rows and r representatives. All
//! do the same number of steps. Times are medians over the turns; ratios are taken within a turn.
#![allow(clippy::expect_used)]

use burn_rehearsal::{Capacity, RehearsalConfig};
use burn_rehearsal_benches::{B, Figures, R, Series, Synthetic, Target, device, interleave};
use burn_rehearsal_collective::Rank;
use burn_rehearsal_train::experiment::{Experiment, Settings};
use burn_rehearsal_train::methods::{Incremental, MethodRef, Rehearsal};

const STEPS: usize = 40;
const TURNS: usize = 7;

/// Milliseconds per training step.
fn step(method: MethodRef, batch_size: usize) -> f64 {
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
    report.expect("a run").time.phases_ms["step"]
}

fn main() {
    let mut figures = Figures::new(
        "training",
        "what does rehearsal cost in training?",
        &format!(
            "3×32×32 u8, two convolutions, b = {B}, r = {R}, one rank, {TURNS} turns of {STEPS} steps"
        ),
    );
    let incremental: MethodRef = &Incremental;
    let runs = [
        ("incremental, b rows", incremental, B),
        ("incremental, b + r rows", incremental, B + R),
        ("rehearsal, b + r rows", &Rehearsal, B),
    ];
    let mut series = Series::default();
    interleave(TURNS, &runs, |&(name, method, rows)| series.add(name, step(method, rows)));
    for (name, ..) in runs {
        figures.add(name, "time per step", series.median(name), "ms", None);
    }
    let [(fewer, ..), (same, ..), (ours, ..)] = runs;
    let target = Some(Target::AtMost(1.02));
    figures.add(ours, "time / incremental, b + r rows", series.ratio(ours, same), "×", target);
    figures.add(ours, "time / incremental, b rows", series.ratio(ours, fewer), "×", None);
    figures.write();
}
