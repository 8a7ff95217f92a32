//! A world of one rank.
//!
//! A single rank checks arguments as larger worlds do, so that invalid arguments are found before a
//! program runs on several ranks.

use crate::arguments::{exchange_problem, gather_problem, root_problem};
use crate::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};

/// The handle of a world of one rank. Every operation is local.
///
/// Lengths, roots and peers are checked as in larger worlds, and an error poisons the handle.
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
    /// The first error, which every later call returns.
    poison: Option<CollectiveError>,
}

impl Solo {
    /// Makes the handle of a new world of one rank.
    pub fn new() -> Self {
        Self::default()
    }

    /// Remembers the first problem for all later calls.
    fn call(&mut self, problem: Option<String>) -> Result<(), CollectiveError> {
        if self.poison.is_none() {
            self.poison = problem.map(CollectiveError::InvalidArgument);
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

    /// Does nothing, since no error of a single rank has a step.
    fn set_step(&mut self, _step: u64) {}

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.call(None)
    }

    fn broadcast(&mut self, _data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        self.call(root_problem(0, 1, root))
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        self.call(gather_problem(0, 1, send, recv))?;
        recv.copy_from_slice(send);
        Ok(())
    }

    fn all_reduce(&mut self, _data: &mut [f32], _op: ReduceOp) -> Result<(), CollectiveError> {
        self.call(None)
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        self.call(exchange_problem(0, 1, outgoing, incoming))
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        self.call(None)?;
        Ok(Box::new(Self::new()))
    }
}
