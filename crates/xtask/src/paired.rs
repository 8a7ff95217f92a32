//! `cargo xtask paired`: the tests of paired rows with all combinations of options.

use crate::error::Result;
use crate::process;
use crate::workspace::Workspace;

/// Runs the tests of paired rows. The gate runs the same ones with fewer combinations.
pub(crate) fn paired(workspace: &Workspace) -> Result<()> {
    let tests = ["test", "--workspace", "--locked", "--test", "data_parallel", "--"];
    let mut command = workspace.cargo(&tests);
    command.args(["paired::", "--nocapture"]).env("BURN_REHEARSAL_PAIRED", "all");
    process::run(&mut command)
}
