//! Files that are complete or absent, even with several writers.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tempfile::{Builder, NamedTempFile};

/// A file that appears under its final name only when it is complete.
///
/// Until then it is a temporary file in the same directory. Each writer has its own temporary file,
/// so two processes can write the same file. Dropping it without [`commit`](Self::commit) removes
/// it. A killed process leaves its temporary file, whose name begins with a dot and ends with
/// `.tmp`.
///
/// ```
/// use burn_rehearsal::checkpoint::AtomicFile;
/// use std::io::Write;
///
/// # let directory = tempfile::tempdir()?;
/// let path = directory.path().join("table.csv");
/// let mut file = AtomicFile::create(&path)?;
/// file.as_file_mut().write_all(b"task,accuracy\n")?;
/// assert!(!path.exists());
/// file.commit()?;
/// assert_eq!(std::fs::read(&path)?, b"task,accuracy\n");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Creates a temporary file that [`commit`](Self::commit) renames to `path`. The directory must
    /// exist.
    ///
    /// # Errors
    ///
    /// The I/O error of the operating system.
    pub fn create(path: &Path) -> io::Result<Self> {
        let prefix = prefix(path);
        let mut builder = Builder::new();
        builder.prefix(&prefix).suffix(".tmp");
        // The permissions of any new file, which the process's umask restricts.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        Ok(Self { file: builder.tempfile_in(directory_of(path))?, path: path.to_path_buf() })
    }

    /// The file, open for writing.
    pub fn as_file_mut(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Syncs the content to disk, then renames the file to `path`. Replaces an existing file.
    ///
    /// # Errors
    ///
    /// The I/O error of the operating system. The temporary file is removed, and an existing file
    /// is unchanged.
    pub fn commit(self) -> io::Result<()> {
        // Otherwise a crash of the machine could leave an empty file under the new name.
        self.file.as_file().sync_all()?;
        self.file.persist(&self.path)?;
        // Syncs the name too, on systems that can sync a directory.
        if cfg!(unix) {
            let _ = File::open(directory_of(&self.path)).and_then(|directory| directory.sync_all());
        }
        Ok(())
    }
}

/// Removes the temporary files of `path` that killed processes left. A process that is writing the
/// file at the same time gets an error.
///
/// # Errors
///
/// The I/O error of the operating system.
pub(crate) fn remove_remains(path: &Path) -> io::Result<()> {
    let prefix = prefix(path);
    for entry in std::fs::read_dir(directory_of(path))? {
        let name = entry?.file_name();
        let bytes = name.as_encoded_bytes();
        if bytes.starts_with(prefix.as_encoded_bytes()) && bytes.ends_with(b".tmp") {
            std::fs::remove_file(directory_of(path).join(name))?;
        }
    }
    Ok(())
}

/// The prefix of the names of the temporary files of `path`.
fn prefix(path: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

/// Writes `bytes` to the file `path` atomically: readers find the old content or all of the new.
///
/// # Errors
///
/// The I/O error of the operating system. An existing file is then unchanged.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.as_file_mut().write_all(bytes)?;
    file.commit()
}

/// The directory of a file. A bare name is in the current directory.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writers_of_one_file_do_not_interfere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let [mut first, mut second] = [(); 2].map(|()| AtomicFile::create(&path).unwrap());
        first.as_file_mut().write_all(b"first").unwrap();
        second.as_file_mut().write_all(b"sec").unwrap();
        first.as_file_mut().write_all(b", and longer").unwrap();
        first.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first, and longer");
        second.as_file_mut().write_all(b"ond").unwrap();
        second.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        drop(AtomicFile::create(&path).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn an_atomic_file_has_the_permissions_of_any_new_file() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let [plain, ours] = ["plain", "ours"].map(|name| directory.path().join(name));
        std::fs::write(&plain, b"").unwrap();
        write_atomically(&ours, b"").unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
