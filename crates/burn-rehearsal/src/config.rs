//! How large the buffer is, what enters it, and what is drawn from it.

use crate::capacity::Capacity;
use crate::error::ConfigError;
use crate::policy::PolicyKind;
use crate::row_count::RowCount;
use crate::sampling::SamplingKind;
use crate::slots::MAX_CLASSES;
use burn::config::Config;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Which rows of a mini-batch are offered to the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CandidateMode {
    /// Exactly min(c, rows) rows, every subset equally likely.
    Exact,
    /// Every row on its own with probability c / rows, as in Bouvier et al. 2024.
    Bernoulli,
}

/// What happens when a sample that is stored already is offered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnRepeat {
    /// It may be stored twice, as in Bouvier et al. 2024.
    KeepBoth,
    /// It is not offered while this rank's shard holds it; needs a field marked `id`.
    SkipIfStored,
}

/// Who does the engine's work; never changes a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Execution {
    /// A thread of its own, while the training step runs.
    Background,
    /// The thread that asks for representatives.
    Inline,
}

/// Where a rank's shard should live; never changes a result.
/// [`StoreLocation`](crate::StoreLocation) is where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StorePreference {
    /// On the training device if that has memory of its own and the shard is no larger than
    /// [`RehearsalConfig::device_limit`]; otherwise on the host.
    Auto,
    /// In host memory: candidates and representatives cross the bus.
    Host,
    /// On the device of the first mini-batch (each field on its own): only classes, identities and
    /// rows for other ranks cross the bus.
    Device,
}

