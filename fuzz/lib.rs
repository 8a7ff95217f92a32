//! Helpers of the fuzz targets.
//!
//! Targets that read files use real files, in a directory in memory if there is one.

use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// An empty directory of this process.
#[must_use]
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    tempfile::tempdir_in(parent).expect("a folder")
}

/// Writes a file and returns its path.
pub fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("a file");
    path
}

/// Splits the input into `N` parts at lines that consist of `---`. Missing parts are empty.
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
