//! Transforms of images on the device: augmentation in training, fixed crops in evaluation.

use crate::cli::{AugmentArg, NormalizeArg};
use crate::config::Config;
use crate::error::AppError;
use burn_rehearsal_vision::augment::{
    Augment, ChannelStatistics, ColorJitter, ERASING_RATIO, ERASING_SCALE,
};
use burn_rehearsal_vision::data::ImageShape;

/// The color jitter of `--augment …-jitter-erase`.
const JITTER: ColorJitter =
    ColorJitter { brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1 };
/// The probability of random erasing of `--augment …-jitter-erase`.
const ERASING: f64 = 0.25;

impl NormalizeArg {
    fn after(self, augment: Augment) -> Augment {
        match self.into() {
            None => augment,
            Some(ChannelStatistics { mean, std }) => augment.normalize(&mean, &std),
        }
    }
}

/// The transform of training images; `None` leaves them unchanged.
fn training(config: &Config, [area, ratio]: [[f64; 2]; 2]) -> Option<Augment> {
    let (resized, jitter_erase) = match config.augment {
        AugmentArg::None => return evaluation(config),
        AugmentArg::CropFlip => (false, false),
        AugmentArg::CropFlipJitterErase => (false, true),
        AugmentArg::ResizedCropFlip => (true, false),
        AugmentArg::ResizedCropFlipJitterErase => (true, true),
    };
    let (augment, crop) = (Augment::new(config.seed), config.crop_size);
    let cropped = if resized {
        augment.random_resized_crop(crop, area, ratio)
    } else {
        augment.random_crop(crop, crop.div_ceil(8))
    };
    let flipped = cropped.horizontal_flip(0.5);
    if !jitter_erase {
        return Some(config.normalize.after(flipped));
    }
    let jittered = config.normalize.after(flipped.color_jitter(JITTER));
    Some(jittered.random_erasing(ERASING, ERASING_SCALE, ERASING_RATIO, 0.0))
}

/// The transform of test images; `None` leaves them unchanged.
fn evaluation(config: &Config) -> Option<Augment> {
    let cropped = config.crop_size != config.image_size;
    if !cropped && config.normalize == NormalizeArg::None {
        return None;
    }
    let augment = Augment::new(config.seed);
    Some(config.normalize.after(if cropped {
        augment.center_crop(config.crop_size)
    } else {
        augment
    }))
}

/// The transforms of training and of test images of `shape`.
///
/// # Errors
///
/// [`AppError::Option`] if one is not valid for these images.
pub fn transforms(config: &Config, shape: ImageShape) -> Result<[Option<Augment>; 2], AppError> {
    let both = [training(config, config.crop_ranges()?), evaluation(config)];
    for augment in both.iter().flatten() {
        let ImageShape { channels, height, width } = shape;
        if channels != 3 && config.normalize != NormalizeArg::None {
            let reason = format!("needs images with 3 channels; these have {channels}");
            return Err(AppError::choice("normalize", config.normalize, reason));
        }
        augment.output_shape([channels, height, width]).map_err(|error| {
            AppError::option("image-size", config.image_size, error.to_string())
        })?;
    }
    Ok(both)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Int, Tensor};

    #[test]
    fn jitter_and_erasing_apply_to_training_images_only() {
        let mut config = Config::default();
        let shape = ImageShape::square(3, config.image_size);
        let gray = Tensor::<4, Int>::full(
            [16, 3, config.image_size, config.image_size],
            128,
            &Device::default(),
        );
        let mut different_values = |augment| {
            config.augment = augment;
            let [training, evaluation] = transforms(&config, shape).unwrap();
            assert!(evaluation.is_none());
            let images = training.unwrap().apply_bytes(gray.clone(), 0, 0).unwrap();
            let values: std::collections::BTreeSet<u32> =
                images.into_data().iter::<f32>().map(f32::to_bits).collect();
            values.len()
        };
        assert_eq!(different_values(AugmentArg::ResizedCropFlip), 1);
        assert!(different_values(AugmentArg::ResizedCropFlipJitterErase) > 16);
        assert!(different_values(AugmentArg::CropFlipJitterErase) > 16);
    }
}
