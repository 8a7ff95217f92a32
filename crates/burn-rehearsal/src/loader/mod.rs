//! Data loaders and batchers that attach a buffer to training.

mod batcher;
mod order;
mod rehearsal;
mod sharded;

pub use batcher::RehearsalBatcher;
pub use rehearsal::RehearsalLoader;
pub use sharded::{ShardedLoader, ShardedLoaderBuilder, SkipSample};
