//! Checks that all ranks use the same options.
//!
//! A rank that trains with another mini-batch size or number of tasks would hang, or give wrong
//! results silently. [`agree_on`] compares named values over all ranks. It exchanges only one small
//! message if they agree, and names the values that differ.

use crate::error::RehearsalError;
use burn_rehearsal_collective::{Collective, CollectiveExt};
use serde_json::{Map, Value};
use std::fmt;

/// The largest number of differences that an error lists.
const MAX_LISTED: usize = 4;
/// The largest number of ranks listed for one value.
const MAX_RANKS: usize = 4;
/// The largest number of characters of a value.
const MAX_TEXT: usize = 120;

/// The values that differ between ranks. All ranks get the same list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    differences: Vec<Difference>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Difference {
    name: String,
    /// Each value, with the ranks that have it.
    values: Vec<(String, Vec<usize>)>,
}

impl Disagreement {
    /// The names of the values that differ, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.differences.iter().map(|difference| difference.name.as_str())
    }
}

impl std::error::Error for Disagreement {}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ranks were configured differently: ")?;
        for (index, Difference { name, values }) in
            self.differences.iter().take(MAX_LISTED).enumerate()
        {
            let values: Vec<_> = values
                .iter()
                .map(|(value, ranks)| format!("{value} on {}", RankList(ranks)))
                .collect();
            write!(f, "{}{name} is {}", if index > 0 { ", " } else { "" }, values.join(" and "))?;
        }
        match self.differences.len().saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            more => write!(f, ", and {more} more differences"),
        }
    }
}

/// Displays a list of ranks, for example `ranks 0, 2`.
struct RankList<'a>(&'a [usize]);

impl fmt::Display for RankList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed: Vec<_> = self.0.iter().take(MAX_RANKS).map(ToString::to_string).collect();
        write!(f, "{} {}", if self.0.len() == 1 { "rank" } else { "ranks" }, listed.join(", "))?;
        match self.0.len().saturating_sub(MAX_RANKS) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Compares named values over all ranks. A name that is missing on a rank counts as a difference.
/// Collective.
///
/// ```
/// use burn_rehearsal::{Ranks, agreement::agree_on};
///
/// let result = Ranks::threads(3).run(|rank| {
///     let tasks = if rank.rank() == 1 { 5 } else { 2 };
///     let values = serde_json::json!({ "epochs": 3, "tasks": tasks });
///     agree_on(rank.collective()?.as_mut(), values.as_object().unwrap())
/// });
/// let error = result.unwrap_err().to_string();
/// assert!(error.contains("tasks is 2 on ranks 0, 2 and 5 on rank 1"), "{error}");
/// ```
///
/// # Errors
///
/// [`RehearsalError::Configuration`] if the values differ. It is the same on all ranks.
/// [`RehearsalError::Collective`] if a rank has left.
pub fn agree_on(
    collective: &mut dyn Collective,
    values: &Map<String, Value>,
) -> Result<(), RehearsalError> {
    let own = serde_json::to_vec(values).unwrap_or_default();
    // All ranks compare the same digests, so either all of them continue or none does.
    let digests = collective.gather_bytes(blake3::hash(&own).as_bytes())?;
    if digests.windows(2).all(|pair| pair[0] == pair[1]) {
        return Ok(());
    }
    let all = collective.gather_bytes(&own)?;
    let all: Vec<Map<String, Value>> =
        all.iter().map(|bytes| serde_json::from_slice(bytes).unwrap_or_default()).collect();
    Err(RehearsalError::Configuration(compare(&all)))
}

fn compare(all: &[Map<String, Value>]) -> Disagreement {
    let mut names: Vec<&String> = all.iter().flat_map(Map::keys).collect();
    names.sort();
    names.dedup();
    let mut differences = Vec::new();
    for name in names {
        let mut values: Vec<(Option<&Value>, Vec<usize>)> = Vec::new();
        for (rank, map) in all.iter().enumerate() {
            let own = map.get(name);
            match values.iter_mut().find(|(value, _)| *value == own) {
                Some((_, ranks)) => ranks.push(rank),
                None => values.push((own, vec![rank])),
            }
        }
        if values.len() > 1 {
            let values = values.into_iter().map(|(value, ranks)| (text(value), ranks)).collect();
            differences.push(Difference { name: name.clone(), values });
        }
    }
    Disagreement { differences }
}

/// A value as text, as on a command line.
fn text(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => "not given".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(all: &[Value]) -> String {
        let maps: Vec<_> =
            all.iter().map(|value| value.as_object().cloned().unwrap_or_default()).collect();
        compare(&maps).to_string()
    }

    #[test]
    fn differences_are_listed_up_to_a_limit() {
        let one =
            words(&[json!({ "a": 1, "b": "x" }), json!({ "a": 1, "b": "y" }), json!({ "a": 1 })]);
        assert_eq!(
            one,
            "the ranks were configured differently: \
             b is x on rank 0 and y on rank 1 and not given on rank 2"
        );
        let many: Vec<_> = (0..9).map(|rank| json!({ "a": rank == 8 })).collect();
        assert!(
            words(&many).ends_with("a is false on ranks 0, 1, 2, 3 and 4 more and true on rank 8"),
            "{}",
            words(&many)
        );
        let all = json!({ "a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1 });
        assert!(words(&[all, json!({})]).ends_with(", and 2 more differences"));
        let long = words(&[json!({ "a": "é".repeat(999) }), json!({})]);
        assert!(long.len() < 400 && long.contains("… on rank 0"), "{long}");
    }
}
