//! Whether words arrived as they were sent.

/// A number that goes with words to a peer, which computes it again: it is another one if a single word, or two that are not chosen for it, changed on the way.
///
/// This guards against accidents, not against forgers.
///
/// ```
/// use burn_rehearsal_collective::check_word;
///
/// assert_ne!(check_word([1, 2, 3]), check_word([1, 2, 7]));
/// assert_ne!(check_word([1, 2, 3]), check_word([2, 1, 3]));
/// ```
pub fn check_word(words: impl IntoIterator<Item = u64>) -> u64 {
    // Each step is one-to-one in the word and in what came before.
    words.into_iter().fold(0x243F_6A88_85A3_08D3, |all, word| (all ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29))
}
