//! The command line. The same options can be given in a TOML file; flags win.

use crate::config::{AGREE, Flags};
use burn_rehearsal::{CandidateMode, Execution, OnRepeat, StorePreference};
use burn_rehearsal_collective::Reduction;
use burn_rehearsal_train::methods::{self, MethodRef};
use burn_rehearsal_vision::augment::ChannelStatistics;
use burn_rehearsal_vision::data::{DataSource, Fit, Format, OnDamaged};
use burn_rehearsal_vision::models::Stem;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

/// Continual learning with rehearsal: learn classes task by task without forgetting them.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, allow_negative_numbers = true, after_long_help = defaults())]
pub struct Cli {
    /// What to do. Defaults to `compare`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `compare`.
    #[command(flatten)]
    pub options: Flags,
}

/// A built-in method, by name.
fn method() -> impl TypedValueParser<Value = MethodRef> {
    let names =
        methods::ALL.iter().map(|method| PossibleValue::new(method.name()).help(method.summary()));
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
        options: Flags,
    },
    /// Train with one method.
    #[command(allow_negative_numbers = true, after_long_help = defaults())]
    Train {
        /// How the network is trained from task to task.
        #[arg(long, value_parser = method(), help_heading = AGREE)]
        method: MethodRef,
        /// How.
        #[command(flatten)]
        options: Flags,
    },
    /// Write a data set into a few large files, for training with `--data pack:DIR`.
    Pack {
        /// What, how and where.
        #[command(flatten)]
        options: PackArgs,
    },
    /// Print a table of finished runs and draw their figures.
    Report {
        /// Directories that hold a `report.json`, or whose subdirectories do.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// Directory for the figures. Defaults to the directory of the reports, if there is one.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// List the devices that this program was built for.
    Devices,
}

/// Declares enums of option values, and what each value stands for.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident => $target:ty { $($(#[$vdoc:meta])* $variant:ident = $value:expr),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl From<$name> for $target {
            fn from(choice: $name) -> Self {
                match choice { $($name::$variant => $value),* }
            }
        }
    )*};
}

choices! {
    /// A candidate mode.
    CandidateModeArg => CandidateMode {
        /// Exactly c of each mini-batch.
        Exact = CandidateMode::Exact,
        /// Each sample with probability c/b.
        Bernoulli = CandidateMode::Bernoulli,
    }

    /// What happens to repeated samples.
    OnRepeatArg => OnRepeat {
        /// They may be stored twice.
        KeepBoth = OnRepeat::KeepBoth,
        /// They are skipped while they are stored.
        SkipIfStored = OnRepeat::SkipIfStored,
    }

    /// Which thread does the buffer's work.
    ExecutionArg => Execution {
        /// A separate thread.
        Background = Execution::Background,
        /// The training thread.
        Inline = Execution::Inline,
    }

    /// Where the buffer is stored.
    StoreArg => StorePreference {
        /// On the network's device if it is a GPU and the shard is within `--store-limit`;
        /// otherwise in host memory.
        Auto = StorePreference::Auto,
        /// In host memory.
        Host = StorePreference::Host,
        /// On the device of the network.
        Device = StorePreference::Device,
    }

    /// How images become square.
    FitArg => Fit {
        /// Both sides are scaled to the same length.
        Stretch = Fit::Stretch,
        /// The shorter side is scaled, and the center is kept.
        Crop = Fit::Crop,
    }

    /// What happens to damaged images.
    OnDamagedArg => OnDamaged {
        /// The run ends.
        Fail = OnDamaged::Fail,
        /// The image is left out, logged and counted.
        Skip = OnDamaged::Skip,
    }

    /// What a pack stores of images.
    FormatArg => Format {
        /// Pixels at `--image-size`.
        Pixels = Format::Pixels,
        /// The original files.
        Original = Format::Original,
    }

    /// What happens to the optimizer's state between tasks.
    OptimizerStateArg => bool {
        /// It is kept.
        Keep = true,
        /// Every task starts with a fresh optimizer.
        Reset = false,
    }

    /// How channels are normalized.
    NormalizeArg => Option<ChannelStatistics> {
        /// Values stay in 0..=1.
        None = None,
        /// Mean and standard deviation of ImageNet.
        Imagenet = Some(ChannelStatistics::IMAGENET),
        /// Mean and standard deviation of CIFAR-10.
        Cifar10 = Some(ChannelStatistics::CIFAR10),
    }

    /// The first layers of a residual network.
    StemArg => Option<Stem> {
        /// `small` up to 64 pixels, `imagenet` above.
        Auto = None,
        /// A 7×7 convolution with stride 2, then max-pooling with stride 2.
        Imagenet = Some(Stem::ImageNet),
        /// A 3×3 convolution with stride 1.
        Small = Some(Stem::Small),
    }

    /// Order in which MPI sums gradients.
    ReductionArg => Reduction {
        /// Rank order: the same bits in every run, and as with threads.
        Fixed = Reduction::FixedOrder,
        /// The order of the MPI library.
        Fast = Reduction::Fast,
    }
}

