//! Labelled images with a training and a test part.

mod digits;
mod folder;

pub use digits::digits;
pub use folder::folder;

use crate::batch::{Image, ImageShape};
use crate::error::AppError;
use burn::data::dataset::Dataset;
use std::path::Path;
use std::sync::Arc;

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
}

/// Opens what `--data` names, with images of `image_size` pixels.
///
/// # Errors
///
/// [`AppError`] naming the data and what is wrong with it.
pub fn open(data: &str, image_size: usize) -> Result<ImageData, AppError> {
    match data.split_once(':') {
        None if data == "digits" => digits(image_size),
        Some(("folder", directory)) if !directory.is_empty() => folder(Path::new(directory), image_size),
        _ => Err(AppError::Option { option: "data", value: data.into(), reason: "expected `digits` or `folder:DIR`".into() }),
    }
}
