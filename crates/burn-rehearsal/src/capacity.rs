//! The capacity of a buffer, and amounts of memory.

use crate::RowCount;
use crate::error::ConfigError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The global capacity |B| of a buffer (memory budget): the sum over the shards of all ranks.
///
/// ```
/// use burn_rehearsal::Capacity;
///
/// assert_eq!("500".parse(), Ok(Capacity::Samples(500)));
/// assert_eq!("30%".parse(), Ok(Capacity::Fraction(0.3)));
/// assert_eq!("1.5MiB".parse(), Ok(Capacity::Bytes(1_572_864)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capacity {
    /// A number of samples. Text: `500`.
    Samples(usize),
    /// The samples whose rows fit in this many bytes. Text: an amount of memory, `512MiB`.
    Bytes(u64),
    /// A fraction (0..=1) of the samples in the data set, rounded down. It needs
    /// [`RehearsalConfig::dataset_len`](crate::RehearsalConfig::dataset_len). Text: a percentage,
    /// `30%`.
    Fraction(f64),
}

/// `500`, `30%` or `512MiB`.
impl FromStr for Capacity {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::Capacity(text.to_owned());
        if text.ends_with('%') {
            return match text.parse() {
                Ok(RowCount::Ratio(fraction)) if fraction <= 1.0 => Ok(Self::Fraction(fraction)),
                _ => Err(wrong()),
            };
        }
        text.parse()
            .map(|ByteSize(bytes)| Self::Bytes(bytes))
            .or_else(|_| text.parse().map(Self::Samples))
            .map_err(|_| wrong())
    }
}

/// The text that [`FromStr`] reads.
impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Samples(samples) => samples.fmt(f),
            Self::Bytes(bytes) => ByteSize(bytes).fmt(f),
            Self::Fraction(fraction) => RowCount::Ratio(fraction).fmt(f),
        }
    }
}

/// An amount of memory in bytes. As text, it is a number with a unit.
///
/// ```
/// use burn_rehearsal::ByteSize;
///
/// assert_eq!("2GiB".parse(), Ok(ByteSize(2 << 30)));
/// assert_eq!(ByteSize(2 << 30).to_string(), "2GiB");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// In this order, because a unit can be a suffix of an earlier one.
const UNITS: [(&str, u64); 8] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let amount = UNITS.into_iter().find_map(|(unit, bytes)| {
            Some((text.strip_suffix(unit)?.trim().parse::<f64>().ok()?, bytes))
        });
        match amount {
            Some((number, bytes)) if number.is_finite() && number >= 0.0 => {
                Ok(Self((number * bytes as f64) as u64))
            }
            _ => Err(ConfigError::ByteSize(text.to_owned())),
        }
    }
}

/// Uses the largest unit that gives a whole number.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) = UNITS
            .into_iter()
            .find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::RehearsalConfig;

    #[test]
    fn capacities_are_fractions_samples_or_memory() {
        assert_eq!("30%".parse(), Ok(Capacity::Fraction(0.3)));
        assert_eq!("500".parse(), Ok(Capacity::Samples(500)));
        assert_eq!("512MiB".parse(), Ok(Capacity::Bytes(512 << 20)));
        assert_eq!("1.5 GB".parse(), Ok(Capacity::Bytes(1_500_000_000)));
        let written = ["500", "7%", "12.3%", "512MiB"];
        assert_eq!(written.map(|text| text.parse::<Capacity>().unwrap().to_string()), written);
        assert_eq!("0.5GiB".parse::<Capacity>().unwrap().to_string(), "512MiB");
        let samples = |percent: usize, len: usize| {
            let config = RehearsalConfig::new(format!("{percent}%").parse().unwrap());
            config.with_representatives(0).with_dataset_len(Some(len)).capacity_in_samples(1, 1)
        };
        for len in [100, 101, 999, 1437, 50_000, 60_000, 1_281_167, 14_197_122, 1_000_000_007] {
            (1..=100).for_each(|percent| {
                assert_eq!(
                    samples(percent, len).unwrap(),
                    len * percent / 100,
                    "{percent}% of {len}"
                )
            });
        }
        for wrong in ["", "many", "-3", "101%", "-1%", "%", "5 apples", "NaNMiB", "MiB"] {
            assert_eq!(wrong.parse::<Capacity>(), Err(ConfigError::Capacity(wrong.into())));
        }
    }

    #[test]
    fn amounts_of_memory_survive_a_round_trip_through_text() {
        assert_eq!("1.5MiB".parse(), Ok(ByteSize(3 << 19)));
        for wrong in ["", "2", "10%", "-1GiB", "twoGiB", "1KB", "infB"] {
            assert_eq!(wrong.parse::<ByteSize>(), Err(ConfigError::ByteSize(wrong.into())));
        }
        let texts =
            [0, 7, 1_500_000_000, 1 << 40, 3 << 20, 2_000].map(|bytes| ByteSize(bytes).to_string());
        assert_eq!(texts, ["0B", "7B", "1500MB", "1TiB", "3MiB", "2kB"]);
        texts
            .iter()
            .for_each(|text| assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), *text));
    }
}
