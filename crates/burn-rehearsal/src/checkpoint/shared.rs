//! Checks that all ranks see the same files. A checkpoint cannot be spread over the local disks of
//! several machines.

use super::error::CheckpointError;
use crate::error::RehearsalError;
use burn_rehearsal_collective::{Collective, CollectiveExt};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The number of attempts to see a new file. A network file system may show a file of another
/// machine with a delay.
const TRIES: usize = 20;
/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(100);
/// The number of bytes compared at the beginning and at the end of a file.
const END: u64 = 1 << 20;

/// Checks that all ranks see the same `directory`, which need not exist yet.
///
/// Rank 0 writes a file with a random name to the directory, or to its nearest ancestor that
/// exists. All ranks look for the file, and rank 0 removes it. The ranks may spell the path
/// differently. Collective.
///
/// ```
/// use burn_rehearsal::{Ranks, checkpoint::check_shared};
///
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path();
/// Ranks::threads(2).run(|rank| check_shared(directory, rank.collective()?.as_mut()))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// * [`CheckpointError::NotShared`] on all ranks, with the first rank that does not see the file.
/// * If the file cannot be written: [`CheckpointError::Io`] on rank 0, and
///   [`CheckpointError::Rank`] on the other ranks.
/// * [`RehearsalError::Collective`] if a rank has left.
pub fn check_shared(
    directory: &Path,
    collective: &mut dyn Collective,
) -> Result<(), RehearsalError> {
    if collective.size() == 1 {
        return Ok(());
    }
    let token = if collective.rank() == 0 { Some(Token::write(directory)) } else { None };
    let about = match &token {
        Some(Ok(token)) => {
            serde_json::to_vec(&(token.up, &token.name, directory.display().to_string()))
                .unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let about = collective.gather_bytes(&about)?.swap_remove(0);
    let token = token.transpose()?;
    let Ok((up, name, path)) = serde_json::from_slice::<(usize, String, PathBuf)>(&about) else {
        return Err(CheckpointError::Rank(0).into());
    };
    let seen = ancestor(directory, up).is_some_and(|place| retry(|| place.join(&name).exists()));
    let blind = collective.first_true(!seen)?;
    drop(token);
    match blind {
        Some(rank) => Err(CheckpointError::NotShared { path, rank }.into()),
        None => Ok(()),
    }
}

/// A file that is removed on drop.
struct Token {
    path: PathBuf,
    name: String,
    /// The ancestor of the directory that contains the file: 0 is the directory, 1 its parent.
    up: usize,
}

impl Token {
    fn write(directory: &Path) -> Result<Self, CheckpointError> {
        let there = |up: &usize| ancestor(directory, *up).is_none_or(|place| place.is_dir());
        let up = (0..).find(there).unwrap_or(0);
        let Some(place) = ancestor(directory, up) else {
            let reason = "no directory above it exists".to_owned();
            return Err(CheckpointError::Io {
                action: "write to the directory",
                path: directory.to_path_buf(),
                reason,
            });
        };
        let name = format!(".shared-{:016x}", RandomState::new().hash_one(std::process::id()));
        let path = place.join(&name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(CheckpointError::io("write to the directory", &place))?;
        Ok(Self { path, name, up })
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        // A leftover empty file is harmless.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The directory (0), its parent (1), and so on. An empty path is the current directory.
fn ancestor(directory: &Path, up: usize) -> Option<PathBuf> {
    let path = directory.ancestors().nth(up)?;
    Some(if path.as_os_str().is_empty() { ".".into() } else { path.into() })
}

/// Tries `condition` until it is true. False after all attempts.
fn retry(condition: impl Fn() -> bool) -> bool {
    (0..TRIES).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        condition()
    })
}

/// The size of a file, and a digest of its first and last MiB. The writer of a file and rank 0
/// compare them.
///
/// The digest in the manifest covers every byte, but then rank 0 would have to read the files of
/// all ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Glance {
    bytes: u64,
    digest: [u8; 32],
}

impl Glance {
    /// Reads the size and the digest of a file.
    pub(crate) fn of(path: &Path) -> Result<Self, CheckpointError> {
        let look = || -> std::io::Result<Self> {
            let mut file = File::open(path)?;
            let bytes = file.metadata()?.len();
            let mut hash = blake3::Hasher::new();
            for start in [0, bytes.saturating_sub(END)] {
                file.seek(SeekFrom::Start(start))?;
                std::io::copy(&mut (&file).take(END), &mut hash)?;
            }
            Ok(Self { bytes, digest: *hash.finalize().as_bytes() })
        };
        look().map_err(CheckpointError::io("read", path))
    }

    /// Checks that `path` is the file that `rank` saw.
    pub(crate) fn check(&self, path: &Path, rank: usize) -> Result<(), CheckpointError> {
        // A network file system may show an earlier file of that name for a moment.
        let same = retry(|| Self::of(path).is_ok_and(|seen| seen == *self));
        if same {
            Ok(())
        } else {
            Err(CheckpointError::NotShared { path: path.to_path_buf(), rank })
        }
    }
}
