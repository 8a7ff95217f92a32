//! Images from disk: all layouts and file formats, damaged files, and packs.
#![cfg(feature = "images")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "data/jpeg.rs"]
mod jpeg;
#[path = "data/jpegs.rs"]
mod jpegs;
#[path = "data/packs.rs"]
mod packs;

use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;
use burn_rehearsal::ShardedLoader;
use burn_rehearsal_vision::data::{
    Cifar, DataError, Fit, Image, ImageData, ImageOptions, OnDamaged, open_cifar, open_folder,
    open_idx, open_tiny_imagenet,
};
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use std::io::Write;
use std::path::Path;

const RED: [u8; 3] = [200, 30, 40];

fn options(side: usize) -> ImageOptions {
    ImageOptions { side, fit: Fit::Stretch, on_damaged: OnDamaged::Fail }
}

fn save(path: &Path, image: impl Into<DynamicImage>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let format = ImageFormat::from_path(path).unwrap();
    image.into().save_with_format(path, format).unwrap();
}

/// Writes two classes with `count` red or gray images each in both parts.
fn folder(directory: &Path, count: usize) {
    for part in ["train", "val"] {
        for number in 0..count {
            save(
                &directory.join(format!("{part}/b/{number}.png")),
                RgbImage::from_pixel(8, 8, Rgb(RED)),
            );
            save(
                &directory.join(format!("{part}/a/{number}.jpg")),
                GrayImage::from_pixel(8, 8, Luma([10 + number as u8])),
            );
        }
    }
}

/// The mean of each channel.
fn means(image: &Image) -> [u8; 3] {
    let plane = image.pixels.len() / 3;
    [0, 1, 2].map(|channel| {
        let sum: usize =
            image.pixels[channel * plane..][..plane].iter().map(|&value| usize::from(value)).sum();
        (sum / plane) as u8
    })
}

fn near(image: &Image, expected: [u8; 3], by: u8) -> bool {
    means(image).iter().zip(expected).all(|(ours, theirs)| ours.abs_diff(theirs) <= by)
}

fn pixels(data: &ImageData) -> Vec<Vec<u8>> {
    (0..data.train.len()).map(|index| data.train.get(index).unwrap().pixels.to_vec()).collect()
}

#[test]
fn folders_have_sorted_classes_and_all_formats_become_three_channels() {
    let directory = tempfile::tempdir().unwrap();
    folder(directory.path(), 2);
    let train = directory.path().join("train/c");
    std::fs::create_dir_all(&train).unwrap();
    std::fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cmyk.jpg"),
        train.join("0.JPEG"),
    )
    .unwrap();
    save(
        &train.join("1.png"),
        DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(5, 9, Luma([0x8000u16]))),
    );
    save(&train.join("2.png"), image::RgbaImage::from_pixel(7, 7, image::Rgba([1, 2, 3, 0])));
    // A JPEG with the extension of a PNG.
    save(&train.join("3.jpg"), RgbImage::from_pixel(20, 10, Rgb([90, 90, 90])));
    std::fs::rename(train.join("3.jpg"), train.join("3.png")).unwrap();
    save(&directory.path().join("val/c/0.png"), RgbImage::from_pixel(2, 2, Rgb(RED)));

    let data = open_folder(directory.path(), &options(16)).unwrap();
    assert_eq!((data.classes, data.shape.elements()), (3, 3 * 16 * 16));
    assert_eq!(
        (data.train_labels.clone(), data.test_labels.clone()),
        (vec![0, 0, 1, 1, 2, 2, 2, 2], vec![0, 0, 1, 1, 2])
    );
    let image = |index| data.train.get(index).unwrap();
    assert_eq!((image(1).class, image(1).index, image(1).pixels.len()), (0, 1, 768));
    assert!(
        near(&image(0), [10; 3], 1) && near(&image(1), [11; 3], 1) && near(&image(2), RED, 0),
        "{:?}",
        means(&image(1))
    );
    // Cyan on the left, yellow at half brightness on the right.
    let cmyk = image(4).pixels;
    let at = |channel: usize, x: usize| cmyk[channel * 256 + 3 * 16 + x];
    assert!(
        at(0, 2) < 10 && at(1, 2) > 245 && at(2, 2) > 245,
        "{:?}",
        [at(0, 2), at(1, 2), at(2, 2)]
    );
    assert!(
        at(0, 13).abs_diff(127) < 10 && at(1, 13).abs_diff(127) < 10 && at(2, 13) < 10,
        "{:?}",
        [at(0, 13), at(1, 13), at(2, 13)]
    );
    assert!(
        near(&image(5), [128; 3], 1)
            && near(&image(6), [1, 2, 3], 0)
            && near(&image(7), [90; 3], 1)
    );
}

