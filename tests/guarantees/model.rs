//! A simple model of the whole buffer with the FIFO policy and uniform sampling, without threads
//! and messages.

use burn_rehearsal::random::{Purpose, Stream};
use burn_rehearsal::{RehearsalBuffer, shard_capacity};
use burn_rehearsal_testing::{Mixed, assert_augmented, batch};
use std::collections::VecDeque;

pub(crate) struct Model {
    pub(crate) candidates: usize,
    pub(crate) representatives: usize,
    pub(crate) seed: u64,
    pub(crate) lag: u64,
    step: u64,
    capacities: Vec<usize>,
    /// The IDs in each shard in slot order.
    pub(crate) shards: Vec<Vec<i64>>,
    /// The oldest slot of each full shard.
    oldest: Vec<usize>,
    /// The ranks that have had rows. The others receive no representatives.
    known: Vec<bool>,
    pending: Vec<VecDeque<Vec<i64>>>,
}

/// The first min(`count`, `bound`) numbers of a random permutation (Fisher–Yates).
fn distinct(rng: &mut Stream, count: usize, bound: usize) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..bound).collect();
    let count = count.min(bound);
    for step in 0..count {
        numbers.swap(step, step + rng.below((bound - step) as u64) as usize);
    }
    numbers.truncate(count);
    numbers
}

impl Model {
    pub(crate) fn new(
        size: usize,
        capacity: usize,
        candidates: usize,
        representatives: usize,
        seed: u64,
        lag: u64,
    ) -> Self {
        Self {
            candidates,
            representatives,
            seed,
            lag,
            step: 0,
            capacities: (0..size).map(|rank| shard_capacity(capacity, rank, size)).collect(),
            shards: vec![Vec::new(); size],
            oldest: vec![0; size],
            known: vec![false; size],
            pending: vec![VecDeque::new(); size],
        }
    }

    fn insert(&mut self, rank: usize, id: i64) {
        let (shard, oldest) = (&mut self.shards[rank], &mut self.oldest[rank]);
        if shard.len() < self.capacities[rank] {
            shard.push(id);
        } else {
            shard[*oldest] = id;
            *oldest = (*oldest + 1) % shard.len();
        }
    }

    /// Runs a step on all ranks with the incoming IDs of each rank, which may be empty. Returns the
    /// IDs of each rank's representatives.
    pub(crate) fn step(&mut self, incoming: &[Vec<i64>]) -> Vec<Vec<i64>> {
        if incoming.iter().all(Vec::is_empty) {
            return vec![Vec::new(); incoming.len()];
        }
        for (rank, ids) in incoming.iter().enumerate().filter(|(_, ids)| !ids.is_empty()) {
            let mut rng = Stream::new(self.seed, Purpose::Candidates, self.step, rank as u32);
            let mut offered = distinct(&mut rng, self.candidates, ids.len());
            offered.sort_unstable();
            offered.into_iter().for_each(|row| self.insert(rank, ids[row]));
            self.known[rank] = true;
        }
        let union = self.shards.concat();
        for (rank, pending) in self.pending.iter_mut().enumerate() {
            let mut rng = Stream::new(self.seed, Purpose::Draw, self.step + self.lag, rank as u32);
            let count = if self.known[rank] { self.representatives } else { 0 };
            pending.push_back(
                distinct(&mut rng, count, union.len()).into_iter().map(|row| union[row]).collect(),
            );
        }
        self.step += 1;
        let due = self.step > self.lag;
        self.pending
            .iter_mut()
            .zip(incoming)
            .map(|(pending, ids)| {
                let drawn = if due { pending.pop_front().unwrap() } else { Vec::new() };
                if ids.is_empty() { Vec::new() } else { drawn }
            })
            .collect()
    }
}

/// Runs the steps of this rank with the incoming IDs `ids(step)`, which may be empty. Compares its
/// representatives with those that the model has for all steps and ranks.
pub(crate) fn assert_draws(
    buffer: &RehearsalBuffer<Mixed>,
    ids: impl Fn(usize) -> Vec<i64>,
    expected: &[Vec<Vec<i64>>],
    context: &str,
) {
    let rank = buffer.rank();
    for (step, expected) in expected.iter().enumerate() {
        let ids = ids(step);
        if ids.is_empty() {
            buffer.skip_step().unwrap();
        } else {
            let drawn = assert_augmented(&ids, &buffer.rehearse(batch(&ids)).unwrap());
            assert_eq!(drawn, expected[rank], "{context}, rank {rank}, step {step}");
        }
    }
}
