//! Manifests of checkpoints: arbitrary bytes, and arbitrary entries with a valid digest.
#![no_main]

use burn_rehearsal::checkpoint::{FileEntry, MANIFEST, Manifest};
use burn_rehearsal_fuzz::{folder, write};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use tempfile::TempDir;

const KIND: &str = "fuzzed";

/// The header of a valid file with two tensors.
const HEADER: &[u8] = br#"{"__metadata__":{"burn-rehearsal":"about"},
    "a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},
    "b":{"dtype":"U8","shape":[4],"data_offsets":[3,7]}}"#;

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = folder();
    let length = (HEADER.len() as u64).to_le_bytes();
    write(folder.path(), "file", &[&length[..], HEADER, b"1234567"].concat());
    folder
});

fn read() {
    if let Ok(manifest) = Manifest::read(FOLDER.path(), KIND) {
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
