//! Fingerprints of data sets, as documented in the parent module.

use super::{DataError, Fit, ImageOptions};
use burn_rehearsal_train::fingerprint::{Fingerprint, Split};
use rayon::prelude::*;
use std::path::PathBuf;

/// Files and their classes, of the training and of the test part.
pub(super) type Parts<'a> = [(&'a [PathBuf], &'a [usize]); 2];

/// The fingerprint of a data set with a file for each image. `names` are the names of the classes.
pub(super) fn of_files(
    kind: &str,
    names: &[String],
    parts: Parts<'_>,
    options: &ImageOptions,
) -> Result<Fingerprint, DataError> {
    let mut data = Fingerprint::builder(
        "images",
        "names and sizes of files",
        names.iter().map(|name| Some(name.as_str())),
    );
    for (split, (files, classes)) in [Split::Train, Split::Test].into_iter().zip(parts) {
        let size = |file: &PathBuf| {
            Ok(std::fs::metadata(file).map_err(DataError::io("read the metadata of", file))?.len())
        };
        // There may be millions of files, on a network file system.
        let sizes: Vec<u64> = files.par_iter().map(size).collect::<Result<_, _>>()?;
        for ((file, &class), size) in files.iter().zip(classes).zip(sizes) {
            let name = file.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default();
            data.add(split, class, &[name, &size.to_le_bytes()]);
        }
    }
    Ok(with_options(data.build(), kind, options.side, options.fit))
}

/// Adds the options that determine decoded images.
pub(super) fn with_options(data: Fingerprint, kind: &str, side: usize, fit: Fit) -> Fingerprint {
    data.with_option("the kind of data", kind)
        .with_option("image size", side)
        .with_option("fit", fit.name())
}
