//! The test harness of the workspace. It is not published.
//!
//! * [`Simulated`] connects thread ranks by a simulated network with seeded delays and faults.
//! * [`mpirun`] starts a program as several processes.
//! * [`watchdog`] and [`guarded`] turn a hang into a failed test run.
//! * [`mod@reference`] has simple results to compare collective operations with.
//! * [`seeded`] returns a generator of reproducible random numbers.
//! * The feature `fixtures` adds mini-batches with verifiable rows, worlds of ranks, and χ² tests
//!   of uniform draws.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[cfg(feature = "fixtures")]
mod fixtures;
mod launcher;
mod random;
pub mod reference;
mod simulated;
mod watchdog;
#[cfg(feature = "fixtures")]
mod world;

#[cfg(feature = "fixtures")]
pub use fixtures::{
    CLASS, Mixed, Row, assert_augmented, batch, batch_on, buffer, byte_type, config, device, fresh,
    label_type, p_value, read, stored_ids, uniform_p,
};
pub use launcher::mpirun;
pub use random::seeded;
pub use simulated::{Disturbance, Fault, FaultKind, Simulated, run_simulated};
pub use watchdog::{Watchdog, guarded, watchdog};
#[cfg(feature = "fixtures")]
pub use world::{on_processes, world};
