//! The configuration of a run.

mod check;
mod method_options;
mod recipe;
mod resolve;
mod text;

pub use method_options::MethodOptions;
pub use recipe::Recipe;
pub use resolve::{Flags, resolve};

use crate::cli::{
    AugmentArg, CandidateModeArg, CheckpointInterval, ClassOrderArg, CollectiveArg, DisplayArg,
    ExecutionArg, FitArg, NormalizeArg, OnDamagedArg, OnRepeatArg, OptimizerStateArg, ReductionArg,
    StemArg, StoreArg, StreamArg,
};
use crate::device::DeviceName;
use crate::run_directory;
use burn_rehearsal::{ByteSize, Capacity, PolicyKind, RehearsalConfig, RowCount, SamplingKind};
use burn_rehearsal_train::data_parallel::Precision;
use burn_rehearsal_train::experiment::{Checkpoints, Settings};
use burn_rehearsal_train::init::Scheme;
use burn_rehearsal_train::methods::MethodRef;
use burn_rehearsal_train::schedule::Milestones;
use burn_rehearsal_vision::augment::{RESIZED_CROP_RATIO, RESIZED_CROP_SCALE};
use burn_rehearsal_vision::data::{DataSource, ImageOptions, JPEG_DECODER};
use burn_rehearsal_vision::models::NetworkKind;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{ArgAction, ArgGroup, Args, Command};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;

/// Maximum side of an image, in pixels.
pub const MAX_PIXELS: usize = 1024;
/// The name of the file with the trained network. It is written next to the report.
pub const NETWORK: &str = "model.safetensors";

/// Heading in `--help` of the options that are compared between ranks.
pub const AGREE: &str = "Options that all ranks must agree on";
/// Heading of the options that cannot change a result.
pub const DIFFER: &str = "Options that may differ from rank to rank";
/// Heading of the options that only rank 0 uses.
pub const FIRST: &str = "Options that rank 0 decides";

/// Group of the options under [`AGREE`] that no recipe prescribes.
const OUTSIDE_RECIPES: &str = "outside-recipes";
/// Group of the options under [`AGREE`] that may change when a run resumes.
const MAY_CHANGE: &str = "may-change";
/// Group of the options whose target (data, device) is compared instead of their text.
const BY_CONTENT: &str = "by-content";

/// The value in reports that names the JPEG decoder.
const DECODER: &str = "jpeg-decoder";

