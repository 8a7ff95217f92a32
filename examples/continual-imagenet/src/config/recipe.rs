//! Recipes: the options of published experiments as sets of defaults.

use crate::error::AppError;
use burn_rehearsal::Capacity;
use burn_rehearsal_train::methods::MethodRef;
use burn_rehearsal_vision::models::NetworkKind;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

/// A set of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The embedded digits in 5 tasks of 2 classes, 2 ranks, a buffer of 10 %.
    Digits,
    /// Experiments as in Mammoth, on the digits at 28×28 pixels: 5 epochs, mini-batches of 10 + 10,
    /// SGD, a reservoir of 200, and further values for each method.
    MammothDigits,
    /// Experiments as in Mammoth, on CIFAR-10 in 5 tasks of 2 classes: ResNet-18, 50 epochs,
    /// mini-batches of 32 + 32, SGD, a reservoir of 200, and further values for each method.
    MammothCifar10,
    /// Rehearsal as in Bouvier et al. (CCGrid 2024), on ImageNet in 4 tasks of 250 classes: 30
    /// epochs, mini-batches of 56 + 7 per rank, a buffer of 30 %.
    Ccgrid24,
    /// `ccgrid24` with the options of its follow-up (FGCS 2024) for `der` and `derpp`.
    Ccgrid24Der,
}

