//! Writes a data set into a few large files, so that training does not read millions of small files
//! and, with pixels, does not decode images.
//!
//! ```text
//! pack.json              source, options and shards; written first
//! train-00000.bin        the samples of a shard, one after the other
//! train-00000.json       offsets and classes of the samples, digest of the .bin; written last
//! …                      test-00000.bin, test-00000.json, …
//! ```
//!
//! A shard is complete if its `.json` exists. Packing again into the same directory resumes:
//! complete shards that match their digests are kept, all others are written. Only one process
//! packs into a directory at a time. At the end, all new files are read back and compared with
//! their digests.

use super::files::{entries, name};
use super::{DataError, ImageData, ImageOptions, OnDamaged};
use burn_rehearsal::checkpoint::{AtomicFile, write_atomically};
use burn_rehearsal_train::lock::DirectoryLock;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The version of the format. No other version is read.
pub(super) const VERSION: u32 = 1;
/// The name of the file that describes a pack.
pub(super) const MANIFEST: &str = "pack.json";
/// The names of the parts of a data set, for file names.
pub(super) const PARTS: [&str; 2] = ["train", "test"];
/// Approximate size of a shard in bytes.
const SHARD_BYTES: usize = 64 << 20;
/// Assumed size of an original file in bytes, to distribute samples over shards.
const TYPICAL_FILE: usize = 64 << 10;

/// The format of the images in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Decoded pixels of one size. Training decodes nothing.
    Pixels,
    /// The original files. They are smaller, and are decoded to any size in training.
    Original,
}

/// Options of [`pack()`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackOptions {
    /// The format of stored images.
    pub format: Format,
    /// Options for decoding. With [`Format::Original`], decoding only detects damaged images.
    pub images: ImageOptions,
}

/// The result of [`pack()`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackReport {
    /// The number of samples in the pack.
    pub samples: usize,
    /// The number of shards.
    pub shards: usize,
    /// The number of shards that were already complete.
    pub kept: usize,
    /// The size of all shards in bytes.
    pub bytes: u64,
    /// The images that were left out, in alphabetical order.
    pub damaged: Vec<PathBuf>,
}

/// The content of `pack.json`, which differs between packs of different data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) format: Format,
    /// `[channels, height, width]` of stored pixels.
    pub(super) shape: Option<[usize; 3]>,
    /// The conversion of stored pixels to squares: `stretch` or `crop`.
    pub(super) fit: Option<String>,
    pub(super) classes: usize,
    /// The number of samples of each part of the source, including damaged ones.
    pub(super) samples: [usize; 2],
    /// The number of samples of the source per shard. The last shard of a part may have fewer.
    pub(super) shard_samples: usize,
    /// Digest of the files and classes of the source.
    pub(super) source: String,
}

/// The content of the `.json` of a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardIndex {
    /// BLAKE3 of the `.bin`, in hexadecimal.
    pub(super) blake3: String,
    /// The offset of each sample in the `.bin`, then the length of the `.bin`.
    pub(super) offsets: Vec<u64>,
    /// The class of each sample.
    pub(super) classes: Vec<u32>,
    /// The images that were left out.
    pub(super) damaged: Vec<PathBuf>,
}

impl ShardIndex {
    /// Whether the `.bin` at `path` has this digest and length.
    fn is_of(&self, path: &Path) -> std::io::Result<bool> {
        let mut hasher = blake3::Hasher::new();
        let length = std::io::copy(&mut File::open(path)?, &mut hasher)?;
        Ok(self.blake3 == hasher.finalize().to_hex().as_str()
            && self.offsets.last() == Some(&length))
    }
}

impl Manifest {
    pub(super) fn shards(&self, part: usize) -> usize {
        self.samples[part].div_ceil(self.shard_samples.max(1))
    }
}

