//! What does a buffer in the memory of a device cost, compared with the network's step?
//!
//! * **step**: choosing, storing, drawing and appending, compared with forward and backward of the
//!   network on the same b + r rows, each until the device is done (target: 5 %). In training they
//!   overlap, and the training thread waits for the engine (target: 1 % of a step).
//! * **bandwidth**: a step that stores 512 rows and draws 512, without appending, compared with an
//!   elementwise copy of the same number of bytes (target: half of its bandwidth).
//! * **PyTorch**: the same draws and writes (`index_select`, `index_copy_`) in a process of its
//!   own, if `python3` has PyTorch.
//!
//! On a GPU (`BURN_DEVICE=cuda` or `wgpu`, built with that feature) there are 20,000 slots of
//! 3×224×224 bytes and a ResNet-50. On the CPU, where these do not fit, there are 3×32×32 bytes and
//! a narrow ResNet-18: that shows that everything works, but not how fast a GPU is. `SIDE` and
//! `SLOTS` change the size.
#![allow(clippy::expect_used)]

use burn::data::dataloader::batcher::Batcher;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{DType, Device, Tensor};
use burn_rehearsal::{Execution, RehearsalBuffer, RowLayout, StorePreference};
use burn_rehearsal_benches::{
    B, Batch, C, Figures, R, Series, StackImages, Target, byte_type, config, device, fill, micros,
    python, random_images,
};
use burn_rehearsal_train::device::describe;
use burn_rehearsal_train::init::{Scheme, keyed_init};
use burn_rehearsal_vision::models::{ResNet, ResNetConfig, Stem};
use std::hint::black_box;
use std::slice::from_ref;
use std::time::Instant;

/// Rows that the measurement of bandwidth stores and draws in a step.
const MANY: usize = 512;
const CLASSES: usize = 100;
const TURNS: usize = 15;
/// Training steps in which the waiting is measured.
const STEPS: usize = 30;

/// The sizes: on a GPU those of training on ImageNet, on the CPU small ones.
struct Size {
    side: usize,
    slots: usize,
    network: ResNetConfig,
    name: &'static str,
}

impl Size {
    fn on(device: &Device) -> Self {
        let (side, slots, network, name) = if is_gpu(device) {
            (224, 20_000, ResNetConfig::resnet50(CLASSES), "ResNet-50")
        } else {
            let narrow = ResNetConfig::resnet18(CLASSES).with_stem(Stem::Small).with_width(8);
            (32, 2_000, narrow, "ResNet-18, 8 channels")
        };
        let number = |variable: &str, default: usize| {
            std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
        };
        Self { side: number("SIDE", side), slots: number("SLOTS", slots), network, name }
    }

    fn row_bytes(&self) -> usize {
        3 * self.side * self.side
    }
}

/// Whether a device is a real GPU, not one that a driver simulates on the CPU.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn is_gpu(device: &Device) -> bool {
    *device != Device::flex()
        && device.identity().is_some_and(|identity| identity.physical.is_some())
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn is_gpu(_device: &Device) -> bool {
    false
}

/// Milliseconds until the device is done with `work`.
fn timed<T>(device: &Device, work: impl FnOnce() -> T) -> (f64, T) {
    device.sync().expect("a device that works");
    let started = Instant::now();
    let value = work();
    device.sync().expect("a device that works");
    (micros(started.elapsed()) / 1e3, value)
}

/// A full buffer in the device's memory.
fn full(
    size: &Size,
    rows: Option<usize>,
    execution: Execution,
    batch: &Batch,
) -> RehearsalBuffer<Batch> {
    let mut config = config(size.slots, execution).with_store(StorePreference::Device);
    if let Some(rows) = rows {
        config = config.with_candidates(rows).with_representatives(rows);
    }
    let buffer = config.init().expect("a buffer");
    fill(&buffer, from_ref(batch)).expect("a full buffer");
    buffer
}

/// `rows` random images on `device`.
fn batch(rows: usize, size: &Size, device: &Device) -> Batch {
    let images = random_images(rows, size.row_bytes(), CLASSES, rows as u64);
    let host: Batch = StackImages { side: size.side, room: 0 }.batch(images, &Device::flex());
    let bytes = byte_type(device);
    let classes = if device.supports_dtype(DType::I64) { DType::I64 } else { DType::I32 };
    let (images, targets) = (host.images.into_data(), host.targets.into_data());
    Batch {
        images: Tensor::from_data(images.convert_dtype(bytes), (device, bytes)),
        targets: Tensor::from_data(targets.convert_dtype(classes), (device, classes)),
        logits: None,
        rows: RowLayout::default(),
    }
}

/// Forward and backward.
fn learn(network: &ResNet, batch: &Batch, device: &Device) {
    let images = batch.images.clone().float().div_scalar(255.0).autodiff();
    let targets = batch.targets.clone().autodiff();
    let scores = network.forward(images);
    let loss = CrossEntropyLossConfig::new().init(device).forward(scores, targets);
    black_box(loss.backward());
}

