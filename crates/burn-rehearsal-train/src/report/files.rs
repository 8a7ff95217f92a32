//! Files that are complete or absent: written beside their place, then renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::ReportError;

/// Writes `text` to the file `path`, creating missing directories. Whoever reads `path` finds what was there before or all of `text`, even if
/// the program is killed in between: the text goes to a temporary file of the same directory, which is then renamed.
///
/// # Errors
/// [`ReportError::Io`] with the directory or the file. The temporary file is removed, and a file that was at `path` is unchanged.
pub fn write_atomically(path: &Path, text: &str) -> Result<(), ReportError> {
    write_bytes(path, text.as_bytes()).map_err(|(action, path, source)| ReportError::Io { action, path, source })
}

/// As [`write_atomically`], for whatever bytes; the error says what was tried, with which path, and why it failed.
pub(crate) fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), (&'static str, PathBuf, io::Error)> {
    // `parent` of a bare file name is the empty path, which `create_dir_all` accepts.
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|source| ("create the directory", directory.to_path_buf(), source))?;
    }
    // The process number keeps two runs that write the same report from writing to the same temporary file.
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);

    let written = write_and_sync(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if written.is_ok() {
        sync_name(path);
    }
    written.map_err(|source| {
        // Best effort: the error that matters is the first one.
        let _ = fs::remove_file(&temporary);
        ("write", path.to_path_buf(), source)
    })
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    // Without it a crash of the machine may leave the new name on an empty file.
    file.sync_all()
}

/// Makes the file's name survive a crash of the machine, where directories can be opened and synchronised.
fn sync_name(path: &Path) {
    if let Some(directory) = path.parent().filter(|directory| cfg!(unix) && !directory.as_os_str().is_empty()) {
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures::ScratchDir;

    #[test]
    fn a_file_is_replaced_and_nothing_else_stays_in_its_directory() {
        let directory = ScratchDir::new("replace");
        let path = directory.path().join("deep/er/figure.svg");
        write_atomically(&path, "first, and longer").unwrap();
        write_atomically(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let directory = ScratchDir::new("refuse");
        let file = directory.path().join("file");
        write_atomically(&file, "").unwrap();
        let error = write_atomically(&file.join("report.json"), "").unwrap_err();
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_failed_replacement_removes_its_temporary_file() {
        let directory = ScratchDir::new("failed");
        // A directory in the place of the file: the rename fails.
        let path = directory.path().join("report.json");
        fs::create_dir_all(path.join("inside")).unwrap();
        let error = write_atomically(&path, "text").unwrap_err();
        assert!(matches!(&error, ReportError::Io { action: "write", path: named, .. } if *named == path), "{error}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
