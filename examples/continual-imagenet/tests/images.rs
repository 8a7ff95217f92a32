//! Runs on image files and on packs: decode, augment, train, evaluate, and write the web page.
//!
//! The images are the embedded digits, written as small JPEG and PNG files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, SafetensorsStore};
use burn::tensor::Device;
use burn_rehearsal_train::init::{Scheme, keyed_init};
use burn_rehearsal_vision::models::{ResNetConfig, Stem};
use flate2::read::GzDecoder;
use image::{GrayImage, Luma, RgbImage};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const CLASSES: usize = 4;
const TRAIN: usize = 40;
const TEST: usize = 10;

/// Writes the first samples of the first classes, in gray or in color, as JPEG or PNG.
fn draw(directory: &Path) {
    let mut text = String::new();
    GzDecoder::new(
        &include_bytes!("../../../crates/burn-rehearsal-vision/src/data/digits/digits.csv.gz")[..],
    )
    .read_to_string(&mut text)
    .unwrap();
    let mut drawn = [0; CLASSES];
    for line in text.lines() {
        let values: Vec<u8> = line.split(',').map(|value| value.trim().parse().unwrap()).collect();
        let Some(number) = drawn.get_mut(usize::from(values[64])) else { continue };
        let part = if *number < TRAIN { "train" } else { "val" };
        if *number < TRAIN + TEST {
            let folder = directory.join(part).join(format!("digit-{}", values[64]));
            std::fs::create_dir_all(&folder).unwrap();
            let level =
                |x: u32, y: u32| (u16::from(values[(y / 2 * 8 + x / 2) as usize]) * 255 / 16) as u8;
            let name = |kind: &str| folder.join(format!("{number:03}.{kind}"));
            match *number % 3 {
                0 => GrayImage::from_fn(16, 16, |x, y| Luma([level(x, y)]))
                    .save(name("png"))
                    .unwrap(),
                1 => GrayImage::from_fn(16, 16, |x, y| Luma([level(x, y)]))
                    .save(name("jpg"))
                    .unwrap(),
                _ => RgbImage::from_fn(16, 16, |x, y| image::Rgb([level(x, y); 3]))
                    .save(name("jpeg"))
                    .unwrap(),
            }
        }
        *number += 1;
    }
    assert!(drawn.iter().all(|&number| number >= TRAIN + TEST));
}

fn run(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_continual-imagenet"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("RUST_LOG")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn succeed(directory: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(directory, arguments);
    assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}: {stdout}");
    stdout
}

fn report(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path.join("report.json")).unwrap()).unwrap()
}

/// The recipe for CIFAR-10, with a narrow ResNet-18 and small images.
const RUN: [&str; 25] = [
    "--recipe",
    "mammoth-cifar10",
    "--image-size",
    "16",
    "--crop-size",
    "12",
    "--model-width",
    "4",
    "--tasks",
    "2",
    "--epochs",
    "4",
    "--batch-size",
    "16",
    "--candidates",
    "16",
    "--representatives",
    "16",
    "--capacity",
    "40",
    "--warmup-epochs",
    "1",
    "--milestones",
    "3:0.3",
    "--workers=2",
];

fn learn(directory: &Path, arguments: &[&str]) -> String {
    succeed(directory, &[arguments, &RUN].concat())
}

