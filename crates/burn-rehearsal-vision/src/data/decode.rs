//! From the bytes of a JPEG or PNG file to a row of pixels.
//!
//! The format is recognised by the first bytes of the file, not by its name. Grey, CMYK and YCCK
//! images, and PNG of any depth, are converted to red, green and blue. An alpha channel is dropped.
//! The orientation in EXIF is ignored, as in the usual loaders of ImageNet.
//!
//! A JPEG is decoded strictly: one that ends too early is damaged, not grey from there on, even if
//! an end marker was put behind it. An image whose data are too few for its size is damaged before
//! memory is taken for its pixels.
//!
//! `zune-jpeg` decodes nearly all files. `jpeg-decoder` decodes those that `zune-jpeg` gets wrong
//! without saying so: sequential ones with several scans, and those whose chroma is sampled finer
//! than their luma. A few of them are refused as not supported: with four channels, or with a
//! component whose sampling factor is neither the largest one nor 1. With the feature `turbojpeg`,
//! libjpeg-turbo decodes all but images with four channels.

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

/// The longest side of a JPEG.
const MAX_SIDE: usize = 65_535;

/// The library that decodes JPEG files: `zune-jpeg`, or `libjpeg-turbo` with the feature
/// `turbojpeg`. Their pixels differ a little, and so do the bits of what is learned from them.
pub const JPEG_DECODER: &str =
    if cfg!(feature = "turbojpeg") { "libjpeg-turbo" } else { "zune-jpeg" };

/// How an image that is no square becomes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fit {
    /// Both sides are scaled to the same length.
    #[default]
    Stretch,
    /// The shorter side is scaled; what is too much of the longer one is cut off at both ends:
    /// `Resize(side)` and `CenterCrop(side)`.
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

/// Decodes images one after the other, in working memory that it keeps.
#[derive(Debug, Default)]
pub struct Decoder {
    file: Vec<u8>,
    /// The JPEG at hand as [`Survey::guarded`] prepares it.
    guarded: Vec<u8>,
    /// The decoded image, pixel by pixel.
    decoded: Vec<u8>,
    scaler: Scaler,
    #[cfg(feature = "turbojpeg")]
    turbo: super::turbo::Turbo,
}

thread_local! {
    static DECODER: RefCell<Decoder> = RefCell::default();
}

/// Reads and decodes a file, with the decoder of this thread.
pub(super) fn read(path: &Path, options: &ImageOptions) -> Result<Pixels, DataError> {
    DECODER.with_borrow_mut(|decoder| decoder.read(path, options.side, options.fit))
}

/// Decodes the bytes of a file that is called `path` in errors, with the decoder of this thread.
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
    /// Reads and decodes the file `path` to `[3, side, side]` pixels.
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

    /// Decodes an image to `[3, side, side]` pixels.
    ///
    /// # Errors
    ///
    /// The message of the decoder.
    pub fn decode(&mut self, bytes: &[u8], side: usize, fit: Fit) -> Result<Pixels, String> {
        let (width, height) = match bytes {
            [0xff, 0xd8, ..] => self.jpeg(bytes, side)?,
            [0x89, b'P', b'N', b'G', ..] => self.png(bytes)?,
            [] => return Err("the file is empty".into()),
            _ => return Err("it is neither a JPEG nor a PNG".into()),
        };
        self.row((width, height), side, fit)
    }

    /// The row of what was decoded, which has `width` × `height` pixels.
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

    /// Decodes a JPEG: all of it, or no more than `side` pixels in each direction need.
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
        // Some of the library's messages end a line.
        let words =
            |error: zune_jpeg::errors::DecodeErrors| error.to_string().trim_end().to_owned();
        decoder.decode_headers().map_err(words)?;
        let (width, height) = decoder.dimensions().ok_or("it has no size")?;
        check_size(width, height)?;
        self.decoded.resize(width * height * CHANNELS, 0);
        decoder.decode_into(&mut self.decoded).map_err(words)?;
        Ok((width, height))
    }

    /// Decodes what `zune-jpeg` would get wrong.
    fn unusual_jpeg(&mut self, survey: &Survey) -> Result<(usize, usize), String> {
        if !survey.is_scaled_plainly() {
            return Err("its components are sampled in a way that is not supported".into());
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

/// The structure of a JPEG whose size is within bounds.
fn survey(bytes: &[u8]) -> Result<Survey, String> {
    let survey = Survey::of(bytes)?;
    check_size(survey.width, survey.height)?;
    Ok(survey)
}
