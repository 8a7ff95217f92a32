//! From options to a configuration in which nothing is left open.

use crate::cli::{
    AugmentArg, CandidateModeArg, ClassOrderArg, CollectiveArg, DIFFER, DisplayArg, ExecutionArg, FIRST, FitArg, InitArg, ModelArg,
    NormalizeArg, OnDamagedArg, OnRepeatArg, OptimizerStateArg, Options, PolicyArg, PrecisionArg, Recipe, ReductionArg, SamplingArg,
    StemArg, StoreArg, StreamArg, options_under,
};
use crate::data;
use crate::device;
use crate::error::AppError;
use crate::recipes::parse_milestones;
use crate::run_directory;
use crate::transport;
use burn_rehearsal::error::ConfigError;
use burn_rehearsal::{Capacity, MAX_LAG, MAX_RATIO, RehearsalConfig, RowCount};
use burn_rehearsal_collective::launch::Launch;
use burn_rehearsal_train::experiment::{Checkpoints, Settings};
use burn_rehearsal_train::methods::{MethodRef, Rehearsal};
use burn_rehearsal_vision::augment::{RESIZED_CROP_RATIO, RESIZED_CROP_SCALE};
use burn_rehearsal_vision::data::{ImageOptions, JPEG_DECODER};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The most of what a person can mean; beyond it is a slip of the keyboard that the machine should not have to find out by running out of memory
/// or threads.
const MAX_RANKS: usize = 1024;
const MAX_WORKERS: usize = 64;
/// Of a mini-batch.
const MAX_ROWS: usize = 1 << 20;
const MAX_WIDTH: usize = 1024;
pub const MAX_PIXELS: usize = 1024;
/// Fields of a configuration that are no options.
const NO_OPTIONS: [&str; 2] = ["overridden", "jpeg-decoder"];
/// Options that say where or how a run happens and change nothing that a recipe is about.
const NO_PART_OF_A_RECIPE: [&str; 10] =
    ["checkpoint_every", "checkpoint_keep", "data", "device", "evaluate_every", "execution", "profile", "seed", "store", "workers"];
/// What turns checkpoints off.
pub const NEVER: &str = "never";
/// The trained network, beside its report.
pub const NETWORK: &str = "model.safetensors";
/// The convolutional network halves the image twice.
const MIN_CONV_PIXELS: usize = 4;

