//! The state of a run in progress, and its description.

use burn_rehearsal_train::epoch::Epoch;
use burn_rehearsal_train::experiment::ProgressSample;
use burn_rehearsal_train::methods::MethodRef;
use indicatif::FormattedDuration;
use std::time::{Duration, Instant};

/// Time constant of the smoothed rate.
const SMOOTHING: Duration = Duration::from_secs(5);

/// The size of a run.
#[derive(Debug, Clone)]
pub struct RunPlan {
    /// The method.
    pub method: MethodRef,
    /// The seed.
    pub seed: u64,
    /// Epochs per task.
    pub epochs: usize,
    /// Incoming images per epoch over all ranks, for each task.
    pub images: Vec<usize>,
    /// Incoming images per step over all ranks.
    pub per_step: usize,
    /// The capacity of the buffer in images, over all ranks.
    pub capacity: usize,
}

impl RunPlan {
    /// The number of incoming images of the run.
    pub fn total(&self) -> u64 {
        self.images.iter().map(|&images| (images * self.epochs) as u64).sum()
    }

    /// The number of incoming images before an epoch of a task.
    fn before(&self, task: usize, epoch: Epoch) -> u64 {
        let tasks: usize = self.images[..task].iter().map(|images| images * self.epochs).sum();
        (tasks + epoch.index() * self.images[task]) as u64
    }

    /// Task and epoch as text.
    pub fn epoch_label(&self, task: usize, epoch: Epoch) -> String {
        format!("task {}/{}  epoch {epoch}/{}", task + 1, self.images.len(), self.epochs)
    }
}

/// A running mean: sum and count.
#[derive(Debug, Clone, Copy, Default)]
struct Mean(f64, u32);

impl Mean {
    fn add(&mut self, value: f64) {
        (self.0, self.1) = (self.0 + value, self.1 + 1);
    }

    fn get(self) -> Option<f64> {
        (self.1 > 0).then(|| self.0 / f64::from(self.1))
    }
}

/// The state of a run.
#[derive(Debug)]
pub struct RunStatus {
    plan: RunPlan,
    /// The time at which training began in this process, and the number of images before.
    began: Option<(Instant, u64)>,
    task: usize,
    epoch: Epoch,
    /// Incoming images of this epoch so far, over all ranks.
    done: u64,
    loss: Mean,
    top1: Mean,
    /// The previous epoch and its top-1 accuracy. Its line is printed after the next epoch starts.
    earlier_top1: (Epoch, Mean),
    /// Images per second.
    rate: Option<f64>,
    /// The time of the last update of the rate, and `done` at that time.
    rated: Option<(Instant, u64)>,
    /// The sums at the start of the epoch.
    start: ProgressSample,
}

impl RunStatus {
    pub fn new(plan: RunPlan) -> Self {
        Self {
            plan,
            began: None,
            task: 0,
            epoch: Epoch::FIRST,
            done: 0,
            loss: Mean::default(),
            top1: Mean::default(),
            earlier_top1: (Epoch::FIRST, Mean::default()),
            rate: None,
            rated: None,
            start: ProgressSample::default(),
        }
    }

    /// Starts or resumes an epoch.
    pub fn begin(&mut self, task: usize, epoch: Epoch, reading: ProgressSample, now: Instant) {
        self.earlier_top1 = (self.epoch, self.top1);
        (self.task, self.epoch, self.done) = (task, epoch, 0);
        (self.loss, self.top1, self.start) = (Mean::default(), Mean::default(), reading);
        self.rated = Some((now, 0));
    }

    /// Adds the loss of a mini-batch.
    pub fn loss(&mut self, loss: f64) {
        self.loss.add(loss);
    }

    /// Adds the top-1 accuracy of a mini-batch, in percent.
    pub fn top1(&mut self, top1: f64) {
        self.top1.add(top1);
    }

    /// Records that this rank has trained on `items` of its `total` incoming images of the epoch.
    pub fn step(&mut self, items: usize, total: usize, now: Instant) {
        self.done = (self.plan.images[self.task] * items / total.max(1)) as u64;
        if self.began.is_none() {
            // A resumed epoch does not start at its first image.
            self.began = Some((now, self.position()));
            self.rated = Some((now, self.done));
        }
    }

    /// Incoming images of the run so far.
    pub fn position(&self) -> u64 {
        self.plan.before(self.task, self.epoch) + self.done
    }

    /// The training accuracy (top-1) of the current or previous epoch, in percent.
    pub fn top1_of(&self, epoch: Epoch) -> Option<f64> {
        if epoch == self.epoch {
            self.top1.get()
        } else {
            Some(self.earlier_top1.1).filter(|_| self.earlier_top1.0 == epoch)?.get()
        }
    }

