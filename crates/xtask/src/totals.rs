//! The closing lines of test binaries (`test result: ok. 3 passed; 0 failed; …`) and their sum.

use std::fmt;

/// The numbers of passed, failed and skipped tests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Totals {
    /// Parses a line of output. Returns `None` unless it is a closing line. Ignored and filtered
    /// tests count as skipped.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let line = without_colors(line);
        let counts = line.trim().strip_prefix("test result: ")?;
        let counts = counts.strip_prefix("ok. ").or_else(|| counts.strip_prefix("FAILED. "))?;
        let count = |what: &str| {
            counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse::<u64>().ok())
        };
        let skipped = count(" ignored")? + count(" filtered out").unwrap_or(0);
        Some(Self { passed: count(" passed")?, failed: count(" failed")?, skipped })
    }

    /// Adds the counts of another binary.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    pub(crate) fn none_run(self) -> bool {
        self.passed + self.failed == 0
    }
}

/// The last line of the gate's output.
impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// `line` without the escape sequences (`ESC [ … letter`) of terminal colors.
fn without_colors(line: &str) -> String {
    let mut pieces = line.split("\u{1b}[");
    let mut plain = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        plain.push_str(
            piece
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == ';')
                .get(1..)
                .unwrap_or_default(),
        );
    }
    plain
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn closing_lines_are_summed_over_all_binaries() {
        let output = "running 2 tests\n\
            test a ... ok\n\
            test result: ok. 41 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s\n\
            test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out; finished in 12.53s\n   \
            Doc-tests burn_rehearsal\n\
            test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n";
        let mut totals = Totals::default();
        let lines =
            output.lines().filter_map(Totals::parse).map(|counts| totals.add(counts)).count();
        assert_eq!(lines, 3);
        assert_eq!(totals.to_string(), "44 passed, 2 failed, 5 skipped");
    }

    #[test]
    fn a_colored_closing_line_counts() {
        let line = "test result: \u{1b}[32mok\u{1b}[0m. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\r\n";
        assert_eq!(Totals::parse(line), Some(Totals { passed: 7, failed: 0, skipped: 0 }));
        assert_eq!(Totals::parse("\u{1b}[1;31mtest result:\u{1b}["), None);
    }

    #[test]
    fn other_lines_do_not_count() {
        for line in [
            "",
            "test it ... ok",
            "12 passed, 0 failed",
            "test result: pending",
            "test result: ok. many passed; 0 failed; 0 ignored",
        ] {
            assert_eq!(Totals::parse(line), None, "{line}");
        }
    }

    #[test]
    fn binaries_without_tests_do_not_count_as_a_run() {
        let empty = "test result: ok. 0 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert!(Totals::default().none_run());
        assert!(Totals::parse(empty).unwrap().none_run());
        assert!(!Totals { passed: 0, failed: 1, skipped: 0 }.none_run());
    }
}
