//! The root of the workspace, and a target directory for each backend.

use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;

use crate::error::{Error, Result};

/// A build configuration. Another backend rebuilds most of Burn, so each has a target directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leg {
    /// The backend feature of the workspace's crates, or `none`.
    pub(crate) backend: &'static str,
}

impl Leg {
    /// The default features of every crate.
    pub(crate) const DEFAULT: Self = Self { backend: "flex" };
    /// No backend, as for users who choose their own.
    pub(crate) const NONE: Self = Self { backend: "none" };
    /// GPUs of all vendors, or a simulated one, through wgpu.
    pub(crate) const WGPU: Self = Self { backend: "wgpu" };
    /// NVIDIA GPUs.
    pub(crate) const CUDA: Self = Self { backend: "cuda" };

    /// The target directory of this leg: `base` for the default leg, otherwise a folder in it.
    pub(crate) fn target_dir(self, base: &Path) -> PathBuf {
        match self.backend {
            "flex" => base.to_owned(),
            backend => base.join(backend),
        }
    }
}

/// The workspace of the current directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the top-level `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// The target directory of the default leg, which respects `CARGO_TARGET_DIR`.
    target: PathBuf,
}

impl Workspace {
    /// Finds the workspace with `cargo metadata`.
    pub(crate) fn find() -> Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec()?;
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into() })
    }

    /// A cargo command for `leg` that runs at the root.
    pub(crate) fn cargo(&self, leg: Leg, arguments: &[&str]) -> std::process::Command {
        let mut command = crate::process::cargo(arguments);
        command.current_dir(&self.root);
        // A relative `CARGO_TARGET_DIR` is relative to the caller's directory, not to the root.
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

/// Removes a folder if it exists.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { path: folder.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_leg_has_its_own_target_directory() {
        assert_eq!(Leg::DEFAULT.target_dir(Path::new("target")), Path::new("target"));
        assert_eq!(Leg::NONE.target_dir(Path::new("target")), Path::new("target/none"));
        assert_eq!(Leg::WGPU.target_dir(Path::new("target")), Path::new("target/wgpu"));
    }

    #[test]
    fn removing_a_missing_folder_succeeds() {
        let folder = tempfile::tempdir().unwrap().path().join("never");
        assert!(remove_folder(&folder).is_ok());
    }
}
