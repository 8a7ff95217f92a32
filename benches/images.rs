//! How fast are images read from disk?
//!
//! Decoding: all cores decode the JPEG files of an image folder, once with the decoder library
//! alone and once with `Decoder`, which also scales to one size and separates the channels. Each
//! is measured from memory and from files. With the feature `turbojpeg` both use libjpeg-turbo,
//! and zune-jpeg is measured too.
//!
//! Packed: all cores read mini-batches from a pack of pixels in the page cache. The reference
//! copies the same number of bytes in memory.
//!
//! Everything alternates; figures are medians over the turns. `IMAGES=DIR` names a folder with
//! `train/CLASS/*.jpg` and `test/CLASS/*.jpg`, and `SIDE=N` the size to scale to. By default the
//! benchmark makes its own images.
#![allow(clippy::expect_used)]

use burn_rehearsal_benches::{Figures, Series, Target, interleave, micros};
use burn_rehearsal_vision::data::{
    Decoder, Fit, Format, ImageOptions, JPEG_DECODER, OnDamaged, PackOptions, open_folder,
    open_pack, pack,
};
use image::{Rgb, RgbImage};
use rayon::prelude::*;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

const TURNS: usize = 9;
/// Maximum number of images per turn.
const IMAGES: usize = 4_000;
const BATCH: usize = 56;

fn main() {
    let mut figures = Figures::new(
        "images",
        "how fast are images read from disk?",
        &format!("{JPEG_DECODER}, {} threads, {TURNS} turns", rayon::current_num_threads()),
    );
    let made = tempfile::tempdir().expect("a temporary folder");
    let folders: Vec<(&str, PathBuf, usize, Fit)> = match std::env::var_os("IMAGES") {
        Some(folder) => {
            let side = std::env::var("SIDE").ok().and_then(|side| side.parse().ok()).unwrap_or(256);
            vec![("IMAGES", folder.into(), side, Fit::Crop)]
        }
        None => vec![
            ("made, 32×32", make(made.path(), "small", (32, 32), 2_000), 32, Fit::Stretch),
            ("made, 500×375", make(made.path(), "large", (500, 375), 120), 256, Fit::Crop),
        ],
    };
    for (name, folder, side, fit) in folders {
        let case = format!("{name}, to {side}×{side}");
        let options = ImageOptions { side, fit, on_damaged: OnDamaged::Skip };
        decoding(&mut figures, &case, &folder, &options);
        packed(&mut figures, &case, &folder, &options, &made.path().join("pack"));
    }
    figures.write();
}

/// Writes images of waves with some noise in quality 90, which are about as hard to decode as
/// photographs.
fn make(directory: &Path, name: &str, (width, height): (u32, u32), count: u32) -> PathBuf {
    let folder = directory.join(name);
    for part in ["train", "test"] {
        for class in 0..2u32 {
            let place = folder.join(part).join(class.to_string());
            fs::create_dir_all(&place).expect("a folder");
            for number in 0..count / 2 / if part == "test" { 10 } else { 1 } {
                let image = RgbImage::from_fn(width, height, |x, y| {
                    let noise =
                        (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503) ^ number) >> 27;
                    let wave = |scale: f32| {
                        (127.0
                            + 100.0
                                * ((x + number) as f32 / scale).sin()
                                * (y as f32 / scale).cos()) as u8
                    };
                    Rgb([wave(9.0), wave(21.0).wrapping_add(noise as u8), wave(47.0)])
                });
                let file = fs::File::create(place.join(format!("{number}.jpg"))).expect("a file");
                image::codecs::jpeg::JpegEncoder::new_with_quality(file, 90)
                    .encode_image(&image)
                    .expect("a JPEG");
            }
        }
    }
    folder
}

/// zune-jpeg alone, into reused memory.
fn pure(bytes: &[u8], row: &mut Vec<u8>) {
    let options =
        DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    if decoder.decode_headers().is_err() {
        return;
    }
    row.resize(decoder.output_buffer_size().unwrap_or(0), 0);
    let _ = black_box(decoder.decode_into(row));
}

#[cfg(not(feature = "turbojpeg"))]
use pure as library;

/// libjpeg-turbo alone, into reused memory, at the full size of the image.
#[cfg(feature = "turbojpeg")]
fn library(bytes: &[u8], row: &mut Vec<u8>) {
    use turbojpeg::{Decompressor, Image, PixelFormat};
    thread_local! {
        static DECODER: std::cell::RefCell<Decompressor> =
            Decompressor::new().expect("memory").into();
    }
    DECODER.with_borrow_mut(|decoder| {
        let Ok(header) = decoder.read_header(bytes) else { return };
        let (width, height, pitch) = (header.width, header.height, 3 * header.width);
        row.resize(pitch * height, 0);
        let image =
            Image { pixels: row.as_mut_slice(), width, pitch, height, format: PixelFormat::RGB };
        let _ = black_box(decoder.decompress(bytes, image));
    });
}

