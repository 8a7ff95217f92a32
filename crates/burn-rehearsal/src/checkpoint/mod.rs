//! Checkpoints on disk: directories that are complete or do not exist.
//!
//! A checkpoint is a directory of [safetensors](https://github.com/huggingface/safetensors) files
//! and a `manifest.json` that names each of them with its size and its BLAKE3 digest. The manifest
//! is written last and atomically, so a directory with a manifest is complete. A reader checks
//! every byte, allocates a few times the files' size at most, and names the file in every error.
//! Nothing in a file is executed.
//!
//! Every checkpoint is whole, including rows that have not changed since the previous one. Damage
//! to one does not affect another, and old ones can be removed.
//!
//! [`RehearsalBuffer::checkpoint`](crate::RehearsalBuffer::checkpoint) writes the shards of a
//! buffer, [`begin_checkpoint`](crate::RehearsalBuffer::begin_checkpoint) does so while training
//! continues, and [`RehearsalCheckpointing`] whenever Burn's learner is saved. Use the functions in
//! this module to save additional state.

mod atomic;
mod error;
mod file;
mod manifest;
mod shared;
mod strategy;

pub use atomic::{AtomicFile, write_atomically};
pub use error::CheckpointError;
pub use file::FileEntry;
pub use manifest::{MANIFEST, Manifest, sync_directory};
pub use shared::check_shared;
pub use strategy::RehearsalCheckpointing;

pub(crate) use file::{FileReader, FileWriter};
pub(crate) use shared::Glance;

use safetensors::Dtype;
use std::collections::BTreeMap;
use std::path::Path;

/// The kind of the checkpoints that
/// [`RehearsalBuffer::checkpoint`](crate::RehearsalBuffer::checkpoint) writes.
pub const BUFFER: &str = "rehearsal buffer";

/// Writes named bytes to a file and synchronises it. `about` is any text that belongs to them.
///
/// # Errors
///
/// [`CheckpointError::Io`].
pub fn write_file(
    directory: &Path,
    name: &str,
    about: &str,
    parts: &[(&str, &[u8])],
) -> Result<FileEntry, CheckpointError> {
    let tensors = parts
        .iter()
        .map(|(name, bytes)| ((*name).to_owned(), Dtype::U8, vec![bytes.len()]))
        .collect();
    let mut file = FileWriter::create(directory, name, about, tensors)?;
    for (part, (_, bytes)) in parts.iter().enumerate() {
        file.append(part, bytes)?;
    }
    file.finish()
}

/// Reads what [`write_file`] wrote: the text, and the bytes by their names.
///
/// # Errors
///
/// [`CheckpointError`] if the file cannot be read or is not the one of the manifest, bit for bit.
pub fn read_file(
    directory: &Path,
    entry: &FileEntry,
) -> Result<(String, BTreeMap<String, Vec<u8>>), CheckpointError> {
    let mut file = FileReader::open(directory, entry)?;
    let parts = file
        .names()
        .into_iter()
        .map(|name| Ok((name.clone(), file.whole(&name)?)))
        .collect::<Result<_, CheckpointError>>()?;
    Ok((file.about().to_owned(), parts))
}
