//! What is done to images on the device: in training, anew in every step, and in evaluation, always the same.

use crate::cli::{AugmentArg, NormalizeArg};
use crate::config::Config;
use crate::error::AppError;
use burn_rehearsal_vision::augment::Augment;
use burn_rehearsal_vision::data::ImageShape;

impl NormalizeArg {
    /// Mean and standard deviation of each channel.
    fn statistics(self) -> Option<([f32; 3], [f32; 3])> {
        match self {
            Self::None => None,
            Self::Imagenet => Some(([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])),
            Self::Cifar10 => Some(([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2615])),
        }
    }

    fn after(self, augment: Augment) -> Augment {
        match self.statistics() {
            None => augment,
            Some((mean, std)) => augment.normalize(&mean, &std),
        }
    }
}

/// The operations of training, if there are any.
fn training(config: &Config) -> Option<Augment> {
    let augment = Augment::new(config.seed);
    let crop = config.crop_size;
    let varied = match config.augment {
        AugmentArg::None => return evaluation(config),
        AugmentArg::CropFlip => augment.random_crop(crop, crop.div_ceil(8)),
        AugmentArg::ResizedCropFlip => augment.random_resized_crop(crop, range(&config.crop_area), range(&config.crop_ratio)),
    };
    Some(config.normalize.after(varied.horizontal_flip(0.5)))
}

/// The operations of evaluation, if there are any.
fn evaluation(config: &Config) -> Option<Augment> {
    let cropped = config.crop_size != config.image_size;
    if !cropped && config.normalize == NormalizeArg::None {
        return None;
    }
    let augment = Augment::new(config.seed);
    Some(config.normalize.after(if cropped { augment.center_crop(config.crop_size) } else { augment }))
}

fn range(values: &[f64]) -> [f64; 2] {
    match values {
        [low, high] => [*low, *high],
        // `Config` has checked that there are two.
        _ => [1.0, 1.0],
    }
}

/// The operations of training and of evaluation on images of `shape`, where there are any.
///
/// # Errors
///
/// [`AppError::Option`] if they make no sense, or not for these images.
pub fn transforms(config: &Config, shape: ImageShape) -> Result<[Option<Augment>; 2], AppError> {
    let both = [training(config), evaluation(config)];
    for augment in both.iter().flatten() {
        let ImageShape { channels, height, width } = shape;
        if channels != 3 && config.normalize != NormalizeArg::None {
            let reason = format!("is for images of 3 channels, these have {channels}");
            return Err(AppError::option("normalize", config.normalize.name(), reason));
        }
        augment
            .output_shape([channels, height, width])
            .map_err(|error| AppError::option("image-size", config.image_size, error.to_string()))?;
    }
    Ok(both)
}
