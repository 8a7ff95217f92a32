//! Reads a [`pack`](super::pack()). Shards are mapped into memory, so that the operating system
//! reads ahead and caches them.

#![allow(unsafe_code)]

use super::decode::decode;
use super::fingerprint::with_options;
use super::pack::{Format, MANIFEST, Manifest, PARTS, ShardIndex, VERSION, read_json, shard_path};
use super::source::Kind;
use super::{
    CHANNELS, Damaged, DataError, Fit, Image, ImageData, ImageOptions, ImageShape, Pixels,
    SharedBytes,
};
use burn::data::dataset::{Dataset, DatasetError};
use burn_rehearsal::MAX_CLASSES;
use burn_rehearsal_train::fingerprint::{Fingerprint, Split};
use memmap2::Mmap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One part of a pack.
struct PackedDataset {
    shards: Vec<Shard>,
    /// The shard of each sample, and its index in the shard.
    samples: Vec<(u32, u32)>,
    format: Format,
    options: ImageOptions,
    damaged: Damaged,
}

struct Shard {
    path: PathBuf,
    /// The digest from the index.
    blake3: String,
    bytes: SharedBytes,
    offsets: Vec<u64>,
    classes: Vec<u32>,
}

pub(super) const KIND: Kind = Kind {
    name: "pack",
    layout: Some("the output of packing another data set"),
    usual_side: |directory| packed_side(directory).unwrap_or(32),
    open: open_pack,
};

/// Opens the output of [`pack()`](super::pack()), which has an example.
///
/// The images of a pack of pixels must have the size in `options`; see [`packed_side`]. Files must
/// not be changed while they are open. Their digests are not verified here. To verify a pack, pack
/// the same data again.
///
/// # Errors
///
/// [`DataError`] with the file and the reason, for example an unfinished pack or a shard that is
/// too short.
pub fn open_pack(directory: &Path, options: &ImageOptions) -> Result<ImageData, DataError> {
    let path = directory.join(MANIFEST);
    let manifest: Manifest = read_json(&path)?;
    if manifest.version != VERSION {
        let reason =
            format!("its format has version {}; this program reads {VERSION}", manifest.version);
        return Err(DataError::unusable(&path, reason));
    }
    if manifest.classes > MAX_CLASSES {
        return Err(DataError::unusable(
            &path,
            format!("it has {} classes; at most {MAX_CLASSES} are supported", manifest.classes),
        ));
    }
    let shape = match manifest.shape {
        None => ImageShape::square(CHANNELS, options.side),
        Some([channels, ..]) if ![1, CHANNELS].contains(&channels) => {
            return Err(DataError::unusable(
                &path,
                format!("its images have {channels} channels; expected 1 or {CHANNELS}"),
            ));
        }
        Some([channels, height, width]) => {
            if (height, width) != (options.side, options.side) {
                let reason = format!(
                    "its images have {height}×{width} pixels; expected {0}×{0}",
                    options.side
                );
                return Err(DataError::unusable(directory, reason));
            }
            ImageShape { channels, height, width }
        }
    };
    let damaged = Damaged::default();
    let open = |part: usize| -> Result<PackedDataset, DataError> {
        let shards = (0..manifest.shards(part))
            .map(|shard| Shard::open(shard_path(directory, part, shard), &manifest, shape));
        let shards = shards.collect::<Result<Vec<_>, _>>()?;
        let samples = shards.iter().enumerate().flat_map(|(shard, open)| {
            (0..open.classes.len()).map(move |at| (shard as u32, at as u32))
        });
        let samples: Vec<_> = samples.collect();
        if samples.is_empty() {
            return Err(DataError::unusable(
                directory,
                format!("the part `{}` has no sample", PARTS[part]),
            ));
        }
        Ok(PackedDataset {
            samples,
            shards,
            format: manifest.format,
            options: *options,
            damaged: damaged.clone(),
        })
    };
    let (train, test) = (open(0)?, open(1)?);
    Ok(ImageData {
        fingerprint: fingerprint(&manifest, [&train, &test], options),
        train_labels: train.labels(),
        test_labels: test.labels(),
        train: Arc::new(train),
        test: Arc::new(test),
        classes: manifest.classes,
        shape,
        damaged,
        files: None,
    })
}

