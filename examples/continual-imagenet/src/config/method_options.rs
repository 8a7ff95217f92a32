//! Options of methods: `alpha=0.5` for every method that has the option, `derpp.alpha=0.5` for one
//! of them.

use burn_rehearsal_train::methods::{self, Method, MethodOption, MethodRef};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use std::fmt;
use std::str::FromStr;

/// Values of options of methods.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MethodOptions(Vec<Entry>);

/// The value of an option.
#[derive(Debug, Clone, PartialEq)]
struct Entry {
    /// The method. `None` stands for every method that has the option.
    method: Option<&'static str>,
    option: &'static str,
    value: f64,
}

impl Entry {
    /// Whether this is an option of `method`.
    fn is_of(&self, method: MethodRef) -> bool {
        self.method.is_none_or(|name| name == method.name())
            && method.options().iter().any(|option| option.name == self.option)
    }

    /// The name, as it is written.
    fn name(&self) -> String {
        self.method.map_or(self.option.to_owned(), |method| format!("{method}.{}", self.option))
    }
}

impl MethodOptions {
    /// All options of a method, with their values.
    pub fn all_of(method: &dyn Method) -> Self {
        let entry = |MethodOption { name, value, .. }| Entry { method: None, option: name, value };
        Self(method.options().into_iter().map(entry).collect())
    }

    /// The values for a method, by option.
    pub fn of(&self, method: MethodRef) -> Vec<(&'static str, f64)> {
        // A value for one method replaces that for all methods.
        let mut values: Vec<(&'static str, f64)> = Vec::new();
        for Entry { option, value, .. } in self.0.iter().filter(|entry| entry.is_of(method)) {
            values.retain(|(other, _)| other != option);
            values.push((option, *value));
        }
        values
    }

    /// These values, replaced by `later` ones.
    pub fn replaced_by(mut self, later: Self) -> Self {
        for new in later.0 {
            self.0.retain(|old| {
                let replaced = new.method.is_none() || new.method == old.method;
                !(replaced && new.option == old.option)
            });
            self.0.push(new);
        }
        self
    }

    /// The first option that none of the methods has, and the options that they have.
    pub fn unused(&self, methods: &[MethodRef]) -> Option<(String, String)> {
        let unused = |entry: &&Entry| !methods.iter().any(|&method| entry.is_of(method));
        let entry = self.0.iter().find(unused)?;
        let names: Vec<_> = methods.iter().flat_map(|&method| names(method)).collect();
        Some((entry.name(), names.join(", ")))
    }
}

/// The names of the options of a method, with the method.
fn names(method: MethodRef) -> impl Iterator<Item = String> {
    let options = method.options().into_iter();
    options.map(move |option| format!("{method}.{}", option.name))
}

/// Parses a list such as `alpha=0.5,derpp.beta=1`.
impl FromStr for MethodOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut entries: Vec<Entry> = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let entry = entry(part.trim())?;
            if entries.iter().any(|other| other.name() == entry.name()) {
                return Err(format!("`{}` is listed twice", entry.name()));
            }
            entries.push(entry);
        }
        entries.sort_by_key(|entry| entry.method.is_some());
        Ok(Self(entries))
    }
}

/// Parses an option and its value.
fn entry(text: &str) -> Result<Entry, String> {
    let expected = || format!("`{text}`: expected `OPTION=VALUE` or `METHOD.OPTION=VALUE`");
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    let value: f64 = value.parse().map_err(|_| expected())?;
    let (method, name) = match name.rsplit_once('.') {
        None => (None, name),
        Some((method, name)) => {
            (Some(methods::by_name(method).map_err(|error| error.to_string())?), name)
        }
    };
    let candidates = method.as_ref().map_or(methods::ALL, std::slice::from_ref);
    let found = candidates.iter().flat_map(|method| method.options());
    let option = found.into_iter().find(|option| option.name == name).ok_or_else(|| {
        let names: Vec<_> = candidates.iter().copied().flat_map(names).collect();
        match method {
            Some(method) if names.is_empty() => format!("the method `{method}` has no options"),
            _ => format!("there is no option `{name}`; expected one of {}", names.join(", ")),
        }
    })?;
    if let Some(method) = method {
        method.with_options(&[(name, value)]).map_err(|error| error.to_string())?;
    }
    Ok(Entry { method: method.map(|method| method.name()), option: option.name, value })
}

