//! The samples that a rank reads at each step, as a pure function of (seed, task, epoch, rank,
//! world size).
//!
//! All ranks permute the same indices and split them into global mini-batches of `world_size *
//! batch_size` samples. Rank i takes the i-th part of each. The parts of the last global mini-batch
//! differ in size by at most one: the first ranks get one sample more, and some ranks may get none.

use crate::random::{Purpose, Stream};
use burn_rehearsal_collective::even_split;
use std::ops::Range;

/// The order of one epoch on one rank.
#[derive(Debug, Clone)]
pub(super) struct EpochPlan {
    /// The indices of all samples, in the order of this epoch.
    order: Vec<u32>,
    rank: usize,
    world_size: usize,
    batch_size: usize,
}

impl EpochPlan {
    /// The plan for `samples` samples. With a `seed`, every (task, epoch) has its own permutation.
    pub(super) fn new(
        samples: usize,
        seed: Option<u64>,
        task: u32,
        epoch: u64,
        rank: usize,
        world_size: usize,
        batch_size: usize,
    ) -> Self {
        let mut order: Vec<u32> = (0..samples as u32).collect();
        if let Some(seed) = seed {
            Stream::new(seed, Purpose::Shuffle, epoch, task).shuffle(&mut order);
        }
        Self { order, rank, world_size, batch_size }
    }

    /// The number of steps in the epoch, which is the same on all ranks. This rank may have no row
    /// in the last step.
    pub(super) fn steps(&self) -> usize {
        self.order.len().div_ceil(self.world_size * self.batch_size)
    }

    /// The samples that this rank reads at `step`, possibly none.
    pub(super) fn batch(&self, step: usize) -> &[u32] {
        &self.order[self.range(step)]
    }

    /// The number of samples that this rank reads in the epoch.
    pub(super) fn rows(&self) -> usize {
        (0..self.steps()).map(|step| self.range(step).len()).sum()
    }

    fn range(&self, step: usize) -> Range<usize> {
        let global = self.world_size * self.batch_size;
        let start = (step * global).min(self.order.len());
        let size = global.min(self.order.len() - start);
        let own = even_split(size, self.world_size, self.rank);
        start + own.start..start + own.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_reads_every_sample_once_in_even_parts() {
        for (samples, world_size, batch_size) in
            [(100, 3, 7), (10, 4, 3), (3, 4, 2), (0, 2, 5), (64, 1, 8), (65, 2, 8)]
        {
            let plans: Vec<_> = (0..world_size)
                .map(|rank| EpochPlan::new(samples, Some(5), 1, 2, rank, world_size, batch_size))
                .collect();
            let mut seen = vec![0; samples];
            for step in 0..plans[0].steps() {
                let sizes: Vec<_> = plans.iter().map(|plan| plan.batch(step).len()).collect();
                let (least, most) = (sizes.iter().min().copied(), sizes.iter().max().copied());
                assert!(
                    most <= least.map(|n| n + 1) && most <= Some(batch_size),
                    "step {step}: {sizes:?}"
                );
                plans
                    .iter()
                    .flat_map(|plan| plan.batch(step))
                    .for_each(|&sample| seen[sample as usize] += 1);
            }
            assert!(seen.iter().all(|&times| times == 1));
            assert_eq!(plans.iter().map(EpochPlan::rows).sum::<usize>(), samples);
        }
    }

    #[test]
    fn every_epoch_of_every_task_has_its_own_order() {
        let order =
            |task, epoch| EpochPlan::new(50, Some(1), task, epoch, 0, 1, 50).batch(0).to_vec();
        assert_eq!(order(0, 0), order(0, 0));
        assert_ne!(order(0, 0), order(0, 1));
        assert_ne!(order(0, 1), order(1, 0));
    }
}
