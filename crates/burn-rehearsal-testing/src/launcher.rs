//! Starts a program as several processes.

use std::ffi::OsStr;
use std::process::Command;

/// The command that starts `program` as `ranks` processes on this machine. The launcher is
/// `mpirun`, unless the environment variable `MPIRUN` names another one.
///
/// The command sets variables of Open MPI, which other MPIs ignore. They allow more ranks than
/// cores, runs as root, and shared memory without attaching to other processes, which containers
/// forbid.
///
/// ```no_run
/// let status = burn_rehearsal_testing::mpirun(2, "target/release/train").status()?;
/// assert!(status.success());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn mpirun(ranks: usize, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(std::env::var_os("MPIRUN").unwrap_or_else(|| "mpirun".into()));
    command.args(["-n", &ranks.to_string()]).arg(program);
    command.envs([
        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
        ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
        ("OMPI_MCA_hwloc_base_binding_policy", "none"),
        ("OMPI_MCA_btl", "self,vader"),
        ("OMPI_MCA_btl_vader_single_copy_mechanism", "none"),
    ]);
    command
}
