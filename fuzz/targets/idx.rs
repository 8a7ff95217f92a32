//! Images and labels of the training part of MNIST. The test part is valid.
#![no_main]

use burn_rehearsal_fuzz::{folder, parts, write};
use burn_rehearsal_vision::data::open_idx;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = folder();
    write(
        folder.path(),
        "t10k-images-idx3-ubyte",
        &[0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, 9, 9, 9, 9],
    );
    write(folder.path(), "t10k-labels-idx1-ubyte", &[0, 0, 8, 1, 0, 0, 0, 1, 0]);
    folder
});

fuzz_target!(|input: &[u8]| {
    let [images, labels] = parts(input);
    // The input may be compressed.
    let suffix = if images.starts_with(&[0x1f, 0x8b]) { ".gz" } else { "" };
    let written = write(FOLDER.path(), &format!("train-images-idx3-ubyte{suffix}"), images);
    write(FOLDER.path(), "train-labels-idx1-ubyte", labels);
    for side in [2, 5] {
        if let Ok(data) = open_idx(FOLDER.path(), side) {
            for index in 0..data.train.len().min(50) {
                if let Ok(image) = data.train.get(index) {
                    assert_eq!(image.pixels.len(), side * side);
                    assert!(image.class < data.classes);
                }
            }
        }
    }
    std::fs::remove_file(written).expect("a removable file");
});
