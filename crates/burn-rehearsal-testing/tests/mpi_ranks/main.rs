//! Ranks as real processes: each test runs the program `mpi-ranks` under `mpirun`, with more ranks
//! than cores if need be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod failures;
mod launcher;
mod results;
