//! From which rows of the union representatives are drawn.
//!
//! Every rank knows [`ShardCounts`], a few counters per shard, and computes every rank's draws from it; owners then push the rows. No rank asks
//! another for anything.

mod class_balanced;
mod exclude_current;
mod uniform;

pub use class_balanced::ClassBalancedSampling;
pub use exclude_current::ExcludeCurrentSampling;
pub use uniform::UniformSampling;

use crate::config::SamplingKind;
use crate::distinct::DistinctSampler;
use crate::random::Stream;
use crate::slots::SlotTable;
use std::cmp::Ordering;

/// A drawn row, by its number among the rows of a group in the whole union: those of rank 0 come first, then those of rank 1, and so on.
///
/// Planning only yields numbers. Whose row it is has to be found for this rank's own draws alone; of all others it is enough to see whether
/// they fall on this rank's rows. So planning for all N ranks takes time in proportion to the draws.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// The group: the class for class-balanced sampling, otherwise 0.
    pub group: u32,
    /// The row's number within the group.
    pub number: u64,
}

/// Where a drawn row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowLocation {
    /// The rank that holds the row.
    pub owner: u32,
    /// The row's number within its group in that shard; only the owner knows the slot.
    pub index: u32,
}

/// What every rank knows about all shards.
#[derive(Debug)]
pub struct ShardCounts {
    /// The number of rows of each shard.
    pub fill: RankCounts,
    /// The number of rows of earlier tasks of each shard.
    pub from_earlier_tasks: RankCounts,
    /// Rows per class and shard, kept only for class-balanced sampling.
    pub classes: Option<ClassCounts>,
}

impl ShardCounts {
    /// Empty shards on `world_size` ranks, as `rank` sees them.
    pub fn new(rank: usize, world_size: usize, with_classes: bool) -> Self {
        let counts = RankCounts { rank, counts: vec![0; world_size], total: 0, start: 0 };
        Self {
            fill: counts.clone(),
            from_earlier_tasks: counts,
            classes: with_classes.then(|| ClassCounts { rank, world_size, ..ClassCounts::default() }),
        }
    }
}

/// The number of eligible rows of each shard.
#[derive(Debug, Clone)]
pub struct RankCounts {
    rank: usize,
    counts: Vec<u64>,
    total: u64,
    /// The rows of the ranks before this one.
    start: u64,
}

impl RankCounts {
    /// Takes over all ranks' counts, in rank order.
    pub fn set(&mut self, counts: impl IntoIterator<Item = u64>) {
        self.total = 0;
        for (rank, (count, new)) in self.counts.iter_mut().zip(counts).enumerate() {
            *count = new;
            if rank == self.rank {
                self.start = self.total;
            }
            self.total += new;
        }
    }

    /// The number of rows of all shards.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Where row `number` of the union is.
    fn locate(&self, number: u64) -> Option<RowLocation> {
        locate(self.counts.iter().copied(), number)
    }

    /// The index of row `number` of the union in this rank's shard, if it is there.
    fn local_index(&self, number: u64) -> Option<u32> {
        let index = number.checked_sub(self.start)?;
        (index < self.counts[self.rank]).then_some(index as u32)
    }
}

/// The shard that has row `number` if shards of these sizes are put one after the other.
fn locate(counts: impl Iterator<Item = u64>, number: u64) -> Option<RowLocation> {
    let mut index = number;
    for (owner, rows) in counts.enumerate() {
        if index < rows {
            return Some(RowLocation { owner: owner as u32, index: index as u32 });
        }
        index -= rows;
    }
    None
}

/// How many rows of each class each shard holds.
#[derive(Debug, Default)]
pub struct ClassCounts {
    rank: usize,
    world_size: usize,
    /// `counts[class * world_size + rank]`: read only for this rank's own draws, since everybody's would miss the cache.
    counts: Vec<u32>,
    classes: Vec<ClassCount>,
    /// Classes with rows, in an order that is a pure function of the changes, hence equal on all ranks.
    present: Vec<u32>,
}

/// What is asked of a class at every draw of any rank.
#[derive(Debug, Clone)]
struct ClassCount {
    /// The rows in all shards.
    total: u64,
    /// The rows on the ranks before this one.
    start: u64,
    /// The rows in this rank's shard.
    own: u32,
    /// The place in `present`; `u32::MAX` if absent.
    place: u32,
}

