//! One safetensors file, written and read in pieces.
//!
//! The digest of a file is the BLAKE3 hash of its header and of the digests of its tensors in
//! order. It covers every byte, and several tensors can be written at the same time, in
//! alternating pieces.

use super::atomic::{AtomicFile, remove_remains};
use super::error::CheckpointError;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The key of a file's text in its header.
const ABOUT: &str = "burn-rehearsal";
/// The largest header that is read, in bytes. Headers of checkpoints are much smaller.
const MAX_HEADER: u64 = 64 << 20;

/// A file of a checkpoint, as the manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// The name of the file in the directory.
    pub name: String,
    /// The size of the file, in bytes.
    pub bytes: u64,
    /// The digest of the file, hexadecimal.
    pub digest: String,
}

/// A tensor that is being written.
struct TensorWriter {
    /// The position of its first byte in the file.
    start: u64,
    len: u64,
    /// The hash of the bytes written so far.
    hash: blake3::Hasher,
}

/// A file that is being written.
pub(crate) struct FileWriter {
    path: PathBuf,
    name: String,
    file: AtomicFile,
    header: Vec<u8>,
    tensors: Vec<TensorWriter>,
}

impl FileWriter {
    /// Creates the file and writes its header. [`finish`](Self::finish) replaces a file of that
    /// name.
    pub(crate) fn create(
        directory: &Path,
        name: &str,
        about: &str,
        tensors: Vec<(String, Dtype, Vec<usize>)>,
    ) -> Result<Self, CheckpointError> {
        let path = directory.join(name);
        let mut end = 0;
        let info = |(name, dtype, shape): (String, Dtype, Vec<usize>)| {
            let start = end;
            end += shape.iter().product::<usize>() * dtype.bitsize() / 8;
            (name, TensorInfo { dtype, shape, data_offsets: (start, end) })
        };
        let text = HashMap::from([(ABOUT.to_owned(), about.to_owned())]);
        let layout = Metadata::new(Some(text), tensors.into_iter().map(info).collect())
            .map_err(|error| CheckpointError::damaged(&path, error))?;
        let mut json =
            serde_json::to_vec(&layout).map_err(|error| CheckpointError::damaged(&path, error))?;
        // The format requires that the data begin at a multiple of eight bytes.
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        // Shards are large. A run that is killed often would fill the disk with temporary files.
        remove_remains(&path).map_err(CheckpointError::io("clean up", directory))?;
        let mut file = AtomicFile::create(&path).map_err(CheckpointError::io("create", &path))?;
        file.as_file_mut().write_all(&header).map_err(CheckpointError::io("write", &path))?;
        let tensor = |(start, end)| TensorWriter {
            start: (header.len() + start) as u64,
            len: (end - start) as u64,
            hash: blake3::Hasher::new(),
        };
        let tensors = offsets(&layout).map(tensor).collect();
        Ok(Self { path, name: name.to_owned(), file, header, tensors })
    }

    /// Writes the next bytes of tensor number `tensor`.
    pub(crate) fn append(&mut self, tensor: usize, bytes: &[u8]) -> Result<(), CheckpointError> {
        let TensorWriter { start, len, hash } = &mut self.tensors[tensor];
        let written = hash.count();
        if written + bytes.len() as u64 > *len {
            let reason = format!("its tensor {tensor} would be longer than its header says");
            return Err(CheckpointError::damaged(&self.path, reason));
        }
        let file = self.file.as_file_mut();
        file.seek(SeekFrom::Start(*start + written))
            .and_then(|_| file.write_all(bytes))
            .map_err(CheckpointError::io("write", &self.path))?;
        hash.update(bytes);
        Ok(())
    }

    /// Syncs the file to disk and gives it its name.
    pub(crate) fn finish(self) -> Result<FileEntry, CheckpointError> {
        let incomplete = |tensor: &TensorWriter| tensor.hash.count() != tensor.len;
        if let Some(tensor) = self.tensors.iter().position(incomplete) {
            let reason = format!("its tensor {tensor} is incomplete");
            return Err(CheckpointError::damaged(&self.path, reason));
        }
        self.file.commit().map_err(CheckpointError::io("write", &self.path))?;
        let end = self.tensors.last().map(|tensor| tensor.start + tensor.len);
        let digest = digest(&self.header, self.tensors.iter().map(|tensor| &tensor.hash));
        Ok(FileEntry { name: self.name, bytes: end.unwrap_or(self.header.len() as u64), digest })
    }
}

/// The beginning and end of each tensor in order, counted from the first byte after the header.
fn offsets(layout: &Metadata) -> impl Iterator<Item = (usize, usize)> {
    layout
        .offset_keys()
        .into_iter()
        .filter_map(|name| layout.info(&name).map(|tensor| tensor.data_offsets))
}

/// The digest of a file with this header and these tensors.
fn digest<'a>(header: &[u8], tensors: impl IntoIterator<Item = &'a blake3::Hasher>) -> String {
    let mut hash = blake3::Hasher::new();
    hash.update(header);
    for tensor in tensors {
        hash.update(tensor.finalize().as_bytes());
    }
    hash.finalize().to_hex().to_string()
}

