//! The file that makes a directory a checkpoint.

use super::atomic::write_atomically;
use super::error::CheckpointError;
use super::file::{FileEntry, FileReader};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";

/// The version that is written, and the only one that is read.
const VERSION: u64 = 2;
/// The largest manifest that is written, and read.
const MAX_BYTES: u64 = 64 << 20;

/// What a checkpoint consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u64,
    /// What it is a checkpoint of.
    kind: String,
    /// The files, all in the manifest's directory.
    files: Vec<FileEntry>,
    /// Anything that its writer wants to know again, as the text of a JSON of its own: a tree of a
    /// stranger's values would take forty times the memory.
    state: String,
    /// BLAKE3 of the manifest with this field empty.
    digest: String,
}

/// What can be said of a manifest of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Manifest {
    /// The manifest of a checkpoint of kind `kind`, which is also to hold `state`.
    ///
    /// # Errors
    ///
    /// If `state` cannot be written as JSON.
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

    /// With the digest that is its own.
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

    /// What the writer wanted to know again.
    ///
    /// # Errors
    ///
    /// If it is no such thing.
    pub fn state<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.state)
    }

    /// BLAKE3 of the manifest, which covers every byte of its checkpoint, in hexadecimal
    /// digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Makes `directory`, whose files are complete and synchronised, a checkpoint: atomically, and
    /// on the disk when this returns.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`], or [`CheckpointError::Damaged`] for a manifest that is too large to
    /// be read again; the directory is then what it was.
    pub fn write(&self, directory: &Path) -> Result<(), CheckpointError> {
        let path = directory.join(MANIFEST);
        let text =
            serde_json::to_string(self).map_err(|error| CheckpointError::damaged(&path, error))?;
        if text.len() as u64 > MAX_BYTES {
            let reason = format!("it would have {} bytes; the limit is {MAX_BYTES}", text.len());
            return Err(CheckpointError::damaged(&path, reason));
        }
        write_atomically(&path, text.as_bytes()).map_err(CheckpointError::io("write", &path))?;
        sync_directory(directory)?;
        directory.parent().map_or(Ok(()), sync_directory)
    }

    /// Makes `directory` no checkpoint, if it was one.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`].
    pub(crate) fn remove(directory: &Path) -> Result<(), CheckpointError> {
        let path = directory.join(MANIFEST);
        match std::fs::remove_file(&path) {
            // The one that takes its place is what is lost.
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CheckpointError::io("write the checkpoint", directory)(error))
            }
            _ => Ok(()),
        }
    }

    /// Reads the manifest of a checkpoint of kind `kind`, not its files.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if there is none, or it is damaged, of another version, or of another
    /// kind.
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
        // There is one way to write a manifest: whatever differs in a single bit is not what was
        // written.
        if canonical.as_bytes() != text {
            return Err(damaged("its digest is not its own".into()));
        }
        if manifest.kind != kind {
            return Err(CheckpointError::Foreign {
                path,
                reason: format!("of kind {:?}, not {kind:?}", manifest.kind),
            });
        }
        Ok(manifest)
    }

    /// Reads every byte of every file and compares it with its digest.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] naming the first file that is not what was written.
    pub fn verify(&self, directory: &Path) -> Result<(), CheckpointError> {
        self.files.iter().try_for_each(|entry| FileReader::open(directory, entry).map(drop))
    }
}

/// Makes the names in a directory survive a crash of the machine, where directories can be
/// synchronised.
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
