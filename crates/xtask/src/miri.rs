//! `cargo xtask miri`: the tests of the thread ranks in Miri, which checks every memory access of
//! their unsafe code.
//!
//! Miri cannot run the other unsafe code of the project: mapped files, huge pages and non-temporal
//! stores. That code consists of single calls, whose results the tests of stores and packs check.

use std::process::Command;

use crate::error::{Error, Result};
use crate::process;
use crate::workspace::Workspace;

/// The command that installs Miri.
const INSTALL: &str = "rustup toolchain install nightly --component miri,rust-src";

/// Runs the tests of the collective in Miri, except those with ranks as processes. `filter` selects
/// tests by name.
pub(crate) fn miri(workspace: &Workspace, filter: Option<&str>) -> Result<()> {
    let cargo = |arguments: &[&str]| {
        // Miri belongs to the nightly toolchain, which has its own cargo.
        let mut command = Command::new("rustup");
        command
            .args(["run", "nightly", "cargo", "miri"])
            .args(arguments)
            .current_dir(&workspace.root);
        command.env_remove("CARGO").env("CARGO_TARGET_DIR", &workspace.target);
        command
    };
    if !process::succeeds(&mut cargo(&["--version"])) {
        return Err(Error::MissingTools(format!("Miri is not installed: {INSTALL}")));
    }
    let tests =
        ["test", "-p", "burn-rehearsal-collective", "--locked", "--lib", "--test", "ranks", "--"];
    // Tests read the clock, and they expect the same bits from the same operations. Miri allows
    // neither by default.
    process::run(
        cargo(&tests)
            .args(filter)
            .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-deterministic-floats"),
    )
}
