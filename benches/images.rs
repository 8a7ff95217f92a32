//! How fast do images come from disk?
//!
//! Decoding: the files of an image folder, on all cores, by the JPEG decoder's library alone (from
//! memory, and with reading the file), and by ours: reading, decoding, scaling to one size,
//! channels first. With the feature `turbojpeg`, library and ours are libjpeg-turbo, the pure one
//! beside them. Packed: reading mini-batches from a pack of pixels, against copying as many bytes
//! in memory. All in turn, medians over the turns. `IMAGES=DIR` names a folder with
//! `train/CLASS/*.jpg` and `test/CLASS/*.jpg`; without it some are made.
#![allow(clippy::expect_used)]

use burn_rehearsal_benches::{head, median, ratio};
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
    head("images");
    let made = tempfile::tempdir().expect("a place for files");
    let folders: Vec<(String, PathBuf, usize, Fit)> = match std::env::var_os("IMAGES") {
        Some(folder) => {
            let side = std::env::var("SIDE").ok().and_then(|side| side.parse().ok()).unwrap_or(256);
            vec![("IMAGES".into(), folder.into(), side, Fit::Crop)]
        }
        None => vec![
            ("made, 32×32".into(), make(made.path(), "small", (32, 32), 2_000), 32, Fit::Stretch),
            ("made, 500×375".into(), make(made.path(), "large", (500, 375), 120), 256, Fit::Crop),
        ],
    };
    for (name, folder, side, fit) in folders {
        let options = ImageOptions { side, fit, on_damaged: OnDamaged::Skip };
        decoding(&name, &folder, &options);
        packed(&name, &folder, &options, &made.path().join("pack"));
    }
}

/// Images of waves with some noise, in quality 90: about as hard to decode as photographs.
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

/// The library alone, into memory that is used again: zune-jpeg.
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

/// The library alone, into memory that is used again: libjpeg-turbo, at the image's own size.
#[cfg(feature = "turbojpeg")]
fn library(bytes: &[u8], row: &mut Vec<u8>) {
    use turbojpeg::{Decompressor, Image, PixelFormat};
    thread_local! {
        static DECODER: std::cell::RefCell<Decompressor> = Decompressor::new().expect("memory").into();
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

fn seconds(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}

fn decoding(name: &str, folder: &Path, options: &ImageOptions) {
    let data = open_folder(folder, options).expect("an image folder");
    let files = data.files.expect("files")[0].clone();
    let jpeg = |path: &&PathBuf| {
        path.extension().is_some_and(|extension| !extension.eq_ignore_ascii_case("png"))
    };
    let files: Vec<&PathBuf> = files.iter().filter(jpeg).take(IMAGES).collect();
    let bytes: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).expect("a file")).collect();
    let mut times = [const { Vec::new() }; 5];
    for _ in 0..TURNS {
        if cfg!(feature = "turbojpeg") {
            times[4].push(seconds(|| {
                bytes.par_iter().for_each_init(Vec::new, |row, bytes| pure(bytes, row))
            }));
        }
        times[0].push(seconds(|| {
            bytes.par_iter().for_each_init(Vec::new, |row, bytes| library(bytes, row))
        }));
        times[1].push(seconds(|| {
            files.par_iter().for_each_init(Vec::new, |row, path| {
                library(&fs::read(path).expect("a file"), row)
            });
        }));
        times[2].push(seconds(|| {
            bytes.par_iter().for_each_init(Decoder::default, |decoder, bytes| {
                drop(black_box(decoder.decode(bytes, options.side, options.fit)))
            });
        }));
        times[3].push(seconds(|| {
            files.par_iter().for_each_init(Decoder::default, |decoder, path| {
                drop(black_box(decoder.read(path, options.side, options.fit)))
            });
        }));
    }
    let rate = |at: usize| files.len() as f64 / median(times[at].clone());
    println!(
        "decoding, {name}: {} JPEG files to {side}×{side} by {JPEG_DECODER}, {} threads; images/s",
        files.len(),
        rayon::current_num_threads(),
        side = options.side
    );
    if !times[4].is_empty() {
        println!("  zune-jpeg, from memory        {:10.0}", rate(4));
    }
    println!("  library, from memory          {:10.0}", rate(0));
    println!("  library, from files           {:10.0}", rate(1));
    println!(
        "  ours, from memory             {:10.0}  {:.2} × library from memory (target 0.8)",
        rate(2),
        ratio(&times[0], &times[2])
    );
    println!(
        "  ours, from files              {:10.0}  {:.2} × library from files, {:.2} × library from memory",
        rate(3),
        ratio(&times[1], &times[3]),
        ratio(&times[0], &times[3])
    );
}

fn packed(name: &str, folder: &Path, options: &ImageOptions, out: &Path) {
    let data = open_folder(folder, options).expect("an image folder");
    let _ = fs::remove_dir_all(out);
    pack(&data, &PackOptions { format: Format::Pixels, images: *options }, out, &|_| {})
        .expect("a pack");
    let read = open_pack(out, options).expect("a pack");
    let row = read.shape.elements();
    let samples = read.train.len().min(IMAGES);
    // As a loader does: in a random order, into one piece of memory per mini-batch.
    let order: Vec<usize> = (0..samples).map(|at| at * 7_919 % samples).collect();
    let source: Vec<u8> = (0..samples * row).map(|at| at as u8).collect();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        times[0].push(seconds(|| {
            order.par_chunks(BATCH).for_each_init(Vec::new, |batch: &mut Vec<u8>, part| {
                batch.clear();
                part.iter().for_each(|&at| batch.extend_from_slice(&source[at * row..][..row]));
                black_box(&batch);
            });
        }));
        times[1].push(seconds(|| {
            order.par_chunks(BATCH).for_each_init(Vec::new, |batch: &mut Vec<u8>, part| {
                batch.clear();
                part.iter().for_each(|&at| {
                    batch.extend_from_slice(&read.train.get(at).expect("a sample").pixels)
                });
                black_box(&batch);
            });
        }));
    }
    let rate = |at: usize| (samples * row) as f64 / median(times[at].clone()) / 1e9;
    println!(
        "packed, {name}: {samples} samples of {row} bytes, mini-batches of {BATCH}, random order; GB/s"
    );
    println!("  copied in memory              {:10.2}", rate(0));
    println!(
        "  from the pack, in page cache  {:10.2}  {:.2} × (target 0.5)",
        rate(1),
        ratio(&times[0], &times[1])
    );
}
