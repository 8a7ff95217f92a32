//! The operations on threads, on a single rank and on the simulated network.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod deadlock;
mod disagreements;
mod duplicates;
mod ext;
mod failures;
mod launch;
mod operations;
mod simulated;
mod solo;
mod stress;
