//! Configuration files of the program.
#![no_main]

use burn_rehearsal_fuzz::{folder, write};
use burn_rehearsal_train::methods::Rehearsal;
use continual_imagenet::Config;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(folder);

fuzz_target!(|input: &[u8]| {
    let path = write(FOLDER.path(), "run.toml", input);
    let Ok(config) = Config::from_arguments(["--config".as_ref(), path.as_os_str()]) else {
        return;
    };
    // Everything that the program derives before it opens data.
    let _ = config.images();
    let rehearsal = config.rehearsal(1000, 10);
    let _ = config.buffer_len(&rehearsal, 28);
    let _ = config.settings(&Rehearsal, rehearsal, false);
});
