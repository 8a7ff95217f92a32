//! A directory that one process writes at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The file that is locked.
const LOCK: &str = ".lock";
/// Number of retries while another process releases the lock, and the pause between them.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// A lock on a directory: the system's lock on a file in it, which ends with the process, however
/// that ends. Dropping it removes the file; a file that a killed process left is no lock.
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
    /// Locks a directory, which is made if it is missing; `None` if another process has locked it.
    /// On file systems without locks this warns in the log, and succeeds.
    ///
    /// # Errors
    ///
    /// The error of the operating system if the directory cannot be created or written.
    pub fn acquire(directory: &Path) -> io::Result<Option<Self>> {
        let path = directory.join(LOCK);
        let (mut tries, mut exclusive) = (0, true);
        loop {
            std::fs::create_dir_all(directory)?;
            // An earlier lock file stays as it is.
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
            // The previous owner may have ended meanwhile and removed the file.
            if !is_at(&file, &path) {
                if tries < TRIES {
                    tries += 1;
                    std::thread::sleep(PAUSE);
                    continue;
                }
                // Some file systems do not say which file is which.
                tracing::warn!(
                    "cannot tell whether the directory {} is locked",
                    directory.display()
                );
            }
            return Ok(Some(Self { path, file, exclusive }));
        }
    }

    /// Whether the directory is locked: false where the file system has no locks.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Removes the file, so that the directory can be removed, while it is locked.
    pub fn release(&self) {
        // The file stays if an open file cannot be identified with a path.
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

/// Whether an open file is still the one with this name.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let names = |data: std::fs::Metadata| (data.dev(), data.ino());
        matches!((file.metadata().map(names), path.metadata().map(names)), (Ok(open), Ok(there)) if open == there)
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
    fn a_directory_is_locked_once_and_what_is_left_of_a_lock_is_none() {
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
