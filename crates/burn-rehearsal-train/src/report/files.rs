//! Writing the files of a report.

use std::fs;
use std::path::Path;

use super::ReportError;

/// Writes `contents` to the file `path`, and creates missing directories. The file is replaced
/// atomically: readers find the old or the new contents, even if the program is killed or another
/// process writes the same file. See [`AtomicFile`](burn_rehearsal::checkpoint::AtomicFile).
///
/// ```
/// use burn_rehearsal_train::report::write_atomically;
///
/// # let directory = tempfile::tempdir()?;
/// # let directory = directory.path();
/// write_atomically(&directory.join("figures/accuracy.svg"), "<svg/>")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ReportError::Io`] with the directory or the file. An existing file is unchanged.
pub fn write_atomically(
    path: &Path,
    contents: &(impl AsRef<[u8]> + ?Sized),
) -> Result<(), ReportError> {
    let io = |action, path: &Path| {
        let path = path.to_path_buf();
        move |source| ReportError::Io { action, path, source }
    };
    // `parent` of a bare file name is the empty path, which `create_dir_all` accepts.
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(io("create the directory", directory))?;
    }
    burn_rehearsal::checkpoint::write_atomically(path, contents.as_ref()).map_err(io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::tempdir;

    #[test]
    fn a_replaced_file_leaves_no_other_file_behind() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("deep/er/figure.svg");
        write_atomically(&path, "first, and longer").unwrap();
        write_atomically(&path, "second").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "second");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_error_names_the_directory_that_cannot_be_written() {
        let directory = tempdir().unwrap();
        let file = directory.path().join("file");
        write_atomically(&file, "").unwrap();
        let error = write_atomically(&file.join("report.json"), "").unwrap_err();
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_failed_replacement_removes_its_temporary_file() {
        let directory = tempdir().unwrap();
        // A directory in the place of the file makes the rename fail.
        let path = directory.path().join("report.json");
        fs::create_dir_all(path.join("inside")).unwrap();
        let error = write_atomically(&path, "text").unwrap_err();
        assert!(
            matches!(&error, ReportError::Io { action: "write", path: named, .. } if *named == path),
            "{error}"
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