/// A file that matches its digest.
#[derive(Debug)]
pub(crate) struct FileReader {
    path: PathBuf,
    file: File,
    about: String,
    layout: Metadata,
    /// The position of the first tensor.
    first: u64,
}

impl FileReader {
    /// Opens a file and compares it with the size and digest in `entry`, which reads it once.
    pub(crate) fn open(directory: &Path, entry: &FileEntry) -> Result<Self, CheckpointError> {
        // A name that contains a path could leave the directory.
        let path = directory.join(&entry.name);
        let damaged = |reason: String| CheckpointError::damaged(&path, reason);
        if entry.name.is_empty()
            || Path::new(&entry.name).file_name() != Some(std::ffi::OsStr::new(&entry.name))
        {
            return Err(damaged(format!("{:?} is not a file name", entry.name)));
        }
        let mut file = File::open(&path).map_err(CheckpointError::io("open", &path))?;
        let bytes = file.metadata().map_err(CheckpointError::io("read", &path))?.len();
        if bytes != entry.bytes {
            return Err(damaged(format!(
                "it has {bytes} bytes, but the manifest says {}",
                entry.bytes
            )));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(CheckpointError::io("read", &path))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length > bytes.saturating_sub(8) {
            return Err(damaged(format!("it has no room for a header of {length} bytes")));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(CheckpointError::io("read", &path))?;
        let layout: Metadata = serde_json::from_slice(&header)
            .map_err(|reason| damaged(format!("its header is invalid: {reason}")))?;
        let about = layout.metadata().as_ref().and_then(|texts| texts.get(ABOUT)).cloned();
        let about = about.ok_or_else(|| damaged(format!("its header has no {ABOUT:?} text")))?;
        let first = 8 + length;
        if first.checked_add(layout.data_len() as u64) != Some(bytes) {
            return Err(damaged(format!(
                "its tensors have {} bytes, but the file has room for {}",
                layout.data_len(),
                bytes - first
            )));
        }
        let mut hashes = Vec::new();
        for (start, end) in offsets(&layout) {
            let mut hash = blake3::Hasher::new();
            let tensor = (&file).take((end - start) as u64);
            hash.update_reader(tensor).map_err(CheckpointError::io("read", &path))?;
            hashes.push(hash);
        }
        let mut all = length.to_le_bytes().to_vec();
        all.append(&mut header);
        if digest(&all, &hashes) != entry.digest {
            return Err(damaged("its digest differs from the manifest".into()));
        }
        Ok(Self { path, file, about, layout, first })
    }

    /// The text that was written with the tensors.
    pub(crate) fn about(&self) -> &str {
        &self.about
    }

    /// The names of the tensors, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.layout.offset_keys()
    }

    /// A [`CheckpointError::Damaged`] error for this file.
    pub(crate) fn damaged(&self, reason: impl ToString) -> CheckpointError {
        CheckpointError::damaged(&self.path, reason)
    }

    /// The beginning and end of tensor `name`, counted from the first tensor.
    fn offsets(&self, name: &str) -> Result<(usize, usize), CheckpointError> {
        self.layout
            .info(name)
            .map(|tensor| tensor.data_offsets)
            .ok_or_else(|| self.damaged(format!("it has no tensor {name:?}")))
    }

    /// The size of tensor `name`, in bytes.
    pub(crate) fn len(&self, name: &str) -> Result<usize, CheckpointError> {
        self.offsets(name).map(|(start, end)| end - start)
    }

    /// Appends `len` bytes of tensor `name`, from byte `at` on, to `out`.
    pub(crate) fn read(
        &mut self,
        name: &str,
        at: usize,
        len: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        let (start, end) = self.offsets(name)?;
        if at.checked_add(len).is_none_or(|len| len > end - start) {
            return Err(self.damaged(format!("its tensor {name:?} is too short")));
        }
        let before = out.len();
        out.resize(before + len, 0);
        self.file
            .seek(SeekFrom::Start(self.first + (start + at) as u64))
            .map_err(CheckpointError::io("read", &self.path))?;
        self.file.read_exact(&mut out[before..]).map_err(CheckpointError::io("read", &self.path))
    }

    /// All bytes of tensor `name`.
    pub(crate) fn whole(&mut self, name: &str) -> Result<Vec<u8>, CheckpointError> {
        let (len, mut bytes) = (self.len(name)?, Vec::new());
        self.read(name, 0, len, &mut bytes)?;
        Ok(bytes)
    }

    /// The numbers in tensor `name`. `number` decodes one number of `N` bytes.
    pub(crate) fn numbers<const N: usize, T>(
        &mut self,
        name: &str,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, CheckpointError> {
        let bytes = self.whole(name)?;
        Ok(bytes.as_chunks().0.iter().map(|&bytes| number(bytes)).collect())
    }
}