/// The options of a run with one method, resolved from the command line, the configuration file and
/// the recipe.
///
/// Every option is declared here, and only here. The documentation of a field is its help text, and
/// its type parses and prints the value. Its attributes set the default, the heading, which says
/// whether ranks must agree, and the groups. A new option needs a field, its use, and a test.
///
/// ```
/// use continual_imagenet::Config;
///
/// let config = Config::from_arguments(["--recipe", "mammoth-digits", "--epochs", "2"])?;
/// assert_eq!((config.epochs, config.batch_size), (2, 10));
/// # Ok::<(), continual_imagenet::AppError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
#[command(next_help_heading = AGREE)]
#[command(group = tag(OUTSIDE_RECIPES), group = tag(MAY_CHANGE), group = tag(BY_CONTENT))]
pub struct Config {
    /// Set of defaults, named after a published experiment.
    #[arg(long, value_enum, default_value_t = Recipe::Digits, group = OUTSIDE_RECIPES)]
    pub recipe: Recipe,
    /// Options of the methods: `OPTION=VALUE` for every method that has the option,
    /// `METHOD.OPTION=VALUE` for one of them. The help of `--method` lists them.
    #[arg(long, value_name = "OPTION=VALUE,…", default_value_t = MethodOptions::default(), hide_default_value = true)]
    pub method_options: MethodOptions,
    /// Data set: `digits`, which is part of the program, or `KIND:DIR`.
    #[arg(long, value_name = "digits|KIND:DIR", default_value = "digits", groups = [OUTSIDE_RECIPES, MAY_CHANGE, BY_CONTENT])]
    #[arg(long_help = data_help())]
    pub data: DataSource,
    /// Side of the stored images, in pixels. Images are scaled to squares of this size. Defaults to
    /// the usual size of the data set.
    #[arg(long, default_value_t = 8, hide_default_value = true)]
    pub image_size: usize,
    /// Side of the part of an image that the network sees, in pixels. Defaults to the whole image,
    /// or to the share of it that the recipe uses.
    #[arg(long, default_value_t = 8, hide_default_value = true)]
    pub crop_size: usize,
    /// Conversion of images to squares.
    #[arg(long, value_enum, default_value_t = FitArg::Stretch)]
    pub fit: FitArg,
    /// Treatment of images that cannot be decoded.
    #[arg(long, value_enum, default_value_t = OnDamagedArg::Fail, group = MAY_CHANGE)]
    pub on_damaged: OnDamagedArg,
    /// Network to train. Defaults to that of a recipe with its own data set, otherwise to `mlp` for
    /// the digits and `conv` for other data.
    #[arg(long, default_value = "mlp", hide_default_value = true, value_parser = registered(NetworkKind::ALL, NetworkKind::name, NetworkKind::summary))]
    pub model: NetworkKind,
    /// Number of channels of the first layer of a residual network. The other layers scale with it.
    #[arg(long, default_value_t = 64)]
    pub model_width: usize,
    /// First layers of a residual network.
    #[arg(long, value_enum, default_value_t = StemArg::Auto)]
    pub stem: StemArg,
    /// File with pretrained weights, under the parameter names of torchvision (ResNet), timm
    /// (GhostNet) or an earlier run. Defaults to random weights.
    #[arg(long, value_name = "FILE.safetensors")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// Distribution of random initial weights. Defaults to that of the reference implementation.
    #[arg(long, default_value = "kaiming", hide_default_value = true, value_parser = registered::<Scheme>(Scheme::ALL, Scheme::name, Scheme::summary))]
    pub init: Scheme,
    /// Augmentation of training images, including those from the buffer. It is drawn again in every
    /// step.
    #[arg(long, value_enum, default_value_t = AugmentArg::None)]
    pub augment: AugmentArg,
    /// Range of the areas of random resized crops, as fractions of the image.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], default_values_t = RESIZED_CROP_SCALE)]
    pub crop_area: Vec<f64>,
    /// Range of the aspect ratios of random resized crops, width to height.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"], default_values_t = RESIZED_CROP_RATIO)]
    pub crop_ratio: Vec<f64>,
    /// Mean and standard deviation that channels are normalized with.
    #[arg(long, value_enum, default_value_t = NormalizeArg::None)]
    pub normalize: NormalizeArg,
    /// Distribution of samples over tasks.
    #[arg(long, value_enum, default_value_t = StreamArg::Class)]
    pub stream: StreamArg,
    /// Number of tasks.
    #[arg(long, default_value_t = 5)]
    pub tasks: usize,
    /// Order in which classes arrive.
    #[arg(long, value_enum, default_value_t = ClassOrderArg::Fixed)]
    pub class_order: ClassOrderArg,
    /// Number of epochs per task.
    #[arg(long, default_value_t = 30)]
    pub epochs: usize,
    /// Number of incoming samples per rank and step (b).
    #[arg(long, default_value_t = 8)]
    pub batch_size: usize,
    /// Number of incoming samples per rank and step that are offered to the buffer (c), or a
    /// percentage of the incoming samples.
    #[arg(long, value_name = "N|25%", default_value = "100%")]
    pub candidates: RowCount,
    /// Selection of candidates.
    #[arg(long, value_enum, default_value_t = CandidateModeArg::Exact)]
    pub candidate_mode: CandidateModeArg,
    /// Number of stored samples per rank and step that are drawn and appended to the mini-batch
    /// (r), or a percentage of the incoming samples, which may exceed 100%.
    #[arg(long, value_name = "N|100%", default_value = "100%")]
    pub representatives: RowCount,
    /// Capacity of the buffer over all ranks (|B|): a percentage of the training set, a number of
    /// samples, or an amount of memory.
    #[arg(long, value_name = "30%|N|512MiB", default_value = "10%")]
    #[serde(with = "text")]
    pub capacity: Capacity,
    /// Replacement policy: the stored sample that a new one replaces in a full buffer.
    #[arg(long, default_value = "class-balanced", value_parser = registered(PolicyKind::ALL, PolicyKind::name, PolicyKind::summary))]
    #[serde(with = "text")]
    pub policy: PolicyKind,
    /// Sampling rule: the stored samples that representatives are drawn from.
    #[arg(long, default_value = "uniform", value_parser = registered(SamplingKind::ALL, SamplingKind::name, SamplingKind::summary))]
    #[serde(with = "text")]
    pub sampling: SamplingKind,
    /// Treatment of candidates that are already stored, in later epochs.
    #[arg(long, value_enum, default_value_t = OnRepeatArg::KeepBoth)]
    pub on_repeat: OnRepeatArg,
    /// Thread that does the work of the buffer. Results do not depend on it.
    #[arg(long, value_enum, default_value_t = ExecutionArg::Background, help_heading = DIFFER)]
    pub execution: ExecutionArg,
    /// Memory that holds the shard of each rank. Results do not depend on it.
    #[arg(long, value_enum, default_value_t = StoreArg::Auto, help_heading = DIFFER)]
    pub store: StoreArg,
    /// Size of the largest shard that `--store auto` puts on a GPU.
    #[arg(long, value_name = "2GiB", default_value = "2GiB", help_heading = DIFFER)]
    #[serde(with = "text")]
    pub store_limit: ByteSize,
    /// Number of steps between an insertion and the first draw that sees it: representatives of
    /// step t are drawn after the candidates of step t - LAG are inserted.
    #[arg(long, default_value_t = 1)]
    pub lag: usize,
    /// First task, counted from 0, whose mini-batches contain representatives.
    #[arg(long, default_value_t = 0)]
    pub start_task: usize,
    /// Base learning rate.
    #[arg(long, default_value_t = 0.02)]
    pub learning_rate: f64,
    /// Momentum of SGD (0: none).
    #[arg(long, default_value_t = 0.9)]
    pub momentum: f64,
    /// Weight decay, as an L2 penalty (0: none).
    #[arg(long, default_value_t = 0.0)]
    pub weight_decay: f64,
    /// Length of the linear warm-up of each task, in epochs: from the base learning rate to the
    /// peak learning rate.
    #[arg(long, default_value_t = 0.0)]
    pub warmup_epochs: f64,
    /// Learning-rate steps of each task, `epoch:factor,…` (epochs from 0, factors of the peak
    /// rate); `none` for constant.
    #[arg(long, value_name = "21:0.5,26:0.05", default_value = "none")]
    #[serde(with = "text")]
    pub milestones: Milestones,
    /// Bound on learning-rate scaling: the peak rate is the base rate times the number of ranks,
    /// but at most times this factor (1: no scaling).
    #[arg(long, default_value_t = 1.0)]
    pub scale_cap: f64,
    /// State of the optimizer between tasks.
    #[arg(long, value_enum, default_value_t = OptimizerStateArg::Reset)]
    pub optimizer_state: OptimizerStateArg,
    /// Number of data-parallel ranks, as threads of this process. Under `mpirun` or `srun` it is
    /// the number of processes.
    #[arg(long, default_value_t = 2, group = MAY_CHANGE)]
    pub ranks: usize,
    /// Transport between ranks. Defaults to `mpi` if a launcher started several processes,
    /// otherwise to `threads`.
    #[arg(long, value_enum, default_value_t = CollectiveArg::Threads, hide_default_value = true, groups = [OUTSIDE_RECIPES, MAY_CHANGE])]
    pub collective: CollectiveArg,
    /// Order in which MPI sums gradients.
    #[arg(long, value_enum, default_value_t = ReductionArg::Fixed)]
    pub reduction: ReductionArg,
    /// Number of loader threads per rank (0: load on the training thread).
    #[arg(long, default_value_t = 1, help_heading = DIFFER)]
    pub workers: usize,
    /// Device to train on. `cuda` without a number is the GPU whose number is the rank of this
    /// process on its machine.
    #[arg(long, value_name = "flex|wgpu|cuda[:i]", default_value = "flex", groups = [OUTSIDE_RECIPES, BY_CONTENT])]
    #[serde(with = "text")]
    pub device: DeviceName,
    /// Number format of the forward and backward passes. Parameters and stored samples keep their
    /// formats.
    #[arg(long, default_value = "f32", value_parser = registered::<Precision>(Precision::ALL, Precision::name, Precision::summary))]
    pub precision: Precision,
    /// Seed of all random choices.
    #[arg(long, default_value_t = 42, group = OUTSIDE_RECIPES)]
    pub seed: u64,
    /// Also evaluate every N epochs (0: after each task only).
    #[arg(long, value_name = "N", default_value_t = 0, group = OUTSIDE_RECIPES)]
    pub evaluate_every: usize,
    /// Synchronize the device between the phases of a step, so that their times are exact on a GPU.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false, action = ArgAction::Set, help_heading = DIFFER)]
    pub profile: bool,
    /// Display of progress.
    #[arg(long, value_enum, default_value_t = DisplayArg::Auto, help_heading = FIRST)]
    #[serde(skip_serializing)]
    pub display: DisplayArg,
    /// Interval between checkpoints: after each task, also every N epochs, or never.
    #[arg(long, value_name = "task|N|never", default_value = "task", groups = [OUTSIDE_RECIPES, MAY_CHANGE])]
    #[serde(with = "text")]
    pub checkpoint_every: CheckpointInterval,
    /// Number of checkpoints to keep.
    #[arg(long, value_name = "K", default_value_t = 2, help_heading = FIRST)]
    pub checkpoint_keep: usize,
    /// Start over, even if the output directory holds an unfinished or finished run.
    #[arg(long, help_heading = FIRST)]
    #[serde(skip)]
    pub fresh: bool,
    /// Output directory. Defaults to `runs/` and the name of the data set. If it holds a finished
    /// run, `-2`, `-3`, … is appended.
    #[arg(long, default_value = "runs", hide_default_value = true, help_heading = FIRST)]
    pub out: PathBuf,
    /// TOML file with options of this list, except `--method`, `--methods`, `--fresh` and
    /// `--config`. The command line takes precedence.
    #[arg(long, value_name = "FILE.toml", help_heading = DIFFER)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// The options of the recipe that this run overrides. Not an option itself.
    #[arg(skip)]
    #[serde(skip)]
    pub overridden: Vec<String>,
}

