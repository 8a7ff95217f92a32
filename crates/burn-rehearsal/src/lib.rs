//! Rehearsal (experience replay) for continual learning with [Burn](burn).
//!
//! A network that is trained only on new data forgets the old. *Rehearsal* keeps a bounded sample
//! of past data in a memory buffer and appends some of it to every mini-batch. It is also called
//! *experience replay*, and the replayed samples are also called *exemplars*.
//!
//! * **One line.** [Attach](RehearsalBuffer::attach) a [`RehearsalBuffer`] to a data loader. The
//!   training code does not change.
//! * **In the background.** An engine thread stores new samples and draws stored ones while the
//!   network computes.
//! * **On several ranks.** In data-parallel training, every rank stores a part of the buffer, and
//!   every mini-batch draws from all parts.
//! * **Reproducible.** Results are a pure function of the seed, the order of the data and the
//!   number of ranks.
//!
//! The design follows Bouvier et al., "Efficient Data-Parallel Continual Learning with Asynchronous
//! Distributed Rehearsal Buffers" (CCGrid 2024, [arXiv
//! 2406.03285](https://arxiv.org/abs/2406.03285)).
//!
//! # Terms
//!
//! * *Incoming rows* (b): the new samples of a mini-batch.
//! * *Candidates* (c): the incoming rows that are offered to the buffer.
//! * *Representatives* (r): stored samples that are appended to a mini-batch.
//! * *Capacity* (|B|): the number of samples that all ranks together can store.
//! * *Shard*: the part of the buffer on one rank.
//! * *Lag*: the number of steps between inserting candidates and using representatives that were
//!   drawn after the insertion.
//!
//! # Quick start
//!
//! Derive [`RehearsalBatch`](derive@RehearsalBatch) for your mini-batch, a struct of tensors whose
//! first dimension is the row:
//!
//! ```
//! use burn::tensor::{Int, Tensor};
//! use burn_rehearsal::RehearsalBatch;
//!
//! #[derive(RehearsalBatch, Clone, Debug)]
//! struct MyBatch {
//!     inputs: Tensor<2>, // `[rows, features]`
//!     #[rehearsal(class)]
//!     targets: Tensor<1, Int>, // `[rows]`
//! }
//! ```
//!
//! Create a buffer with [`RehearsalConfig`] and attach it to the training loader of Burn's learner.
//! The validation loader gets no buffer:
//!
//! ```no_run
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! # let mut model = Model::new();
//! use burn_rehearsal::{Capacity, RehearsalConfig};
//!
//! let buffer = RehearsalConfig::new(Capacity::Samples(2_000)).init::<MyBatch>()?;
//! for task in 0..5 {
//!     buffer.begin_task(task)?;
//!     let train = DataLoaderBuilder::new(MyBatcher).batch_size(32).build(training_set(task));
//!     let valid = DataLoaderBuilder::new(MyBatcher).batch_size(256).build(test_set(task));
//!     let training = SupervisedTraining::new("runs", buffer.attach(train), valid).num_epochs(5);
//!     model = training.launch(Learner::new(model, SgdConfig::new().init(), 0.05)).model.train();
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! By default, all incoming rows are candidates, and the same number of representatives is appended
//! to each mini-batch. Call [`begin_task`](RehearsalBuffer::begin_task) at the start of each task
//! of a task stream, because [`start_task`](RehearsalConfig::start_task) and sampling rules such as
//! [`SamplingKind::ExcludeCurrent`] refer to its number; a stream without task boundaries needs no
//! call.
//!
//! # Your own training loop
//!
//! An attached loader is an ordinary Burn `DataLoader`:
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! use burn_rehearsal::{Capacity, RehearsalConfig};
//!
//! let buffer = RehearsalConfig::new(Capacity::Samples(16)).init::<MyBatch>()?;
//! for task in 0..2 {
//!     let loader = DataLoaderBuilder::new(MyBatcher).batch_size(5).build(training_set(task));
//!     for batch in buffer.attach(loader).iter() {
//!         let batch = batch?; // 5 incoming rows, then up to 5 representatives
//! #       assert!((5..=10).contains(&batch.targets.dims()[0]));
//!         // forward pass, backward pass, optimizer step
//!     }
//! }
//! assert_eq!(buffer.inspect()?.per_class, [4, 4, 4, 4]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without a data loader, call [`rehearse`](RehearsalBuffer::rehearse) once per step. If only the
//! batcher can be changed, use a [`RehearsalBatcher`].
//!
//! # Several ranks
//!
//! [`RehearsalConfig::init_on`] distributes the buffer over all ranks, which are threads or MPI
//! processes. [`Ranks`] starts them, and each gets a [`Rank`]. [`ShardedLoader`] reads each rank's
//! part of the data:
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! use burn_rehearsal::{Capacity, Ranks, RehearsalConfig, ShardedLoader};
//!
//! Ranks::threads(2).run(|rank| {
//!     let buffer = RehearsalConfig::new(Capacity::Samples(12)).init_on::<MyBatch>(&rank)?;
//!     let loader = ShardedLoader::builder(MyBatcher).shard(&rank).batch_size(10).shuffle(1);
//!     for batch in buffer.attach(loader.build(training_set(0))).iter() {
//!         let batch = batch?; // forward and backward pass, all-reduce, optimizer step
//!     }
//!     assert_eq!(buffer.report()?.len, 12); // the rows of all ranks
//!     Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
//! })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The crate `burn-rehearsal-train` has `DataParallel`, a learner for several ranks. The crate
//! `burn-rehearsal-collective` has the operations between ranks.
//!
//! # Choosing a configuration
//!
//! The page of [`RehearsalConfig`] explains how to choose the capacity, the numbers of candidates
//! and representatives, and the lag. A [`policy`] decides which stored row a candidate replaces,
//! and a [`sampling`] rule decides which stored rows are drawn. The modules compare the built-in
//! ones.
//!
//! ```
//! use burn_rehearsal::{Capacity, PolicyKind, RehearsalConfig, SamplingKind};
//!
//! let config = RehearsalConfig::new(Capacity::Fraction(0.1))
//!     .with_dataset_len(Some(50_000))
//!     .with_policy(PolicyKind::Reservoir)
//!     .with_sampling(SamplingKind::ClassBalanced);
//! config.validate(1)?;
//! # Ok::<(), burn_rehearsal::error::ConfigError>(())
//! ```
//!
//! # Logits and other late values
//!
//! Methods like Dark Experience Replay store values that are known only after the forward pass:
//!
//! * A field marked `#[rehearsal(late)]` holds such values, for example logits.
//! * A field marked `#[rehearsal(layout)]` is a [`RowLayout`]. It names the incoming and the drawn
//!   rows of a mini-batch.
//! * [`RowLayout::annotate`] passes the values of the incoming rows to the buffer, after the
//!   forward pass.
//! * [`RehearsalConfig::with_draws`] configures several independent draws per step.
//!
//! The module [`batch::layout`] has an example. The page of the trait
//! [`RehearsalBatch`](trait@RehearsalBatch) lists all words that mark a field.
//!
//! # Writing your own policy
//!
//! Implement [`Policy`](policy::Policy) or [`Sampling`](sampling::Sampling) for a type that is also
//! `Clone`, `Send` and `Sync`, and pass a value to [`RehearsalConfig::init_with`]. On one rank, the
//! [`Rank`] is [`Rank::solo`]. The modules [`policy`] and [`sampling`] show how to write a rule.
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! use burn_rehearsal::{Capacity, CustomRules, Rank, RehearsalConfig};
//!
//! let rules = CustomRules::default().with_policy(MyPolicy);
//! let config = RehearsalConfig::new(Capacity::Samples(100));
//! let buffer = config.init_with::<MyBatch>(&Rank::solo(), rules)?;
//! # assert_eq!(buffer.report()?.policy, "my-policy");
//! # Ok::<(), burn_rehearsal::error::RehearsalError>(())
//! ```
//!
//! # Checkpoints
//!
//! [`checkpoint`](RehearsalBuffer::checkpoint) saves everything on which later steps depend, and
//! [`restore`](RehearsalBuffer::restore) continues from it, also on another number of ranks:
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! use burn_rehearsal::{Capacity, RehearsalConfig};
//!
//! # let loader = DataLoaderBuilder::new(MyBatcher).batch_size(5).build(training_set(0));
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("buffer");
//! let config = RehearsalConfig::new(Capacity::Samples(100));
//! let buffer = config.init::<MyBatch>()?;
//! buffer.fill(loader.iter())?; // or training
//! buffer.checkpoint(&path)?;
//!
//! let resumed = config.init::<MyBatch>()?; // later, in another process
//! resumed.restore(&path, &Device::default())?;
//! assert_eq!(resumed.inspect()?.len, 20);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`RehearsalCheckpointing`](checkpoint::RehearsalCheckpointing) saves the buffer together with
//! Burn's own checkpoints.
//!
//! # Looking into the buffer
//!
//! [`inspect`](RehearsalBuffer::inspect) describes this rank's shard,
//! [`report`](RehearsalBuffer::report) all shards, and [`snapshot`](RehearsalBuffer::snapshot)
//! copies the stored samples. [`RehearsalMetric`] shows times and counters in Burn's renderer and
//! logs.
//!
//! # Guarantees
//!
//! With the default sampling rule, every stored sample of all ranks is equally likely to be drawn,
//! without replacement within a step. Results are the same bits on threads and processes, in host
//! and device memory, in the background and inline, for any number of loader workers, and with and
//! without an interruption. A failure on one rank is a [typed error](error) on every rank.
//!
//! # Performance
//!
//! * On the CPU, candidates are copied once, from the memory of the mini-batch. Representatives are
//!   appended to that memory if it has no other owner, so a batcher should not keep clones of the
//!   tensors that it returns.
//! * An allocator that keeps freed memory, for example mimalloc, can make a training step on the
//!   CPU a third faster.
//! * On a GPU, [`StorePreference::Device`] keeps the stored rows in device memory.
//!
//! # Features
//!
//! `flex` (default), `wgpu` and `cuda` enable the Burn backend of the same name.
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

pub use batch::{RehearsalBatch, RowLayout};
pub use buffer::{RehearsalBuffer, Rehearsed};
#[doc(inline)]
pub use burn_rehearsal_collective::{Rank, Ranks};
pub use burn_rehearsal_derive::RehearsalBatch;
pub use capacity::{ByteSize, Capacity};
pub use config::{
    CandidateMode, DrawConfig, Execution, MAX_LAG, MAX_RATIO, OnRepeat, RehearsalConfig,
    StorePreference,
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
