//! Labelled images, embedded or from disk.
//!
//! * [`DataSource`]: any of the following by its name.
//! * [`open_digits`]: a small data set that is part of the crate.
//! * [`open_folder`], [`open_tiny_imagenet`]: JPEG and PNG files, one folder per class, decoded
//!   when they are asked for.
//! * [`open_cifar`], [`open_idx`]: CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST in the files in
//!   which they are published.
//! * [`pack()`] writes any of them once into memory-mapped shards, and [`open_pack`] reads those.
//!
//! All give the same thing, [`ImageData`]: two data sets of [`Image`]s of one shape, whose pixels
//! are bytes, channels first. Decoding happens in `get`, that is in the loader's threads. Its rows
//! and its working memory are used again and again by the thread that made them, and packed pixels
//! are not copied before they are part of a mini-batch.
//!
//! A run resumes only on the data that it began with. Its [fingerprint](ImageData::fingerprint)
//! says which that is, whatever its path:
//!
//! | data | compared of each image | not seen |
//! |---|---|---|
//! | folders | class, file name, size in bytes | other bytes in a file of the same name and size |
//! | CIFAR, MNIST (IDX) | class, all pixels | nothing |
//! | packs | class, position, length, digests by [`pack()`] | a shard that was changed later |
//!
//! The names of classes, their order, the size of images and [`Fit`] belong to it; the times of
//! files do not.
//!
//! An image that cannot be decoded is an error with its path, or, with [`OnDamaged::Skip`], left
//! out of its mini-batch ([`SkipSample`](burn_rehearsal::SkipSample)), noted once in the log and
//! counted in [`ImageData::damaged`].

mod cifar;
mod damaged;
mod decode;
mod digits;
mod error;
mod files;
mod fingerprint;
mod folder;
mod idx;
mod jpeg;
mod pack;
mod pack_reader;
mod pixels;
mod raw;
mod source;
#[cfg(feature = "turbojpeg")]
mod turbo;

pub use cifar::{Cifar, open_cifar};
pub use damaged::{Damaged, OnDamaged};
pub use decode::{Decoder, Fit, JPEG_DECODER};
pub use digits::open_digits;
pub use error::DataError;
pub use folder::{open_folder, open_tiny_imagenet};
pub use idx::open_idx;
pub use pack::{Format, PackOptions, PackReport, pack};
pub use pack_reader::{open_pack, packed_side};
pub use pixels::{Pixels, SharedBytes};
pub use source::{DataSource, UnknownDataSource};

use burn::data::dataset::Dataset;
use burn_rehearsal_train::fingerprint::Fingerprint;
use std::path::PathBuf;
use std::sync::Arc;

/// Decoded images have red, green and blue.
const CHANNELS: usize = 3;
/// Maximum number of pixels of an image, so that a damaged header does not request all memory.
const MAX_PIXELS: usize = 1 << 27;

/// Checks the size that the header of an image declares.
fn check_size(width: usize, height: usize) -> Result<(), String> {
    if width == 0 || height == 0 || width.saturating_mul(height) > MAX_PIXELS {
        return Err(format!("its size would be {width}×{height} pixels"));
    }
    Ok(())
}

/// One image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Channels first, 0..=255.
    pub pixels: Pixels,
    /// Its class.
    pub class: usize,
    /// Its number in the data set.
    pub index: usize,
}

/// The shape of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// 1 for grey, 3 for colour.
    pub channels: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
}

impl ImageShape {
    /// A square image.
    pub fn square(channels: usize, side: usize) -> Self {
        Self { channels, height: side, width: side }
    }

    /// The number of values of one image.
    pub fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }
}

/// How images become rows of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageOptions {
    /// Side of the square that all images are scaled to, in pixels, at least 1.
    pub side: usize,
    /// How an image that is no square becomes one.
    pub fit: Fit,
    /// How to handle an image that cannot be decoded.
    pub on_damaged: OnDamaged,
}

/// A data set for classification.
pub struct ImageData {
    /// The training part.
    pub train: Arc<dyn Dataset<Image>>,
    /// The class of each training sample.
    pub train_labels: Vec<usize>,
    /// The test part.
    pub test: Arc<dyn Dataset<Image>>,
    /// The class of each test sample.
    pub test_labels: Vec<usize>,
    /// The number of classes.
    pub classes: usize,
    /// The shape of every image.
    pub shape: ImageShape,
    /// Which data it is, wherever it lies; see [`fingerprint`](burn_rehearsal_train::fingerprint)
    /// and, for what is compared, the module's documentation.
    pub fingerprint: Fingerprint,
    /// The images that were left out so far, by this process.
    pub damaged: Damaged,
    /// The files behind the training and the test part, if every sample is a file of its own.
    pub files: Option<[Arc<Vec<PathBuf>>; 2]>,
}