#[test]
fn three_methods_learn_from_image_files() {
    let directory = TempDir::new().unwrap();
    draw(&directory.path().join("digits"));
    let printed = learn(
        directory.path(),
        &["compare", "--data", "folder:digits", "--out", "out", "--evaluate-every", "2"],
    );
    assert!(printed.contains("training images 160, test images 40, classes 4"), "{printed}");
    assert!(
        printed.contains("overrides of the recipe: image-size, crop-size, model-width, tasks"),
        "{printed}"
    );

    let out = directory.path().join("out");
    let average =
        |method: &str| report(&out.join(method))["summary"]["average_top1"].as_f64().unwrap();
    let (lower, ours, upper) = (average("incremental"), average("rehearsal"), average("scratch"));
    assert!(lower < ours && lower < upper, "{lower} {ours} {upper}");

    // `--evaluate-every 2` requests the second epoch of a task, and the fourth is the last.
    let measured = |point: &Value| !point["top1"].as_array().unwrap().is_empty();
    let curves = report(&out.join("rehearsal"))["curves"].clone();
    assert_eq!(
        curves.as_array().unwrap().iter().map(measured).collect::<Vec<_>>(),
        [false, true, false, true].repeat(2)
    );

    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 6, "four figures and two pictures");
    for text in [
        "incremental",
        "rehearsal",
        "scratch",
        "mammoth-cifar10",
        "<tr class=\"changed\"><th scope=\"row\">epochs</th><td>4</td></tr>",
    ] {
        assert!(page.contains(text), "no {text} in the page");
    }
    let csv = std::fs::read_to_string(out.join("curves.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 3 * 2 * 4, "{csv}");
}

#[test]
fn packs_give_the_bits_of_their_folder_and_damaged_images_are_counted() {
    let directory = TempDir::new().unwrap();
    let digits = directory.path().join("digits");
    draw(&digits);
    let method = ["train", "--method", "rehearsal"];
    let learned = |data: &str, out: &str, more: &[&str]| {
        learn(directory.path(), &[&method[..], &["--data", data, "--out", out], more].concat());
        let report = report(&directory.path().join(out).join("rehearsal"));
        ["accuracy", "curves", "buffer"].map(|field| report[field].clone())
    };
    let from_files = learned("folder:digits", "out", &[]);
    for format in ["pixels", "original"] {
        let printed = succeed(
            directory.path(),
            &[
                "pack",
                "--data",
                "folder:digits",
                "--out",
                format,
                "--image-size",
                "16",
                "--format",
                format,
            ],
        );
        assert!(
            printed.contains("images 200, left out 0, shards 2 (already there 0)"),
            "{printed}"
        );
        assert_eq!(learned(&format!("pack:{format}"), "packed", &[]), from_files, "{format}");
    }

    let damaged: PathBuf = digits.join("train/digit-1/001.jpg");
    let bytes = std::fs::read(&damaged).unwrap();
    std::fs::write(&damaged, &bytes[..bytes.len() - 40]).unwrap();
    let arguments =
        [&method[..], &["--data", "folder:digits", "--out", "skip", "--on-damaged"]].concat();
    let (code, _, stderr) = run(directory.path(), &[&arguments[..], &["fail"], &RUN].concat());
    assert_eq!(code, 1);
    assert!(stderr.contains("digits/train/digit-1/001.jpg"), "{stderr}");
    let (code, stdout, stderr) = run(directory.path(), &[&arguments[..], &["skip"], &RUN].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("images left out because they are damaged: 1"), "{stdout}");
    assert_eq!(stderr.matches("digits/train/digit-1/001.jpg").count(), 1, "logged once: {stderr}");
    assert_eq!(report(&directory.path().join("skip/rehearsal"))["left_out"], 1);
    let printed = succeed_with_warning(
        directory.path(),
        &["pack", "--data", "folder:digits", "--out", "skipping", "--on-damaged", "skip"],
    );
    assert!(
        printed.contains("images 199, left out 1") && printed.contains("digit-1/001.jpg"),
        "{printed}"
    );

    // A data set without a valid image cannot be packed or learned.
    for class in 0..CLASSES {
        for entry in std::fs::read_dir(digits.join(format!("train/digit-{class}"))).unwrap() {
            std::fs::write(entry.unwrap().path(), "no image").unwrap();
        }
    }
    let (code, _, stderr) = run(
        directory.path(),
        &["pack", "--data", "folder:digits", "--out", "none", "--on-damaged", "skip"],
    );
    assert!(
        code == 1 && stderr.contains("none cannot be used: the part `train` has no sample"),
        "{stderr}"
    );
    for more in [&["--out", "nothing", "--ranks", "1"][..], &["--out", "nothing", "--ranks", "2"]] {
        let (code, _, stderr) = run(
            directory.path(),
            &[&method[..], &["--data", "folder:digits", "--on-damaged", "skip"], more, &RUN]
                .concat(),
        );
        assert!(code == 1 && stderr.contains("task 1 has no training sample"), "{stderr}");
    }
}

#[test]
fn every_rank_starts_from_pretrained_weights() {
    let directory = TempDir::new().unwrap();
    draw(&directory.path().join("digits"));
    let network = ResNetConfig::resnet18(CLASSES)
        .with_stem(Stem::Small)
        .with_width(4)
        .init(&Device::default());
    let network = keyed_init(network, 9, Scheme::HeNormal);
    let mut store = SafetensorsStore::from_file(directory.path().join("w.safetensors"))
        .with_to_adapter(BurnToPyTorchAdapter);
    network.save_into(&mut store).unwrap();
    let untrained = |more: &[&str]| {
        let base = [
            "train",
            "--method",
            "incremental",
            "--data",
            "folder:digits",
            "--out",
            "out",
            "--fresh",
            "--ranks",
            "2",
        ];
        learn(directory.path(), &[&base[..], more].concat());
        report(&directory.path().join("out/incremental"))["accuracy"]["initial_top1"].clone()
    };
    let loaded = untrained(&["--weights", "w.safetensors", "--seed", "1"]);
    assert_eq!(untrained(&["--weights", "w.safetensors", "--seed", "2"]), loaded);
    let seeds = ["1", "2", "3"].map(|seed| untrained(&["--seed", seed]));
    assert!(seeds.iter().any(|other| *other != loaded), "{loaded} {seeds:?}");
    let (code, _, stderr) = run(
        directory.path(),
        &[
            &["train", "--method", "scratch", "--data", "folder:digits"],
            &RUN[..],
            &["--model", "resnet50", "--weights", "w.safetensors"],
        ]
        .concat(),
    );
    assert!(
        code == 1
            && stderr.contains("w.safetensors")
            && stderr.contains("not those of this network"),
        "{stderr}"
    );
}

fn succeed_with_warning(directory: &Path, arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(directory, arguments);
    assert_eq!(code, 0, "{stderr}");
    stdout
}
