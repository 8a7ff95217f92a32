//! Devices by name.

use crate::error::AppError;
use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// A device as it is written. Any program can name all of them; each is opened only by a program
/// that was built with its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU.
    Flex,
    /// The default GPU of Vulkan, Metal or DirectX.
    Wgpu,
    /// An NVIDIA GPU by its number. The default is 0, or the process's number on its machine.
    Cuda(Option<usize>),
}

/// All backends, and whether this program was built with them.
const BACKENDS: [(&str, bool); 3] = [
    ("flex", cfg!(feature = "flex")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("cuda", cfg!(feature = "cuda")),
];

impl FromStr for DeviceName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name.split_once(':') {
            None if name == "flex" => Ok(Self::Flex),
            None if name == "wgpu" => Ok(Self::Wgpu),
            None if name == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", index)) => match index.parse() {
                Ok(index) => Ok(Self::Cuda(Some(index))),
                Err(_) => Err("the part after `:` is the number of a device"),
            },
            _ => Err("expected `flex`, `wgpu`, `cuda` or `cuda:i`"),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        if let Self::Cuda(Some(index)) = self { write!(f, ":{index}") } else { Ok(()) }
    }
}

impl DeviceName {
    /// The kind: devices of one kind give the same results.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Cuda(_) => "cuda",
        }
    }

    /// The device of one of several processes on a machine: `cuda` without a number is the GPU with
    /// the process's number.
    ///
    /// `visible` is `CUDA_VISIBLE_DEVICES`: the GPUs that a process sees are numbered from 0.
    pub fn of_process(self, local_rank: usize, visible: Option<&str>) -> Self {
        let count = visible
            .map_or(0, |list| list.split(',').filter(|device| !device.trim().is_empty()).count());
        match self {
            Self::Cuda(None) => {
                Self::Cuda(Some(local_rank.checked_rem(count).unwrap_or(local_rank)))
            }
            other => other,
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    ///
    /// [`AppError::Option`] if the program was built without the backend, or there is no such
    /// device.
    pub fn open(self) -> Result<Device, AppError> {
        match self {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => burn_rehearsal_train::device::wgpu()
                .map(|gpu| gpu.device)
                .map_err(|error| AppError::option("device", self, error.to_string())),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => burn_rehearsal_train::device::cuda(index.unwrap_or(0))
                .map(|gpu| gpu.device)
                .map_err(|error| AppError::option("device", self, error.to_string())),
            #[allow(unreachable_patterns, reason = "if all backends are built in")]
            other => {
                let kind = other.kind();
                let reason = format!(
                    "this program was built without `{kind}`; build it with `--features {kind}`"
                );
                Err(AppError::option("device", self, reason))
            }
        }
    }
}

/// One line for each backend.
pub fn list() -> Vec<String> {
    let describe = |(name, built_in): (&str, bool)| match name {
        _ if !built_in => format!("{name:<9} not built in (--features {name})"),
        "flex" => format!(
            "flex      CPU, {} threads",
            std::thread::available_parallelism().map_or(1, usize::from)
        ),
        "wgpu" => "wgpu      the default GPU of Vulkan, Metal or DirectX".to_owned(),
        _ => "cuda[:i]  NVIDIA GPU number i".to_owned(),
    };
    let mut backends = BACKENDS;
    backends.sort_by_key(|(_, built_in)| !built_in);
    backends.map(describe).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_machine_share_its_gpus_unless_a_number_is_named() {
        let of_process = |name: &str, visible| {
            name.parse::<DeviceName>().unwrap().of_process(3, visible).to_string()
        };
        assert_eq!(of_process("cuda", None), "cuda:3");
        assert_eq!(of_process("cuda", Some("4,5")), "cuda:1");
        assert_eq!(of_process("cuda", Some("7")), "cuda:0");
        assert_eq!(of_process("cuda:1", None), "cuda:1");
        assert_eq!(of_process("flex", None), "flex");
    }
}