/// The resolved configuration; echoed into every report.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Config {
    /// Where the defaults come from.
    pub recipe: Recipe,
    /// Options with which the run departs from its recipe; where the data is, and the seed, are no part of one.
    pub overridden: Vec<String>,
    /// The library that decodes JPEG files; no option, but the bits of a run depend on it.
    pub jpeg_decoder: &'static str,
    /// `digits` or `KIND:DIR`.
    pub data: String,
    /// Side of the images, in pixels.
    pub image_size: usize,
    /// Side of the part that the network sees.
    pub crop_size: usize,
    /// How images become squares.
    pub fit: FitArg,
    /// What happens to damaged images.
    pub on_damaged: OnDamagedArg,
    /// The network.
    pub model: ModelArg,
    /// Channels of a residual network's first layer.
    pub model_width: usize,
    /// What an image meets first in a residual network.
    pub stem: StemArg,
    /// Weights to start from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// How the network is initialised.
    pub init: InitArg,
    /// How images are varied in training.
    pub augment: AugmentArg,
    /// Share of the area that a random resized crop shows: the least and the most.
    pub crop_area: Vec<f64>,
    /// Its ratio of width to height, likewise.
    pub crop_ratio: Vec<f64>,
    /// How channels are normalised.
    pub normalize: NormalizeArg,
    /// How samples are spread over tasks.
    pub stream: StreamArg,
    /// Number of tasks.
    pub tasks: usize,
    /// Order of classes.
    pub class_order: ClassOrderArg,
    /// Epochs per task.
    pub epochs: usize,
    /// b, per rank.
    pub batch_size: usize,
    /// c.
    pub candidates: RowCount,
    /// How candidates are chosen.
    pub candidate_mode: CandidateModeArg,
    /// r.
    pub representatives: RowCount,
    /// |B|, as it was written.
    pub capacity: String,
    /// Who makes room.
    pub policy: PolicyArg,
    /// What is drawn.
    pub sampling: SamplingArg,
    /// What happens to repeated samples.
    pub on_repeat: OnRepeatArg,
    /// Who does the buffer's work.
    pub execution: ExecutionArg,
    /// Where the buffer is kept.
    pub store: StoreArg,
    /// The largest part of the buffer that `auto` puts on a GPU, as it was written.
    pub store_limit: String,
    /// Steps between insertion and draw.
    pub lag: usize,
    /// First augmented task.
    pub start_task: usize,
    /// Base learning rate.
    pub learning_rate: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Warm-up per task.
    pub warmup_epochs: f64,
    /// Steps of the learning rate, as they were written.
    pub milestones: String,
    /// Largest factor of learning-rate scaling with the world size.
    pub scale_cap: f64,
    /// What happens to the optimiser's state between tasks.
    pub optimizer_state: OptimizerStateArg,
    /// Ranks.
    pub ranks: usize,
    /// What joins the ranks.
    pub collective: CollectiveArg,
    /// Who adds up gradients under MPI.
    pub reduction: ReductionArg,
    /// Loader threads per rank.
    pub workers: usize,
    /// The device.
    pub device: String,
    /// The numbers of forward and backward passes.
    pub precision: PrecisionArg,
    /// The seed.
    pub seed: u64,
    /// Epochs from one evaluation within a task to the next.
    pub evaluate_every: usize,
    /// Whether phases are synchronised.
    pub profile: bool,
    /// When checkpoints are written: `task`, a number of epochs, or `never`.
    pub checkpoint_every: String,
    /// How many checkpoints are kept.
    pub checkpoint_keep: usize,
    /// Where reports go.
    pub out: PathBuf,
    /// What is shown; no part of what a run is.
    #[serde(skip)]
    pub display: DisplayArg,
}

impl Config {
    pub(crate) fn digits() -> Self {
        Self {
            recipe: Recipe::Digits,
            overridden: Vec::new(),
            jpeg_decoder: JPEG_DECODER,
            data: "digits".into(),
            image_size: 8,
            crop_size: 8,
            fit: FitArg::Stretch,
            on_damaged: OnDamagedArg::Fail,
            model: ModelArg::Mlp,
            model_width: 64,
            stem: StemArg::Auto,
            weights: None,
            init: InitArg::Kaiming,
            augment: AugmentArg::None,
            crop_area: RESIZED_CROP_SCALE.to_vec(),
            crop_ratio: RESIZED_CROP_RATIO.to_vec(),
            normalize: NormalizeArg::None,
            stream: StreamArg::Class,
            tasks: 5,
            class_order: ClassOrderArg::Fixed,
            epochs: 30,
            batch_size: 8,
            candidates: RowCount::Ratio(1.0),
            candidate_mode: CandidateModeArg::Exact,
            representatives: RowCount::Ratio(1.0),
            capacity: "10%".into(),
            policy: PolicyArg::ClassBalanced,
            sampling: SamplingArg::Uniform,
            on_repeat: OnRepeatArg::KeepBoth,
            execution: ExecutionArg::Background,
            store: StoreArg::Auto,
            store_limit: "2GiB".into(),
            lag: 1,
            start_task: 0,
            learning_rate: 0.02,
            momentum: 0.9,
            weight_decay: 0.0,
            warmup_epochs: 0.0,
            milestones: "none".into(),
            scale_cap: 1.0,
            optimizer_state: OptimizerStateArg::Reset,
            ranks: 2,
            collective: CollectiveArg::Threads,
            reduction: ReductionArg::Fixed,
            workers: 1,
            device: "flex".into(),
            precision: PrecisionArg::F32,
            seed: 42,
            evaluate_every: 0,
            profile: false,
            checkpoint_every: "task".into(),
            checkpoint_keep: 2,
            out: PathBuf::from("runs"),
            display: DisplayArg::Auto,
        }
    }

