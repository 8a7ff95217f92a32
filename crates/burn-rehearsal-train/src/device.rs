//! Devices by name, and GPUs through wgpu with an error where there is none.
//!
//! Burn opens a GPU when a tensor is first made on it, and panics if it cannot. Opened here first, it can be refused in words.

use burn::tensor::Device;
#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;
#[cfg(feature = "wgpu")]
use std::sync::OnceLock;

/// What a device is, for people: Burn's name of it and, of a GPU, the adapter's: `Device<…>: llvmpipe (LLVM 15.0.6, 256 bits), Vulkan`.
///
/// Opens the device.
pub fn describe(device: &Device) -> String {
    let device = device.clone().inner();
    match adapter(&device) {
        Some(adapter) => format!("{device:?}: {adapter}"),
        None => format!("{device:?}"),
    }
}

/// The GPU behind a device, as its driver calls it. Opens the device.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub fn adapter(device: &Device) -> Option<String> {
    #[cfg(feature = "wgpu")]
    if *device == Device::wgpu(DeviceKind::DefaultDevice) {
        return wgpu().ok().map(|gpu| gpu.name);
    }
    device.identity().map(|identity| identity.name)
}

/// The GPU behind a device, as its driver calls it.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub fn adapter(_device: &Device) -> Option<String> {
    None
}

/// A GPU that wgpu found.
#[cfg(feature = "wgpu")]
#[derive(Debug, Clone)]
pub struct Gpu {
    /// Burn's device: the default one of wgpu.
    pub device: Device,
    /// The adapter and its graphics interface: `llvmpipe (LLVM 15.0.6, 256 bits), Vulkan`.
    pub name: String,
}

/// There is no GPU, or it cannot be used.
#[cfg(feature = "wgpu")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no GPU can be had: {0}")]
pub struct NoGpu(pub String);

/// The default GPU of Vulkan, Metal or DirectX, opened by the first call in this process.
///
/// # Errors
///
/// [`NoGpu`] if there is none, or no driver for it; the same in every call.
#[cfg(feature = "wgpu")]
pub fn wgpu() -> Result<Gpu, NoGpu> {
    static OPENED: OnceLock<Result<Gpu, NoGpu>> = OnceLock::new();
    let open = || match Device::wgpu_options().init_with_setup() {
        Ok((device, setup)) => {
            let adapter = setup.adapter.get_info();
            Ok(Gpu { device, name: format!("{}, {}", adapter.name, adapter.backend) })
        }
        // Someone made a tensor there before.
        Err(burn::tensor::wgpu::WgpuInitError::Registration { .. }) => {
            let device = Device::wgpu(DeviceKind::DefaultDevice);
            let name = device.identity().map_or_else(|| "an adapter without a name".to_owned(), |identity| identity.name);
            Ok(Gpu { device, name })
        }
        Err(error) => Err(NoGpu(error.to_string())),
    };
    OPENED.get_or_init(open).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_named_and_so_is_the_adapter_of_a_gpu_if_there_is_one() {
        assert_eq!(describe(&Device::flex().autodiff()), format!("{:?}", Device::flex()));
        #[cfg(feature = "wgpu")]
        match wgpu() {
            Ok(gpu) => assert!(describe(&gpu.device).ends_with(&gpu.name)),
            Err(error) => assert!(error.to_string().starts_with("no GPU can be had: ")),
        }
    }
}
