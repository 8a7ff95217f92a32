//! A folder of images, one subfolder per class: `train/CLASS/*` and `test/CLASS/*` or `val/CLASS/*`.

use super::ImageData;
use crate::batch::{Image, ImageShape};
use crate::error::AppError;
use burn::data::dataset::{Dataset, DatasetError};
use image::imageops::FilterType;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files and their classes; images are read and scaled when they are asked for.
struct FolderDataset {
    files: Vec<(PathBuf, usize)>,
    side: usize,
}

/// An image that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the image {}: {source}", path.display())]
struct ImageFileError {
    path: PathBuf,
    source: image::ImageError,
}

impl Dataset<Image> for FolderDataset {
    fn get(&self, index: usize) -> Result<Image, DatasetError> {
        let (path, class) = &self.files[index];
        let failed = |source| DatasetError::new(ImageFileError { path: path.clone(), source });
        let decoded = image::ImageReader::open(path)
            .and_then(image::ImageReader::with_guessed_format)
            .map_err(|error| failed(error.into()))?
            .decode()
            .map_err(failed)?;
        let side = self.side as u32;
        let scaled = if (decoded.width(), decoded.height()) == (side, side) {
            decoded
        } else {
            decoded.resize_exact(side, side, FilterType::Triangle)
        };
        let interleaved = scaled.into_rgb8().into_raw();
        let pixels: Vec<u8> = (0..3).flat_map(|channel| interleaved.iter().skip(channel).step_by(3).copied()).collect();
        Ok(Image { pixels: pixels.into(), class: *class, index })
    }

    fn len(&self) -> usize {
        self.files.len()
    }
}

/// Lists the images under `directory`; classes are the subfolders of `train` in alphabetical order.
pub fn folder(directory: &Path, side: usize) -> Result<ImageData, AppError> {
    let unusable = |reason: String| AppError::Data { path: directory.to_path_buf(), reason };
    entries(directory)?;
    let train = directory.join("train");
    if !train.is_dir() {
        return Err(unusable("there is no `train` folder in it".into()));
    }
    let test = ["test", "val"].map(|name| directory.join(name)).into_iter().find(|path| path.is_dir());
    let test = test.ok_or_else(|| unusable("there is neither a `test` nor a `val` folder in it".into()))?;
    let classes = subfolders(&train)?;
    if classes.is_empty() {
        return Err(unusable("`train` has no subfolder, one per class is expected".into()));
    }
    if let Some(unknown) = subfolders(&test)?.into_iter().find(|class| !classes.contains(class)) {
        return Err(unusable(format!("the class `{unknown}` is in {} but not in `train`", test.display())));
    }
    let list = |part: &Path| -> Result<Vec<(PathBuf, usize)>, AppError> {
        let mut files = Vec::new();
        for (class, name) in classes.iter().enumerate() {
            let folder = part.join(name);
            let before = files.len();
            files.extend(entries(&folder)?.into_iter().filter(|path| is_image(path)).map(|path| (path, class)));
            if files.len() == before {
                return Err(unusable(format!("the class `{name}` has no image (jpg, jpeg or png) in {}", folder.display())));
            }
        }
        Ok(files)
    };
    let (train, test) = (list(&train)?, list(&test)?);
    let labels = |files: &[(PathBuf, usize)]| files.iter().map(|(_, class)| *class).collect();
    Ok(ImageData {
        train_labels: labels(&train),
        test_labels: labels(&test),
        train: Arc::new(FolderDataset { files: train, side }),
        test: Arc::new(FolderDataset { files: test, side }),
        classes: classes.len(),
        shape: ImageShape { channels: 3, height: side, width: side },
    })
}

/// The entries of a folder in alphabetical order.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, AppError> {
    let failed = |source| AppError::Io { action: "read the folder", path: directory.to_path_buf(), source };
    let mut paths = std::fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// The names of the folders in a folder, in alphabetical order; hidden ones (`.ipynb_checkpoints`) are no classes.
fn subfolders(directory: &Path) -> Result<Vec<String>, AppError> {
    let folders = entries(directory)?.into_iter().filter(|path| path.is_dir());
    Ok(folders.filter_map(|path| name(&path)).filter(|name| !name.starts_with('.')).collect())
}

fn name(path: &Path) -> Option<String> {
    path.file_name().and_then(|name| name.to_str()).map(str::to_owned)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
}