#[test]
fn images_are_stretched_or_cropped_to_squares() {
    let directory = tempfile::tempdir().unwrap();
    folder(directory.path(), 1);
    // Green with red outer quarters.
    let wide = RgbImage::from_fn(32, 16, |x, _| {
        if (8..24).contains(&x) { Rgb([0, 255, 0]) } else { Rgb([255, 0, 0]) }
    });
    save(&directory.path().join("train/a/0.png"), wide);
    std::fs::remove_file(directory.path().join("train/a/0.jpg")).unwrap();
    let first = |fit| {
        open_folder(directory.path(), &ImageOptions { fit, ..options(16) })
            .unwrap()
            .train
            .get(0)
            .unwrap()
    };
    assert!(near(&first(Fit::Stretch), [127, 127, 0], 4), "{:?}", means(&first(Fit::Stretch)));
    assert_eq!(means(&first(Fit::Crop)), [0, 255, 0]);
}

/// Makes mini-batches of sample indices.
#[derive(Clone)]
struct Numbers;

impl Batcher<Image, Vec<usize>> for Numbers {
    fn batch(&self, items: Vec<Image>, _device: &Device) -> Vec<usize> {
        items.iter().map(|image| image.index).collect()
    }
}

fn batches(data: &ImageData, size: usize, workers: usize) -> Vec<Vec<usize>> {
    let loader = ShardedLoader::builder(Numbers)
        .batch_size(size)
        .num_workers(workers)
        .build(data.train.clone());
    loader.iter().map(|batch| batch.unwrap()).collect()
}

#[test]
fn damaged_images_are_errors_or_are_skipped_and_listed() {
    let directory = tempfile::tempdir().unwrap();
    folder(directory.path(), 3);
    let damaged = directory.path().join("train/a/1.jpg");
    // Truncated within the pixels. A lenient decoder would return gray pixels.
    save(&damaged, RgbImage::from_fn(64, 64, |x, y| Rgb([(x * y) as u8, x as u8, y as u8])));
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() * 2 / 3]).unwrap();

    let strict = open_folder(directory.path(), &options(8)).unwrap();
    let error = strict.train.get(1).unwrap_err().to_string();
    assert!(error.contains(damaged.to_str().unwrap()), "{error}");
    assert!(strict.damaged.paths().is_empty());

    let lenient =
        open_folder(directory.path(), &ImageOptions { on_damaged: OnDamaged::Skip, ..options(8) })
            .unwrap();
    for workers in [0, 2] {
        assert_eq!(batches(&lenient, 2, workers), [vec![0], vec![2, 3], vec![4, 5]]);
        assert_eq!(
            batches(&lenient, 1, workers),
            [[0], [2], [3], [4], [5]],
            "empty mini-batches are left out"
        );
    }
    assert_eq!(lenient.damaged.paths(), std::slice::from_ref(&damaged));

    for (bytes, words) in [(&b""[..], "empty"), (b"GIF89a", "neither a JPEG nor a PNG")] {
        std::fs::write(&damaged, bytes).unwrap();
        let error = strict.train.get(1).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    // A file that cannot be read is never skipped.
    std::fs::remove_file(&damaged).unwrap();
    assert!(lenient.train.get(1).unwrap_err().to_string().contains("cannot read the image"));
}

#[test]
fn invalid_folders_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let refused = || match open_folder(directory.path(), &options(8)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("the folder was opened"),
    };
    assert!(refused().contains("there is no `train` folder"));
    std::fs::create_dir_all(directory.path().join("train")).unwrap();
    assert!(refused().contains("neither a `test` nor a `val` folder"));
    std::fs::create_dir_all(directory.path().join("val")).unwrap();
    assert!(refused().contains("no subfolder"));
    std::fs::create_dir_all(directory.path().join("train/a")).unwrap();
    assert!(refused().contains("`a` has no image"));
    folder(directory.path(), 1);
    std::fs::create_dir_all(directory.path().join("val/z")).unwrap();
    assert!(refused().contains("`z`"));
}

#[test]
fn tiny_imagenet_reads_test_classes_from_its_annotations() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (class, value) in [("n01", 10), ("n02", 20)] {
        save(
            &root.join(format!("train/{class}/images/{class}_0.png")),
            GrayImage::from_pixel(64, 64, Luma([value])),
        );
        save(
            &root.join(format!("val/images/val_{value}.png")),
            GrayImage::from_pixel(64, 64, Luma([value + 1])),
        );
    }
    let annotations = root.join("val/val_annotations.txt");
    std::fs::write(&annotations, "val_20.png\tn02\t0\t0\t1\t1\nval_10.png\tn01\t0\t0\t1\t1\n")
        .unwrap();
    let data = open_tiny_imagenet(root, &options(64)).unwrap();
    assert_eq!(
        (data.classes, data.train_labels.clone(), data.test_labels.clone()),
        (2, vec![0, 1], vec![0, 1])
    );
    assert!(near(&data.test.get(1).unwrap(), [21; 3], 0));
    std::fs::write(&annotations, "val_20.png\tn09\n").unwrap();
    let error = open_tiny_imagenet(root, &options(64)).err().unwrap().to_string();
    assert!(error.contains("val_annotations.txt") && error.contains("line 1"), "{error}");
}

