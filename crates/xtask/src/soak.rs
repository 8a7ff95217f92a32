//! `cargo xtask soak`: a long life, in short.

use crate::error::Result;
use crate::process;
use crate::workspace::{Leg, Workspace};

/// Builds the soak of the benchmarks and runs it; it fails if anything grows.
pub(crate) fn soak(workspace: &Workspace, steps: u64, ranks: u64) -> Result<()> {
    let run =
        ["run", "--release", "-p", "burn-rehearsal-benches", "--bin", "soak", "--locked", "--"];
    process::run(workspace.cargo(Leg::DEFAULT, &run).args([steps.to_string(), ranks.to_string()]))
}
