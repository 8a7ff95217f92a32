//! The commands that train, and the command `report`.

use crate::cli::{CheckpointInterval, CollectiveArg};
use crate::config::{self, Config, Flags, Run};
use crate::console::{print_error, print_line};
use crate::error::AppError;
use crate::progress::{Begin, Display, Progress, RunPlan};
use crate::run_directory::{CURVES, RunDirectory};
use crate::stop::{INTERRUPTED, Stop};
use crate::transport;
use crate::workload::{ImageRun, Images};
use burn::tensor::Device;
use burn_rehearsal::agreement::agree_on;
use burn_rehearsal::{RehearsalConfig, StoreLocation, shard_capacity};
use burn_rehearsal_collective::{Collective, CollectiveExt, Rank, RankFailure, run_threads};
use burn_rehearsal_report::{Comparison, ConfigFields, CurvesLog};
use burn_rehearsal_train::device::adapter;
use burn_rehearsal_train::experiment::{ErrorOrigin, Experiment, ExperimentError};
use burn_rehearsal_train::methods::{self, Insertion, MethodRef, TrainingData};
use burn_rehearsal_train::report::schema::REPORT_FILE;
use burn_rehearsal_train::report::{RunReport, write_atomically};
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// The meaning of the columns of the tables.
const LEGEND: &str = "\
Top-1 accuracy on each task after the last one, their average (class-IL), the average among the
classes of each task only (task-IL), and forgetting, as fractions of 1. Times in seconds. images/s:
incoming training images of all ranks. × incr.: training time relative to incremental.";

/// The role of configuration fields in comparisons of runs.
const CONFIG_FIELDS: ConfigFields<'_> = ConfigFields {
    work: &["data", "image-size", "model", "model-width"],
    neutral: &["out"],
    changed: Some("overridden"),
    headline: &["data", "model", "epochs"],
};

/// A validated job, before the first file is written.
struct Job {
    runs: Vec<PlannedRun>,
    /// The options that all runs have in common.
    config: Config,
    device: Device,
    images: Images,
    /// The output directory, in the first process.
    directory: Option<Arc<RunDirectory>>,
    stop: Stop,
    display: Display,
    /// Whether this is the first process of the run, which shows progress and writes the report.
    first: bool,
}

/// A validated run.
struct PlannedRun {
    run: Run,
    rehearsal: RehearsalConfig,
    /// The capacity of the buffer in samples, over all ranks; 0 without rehearsal.
    buffer_len: usize,
    /// The description of the buffer, if there is one.
    buffer: Option<String>,
}

impl PlannedRun {
    fn new(run: Run, images: &Images, device: &Device) -> Result<Self, AppError> {
        let Run { method, config } = &run;
        let rehearsal = config.rehearsal(images.data.train_labels.len(), images.data.classes);
        // The buffer's options need not be valid for methods without rehearsal.
        if !method.rehearses() {
            return Ok(Self { run, rehearsal, buffer_len: 0, buffer: None });
        }
        let row_bytes = images.row_bytes(*method, device)?;
        let buffer_len = config.buffer_len(&method.configured(rehearsal.clone()), row_bytes)?;
        // Rank 0, which has the largest shard, makes the same choice at its first mini-batch.
        let part = shard_capacity(buffer_len, 0, config.ranks).saturating_mul(row_bytes) as u64;
        let (limit, devices) = (rehearsal.device_limit, std::slice::from_ref(device));
        let store = StoreLocation::choose(rehearsal.store, part, limit, devices);
        let bytes = buffer_len.saturating_mul(row_bytes);
        let mut text = format!("samples {buffer_len}, bytes {bytes}, store {}", store.name());
        if method.training_data() != TrainingData::Buffer {
            let candidates = match method.insertion() {
                Insertion::EveryStep => config.candidates.to_string(),
                Insertion::TaskEnd => "none (stored after each task)".into(),
            };
            let draws = match method.draws() {
                1 => String::new(),
                draws => format!(" in each of {draws} draws"),
            };
            text.push_str(&format!(
                "; per rank and step: incoming {}, candidates {candidates}, representatives \
                 {}{draws}",
                config.batch_size, config.representatives
            ));
        }
        Ok(Self { run, rehearsal, buffer_len, buffer: Some(text) })
    }
}

