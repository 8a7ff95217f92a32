//! Devices for ranks, their names, and typed errors for missing GPUs.
//!
//! Burn opens a GPU when the first tensor is created on it, and panics if that fails. The functions
//! here open it first and return an error.

use burn::tensor::Device;
#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;
use burn_rehearsal_collective::Rank;
#[cfg(feature = "wgpu")]
use std::sync::OnceLock;

/// The device for a rank, according to the enabled features. With `cuda` it is the GPU whose number
/// is that of the rank on its machine, with `wgpu` the default GPU, and otherwise the CPU. Ranks
/// share a GPU if there are fewer GPUs than ranks. A backend without a usable GPU is skipped. Opens
/// the GPU.
///
/// ```
/// use burn_rehearsal_collective::Rank;
/// use burn_rehearsal_train::device;
///
/// let device = device::for_rank(&Rank::solo());
/// println!("training on {}", device::describe(&device));
/// ```
pub fn for_rank(rank: &Rank) -> Device {
    #[cfg(feature = "cuda")]
    if let Ok(gpu) = cuda_for_rank(rank.local_rank()) {
        return gpu.device;
    }
    #[cfg(feature = "wgpu")]
    if let Ok(gpu) = wgpu() {
        return gpu.device;
    }
    let _ = rank;
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(not(feature = "flex"))]
    Device::default()
}

/// The NVIDIA GPU for rank `local_rank` of this machine: the GPU with that number. Ranks share GPUs
/// if there are fewer of them.
///
/// # Errors
///
/// [`NoGpu`] if there is no GPU, or no driver for it.
#[cfg(feature = "cuda")]
pub fn cuda_for_rank(local_rank: usize) -> Result<Gpu, NoGpu> {
    cuda(local_rank).or_else(|error| {
        match (0..local_rank).take_while(|&index| cuda(index).is_ok()).count() {
            0 => Err(error),
            gpus => cuda(local_rank % gpus),
        }
    })
}

/// A description of a device: Burn's name and, for a GPU, the name of the adapter, such as
/// `Device<…>: llvmpipe (LLVM 15.0.6, 256 bits), Vulkan`. Opens the device.
pub fn describe(device: &Device) -> String {
    let device = device.clone().inner();
    match adapter(&device) {
        Some(adapter) => format!("{device:?}: {adapter}"),
        None => format!("{device:?}"),
    }
}

/// The name of the GPU behind a device, from its driver. Opens the device.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
pub fn adapter(device: &Device) -> Option<String> {
    #[cfg(feature = "wgpu")]
    if *device == Device::wgpu(DeviceKind::DefaultDevice) {
        return wgpu().ok().map(|gpu| gpu.name);
    }
    device.identity().map(|identity| identity.name)
}

/// The name of the GPU behind a device, from its driver.
#[cfg(not(any(feature = "wgpu", feature = "cuda")))]
pub fn adapter(_device: &Device) -> Option<String> {
    None
}

/// A GPU that can be used.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
#[derive(Debug, Clone)]
pub struct Gpu {
    /// The device for Burn.
    pub device: Device,
    /// The name from its driver. Through wgpu it includes the graphics interface: `llvmpipe (LLVM
    /// 15.0.6, 256 bits), Vulkan`.
    pub name: String,
}

/// There is no GPU, or it cannot be used.
#[cfg(any(feature = "wgpu", feature = "cuda"))]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no usable GPU: {0}")]
pub struct NoGpu(pub String);

