//! Numbers of rows: fixed, or in proportion to a mini-batch.

use crate::error::ConfigError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A number of rows: fixed, or in proportion to the incoming rows of a mini-batch.
///
/// ```
/// use burn_rehearsal::{Capacity, RehearsalConfig, RowCount};
///
/// let config = RehearsalConfig::new(Capacity::Samples(2_000))
///     .with_candidates(0.25)
///     .with_representatives(32);
/// assert_eq!(config.candidates, RowCount::Ratio(0.25));
/// assert_eq!(config.representatives, RowCount::Count(32));
/// assert_eq!((config.candidates.of(56), config.representatives.of(56)), (14, 32));
/// assert_eq!("25%".parse(), Ok(RowCount::Ratio(0.25)));
/// ```
///
/// In text and in configuration files, a count is a number (`14`) and a ratio is a percentage
/// (`"25%"`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "NumberOrText", try_from = "NumberOrText")]
pub enum RowCount {
    /// A fixed number of rows.
    Count(usize),
    /// A number of rows per incoming row. The product is rounded to the nearest integer, and is at
    /// least 1 unless the ratio is 0.
    Ratio(f64),
}

impl RowCount {
    /// The number of rows for a mini-batch of `incoming` rows. For a ratio and an empty mini-batch
    /// it is 0.
    pub fn of(self, incoming: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Ratio(ratio) if ratio > 0.0 && incoming > 0 => {
                ((ratio * incoming as f64).round() as usize).max(1)
            }
            Self::Ratio(_) => 0,
        }
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

/// Writes `14` for a count and `25%` for a ratio.
impl fmt::Display for RowCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Ratio(ratio) => {
                // Moves the decimal point in the text, because a multiplication would round.
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

/// The form of a [`RowCount`] in a file.
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
        let Some(percent) = text.strip_suffix('%') else {
            return text.parse().map(Self::Count).map_err(|_| wrong());
        };
        let percent = percent.trim();
        if percent.is_empty() || percent.contains(|c: char| !c.is_ascii_digit() && c != '.') {
            return Err(wrong());
        }
        // Parses a decimal number, because a division would round a second time.
        format!("{percent}e-2").parse().map(Self::Ratio).map_err(|_| wrong())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_depends_on_the_mini_batch_and_a_count_does_not() {
        let rows = |ratio: f64| [0, 1, 3, 8, 30].map(|incoming| RowCount::from(ratio).of(incoming));
        assert_eq!(rows(1.0), [0, 1, 3, 8, 30]);
        assert_eq!(rows(0.1), [0, 1, 1, 1, 3]);
        assert_eq!(rows(2.5), [0, 3, 8, 20, 75]);
        assert_eq!(rows(0.0), [0; 5]);
        assert_eq!([0, 5].map(|incoming| RowCount::from(7).of(incoming)), [7, 7]);
    }

    #[test]
    fn row_counts_survive_text_and_serialization() {
        let values = [
            RowCount::Count(0),
            RowCount::Count(14),
            RowCount::Ratio(1.0),
            RowCount::Ratio(1.0 / 3.0),
            RowCount::Ratio(2.5),
        ];
        let percent = (0..=100).map(|percent| RowCount::Ratio(f64::from(percent) / 100.0));
        for rows in values.into_iter().chain(percent) {
            assert_eq!(rows.to_string().parse(), Ok(rows));
            assert_eq!(
                serde_json::from_str::<RowCount>(&serde_json::to_string(&rows).unwrap()).unwrap(),
                rows
            );
        }
        let texts = [RowCount::Count(14), RowCount::Ratio(0.29), RowCount::Ratio(0.125)]
            .map(|rows| serde_json::to_string(&rows).unwrap());
        assert_eq!(texts, ["14", "\"29%\"", "\"12.5%\""]);
        for wrong in ["", "x", "-1", "1.5", "-1%", "nan%", "inf%", "%"] {
            assert_eq!(wrong.parse::<RowCount>(), Err(ConfigError::RowCount(wrong.into())));
        }
    }
}
