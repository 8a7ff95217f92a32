//! Asynchronous, distributed rehearsal buffer for continual learning with [Burn](burn).
//!
//! Training on new data alone makes a network forget the old. *Rehearsal* keeps a bounded sample of what was seen and mixes a few of those
//! samples into every mini-batch. This crate does that behind the training step: every rank of a data-parallel run owns a part of the buffer,
//! updates it in the background, and draws its representatives uniformly from the union of all parts (Bouvier et al., "Efficient
//! Data-Parallel Continual Learning with Asynchronous Distributed Rehearsal Buffers", CCGrid 2024, arXiv 2406.03285).
//!
//! # A tour
//!
//! 1. Derive [`RehearsalBatch`] for your mini-batch type: a struct of tensors whose first dimension is the row.
//! 2. Configure a [`RehearsalBuffer`] with [`RehearsalConfig`]: how much it holds, how many *candidates* each mini-batch offers, how many
//!    *representatives* are appended to it. By default all rows are offered, and as many representatives as incoming rows are appended.
//! 3. Attach it: [`RehearsalBatcher`] around your batcher, for a plain Burn learner in one process; or [`RehearsalLoader`] around your data loader, which is
//!    exact with any learner that calls `next` once per step, and works on many ranks. [`ShardedLoader`] is a loader whose order is exact too.
//! 4. Look inside with [`RehearsalBuffer::inspect`], [`report`](RehearsalBuffer::report) and [`snapshot`](RehearsalBuffer::snapshot).
//!
//! 5. Keep it: [`RehearsalBuffer::checkpoint`] and [`restore`](RehearsalBuffer::restore), on as many ranks or on others; with Burn's own checkpoints by
//!    [`RehearsalCheckpointing`](checkpoint::RehearsalCheckpointing).
//!
//! What is drawn is a pure function of (seed, data order, world size): the same bits with threads or processes, in the background or inline.
//!
//! # Quick start: one process, one line
//!
//! ```
//! # use burn::{module::Module, nn::{Linear, LinearConfig, loss::CrossEntropyLossConfig}, optim::SgdConfig};
//! # use burn::data::{dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher}, dataset::InMemDataset};
//! # use burn::tensor::{Device, Int, Tensor, TensorData};
//! # use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep, renderer::*, metric::*, LearnerSummary};
//! # use std::sync::Arc;
//! # type Item = (f32, i64);
//! # #[derive(Clone)] struct MyBatcher;
//! # impl Batcher<Item, MyBatch> for MyBatcher {
//! #     fn batch(&self, items: Vec<Item>, device: &Device) -> MyBatch {
//! #         let n = items.len();
//! #         let (x, y): (Vec<f32>, Vec<i64>) = items.into_iter().unzip();
//! #         MyBatch { inputs: Tensor::from_data(TensorData::new(x, [n, 1]), device), targets: Tensor::from_data(TensorData::new(y, [n]), device) }
//! #     }
//! # }
//! # #[derive(Module, Debug)] struct MyModel { linear: Linear }
//! # impl MyModel {
//! #     fn classify(&self, b: MyBatch) -> ClassificationOutput {
//! #         let output = self.linear.forward(b.inputs);
//! #         let loss = CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), b.targets.clone());
//! #         ClassificationOutput { loss, output, targets: b.targets }
//! #     }
//! # }
//! # impl TrainStep for MyModel {
//! #     type Input = MyBatch; type Output = ClassificationOutput;
//! #     fn step(&self, b: MyBatch) -> TrainOutput<ClassificationOutput> { let o = self.classify(b); TrainOutput::new(self, o.loss.backward(), o) }
//! # }
//! # impl InferenceStep for MyModel { type Input = MyBatch; type Output = ClassificationOutput; fn step(&self, b: MyBatch) -> ClassificationOutput { self.classify(b) } }
//! # struct Quiet;
//! # impl MetricsRendererTraining for Quiet { fn update_train(&mut self, _: MetricState) {} fn update_valid(&mut self, _: MetricState) {} }
//! # impl MetricsRendererEvaluation for Quiet { fn update_test(&mut self, _: EvaluationName, _: MetricState) {} }
//! # impl burn::train::logger::TrainingProgressLogger for Quiet {
//! #     fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {} fn update_epoch(&mut self, _: usize) {} fn start_split(&mut self, _: &str, _: usize) {}
//! #     fn update_split(&mut self, _: usize) {} fn end_split(&mut self) {} fn end(&mut self) {} fn log_event_training(&mut self, _: String) {}
//! # }
//! # impl burn::train::logger::EvaluationProgressLogger for Quiet {
//! #     fn start_global_progress(&mut self, _: usize) {} fn start_test(&mut self, _: &str, _: usize) {} fn update_test_progress(&mut self, _: usize) {}
//! #     fn end_test(&mut self) {} fn end_global_progress(&mut self) {} fn log_event_evaluation(&mut self, _: String) {}
//! # }
//! # impl MetricsRenderer for Quiet { fn manual_close(&mut self) {} fn register_metric(&mut self, _: MetricDefinition) {} }
//! # let device = Device::flex().autodiff();
//! # let directory = std::env::temp_dir().join(format!("burn-rehearsal-doc-{}-batcher", std::process::id()));
//! # let mut model = MyModel { linear: LinearConfig::new(1, 4).init(&device) };
//! # let data = |task: i64| InMemDataset::new((0..20).map(|i| (i as f32, 2 * task + i % 2)).collect::<Vec<Item>>());
//! use burn::train::{Learner, SupervisedTraining};
//! use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalBatcher, RehearsalConfig};
//!
//! #[derive(RehearsalBatch, Clone, Debug)]
//! struct MyBatch {
//!     inputs: Tensor<2>,
//!     #[rehearsal(class)]
//!     targets: Tensor<1, Int>,
//! }
//!
//! let buffer = RehearsalConfig::new(Capacity::Samples(16)).init()?;
//! let batcher = RehearsalBatcher::new(MyBatcher, buffer.clone())?; // the one line
//! for task in 0..2 {
//!     buffer.begin_task(task)?;
//!     let train = DataLoaderBuilder::new(batcher.clone()).batch_size(5).shuffle(1).build(data(task as i64));
//!     let valid = DataLoaderBuilder::new(batcher.valid()).batch_size(5).build(data(task as i64));
//!     let learner = Learner::new(model, SgdConfig::new().init(), 0.01);
//!     let training = SupervisedTraining::new(&directory, train, valid).num_epochs(2);
//! #   let training = training.renderer(Box::new(Quiet)).with_application_logger(None);
//!     model = training.launch(learner).model.train();
//!     buffer.check()?; // a batcher cannot return an error, so check for one here
//! }
//! assert_eq!(buffer.inspect()?.per_class, [4, 4, 4, 4]);
//! # let _ = std::fs::remove_dir_all(&directory);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Quick start: exact, and ready for many ranks
//!
//! ```
//! # use burn::{module::Module, nn::{Linear, LinearConfig, loss::CrossEntropyLossConfig}, optim::SgdConfig};
//! # use burn::data::{dataloader::{DataLoader, DataLoaderBuilder, batcher::Batcher}, dataset::InMemDataset};
//! # use burn::tensor::{Device, Int, Tensor, TensorData};
//! # use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep, renderer::*, metric::*, LearnerSummary};
//! # use std::sync::Arc;
//! # type Item = (f32, i64);
//! # #[derive(Clone)] struct MyBatcher;
//! # impl Batcher<Item, MyBatch> for MyBatcher {
//! #     fn batch(&self, items: Vec<Item>, device: &Device) -> MyBatch {
//! #         let n = items.len();
//! #         let (x, y): (Vec<f32>, Vec<i64>) = items.into_iter().unzip();
//! #         MyBatch { inputs: Tensor::from_data(TensorData::new(x, [n, 1]), device), targets: Tensor::from_data(TensorData::new(y, [n]), device) }
//! #     }
//! # }
//! # #[derive(Module, Debug)] struct MyModel { linear: Linear }
//! # impl MyModel {
//! #     fn classify(&self, b: MyBatch) -> ClassificationOutput {
//! #         let output = self.linear.forward(b.inputs);
//! #         let loss = CrossEntropyLossConfig::new().init(&output.device()).forward(output.clone(), b.targets.clone());
//! #         ClassificationOutput { loss, output, targets: b.targets }
//! #     }
//! # }
//! # impl TrainStep for MyModel {
//! #     type Input = MyBatch; type Output = ClassificationOutput;
//! #     fn step(&self, b: MyBatch) -> TrainOutput<ClassificationOutput> { let o = self.classify(b); TrainOutput::new(self, o.loss.backward(), o) }
//! # }
//! # impl InferenceStep for MyModel { type Input = MyBatch; type Output = ClassificationOutput; fn step(&self, b: MyBatch) -> ClassificationOutput { self.classify(b) } }
//! # struct Quiet;
//! # impl MetricsRendererTraining for Quiet { fn update_train(&mut self, _: MetricState) {} fn update_valid(&mut self, _: MetricState) {} }
//! # impl MetricsRendererEvaluation for Quiet { fn update_test(&mut self, _: EvaluationName, _: MetricState) {} }
//! # impl burn::train::logger::TrainingProgressLogger for Quiet {
//! #     fn start(&mut self, _: usize, _: usize, _: Option<usize>, _: Option<&str>) {} fn update_epoch(&mut self, _: usize) {} fn start_split(&mut self, _: &str, _: usize) {}
//! #     fn update_split(&mut self, _: usize) {} fn end_split(&mut self) {} fn end(&mut self) {} fn log_event_training(&mut self, _: String) {}
//! # }
//! # impl burn::train::logger::EvaluationProgressLogger for Quiet {
//! #     fn start_global_progress(&mut self, _: usize) {} fn start_test(&mut self, _: &str, _: usize) {} fn update_test_progress(&mut self, _: usize) {}
//! #     fn end_test(&mut self) {} fn end_global_progress(&mut self) {} fn log_event_evaluation(&mut self, _: String) {}
//! # }
//! # impl MetricsRenderer for Quiet { fn manual_close(&mut self) {} fn register_metric(&mut self, _: MetricDefinition) {} }
//! # let device = Device::flex().autodiff();
//! # let directory = std::env::temp_dir().join(format!("burn-rehearsal-doc-{}-loader", std::process::id()));
//! # let mut model = MyModel { linear: LinearConfig::new(1, 4).init(&device) };
//! # let data = |task: i64| InMemDataset::new((0..20).map(|i| (i as f32, 2 * task + i % 2)).collect::<Vec<Item>>());
//! use burn::train::{Learner, SupervisedTraining};
//! use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig, ShardedLoader};
//! # #[derive(RehearsalBatch, Clone, Debug)]
//! # struct MyBatch { inputs: Tensor<2>, #[rehearsal(class)] targets: Tensor<1, Int> }
//!
//! // Numbers of rows are counts, or ratios of the incoming rows.
//! let config = RehearsalConfig::new(Capacity::Samples(16)).with_candidates(3).with_representatives(1.0);
//! let buffer = config.init()?; // on several ranks: init_on(&rank)
//! for task in 0..2 {
//!     buffer.begin_task(task)?;
//!     // Four threads read, the order of mini-batches does not depend on it.
//!     let loader = ShardedLoader::builder(MyBatcher).batch_size(5).shuffle(7).task(task).num_workers(4).set_device(device.clone()).build(data(task as i64));
//!     let train = buffer.attach(loader);
//!     let valid = DataLoaderBuilder::new(MyBatcher).batch_size(5).build(data(task as i64));
//!     let learner = Learner::new(model, SgdConfig::new().init(), 0.01);
//!     let training = SupervisedTraining::new(&directory, train, valid).num_epochs(2);
//! #   let training = training.renderer(Box::new(Quiet)).with_application_logger(None);
//!     let result = training.launch(learner);
//!     if let Some(error) = result.error {
//!         return Err(error.to_string().into()); // the buffer's errors end the training
//!     }
//!     model = result.model.train();
//! }
//! let report = buffer.report()?;
//! assert_eq!((report.len, report.capacity), (16, 16));
//! # let _ = std::fs::remove_dir_all(&directory);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What makes it fast on the CPU
//!
//! * Candidates are copied once, from the mini-batch's own memory, by the engine's thread. Representatives are written behind the incoming rows, and those
//!   are not copied at all, if the batcher leaves room for them: [`batch::tensor_with_room`].
//! * A training step frees its largest tensors and allocates them anew. An allocator that keeps such memory, for example mimalloc, can make the step itself
//!   a third faster than the system's; a library cannot choose it for you.
//!
//! On a GPU, [`StorePreference::Device`] keeps the rows there.
//!
//! A learner for several ranks is in the crate `burn-rehearsal-train`; the transports between ranks are in `burn-rehearsal-collective`.
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
pub use config::{CandidateMode, DEVICE_LIMIT, Execution, MAX_LAG, MAX_RATIO, OnRepeat, RehearsalConfig, StorePreference};
pub use engine::{BufferReport, EngineTimings, Inspection, PendingCheckpoint, Restored, Saved};
pub use loader::{EpochPlan, RehearsalBatcher, RehearsalLoader, ShardedLoader, ShardedLoaderBuilder, SkipSample, WorkerPanic};
pub use metric::{RehearsalMetric, RehearsalStat};
pub use policy::PolicyKind;
pub use row_count::RowCount;
pub use rules::CustomRules;
pub use sampling::SamplingKind;
pub use slots::{MAX_CLASSES, RowHandle, SlotTable, shard_capacity};
pub use snapshot::{Snapshot, SnapshotBatch, SnapshotBatcher, SnapshotIndexError, StoredSample};
pub use store::StoreLocation;
