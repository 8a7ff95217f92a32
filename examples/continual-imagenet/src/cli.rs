//! The command line. The same options can be given in a TOML file; flags win.

use burn_rehearsal::{CandidateMode, Execution, OnRepeat, PolicyKind, RowCount, SamplingKind, StorePreference};
use burn_rehearsal_train::data_parallel::Precision;
use burn_rehearsal_train::init::Scheme;
use burn_rehearsal_train::methods::{self, MethodRef};
use burn_rehearsal_vision::data::{Fit, Format, OnDamaged};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::path::PathBuf;

/// Continual learning with rehearsal: learn classes task by task without forgetting them.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, allow_negative_numbers = true, after_long_help = defaults())]
pub struct Cli {
    /// What to do; `compare` if nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `compare`.
    #[command(flatten)]
    pub options: Options,
}

/// A built-in method, by name.
fn method() -> impl TypedValueParser<Value = MethodRef> {
    let names = methods::ALL.iter().map(|method| PossibleValue::new(method.name()).help(method.summary()));
    PossibleValuesParser::new(names).try_map(|name| methods::by_name(&name))
}

/// The end of `--help`.
fn defaults() -> String {
    format!("Defaults, as a file for `--config` would have them:\n{}", crate::config::defaults())
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train incrementally, with rehearsal and from scratch, and compare (the default).
    #[command(allow_negative_numbers = true, after_long_help = defaults())]
    Compare {
        /// How.
        #[command(flatten)]
        options: Options,
    },
    /// Train with one method.
    #[command(allow_negative_numbers = true, after_long_help = defaults())]
    Train {
        /// How the network goes from task to task.
        #[arg(long, value_parser = method(), help_heading = AGREE)]
        method: MethodRef,
        /// How.
        #[command(flatten)]
        options: Options,
    },
    /// Write a data set once into a few large files that training reads with `--data pack:DIR`.
    Pack {
        /// What, how and where.
        #[command(flatten)]
        options: PackArgs,
    },
    /// Print a table of finished runs and draw them together.
    Report {
        /// Directories that hold a `report.json`, or whose subdirectories do.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// Directory for the figures; if only one directory is given, that one unless something else is said.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// List the devices that this program was built for and finds here.
    Devices,
}

/// The headings of options in `--help`: what ranks that are processes may do differently. An option
/// belongs to the first unless it says otherwise.
pub const AGREE: &str = "Options that all ranks must agree on";
/// Options that change no result.
pub const DIFFER: &str = "Options that may differ from rank to rank";
/// Options that only rank 0 uses.
pub const FIRST: &str = "Options that rank 0 decides";

/// The options of a run under one of these headings, in alphabetical order.
pub fn options_under(heading: &str) -> Vec<String> {
    let command = Cli::command();
    let runs = command.find_subcommand("train").into_iter().flat_map(clap::Command::get_arguments);
    let mut names: Vec<String> =
        runs.filter(|option| option.get_help_heading() == Some(heading)).filter_map(|option| Some(option.get_long()?.to_owned())).collect();
    names.sort();
    names
}

/// What can be said on the command line and in a configuration file. Everything is optional.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[command(next_help_heading = AGREE)]
pub struct Options {
    /// Defaults to start from.
    #[arg(long, value_enum)]
    pub recipe: Option<Recipe>,
    /// `digits` (embedded), `folder:DIR` with DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg (or val instead of test; PNG as well),
    /// `tiny-imagenet:DIR`, `cifar10:DIR` and `cifar100:DIR` (binary version), `mnist:DIR` (IDX files, Fashion-MNIST too), or `pack:DIR`.
    #[arg(long, value_name = "digits|KIND:DIR")]
    pub data: Option<String>,
    /// Side of the square images that samples are scaled to, and kept in the buffer, in pixels; if nothing is said, what is usual for the data.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// Side of the part of them that the network sees; all of it if nothing is said.
    #[arg(long)]
    pub crop_size: Option<usize>,
    /// How an image that is no square becomes one.
    #[arg(long, value_enum)]
    pub fit: Option<FitArg>,
    /// What happens to an image that cannot be decoded.
    #[arg(long, value_enum)]
    pub on_damaged: Option<OnDamagedArg>,
    /// The network; `conv` for other data than the digits if nothing is said.
    #[arg(long, value_enum)]
    pub model: Option<ModelArg>,
    /// Channels of a residual network's first layer; no other network takes it.
    #[arg(long)]
    pub model_width: Option<usize>,
    /// What an image meets first in a residual network; no other network takes it.
    #[arg(long, value_enum)]
    pub stem: Option<StemArg>,
    /// Weights to start from: a `.safetensors` file with the names of torchvision's (ResNet) or timm's (GhostNet) networks.
    #[arg(long, value_name = "FILE.safetensors")]
    pub weights: Option<PathBuf>,
    /// How the network is initialised.
    #[arg(long, value_enum)]
    pub init: Option<InitArg>,
    /// How images are varied in training, anew in every step, those from the buffer too.
    #[arg(long, value_enum)]
    pub augment: Option<AugmentArg>,
    /// Share of the area that a random resized crop shows.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"])]
    pub crop_area: Option<Vec<f64>>,
    /// Ratio of width to height of a random resized crop.
    #[arg(long, num_args = 2, value_names = ["LOW", "HIGH"])]
    pub crop_ratio: Option<Vec<f64>>,
    /// What is subtracted from each channel, and by what it is divided.
    #[arg(long, value_enum)]
    pub normalize: Option<NormalizeArg>,
    /// How samples are spread over tasks.
    #[arg(long, value_enum)]
    pub stream: Option<StreamArg>,
    /// Number of tasks.
    #[arg(long)]
    pub tasks: Option<usize>,
    /// Order in which classes arrive.
    #[arg(long, value_enum)]
    pub class_order: Option<ClassOrderArg>,
    /// Epochs per task.
    #[arg(long)]
    pub epochs: Option<usize>,
    /// Incoming samples per rank and step (b).
    #[arg(long)]
    pub batch_size: Option<usize>,
    /// Samples of each mini-batch that are offered to the buffer (c): a number, or a share of the mini-batch.
    #[arg(long, value_name = "N|25%")]
    pub candidates: Option<RowCount>,
    /// How candidates are chosen.
    #[arg(long, value_enum)]
    pub candidate_mode: Option<CandidateModeArg>,
    /// Samples drawn from the buffer and appended to each mini-batch (r): a number, or in proportion to the
    /// mini-batch, which may be more than 100%.
    #[arg(long, value_name = "N|100%")]
    pub representatives: Option<RowCount>,
    /// Size of the buffer over all ranks: a share of the training set, a number of samples, or memory.
    #[arg(long, value_name = "30%|N|512MiB")]
    #[serde(default, deserialize_with = "text_or_number")]
    pub capacity: Option<String>,
    /// Which stored sample makes room for a new one.
    #[arg(long, value_enum)]
    pub policy: Option<PolicyArg>,
    /// From which stored samples representatives are drawn.
    #[arg(long, value_enum)]
    pub sampling: Option<SamplingArg>,
    /// What happens to a sample that is offered again in a later epoch.
    #[arg(long, value_enum)]
    pub on_repeat: Option<OnRepeatArg>,
    /// Who does the buffer's work; never changes a result.
    #[arg(long, value_enum, help_heading = DIFFER)]
    pub execution: Option<ExecutionArg>,
    /// Where each rank keeps its part of the buffer; never changes a result.
    #[arg(long, value_enum, help_heading = DIFFER)]
    pub store: Option<StoreArg>,
    /// The largest part of the buffer that `--store auto` puts on a GPU, per rank.
    #[arg(long, value_name = "2GiB", help_heading = DIFFER)]
    pub store_limit: Option<String>,
    /// How many steps the representatives lag behind the buffer.
    #[arg(long)]
    pub lag: Option<usize>,
    /// First task (from 0) whose mini-batches are augmented with representatives.
    #[arg(long)]
    pub start_task: Option<usize>,
    /// Base learning rate.
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Momentum of SGD; 0 for none.
    #[arg(long)]
    pub momentum: Option<f64>,
    /// Weight decay (L2 penalty).
    #[arg(long)]
    pub weight_decay: Option<f64>,
    /// Epochs of linear warm-up at the start of every task, from the base rate to that of all ranks together (see `--scale-cap`).
    #[arg(long)]
    pub warmup_epochs: Option<f64>,
    /// From which epoch of a task on (counted from 0) the learning rate is multiplied by what, relative to its highest; `none` for never.
    #[arg(long, value_name = "21:0.5,26:0.05")]
    pub milestones: Option<String>,
    /// The learning rate grows with the number of ranks, at most by this factor; 1 for not at all.
    #[arg(long)]
    pub scale_cap: Option<f64>,
    /// What happens to the optimiser's state between tasks.
    #[arg(long, value_enum)]
    pub optimizer_state: Option<OptimizerStateArg>,
    /// Data-parallel ranks, as threads of this process; under `mpirun` or `srun`, the launcher says how many there are.
    #[arg(long)]
    pub ranks: Option<usize>,
    /// What joins the ranks; if nothing is said, `mpi` where `mpirun` or `srun` started several processes, otherwise `threads`.
    #[arg(long, value_enum)]
    pub collective: Option<CollectiveArg>,
    /// Who adds up gradients under MPI.
    #[arg(long, value_enum)]
    pub reduction: Option<ReductionArg>,
    /// Threads per rank that read data.
    #[arg(long, help_heading = DIFFER)]
    pub workers: Option<usize>,
    /// Device of the network.
    #[arg(long, value_name = "flex|wgpu|cuda[:i]")]
    pub device: Option<String>,
    /// Numbers that the network computes with; its parameters, and the buffer, stay what they are.
    #[arg(long, value_enum)]
    pub precision: Option<PrecisionArg>,
    /// Seed of every random choice.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Evaluates after every so many epochs within a task as well; 0 for after tasks alone.
    #[arg(long)]
    pub evaluate_every: Option<usize>,
    /// Waits for the device between the phases of a step, so that their times are exact on a GPU too.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", help_heading = DIFFER)]
    pub profile: Option<bool>,
    /// What is shown while a run goes on; `auto` (the default) is a bar on a terminal and lines elsewhere.
    #[arg(long, value_enum, help_heading = FIRST)]
    pub display: Option<DisplayArg>,
    /// When to write a checkpoint: after every task, also after every N epochs, or never.
    #[arg(long, value_name = "task|N|never")]
    pub checkpoint_every: Option<String>,
    /// How many checkpoints are kept.
    #[arg(long, value_name = "K", help_heading = FIRST)]
    pub checkpoint_keep: Option<usize>,
    /// Start over even if the directory holds an unfinished or a finished run.
    #[arg(long, help_heading = FIRST)]
    #[serde(skip)]
    pub fresh: bool,
    /// Directory for reports and figures; `runs/` and the name of the data if nothing is said. If there is a finished run, the next gets `-2`, `-3`, …
    #[arg(long, help_heading = FIRST)]
    pub out: Option<PathBuf>,
    /// A TOML file with any of these options; flags win over it.
    #[arg(long, value_name = "FILE.toml", help_heading = DIFFER)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

/// Declares an enum of option values and what each stands for.
macro_rules! choices {
    ($(#[$doc:meta])* $name:ident => $target:ty { $($(#[$vdoc:meta])* $variant:ident = $value:expr),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl From<$name> for $target {
            fn from(choice: $name) -> Self {
                match choice { $($name::$variant => $value),* }
            }
        }
    };
}

choices! {
    /// A candidate mode.
    CandidateModeArg => CandidateMode {
        /// Exactly c of each mini-batch.
        Exact = CandidateMode::Exact,
        /// Each sample with probability c/b.
        Bernoulli = CandidateMode::Bernoulli,
    }
}
choices! {
    /// A policy.
    PolicyArg => PolicyKind {
        /// Equal shares for all classes, and every sample of a class with equal chance.
        ClassBalanced = PolicyKind::ClassBalanced,
        /// Equal shares for all classes; a new sample always replaces a random one.
        RandomReplacement = PolicyKind::RandomReplacement,
        /// Every sample seen so far with equal chance.
        Reservoir = PolicyKind::Reservoir,
        /// The oldest makes room.
        Fifo = PolicyKind::Fifo,
    }
}
choices! {
    /// A rule of sampling.
    SamplingArg => SamplingKind {
        /// All stored samples alike.
        Uniform = SamplingKind::Uniform,
        /// All stored classes alike.
        ClassBalanced = SamplingKind::ClassBalanced,
        /// All stored samples of earlier tasks alike.
        ExcludeCurrent = SamplingKind::ExcludeCurrent,
    }
}
choices! {
    /// What happens to repeated samples.
    OnRepeatArg => OnRepeat {
        /// They may be stored twice.
        KeepBoth = OnRepeat::KeepBoth,
        /// They are skipped while they are stored.
        SkipIfStored = OnRepeat::SkipIfStored,
    }
}
choices! {
    /// Who does the work.
    ExecutionArg => Execution {
        /// A thread of its own.
        Background = Execution::Background,
        /// The training thread.
        Inline = Execution::Inline,
    }
}
choices! {
    /// Where the buffer is kept.
    StoreArg => StorePreference {
        /// On the device of the network if that is a GPU and the buffer is within `--store-limit`; otherwise in host memory.
        Auto = StorePreference::Auto,
        /// In host memory.
        Host = StorePreference::Host,
        /// On the device of the network.
        Device = StorePreference::Device,
    }
}
choices! {
    /// Numbers that a network computes with.
    PrecisionArg => Precision {
        /// 32 bits.
        F32 = Precision::F32,
        /// 16 bits with the range of 32.
        Bf16 = Precision::Bf16,
        /// 16 bits, with the loss scaled.
        F16 = Precision::F16,
    }
}
choices! {
    /// How a network is initialised.
    InitArg => Scheme {
        /// PyTorch's default: ±1/√fan_in.
        Kaiming = Scheme::KaimingUniform,
        /// Glorot's: ±√(6/(fan_in + fan_out)), biases zero.
        Xavier = Scheme::XavierUniform,
        /// He's for convolutions, normal with variance 2/fan_out; otherwise as `kaiming`: torchvision's residual networks.
        HeNormal = Scheme::HeNormal,
    }
}
choices! {
    /// How an image becomes a square.
    FitArg => Fit {
        /// Both sides are scaled to the same length.
        Stretch = Fit::Stretch,
        /// The shorter side is scaled, and the middle cut out.
        Crop = Fit::Crop,
    }
}
choices! {
    /// What happens to damaged images.
    OnDamagedArg => OnDamaged {
        /// The run ends.
        Fail = OnDamaged::Fail,
        /// They are left out, noted and counted.
        Skip = OnDamaged::Skip,
    }
}
choices! {
    /// What a pack keeps of images.
    FormatArg => Format {
        /// Their pixels at `--image-size`.
        Pixels = Format::Pixels,
        /// Their files as they are.
        Original = Format::Original,
    }
}
choices! {
    /// What happens to the optimiser's state between tasks.
    OptimizerStateArg => bool {
        /// It is kept.
        Keep = true,
        /// Every task starts with a fresh optimiser.
        Reset = false,
    }
}

/// A network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelArg {
    /// Two hidden layers of 100 units, the continual-learning literature's network for small images.
    Mlp,
    /// A small convolutional network.
    Conv,
    /// ResNet-18.
    Resnet18,
    /// ResNet-50.
    Resnet50,
    /// GhostNet 0.5.
    Ghostnet,
}

impl ModelArg {
    /// The initial values of the reference implementation, torchvision's or timm's.
    pub fn init(self) -> InitArg {
        match self {
            Self::Mlp | Self::Conv | Self::Ghostnet => InitArg::Kaiming,
            Self::Resnet18 | Self::Resnet50 => InitArg::HeNormal,
        }
    }
}

/// How images are varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AugmentArg {
    /// Not at all.
    None,
    /// Shifted by up to an eighth of the side, with zeros at the border, and mirrored or not: usual for images of 32 pixels.
    CropFlip,
    /// As `crop-flip`, then colour jitter, and an erased rectangle in one of four images.
    CropFlipJitterErase,
    /// A part of 8 % to 100 % of the area, scaled to the whole, and mirrored or not: usual for ImageNet.
    ResizedCropFlip,
    /// As `resized-crop-flip`, then colour jitter, and an erased rectangle in one of four images.
    ResizedCropFlipJitterErase,
}

