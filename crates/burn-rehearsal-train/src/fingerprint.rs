//! The identity of a data set, so that a run resumes only on the data it began with, and all ranks
//! use the same data.
//!
//! A [`Fingerprint`] contains the names of the classes in order and, for each class, the number of
//! its samples and a digest of them: a few bytes per class. The location of the data is not
//! included. Each kind of data decides how thorough its digests are. `burn-rehearsal-vision`
//! describes those of images.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

pub use crate::stream::Split;

/// The largest number of classes that are compared one by one. With more classes, only totals are
/// compared, which bounds a fingerprint to about 2 MiB.
const MAX_CLASSES: usize = 1 << 15;
/// The largest number of differences that an error lists.
const MAX_LISTED: usize = 4;

/// The identity of a data set. See the [module](self).
///
/// ```
/// use burn_rehearsal_train::fingerprint::{Fingerprint, Split};
///
/// let of = |size: u64| {
///     let mut data = Fingerprint::builder("images", "names and sizes", ["cat", "dog"].map(Some));
///     data.add(Split::Train, 1, &[b"rex.jpg", &size.to_le_bytes()]);
///     data.add(Split::Test, 0, &[b"tom.jpg", &size.to_le_bytes()]);
///     data.build()
/// };
/// assert_eq!(of(7).differences(&of(7)), None);
/// let differences = of(7).differences(&of(8)).unwrap().to_string();
/// assert!(differences.contains("training images of class \"dog\""));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fingerprint {
    /// The noun for samples in messages, for example `images`.
    noun: String,
    /// The properties that the digests cover, as text.
    covers: String,
    /// Other properties of the data, by name.
    options: BTreeMap<String, String>,
    /// The training and the test part as a whole. Their digests depend on the order of all samples.
    parts: [Part; 2],
    /// The classes. Empty if there are too many.
    classes: Vec<Class>,
}

/// The number and the digest of some samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    samples: u64,
    /// Hexadecimal.
    digest: String,
}

/// A class: its name, if it has one, its training samples and its test samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Class(Option<String>, Part, Part);

impl Class {
    fn part(&self, split: Split) -> &Part {
        match split {
            Split::Train => &self.1,
            Split::Test => &self.2,
        }
    }
}

/// The differences between two fingerprints. [`Fingerprint::with_option`] has an example.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differences(Vec<Difference>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Difference {
    Value { what: String, before: String, now: String },
    Count { what: String, before: u64, now: u64 },
    Content { what: String, covers: String },
}

impl Fingerprint {
    /// Begins the fingerprint of data with these classes, in order. `noun` is the word for samples
    /// in messages, and `covers` describes the facts that are added for each sample.
    pub fn builder<S: Into<String>>(
        noun: &str,
        covers: &str,
        classes: impl IntoIterator<Item = Option<S>>,
    ) -> FingerprintBuilder {
        let names: Vec<_> = classes.into_iter().map(|name| name.map(Into::into)).collect();
        let count = names.len();
        FingerprintBuilder {
            noun: noun.to_owned(),
            covers: covers.to_owned(),
            names,
            parts: [0, 1].map(|_| (0, blake3::Hasher::new())),
            classes: [0, 1].map(|_| vec![(0, [0; 32]); count]),
        }
    }

    /// Adds another property of the data, such as the size of images.
    ///
    /// ```
    /// # use burn_rehearsal_train::fingerprint::Fingerprint;
    /// let of = |side: usize| {
    ///     Fingerprint::builder::<&str>("images", "pixels", []).build().with_option("side", side)
    /// };
    /// let differences = of(64).differences(&of(32)).unwrap();
    /// assert_eq!(differences.to_string(), "side was 64 and is 32");
    /// assert_eq!(differences.between_ranks(0, 3), "side is 64 on rank 0 and 32 on rank 3");
    /// assert_eq!(differences.without(&["side"]), None);
    /// ```
    #[must_use]
    pub fn with_option(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.options.insert(name.to_owned(), value.to_string());
        self
    }

