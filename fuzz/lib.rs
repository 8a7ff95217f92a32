//! What the fuzz targets share.
//!
//! Readers of files are given files: in memory where there is such a folder, for the sake of speed.

use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder that is a process's own, and empty.
#[must_use]
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).expect("a folder")
}

/// Writes a file and gives its path.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// The input cut in `N` parts at lines that consist of `---`; parts that are missing are empty.
#[must_use]
pub fn parts<const N: usize>(mut input: &[u8]) -> [&[u8]; N] {
    const CUT: &[u8] = b"\n---\n";
    std::array::from_fn(|part| match input.windows(CUT.len()).position(|window| window == CUT) {
        Some(at) if part + 1 < N => {
            let (head, tail) = input.split_at(at);
            input = &tail[CUT.len()..];
            head
        }
        _ => std::mem::take(&mut input),
    })
}