/// How channels are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NormalizeArg {
    /// Not at all: values 0..=1.
    None,
    /// By the mean and standard deviation of ImageNet.
    Imagenet,
    /// By those of CIFAR-10.
    Cifar10,
}

impl NormalizeArg {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Imagenet => "imagenet",
            Self::Cifar10 => "cifar10",
        }
    }
}

/// What an image meets first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StemArg {
    /// `small` up to 64 pixels, `imagenet` above.
    Auto,
    /// A 7×7 convolution with stride 2, then max-pooling with stride 2.
    Imagenet,
    /// A 3×3 convolution with stride 1.
    Small,
}

/// How samples are spread over tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamArg {
    /// Every task brings new classes.
    Class,
    /// Every task brings new samples of all classes.
    Instance,
}

/// The order in which classes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassOrderArg {
    /// By class number.
    Fixed,
    /// Shuffled with the seed.
    Seeded,
}

/// What is shown while a run goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisplayArg {
    /// `bar` on a terminal, `plain` elsewhere.
    #[default]
    Auto,
    /// A bar with figures, on standard error; without a terminal, `plain`.
    Bar,
    /// A line for an epoch, every five seconds at most.
    Plain,
    /// Burn's terminal interface, if it was built in (`--features tui`): plots of the loss, of top-1, and of what the buffer does.
    Tui,
    /// Nothing but the results.
    None,
}

