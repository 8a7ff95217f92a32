//! What does a buffer in a device's memory cost there, beside the network's own step?
//!
//! * `step`: choose, store, draw and append, against forward and backward of the network on the
//!   same b + r rows, in turn, both until the device has done them (target: 5 %). In training they
//!   overlap. The share of a step that the training thread then waits for the engine (target: 1 %).
//! * `bandwidth`: a step that stores 512 rows and draws 512, against an elementwise copy of as many
//!   bytes; the appending, timed alone in the same turn, aside (target: half of the copy's
//!   bandwidth).
//! * The same draws and writes by PyTorch (`index_select`, `index_copy_`) in a process of its own,
//!   if `python3` has it.
//!
//! On a GPU (`BURN_DEVICE=cuda` or `wgpu`, built with that feature): 20,000 slots of 3×224×224
//! bytes and ResNet-50. On the CPU, where neither fits, 3×32×32 and a narrow ResNet-18: that shows
//! that everything works, not what a GPU would take. `SIDE` and `SLOTS` change the size.
#![allow(clippy::expect_used)]

use burn::data::dataloader::batcher::Batcher;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::tensor::{DType, Device, Tensor};
use burn_rehearsal::{
    Capacity, Execution, PolicyKind, RehearsalBuffer, RehearsalConfig, StorePreference,
};
use burn_rehearsal_benches::{
    Batch, Image, StackImages, device, fill, head, median, random_images, ratio, verdict,
};
use burn_rehearsal_train::device::describe;
use burn_rehearsal_train::init::{Scheme, keyed_init};
use burn_rehearsal_vision::models::{ResNet, ResNetConfig, Stem};
use std::hint::black_box;
use std::process::Command;
use std::time::Instant;

const B: usize = 56;
const C: usize = 14;
const R: usize = 7;
/// Rows that are stored and drawn at once where bandwidth is measured.
const MANY: usize = 512;
const CLASSES: usize = 100;
const TURNS: usize = 15;
/// Steps of training in which the waiting is measured.
const STEPS: usize = 30;

/// What is measured: on a GPU what training on ImageNet needs, on the CPU what it can do.
struct Size {
    side: usize,
    slots: usize,
    network: ResNetConfig,
    name: &'static str,
}

impl Size {
    fn on(device: &Device) -> Self {
        let number = |name: &str, or: usize| {
            std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(or)
        };
        if *device == Device::flex() || !on_a_card(device) {
            let network = ResNetConfig::resnet18(CLASSES).with_stem(Stem::Small).with_width(8);
            Self {
                side: number("SIDE", 32),
                slots: number("SLOTS", 2_000),
                network,
                name: "ResNet-18, 8 channels",
            }
        } else {
            let network = ResNetConfig::resnet50(CLASSES);
            Self {
                side: number("SIDE", 224),
                slots: number("SLOTS", 20_000),
                network,
                name: "ResNet-50",
            }
        }
    }

    fn row_bytes(&self) -> usize {
        3 * self.side * self.side
    }
}

/// Whether a real card is behind a device, and no program that simulates one.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn on_a_card(device: &Device) -> bool {
    device.identity().is_some_and(|identity| identity.physical.is_some())
}

#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
fn on_a_card(_device: &Device) -> bool {
    false
}

fn sync(device: &Device) {
    device.sync().expect("a device that works");
}

/// Milliseconds until `work` is done on the device.
fn timed<T>(device: &Device, work: impl FnOnce() -> T) -> (f64, T) {
    sync(device);
    let started = Instant::now();
    let value = work();
    sync(device);
    (started.elapsed().as_secs_f64() * 1e3, value)
}

fn buffer(
    size: &Size,
    candidates: usize,
    representatives: usize,
    execution: Execution,
) -> RehearsalBuffer<Batch> {
    let config = RehearsalConfig::new(Capacity::Samples(size.slots))
        .with_candidates(candidates)
        .with_representatives(representatives)
        // Every candidate is stored: the most work.
        .with_policy(PolicyKind::RandomReplacement)
        .with_store(StorePreference::Device)
        .with_execution(execution);
    config.init().expect("a buffer")
}

/// `rows` random images on `device`, in its smallest type that holds a byte.
fn batch(rows: usize, size: &Size, device: &Device) -> Batch {
    let host: Batch =
        StackImages { side: size.side, room: 0 }.batch(images(rows, size), &Device::flex());
    let dtype = if device.supports_dtype(DType::U8) { DType::U8 } else { DType::I32 };
    let moved = |tensor: burn::tensor::TensorData, dtype| tensor.convert_dtype(dtype);
    let classes = if device.supports_dtype(DType::I64) { DType::I64 } else { DType::I32 };
    Batch {
        images: Tensor::from_data(moved(host.images.into_data(), dtype), (device, dtype)),
        targets: Tensor::from_data(moved(host.targets.into_data(), classes), (device, classes)),
        representatives: 0,
    }
}

