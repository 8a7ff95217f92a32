//! The command line.

use crate::config::{AGREE, Flags};
use burn_rehearsal::{CandidateMode, Execution, OnRepeat, StorePreference};
use burn_rehearsal_collective::Reduction;
use burn_rehearsal_train::methods::{self, MethodRef};
use burn_rehearsal_vision::augment::ChannelStatistics;
use burn_rehearsal_vision::data::{DataSource, Fit, Format, OnDamaged};
use burn_rehearsal_vision::models::Stem;
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
    /// The command. Defaults to `compare`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Options of `compare`.
    #[command(flatten)]
    pub compare: CompareArgs,
}

/// Options of `compare`.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Continual-learning methods to compare, separated by commas.
    #[arg(long, value_name = "METHOD,…", default_value = "incremental,rehearsal,scratch", help_heading = AGREE)]
    #[arg(long_help = methods_help("Continual-learning methods to compare, separated by commas."))]
    pub methods: MethodList,
    /// The options of the runs.
    #[command(flatten)]
    pub options: Flags,
}

/// Different methods, at least one.
#[derive(Debug, Clone)]
pub struct MethodList(pub Vec<MethodRef>);

/// Parses names or aliases, separated by commas.
impl FromStr for MethodList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut list: Vec<MethodRef> = Vec::new();
        for name in text.split(',') {
            let method = methods::by_name(name.trim()).map_err(|error| error.to_string())?;
            if list.contains(&method) {
                return Err(format!("the method `{method}` is listed twice"));
            }
            list.push(method);
        }
        Ok(Self(list))
    }
}

/// The help of an option for methods: `help`, and a list of all methods with their options.
fn methods_help(help: &str) -> String {
    let mut text = help.to_owned();
    for method in methods::ALL {
        let names = [&[method.name()], method.aliases()].concat().join(", ");
        text.push_str(&format!("\n- {names}: {}", method.summary()));
        for option in method.options() {
            text.push_str(&format!("\n    {option}: {}", option.help));
        }
    }
    text
}

/// The end of `--help`.
fn defaults() -> String {
    format!("Defaults, in the format of a `--config` file:\n{}", crate::config::defaults())
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train with several methods, and compare them (the default).
    #[command(allow_negative_numbers = true, after_long_help = defaults())]
    Compare {
        /// The options.
        #[command(flatten)]
        compare: CompareArgs,
    },
    /// Train with one method.
    #[command(allow_negative_numbers = true, after_long_help = defaults())]
    Train {
        /// Continual-learning method.
        #[arg(long, value_parser = methods::by_name, help_heading = AGREE)]
        #[arg(long_help = methods_help("Continual-learning method."))]
        method: MethodRef,
        /// The options of the run.
        #[command(flatten)]
        options: Flags,
    },
    /// Pack a data set into a few large files, to train on with `--data pack:DIR`.
    Pack {
        /// The options of the pack.
        #[command(flatten)]
        options: PackArgs,
    },
    /// Print a table of runs and write their figures and web page.
    Report {
        /// Directories that contain a `report.json`, themselves or up to two levels down.
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// Output directory. Defaults to DIRECTORIES if there is only one; otherwise no figures are
        /// written without it.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// List devices, and the features that they need.
    Devices,
}

/// Declares enums of option values, and the library's value of each.
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
    /// Selection of candidates.
    CandidateModeArg => CandidateMode {
        /// Exactly c of the incoming samples.
        Exact = CandidateMode::Exact,
        /// Each incoming sample with probability c/b.
        Bernoulli = CandidateMode::Bernoulli,
    }

    /// Treatment of candidates that are already stored.
    OnRepeatArg => OnRepeat {
        /// The candidate may be stored twice.
        KeepBoth = OnRepeat::KeepBoth,
        /// The candidate is skipped.
        SkipIfStored = OnRepeat::SkipIfStored,
    }

    /// Thread that does the work of the buffer.
    ExecutionArg => Execution {
        /// A background thread per rank.
        Background = Execution::Background,
        /// The training thread.
        Inline = Execution::Inline,
    }

    /// Memory that holds a shard.
    StoreArg => StorePreference {
        /// The training device if it is a GPU and the shard is within `--store-limit`, otherwise
        /// host memory.
        Auto = StorePreference::Auto,
        /// Host memory.
        Host = StorePreference::Host,
        /// The training device.
        Device = StorePreference::Device,
    }

    /// Conversion of images to squares.
    FitArg => Fit {
        /// Both sides are scaled independently.
        Stretch = Fit::Stretch,
        /// The shorter side is scaled, then the center is cropped.
        Crop = Fit::Crop,
    }

    /// Treatment of images that cannot be decoded.
    OnDamagedArg => OnDamaged {
        /// The run fails.
        Fail = OnDamaged::Fail,
        /// The image is left out, logged and counted.
        Skip = OnDamaged::Skip,
    }

    /// Content of a pack.
    FormatArg => Format {
        /// Decoded pixels at `--image-size`.
        Pixels = Format::Pixels,
        /// The original files.
        Original = Format::Original,
    }

    /// State of the optimizer between tasks.
    OptimizerStateArg => bool {
        /// The state is kept.
        Keep = true,
        /// Every task starts with a new optimizer.
        Reset = false,
    }

    /// Channel statistics.
    NormalizeArg => Option<ChannelStatistics> {
        /// No normalization: values are in 0..=1.
        None = None,
        /// Statistics of ImageNet.
        Imagenet = Some(ChannelStatistics::IMAGENET),
        /// Statistics of CIFAR-10.
        Cifar10 = Some(ChannelStatistics::CIFAR10),
    }

    /// The first layers of a residual network.
    StemArg => Option<Stem> {
        /// `small` up to 64 pixels, `imagenet` above.
        Auto = None,
        /// A 7×7 convolution with stride 2 and max-pooling with stride 2.
        Imagenet = Some(Stem::ImageNet),
        /// A 3×3 convolution with stride 1.
        Small = Some(Stem::Small),
    }

    /// Order in which MPI sums gradients.
    ReductionArg => Reduction {
        /// By rank: bit-identical in every run, and to ranks that are threads.
        Fixed = Reduction::FixedOrder,
        /// That of the MPI library.
        Fast = Reduction::Fast,
    }
}

