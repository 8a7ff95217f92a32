//! The recipe `mammoth-digits` over several seeds, compared with Mammoth.
//!
//! The reference is Mammoth (Buzzega et al., "Dark Experience for General Continual Learning",
//! NeurIPS 2020, and its repository) with ER and a reservoir, on the same digits at 28 × 28 pixels
//! with the same network, mini-batches and epochs: average top-1 over 10 seeds.

use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::main_job;
use crate::process;
use crate::validate::mean_and_sd;

/// Capacity, and mean and standard deviation of the reference over [`REFERENCE_SEEDS`] seeds.
const REFERENCE: [(u32, f64, f64); 3] =
    [(50, 0.836, 0.066), (100, 0.890, 0.028), (200, 0.916, 0.027)];
/// The number of runs of the reference.
const REFERENCE_SEEDS: f64 = 10.0;

/// Mean, standard deviation and number of runs.
#[derive(Debug, Clone, Copy)]
struct Sample {
    mean: f64,
    sd: f64,
    runs: f64,
}

impl Sample {
    fn of(values: &[f64]) -> Self {
        let (mean, sd) = mean_and_sd(values);
        Self { mean, sd: sd.unwrap_or(0.0), runs: values.len() as f64 }
    }

    /// Whether this mean is at most two standard errors of the difference below the other mean.
    fn keeps_up_with(&self, other: &Sample) -> bool {
        let error = (self.sd.powi(2) / self.runs + other.sd.powi(2) / other.runs).sqrt();
        self.mean >= other.mean - 2.0 * error
    }
}

/// Runs the recipe with two policies and all capacities, and prints a Markdown table.
pub(crate) fn validate(program: &Path, seeds: Range<u64>, folder: &Path) -> Result<()> {
    let mut lines = vec![
        "| samples stored | Mammoth, reservoir | reservoir | class-balanced (default) | holds |"
            .to_owned(),
        "| --- | --- | --- | --- | --- |".to_owned(),
    ];
    let mut missed = Vec::new();
    for (capacity, mean, sd) in REFERENCE {
        let reference = Sample { mean, sd, runs: REFERENCE_SEEDS };
        let reservoir = runs(program, &seeds, folder, capacity, "reservoir")?;
        let balanced = runs(program, &seeds, folder, capacity, "class-balanced")?;
        let holds = reservoir.keeps_up_with(&reference) && balanced.keeps_up_with(&reservoir);
        if !holds {
            missed.push(format!(
                "mammoth-digits with {capacity} samples: {:.4} and {:.4}",
                reservoir.mean, balanced.mean
            ));
        }
        let cell =
            |sample: Sample| format!("{:.1} ± {:.1}", sample.mean * 100.0, sample.sd * 100.0);
        let verdict = if holds { "yes" } else { "**no**" };
        lines.push(format!(
            "| {capacity} | {} | {} | {} | {verdict} |",
            cell(reference),
            cell(reservoir),
            cell(balanced)
        ));
    }
    println!("\n{}", lines.join("\n"));
    if missed.is_empty() { Ok(()) } else { Err(Error::Thresholds(missed)) }
}

fn runs(
    program: &Path,
    seeds: &Range<u64>,
    folder: &Path,
    capacity: u32,
    policy: &str,
) -> Result<Sample> {
    let mut averages = Vec::new();
    for seed in seeds.clone() {
        let out = folder.join(format!("mammoth-{capacity}-{policy}-{seed}"));
        let mut command = Command::new(program);
        command.args([
            "train",
            "--method",
            "rehearsal",
            "--recipe",
            "mammoth-digits",
            "--policy",
            policy,
        ]);
        command
            .args(["--capacity", &capacity.to_string(), "--seed", &seed.to_string(), "--out"])
            .arg(&out);
        process::run(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        averages
            .push(main_job::read_average(&out.join("rehearsal").join("report.json"), "rehearsal")?);
    }
    Ok(Sample::of(&averages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_may_be_two_standard_errors_below_the_reference() {
        let reference = Sample { mean: 0.90, sd: 0.03, runs: 10.0 };
        let ours = |mean| Sample { mean, sd: 0.04, runs: 10.0 };
        assert!(
            ours(0.87).keeps_up_with(&reference),
            "0.03 below, and two standard errors are 0.0316"
        );
        assert!(!ours(0.86).keeps_up_with(&reference));
    }
}
