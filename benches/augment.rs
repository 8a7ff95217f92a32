//! The cost of augmentation per image.
//!
//! Mini-batches of 64 images of 3×32×32 and of 16 images of 3×224×224 bytes on the default device
//! (`BURN_DEVICE` chooses another). All pipelines alternate; times are medians over the turns. The
//! first line is what a step without augmentation does too.
#![allow(clippy::expect_used)]

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use burn_rehearsal_benches::median;
use burn_rehearsal_vision::augment::{
    Augment, ColorJitter, ERASING_RATIO, ERASING_SCALE, RESIZED_CROP_RATIO, RESIZED_CROP_SCALE,
};
use std::time::Instant;

const TURNS: usize = 21;

fn main() {
    let device = Device::default();
    for (rows, side) in [(64, 32), (16, 224)] {
        let none = || Augment::new(1);
        let jitter = ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
        let pipelines = [
            ("bytes to 0..=1", none()),
            ("random crop, padding side/8", none().random_crop(side, side / 8)),
            ("horizontal flip", none().horizontal_flip(0.5)),
            ("crop and flip", none().random_crop(side, side / 8).horizontal_flip(0.5)),
            (
                "random resized crop",
                none().random_resized_crop(side, RESIZED_CROP_SCALE, RESIZED_CROP_RATIO),
            ),
            (
                "resized crop and flip",
                none()
                    .random_resized_crop(side, RESIZED_CROP_SCALE, RESIZED_CROP_RATIO)
                    .horizontal_flip(0.5),
            ),
            ("normalise", none().normalize(&[0.485, 0.456, 0.406], &[0.229, 0.224, 0.225])),
            (
                "brightness, contrast, saturation",
                none().color_jitter(ColorJitter { hue: 0.0, ..jitter }),
            ),
            ("hue", none().color_jitter(ColorJitter { hue: 0.1, ..ColorJitter::default() })),
            ("random erasing", none().random_erasing(1.0, ERASING_SCALE, ERASING_RATIO, 0.0)),
            ("resize to 7/8, centre crop", none().resize(side * 7 / 8).center_crop(side / 2)),
        ];
        let pixels =
            (0..rows * 3 * side * side).map(|at| (at * 31 % 251) as u8).collect::<Vec<_>>();
        let bytes = if device.supports_dtype(DType::U8) { DType::U8 } else { DType::I32 };
        let images = Tensor::<4, Int>::from_data(
            TensorData::new(pixels, [rows, 3, side, side]),
            (&device, bytes),
        );
        let mut times = vec![Vec::new(); pipelines.len()];
        for turn in 0..TURNS {
            for ((_, augment), times) in pipelines.iter().zip(&mut times) {
                device.sync().expect("a device that works");
                let started = Instant::now();
                let augmented = augment
                    .apply_bytes(images.clone(), turn as u64, 0)
                    .expect("a pipeline that makes sense");
                device.sync().expect("a device that works");
                times.push(started.elapsed().as_secs_f64() * 1e6 / rows as f64);
                drop(augmented);
            }
        }
        println!(
            "augmentation of {rows} × 3×{side}×{side} bytes on {device:?}, {TURNS} turns: µs per image"
        );
        for ((name, _), times) in pipelines.iter().zip(times) {
            let least = times.iter().copied().fold(f64::INFINITY, f64::min);
            println!("  {name:<34} median {:9.1}  least {least:9.1}", median(times));
        }
    }
}
