//! `cargo xtask soak`: buffers over a million steps.

use crate::bench::{Origin, record};
use crate::error::Result;
use crate::workspace::Workspace;

/// Builds the soak of the benchmarks and runs it. Fails if memory or the time of a step grows.
pub(crate) fn soak(workspace: &Workspace, steps: u64, ranks: u64) -> Result<()> {
    let run =
        ["run", "--release", "-p", "burn-rehearsal-benches", "--bin", "soak", "--locked", "--"];
    let mut command = workspace.cargo(&run);
    command.args([steps.to_string(), ranks.to_string()]);
    let origin = format!("cargo xtask soak --steps {steps} --ranks {ranks}");
    record(workspace, command, &Origin { command: &origin, profile: "release", gpu: None })
}
