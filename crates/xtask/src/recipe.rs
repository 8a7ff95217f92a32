//! The recipe `mammoth-digits` with several methods over several seeds, compared with Mammoth.
//!
//! The reference is Mammoth (Buzzega et al., "Dark Experience for General Continual Learning",
//! NeurIPS 2020, and its repository) with its own buffer and losses, on the same digits at 28 × 28
//! pixels with the same network, mini-batches and epochs: average top-1 over 10 seeds.

use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::main_job;
use crate::process;
use crate::validate::mean_and_sd;

/// The capacities, in samples.
const CAPACITIES: [u32; 3] = [50, 100, 200];
/// Methods, and mean and standard deviation of the reference for each capacity.
const REFERENCE: [(&str, [(f64, f64); 3]); 5] = [
    ("rehearsal", [(0.836, 0.066), (0.890, 0.028), (0.916, 0.027)]),
    ("er-ace", [(0.823, 0.053), (0.879, 0.035), (0.900, 0.027)]),
    ("der", [(0.810, 0.083), (0.795, 0.095), (0.817, 0.071)]),
    ("derpp", [(0.882, 0.040), (0.905, 0.046), (0.914, 0.041)]),
    ("agem", [(0.323, 0.059), (0.326, 0.093), (0.329, 0.058)]),
];
/// The methods that also run with the class-balanced policy, which must be as good as the
/// reservoir.
const BALANCED: [&str; 2] = ["rehearsal", "derpp"];
/// The number of runs of the reference.
const REFERENCE_SEEDS: f64 = 10.0;
/// A single mean may be this many standard errors of the difference below the reference.
const CELL: f64 = 3.0;
/// The mean over all methods and capacities may be this many standard errors below.
const MEAN: f64 = 2.0;

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

    /// The difference of the means, in standard errors of the difference.
    fn above(&self, other: &Sample) -> f64 {
        (self.mean - other.mean) / self.error(other)
    }

    /// The standard error of the difference of the means.
    fn error(&self, other: &Sample) -> f64 {
        (self.sd.powi(2) / self.runs + other.sd.powi(2) / other.runs).sqrt()
    }
}

/// Runs the recipe with all methods and capacities, and prints a Markdown table.
pub(crate) fn validate(program: &Path, seeds: Range<u64>, folder: &Path) -> Result<()> {
    let mut lines = vec![
        "| method | samples stored | Mammoth | reservoir | standard errors | class-balanced |"
            .to_owned(),
        "| --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    let mut missed = Vec::new();
    let (mut differences, mut errors) = (0.0, 0.0);
    for (method, reference) in REFERENCE {
        for (capacity, (mean, sd)) in CAPACITIES.into_iter().zip(reference) {
            let reference = Sample { mean, sd, runs: REFERENCE_SEEDS };
            let run = |policy| runs(program, method, &seeds, folder, capacity, policy);
            let reservoir = run("reservoir")?;
            let balanced = BALANCED.contains(&method).then(|| run("class-balanced")).transpose()?;
            differences += reservoir.mean - reference.mean;
            errors += reservoir.error(&reference).powi(2);
            if reservoir.above(&reference) < -CELL {
                missed.push(format!("{method} with {capacity} samples: {:.4}", reservoir.mean));
            }
            if let Some(balanced) = balanced.filter(|balanced| balanced.above(&reservoir) < -MEAN) {
                missed.push(format!(
                    "{method} with {capacity} class-balanced samples: {:.4}",
                    balanced.mean
                ));
            }
            let cell =
                |sample: Sample| format!("{:.1} ± {:.1}", sample.mean * 100.0, sample.sd * 100.0);
            lines.push(format!(
                "| {method} | {capacity} | {} | {} | {:+.1} | {} |",
                cell(reference),
                cell(reservoir),
                reservoir.above(&reference),
                balanced.map_or_else(String::new, cell),
            ));
        }
    }
    let mean = differences / errors.sqrt();
    println!("\n{}\n\nmean over all rows: {mean:+.1} standard errors", lines.join("\n"));
    if mean < -MEAN {
        missed.push(format!("the mean over all rows: {mean:+.1} standard errors"));
    }
    if missed.is_empty() { Ok(()) } else { Err(Error::Thresholds(missed)) }
}

fn runs(
    program: &Path,
    method: &str,
    seeds: &Range<u64>,
    folder: &Path,
    capacity: u32,
    policy: &str,
) -> Result<Sample> {
    let mut averages = Vec::new();
    for seed in seeds.clone() {
        let out = folder.join(format!("mammoth-{method}-{capacity}-{policy}-{seed}"));
        let mut command = Command::new(program);
        command.args(["train", "--method", method, "--recipe", "mammoth-digits"]);
        command.args(["--policy", policy, "--display", "none", "--checkpoint-every", "never"]);
        command
            .args(["--capacity", &capacity.to_string(), "--seed", &seed.to_string(), "--out"])
            .arg(&out);
        process::run(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        averages.push(main_job::read_average(&out.join(method).join("report.json"), method)?);
    }
    Ok(Sample::of(&averages))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_in_standard_errors() {
        let reference = Sample { mean: 0.90, sd: 0.03, runs: 10.0 };
        let ours = Sample { mean: 0.87, sd: 0.04, runs: 10.0 };
        assert!((ours.above(&reference) + 1.897).abs() < 1e-3, "the standard error is 0.0158");
    }
}
