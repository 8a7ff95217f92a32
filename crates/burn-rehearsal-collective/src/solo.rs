//! A world of one rank. Nothing moves and no rank waits, but the argument checks are those of every
//! other world, so that a program which runs alone does not fail for the first time on two ranks.

use crate::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

/// A world of one rank: every operation is local.
///
/// Lengths, roots and peers are checked as in a larger world, and a mistake poisons the handle as
/// there.
///
/// ```
/// use burn_rehearsal_collective::{Collective, ReduceOp, Solo};
///
/// let mut alone = Solo::new();
/// let mut gradients = [1.0, 2.0];
/// alone.all_reduce(&mut gradients, ReduceOp::Mean)?;
/// assert_eq!(gradients, [1.0, 2.0]);
/// # Ok::<(), burn_rehearsal_collective::CollectiveError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Solo {
    /// The first error, which every later call repeats.
    poison: Option<CollectiveError>,
}

impl Solo {
    /// The only handle of a world of one rank.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps the first error for all later calls; `check` says why the arguments cannot be
    /// accepted.
    fn call(&mut self, check: impl FnOnce() -> Result<(), String>) -> Result<(), CollectiveError> {
        if self.poison.is_none() {
            self.poison = check().err().map(CollectiveError::InvalidArgument);
        }
        self.poison.clone().map_or(Ok(()), Err)
    }
}

impl Collective for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    /// Does nothing: none of the errors of a single rank carries a step.
    fn set_step(&mut self, _step: u64) {}

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.call(|| Ok(()))
    }

    fn broadcast(&mut self, _data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        self.call(|| match root {
            0 => Ok(()),
            _ => Err(format!("broadcast: root {root} is not a rank of a world of 1")),
        })
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        self.call(|| {
            if recv.len() != send.len() {
                return Err(format!(
                    "all_gather: recv holds {} bytes, 1 rank x {} bytes are sent",
                    recv.len(),
                    send.len()
                ));
            }
            recv.copy_from_slice(send);
            Ok(())
        })
    }

    fn all_reduce(&mut self, _data: &mut [f32], _op: ReduceOp) -> Result<(), CollectiveError> {
        self.call(|| Ok(()))
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        let peer = outgoing
            .first()
            .map(|message| message.peer)
            .or_else(|| incoming.first().map(|message| message.peer));
        self.call(|| match peer {
            None => Ok(()),
            Some(peer) => Err(format!("exchange: peer {peer} is not another rank of a world of 1")),
        })
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        self.call(|| Ok(()))?;
        Ok(Box::new(Self::new()))
    }
}
