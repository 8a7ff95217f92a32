//! Shows the progress of a run, as a bar, as plain lines or in Burn's terminal interface, and
//! writes the log of epochs.

mod renderer;
mod status;
#[cfg(feature = "tui")]
mod tui;

pub use status::RunPlan;

use crate::cli::DisplayArg;
use crate::console::print_line;
use crate::error::AppError;
use crate::stop::Stop;
use burn::train::Interrupter;
use burn::train::renderer::MetricsRenderer;
use burn_rehearsal_report::CurvesLog;
use burn_rehearsal_train::compat::Renderer;
use burn_rehearsal_train::epoch::Epoch;
use burn_rehearsal_train::experiment::{
    CompletedEpoch, EpochSink, LaunchInfo, Observer, ProgressSample,
};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;
use renderer::ProgressRenderer;
use status::{RunStatus, figures};
use std::error::Error;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};
#[cfg(feature = "tui")]
use tui::Tui;

/// Minimum time between the lines of two epochs.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Time between two lines within a long epoch.
const LINE_WITHIN_EVERY: Duration = Duration::from_secs(60);

/// The display of progress, after `auto` is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// No display.
    None,
    /// A bar on a terminal.
    Bar,
    /// Lines of text.
    Plain,
    /// Burn's terminal interface.
    Tui,
}

impl Display {
    /// Resolves the option. Only the `first` process of a run shows progress.
    ///
    /// # Errors
    ///
    /// [`AppError::Option`] if this program does not include the terminal interface, or standard
    /// output is not a terminal.
    pub fn choose(asked: DisplayArg, first: bool) -> Result<Self, AppError> {
        let wrong = |reason: &str| Err(AppError::option("display", "tui", reason));
        match asked {
            DisplayArg::Tui if !cfg!(feature = "tui") => {
                wrong("this program was built without it; build it with `--features tui`")
            }
            _ if !first => Ok(Self::None),
            DisplayArg::Tui if !std::io::stdout().is_terminal() => {
                wrong("standard output is not a terminal")
            }
            DisplayArg::Tui => Ok(Self::Tui),
            DisplayArg::None => Ok(Self::None),
            DisplayArg::Auto | DisplayArg::Bar if std::io::stderr().is_terminal() => Ok(Self::Bar),
            DisplayArg::Auto | DisplayArg::Bar | DisplayArg::Plain => Ok(Self::Plain),
        }
    }
}

/// Creates the log of epochs. Called before the first file is written.
pub type Begin = Box<dyn Fn() -> Result<CurvesLog, AppError> + Send + Sync>;

/// Observes one run and shows its progress.
pub struct Progress {
    shared: Arc<Shared>,
    stop: Stop,
    #[cfg(feature = "tui")]
    tui: Option<Tui>,
}

/// State that the threads of a run share.
pub struct Shared {
    display: Display,
    bar: ProgressBar,
    plan: RunPlan,
    begin: Option<Begin>,
    pub status: Mutex<RunStatus>,
    began: Instant,
    /// The time of the last line of an epoch.
    last_line: Mutex<Option<Instant>>,
    log: Mutex<Log>,
    /// Lines to print after the terminal interface is closed.
    kept: Mutex<Vec<String>>,
}

/// The log of epochs.
struct Log {
    /// `None` before the run has started, in all processes but the first, and after an error.
    curves: Option<CurvesLog>,
    /// The last epoch of a task, until its accuracies are measured.
    pending: Option<CompletedEpoch>,
}

impl Progress {
    /// Shows a run with `display`. Once the start has succeeded, `begin` creates the log that
    /// epochs are appended to.
    pub fn new(plan: RunPlan, display: Display, begin: Option<Begin>, stop: Stop) -> Self {
        let bar = if display == Display::Bar {
            ProgressBar::new(plan.total())
        } else {
            ProgressBar::hidden()
        };
        // Both lines fit in 80 columns: the position, and below it the figures.
        let template =
            format!("{:>12} {{bar:12}} {{prefix}}\n    {{wide_msg}}", plan.method.name());
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        #[cfg(feature = "tui")]
        let tui = (display == Display::Tui).then(|| Tui::new(&plan, stop.clone()));
        let shared = Shared {
            display,
            bar,
            status: Mutex::new(RunStatus::new(plan.clone())),
            plan,
            begin,
            began: Instant::now(),
            last_line: Mutex::default(),
            log: Mutex::new(Log { curves: None, pending: None }),
            kept: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
            stop,
            #[cfg(feature = "tui")]
            tui,
        }
    }

    /// Closes the bar or the terminal interface.
    pub fn finish(self) {
        self.shared.bar.finish_and_clear();
        #[cfg(feature = "tui")]
        drop(self.tui);
        self.shared.kept.lock().drain(..).for_each(|line| print_line(&line));
    }
}

impl Observer for Progress {
    fn ready(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        if let Some(begin) = &self.shared.begin {
            self.shared.log.lock().curves = Some(begin()?);
        }
        Ok(())
    }

    fn renderer(&self, launch: &LaunchInfo) -> Box<dyn MetricsRenderer> {
        #[cfg(feature = "tui")]
        if let Some(tui) = &self.tui {
            return Box::new(Renderer(tui.renderer(launch)));
        }
        Box::new(Renderer(ProgressRenderer::new(self.shared.clone(), launch)))
    }

    fn buffer_metrics(&self) -> bool {
        self.shared.display == Display::Tui
    }