/// Work to measure, and its name.
type Way<'a> = (&'a str, &'a dyn Fn());

/// The time of each way, in microseconds.
fn measured(ways: &[Way<'_>]) -> Series {
    let mut series = Series::default();
    interleave(TURNS, ways, |(name, work)| {
        let started = Instant::now();
        work();
        series.add(*name, micros(started.elapsed()));
    });
    series
}

fn decoding(figures: &mut Figures, case: &str, folder: &Path, options: &ImageOptions) {
    let data = open_folder(folder, options).expect("an image folder");
    let files = data.files.expect("files")[0].clone();
    let jpeg = |path: &&PathBuf| {
        path.extension().is_some_and(|extension| !extension.eq_ignore_ascii_case("png"))
    };
    let files: Vec<&PathBuf> = files.iter().filter(jpeg).take(IMAGES).collect();
    let bytes: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).expect("a file")).collect();
    let ways: [Way<'_>; 5] = [
        ("library, memory", &|| {
            bytes.par_iter().for_each_init(Vec::new, |row, bytes| library(bytes, row));
        }),
        ("library, files", &|| {
            files.par_iter().for_each_init(Vec::new, |row, path| {
                library(&fs::read(path).expect("a file"), row);
            });
        }),
        ("ours, memory", &|| {
            bytes.par_iter().for_each_init(Decoder::default, |decoder, bytes| {
                drop(black_box(decoder.decode(bytes, options.side, options.fit)));
            });
        }),
        ("ours, files", &|| {
            files.par_iter().for_each_init(Decoder::default, |decoder, path| {
                drop(black_box(decoder.read(path, options.side, options.fit)));
            });
        }),
        ("zune-jpeg, memory", &|| {
            bytes.par_iter().for_each_init(Vec::new, |row, bytes| pure(bytes, row));
        }),
    ];
    // Without the feature `turbojpeg`, zune-jpeg is the library.
    let ways = if cfg!(feature = "turbojpeg") { &ways[..] } else { &ways[..4] };
    let series = measured(ways);
    for (name, _) in ways {
        let rate = files.len() as f64 / series.median(name) * 1e6;
        figures.add(case, name, rate, "images/s", None);
    }
    let speed = |from: &str| series.ratio(&format!("library, {from}"), &format!("ours, {from}"));
    figures.add(case, "ours / library, memory", speed("memory"), "×", Some(Target::AtLeast(0.8)));
    figures.add(case, "ours / library, files", speed("files"), "×", None);
}

fn packed(figures: &mut Figures, case: &str, folder: &Path, options: &ImageOptions, out: &Path) {
    let data = open_folder(folder, options).expect("an image folder");
    let _ = fs::remove_dir_all(out);
    pack(&data, &PackOptions { format: Format::Pixels, images: *options }, out, &|_| {})
        .expect("a pack");
    let read = open_pack(out, options).expect("a pack");
    let row = read.shape.elements();
    let samples = read.train.len().min(IMAGES);
    // As in a loader: in a random order, into contiguous memory per mini-batch.
    let order: Vec<usize> = (0..samples).map(|at| at * 7_919 % samples).collect();
    let source: Vec<u8> = (0..samples * row).map(|at| at as u8).collect();
    let batches = |append: &(dyn Fn(&mut Vec<u8>, usize) + Sync)| {
        order.par_chunks(BATCH).for_each_init(Vec::new, |batch: &mut Vec<u8>, part| {
            batch.clear();
            part.iter().for_each(|&at| append(batch, at));
            black_box(&batch);
        });
    };
    let series = measured(&[
        ("copy", &|| {
            batches(&|batch, at| batch.extend_from_slice(&source[at * row..][..row]));
        }),
        ("pack", &|| {
            batches(&|batch, at| {
                batch.extend_from_slice(&read.train.get(at).expect("a sample").pixels);
            });
        }),
    ]);
    let rate = (samples * row) as f64 / series.median("pack") / 1e3;
    figures.add(case, "pack", rate, "GB/s", None);
    let ratio = series.ratio("copy", "pack");
    figures.add(case, "pack / copy in memory", ratio, "×", Some(Target::AtLeast(0.5)));
    println!("  {samples} samples of {row} bytes in random order, mini-batches of {BATCH}");
}
