//! Devices by name.

use crate::error::AppError;
#[cfg(feature = "cuda")]
use crate::transport;
use burn::tensor::Device;
use std::fmt;
use std::str::FromStr;

/// A device by name. Every build parses all names. Opening a device needs its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceName {
    /// The CPU.
    Flex,
    /// The default GPU of Vulkan, Metal or DirectX.
    Wgpu,
    /// The NVIDIA GPU with this number. The default number is the rank of this process on its
    /// machine.
    Cuda(Option<usize>),
}

/// All backends, and whether this program includes them.
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
                Err(_) => Err("expected the number of a device after `:`"),
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
    /// The backend. Devices with the same backend give the same results.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Cuda(_) => "cuda",
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    ///
    /// [`AppError::Option`] if this program does not include the backend, or the device does not
    /// exist.
    pub fn open(self) -> Result<Device, AppError> {
        #[cfg(any(feature = "wgpu", feature = "cuda"))]
        use burn_rehearsal_train::device;
        let opened = match self {
            #[cfg(feature = "flex")]
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => device::wgpu().map(|gpu| gpu.device).map_err(|error| error.to_string()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => index
                .map_or_else(|| device::cuda_for_rank(transport::local_rank()), device::cuda)
                .map(|gpu| gpu.device)
                .map_err(|error| error.to_string()),
            #[allow(unreachable_patterns, reason = "with all backends")]
            other => Err(format!(
                "this program was built without `{0}`; build it with `--features {0}`",
                other.kind()
            )),
        };
        opened.map_err(|reason| AppError::option("device", self, reason))
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
    fn names_of_devices_round_trip() {
        for name in ["flex", "wgpu", "cuda", "cuda:1"] {
            assert_eq!(name.parse::<DeviceName>().unwrap().to_string(), name);
        }
        assert!("cuda:x".parse::<DeviceName>().is_err());
    }
}