/// The default of [`RehearsalConfig::device_limit`], in bytes: a quarter of the memory of a small
/// GPU. Burn 0.22 does not report how much memory a device has.
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
    /// Configuration of a [`RehearsalBuffer`](crate::RehearsalBuffer). All ranks must agree on the
    /// fields that can change a result, see [`agreed`](Self::agreed).
    ///
    /// # Choosing the numbers of rows
    ///
    /// * `capacity`: as much as fits; a few per cent of the data are usually enough to remember
    ///   most of it.
    /// * `representatives`: the default, as many as incoming rows, doubles the rows of a step and
    ///   is what most published methods use. Fewer are faster and remember less: with 7 for 32
    ///   incoming rows, a network can forget almost as much as without a buffer. Small ratios suit
    ///   long training on large batches, as in Bouvier et al. 2024 (7 for 56).
    /// * `candidates`: the default offers every incoming row, which [`PolicyKind::ClassBalanced`]
    ///   and [`PolicyKind::Reservoir`] turn into a uniform sample at little cost. With
    ///   [`PolicyKind::RandomReplacement`] or [`PolicyKind::Fifo`], fewer candidates keep rows for
    ///   longer.
    pub struct RehearsalConfig {
        /// |B|, over all ranks.
        pub capacity: Capacity,
        /// c: how many rows of each mini-batch are offered to the buffer. Default: all of them (a
        /// ratio of 1).
        pub candidates: RowCount = RowCount::Ratio(1.0), set by with_candidates(impl Into<RowCount>),
        /// r: how many representatives are appended to each mini-batch; as many as are stored, if
        /// those are fewer. Default: as many as incoming rows (a ratio of 1).
        ///
        /// A ratio refers to the mini-batch of the step that draws, which is [`lag`](Self::lag)
        /// steps earlier than the step that uses the rows, on the same rank. Therefore the first
        /// `lag` mini-batches of an epoch use the sizes of the last mini-batches of the previous
        /// epoch.
        pub representatives: RowCount = RowCount::Ratio(1.0), set by with_representatives(impl Into<RowCount>),
        /// How candidates are chosen. Default: exactly c of them.
        pub candidate_mode: CandidateMode = CandidateMode::Exact, set by with_candidate_mode(CandidateMode),
        /// Which row of a full shard makes room for a candidate. Default: class-balanced. See
        /// [`init_with`](Self::init_with) for a policy of your own.
        pub policy: PolicyKind = PolicyKind::ClassBalanced, set by with_policy(PolicyKind),
        /// Which stored rows are drawn. Default: all with the same probability. See
        /// [`init_with`](Self::init_with) for a rule of your own.
        pub sampling: SamplingKind = SamplingKind::Uniform, set by with_sampling(SamplingKind),
        /// Seed of every random choice. Default: 0.
        pub seed: u64 = 0, set by with_seed(u64),
        /// The representatives of step t are drawn after the candidates of step t − lag were
        /// inserted. Default: 1.
        pub lag: usize = 1, set by with_lag(usize),
        /// Who does the work. Default: a thread of its own.
        pub execution: Execution = Execution::Background, set by with_execution(Execution),
        /// Where each rank's shard lives. Default: [`StorePreference::Auto`].
        pub store: StorePreference = StorePreference::Auto, set by with_store(StorePreference),
        /// The most bytes of one rank's shard that [`StorePreference::Auto`] puts on the device.
        /// Default: 2 GiB.
        pub device_limit: u64 = DEVICE_LIMIT, set by with_device_limit(u64),
        /// The first task whose mini-batches are augmented; candidates are taken from the first
        /// task on. Default: 0.
        pub start_task: usize = 0, set by with_start_task(usize),
        /// What happens to a sample that is offered again. Default: it may be stored twice.
        pub on_repeat: OnRepeat = OnRepeat::KeepBoth, set by with_on_repeat(OnRepeat),
        /// The number of classes, if it is known. With it, class quotas are fixed from the start,
        /// so that all classes of a class-incremental stream end with equally many rows, and a
        /// class beyond it is an error; without it, quotas follow the classes offered so far.
        /// Default: unknown.
        pub classes: Option<usize> = None, set by with_classes(Option<usize>),
        /// The number of samples of the whole data set, for [`Capacity::Fraction`]. Default:
        /// unknown.
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
        for (name, rows) in
            [("candidates", self.candidates), ("representatives", self.representatives)]
        {
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
            _ => self.capacity_in_samples(1, world_size).map(|_| ()),
        }
    }

    /// Checks c against the size of a mini-batch.
    ///
    /// # Errors
    ///
    /// [`ConfigError::CandidatesBeyondBatch`] if c > b.
    pub fn validate_batch_size(&self, batch_size: usize) -> Result<(), ConfigError> {
        match self.candidates {
            RowCount::Count(candidates) if candidates > batch_size => {
                Err(ConfigError::CandidatesBeyondBatch { candidates, batch_size })
            }
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

    /// This configuration with everything that never changes a result at its default: equal on all
    /// ranks of a run.
    pub(crate) fn for_digest(&self) -> Self {
        self.clone()
            .with_execution(Execution::Inline)
            .with_store(StorePreference::Auto)
            .with_device_limit(0)
    }

    /// |B| in samples if the size of a row does not matter; `None` for [`Capacity::Bytes`].
    pub(crate) fn capacity_before_rows(&self, world_size: usize) -> Option<usize> {
        match self.capacity {
            Capacity::Bytes(_) => None,
            _ => self.capacity_in_samples(1, world_size).ok(),
        }
    }

    /// |B| in samples, for rows of `row_bytes` bytes.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if it is zero, smaller than the world or than r, or cannot be known.
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
                    // In binary 0.29 × 100 is less than 29. Both numbers were rounded once: a
                    // product this near to a whole number is meant to be one.
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
        match self.representatives {
            RowCount::Count(representatives) if representatives > capacity => {
                Err(ConfigError::RepresentativesBeyondCapacity { representatives, capacity })
            }
            _ => Ok(capacity),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_what_was_saved() {
        let config = RehearsalConfig::new(Capacity::Fraction(0.3))
            .with_candidates(0.25)
            .with_representatives(7)
            .with_classes(Some(10));
        assert_eq!(
            serde_json::from_str::<RehearsalConfig>(&serde_json::to_string(&config).unwrap())
                .unwrap(),
            config
        );
    }
}
