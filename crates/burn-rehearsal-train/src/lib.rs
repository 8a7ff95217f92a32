//! Data-parallel continual learning for Burn, on top of [`burn_rehearsal`].
//!
//! * [`data_parallel`]: a learning strategy for Burn's `SupervisedTraining` that trains one network on many ranks.
//! * `data`: labelled images from disk (feature `images`).
//! * [`augment`]: data augmentation on the device, one mini-batch at a time.
//! * [`stream`]: which samples arrive with which task.
//! * [`experiment`]: a whole run, with one of the methods of [`report::schema::Method`].
//! * [`fingerprint`]: whether data is the data that a run began with.
//! * [`evaluate`], [`metrics`], [`phases`]: what is measured.
//! * [`report`]: how it is written, compared and drawn.
//! * [`device`]: devices by name.
//! * [`models`]: residual networks and GhostNet, with weights from PyTorch.
//! * [`lock`]: directories that one process writes at a time.
//! * [`schedule`], [`init`]: learning rates and initial parameters that depend on nothing but their configuration.
#![warn(missing_docs)]

pub mod augment;
#[cfg(feature = "images")]
pub mod data;
pub mod data_parallel;
pub mod device;
pub mod evaluate;
pub mod experiment;
pub mod fingerprint;
pub mod init;
pub mod lock;
pub mod metrics;
pub mod models;
pub mod phases;
pub mod report;
pub mod schedule;
pub mod stream;
