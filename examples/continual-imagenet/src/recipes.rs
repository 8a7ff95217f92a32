//! Published experiments as sets of defaults, and what of them a run changed.

use crate::cli::{AugmentArg, FitArg, InitArg, ModelArg, NormalizeArg, Options, PolicyArg, Recipe, StemArg};
use crate::config::Config;
use crate::data;
use crate::error::AppError;
use burn_rehearsal::RowCount;

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
            candidates: RowCount::Count(14),
            representatives: RowCount::Count(7),
            capacity: "30%".into(),
            policy: PolicyArg::RandomReplacement,
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
            candidates: RowCount::Count(32),
            representatives: RowCount::Count(32),
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
                if let Some(data) = data.filter(|data| *data != config.data) {
                    config.model = ModelArg::Conv;
                    config.image_size = data::source(data)?.usual_side();
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
    use crate::transform::transforms;
    use burn_rehearsal_train::methods::Rehearsal;
    use burn_rehearsal_vision::augment::{RESIZED_CROP_RATIO, RESIZED_CROP_SCALE};
    use burn_rehearsal_vision::data::{ImageShape, JPEG_DECODER};
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn resolve(options: Options) -> Result<Config, AppError> {
        Config::resolve(Options { data: Some("folder:images".into()), ..options })
    }

    /// The fields that a report says differ, or lacks, and those that `expected` lacks.
    fn assert_reported(config: &Config, expected: &Value) {
        let (config, expected) = (serde_json::to_value(config).unwrap(), expected.as_object().unwrap().clone());
        let reported = config.as_object().unwrap();
        let names: BTreeSet<&String> = reported.keys().chain(expected.keys()).collect();
        let differ = names.into_iter().filter(|&name| reported.get(name) != expected.get(name));
        let differ: Vec<_> = differ.map(|name| format!("{name}: {:?}, not {:?}", reported.get(name), expected.get(name))).collect();
        assert_eq!(differ, [""; 0]);
    }

    /// `base` with the fields of `more`.
    fn with(base: &Value, more: Value) -> Value {
        let mut base = base.clone();
        for (name, value) in more.as_object().unwrap() {
            base[name] = value.clone();
        }
        base
    }

    /// What the recipes have in common.
    fn common() -> Value {
        json!({
            "overridden": [], "jpeg-decoder": JPEG_DECODER, "data": "folder:images", "out": "runs/images", "seed": 42,
            "on-damaged": "fail", "model-width": 64, "stream": "class", "class-order": "fixed",
            "candidate-mode": "exact", "sampling": "uniform", "on-repeat": "keep-both", "lag": 1, "optimizer-state": "reset",
            "execution": "background", "store": "auto", "store-limit": "2GiB",
            "ranks": 1, "collective": "threads", "reduction": "fixed", "device": "flex", "precision": "f32",
            "evaluate-every": 0, "profile": false, "checkpoint-every": "task", "checkpoint-keep": 2,
        })
    }

    #[test]
    fn every_value_that_a_report_of_ccgrid24_shows_is_the_published_one() {
        let options = |model| Options { recipe: Some(Recipe::Ccgrid24), model, ..Options::default() };
        let published = json!({
            "recipe": "ccgrid24", "image-size": 256, "crop-size": 224, "fit": "crop", "normalize": "imagenet",
            "model": "resnet50", "stem": "imagenet", "init": "he-normal",
            "augment": "resized-crop-flip", "crop-area": [0.1, 1.0], "crop-ratio": [0.8, 1.25],
            "tasks": 4, "epochs": 30, "batch-size": 56, "candidates": 14, "representatives": 7, "capacity": "30%", "start-task": 1,
            "policy": "random-replacement", "learning-rate": 0.0125, "momentum": 0.9, "weight-decay": 5e-5,
            "warmup-epochs": 5.0, "milestones": "21:0.5,26:0.05,28:0.01", "scale-cap": 64.0, "workers": 4,
        });
        let resnet50 = with(&common(), published);
        assert_reported(&resolve(options(None)).unwrap(), &resnet50);
        // The paper has several networks: choosing one departs from nothing.
        let resnet18 = with(&resnet50, json!({ "model": "resnet18" }));
        assert_reported(&resolve(options(Some(ModelArg::Resnet18))).unwrap(), &resnet18);
        let ghostnet = json!({
            "model": "ghostnet", "init": "kaiming", "learning-rate": 0.01, "weight-decay": 1.5e-5, "milestones": "15:0.5,21:0.05,28:0.01",
        });
        assert_reported(&resolve(options(Some(ModelArg::Ghostnet))).unwrap(), &with(&resnet50, ghostnet));
    }

    #[test]
    fn every_value_that_a_report_of_mammoth_er_cifar10_shows_is_the_published_one() {
        let options = |capacity: Option<&str>| Options {
            recipe: Some(Recipe::MammothErCifar10),
            capacity: capacity.map(Into::into),
            ..Options::default()
        };
        let published = json!({
            "recipe": "mammoth-er-cifar10", "image-size": 32, "crop-size": 32, "fit": "stretch", "normalize": "cifar10",
            "model": "resnet18", "stem": "small", "init": "kaiming",
            "augment": "crop-flip", "crop-area": RESIZED_CROP_SCALE, "crop-ratio": RESIZED_CROP_RATIO,
            "tasks": 5, "epochs": 50, "batch-size": 32, "candidates": 32, "representatives": 32, "capacity": "200", "start-task": 0,
            "policy": "reservoir", "learning-rate": 0.1, "momentum": 0.0, "weight-decay": 0.0,
            "warmup-epochs": 0.0, "milestones": "none", "scale-cap": 1.0, "workers": 1,
        });
        let expected = with(&common(), published);
        assert_reported(&resolve(options(None)).unwrap(), &expected);
        for capacity in ["500", "5120"] {
            let changed = with(&expected, json!({ "capacity": capacity, "overridden": ["capacity"] }));
            assert_reported(&resolve(options(Some(capacity))).unwrap(), &changed);
        }
    }

    /// What one rank of `world_size` learns with in an epoch of a task, its first step and its last.
    fn rates(config: &Config, world_size: usize, epochs: &[u64]) -> Vec<[f64; 2]> {
        let rehearsal = config.rehearsal(1_000, 10).unwrap();
        let schedule = config.settings(&Rehearsal, rehearsal, false).unwrap().schedule(world_size, 10).unwrap();
        epochs.iter().map(|epoch| [schedule.rate_at(10 * epoch), schedule.rate_at(10 * epoch + 9)]).collect()
    }

    #[test]
    fn the_rates_of_a_task_are_the_published_ones_whatever_the_number_of_ranks() {
        let recipe = |recipe, model| resolve(Options { recipe: Some(recipe), model, ..Options::default() }).unwrap();
        let near = |rates: &[[f64; 2]], expected: &[[f64; 2]]| {
            let close = rates.iter().flatten().zip(expected.iter().flatten()).all(|(ours, theirs)| (ours / theirs - 1.0).abs() < 1e-12);
            assert!(close && rates.len() == expected.len(), "{rates:?}, not {expected:?}");
        };
        for (model, base, steps) in [(None, 0.0125, [21, 26, 28]), (Some(ModelArg::Ghostnet), 0.01, [15, 21, 28])] {
            let config = recipe(Recipe::Ccgrid24, model);
            for (world_size, factor) in [(1, 1.0), (16, 16.0), (64, 64.0), (128, 64.0)] {
                let top = base * factor;
                let warm = |step: f64| base + (top - base) * step / 50.0;
                let [first, second, third] = steps;
                near(
                    &rates(&config, world_size, &[0, 4, 5, first - 1, first, second - 1, second, third - 1, third, 29]),
                    &[
                        [base, warm(9.0)],
                        [warm(40.0), warm(49.0)],
                        [top; 2],
                        [top; 2],
                        [0.5 * top; 2],
                        [0.5 * top; 2],
                        [0.05 * top; 2],
                        [0.05 * top; 2],
                        [0.01 * top; 2],
                        [0.01 * top; 2],
                    ],
                );
            }
        }
        near(&rates(&recipe(Recipe::MammothErCifar10, None), 8, &[0, 49]), &[[0.1; 2]; 2]);
    }

    #[test]
    fn the_network_sees_224_of_256_pixels_in_training_and_evaluation() {
        let config = resolve(Options { recipe: Some(Recipe::Ccgrid24), ..Options::default() }).unwrap();
        for transform in transforms(&config, ImageShape::square(3, 256)).unwrap() {
            assert_eq!(transform.unwrap().output_shape([3, 256, 256]).unwrap(), [3, 224, 224]);
        }
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
