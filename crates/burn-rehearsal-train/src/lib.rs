//! Placeholder.

pub mod data_parallel;
pub mod evaluate;
pub mod init;
pub mod metrics;
pub mod phases;
pub mod report;
pub mod schedule;
pub mod stream;
