//! Standard output and standard error.

use std::io::Write;

/// Prints a line on standard error; dropped if that is gone, as with a terminal that was closed.
pub fn complain(line: &str) {
    // There is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a line.
///
/// What cannot be printed is dropped, where `println!` would panic: somebody who reads only the first line (`… | head -1`) does not end a run,
/// whose results are on disk.
pub fn say(line: &str) {
    // See above: there is nobody to tell.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
