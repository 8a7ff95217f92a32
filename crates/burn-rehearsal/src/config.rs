//! How large the buffer is, what enters it, and what is drawn from it.

use crate::batch::is_host;
use crate::error::ConfigError;
use burn::config::Config;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// The largest number of classes that the tables accept when none is configured.
pub const MAX_CLASSES: usize = 1 << 20;

/// The global capacity |B| of a buffer: the sum over all ranks' shards.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capacity {
    /// A number of samples.
    Samples(usize),
    /// As many samples as fit in so many bytes of row data.
    Bytes(u64),
    /// A fraction (0..=1) of the data set's samples, rounded down; see [`RehearsalConfig::dataset_len`].
    Fraction(f64),
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
    /// Every class has a quota; unused quota is lent and given back. A random row of the class that gives way is replaced.
    ClassBalanced,
    /// Every row offered so far has the same chance to be stored (Vitter 1985, algorithm R), exact per shard.
    Reservoir,
    /// The oldest row is replaced.
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

/// Where a rank's shard lives; never changes a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// On the training device if that has memory of its own and the shard is no larger than [`RehearsalConfig::device_limit`]; otherwise on the host.
    Auto,
    /// In host memory: candidates and representatives cross the bus.
    Host,
    /// On the device of the first mini-batch (each field on its own): only classes, identities and rows for other ranks cross the bus.
    Device,
}

/// The default of [`RehearsalConfig::device_limit`], in bytes: a quarter of the memory of a small GPU. Burn 0.22 does not tell how much a device has.
pub const DEVICE_LIMIT: u64 = 2 << 30;

impl StoreKind {
    /// `Host` or `Device`, for a shard of `bytes` bytes, the limit of [`Auto`](Self::Auto), and the devices of the mini-batches' fields.
    pub fn resolve(self, bytes: u64, limit: u64, devices: &[Device]) -> StoreKind {
        match self {
            Self::Auto if bytes > limit || devices.iter().any(is_host) => Self::Host,
            Self::Auto => Self::Device,
            chosen => chosen,
        }
    }

    /// `auto`, `host` or `device`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Host => "host",
            Self::Device => "device",
        }
    }
}

/// Configuration of a [`RehearsalBuffer`](crate::RehearsalBuffer). All ranks must agree on the
/// fields that can change a result, see [`agreed`](RehearsalConfig::agreed).
#[derive(Config, Debug, PartialEq)]
pub struct RehearsalConfig {
    /// |B|, over all ranks.
    pub capacity: Capacity,
    /// c: how many rows of each mini-batch are offered to the buffer.
    #[config(default = 14)]
    pub candidates: usize,
    /// r: how many representatives are appended to each mini-batch.
    #[config(default = 7)]
    pub representatives: usize,
    /// How candidates are chosen.
    #[config(default = "CandidateMode::Exact")]
    pub candidate_mode: CandidateMode,
    /// What makes room.
    #[config(default = "PolicyKind::ClassBalanced")]
    pub policy: PolicyKind,
    /// What is drawn.
    #[config(default = "SamplingKind::Uniform")]
    pub sampling: SamplingKind,
    /// Seed of every random choice.
    #[config(default = 0)]
    pub seed: u64,
    /// The representatives of step t are drawn after the candidates of step t − lag were inserted.
    #[config(default = 1)]
    pub lag: usize,
    /// Who does the work.
    #[config(default = "Execution::Background")]
    pub execution: Execution,
    /// Where each rank's shard lives.
    #[config(default = "StoreKind::Auto")]
    pub store: StoreKind,
    /// The most bytes of one rank's shard that [`StoreKind::Auto`] puts on the device.
    #[config(default = "DEVICE_LIMIT")]
    pub device_limit: u64,
    /// The first task whose mini-batches are augmented; candidates are taken from the first task on.
    #[config(default = 0)]
    pub start_task: usize,
    /// What happens to a sample that is offered again.
    #[config(default = "OnRepeat::KeepBoth")]
    pub on_repeat: OnRepeat,
    /// The number of classes. With it, class quotas are fixed from the start and a class beyond it is an error; without it, quotas follow the
    /// classes seen so far.
    #[config(default = "None")]
    pub classes: Option<usize>,
    /// The number of samples of the whole data set, for [`Capacity::Fraction`].
    #[config(default = "None")]
    pub dataset_len: Option<usize>,
}

/// The largest [`lag`](RehearsalConfig::lag): so many mini-batches of representatives are held.
pub const MAX_LAG: usize = 1024;

impl RehearsalConfig {
    /// Checks what can be checked before the first mini-batch.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] naming the value that makes no sense.
    pub fn validate(&self, world_size: usize) -> Result<(), ConfigError> {
        if self.candidates == 0 {
            return Err(ConfigError::NoCandidates);
        }
        if self.lag > MAX_LAG {
            return Err(ConfigError::Lag(self.lag));
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
        if self.candidates > batch_size {
            return Err(ConfigError::CandidatesBeyondBatch { candidates: self.candidates, batch_size });
        }
        Ok(())
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
        self.clone().with_execution(Execution::Inline).with_store(StoreKind::Auto).with_device_limit(0)
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
                Some(len) if (0.0..=1.0).contains(&fraction) => (len as f64 * fraction) as usize,
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
        if self.representatives > capacity {
            return Err(ConfigError::RepresentativesBeyondCapacity { representatives: self.representatives, capacity });
        }
        Ok(capacity)
    }
}

/// The part of a global capacity that belongs to `rank`: the first |B| mod N ranks have one slot more.
pub fn shard_capacity(capacity: usize, rank: usize, world_size: usize) -> usize {
    capacity / world_size + usize::from(rank < capacity % world_size)
}

/// The global number of the first slot of `rank`'s shard.
pub fn first_slot(capacity: usize, rank: usize, world_size: usize) -> usize {
    capacity / world_size * rank + rank.min(capacity % world_size)
}
