//! `cargo xtask miri`: the tests of the thread ranks, whose unsafe code is our own, interpreted
//! with every access to memory checked.
//!
//! What else is unsafe here Miri cannot run: files mapped into memory, huge pages, and stores past
//! the caches. It consists of single calls; the tests of the stores and of packs compare what comes
//! of them.

use std::process::Command;

use crate::error::{Error, Result};
use crate::process;
use crate::workspace::{Leg, Workspace};

/// What installs Miri.
const INSTALL: &str = "rustup toolchain install nightly --component miri,rust-src";

/// Runs the tests of the collective, ranks as processes aside, in Miri; `filter` chooses among
/// them.
pub(crate) fn miri(workspace: &Workspace, filter: Option<&str>) -> Result<()> {
    let cargo = |arguments: &[&str]| {
        // Not the cargo that runs us: Miri belongs to the nightly toolchain.
        let mut command = Command::new("rustup");
        command
            .args(["run", "nightly", "cargo", "miri"])
            .args(arguments)
            .current_dir(&workspace.root);
        command.env_remove("CARGO").env("CARGO_TARGET_DIR", workspace.target_dir(Leg::DEFAULT));
        command
    };
    if !process::succeeds(&mut cargo(&["--version"])) {
        return Err(Error::Missing(format!("Miri is not installed: {INSTALL}")));
    }
    let tests =
        ["test", "-p", "burn-rehearsal-collective", "--locked", "--lib", "--test", "ranks", "--"];
    // Tests look at the clock; and they expect that the same operations give the same bits, which
    // Miri does not grant on its own.
    process::run(
        cargo(&tests)
            .args(filter)
            .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-deterministic-floats"),
    )
}
