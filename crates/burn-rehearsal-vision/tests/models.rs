//! Networks have the outputs of torchvision's and timm's networks with the same weights.
//!
//! `models/reference.py` computes every weight from its PyTorch name and position, and prints the
//! outputs of PyTorch's networks, which are committed as `models/reference.json`. These tests
//! compute the same weights, write them to a file with PyTorch's names and layout, and load the
//! file. A weight depends on its name and shape, so a network with a different name or shape has
//! different outputs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use burn::module::{Module, ModuleMapper, Param};
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot};
use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use burn_rehearsal_train::init::{Scheme, keyed_init};
use burn_rehearsal_train::weights::{WeightsError, load_safetensors, save_safetensors};
use burn_rehearsal_vision::models::{
    GhostNet, GhostNetConfig, Network, NetworkConfig, NetworkKind, ResNet, ResNetConfig, Stem,
};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::path::Path;

const CLASSES: usize = 10;
const ROWS: usize = 2;

/// Values in -0.5..0.5 that depend on the name: FNV-1a of its bytes, then Murmur's finalizer of
/// each index.
fn hashed(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let seed = name
        .bytes()
        .fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (0..count as u32).map(move |index| {
        let mut x = index.wrapping_mul(0x9e37_79b1).wrapping_add(seed);
        for (shift, factor) in [(16, 0x85eb_ca6bu32), (13, 0xc2b2_ae35)] {
            x = (x ^ (x >> shift)).wrapping_mul(factor);
        }
        f64::from(x ^ (x >> 16)) / 4_294_967_296.0 - 0.5
    })
}

fn values(name: &str, shape: &[usize]) -> Vec<f32> {
    let scale = |value: f64| match shape {
        [_, rest @ ..] if !rest.is_empty() => {
            value * (24.0 / rest.iter().product::<usize>() as f64).sqrt()
        }
        _ if name.ends_with("running_var") => 1.0 + value,
        _ if name.ends_with("weight") => 1.0 + 0.4 * value,
        _ => 0.4 * value,
    };
    hashed(name, shape.iter().product()).map(|value| scale(value) as f32).collect()
}

/// Values of the order of 1, as in the script.
fn images(side: usize, device: &Device) -> Tensor<4> {
    let scale = (3.0 * (side * side) as f64 / 24.0).sqrt() * 3.0;
    let shape = [ROWS, 3, side, side];
    let values: Vec<f32> = values("images", &shape)
        .into_iter()
        .map(|value| (f64::from(value) * scale) as f32)
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Name, shape, values.
type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

/// Writes all weights of a network, with PyTorch's names.
fn write<M: Module>(network: &M, path: &Path, change: impl Fn(&mut Tensors)) {
    write_as(network, path, (Dtype::F32, DType::F32), change);
}

/// As [`write`], in a different number format.
fn write_as<M: Module>(
    network: &M,
    path: &Path,
    (dtype, burns): (Dtype, DType),
    change: impl Fn(&mut Tensors),
) {
    let mut tensors: Tensors = network
        .collect(None, Some(Box::new(BurnToPyTorchAdapter)), true)
        .iter()
        .map(|tensor| {
            let shape: Vec<usize> = tensor.shape.iter().copied().collect();
            (tensor.name.clone(), shape.clone(), values(&tensor.name, &shape))
        })
        .collect();
    change(&mut tensors);
    let converted = |values: &[f32]| {
        TensorData::new(values.to_vec(), [values.len()]).convert_dtype(burns).as_bytes().to_vec()
    };
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(.., values)| converted(values)).collect();
    let counter = 7i64.to_le_bytes();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (name.clone(), TensorView::new(dtype, shape.clone(), bytes).unwrap())
    });
    let counters = [(
        "bn1.num_batches_tracked".to_string(),
        TensorView::new(Dtype::I64, Vec::new(), &counter).unwrap(),
    )];
    safetensors::serialize_to_file(views.chain(counters), None, path).unwrap();
}

fn loaded<M: Module>(network: M) -> M {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    write(&network, &path, |_| {});
    load_safetensors(network, &path).unwrap()
}

/// The first batch norm's running mean.
fn running_mean<M: Module>(network: &M) -> Vec<f32> {
    let tensors = network.collect(None, None, true);
    let tensor = tensors.iter().find(|tensor| tensor.name == "bn1.running_mean").unwrap();
    burn::store::bridge::to_data(tensor).unwrap().try_into_vec().unwrap()
}

