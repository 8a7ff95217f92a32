//! How large the buffer is, what enters it, and what is drawn from it.

use crate::capacity::Capacity;
use crate::error::ConfigError;
use burn::config::Config;
use burn_rehearsal_collective::even_split;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The largest number of classes that the tables accept when none is configured.
pub const MAX_CLASSES: usize = 1 << 20;

/// A number of rows: fixed, or in proportion to the incoming rows of a mini-batch.
///
/// ```
/// use burn_rehearsal::{Capacity, RehearsalConfig, RowCount};
///
/// let config = RehearsalConfig::new(Capacity::Samples(2_000)).with_candidates(0.25).with_representatives(32);
/// assert_eq!((config.candidates, config.representatives), (RowCount::Ratio(0.25), RowCount::Count(32)));
/// assert_eq!((config.candidates.of(56), config.representatives.of(56)), (14, 32));
/// ```
///
/// As text, and in configuration files, a count is a number (`14`) and a ratio a percentage (`"25%"`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "NumberOrText", try_from = "NumberOrText")]
pub enum RowCount {
    /// This many rows.
    Count(usize),
    /// This many rows per incoming row, rounded to the nearest number, and at least one row unless
    /// the ratio is 0.
    Ratio(f64),
}

impl RowCount {
    /// The number of rows for a mini-batch of `incoming` rows; 0 if that has none.
    pub fn of(self, incoming: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Ratio(ratio) if ratio > 0.0 && incoming > 0 => ((ratio * incoming as f64).round() as usize).max(1),
            Self::Ratio(_) => 0,
        }
    }

    /// Whether this is 0 for every mini-batch.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Count(0) | Self::Ratio(0.0))
    }
}

impl From<usize> for RowCount {
    fn from(count: usize) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for RowCount {
    fn from(ratio: f64) -> Self {
        Self::Ratio(ratio)
    }
}

/// `14`, or `25%` for a ratio.
impl fmt::Display for RowCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Ratio(ratio) => {
                // The digits of the ratio, with the point moved: multiplying would round.
                let text = ratio.to_string();
                let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
                let (percent, rest) = fraction.split_at(fraction.len().min(2));
                let percent = format!("{whole}{percent:0<2}");
                let percent = percent.trim_start_matches('0');
                write!(f, "{}", if percent.is_empty() { "0" } else { percent })?;
                if rest.is_empty() { f.write_str("%") } else { write!(f, ".{rest}%") }
            }
        }
    }
}

/// A [`RowCount`] in a file.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a number of rows (14) or a share of the incoming rows (\"25%\")")]
enum NumberOrText {
    Number(usize),
    Text(String),
}

impl From<RowCount> for NumberOrText {
    fn from(rows: RowCount) -> Self {
        match rows {
            RowCount::Count(count) => Self::Number(count),
            RowCount::Ratio(_) => Self::Text(rows.to_string()),
        }
    }
}

impl TryFrom<NumberOrText> for RowCount {
    type Error = ConfigError;

    fn try_from(value: NumberOrText) -> Result<Self, ConfigError> {
        match value {
            NumberOrText::Number(count) => Ok(Self::Count(count)),
            NumberOrText::Text(text) => text.parse(),
        }
    }
}

impl FromStr for RowCount {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::RowCount(text.to_owned());
        let Some(percent) = text.strip_suffix('%') else { return text.parse().map(Self::Count).map_err(|_| wrong()) };
        let percent = percent.trim();
        if percent.is_empty() || percent.contains(|c: char| !c.is_ascii_digit() && c != '.') {
            return Err(wrong());
        }
        // As a decimal number, since dividing would round once more.
        format!("{percent}e-2").parse().map(Self::Ratio).map_err(|_| wrong())
    }
}

/// Which rows of a mini-batch are offered to the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateMode {
    /// Exactly min(c, rows) rows, every subset equally likely.
    Exact,
    /// Every row on its own with probability c / rows, as in Bouvier et al. 2024.
    Bernoulli,
}

