//! The published figures: mean and standard deviation of the main job and of the recipe
//! `mammoth-digits` over several seeds, and whether the thresholds hold.

use std::ops::Range;
use std::process::Stdio;

use crate::error::{Error, Result};
use crate::main_job::{self, Averages, METHODS};
use crate::workspace::{Workspace, remove_folder};
use crate::{process, recipe};

/// Runs the main job and the recipe with `seeds` and prints Markdown tables. Progress goes to
/// standard error.
///
/// The reports stay in `validate/seed-N` of the target directory until the next call.
pub(crate) fn validate(workspace: &Workspace, seeds: Range<u64>) -> Result<()> {
    let folder = workspace.target.join("validate");
    remove_folder(&folder)?;
    let program = main_job::build(workspace, &[])?;
    let mut runs = Vec::new();
    for seed in seeds.clone() {
        let out = folder.join(format!("seed-{seed}"));
        std::fs::create_dir_all(&out)
            .map_err(|source| Error::File { path: out.clone(), source })?;
        process::run(main_job::compare(&program, Some(seed), &out).stdout(Stdio::null()))?;
        let averages = main_job::read_averages(&out)?;
        let [incremental, scratch, rehearsal] = averages.in_order();
        eprintln!(
            "seed {seed} of {seeds:?}: incremental {incremental:.4}, scratch {scratch:.4}, rehearsal {rehearsal:.4}"
        );
        runs.push(averages);
    }
    let mean = mean_averages(&runs);
    println!("{}", table(&runs, &mean));
    let [incremental, scratch, rehearsal] = mean.method_checks();
    main_job::require(&[incremental, scratch, rehearsal, mean.gap_check()])?;
    recipe::validate(&program, seeds, &folder)
}

/// The mean of each method over all runs.
fn mean_averages(runs: &[Averages]) -> Averages {
    let mean_of =
        |value: fn(&Averages) -> f64| mean_and_sd(&Vec::from_iter(runs.iter().map(value))).0;
    Averages {
        incremental: mean_of(|run| run.incremental),
        scratch: mean_of(|run| run.scratch),
        rehearsal: mean_of(|run| run.rehearsal),
    }
}

/// Mean and sample standard deviation (n − 1), which is `None` for a single value.
pub(crate) fn mean_and_sd(values: &[f64]) -> (f64, Option<f64>) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (values.len() > 1).then(|| (squares / (count - 1.0)).sqrt()))
}

/// The results as a Markdown table. The gap closed is computed from the means, and its deviation
/// from the single runs.
fn table(runs: &[Averages], mean: &Averages) -> String {
    let seeds = if runs.len() == 1 { "1 seed".to_owned() } else { format!("{} seeds", runs.len()) };
    let mut lines = vec![
        format!("| Average top-1, {seeds} | mean ± sd | threshold | holds |"),
        "| --- | --- | --- | --- |".to_owned(),
    ];
    let mut row = |check: main_job::Check, values: Vec<f64>| {
        let sd = mean_and_sd(&values).1.map_or_else(|| "–".to_owned(), |sd| format!("{sd:.4}"));
        let holds = if check.holds() { "yes" } else { "**no**" };
        lines.push(format!(
            "| {} | {:.4} ± {sd} | {:.2} | {holds} |",
            check.name, check.value, check.limit
        ));
    };
    for (index, check) in mean.method_checks().into_iter().enumerate() {
        debug_assert_eq!(check.name, METHODS[index]);
        row(check, runs.iter().map(|run| run.in_order()[index]).collect());
    }
    row(mean.gap_check(), runs.iter().map(Averages::gap_closed).collect());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_gives_mean_deviation_and_verdict_of_each_method() {
        let run = |incremental, scratch, rehearsal| Averages { incremental, scratch, rehearsal };
        let runs = [run(0.18, 0.96, 0.86), run(0.20, 0.98, 0.88)];
        let mean = mean_averages(&runs);
        let expected = "\
            | Average top-1, 2 seeds | mean ± sd | threshold | holds |\n\
            | --- | --- | --- | --- |\n\
            | incremental | 0.1900 ± 0.0141 | ≤ 0.30 | yes |\n\
            | scratch | 0.9700 ± 0.0141 | ≥ 0.95 | yes |\n\
            | rehearsal | 0.8700 ± 0.0141 | ≥ 0.88 | **no** |\n\
            | gap closed | 0.8718 ± 0.0000 | ≥ 0.85 | yes |";
        assert_eq!(table(&runs, &mean), expected);
    }

    #[test]
    fn a_single_seed_has_no_deviation() {
        assert_eq!(mean_and_sd(&[0.5]), (0.5, None));
        let run = Averages { incremental: 0.2, scratch: 0.97, rehearsal: 0.9 };
        assert!(table(&[run], &run).contains("| Average top-1, 1 seed |"));
        assert!(table(&[run], &run).contains("| rehearsal | 0.9000 ± – | ≥ 0.88 | yes |"));
    }
}
