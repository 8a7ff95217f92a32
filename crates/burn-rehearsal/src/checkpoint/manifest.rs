//! The file that makes a directory a checkpoint.

use super::error::{CheckpointError, io};
use super::file::{FileEntry, FileReader};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// The manifest's name.
pub const MANIFEST: &str = "manifest.json";

/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// The largest manifest that is read.
const MOST_BYTES: u64 = 64 << 20;

/// What a checkpoint consists of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    version: u64,
    /// What it is a checkpoint of.
    kind: String,
    /// The files, all in the manifest's directory.
    files: Vec<FileEntry>,
    /// Anything that its writer wants to know again.
    state: serde_json::Value,
    /// BLAKE3 of the manifest with this field empty.
    digest: String,
}

/// What can be said of a manifest of any version.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

impl Manifest {
    /// The manifest of a checkpoint of kind `kind`.
    pub fn new(kind: &str, files: Vec<FileEntry>, state: serde_json::Value) -> Self {
        Self { version: VERSION, kind: kind.to_owned(), files, state, digest: String::new() }
    }

    /// The files.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// What the writer wanted to know again.
    pub fn state(&self) -> &serde_json::Value {
        &self.state
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The manifest as text, with its digest.
    fn text(&self) -> Result<String, serde_json::Error> {
        let without = serde_json::to_string(&Self { digest: String::new(), ..self.clone() })?;
        let digest = blake3::hash(without.as_bytes()).to_hex().to_string();
        serde_json::to_string(&Self { digest, ..self.clone() })
    }

    /// Makes `directory`, whose files are complete and synchronised, a checkpoint: atomically, and on the disk when this returns.
    ///
    /// # Errors
    ///
    /// [`CheckpointError::Io`]; the directory is then what it was.
    pub fn write(&self, directory: &Path) -> Result<(), CheckpointError> {
        let path = directory.join(MANIFEST);
        let temporary = directory.join(".manifest.tmp");
        let text = self.text().map_err(|error| CheckpointError::Damaged { path: path.clone(), reason: error.to_string() })?;
        let mut file = File::create(&temporary).map_err(io("create", &temporary))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write", &temporary))?;
        std::fs::rename(&temporary, &path).map_err(io("write", &path))?;
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
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Reads the manifest of a checkpoint of kind `kind`, not its files.
    ///
    /// # Errors
    ///
    /// [`CheckpointError`] if there is none, or it is damaged, of another version, or of another kind.
    pub fn read(directory: &Path, kind: &str) -> Result<Self, CheckpointError> {
        let path = directory.join(MANIFEST);
        let damaged = |reason: String| CheckpointError::Damaged { path: path.clone(), reason };
        let file = File::open(&path).map_err(io("open", &path))?;
        let mut text = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut text).map_err(io("read", &path))?;
        if text.len() as u64 > MOST_BYTES {
            return Err(damaged(format!("it has more than {MOST_BYTES} bytes")));
        }
        let Versioned { version } = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if version != VERSION {
            return Err(CheckpointError::Version { path, found: version, supported: VERSION });
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        // There is one way to write a manifest: whatever differs in a single bit is not what was written.
        if manifest.text().map_err(|error| damaged(error.to_string()))?.as_bytes() != text {
            return Err(damaged("its digest is not its own".into()));
        }
        if manifest.kind != kind {
            return Err(CheckpointError::Foreign { path, reason: format!("of kind {:?}, not {kind:?}", manifest.kind) });
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

/// Makes the names in a directory survive a crash of the machine, where directories can be synchronised.
fn sync_directory(path: &Path) -> Result<(), CheckpointError> {
    if cfg!(unix) && !path.as_os_str().is_empty() {
        File::open(path).and_then(|directory| directory.sync_all()).map_err(io("write", path))?;
    }
    Ok(())
}