fn images(rows: usize, size: &Size) -> Vec<Image> {
    random_images(rows, size.row_bytes(), CLASSES, rows as u64)
}

/// Forward and backward.
fn learn(network: &ResNet, batch: &Batch, device: &Device) {
    let images = batch.images.clone().float().div_scalar(255.0);
    let images = images.autodiff();
    let targets = batch.targets.clone().autodiff();
    let scores = network.forward(images);
    let loss = CrossEntropyLossConfig::new().init(device).forward(scores, targets);
    black_box(loss.backward());
}

/// A step of the buffer, and one of the network on what came of it.
fn step(size: &Size, device: &Device) {
    let training = device.clone().autodiff();
    let network = keyed_init(size.network.init(&training), 1, Scheme::default());
    let incoming = batch(B, size, device);
    let inline = buffer(size, C, R, Execution::Inline);
    fill(&inline, std::slice::from_ref(&incoming)).expect("a full buffer");
    let (mut ours, mut learning) = (Vec::new(), Vec::new());
    // The first turn compiles kernels and chooses among them.
    for turn in 0..=TURNS {
        let (rehearse, merged) =
            timed(device, || inline.rehearse(incoming.clone()).expect("a step"));
        let (learn, ()) = timed(device, || learn(&network, &merged, &training));
        if turn > 0 {
            ours.push(rehearse);
            learning.push(learn);
        }
    }
    let share = ratio(&ours, &learning);
    println!(
        "step: buffer {:.3} ms, {} forward and backward {:.1} ms: {:.1} %, {}",
        median(ours),
        size.name,
        median(learning),
        share * 100.0,
        verdict(share <= 0.05)
    );
    drop(inline);

    let background = buffer(size, C, R, Execution::Background);
    fill(&background, std::slice::from_ref(&incoming)).expect("a full buffer");
    let mut waited = background.timings().wait;
    let (mut waits, mut steps) = (Vec::new(), Vec::new());
    for _ in 0..STEPS {
        let (step, ()) = timed(device, || {
            learn(&network, &background.rehearse(incoming.clone()).expect("a step"), &training)
        });
        let now = background.timings().wait;
        waits.push((now - waited).as_secs_f64() * 1e3);
        steps.push(step);
        waited = now;
    }
    let share = ratio(&waits, &steps);
    println!(
        "  in the background: step {:.1} ms, waiting {:.4} ms: {:.2} %, {}",
        median(steps),
        median(waits),
        share * 100.0,
        verdict(share <= 0.01)
    );
}

/// A step that moves many rows, and a copy of as many bytes.
fn bandwidth(size: &Size, device: &Device) {
    let incoming = batch(MANY, size, device);
    let inline = buffer(size, MANY, MANY, Execution::Inline);
    fill(&inline, std::slice::from_ref(&incoming)).expect("a full buffer");
    // Written and drawn rows, each read once and written once.
    let bytes = 2 * MANY * size.row_bytes();
    let source = Tensor::<1>::ones([bytes / 4], device);
    let (mut ours, mut copies) = (Vec::new(), Vec::new());
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
            ours.push(rehearse - append);
            copies.push(copy);
        }
    }
    let share = ratio(&copies, &ours);
    let speed = |ms: f64| 2.0 * bytes as f64 / ms / 1e6;
    println!(
        "bandwidth, c = r = {MANY}: drawing and writing {:.3} ms ({:.1} GB/s), copying {:.3} ms ({:.1} GB/s): {:.2}, {}",
        median(ours.clone()),
        speed(median(ours)),
        median(copies.clone()),
        speed(median(copies)),
        share,
        verdict(share >= 0.5)
    );
}

/// The same in PyTorch: medians of `TURNS` turns in milliseconds, for both numbers of rows.
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
    print(f"PyTorch {torch.__version__}, index_copy_ of {candidates} and index_select of {representatives} rows: {statistics.median(times[1:]):.3f} ms")
"#;

fn pytorch(size: &Size, device: &Device) {
    let on = if on_a_card(device) { "cuda" } else { "cpu" };
    let arguments =
        [on.to_owned(), size.slots.to_string(), size.row_bytes().to_string(), TURNS.to_string()];
    match Command::new("python3").args(["-c", PYTORCH]).args(arguments).output() {
        Ok(output) if output.status.success() => {
            print!("{}", String::from_utf8_lossy(&output.stdout))
        }
        Ok(output) => {
            println!(
                "PyTorch: not measured ({})",
                String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or("no reason given")
            )
        }
        Err(error) => println!("PyTorch: not measured (python3: {error})"),
    }
}

fn main() {
    let device = device();
    let size = Size::on(&device);
    head(&format!(
        "device: {}, {} slots of 3×{}×{} bytes, b = {B}, c = {C}, r = {R}",
        describe(&device),
        size.slots,
        size.side,
        size.side
    ));
    step(&size, &device);
    bandwidth(&size, &device);
    pytorch(&size, &device);
}
