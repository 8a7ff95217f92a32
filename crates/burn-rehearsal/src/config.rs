//! The configuration of a buffer.

use crate::batch::layout::without_late;
use crate::batch::{FieldSpec, RehearsalBatch};
use crate::capacity::Capacity;
use crate::error::ConfigError;
use crate::policy::PolicyKind;
use crate::row_count::RowCount;
use crate::sampling::SamplingKind;
use crate::slots::MAX_CLASSES;
use burn::config::Config;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the candidates of a mini-batch are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CandidateMode {
    /// Exactly min(c, rows) rows. Every subset is equally likely.
    Exact,
    /// Every row independently with probability c / rows, as in Bouvier et al. 2024.
    Bernoulli,
}

/// How the buffer treats a sample that is offered while it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnRepeat {
    /// The sample may be stored twice, as in Bouvier et al. 2024.
    KeepBoth,
    /// The sample is ignored while this rank's shard holds it. Requires a field marked `id`.
    SkipIfStored,
}

/// The thread that updates the shard and draws representatives. Never changes a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Execution {
    /// A background thread, while the training step runs.
    Background,
    /// The thread that requests representatives, during the request.
    Inline,
}

/// The memory requested for a rank's shard. Never changes a result.
///
/// [`StoreLocation`](crate::StoreLocation), in reports, is the memory that was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StorePreference {
    /// The training device if it has its own memory and the shard is no larger than
    /// [`RehearsalConfig::device_limit`]; otherwise the host.
    Auto,
    /// Host memory. Candidates and representatives cross the bus.
    Host,
    /// The device of the first mini-batch, separately for each field. Only classes, ids and rows
    /// for other ranks cross the bus.
    Device,
}

/// The default of [`RehearsalConfig::device_limit`] in bytes: a quarter of the memory of a small
/// GPU. Burn 0.22 does not report the size of a device's memory.
const DEVICE_LIMIT: u64 = 2 << 30;

impl StorePreference {
    /// `auto`, `host` or `device`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Device => "device",
        }
    }
}

/// One of several draws per step, see [`RehearsalConfig::with_draws`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrawConfig {
    /// The number of rows that are drawn.
    pub representatives: RowCount,
    /// Which stored rows are drawn.
    pub sampling: SamplingKind,
}

impl DrawConfig {
    /// A uniform draw of this many rows: a count, or a ratio of the incoming rows.
    ///
    /// ```
    /// use burn_rehearsal::{DrawConfig, RowCount, SamplingKind};
    ///
    /// let draw = DrawConfig::new(0.5); // one row for two incoming rows
    /// assert_eq!(draw.representatives, RowCount::Ratio(0.5));
    /// assert_eq!(draw.sampling, SamplingKind::Uniform);
    /// ```
    pub fn new(representatives: impl Into<RowCount>) -> Self {
        Self { representatives: representatives.into(), sampling: SamplingKind::Uniform }
    }

    /// Sets [`sampling`](Self::sampling).
    pub fn with_sampling(self, sampling: SamplingKind) -> Self {
        Self { sampling, ..self }
    }
}