/// Which stored row makes room for a candidate when the shard is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// Equal shares for all classes, and a reservoir within each class; without a class field, a
    /// reservoir: [`ClassBalanced`](crate::policy::ClassBalanced).
    ClassBalanced,
    /// Equal shares for all classes; every candidate replaces a random row, as in Bouvier et al. 2024:
    /// [`RandomReplacement`](crate::policy::RandomReplacement).
    RandomReplacement,
    /// Every row offered so far has the same chance to be stored (Vitter 1985, algorithm R), exact per shard:
    /// [`Reservoir`](crate::policy::Reservoir).
    Reservoir,
    /// The oldest row is replaced: [`Fifo`](crate::policy::Fifo).
    Fifo,
}

/// From which stored rows, and with which probabilities, representatives are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplingKind {
    /// Every stored row of the union of all shards with the same probability.
    Uniform,
    /// Every class that is stored with the same probability, then every row of it.
    ClassBalanced,
    /// Every stored row of earlier tasks with the same probability.
    ExcludeCurrent,
}

/// What happens when a sample that is stored already is offered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRepeat {
    /// It may be stored twice, as in Bouvier et al. 2024.
    KeepBoth,
    /// It is not offered while this rank's shard holds it; needs a field marked `id`.
    SkipIfStored,
}

/// Who does the engine's work; never changes a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Execution {
    /// A thread of its own, while the training step runs.
    Background,
    /// The thread that asks for representatives.
    Inline,
}

/// Where a rank's shard should live; never changes a result. [`StoreLocation`](crate::StoreLocation) is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorePreference {
    /// On the training device if that has memory of its own and the shard is no larger than [`RehearsalConfig::device_limit`]; otherwise on the host.
    Auto,
    /// In host memory: candidates and representatives cross the bus.
    Host,
    /// On the device of the first mini-batch (each field on its own): only classes, identities and rows for other ranks cross the bus.
    Device,
}

/// The default of [`RehearsalConfig::device_limit`], in bytes: a quarter of the memory of a small GPU. Burn 0.22 does not tell how much a device has.
pub const DEVICE_LIMIT: u64 = 2 << 30;

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

/// Declares a configuration like Burn's `Config` derive, with setters that convert their argument.
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
            /// The defaults, with this value of the field without one.
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

        /// As JSON, like Burn's configurations.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&serde_json::to_string_pretty(self).map_err(|_| fmt::Error)?)
            }
        }
    };
}

