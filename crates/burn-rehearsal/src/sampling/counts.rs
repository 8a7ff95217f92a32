//! The number of rows in the shards of all ranks.

use super::RowLocation;
use std::cmp::Ordering;

/// The numbers of rows in all shards at a step, known to every rank.
#[derive(Debug)]
pub struct ShardCounts {
    /// The number of rows in each shard.
    pub fill: RankCounts,
    /// The number of rows of earlier tasks in each shard.
    pub from_earlier_tasks: RankCounts,
    /// The number of rows of each class in each shard. `None` unless the rule [needs
    /// it](super::Sampling::needs_class_counts).
    pub classes: Option<ClassCounts>,
}

impl ShardCounts {
    /// The counts of empty shards on `world_size` ranks, from the view of `rank`.
    pub(crate) fn new(rank: usize, world_size: usize, with_classes: bool) -> Self {
        let counts = RankCounts { rank, counts: vec![0; world_size], total: 0, start: 0 };
        Self {
            fill: counts.clone(),
            from_earlier_tasks: counts,
            classes: with_classes.then(|| ClassCounts {
                rank,
                world_size,
                ..ClassCounts::default()
            }),
        }
    }
}

/// A number of rows for each shard.
#[derive(Debug, Clone)]
pub struct RankCounts {
    rank: usize,
    counts: Vec<u64>,
    total: u64,
    /// The number of rows on lower ranks.
    start: u64,
}

impl RankCounts {
    /// Sets the counts of all ranks, in rank order.
    pub(crate) fn set(&mut self, counts: impl IntoIterator<Item = u64>) {
        self.total = 0;
        for (rank, (count, new)) in self.counts.iter_mut().zip(counts).enumerate() {
            *count = new;
            if rank == self.rank {
                self.start = self.total;
            }
            self.total += new;
        }
    }

    /// The number of rows in all shards.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The location of row `number` of all shards, or `None` if there is no such row. Takes time
    /// O(world size).
    pub fn locate(&self, number: u64) -> Option<RowLocation> {
        locate(self.counts.iter().copied(), number)
    }

    /// The index of row `number` in this rank's shard, or `None` if another rank holds it. Takes
    /// time O(1).
    pub fn local_index(&self, number: u64) -> Option<u32> {
        let index = number.checked_sub(self.start)?;
        (index < self.counts[self.rank]).then_some(index as u32)
    }
}

/// The location of row `number` in a concatenation of shards of these sizes.
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

/// The number of rows of each class in each shard.
#[derive(Debug, Default)]
pub struct ClassCounts {
    rank: usize,
    world_size: usize,
    /// `counts[class * world_size + rank]`. Read only for this rank's draws, because each access is
    /// a cache miss.
    counts: Vec<u32>,
    classes: Vec<ClassCount>,
    /// The classes that have rows. Their order is a function of the changes, so it is the same on
    /// all ranks.
    present: Vec<u32>,
}

/// The counts of a class that every draw of any rank reads.
#[derive(Debug, Clone)]
struct ClassCount {
    /// The number of rows in all shards.
    total: u64,
    /// The number of rows on lower ranks.
    start: u64,
    /// The number of rows in this rank's shard.
    own: u32,
    /// The index in `present`; `u32::MAX` if absent.
    position: u32,
}

impl ClassCounts {
    /// Adds `delta` rows of `class` to the shard of `rank`.
    pub(crate) fn change(&mut self, rank: usize, class: u32, delta: i32) {
        let at = class as usize;
        if at >= self.classes.len() {
            self.counts.resize((at + 1) * self.world_size, 0);
            self.classes
                .resize(at + 1, ClassCount { total: 0, start: 0, own: 0, position: u32::MAX });
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
            count.position = self.present.len() as u32;
            self.present.push(class);
        } else if before > 0 && count.total == 0 {
            let hole = std::mem::replace(&mut count.position, u32::MAX);
            self.present.swap_remove(hole as usize);
            if let Some(&moved) = self.present.get(hole as usize) {
                self.classes[moved as usize].position = hole;
            }
        }
    }

    /// Sets all counts from `per_rank`, the rows per class of every rank. The classes get the order
    /// of `present` if it is given. Returns `None` if `present` lists other classes.
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
        for (position, &class) in counts.present.iter().enumerate() {
            counts.classes[class as usize].position = position as u32;
        }
        *self = counts;
        Some(())
    }

    /// The number of rows of `class` in all shards.
    pub fn total(&self, class: u32) -> u64 {
        self.classes.get(class as usize).map_or(0, |count| count.total)
    }

    /// The location of row `number` of `class`, or `None` if there is no such row. Takes time
    /// O(world size).
    pub fn locate(&self, class: u32, number: u64) -> Option<RowLocation> {
        let at = class as usize * self.world_size;
        locate(
            self.counts.get(at..at + self.world_size)?.iter().map(|&rows| u64::from(rows)),
            number,
        )
    }

    /// The index of row `number` of `class` in this rank's shard, or `None` if another rank holds
    /// it. Takes time O(1).
    pub fn local_index(&self, class: u32, number: u64) -> Option<u32> {
        let count = self.classes.get(class as usize)?;
        let index = number.checked_sub(count.start)?;
        (index < u64::from(count.own)).then_some(index as u32)
    }

    /// The classes that have rows, in an order that is the same on all ranks.
    pub fn present(&self) -> &[u32] {
        &self.present
    }
}
