//! Labeled images, embedded or from disk.
//!
//! * [`open_digits`]: a small data set that is part of the crate.
//! * [`open_folder`], [`open_tiny_imagenet`]: JPEG and PNG files, one folder per class.
//! * [`open_cifar`], [`open_idx`]: CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST in their published
//!   formats.
//! * [`pack()`] writes a data set into a few memory-mapped files, and [`open_pack`] opens them.
//! * [`DataSource`] opens any of them by name.
//!
//! Each returns [`ImageData`]: a training and a test data set of [`Image`]s of one shape. Pixels
//! are bytes, channels first. Files are decoded in [`get`](burn::data::dataset::Dataset::get), in
//! the threads of the data loader, which reuse their memory. Packed pixels are not copied until
//! they become part of a mini-batch.
//!
//! # Fingerprints
//!
//! A run resumes only on the data it started with. The [fingerprint](ImageData::fingerprint)
//! identifies data independently of its path. It covers the names and the order of classes, the
//! size of images, [`Fit`], and:
//!
//! | data | compared for each image | not noticed |
//! |---|---|---|
//! | folders | class, file name, size in bytes | different bytes of the same size |
//! | CIFAR, MNIST (IDX) | class, all pixels | – |
//! | packs | class, position, length, digests by [`pack()`] | changes after packing |
//!
//! # Damaged images
//!
//! An image that cannot be decoded is an error with its path. With [`OnDamaged::Skip`] it is left
//! out of its mini-batch ([`SkipSample`](burn_rehearsal::SkipSample)), logged once, and listed in
//! [`ImageData::damaged`].

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

/// Channels of decoded images: red, green and blue.
const CHANNELS: usize = 3;
/// Maximum number of pixels of an image. A damaged header must not exhaust memory.
const MAX_PIXELS: usize = 1 << 27;

/// Checks the size in the header of an image.
fn check_size(width: usize, height: usize) -> Result<(), String> {
    if width == 0 || height == 0 || width.saturating_mul(height) > MAX_PIXELS {
        return Err(format!("invalid size of {width}×{height} pixels"));
    }
    Ok(())
}

/// A labeled image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The pixels, channels first, values 0..=255.
    pub pixels: Pixels,
    /// The class.
    pub class: usize,
    /// The index in the data set.
    pub index: usize,
}

/// The shape of an image.
///
/// ```
/// use burn_rehearsal_vision::data::ImageShape;
///
/// assert_eq!(ImageShape::square(3, 32).elements(), 3 * 32 * 32);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageShape {
    /// 1 for grayscale, 3 for color.
    pub channels: usize,
    /// The height in pixels.
    pub height: usize,
    /// The width in pixels.
    pub width: usize,
}

impl ImageShape {
    /// The shape of a square image.
    pub fn square(channels: usize, side: usize) -> Self {
        Self { channels, height: side, width: side }
    }

    /// The number of values of an image.
    pub fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }
}

/// Options for decoding images of any size to one shape. [`open_folder`] has an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageOptions {
    /// The side of the decoded images in pixels, at least 1.
    pub side: usize,
    /// The conversion of images to squares.
    pub fit: Fit,
    /// The treatment of images that cannot be decoded.
    pub on_damaged: OnDamaged,
}

/// An image data set for classification, with a training and a test part.
///
/// ```
/// use burn::data::dataset::Dataset;
/// use burn_rehearsal_vision::data::open_digits;
///
/// let digits = open_digits(8)?;
/// let image = digits.train.get(0)?;
/// assert_eq!((image.pixels.len(), image.class), (8 * 8, digits.train_labels[0]));
/// assert_eq!((digits.classes, digits.damaged.paths().len()), (10, 0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct ImageData {
    /// The training samples.
    pub train: Arc<dyn Dataset<Image>>,
    /// The class of each training sample.
    pub train_labels: Vec<usize>,
    /// The test samples.
    pub test: Arc<dyn Dataset<Image>>,
    /// The class of each test sample.
    pub test_labels: Vec<usize>,
    /// The number of classes.
    pub classes: usize,
    /// The shape of every image.
    pub shape: ImageShape,
    /// The identity of the data, independent of its path; see [the module](self).
    pub fingerprint: Fingerprint,
    /// The images that this process has left out so far.
    pub damaged: Damaged,
    /// The files of the training and test samples, if every sample is a separate file.
    pub files: Option<[Arc<Vec<PathBuf>>; 2]>,
}
