//! Where things are: the root of the workspace, and one target directory for each feature set and MPI.

use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;

use crate::error::Result;

/// What is built together. Another backend or MPI rebuilds most of Burn, hence a target directory for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leg {
    /// The backend feature of our crates, or `none`.
    pub(crate) backend: &'static str,
    /// The MPI library that the collective is linked with, if any.
    pub(crate) mpi: Option<&'static str>,
}

impl Leg {
    /// What every crate builds by default.
    pub(crate) const DEFAULT: Self = Self { backend: "flex", mpi: None };
    /// The default with ranks as processes.
    pub(crate) const MPI: Self = Self { backend: "flex", mpi: Some("openmpi") };

    /// No backend at all, as a library for users who bring theirs.
    pub(crate) const NONE: Self = Self { backend: "none", mpi: None };
    /// GPUs of all makers, or none, through wgpu.
    pub(crate) const WGPU: Self = Self { backend: "wgpu", mpi: None };
    /// NVIDIA GPUs.
    pub(crate) const CUDA: Self = Self { backend: "cuda", mpi: None };

    /// The target directory of this leg: `base` itself for the default one, a folder in it for every other.
    pub(crate) fn target_dir(self, base: &Path) -> PathBuf {
        match (self.backend, self.mpi) {
            ("flex", None) => base.to_owned(),
            ("flex", Some(mpi)) => base.join(format!("mpi-{mpi}")),
            (backend, None) => base.join(backend),
            (backend, Some(mpi)) => base.join(format!("{backend}-mpi-{mpi}")),
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
        let named = |backend, mpi| Leg { backend, mpi }.target_dir(Path::new("target"));
        assert_eq!(Leg::DEFAULT.target_dir(Path::new("target")), Path::new("target"));
        assert_eq!(Leg::NONE.target_dir(Path::new("target")), Path::new("target/none"));
        assert_eq!(named("wgpu", None), Path::new("target/wgpu"));
        assert_eq!(named("flex", Some("openmpi")), Path::new("target/mpi-openmpi"));
        assert_eq!(named("wgpu", Some("mpich")), Path::new("target/wgpu-mpi-mpich"));
    }
}
