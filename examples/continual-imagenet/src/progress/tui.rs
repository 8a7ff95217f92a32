//! Burn's terminal interface, one for all tasks of a run. The terminal is always restored.

use crate::progress::RunPlan;
use crate::stop::Stop;
use burn::train::Interrupter;
use burn::train::logger::TrainingProgressLogger;
use burn::train::metric::MetricDefinition;
use burn::train::renderer::tui::TuiMetricsRendererWrapper;
use burn::train::renderer::{MetricState, MetricsRenderer, MetricsRendererTraining};
use burn_rehearsal_train::compat::TrainingView;
use burn_rehearsal_train::epoch::Epoch;
use burn_rehearsal_train::experiment::LaunchInfo;
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The interface of one run. Dropping it restores the terminal.
pub struct Tui {
    interface: Interface,
    plan: RunPlan,
    stop: Stop,
}

/// The interface, shared by the renderers of all tasks.
#[derive(Clone)]
struct Interface {
    /// `None` after it is closed.
    inner: Arc<Mutex<Option<TuiMetricsRendererWrapper>>>,
    /// Stopped by the menu of the interface. The ranks have interrupters of their own, because Burn
    /// resets those after each launch.
    quit: Interrupter,
}

impl Tui {
    /// Opens the interface.
    pub fn new(plan: &RunPlan, stop: Stop) -> Self {
        let terminal = terminal::Terminal::open();
        let quit = Interrupter::new();
        let inner = TuiMetricsRendererWrapper::new(quit.clone(), None);
        terminal.keep_signals();
        stop.before_exit(move || terminal.restore());
        Self {
            interface: Interface { inner: Arc::new(Mutex::new(Some(inner))), quit },
            plan: plan.clone(),
            stop,
        }
    }

    /// A renderer of one launch of Burn's training.
    pub fn renderer(&self, launch: &LaunchInfo) -> TuiRenderer {
        TuiRenderer {
            interface: self.interface.clone(),
            stop: self.stop.clone(),
            label: format!(
                "{}, task {}/{}",
                self.plan.method,
                launch.task + 1,
                self.plan.images.len()
            ),
            epochs: self.plan.images.len() * self.plan.epochs,
            before: launch.task * self.plan.epochs,
        }
    }
}

impl Drop for Tui {
    fn drop(&mut self) {
        let inner = self.interface.inner.lock().take();
        // After "kill" in its menu, the interface panics again, with the terminal restored. The
        // error of the run is printed instead.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(inner)));
        self.stop.before_exit(|| {});
    }
}

/// Shows one launch. Epochs are counted over all tasks.
pub struct TuiRenderer {
    interface: Interface,
    stop: Stop,
    label: String,
    /// Epochs of the run.
    epochs: usize,
    /// Epochs of earlier tasks.
    before: usize,
}

impl TuiRenderer {
    fn with(&self, show: impl FnOnce(&mut TuiMetricsRendererWrapper)) {
        if let Some(inner) = &mut *self.interface.inner.lock() {
            show(inner);
        }
        if self.interface.quit.should_stop() {
            self.stop.request();
        }
    }
}

impl TrainingView for TuiRenderer {
    fn start(&mut self, first: Epoch, items: Option<usize>) {
        self.with(|inner| {
            inner.start(self.epochs, self.before + first.number(), items, Some(&self.label))
        });
    }

    fn start_split(&mut self, split: &str, items: usize) {
        self.with(|inner| inner.start_split(split, items));
    }

    fn update_split(&mut self, items: usize) {
        self.with(|inner| inner.update_split(items));
    }

    fn end_split(&mut self) {
        self.with(TrainingProgressLogger::end_split);
    }

    fn end_epoch(&mut self, epoch: Epoch) {
        self.with(|inner| inner.update_epoch(self.before + epoch.number()));
    }

    fn register_metric(&mut self, definition: MetricDefinition) {
        self.with(|inner| inner.register_metric(definition));
    }

    fn update_train(&mut self, state: MetricState) {
        self.with(|inner| inner.update_train(state));
    }

    fn update_valid(&mut self, state: MetricState) {
        self.with(|inner| inner.update_valid(state));
    }

    fn event(&mut self, event: String) {
        self.with(|inner| inner.log_event_training(event));
    }
}

/// Changes of terminal settings, and how to undo them.
#[cfg(unix)]
mod terminal {
    use crossterm::cursor::Show;
    use crossterm::event::DisableMouseCapture;
    use crossterm::terminal::LeaveAlternateScreen;
    use rustix::termios::{
        LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
    };
    use std::fs::File;
    use std::time::Duration;

    /// The controlling terminal and its settings.
    pub struct Terminal(Option<(File, Termios)>);

    impl Terminal {
        pub fn open() -> Self {
            let file = File::open("/dev/tty").ok();
            Self(file.and_then(|file| tcgetattr(&file).ok().map(|settings| (file, settings))))
        }

        /// Makes Ctrl-C a signal, as in the other displays. The interface makes it a key, on its
        /// own thread, some time after it is opened. The keys that suspend or quit a program stay
        /// keys, because as signals they would leave the terminal in raw mode.
        pub fn keep_signals(&self) {
            let Some((file, _)) = &self.0 else { return };
            for _ in 0..100 {
                match tcgetattr(file) {
                    Ok(mut settings) if !settings.local_modes.contains(LocalModes::ICANON) => {
                        settings.local_modes |= LocalModes::ISIG;
                        settings.special_codes[SpecialCodeIndex::VSUSP] = 0;
                        settings.special_codes[SpecialCodeIndex::VQUIT] = 0;
                        // If this fails, the menu of the interface still stops the run.
                        let _ = tcsetattr(file, OptionalActions::Now, &settings);
                        return;
                    }
                    Ok(_) => std::thread::sleep(Duration::from_millis(10)),
                    Err(_) => return,
                }
            }
        }

        /// Restores the terminal before the program ends immediately.
        pub fn restore(&self) {
            // This fails if the terminal was closed.
            let _ = crossterm::execute!(
                std::io::stdout(),
                DisableMouseCapture,
                LeaveAlternateScreen,
                Show
            );
            if let Some((file, settings)) = &self.0 {
                let _ = tcsetattr(file, OptionalActions::Now, settings);
            }
        }
    }
}

/// On other systems only the menu of the interface stops the run.
#[cfg(not(unix))]
mod terminal {
    pub struct Terminal;

    impl Terminal {
        pub fn open() -> Self {
            Self
        }

        pub fn keep_signals(&self) {}

        pub fn restore(&self) {
            use crossterm::terminal::{LeaveAlternateScreen, disable_raw_mode};
            let _ = disable_raw_mode();
            let _ = crossterm::execute!(
                std::io::stdout(),
                crossterm::event::DisableMouseCapture,
                LeaveAlternateScreen,
                crossterm::cursor::Show
            );
        }
    }
}
