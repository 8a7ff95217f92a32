//! CIFAR-10 and CIFAR-100, binary version (A. Krizhevsky, "Learning Multiple Layers of Features
//! from Tiny Images", 2009).
//!
//! A file is a sequence of records. A record has one byte for the class (CIFAR-100: one for the
//! superclass and one for the class), then 1,024 bytes each for red, green and blue, line by line.

use super::files::read_maybe_gz;
use super::raw::RawDataset;
use super::source::Kind;
use super::{DataError, ImageData, ImageOptions, ImageShape, SharedBytes};
use std::path::Path;

const SIDE: usize = 32;
const PIXELS: usize = 3 * SIDE * SIDE;

pub(super) const CIFAR10: Kind =
    kind("cifar10", |directory, options| open_cifar(directory, Cifar::Ten, options.side));
pub(super) const CIFAR100: Kind =
    kind("cifar100", |directory, options| open_cifar(directory, Cifar::Hundred, options.side));

const fn kind(
    name: &'static str,
    open: fn(&Path, &ImageOptions) -> Result<ImageData, DataError>,
) -> Kind {
    Kind {
        name,
        layout: Some("the binary version as published, plain or .gz"),
        usual_side: |_| SIDE,
        open,
    }
}

/// A CIFAR data set, for [`open_cifar`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cifar {
    /// CIFAR-10: ten classes.
    Ten,
    /// CIFAR-100: a hundred classes.
    Hundred,
}

impl Cifar {
    fn classes(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
        }
    }

    /// The number of bytes before the pixels. The last of them is the class.
    fn head(self) -> usize {
        match self {
            Self::Ten => 1,
            Self::Hundred => 2,
        }
    }

    fn files(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Ten => (
                &[
                    "data_batch_1.bin",
                    "data_batch_2.bin",
                    "data_batch_3.bin",
                    "data_batch_4.bin",
                    "data_batch_5.bin",
                ],
                "test_batch.bin",
            ),
            Self::Hundred => (&["train.bin"], "test.bin"),
        }
    }
}

/// Opens CIFAR in a directory: `data_batch_1.bin` … `data_batch_5.bin` and `test_batch.bin`, or for
/// CIFAR-100 `train.bin` and `test.bin`, plain or with the suffix `.gz`.
///
/// All files are read into memory. Images of 32×32 pixels are scaled to `side` × `side`.
///
/// ```no_run
/// use burn_rehearsal_vision::data::{Cifar, open_cifar};
///
/// let cifar = open_cifar("data/cifar-10-batches-bin".as_ref(), Cifar::Ten, 32)?;
/// assert_eq!(cifar.train.len(), 50_000);
/// # Ok::<(), burn_rehearsal_vision::data::DataError>(())
/// ```
///
/// # Errors
///
/// [`DataError`] with the file and the reason.
pub fn open_cifar(directory: &Path, which: Cifar, side: usize) -> Result<ImageData, DataError> {
    let (train, test) = which.files();
    let open = |files: &[&str]| -> Result<RawDataset, DataError> {
        let mut samples = Vec::new();
        for file in files {
            let (path, bytes) = read_maybe_gz(directory, file)?;
            let record = which.head() + PIXELS;
            if bytes.is_empty() || bytes.len() % record != 0 {
                let reason = format!(
                    "{} bytes are not a multiple of the record size, {record} bytes",
                    bytes.len()
                );
                return Err(DataError::unusable(&path, reason));
            }
            let bytes = SharedBytes::new(bytes);
            for start in (0..bytes.len()).step_by(record) {
                let class = usize::from(bytes[start + which.head() - 1]);
                if class >= which.classes() {
                    let reason = format!(
                        "record {} has the class {class}, but there are {} classes",
                        start / record,
                        which.classes()
                    );
                    return Err(DataError::unusable(&path, reason));
                }
                samples.push((bytes.clone(), start + which.head()..start + record, class));
            }
        }
        Ok(RawDataset::new(samples, ImageShape::square(3, SIDE), side, directory.to_path_buf()))
    };
    let kind = match which {
        Cifar::Ten => CIFAR10.name,
        Cifar::Hundred => CIFAR100.name,
    };
    Ok(RawDataset::data(kind, which.classes(), open(train)?, open(&[test])?))
}
