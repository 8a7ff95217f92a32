//! Weights in the safetensors format.
#![no_main]

use burn::nn::LinearConfig;
use burn::tensor::Device;
use burn_rehearsal_fuzz::{folder, write};
use burn_rehearsal_train::weights::load_safetensors;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

static FOLDER: LazyLock<TempDir> = LazyLock::new(folder);

fuzz_target!(|input: &[u8]| {
    let path = write(FOLDER.path(), "weights.safetensors", input);
    let network = LinearConfig::new(2, 3).init(&Device::flex());
    if let Ok(network) = load_safetensors(network, &path) {
        assert_eq!(network.weight.val().into_data().iter::<f32>().count(), 6);
        assert_eq!(network.bias.map(|bias| bias.val().into_data().iter::<f32>().count()), Some(3));
    }
});