/// The descriptions of the buffers, with their methods if they differ.
fn buffers(runs: &[PlannedRun]) -> Vec<String> {
    let texts = distinct(runs.iter().filter_map(|run| run.buffer.as_ref()));
    let methods = |text: &String| -> Vec<_> {
        let of_text = runs.iter().filter(|run| run.buffer.as_ref() == Some(text));
        of_text.map(|run| run.run.method.name()).collect()
    };
    match &texts[..] {
        [text] => vec![format!("buffer: {text}")],
        texts => texts
            .iter()
            .map(|text| format!("buffer of {}: {text}", methods(text).join(", ")))
            .collect(),
    }
}

/// The different values, in order.
fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    values.for_each(|value| {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    });
    distinct
}

impl Job {
    /// `config` has the options that all runs have in common.
    fn prepare(
        runs: &[Run],
        mut config: Config,
        process: &mut dyn Collective,
    ) -> Result<Self, AppError> {
        let first = process.rank() == 0;
        // Processes with different options would wait for each other forever.
        agree_on(process, &config::agreed(runs))?;
        let display = Display::choose(config.display, first)?;
        // Signals are handled from here on, because opening the data may take a long time.
        let stop = Stop::listen(first && display != Display::Tui);
        let device = config.device.open()?;
        if !config.precision.is_supported_by(&device) {
            let reason = format!("`{}` does not support it", config.device);
            return Err(AppError::option("precision", config.precision, reason));
        }
        let images = Images::open(&config)?;
        let data = &images.data;
        let epochs = distinct(runs.iter().map(|run| run.config.epochs.to_string()));
        let mut heading = vec![format!(
            "{}: training images {}, test images {}, classes {}; tasks {}, epochs {} per task, \
             ranks {}, device {}",
            config.data,
            data.train_labels.len(),
            data.test_labels.len(),
            data.classes,
            config.tasks,
            epochs.join(" or "),
            config.ranks,
            adapter(&device).map_or_else(
                || config.device.to_string(),
                |adapter| format!("{} ({adapter})", config.device)
            )
        )];
        let planned = runs.iter().map(|run| PlannedRun::new(run.clone(), &images, &device));
        let mut planned = planned.collect::<Result<Vec<_>, _>>()?;
        heading.extend(buffers(&planned));
        let overridden =
            distinct(runs.iter().flat_map(|run| run.config.overridden.iter().cloned()));
        if !overridden.is_empty() {
            heading.push(format!("overrides of the recipe: {}", overridden.join(", ")));
        }
        // A run that is stopped before it starts changes no file.
        if process.any(stop.requested())? {
            return Err(AppError::Interrupted);
        }
        let directory = if first {
            Some(Arc::new(RunDirectory::claim(runs, &config, &data.fingerprint)?))
        } else {
            None
        };
        let out =
            directory.iter().flat_map(|directory| directory.out().as_os_str().as_encoded_bytes());
        let out = process
            .broadcast_bytes(out.copied().collect(), 0)
            .inspect_err(|_| directory.iter().for_each(|directory| directory.clean_up()))?;
        // `Config::resolve` has checked that the path is Unicode.
        config.out = String::from_utf8_lossy(&out).into_owned().into();
        planned.iter_mut().for_each(|planned| planned.run.config.out.clone_from(&config.out));
        if first {
            heading.iter().for_each(|line| print_line(line));
        }
        Ok(Self { runs: planned, config, device, images, directory, stop, display, first })
    }

