//! The command line. The same options can be given in a TOML file; flags win.

use burn_rehearsal::{CandidateMode, Execution, OnRepeat, PolicyKind, SamplingKind, StoreKind};
use burn_rehearsal_train::augment::{Augment, RESIZED_CROP_RATIO, RESIZED_CROP_SCALE};
use burn_rehearsal_train::init::Scheme;
use burn_rehearsal_train::report::schema::Method;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Deserialize;
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
        #[arg(long, value_enum)]
        method: MethodArg,
        /// How.
        #[command(flatten)]
        options: Options,
    },
    /// Print a table of finished runs and draw them together.
    Report {
        /// Directories that hold a `report.json`, or whose subdirectories do.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// Directory for the figures; the first of the directories if nothing is said.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// List the devices that this program was built for and finds here.
    Devices,
}

/// What can be said on the command line and in a configuration file. Everything is optional.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Options {
    /// Defaults to start from.
    #[arg(long, value_enum)]
    pub recipe: Option<Recipe>,
    /// `digits` (embedded), or `folder:DIR` with DIR/train/CLASS/*.jpg and DIR/test/CLASS/*.jpg (or val instead of test); PNG as well.
    #[arg(long, value_name = "digits|folder:DIR")]
    pub data: Option<String>,
    /// Side of the square images that samples are scaled to, in pixels; 32 for a folder if nothing is said.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// The network; `conv` for a folder if nothing is said.
    #[arg(long, value_enum)]
    pub model: Option<ModelArg>,
    /// How the network is initialised.
    #[arg(long, value_enum)]
    pub init: Option<InitArg>,
    /// How images are varied in training, anew in every step, those from the buffer too.
    #[arg(long, value_enum)]
    pub augment: Option<AugmentArg>,
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
    /// Samples of each mini-batch that are offered to the buffer (c).
    #[arg(long)]
    pub candidates: Option<usize>,
    /// How candidates are chosen.
    #[arg(long, value_enum)]
    pub candidate_mode: Option<CandidateModeArg>,
    /// Samples drawn from the buffer and appended to each mini-batch (r).
    #[arg(long)]
    pub representatives: Option<usize>,
    /// Size of the buffer over all ranks: a share of the training set, a number of samples, or memory.
    #[arg(long, value_name = "30%|N|512MiB")]
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
    #[arg(long, value_enum)]
    pub execution: Option<ExecutionArg>,
    /// Where each rank keeps its part of the buffer; never changes a result.
    #[arg(long, value_enum)]
    pub store: Option<StoreArg>,
    /// The largest part of the buffer that `--store auto` puts on a GPU, per rank.
    #[arg(long, value_name = "2GiB")]
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
    /// Epochs of linear warm-up at the start of every task.
    #[arg(long)]
    pub warmup_epochs: Option<f64>,
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
    #[arg(long)]
    pub workers: Option<usize>,
    /// Device of the network.
    #[arg(long, value_name = "flex|wgpu|cuda[:i]")]
    pub device: Option<String>,
    /// Seed of every random choice.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Waits for the device between the phases of a step, so that their times are exact on a GPU too.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    pub profile: Option<bool>,
    /// When the run is written down, to go on from there if it is interrupted: after every task, after every N epochs too, or never.
    #[arg(long, value_name = "task|N|never")]
    pub checkpoint_every: Option<String>,
    /// How many checkpoints are kept.
    #[arg(long, value_name = "K")]
    pub checkpoint_keep: Option<usize>,
    /// Begins anew where the directory holds an unfinished run, which would be continued otherwise, or a finished one, which would be left alone.
    #[arg(long)]
    #[serde(skip)]
    pub fresh: bool,
    /// Directory for reports and figures; `runs/` and the name of the data if nothing is said. If there is a finished run, the next gets `-2`, `-3`, …
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// A TOML file with any of these options; flags win over it.
    #[arg(long, value_name = "FILE.toml")]
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
    /// A method.
    MethodArg => Method {
        /// The current task's data only: forgets.
        Incremental = Method::Incremental,
        /// Anew on all data so far: the upper bound.
        Scratch = Method::Scratch,
        /// The current task's data and representatives of earlier ones.
        Rehearsal = Method::Rehearsal,
    }
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
        /// Equal shares for all classes.
        ClassBalanced = PolicyKind::ClassBalanced,
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
    StoreArg => StoreKind {
        /// On the device of the network if that is a GPU and the buffer is within `--store-limit`; otherwise in host memory.
        Auto = StoreKind::Auto,
        /// In host memory.
        Host = StoreKind::Host,
        /// On the device of the network.
        Device = StoreKind::Device,
    }
}
choices! {
    /// How a network is initialised.
    InitArg => Scheme {
        /// PyTorch's default: ±1/√fan_in.
        Kaiming = Scheme::KaimingUniform,
        /// Glorot's: ±√(6/(fan_in + fan_out)), biases zero.
        Xavier = Scheme::XavierUniform,
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
}

/// How images are varied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AugmentArg {
    /// Not at all.
    None,
    /// Shifted by up to an eighth of the side, with zeros at the border, and mirrored or not: usual for images of 32 pixels.
    CropFlip,
    /// A part of 8 % to 100 % of the area, scaled to the whole, and mirrored or not: usual for ImageNet.
    ResizedCropFlip,
}

impl AugmentArg {
    /// The operations on images of `side` × `side` pixels, if there are any.
    pub fn pipeline(self, side: usize, seed: u64) -> Option<Augment> {
        let augment = Augment::new(seed);
        let cropped = match self {
            Self::None => return None,
            Self::CropFlip => augment.random_crop(side, side.div_ceil(8)),
            Self::ResizedCropFlip => augment.random_resized_crop(side, RESIZED_CROP_SCALE, RESIZED_CROP_RATIO),
        };
        Some(cropped.horizontal_flip(0.5))
    }
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
}
