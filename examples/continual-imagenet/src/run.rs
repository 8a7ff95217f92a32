//! Running methods on all ranks, and what is left on disk afterwards.

use crate::cli::{CollectiveArg, MethodArg, Options};
use crate::config::Config;
use crate::device;
use crate::error::AppError;
use crate::progress::Progress;
use crate::stop::{INTERRUPTED, Stop};
use crate::transport;
use crate::workload::Images;
use burn::tensor::Device;
use burn_rehearsal::RehearsalConfig;
use burn_rehearsal_collective::{Collective, RankFailure, run_threads};
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
    /// Of the processes of a run, the first one shows progress and writes the report.
    first: bool,
}

impl Job {
    fn prepare(config: Config, first: bool) -> Result<Self, AppError> {
        let device = device::parse(&config.device)?;
        let images = Images::open(&config)?;
        let rehearsal = config.rehearsal(images.train_len(), images.classes())?;
        if first {
            create_directory(&config.out)?;
        }
        Ok(Self { config, device, images, rehearsal, stop: Stop::listen(first), first })
    }

    /// Trains with one method on all ranks and writes the report. `process` is this process's rank under MPI; otherwise ranks are threads.
    fn run(&self, method: Method, process: Option<&mut Box<dyn Collective>>) -> Result<RunReport, AppError> {
        let Self { config, device, images, rehearsal, stop, first } = self;
        let settings = config.settings(method, rehearsal.clone());
        let echo = serde_json::to_value(config).unwrap_or_default();
        let progress = Progress::new(method, images.stream().tasks(), config.epochs, stop.clone(), *first);
        let rank = |collective| run_rank(images, &settings, echo.clone(), collective, device, &progress);
        let report = match process {
            None => first_report(run_threads(config.ranks, |threads| rank(Box::new(threads)))),
            Some(process) => rank(process.duplicate()?).map_err(|source| AppError::Rank { rank: process.rank(), source }),
        };
        progress.finish();
        let report = report?;
        if *first {
            report.write(&config.out.join(method.to_string()))?;
        }
        Ok(report)
    }

    /// One method after the other, until somebody asks to stop.
    fn run_all(&self, methods: &[Method], mut process: Option<Box<dyn Collective>>) -> Result<ExitCode, AppError> {
        let mut reports = Vec::new();
        for &method in methods {
            // Of several processes, some may have been asked and others not yet.
            let stop = match &mut process {
                None => self.stop.requested(),
                Some(process) => transport::any(self.stop.requested(), process.as_mut())?,
            };
            if stop && !reports.is_empty() {
                break;
            }
            reports.push(self.run(method, process.as_mut())?);
        }
        self.finish(&reports)
    }

    fn finish(&self, reports: &[RunReport]) -> Result<ExitCode, AppError> {
        if self.first {
            print!("\n{}", comparison_table(reports));
            draw(reports, &self.config.out)?;
            println!("\nreports and figures: {}", self.config.out.display());
        }
        Ok(if self.stop.requested() { ExitCode::from(INTERRUPTED) } else { ExitCode::SUCCESS })
    }
}

/// `compare`: the three methods, one after the other.
pub fn compare(options: Options) -> Result<ExitCode, AppError> {
    run(options, &[Method::Incremental, Method::Rehearsal, Method::Scratch])
}

/// `train`: one method.
pub fn train(method: MethodArg, options: Options) -> Result<ExitCode, AppError> {
    run(options, &[method.into()])
}

/// Some methods, on ranks that are threads of this process, or processes of which this is one.
fn run(options: Options, methods: &[Method]) -> Result<ExitCode, AppError> {
    let mut config = Config::resolve(options)?;
    match config.collective {
        CollectiveArg::Threads => Job::prepare(config, true)?.run_all(methods, None),
        CollectiveArg::Mpi => {
            config.device = transport::device(&config.device);
            transport::run_mpi(&config.clone(), |process| Job::prepare(config, process.rank() == 0)?.run_all(methods, Some(process)))
        }
    }
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