    /// Trains with one method on all ranks and writes its report. `finished` are the earlier runs
    /// in the output directory.
    fn run(
        &self,
        planned: &PlannedRun,
        finished: &[RunReport],
        process: &mut dyn Collective,
    ) -> Result<RunReport, AppError> {
        let Self { device, images, stop, first, .. } = self;
        let PlannedRun { run: Run { method, config }, rehearsal, buffer_len, .. } = planned;
        let (method, buffer_len) = (*method, *buffer_len);
        let resumes = self.directory.as_ref().is_some_and(|directory| directory.resumes());
        let settings = config.settings(method, rehearsal.clone(), resumes);
        let echo = Value::Object(config.values());
        let plan = RunPlan {
            method,
            seed: config.seed,
            epochs: config.epochs,
            images: images_per_epoch(images, method, buffer_len),
            per_step: config.batch_size * config.ranks,
            capacity: buffer_len,
        };
        let tasks = plan.images.len();
        let alike: Vec<_> =
            finished.iter().filter(|report| report.tasks.len() == tasks).cloned().collect();
        let begin = self.directory.clone().map(|directory| -> Begin {
            Box::new(move || {
                directory.begin()?;
                Ok(CurvesLog::begin(
                    &directory.out().join(CURVES),
                    tasks,
                    &Comparison::new(&alike, CONFIG_FIELDS),
                )?)
            })
        });
        let progress = Progress::new(plan, self.display, begin, stop.clone());
        let workload = ImageRun { images, method, config };
        let experiment = Experiment::new(&workload, method, &settings);
        let experiment = experiment
            .with_configuration(echo)
            .with_device(device.clone())
            .with_observer(&progress);
        let rank = |collective| experiment.run(&Rank::new(collective));
        let report = match config.collective {
            CollectiveArg::Threads => {
                first_report(run_threads(config.ranks, |threads| rank(Box::new(threads))))
            }
            CollectiveArg::Mpi => rank(process.duplicate()?).map_err(AppError::from),
        };
        progress.finish();
        let report = report?;
        if *first {
            report.write(&config.out.join(method.to_string()))?;
        }
        Ok(report)
    }

    /// Runs the methods one after the other, up to a signal, and prints the results.
    fn run_all(&self, process: &mut dyn Collective) -> Result<ExitCode, AppError> {
        let mut reports = Vec::new();
        // All processes count the same, although only the first one has earlier reports.
        let mut ended = 0;
        let earlier = self.earlier();
        for planned in &self.runs {
            // A signal may have reached some processes only.
            let stop = process.any(self.stop.requested())?;
            // The first method always starts. It stops after its first step, and its report says
            // so.
            if stop && ended > 0 {
                break;
            }
            let done = self.directory.as_ref().and_then(|directory| directory.report(&planned.run));
            if !process.any(done.is_some())? {
                let finished = [earlier.as_slice(), &reports].concat();
                reports.push(self.run(planned, &finished, process)?);
            } else if let Some(done) = done {
                reports.push(done);
            }
            ended += 1;
        }
        let complete = ended == self.runs.len() && reports.iter().all(|report| report.complete);
        if self.first {
            print_line(&format!(
                "\n{LEGEND}\n\n{}",
                Comparison::new(&reports, CONFIG_FIELDS).table()
            ));
            draw(&[earlier.as_slice(), &reports].concat(), &self.config.out)?;
            reports.iter().filter_map(diverged).for_each(|warning| print_error(&warning));
            let left_out = reports.iter().map(|report| report.left_out).max().unwrap_or(0);
            if left_out > 0 {
                print_line(&format!("images left out because they are damaged: {left_out}"));
            }
            print_line(&format!("reports and figures: {}", self.config.out.display()));
            if !complete && self.config.checkpoint_every == CheckpointInterval::Never {
                print_line("not finished, without checkpoints; the same command starts over");
            } else if !complete {
                print_line("not finished; the same command resumes");
            }
        }
        if let Some(directory) = &self.directory {
            if complete {
                directory.finish()?;
            }
            directory.unlock();
        }
        // All processes return the same. A signal after the last step has no effect.
        Ok(if complete { ExitCode::SUCCESS } else { ExitCode::from(INTERRUPTED) })
    }

    /// The reports of earlier jobs with other methods in the output directory. They are part of the
    /// same web page.
    fn earlier(&self) -> Vec<RunReport> {
        let name = |planned: &PlannedRun| planned.run.method.name();
        let is_other = |method: &MethodRef| !self.runs.iter().any(|run| name(run) == method.name());
        let others = methods::ALL.iter().copied().filter(is_other);
        let read =
            |method: MethodRef| RunReport::read(&self.config.out.join(method.to_string())).ok();
        if self.first { others.filter_map(read).collect() } else { Vec::new() }
    }

