//! Checkpoints of a buffer (replay memory) and of other state, which are complete or absent.
//!
//! # Saving a buffer
//!
//! * [`RehearsalBuffer::checkpoint`](crate::RehearsalBuffer::checkpoint) writes the shards of all
//!   ranks and waits.
//! * [`RehearsalBuffer::begin_checkpoint`](crate::RehearsalBuffer::begin_checkpoint) writes them
//!   while training continues.
//! * [`RehearsalCheckpointing`] writes them whenever Burn's learner is saved.
//!
//! [`RehearsalBuffer::restore`](crate::RehearsalBuffer::restore) resumes from a checkpoint, even on
//! another number of ranks.
//!
//! # Format
//!
//! A checkpoint is a directory of [safetensors](https://github.com/huggingface/safetensors) files
//! and a `manifest.json`, which lists the size and the BLAKE3 digest of each file. The manifest is
//! written last and atomically, so a directory with a manifest is complete. A reader checks every
//! byte, allocates at most a few times the size of the files, and names the file in every error.
//! Nothing in a file is executed.
//!
//! Every checkpoint contains all rows, including those that have not changed since the previous
//! one. A damaged checkpoint does not affect another, and old ones can be removed.
//!
//! # Saving additional state
//!
//! ```
//! use burn_rehearsal::checkpoint::{Manifest, read_file, write_file};
//!
//! # let directory = tempfile::tempdir()?;
//! # let directory = directory.path();
//! let file = write_file(directory, "weights.safetensors", "my model", &[("bias", &[1, 2])])?;
//! Manifest::new("my run", vec![file], &7)?.write(directory)?;
//!
//! let manifest = Manifest::read(directory, "my run")?;
//! assert_eq!(manifest.state::<u64>()?, 7);
//! let (text, parts) = read_file(directory, &manifest.files()[0])?;
//! assert_eq!((text.as_str(), parts["bias"].as_slice()), ("my model", &[1, 2][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

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

/// The kind of checkpoint that [`RehearsalBuffer::checkpoint`](crate::RehearsalBuffer::checkpoint)
/// writes.
pub const BUFFER: &str = "rehearsal buffer";

/// Writes the named parts to the file `name` in `directory`, and syncs it to disk. `about` is any
/// text about the parts.
///
/// The [module page](self) has an example.
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

/// Reads a file that [`write_file`] wrote: its text, and its parts by name.
///
/// The [module page](self) has an example.
///
/// # Errors
///
/// [`CheckpointError`] if the file cannot be read, or differs from `entry` in a single bit.
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
