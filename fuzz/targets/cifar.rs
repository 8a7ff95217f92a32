//! Files of CIFAR-10 and CIFAR-100.
#![no_main]

use burn_rehearsal_fuzz::{folder, write};
use burn_rehearsal_vision::data::{Cifar, open_cifar};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = folder();
    for batch in 2..=5 {
        write(folder.path(), &format!("data_batch_{batch}.bin"), &[1; 3073]);
    }
    write(folder.path(), "test_batch.bin", &[1; 3073]);
    write(folder.path(), "test.bin", &[1; 3074]);
    folder
});

fuzz_target!(|input: &[u8]| {
    let Some((&kind, bytes)) = input.split_first() else { return };
    let which = if kind & 1 == 0 { Cifar::Ten } else { Cifar::Hundred };
    let name = if kind & 1 == 0 { "data_batch_1.bin" } else { "train.bin" };
    let suffix = if kind & 2 == 0 { "" } else { ".gz" };
    // Complete records are unlikely to be found by chance.
    let mut bytes = bytes.to_vec();
    if kind & 4 != 0 {
        bytes.resize(bytes.len().next_multiple_of(3072 + 1 + usize::from(kind & 1)), 7);
    }
    let written = write(FOLDER.path(), &format!("{name}{suffix}"), &bytes);
    for side in [32, 8] {
        if let Ok(data) = open_cifar(FOLDER.path(), which, side) {
            for index in 0..data.train.len().min(8) {
                let image = data.train.get(index).expect("a valid sample");
                assert_eq!(image.pixels.len(), 3 * side * side);
                assert!(image.class < data.classes);
            }
        }
    }
    std::fs::remove_file(written).expect("a removable file");
});
