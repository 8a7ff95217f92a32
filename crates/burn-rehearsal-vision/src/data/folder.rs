//! Directories of JPEG and PNG files.

use super::decode::read;
use super::files::{entries, is_hidden, is_image, subfolders};
use super::source::Kind;
use super::{
    CHANNELS, Damaged, DataError, Image, ImageData, ImageOptions, ImageShape, fingerprint,
};
use burn::data::dataset::{Dataset, DatasetError};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file and its class.
type Labeled = (PathBuf, usize);

/// Files that are decoded when they are requested.
struct FolderDataset {
    files: Arc<Vec<PathBuf>>,
    classes: Vec<usize>,
    options: ImageOptions,
    damaged: Damaged,
}

impl Dataset<Image> for FolderDataset {
    fn get(&self, index: usize) -> Result<Image, DatasetError> {
        let pixels = read(&self.files[index], &self.options)
            .map_err(|error| self.damaged.error(error, self.options.on_damaged))?;
        Ok(Image { pixels, class: self.classes[index], index })
    }

    fn len(&self) -> usize {
        self.files.len()
    }
}

pub(super) const KIND: Kind = Kind {
    name: "folder",
    layout: Some("train/CLASS/* and test/CLASS/* (or val/CLASS/*), JPEG or PNG"),
    usual_side: |_| 32,
    open: open_folder,
};

pub(super) const TINY_IMAGENET: Kind = Kind {
    name: "tiny-imagenet",
    layout: Some("the directories as published"),
    usual_side: |_| 64,
    open: open_tiny_imagenet,
};

/// Opens the images in `train/CLASS/*` and `test/CLASS/*` (or `val/CLASS/*`). The classes are the
/// subdirectories of `train` in alphabetical order.
///
/// ```no_run
/// use burn_rehearsal_vision::data::{Fit, ImageOptions, OnDamaged, open_folder};
///
/// let options = ImageOptions { side: 64, fit: Fit::Crop, on_damaged: OnDamaged::Skip };
/// let pets = open_folder("data/pets".as_ref(), &options)?;
/// println!("{} images in {} classes", pets.train.len(), pets.classes);
/// # Ok::<(), burn_rehearsal_vision::data::DataError>(())
/// ```
///
/// # Errors
///
/// [`DataError`] with the file or directory and the reason.
pub fn open_folder(directory: &Path, options: &ImageOptions) -> Result<ImageData, DataError> {
    let unusable = |reason: String| DataError::unusable(directory, reason);
    entries(directory)?;
    let train = train_folder(directory)?;
    let test =
        ["test", "val"].map(|name| directory.join(name)).into_iter().find(|path| path.is_dir());
    let test =
        test.ok_or_else(|| unusable("there is neither a `test` nor a `val` folder in it".into()))?;
    let classes = classes(directory, &train)?;
    if let Some(unknown) = subfolders(&test)?.into_iter().find(|class| !classes.contains(class)) {
        return Err(unusable(format!(
            "the class `{unknown}` is in {} but not in `train`",
            test.display()
        )));
    }
    let list = |part: &Path| -> Result<Vec<Labeled>, DataError> {
        let mut files = Vec::new();
        for (class, name) in classes.iter().enumerate() {
            images_of(directory, name, &part.join(name), class, &mut files)?;
        }
        Ok(files)
    };
    data("folder", list(&train)?, list(&test)?, &classes, options)
}

/// Opens Tiny-ImageNet as published: `train/CLASS/images/*`, and `val/images/*` with the classes in
/// `val/val_annotations.txt`.
///
/// ```no_run
/// use burn_rehearsal_vision::data::{Fit, ImageOptions, OnDamaged, open_tiny_imagenet};
///
/// let options = ImageOptions { side: 64, fit: Fit::Stretch, on_damaged: OnDamaged::Fail };
/// let tiny = open_tiny_imagenet("data/tiny-imagenet-200".as_ref(), &options)?;
/// assert_eq!((tiny.train.len(), tiny.classes), (100_000, 200));
/// # Ok::<(), burn_rehearsal_vision::data::DataError>(())
/// ```
///
/// # Errors
///
/// [`DataError`] with the file or directory and the reason.
pub fn open_tiny_imagenet(
    directory: &Path,
    options: &ImageOptions,
) -> Result<ImageData, DataError> {
    entries(directory)?;
    let train = train_folder(directory)?;
    let classes = classes(directory, &train)?;
    let mut files = Vec::new();
    for (class, name) in classes.iter().enumerate() {
        images_of(directory, name, &train.join(name).join("images"), class, &mut files)?;
    }
    let annotations = directory.join("val").join("val_annotations.txt");
    let text =
        std::fs::read_to_string(&annotations).map_err(DataError::io("read", &annotations))?;
    let numbers: BTreeMap<&str, usize> =
        classes.iter().enumerate().map(|(class, name)| (name.as_str(), class)).collect();
    let mut tests = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut words = line.split('\t');
        let known = words.next().zip(words.next().and_then(|class| numbers.get(class.trim())));
        let Some((file, &class)) = known else {
            let reason = format!("line {} does not name a file and a class of `train`", number + 1);
            return Err(DataError::unusable(&annotations, reason));
        };
        tests.push((directory.join("val").join("images").join(file), class));
    }
    if tests.is_empty() {
        return Err(DataError::unusable(&annotations, "it names no image"));
    }
    tests.sort();
    data("tiny-imagenet", files, tests, &classes, options)
}

fn train_folder(directory: &Path) -> Result<PathBuf, DataError> {
    let train = directory.join("train");
    if train.is_dir() {
        Ok(train)
    } else {
        Err(DataError::unusable(directory, "there is no `train` folder in it"))
    }
}

fn classes(directory: &Path, train: &Path) -> Result<Vec<String>, DataError> {
    let classes = subfolders(train)?;
    if classes.is_empty() {
        return Err(DataError::unusable(
            directory,
            "`train` has no subfolder; expected one per class",
        ));
    }
    Ok(classes)
}

fn images_of(
    directory: &Path,
    class_name: &str,
    folder: &Path,
    class: usize,
    files: &mut Vec<Labeled>,
) -> Result<(), DataError> {
    let before = files.len();
    files.extend(
        entries(folder)?
            .into_iter()
            .filter(|path| is_image(path) && !is_hidden(path))
            .map(|path| (path, class)),
    );
    if files.len() == before {
        let reason = format!(
            "the class `{class_name}` has no image (jpg, jpeg or png) in {}",
            folder.display()
        );
        return Err(DataError::unusable(directory, reason));
    }
    Ok(())
}

fn data(
    kind: &str,
    train: Vec<Labeled>,
    test: Vec<Labeled>,
    classes: &[String],
    options: &ImageOptions,
) -> Result<ImageData, DataError> {
    let damaged = Damaged::default();
    let part = |files: Vec<Labeled>| {
        let (files, classes): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        FolderDataset {
            files: Arc::new(files),
            classes,
            options: *options,
            damaged: damaged.clone(),
        }
    };
    let (train, test) = (part(train), part(test));
    let parts = [&train, &test].map(|part| (part.files.as_slice(), part.classes.as_slice()));
    Ok(ImageData {
        fingerprint: fingerprint::of_files(kind, classes, parts, options)?,
        train_labels: train.classes.clone(),
        test_labels: test.classes.clone(),
        files: Some([train.files.clone(), test.files.clone()]),
        train: Arc::new(train),
        test: Arc::new(test),
        classes: classes.len(),
        shape: ImageShape::square(CHANNELS, options.side),
        damaged,
    })
}