/// The path of the `.bin` of a shard. Its `.json` differs in the extension only.
pub(super) fn shard_path(directory: &Path, part: usize, shard: usize) -> PathBuf {
    directory.join(format!("{}-{shard:05}.bin", PARTS[part]))
}

/// Packs `data` into the directory `out`, on all threads of Rayon's pool. `progress` is called with
/// the number of samples of every completed shard.
///
/// ```
/// use burn_rehearsal_vision::data::*;
///
/// # let directory = tempfile::tempdir()?;
/// # let out = directory.path();
/// let images = ImageOptions { side: 8, fit: Fit::Stretch, on_damaged: OnDamaged::Fail };
/// let options = PackOptions { format: Format::Pixels, images };
/// let report = pack(&open_digits(8)?, &options, out, &|_| {})?;
/// assert_eq!((report.samples, report.shards), (1797, 2));
/// assert_eq!(open_pack(out, &images)?.train.len(), 1442);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`DataError`] for a damaged image that is not skipped, a part without a valid image, a file that
/// cannot be written, a directory with a pack of other data, and a directory that another process
/// is packing into.
pub fn pack(
    data: &ImageData,
    options: &PackOptions,
    out: &Path,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<PackReport, DataError> {
    let manifest = manifest(data, options, out)?;
    std::fs::create_dir_all(out).map_err(DataError::io("create the folder", out))?;
    let path = out.join(MANIFEST);
    let lock = match DirectoryLock::acquire(out) {
        Ok(Some(lock)) => Some(lock),
        Ok(None) => return Err(DataError::unusable(out, "another process is packing into it")),
        // A read-only pack can be verified.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) && path.exists() =>
        {
            None
        }
        Err(error) => return Err(DataError::io("write to the folder", out)(error)),
    };
    if path.exists() {
        let there: Manifest = read_json(&path)?;
        if there != manifest {
            return Err(DataError::unusable(
                out,
                "it contains a pack of different data or with different options; remove it and pack \
                 again",
            ));
        }
    } else {
        write_json(&path, &manifest)?;
    }
    if lock.as_ref().is_some_and(DirectoryLock::is_exclusive) {
        remove_remains(out)?;
    }
    let all: Vec<(usize, usize)> = (0..2)
        .flat_map(|part| (0..manifest.shards(part)).map(move |shard| (part, shard)))
        .collect();
    let done = all.par_iter().map(|&(part, shard)| {
        let packer = Packer { data, options, manifest: &manifest, out };
        let kept = packer.complete(part, shard);
        let index = match &kept {
            Some(index) => index.clone(),
            None => packer.write(part, shard)?,
        };
        progress(packer.range(part, shard).len());
        Ok((index, kept.is_some()))
    });
    let done = done
        .collect::<Vec<Result<(ShardIndex, bool), DataError>>>()
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let written = all.par_iter().zip(&done).filter(|(_, (_, kept))| !kept);
    written
        .map(|(&(part, shard), (index, _))| read_back(out, part, shard, index))
        .collect::<Result<(), _>>()?;
    if read_json::<Manifest>(&path)? != manifest {
        return Err(changed_meanwhile(&path));
    }
    nothing_is_empty(
        data,
        out,
        all.iter().map(|&(part, _)| part).zip(done.iter().map(|(index, _)| index)),
    )?;
    let mut report = PackReport { shards: all.len(), ..PackReport::default() };
    for (index, kept) in done {
        report.samples += index.classes.len();
        report.kept += usize::from(kept);
        report.bytes += index.offsets.last().copied().unwrap_or(0);
        report.damaged.extend(index.damaged);
    }
    report.damaged.sort();
    Ok(report)
}

/// The length and the modification time of a file, in nanoseconds since 1970. They detect files
/// that were replaced.
fn stamp(file: &PathBuf) -> Result<(u64, u128), DataError> {
    let data = std::fs::metadata(file).map_err(DataError::io("read the metadata of", file))?;
    let written = data.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((data.len(), written.unwrap_or_default().as_nanos()))
}

fn manifest(data: &ImageData, options: &PackOptions, out: &Path) -> Result<Manifest, DataError> {
    let samples = [data.train_labels.len(), data.test_labels.len()];
    let pixels = options.format == Format::Pixels;
    let shape = data.shape;
    if !pixels && data.files.is_none() {
        return Err(DataError::unusable(
            out,
            "only image folders can be packed as original files; these images are not separate \
             files",
        ));
    }
    let mut source = blake3::Hasher::new();
    for (part, labels) in [&data.train_labels, &data.test_labels].into_iter().enumerate() {
        source.update(PARTS[part].as_bytes());
        let files = data.files.iter().flat_map(|files| files[part].iter());
        let files: Vec<&PathBuf> = files.collect();
        let stamps: Vec<_> = files.par_iter().map(|file| stamp(file)).collect::<Result<_, _>>()?;
        let mut files = files.into_iter().zip(stamps);
        for class in labels {
            // Class and name identify an image independently of the path of the data set.
            if let Some((file, (bytes, changed))) = files.next() {
                for name in file.iter().rev().take(2) {
                    source.update(name.as_encoded_bytes()).update(b"/");
                }
                source.update(&bytes.to_le_bytes()).update(&changed.to_le_bytes());
            }
            source.update(&(*class as u64).to_le_bytes());
        }
    }
    Ok(Manifest {
        version: VERSION,
        format: options.format,
        shape: pixels.then_some([shape.channels, shape.height, shape.width]),
        fit: pixels.then(|| options.images.fit.name().into()),
        classes: data.classes,
        samples,
        shard_samples: (SHARD_BYTES / if pixels { shape.elements().max(1) } else { TYPICAL_FILE })
            .max(1),
        source: source.finalize().to_hex().to_string(),
    })
}

struct Packer<'a> {
    data: &'a ImageData,
    options: &'a PackOptions,
    manifest: &'a Manifest,
    out: &'a Path,
}