    /// Runs [`run_all`](Self::run_all). A job that fails before its first report leaves no file.
    fn finish(self, process: &mut dyn Collective) -> Result<ExitCode, AppError> {
        self.run_all(process)
            .inspect_err(|_| self.directory.iter().for_each(|directory| directory.clean_up()))
    }
}

/// The number of incoming images per epoch, for each task. `buffer_len` is the capacity of the
/// buffer.
fn images_per_epoch(images: &Images, method: MethodRef, buffer_len: usize) -> Vec<usize> {
    let mut so_far = 0;
    let of_task = |task| {
        let images = images.stream.train(task).len();
        so_far += images;
        match method.training_data() {
            TrainingData::Task => images,
            TrainingData::AllTasks => so_far,
            TrainingData::Buffer => so_far.min(buffer_len),
        }
    };
    (0..images.stream.tasks()).map(of_task).collect()
}

/// `compare` and `train`: trains with some methods, one after the other.
pub fn run(flags: &Flags, methods: &[MethodRef]) -> Result<ExitCode, AppError> {
    let runs = config::resolve(flags, methods)?;
    let Some(Run { config, .. }) = runs.first() else {
        return Err(AppError::values("there is no method"));
    };
    transport::run_process(config, |process| {
        Job::prepare(&runs, config.clone(), process)?.finish(process)
    })
}

