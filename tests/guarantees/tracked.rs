//! A collective that reports when it gathers, and when it is dropped.

use burn_rehearsal_collective::{Collective, CollectiveError, Incoming, Outgoing, ReduceOp};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Forwards every operation to other ranks.
pub(crate) struct Tracked {
    ranks: Box<dyn Collective>,
    before_gather: Box<dyn FnMut() + Send>,
    /// Dropped last.
    _alive: Sender<()>,
}

impl Tracked {
    /// Returns the collective and a receiver that is disconnected when the engine drops it.
    /// `before_gather` is called before every all-gather.
    pub(crate) fn around(
        ranks: impl Collective + 'static,
        before_gather: impl FnMut() + Send + 'static,
    ) -> (Box<dyn Collective>, Receiver<()>) {
        let (alive, engine) = channel();
        let (ranks, before_gather) = (Box::new(ranks), Box::new(before_gather));
        (Box::new(Self { ranks, before_gather, _alive: alive }), engine)
    }
}

impl Collective for Tracked {
    fn rank(&self) -> usize {
        self.ranks.rank()
    }

    fn size(&self) -> usize {
        self.ranks.size()
    }

    fn set_step(&mut self, step: u64) {
        self.ranks.set_step(step);
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        self.ranks.barrier()
    }

    fn broadcast(&mut self, data: &mut [u8], root: usize) -> Result<(), CollectiveError> {
        self.ranks.broadcast(data, root)
    }

    fn all_gather(&mut self, send: &[u8], recv: &mut [u8]) -> Result<(), CollectiveError> {
        (self.before_gather)();
        self.ranks.all_gather(send, recv)
    }

    fn all_reduce(&mut self, data: &mut [f32], op: ReduceOp) -> Result<(), CollectiveError> {
        self.ranks.all_reduce(data, op)
    }

    fn exchange(
        &mut self,
        outgoing: &[Outgoing<'_>],
        incoming: &mut [Incoming<'_>],
    ) -> Result<(), CollectiveError> {
        self.ranks.exchange(outgoing, incoming)
    }

    fn duplicate(&mut self) -> Result<Box<dyn Collective>, CollectiveError> {
        self.ranks.duplicate()
    }
}
