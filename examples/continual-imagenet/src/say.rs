//! Standard output.

use std::io::Write;

/// Prints a line.
///
/// What cannot be printed is dropped, where `println!` would panic: somebody who reads only the first line (`… | head -1`) does not end a run,
/// whose results are on disk.
pub fn say(line: &str) {
    // See above: there is nobody to tell.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