/// A step of the buffer, and one of the network with its mini-batch.
fn step(figures: &mut Figures, case: &str, size: &Size, device: &Device) {
    let training = device.clone().autodiff();
    let network = keyed_init(size.network.init(&training), 1, Scheme::default());
    let incoming = batch(B, size, device);
    let inline = full(size, None, Execution::Inline, &incoming);
    let mut series = Series::default();
    // The first turn compiles and tunes kernels.
    for turn in 0..=TURNS {
        let (rehearse, merged) =
            timed(device, || inline.rehearse(incoming.clone()).expect("a step"));
        let (learn, ()) = timed(device, || learn(&network, &merged, &training));
        if turn > 0 {
            series.add("buffer", rehearse);
            series.add("network", learn);
        }
    }
    drop(inline);
    let background = full(size, None, Execution::Background, &incoming);
    let mut waited = background.timings().wait;
    for _ in 0..STEPS {
        let (step, ()) = timed(device, || {
            learn(&network, &background.rehearse(incoming.clone()).expect("a step"), &training)
        });
        let now = background.timings().wait;
        series.add("wait", micros(now - waited) / 1e3);
        series.add("step", step);
        waited = now;
    }
    let percent = |part: &str, whole: &str| 100.0 * series.ratio(part, whole);
    let target = |limit| Some(Target::AtMost(limit));
    figures.add(case, "forward and backward", series.median("network"), "ms", None);
    figures.add(case, "buffer", series.median("buffer"), "ms", None);
    let share = percent("buffer", "network");
    figures.add(case, "buffer / forward and backward", share, "%", target(5.0));
    let share = percent("wait", "step");
    figures.add(case, "wait / step, in the background", share, "%", target(1.0));
}

/// A step that moves many rows, and a copy of the same number of bytes.
fn bandwidth(figures: &mut Figures, case: &str, size: &Size, device: &Device) {
    let incoming = batch(MANY, size, device);
    let inline = full(size, Some(MANY), Execution::Inline, &incoming);
    // Written and drawn rows are read once and written once.
    let bytes = 2 * MANY * size.row_bytes();
    let source = Tensor::<1>::ones([bytes / 4], device);
    let mut series = Series::default();
    for turn in 0..=TURNS {
        let (rehearse, merged) =
            timed(device, || inline.rehearse(incoming.clone()).expect("a step"));
        drop(merged);
        let (append, merged) = timed(device, || {
            Tensor::cat(vec![incoming.images.clone(), incoming.images.clone()], 0)
        });
        drop(merged);
        let (copy, _) = timed(device, || black_box(source.clone().mul_scalar(1.0)));
        if turn > 0 {
            series.add("ours", rehearse - append);
            series.add("copy", copy);
        }
    }
    let speed = |name: &str| 2.0 * bytes as f64 / series.median(name) / 1e6;
    figures.add(case, "bandwidth, c = r = 512", speed("ours"), "GB/s", None);
    let ratio = series.ratio("copy", "ours");
    figures.add(case, "bandwidth / copy", ratio, "×", Some(Target::AtLeast(0.5)));
}

/// The same in PyTorch: medians in milliseconds, for both numbers of rows.
const PYTORCH: &str = r#"
import statistics, sys, time
import torch
device, slots, width, turns = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sync = torch.cuda.synchronize if device == "cuda" else (lambda: None)
store = torch.ones(slots, width, dtype=torch.uint8, device=device)
for candidates, representatives in ((14, 7), (512, 512)):
    rows = torch.ones(candidates, width, dtype=torch.uint8, device=device)
    times = []
    for _ in range(turns + 1):
        drawn = torch.randperm(slots)[:representatives].to(device)
        places = torch.randperm(slots)[:candidates].to(device)
        sync()
        started = time.perf_counter()
        store.index_copy_(0, places, rows)
        store.index_select(0, drawn)
        sync()
        times.append((time.perf_counter() - started) * 1e3)
    print(f"  PyTorch {torch.__version__}, index_copy_ of {candidates} rows, "
          f"index_select of {representatives}: {statistics.median(times[1:]):.3f} ms")
"#;

fn pytorch(size: &Size, device: &Device) {
    let name = if is_gpu(device) { "cuda" } else { "cpu" };
    let [slots, width, turns] = [size.slots, size.row_bytes(), TURNS].map(|n| n.to_string());
    match python(PYTORCH, &[name, &slots, &width, &turns]) {
        Ok(output) => print!("{output}"),
        Err(reason) => println!("  PyTorch was not measured: {reason}"),
    }
}

fn main() {
    let device = device();
    let size = Size::on(&device);
    let case = format!("{}, {} slots of 3×{}×{}", size.name, size.slots, size.side, size.side);
    let mut figures = Figures::new(
        "device",
        "what does a buffer in the memory of a device cost?",
        &format!("{}, b = {B}, c = {C}, r = {R}", describe(&device)),
    );
    step(&mut figures, &case, &size, &device);
    bandwidth(&mut figures, &case, &size, &device);
    pytorch(&size, &device);
    figures.write();
}