/// Declares a configuration like Burn's derive of `Config`, with setters that convert their
/// argument.
macro_rules! config {
    (
        $(#[$doc:meta])*
        pub struct $name:ident {
            $(#[$required_doc:meta])* pub $required:ident: $required_type:ty,
            $($(#[$field_doc:meta])* pub $field:ident: $type:ty = $default:expr, set by $setter:ident($argument:ty),)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $(#[$required_doc])* pub $required: $required_type,
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            /// A configuration with default values in all other fields.
            pub fn new($required: $required_type) -> Self {
                Self { $required, $($field: $default),* }
            }

            $(
                #[doc = concat!("Sets [`", stringify!($field), "`](Self::", stringify!($field), ").")]
                pub fn $setter(mut self, $field: $argument) -> Self {
                    self.$field = $field.into();
                    self
                }
            )*
        }

        impl Config for $name {}

        /// Writes JSON, like Burn's configurations.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?)
            }
        }
    };
}

config! {
    /// Configuration of a [`RehearsalBuffer`](crate::RehearsalBuffer).
    ///
    /// ```
    /// use burn::config::Config;
    /// use burn_rehearsal::{Capacity, PolicyKind, RehearsalConfig};
    ///
    /// let config = RehearsalConfig::new(Capacity::Samples(2_000))
    ///     .with_representatives(32) // a number of rows, or a ratio of the incoming rows
    ///     .with_candidates(0.25)
    ///     .with_policy(PolicyKind::Reservoir);
    /// # let file = tempfile::NamedTempFile::new()?;
    /// config.save(file.path())?;
    /// assert_eq!(RehearsalConfig::load(file.path())?, config);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// All ranks must use equal values in the [fields that can change a result](Self::agreed).
    ///
    /// # Choosing the capacity
    ///
    /// The capacity |B| is the most important option, and it counts all ranks together. A few per
    /// cent of the data are usually enough to remember most of it. More is better, and costs memory
    /// but no time: the time of a step does not depend on the capacity. Give it as a number of
    /// samples, as a [fraction of the data set](Capacity::Fraction) or as an [amount of
    /// memory](Capacity::Bytes).
    ///
    /// # Choosing the representatives
    ///
    /// r representatives (replayed samples) are appended to each mini-batch of b incoming rows. The
    /// default, r = b, doubles the rows of a step and is what most published methods use. Fewer
    /// representatives are faster and remember less: with 7 for 32 incoming rows, a network can
    /// forget almost as much as without a buffer. Small ratios suit long training on large batches.
    /// Bouvier et al. 2024 use 7 for 56 incoming rows.
    ///
    /// # Choosing the candidates
    ///
    /// c candidates of each mini-batch are offered to the buffer. By default, all incoming rows are
    /// candidates. This costs little, and suits two policies: [`PolicyKind::Reservoir`] stores a
    /// uniform sample of all candidates, and [`PolicyKind::ClassBalanced`] a uniform sample of each
    /// class. With [`PolicyKind::RandomReplacement`] or [`PolicyKind::Fifo`], every candidate
    /// replaces a stored row. Fewer candidates then mean that a row is stored for longer. Bouvier
    /// et al. 2024 use 14 of 56 rows.
    ///
    /// # Several draws
    ///
    /// Some methods replay several groups of rows in a step. For example, DER++ (Dark Experience
    /// Replay++) needs two independent draws: one for the loss on stored logits, and one for the
    /// loss on stored classes. Configure them with [`with_draws`](Self::with_draws). A
    /// [`RowLayout`](crate::RowLayout) in the mini-batch names the rows of each draw.
    ///
    /// # Lag
    ///
    /// The representatives of step t are drawn after the candidates of step t − lag were inserted.
    /// With the default lag of 1, the engine inserts and draws while the network computes step
    /// t − 1, and the training thread does not wait. With lag 0 it waits in every step, and rows of
    /// a mini-batch can be drawn in the same step. A larger lag hides slow or irregular
    /// communication between ranks, and representatives are older by that number of steps. The
    /// first `lag` steps have no representatives. A batch type with [late
    /// fields](crate::batch::layout#late-fields), such as logits, needs a lag of at least 1.
    pub struct RehearsalConfig {
        /// |B|, the number of samples that all ranks together store.
        pub capacity: Capacity,
        /// c, the number of rows of each mini-batch that are offered to the buffer. Default: all (a
        /// ratio of 1). With 0, rows enter the buffer through
        /// [`fill`](crate::RehearsalBuffer::fill) only.
        pub candidates: RowCount = RowCount::Ratio(1.0),
            set by with_candidates(impl Into<RowCount>),
        /// r, the number of representatives appended to each mini-batch. If fewer rows are stored,
        /// all of them are appended. Default: the number of incoming rows (a ratio of 1).
        ///
        /// A ratio refers to the mini-batch during which the representatives are drawn, which is
        /// [`lag`](Self::lag) steps earlier on the same rank. Therefore the first `lag`
        /// mini-batches of an epoch use the sizes of the last mini-batches of the previous epoch.
        pub representatives: RowCount = RowCount::Ratio(1.0),
            set by with_representatives(impl Into<RowCount>),
        /// How candidates are chosen. Default: exactly c rows.
        pub candidate_mode: CandidateMode = CandidateMode::Exact,
            set by with_candidate_mode(CandidateMode),
        /// Which row of a full shard a candidate replaces. Default: class-balanced. The module
        /// [`policy`](crate::policy) compares the built-in policies. To use a policy of your own,
        /// create the buffer with [`init_with`](Self::init_with).
        pub policy: PolicyKind = PolicyKind::ClassBalanced, set by with_policy(PolicyKind),
        /// Which stored rows are drawn. Default: uniform. The module
        /// [`sampling`](crate::sampling) compares the built-in rules. To use a rule of your own,
        /// create the buffer with [`init_with`](Self::init_with).
        pub sampling: SamplingKind = SamplingKind::Uniform, set by with_sampling(SamplingKind),
        /// The second and all further draws of a step. The first draw is configured by
        /// [`representatives`](Self::representatives) and [`sampling`](Self::sampling). Default: no
        /// further draw. Prefer [`with_draws`](Self::with_draws), which sets all draws at once.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub further_draws: Vec<DrawConfig> = Vec::new(),
            set by with_further_draws(impl Into<Vec<DrawConfig>>),
        /// The seed of all random choices. Default: 0.
        pub seed: u64 = 0, set by with_seed(u64),
        /// The number of steps between inserting candidates and using representatives drawn after
        /// the insertion. Default: 1. Maximum: [`MAX_LAG`].
        pub lag: usize = 1, set by with_lag(usize),
        /// The thread that does the work. Default: a background thread.
        pub execution: Execution = Execution::Background, set by with_execution(Execution),
        /// The memory of each rank's shard. Default: [`StorePreference::Auto`].
        pub store: StorePreference = StorePreference::Auto, set by with_store(StorePreference),
        /// The size in bytes up to which [`StorePreference::Auto`] puts a rank's shard on the
        /// device. Default: 2 GiB.
        pub device_limit: u64 = DEVICE_LIMIT, set by with_device_limit(u64),
        /// The first task whose mini-batches get representatives. Candidates are stored from the
        /// first task on. Default: 0.
        pub start_task: usize = 0, set by with_start_task(usize),
        /// How a sample is treated that is offered while it is stored. Default: it may be stored
        /// twice.
        pub on_repeat: OnRepeat = OnRepeat::KeepBoth, set by with_on_repeat(OnRepeat),
        /// Whether the [late fields](crate::batch::layout#late-fields) of the batch type are stored
        /// and drawn. Default: true.
        ///
        /// With `false`, the buffer works as for a batch type without late fields: they stay
        /// `None`, and [`annotate`](crate::RowLayout::annotate) does nothing. One batch type then
        /// serves methods with late fields and methods without them.
        #[serde(default = "late_fields", skip_serializing_if = "is_true")]
        pub late_fields: bool = late_fields(), set by with_late_fields(bool),
        /// The number of classes, if it is known. Default: unknown.
        ///
        /// With it, the quotas of class-balanced policies are fixed from the start, so all classes
        /// of a class-incremental stream end with the same number of rows, and a class outside the
        /// range is an error. Without it, the quotas follow the classes offered so far.
        pub classes: Option<usize> = None, set by with_classes(Option<usize>),
        /// The number of samples in the whole data set, required by [`Capacity::Fraction`].
        /// Default: unknown.
        pub dataset_len: Option<usize> = None, set by with_dataset_len(Option<usize>),
    }
}

/// The default of [`RehearsalConfig::late_fields`].
fn late_fields() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

/// The largest [`lag`](RehearsalConfig::lag). A buffer holds the representatives of `lag` steps.
pub const MAX_LAG: usize = 1024;

/// The largest ratio of [candidates](RehearsalConfig::candidates) or
/// [representatives](RehearsalConfig::representatives) to incoming rows.
pub const MAX_RATIO: f64 = 1024.0;

impl RehearsalConfig {
    /// Sets all draws of a step. The first one sets [`representatives`](Self::representatives) and
    /// [`sampling`](Self::sampling). Without any draw, no row is drawn.
    ///
    /// The rows of all draws are appended to the mini-batch in this order, and a
    /// [`RowLayout`](crate::RowLayout) names the rows of each. The draws are independent: each has
    /// its own rule and its own random numbers, and a row can be in several of them. Several draws
    /// cost no more messages between ranks than one.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{RehearsalBatch, RowLayout};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2>, #[rehearsal(layout)] rows: RowLayout<Self> }
    /// # let inputs = Tensor::zeros([4, 8], &Device::flex());
    /// # let load = || Batch { inputs: inputs.clone(), rows: RowLayout::default() };
    /// use burn_rehearsal::{Capacity, DrawConfig, RehearsalConfig, SamplingKind};
    ///
    /// let config = RehearsalConfig::new(Capacity::Samples(100)).with_draws([
    ///     DrawConfig::new(3),
    ///     DrawConfig::new(2).with_sampling(SamplingKind::ClassBalanced),
    /// ]);
    /// let buffer = config.init::<Batch>()?;
    /// buffer.rehearse(load())?; // 4 incoming rows
    /// let batch = buffer.rehearse(load())?;
    /// assert_eq!(batch.rows.range(0), 4..7); // the first draw
    /// assert_eq!(batch.rows.range(1), 7..9); // the second draw
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    pub fn with_draws(mut self, draws: impl IntoIterator<Item = DrawConfig>) -> Self {
        let mut draws = draws.into_iter();
        let first = draws.next().unwrap_or_else(|| DrawConfig::new(0));
        (self.representatives, self.sampling) = (first.representatives, first.sampling);
        self.further_draws = draws.collect();
        self
    }

    /// All draws of a step, in order.
    pub fn draws(&self) -> impl Iterator<Item = DrawConfig> {
        let first = DrawConfig { representatives: self.representatives, sampling: self.sampling };
        std::iter::once(first).chain(self.further_draws.iter().copied())
    }

    /// Checks the values that do not depend on the data. Creating a buffer does the same.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the invalid value.
    ///
    /// ```
    /// use burn_rehearsal::{Capacity, RehearsalConfig};
    ///
    /// let error = RehearsalConfig::new(Capacity::Samples(3)).validate(4).unwrap_err();
    /// assert!(error.to_string().contains("smaller than the world size 4"));
    /// ```
    pub fn validate(&self, world_size: usize) -> Result<(), ConfigError> {
        let representatives = self.draws().map(|draw| ("representatives", draw.representatives));
        for (name, rows) in std::iter::once(("candidates", self.candidates)).chain(representatives)
        {
            if let RowCount::Ratio(ratio) = rows
                && !(0.0..=MAX_RATIO).contains(&ratio)
            {
                return Err(ConfigError::Ratio { name, ratio, max: MAX_RATIO });
            }
        }
        if self.lag > MAX_LAG {
            return Err(ConfigError::Lag { lag: self.lag, max: MAX_LAG });
        }
        if let Some(classes) = self.classes
            && !(1..=MAX_CLASSES).contains(&classes)
        {
            return Err(ConfigError::Classes(classes));
        }
        match self.capacity {
            Capacity::Bytes(0) => Err(ConfigError::NoCapacity("of 0 bytes".into())),
            Capacity::Bytes(_) => Ok(()),
            _ => self.capacity_in_samples(1, world_size).map(|_| ()),
        }
    }

    /// Checks the number of candidates against the rows of a mini-batch.
    ///
    /// # Errors
    ///
    /// [`ConfigError::CandidatesBeyondBatch`] if c is larger than `batch_size`.
    pub fn validate_batch_size(&self, batch_size: usize) -> Result<(), ConfigError> {
        match self.candidates {
            RowCount::Count(candidates) if candidates > batch_size => {
                Err(ConfigError::CandidatesBeyondBatch { candidates, batch_size })
            }
            _ => Ok(()),
        }
    }

    /// The fields that can change a result, by name. All ranks must agree on them. The first step
    /// of the buffer compares them; [`agree_on`](crate::agreement::agree_on) compares them earlier.
    ///
    /// ```
    /// use burn_rehearsal::{Capacity, RehearsalConfig};
    ///
    /// let fields = RehearsalConfig::new(Capacity::Samples(100)).with_seed(7).agreed();
    /// assert_eq!(fields["seed"], 7);
    /// assert!(!fields.contains_key("execution"));
    /// ```
    pub fn agreed(&self) -> serde_json::Map<String, serde_json::Value> {
        let mut fields = match serde_json::to_value(self) {
            Ok(serde_json::Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        };
        for never in ["execution", "store", "device_limit"] {
            fields.remove(never);
        }
        fields
    }

    /// This configuration with fixed values in the fields that never change a result, so that it is
    /// equal on all ranks.
    pub(crate) fn for_digest(&self) -> Self {
        self.clone()
            .with_execution(Execution::Inline)
            .with_store(StorePreference::Auto)
            .with_device_limit(0)
    }

    /// The fields of a batch type, except late fields that are not stored.
    pub(crate) fn fields<B: RehearsalBatch>(&self) -> &'static [FieldSpec] {
        if self.late_fields { B::FIELDS } else { without_late(B::FIELDS) }
    }

    /// The capacity in samples, or `None` for [`Capacity::Bytes`], which needs the size of a row.
    pub(crate) fn capacity_before_rows(&self, world_size: usize) -> Option<usize> {
        match self.capacity {
            Capacity::Bytes(_) => None,
            _ => self.capacity_in_samples(1, world_size).ok(),
        }
    }

    /// The capacity in samples, for rows of `row_bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is zero, smaller than the world size or than r, or if the size of the
    /// data set is required and not configured.
    ///
    /// ```
    /// use burn_rehearsal::{Capacity, RehearsalConfig};
    ///
    /// let config = RehearsalConfig::new(Capacity::Bytes(512 << 20));
    /// assert_eq!(config.capacity_in_samples(3 * 224 * 224, 1)?, 3566);
    /// # Ok::<(), burn_rehearsal::error::ConfigError>(())
    /// ```
    pub fn capacity_in_samples(
        &self,
        row_bytes: usize,
        world_size: usize,
    ) -> Result<usize, ConfigError> {
        let capacity = match self.capacity {
            Capacity::Samples(samples) => samples,
            Capacity::Bytes(bytes) => {
                usize::try_from(bytes / row_bytes.max(1) as u64).unwrap_or(usize::MAX)
            }
            Capacity::Fraction(fraction) => match self.dataset_len {
                Some(len) if (0.0..=1.0).contains(&fraction) => {
                    // In binary, 0.29 × 100 is less than 29. The fraction and the product are each
                    // rounded once, so a product this close to an integer is meant to be one.
                    let (exact, nearest) = (len as f64 * fraction, (len as f64 * fraction).round());
                    if (exact - nearest).abs() <= 4.0 * f64::EPSILON * nearest {
                        nearest as usize
                    } else {
                        exact as usize
                    }
                }
                _ => return Err(ConfigError::Fraction { fraction }),
            },
        };
        if capacity == 0 {
            return Err(ConfigError::NoCapacity(match self.capacity {
                Capacity::Samples(n) => format!("of {n} samples"),
                Capacity::Bytes(n) => format!("of {n} bytes (rows have {row_bytes})"),
                Capacity::Fraction(f) => format!("of {f} of the data set"),
            }));
        }
        if capacity < world_size {
            return Err(ConfigError::CapacityBelowWorld { capacity, world_size });
        }
        for draw in self.draws() {
            if let RowCount::Count(representatives) = draw.representatives
                && representatives > capacity
            {
                return Err(ConfigError::RepresentativesBeyondCapacity {
                    representatives,
                    capacity,
                });
            }
        }
        Ok(capacity)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_survives_serialization() {
        let config = RehearsalConfig::new(Capacity::Fraction(0.3))
            .with_candidates(0.25)
            .with_representatives(7)
            .with_classes(Some(10));
        // The form of one draw does not depend on the existence of several.
        assert!(!serde_json::to_string(&config).unwrap().contains("draws"));
        // The same holds for the option of late fields.
        assert!(!serde_json::to_string(&config).unwrap().contains("late"));
        let without_late = config.clone().with_late_fields(false);
        assert_eq!(without_late.agreed()["late_fields"], false);
        let draws = [DrawConfig::new(3), DrawConfig::new(0.5)];
        let several = config.clone().with_draws(draws);
        assert_eq!(several.draws().collect::<Vec<_>>(), draws);
        for config in [config, several, without_late] {
            assert_eq!(
                serde_json::from_str::<RehearsalConfig>(&serde_json::to_string(&config).unwrap())
                    .unwrap(),
                config
            );
        }
    }
}
