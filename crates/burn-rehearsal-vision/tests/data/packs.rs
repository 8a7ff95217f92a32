//! Packs: content, interruptions, and concurrent writers.

use super::{RED, folder, means, options, pixels, save};
use burn_rehearsal_vision::data::{
    Cifar, DataError, Format, Image, ImageData, ImageOptions, OnDamaged, PackOptions, PackReport,
    open_cifar, open_folder, open_pack, pack,
};
use image::{Rgb, RgbImage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

fn packed(
    data: &ImageData,
    format: Format,
    side: usize,
    out: &Path,
) -> Result<PackReport, DataError> {
    pack(data, &PackOptions { format, images: options(side) }, out, &|_| {})
}

/// A temporary directory with an image folder of `images` images per class in each part. Also
/// returns the path of the folder and that of a pack to write.
fn folder_and_pack(images: usize) -> (TempDir, PathBuf, PathBuf) {
    let directory = TempDir::new().unwrap();
    let (source, out) = (directory.path().join("source"), directory.path().join("pack"));
    folder(&source, images);
    (directory, source, out)
}

#[test]
fn a_pack_has_the_samples_of_its_folder() {
    let (_directory, source, out) = folder_and_pack(5);
    let data = open_folder(&source, &options(6)).unwrap();
    for format in [Format::Pixels, Format::Original] {
        let out = out.join(format!("{format:?}"));
        let seen = std::sync::atomic::AtomicUsize::new(0);
        let count = |samples| {
            seen.fetch_add(samples, std::sync::atomic::Ordering::Relaxed);
        };
        let report =
            pack(&data, &PackOptions { format, images: options(6) }, &out, &count).unwrap();
        assert_eq!((report.samples, report.shards, report.kept, seen.into_inner()), (20, 2, 0, 20));
        let read = open_pack(&out, &options(6)).unwrap();
        assert_eq!(
            (read.classes, read.shape, &read.train_labels, &read.test_labels),
            (2, data.shape, &data.train_labels, &data.test_labels)
        );
        assert_eq!(pixels(&read), pixels(&data));
    }
    let error = open_pack(&out.join("Pixels"), &options(7)).err().unwrap().to_string();
    assert!(error.contains("6×6"), "{error}");
    // Original files can be decoded to any size.
    assert_eq!(
        open_pack(&out.join("Original"), &options(7)).unwrap().train.get(0).unwrap().pixels.len(),
        3 * 49
    );
}

#[test]
fn packing_again_resumes_and_repairs_a_pack() {
    let (_directory, source, out) = folder_and_pack(3);
    let data = open_folder(&source, &options(6)).unwrap();
    packed(&data, Format::Pixels, 6, &out).unwrap();
    assert_eq!(packed(&data, Format::Pixels, 6, &out).unwrap().kept, 2);

    // As after a power failure between a shard and its index.
    std::fs::remove_file(out.join("test-00000.json")).unwrap();
    let error = open_pack(&out, &options(6)).err().unwrap().to_string();
    assert!(error.contains("test-00000.json") && error.contains("not finished"), "{error}");
    assert_eq!(packed(&data, Format::Pixels, 6, &out).unwrap().kept, 1);

    let shard = out.join("train-00000.bin");
    let mut bytes = std::fs::read(&shard).unwrap();
    bytes[17] ^= 1;
    std::fs::write(&shard, &bytes).unwrap();
    assert_eq!(packed(&data, Format::Pixels, 6, &out).unwrap().kept, 1);
    assert_eq!(pixels(&open_pack(&out, &options(6)).unwrap()), pixels(&data));

    std::fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap();
    let error = open_pack(&out, &options(6)).err().unwrap().to_string();
    assert!(error.contains("train-00000.bin"), "{error}");

    let error = packed(&data, Format::Original, 6, &out).unwrap_err().to_string();
    assert!(error.contains("a pack of different data"), "{error}");
}

#[test]
fn one_process_packs_at_a_time_and_stale_locks_are_ignored() {
    let (_directory, source, out) = folder_and_pack(3);
    let data = open_folder(&source, &options(6)).unwrap();
    // The lock and the temporary file of a killed process.
    std::fs::create_dir_all(&out).unwrap();
    std::fs::write(out.join(".lock"), "").unwrap();
    std::fs::write(out.join(".train-00000.bin.Ab12Cd.tmp"), [0; 9]).unwrap();
    let second = std::sync::Mutex::new(Vec::new());
    let meanwhile = |_| {
        second.lock().unwrap().push(packed(&data, Format::Pixels, 6, &out).unwrap_err().to_string())
    };
    pack(&data, &PackOptions { format: Format::Pixels, images: options(6) }, &out, &meanwhile)
        .unwrap();
    for error in second.into_inner().unwrap() {
        assert!(
            error.contains(out.to_str().unwrap()) && error.contains("another process"),
            "{error}"
        );
    }
    let names = std::fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| cfg!(unix) || name != ".lock").collect();
    names.sort();
    assert_eq!(
        names,
        ["pack.json", "test-00000.bin", "test-00000.json", "train-00000.bin", "train-00000.json"]
    );
    assert_eq!(packed(&data, Format::Pixels, 6, &out).unwrap().kept, 2);
    assert_eq!(pixels(&open_pack(&out, &options(6)).unwrap()), pixels(&data));
}

