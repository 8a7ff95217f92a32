//! Running other programs: formatting a command for messages, running it, and reading its output.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::error::{Error, Result};

/// A command of the cargo that runs xtask, without standard input.
pub(crate) fn cargo<I, S>(arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs `command`, which inherits the standard output. A failure of the program is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status =
        command.status().map_err(|source| Error::Start { command: shown(command), source })?;
    check(command, status)
}

/// Runs `command`, copies each line of its standard output to `output` at once, and passes it to
/// `listen`.
///
/// The caller checks the exit status with [`check`], so that the lines of a failed run are not
/// lost.
pub(crate) fn run_listening(
    command: &mut Command,
    output: &mut impl Write,
    mut listen: impl FnMut(&str),
) -> Result<ExitStatus> {
    let failed = |command: &Command, source| Error::Start { command: shown(command), source };
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(|source| failed(command, source))?;
    if let Some(lines) = child.stdout.take() {
        let mut lines = BufReader::new(lines);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).map_err(|source| failed(command, source))? > 0 {
            output
                .write_all(&line)
                .and_then(|()| output.flush())
                .map_err(|source| failed(command, source))?;
            listen(&String::from_utf8_lossy(&line));
            line.clear();
        }
    }
    child.wait().map_err(|source| failed(command, source))
}

/// Returns an error that names `command` unless `status` is a success.
pub(crate) fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() { Ok(()) } else { Err(Error::Failed { command: shown(command), status }) }
}

/// Whether `command` can be started and succeeds. Its output is discarded.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `command` as typed in a shell: variables, program, arguments.
pub(crate) fn shown(command: &Command) -> String {
    let mut words = Vec::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", name.to_string_lossy(), quoted(value)));
        }
    }
    let program = Path::new(command.get_program());
    // Readers do not need the path of the toolchain's cargo.
    let is_cargo = program.file_stem() == Some(OsStr::new("cargo"));
    words.push(if is_cargo { "cargo".to_owned() } else { quoted(program.as_os_str()) });
    words.extend(command.get_args().map(quoted));
    words.join(" ")
}

/// `word`, in single quotes if a shell would split or expand it.
fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_command_is_shown_as_typed_in_a_shell() {
        let mut command = Command::new("/some/toolchain/bin/cargo");
        command.args(["doc", "--no-deps", "it's"]).env("RUSTDOCFLAGS", "-D warnings");
        assert_eq!(shown(&command), r"RUSTDOCFLAGS='-D warnings' cargo doc --no-deps 'it'\''s'");
    }

    #[cfg(unix)]
    #[test]
    fn listening_copies_every_line_and_returns_the_status() {
        let mut heard = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; printf two; exit 3"]);
        let mut output = Vec::new();
        let status =
            run_listening(&mut command, &mut output, |line| heard.push(line.to_owned())).unwrap();
        assert_eq!(output, b"one\ntwo");
        assert_eq!(heard, ["one\n", "two"]);
        assert_eq!(status.code(), Some(3));
        assert!(check(&command, status).unwrap_err().to_string().contains("exit status: 3"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-anywhere")).unwrap_err().to_string();
        assert!(error.contains("cannot run `no-such-program-anywhere`"), "{error}");
    }
}