    /// The differences between these data and those of `now`. `None` if there are none.
    pub fn differences(&self, now: &Self) -> Option<Differences> {
        if self == now {
            return None;
        }
        let mut found = Vec::new();
        let mut value = |what: String, before: Option<String>, now: Option<String>| {
            if before != now {
                let text = |value: Option<String>| value.unwrap_or_else(|| "not given".into());
                found.push(Difference::Value { what, before: text(before), now: text(now) });
            }
        };
        let names = self
            .options
            .keys()
            .chain(now.options.keys().filter(|name| !self.options.contains_key(*name)));
        for name in names {
            value(name.clone(), self.options.get(name).cloned(), now.options.get(name).cloned());
        }
        value(
            "the set of compared properties".into(),
            Some(self.covers.clone()),
            Some(now.covers.clone()),
        );
        let classes = |of: &Self| Some(of.classes.len().to_string());
        value("the number of classes".into(), classes(self), classes(now));
        for (number, (before, now)) in self.classes.iter().zip(&now.classes).enumerate() {
            let name = |class: &Class| {
                Some(class.0.as_ref().map_or_else(|| "nameless".into(), |name| format!("{name:?}")))
            };
            value(format!("class {number}"), name(before), name(now));
        }
        let noun = &now.noun;
        for split in [Split::Train, Split::Test] {
            let mut compare = |whose: &str, before: &Part, now: &Part, order: &str| {
                let what = format!("{split} {noun}{whose}");
                if before.samples != now.samples {
                    let (before, now) = (before.samples, now.samples);
                    found.push(Difference::Count { what, before, now });
                } else if before.digest != now.digest {
                    let covers = format!("{order}{}", self.covers);
                    found.push(Difference::Content { what, covers });
                }
                before != now
            };
            let mut of_classes = false;
            for (number, (before, now)) in self.classes.iter().zip(&now.classes).enumerate() {
                let whose = match &now.0 {
                    Some(name) => format!(" of class {name:?}"),
                    None => format!(" of class {number}"),
                };
                of_classes |= compare(&whose, before.part(split), now.part(split), "");
            }
            // If a class differs, the difference of the whole part says nothing new.
            if !of_classes {
                let parts = [&self.parts, &now.parts].map(|parts| &parts[split as usize]);
                compare("", parts[0], parts[1], "order; ");
            }
        }
        if found.is_empty() {
            found
                .push(Difference::Content { what: "the data".into(), covers: self.covers.clone() });
        }
        Some(Differences(found))
    }
}

impl Differences {
    /// Removes the differences in the values with these names, which are compared elsewhere.
    #[must_use]
    pub fn without(self, names: &[&str]) -> Option<Self> {
        let kept = |difference: &Difference| match difference {
            Difference::Value { what, .. } => !names.contains(&what.as_str()),
            _ => true,
        };
        let kept: Vec<_> = self.0.into_iter().filter(kept).collect();
        (!kept.is_empty()).then_some(Self(kept))
    }

    /// Describes the differences between two ranks. `first` is the rank on whose fingerprint
    /// [`differences`](Fingerprint::differences) was called.
    pub fn between_ranks(&self, first: usize, second: usize) -> String {
        self.list(|difference| match difference {
            Difference::Value { what, before, now } => {
                format!("{what} is {before} on rank {first} and {now} on rank {second}")
            }
            Difference::Count { what, before, now } => {
                format!("{what}: {before} on rank {first} and {now} on rank {second}")
            }
            Difference::Content { what, covers } => {
                format!("{what} differ between rank {first} and rank {second} (compared: {covers})")
            }
        })
    }

    fn list(&self, words: impl Fn(&Difference) -> String) -> String {
        let mut list: Vec<_> = self.0.iter().take(MAX_LISTED).map(words).collect();
        if self.0.len() > MAX_LISTED {
            list.push(format!("and {} more differences", self.0.len() - MAX_LISTED));
        }
        list.join(", ")
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list(|difference| match difference {
            Difference::Value { what, before, now } => format!("{what} was {before} and is {now}"),
            Difference::Count { what, before, now } => {
                format!("{what}: {before} before, {now} now")
            }
            Difference::Content { what, covers } => {
                format!("{what} have changed (compared: {covers})")
            }
        }))
    }
}

/// Builds a [`Fingerprint`] from samples in the order of the data set.
#[derive(Debug)]
pub struct FingerprintBuilder {
    noun: String,
    covers: String,
    names: Vec<Option<String>>,
    parts: [(u64, blake3::Hasher); 2],
    /// The number of samples of each class and a chain of their digests. A hasher per class would
    /// take 2 KiB.
    classes: [Vec<(u64, [u8; 32])>; 2],
}

impl FingerprintBuilder {
    /// Adds the next sample of a split. `facts` are the bytes that identify it. A sample of an
    /// unknown class is included only in the digest of the whole split.
    pub fn add(&mut self, split: Split, class: usize, facts: &[&[u8]]) {
        let mut sample = blake3::Hasher::new();
        for fact in facts {
            // The length is hashed, too, so that bytes cannot move from one fact to the next
            // unnoticed.
            sample.update(&(fact.len() as u64).to_le_bytes()).update(fact);
        }
        let sample = sample.finalize();
        let (samples, whole) = &mut self.parts[split as usize];
        *samples += 1;
        whole.update(&(class as u64).to_le_bytes()).update(sample.as_bytes());
        if let Some((samples, chain)) = self.classes[split as usize].get_mut(class) {
            *samples += 1;
            *chain = *blake3::Hasher::new()
                .update(chain)
                .update(sample.as_bytes())
                .finalize()
                .as_bytes();
        }
    }

