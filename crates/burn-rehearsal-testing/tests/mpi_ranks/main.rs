//! Ranks as real processes. Each test runs the program `mpi-ranks` under `mpirun`, possibly with
//! more ranks than cores.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod failures;
mod launcher;
mod results;