/// What joins the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollectiveArg {
    /// They are threads of one process.
    Threads,
    /// They are processes of an MPI run.
    Mpi,
}

/// Who adds up gradients under MPI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReductionArg {
    /// We do, in rank order: the same bits in every run, and as with threads.
    Fixed,
    /// The MPI library, in its own order.
    Fast,
}

/// Sets of defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// The main job: 5 tasks of 2 classes on 2 ranks, a buffer of 10 %.
    Digits,
    /// Experience replay as in Mammoth: digits at 28×28, 5 epochs, mini-batches of 10 + 10, plain SGD, a reservoir of 200, one rank.
    MammothErDigits,
    /// Experience replay as in Mammoth: CIFAR-10 in 5 tasks of 2 classes, ResNet-18, 50 epochs, mini-batches of 32 + 32, plain SGD, a reservoir of 200.
    MammothErCifar10,
    /// ImageNet in 4 tasks of 250 classes, as published at CCGrid 2024: 30 epochs, 56 + 7 samples per rank, a buffer of 30 %.
    Ccgrid24,
}

/// Options of `pack`.
#[derive(Debug, Clone, Args)]
pub struct PackArgs {
    /// What is packed; as in `train`.
    #[arg(long, value_name = "KIND:DIR")]
    pub data: String,
    /// The folder for the pack.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What is kept of each image.
    #[arg(long, value_enum, default_value = "pixels")]
    pub format: FormatArg,
    /// Side of the square images, in pixels; if nothing is said, what is usual for the data.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// How an image that is no square becomes one.
    #[arg(long, value_enum, default_value = "stretch")]
    pub fit: FitArg,
    /// What happens to an image that cannot be decoded.
    #[arg(long, value_enum, default_value = "fail")]
    pub on_damaged: OnDamagedArg,
}