/// Augmentation of training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AugmentArg {
    /// None.
    None,
    /// Random shifts by up to an eighth of the side, zero-padded, and horizontal flips. Usual for
    /// images of 32 pixels.
    CropFlip,
    /// As `crop-flip`, then color jitter, and an erased rectangle in one of four images.
    CropFlipJitterErase,
    /// Random resized crops (see `--crop-area`) and horizontal flips. Usual for ImageNet.
    ResizedCropFlip,
    /// As `resized-crop-flip`, then color jitter, and an erased rectangle in one of four images.
    ResizedCropFlipJitterErase,
}

/// How samples are distributed over tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamArg {
    /// Every task brings new classes.
    Class,
    /// Every task brings new samples of all classes.
    Instance,
}

/// The order in which classes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassOrderArg {
    /// By class number.
    Fixed,
    /// Shuffled with the seed.
    Seeded,
}

/// Display of progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisplayArg {
    /// `bar` on a terminal, `plain` elsewhere.
    #[default]
    Auto,
    /// A bar with figures on standard error; `plain` without a terminal.
    Bar,
    /// A line per epoch, at most every five seconds.
    Plain,
    /// Burn's terminal interface (build with `--features tui`): plots of the loss, top-1 accuracy,
    /// and the buffer.
    Tui,
    /// The results only.
    None,
}

/// What connects the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollectiveArg {
    /// Ranks are threads of one process.
    Threads,
    /// Ranks are processes of an MPI run.
    Mpi,
}

/// When checkpoints are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointInterval {
    /// After every task.
    Task,
    /// After every task, and every N epochs of a task.
    Epochs(NonZeroUsize),
    /// Never.
    Never,
}

/// `task`, a number of epochs, or `never`.
impl FromStr for CheckpointInterval {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "task" => Ok(Self::Task),
            "never" => Ok(Self::Never),
            epochs => epochs
                .parse()
                .map(Self::Epochs)
                .map_err(|_| "expected `task`, `never`, or a number of epochs"),
        }
    }
}

/// The text that [`FromStr`] reads.
impl fmt::Display for CheckpointInterval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task => f.write_str("task"),
            Self::Epochs(epochs) => epochs.fmt(f),
            Self::Never => f.write_str("never"),
        }
    }
}

/// Options of `pack`.
#[derive(Debug, Clone, Args)]
pub struct PackArgs {
    /// The data set to pack; as in `train`.
    #[arg(long, value_name = "KIND:DIR")]
    pub data: DataSource,
    /// The folder for the pack.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// What the pack stores of each image.
    #[arg(long, value_enum, default_value = "pixels")]
    pub format: FormatArg,
    /// Side of the square images, in pixels. Defaults to the usual side for the data.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// How images become square.
    #[arg(long, value_enum, default_value = "stretch")]
    pub fit: FitArg,
    /// What happens to an image that cannot be decoded.
    #[arg(long, value_enum, default_value = "fail")]
    pub on_damaged: OnDamagedArg,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DIFFER, FIRST};
    use clap::CommandFactory;

    /// The options of a run under one of these headings, in alphabetical order.
    fn options_under(heading: &str) -> Vec<String> {
        let command = Cli::command();
        let options =
            command.find_subcommand("train").into_iter().flat_map(clap::Command::get_arguments);
        let under = options.filter(|option| option.get_help_heading() == Some(heading));
        let mut names: Vec<String> =
            under.filter_map(|option| Some(option.get_long()?.to_owned())).collect();
        names.sort();
        names
    }

    /// What the README says of options and ranks.
    fn listed() -> String {
        let paragraph = |heading: &str| {
            let mut text = format!("{heading}:");
            let mut column = text.len();
            let options = options_under(heading);
            for (index, option) in options.iter().enumerate() {
                let word =
                    format!("`--{option}`{}", if index + 1 == options.len() { "." } else { "," });
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
        let listed_options: Vec<_> =
            [AGREE, DIFFER, FIRST].into_iter().flat_map(options_under).collect();
        for command in Cli::command()
            .get_subcommands()
            .filter(|command| ["compare", "train"].contains(&command.get_name()))
        {
            for option in command
                .get_arguments()
                .filter_map(|option| option.get_long())
                .filter(|name| !["help", "version"].contains(name))
            {
                assert_eq!(
                    listed_options.iter().filter(|listed| *listed == option).count(),
                    1,
                    "--{option}"
                );
            }
        }
        let readme = include_str!("../README.md");
        assert!(readme.contains(&listed()), "the README lacks:\n{}", listed());
    }
}
