//! Data sets by name.

use super::{DataError, ImageData, ImageOptions, cifar, digits, folder, idx, pack_reader};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// All kinds of data sets. A new kind is a file and a line here.
static KINDS: [Kind; 7] = [
    digits::KIND,
    folder::KIND,
    folder::TINY_IMAGENET,
    cifar::CIFAR10,
    cifar::CIFAR100,
    idx::MNIST,
    pack_reader::KIND,
];

/// A kind of data set. Every kind is declared in its own file.
pub(super) struct Kind {
    /// The name, as in `name:DIR`.
    pub(super) name: &'static str,
    /// The expected files in its directory, for help texts; `None` if it is embedded.
    pub(super) layout: Option<&'static str>,
    /// The side of the images in pixels, or a common one if images have any size.
    pub(super) usual_side: fn(&Path) -> usize,
    /// Opens a directory.
    pub(super) open: fn(&Path, &ImageOptions) -> Result<ImageData, DataError>,
}

/// A data set by name: `digits`, which is embedded, or `KIND:DIR`. Useful for command-line options
/// and configuration files.
///
/// ```
/// use burn_rehearsal_vision::data::{DataSource, Fit, ImageOptions, OnDamaged};
///
/// let source: DataSource = "digits".parse()?;
/// let side = source.usual_side();
/// let options = ImageOptions { side, fit: Fit::Stretch, on_damaged: OnDamaged::Fail };
/// assert_eq!(source.open(&options)?.classes, 10);
/// assert!("cifar10:data/cifar-10-batches-bin".parse::<DataSource>().is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct DataSource {
    kind: &'static Kind,
    /// Empty for embedded data.
    directory: PathBuf,
}

/// The error for text that is not the name of a data set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of `{}`", KINDS.each_ref().map(Kind::pattern).join("`, `"))]
pub struct UnknownDataSource;

impl DataSource {
    /// Opens the data set.
    ///
    /// # Errors
    ///
    /// [`DataError`] with the file or directory and the reason.
    pub fn open(&self, options: &ImageOptions) -> Result<ImageData, DataError> {
        (self.kind.open)(&self.directory, options)
    }

    /// The side of the images in pixels, or a common one if images have any size.
    pub fn usual_side(&self) -> usize {
        (self.kind.usual_side)(&self.directory)
    }

    /// A short name, for example for an output directory: `digits`, or the name of the directory.
    pub fn name(&self) -> PathBuf {
        // `folder:.` and `folder:..` have no name of their own.
        let path =
            std::fs::canonicalize(&self.directory).unwrap_or_else(|_| self.directory.clone());
        path.file_name().map_or_else(|| self.kind.name.into(), PathBuf::from)
    }

    /// The names of all kinds, as in `folder:DIR`, and the expected files of each (`None` for
    /// embedded data).
    ///
    /// ```
    /// use burn_rehearsal_vision::data::DataSource;
    ///
    /// for (name, files) in DataSource::choices() {
    ///     println!("{name}: {}", files.unwrap_or("embedded"));
    /// }
    /// ```
    pub fn choices() -> impl Iterator<Item = (String, Option<&'static str>)> {
        KINDS.iter().map(|kind| (kind.pattern(), kind.layout))
    }
}

impl Kind {
    fn pattern(&self) -> String {
        format!("{}{}", self.name, if self.layout.is_some() { ":DIR" } else { "" })
    }
}

impl FromStr for DataSource {
    type Err = UnknownDataSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, directory) =
            text.split_once(':').map_or((text, None), |(name, directory)| (name, Some(directory)));
        let kind = KINDS.iter().find(|kind| kind.name == name).ok_or(UnknownDataSource)?;
        match (kind.layout, directory) {
            (None, None) => Ok(Self { kind, directory: PathBuf::new() }),
            (Some(_), Some(directory)) if !directory.is_empty() => {
                Ok(Self { kind, directory: directory.into() })
            }
            _ => Err(UnknownDataSource),
        }
    }
}

/// The text that [`FromStr`] reads.
impl fmt::Display for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind.layout {
            None => f.write_str(self.kind.name),
            Some(_) => write!(f, "{}:{}", self.kind.name, self.directory.display()),
        }
    }
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataSource({self})")
    }
}

impl PartialEq for DataSource {
    fn eq(&self, other: &Self) -> bool {
        self.kind.name == other.kind.name && self.directory == other.directory
    }
}

impl Eq for DataSource {}

impl Serialize for DataSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DataSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_data_sets_round_trip() {
        for text in [
            "digits",
            "folder:a/./b",
            "tiny-imagenet:/x",
            "cifar10:..",
            "cifar100:a:b",
            "mnist:m",
            "pack:p/",
        ] {
            let source: DataSource = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
            assert_eq!(serde_json::from_str::<DataSource>(&format!("{text:?}")).unwrap(), source);
        }
    }

    #[test]
    fn unknown_names_are_refused_with_a_list_of_names() {
        for text in ["", "digits:", "folder", "folder:", "cifar", "imagenet:x"] {
            let error = text.parse::<DataSource>().unwrap_err().to_string();
            assert!(
                error.starts_with("expected one of `digits`, `folder:DIR`, ")
                    && error.ends_with(", `pack:DIR`"),
                "{text}: {error}"
            );
        }
    }
}