    pub(crate) fn mammoth_er_digits() -> Self {
        Self {
            recipe: Recipe::MammothErDigits,
            image_size: 28,
            crop_size: 28,
            epochs: 5,
            batch_size: 10,
            candidates: RowCount::Count(10),
            representatives: RowCount::Count(10),
            capacity: "200".into(),
            init: InitArg::Xavier,
            policy: PolicyArg::Reservoir,
            learning_rate: 0.05,
            momentum: 0.0,
            ranks: 1,
            ..Self::digits()
        }
    }

    /// Fills in what the flags, and then the configuration file, leave open.
    ///
    /// # Errors
    ///
    /// [`AppError`] if the file cannot be read or understood.
    pub fn resolve(flags: Options) -> Result<Self, AppError> {
        let file = match &flags.config {
            None => Options::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| AppError::Io { action: "read", path: path.clone(), source })?;
                toml::from_str(&text).map_err(|error| not_valid(path, &text, &error))?
            }
        };
        let mut config = Self::defaults_for(&flags, &file)?;
        let usual = (config.model_width, config.stem);
        macro_rules! take {
            ($($field:ident),* $(,)?) => {$(
                if let Some(value) = flags.$field.or(file.$field) {
                    let name = stringify!($field);
                    if value != config.$field && !NO_PART_OF_A_RECIPE.contains(&name) {
                        config.overridden.push(name.replace('_', "-"));
                    }
                    config.$field = value;
                }
            )*};
        }
        take!(
            data,
            image_size,
            crop_size,
            fit,
            on_damaged,
            model,
            model_width,
            stem,
            init,
            augment,
            crop_area,
            crop_ratio,
            normalize,
            stream,
            tasks,
            class_order,
            epochs,
            batch_size,
            candidates,
            candidate_mode,
            representatives,
            capacity,
            policy,
            sampling,
            on_repeat,
            execution,
            store,
            store_limit,
            lag,
            start_task,
            learning_rate,
            momentum,
            weight_decay,
            warmup_epochs,
            milestones,
            scale_cap,
            optimizer_state,
            ranks,
            reduction,
            workers,
            device,
            precision,
            seed,
            evaluate_every,
            profile,
            checkpoint_every,
            checkpoint_keep
        );
        if !matches!(config.model, ModelArg::Resnet18 | ModelArg::Resnet50) {
            // What is as it would be anyway may stand in a file with everything, and `auto` asks for nothing.
            let reason = "only residual networks take it (`--model resnet18` or `resnet50`)";
            if config.model_width != usual.0 {
                return Err(AppError::option("model-width", config.model_width, reason));
            }
            if config.stem != usual.1 && config.stem != StemArg::Auto {
                let stem = config.stem.to_possible_value();
                return Err(AppError::option("stem", stem.as_ref().map_or("", |stem| stem.get_name()), reason));
            }
        }
        config.weights = flags.weights.or(file.weights);
        config.overridden.extend(config.weights.as_ref().map(|_| "weights".to_owned()));
        config.display = flags.display.or(file.display).unwrap_or_default();
        (config.collective, config.ranks) =
            transport::choose(flags.collective.or(file.collective), flags.ranks.or(file.ranks), config.ranks, Launch::detect())?;
        config.out = match flags.out.or(file.out) {
            Some(out) => out,
            None => PathBuf::from("runs").join(data::source(&config.data)?.name()),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), AppError> {
        let at_least_one = [
            ("tasks", self.tasks),
            ("epochs", self.epochs),
            ("batch-size", self.batch_size),
            ("ranks", self.ranks),
            ("image-size", self.image_size),
            ("crop-size", self.crop_size),
            ("model-width", self.model_width),
            ("checkpoint-keep", self.checkpoint_keep),
        ];
        for (option, value) in at_least_one {
            if value == 0 {
                return Err(AppError::option(option, value, "must be at least 1"));
            }
        }
        let at_most = [
            ("ranks", self.ranks, MAX_RANKS),
            ("workers", self.workers, MAX_WORKERS),
            ("image-size", self.image_size, MAX_PIXELS),
            ("crop-size", self.crop_size, self.image_size),
            ("model-width", self.model_width, MAX_WIDTH),
            ("lag", self.lag, MAX_LAG),
            ("batch-size", self.batch_size, MAX_ROWS),
            ("representatives", self.representatives.of(self.batch_size), MAX_ROWS),
        ];
        for (option, value, most) in at_most {
            if value > most {
                return Err(AppError::option(option, value, format!("must be at most {most}")));
            }
        }
        if self.model == ModelArg::Conv && self.crop_size < MIN_CONV_PIXELS {
            let reason = format!("the convolutional network (`--model conv`) needs at least {MIN_CONV_PIXELS} pixels");
            let option = if self.crop_size == self.image_size { "image-size" } else { "crop-size" };
            return Err(AppError::option(option, self.crop_size, reason));
        }
        for (option, range, most) in [("crop-area", &self.crop_area, 1.0), ("crop-ratio", &self.crop_ratio, f64::MAX)] {
            if !matches!(range[..], [low, high] if 0.0 < low && low <= high && high <= most) {
                let reason = "expected two numbers above 0, the lower and the higher one; an area is at most 1";
                return Err(AppError::option(option, format!("{range:?}"), reason));
            }
        }
        if let Some((epoch, _)) = parse_milestones(&self.milestones)?.first().filter(|(epoch, _)| *epoch < self.warmup_epochs) {
            let reason = format!("epoch {epoch} lies within the warm-up (`--warmup-epochs {}`)", self.warmup_epochs);
            return Err(AppError::option("milestones", &self.milestones, reason));
        }
        if self.start_task >= self.tasks {
            let reason = format!("there are {} tasks, counted from 0: no mini-batch would ever have representatives", self.tasks);
            return Err(AppError::option("start-task", self.start_task, reason));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return Err(AppError::option("learning-rate", self.learning_rate, "must be a number above 0"));
        }
        if !(self.scale_cap.is_finite() && self.scale_cap >= 1.0) {
            return Err(AppError::option("scale-cap", self.scale_cap, "must be at least 1, which means no scaling"));
        }
        let finite = [("momentum", self.momentum), ("weight-decay", self.weight_decay), ("warmup-epochs", self.warmup_epochs)];
        for (option, value) in finite {
            if !(value.is_finite() && value >= 0.0) {
                return Err(AppError::option(option, value, "must be a number that is not negative"));
            }
        }
        if self.momentum >= 1.0 {
            return Err(AppError::option("momentum", self.momentum, "must be below 1"));
        }
        self.checkpoints(&Rehearsal, false).map(drop)
    }

    /// How a run with one method is kept, if it is, and whether it goes on from what is there.
    ///
    /// # Errors
    ///
    /// [`AppError::Option`] if `checkpoint-every` cannot be understood.
    pub fn checkpoints(&self, method: MethodRef, resume: bool) -> Result<Option<Checkpoints>, AppError> {
        let every = match (self.checkpoint_every.as_str(), self.checkpoint_every.parse::<usize>()) {
            (NEVER, _) => return Ok(None),
            ("task", _) => None,
            (_, Ok(epochs)) if epochs > 0 => Some(epochs),
            (other, _) => return Err(AppError::option("checkpoint-every", other, "expected `task`, `never`, or a number of epochs")),
        };
        Ok(Some(Checkpoints { directory: run_directory::checkpoints(&self.out, method), every, keep: self.checkpoint_keep, resume }))
    }

    /// The values that all ranks must agree on, by the names of their options.
    pub fn agreed(&self, methods: &[MethodRef]) -> Map<String, Value> {
        let mut values = self.values();
        let may_differ = [DIFFER, FIRST].into_iter().flat_map(options_under);
        // The data itself is compared, wherever it lies.
        may_differ.chain(["data", "overridden"].map(String::from)).for_each(|name| drop(values.remove(&name)));
        values.insert("device".into(), device::kind(&self.device).into());
        values.insert("method".into(), methods.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ").into());
        values
            .into_iter()
            .map(|(name, value)| (if NO_OPTIONS.contains(&name.as_str()) { name } else { format!("--{name}") }, value))
            .collect()
    }

    /// All values, by the names of their options.
    pub fn values(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(values)) => values,
            _ => Map::new(),
        }
    }

    /// The buffer for a training set of `dataset_len` samples in `classes` classes.
    ///
    /// # Errors
    ///
    /// [`AppError`] if the capacity cannot be understood. Whether the buffer makes sense is the question of [`buffer_len`](Self::buffer_len).
    pub fn rehearsal(&self, dataset_len: usize, classes: usize) -> Result<RehearsalConfig, AppError> {
        Ok(RehearsalConfig::new(parse_capacity(&self.capacity)?)
            .with_candidates(self.candidates)
            .with_representatives(self.representatives)
            .with_candidate_mode(self.candidate_mode.into())
            .with_policy(self.policy.into())
            .with_sampling(self.sampling.into())
            .with_on_repeat(self.on_repeat.into())
            .with_execution(self.execution.into())
            .with_store(self.store.into())
            .with_device_limit(parse_memory(&self.store_limit, "store-limit")?)
            .with_lag(self.lag)
            .with_start_task(self.start_task)
            .with_seed(self.seed)
            .with_classes(Some(classes))
            .with_dataset_len(Some(dataset_len)))
    }

    /// How many samples of `row_bytes` bytes the buffer will hold, over all ranks.
    ///
    /// # Errors
    ///
    /// [`AppError`] naming the option that makes no sense.
    pub fn buffer_len(&self, rehearsal: &RehearsalConfig, row_bytes: usize) -> Result<usize, AppError> {
        rehearsal
            .validate(self.ranks)
            .and_then(|()| rehearsal.validate_batch_size(self.batch_size))
            .and_then(|()| rehearsal.capacity_in_samples(row_bytes, self.ranks))
            .map_err(|error| self.in_words_of_options(error))
    }

    /// The buffer's complaint as one about options.
    fn in_words_of_options(&self, error: ConfigError) -> AppError {
        match error {
            ConfigError::NoCapacity(_) => AppError::option("capacity", &self.capacity, "the buffer would not hold a single sample"),
            ConfigError::CapacityBelowWorld { capacity, world_size } => {
                let reason =
                    format!("the size of the buffer would be {capacity}, but each of the {world_size} ranks needs room for a sample");
                AppError::option("capacity", &self.capacity, reason)
            }
            ConfigError::RepresentativesBeyondCapacity { representatives, capacity } => {
                let reason = format!("more than the {capacity} samples that the buffer holds (`--capacity {}`)", self.capacity);
                AppError::option("representatives", representatives, reason)
            }
            ConfigError::CandidatesBeyondBatch { candidates, batch_size } => {
                let reason = format!("more than the {batch_size} samples of a mini-batch (`--batch-size {batch_size}`)");
                AppError::option("candidates", candidates, reason)
            }
            ConfigError::Ratio { name, ratio, .. } => {
                AppError::option(name, RowCount::Ratio(ratio), format!("must be at most {}", RowCount::Ratio(MAX_RATIO)))
            }
            ConfigError::NoCandidates => AppError::option("candidates", 0, "must be at least 1, or the buffer would stay empty"),
            other => AppError::Rehearsal(other),
        }
    }

    /// How images become rows.
    pub fn images(&self) -> ImageOptions {
        ImageOptions { side: self.image_size, fit: self.fit.into(), on_damaged: self.on_damaged.into() }
    }

    /// The settings of a run.
    ///
    /// # Errors
    ///
    /// As [`checkpoints`](Self::checkpoints).
    pub fn settings(&self, method: MethodRef, rehearsal: RehearsalConfig, resume: bool) -> Result<Settings, AppError> {
        Ok(Settings {
            epochs: self.epochs,
            batch_size: self.batch_size,
            rehearsal: Some(rehearsal),
            learning_rate: self.learning_rate,
            warmup_epochs: self.warmup_epochs,
            // `check` has understood them already.
            milestones: parse_milestones(&self.milestones).unwrap_or_default(),
            scale_cap: self.scale_cap,
            keep_optimizer: self.optimizer_state.into(),
            seed: self.seed,
            workers: self.workers,
            precision: self.precision.into(),
            evaluate_every: self.evaluate_every,
            profile: self.profile,
            network: Some(self.out.join(method.to_string()).join(NETWORK)),
            checkpoints: self.checkpoints(method, resume)?,
        })
    }
}

