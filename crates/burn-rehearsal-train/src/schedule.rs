//! The learning-rate schedule of a task: linear warm-up, scaling with the number of ranks, then
//! steps.
//!
//! On N ranks a step has N times as many rows. The learning rate grows with them, up to a cap,
//! after a gradual warm-up (Goyal et al., "Accurate, Large Minibatch SGD", arXiv 1706.02677). Every
//! task starts the schedule again.

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};
use burn::optim::LearningRate;
use std::fmt;
use std::str::FromStr;

/// An invalid schedule.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScheduleError {
    /// The base learning rate is not a positive, finite number.
    #[error("the learning rate must be positive and finite, not {0}")]
    BaseRate(f64),
    /// There are no ranks.
    #[error("the world size must be at least 1, not 0")]
    WorldSize,
    /// The cap on scaling with the world size is below 1 or not a number.
    #[error("the cap on learning-rate scaling must be at least 1, not {0}")]
    Cap(f64),
    /// A factor is not a positive, finite number.
    #[error(
        "the learning-rate factor from step {step} on must be positive and finite, not {factor}"
    )]
    Factor {
        /// The step of the milestone.
        step: u64,
        /// Its factor.
        factor: f64,
    },
    /// Milestones are not in increasing order, or lie within the warm-up.
    #[error("the learning-rate milestone at step {step} must come after step {after}")]
    MilestoneOrder {
        /// The step of the milestone.
        step: u64,
        /// The step after which it must come.
        after: u64,
    },
    /// The text is not a list of milestones, for this reason.
    #[error("{0}")]
    Milestones(&'static str),
}

/// Steps of the learning rate within a task: pairs of an epoch and a factor of the peak rate, which
/// can be parsed from text. Epochs increase. Epochs and factors are above 0. See
/// [`WarmupSchedule::with_milestones`].
///
/// ```
/// use burn_rehearsal_train::schedule::Milestones;
///
/// let milestones: Milestones = "21:0.5,26:0.05".parse()?;
/// assert_eq!(milestones.pairs(), [(21.0, 0.5), (26.0, 0.05)]);
/// assert_eq!(milestones.to_string(), "21:0.5,26:0.05");
/// assert!("none".parse::<Milestones>()?.pairs().is_empty());
/// # Ok::<(), burn_rehearsal_train::schedule::ScheduleError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Milestones(Vec<(f64, f64)>);

impl Milestones {
    /// Pairs of the first epoch (from 0, may be fractional) and the factor of the peak rate.
    pub fn pairs(&self) -> &[(f64, f64)] {
        &self.0
    }
}

/// Parses `epoch:factor,…` or `none`.
impl FromStr for Milestones {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if text == "none" {
            return Ok(Self::default());
        }
        let mut milestones: Vec<(f64, f64)> = Vec::new();
        for part in text.split(',') {
            let pair = part.split_once(':').and_then(|(epoch, factor)| {
                Some((epoch.trim().parse().ok()?, factor.trim().parse().ok()?))
            });
            let Some((epoch, factor)) = pair else {
                return Err(ScheduleError::Milestones(
                    "expected epochs and factors (21:0.5,26:0.05), or `none`",
                ));
            };
            let usable = |value: f64| value.is_finite() && value > 0.0;
            if !usable(epoch) || !usable(factor) {
                return Err(ScheduleError::Milestones("epochs and factors must be above 0"));
            }
            if milestones.last().is_some_and(|(last, _)| *last >= epoch) {
                return Err(ScheduleError::Milestones("epochs must increase"));
            }
            milestones.push((epoch, factor));
        }
        Ok(Self(milestones))
    }
}

impl fmt::Display for Milestones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let each: Vec<String> =
            self.0.iter().map(|(epoch, factor)| format!("{epoch}:{factor}")).collect();
        f.write_str(&each.join(","))
    }
}

