//! The rules for dependencies and for our own crates, checked on what `cargo metadata` prints: all
//! features, all platforms.
//!
//! Every licence expression can be met with the allow list alone, everything comes from crates.io
//! or this workspace, there is one version of Burn and of CubeCL, and what we publish says what a
//! registry asks for.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package};
use spdx::{Expression, Licensee, ParseMode};

use crate::error::{Error, Result};
use crate::process;

/// Licences that a dependency may have: permissive ones, and MPL-2.0, whose copyleft ends at the
/// file.
const ALLOWED: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0", // webpki-roots: a list of certificates
    "ISC",
    "MIT",
    "MPL-2.0",
    "NCSA", // libfuzzer-sys, only when fuzzing
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that name a licence file instead of an expression: the words that the file must contain,
/// and what they mean.
const CLARIFIED: [(&str, &str, &str); 1] =
    [("cfg_block", "Licensed under the Apache License, Version 2.0", "Apache-2.0")];

/// Families of crates of which only one version may be in the tree: the types of two do not mix,
/// and both are long to build.
const ONE_VERSION: [&str; 2] = ["burn", "cubecl"];

/// Checks all rules and names everything that breaks one.
pub(crate) fn check() -> Result<()> {
    let mut metadata = MetadataCommand::new()
        .features(CargoOpt::AllFeatures)
        .other_options(["--locked".to_owned()])
        .exec()?;
    let built = built()?;
    metadata
        .packages
        .retain(|package| built.contains(&(package.name.to_string(), package.version.to_string())));
    let broken = broken_rules(&metadata);
    if !broken.is_empty() {
        return Err(Error::Policy(broken));
    }
    let ours = metadata.workspace_members.len();
    println!(
        "{} dependencies and {ours} crates of ours keep to the rules",
        metadata.packages.len() - ours
    );
    Ok(())
}

/// Name and version of everything that is built with all features, on all platforms. What `cargo
/// metadata` lists is more: optional dependencies that a feature only mentions, in case that
/// something else asks for them.
fn built() -> Result<BTreeSet<(String, String)>> {
    let arguments = [
        "tree",
        "--locked",
        "--workspace",
        "--all-features",
        "--target",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let mut built = BTreeSet::new();
    let mut command = process::cargo(arguments);
    let status = process::run_listening(&mut command, &mut std::io::sink(), |line| {
        built.extend(name_and_version(line))
    })?;
    process::check(&command, status)?;
    Ok(built)
}

/// A package as `cargo tree` shows it: its name, its version behind a `v`, and more.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
}

/// One line for each rule that is broken.
fn broken_rules(metadata: &Metadata) -> Vec<String> {
    let mut broken = Vec::new();
    for package in &metadata.packages {
        if metadata.workspace_members.contains(&package.id) {
            broken.extend(published_without(package));
        } else {
            broken.extend(origin(package));
        }
        broken.extend(licence(package, &licence_text));
    }
    broken.extend(several_versions(&metadata.packages));
    broken
}

/// Complains about a licence that the allow list does not satisfy; `text` gives the content of a
/// crate's licence file.
fn licence(package: &Package, text: &dyn Fn(&Package) -> Option<String>) -> Option<String> {
    let named = format!("{} {}", package.name, package.version);
    let Some(expression) = package.license.clone().or_else(|| clarified(package, text)) else {
        return Some(format!(
            "{named}: no licence expression, and its licence file is not one that we have read"
        ));
    };
    // Lax: some old crates write `MIT/Apache-2.0` for `MIT OR Apache-2.0`.
    match Expression::parse_mode(&expression, ParseMode::LAX) {
        Err(error) => Some(format!(
            "{named}: licence {expression:?} is not an SPDX expression: {}",
            error.reason
        )),
        Ok(parsed) => {
            let ok = parsed.evaluate(|required| {
                ALLOWED
                    .iter()
                    .filter_map(|name| Licensee::parse(name).ok())
                    .any(|licensee| licensee.satisfies(required))
            });
            (!ok).then(|| format!("{named}: licence {expression:?} is not on the allow list"))
        }
    }
}

/// The expression for a crate that has only a licence file, if the file still says what we read in
/// it.
fn clarified(package: &Package, text: &dyn Fn(&Package) -> Option<String>) -> Option<String> {
    let (_, words, expression) = CLARIFIED.iter().find(|(name, ..)| package.name == *name)?;
    text(package)?.contains(words).then(|| (*expression).to_owned())
}

/// The content of a crate's licence file.
fn licence_text(package: &Package) -> Option<String> {
    std::fs::read_to_string(package.license_file()?).ok()
}

/// Complains about a dependency from anywhere but crates.io.
fn origin(package: &Package) -> Option<String> {
    let from = match &package.source {
        Some(source) if source.is_crates_io() => return None,
        Some(source) => source.to_string(),
        None => format!("the path {}", package.manifest_path),
    };
    Some(format!("{} {}: comes from {from}, not from crates.io", package.name, package.version))
}

/// Complains about families of crates that are there in two versions.
fn several_versions(packages: &[Package]) -> Vec<String> {
    let mut versions = BTreeMap::<&str, BTreeSet<String>>::new();
    let family = |name: &str| {
        ONE_VERSION.iter().any(|first| name == *first || name.starts_with(&format!("{first}-")))
    };
    for package in packages.iter().filter(|package| family(package.name.as_str())) {
        versions.entry(package.name.as_str()).or_default().insert(package.version.to_string());
    }
    let several = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    several
        .map(|(name, versions)| {
            format!("{name}: {} versions: {}", versions.len(), Vec::from_iter(versions).join(", "))
        })
        .collect()
}

