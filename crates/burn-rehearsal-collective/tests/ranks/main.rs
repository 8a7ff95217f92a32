//! The operations on threads and on a single rank: results, failures, disagreements, duplicates and stress.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod disagreements;
mod duplicates;
mod failures;
mod operations;
mod reference;
#[cfg(feature = "simulated")]
mod simulated;
mod solo;
mod stress;
mod watchdog;