config! {
    /// Configuration of a [`RehearsalBuffer`](crate::RehearsalBuffer). All ranks must agree on the fields that can
    /// change a result, see [`agreed`](Self::agreed).
    ///
    /// # Choosing the numbers of rows
    ///
    /// * `capacity`: as much as fits; a few per cent of the data are usually enough to remember most of it.
    /// * `representatives`: the default, as many as incoming rows, doubles the rows of a step and is what
    ///   most published methods use. Fewer are faster and remember less: with 7 for 32 incoming rows, a network can
    ///   forget almost as much as without a buffer. Small ratios suit long training on large batches, as in
    ///   Bouvier et al. 2024 (7 for 56).
    /// * `candidates`: the default offers every incoming row, which [`PolicyKind::ClassBalanced`] and
    ///   [`PolicyKind::Reservoir`] turn into a uniform sample at little cost. With
    ///   [`PolicyKind::RandomReplacement`] or [`PolicyKind::Fifo`], fewer candidates keep rows for longer.
    pub struct RehearsalConfig {
        /// |B|, over all ranks.
        pub capacity: Capacity,
        /// c: how many rows of each mini-batch are offered to the buffer. Default: all of them (a ratio of 1).
        pub candidates: RowCount = RowCount::Ratio(1.0), set by with_candidates(impl Into<RowCount>),
        /// r: how many representatives are appended to each mini-batch; as many as are stored, if those are fewer.
        /// Default: as many as incoming rows (a ratio of 1).
        ///
        /// A ratio refers to the mini-batch of the step that draws, which is [`lag`](Self::lag) steps earlier than the
        /// step that uses the rows, on the same rank. Therefore the first `lag` mini-batches of an epoch use the sizes of
        /// the last mini-batches of the previous epoch.
        pub representatives: RowCount = RowCount::Ratio(1.0), set by with_representatives(impl Into<RowCount>),
        /// How candidates are chosen. Default: exactly c of them.
        pub candidate_mode: CandidateMode = CandidateMode::Exact, set by with_candidate_mode(CandidateMode),
        /// Which row makes room. Default: class-balanced.
        pub policy: PolicyKind = PolicyKind::ClassBalanced, set by with_policy(PolicyKind),
        /// What is drawn. Default: all stored rows alike.
        pub sampling: SamplingKind = SamplingKind::Uniform, set by with_sampling(SamplingKind),
        /// Seed of every random choice. Default: 0.
        pub seed: u64 = 0, set by with_seed(u64),
        /// The representatives of step t are drawn after the candidates of step t − lag were inserted. Default: 1.
        pub lag: usize = 1, set by with_lag(usize),
        /// Who does the work. Default: a thread of its own.
        pub execution: Execution = Execution::Background, set by with_execution(Execution),
        /// Where each rank's shard lives. Default: [`StorePreference::Auto`].
        pub store: StorePreference = StorePreference::Auto, set by with_store(StorePreference),
        /// The most bytes of one rank's shard that [`StorePreference::Auto`] puts on the device. Default:
        /// [`DEVICE_LIMIT`].
        pub device_limit: u64 = DEVICE_LIMIT, set by with_device_limit(u64),
        /// The first task whose mini-batches are augmented; candidates are taken from the first task on. Default: 0.
        pub start_task: usize = 0, set by with_start_task(usize),
        /// What happens to a sample that is offered again. Default: it may be stored twice.
        pub on_repeat: OnRepeat = OnRepeat::KeepBoth, set by with_on_repeat(OnRepeat),
        /// The number of classes, if it is known. With it, class quotas are fixed from the start, so that all classes of
        /// a class-incremental stream end with equally many rows, and a class beyond it is an error; without it,
        /// quotas follow the classes offered so far. Default: unknown.
        pub classes: Option<usize> = None, set by with_classes(Option<usize>),
        /// The number of samples of the whole data set, for [`Capacity::Fraction`]. Default: unknown.
        pub dataset_len: Option<usize> = None, set by with_dataset_len(Option<usize>),
    }
}

/// The largest [`lag`](RehearsalConfig::lag): this many mini-batches of representatives are held.
pub const MAX_LAG: usize = 1024;

/// The largest ratio of [candidates](RehearsalConfig::candidates) or
/// [representatives](RehearsalConfig::representatives) to incoming rows.
pub const MAX_RATIO: f64 = 1024.0;

impl RehearsalConfig {
    /// Checks what can be checked before the first mini-batch.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the value that makes no sense.
    pub fn validate(&self, world_size: usize) -> Result<(), ConfigError> {
        for (name, rows) in [("candidates", self.candidates), ("representatives", self.representatives)] {
            if let RowCount::Ratio(ratio) = rows
                && !(0.0..=MAX_RATIO).contains(&ratio)
            {
                return Err(ConfigError::Ratio { name, ratio, max: MAX_RATIO });
            }
        }
        if self.candidates.is_zero() {
            return Err(ConfigError::NoCandidates);
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
            Capacity::Samples(_) | Capacity::Fraction(_) => self.capacity_in_samples(1, world_size).map(|_| ()),
        }
    }

    /// Checks c against the size of a mini-batch.
    ///
    /// # Errors
    ///
    /// [`ConfigError::CandidatesBeyondBatch`] if c > b.
    pub fn validate_batch_size(&self, batch_size: usize) -> Result<(), ConfigError> {
        match self.candidates {
            RowCount::Count(candidates) if candidates > batch_size => Err(ConfigError::CandidatesBeyondBatch { candidates, batch_size }),
            _ => Ok(()),
        }
    }

    /// The fields that can change a result, by name. All ranks must agree on them: the buffer's
    /// first step compares them, and [`agree_on`](crate::agreement::agree_on) does so earlier.
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

