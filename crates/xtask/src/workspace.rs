//! The root of the workspace, and its target directory.

use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;

use crate::error::{Error, Result};

/// The workspace of the current directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The folder of the top-level `Cargo.toml`.
    pub(crate) root: PathBuf,
    /// The target directory, which respects `CARGO_TARGET_DIR`.
    pub(crate) target: PathBuf,
}

impl Workspace {
    /// Finds the workspace with `cargo metadata`.
    pub(crate) fn find() -> Result<Self> {
        let metadata = MetadataCommand::new().no_deps().exec()?;
        Ok(Self { root: metadata.workspace_root.into(), target: metadata.target_directory.into() })
    }

    /// A cargo command that runs at the root.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = crate::process::cargo(arguments);
        command.current_dir(&self.root);
        // A relative `CARGO_TARGET_DIR` is relative to the caller's directory, not to the root.
        if std::env::var_os("CARGO_TARGET_DIR").is_some() {
            command.env("CARGO_TARGET_DIR", &self.target);
        }
        command
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
    fn removing_a_missing_folder_succeeds() {
        let folder = tempfile::tempdir().unwrap().path().join("never");
        assert!(remove_folder(&folder).is_ok());
    }
}
