//! Configuration files of the program.
#![no_main]
#![allow(dead_code, reason = "the program's modules are more than its reader of configuration files")]

#[path = "../../examples/continual-imagenet/src/cli.rs"]
mod cli;
#[path = "../../examples/continual-imagenet/src/config.rs"]
mod config;
#[path = "../../examples/continual-imagenet/src/data/mod.rs"]
mod data;
#[path = "../../examples/continual-imagenet/src/device.rs"]
mod device;
#[path = "../../examples/continual-imagenet/src/error.rs"]
mod error;
#[path = "../../examples/continual-imagenet/src/place.rs"]
mod place;
#[path = "../../examples/continual-imagenet/src/recipes.rs"]
mod recipes;
#[path = "../../examples/continual-imagenet/src/transport.rs"]
mod transport;

use burn_rehearsal_fuzz::{folder, write};
use burn_rehearsal_train::report::schema::Method;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(folder);

fuzz_target!(|input: &[u8]| {
    let path = write(FOLDER.path(), "run.toml", input);
    let flags = cli::Options { config: Some(path), ..cli::Options::default() };
    let Ok(config) = config::Config::resolve(flags) else { return };
    // What the program makes of it before it looks at any data.
    let _ = config.images();
    if let Ok(rehearsal) = config.rehearsal(1000, 10) {
        let _ = config.buffer_len(&rehearsal, 28);
        let _ = config.settings(Method::Rehearsal, rehearsal);
    }
});
