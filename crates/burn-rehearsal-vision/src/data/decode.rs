//! Decodes JPEG and PNG files.
//!
//! The format is detected from the first bytes of the file, not from its name. Grayscale, CMYK and
//! YCCK images, and PNG of any bit depth, are converted to red, green and blue. The alpha channel
//! is dropped. The EXIF orientation is ignored, as in the usual loaders of ImageNet.
//!
//! JPEG is decoded strictly. A truncated file is an error, even if an end marker was appended to
//! it. An image with too little data for its size is refused before memory is allocated for it.
//!
//! `zune-jpeg` decodes nearly all JPEG files. `jpeg-decoder` decodes those that `zune-jpeg` decodes
//! wrongly without an error: sequential files with several scans, and files whose chroma is sampled
//! finer than their luma. Of these, files with four channels, or with a sampling factor that is
//! neither 1 nor the largest, are not supported. With the feature `turbojpeg`, libjpeg-turbo
//! decodes all files except those with four channels.

use super::jpeg::Survey;
use super::raw::{Scaler, planes};
use super::{CHANNELS, DataError, ImageOptions, ImageShape, MAX_PIXELS, Pixels, check_size};
use std::cell::RefCell;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Maximum side of a JPEG in pixels.
const MAX_SIDE: usize = 65_535;

/// The name of the library that decodes JPEG files: `zune-jpeg`, or `libjpeg-turbo` with the
/// feature `turbojpeg`. Their pixels differ slightly, so training is bit-identical only with the
/// same library.
pub const JPEG_DECODER: &str =
    if cfg!(feature = "turbojpeg") { "libjpeg-turbo" } else { "zune-jpeg" };

/// The conversion of an image to a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// Both sides are scaled independently.
    #[default]
    Stretch,
    /// The shorter side is scaled, then the center is cropped: torchvision's `Resize(side)` and
    /// `CenterCrop(side)`.
    Crop,
}

impl Fit {
    /// The name in fingerprints and packs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stretch => "stretch",
            Self::Crop => "crop",
        }
    }
}

/// Decodes images. A decoder reuses its working memory.
///
/// Images are scaled with bilinear interpolation, with antialiasing if they become smaller.
///
/// ```
/// use burn_rehearsal_vision::data::{Decoder, Fit};
///
/// # let image = image::RgbImage::from_pixel(40, 30, image::Rgb([200, 30, 40]));
/// # let mut png = std::io::Cursor::new(Vec::new());
/// # image.write_to(&mut png, image::ImageFormat::Png)?;
/// # let png = png.into_inner();
/// let pixels = Decoder::default().decode(&png, 16, Fit::Crop)?;
/// assert_eq!((pixels.len(), pixels[0]), (3 * 16 * 16, 200));
/// assert!(Decoder::default().decode(&png[..png.len() / 2], 16, Fit::Crop).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Decoder {
    file: Vec<u8>,
    /// The current JPEG, prepared by [`Survey::guarded`].
    guarded: Vec<u8>,
    /// The decoded image, channels last.
    decoded: Vec<u8>,
    scaler: Scaler,
    #[cfg(feature = "turbojpeg")]
    turbo: super::turbo::Turbo,
}

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::default();
}

/// Reads and decodes a file with the decoder of this thread.
pub(super) fn read(path: &Path, options: &ImageOptions) -> Result<Pixels, DataError> {
    DECODER.with_borrow_mut(|decoder| decoder.read(path, options.side, options.fit))
}

/// Decodes a file in memory with the decoder of this thread. Errors name `path`.
pub(super) fn decode(
    bytes: &[u8],
    path: &Path,
    options: &ImageOptions,
) -> Result<Pixels, DataError> {
    DECODER.with_borrow_mut(|decoder| {
        decoder.decode(bytes, options.side, options.fit).map_err(|reason| damaged(path, reason))
    })
}

fn damaged(path: &Path, reason: String) -> DataError {
    DataError::Image { path: path.to_path_buf(), reason }
}

impl Decoder {
    /// Reads and decodes a file to `[3, side, side]` pixels.
    ///
    /// # Errors
    ///
    /// [`DataError`] with the path.
    pub fn read(&mut self, path: &Path, side: usize, fit: Fit) -> Result<Pixels, DataError> {
        let mut file = std::mem::take(&mut self.file);
        file.clear();
        let read = File::open(path).and_then(|mut open| open.read_to_end(&mut file));
        let decoded = read
            .map_err(DataError::io("read the image", path))
            .and_then(|_| self.decode(&file, side, fit).map_err(|reason| damaged(path, reason)));
        self.file = file;
        decoded
    }

