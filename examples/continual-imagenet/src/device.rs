//! Devices by name.

use crate::error::AppError;
use burn::tensor::Device;

/// The kind of a device: GPUs of one kind are alike, whatever their numbers.
pub fn kind(name: &str) -> &str {
    name.split(':').next().unwrap_or(name)
}

/// The device of one of several processes on a machine: `cuda` without a number is that of the process's number among them.
///
/// `visible` is `CUDA_VISIBLE_DEVICES`: where each process sees only some GPUs, their numbers start at 0 again.
pub fn of_process(name: &str, local_rank: usize, visible: Option<&str>) -> String {
    let count = visible.map_or(0, |list| list.split(',').filter(|device| !device.trim().is_empty()).count());
    match name {
        "cuda" if count > 0 => format!("cuda:{}", local_rank % count),
        "cuda" => format!("cuda:{local_rank}"),
        other => other.to_owned(),
    }
}

/// The device that `--device` names.
///
/// # Errors
///
/// [`AppError::Option`] if the name is unknown or the program was built without that backend.
pub fn parse(name: &str) -> Result<Device, AppError> {
    let wrong = |reason: &str| AppError::Option { option: "device", value: name.into(), reason: reason.into() };
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (kind, Some(index.parse::<usize>().map_err(|_| wrong("the part after `:` is the number of a device"))?)),
        None => (name, None),
    };
    match (kind, index) {
        #[cfg(feature = "flex")]
        ("flex", None) => Ok(Device::flex()),
        #[cfg(feature = "wgpu")]
        ("wgpu", None) => burn_rehearsal_train::device::wgpu().map(|gpu| gpu.device).map_err(|error| wrong(&error.to_string())),
        #[cfg(feature = "cuda")]
        ("cuda", index) => {
            burn_rehearsal_train::device::cuda(index.unwrap_or(0)).map(|gpu| gpu.device).map_err(|error| wrong(&error.to_string()))
        }
        (kind, _) if ["flex", "wgpu", "cuda"].contains(&kind) && !backends().contains(&kind) => {
            Err(wrong(&format!("this program was built without `{kind}`; build it with `--features {kind}`")))
        }
        _ => Err(wrong("expected `flex`, `wgpu`, `cuda` or `cuda:i`")),
    }
}

/// The backends that this program was built with.
fn backends() -> Vec<&'static str> {
    let mut backends = Vec::new();
    if cfg!(feature = "flex") {
        backends.push("flex");
    }
    if cfg!(feature = "wgpu") {
        backends.push("wgpu");
    }
    if cfg!(feature = "cuda") {
        backends.push("cuda");
    }
    backends
}

/// One line for each backend.
pub fn list() -> Vec<String> {
    let describe = |name: &&str| match *name {
        "flex" => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            format!("flex      CPU, {cores} threads")
        }
        "wgpu" => "wgpu      the default GPU of Vulkan, Metal or DirectX".to_string(),
        _ => "cuda[:i]  NVIDIA GPU number i".to_string(),
    };
    let mut lines: Vec<_> = backends().iter().map(describe).collect();
    for missing in ["flex", "wgpu", "cuda"].iter().filter(|name| !backends().contains(name)) {
        lines.push(format!("{missing:<9} not built in (--features {missing})"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_machine_share_its_gpus_unless_a_number_is_named() {
        assert_eq!(of_process("cuda", 3, None), "cuda:3");
        assert_eq!(of_process("cuda", 3, Some("4,5")), "cuda:1");
        assert_eq!(of_process("cuda", 3, Some("7")), "cuda:0");
        assert_eq!(of_process("cuda:1", 3, None), "cuda:1");
        assert_eq!(of_process("flex", 3, None), "flex");
    }
}
