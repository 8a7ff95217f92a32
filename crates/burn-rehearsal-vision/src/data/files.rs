//! Reads directories, and files that may be compressed.

use super::DataError;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// Maximum size of a decompressed file in bytes, several times that of any published one.
const MAX_UNPACKED: u64 = 4 << 30;

/// The entries of a directory in alphabetical order.
pub(super) fn entries(directory: &Path) -> Result<Vec<PathBuf>, DataError> {
    let read = || -> std::io::Result<Vec<PathBuf>> {
        let mut paths = std::fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()?;
        paths.sort();
        Ok(paths)
    };
    read().map_err(DataError::io("read the folder", directory))
}

/// The names of the subdirectories, in alphabetical order, without hidden ones such as
/// `.ipynb_checkpoints`.
pub(super) fn subfolders(directory: &Path) -> Result<Vec<String>, DataError> {
    let folders = entries(directory)?.into_iter().filter(|path| path.is_dir() && !is_hidden(path));
    // A class must not be left out silently.
    folders
        .map(|path| {
            name(&path)
                .ok_or_else(|| DataError::unusable(&path, "the name of the folder is not UTF-8"))
        })
        .collect()
}

/// The last component of a path.
pub(super) fn name(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

/// Whether the name starts with a dot.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

/// Whether the extension is that of a JPEG or PNG file.
pub(super) fn is_image(path: &Path) -> bool {
    let extension =
        path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
}

/// Reads a file, or decompresses the file with the suffix `.gz`.
pub(super) fn read_maybe_gz(directory: &Path, file: &str) -> Result<(PathBuf, Vec<u8>), DataError> {
    let plain = directory.join(file);
    let packed = directory.join(format!("{file}.gz"));
    let mut bytes = Vec::new();
    let path = if plain.exists() || !packed.exists() { plain } else { packed };
    let open = File::open(&path).map_err(DataError::io("read", &path))?;
    let unpacks = path.extension().is_some_and(|extension| extension == "gz");
    let read = if unpacks {
        MultiGzDecoder::new(BufReader::new(open)).take(MAX_UNPACKED + 1).read_to_end(&mut bytes)
    } else {
        BufReader::new(open).read_to_end(&mut bytes)
    };
    read.map_err(DataError::io("read", &path))?;
    if unpacks && bytes.len() as u64 > MAX_UNPACKED {
        return Err(DataError::unusable(
            &path,
            format!("it has more than {MAX_UNPACKED} bytes when decompressed"),
        ));
    }
    Ok((path, bytes))
}
