//! Recipes: the options of published experiments as sets of defaults.

use crate::error::AppError;
use burn_rehearsal_vision::models::NetworkKind;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use toml::Table;

/// A set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The embedded digits in 5 tasks of 2 classes, 2 ranks, a buffer of 10 %.
    Digits,
    /// Experience replay as in Mammoth, on the digits at 28×28 pixels: 5 epochs, mini-batches of
    /// 10 + 10, SGD, a reservoir of 200.
    MammothErDigits,
    /// Experience replay as in Mammoth, on CIFAR-10 in 5 tasks of 2 classes: ResNet-18, 50 epochs,
    /// mini-batches of 32 + 32, SGD, a reservoir of 200.
    MammothErCifar10,
    /// Rehearsal as in Bouvier et al. (CCGrid 2024), on ImageNet in 4 tasks of 250 classes: 30
    /// epochs, mini-batches of 56 + 7 per rank, a buffer of 30 %.
    Ccgrid24,
}

impl Recipe {
    /// The recipe in TOML, as [`RecipeText`] reads it.
    fn text(self) -> &'static str {
        match self {
            Self::Digits => "",
            Self::MammothErDigits => include_str!("recipes/mammoth-er-digits.toml"),
            Self::MammothErCifar10 => include_str!("recipes/mammoth-er-cifar10.toml"),
            Self::Ccgrid24 => include_str!("recipes/ccgrid24.toml"),
        }
    }
}

/// The content of a recipe.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct RecipeText {
    /// Whether it requires `--data`.
    pub needs_data: bool,
    /// Whether the recipe includes every network, so that `--model` overrides nothing.
    pub any_model: bool,
    /// Options, as in a configuration file. `init` defaults to the scheme of the network.
    pub options: Table,
    /// Further options, by network.
    models: Table,
}

impl RecipeText {
    /// Reads `recipe`.
    ///
    /// # Errors
    ///
    /// [`AppError::Values`] if it is not valid.
    pub fn of(recipe: Recipe) -> Result<Self, AppError> {
        toml::from_str(recipe.text()).map_err(AppError::values)
    }

