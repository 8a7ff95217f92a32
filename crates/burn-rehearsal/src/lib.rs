//! Asynchronous, distributed rehearsal buffer for continual learning with Burn.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

// The derive names this crate by its full path, also inside it.
#[cfg(test)]
extern crate self as burn_rehearsal;

pub mod batch;
mod buffer;
mod config;
mod draw;
mod engine;
pub mod error;
mod loader;
pub mod policy;
pub mod random;
pub mod sampling;
mod slots;
mod snapshot;
pub mod store;

pub use batch::RehearsalBatch;
pub use buffer::{BufferStatus, RehearsalBuffer, Rehearsed};
/// Writes [`RehearsalBatch`] for a struct of tensors.
pub use burn_rehearsal_derive::RehearsalBatch;
pub use config::{
    CandidateMode, Capacity, Execution, MAX_CLASSES, OnRepeat, PolicyKind, RehearsalConfig, SamplingKind, first_slot, shard_capacity,
};
pub use engine::{BufferReport, EngineTimings, Inspection};
pub use loader::{EpochPlan, RehearsalBatcher, RehearsalLoader, ShardedLoader, ShardedLoaderBuilder, WorkerPanic};
pub use slots::{RowHandle, SlotTable};
pub use snapshot::{Snapshot, SnapshotBatch, SnapshotBatcher, SnapshotIndexError, StoredSample};
