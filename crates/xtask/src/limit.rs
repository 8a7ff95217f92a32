//! Limits for figures and accuracies.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A bound for a value. The bound itself is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    /// The value must not be larger.
    AtMost(f64),
    /// The value must not be smaller.
    AtLeast(f64),
}

impl Limit {
    pub(crate) fn bound(self) -> f64 {
        let (Self::AtMost(bound) | Self::AtLeast(bound)) = self;
        bound
    }

    /// Whether `value` is within the limit. NaN is not.
    pub(crate) fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self {
            Self::AtMost(_) => "≤",
            Self::AtLeast(_) => "≥",
        };
        match f.precision() {
            Some(precision) => write!(f, "{sign} {:.precision$}", self.bound()),
            None => write!(f, "{sign} {}", self.bound()),
        }
    }
}