fn matches_pytorch<M: Module>(
    name: &str,
    side: usize,
    build: impl Fn(&Device) -> M,
    forward: impl Fn(&M, Tensor<4>) -> Tensor<2>,
) {
    let reference: serde_json::Value =
        serde_json::from_str(include_str!("models/reference.json")).unwrap();
    let (plain, training) = (Device::default(), Device::default().autodiff());
    let network = loaded(build(&training));
    assert_eq!(
        network.num_params() as u64,
        reference[name]["parameters"].as_u64().unwrap(),
        "{name}"
    );

    let answer = |network: &M, device| -> Vec<f32> {
        forward(network, images(side, device)).into_data().try_into_vec().unwrap()
    };
    let of_inference = answer(&network.valid(), &plain);
    let of_training = answer(&network, &training);
    for (key, ours) in [
        ("inference", of_inference),
        ("training", of_training),
        ("running_mean", running_mean(&network.valid())),
    ] {
        let theirs: Vec<f64> = serde_json::from_value(reference[name][key].clone()).unwrap();
        let largest = theirs.iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
        assert!(ours.len() >= theirs.len(), "{name}, {key}: {} values", ours.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            assert!(
                (f64::from(*ours) - theirs).abs() < 1e-4 * largest,
                "{name}, {key}: {ours}, but PyTorch has {theirs}"
            );
        }
    }
}

#[test]
fn resnet18_matches_torchvision() {
    matches_pytorch(
        "resnet18",
        64,
        |device| ResNetConfig::resnet18(CLASSES).init(device),
        ResNet::forward,
    );
}

#[test]
fn resnet18_with_a_small_stem_matches_torchvision() {
    matches_pytorch(
        "resnet18 small",
        32,
        |device| ResNetConfig::resnet18(CLASSES).with_stem(Stem::Small).init(device),
        ResNet::forward,
    );
}

#[test]
fn resnet50_matches_torchvision() {
    matches_pytorch(
        "resnet50",
        64,
        |device| ResNetConfig::resnet50(CLASSES).init(device),
        ResNet::forward,
    );
}

#[test]
fn resnet50_with_a_small_stem_matches_torchvision() {
    matches_pytorch(
        "resnet50 small",
        32,
        |device| ResNetConfig::resnet50(CLASSES).with_stem(Stem::Small).init(device),
        ResNet::forward,
    );
}

#[test]
fn ghostnet_matches_timm() {
    matches_pytorch(
        "ghostnet",
        64,
        |device| GhostNetConfig::new(CLASSES).init(device),
        GhostNet::forward,
    );
}

#[test]
fn saved_networks_have_names_of_pytorch_and_load_again() {
    fn same<M: Module>(
        build: impl Fn(u64) -> M,
        forward: impl Fn(&M, Tensor<4>) -> Tensor<2>,
        name: &str,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("networks").join("weights.safetensors");
        let network = build(1);
        save_safetensors(&network, &path).unwrap();
        let file = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert!(file.names().iter().any(|other| **other == *name), "{:?}", file.names());
        let other = build(2);
        let answer = |network: &M| forward(network, images(32, &Device::default())).into_data();
        assert_ne!(answer(&other), answer(&network));
        assert_eq!(answer(&load_safetensors(other, &path).unwrap()), answer(&network));
    }
    let device = Device::default();
    let narrow = || ResNetConfig::resnet18(CLASSES).with_width(4).init(&device);
    same(
        |seed| keyed_init(narrow(), seed, Scheme::default()),
        ResNet::forward,
        "layer2.0.downsample.1.running_var",
    );
    let ghost = || GhostNetConfig::new(CLASSES).init(&device);
    same(
        |seed| keyed_init(ghost(), seed, Scheme::default()),
        GhostNet::forward,
        "conv_stem.weight",
    );

    let directory = tempfile::tempdir().unwrap();
    let in_the_way = directory.path().join("file");
    std::fs::write(&in_the_way, b"").unwrap();
    let path = in_the_way.join("weights.safetensors");
    assert!(
        matches!(save_safetensors(&narrow(), &path), Err(WeightsError::Unwritable { path: named, .. }) if named == path)
    );
}

#[test]
fn weights_of_all_float_types_become_f32_and_integers_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    let narrow = || ResNetConfig::resnet18(CLASSES).with_width(4).init(&Device::default());
    let answer = |network: ResNet| -> Vec<f32> {
        network.forward(images(32, &Device::default())).into_data().try_into_vec().unwrap()
    };
    write(&narrow(), &path, |_| {});
    let exact = answer(load_safetensors(narrow(), &path).unwrap());
    let largest = exact.iter().fold(1.0f32, |largest, value| largest.max(value.abs()));
    for (types, by) in [
        ((Dtype::F16, DType::F16), 0.02),
        ((Dtype::BF16, DType::BF16), 0.1),
        ((Dtype::F64, DType::F64), 1e-6),
    ] {
        write_as(&narrow(), &path, types, |_| {});
        let network = load_safetensors(narrow(), &path).unwrap();
        assert!(network.collect(None, None, true).iter().all(|tensor| tensor.dtype == DType::F32));
        for (ours, exact) in answer(network).iter().zip(&exact) {
            assert!((ours - exact).abs() <= by * largest, "{types:?}: {ours} is not {exact}");
        }
    }
    write_as(&narrow(), &path, (Dtype::I64, DType::I64), |_| {});
    let refused = load_safetensors(narrow(), &path).map(|_| "loaded");
    assert!(
        matches!(&refused, Err(WeightsError::Foreign { path: named, .. }) if *named == path),
        "{refused:?}"
    );
}