/// Complains about what a crate of ours lacks for being published.
fn published_without(package: &Package) -> Option<String> {
    if package.publish.as_ref().is_some_and(Vec::is_empty) {
        return None;
    }
    let fields = [
        ("license", package.license.is_none()),
        ("description", package.description.is_none()),
        ("repository", package.repository.is_none()),
        ("keywords", package.keywords.is_empty()),
    ];
    let lacking: Vec<_> =
        fields.into_iter().filter_map(|(field, lacks)| lacks.then_some(field)).collect();
    (!lacking.is_empty())
        .then(|| format!("{}: is published without {}", package.name, lacking.join(", ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

    /// A package of crates.io with the fields of `more` set.
    fn package(name: &str, more: Value) -> Package {
        let mut value = json!({
            "name": name, "version": "1.0.0", "id": name, "source": CRATES_IO, "license": "MIT", "dependencies": [], "targets": [],
            "features": {}, "manifest_path": format!("/{name}/Cargo.toml"),
        });
        for (key, set) in more.as_object().unwrap() {
            value[key] = set.clone();
        }
        serde_json::from_value(value).unwrap()
    }

    fn licence_of(expression: &str) -> Option<String> {
        licence(&package("x", json!({ "license": expression })), &|_| None)
    }

    #[test]
    fn every_allowed_licence_is_one_that_spdx_knows() {
        for name in ALLOWED {
            assert!(Licensee::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn deny_toml_has_the_same_allow_list() {
        let text = include_str!("../../../deny.toml");
        let list = text.split_once("allow = [").unwrap().1.split_once(']').unwrap().0;
        let names: Vec<_> = list.split('"').skip(1).step_by(2).collect();
        assert_eq!(names, ALLOWED);
    }

    #[test]
    fn expressions_that_the_allow_list_satisfies_are_accepted() {
        for expression in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
        ] {
            assert_eq!(licence_of(expression), None, "{expression}");
        }
    }

    #[test]
    fn expressions_that_need_anything_else_are_refused_by_name() {
        for expression in [
            "GPL-3.0-only",
            "MIT AND GPL-2.0-or-later",
            "LGPL-2.1-or-later",
            "Apache-2.0 WITH Classpath-exception-2.0",
        ] {
            assert_eq!(
                licence_of(expression),
                Some(format!("x 1.0.0: licence {expression:?} is not on the allow list"))
            );
        }
        assert!(licence_of("do what you like").unwrap().contains("not an SPDX expression"));
    }

    #[test]
    fn a_licence_file_counts_only_while_it_says_what_we_have_read() {
        let file = json!({ "license": null, "license_file": "LICENSE" });
        let known = package("cfg_block", file.clone());
        assert_eq!(
            licence(&known, &|_| Some(
                "Licensed under the Apache License, Version 2.0 (the".to_owned()
            )),
            None
        );
        assert!(licence(&known, &|_| Some("All rights reserved".to_owned())).is_some());
        assert!(
            licence(&package("unknown", file), &|_| Some(
                "Licensed under the Apache License, Version 2.0".to_owned()
            ))
            .is_some()
        );
    }

    #[test]
    fn packages_are_read_off_the_tree_with_their_versions() {
        let of = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(
            name_and_version("serde_derive v1.0.2 (proc-macro) (*)\n"),
            of("serde_derive", "1.0.2")
        );
        assert_eq!(name_and_version("ours v0.1.0 (/home/somebody/ours)\n"), of("ours", "0.1.0"));
        assert_eq!(name_and_version("\n"), None);
    }

    #[test]
    fn only_crates_io_is_an_origin() {
        assert_eq!(origin(&package("x", json!({}))), None);
        assert!(
            origin(&package("x", json!({ "source": "git+https://example.org/x#1" })))
                .unwrap()
                .contains("git+https://example.org/x")
        );
        assert!(
            origin(&package("x", json!({ "source": "registry+https://example.org/index" })))
                .is_some()
        );
        assert!(
            origin(&package("x", json!({ "source": null }))).unwrap().contains("/x/Cargo.toml")
        );
    }

    #[test]
    fn two_versions_of_burn_or_cubecl_are_refused_and_of_others_allowed() {
        let two = |name| [package(name, json!({})), package(name, json!({ "version": "2.0.0" }))];
        assert_eq!(several_versions(&two("burn-core")), ["burn-core: 2 versions: 1.0.0, 2.0.0"]);
        assert_eq!(several_versions(&two("cubecl")).len(), 1);
        assert_eq!(several_versions(&two("rand")), [""; 0]);
        assert_eq!(several_versions(&two("burnish")), [""; 0]);
    }

    #[test]
    fn a_published_crate_must_say_what_a_registry_asks_for() {
        let bare = json!({ "source": null, "license": null });
        assert_eq!(
            published_without(&package("ours", bare)).unwrap(),
            "ours: is published without license, description, repository, keywords"
        );
        assert_eq!(published_without(&package("ours", json!({ "publish": [] }))), None);
        let full = json!({ "description": "d", "repository": "r", "keywords": ["k"] });
        assert_eq!(published_without(&package("ours", full)), None);
    }
}
