//! The data that `--data` names.

mod digits;

pub use digits::digits;

use crate::error::AppError;
use burn_rehearsal_train::data::{
    Cifar, ImageData, ImageOptions, open_cifar, open_folder, open_idx, open_pack, open_tiny_imagenet, packed_side,
};
use std::path::{Path, PathBuf};

/// What `--data` can be.
const EXPECTED: &str = "expected `digits`, or `folder:DIR`, `tiny-imagenet:DIR`, `cifar10:DIR`, `cifar100:DIR`, `mnist:DIR` or `pack:DIR`";

/// What a data set that `--data` names is, and where.
enum Source<'a> {
    Digits,
    Folder(&'a Path),
    TinyImageNet(&'a Path),
    Cifar(Cifar, &'a Path),
    Mnist(&'a Path),
    Pack(&'a Path),
}

impl<'a> Source<'a> {
    fn of(data: &'a str) -> Option<Self> {
        let Some((kind, directory)) = data.split_once(':') else { return (data == "digits").then_some(Self::Digits) };
        let directory = Some(Path::new(directory)).filter(|directory| !directory.as_os_str().is_empty())?;
        Some(match kind {
            "folder" => Self::Folder(directory),
            "tiny-imagenet" => Self::TinyImageNet(directory),
            "cifar10" => Self::Cifar(Cifar::Ten, directory),
            "cifar100" => Self::Cifar(Cifar::Hundred, directory),
            "mnist" => Self::Mnist(directory),
            "pack" => Self::Pack(directory),
            _ => return None,
        })
    }
}

/// Opens what `--data` names.
///
/// # Errors
///
/// [`AppError`] naming the data and what is wrong with it.
pub fn open(data: &str, options: &ImageOptions) -> Result<ImageData, AppError> {
    let opened = match Source::of(data) {
        None => return Err(AppError::option("data", data, EXPECTED)),
        Some(Source::Digits) => return digits(options.side),
        Some(Source::Folder(directory)) => open_folder(directory, options),
        Some(Source::TinyImageNet(directory)) => open_tiny_imagenet(directory, options),
        Some(Source::Cifar(which, directory)) => open_cifar(directory, which, options.side),
        Some(Source::Mnist(directory)) => open_idx(directory, options.side),
        Some(Source::Pack(directory)) => open_pack(directory, options),
    };
    Ok(opened?)
}

/// The side that the images of a data set have by themselves, or that is usual for it; nothing for what cannot be opened.
pub fn usual_side(data: &str) -> Option<usize> {
    Source::of(data).map(|source| match source {
        Source::Digits => 8,
        Source::Folder(_) | Source::Cifar(..) => 32,
        Source::TinyImageNet(_) => 64,
        Source::Mnist(_) => 28,
        Source::Pack(directory) => packed_side(directory).unwrap_or(32),
    })
}

/// What a run is called after: `digits`, or the name of the folder.
pub fn name(data: &str) -> PathBuf {
    let Some((kind, directory)) = data.split_once(':') else { return data.into() };
    // `folder:.` and `folder:..` have no name of their own.
    let path = std::fs::canonicalize(directory).unwrap_or_else(|_| directory.into());
    path.file_name().map_or_else(|| kind.into(), PathBuf::from)
}