/// The default GPU of Vulkan, Metal or DirectX. The first call in a process opens it.
///
/// ```no_run
/// match burn_rehearsal_train::device::wgpu() {
///     Ok(gpu) => println!("training on {}", gpu.name),
///     Err(error) => println!("{error}"),
/// }
/// ```
///
/// # Errors
///
/// [`NoGpu`] if there is no GPU, or no driver for it. Every call returns the same result.
#[cfg(feature = "wgpu")]
pub fn wgpu() -> Result<Gpu, NoGpu> {
    static OPENED: OnceLock<Result<Gpu, NoGpu>> = OnceLock::new();
    let open = || match Device::wgpu_options().init_with_setup() {
        Ok((device, setup)) => {
            let adapter = setup.adapter.get_info();
            Ok(Gpu { device, name: format!("{}, {}", adapter.name, adapter.backend) })
        }
        // The device is open already, since a tensor was created on it.
        Err(burn::tensor::wgpu::WgpuInitError::Registration { .. }) => {
            let device = Device::wgpu(DeviceKind::DefaultDevice);
            let name = device
                .identity()
                .map_or_else(|| "an adapter without a name".to_owned(), |identity| identity.name);
            Ok(Gpu { device, name })
        }
        Err(error) => Err(NoGpu(error.to_string())),
    };
    OPENED.get_or_init(open).clone()
}

/// The NVIDIA GPU number `index`. The first call in a process opens it.
///
/// Burn can only find a GPU by opening it, which panics if there is none. This function catches the
/// panic without printing it. Meanwhile, panics of other threads are not printed either.
///
/// ```no_run
/// use burn_rehearsal_train::device;
///
/// let gpus = (0..).map_while(|index| device::cuda(index).ok());
/// gpus.for_each(|gpu| println!("{}", gpu.name));
/// ```
///
/// # Errors
///
/// [`NoGpu`] if there is no such GPU, or no driver for it. Every call returns the same result.
#[cfg(feature = "cuda")]
pub fn cuda(index: usize) -> Result<Gpu, NoGpu> {
    use burn::tensor::Tensor;
    use parking_lot::Mutex;
    use std::collections::BTreeMap;
    use std::panic::{PanicHookInfo, set_hook, take_hook};
    use std::sync::Arc;

    // Held until the panic hook is restored. Two threads that replace the hook at the same time
    // would not restore the original one.
    static OPENED: Mutex<BTreeMap<usize, Result<Gpu, NoGpu>>> = Mutex::new(BTreeMap::new());
    let mut known = OPENED.lock();
    if let Some(known) = known.get(&index) {
        return known.clone();
    }
    let device = Device::cuda(index);
    let heard = Arc::new(Mutex::new(None));
    let (before, listener) = (take_hook(), heard.clone());
    set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        // The first panic is that of the driver. Threads that waited for it panic afterwards.
        listener.lock().get_or_insert_with(|| info.payload_as_str().unwrap_or_default().to_owned());
    }));
    let opened =
        std::panic::catch_unwind(|| Tensor::<1>::ones([1], &device).try_into_data().is_ok());
    set_hook(before);
    let gpu = if matches!(opened, Ok(true)) {
        let name = device
            .identity()
            .map_or_else(|| "a GPU without a name".to_owned(), |identity| identity.name);
        Ok(Gpu { device, name })
    } else {
        let reason = heard.lock().take().filter(|reason| !reason.is_empty());
        // The rest of the message lists all files that were searched.
        Err(NoGpu(
            reason
                .as_deref()
                .and_then(|reason| reason.split(" - ").next())
                .unwrap_or("a test computation failed")
                .to_owned(),
        ))
    };
    known.insert(index, gpu.clone());
    gpu
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_has_a_device() {
        let device = for_rank(&Rank::solo());
        assert!(!describe(&device).is_empty());
        #[cfg(not(any(feature = "wgpu", feature = "cuda")))]
        assert_eq!(device, Device::flex());
    }

    #[test]
    fn descriptions_name_the_cpu_or_the_adapter_of_a_gpu() {
        assert_eq!(describe(&Device::flex().autodiff()), format!("{:?}", Device::flex()));
        #[cfg(feature = "wgpu")]
        match wgpu() {
            Ok(gpu) => assert!(describe(&gpu.device).ends_with(&gpu.name)),
            Err(error) => assert!(error.to_string().starts_with("no usable GPU: ")),
        }
        #[cfg(feature = "cuda")]
        match cuda(0) {
            Ok(gpu) => assert!(!gpu.name.is_empty()),
            Err(error) => assert!(error.to_string().starts_with("no usable GPU: ")),
        }
    }
}
