//! MNIST and Fashion-MNIST in the IDX format (Y. LeCun, C. Cortes and C. Burges, "The MNIST
//! database of handwritten digits").
//!
//! A file starts with the bytes 0, 0, the type of the values (8: bytes) and the number of
//! dimensions, then the dimensions as big-endian `u32`.

use super::files::read_maybe_gz;
use super::raw::RawDataset;
use super::source::Kind;
use super::{DataError, ImageData, ImageShape, SharedBytes};
use std::path::Path;

pub(super) const MNIST: Kind = Kind {
    name: "mnist",
    layout: Some("the files as published, plain or .gz; also for Fashion-MNIST"),
    usual_side: |_| 28,
    open: |directory, options| open_idx(directory, options.side),
};

/// Opens MNIST or Fashion-MNIST in a directory: `train-images-idx3-ubyte`,
/// `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and `t10k-labels-idx1-ubyte`, plain or with
/// the suffix `.gz`.
///
/// All files are read into memory. Images are scaled to `side` × `side` pixels. The number of
/// classes is the largest training label plus 1.
///
/// ```no_run
/// use burn_rehearsal_vision::data::open_idx;
///
/// let mnist = open_idx("data/mnist".as_ref(), 28)?;
/// assert_eq!((mnist.train.len(), mnist.classes), (60_000, 10));
/// # Ok::<(), burn_rehearsal_vision::data::DataError>(())
/// ```
///
/// # Errors
///
/// [`DataError`] with the file and the reason.
pub fn open_idx(directory: &Path, side: usize) -> Result<ImageData, DataError> {
    let train = part(directory, "train", side)?;
    let test = part(directory, "t10k", side)?;
    let classes = train.labels().into_iter().max().map_or(0, |last| last + 1);
    if let Some(class) = test.labels().into_iter().find(|&class| class >= classes) {
        return Err(DataError::unusable(
            directory,
            format!("the class {class} has test samples but no training samples"),
        ));
    }
    Ok(RawDataset::data("mnist", classes, train, test))
}

fn part(directory: &Path, name: &str, side: usize) -> Result<RawDataset, DataError> {
    let (path, images) = read_maybe_gz(directory, &format!("{name}-images-idx3-ubyte"))?;
    let ([count, height, width], start) = dimensions::<3>(&path, &images)?;
    let (labels_path, labels) = read_maybe_gz(directory, &format!("{name}-labels-idx1-ubyte"))?;
    let ([labeled], first) = dimensions::<1>(&labels_path, &labels)?;
    if labeled != count || count == 0 {
        return Err(DataError::unusable(
            &labels_path,
            format!("it has {labeled} labels for {count} images"),
        ));
    }
    let images = SharedBytes::new(images);
    let pixels = height * width;
    let samples = labels[first..].iter().enumerate().map(|(index, &class)| {
        let begin = start + index * pixels;
        (images.clone(), begin..begin + pixels, usize::from(class))
    });
    Ok(RawDataset::new(samples.collect(), ImageShape { channels: 1, height, width }, side, path))
}

/// Reads the dimensions of an IDX file of bytes, and the offset of its values. Checks the number of
/// values.
fn dimensions<const D: usize>(path: &Path, bytes: &[u8]) -> Result<([usize; D], usize), DataError> {
    let wrong = |reason: String| DataError::unusable(path, reason);
    let begin = 4 + 4 * D;
    if bytes.len() < begin || bytes[..4] != [0, 0, 8, D as u8] {
        return Err(wrong(format!("not an IDX file of bytes in {D} dimensions")));
    }
    let mut dimensions = [0; D];
    for (dimension, word) in dimensions.iter_mut().zip(bytes[4..begin].chunks_exact(4)) {
        *dimension = word.iter().fold(0, |value, &byte| value << 8 | usize::from(byte));
    }
    let values =
        dimensions.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension));
    if values != Some(bytes.len() - begin) || dimensions.contains(&0) {
        return Err(wrong(format!(
            "expected {dimensions:?} values, found {}",
            bytes.len() - begin
        )));
    }
    Ok((dimensions, begin))
}
