//! Manifests of checkpoints: arbitrary bytes, and arbitrary entries with a valid digest.
#![no_main]

use burn_rehearsal::checkpoint::{FileEntry, MANIFEST, Manifest, read_file, write_file};
use burn_rehearsal_fuzz::{folder, write};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

const KIND: &str = "fuzzed";

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = folder();
    write_file(folder.path(), "file", "about", &[("a", b"123"), ("b", b""), ("c", b"4567")])
        .expect("a file");
    folder
});

fn read() {
    if let Ok(manifest) = Manifest::read(FOLDER.path(), KIND) {
        for entry in manifest.files() {
            let _ = read_file(FOLDER.path(), entry);
        }
        let _ = manifest.verify(FOLDER.path());
    }
}

fuzz_target!(|input: &[u8]| {
    write(FOLDER.path(), MANIFEST, input);
    read();
    let Ok(text) = std::str::from_utf8(input) else { return };
    // An entry is three lines: name, size and digest.
    let lines: Vec<&str> = text.lines().collect();
    let entry = |fields: &[&str]| match fields {
        [name, bytes, digest] => Some(FileEntry {
            name: (*name).to_owned(),
            bytes: bytes.parse().ok()?,
            digest: (*digest).to_owned(),
        }),
        _ => None,
    };
    let entries: Vec<FileEntry> = lines.chunks(3).filter_map(entry).collect();
    let manifest = Manifest::new(KIND, entries, &text).expect("text is JSON");
    if manifest.write(FOLDER.path()).is_ok() {
        read();
    }
});