    fn epochs(&self, launch: &LaunchInfo) -> EpochSink {
        let (shared, reader) = (self.shared.clone(), launch.reader.clone());
        let mut before = reader.read();
        Box::new(move |epoch| {
            shared.keep(epoch);
            let now = reader.read();
            let earlier = std::mem::replace(&mut before, now);
            let measured = !epoch.point.top1.is_empty();
            let shown = match shared.display {
                Display::Plain => true,
                Display::Bar => measured,
                Display::None | Display::Tui => false,
            };
            if !shown {
                return;
            }
            let top1 = shared.status.lock().top1_of(epoch.point.epoch);
            let mut words = figures(
                epoch.point.train_loss,
                top1,
                epoch.time.samples_per_s(),
                earlier,
                now,
                shared.plan.capacity,
            );
            if measured {
                let seen = epoch.point.top1.iter().take(epoch.point.task + 1);
                words.push_str(&format!("  per task [{}]", percentages(seen.copied().flatten())));
            }
            let label = shared.plan.epoch_label(epoch.point.task, epoch.point.epoch);
            let eta = shared.status.lock().eta(Instant::now());
            // Evaluations are always shown.
            let every = if measured { Duration::ZERO } else { LINE_EVERY };
            shared.line(every, true, || format!("{label}  {words}  {eta}"));
        })
    }

    fn resumed(
        &self,
        task: usize,
        within: Option<(Epoch, u64)>,
        earlier_world_size: usize,
        epochs: &[CompletedEpoch],
    ) {
        epochs.iter().for_each(|epoch| self.shared.keep(epoch));
        let tasks = self.shared.plan.images.len();
        let label = match within {
            None => format!("task {}/{tasks}", task + 1),
            Some((epoch, steps)) => {
                format!("task {}/{tasks}, epoch {epoch}, after {steps} steps of it", task + 1)
            }
        };
        self.shared.print(&format!("resumes with {label} (written by {earlier_world_size} ranks)"));
    }

    fn evaluated(&self, task: usize, top1: &[f64]) {
        self.shared.keep_evaluated(top1);
        let seen = &top1[..=task];
        let average = seen.iter().sum::<f64>() / seen.len() as f64;
        let (tasks, each) = (self.shared.plan.images.len(), percentages(seen.iter().copied()));
        self.shared.print(&format!(
            "task {}/{tasks}  average top-1 {:5.1} %  per task [{each}]",
            task + 1,
            average * 100.0
        ));
    }

    fn interrupter(&self, interrupter: &Interrupter) {
        self.stop.add(interrupter);
    }
}

impl Shared {
    /// Updates the display. Called at most a few times per second.
    pub fn show(&self, reading: ProgressSample) {
        let now = Instant::now();
        let words = || {
            let mut status = self.status.lock();
            self.bar.set_position(status.position());
            (status.label(), status.figures(reading, now), status.eta(now))
        };
        match self.display {
            Display::Bar => {
                let (label, figures, eta) = words();
                self.bar.set_prefix(format!("{label}  {eta}"));
                self.bar.set_message(figures);
            }
            Display::Plain => self.line(LINE_WITHIN_EVERY, false, || {
                let (label, figures, eta) = words();
                format!("{label}  {figures}  {eta}")
            }),
            Display::None | Display::Tui => {}
        }
    }

    /// Prints a line unless less than `every` has passed since the last one. The first line is
    /// printed immediately if `first` is true, otherwise `every` after the start.
    fn line(&self, every: Duration, first: bool, words: impl FnOnce() -> String) {
        let mut last = self.last_line.lock();
        let now = Instant::now();
        let due = match *last {
            Some(last) => now.saturating_duration_since(last) >= every,
            None => first || now.saturating_duration_since(self.began) >= every,
        };
        if due {
            self.print(&words());
            *last = Some(now);
        }
    }

    /// Prints a line about the run, unless its display is `None`.
    fn print(&self, words: &str) {
        let line = format!("{:>12}  {words}", self.plan.method.name());
        match self.display {
            Display::None => {}
            Display::Plain => print_line(&line),
            Display::Bar => self.bar.suspend(|| print_line(&line)),
            Display::Tui => self.kept.lock().push(line),
        }
    }

    /// Logs an epoch. The last epoch of a task is logged when its accuracies are measured.
    fn keep(&self, epoch: &CompletedEpoch) {
        let mut log = self.log.lock();
        if epoch.point.epoch.number() == self.plan.epochs && epoch.point.top1.is_empty() {
            log.pending = Some(epoch.clone());
        } else {
            log.write(&self.plan, epoch);
        }
    }

    /// Logs the last epoch of a task with its accuracies.
    fn keep_evaluated(&self, top1: &[f64]) {
        let mut log = self.log.lock();
        if let Some(mut epoch) = log.pending.take() {
            epoch.point.top1 = top1.iter().copied().map(Some).collect();
            log.write(&self.plan, &epoch);
        }
    }
}

impl Log {
    fn write(&mut self, plan: &RunPlan, epoch: &CompletedEpoch) {
        let Some(curves) = &mut self.curves else { return };
        if let Err(error) = curves.append(plan.method.name(), plan.seed, &epoch.point, epoch.time) {
            // The report contains all epochs, so the run continues without the log.
            tracing::warn!(%error, "no more epochs are logged");
            self.curves = None;
        }
    }
}

fn percentages(fractions: impl Iterator<Item = f64>) -> String {
    fractions.map(|fraction| format!("{:5.1}", fraction * 100.0)).collect::<Vec<_>>().join(" ")
}
