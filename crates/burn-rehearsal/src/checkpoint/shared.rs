//! Whether all ranks see the same files: a checkpoint whose files lie on several machines' own
//! disks is none.

use super::error::CheckpointError;
use crate::error::RehearsalError;
use burn_rehearsal_collective::{Collective, CollectiveExt};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A network file system may show a new file of another machine a little later: how often to look
/// again, and after how long.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);
/// How much of the beginning and of the end of a file is compared.
const END: u64 = 1 << 20;

/// Compares what all ranks see at `directory`, which need not exist yet: rank 0 writes a file with
/// a random name where the directory is or will be, all ranks look for it, and rank 0 removes it.
/// Ranks may write the path differently. Collective.
///
/// # Errors
///
/// On every rank: [`CheckpointError::NotShared`] with the first rank that does not see the file; on
/// rank 0 [`CheckpointError::Io`] if the file cannot be written, on the others
/// [`CheckpointError::Rank`]. [`RehearsalError::Collective`] if a rank is gone.
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

/// A file that is there for as long as this is.
struct Token {
    path: PathBuf,
    name: String,
    /// It lies in this ancestor of the directory.
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
        // An empty file that stays does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The directory itself, its parent, and so on; the empty path is the current directory.
fn ancestor(directory: &Path, up: usize) -> Option<PathBuf> {
    let path = directory.ancestors().nth(up)?;
    Some(if path.as_os_str().is_empty() { ".".into() } else { path.into() })
}

/// Whether `condition` becomes true soon.
fn retry(condition: impl Fn() -> bool) -> bool {
    (0..TRIES).any(|attempt| {
        if attempt > 0 {
            std::thread::sleep(PAUSE);
        }
        condition()
    })
}

/// What its writer and rank 0 compare of a file: its size, and a digest of its first and last MiB.
///
/// The digest of the manifest covers every byte, but to compare it rank 0 would read the files of
/// all ranks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Glance {
    bytes: u64,
    digest: [u8; 32],
}

impl Glance {
    /// Looks at a file.
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

    /// Whether `path` is the file that `rank` saw.
    pub(crate) fn check(&self, path: &Path, rank: usize) -> Result<(), CheckpointError> {
        // An earlier file of that name may be seen for a moment on a network file system.
        let same = retry(|| Self::of(path).is_ok_and(|seen| seen == *self));
        if same {
            Ok(())
        } else {
            Err(CheckpointError::NotShared { path: path.to_path_buf(), rank })
        }
    }
}
