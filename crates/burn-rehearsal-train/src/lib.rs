//! Data-parallel continual learning for [Burn](https://burn.dev), with or without the rehearsal
//! (replay) buffer of [`burn_rehearsal`].
//!
//! # A learner for several ranks
//!
//! [`DataParallel`](data_parallel::DataParallel) is a learning strategy for Burn's
//! `SupervisedTraining`. Every rank trains on its own part of the data, and the ranks sum their
//! gradients. [`data_parallel`] is a guide to it.
//!
//! ```no_run
//! # use burn::train::{LearnerModel, SupervisedTraining, TrainStep};
//! # use burn_rehearsal_collective::{CollectiveError, Rank};
//! use burn_rehearsal_train::data_parallel::DataParallel;
//!
//! # fn parallel<M>(training: SupervisedTraining<M>, rank: &Rank)
//! #     -> Result<SupervisedTraining<M>, CollectiveError>
//! # where M: LearnerModel + 'static, <M as TrainStep>::Input: burn_rehearsal::RehearsalBatch {
//! let training = training.with_training_strategy(DataParallel::new(rank)?.into());
//! # Ok(training) }
//! ```
//!
//! # Building blocks of continual learning
//!
//! * [`stream`]: which samples belong to which task, for class-, instance- and domain-incremental
//!   learning.
//! * [`methods`]: how a network is trained from task to task: fine-tuning, experience replay (ER),
//!   ER-ACE, joint training, or your own method.
//! * [`evaluate`] and [`metrics`]: accuracy over all ranks, average accuracy, forgetting, backward
//!   and forward transfer.
//!
//! ```
//! use burn_rehearsal_train::metrics::AccuracyMatrix;
//! use burn_rehearsal_train::stream::{ClassIncremental, ClassOrder, TaskStream};
//!
//! let labels = [0, 1, 2, 3];
//! let stream = ClassIncremental::new(&labels, &labels, 4, 2, ClassOrder::Fixed)?;
//! let mut accuracies = AccuracyMatrix::new(stream.tasks());
//! accuracies.push_row(&[Some(0.98), Some(0.0)])?; // after task 0
//! accuracies.push_row(&[Some(0.90), Some(0.96)])?; // after task 1
//! println!("forgetting: {:.2}", accuracies.forgetting().unwrap_or_default());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Whole experiments
//!
//! [`Experiment`](experiment::Experiment) trains on all tasks of a stream, evaluates after each
//! one, and writes checkpoints from which a run resumes bit for bit. [`experiment`] is a guide to
//! it. The result is a [`report`].
//!
//! # Other modules
//!
//! * [`schedule`]: learning rates that grow with the number of ranks.
//! * [`init`]: initial parameters as a pure function of a seed.
//! * [`augmentation`]: transformations between the loader and the training step.
//! * [`phases`]: the time of each phase of a training step.
//! * [`device`]: devices for ranks.
//! * [`weights`]: exchange of weights with PyTorch, as safetensors files.
//! * [`fingerprint`]: the identity of a data set.
//! * [`lock`]: locks on directories, so that only one process writes to them.
//! * [`epoch`]: numbers of epochs.
//! * [`compat`]: the parts of Burn's API that differ between its versions.
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
