//! What a person sees while a run goes on: a bar on a terminal, plain lines elsewhere.

use crate::say::say;
use crate::stop::Stop;
use burn::train::Interrupter;
use burn::train::LearnerSummary;
use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, NumericEntry};
use burn::train::renderer::{EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation, MetricsRendererTraining};
use burn_rehearsal_train::experiment::Observer;
use burn_rehearsal_train::report::schema::Method;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;

/// Watches one run.
pub struct Progress {
    bar: ProgressBar,
    method: Method,
    tasks: usize,
    epochs: usize,
    stop: Stop,
}

impl Progress {
    /// A display for a run of `tasks` tasks of `epochs` epochs. One process of a run `speaks`.
    pub fn new(method: Method, tasks: usize, epochs: usize, stop: Stop, speaks: bool) -> Self {
        let bar = if speaks && std::io::stderr().is_terminal() { ProgressBar::new((tasks * epochs) as u64) } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{prefix:>12} {bar:16} epoch {pos}/{len}  {msg}  {elapsed} (ETA {eta})") {
            bar.set_style(style);
        }
        bar.set_prefix(method.to_string());
        Self { bar, method, tasks, epochs, stop }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Progress {
    fn renderer(&self, task: usize) -> Box<dyn MetricsRenderer> {
        Box::new(Renderer { bar: self.bar.clone(), first: task * self.epochs, task, tasks: self.tasks, epoch: 0, loss: String::new() })
    }

    fn resumed(&self, task: usize, within: Option<(usize, u64)>, earlier_world_size: usize) {
        let place = match within {
            None => format!("task {}/{}", task + 1, self.tasks),
            Some((epoch, steps)) => format!("task {}/{}, epoch {epoch}, after {steps} steps of it", task + 1, self.tasks),
        };
        let line = format!("{:>12}  goes on with {place} (written by {earlier_world_size} ranks)", self.method.to_string());
        self.bar.suspend(|| say(&line));
    }

    fn evaluated(&self, task: usize, top1: &[f64]) {
        let average = top1[..=task].iter().sum::<f64>() / (task + 1) as f64;
        let each: Vec<_> = top1[..=task].iter().map(|accuracy| format!("{:5.1}", accuracy * 100.0)).collect();
        let line = format!(
            "{:>12}  task {}/{}  average top-1 {:5.1} %  per task [{}]",
            self.method.to_string(),
            task + 1,
            self.tasks,
            average * 100.0,
            each.join(" ")
        );
        self.bar.suspend(|| say(&line));
    }

    fn interrupter(&self, interrupter: &Interrupter) {
        self.stop.add(interrupter);
    }
}

/// Moves the bar; called by Burn's training on a thread of its own.
struct Renderer {
    bar: ProgressBar,
    /// Epochs before this task.
    first: usize,
    task: usize,
    tasks: usize,
    epoch: usize,
    loss: String,
}

impl Renderer {
    fn show(&self) {
        self.bar.set_message(format!("task {}/{}  {}", self.task + 1, self.tasks, self.loss));
    }
}

impl MetricsRendererTraining for Renderer {
    fn update_train(&mut self, state: MetricState) {
        let MetricState::Numeric(_, Some(NumericEntry::Value(loss) | NumericEntry::Aggregated { aggregated_value: loss, .. })) = state
        else {
            return;
        };
        self.loss = format!("loss {loss:.3}");
        self.show();
    }

    fn update_valid(&mut self, _state: MetricState) {}

    fn on_train_end(&mut self, _summary: Option<LearnerSummary>) -> Result<(), Box<dyn core::error::Error>> {
        Ok(())
    }
}

impl MetricsRendererEvaluation for Renderer {
    fn update_test(&mut self, _name: EvaluationName, _state: MetricState) {}

    fn on_test_end(&mut self, _summary: Option<LearnerSummary>) -> Result<(), Box<dyn core::error::Error>> {
        Ok(())
    }
}

impl TrainingProgressLogger for Renderer {
    fn start(&mut self, _epochs: usize, _first: usize, _items: Option<usize>, _label: Option<&str>) {}

    fn update_epoch(&mut self, epoch: usize) {
        self.epoch = epoch;
        self.bar.set_position((self.first + epoch) as u64);
        self.show();
    }

    fn start_split(&mut self, _split: &str, _items: usize) {}

    fn update_split(&mut self, _items: usize) {}

    fn end_split(&mut self) {}

    fn end(&mut self) {}

    fn log_event_training(&mut self, _event: String) {}
}

impl EvaluationProgressLogger for Renderer {
    fn start_global_progress(&mut self, _tests: usize) {}

    fn start_test(&mut self, _name: &str, _items: usize) {}

    fn update_test_progress(&mut self, _items: usize) {}

    fn end_test(&mut self) {}

    fn end_global_progress(&mut self) {}

    fn log_event_evaluation(&mut self, _event: String) {}
}

impl MetricsRenderer for Renderer {
    fn manual_close(&mut self) {}

    fn register_metric(&mut self, _definition: MetricDefinition) {}
}
