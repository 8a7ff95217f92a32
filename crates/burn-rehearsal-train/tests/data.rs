//! Images from disk: every layout, every kind of file, damaged ones, and packs of them.
#![cfg(feature = "images")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::data::dataloader::DataLoader;
use burn::data::dataloader::batcher::Batcher;
use burn::tensor::Device;
use burn_rehearsal::ShardedLoader;
use burn_rehearsal_train::data::{
    Cifar, DataError, Fit, Format, Image, ImageData, ImageOptions, OnDamaged, PackOptions, PackReport, open_cifar, open_folder, open_idx,
    open_pack, open_tiny_imagenet, pack,
};
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

const RED: [u8; 3] = [200, 30, 40];

fn options(side: usize) -> ImageOptions {
    ImageOptions { side, fit: Fit::Stretch, on_damaged: OnDamaged::Fail }
}

fn save(path: &Path, image: impl Into<DynamicImage>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let format = ImageFormat::from_path(path).unwrap();
    image.into().save_with_format(path, format).unwrap();
}

/// Two classes with `count` red or grey images each in both parts.
fn folder(directory: &Path, count: usize) {
    for part in ["train", "val"] {
        for number in 0..count {
            save(&directory.join(format!("{part}/b/{number}.png")), RgbImage::from_pixel(8, 8, Rgb(RED)));
            save(&directory.join(format!("{part}/a/{number}.jpg")), GrayImage::from_pixel(8, 8, Luma([10 + number as u8])));
        }
    }
}

