//! The operations on threads and on a single rank: results, failures, disagreements, deadlocks,
//! duplicates and stress.
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