/// The defaults of the main job as lines of TOML.
pub fn defaults() -> String {
    let mut config = Config::digits();
    config.out = PathBuf::from("runs").join(&config.data);
    // All values are numbers, truth values and plain texts, which JSON and TOML write alike.
    let options = config.values().into_iter().filter(|(name, _)| !NO_OPTIONS.contains(&name.as_str()));
    options.map(|(name, value)| format!("  {name} = {value}\n")).collect()
}

/// What is wrong with a configuration file, and where, in one line.
fn not_valid(path: &Path, text: &str, error: &toml::de::Error) -> AppError {
    let line = error.span().map(|span| 1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count());
    let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
    AppError::ConfigFile { path: path.to_path_buf(), reason: format!("{place}{}", error.message()) }
}

/// Understands `512MiB`: a number and a unit. `None` if there is no unit, `Some(None)` if the number is none.
fn memory(text: &str) -> Option<Option<u64>> {
    const UNITS: [(&str, u64); 7] =
        [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];
    let (number, bytes) = UNITS.into_iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, bytes)))?;
    let number = number.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    Some(number.map(|number| (number * bytes as f64) as u64))
}

/// Understands an amount of memory and nothing else; `option` is whose value it is.
fn parse_memory(text: &str, option: &'static str) -> Result<u64, AppError> {
    memory(text).flatten().ok_or_else(|| AppError::option(option, text, "expected an amount of memory (2GiB)"))
}

