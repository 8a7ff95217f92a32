//! Rules for dependencies and for the crates of the workspace, checked with `cargo metadata` for
//! all features and platforms:
//!
//! * the allow list satisfies every license expression;
//! * every dependency comes from crates.io;
//! * there is one version of Burn and one of CubeCL;
//! * published crates have the metadata that a registry requires.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package};
use spdx::{Expression, Licensee, ParseMode};

use crate::error::{Error, Result};
use crate::process;

/// Allowed licenses of dependencies: permissive ones, and MPL-2.0, whose copyleft is limited to
/// single files.
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
    "NCSA", // libfuzzer-sys, only used for fuzzing
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates with a license file instead of an expression: the name, a text that the file must
/// contain, and the expression for it.
const CLARIFIED: [(&str, &str, &str); 1] =
    [("cfg_block", "Licensed under the Apache License, Version 2.0", "Apache-2.0")];

/// Families of crates with a single allowed version. Types of two versions are incompatible, and
/// each takes long to build.
const ONE_VERSION: [&str; 2] = ["burn", "cubecl"];

/// Checks all rules. The error names everything that breaks one.
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
        return Err(Error::Dependencies(broken));
    }
    let ours = metadata.workspace_members.len();
    println!(
        "{} dependencies and {ours} crates of the workspace satisfy the rules",
        metadata.packages.len() - ours
    );
    Ok(())
}

/// Name and version of everything that is built with all features on all platforms. `cargo
/// metadata` lists more: optional dependencies that a feature only mentions
/// (`dependency?/feature`).
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

/// Parses a package in the output of `cargo tree`: its name, its version after a `v`, and more.
fn name_and_version(line: &str) -> Option<(String, String)> {
    let mut words = line.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
}

/// One line for each broken rule.
fn broken_rules(metadata: &Metadata) -> Vec<String> {
    let mut broken = Vec::new();
    for package in &metadata.packages {
        if metadata.workspace_members.contains(&package.id) {
            broken.extend(published_without(package));
        } else {
            broken.extend(origin(package));
        }
        broken.extend(license(package, &license_text));
    }
    broken.extend(several_versions(&metadata.packages));
    broken
}

/// Reports a license that the allow list does not satisfy. `text` returns the content of a crate's
/// license file.
fn license(package: &Package, text: &dyn Fn(&Package) -> Option<String>) -> Option<String> {
    let named = format!("{} {}", package.name, package.version);
    let Some(expression) = package.license.clone().or_else(|| clarified(package, text)) else {
        return Some(format!("{named}: no license expression, and an unknown license file"));
    };
    // Some old crates write `MIT/Apache-2.0` instead of `MIT OR Apache-2.0`.
    match Expression::parse_mode(&expression, ParseMode::LAX) {
        Err(error) => Some(format!(
            "{named}: license {expression:?} is not an SPDX expression: {}",
            error.reason
        )),
        Ok(parsed) => {
            let ok = parsed.evaluate(|required| {
                ALLOWED
                    .iter()
                    .filter_map(|name| Licensee::parse(name).ok())
                    .any(|licensee| licensee.satisfies(required))
            });
            (!ok).then(|| format!("{named}: license {expression:?} is not on the allow list"))
        }
    }
}

/// The expression for a crate that has only a license file, if the file contains the known text.
fn clarified(package: &Package, text: &dyn Fn(&Package) -> Option<String>) -> Option<String> {
    let (_, words, expression) = CLARIFIED.iter().find(|(name, ..)| package.name == *name)?;
    text(package)?.contains(words).then(|| (*expression).to_owned())
}

/// The content of the license file of a crate.
fn license_text(package: &Package) -> Option<String> {
    std::fs::read_to_string(package.license_file()?).ok()
}

/// Reports a dependency that does not come from crates.io.
fn origin(package: &Package) -> Option<String> {
    let from = match &package.source {
        Some(source) if source.is_crates_io() => return None,
        Some(source) => source.to_string(),
        None => format!("the path {}", package.manifest_path),
    };
    Some(format!("{} {}: comes from {from}, not from crates.io", package.name, package.version))
}

/// Reports families of crates with more than one version.
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

/// Reports missing metadata of a crate that is published.
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
        .then(|| format!("{}: published without {}", package.name, lacking.join(", ")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

    /// A package of crates.io, with further fields from `more`.
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

    fn license_of(expression: &str) -> Option<String> {
        license(&package("x", json!({ "license": expression })), &|_| None)
    }

    #[test]
    fn spdx_knows_every_allowed_license() {
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
    fn expressions_within_the_allow_list_are_accepted() {
        for expression in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "Apache-2.0 / MIT",
            "MIT OR Apache-2.0 OR LGPL-2.1-or-later",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
        ] {
            assert_eq!(license_of(expression), None, "{expression}");
        }
    }

    #[test]
    fn expressions_outside_the_allow_list_are_rejected_by_name() {
        for expression in [
            "GPL-3.0-only",
            "MIT AND GPL-2.0-or-later",
            "LGPL-2.1-or-later",
            "Apache-2.0 WITH Classpath-exception-2.0",
        ] {
            assert_eq!(
                license_of(expression),
                Some(format!("x 1.0.0: license {expression:?} is not on the allow list"))
            );
        }
        assert!(license_of("do what you like").unwrap().contains("not an SPDX expression"));
    }

    #[test]
    fn a_license_file_counts_only_with_the_known_text() {
        let file = json!({ "license": null, "license_file": "LICENSE" });
        let known = package("cfg_block", file.clone());
        assert_eq!(
            license(&known, &|_| Some(
                "Licensed under the Apache License, Version 2.0 (the".to_owned()
            )),
            None
        );
        assert!(license(&known, &|_| Some("All rights reserved".to_owned())).is_some());
        assert!(
            license(&package("unknown", file), &|_| Some(
                "Licensed under the Apache License, Version 2.0".to_owned()
            ))
            .is_some()
        );
    }

    #[test]
    fn packages_of_the_tree_are_parsed_with_their_versions() {
        let of = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(
            name_and_version("serde_derive v1.0.2 (proc-macro) (*)\n"),
            of("serde_derive", "1.0.2")
        );
        assert_eq!(name_and_version("ours v0.1.0 (/home/user/ours)\n"), of("ours", "0.1.0"));
        assert_eq!(name_and_version("\n"), None);
    }

    #[test]
    fn only_crates_io_is_an_allowed_origin() {
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
    fn two_versions_of_burn_or_cubecl_are_rejected() {
        let two = |name| [package(name, json!({})), package(name, json!({ "version": "2.0.0" }))];
        assert_eq!(several_versions(&two("burn-core")), ["burn-core: 2 versions: 1.0.0, 2.0.0"]);
        assert_eq!(several_versions(&two("cubecl")).len(), 1);
        assert_eq!(several_versions(&two("rand")), [""; 0]);
        assert_eq!(several_versions(&two("burnish")), [""; 0]);
    }

    #[test]
    fn a_published_crate_needs_the_metadata_of_a_registry() {
        let bare = json!({ "source": null, "license": null });
        assert_eq!(
            published_without(&package("ours", bare)).unwrap(),
            "ours: published without license, description, repository, keywords"
        );
        assert_eq!(published_without(&package("ours", json!({ "publish": [] }))), None);
        let full = json!({ "description": "d", "repository": "r", "keywords": ["k"] });
        assert_eq!(published_without(&package("ours", full)), None);
    }
}
