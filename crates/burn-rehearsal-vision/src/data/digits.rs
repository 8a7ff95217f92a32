//! The embedded handwritten digits. See `digits/README.md` for their origin and license.

use super::source::Kind;
use super::{Damaged, DataError, Image, ImageData, ImageShape};
use burn::data::dataset::InMemDataset;
use burn_rehearsal_train::fingerprint::{Fingerprint, Split};
use flate2::read::MultiGzDecoder;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

const DIGITS: &[u8] = include_bytes!("digits/digits.csv.gz");
const NAME: &str = "digits";
const SIDE: usize = 8;
/// The largest gray level in the file.
const LEVELS: f32 = 16.0;
/// Every fifth sample of each class is a test sample.
const TEST_EVERY: usize = 5;

pub(super) const KIND: Kind = Kind {
    name: NAME,
    layout: None,
    usual_side: |_| SIDE,
    open: |_, options| open_digits(options.side),
};

/// Opens the embedded data set: 1,797 handwritten digits of 8×8 pixels in ten classes (E. Alpaydin
/// and C. Kaynak, 1998), scaled to `side` × `side` pixels by bilinear interpolation.
///
/// Four fifths of each class are training samples.
///
/// ```
/// use burn_rehearsal_vision::data::open_digits;
///
/// let digits = open_digits(8)?;
/// assert_eq!((digits.train.len(), digits.test.len(), digits.classes), (1442, 355, 10));
/// assert_eq!(digits.train.get(0)?.pixels.len(), 64);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`DataError`] if the embedded file is damaged.
pub fn open_digits(side: usize) -> Result<ImageData, DataError> {
    let damaged = |line: usize, what: &str| {
        DataError::unusable(Path::new(NAME), format!("line {}: {what}", line + 1))
    };
    let (mut train, mut test) = (Vec::new(), Vec::new());
    let mut seen = [0usize; 10];
    for (number, line) in BufReader::new(MultiGzDecoder::new(DIGITS)).lines().enumerate() {
        let line = line.map_err(|error| damaged(number, &error.to_string()))?;
        let values =
            line.split(',').map(|value| value.trim().parse::<u8>()).collect::<Result<Vec<_>, _>>();
        let values = values.map_err(|error| damaged(number, &error.to_string()))?;
        let Some((&class, levels)) = values.split_last() else {
            return Err(damaged(number, "empty"));
        };
        let class = usize::from(class);
        if levels.len() != SIDE * SIDE || class >= seen.len() {
            return Err(damaged(number, "not 64 pixels and a class"));
        }
        seen[class] += 1;
        let part = if seen[class] % TEST_EVERY == 0 { &mut test } else { &mut train };
        part.push(Image { pixels: scale(levels, side).into(), class, index: part.len() });
    }
    let labels = |images: &[Image]| images.iter().map(|image| image.class).collect();
    let mut fingerprint = Fingerprint::builder(
        "images",
        "all pixels",
        (0..seen.len()).map(|class| Some(class.to_string())),
    );
    for (split, images) in [(Split::Train, &train), (Split::Test, &test)] {
        images.iter().for_each(|image| fingerprint.add(split, image.class, &[&image.pixels]));
    }
    Ok(ImageData {
        fingerprint: fingerprint
            .build()
            .with_option("the kind of data", NAME)
            .with_option("image size", side),
        train_labels: labels(&train),
        test_labels: labels(&test),
        train: Arc::new(InMemDataset::new(train)),
        test: Arc::new(InMemDataset::new(test)),
        classes: seen.len(),
        shape: ImageShape::square(1, side),
        damaged: Damaged::default(),
        files: None,
    })
}

/// Scales gray levels 0..=16 of 8×8 pixels to bytes of `side` × `side` pixels. Pixel centers are
/// aligned as in image libraries.
fn scale(levels: &[u8], side: usize) -> Vec<u8> {
    let along = |pixel: usize| {
        let position =
            ((pixel as f32 + 0.5) * SIDE as f32 / side as f32 - 0.5).clamp(0.0, (SIDE - 1) as f32);
        let low = position as usize;
        (low, (low + 1).min(SIDE - 1), position - low as f32)
    };
    let level = |y: usize, x: usize| f32::from(levels[y * SIDE + x]);
    let mut pixels = Vec::with_capacity(side * side);
    for y in 0..side {
        let (top, bottom, down) = along(y);
        for x in 0..side {
            let (left, right, across) = along(x);
            let upper = level(top, left) * (1.0 - across) + level(top, right) * across;
            let lower = level(bottom, left) * (1.0 - across) + level(bottom, right) * across;
            pixels.push(((upper * (1.0 - down) + lower * down) * 255.0 / LEVELS).round() as u8);
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_training_and_test_samples() {
        let data = open_digits(8).unwrap();
        assert_eq!(data.train_labels.len() + data.test_labels.len(), 1797);
        for class in 0..10 {
            let count = |labels: &[usize]| labels.iter().filter(|&&label| label == class).count();
            assert!(
                (34..=37).contains(&count(&data.test_labels)) && count(&data.train_labels) >= 139,
                "class {class}"
            );
        }
        assert_eq!(data.train.get(0).unwrap().pixels.len(), 64);
    }

    #[test]
    fn scaling_is_exact_for_the_original_size_and_uniform_images() {
        let levels: Vec<u8> = (0..64).map(|i| (i % 17) as u8).collect();
        let exact: Vec<u8> =
            levels.iter().map(|&l| (f32::from(l) * 255.0 / 16.0).round() as u8).collect();
        assert_eq!(scale(&levels, 8), exact);
        assert_eq!(scale(&[16; 64], 28), vec![255; 28 * 28]);
    }
}
