//! Data-parallel continual learning for Burn, on top of [`burn_rehearsal`].
//!
//! * [`data_parallel`]: a learning strategy for Burn's `SupervisedTraining` that trains one network
//!   on many ranks.
//! * [`augmentation`]: what is done to mini-batches between the loader and the training step.
//! * [`compat`]: what changes between versions of Burn, and views of a training.
//! * [`stream`]: which samples arrive with which task.
//! * [`methods`]: how a network is trained from task to task.
//! * [`experiment`]: a whole run with one of them.
//! * [`epoch`]: epochs, counted from 1 and from 0.
//! * [`fingerprint`]: whether data is the data that a run began with.
//! * [`evaluate`], [`metrics`], [`phases`]: what is measured.
//! * [`report`]: how it is written.
//! * [`device`]: devices by name.
//! * [`weights`]: parameters from and for PyTorch.
//! * [`lock`]: directories that one process writes at a time.
//! * [`schedule`], [`init`]: learning rates and initial parameters that depend on nothing but their
//!   configuration.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod augmentation;
pub mod compat;
pub mod data_parallel;
pub mod device;
pub mod epoch;
pub mod evaluate;
pub mod experiment;
pub mod fingerprint;
pub mod init;
pub mod lock;
pub mod methods;
pub mod metrics;
#[doc(hidden)]
pub mod named;
mod origin;
pub mod phases;
pub mod report;
pub mod schedule;
pub mod stream;
pub mod weights;
