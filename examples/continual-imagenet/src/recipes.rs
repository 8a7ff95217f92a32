//! Published experiments as sets of defaults, and what of them a run changed.

use crate::cli::{AugmentArg, FitArg, InitArg, ModelArg, NormalizeArg, Options, PolicyArg, Recipe, StemArg};
use crate::config::Config;
use crate::data;
use crate::error::AppError;

impl Config {
    /// Bouvier et al., "Efficient Data-Parallel Continual Learning with Asynchronous Distributed Rehearsal Buffers" (CCGrid 2024): ImageNet in
    /// tasks of 250 classes in index order. GhostNet has a schedule and a weight decay of its own.
    ///
    /// Our choices: He's initialisation, ImageNet's mean and deviation, and an optimiser that starts afresh with every task, as the schedule does.
    /// Unlike there, images are kept at 256×256 pixels (the middle of each, its shorter side scaled), and varied on the device, those from the
    /// buffer anew at each replay.
    fn ccgrid24(model: ModelArg) -> Self {
        let ghostnet = model == ModelArg::Ghostnet;
        Self {
            recipe: Recipe::Ccgrid24,
            data: String::new(),
            image_size: 256,
            crop_size: 224,
            fit: FitArg::Crop,
            model,
            stem: StemArg::Imagenet,
            init: model.init(),
            augment: AugmentArg::ResizedCropFlip,
            crop_area: vec![0.1, 1.0],
            crop_ratio: vec![0.8, 1.25],
            normalize: NormalizeArg::Imagenet,
            tasks: 4,
            epochs: 30,
            batch_size: 56,
            candidates: 14,
            representatives: 7,
            capacity: "30%".into(),
            start_task: 1,
            learning_rate: if ghostnet { 0.01 } else { 0.0125 },
            momentum: 0.9,
            weight_decay: if ghostnet { 1.5e-5 } else { 5e-5 },
            warmup_epochs: 5.0,
            milestones: if ghostnet { "15:0.5,21:0.05,28:0.01" } else { "21:0.5,26:0.05,28:0.01" }.into(),
            scale_cap: 64.0,
            ranks: 1,
            workers: 4,
            ..Self::digits()
        }
    }

    /// Experience replay on CIFAR-10 as in Mammoth (Buzzega et al., "Dark Experience for General Continual Learning", NeurIPS 2020): its ResNet-18 has
    /// PyTorch's own initial values.
    fn mammoth_er_cifar10() -> Self {
        Self {
            recipe: Recipe::MammothErCifar10,
            data: String::new(),
            image_size: 32,
            crop_size: 32,
            model: ModelArg::Resnet18,
            stem: StemArg::Small,
            init: InitArg::Kaiming,
            augment: AugmentArg::CropFlip,
            normalize: NormalizeArg::Cifar10,
            epochs: 50,
            batch_size: 32,
            candidates: 32,
            representatives: 32,
            capacity: "200".into(),
            policy: PolicyArg::Reservoir,
            learning_rate: 0.1,
            momentum: 0.0,
            ranks: 1,
            ..Self::digits()
        }
    }

    /// The defaults that the flags, and then the configuration file, ask for. What they are may depend on the data, the model and the size of the images.
    ///
    /// # Errors
    ///
    /// [`AppError::Option`] if the recipe needs data and there is none.
    pub fn defaults_for(flags: &Options, file: &Options) -> Result<Self, AppError> {
        let recipe = flags.recipe.or(file.recipe).unwrap_or(Recipe::Digits);
        let data = flags.data.as_deref().or(file.data.as_deref());
        let model = flags.model.or(file.model);
        let mut config = match recipe {
            Recipe::Digits => Self::digits(),
            Recipe::MammothErDigits => Self::mammoth_er_digits(),
            Recipe::MammothErCifar10 => Self::mammoth_er_cifar10(),
            Recipe::Ccgrid24 => Self::ccgrid24(model.unwrap_or(ModelArg::Resnet50)),
        };
        match recipe {
            Recipe::Digits | Recipe::MammothErDigits => {
                if let Some(side) = data.filter(|data| *data != config.data).and_then(data::usual_side) {
                    config.model = ModelArg::Conv;
                    config.image_size = side;
                }
                if let Some(model @ (ModelArg::Resnet18 | ModelArg::Resnet50 | ModelArg::Ghostnet)) = model {
                    config.init = model.init();
                }
            }
            Recipe::MammothErCifar10 | Recipe::Ccgrid24 if data.is_none() => {
                return Err(AppError::option("recipe", config.recipe_name(), "needs `--data`"));
            }
            Recipe::MammothErCifar10 | Recipe::Ccgrid24 => {}
        }
        // The part of the image that the network sees stays the same.
        let side = flags.image_size.or(file.image_size).unwrap_or(config.image_size);
        config.crop_size = match recipe {
            Recipe::Ccgrid24 => (config.crop_size * side).div_ceil(config.image_size),
            _ => side,
        };
        Ok(config)
    }