/// The mean of each channel.
fn means(image: &Image) -> [u8; 3] {
    let plane = image.pixels.len() / 3;
    [0, 1, 2].map(|channel| {
        let sum: usize = image.pixels[channel * plane..][..plane].iter().map(|&value| usize::from(value)).sum();
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
fn a_folder_has_its_classes_in_alphabetical_order_and_every_kind_of_file_becomes_three_channels() {
    let directory = tempfile::tempdir().unwrap();
    folder(directory.path(), 2);
    let train = directory.path().join("train/c");
    std::fs::create_dir_all(&train).unwrap();
    std::fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/cmyk.jpg"), train.join("0.JPEG")).unwrap();
    save(&train.join("1.png"), DynamicImage::ImageLuma16(image::ImageBuffer::from_pixel(5, 9, Luma([0x8000u16]))));
    save(&train.join("2.png"), image::RgbaImage::from_pixel(7, 7, image::Rgba([1, 2, 3, 0])));
    // A JPEG that is called PNG is a JPEG.
    save(&train.join("3.jpg"), RgbImage::from_pixel(20, 10, Rgb([90, 90, 90])));
    std::fs::rename(train.join("3.jpg"), train.join("3.png")).unwrap();
    save(&directory.path().join("val/c/0.png"), RgbImage::from_pixel(2, 2, Rgb(RED)));

    let data = open_folder(directory.path(), &options(16)).unwrap();
    assert_eq!((data.classes, data.shape.elements()), (3, 3 * 16 * 16));
    assert_eq!((data.train_labels.clone(), data.test_labels.clone()), (vec![0, 0, 1, 1, 2, 2, 2, 2], vec![0, 0, 1, 1, 2]));
    let image = |index| data.train.get(index).unwrap();
    assert_eq!((image(1).class, image(1).index, image(1).pixels.len()), (0, 1, 768));
    assert!(near(&image(0), [10; 3], 1) && near(&image(1), [11; 3], 1) && near(&image(2), RED, 0), "{:?}", means(&image(1)));
    // Cyan on the left; on the right yellow at half brightness.
    let cmyk = image(4).pixels;
    let at = |channel: usize, x: usize| cmyk[channel * 256 + 3 * 16 + x];
    assert!(at(0, 2) < 10 && at(1, 2) > 245 && at(2, 2) > 245, "{:?}", [at(0, 2), at(1, 2), at(2, 2)]);
    assert!(at(0, 13).abs_diff(127) < 10 && at(1, 13).abs_diff(127) < 10 && at(2, 13) < 10, "{:?}", [at(0, 13), at(1, 13), at(2, 13)]);
    assert!(near(&image(5), [128; 3], 1) && near(&image(6), [1, 2, 3], 0) && near(&image(7), [90; 3], 1));
}

#[test]
fn an_image_is_stretched_to_a_square_or_its_middle_is_cut_out() {
    let directory = tempfile::tempdir().unwrap();
    folder(directory.path(), 1);
    // Green, and red in the outer quarters.
    let wide = RgbImage::from_fn(32, 16, |x, _| if (8..24).contains(&x) { Rgb([0, 255, 0]) } else { Rgb([255, 0, 0]) });
    save(&directory.path().join("train/a/0.png"), wide);
    std::fs::remove_file(directory.path().join("train/a/0.jpg")).unwrap();
    let first = |fit| open_folder(directory.path(), &ImageOptions { fit, ..options(16) }).unwrap().train.get(0).unwrap();
    assert!(near(&first(Fit::Stretch), [127, 127, 0], 4), "{:?}", means(&first(Fit::Stretch)));
    assert_eq!(means(&first(Fit::Crop)), [0, 255, 0]);
}

/// Makes mini-batches of sample numbers.
#[derive(Clone)]
struct Numbers;

impl Batcher<Image, Vec<usize>> for Numbers {
    fn batch(&self, items: Vec<Image>, _device: &Device) -> Vec<usize> {
        items.iter().map(|image| image.index).collect()
    }
}

fn batches(data: &ImageData, size: usize, workers: usize) -> Vec<Vec<usize>> {
    let loader = ShardedLoader::builder(Numbers, size).workers(workers).build(data.train.clone());
    loader.iter().map(|batch| batch.unwrap()).collect()
}

#[test]
fn a_damaged_image_ends_the_run_with_its_path_or_is_left_out_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    folder(directory.path(), 3);
    let damaged = directory.path().join("train/a/1.jpg");
    // Cut off in the middle of the pixels; a forgiving decoder would make it grey from there on.
    save(&damaged, RgbImage::from_fn(64, 64, |x, y| Rgb([(x * y) as u8, x as u8, y as u8])));
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() * 2 / 3]).unwrap();

    let strict = open_folder(directory.path(), &options(8)).unwrap();
    let error = strict.train.get(1).unwrap_err().to_string();
    assert!(error.contains(damaged.to_str().unwrap()), "{error}");
    assert!(strict.damaged.paths().is_empty());

    let lenient = open_folder(directory.path(), &ImageOptions { on_damaged: OnDamaged::Skip, ..options(8) }).unwrap();
    for workers in [0, 2] {
        assert_eq!(batches(&lenient, 2, workers), [vec![0], vec![2, 3], vec![4, 5]]);
        assert_eq!(batches(&lenient, 1, workers), [[0], [2], [3], [4], [5]], "a mini-batch without a sample is none");
    }
    assert_eq!(lenient.damaged.paths(), std::slice::from_ref(&damaged));

    for (bytes, words) in [(&b""[..], "empty"), (b"GIF89a", "neither a JPEG nor a PNG")] {
        std::fs::write(&damaged, bytes).unwrap();
        let error = strict.train.get(1).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    // A file that cannot be read at all is never just left out.
    std::fs::remove_file(&damaged).unwrap();
    assert!(lenient.train.get(1).unwrap_err().to_string().contains("cannot read the image"));
}

#[test]
fn what_is_wrong_with_a_folder_is_said_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let refused = || match open_folder(directory.path(), &options(8)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it was opened"),
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
fn tiny_imagenet_has_its_test_classes_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    for (class, value) in [("n01", 10), ("n02", 20)] {
        save(&root.join(format!("train/{class}/images/{class}_0.png")), GrayImage::from_pixel(64, 64, Luma([value])));
        save(&root.join(format!("val/images/val_{value}.png")), GrayImage::from_pixel(64, 64, Luma([value + 1])));
    }
    let annotations = root.join("val/val_annotations.txt");
    std::fs::write(&annotations, "val_20.png\tn02\t0\t0\t1\t1\nval_10.png\tn01\t0\t0\t1\t1\n").unwrap();
    let data = open_tiny_imagenet(root, &options(64)).unwrap();
    assert_eq!((data.classes, data.train_labels.clone(), data.test_labels.clone()), (2, vec![0, 1], vec![0, 1]));
    assert!(near(&data.test.get(1).unwrap(), [21; 3], 0));
    std::fs::write(&annotations, "val_20.png\tn09\n").unwrap();
    let error = open_tiny_imagenet(root, &options(64)).err().unwrap().to_string();
    assert!(error.contains("val_annotations.txt") && error.contains("line 1"), "{error}");
}

#[test]
fn cifar_is_read_from_its_binary_files() {
    let directory = tempfile::tempdir().unwrap();
    let write = |file: &str, head: &[u8], value: u8| {
        let record: Vec<u8> = head.iter().copied().chain((0..3072).map(|at| value + (at / 1024) as u8)).collect();
        std::fs::write(directory.path().join(file), record).unwrap();
    };
    for file in 1..=5 {
        write(&format!("data_batch_{file}.bin"), &[file], 10 * file);
    }
    write("test_batch.bin", &[9], 100);
    let data = open_cifar(directory.path(), Cifar::Ten, 32).unwrap();
    assert_eq!((data.classes, data.train_labels.clone(), data.test_labels.clone()), (10, vec![1, 2, 3, 4, 5], vec![9]));
    assert_eq!(means(&data.train.get(3).unwrap()), [40, 41, 42]);
    let large = open_cifar(directory.path(), Cifar::Ten, 40).unwrap();
    assert_eq!((large.shape.elements(), means(&large.train.get(3).unwrap())), (3 * 40 * 40, [40, 41, 42]));

    // In CIFAR-100 the superclass comes before the class.
    write("train.bin", &[3, 77], 5);
    write("test.bin", &[3, 12], 6);
    let hundred = open_cifar(directory.path(), Cifar::Hundred, 32).unwrap();
    assert_eq!((hundred.train_labels, hundred.test_labels, hundred.classes), (vec![77], vec![12], 100));

    write("data_batch_3.bin", &[10], 0);
    let error = open_cifar(directory.path(), Cifar::Ten, 32).err().unwrap().to_string();
    assert!(error.contains("data_batch_3.bin") && error.contains("class 10"), "{error}");
    std::fs::write(directory.path().join("data_batch_3.bin"), [0; 100]).unwrap();
    let error = open_cifar(directory.path(), Cifar::Ten, 32).err().unwrap().to_string();
    assert!(error.contains("data_batch_3.bin") && error.contains("100 bytes"), "{error}");
}

#[test]
fn mnist_is_read_from_idx_files_packed_or_not() {
    let directory = tempfile::tempdir().unwrap();
    let idx = |dimensions: &[u32], values: &[u8]| -> Vec<u8> {
        let head = [0, 0, 8, dimensions.len() as u8];
        head.into_iter().chain(dimensions.iter().flat_map(|size| size.to_be_bytes())).chain(values.iter().copied()).collect()
    };
    let write = |file: &str, bytes: &[u8]| std::fs::write(directory.path().join(file), bytes).unwrap();
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

    write("train-labels-idx1-ubyte", &idx(&[3], &[1, 0]));
    let error = open_idx(directory.path(), 2).err().unwrap().to_string();
    assert!(error.contains("train-labels-idx1-ubyte") && error.contains("[3]"), "{error}");
    std::fs::remove_file(directory.path().join("t10k-images-idx3-ubyte.gz")).unwrap();
    write("train-labels-idx1-ubyte", &idx(&[2], &[1, 0]));
    assert!(matches!(open_idx(directory.path(), 2), Err(DataError::Io { path, .. }) if path.ends_with("t10k-images-idx3-ubyte")));
}

fn packed(data: &ImageData, format: Format, side: usize, out: &Path) -> Result<PackReport, DataError> {
    pack(data, &PackOptions { format, images: options(side) }, out, &|_| {})
}

#[test]
fn a_pack_has_the_samples_of_its_folder_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let (source, out) = (directory.path().join("source"), directory.path().join("pack"));
    folder(&source, 5);
    let data = open_folder(&source, &options(6)).unwrap();
    for format in [Format::Pixels, Format::Original] {
        let out = out.join(format!("{format:?}"));
        let seen = std::sync::atomic::AtomicUsize::new(0);
        let count = |samples| {
            seen.fetch_add(samples, std::sync::atomic::Ordering::Relaxed);
        };
        let report = pack(&data, &PackOptions { format, images: options(6) }, &out, &count).unwrap();
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
    // Files can become any size.
    assert_eq!(open_pack(&out.join("Original"), &options(7)).unwrap().train.get(0).unwrap().pixels.len(), 3 * 49);
}

#[test]
fn packing_again_goes_on_where_it_was_interrupted_and_repairs_what_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let (source, out) = (directory.path().join("source"), directory.path().join("pack"));
    folder(&source, 3);
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
    assert!(error.contains("something else"), "{error}");
}