fn fingerprint(
    manifest: &Manifest,
    parts: [&PackedDataset; 2],
    options: &ImageOptions,
) -> Fingerprint {
    let covers = "places and lengths in the shards, digests of the shards";
    let mut data = Fingerprint::builder::<String>("images", covers, vec![None; manifest.classes]);
    let mut shards = blake3::Hasher::new();
    for (split, part) in [Split::Train, Split::Test].into_iter().zip(parts) {
        for &(shard, at) in &part.samples {
            let Shard { offsets, classes, .. } = &part.shards[shard as usize];
            let (begin, end) = (offsets[at as usize], offsets[at as usize + 1]);
            data.add(
                split,
                classes[at as usize] as usize,
                &[&shard.to_le_bytes(), &begin.to_le_bytes(), &end.to_le_bytes()],
            );
        }
        part.shards.iter().for_each(|shard| {
            shards.update(shard.blake3.as_bytes());
        });
    }
    let shards: String = shards.finalize().to_hex().chars().take(16).collect();
    // Stored pixels are square already.
    let fit = if manifest.shape.is_some() { Fit::Stretch } else { options.fit };
    with_options(data.build(), "pack", options.side, fit)
        .with_option("the digest of the shards", shards)
}

/// The side in pixels of the images in a pack of pixels; `None` if there is no such pack.
///
/// ```
/// use burn_rehearsal_vision::data::packed_side;
/// use std::path::Path;
///
/// assert_eq!(packed_side(Path::new("data/no-pack")), None);
/// ```
pub fn packed_side(directory: &Path) -> Option<usize> {
    let manifest: Manifest = read_json(&directory.join(MANIFEST)).ok()?;
    manifest.shape.map(|[_, height, _]| height)
}

impl Shard {
    fn open(path: PathBuf, manifest: &Manifest, shape: ImageShape) -> Result<Self, DataError> {
        let index_path = path.with_extension("json");
        if !index_path.exists() {
            return Err(DataError::unusable(
                &index_path,
                "it is missing, so the pack is not finished; pack again",
            ));
        }
        let index: ShardIndex = read_json(&index_path)?;
        let file = File::open(&path).map_err(DataError::io("read", &path))?;
        let length = file.metadata().map_err(DataError::io("read", &path))?.len();
        let wrong = |reason: String| DataError::unusable(&path, reason);
        if index.offsets.last() != Some(&length) {
            return Err(wrong(format!(
                "it has {length} bytes, but {} according to its index",
                index.offsets.last().copied().unwrap_or(0)
            )));
        }
        let rows = index.offsets.windows(2).all(|pair| match manifest.format {
            Format::Pixels => pair[1].checked_sub(pair[0]) == Some(shape.elements() as u64),
            Format::Original => pair[0] <= pair[1],
        });
        if !rows || index.offsets.len() != index.classes.len() + 1 {
            return Err(wrong("its index contradicts itself".into()));
        }
        if let Some(class) = index.classes.iter().find(|&&class| class as usize >= manifest.classes)
        {
            return Err(wrong(format!(
                "a sample has the class {class}, but there are {} classes",
                manifest.classes
            )));
        }
        // SAFETY: the map is read only as bytes, and every byte is valid. `open_pack` requires that
        // the file is not changed. Shortening it would end the process, as for any mapped file.
        let bytes = unsafe { Mmap::map(&file) }.map_err(DataError::io("map into memory", &path))?;
        Ok(Self {
            path,
            blake3: index.blake3,
            bytes: SharedBytes::new(bytes),
            offsets: index.offsets,
            classes: index.classes,
        })
    }
}

impl PackedDataset {
    fn labels(&self) -> Vec<usize> {
        self.samples
            .iter()
            .map(|&(shard, at)| self.shards[shard as usize].classes[at as usize] as usize)
            .collect()
    }
}

impl Dataset<Image> for PackedDataset {
    fn get(&self, index: usize) -> Result<Image, DatasetError> {
        let (shard, at) = self.samples[index];
        let (shard, at) = (&self.shards[shard as usize], at as usize);
        let range = shard.offsets[at] as usize..shard.offsets[at + 1] as usize;
        let short = || DataError::unusable(&shard.path, format!("it does not contain sample {at}"));
        let part = Pixels::part(&shard.bytes, range).ok_or_else(|| DatasetError::new(short()))?;
        let pixels = match self.format {
            Format::Pixels => part,
            Format::Original => {
                let name = shard.path.with_extension(format!("bin#{at}"));
                decode(&part, &name, &self.options)
                    .map_err(|error| self.damaged.error(error, self.options.on_damaged))?
            }
        };
        Ok(Image { pixels, class: shard.classes[at] as usize, index })
    }

    fn len(&self) -> usize {
        self.samples.len()
    }
}