impl Packer<'_> {
    fn range(&self, part: usize, shard: usize) -> std::ops::Range<usize> {
        let begin = shard * self.manifest.shard_samples;
        begin..(begin + self.manifest.shard_samples).min(self.manifest.samples[part])
    }

    /// The index of a shard that is complete and matches its digest.
    fn complete(&self, part: usize, shard: usize) -> Option<ShardIndex> {
        let path = shard_path(self.out, part, shard);
        let index: ShardIndex = read_json(&path.with_extension("json")).ok()?;
        // An earlier attempt may have skipped damaged images.
        if self.options.images.on_damaged == OnDamaged::Fail && !index.damaged.is_empty() {
            return None;
        }
        index.is_of(&path).ok()?.then_some(index)
    }

    fn write(&self, part: usize, shard: usize) -> Result<ShardIndex, DataError> {
        let path = shard_path(self.out, part, shard);
        let failed = || DataError::io("write", &path);
        let mut whole = AtomicFile::create(&path).map_err(failed())?;
        let mut file = BufWriter::with_capacity(1 << 20, whole.as_file_mut());
        let mut hasher = blake3::Hasher::new();
        let mut index = ShardIndex {
            blake3: String::new(),
            offsets: vec![0],
            classes: Vec::new(),
            damaged: Vec::new(),
        };
        let mut length = 0u64;
        for sample in self.range(part, shard) {
            let (class, bytes) = match self.sample(part, sample) {
                Ok(sample) => sample,
                Err(DataError::Image { path, reason })
                    if self.options.images.on_damaged == OnDamaged::Skip =>
                {
                    tracing::warn!("left out: the image {} is damaged: {reason}", path.display());
                    index.damaged.push(path);
                    continue;
                }
                Err(error) => return Err(error),
            };
            file.write_all(&bytes).map_err(failed())?;
            hasher.update(&bytes);
            length += bytes.len() as u64;
            index.offsets.push(length);
            index.classes.push(class as u32);
        }
        file.into_inner().map_err(|error| failed()(error.into_error()))?;
        whole.commit().map_err(failed())?;
        index.blake3 = hasher.finalize().to_hex().to_string();
        write_json(&path.with_extension("json"), &index)?;
        Ok(index)
    }

    /// The class and the stored bytes of a sample.
    fn sample(&self, part: usize, sample: usize) -> Result<(usize, Vec<u8>), DataError> {
        let labels = [&self.data.train_labels, &self.data.test_labels][part];
        let images = &self.options.images;
        if let Some(files) = &self.data.files {
            let path = &files[part][sample];
            let kept = match self.options.format {
                Format::Pixels => super::decode::read(path, images)?.to_vec(),
                Format::Original => {
                    let bytes =
                        std::fs::read(path).map_err(DataError::io("read the image", path))?;
                    // Detects damaged images now rather than in training.
                    super::decode::decode(&bytes, path, images)?;
                    bytes
                }
            };
            return Ok((labels[sample], kept));
        }
        let dataset = [&self.data.train, &self.data.test][part];
        let image = dataset
            .get(sample)
            .map_err(|error| DataError::unusable(self.out, error.to_string()))?;
        Ok((image.class, image.pixels.to_vec()))
    }
}

