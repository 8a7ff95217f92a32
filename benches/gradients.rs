//! How should gradients travel between a device and the host?
//!
//! The learner concatenates all gradients on the device, reads them at once, uploads them at once
//! and takes views of the result. The alternatives read or upload each parameter separately. The
//! gradients are those of ResNet-18 for images of 32×32 (11.2 M values in 62 tensors) and of the
//! network of the digits (17 thousand in 6), on the default device (`BURN_DEVICE` chooses another).
//! Every variant ends by subtracting the gradients from the parameters. Times are medians over the
//! turns.
#![allow(clippy::expect_used)]

use burn::tensor::{Device, Tensor, TensorData};
use burn_rehearsal_benches::{Figures, Series, interleave, micros};
use burn_rehearsal_train::device::describe;
use std::time::Instant;

const TURNS: usize = 11;

/// The number of values of each parameter of ResNet-18 with ten classes: convolutions, scales and
/// shifts of the batch norms, and the classifier.
fn resnet18() -> Vec<usize> {
    let conv = |from: usize, to: usize, side: usize| vec![from * to * side * side, to, to];
    let mut sizes = conv(3, 64, 3);
    let mut from = 64;
    for width in [64, 128, 256, 512] {
        for _ in 0..2 {
            sizes.extend(conv(from, width, 3));
            sizes.extend(conv(width, width, 3));
            if from != width {
                sizes.extend(conv(from, width, 1));
            }
            from = width;
        }
    }
    sizes.extend([512 * 10, 10]);
    sizes
}

/// The number of values of each parameter of the network of the digits.
fn digits() -> Vec<usize> {
    vec![64 * 100, 100, 100 * 100, 100, 100 * 10, 10]
}

type Tensors = Vec<Tensor<1>>;

fn read(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

fn upload(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

fn read_flat(gradients: &Tensors) -> Vec<f32> {
    read(Tensor::cat(gradients.clone(), 0))
}

fn read_each(gradients: &Tensors) -> Vec<f32> {
    gradients.iter().flat_map(|gradient| read(gradient.clone())).collect()
}

fn upload_flat(values: Vec<f32>, sizes: &[usize], device: &Device) -> Tensors {
    let flat = upload(values, device);
    let mut start = 0;
    let view = |&size: &usize| {
        start += size;
        flat.clone().narrow(0, start - size, size)
    };
    sizes.iter().map(view).collect()
}

fn upload_each(values: Vec<f32>, sizes: &[usize], device: &Device) -> Tensors {
    let mut rest = values.as_slice();
    let part = |&size: &usize| {
        let (part, others) = rest.split_at(size);
        rest = others;
        upload(part.to_vec(), device)
    };
    sizes.iter().map(part).collect()
}

type Read = fn(&Tensors) -> Vec<f32>;
type Upload = fn(Vec<f32>, &[usize], &Device) -> Tensors;

const WAYS: [(&str, Read, Upload); 4] = [
    ("one read, one upload (ours)", read_flat, upload_flat),
    ("one read, an upload per parameter", read_flat, upload_each),
    ("a read per parameter, one upload", read_each, upload_flat),
    ("a read and an upload per parameter", read_each, upload_each),
];

fn main() {
    let device = Device::default();
    let mut figures = Figures::new(
        "gradients",
        "how should gradients travel between device and host?",
        &format!("{}, {TURNS} turns", describe(&device)),
    );
    for (network, sizes) in [("digits", digits()), ("ResNet-18", resnet18())] {
        println!("\n{network}: {} values in {} tensors", sizes.iter().sum::<usize>(), sizes.len());
        let tensors = || {
            sizes
                .iter()
                .map(|&size| upload((0..size).map(|at| at as f32).collect(), &device))
                .collect::<Tensors>()
        };
        let (gradients, mut parameters) = (tensors(), tensors());
        let (mut reads, mut uploads) = (Series::default(), Series::default());
        interleave(TURNS, &WAYS, |(way, read, upload)| {
            device.sync().expect("a device that works");
            let started = Instant::now();
            let values = read(&gradients);
            reads.add(*way, micros(started.elapsed()) / 1e3);
            let started = Instant::now();
            let reduced = upload(values, &sizes, &device);
            let pairs = std::mem::take(&mut parameters).into_iter().zip(reduced);
            parameters = pairs.map(|(parameter, gradient)| parameter - gradient).collect();
            device.sync().expect("a device that works");
            uploads.add(*way, micros(started.elapsed()) / 1e3);
        });
        for (way, ..) in WAYS {
            figures.add(way, &format!("{network}, read"), reads.median(way), "ms", None);
            let quantity = format!("{network}, upload and subtract");
            figures.add(way, &quantity, uploads.median(way), "ms", None);
        }
    }
    figures.write();
}
