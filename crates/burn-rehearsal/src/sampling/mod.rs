//! From which rows of the union representatives are drawn.
//!
//! Every rank knows [`Union`], a few counters per shard, and computes every rank's draws from it; owners then push the rows. No rank asks
//! another for anything.

mod class_balanced;
mod exclude_current;
mod uniform;

pub use class_balanced::ClassBalanced;
pub use exclude_current::ExcludeCurrent;
pub use uniform::Uniform;

use crate::config::SamplingKind;
use crate::draw::Distinct;
use crate::random::Stream;
use crate::slots::SlotTable;

/// A drawn row: the `index`-th row of a group of rows in the shard of `owner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The rank that holds the row.
    pub owner: u32,
    /// The group: the class for class-balanced sampling, otherwise 0.
    pub group: u32,
    /// The row's number within the group in that shard; only the owner knows the slot.
    pub index: u32,
}

/// What every rank knows about all shards.
#[derive(Debug)]
pub struct Union {
    /// The number of rows of each shard.
    pub fill: Vec<u64>,
    /// The number of rows of earlier tasks of each shard.
    pub old: Vec<u64>,
    /// Rows per class and shard, kept only for class-balanced sampling.
    pub classes: Option<ClassCounts>,
}

impl Union {
    /// Empty shards on `world_size` ranks.
    pub fn new(world_size: usize, with_classes: bool) -> Self {
        Self {
            fill: vec![0; world_size],
            old: vec![0; world_size],
            classes: with_classes.then(|| ClassCounts { world_size, ..ClassCounts::default() }),
        }
    }

    /// The number of rows of all shards.
    pub fn total(&self) -> u64 {
        self.fill.iter().sum()
    }
}

/// How many rows of each class each shard holds.
#[derive(Debug, Default)]
pub struct ClassCounts {
    world_size: usize,
    /// `counts[class * world_size + rank]`
    counts: Vec<u32>,
    totals: Vec<u64>,
    /// Classes with rows, in an order that is a pure function of the changes, hence equal on all ranks.
    present: Vec<u32>,
    /// The place of each class in `present`; `u32::MAX` if absent.
    place: Vec<u32>,
}

impl ClassCounts {
    /// Adds `delta` rows of `class` to the shard of `rank`.
    pub fn change(&mut self, rank: usize, class: u32, delta: i32) {
        let at = class as usize;
        if at >= self.totals.len() {
            self.counts.resize((at + 1) * self.world_size, 0);
            self.totals.resize(at + 1, 0);
            self.place.resize(at + 1, u32::MAX);
        }
        let count = &mut self.counts[at * self.world_size + rank];
        *count = count.saturating_add_signed(delta);
        let before = self.totals[at];
        let total = before.saturating_add_signed(i64::from(delta));
        self.totals[at] = total;
        if before == 0 && total > 0 {
            self.place[at] = self.present.len() as u32;
            self.present.push(class);
        } else if before > 0 && total == 0 {
            let hole = self.place[at] as usize;
            self.present.swap_remove(hole);
            if let Some(&moved) = self.present.get(hole) {
                self.place[moved as usize] = hole as u32;
            }
            self.place[at] = u32::MAX;
        }
    }

    /// The number of rows of `class` in all shards.
    pub fn total(&self, class: u32) -> u64 {
        self.totals.get(class as usize).copied().unwrap_or(0)
    }

    /// The number of rows of `class` in each shard.
    pub fn of_class(&self, class: u32) -> &[u32] {
        let at = class as usize * self.world_size;
        self.counts.get(at..at + self.world_size).unwrap_or(&[])
    }

    /// The classes that have rows.
    pub fn present(&self) -> &[u32] {
        &self.present
    }
}

/// One rule of drawing.
pub trait Sampling: Send {
    /// Appends the draws of one rank at one step: min(r, eligible rows) distinct ones.
    fn plan(&mut self, union: &Union, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>);

    /// The slot of a draw that this shard owns.
    fn locate(&self, table: &SlotTable, draw: Draw) -> Option<u32>;
}

/// The rule of `kind`.
pub fn sampling(kind: SamplingKind) -> Box<dyn Sampling> {
    match kind {
        SamplingKind::Uniform => Box::new(Uniform::default()),
        SamplingKind::ClassBalanced => Box::new(ClassBalanced::default()),
        SamplingKind::ExcludeCurrent => Box::new(ExcludeCurrent::default()),
    }
}

/// Draws uniformly over the shards' rows, `counts[rank]` of them eligible: shared by the rules that see rows as one group.
#[derive(Debug, Default)]
struct OneGroup {
    distinct: Distinct,
    numbers: Vec<u64>,
    /// `ends[rank]`: the number of eligible rows in the shards up to and including `rank`.
    ends: Vec<u64>,
}

impl OneGroup {
    fn plan(&mut self, counts: &[u64], rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
        self.ends.clear();
        self.ends.extend(counts.iter().scan(0, |end, &count| {
            *end += count;
            Some(*end)
        }));
        let total = self.ends.last().copied().unwrap_or(0);
        self.numbers.clear();
        self.distinct.draw(rng, representatives, total, &mut self.numbers);
        for &number in &self.numbers {
            let owner = self.ends.partition_point(|&end| end <= number);
            let start = self.ends[owner] - counts[owner];
            draws.push(Draw { owner: owner as u32, group: 0, index: (number - start) as u32 });
        }
    }
}
