//! The places where a buffer meets Burn's data loading.

mod batcher;
mod order;
mod rehearsal;
mod sharded;

pub use batcher::RehearsalBatcher;
pub use rehearsal::RehearsalLoader;
pub use sharded::{ShardedLoader, ShardedLoaderBuilder, SkipSample};