/// Linear warm-up from `base` to the peak rate `base × min(world size, cap)`, then constant
/// factors of the peak rate.
///
/// With a warm-up of w steps, the rate of step s (from 0) is `base + (peak − base) · s / w` for s <
/// w, and `peak · f(s)` afterwards. `f(s)` is the factor of the last milestone at or before s, or 1
/// without one.
///
/// ```
/// use burn_rehearsal_train::schedule::WarmupSchedule;
///
/// // 8 ranks; at most 4 times the base rate, after 100 steps; a tenth of it from step 500 on.
/// let schedule = WarmupSchedule::new(0.1, 8, 4.0, 100)?.with_milestones(&[(500, 0.1)])?;
/// assert_eq!(schedule.rate_at(0), 0.1);
/// assert_eq!(schedule.rate_at(100), 0.4);
/// assert_eq!(schedule.rate_at(500), 0.4 * 0.1);
/// # Ok::<(), burn_rehearsal_train::schedule::ScheduleError>(())
/// ```
///
/// The record of a schedule holds all of its values, so loading a record replaces the whole
/// schedule. A new task restarts it in a [`Learner`](burn::train::Learner) with
/// `learner.load_scheduler(schedule.restart_record())`.
#[derive(Debug, Clone, PartialEq)]
pub struct WarmupSchedule {
    base: f64,
    top: f64,
    warmup: u64,
    /// Pairs of the first step and the factor of `top`. The steps increase strictly.
    milestones: Vec<(u64, f64)>,
    step: u64,
}

impl WarmupSchedule {
    /// Creates a schedule for `world_size` ranks that reaches the peak rate `base × min(world_size,
    /// cap)` after `warmup` steps.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] for a base rate that is not positive and finite, a world size of 0, or a
    /// cap below 1.
    pub fn new(
        base: LearningRate,
        world_size: usize,
        cap: f64,
        warmup: u64,
    ) -> Result<Self, ScheduleError> {
        if !base.is_finite() || base <= 0.0 {
            return Err(ScheduleError::BaseRate(base));
        }
        if world_size == 0 {
            return Err(ScheduleError::WorldSize);
        }
        if cap.is_nan() || cap < 1.0 {
            return Err(ScheduleError::Cap(cap));
        }
        Ok(Self {
            base,
            top: base * (world_size as f64).min(cap),
            warmup,
            milestones: Vec::new(),
            step: 0,
        })
    }

    /// Multiplies the peak rate by a factor from each given step on. Factors do not accumulate.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] for a factor that is not positive and finite, or steps that do not
    /// increase or lie within the warm-up.
    pub fn with_milestones(mut self, milestones: &[(u64, f64)]) -> Result<Self, ScheduleError> {
        let mut after = self.warmup.checked_sub(1);
        for &(step, factor) in milestones {
            if !factor.is_finite() || factor <= 0.0 {
                return Err(ScheduleError::Factor { step, factor });
            }
            if let Some(after) = after.filter(|&after| step <= after) {
                return Err(ScheduleError::MilestoneOrder { step, after });
            }
            after = Some(step);
        }
        self.milestones = milestones.to_vec();
        Ok(self)
    }

    /// Continues the schedule at `step`.
    pub fn at_step(mut self, step: u64) -> Self {
        self.step = step;
        self
    }

    /// The learning rate of a step, from 0.
    pub fn rate_at(&self, step: u64) -> LearningRate {
        if step < self.warmup {
            return self.base + (self.top - self.base) * (step as f64 / self.warmup as f64);
        }
        let factor = self
            .milestones
            .iter()
            .rev()
            .find(|(from, _)| *from <= step)
            .map_or(1.0, |(_, factor)| *factor);
        self.top * factor
    }

    /// A record that restarts this schedule in any [`Learner`](burn::train::Learner) with a
    /// `WarmupSchedule`.
    pub fn restart_record(&self) -> LrSchedulerRecord {
        // The learner keeps its schedulers in groups. Burn's own type knows the layout of that
        // record.
        ModuleLrScheduler::new(Self { step: 0, ..self.clone() }).to_record()
    }

    fn from_record(record: &LrSchedulerRecord) -> Option<Self> {
        let count: u64 = record.scalar("milestones")?;
        let milestones = (0..count)
            .map(|i| {
                Some((
                    record.scalar(&format!("milestone_{i}_step"))?,
                    record.scalar(&format!("milestone_{i}_factor"))?,
                ))
            })
            .collect::<Option<Vec<(u64, f64)>>>()?;
        Some(Self {
            base: record.scalar("base")?,
            top: record.scalar("top")?,
            warmup: record.scalar("warmup")?,
            milestones,
            step: record.scalar("step")?,
        })
    }
}