/// `report`: compares runs. Figures are written to `out`, or to the directory if there is one.
pub fn report(directories: &[PathBuf], out: Option<&Path>) -> Result<ExitCode, AppError> {
    let mut files = Vec::new();
    for directory in directories {
        let found =
            find_reports(directory, 2).map_err(AppError::io("read the directory", directory))?;
        if found.is_empty() {
            return Err(AppError::NoReport(directory.clone()));
        }
        files.extend(found);
    }
    // A run counts once, even if its directory and a parent directory are given.
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(std::fs::canonicalize(file).unwrap_or_else(|_| file.clone())));
    let reports = files.iter().map(|file| RunReport::read(file)).collect::<Result<Vec<_>, _>>()?;
    let comparison = Comparison::new(&reports, CONFIG_FIELDS);
    let table =
        if comparison.has_several_seeds() { comparison.merged_table() } else { comparison.table() };
    print_line(&format!("{LEGEND}\n\n{table}"));
    // Figures of several directories belong to none of them.
    let only = || {
        directories
            .first()
            .filter(|first| directories.len() == 1 && first.is_dir())
            .map(PathBuf::as_path)
    };
    match out.or_else(only) {
        Some(out) => {
            draw(&reports, out)?;
            print_line(&format!("figures: {}", out.display()));
        }
        None => print_line("figures: none; pass `--out DIR` to write them"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The reports in a directory and its subdirectories up to `levels` levels down. `path` may be a
/// report itself.
fn find_reports(path: &Path, levels: usize) -> std::io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = vec![path.join(REPORT_FILE)];
    found.retain(|file| file.is_file());
    if levels == 0 {
        return Ok(found);
    }
    let entries = std::fs::read_dir(path)?.flatten();
    let mut below: Vec<_> = entries.map(|entry| entry.path()).collect();
    below.retain(|path| path.is_dir());
    below.sort();
    for directory in below {
        found.extend(find_reports(&directory, levels - 1)?);
    }
    Ok(found)
}

/// A warning if the loss became infinite or NaN.
fn diverged(report: &RunReport) -> Option<String> {
    let point = report.curves.iter().find(|point| point.train_loss.is_none())?;
    let (method, task, epoch) = (&report.method, point.task + 1, point.epoch);
    Some(format!(
        "warning: {method}: the training loss was not finite in epoch {epoch} of task {task}; try a \
         lower `--learning-rate`"
    ))
}

fn draw(reports: &[RunReport], out: &Path) -> Result<(), AppError> {
    let comparison = Comparison::new(reports, CONFIG_FIELDS);
    write_atomically(&out.join("accuracy.svg"), &comparison.accuracy_svg())?;
    write_atomically(&out.join("phases.svg"), &comparison.phases_svg())?;
    write_atomically(&out.join("report.html"), &comparison.html())?;
    write_atomically(&out.join(CURVES), &comparison.curves_csv())?;
    write_atomically(&out.join("summary.csv"), &comparison.summary_csv())?;
    Ok(())
}

/// The report of rank 0, or the failure that explains the others: the error of the rank that failed
/// first, not of the ranks that noticed.
fn first_report(
    results: Vec<Result<RunReport, RankFailure<ExperimentError>>>,
) -> Result<RunReport, AppError> {
    let order = |result: &Result<RunReport, RankFailure<ExperimentError>>| match result {
        Err(RankFailure::Error { error, .. }) => (0, error.origin()),
        Err(_) => (0, ErrorOrigin::Local),
        Ok(_) => (1, ErrorOrigin::Local),
    };
    let first = results.into_iter().min_by_key(order);
    first
        .unwrap_or_else(|| Err(RankFailure::NotStarted { rank: 0, message: "no ranks".into() }))
        .map_err(AppError::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_rehearsal::error::RehearsalError;
    use burn_rehearsal_collective::CollectiveError;
    use burn_rehearsal_train::data_parallel::DataParallelError;
    use burn_rehearsal_train::evaluate::EvaluateError;

    fn shown(errors: Vec<ExperimentError>) -> String {
        let failures = errors
            .into_iter()
            .enumerate()
            .map(|(rank, error)| Err(RankFailure::Error { rank, error }));
        first_report(failures.collect()).unwrap_err().to_string()
    }

    #[test]
    fn the_rank_that_failed_first_is_shown() {
        let echoes = || {
            [
                ExperimentError::from(CollectiveError::PeerFailed { rank: 1, step: 3 }),
                RehearsalError::peer_failed(1, 3, "data").into(),
                DataParallelError::from(CollectiveError::PeerFailed { rank: 1, step: 3 }).into(),
                EvaluateError::Rank(1).into(),
                DataParallelError::RankFailed {
                    rank: 0,
                    step: 3,
                    reason: "rank 1 failed at step 3 (data)".into(),
                }
                .into(),
            ]
        };
        for echo in echoes() {
            let own = || ExperimentError::Data("the file a.jpg, which failed".into());
            assert_eq!(shown(vec![echo, own()]), "rank 1 failed: the file a.jpg, which failed");
        }
        let silent = CollectiveError::Silent {
            ranks: vec![1],
            step: 3,
            limit: std::time::Duration::from_secs(60),
        };
        assert_eq!(
            shown(vec![silent.into(), ExperimentError::Data("a.jpg".into())]),
            "rank 1 failed: a.jpg"
        );
        for echo in echoes().into_iter().take(4) {
            let reported =
                DataParallelError::RankFailed { rank: 1, step: 3, reason: "a.jpg".into() };
            assert_eq!(shown(vec![echo, reported.into()]), "rank 1 failed at step 3: a.jpg");
        }
    }

    #[test]
    fn the_error_of_a_process_does_not_name_its_rank() {
        let error = AppError::from(ExperimentError::Data("the file a.jpg".into()));
        assert_eq!(error.to_string(), "the file a.jpg");
    }

    #[test]
    fn comparisons_use_existing_options() {
        let values = Config::default().values();
        let ConfigFields { work, neutral, changed, headline } = CONFIG_FIELDS;
        for name in [work, neutral, headline].concat().into_iter().chain(changed) {
            assert!(values.contains_key(name), "{name}");
        }
    }

    #[test]
    fn a_panic_is_shown_before_errors_about_it() {
        let noticed = RankFailure::Error {
            rank: 0,
            error: CollectiveError::PeerFailed { rank: 1, step: 0 }.into(),
        };
        let panic = RankFailure::Panic { rank: 1, message: "index out of bounds".into() };
        assert_eq!(
            first_report(vec![Err(noticed), Err(panic)]).unwrap_err().to_string(),
            "rank 1 panicked: index out of bounds"
        );
    }
}