    /// The further options for a network.
    pub fn of_model(&self, model: NetworkKind) -> Table {
        let table = self.models.get(model.name()).and_then(|table| table.as_table().cloned());
        table.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::transform::transforms;
    use burn_rehearsal_train::methods::Rehearsal;
    use burn_rehearsal_vision::augment::{RESIZED_CROP_RATIO, RESIZED_CROP_SCALE};
    use burn_rehearsal_vision::data::{ImageShape, JPEG_DECODER};
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    /// The configuration of this recipe and further arguments.
    fn resolve(recipe: &str, more: &[&str]) -> Config {
        Config::from_arguments([&["--data", "folder:images", "--recipe", recipe], more].concat())
            .unwrap()
    }

    /// Asserts that a report shows exactly these values.
    fn assert_reported(config: &Config, expected: &Value) {
        let (reported, expected) = (config.values(), expected.as_object().unwrap().clone());
        let names: BTreeSet<&String> = reported.keys().chain(expected.keys()).collect();
        let differ = names.into_iter().filter(|&name| reported.get(name) != expected.get(name));
        let differ: Vec<_> = differ
            .map(|name| format!("{name}: {:?}, not {:?}", reported.get(name), expected.get(name)))
            .collect();
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

    /// The values that recipes have in common.
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
    fn all_values_of_ccgrid24_are_as_published() {
        let published = json!({
            "recipe": "ccgrid24", "image-size": 256, "crop-size": 224, "fit": "crop", "normalize": "imagenet",
            "model": "resnet50", "stem": "imagenet", "init": "he-normal",
            "augment": "resized-crop-flip", "crop-area": [0.1, 1.0], "crop-ratio": [0.8, 1.25],
            "tasks": 4, "epochs": 30, "batch-size": 56, "candidates": 14, "representatives": 7, "capacity": "30%", "start-task": 1,
            "policy": "random-replacement", "learning-rate": 0.0125, "momentum": 0.9, "weight-decay": 5e-5,
            "warmup-epochs": 5.0, "milestones": "21:0.5,26:0.05,28:0.01", "scale-cap": 64.0, "workers": 4,
        });
        let resnet50 = with(&common(), published);
        assert_reported(&resolve("ccgrid24", &[]), &resnet50);
        // The paper has several networks, so choosing one overrides nothing.
        let resnet18 = with(&resnet50, json!({ "model": "resnet18" }));
        assert_reported(&resolve("ccgrid24", &["--model", "resnet18"]), &resnet18);
        let ghostnet = json!({
            "model": "ghostnet", "init": "kaiming", "learning-rate": 0.01, "weight-decay": 1.5e-5, "milestones": "15:0.5,21:0.05,28:0.01",
        });
        assert_reported(&resolve("ccgrid24", &["--model", "ghostnet"]), &with(&resnet50, ghostnet));
    }

    #[test]
    fn all_values_of_mammoth_er_cifar10_are_as_published() {
        let published = json!({
            "recipe": "mammoth-er-cifar10", "image-size": 32, "crop-size": 32, "fit": "stretch", "normalize": "cifar10",
            "model": "resnet18", "stem": "small", "init": "kaiming",
            "augment": "crop-flip", "crop-area": RESIZED_CROP_SCALE, "crop-ratio": RESIZED_CROP_RATIO,
            "tasks": 5, "epochs": 50, "batch-size": 32, "candidates": 32, "representatives": 32, "capacity": "200", "start-task": 0,
            "policy": "reservoir", "learning-rate": 0.1, "momentum": 0.0, "weight-decay": 0.0,
            "warmup-epochs": 0.0, "milestones": "none", "scale-cap": 1.0, "workers": 1,
        });
        let expected = with(&common(), published);
        assert_reported(&resolve("mammoth-er-cifar10", &[]), &expected);
        for capacity in ["500", "5120"] {
            let changed =
                with(&expected, json!({ "capacity": capacity, "overridden": ["capacity"] }));
            assert_reported(&resolve("mammoth-er-cifar10", &["--capacity", capacity]), &changed);
        }
    }

    /// The learning rates of `world_size` ranks in the first and last step of these epochs.
    fn rates(config: &Config, world_size: usize, epochs: &[u64]) -> Vec<[f64; 2]> {
        let settings = config.settings(&Rehearsal, config.rehearsal(1_000, 10), false);
        let schedule = settings.schedule(world_size, 10).unwrap();
        epochs
            .iter()
            .map(|epoch| [schedule.rate_at(10 * epoch), schedule.rate_at(10 * epoch + 9)])
            .collect()
    }

    #[test]
    fn learning_rates_are_as_published_on_any_number_of_ranks() {
        let near = |rates: &[[f64; 2]], expected: &[[f64; 2]]| {
            let close = rates
                .iter()
                .flatten()
                .zip(expected.iter().flatten())
                .all(|(ours, theirs)| (ours / theirs - 1.0).abs() < 1e-12);
            assert!(close && rates.len() == expected.len(), "{rates:?}, not {expected:?}");
        };
        for (model, base, steps) in
            [("resnet50", 0.0125, [21, 26, 28]), ("ghostnet", 0.01, [15, 21, 28])]
        {
            let config = resolve("ccgrid24", &["--model", model]);
            for (world_size, factor) in [(1, 1.0), (16, 16.0), (64, 64.0), (128, 64.0)] {
                let top = base * factor;
                let warm = |step: f64| base + (top - base) * step / 50.0;
                let [first, second, third] = steps;
                near(
                    &rates(
                        &config,
                        world_size,
                        &[0, 4, 5, first - 1, first, second - 1, second, third - 1, third, 29],
                    ),
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
        near(&rates(&resolve("mammoth-er-cifar10", &[]), 8, &[0, 49]), &[[0.1; 2]; 2]);
    }

    #[test]
    fn the_network_sees_224_of_256_pixels_in_training_and_evaluation() {
        let config = resolve("ccgrid24", &[]);
        for transform in transforms(&config, ImageShape::square(3, 256)).unwrap() {
            assert_eq!(transform.unwrap().output_shape([3, 256, 256]).unwrap(), [3, 224, 224]);
        }
    }

    #[test]
    fn overridden_options_are_listed() {
        let more =
            ["--capacity", "500", "--epochs", "50", "--learning-rate", "0.03", "--seed", "7"];
        let config = resolve("mammoth-er-cifar10", &more);
        assert_eq!(
            config.overridden,
            ["capacity", "learning-rate"],
            "50 epochs are the value of the recipe, and recipes have no seed"
        );
        assert_eq!(resolve("ccgrid24", &["--image-size", "64"]).crop_size, 56);
    }
}
