//! Weights in the format of safetensors, with PyTorch's names and layout: read and written.

use burn::module::Module;
use burn::store::{
    BurnToPyTorchAdapter, ModuleAdapter, ModuleContext, ModuleSnapshot, ModuleStore,
    PyTorchToBurnAdapter, SafetensorsStore, bridge, burn_pack,
};
use burn::tensor::DType;
use std::path::{Path, PathBuf};

/// A counter of PyTorch's batch norm that has no counterpart in Burn.
const COUNTER: &str = "num_batches_tracked";

/// Why weights could not be loaded or saved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read or is no safetensors file.
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
    /// The file has weights of another network.
    #[error("the weights in {} are not those of this network: {reason}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Which parameter, and what is wrong with it.
        reason: String,
    },
}

/// Makes floating-point numbers of any width 32-bit ones, which parameters of a network are. Burn
/// would keep the width of the file and fail at the first product of two widths.
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

/// Replaces all parameters and running statistics of a network by those in a `.safetensors` file
/// with PyTorch's names and layout.
///
/// The file must have a tensor of the right shape for each, and no others than these and PyTorch's
/// `num_batches_tracked`. Tensors of `f16`, `bf16` and `f64` are converted to `f32`; those of
/// integers or truth values are refused where the network has floating-point numbers.
///
/// # Errors
///
/// [`WeightsError`] with the file and, where there is one, the parameter.
pub fn load_safetensors<M: Module>(mut network: M, path: &Path) -> Result<M, WeightsError> {
    let unreadable = |reason: String| WeightsError::Unreadable { path: path.to_path_buf(), reason };
    // Burn's store would also call a missing file a "tensor that was not found".
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

/// Writes all parameters and running statistics of a network to a `.safetensors` file that
/// [`load_safetensors`] and PyTorch read: the names are those of the network's fields, which for
/// those of `burn-rehearsal-vision` are torchvision's and timm's. Readers of `path` find the
/// earlier file or the complete new one.
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
