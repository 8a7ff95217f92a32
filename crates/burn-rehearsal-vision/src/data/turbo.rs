//! JPEG by libjpeg-turbo (feature `turbojpeg`), which can decode an image at reduced size.

use super::{CHANNELS, check_size};
use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat, ScalingFactor};

/// Scaling factors. The library supports all eighths, but most of them are not faster.
const SCALES: [ScalingFactor; 4] = [
    ScalingFactor::ONE_EIGHTH,
    ScalingFactor::ONE_QUARTER,
    ScalingFactor::ONE_HALF,
    ScalingFactor::ONE,
];

/// A decompressor, which is created when it is first used.
#[derive(Debug, Default)]
pub(super) struct Turbo(Option<Decompressor>);

impl Turbo {
    /// Decodes an image to `decoded`, channels last, at the smallest size at which both sides have
    /// at least `side` pixels. Returns width and height, or `None` for an image with four channels,
    /// which the library does not convert to red, green and blue.
    ///
    /// Warnings of the library, for example about a truncated file, are errors.
    pub(super) fn decode(
        &mut self,
        bytes: &[u8],
        side: usize,
        decoded: &mut Vec<u8>,
    ) -> Result<Option<(usize, usize)>, String> {
        let words = |error: turbojpeg::Error| error.to_string();
        let decompressor = match &mut self.0 {
            Some(decompressor) => decompressor,
            none => none.insert(Decompressor::new().map_err(words)?),
        };
        let header = decompressor.read_header(bytes).map_err(words)?;
        if matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK) {
            return Ok(None);
        }
        check_size(header.width, header.height)?;
        let enough = |scale: &ScalingFactor| {
            scale.scale(header.width).min(scale.scale(header.height)) >= side
        };
        // Lossless JPEG has no frequencies, and cannot be scaled.
        let scale = SCALES
            .into_iter()
            .find(enough)
            .filter(|_| !header.is_lossless)
            .unwrap_or(ScalingFactor::ONE);
        decompressor.set_scaling_factor(scale).map_err(words)?;
        let (width, height) = (scale.scale(header.width), scale.scale(header.height));
        let pitch = width * CHANNELS;
        decoded.resize(pitch * height, 0);
        decompressor
            .decompress(
                bytes,
                Image {
                    pixels: decoded.as_mut_slice(),
                    width,
                    height,
                    pitch,
                    format: PixelFormat::RGB,
                },
            )
            .map_err(words)?;
        Ok(Some((width, height)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decoder, Fit, Pixels};
    use super::*;
    use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgb, RgbImage};

    /// 200 × 150 pixels of smooth waves.
    fn jpeg(gray: bool) -> Vec<u8> {
        let wave = |x: u32, y: u32, scale: f32| {
            (128.0 + 90.0 * (x as f32 / scale).sin() * (y as f32 / scale).cos()) as u8
        };
        let image = match gray {
            true => {
                DynamicImage::from(GrayImage::from_fn(200, 150, |x, y| Luma([wave(x, y, 17.0)])))
            }
            false => DynamicImage::from(RgbImage::from_fn(200, 150, |x, y| {
                Rgb([wave(x, y, 17.0), wave(y, x, 23.0), wave(x, y, 41.0)])
            })),
        };
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
        bytes.into_inner()
    }

    /// The mean and the largest difference.
    fn differences(a: &Pixels, b: &Pixels) -> (f64, u8) {
        assert_eq!(a.len(), b.len());
        let differences: Vec<u8> = a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
        (
            differences.iter().map(|&by| f64::from(by)).sum::<f64>() / a.len() as f64,
            differences.into_iter().max().unwrap(),
        )
    }

    #[test]
    fn images_are_decoded_at_the_smallest_sufficient_size() {
        let (mut turbo, mut decoded) = (Turbo::default(), Vec::new());
        let sizes = [
            (1, (25, 19)),
            (19, (25, 19)),
            (20, (50, 38)),
            (38, (50, 38)),
            (75, (100, 75)),
            (76, (200, 150)),
            (300, (200, 150)),
        ];
        for (side, size) in sizes {
            assert_eq!(turbo.decode(&jpeg(false), side, &mut decoded), Ok(Some(size)));
            assert_eq!(decoded.len(), 3 * size.0 * size.1);
        }
    }

    #[test]
    fn pixels_are_close_to_those_of_the_pure_decoder() {
        let mut decoder = Decoder::default();
        for (bytes, side, fit) in [false, true].into_iter().flat_map(|gray| {
            [16, 19, 30, 64, 100, 150, 180]
                .into_iter()
                .flat_map(move |side| [Fit::Stretch, Fit::Crop].map(|fit| (jpeg(gray), side, fit)))
        }) {
            let turbo = decoder.decode(&bytes, side, fit).unwrap();
            let size = decoder.pure_jpeg(&bytes).unwrap();
            let (mean, most) = differences(&turbo, &decoder.row(size, side, fit).unwrap());
            // The scaled side is rounded up to whole pixels, which shifts the image by up to an
            // eighth of a pixel in 19.
            assert!(mean < 3.0 && most < 16, "side {side}, {fit:?}: {mean} {most}");
        }
    }

    #[test]
    fn four_channels_are_declined_and_truncated_images_are_errors() {
        let cmyk = include_bytes!("../../tests/data/cmyk.jpg");
        let (mut turbo, mut decoded) = (Turbo::default(), Vec::new());
        assert_eq!(turbo.decode(cmyk, 8, &mut decoded), Ok(None));
        let (mut decoder, bytes) = (Decoder::default(), jpeg(false));
        let whole = decoder.decode(&bytes, 8, Fit::Stretch).unwrap();
        // The result does not depend on earlier images.
        for before in [&cmyk[..], &bytes] {
            for length in [0, 3, 100, bytes.len() / 2, bytes.len() - 40] {
                decoder.decode(before, 8, Fit::Stretch).unwrap();
                assert!(
                    decoder.decode(&bytes[..length], 8, Fit::Stretch).is_err(),
                    "{length} bytes"
                );
            }
        }
        assert_eq!(
            differences(&decoder.decode(&bytes, 8, Fit::Stretch).unwrap(), &whole),
            (0.0, 0),
            "later images are not affected"
        );
    }
}