/// A group that tags options and has no effect on parsing.
fn tag(name: &'static str) -> ArgGroup {
    ArgGroup::new(name).multiple(true)
}

/// A parser of the names in a registry, with their summaries for the help.
fn registered<T>(
    all: &'static [T],
    name: fn(T) -> &'static str,
    summary: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err: std::error::Error + Send + Sync> + Copy + Send + Sync + 'static,
{
    let values = all.iter().map(move |&entry| PossibleValue::new(name(entry)).help(summary(entry)));
    PossibleValuesParser::new(values).try_map(|name| name.parse::<T>())
}

/// The help of `--data`.
fn data_help() -> String {
    let kinds = DataSource::choices().map(|(name, layout)| match layout {
        None => format!("\n- {name}: part of the program"),
        Some(layout) => format!("\n- {name}: {layout}"),
    });
    format!("Data set. Nothing is downloaded.{}", kinds.collect::<String>())
}

/// A command with the options of a run only.
fn command() -> Command {
    Config::augment_args(Command::new("continual-imagenet"))
}

/// The names of the options with one of these headings or groups, in order of declaration.
fn tagged(tags: &[&str]) -> Vec<String> {
    let mut command = command();
    command.build();
    let groups = command.get_groups().filter(|group| tags.contains(&group.get_id().as_str()));
    let grouped: HashSet<_> = groups.flat_map(ArgGroup::get_args).collect();
    let chosen = command.get_arguments().filter(|option| {
        grouped.contains(option.get_id())
            || option.get_help_heading().is_some_and(|heading| tags.contains(&heading))
    });
    chosen.filter_map(|option| option.get_long().map(str::to_owned)).collect()
}

/// The subset of `values` that determines results, without the options with these `tags`. Only the
/// kind of a device counts. Data sets are compared by their fingerprints instead.
fn comparable(mut values: Map<String, Value>, tags: &[&str]) -> Map<String, Value> {
    let device = values
        .get("device")
        .and_then(Value::as_str)
        .and_then(|name| name.parse::<DeviceName>().ok());
    tagged(&[tags, &[DIFFER, FIRST, BY_CONTENT]].concat())
        .iter()
        .chain([&"overridden".to_owned()])
        .for_each(|name| {
            values.remove(name);
        });
    values.extend(device.map(|device| ("device".to_owned(), device.kind().into())));
    values
}

/// The values of a stored configuration that a run must share to resume it.
pub fn fixed_values(config: &Value) -> Map<String, Value> {
    comparable(config.as_object().cloned().unwrap_or_default(), &[MAY_CHANGE])
}

/// A run: a method with its options, and its configuration.
#[derive(Debug, Clone)]
pub struct Run {
    pub method: MethodRef,
    pub config: Config,
}

/// The [values](Config::values) of several runs, by name. If runs have different values, these are
/// listed by method.
pub fn values(runs: &[Run]) -> Map<String, Value> {
    let each: Vec<_> = runs.iter().map(|run| (run.method.name(), run.config.values())).collect();
    let Some((_, first)) = each.first() else { return Map::new() };
    let value = |name: &String, value: &Value| {
        let of_each =
            || each.iter().filter_map(|(method, values)| Some((method, values.get(name)?)));
        if of_each().all(|(_, other)| other == value) {
            return value.clone();
        }
        of_each().map(|(method, value)| ((*method).to_owned(), value.clone())).collect()
    };
    first.iter().map(|(name, common)| (name.clone(), value(name, common))).collect()
}

/// The values that all ranks must agree on, by the name of the option.
pub fn agreed(runs: &[Run]) -> Map<String, Value> {
    let methods: Vec<_> = runs.iter().map(|run| run.method.name()).collect();
    let mut options = comparable(values(runs), &[]);
    let decoder = options.remove_entry(DECODER);
    options.insert("method".into(), methods.join(", ").into());
    options.into_iter().map(|(name, value)| (format!("--{name}"), value)).chain(decoder).collect()
}

impl Config {
    /// All values for the report, by name: the options, the names of overridden ones, and the JPEG
    /// decoder.
    pub fn values(&self) -> Map<String, Value> {
        let mut values = self.options();
        values.insert("overridden".into(), self.overridden.clone().into());
        values.insert(DECODER.into(), JPEG_DECODER.into());
        values
    }

    /// The values of the options, by name.
    fn options(&self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(values)) => values,
            _ => Map::new(),
        }
    }

    /// The checkpoints of a run; `None` if it writes none.
    fn checkpoints(&self, method: MethodRef, resume: bool) -> Option<Checkpoints> {
        let every = match self.checkpoint_every {
            CheckpointInterval::Never => return None,
            CheckpointInterval::Task => None,
            CheckpointInterval::Epochs(epochs) => Some(epochs.get()),
        };
        Some(Checkpoints {
            directory: run_directory::checkpoints(&self.out, method),
            every,
            keep: self.checkpoint_keep,
            resume,
        })
    }

    /// The configuration of the buffer for `dataset_len` training samples in `classes` classes.
    pub fn rehearsal(&self, dataset_len: usize, classes: usize) -> RehearsalConfig {
        RehearsalConfig::new(self.capacity)
            .with_candidates(self.candidates)
            .with_representatives(self.representatives)
            .with_candidate_mode(self.candidate_mode.into())
            .with_policy(self.policy)
            .with_sampling(self.sampling)
            .with_on_repeat(self.on_repeat.into())
            .with_execution(self.execution.into())
            .with_store(self.store.into())
            .with_device_limit(self.store_limit.0)
            .with_lag(self.lag)
            .with_start_task(self.start_task)
            .with_seed(self.seed)
            .with_classes(Some(classes))
            .with_dataset_len(Some(dataset_len))
    }

    /// The decoding of images.
    pub fn images(&self) -> ImageOptions {
        ImageOptions {
            side: self.image_size,
            fit: self.fit.into(),
            on_damaged: self.on_damaged.into(),
        }
    }

    /// The settings of a run with one method.
    pub fn settings(
        &self,
        method: MethodRef,
        rehearsal: RehearsalConfig,
        resume: bool,
    ) -> Settings {
        Settings {
            epochs: self.epochs,
            batch_size: self.batch_size,
            rehearsal: Some(rehearsal),
            learning_rate: self.learning_rate,
            warmup_epochs: self.warmup_epochs,
            milestones: self.milestones.pairs().to_vec(),
            scale_cap: self.scale_cap,
            keep_optimizer: self.optimizer_state.into(),
            seed: self.seed,
            workers: self.workers,
            precision: self.precision,
            evaluate_every: self.evaluate_every,
            profile: self.profile,
            network: Some(self.out.join(method.to_string()).join(NETWORK)),
            checkpoints: self.checkpoints(method, resume),
        }
    }
}

/// The default values as lines of TOML.
pub fn defaults() -> String {
    let mut config = Config::default();
    config.out = PathBuf::from("runs").join(config.data.name());
    // All values are numbers, booleans or plain strings, which JSON and TOML write alike.
    config.options().into_iter().map(|(name, value)| format!("  {name} = {value}\n")).collect()
}