impl LrScheduler for WarmupSchedule {
    fn step(&mut self) -> LearningRate {
        let rate = self.rate_at(self.step);
        self.step += 1;
        rate
    }

    fn to_record(&self) -> LrSchedulerRecord {
        let mut record = LrSchedulerRecord::new()
            .with_scalar("base", self.base)
            .with_scalar("top", self.top)
            .with_scalar("warmup", self.warmup)
            .with_scalar("step", self.step)
            .with_scalar("milestones", self.milestones.len() as u64);
        for (i, (step, factor)) in self.milestones.iter().enumerate() {
            record = record
                .with_scalar(&format!("milestone_{i}_step"), *step)
                .with_scalar(&format!("milestone_{i}_factor"), *factor);
        }
        record
    }

    /// Replaces the whole schedule. A record of another scheduler is ignored with a warning, since
    /// Burn's signature has no error.
    fn load_record(&mut self, record: LrSchedulerRecord) {
        match Self::from_record(&record) {
            Some(schedule) => *self = schedule,
            None => {
                tracing::warn!("ignored a learning-rate record of another scheduler")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule() -> WarmupSchedule {
        WarmupSchedule::new(0.1, 8, 4.0, 4)
            .unwrap()
            .with_milestones(&[(6, 0.5), (8, 0.05)])
            .unwrap()
    }

    #[test]
    fn the_rate_warms_up_linearly_to_the_cap_and_then_steps_down() {
        let mut schedule = schedule();
        let rates: Vec<f64> = (0..10).map(|_| schedule.step()).collect();
        let expected = [0.1, 0.175, 0.25, 0.325, 0.4, 0.4, 0.2, 0.2, 0.02, 0.02];
        for (rate, expected) in rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-12, "{rates:?}");
        }
    }

    #[test]
    fn the_rate_is_constant_without_warm_up_or_on_one_rank() {
        assert_eq!(WarmupSchedule::new(0.1, 2, 64.0, 0).unwrap().rate_at(0), 0.2);
        assert_eq!(WarmupSchedule::new(0.1, 1, 64.0, 10).unwrap().rate_at(3), 0.1);
    }

    #[test]
    fn a_record_replaces_the_whole_schedule() {
        let mut first = schedule();
        (0..5).for_each(|_| {
            first.step();
        });
        let mut other = WarmupSchedule::new(3.0, 1, 1.0, 0).unwrap();
        other.load_record(first.to_record());
        assert_eq!(other, first);
        other.load_record(LrSchedulerRecord::new());
        assert_eq!(other, first, "a foreign record changes nothing");

        let mut restarted = ModuleLrScheduler::new(other).load_record(first.restart_record());
        assert_eq!(restarted.step().base(), 0.1);
    }

    #[test]
    fn milestones_are_pairs_of_epochs_and_factors_or_none() {
        for text in ["none", "1.5:0.1", "21:0.5,26:0.05,28:0.01"] {
            assert_eq!(text.parse::<Milestones>().unwrap().to_string(), text);
        }
        for wrong in ["", "5", "5:0", "0:1", "5:0.1,5:0.2", "5:x", "nan:1"] {
            assert!(
                matches!(wrong.parse::<Milestones>(), Err(ScheduleError::Milestones(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn invalid_schedules_are_refused() {
        assert_eq!(WarmupSchedule::new(0.0, 1, 1.0, 0), Err(ScheduleError::BaseRate(0.0)));
        assert_eq!(WarmupSchedule::new(0.1, 0, 1.0, 0), Err(ScheduleError::WorldSize));
        assert_eq!(WarmupSchedule::new(0.1, 1, 0.5, 0), Err(ScheduleError::Cap(0.5)));
        let base = WarmupSchedule::new(0.1, 1, 1.0, 4).unwrap();
        assert_eq!(
            base.clone().with_milestones(&[(3, 0.5)]),
            Err(ScheduleError::MilestoneOrder { step: 3, after: 3 })
        );
        assert_eq!(
            base.clone().with_milestones(&[(5, 0.5), (5, 0.1)]),
            Err(ScheduleError::MilestoneOrder { step: 5, after: 5 })
        );
        assert_eq!(
            base.with_milestones(&[(5, -1.0)]),
            Err(ScheduleError::Factor { step: 5, factor: -1.0 })
        );
    }
}