impl ClassCounts {
    /// Adds `delta` rows of `class` to the shard of `rank`.
    pub fn change(&mut self, rank: usize, class: u32, delta: i32) {
        let at = class as usize;
        if at >= self.classes.len() {
            self.counts.resize((at + 1) * self.world_size, 0);
            self.classes.resize(at + 1, ClassCount { total: 0, start: 0, own: 0, place: u32::MAX });
        }
        let rows = &mut self.counts[at * self.world_size + rank];
        *rows = rows.saturating_add_signed(delta);
        let count = &mut self.classes[at];
        match rank.cmp(&self.rank) {
            Ordering::Less => count.start = count.start.saturating_add_signed(i64::from(delta)),
            Ordering::Equal => count.own = *rows,
            Ordering::Greater => {}
        }
        let before = count.total;
        count.total = before.saturating_add_signed(i64::from(delta));
        if before == 0 && count.total > 0 {
            count.place = self.present.len() as u32;
            self.present.push(class);
        } else if before > 0 && count.total == 0 {
            let hole = std::mem::replace(&mut count.place, u32::MAX);
            self.present.swap_remove(hole as usize);
            if let Some(&moved) = self.present.get(hole as usize) {
                self.classes[moved as usize].place = hole;
            }
        }
    }

    /// Counts again: `per_rank` holds every rank's rows per class, and the classes with rows come in the order of `present` if that is given. `None` if it
    /// names others.
    pub(crate) fn rebuild(&mut self, per_rank: &[Vec<u64>], present: Option<&[u32]>) -> Option<()> {
        let mut counts = Self { rank: self.rank, world_size: self.world_size, ..Self::default() };
        for (rank, per_class) in per_rank.iter().enumerate() {
            for (class, &rows) in per_class.iter().enumerate().filter(|&(_, &rows)| rows > 0) {
                counts.change(rank, u32::try_from(class).ok()?, i32::try_from(rows).ok()?);
            }
        }
        counts.present.sort_unstable();
        if let Some(present) = present {
            let mut sorted = present.to_vec();
            sorted.sort_unstable();
            if sorted != counts.present {
                return None;
            }
            counts.present = present.to_vec();
        }
        for (place, &class) in counts.present.iter().enumerate() {
            counts.classes[class as usize].place = place as u32;
        }
        *self = counts;
        Some(())
    }

    /// The number of rows of `class` in all shards.
    pub fn total(&self, class: u32) -> u64 {
        self.classes.get(class as usize).map_or(0, |count| count.total)
    }

    /// Where row `number` of `class` is.
    fn locate(&self, class: u32, number: u64) -> Option<RowLocation> {
        let at = class as usize * self.world_size;
        locate(self.counts.get(at..at + self.world_size)?.iter().map(|&rows| u64::from(rows)), number)
    }

    /// The index of row `number` of `class` in this rank's shard, if it is there.
    fn local_index(&self, class: u32, number: u64) -> Option<u32> {
        let count = self.classes.get(class as usize)?;
        let index = number.checked_sub(count.start)?;
        (index < u64::from(count.own)).then_some(index as u32)
    }

    /// The classes that have rows.
    pub fn present(&self) -> &[u32] {
        &self.present
    }
}

/// One rule of drawing.
pub trait Sampling: Send {
    /// Appends the draws of one rank at one step: min(r, eligible rows) distinct ones. Time O(r).
    fn plan(&mut self, counts: &ShardCounts, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>);

    /// Where a drawn row is. Time O(world size).
    fn locate(&self, counts: &ShardCounts, draw: Draw) -> Option<RowLocation>;

    /// The index of a drawn row within its group in this rank's shard, if it is there. Time O(1).
    fn local_index(&self, counts: &ShardCounts, draw: Draw) -> Option<u32>;

    /// The slot of this shard's `index`-th row of `group`.
    fn slot_of(&self, table: &SlotTable, group: u32, index: u32) -> Option<u32>;
}

/// The rule of `kind`.
pub fn sampling(kind: SamplingKind) -> Box<dyn Sampling> {
    match kind {
        SamplingKind::Uniform => Box::new(UniformSampling::default()),
        SamplingKind::ClassBalanced => Box::new(ClassBalancedSampling::default()),
        SamplingKind::ExcludeCurrent => Box::new(ExcludeCurrentSampling::default()),
    }
}

/// Draws uniformly over rows that are one group: shared by two rules.
#[derive(Debug, Default)]
struct OneGroup {
    distinct: DistinctSampler,
    numbers: Vec<u64>,
}

impl OneGroup {
    fn plan(&mut self, total: u64, rng: &mut Stream, representatives: usize, draws: &mut Vec<Draw>) {
        self.numbers.clear();
        self.distinct.draw(rng, representatives, total, &mut self.numbers);
        draws.extend(self.numbers.iter().map(|&number| Draw { group: 0, number }));
    }
}
