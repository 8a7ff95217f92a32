//! Resolves the configuration of each method. The command line takes precedence over the
//! configuration file, the file over the recipe, and the recipe over the defaults. In a recipe,
//! options by network, by method, and by method and capacity take precedence in this order.
//!
//! Options of methods are replaced one by one, all other options as a whole.

use super::method_options::MethodOptions;
use super::recipe::RecipeText;
use super::{AGREE, Config, OUTSIDE_RECIPES, Run, command, tagged};
use crate::cli::StemArg;
use crate::error::AppError;
use crate::transport;
use burn_rehearsal_collective::launch::Launch;
use burn_rehearsal_train::methods::{self, MethodRef, Rehearsal};
use burn_rehearsal_vision::models::NetworkKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use toml::Table;

/// The options of the command line, without default values.
#[derive(Debug, Clone)]
pub struct Flags(ArgMatches);

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = matches.clone();
        for id in matches
            .ids()
            .filter(|id| matches.value_source(id.as_str()) == Some(ValueSource::DefaultValue))
        {
            // This fails for unknown identifiers only.
            let _ = given.try_clear_id(id.as_str());
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(|flags| *self = flags)
    }
}

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        Config::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Config::augment_args_for_update(command)
    }
}

impl Flags {
    fn contains(&self, option: &str) -> bool {
        self.0.contains_id(&option.replace('-', "_"))
    }

    /// The options of the configuration file; none without `--config`.
    fn file(&self) -> Result<Table, AppError> {
        let Some(path) = self.0.get_one::<PathBuf>("config") else { return Ok(Table::new()) };
        let text = std::fs::read_to_string(path).map_err(AppError::io("read", path))?;
        // Parsing the text as a `Config` first gives errors that have a line number.
        toml::from_str::<Config>(&text)
            .and_then(|_| toml::from_str(&text))
            .map_err(|error| not_valid(path, &text, &error))
    }
}

/// An error in a configuration file, with its line number.
fn not_valid(path: &Path, text: &str, error: &toml::de::Error) -> AppError {
    let line = error
        .span()
        .map(|span| 1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count());
    let line = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    AppError::ConfigFile { path: path.to_path_buf(), reason: format!("{line}{}", error.message()) }
}