    /// Task, epoch and step.
    pub fn label(&self) -> String {
        let steps = |images: usize| images.div_ceil(self.plan.per_step.max(1));
        let (step, last) = (steps(self.done as usize), steps(self.plan.images[self.task]));
        format!("{}  step {step}/{last}", self.plan.epoch_label(self.task, self.epoch))
    }

    /// The figures of this epoch so far.
    pub fn figures(&mut self, reading: ProgressSample, now: Instant) -> String {
        let rate = self.rate(now);
        figures(self.loss.get(), self.top1.get(), rate, self.start, reading, self.plan.capacity)
    }

    /// Images per second, smoothed.
    fn rate(&mut self, now: Instant) -> Option<f64> {
        let (at, done) = self.rated?;
        let time = now.saturating_duration_since(at).as_secs_f64();
        if self.done > done && time > 0.0 {
            let latest = (self.done - done) as f64 / time;
            let weight = 1.0 - (-time / SMOOTHING.as_secs_f64()).exp();
            self.rate = Some(self.rate.map_or(latest, |rate| rate + weight * (latest - rate)));
            self.rated = Some((now, self.done));
        }
        self.rate
    }

    /// The remaining time, if images take as long as before. Evaluations are included.
    pub fn eta(&self, now: Instant) -> String {
        let left = self.began.and_then(|(began, before)| {
            let done = self.position().checked_sub(before).filter(|&done| done > 0)?;
            let elapsed = now.saturating_duration_since(began).as_secs_f64();
            Duration::try_from_secs_f64(
                elapsed * self.plan.total().saturating_sub(self.position()) as f64 / done as f64,
            )
            .ok()
        });
        left.map_or("ETA –".into(), |left| format!("ETA {}", FormattedDuration(left)))
    }
}

/// Formats the loss, the top-1 accuracy, images per second, the share of time spent waiting for
/// data, the fill of the buffer, and the share of time spent waiting for the buffer.
pub fn figures(
    loss: Option<f64>,
    top1: Option<f64>,
    rate: Option<f64>,
    before: ProgressSample,
    now: ProgressSample,
    capacity: usize,
) -> String {
    let dash = || "–".to_string();
    let step = now.step.saturating_sub(before.step).as_secs_f64();
    let share = |time: Duration, earlier: Duration| {
        let part = time.saturating_sub(earlier).as_secs_f64();
        if step > 0.0 { format!("{:.1} %", 100.0 * part / step) } else { "–".into() }
    };
    let mut words = format!(
        "loss {}  top-1 {}  {} images/s  load {}",
        loss.map_or_else(dash, |loss| format!("{loss:.3}")),
        top1.map_or_else(dash, |top1| format!("{top1:.1} %")),
        rate.map_or_else(dash, |rate| format!("{rate:.0}")),
        share(now.load, before.load)
    );
    if let Some(stored) = now.stored {
        let fill = 100.0 * stored as f64 / capacity.max(1) as f64;
        words.push_str(&format!("  buffer {fill:.0} %  wait {}", share(now.wait, before.wait)));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> RunPlan {
        RunPlan {
            method: &burn_rehearsal_train::methods::Rehearsal,
            seed: 0,
            epochs: 3,
            images: vec![100, 50],
            per_step: 20,
            capacity: 40,
        }
    }

    #[test]
    fn position_rate_and_remaining_time_count_the_images_of_all_ranks() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut status = RunStatus::new(plan());
        status.begin(0, Epoch::from_number(2), ProgressSample::default(), start);
        assert!(status.label().ends_with("step 0/5"), "{}", status.label());
        assert_eq!(status.eta(start), "ETA –");
        // This rank has half of the images. 50 of 100 were done when this process began.
        status.step(25, 50, start);
        status.step(50, 50, start + 2 * second);
        assert_eq!(status.label(), "task 1/2  epoch 2/3  step 5/5");
        assert_eq!(status.eta(start + 2 * second), "ETA 00:00:10");
        status.loss(1.0);
        status.loss(2.0);
        status.top1(75.0);
        let reading =
            ProgressSample { step: 4 * second, load: second, wait: second / 100, stored: Some(10) };
        assert_eq!(
            status.figures(reading, start + 2 * second),
            "loss 1.500  top-1 75.0 %  25 images/s  load 25.0 %  buffer 25 %  wait 0.2 %"
        );
        status.begin(0, Epoch::from_number(3), reading, start + 2 * second);
        assert_eq!(
            (status.top1_of(Epoch::from_number(2)), status.top1_of(Epoch::from_number(3))),
            (Some(75.0), None)
        );
        let later = ProgressSample { step: 5 * second, load: second, stored: None, ..reading };
        assert_eq!(
            status.figures(later, start + 3 * second),
            "loss –  top-1 –  25 images/s  load 0.0 %"
        );
    }
}