/// Writes the text that [`FromStr`] reads.
impl fmt::Display for MethodOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, entry) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{}={}", entry.name(), entry.value)?;
        }
        Ok(())
    }
}

/// Writes a map.
impl Serialize for MethodOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|entry| (entry.name(), entry.value)))
    }
}

/// Accepts a map, or the text that [`FromStr`] reads.
impl<'de> Deserialize<'de> for MethodOptions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match Value::deserialize(deserializer)? {
            Value::String(text) => text,
            Value::Object(values) => {
                let entries: Vec<_> =
                    values.iter().map(|(name, value)| format!("{name}={value}")).collect();
                entries.join(",")
            }
            other => other.to_string(),
        };
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> MethodOptions {
        text.parse().unwrap()
    }

    fn values(options: &MethodOptions, method: &str) -> Vec<(&'static str, f64)> {
        options.of(methods::by_name(method).unwrap())
    }

    #[test]
    fn a_name_addresses_all_methods_or_one() {
        let options = parse("der++.alpha=0.5, alpha=0.1,beta=2");
        assert_eq!(values(&options, "derpp"), [("beta", 2.0), ("alpha", 0.5)]);
        assert_eq!(values(&options, "der"), [("alpha", 0.1)]);
        assert_eq!(values(&options, "rehearsal"), []);
        assert_eq!(options.to_string(), "alpha=0.1,beta=2,derpp.alpha=0.5");
        assert_eq!(parse(&options.to_string()), options);
        let json = serde_json::to_value(&options).unwrap();
        assert_eq!(serde_json::from_value::<MethodOptions>(json).unwrap(), options);
        assert_eq!(parse(""), MethodOptions::default());
    }

    #[test]
    fn later_values_replace_earlier_ones() {
        let earlier = parse("alpha=0.1,beta=0.5,derpp.alpha=0.2");
        let all = earlier.clone().replaced_by(parse("alpha=0.3"));
        assert_eq!(values(&all, "derpp"), [("beta", 0.5), ("alpha", 0.3)]);
        let one = earlier.replaced_by(parse("derpp.alpha=0.4"));
        assert_eq!(values(&one, "derpp"), [("beta", 0.5), ("alpha", 0.4)]);
        assert_eq!(values(&one, "der"), [("alpha", 0.1)]);
    }

    #[test]
    fn errors_name_the_valid_options() {
        let error = |text: &str| text.parse::<MethodOptions>().unwrap_err();
        assert!(error("gamm=1").contains("`gamm`; expected one of der.alpha, derpp.alpha"));
        assert_eq!(
            error("derpp.gamma=1"),
            "there is no option `gamma`; expected one of derpp.alpha, derpp.beta"
        );
        assert_eq!(error("er.alpha=1"), "the method `rehearsal` has no options");
        assert!(error("dre.alpha=1").contains("no method `dre`; expected one of incremental"));
        assert!(error("derpp.alpha=-1").contains("alpha is -1; it must be in 0"));
        for text in ["alpha", "alpha=x", "alpha=", "=1", "alpha=1,", "derpp.=1"] {
            assert!(!error(text).is_empty(), "{text}");
        }
        assert_eq!(error("alpha=1,beta=1,alpha=2"), "`alpha` is listed twice");
        let methods = ["derpp", "er"].map(|name| methods::by_name(name).unwrap());
        let unused = |text| parse(text).unused(&methods);
        let expected = Some(("gamma".to_owned(), "derpp.alpha, derpp.beta".to_owned()));
        assert_eq!(unused("alpha=1,gamma=0.5"), expected);
        assert!(unused("der.alpha=1").is_some() && unused("derpp.alpha=1").is_none());
    }
}
