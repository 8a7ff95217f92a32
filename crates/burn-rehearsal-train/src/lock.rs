//! Locks on directories, so that only one process writes to them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that is locked.
const LOCK: &str = ".lock";
/// The number of retries while another process releases the lock, and the pause between them.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// A lock on a directory. It is a file lock of the operating system on a file in the directory, so
/// it ends with the process. Dropping it removes the file. A file left by a killed process is not a
/// lock.
///
/// ```
/// use burn_rehearsal_train::lock::DirectoryLock;
///
/// # let temporary = tempfile::tempdir()?;
/// # let directory = temporary.path();
/// let lock = DirectoryLock::acquire(directory)?;
/// assert!(lock.is_some() && DirectoryLock::acquire(directory)?.is_none());
/// drop(lock);
/// assert!(DirectoryLock::acquire(directory)?.is_some());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct DirectoryLock {
    path: PathBuf,
    file: File,
    exclusive: bool,
}

impl DirectoryLock {
    /// Locks a directory, and creates it if it is missing. Returns `None` if another process holds
    /// the lock. On a file system without locks, it logs a warning and succeeds.
    ///
    /// # Errors
    ///
    /// The error of the operating system if the directory cannot be created or written.
    pub fn acquire(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(LOCK);
        let (mut tries, mut exclusive) = (0, true);
        loop {
            std::fs::create_dir_all(directory)?;
            // The contents of an existing lock file are kept.
            let file = match OpenOptions::new().write(true).create(true).truncate(false).open(&path)
            {
                // The previous owner may have removed the directory.
                Err(error) if error.kind() == ErrorKind::NotFound && tries < TRIES => {
                    tries += 1;
                    continue;
                }
                file => file?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => {
                    exclusive = false;
                    tracing::warn!(%error, "cannot lock the directory {}", directory.display());
                }
            }
            // The previous owner may have removed the file after it was opened here.
            if !is_at(&file, &path) {
                if tries < TRIES {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                    continue;
                }
                // Some file systems do not identify files.
                tracing::warn!(
                    "cannot determine whether the directory {} is locked",
                    directory.display()
                );
            }
            return Ok(Some(Self { path, file, exclusive }));
        }
    }

    /// Whether the directory is locked. False on a file system without locks.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Removes the file while the directory is locked, so that the directory can be removed.
    pub fn release(&self) {
        // If an open file cannot be identified with a path, the file stays.
        if cfg!(unix) && is_at(&self.file, &self.path) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        self.release();
    }
}

/// Whether an open file is still the file at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let names = |data: std::fs::Metadata| (data.dev(), data.ino());
        let [open, there] = [file.metadata(), path.metadata()].map(|data| data.map(names).ok());
        open.is_some() && open == there
    }
    // On other systems the file is never removed.
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_locked_once_and_stale_files_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("new");
        let lock = DirectoryLock::acquire(&inside).unwrap().unwrap();
        assert!(DirectoryLock::acquire(&inside).unwrap().is_none());
        drop(lock);
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), if cfg!(unix) { 0 } else { 1 });
        std::fs::write(inside.join(LOCK), "").unwrap();
        assert!(DirectoryLock::acquire(&inside).unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn a_released_lock_leaves_the_next_owners_file_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(LOCK);
        let first = DirectoryLock::acquire(directory.path()).unwrap().unwrap();
        assert!(is_at(&first.file, &path));
        first.release();
        assert!(!is_at(&first.file, &path));
        let second = DirectoryLock::acquire(directory.path()).unwrap().unwrap();
        assert!(!is_at(&first.file, &path));
        drop(first);
        assert!(is_at(&second.file, &path));
    }
}