/// Augmentation of training images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AugmentArg {
    /// No augmentation.
    None,
    /// Random crops with zero padding of an eighth of the side, and horizontal flips: usual for
    /// images of 32 pixels.
    CropFlip,
    /// `crop-flip`, then color jitter, and random erasing in one of four images.
    CropFlipJitterErase,
    /// Random resized crops (see `--crop-area`) and horizontal flips: usual for ImageNet.
    ResizedCropFlip,
    /// `resized-crop-flip`, then color jitter, and random erasing in one of four images.
    ResizedCropFlipJitterErase,
}

/// Distribution of samples over tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum StreamArg {
    /// Every task has new classes (class-incremental).
    Class,
    /// Every task has new samples of all classes (instance-incremental).
    Instance,
}

/// The order in which classes arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClassOrderArg {
    /// By class number.
    Fixed,
    /// Shuffled, by the seed.
    Seeded,
}

/// Display of progress.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DisplayArg {
    /// `bar` on a terminal, otherwise `plain`.
    #[default]
    Auto,
    /// A progress bar with figures, on standard error.
    Bar,
    /// A line per epoch, at most one every five seconds.
    Plain,
    /// Burn's terminal interface with plots (needs `--features tui`).
    Tui,
    /// Nothing until the results.
    None,
}

/// Transport between ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CollectiveArg {
    /// Ranks are threads of one process.
    Threads,
    /// Ranks are processes, over MPI (needs `--features mpi`).
    Mpi,
}

/// Interval between checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointInterval {
    /// After each task.
    Task,
    /// After each task, and every N epochs of a task.
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
    /// Data set to pack, as in `train`.
    #[arg(long, value_name = "KIND:DIR")]
    pub data: DataSource,
    /// Output directory. An interrupted pack in it is resumed.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Content of the pack.
    #[arg(long, value_enum, default_value = "pixels")]
    pub format: FormatArg,
    /// Side of the images, in pixels. Defaults to the usual size of the data set.
    #[arg(long)]
    pub image_size: Option<usize>,
    /// Conversion of images to squares.
    #[arg(long, value_enum, default_value = "stretch")]
    pub fit: FitArg,
    /// Treatment of images that cannot be decoded.
    #[arg(long, value_enum, default_value = "fail")]
    pub on_damaged: OnDamagedArg,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DIFFER, FIRST};
    use clap::CommandFactory;
    use std::collections::BTreeSet;

    /// The options of runs under this heading, in alphabetical order.
    fn options_under(heading: &str) -> Vec<String> {
        let command = Cli::command();
        let commands = ["compare", "train"].map(|name| command.find_subcommand(name));
        let options = commands.into_iter().flatten().flat_map(clap::Command::get_arguments);
        let under = options.filter(|option| option.get_help_heading() == Some(heading));
        let names: BTreeSet<String> =
            under.filter_map(|option| Some(option.get_long()?.to_owned())).collect();
        names.into_iter().collect()
    }

    /// The lists of options by heading, as in the README.
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
    fn every_option_has_one_heading_and_the_readme_lists_it() {
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
        assert!(readme.contains(&listed()), "missing in the README:\n{}", listed());
    }

    #[test]
    fn methods_are_listed_by_name_or_alias_and_once() {
        let list = |text: &str| {
            let MethodList(methods) = text.parse()?;
            Ok::<_, String>(methods.iter().map(|method| method.name()).collect::<Vec<_>>())
        };
        assert_eq!(list("er, der++,lwf").unwrap(), ["rehearsal", "derpp", "lwf"]);
        assert_eq!(list("er,rehearsal").unwrap_err(), "the method `rehearsal` is listed twice");
        for text in ["", "er,", "er,memory"] {
            let error = list(text).unwrap_err();
            assert!(error.contains("there is no method") && error.contains("derpp"), "{error}");
        }
        let help = methods_help("");
        for method in methods::ALL {
            assert!(help.contains(method.name()) && help.contains(method.summary()), "{help}");
        }
        assert!(help.contains("derpp, der++: ") && help.contains("alpha=0.2: Weight"), "{help}");
    }
}
