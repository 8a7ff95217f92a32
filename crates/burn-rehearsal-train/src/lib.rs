//! Data-parallel continual learning for Burn, on top of [`burn_rehearsal`].
//!
//! * [`data_parallel`]: a learning strategy for Burn's `SupervisedTraining` that trains one network on many ranks.
//! * [`augment`]: data augmentation on the device, one mini-batch at a time.
//! * [`stream`]: which samples arrive with which task.
//! * [`experiment`]: a whole run, with one of the methods of [`report::schema::Method`].
//! * [`evaluate`], [`metrics`], [`phases`]: what is measured.
//! * [`report`]: how it is written, compared and drawn.
//! * [`device`]: devices by name.
//! * [`schedule`], [`init`]: learning rates and initial parameters that depend on nothing but their configuration.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

pub mod augment;
pub mod data_parallel;
pub mod device;
pub mod evaluate;
pub mod experiment;
pub mod init;
pub mod metrics;
pub mod phases;
pub mod report;
pub mod schedule;
pub mod stream;
