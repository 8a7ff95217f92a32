//! Operations built from those of [`Collective`]: flags, words, and messages of any length.

use crate::{Collective, CollectiveError};

/// Flags, words and messages of any length, for every [`Collective`].
///
/// All methods are collective operations. Everything they transfer has a [`checksum`]. If it does
/// not match, the receiver gets [`CollectiveError::Damaged`].
///
/// ```
/// use burn_rehearsal_collective::{CollectiveError, CollectiveExt, Ranks};
///
/// let all = Ranks::threads(3).run(|rank| {
///     let mut ranks = rank.collective()?;
///     assert!(ranks.any(rank.rank() == 2)?);
///     let name = ranks.broadcast_bytes(format!("run of rank {}", rank.rank()).into_bytes(), 0)?;
///     assert_eq!(name, b"run of rank 0");
///     ranks.gather_bytes(&vec![7; rank.rank()])
/// })?;
/// assert_eq!(all, vec![[vec![], vec![7], vec![7, 7]]; 3]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait CollectiveExt: Collective {
    /// Returns whether `value` is true on at least one rank.
    ///
    /// # Errors
    ///
    /// The errors of [`gather_words`](Self::gather_words).
    fn any(&mut self, value: bool) -> Result<bool, CollectiveError> {
        Ok(self.first_true(value)?.is_some())
    }

    /// Returns the lowest rank on which `value` is true.
    ///
    /// With `result.is_err()` as the value, all ranks find out that one of them has failed:
    ///
    /// ```
    /// use burn_rehearsal_collective::{CollectiveExt, Ranks};
    ///
    /// let failed = Ranks::threads(3).run(|rank| {
    ///     let file = if rank.rank() == 2 { Err("not found") } else { Ok("data") };
    ///     rank.collective()?.first_true(file.is_err())
    /// })?;
    /// assert_eq!(failed, [Some(2); 3]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`gather_words`](Self::gather_words).
    fn first_true(&mut self, value: bool) -> Result<Option<usize>, CollectiveError> {
        Ok(self.gather_words([u64::from(value)])?.iter().position(|[value]| *value != 0))
    }

    /// Returns the words of all ranks, in rank order.
    ///
    /// ```
    /// use burn_rehearsal_collective::{CollectiveExt, Ranks};
    ///
    /// let sizes = Ranks::threads(2)
    ///     .run(|rank| rank.collective()?.gather_words([100 + rank.rank() as u64]))?;
    /// assert_eq!(sizes, [[[100], [101]]; 2]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// The errors of [`Collective::all_gather`], and [`CollectiveError::Damaged`].
    fn gather_words<const N: usize>(
        &mut self,
        words: [u64; N],
    ) -> Result<Vec<[u64; N]>, CollectiveError> {
        let send = sealed(words);
        let mut received = vec![0; send.len() * self.size()];
        self.all_gather(&send, &mut received)?;
        let of_rank = |(rank, bytes)| open(rank, bytes);
        received.chunks_exact(send.len()).enumerate().map(of_rank).collect()
    }

    /// Returns the messages of all ranks, in rank order. Their lengths may differ.
    ///
    /// # Errors
    ///
    /// The errors of [`Collective::all_gather`], and [`CollectiveError::Damaged`].
    fn gather_bytes(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let seals = self.gather_words(seal(bytes))?;
        let longest = seals.iter().map(|[length, _]| *length).max().unwrap_or(0) as usize;
        let mut send = bytes.to_vec();
        send.resize(longest, 0);
        let mut all = vec![0; longest * seals.len()];
        self.all_gather(&send, &mut all)?;
        let message = |(rank, theirs): (usize, &[u64; 2])| {
            check_seal(rank, all[rank * longest..][..theirs[0] as usize].to_vec(), *theirs)
        };
        seals.iter().enumerate().map(message).collect()
    }

    /// Returns the message of rank `root`. The `bytes` of the other ranks are ignored.
    ///
    /// # Errors
    ///
    /// The errors of [`Collective::broadcast`], and [`CollectiveError::Damaged`].
    fn broadcast_bytes(&mut self, bytes: Vec<u8>, root: usize) -> Result<Vec<u8>, CollectiveError> {
        let mut announced = sealed(seal(&bytes));
        self.broadcast(&mut announced, root)?;
        let theirs = open(root, &announced)?;
        let mut bytes = if self.rank() == root { bytes } else { vec![0; theirs[0] as usize] };
        self.broadcast(&mut bytes, root)?;
        check_seal(root, bytes, theirs)
    }
}

/// Words followed by their checksum, as bytes.
fn sealed<const N: usize>(words: [u64; N]) -> Vec<u8> {
    words.into_iter().chain([checksum(words)]).flat_map(u64::to_le_bytes).collect()
}

/// Returns the words of `rank` if their checksum matches.
fn open<const N: usize>(rank: usize, bytes: &[u8]) -> Result<[u64; N], CollectiveError> {
    let mut received = words_of(bytes);
    let words = std::array::from_fn(|_| received.next().unwrap_or(0));
    match received.next() == Some(checksum(words)) {
        true => Ok(words),
        false => Err(CollectiveError::Damaged { rank }),
    }
}

/// The length and the checksum of a message.
fn seal(message: &[u8]) -> [u64; 2] {
    [message.len() as u64, checksum(words_of(message))]
}

/// Returns a message of `rank` if it has the seal that the rank has announced.
fn check_seal(rank: usize, message: Vec<u8>, theirs: [u64; 2]) -> Result<Vec<u8>, CollectiveError> {
    if seal(&message) == theirs { Ok(message) } else { Err(CollectiveError::Damaged { rank }) }
}

impl<C: Collective + ?Sized> CollectiveExt for C {}

/// A checksum of words, for messages. It differs if a single word differs.
///
/// A checksum detects accidental damage, but does not protect against forgery.
///
/// ```
/// use burn_rehearsal_collective::checksum;
///
/// assert_ne!(checksum([1, 2, 3]), checksum([1, 2, 7]));
/// assert_ne!(checksum([1, 2, 3]), checksum([2, 1, 3]));
/// ```
pub fn checksum(words: impl IntoIterator<Item = u64>) -> u64 {
    // Each step is a bijection of the word, and of the checksum of the previous words.
    words.into_iter().fold(0x243F_6A88_85A3_08D3, |all, word| {
        (all ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
    })
}

/// Splits bytes into little-endian words. The last word is padded with zeros.
///
/// ```
/// use burn_rehearsal_collective::words_of;
///
/// assert_eq!(words_of(&[1, 0, 0, 0, 0, 0, 0, 0, 2]).collect::<Vec<_>>(), [1, 2]);
/// ```
pub fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes
        .chunks(8)
        .map(|chunk| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)))
}
