//! Reading and writing weights as safetensors files with PyTorch's names and layout.
//!
//! ```
//! use burn::nn::{Linear, LinearConfig};
//! use burn::tensor::Device;
//! use burn_rehearsal_train::weights::{load_safetensors, save_safetensors};
//!
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("model.safetensors");
//! let network: Linear = LinearConfig::new(4, 2).init(&Device::default());
//! save_safetensors(&network, &path)?;
//! let network = load_safetensors(network, &path)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use burn::module::Module;
use burn::store::{
    BurnToPyTorchAdapter, ModuleAdapter, ModuleContext, ModuleSnapshot, ModuleStore,
    PyTorchToBurnAdapter, SafetensorsStore, bridge, burn_pack,
};
use burn::tensor::DType;
use std::path::{Path, PathBuf};

/// A counter of PyTorch's batch norm without a counterpart in Burn.
const COUNTER: &str = "num_batches_tracked";

/// The reason why weights could not be loaded or saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read or is not a safetensors file.
    #[error("the weights in {} cannot be read: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error message.
        reason: String,
    },
    /// The file cannot be written.
    #[error("the weights in {} cannot be written: {reason}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// The error message.
        reason: String,
    },
    /// The file contains the weights of another network.
    #[error("the weights in {} are not those of this network: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The parameter and the reason.
        reason: String,
    },
}

/// Converts floating-point tensors to `f32`, the type of the parameters of a network. Burn would
/// keep the type of the file and fail at the first operation on two types.
#[derive(Debug, Clone)]
struct SinglePrecision;

impl ModuleAdapter for SinglePrecision {
    fn adapt(&self, tensor: burn_pack::Tensor, _context: ModuleContext<'_>) -> burn_pack::Tensor {
        if !tensor.dtype.is_float() || tensor.dtype == DType::F32 {
            return tensor;
        }
        let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
        bridge::map_data(tensor, name, DType::F32, shape, |data| data.convert_dtype(DType::F32))
    }

    fn clone_box(&self) -> Box<dyn ModuleAdapter> {
        Box::new(self.clone())
    }
}

/// Loads all parameters and running statistics of a network from a `.safetensors` file with
/// PyTorch's names and layout.
///
/// The file must contain a tensor of the right shape for each of them, and no others except
/// PyTorch's `num_batches_tracked`. Tensors of `f16`, `bf16` and `f64` are converted to `f32`.
/// Tensors of integers or booleans are refused for floating-point parameters.
///
/// The [module](self) has an example.
///
/// # Errors
///
/// [`WeightsError`] with the file and, if there is one, the parameter.
pub fn load_safetensors<M: Module>(mut network: M, path: &Path) -> Result<M, WeightsError> {
    let unreadable = |reason: String| WeightsError::Unreadable { path: path.to_path_buf(), reason };
    // For a missing file, Burn's store would report a tensor that was not found.
    std::fs::File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let mut store = SafetensorsStore::from_file(path)
        .with_from_adapter(PyTorchToBurnAdapter.chain(SinglePrecision))
        .skip_enum_variants(true)
        .validate(false)
        .allow_partial(true);
    store.get_all_tensors().map_err(|error| unreadable(error.to_string()))?;
    let result = network.load_from(&mut store).map_err(|error| unreadable(error.to_string()))?;
    let error = result.errors.first().map(ToString::to_string);
    let missing = || result.missing.first().map(|(name, _)| format!("there is no `{name}`"));
    let unused = || {
        let mut others = result.unused.iter().filter(|name| !name.ends_with(COUNTER));
        others.next().map(|name| format!("the network has no `{name}`"))
    };
    match error.or_else(missing).or_else(unused) {
        Some(reason) => Err(WeightsError::Foreign { path: path.to_path_buf(), reason }),
        None => Ok(network),
    }
}

/// Saves all parameters and running statistics of a network to a `.safetensors` file that
/// [`load_safetensors`] and PyTorch can read. The names are those of the network's fields. For the
/// networks of `burn-rehearsal-vision`, these are the names of torchvision and timm. The file is
/// replaced atomically. The [module](self) has an example.
///
/// # Errors
///
/// [`WeightsError::Unwritable`] with the file.
pub fn save_safetensors<M: Module>(network: &M, path: &Path) -> Result<(), WeightsError> {
    let unwritable = |reason: String| WeightsError::Unwritable { path: path.to_path_buf(), reason };
    let mut store = SafetensorsStore::from_bytes(None)
        .with_to_adapter(BurnToPyTorchAdapter)
        .skip_enum_variants(true);
    network.save_into(&mut store).map_err(|error| unwritable(error.to_string()))?;
    let bytes = store.get_bytes().map_err(|error| unwritable(error.to_string()))?;
    // `parent` of a bare file name is the empty path, which `create_dir_all` accepts.
    path.parent()
        .map_or(Ok(()), std::fs::create_dir_all)
        .and_then(|()| burn_rehearsal::checkpoint::write_atomically(path, &bytes))
        .map_err(|error| unwritable(error.to_string()))
}