/// Understands `30%`, `500` and `512MiB`.
fn parse_capacity(text: &str) -> Result<Capacity, AppError> {
    let wrong = |reason: &str| AppError::option("capacity", text, reason);
    let expected = "expected a share of the training set (30%), a number of samples (500), or memory (512MiB)";
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.trim().parse().map_err(|_| wrong(expected))?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(wrong("a share must be between 0% and 100%"));
        }
        return Ok(Capacity::Fraction(percent / 100.0));
    }
    if let Some(bytes) = memory(text) {
        return bytes.map(Capacity::Bytes).ok_or_else(|| wrong(expected));
    }
    text.parse().map(Capacity::Samples).map_err(|_| wrong(expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_shares_samples_or_memory() {
        assert_eq!(parse_capacity("30%").unwrap(), Capacity::Fraction(0.3));
        assert_eq!(parse_capacity("500").unwrap(), Capacity::Samples(500));
        assert_eq!(parse_capacity("512MiB").unwrap(), Capacity::Bytes(512 << 20));
        assert_eq!(parse_capacity("1.5 GB").unwrap(), Capacity::Bytes(1_500_000_000));
        let samples = |percent: usize, len: usize| {
            let config = RehearsalConfig::new(parse_capacity(&format!("{percent}%")).unwrap());
            config.with_representatives(0).with_dataset_len(Some(len)).capacity_in_samples(1, 1)
        };
        for len in [100, 101, 999, 1437, 50_000, 60_000, 1_281_167, 14_197_122, 1_000_000_007] {
            (1..=100).for_each(|percent| assert_eq!(samples(percent, len).unwrap(), len * percent / 100, "{percent}% of {len}"));
        }
        for wrong in ["", "many", "-3", "101%", "-1%", "5 apples", "NaNMiB"] {
            let message = parse_capacity(wrong).unwrap_err().to_string();
            assert!(message.contains("--capacity"), "{wrong}: {message}");
        }
    }

    #[test]
    fn a_limit_is_an_amount_of_memory_and_nothing_else() {
        assert_eq!(parse_memory("1.5MiB", "store-limit").unwrap(), 3 << 19);
        for wrong in ["", "2", "10%", "-1GiB", "twoGiB"] {
            let message = parse_memory(wrong, "store-limit").unwrap_err().to_string();
            assert!(message.contains("--store-limit"), "{wrong}: {message}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_recipe() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, "epochs = 3\nbatch-size = 20\npolicy = \"fifo\"\n").unwrap();
        let flags = Options { config: Some(path), epochs: Some(7), ..Options::default() };
        let config = Config::resolve(flags).unwrap();
        assert_eq!((config.epochs, config.batch_size, config.policy, config.tasks), (7, 20, PolicyArg::Fifo, 5));
    }

    #[test]
    fn a_capacity_in_a_file_may_be_a_number_without_quotes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        let resolve = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Config::resolve(Options { config: Some(path.clone()), ..Options::default() })
        };
        for (text, capacity) in [("capacity = 100", "100"), ("capacity = \"100\"", "100"), ("capacity = \"7%\"", "7%")] {
            assert_eq!(resolve(text).unwrap().capacity, capacity);
        }
        for wrong in ["capacity = true", "capacity = 1.5"] {
            let message = resolve(wrong).unwrap_err().to_string();
            assert!(message.contains("line 1") && message.contains("512MiB"), "{message}");
        }
    }

    #[test]
    fn what_only_residual_networks_have_is_refused_for_others_and_left_to_recipes() {
        let resolve = |model, model_width, stem| Config::resolve(Options { model, model_width, stem, ..Options::default() });
        assert_eq!(resolve(Some(ModelArg::Resnet18), Some(4), Some(StemArg::Small)).unwrap().model_width, 4);
        for (width, stem, option) in [(Some(4), None, "--model-width"), (None, Some(StemArg::Small), "--stem")] {
            for model in [None, Some(ModelArg::Conv), Some(ModelArg::Ghostnet)] {
                let message = resolve(model, width, stem).unwrap_err().to_string();
                assert!(message.contains(option) && message.contains("resnet18"), "{message}");
            }
        }
        assert_eq!(resolve(None, Some(64), Some(StemArg::Auto)).unwrap().model, ModelArg::Mlp, "as it would be anyway");
        for (asked, stem) in [(None, StemArg::Small), (Some(StemArg::Auto), StemArg::Auto)] {
            let recipe = Options {
                recipe: Some(Recipe::MammothErCifar10),
                model: Some(ModelArg::Conv),
                data: Some("folder:images".into()),
                stem: asked,
                ..Options::default()
            };
            assert_eq!(Config::resolve(recipe).unwrap().stem, stem);
        }
    }

    #[test]
    fn a_configuration_file_with_an_unknown_key_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.toml");
        std::fs::write(&path, "epoch = 3\n").unwrap();
        let message = Config::resolve(Options { config: Some(path), ..Options::default() }).unwrap_err().to_string();
        assert!(message.contains("epoch") && message.contains("run.toml"), "{message}");
    }
}
