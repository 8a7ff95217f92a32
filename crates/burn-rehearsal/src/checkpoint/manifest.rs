//! The manifest, which makes a directory a checkpoint.

use super::atomic::write_atomically;
use super::error::CheckpointError;
use super::file::{FileEntry, FileReader};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The file name of the manifest.
pub const MANIFEST: &str = "manifest.json";

/// The version of the format. No other version is read.
const VERSION: u64 = 2;
/// The largest manifest that is written or read, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// The list of a checkpoint's files, with additional state.
///
/// The [module page](crate::checkpoint) has an example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u64,
    /// The kind of the checkpoint.
    kind: String,
    /// The files. All are in the directory of the manifest.
    files: Vec<FileEntry>,
    /// Additional state as JSON text. A parsed tree of untrusted values could take forty times the
    /// memory.
    state: String,
    /// The BLAKE3 hash of the manifest with this field empty.
    digest: String,
}

/// The fields that a manifest has in every version.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Manifest {
    /// Creates the manifest of a checkpoint of this kind, with additional state.
    ///
    /// # Errors
    ///
    /// The error of serde if `state` cannot be written as JSON.
    pub fn new(
        kind: &str,
        files: Vec<FileEntry>,
        state: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        Self {
            version: VERSION,
            kind: kind.to_owned(),
            files,
            state: serde_json::to_string(state)?,
            digest: String::new(),
        }
        .with_digest()
    }

    /// Computes the digest.
    fn with_digest(mut self) -> Result<Self, serde_json::Error> {
        self.digest = String::new();
        let without = serde_json::to_string(&self)?;
        self.digest = blake3::hash(without.as_bytes()).to_hex().to_string();
        Ok(self)
    }

    /// The files.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// The additional state.
    ///
    /// # Errors
    ///
    /// The error of serde if the state is not a `T`.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.state)
    }

    /// The BLAKE3 digest of the manifest, hexadecimal. It covers every byte of the checkpoint.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The size of all files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Writes the manifest to `directory` atomically, and syncs it to disk. This makes the
    /// directory a checkpoint. Its files must be complete and synced.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`], or [`CheckpointError::Damaged`] if the manifest would be too large
    /// to be read. The directory is then unchanged.
    pub fn write(&self, directory: &Path) -> Result<(), CheckpointError> {
        let path = directory.join(MANIFEST);
        let text =
            serde_json::to_string(self).map_err(|error| CheckpointError::damaged(&path, error))?;
        if text.len() as u64 > MAX_BYTES {
            let reason = format!("it would have {} bytes, the limit is {MAX_BYTES}", text.len());
            return Err(CheckpointError::damaged(&path, reason));
        }
        write_atomically(&path, text.as_bytes()).map_err(CheckpointError::io("write", &path))?;
        sync_directory(directory)?;
        directory.parent().map_or(Ok(()), sync_directory)
    }

    /// Removes the manifest of `directory`, if there is one.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`].
    pub(crate) fn remove(directory: &Path) -> Result<(), CheckpointError> {
        let path = directory.join(MANIFEST);
        match std::fs::remove_file(&path) {
            // The error concerns the new checkpoint, which cannot be written.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CheckpointError::io("write the checkpoint", directory)(error))
            }
            _ => Ok(()),
        }
    }

    /// Reads the manifest of a checkpoint of this kind, without its files.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if there is no manifest, or if it is damaged, of another version, or of
    /// another kind.
    pub fn read(directory: &Path, kind: &str) -> Result<Self, CheckpointError> {
        let path = directory.join(MANIFEST);
        let damaged = |reason: String| CheckpointError::damaged(&path, reason);
        let file = File::open(&path).map_err(CheckpointError::io("open", &path))?;
        let mut text = Vec::new();
        file.take(MAX_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(CheckpointError::io("read", &path))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(damaged(format!("it has more than {MAX_BYTES} bytes")));
        }
        let Versioned { version } =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if version != VERSION {
            return Err(CheckpointError::Version { path, found: version, supported: VERSION });
        }
        let read = serde_json::from_slice(&text)
            .and_then(Self::with_digest)
            .and_then(|manifest| Ok((serde_json::to_string(&manifest)?, manifest)));
        let (canonical, manifest) = read.map_err(|error| damaged(error.to_string()))?;
        // The text of a manifest is canonical, so a manifest that differs in a single bit is
        // damaged.
        if canonical.as_bytes() != text {
            return Err(damaged("it differs from its digest".into()));
        }
        if manifest.kind != kind {
            return Err(CheckpointError::Foreign {
                path,
                reason: format!("its kind is {:?} instead of {kind:?}", manifest.kind),
            });
        }
        Ok(manifest)
    }

    /// Reads all files and compares them with their digests.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] with the first file that is missing or differs from its digest.
    pub fn verify(&self, directory: &Path) -> Result<(), CheckpointError> {
        self.files.iter().try_for_each(|entry| FileReader::open(directory, entry).map(drop))
    }
}

/// Syncs the names in a directory to disk, so that they survive a crash of the machine. Does
/// nothing on systems that cannot sync a directory.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn sync_directory(path: &Path) -> Result<(), CheckpointError> {
    if cfg!(unix) && !path.as_os_str().is_empty() {
        File::open(path)
            .and_then(|directory| directory.sync_all())
            .map_err(CheckpointError::io("write", path))?;
    }
    Ok(())
}
