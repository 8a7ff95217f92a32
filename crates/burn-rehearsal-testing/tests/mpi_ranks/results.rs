//! Results of the operations.

use burn_rehearsal_collective::run_threads;
use burn_rehearsal_testing::reference::digest_of_sums;

use crate::launcher::run;

/// A single rank, an odd number, and a power of two. Other tests have two ranks.
const SIZES: [usize; 3] = [1, 3, 4];

fn passes(size: usize, scenario: &str) -> String {
    let ended = run(size, &[scenario]);
    assert!(ended.success, "{size} ranks: {ended:?}");
    assert_eq!(ended.stderr, "", "{size} ranks");
    ended.stdout
}

#[test]
fn all_operations_match_the_reference() {
    SIZES.iter().for_each(|&size| assert_eq!(passes(size, "operations"), "done\n"));
}

#[test]
fn long_messages_are_split() {
    [2, 3].iter().for_each(|&size| assert_eq!(passes(size, "pieces"), "done\n"));
}

#[test]
fn sums_have_the_bits_of_those_of_threads() {
    for size in SIZES {
        let expected = run_threads(size, |mut ranks| digest_of_sums(&mut ranks)).remove(0).unwrap();
        let stdout = passes(size, "digest");
        let digests: Vec<_> =
            stdout.lines().filter_map(|line| line.strip_prefix("digest ")).collect();
        assert_eq!(digests, vec![format!("{expected:016x}"); size]);
        println!("{size} ranks: threads {expected:016x}, mpi {}", digests.join(" "));
    }
}

#[test]
fn fast_reductions_are_correct() {
    SIZES.iter().for_each(|&size| assert_eq!(passes(size, "fast"), "done\n"));
}

#[test]
fn handles_of_different_threads_are_independent() {
    [2, 3].iter().for_each(|&size| assert_eq!(passes(size, "duplicates"), "done\n"));
}

#[test]
fn a_slow_rank_is_not_silent() {
    assert_eq!(passes(2, "slow"), "done\n");
}

#[test]
fn an_unexpected_world_size_is_an_error() {
    let ended = run(2, &["nothing", "3"]);
    assert!(
        !ended.success && ended.stderr.contains("3 ranks are expected, but 2 were started"),
        "{ended:?}"
    );
}
