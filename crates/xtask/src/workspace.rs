//! Where things are: the root of the workspace, and one target directory for each backend.

use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;

use crate::error::Result;

/// What is built together. Another backend rebuilds most of Burn, so each has a target directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leg {
    /// The backend feature of our crates, or `none`.
    pub(crate) backend: &'static str,
}

impl Leg {
    /// What every crate builds by default.
    pub(crate) const DEFAULT: Self = Self { backend: "flex" };
    /// No backend at all, as a library for users who bring theirs.
    pub(crate) const NONE: Self = Self { backend: "none" };
    /// GPUs of all makers, or none, through wgpu.
    pub(crate) const WGPU: Self = Self { backend: "wgpu" };
    /// NVIDIA GPUs.
    pub(crate) const CUDA: Self = Self { backend: "cuda" };

    /// The target directory of this leg: `base` itself for the default one, a folder in it for
    /// every other.
    pub(crate) fn target_dir(self, base: &Path) -> PathBuf {
        match self.backend {
            "flex" => base.to_owned(),
            backend => base.join(backend),
        }
    }
}

/// The workspace that cargo finds from the current directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the top-level `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// The target directory of the default leg; `CARGO_TARGET_DIR` is respected.
    target: PathBuf,
}

impl Workspace {
    /// Asks cargo.
    pub(crate) fn find() -> Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec()?;
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into() })
    }

    /// A cargo command for `leg`, to be run at the root.
    pub(crate) fn cargo(&self, leg: Leg, arguments: &[&str]) -> std::process::Command {
        let mut command = crate::process::cargo(arguments);
        command.current_dir(&self.root);
        // A relative `CARGO_TARGET_DIR` means another folder at the root than where we were called.
        if leg != Leg::DEFAULT || std::env::var_os("CARGO_TARGET_DIR").is_some() {
            command.env("CARGO_TARGET_DIR", self.target_dir(leg));
        }
        command
    }

    /// The target directory of `leg`.
    pub(crate) fn target_dir(&self, leg: Leg) -> PathBuf {
        leg.target_dir(&self.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leg_has_a_target_directory_of_its_own() {
        assert_eq!(Leg::DEFAULT.target_dir(Path::new("target")), Path::new("target"));
        assert_eq!(Leg::NONE.target_dir(Path::new("target")), Path::new("target/none"));
        assert_eq!(Leg::WGPU.target_dir(Path::new("target")), Path::new("target/wgpu"));
    }
}
