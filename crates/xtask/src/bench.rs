//! `cargo xtask bench`: all benchmarks, or one.

use crate::error::{Error, Result};
use crate::prerequisites;
use crate::process;
use crate::workspace::{Leg, Workspace};

/// The benchmark that needs an MPI; it starts `mpirun` itself.
const MPI: &str = "mpi";

/// Runs the benchmark `name`, or all; that over MPI is left out, loudly, where there is no MPI,
/// unless it was asked for.
pub(crate) fn bench(workspace: &Workspace, name: Option<&str>) -> Result<()> {
    let run = |arguments: &[&str]| {
        process::run(
            workspace
                .cargo(Leg::DEFAULT, &["bench", "-p", "burn-rehearsal-benches", "--locked"])
                .args(arguments),
        )
    };
    match name {
        Some(name) if name != MPI => return run(&["--bench", name]),
        Some(_) => prerequisites::ensure(&prerequisites::MPI_TOOLS)?,
        None => {
            run(&[])?;
            match prerequisites::ensure(&prerequisites::MPI_TOOLS) {
                Err(Error::Missing(missing)) => {
                    println!("*** {MPI} SKIPPED: {missing}");
                    return Ok(());
                }
                ensured => ensured?,
            }
        }
    }
    run(&["--features", MPI, "--bench", MPI])
}