    /// This configuration with everything that never changes a result at its default: equal on all ranks of a run.
    pub(crate) fn for_digest(&self) -> Self {
        self.clone().with_execution(Execution::Inline).with_store(StorePreference::Auto).with_device_limit(0)
    }

    /// |B| in samples, for rows of `row_bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is zero, smaller than the world or than r, or cannot be known.
    pub fn capacity_in_samples(&self, row_bytes: usize, world_size: usize) -> Result<usize, ConfigError> {
        let capacity = match self.capacity {
            Capacity::Samples(samples) => samples,
            Capacity::Bytes(bytes) => usize::try_from(bytes / row_bytes.max(1) as u64).unwrap_or(usize::MAX),
            Capacity::Fraction(fraction) => match self.dataset_len {
                Some(len) if (0.0..=1.0).contains(&fraction) => {
                    // In binary 0.29 × 100 is less than 29. Both numbers were rounded once: a product
                    // this near to a whole number is meant to be one.
                    let (exact, nearest) = (len as f64 * fraction, (len as f64 * fraction).round());
                    if (exact - nearest).abs() <= 4.0 * f64::EPSILON * nearest { nearest as usize } else { exact as usize }
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
        match self.representatives {
            RowCount::Count(representatives) if representatives > capacity => {
                Err(ConfigError::RepresentativesBeyondCapacity { representatives, capacity })
            }
            _ => Ok(capacity),
        }
    }
}

/// The part of a global capacity that belongs to `rank`: the first |B| mod N ranks have one slot more.
pub fn shard_capacity(capacity: usize, rank: usize, world_size: usize) -> usize {
    even_split(capacity, world_size, rank).len()
}

/// The global number of the first slot of `rank`'s shard.
pub fn first_slot(capacity: usize, rank: usize, world_size: usize) -> usize {
    even_split(capacity, world_size, rank).start
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_follows_the_mini_batch_and_a_count_does_not() {
        let rows = |ratio: f64| [0, 1, 3, 8, 30].map(|incoming| RowCount::from(ratio).of(incoming));
        assert_eq!(rows(1.0), [0, 1, 3, 8, 30]);
        assert_eq!(rows(0.1), [0, 1, 1, 1, 3]);
        assert_eq!(rows(2.5), [0, 3, 8, 20, 75]);
        assert_eq!(rows(0.0), [0; 5]);
        assert_eq!([0, 5].map(|incoming| RowCount::from(7).of(incoming)), [7, 7]);
    }

    #[test]
    fn row_counts_are_read_as_they_are_written() {
        let values = [RowCount::Count(0), RowCount::Count(14), RowCount::Ratio(1.0), RowCount::Ratio(1.0 / 3.0), RowCount::Ratio(2.5)];
        let percent = (0..=100).map(|percent| RowCount::Ratio(f64::from(percent) / 100.0));
        for rows in values.into_iter().chain(percent) {
            assert_eq!(rows.to_string().parse(), Ok(rows));
            assert_eq!(serde_json::from_str::<RowCount>(&serde_json::to_string(&rows).unwrap()).unwrap(), rows);
        }
        let texts = [RowCount::Count(14), RowCount::Ratio(0.29), RowCount::Ratio(0.125)].map(|rows| serde_json::to_string(&rows).unwrap());
        assert_eq!(texts, ["14", "\"29%\"", "\"12.5%\""]);
        for wrong in ["", "x", "-1", "1.5", "-1%", "nan%", "inf%", "%"] {
            assert_eq!(wrong.parse::<RowCount>(), Err(ConfigError::RowCount(wrong.into())));
        }
    }

    #[test]
    fn a_configuration_is_what_was_saved() {
        let config = RehearsalConfig::new(Capacity::Fraction(0.3)).with_candidates(0.25).with_representatives(7).with_classes(Some(10));
        assert_eq!(serde_json::from_str::<RehearsalConfig>(&serde_json::to_string(&config).unwrap()).unwrap(), config);
    }
}
