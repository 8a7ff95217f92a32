//! The small programs in `examples/`: each runs once, and its last number must reach a bound.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::limit::Limit;
use crate::main_job::{Check, require};
use crate::process;
use crate::workspace::Workspace;

/// The name of each example, and the bound of the last number that it prints.
const EXAMPLES: [(&str, f64); 6] = [
    ("quickstart", 0.8),
    ("custom-loop", 0.8),
    ("ranks", 0.8),
    ("custom-policy", 20.0),
    ("checkpoint", 0.8),
    ("multi-tensor", 3.0),
];

/// Builds programs as the tests are built, so that nothing is compiled twice, but with default
/// features. Returns their paths.
pub(crate) fn build<const N: usize>(
    workspace: &Workspace,
    names: [&str; N],
) -> Result<[PathBuf; N]> {
    let mut build = workspace.cargo(&["build", "--workspace", "--locked"]);
    process::run(build.args(names.iter().flat_map(|name| ["--bin", name])))?;
    let folder = workspace.target.join("debug");
    Ok(names.map(|name| folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX))))
}

/// Builds the examples and runs them in a temporary directory.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let programs = build(workspace, EXAMPLES.map(|(name, _)| name))?;
    let directory =
        tempfile::tempdir().map_err(|source| Error::File { path: std::env::temp_dir(), source })?;
    let mut checks = Vec::new();
    for ((name, bound), program) in EXAMPLES.into_iter().zip(programs) {
        println!("{name}:");
        let mut command = Command::new(program);
        command.current_dir(directory.path()).stdin(Stdio::null());
        let mut figure = None;
        let status = process::run_listening(&mut command, &mut std::io::stdout(), |line| {
            figure = last_number(line).or(figure);
        })?;
        process::check(&command, status)?;
        let value = figure.unwrap_or(f64::NAN);
        checks.push(Check { name, value, limit: Limit::AtLeast(bound) });
    }
    require(&checks)
}

/// The last word of `line` that is a number.
fn last_number(line: &str) -> Option<f64> {
    line.split_whitespace().rev().find_map(|word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_of_a_line_is_its_last_number() {
        assert_eq!(last_number("task 5: accuracy on all ten digits 0.931\n"), Some(0.931));
        assert_eq!(last_number("every class has at least 20 samples"), Some(20.0));
        assert_eq!(last_number("no figure"), None);
    }
}