/// The default values that the fields declare.
impl Default for Config {
    fn default() -> Self {
        let matches = command().get_matches_from(["continual-imagenet"]);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Resolves the configuration of a run with each method. Call it once per process, because
/// methods with options are never freed.
///
/// # Errors
///
/// [`AppError`] with the file or option, and the reason.
pub fn resolve(flags: &Flags, methods: &[MethodRef]) -> Result<Vec<Run>, AppError> {
    let file = flags.file()?;
    let options = Config::default().with(&file)?.with_flags(flags)?.method_options;
    if let Some((unused, valid)) = options.unused(methods) {
        let names: Vec<_> = methods.iter().map(|method| method.name()).collect();
        let valid =
            if valid.is_empty() { "there are none" } else { &format!("expected one of {valid}") };
        let reason = format!("not an option of {}; {valid}", names.join(", "));
        return Err(AppError::option("method-options", unused, reason));
    }
    let run = |method: &MethodRef| {
        let config = Config::of_method(*method, flags, &file)?;
        let method = methods::with_options(method.name(), &config.method_options.of(*method))?;
        Ok(Run { method, config })
    };
    methods.iter().map(run).collect()
}

impl Config {
    /// Parses and resolves options as `continual-imagenet train --method rehearsal` accepts them.
    ///
    /// # Errors
    ///
    /// [`AppError`] with the option and the reason.
    pub fn from_arguments<A: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, AppError> {
        Self::parsed(&Rehearsal, arguments)
    }

    /// Parses and resolves the options of a run with this method.
    pub(super) fn parsed<A: Into<OsString> + Clone>(
        method: MethodRef,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Self, AppError> {
        let command = command().no_binary_name(true).allow_negative_numbers(true);
        let flags = Flags::from_arg_matches(&command.try_get_matches_from(arguments)?)?;
        Self::of_method(method, &flags, &flags.file()?)
    }

    /// Adds the configuration file, the recipe and the defaults to the command line, and validates
    /// the result.
    fn of_method(method: MethodRef, flags: &Flags, file: &Table) -> Result<Self, AppError> {
        let given = |option: &str| flags.contains(option) || file.contains_key(option);
        let asked = Self::default().with(file)?.with_flags(flags)?;
        let mut defaults = asked.recipe_defaults(method, given)?;
        let mut config = defaults.with(file)?.with_flags(flags)?;
        for config in [&mut defaults, &mut config] {
            config.complete_method_options(method)?;
        }

        let (values, before, outside) =
            (config.options(), defaults.options(), tagged(&[OUTSIDE_RECIPES]));
        let overridden = tagged(&[AGREE])
            .into_iter()
            .filter(|name| !outside.contains(name) && values.get(name) != before.get(name));
        config.overridden = overridden.collect();

        if !matches!(config.model, NetworkKind::Resnet18 | NetworkKind::Resnet50) {
            // A file may repeat the defaults, and `auto` requests nothing.
            let reason = "only residual networks use it (`--model resnet18` or `resnet50`)";
            if config.model_width != defaults.model_width {
                return Err(AppError::option("model-width", config.model_width, reason));
            }
            if config.stem != defaults.stem && config.stem != StemArg::Auto {
                return Err(AppError::choice("stem", config.stem, reason));
            }
        }
        (config.collective, config.ranks) = transport::choose(
            given("collective").then_some(config.collective),
            given("ranks").then_some(config.ranks),
            defaults.ranks,
            Launch::detect(),
            cfg!(feature = "mpi"),
        )?;
        if !given("out") {
            config.out = PathBuf::from("runs").join(config.data.name());
        }
        config.check(method)?;
        Ok(config)
    }

    /// Sets the options of `method` that are not set to their defaults, and removes those of other
    /// methods.
    fn complete_method_options(&mut self, method: MethodRef) -> Result<(), AppError> {
        let values = self.method_options.of(method);
        self.method_options = match &values[..] {
            [] => MethodOptions::all_of(method),
            values => {
                let method = method.with_options(values).map_err(|error| {
                    let text = self.method_options.to_string();
                    AppError::option("method-options", text, error.to_string())
                })?;
                MethodOptions::all_of(&*method)
            }
        };
        Ok(())
    }

    /// The values of the recipe, and those that depend on the recipe, the data, the network, the
    /// method, the capacity and the image size. `given` returns whether the user has set an option.
    fn recipe_defaults(
        &self,
        method: MethodRef,
        given: impl Fn(&str) -> bool,
    ) -> Result<Self, AppError> {
        let recipe = RecipeText::of(self.recipe)?;
        if recipe.needs_data && !given("data") {
            return Err(AppError::choice("recipe", self.recipe, "needs `--data`"));
        }
        let mut defaults = Self::default().with(&recipe.options)?;
        let (image_size, crop_size) = (defaults.image_size, defaults.crop_size);
        if !recipe.needs_data && self.data != defaults.data {
            defaults.model = NetworkKind::Conv;
            defaults.image_size = self.data.usual_side();
        }
        let model = if given("model") { self.model } else { defaults.model };
        if recipe.any_model {
            defaults.model = model;
        }
        if !recipe.options.contains_key("init") {
            defaults.init = model.scheme();
        }
        let defaults = defaults.with(&recipe.of_model(model))?.with(&recipe.of_method(method))?;
        let capacity = if given("capacity") { self.capacity } else { defaults.capacity };
        let defaults = defaults.with(&recipe.of_capacity(method, capacity))?;
        // The crop keeps its share of the image.
        let side = if given("image-size") { self.image_size } else { defaults.image_size };
        Ok(Self {
            recipe: self.recipe,
            crop_size: crop_size.saturating_mul(side).div_ceil(image_size),
            ..defaults
        })
    }

    /// This configuration, overridden by the options of a file or a recipe.
    pub(super) fn with(&self, options: &Table) -> Result<Self, AppError> {
        let mut values = Table::try_from(self).map_err(AppError::values)?;
        values.extend(options.clone());
        let config: Self = values.try_into().map_err(AppError::values)?;
        Ok(config.after(self))
    }

    fn with_flags(&self, flags: &Flags) -> Result<Self, AppError> {
        let mut config = self.clone();
        config.update_from_arg_matches(&flags.0)?;
        Ok(config.after(self))
    }

    /// This configuration, with those options of methods that only `earlier` has.
    fn after(self, earlier: &Self) -> Self {
        let options = earlier.method_options.clone().replaced_by(self.method_options);
        Self { method_options: options, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn_rehearsal_train::methods::DerPlusPlus;

    /// The configuration from a file with this text and further arguments.
    fn with_file(text: &str, more: &[&str]) -> Result<Config, AppError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        std::fs::write(&path, text).unwrap();
        Config::from_arguments([&["--config", path.to_str().unwrap()], more].concat())
    }

    #[test]
    fn the_command_line_overrides_the_file_and_the_file_the_recipe() {
        let config =
            with_file("epochs = 3\nbatch-size = 20\npolicy = \"fifo\"\n", &["--epochs", "7"])
                .unwrap();
        assert_eq!(
            (config.epochs, config.batch_size, config.policy.name(), config.tasks),
            (7, 20, "fifo", 5)
        );
        // This holds for an argument that repeats a default, too.
        assert_eq!(
            with_file("epochs = 3\nprofile = true\n", &["--epochs", "30"]).unwrap().epochs,
            30
        );
    }

    /// The method options of `derpp` from a recipe with alpha 0.2 and beta 0.5, a file and the
    /// command line.
    fn derpp(file: &str, flags: &[&str]) -> Result<String, AppError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        std::fs::write(&path, file).unwrap();
        let recipe = ["--recipe", "mammoth-cifar10", "--data", "folder:images"];
        let config = ["--capacity", "500", "--config", path.to_str().unwrap()];
        let config = Config::parsed(&DerPlusPlus::DEFAULT, [&recipe, &config[..], flags].concat())?;
        Ok(config.method_options.to_string())
    }

    #[test]
    fn method_options_are_replaced_one_by_one() {
        let options = |file, flags: &[&str]| derpp(file, flags).unwrap();
        let file = "method-options = \"beta=0.6,derpp.alpha=0.3\"";
        assert_eq!(options("", &[]), "alpha=0.2,beta=0.5");
        assert_eq!(options(file, &[]), "alpha=0.3,beta=0.6");
        assert_eq!(options(file, &["--method-options", "alpha=0.4"]), "alpha=0.4,beta=0.6");
        assert_eq!(options(file, &["--method-options", "derpp.beta=2"]), "alpha=0.3,beta=2");
        assert_eq!(options("method-options = { alpha = 1 }", &[]), "alpha=1,beta=0.5");
        let error = |file, flags: &[&str]| derpp(file, flags).unwrap_err().to_string();
        let range = error("", &["--method-options", "alpha=-1"]);
        assert!(range.contains("`--method-options") && range.contains("alpha is -1"), "{range}");
        let line = error("\nmethod-options = \"gamm=1\"", &[]);
        assert!(line.contains("line 2") && line.contains("derpp.alpha"), "{line}");
    }

    #[test]
    fn each_method_of_a_job_has_its_configuration() {
        let job = |names: &[&str], arguments: &[&str]| {
            let command = command().no_binary_name(true).allow_negative_numbers(true);
            let matches = command.try_get_matches_from(arguments).unwrap();
            let methods: Vec<_> =
                names.iter().map(|name| methods::by_name(name).unwrap()).collect();
            resolve(&Flags::from_arg_matches(&matches).unwrap(), &methods)
        };
        let digits = ["--recipe", "mammoth-digits", "--method-options", "alpha=1,derpp.alpha=0.5"];
        let runs = job(&["er", "der", "derpp"], &digits).unwrap();
        let found: Vec<_> =
            runs.iter().map(|run| (run.method.full_name(), run.config.learning_rate)).collect();
        let expected =
            [("rehearsal", 0.1), ("der(alpha=1)", 0.03), ("derpp(alpha=0.5,beta=1)", 0.03)];
        assert_eq!(found, expected.map(|(name, rate)| (name.to_owned(), rate)));
        let values = super::super::values(&runs);
        assert_eq!(values["epochs"], 5);
        assert_eq!(values["learning-rate"]["derpp"], 0.03);
        let agreed = super::super::agreed(&runs);
        assert_eq!(agreed["--method"], "rehearsal, der, derpp");
        assert_eq!(agreed["--method-options"]["der"]["alpha"], 1.0);
        for option in ["gamma=1", "lwf.alpha=1"] {
            let error = job(&["er", "der"], &["--method-options", option]).unwrap_err();
            let error = error.to_string();
            let names = error.contains(option.split('=').next().unwrap());
            assert!(names && error.ends_with("expected one of der.alpha"), "{error}");
        }
        let error = job(&["er"], &["--method-options", "alpha=1"]).unwrap_err().to_string();
        assert!(error.contains("not an option of rehearsal; there are none"), "{error}");
    }

    #[test]
    fn numbers_in_a_file_need_no_quotes() {
        for (text, capacity) in
            [("capacity = 100", "100"), ("capacity = \"100\"", "100"), ("capacity = \"7%\"", "7%")]
        {
            assert_eq!(with_file(text, &[]).unwrap().capacity.to_string(), capacity);
        }
        // A number of samples is an integer, as on the command line.
        assert!(Config::from_arguments(["--capacity", "100.0"]).is_err());
        for wrong in
            ["capacity = true", "capacity = 1.5", "capacity = 100.0", "\ncapacity = \"many\""]
        {
            let message = with_file(wrong, &[]).unwrap_err().to_string();
            assert!(message.contains("line ") && message.contains("512MiB"), "{message}");
        }
    }

    #[test]
    fn values_are_compared_after_parsing() {
        let written = [
            ["--capacity", "512MiB", "--store-limit", "2GiB", "--milestones", "5:0.5"],
            ["--capacity", "0.5GiB", "--store-limit", "2048 MiB", "--milestones", "5.0:0.50"],
        ];
        let [first, second] = written.map(|options| Config::from_arguments(options).unwrap());
        assert_eq!(first, second);
        assert_eq!(first.values(), second.values(), "in reports and in unfinished runs");
    }

    #[test]
    fn options_of_residual_networks_are_refused_for_other_networks() {
        let width_and_stem = ["--model-width", "4", "--stem", "small"];
        assert_eq!(
            Config::from_arguments([&["--model", "resnet18"], &width_and_stem[..]].concat())
                .unwrap()
                .model_width,
            4
        );
        for only in width_and_stem.chunks(2) {
            for model in [&[][..], &["--model", "conv"], &["--model", "ghostnet"]] {
                let message =
                    Config::from_arguments([only, model].concat()).unwrap_err().to_string();
                assert!(message.contains(only[0]) && message.contains("resnet18"), "{message}");
            }
        }
        let repeated = Config::from_arguments(["--model-width", "64", "--stem", "auto"]).unwrap();
        assert_eq!(repeated.model, NetworkKind::Mlp, "defaults may be repeated");
        for (asked, stem) in [(&[][..], StemArg::Small), (&["--stem", "auto"], StemArg::Auto)] {
            let recipe =
                ["--recipe", "mammoth-cifar10", "--model", "conv", "--data", "folder:images"];
            assert_eq!(Config::from_arguments([&recipe, asked].concat()).unwrap().stem, stem);
        }
    }

    #[test]
    fn unknown_keys_in_a_file_are_refused_by_name() {
        for text in ["epoch = 3\n", "overridden = []\n", "fresh = true\n"] {
            let message = with_file(text, &[]).unwrap_err().to_string();
            assert!(
                message.contains(text.split(' ').next().unwrap()) && message.contains("run.toml"),
                "{message}"
            );
        }
    }
}
