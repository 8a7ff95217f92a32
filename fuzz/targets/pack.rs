//! A pack with one training and one test shard. An input contains `pack.json`, the index of the
//! training shard, and its samples.
#![no_main]

use burn_rehearsal_fuzz::{folder, parts, write};
use burn_rehearsal_vision::data::{Fit, ImageOptions, OnDamaged, open_pack, packed_side};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = folder();
    write(folder.path(), "test-00000.bin", &[5; 12]);
    write(
        folder.path(),
        "test-00000.json",
        br#"{"blake3":"","offsets":[0,12],"classes":[0],"damaged":[]}"#,
    );
    folder
});

fuzz_target!(|input: &[u8]| {
    let [manifest, index, samples] = parts(input);
    write(FOLDER.path(), "pack.json", manifest);
    write(FOLDER.path(), "train-00000.json", index);
    write(FOLDER.path(), "train-00000.bin", samples);
    let _ = packed_side(FOLDER.path());
    for on_damaged in [OnDamaged::Fail, OnDamaged::Skip] {
        let Ok(data) =
            open_pack(FOLDER.path(), &ImageOptions { side: 2, fit: Fit::Stretch, on_damaged })
        else {
            continue;
        };
        assert_eq!(
            (data.train.len(), data.test.len()),
            (data.train_labels.len(), data.test_labels.len())
        );
        for index in 0..data.train.len().min(50) {
            if let Ok(image) = data.train.get(index) {
                assert_eq!(image.pixels.len(), data.shape.elements());
                assert!(image.class < data.classes);
            }
        }
        for index in 0..data.test.len().min(50) {
            let _ = data.test.get(index);
        }
    }
});
