//! What does augmentation cost per image?
//!
//! Mini-batches of 64 images of 3×32×32 bytes and of 16 images of 3×224×224 bytes on the default
//! device (`BURN_DEVICE` chooses another). All pipelines alternate, and times are medians over the
//! turns. The first pipeline only converts bytes to floats, which training does in any case.
#![allow(clippy::expect_used)]

use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_rehearsal_benches::{Figures, Series, byte_type, interleave, micros};
use burn_rehearsal_vision::augment::{
    Augment, ColorJitter, ERASING_RATIO, ERASING_SCALE, RESIZED_CROP_RATIO, RESIZED_CROP_SCALE,
};
use std::time::Instant;

const TURNS: usize = 21;

/// The pipelines for images of `side` pixels.
fn pipelines(side: usize) -> [(&'static str, Augment); 11] {
    let none = || Augment::new(1);
    let crop = || none().random_crop(side, side / 8);
    let resized = || none().random_resized_crop(side, RESIZED_CROP_SCALE, RESIZED_CROP_RATIO);
    let jitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.0 };
    let hue = ColorJitter { hue: 0.1, ..ColorJitter::default() };
    [
        ("bytes to 0..=1", none()),
        ("random crop, padding side/8", crop()),
        ("horizontal flip", none().horizontal_flip(0.5)),
        ("crop and flip", crop().horizontal_flip(0.5)),
        ("random resized crop", resized()),
        ("resized crop and flip", resized().horizontal_flip(0.5)),
        ("normalize", none().normalize(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225])),
        ("brightness, contrast, saturation", none().color_jitter(jitter)),
        ("hue", none().color_jitter(hue)),
        ("random erasing", none().random_erasing(1.0, ERASING_SCALE, ERASING_RATIO, 0.0)),
        ("resize to 7/8, center crop", none().resize(side * 7 / 8).center_crop(side / 2)),
    ]
}

fn main() {
    let device = Device::default();
    let mut figures = Figures::new(
        "augment",
        "what does augmentation cost per image?",
        &format!("mini-batches on {device:?}, {TURNS} turns"),
    );
    for (rows, side) in [(64, 32), (16, 224)] {
        let pixels: Vec<u8> = (0..rows * 3 * side * side).map(|at| (at * 31 % 251) as u8).collect();
        let images = Tensor::<4, Int>::from_data(
            TensorData::new(pixels, [rows, 3, side, side]),
            (&device, byte_type(&device)),
        );
        let pipelines = pipelines(side);
        let mut series = Series::default();
        let mut step = 0;
        interleave(TURNS, &pipelines, |(name, augment)| {
            step += 1;
            device.sync().expect("a device that works");
            let started = Instant::now();
            let augmented = augment.apply_bytes(images.clone(), step, 0).expect("a valid pipeline");
            device.sync().expect("a device that works");
            series.add(*name, micros(started.elapsed()) / rows as f64);
            drop(augmented);
        });
        for (name, _) in pipelines {
            figures.add(name, &format!("3×{side}×{side}"), series.median(name), "µs", None);
        }
    }
    figures.write();
}