    /// Decodes the content of a file to `[3, side, side]` pixels.
    ///
    /// # Errors
    ///
    /// The reason as text.
    pub fn decode(&mut self, bytes: &[u8], side: usize, fit: Fit) -> Result<Pixels, String> {
        let (width, height) = match bytes {
            [0xff, 0xd8, ..] => self.jpeg(bytes, side)?,
            [0x89, b'P', b'N', b'G', ..] => self.png(bytes)?,
            [] => return Err("the file is empty".into()),
            _ => return Err("it is neither a JPEG nor a PNG".into()),
        };
        self.row((width, height), side, fit)
    }

    /// Scales the decoded image of `width` × `height` pixels and puts channels first.
    pub(super) fn row(
        &mut self,
        (width, height): (usize, usize),
        side: usize,
        fit: Fit,
    ) -> Result<Pixels, String> {
        let source = ImageShape { channels: CHANNELS, height, width };
        let scaled = self.scaler.scale(&self.decoded, source, side, fit)?;
        Pixels::write(CHANNELS * side * side, |row| {
            planes(scaled, row);
            Ok(())
        })
    }

    /// Decodes a JPEG, at reduced size if both sides still have at least `side` pixels.
    #[cfg(feature = "turbojpeg")]
    fn jpeg(&mut self, bytes: &[u8], side: usize) -> Result<(usize, usize), String> {
        let survey = survey(bytes)?;
        match self.turbo.decode(bytes, side, &mut self.decoded)? {
            Some(size) => Ok(size),
            None => self.surveyed_jpeg(bytes, &survey),
        }
    }

    #[cfg(not(feature = "turbojpeg"))]
    fn jpeg(&mut self, bytes: &[u8], _side: usize) -> Result<(usize, usize), String> {
        self.pure_jpeg(bytes)
    }

    #[cfg(any(test, not(feature = "turbojpeg")))]
    pub(super) fn pure_jpeg(&mut self, bytes: &[u8]) -> Result<(usize, usize), String> {
        self.surveyed_jpeg(bytes, &survey(bytes)?)
    }

    fn surveyed_jpeg(&mut self, bytes: &[u8], survey: &Survey) -> Result<(usize, usize), String> {
        survey.guarded(bytes, &mut self.guarded);
        if !survey.is_usual() {
            return self.unusual_jpeg(survey);
        }
        let options = DecoderOptions::default()
            .set_strict_mode(true)
            .set_max_width(MAX_SIDE)
            .set_max_height(MAX_SIDE)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder =
            JpegDecoder::new_with_options(ZCursor::new(self.guarded.as_slice()), options);
        // Some messages of the library end with a newline.
        let words =
            |error: zune_jpeg::errors::DecodeErrors| error.to_string().trim_end().to_owned();
        decoder.decode_headers().map_err(words)?;
        let (width, height) = decoder.dimensions().ok_or("it has no size")?;
        check_size(width, height)?;
        self.decoded.resize(width * height * CHANNELS, 0);
        decoder.decode_into(&mut self.decoded).map_err(words)?;
        Ok((width, height))
    }

    /// Decodes a JPEG that `zune-jpeg` would decode wrongly.
    fn unusual_jpeg(&mut self, survey: &Survey) -> Result<(usize, usize), String> {
        if !survey.is_scaled_plainly() {
            return Err("the sampling of its components is not supported".into());
        }
        let mut decoder = jpeg_decoder::Decoder::new(self.guarded.as_slice());
        let decoded = decoder.decode().map_err(|error| error.to_string())?;
        if decoded.len() != survey.width * survey.height * CHANNELS {
            return Err("its pixels are not red, green and blue".into());
        }
        self.decoded = decoded;
        Ok((survey.width, survey.height))
    }

    fn png(&mut self, bytes: &[u8]) -> Result<(usize, usize), String> {
        let mut reader =
            image::ImageReader::with_format(std::io::Cursor::new(bytes), image::ImageFormat::Png);
        let mut limits = image::Limits::default();
        limits.max_alloc = Some((MAX_PIXELS * 8) as u64);
        reader.limits(limits);
        let decoded = reader.decode().map_err(|error| error.to_string())?.into_rgb8();
        let (width, height) = (decoded.width() as usize, decoded.height() as usize);
        check_size(width, height)?;
        self.decoded.clear();
        self.decoded.extend_from_slice(&decoded);
        Ok((width, height))
    }
}

/// Reads the structure of a JPEG and checks its size.
fn survey(bytes: &[u8]) -> Result<Survey, String> {
    let survey = Survey::of(bytes)?;
    check_size(survey.width, survey.height)?;
    Ok(survey)
}
