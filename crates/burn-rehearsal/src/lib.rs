//! Asynchronous, distributed rehearsal buffer for continual learning with [Burn](burn).
//!
//! A network that is trained only on new data forgets the old. *Rehearsal* (experience replay)
//! keeps a bounded sample of past data and mixes some of it into every mini-batch. This crate does
//! so behind the training step: every rank of a data-parallel run owns a shard of the buffer,
//! updates it in the background, and draws *representatives* (replayed samples) uniformly from the
//! union of all shards. See Bouvier et al., "Efficient Data-Parallel Continual Learning with
//! Asynchronous Distributed Rehearsal Buffers", CCGrid 2024, arXiv 2406.03285.
//!
//! # Quick start
//!
//! 1. Derive [`RehearsalBatch`] for your mini-batch: a struct of tensors whose first dimension is
//!    the row.
//! 2. Make a [`RehearsalBuffer`] with [`RehearsalConfig`]. By default all rows of a mini-batch are
//!    *candidates* for the buffer, and as many representatives are appended to it.
//! 3. [Attach](RehearsalBuffer::attach) it to your training loader.
//!
//! ```
//! use burn::data::dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher};
//! use burn::tensor::{Device, Int, Tensor};
//! use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
//! # use burn::data::dataset::InMemDataset;
//!
//! #[derive(RehearsalBatch, Clone, Debug)]
//! struct MyBatch {
//!     /// `[rows, features]`
//!     inputs: Tensor<2>,
//!     /// `[rows]`
//!     #[rehearsal(class)]
//!     targets: Tensor<1, Int>,
//! }
//! # struct MyBatcher;
//! # impl Batcher<(f32, i64), MyBatch> for MyBatcher {
//! #     fn batch(&self, items: Vec<(f32, i64)>, device: &Device) -> MyBatch {
//! #         let (inputs, targets): (Vec<f32>, Vec<i64>) = items.into_iter().unzip();
//! #         let inputs = Tensor::<1>::from_data(inputs.as_slice(), device).unsqueeze_dim(1);
//! #         MyBatch { inputs, targets: Tensor::from_data(targets.as_slice(), device) }
//! #     }
//! # }
//! # let samples = |task: i64| InMemDataset::new((0..20).map(|i| (i as f32, 2 * task + i % 2)).collect::<Vec<_>>());
//!
//! let buffer = RehearsalConfig::new(Capacity::Samples(16)).with_representatives(4).init::<MyBatch>()?;
//! for task in 0..2 {
//!     buffer.begin_task(task)?;
//!     let train = buffer.attach(DataLoaderBuilder::new(MyBatcher).batch_size(5).build(samples(task as i64)));
//!     for batch in train.iter() {
//!         let batch = batch?; // 5 new rows, and up to 4 stored ones behind them
//! #       assert!((5..=9).contains(&batch.targets.dims()[0]));
//!         // forward, backward, optimizer step
//!     }
//! }
//! assert_eq!((buffer.len(), buffer.capacity()), (16, Some(16)));
//! assert_eq!(buffer.inspect()?.per_class, [4, 4, 4, 4]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `train` is a Burn `DataLoader`: pass it to `SupervisedTraining::new`. Give the validation loader
//! no buffer. Where only a batcher can be changed, wrap it in a [`RehearsalBatcher`].
//!
//! # Several ranks
//!
//! [`RehearsalConfig::init_on`] shards the buffer over all ranks. [`ShardedLoader`] reads each
//! rank's part of the data in an exact order. A learner for several ranks, `DataParallel`, is in
//! the crate `burn-rehearsal-train`.
//!
//! ```
//! use burn_rehearsal::{Capacity, RehearsalConfig, ShardedLoader};
//! use burn_rehearsal_collective::Ranks;
//! # use burn::data::{dataloader::{DataLoader, batcher::Batcher}, dataset::InMemDataset};
//! # use burn::tensor::{Device, Int, Tensor};
//! # #[derive(burn_rehearsal::RehearsalBatch, Clone, Debug)] struct MyBatch { inputs: Tensor<1, Int> }
//! # struct MyBatcher;
//! # impl Batcher<i64, MyBatch> for MyBatcher {
//! #     fn batch(&self, items: Vec<i64>, device: &Device) -> MyBatch {
//! #         MyBatch { inputs: Tensor::from_data(items.as_slice(), device) }
//! #     }
//! # }
//! # let samples = || InMemDataset::new((0..100).collect::<Vec<i64>>());
//!
//! Ranks::threads(2).run(|rank| {
//!     let buffer = RehearsalConfig::new(Capacity::Samples(40)).init_on::<MyBatch>(&rank)?;
//!     let loader = ShardedLoader::builder(MyBatcher).shard(&rank).batch_size(10).shuffle(1).build(samples());
//!     for batch in buffer.attach(loader).iter() {
//!         let batch = batch?;
//!         // forward, backward, all-reduce, optimizer step
//!     }
//!     assert_eq!(buffer.report()?.len, 40);
//!     Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Results
//!
//! All draws are a pure function of (seed, data order, world size): the same bits on threads and
//! processes, on the host and on a device, in the background and inline.
//!
//! [`RehearsalBuffer::inspect`], [`report`](RehearsalBuffer::report) and
//! [`snapshot`](RehearsalBuffer::snapshot) show the contents. [`RehearsalBuffer::checkpoint`] and
//! [`restore`](RehearsalBuffer::restore) keep them, also for another number of ranks;
//! [`RehearsalCheckpointing`](checkpoint::RehearsalCheckpointing) does so with Burn's checkpoints.
//!
//! # Rules
//!
//! A [`policy`] decides which rows stay, a [`sampling`] rule which are drawn. [`PolicyKind`] and
//! [`SamplingKind`] name the built-in ones; [`RehearsalConfig::init_with`] takes your own.
//!
//! # Speed
//!
//! On the CPU, candidates are copied once, by the engine's thread, from the mini-batch's own
//! memory. Representatives are appended to that memory if it has no other owner: do not keep clones
//! of the tensors that a batcher returns. An allocator that keeps freed memory, for example
//! mimalloc, can make a training step a third faster than the system's. On a GPU,
//! [`StorePreference::Device`] keeps the rows in its memory.
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod agreement;
pub mod batch;
mod buffer;
mod candidates;
mod capacity;
pub mod checkpoint;
mod config;
mod distinct;
mod engine;
pub mod error;
mod link;
mod loader;
mod metric;
pub mod policy;
pub mod random;
mod registry;
mod row_count;
mod rules;
pub mod sampling;
mod slots;
mod snapshot;
mod store;

pub use batch::RehearsalBatch;
pub use buffer::{RehearsalBuffer, Rehearsed};
/// Writes [`RehearsalBatch`] for a struct of tensors.
pub use burn_rehearsal_derive::RehearsalBatch;
pub use capacity::{ByteSize, Capacity};
pub use config::{
    CandidateMode, Execution, MAX_LAG, MAX_RATIO, OnRepeat, RehearsalConfig, StorePreference,
};
pub use engine::{BufferReport, EngineTimings, Inspection, PendingCheckpoint, Restored, Saved};
pub use loader::{
    RehearsalBatcher, RehearsalLoader, ShardedLoader, ShardedLoaderBuilder, SkipSample,
};
pub use metric::{RehearsalMetric, RehearsalStat};
pub use policy::PolicyKind;
pub use row_count::RowCount;
pub use rules::CustomRules;
pub use sampling::SamplingKind;
pub use slots::{MAX_CLASSES, RowHandle, SlotTable, shard_capacity};
pub use snapshot::{Snapshot, SnapshotBatch, SnapshotBatcher, StoredSample};
pub use store::StoreLocation;