#[test]
fn weights_of_other_networks_are_refused_with_the_parameter() {
    let device = Device::default();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.safetensors");
    let narrow = || ResNetConfig::resnet18(CLASSES).with_width(4).init(&device);
    let refused = |change: fn(&mut Tensors)| {
        write(&narrow(), &path, change);
        match load_safetensors(narrow(), &path) {
            Err(WeightsError::Foreign { path: named, reason }) if named == path => reason,
            other => panic!("{:?}", other.map(|_| "loaded")),
        }
    };
    assert!(
        refused(|tensors| tensors.retain(|(name, ..)| name != "layer2.0.downsample.1.running_var"))
            .contains("layer2.0.downsample.1.running_var")
    );
    assert!(
        refused(|tensors| tensors.push(("layer5.weight".into(), vec![1], vec![0.0])))
            .contains("layer5.weight")
    );
    assert!(
        refused(|tensors| tensors
            .iter_mut()
            .filter(|(name, ..)| name == "fc.bias")
            .for_each(|(_, shape, _)| *shape = vec![2, 5]))
        .contains("fc.bias")
    );

    let missing = directory.path().join("nothing.safetensors");
    assert!(
        matches!(load_safetensors(narrow(), &missing), Err(WeightsError::Unreadable { path, .. }) if path == missing)
    );
    std::fs::write(&path, b"no safetensors").unwrap();
    assert!(matches!(load_safetensors(narrow(), &path), Err(WeightsError::Unreadable { .. })));
}

/// Casts all parameters except those of batch norms to `bf16`, as training in half precision does.
#[derive(Default)]
struct Halve {
    norms: usize,
}

impl ModuleMapper for Halve {
    fn enter_module(&mut self, _name: &str, container_type: &str) {
        self.norms += usize::from(container_type == "Struct:BatchNorm");
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.norms -= usize::from(container_type == "Struct:BatchNorm");
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.norms > 0 { param } else { param.map(|tensor| tensor.cast(FloatDType::BF16)) }
    }
}

#[test]
fn every_network_computes_in_half_precision() {
    let device = Device::default();
    for &kind in NetworkKind::ALL {
        let network = NetworkConfig::new(kind, [3, 32, 32], CLASSES).with_width(4).init(&device);
        let scores =
            network.map(&mut Halve::default()).forward(images(32, &device).cast(FloatDType::BF16));
        assert_eq!((scores.dims(), scores.dtype()), ([ROWS, CLASSES], DType::BF16), "{kind:?}");
    }
}

/// Bytes of `sin(0.37 i + offset) × scale`.
fn wave(offset: f64, count: usize, scale: f64) -> Vec<u8> {
    (0..count)
        .flat_map(|i| (((0.37 * i as f64 + offset).sin() * scale) as f32).to_le_bytes())
        .collect()
}

/// The expected scores are from PyTorch 2.15:
/// `Linear(784, 100), ReLU, Linear(100, 100), ReLU, Linear(100, 10)` with the same weights and
/// images.
#[test]
fn the_mlp_matches_pytorch() {
    const HIDDEN: usize = 100;
    const PYTORCH: [f32; 20] = [
        -0.74412, -1.0702, -0.89128, -0.27946, 0.48803, 1.05763, 1.1644, 0.75604, 0.01771,
        -0.71397, -0.41962, -0.598, -0.49293, -0.14186, 0.30033, 0.63269, 0.70159, 0.47249,
        0.04646, -0.38641,
    ];
    let device = Device::default();
    let layers = [
        ("first", vec![HIDDEN, 784]),
        ("second", vec![HIDDEN, HIDDEN]),
        ("output", vec![10, HIDDEN]),
    ];
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = (1..)
        .zip(layers)
        .flat_map(|(number, (name, shape))| {
            let (weight, bias) = (
                wave(f64::from(number), shape[0] * shape[1], 0.1),
                wave(f64::from(number) + 3.0, shape[0], 0.1),
            );
            [
                (format!("{name}.bias"), vec![shape[0]], bias),
                (format!("{name}.weight"), shape, weight),
            ]
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mlp.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();

    let network = NetworkConfig::new(NetworkKind::Mlp, [1, 28, 28], 10).init(&device);
    let Network::Mlp(network) = load_safetensors(network, &path).unwrap() else {
        panic!("not an MLP")
    };
    let images: Vec<f32> = wave(0.0, 2 * 784, 1.0)
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let images =
        Tensor::<4>::from_data(burn::tensor::TensorData::new(images, [2, 1, 28, 28]), &device);
    let scores: Vec<f32> = network.forward(images).into_data().try_into_vec().unwrap();
    assert!(
        scores.len() == 20
            && scores.iter().zip(PYTORCH).all(|(ours, theirs)| (ours - theirs).abs() < 1e-4),
        "{scores:?}"
    );
}