    /// The recipe as it is written on the command line.
    fn recipe_name(&self) -> &'static str {
        match self.recipe {
            Recipe::Digits => "digits",
            Recipe::MammothErDigits => "mammoth-er-digits",
            Recipe::MammothErCifar10 => "mammoth-er-cifar10",
            Recipe::Ccgrid24 => "ccgrid24",
        }
    }
}

/// Understands `21:0.5,26:0.05` and `none`: from which epoch of a task on, counted from 0, which factor.
pub fn parse_milestones(text: &str) -> Result<Vec<(f64, f64)>, AppError> {
    let wrong = |reason: &str| AppError::option("milestones", text, reason);
    if text == "none" {
        return Ok(Vec::new());
    }
    let mut milestones: Vec<(f64, f64)> = Vec::new();
    for part in text.split(',') {
        let pair = part.split_once(':').and_then(|(epoch, factor)| Some((epoch.trim().parse().ok()?, factor.trim().parse().ok()?)));
        let Some((epoch, factor)) = pair else {
            return Err(wrong("expected epochs and factors (21:0.5,26:0.05), or `none`"));
        };
        let usable = |value: f64| value.is_finite() && value > 0.0;
        if !usable(epoch) || !usable(factor) {
            return Err(wrong("epochs and factors must be above 0"));
        }
        if milestones.last().is_some_and(|(last, _)| *last >= epoch) {
            return Err(wrong("epochs must increase"));
        }
        milestones.push((epoch, factor));
    }
    Ok(milestones)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(options: Options) -> Result<Config, AppError> {
        Config::resolve(Options { data: Some("folder:images".into()), ..options })
    }

    #[test]
    fn ccgrid24_is_as_published_for_each_of_its_networks() {
        let options = |model| Options { recipe: Some(Recipe::Ccgrid24), model, ..Options::default() };
        let resnet = resolve(options(None)).unwrap();
        let ghostnet = resolve(options(Some(ModelArg::Ghostnet))).unwrap();
        assert_eq!((resnet.model, resnet.tasks, resnet.epochs, resnet.image_size, resnet.crop_size), (ModelArg::Resnet50, 4, 30, 256, 224));
        assert_eq!((resnet.batch_size, resnet.candidates, resnet.representatives, resnet.start_task), (56, 14, 7, 1));
        assert_eq!((resnet.capacity.as_str(), resnet.warmup_epochs, resnet.scale_cap, resnet.momentum), ("30%", 5.0, 64.0, 0.9));
        assert_eq!((resnet.learning_rate, resnet.weight_decay), (0.0125, 5e-5));
        assert_eq!((ghostnet.learning_rate, ghostnet.weight_decay), (0.01, 1.5e-5));
        assert_eq!(parse_milestones(&resnet.milestones).unwrap(), [(21.0, 0.5), (26.0, 0.05), (28.0, 0.01)]);
        assert_eq!(parse_milestones(&ghostnet.milestones).unwrap(), [(15.0, 0.5), (21.0, 0.05), (28.0, 0.01)]);
        assert_eq!((resnet.overridden, ghostnet.overridden), (Vec::<String>::new(), Vec::<String>::new()));
    }

    #[test]
    fn a_recipe_says_what_was_changed() {
        let options = Options {
            recipe: Some(Recipe::MammothErCifar10),
            capacity: Some("500".into()),
            epochs: Some(50),
            learning_rate: Some(0.03),
            seed: Some(7),
            ..Options::default()
        };
        let config = resolve(options).unwrap();
        assert_eq!(config.overridden, ["capacity", "learning-rate"], "50 epochs are the recipe's, and the seed belongs to the run");
        let smaller = Options { recipe: Some(Recipe::Ccgrid24), image_size: Some(64), ..Options::default() };
        assert_eq!(resolve(smaller).unwrap().crop_size, 56);
    }

    #[test]
    fn milestones_are_epochs_and_factors_or_none() {
        assert_eq!(parse_milestones("none").unwrap(), []);
        assert_eq!(parse_milestones("1.5:0.1").unwrap(), [(1.5, 0.1)]);
        for wrong in ["", "5", "5:0", "0:1", "5:0.1,5:0.2", "5:x", "nan:1"] {
            let message = parse_milestones(wrong).unwrap_err().to_string();
            assert!(message.contains("--milestones"), "{wrong}: {message}");
        }
    }
}