#[test]
fn concurrent_packers_leave_one_complete_pack() {
    let (_directory, source, out) = folder_and_pack(3);
    let data = open_folder(&source, &options(6)).unwrap();
    let results: Vec<_> = std::thread::scope(|scope| {
        let packers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| packed(&data, Format::Pixels, 6, &out))).collect();
        packers.into_iter().map(|packer| packer.join().unwrap()).collect()
    });
    assert!(results.iter().any(Result::is_ok));
    assert!(results.iter().all(|result| {
        result.as_ref().err().is_none_or(|error| error.to_string().contains("another process"))
    }));
    assert_eq!(pixels(&open_pack(&out, &options(6)).unwrap()), pixels(&data));
    assert_eq!(packed(&data, Format::Pixels, 6, &out).unwrap().kept, 2);
}

#[test]
fn a_file_that_changes_during_packing_is_an_error() {
    let (_directory, source, out) = folder_and_pack(3);
    let data = open_folder(&source, &options(6)).unwrap();
    for file in ["train-00000.bin", "train-00000.json", "pack.json"] {
        let change = |_| {
            // The shard may not be written yet.
            if let Ok(mut bytes) = std::fs::read(out.join(file)) {
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
                std::fs::write(out.join(file), bytes).unwrap();
            }
        };
        let once = std::sync::Once::new();
        let change = |samples| {
            if out.join(file).exists() {
                once.call_once(|| change(samples));
            }
        };
        let error =
            pack(&data, &PackOptions { format: Format::Pixels, images: options(6) }, &out, &change)
                .unwrap_err()
                .to_string();
        assert!(error.contains(file), "{file}: {error}");
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_part_without_valid_images_is_an_error() {
    let (_directory, source, out) = folder_and_pack(2);
    for part in ["a/0.jpg", "a/1.jpg", "b/0.png", "b/1.png"] {
        std::fs::write(source.join("val").join(part), "no image").unwrap();
    }
    let data = open_folder(&source, &options(6)).unwrap();
    let skipping = PackOptions {
        format: Format::Original,
        images: ImageOptions { on_damaged: OnDamaged::Skip, ..options(6) },
    };
    let error = pack(&data, &skipping, &out, &|_| {}).unwrap_err().to_string();
    assert!(
        error.contains(out.to_str().unwrap())
            && error.contains("`test` has no sample")
            && error.contains("4 images"),
        "{error}"
    );
    assert!(open_pack(&out, &options(6)).is_err());
}

#[test]
fn damaged_images_are_detected_during_packing() {
    let (_directory, source, out) = folder_and_pack(3);
    let damaged = source.join("val/a/2.jpg");
    std::fs::write(&damaged, [0xff, 0xd8, 0xff]).unwrap();
    let data = open_folder(&source, &options(6)).unwrap();
    for format in [Format::Original, Format::Pixels] {
        let out = out.join(format!("{format:?}"));
        assert!(
            matches!(packed(&data, format, 6, &out), Err(DataError::Image { path, .. }) if path == damaged)
        );
        let skipping = PackOptions {
            format,
            images: ImageOptions { on_damaged: OnDamaged::Skip, ..options(6) },
        };
        let report = pack(&data, &skipping, &out, &|_| {}).unwrap();
        assert_eq!((report.samples, report.damaged), (11, vec![damaged.clone()]));
        assert_eq!(open_pack(&out, &options(6)).unwrap().test_labels, [0, 0, 1, 1, 1]);
    }
    // A repaired file changes the source, so the pack must be written again.
    std::fs::copy(source.join("val/a/1.jpg"), &damaged).unwrap();
    let error = packed(&data, Format::Pixels, 6, &out.join("Pixels")).unwrap_err().to_string();
    assert!(error.contains("a pack of different data"), "{error}");
}

#[test]
fn samples_outlive_their_pack() {
    let (_directory, source, out) = folder_and_pack(1);
    let data = open_folder(&source, &options(6)).unwrap();
    packed(&data, Format::Pixels, 6, &out).unwrap();
    let read = open_pack(&out, &options(6)).unwrap();
    let image: Arc<Image> = Arc::new(read.train.get(1).unwrap());
    drop(read);
    assert_eq!(means(&image), RED);
}

#[test]
fn impossible_manifests_are_refused_before_memory_is_allocated() {
    let (_directory, source, out) = folder_and_pack(1);
    packed(&open_folder(&source, &options(6)).unwrap(), Format::Pixels, 6, &out).unwrap();
    let whole = std::fs::read_to_string(out.join("pack.json")).unwrap();
    // With 2^62 channels, the number of values of an image overflows to 0.
    for (from, to, words) in [
        ("[3,6,6]", "[4611686018427387904,6,6]", "4611686018427387904 channels"),
        ("\"classes\":2", "\"classes\":1048577", "1048577 classes"),
    ] {
        let changed = whole.replace(from, to);
        assert_ne!(changed, whole);
        std::fs::write(out.join("pack.json"), changed).unwrap();
        let error = open_pack(&out, &options(6)).err().unwrap().to_string();
        assert!(error.contains("pack.json") && error.contains(words), "{error}");
    }
}

/// The differences between two data sets as text; empty if there are none.
fn differences(before: &ImageData, now: &ImageData) -> String {
    before
        .fingerprint
        .differences(&now.fingerprint)
        .map_or_else(String::new, |differences| differences.to_string())
}

#[test]
fn fingerprints_ignore_paths_and_name_every_difference() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| directory.path().join(path);
    // Folders: names and sizes of files.
    folder(&at("first"), 2);
    folder(&at("second"), 2);
    let open = |path: &str, side| open_folder(&at(path), &options(side)).unwrap();
    let first = open("first", 8);
    assert_eq!(differences(&first, &open("second", 8)), "");
    assert_eq!(differences(&first, &open("second", 9)), "image size was 8 and is 9");
    std::fs::rename(at("second/val/b/1.png"), at("second/val/b/2.png")).unwrap();
    assert!(
        differences(&first, &open("second", 8)).contains("test images of class \"b\" have changed")
    );
    // Packs: digests of shards.
    for (number, source) in ["first", "second"].into_iter().enumerate() {
        packed(&open(source, 8), Format::Pixels, 8, &at(&format!("pack-{number}"))).unwrap();
    }
    let pack = |number: usize| open_pack(&at(&format!("pack-{number}")), &options(8)).unwrap();
    assert_eq!(differences(&pack(0), &pack(1)), "", "equal pixels under different names");
    assert!(differences(&first, &pack(0)).contains("the kind of data was folder and is pack"));
    save(&at("second/train/b/0.png"), RgbImage::from_pixel(8, 8, Rgb([1, 2, 3])));
    std::fs::remove_dir_all(at("pack-1")).unwrap();
    packed(&open("second", 8), Format::Pixels, 8, &at("pack-1")).unwrap();
    assert!(differences(&pack(0), &pack(1)).contains("the digest of the shards was "));
    // CIFAR: classes and all pixels.
    let record = |class: u8, value: u8| -> Vec<u8> {
        [class].into_iter().chain(std::iter::repeat_n(value, 3072)).collect()
    };
    std::fs::create_dir(at("cifar")).unwrap();
    for file in 1..=5 {
        std::fs::write(at(&format!("cifar/data_batch_{file}.bin")), record(file, 10 * file))
            .unwrap();
    }
    let test = at("cifar/test_batch.bin");
    std::fs::write(&test, record(9, 1)).unwrap();
    let cifar = || open_cifar(&at("cifar"), Cifar::Ten, 32).unwrap();
    let before = cifar();
    let mut other = record(9, 1);
    other[3072] ^= 1;
    std::fs::write(&test, other).unwrap();
    assert_eq!(
        differences(&before, &cifar()),
        "test images of class 9 have changed (compared: all pixels)"
    );
    std::fs::write(&test, record(8, 1)).unwrap();
    assert!(differences(&before, &cifar()).contains("test images of class 8: 0 before, 1 now"));
}
