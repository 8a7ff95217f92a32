//! Running methods on all ranks, and what is left on disk afterwards.

use crate::cli::{MethodArg, Options};
use crate::config::Config;
use crate::device;
use crate::error::AppError;
use crate::progress::Progress;
use crate::stop::{INTERRUPTED, Stop};
use crate::workload::Images;
use burn::tensor::Device;
use burn_rehearsal::RehearsalConfig;
use burn_rehearsal_collective::{RankFailure, run_threads};
use burn_rehearsal_train::experiment::{Workload, run_rank};
use burn_rehearsal_train::report::schema::{Method, REPORT_FILE};
use burn_rehearsal_train::report::{RunReport, accuracy_svg, comparison_table, merged_table, phases_svg, write_atomically};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Everything that is checked before the first file is written.
struct Job {
    config: Config,
    device: Device,
    images: Images,
    rehearsal: RehearsalConfig,
    stop: Stop,
}

impl Job {
    fn prepare(options: Options) -> Result<Self, AppError> {
        let config = Config::resolve(options)?;
        let device = device::parse(&config.device)?;
        let images = Images::open(&config)?;
        let rehearsal = config.rehearsal(images.train_len(), images.classes())?;
        create_directory(&config.out)?;
        Ok(Self { config, device, images, rehearsal, stop: Stop::listen() })
    }

    /// Trains with one method on all ranks and writes the report.
    fn run(&self, method: Method) -> Result<RunReport, AppError> {
        let Self { config, device, images, rehearsal, stop } = self;
        let settings = config.settings(method, rehearsal.clone());
        let echo = serde_json::to_value(config).unwrap_or_default();
        let progress = Progress::new(method, images.stream().tasks(), config.epochs, stop.clone());
        let results =
            run_threads(config.ranks, |collective| run_rank(images, &settings, echo.clone(), Box::new(collective), device, &progress));
        progress.finish();
        let report = first_report(results)?;
        report.write(&config.out.join(method.to_string()))?;
        Ok(report)
    }

    fn finish(&self, reports: &[RunReport]) -> Result<ExitCode, AppError> {
        print!("\n{}", comparison_table(reports));
        draw(reports, &self.config.out)?;
        println!("\nreports and figures: {}", self.config.out.display());
        Ok(if self.stop.requested() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
    }
}

/// `compare`: the three methods, one after the other.
pub fn compare(options: Options) -> Result<ExitCode, AppError> {
    let job = Job::prepare(options)?;
    let mut reports = Vec::new();
    for method in [Method::Incremental, Method::Rehearsal, Method::Scratch] {
        if !job.stop.requested() {
            reports.push(job.run(method)?);
        }
    }
    job.finish(&reports)
}

/// `train`: one method.
pub fn train(method: MethodArg, options: Options) -> Result<ExitCode, AppError> {
    let job = Job::prepare(options)?;
    let report = job.run(method.into())?;
    job.finish(&[report])
}

/// `report`: finished runs side by side. Figures go to the first directory.
pub fn report(directories: &[PathBuf]) -> Result<ExitCode, AppError> {
    let mut reports = Vec::new();
    for directory in directories {
        let files = find_reports(directory);
        if files.is_empty() {
            return Err(AppError::NoReport(directory.clone()));
        }
        for file in files {
            reports.push(RunReport::read(&file)?);
        }
    }
    let several_seeds = reports.iter().any(|a| reports.iter().any(|b| a.method == b.method && a.seed != b.seed));
    print!("{}", if several_seeds { merged_table(&reports) } else { comparison_table(&reports) });
    if let Some(first) = directories.first().filter(|first| first.is_dir()) {
        draw(&reports, first)?;
        println!("\nfigures: {}", first.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// `report.json` itself, or those in a directory and in its subdirectories, two levels down.
fn find_reports(path: &Path) -> Vec<PathBuf> {
    fn search(directory: &Path, levels: usize, found: &mut Vec<PathBuf>) {
        let file = directory.join(REPORT_FILE);
        if file.is_file() {
            found.push(file);
        }
        if levels == 0 {
            return;
        }
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        let mut below: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        below.sort();
        below.iter().for_each(|path| search(path, levels - 1, found));
    }
    if path.is_file() {
        return vec![path.to_path_buf()];
    }
    let mut found = Vec::new();
    search(path, 2, &mut found);
    found
}

fn draw(reports: &[RunReport], out: &Path) -> Result<(), AppError> {
    write_atomically(&out.join("accuracy.svg"), &accuracy_svg(reports)?)?;
    write_atomically(&out.join("phases.svg"), &phases_svg(reports)?)?;
    Ok(())
}

/// Rank 0's report, or the failure that explains the others: a rank's own error rather than that of a rank that waited for it.
fn first_report(
    results: Vec<Result<RunReport, RankFailure<burn_rehearsal_train::experiment::ExperimentError>>>,
) -> Result<RunReport, AppError> {
    let mut report = None;
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(finished) => {
                report.get_or_insert(finished);
            }
            Err(failure) => failures.push(failure),
        }
    }
    failures.sort_by_key(|failure| match failure {
        RankFailure::Panic { .. } | RankFailure::NotStarted { .. } => 0,
        RankFailure::Error { error, .. } => 1 + usize::from(error.to_string().contains("failed")),
    });
    match (failures.into_iter().next(), report) {
        (None, Some(report)) => Ok(report),
        (Some(RankFailure::Error { rank, error }), _) => Err(AppError::Rank { rank, source: error }),
        (Some(other), _) => Err(AppError::RankEnded(other.to_string())),
        (None, None) => Err(AppError::RankEnded("no rank was started".into())),
    }
}

/// Creates the output directory and makes sure that files can be written there, before hours are spent on training.
fn create_directory(path: &Path) -> Result<(), AppError> {
    std::fs::create_dir_all(path).map_err(|source| AppError::Io { action: "create the directory", path: path.to_path_buf(), source })?;
    let probe = path.join(".write-test");
    std::fs::write(&probe, b"").map_err(|source| AppError::Io { action: "write to the directory", path: path.to_path_buf(), source })?;
    std::fs::remove_file(&probe).map_err(|source| AppError::Io { action: "write to the directory", path: path.to_path_buf(), source })
}
