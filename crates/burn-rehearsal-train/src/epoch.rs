//! Epochs of a task.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroUsize;

/// An epoch of a task. Burn, checkpoints and messages number epochs from 1. Reports and schedules
/// use indices from 0.
///
/// Displayed and serialized as its number.
///
/// ```
/// use burn_rehearsal_train::epoch::Epoch;
///
/// assert_eq!((Epoch::FIRST.number(), Epoch::FIRST.index()), (1, 0));
/// assert_eq!(Epoch::from_index(4), Epoch::from_number(5));
/// assert_eq!(Epoch::from_number(5).to_string(), "5");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(NonZeroUsize);

impl Epoch {
    /// The first epoch of a task.
    pub const FIRST: Self = Self(NonZeroUsize::MIN);

    /// The epoch with this number, from 1. The number 0 counts as 1.
    pub fn from_number(number: usize) -> Self {
        Self(NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN))
    }

    /// The epoch with this index, from 0.
    pub fn from_index(index: usize) -> Self {
        Self(NonZeroUsize::MIN.saturating_add(index))
    }

    /// The number, from 1.
    pub fn number(self) -> usize {
        self.0.get()
    }

    /// The index, from 0: the number of earlier epochs.
    pub fn index(self) -> usize {
        self.0.get() - 1
    }

    /// The next epoch.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Serializes an epoch as its index.
pub(crate) mod as_index {
    use super::Epoch;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        epoch: &Epoch,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        epoch.index().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Epoch, D::Error> {
        usize::deserialize(deserializer).map(Epoch::from_index)
    }
}