    /// The fingerprint of all added samples.
    pub fn build(self) -> Fingerprint {
        let [train, test] = self.classes;
        let part = |(samples, chain): (u64, [u8; 32])| Part {
            samples,
            digest: short(&blake3::Hash::from_bytes(chain)),
        };
        let mut parts =
            self.parts.map(|(samples, whole)| Part { samples, digest: short(&whole.finalize()) });
        let mut classes: Vec<_> = self
            .names
            .into_iter()
            .zip(train.into_iter().zip(test))
            .map(|(name, (train, test))| Class(name, part(train), part(test)))
            .collect();
        if classes.len() > MAX_CLASSES {
            let names: Vec<_> = classes.iter().map(|class| format!("{:?}", class.0)).collect();
            let names = blake3::hash(names.join(",").as_bytes());
            parts.iter_mut().for_each(|part| part.digest.push_str(&short(&names)));
            classes.clear();
        }
        let options = BTreeMap::new();
        Fingerprint { noun: self.noun, covers: self.covers, options, parts, classes }
    }
}

/// 64 bits are enough to detect accidental changes.
fn short(hash: &blake3::Hash) -> String {
    hash.to_hex().chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a fingerprint from class names and from samples: split, class and fact.
    fn of(classes: &[&str], samples: &[(Split, usize, &str)]) -> Fingerprint {
        let mut builder =
            Fingerprint::builder("images", "names", classes.iter().map(|&name| Some(name)));
        samples
            .iter()
            .for_each(|&(split, class, fact)| builder.add(split, class, &[fact.as_bytes()]));
        builder.build()
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        use Split::{Test, Train};
        let base =
            of(&["a", "b"], &[(Train, 0, "1"), (Train, 1, "2"), (Test, 0, "3"), (Test, 1, "4")]);
        let cases = [
            (
                of(
                    &["b", "c"],
                    &[(Train, 0, "1"), (Train, 1, "2"), (Test, 0, "3"), (Test, 1, "4")],
                ),
                "class 0 was \"a\" and is \"b\"",
            ),
            (
                of(&["a"], &[(Train, 0, "1"), (Train, 0, "2"), (Test, 0, "3")]),
                "the number of classes was 2 and is 1",
            ),
            (
                of(
                    &["a", "b"],
                    &[
                        (Train, 0, "1"),
                        (Train, 1, "2"),
                        (Train, 1, "5"),
                        (Test, 0, "3"),
                        (Test, 1, "4"),
                    ],
                ),
                "training images of class \"b\": 1 before, 2 now",
            ),
            (
                of(&["a", "b"], &[(Train, 0, "1"), (Train, 1, "2"), (Test, 0, "3")]),
                "test images of class \"b\": 1 before, 0 now",
            ),
            (
                of(
                    &["a", "b"],
                    &[(Train, 0, "2"), (Train, 1, "1"), (Test, 0, "3"), (Test, 1, "4")],
                ),
                "training images of class \"a\" have changed (compared: names)",
            ),
            (
                of(
                    &["a", "b"],
                    &[(Train, 1, "2"), (Train, 0, "1"), (Test, 0, "3"), (Test, 1, "4")],
                ),
                "training images have changed (compared: order; names)",
            ),
            (base.clone().with_option("image-size", 32), "image-size was not given and is 32"),
        ];
        assert_eq!(base.differences(&base.clone()), None);
        for (other, words) in cases {
            let differences = base.differences(&other).unwrap();
            assert!(differences.to_string().contains(words), "{differences}");
        }
        let renamed =
            of(&["a", "c"], &[(Train, 0, "1"), (Train, 1, "2"), (Test, 0, "3"), (Test, 1, "4")]);
        let words = base.differences(&renamed).unwrap().between_ranks(0, 2);
        assert_eq!(words, "class 1 is \"b\" on rank 0 and \"c\" on rank 2");
        assert_eq!(
            base.differences(&base.clone().with_option("fit", "crop")).unwrap().without(&["fit"]),
            None
        );
    }

    #[test]
    fn too_many_classes_are_compared_as_a_whole() {
        let of = |last: &str| {
            let names = (0..MAX_CLASSES)
                .map(|class| Some(class.to_string()))
                .chain([Some(last.to_owned())]);
            let mut builder = Fingerprint::builder("images", "names", names);
            builder.add(Split::Train, MAX_CLASSES, &[b"1"]);
            builder.build()
        };
        assert!(serde_json::to_string(&of("x")).unwrap().len() < 1000);
        assert_eq!(of("x").differences(&of("x")), None);
        assert!(of("x").differences(&of("y")).is_some());
    }

    #[test]
    fn a_list_of_differences_is_bounded() {
        let names =
            |prefix: &str| (0..20).map(|class| format!("{prefix}{class}")).collect::<Vec<_>>();
        let of = |prefix: &str| {
            Fingerprint::builder("images", "names", names(prefix).into_iter().map(Some)).build()
        };
        let words = of("a").differences(&of("b")).unwrap().to_string();
        assert!(words.ends_with("and 16 more differences"), "{words}");
    }
}