#[test]
fn cifar_is_read_from_its_binary_files() {
    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, head: &[u8], value: u8| {
        let record: Vec<u8> =
            head.iter().copied().chain((0..3072).map(|at| value + (at / 1024) as u8)).collect();
        std::fs::write(directory.path().join(file), record).unwrap();
    };
    for file in 1..=5 {
        write(&format!("data_batch_{file}.bin"), &[file], 10 * file);
    }
    write("test_batch.bin", &[9], 100);
    let data = open_cifar(directory.path(), Cifar::Ten, 32).unwrap();
    assert_eq!(
        (data.classes, data.train_labels.clone(), data.test_labels.clone()),
        (10, vec![1, 2, 3, 4, 5], vec![9])
    );
    assert_eq!(means(&data.train.get(3).unwrap()), [40, 41, 42]);
    let large = open_cifar(directory.path(), Cifar::Ten, 40).unwrap();
    assert_eq!(
        (large.shape.elements(), means(&large.train.get(3).unwrap())),
        (3 * 40 * 40, [40, 41, 42])
    );

    // In CIFAR-100 the superclass precedes the class.
    write("train.bin", &[3, 77], 5);
    write("test.bin", &[3, 12], 6);
    let hundred = open_cifar(directory.path(), Cifar::Hundred, 32).unwrap();
    assert_eq!(
        (hundred.train_labels, hundred.test_labels, hundred.classes),
        (vec![77], vec![12], 100)
    );

    write("data_batch_3.bin", &[10], 0);
    let error = open_cifar(directory.path(), Cifar::Ten, 32).err().unwrap().to_string();
    assert!(error.contains("data_batch_3.bin") && error.contains("class 10"), "{error}");
    std::fs::write(directory.path().join("data_batch_3.bin"), [0; 100]).unwrap();
    let error = open_cifar(directory.path(), Cifar::Ten, 32).err().unwrap().to_string();
    assert!(error.contains("data_batch_3.bin") && error.contains("100 bytes"), "{error}");
}

#[test]
fn mnist_is_read_from_plain_and_compressed_idx_files() {
    let directory = tempfile::tempdir().unwrap();
    let idx = |dimensions: &[u32], values: &[u8]| -> Vec<u8> {
        let head = [0, 0, 8, dimensions.len() as u8];
        head.into_iter()
            .chain(dimensions.iter().flat_map(|size| size.to_be_bytes()))
            .chain(values.iter().copied())
            .collect()
    };
    let write =
        |file: &str, bytes: &[u8]| std::fs::write(directory.path().join(file), bytes).unwrap();
    write("train-images-idx3-ubyte", &idx(&[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]));
    write("train-labels-idx1-ubyte", &idx(&[2], &[1, 0]));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&idx(&[1, 2, 2], &[9, 9, 9, 9])).unwrap();
    write("t10k-images-idx3-ubyte.gz", &packed.finish().unwrap());
    write("t10k-labels-idx1-ubyte", &idx(&[1], &[1]));
    let data = open_idx(directory.path(), 2).unwrap();
    assert_eq!((data.classes, data.train_labels.clone(), data.shape.channels), (2, vec![1, 0], 1));
    assert_eq!(&*data.train.get(1).unwrap().pixels, &[5, 6, 7, 8]);
    assert_eq!(&*data.test.get(0).unwrap().pixels, &[9; 4]);

    // A file with two gzip members is read to its end.
    let pieces = idx(&[1, 2, 2], &[6, 7, 8, 9]);
    let member = |bytes: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    };
    write("t10k-images-idx3-ubyte.gz", &[member(&pieces[..17]), member(&pieces[17..])].concat());
    assert_eq!(&*open_idx(directory.path(), 2).unwrap().test.get(0).unwrap().pixels, &[6, 7, 8, 9]);

    write("train-labels-idx1-ubyte", &idx(&[3], &[1, 0]));
    let error = open_idx(directory.path(), 2).err().unwrap().to_string();
    assert!(error.contains("train-labels-idx1-ubyte") && error.contains("[3]"), "{error}");
    std::fs::remove_file(directory.path().join("t10k-images-idx3-ubyte.gz")).unwrap();
    write("train-labels-idx1-ubyte", &idx(&[2], &[1, 0]));
    assert!(
        matches!(open_idx(directory.path(), 2), Err(DataError::Io { path, .. }) if path.ends_with("t10k-images-idx3-ubyte"))
    );
}

#[cfg(unix)]
#[test]
fn a_class_name_that_is_not_unicode_is_an_error() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    folder(directory.path(), 1);
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    // Some file systems do not support such names.
    if std::fs::rename(directory.path().join("train/a"), directory.path().join("train").join(name))
        .is_ok()
    {
        let error = open_folder(directory.path(), &options(6)).err().unwrap().to_string();
        assert!(error.contains("UTF-8"), "{error}");
    }
}
