//! Class quotas with lending.
//!
//! The |B| global slots are dealt to the K classes in turn: slot number s belongs to class s mod K. A shard owns consecutive numbers, so its
//! quotas differ by at most one, the remainder rotates with the rank, the global quotas differ by at most one too, and no class is without
//! a slot somewhere as long as |B| ≥ K. Quota that a class does not use is lent to whoever asks and taken back, from the class with
//! the most rows among those above their quota, when a candidate of the owner comes. Loans are kept equal to within one row.
//!
//! With a configured K the quotas never change, so a row within its class's quota is only ever replaced by its own class. Without it,
//! K is one more than the largest class that was offered to this shard, stored or not.

use super::{Placement, Policy};
use crate::random::Stream;
use crate::slots::SlotTable;

/// Keeps the classes of a shard equally large; replaces a random row of the class that gives way.
#[derive(Debug)]
pub struct ClassBalanced {
    classes: Option<usize>,
    /// One more than the largest class offered so far, if K is not configured. A class that was refused counts too: were it forgotten, the next
    /// candidate would find other quotas than this one, and other ranks' quotas would not fit to them.
    seen: usize,
    first_slot: usize,
    /// Classes by their number of rows above quota; see [`Self::lender`].
    donors: Donors,
}

/// Finds the largest class above its quota without looking at every class.
///
/// `buckets[n]` would need upkeep at every insertion; a lazily corrected maximum does not: the counts of classes other than the one just
/// written only fall by being chosen here, so a scan is needed only when the remembered maximum is used up. The scan is over classes that
/// hold rows, and each scan is paid for by the evictions since the last one.
#[derive(Debug, Default)]
struct Donors {
    /// Classes that had `level` rows and were above their quota at the last scan, in the order in which they give way.
    waiting: Vec<u32>,
    level: usize,
    /// The number of classes for which the last scan was made; another number means other quotas.
    classes: usize,
    /// The last scan found nobody above quota. Loans only come from there, so nobody will be until the quotas change.
    settled: bool,
}

impl ClassBalanced {
    /// Quotas for the shard whose first slot has the global number `first_slot`.
    pub fn new(classes: Option<usize>, first_slot: usize) -> Self {
        Self { classes, seen: 0, first_slot, donors: Donors::default() }
    }

    /// How many of this shard's slots belong to `class`, of `classes`.
    pub fn quota(&self, class: usize, capacity: usize, classes: usize) -> usize {
        let offset = self.first_slot % classes;
        let position = (class + classes - offset) % classes;
        capacity / classes + usize::from(position < capacity % classes)
    }
}

impl Policy for ClassBalanced {
    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement {
        self.seen = self.seen.max(table.class_bound()).max(class as usize + 1);
        let classes = self.classes.unwrap_or(self.seen);
        let capacity = table.capacity();
        let held = table.of_class(class as usize).len();
        let owed = held < self.quota(class as usize, capacity, classes);
        let donor = self.lender(table, classes);
        let victims = match donor {
            // A loan is taken back for the owner, or moved to a class that has fewer rows even after it got one more.
            Some(donor) if donor != class as usize && (owed || held + 1 < table.of_class(donor).len()) => table.of_class(donor),
            _ => table.of_class(class as usize),
        };
        match victims.len() {
            0 => Placement::Reject,
            n => Placement::Replace(victims[rng.below(n as u64) as usize]),
        }
    }
}

impl ClassBalanced {
    /// The class with the most rows among those above their quota; equals give way in turn.
    fn lender(&mut self, table: &SlotTable, classes: usize) -> Option<usize> {
        if self.donors.classes != classes {
            self.donors = Donors { classes, ..Donors::default() };
        }
        while !self.donors.settled {
            while let Some(&class) = self.donors.waiting.last() {
                let rows = table.of_class(class as usize).len();
                if rows >= self.donors.level && rows > self.quota(class as usize, table.capacity(), classes) {
                    return Some(class as usize);
                }
                self.donors.waiting.pop();
            }
            let mut level = 0;
            self.donors.waiting.clear();
            for (class, rows) in table.per_class().enumerate() {
                if rows >= level.max(1) && rows > self.quota(class, table.capacity(), classes) {
                    if rows > level {
                        level = rows;
                        self.donors.waiting.clear();
                    }
                    self.donors.waiting.push(class as u32);
                }
            }
            self.donors.level = level;
            self.donors.settled = self.donors.waiting.is_empty();
        }
        None
    }
}