#[test]
fn a_damaged_image_is_found_while_packing() {
    let directory = tempfile::tempdir().unwrap();
    let (source, out) = (directory.path().join("source"), directory.path().join("pack"));
    folder(&source, 3);
    let damaged = source.join("val/a/2.jpg");
    std::fs::write(&damaged, [0xff, 0xd8, 0xff]).unwrap();
    let data = open_folder(&source, &options(6)).unwrap();
    for format in [Format::Original, Format::Pixels] {
        let out = out.join(format!("{format:?}"));
        assert!(matches!(packed(&data, format, 6, &out), Err(DataError::Image { path, .. }) if path == damaged));
        let skipping = PackOptions { format, images: ImageOptions { on_damaged: OnDamaged::Skip, ..options(6) } };
        let report = pack(&data, &skipping, &out, &|_| {}).unwrap();
        assert_eq!((report.samples, report.damaged), (11, vec![damaged.clone()]));
        assert_eq!(open_pack(&out, &options(6)).unwrap().test_labels, [0, 0, 1, 1, 1]);
    }
    // What was left out of a pack is not in it only because the file is whole now.
    std::fs::copy(source.join("val/a/1.jpg"), &damaged).unwrap();
    let error = packed(&data, Format::Pixels, 6, &out.join("Pixels")).unwrap_err().to_string();
    assert!(error.contains("something else"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_class_whose_name_cannot_be_read_is_not_left_out() {
    use std::os::unix::ffi::OsStrExt;
    let directory = tempfile::tempdir().unwrap();
    folder(directory.path(), 1);
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    // Some file systems take no such names.
    if std::fs::rename(directory.path().join("train/a"), directory.path().join("train").join(name)).is_ok() {
        let error = open_folder(directory.path(), &options(6)).err().unwrap().to_string();
        assert!(error.contains("UTF-8"), "{error}");
    }
}

#[test]
fn samples_of_a_pack_outlive_it() {
    let directory = tempfile::tempdir().unwrap();
    let (source, out) = (directory.path().join("source"), directory.path().join("pack"));
    folder(&source, 1);
    let data = open_folder(&source, &options(6)).unwrap();
    packed(&data, Format::Pixels, 6, &out).unwrap();
    let read = open_pack(&out, &options(6)).unwrap();
    let image: Arc<Image> = Arc::new(read.train.get(1).unwrap());
    drop(read);
    assert_eq!(means(&image), RED);
}

#[test]
fn a_pack_that_says_what_cannot_be_is_refused_before_memory_is_taken_for_it() {
    let directory = tempfile::tempdir().unwrap();
    let (source, out) = (directory.path().join("source"), directory.path().join("pack"));
    folder(&source, 1);
    packed(&open_folder(&source, &options(6)).unwrap(), Format::Pixels, 6, &out).unwrap();
    let whole = std::fs::read_to_string(out.join("pack.json")).unwrap();
    // With 2^62 channels the number of values of an image would be 0 in 64 bits.
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

/// What differs between two data sets, in words; empty if nothing does.
fn differences(before: &ImageData, now: &ImageData) -> String {
    before.fingerprint.differences(&now.fingerprint).map_or_else(String::new, |differences| differences.to_string())
}

#[test]
fn a_copy_of_a_data_set_is_the_same_and_any_change_that_is_compared_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| directory.path().join(path);
    // Folders: names and sizes.
    folder(&at("first"), 2);
    folder(&at("second"), 2);
    let open = |path: &str, side| open_folder(&at(path), &options(side)).unwrap();
    let first = open("first", 8);
    assert_eq!(differences(&first, &open("second", 8)), "");
    assert_eq!(differences(&first, &open("second", 9)), "image size was 8 and is 9");
    std::fs::rename(at("second/val/b/1.png"), at("second/val/b/2.png")).unwrap();
    assert!(differences(&first, &open("second", 8)).contains("the test set differs: test images of class \"b\" have changed"));
    // Packs: what was written of their shards.
    for (number, source) in ["first", "second"].into_iter().enumerate() {
        packed(&open(source, 8), Format::Pixels, 8, &at(&format!("pack-{number}"))).unwrap();
    }
    let pack = |number: usize| open_pack(&at(&format!("pack-{number}")), &options(8)).unwrap();
    assert_eq!(differences(&pack(0), &pack(1)), "", "the same pixels under other names");
    assert!(differences(&first, &pack(0)).contains("the kind of data was folder and is pack"));
    save(&at("second/train/b/0.png"), RgbImage::from_pixel(8, 8, Rgb([1, 2, 3])));
    std::fs::remove_dir_all(at("pack-1")).unwrap();
    packed(&open("second", 8), Format::Pixels, 8, &at("pack-1")).unwrap();
    assert!(differences(&pack(0), &pack(1)).contains("the digest of the shards was "));
    // CIFAR: classes and every pixel.
    let record = |class: u8, value: u8| -> Vec<u8> { [class].into_iter().chain(std::iter::repeat_n(value, 3072)).collect() };
    std::fs::create_dir(at("cifar")).unwrap();
    for file in 1..=5 {
        std::fs::write(at(&format!("cifar/data_batch_{file}.bin")), record(file, 10 * file)).unwrap();
    }
    let test = at("cifar/test_batch.bin");
    std::fs::write(&test, record(9, 1)).unwrap();
    let cifar = || open_cifar(&at("cifar"), Cifar::Ten, 32).unwrap();
    let before = cifar();
    let mut other = record(9, 1);
    other[3072] ^= 1;
    std::fs::write(&test, other).unwrap();
    assert_eq!(differences(&before, &cifar()), "the test set differs: test images of class 9 have changed (compared: all pixels)");
    std::fs::write(&test, record(8, 1)).unwrap();
    assert!(differences(&before, &cifar()).contains("test images of class 8: 0 were there, 1 are"));
}