impl Recipe {
    /// The recipe in TOML, as [`RecipeText`] reads it. Later texts extend the earlier ones.
    fn texts(self) -> &'static [&'static str] {
        const CCGRID24: &str = include_str!("recipes/ccgrid24.toml");
        match self {
            Self::Digits => &[include_str!("recipes/digits.toml")],
            Self::MammothDigits => &[include_str!("recipes/mammoth-digits.toml")],
            Self::MammothCifar10 => &[include_str!("recipes/mammoth-cifar10.toml")],
            Self::Ccgrid24 => &[CCGRID24],
            Self::Ccgrid24Der => &[CCGRID24, include_str!("recipes/ccgrid24-der.toml")],
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
    /// Further options, by method. The table `capacities` of a method has further ones, by the
    /// capacity of the buffer.
    methods: Table,
}

/// The key of the options by capacity.
const CAPACITIES: &str = "capacities";

impl RecipeText {
    /// Reads `recipe`.
    ///
    /// # Errors
    ///
    /// [`AppError::Values`] if it is not valid.
    pub fn of(recipe: Recipe) -> Result<Self, AppError> {
        let mut all = Table::new();
        for text in recipe.texts() {
            extend(&mut all, toml::from_str(text).map_err(AppError::values)?);
        }
        all.try_into().map_err(AppError::values)
    }

    /// The further options for a network.
    pub fn of_model(&self, model: NetworkKind) -> Table {
        table(&self.models, model.name())
    }

    /// The further options for a method.
    pub fn of_method(&self, method: MethodRef) -> Table {
        let mut options = table(&self.methods, method.name());
        options.remove(CAPACITIES);
        options
    }

    /// The further options for a method with a buffer of this capacity.
    pub fn of_capacity(&self, method: MethodRef, capacity: Capacity) -> Table {
        let by_capacity = table(&table(&self.methods, method.name()), CAPACITIES);
        table(&by_capacity, &capacity.to_string())
    }
}

/// The table with this name; an empty one if there is none.
fn table(tables: &Table, name: &str) -> Table {
    tables.get(name).and_then(|table| table.as_table().cloned()).unwrap_or_default()
}

/// Adds the values of `more` to a table and to the tables in it.
fn extend(base: &mut Table, more: Table) {
    for (name, value) in more {
        match (base.get_mut(&name), value) {
            (Some(Value::Table(base)), Value::Table(more)) => extend(base, more),
            (_, value) => drop(base.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Recipe, RecipeText};
    use crate::config::Config;
    use crate::transform::transforms;
    use burn_rehearsal_train::methods::{self, Rehearsal};
    use burn_rehearsal_vision::augment::{RESIZED_CROP_RATIO, RESIZED_CROP_SCALE};
    use burn_rehearsal_vision::data::{ImageShape, JPEG_DECODER};
    use clap::ValueEnum;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    /// The configuration of this recipe and further arguments, for `rehearsal`.
    fn resolve(recipe: &str, more: &[&str]) -> Config {
        resolve_for("rehearsal", recipe, more)
    }

    /// The configuration of this recipe and further arguments, for a method.
    fn resolve_for(method: &str, recipe: &str, more: &[&str]) -> Config {
        let arguments = [&["--data", "folder:images", "--recipe", recipe], more].concat();
        Config::parsed(methods::by_name(method).unwrap(), arguments).unwrap()
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
            "overridden": [], "jpeg-decoder": JPEG_DECODER, "method-options": {}, "data": "folder:images", "out": "runs/images", "seed": 42,
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
    fn all_values_of_mammoth_cifar10_are_as_published() {
        let published = json!({
            "recipe": "mammoth-cifar10", "image-size": 32, "crop-size": 32, "fit": "stretch", "normalize": "cifar10",
            "model": "resnet18", "stem": "small", "init": "kaiming",
            "augment": "crop-flip", "crop-area": RESIZED_CROP_SCALE, "crop-ratio": RESIZED_CROP_RATIO,
            "tasks": 5, "epochs": 50, "batch-size": 32, "candidates": 32, "representatives": 32, "capacity": "200", "start-task": 0,
            "policy": "reservoir", "learning-rate": 0.1, "momentum": 0.0, "weight-decay": 0.0,
            "warmup-epochs": 0.0, "milestones": "none", "scale-cap": 1.0, "workers": 1,
        });
        let expected = with(&common(), published);
        assert_reported(&resolve("mammoth-cifar10", &[]), &expected);
        for capacity in ["500", "5120"] {
            let changed =
                with(&expected, json!({ "capacity": capacity, "overridden": ["capacity"] }));
            assert_reported(&resolve("mammoth-cifar10", &["--capacity", capacity]), &changed);
        }
    }

    /// Asserts the learning rate and the options of methods with these capacities.
    fn assert_methods(recipe: &str, published: &[(&str, &str, f64, &str)]) {
        for (method, capacity, rate, options) in published {
            let config = resolve_for(method, recipe, &["--capacity", capacity]);
            let found = (config.learning_rate, config.method_options.to_string());
            assert_eq!(found, (*rate, (*options).to_owned()), "{recipe}: {method}, {capacity}");
        }
    }

    #[test]
    fn values_by_method_and_capacity_are_as_published() {
        let cls_er = |stable, plastic| {
            format!(
                "reg_weight=0.15,stable_alpha=0.999,stable_rate={stable},plastic_alpha=0.999,\
                 plastic_rate={plastic}"
            )
        };
        let [small, medium, large] =
            [("0.1", "0.3"), ("0.1", "0.9"), ("0.8", "1")].map(|(s, p)| cls_er(s, p));
        assert_methods(
            "mammoth-cifar10",
            &[
                ("er", "200", 0.1, ""),
                ("er-ace", "500", 0.03, ""),
                ("der", "200", 0.03, "alpha=0.3"),
                ("der", "5120", 0.03, "alpha=0.3"),
                ("derpp", "200", 0.03, "alpha=0.1,beta=0.5"),
                ("derpp", "500", 0.03, "alpha=0.2,beta=0.5"),
                ("derpp", "5120", 0.03, "alpha=0.1,beta=1"),
                // Other capacities have the values of the method.
                ("derpp", "1000", 0.03, "alpha=0.1,beta=0.5"),
                ("cls-er", "200", 0.1, &small),
                ("cls-er", "500", 0.1, &medium),
                ("cls-er", "5120", 0.1, &large),
                ("agem", "500", 0.03, ""),
                ("gdumb", "500", 0.05, ""),
                ("lwf", "200", 0.01, "alpha=3,temperature=2"),
                ("ewc", "200", 0.03, "lambda=10,gamma=1"),
            ],
        );
        assert_methods(
            "mammoth-digits",
            &[
                ("er", "200", 0.1, ""),
                ("er-ace", "200", 0.03, ""),
                ("der", "50", 0.03, "alpha=0.2"),
                ("derpp", "50", 0.03, "alpha=0.2,beta=1"),
                ("agem", "200", 0.1, ""),
                ("lwf", "200", 0.03, "alpha=1,temperature=2"),
                ("ewc", "200", 0.03, "lambda=90,gamma=1"),
            ],
        );
        for (capacity, expected) in [("50", "50"), ("100", "100"), ("200", "128"), ("500", "128")] {
            let config = resolve_for("agem", "mammoth-digits", &["--capacity", capacity]);
            assert_eq!(config.representatives.to_string(), expected, "A-GEM, {capacity}");
        }
        for recipe in ["mammoth-digits", "mammoth-cifar10"] {
            assert_eq!(resolve_for("er-ace", recipe, &[]).start_task, 1);
            assert_eq!(resolve_for("derpp", recipe, &[]).start_task, 0);
            assert_eq!(resolve_for("gdumb", recipe, &[]).policy.name(), "class-balanced");
        }
    }

    #[test]
    fn ccgrid24_der_extends_ccgrid24() {
        for (method, options) in
            [("der", json!({ "alpha": 0.8 })), ("derpp", json!({ "alpha": 0.8, "beta": 1.0 }))]
        {
            let paper = Value::Object(resolve_for(method, "ccgrid24", &[]).values());
            let more = json!({ "recipe": "ccgrid24-der", "method-options": options });
            assert_reported(&resolve_for(method, "ccgrid24-der", &[]), &with(&paper, more));
        }
        let config = resolve_for("derpp", "ccgrid24-der", &["--model", "ghostnet"]);
        assert_eq!((config.learning_rate, config.batch_size), (0.01, 56));
    }

    /// The runs of a job share the data, the tasks and the network.
    #[test]
    fn methods_of_a_recipe_share_the_values_of_the_job() {
        const OF_A_RUN: [&str; 17] = [
            "method-options",
            "epochs",
            "batch-size",
            "candidates",
            "candidate-mode",
            "representatives",
            "capacity",
            "policy",
            "sampling",
            "on-repeat",
            "lag",
            "start-task",
            "learning-rate",
            "momentum",
            "weight-decay",
            "warmup-epochs",
            "milestones",
        ];
        for recipe in Recipe::value_variants() {
            let text = RecipeText::of(*recipe).unwrap();
            for (name, options) in &text.methods {
                assert_eq!(methods::by_name(name).unwrap().name(), name);
                let options = options.as_table().unwrap();
                let capacities = options.get("capacities").and_then(|all| all.as_table());
                let tables = capacities.into_iter().flat_map(|all| all.values());
                let more = tables.flat_map(|table| table.as_table().unwrap().keys());
                for option in options.keys().filter(|name| *name != "capacities").chain(more) {
                    assert!(OF_A_RUN.contains(&option.as_str()), "{recipe:?}, {name}: {option}");
                }
            }
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
        near(&rates(&resolve("mammoth-cifar10", &[]), 8, &[0, 49]), &[[0.1; 2]; 2]);
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
        let config = resolve("mammoth-cifar10", &more);
        assert_eq!(
            config.overridden,
            ["capacity", "learning-rate"],
            "50 epochs are the value of the recipe, and recipes have no seed"
        );
        assert_eq!(resolve("ccgrid24", &["--image-size", "64"]).crop_size, 56);
        let options = ["--capacity", "500", "--method-options", "alpha=0.2,beta=0.7"];
        let config = resolve_for("derpp", "mammoth-cifar10", &options);
        assert_eq!(config.overridden, ["method-options", "capacity"]);
        let same = ["--capacity", "500", "--method-options", "alpha=0.2"];
        assert_eq!(resolve_for("derpp", "mammoth-cifar10", &same).overridden, ["capacity"]);
    }
}