pub(super) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, DataError> {
    let text = std::fs::read(path).map_err(DataError::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| DataError::unusable(path, error.to_string()))
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), DataError> {
    let text =
        serde_json::to_vec(value).map_err(|error| DataError::unusable(path, error.to_string()))?;
    write_atomically(path, &text).map_err(DataError::io("write", path))
}

/// Removes the temporary files of a killed process. The directory must be locked.
fn remove_remains(out: &Path) -> Result<(), DataError> {
    let is_ours = |name: &str| {
        name.starts_with('.')
            && name.ends_with(".tmp")
            && (name.contains(".bin.") || name.contains(".json."))
    };
    let remains =
        entries(out)?.into_iter().filter(|path| name(path).is_some_and(|name| is_ours(&name)));
    remains
        .into_iter()
        .try_for_each(|path| std::fs::remove_file(&path).map_err(DataError::io("remove", &path)))
}

/// Reads a new shard back and compares it with its index.
fn read_back(out: &Path, part: usize, shard: usize, index: &ShardIndex) -> Result<(), DataError> {
    let path = shard_path(out, part, shard);
    let index_path = path.with_extension("json");
    if read_json::<ShardIndex>(&index_path)? != *index {
        return Err(changed_meanwhile(&index_path));
    }
    let same = index.is_of(&path).map_err(DataError::io("read", &path))?;
    if same { Ok(()) } else { Err(changed_meanwhile(&path)) }
}

fn changed_meanwhile(path: &Path) -> DataError {
    DataError::unusable(
        path,
        "it differs from what was written: another process may be writing, or the disk may be \
         failing; pack again",
    )
}

/// Returns an error if all images of a part were left out. Warns if all images of a class were.
fn nothing_is_empty<'a>(
    data: &ImageData,
    out: &Path,
    shards: impl Iterator<Item = (usize, &'a ShardIndex)>,
) -> Result<(), DataError> {
    let mut packed = [(); 2].map(|()| BTreeSet::new());
    shards.for_each(|(part, index)| {
        packed[part].extend(index.classes.iter().map(|&class| class as usize))
    });
    for (part, labels) in [&data.train_labels, &data.test_labels].into_iter().enumerate() {
        let (name, images) = (PARTS[part], labels.len());
        if packed[part].is_empty() {
            return Err(DataError::unusable(
                out,
                format!(
                    "the part `{name}` has no sample: all of its {images} images were left out"
                ),
            ));
        }
        for class in labels
            .iter()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .filter(|class| !packed[part].contains(class))
        {
            tracing::warn!(
                "the part `{name}` of {} has no sample of class {class}: all were left out",
                out.display()
            );
        }
    }
    Ok(())
}