/// A capacity in a file: text, or a number without quotes.
fn text_or_number<'de, D: Deserializer<'de>>(file: D) -> Result<Option<String>, D::Error> {
    struct Capacity;

    impl Visitor<'_> for Capacity {
        type Value = String;

        fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
            text.write_str("a number of samples, a share (\"30%\") or memory (\"512MiB\")")
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<String, E> {
            Ok(number.to_string())
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }
    }

    file.deserialize_any(Capacity).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the README says of options and ranks.
    fn listed() -> String {
        let paragraph = |heading: &str| {
            let mut text = format!("{heading}:");
            let mut column = text.len();
            let options = options_under(heading);
            for (index, option) in options.iter().enumerate() {
                let word = format!("`--{option}`{}", if index + 1 == options.len() { "." } else { "," });
                let breaks = column + 1 + word.len() > 100;
                column = if breaks { word.len() } else { column + 1 + word.len() };
                text.push_str(if breaks { "\n" } else { " " });
                text.push_str(&word);
            }
            text
        };
        [AGREE, DIFFER, FIRST].map(paragraph).join("\n\n")
    }

    #[test]
    fn every_option_of_a_run_says_what_ranks_may_do_and_the_readme_lists_it() {
        let listed_options: Vec<_> = [AGREE, DIFFER, FIRST].into_iter().flat_map(options_under).collect();
        for command in Cli::command().get_subcommands().filter(|command| ["compare", "train"].contains(&command.get_name())) {
            for option in command.get_arguments().filter_map(|option| option.get_long()).filter(|name| !["help", "version"].contains(name))
            {
                assert_eq!(listed_options.iter().filter(|listed| *listed == option).count(), 1, "--{option}");
            }
        }
        let readme = include_str!("../README.md");
        assert!(readme.contains(&listed()), "the README lacks:\n{}", listed());
    }
}
