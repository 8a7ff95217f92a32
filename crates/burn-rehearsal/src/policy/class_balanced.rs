//! Class quotas with lending.
//!
//! The |B| global slots are dealt to the K classes in turn: slot number s belongs to class s mod K. A shard owns consecutive numbers, so its
//! quotas differ by at most one, the remainder rotates with the rank, the global quotas differ by at most one too, and no class is without
//! a slot somewhere as long as |B| ≥ K. Quota that a class does not use is lent to whoever asks and taken back, from the class with
//! the most rows among those above their quota, when a candidate of the owner comes. Loans are kept equal to within one row.
//!
//! With a configured K the quotas never change, so a row within its class's quota is only ever replaced by its own class. Without it,
//! K is one more than the largest class that was offered to this shard, stored or not.

use super::{AHEAD, Placement, Policy};
use crate::config::MAX_CLASSES;
use crate::random::Stream;
use crate::slots::SlotTable;
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// Keeps the classes of a shard equally large; replaces a random row of the class that gives way.
#[derive(Debug)]
pub struct ClassBalanced {
    classes: Option<usize>,
    /// One more than the largest class offered so far, if K is not configured. A class that was refused counts too: were it forgotten, the next
    /// candidate would find other quotas than this one, and other ranks' quotas would not fit to them.
    seen: usize,
    first_slot: usize,
    borrowers: Borrowers,
}

impl ClassBalanced {
    /// Quotas for the shard whose first slot has the global number `first_slot`.
    pub fn new(classes: Option<usize>, first_slot: usize) -> Self {
        Self { classes, seen: 0, first_slot, borrowers: Borrowers::default() }
    }

    /// How many of this shard's slots belong to `class`, of `classes`.
    pub fn quota(&self, class: usize, capacity: usize, classes: usize) -> usize {
        let offset = self.first_slot % classes;
        let position = (class + classes - offset) % classes;
        capacity / classes + usize::from(position < capacity % classes)
    }

    /// Collects the classes above their quota, once for every K.
    fn collect_borrowers(&mut self, table: &SlotTable, classes: usize) {
        let mut borrowers = Borrowers { classes, ..Borrowers::default() };
        for (class, rows) in table.per_class().enumerate() {
            if rows > self.quota(class, table.capacity(), classes) {
                borrowers.insert(class as u32, rows);
            }
        }
        self.borrowers = borrowers;
    }
}

/// Whether `largest`, which has `rows`, gives one of them to `class`, which holds `held`: a loan is taken back for its owner, or moved to a class that has
/// fewer rows even after it got one more.
fn gives_way(largest: u32, rows: usize, class: u32, held: usize, quota: usize) -> bool {
    largest != class && (held < quota || held + 1 < rows)
}

impl Policy for ClassBalanced {
    fn place(&mut self, class: u32, table: &SlotTable, rng: &mut Stream) -> Placement {
        self.seen = self.seen.max(table.class_bound()).max(class as usize + 1);
        let classes = self.classes.unwrap_or(self.seen);
        if self.borrowers.classes != classes {
            self.collect_borrowers(table, classes);
        }
        let held = table.of_class(class as usize).len();
        let quota = self.quota(class as usize, table.capacity(), classes);
        let victims = match self.borrowers.largest() {
            Some((largest, rows)) if gives_way(largest, rows, class, held, quota) => {
                self.borrowers.remove(largest, rows);
                if rows - 1 > self.quota(largest as usize, table.capacity(), classes) {
                    self.borrowers.insert(largest, rows - 1);
                }
                if held > quota {
                    self.borrowers.remove(class, held);
                }
                if held + 1 > quota {
                    self.borrowers.insert(class, held + 1);
                }
                table.of_class(largest as usize)
            }
            _ => table.of_class(class as usize),
        };
        match victims.len() {
            0 => Placement::Reject,
            n => Placement::Replace(victims[rng.below(n as u64) as usize]),
        }
    }

    // As if no class got a row meanwhile.
    fn guess(&mut self, classes: &[u32], table: &SlotTable, mut rng: Stream, slots: &mut Vec<u32>) {
        // Whether there is one or not, this walks past the empty lists once and for all.
        self.borrowers.largest();
        let mut loans = self.borrowers.loans();
        let mut places: SmallVec<[(usize, usize); AHEAD]> = SmallVec::new();
        for &class in classes {
            let held = table.of_class(class as usize).len();
            let quota = self.quota(class as usize, table.capacity(), self.borrowers.classes.max(1));
            let victims = match loans.largest() {
                Some((largest, rows)) if gives_way(largest, rows, class, held, quota) => {
                    loans.take_back();
                    largest
                }
                _ => class,
            } as usize;
            places.push((victims, rng.below(table.of_class(victims).len() as u64) as usize));
        }
        // A loop of its own, short enough for the processor to ask for the last place before it has the first.
        slots.extend(places.iter().filter_map(|&(class, index)| table.of_class(class).get(index)));
    }

    /// K, then the borrowers by their rows: the order within a list decides which of equal ones gives way.
    fn state(&self) -> Vec<u64> {
        let Borrowers { classes, by_rows, .. } = &self.borrowers;
        let lists = by_rows.iter().enumerate();
        let entries = lists.flat_map(|(rows, list)| list.iter().flat_map(move |&class| [rows as u64, u64::from(class)]));
        [self.seen as u64, *classes as u64].into_iter().chain(entries).collect()
    }

    fn restore(&mut self, state: &[u64], table: &SlotTable) -> Option<()> {
        let &[seen, classes, ref entries @ ..] = state else { return None };
        let most = MAX_CLASSES as u64;
        if seen > most || classes > most {
            return None;
        }
        let mut borrowers = Borrowers { classes: classes as usize, ..Borrowers::default() };
        let mut left: BTreeSet<u32> = BTreeSet::new();
        if classes > 0 {
            let above = |&(class, rows): &(usize, usize)| rows > self.quota(class, table.capacity(), classes as usize);
            left = table.per_class().enumerate().filter(above).map(|(class, _)| class as u32).collect();
        }
        for entry in entries.chunks(2) {
            let &[rows, class] = entry else { return None };
            let class = u32::try_from(class).ok()?;
            if !left.remove(&class) || table.of_class(class as usize).len() as u64 != rows {
                return None;
            }
            borrowers.insert(class, rows as usize);
        }
        if !left.is_empty() {
            return None;
        }
        (self.seen, self.borrowers) = (seen as usize, borrowers);
        Some(())
    }
}

/// The classes above their quota by their number of rows, so that the largest is found without looking at all.
///
/// A full shard only changes by what [`ClassBalanced::place`] decides, so the policy keeps this itself, in O(1) per decision.
#[derive(Debug, Default)]
struct Borrowers {
    /// The K for which this was collected; another one means other quotas.
    classes: usize,
    /// `by_rows[n]`: the classes above their quota that have n rows.
    by_rows: Vec<Vec<u32>>,
    /// `position[class]`: where the class is in its list.
    position: Vec<u32>,
    /// No list beyond this one has an entry.
    most: usize,
}

impl Borrowers {
    fn insert(&mut self, class: u32, rows: usize) {
        if self.by_rows.len() <= rows {
            self.by_rows.resize_with(rows + 1, Vec::new);
        }
        if self.position.len() <= class as usize {
            self.position.resize(class as usize + 1, 0);
        }
        self.position[class as usize] = self.by_rows[rows].len() as u32;
        self.by_rows[rows].push(class);
        self.most = self.most.max(rows);
    }

    fn remove(&mut self, class: u32, rows: usize) {
        let position = self.position[class as usize] as usize;
        let list = &mut self.by_rows[rows];
        list.swap_remove(position);
        if let Some(&moved) = list.get(position) {
            self.position[moved as usize] = position as u32;
        }
    }

    /// The classes in the order in which they will most likely give a row each.
    fn loans(&self) -> Loans<'_> {
        let left = self.by_rows.get(self.most).map_or(0, Vec::len);
        Loans { by_rows: &self.by_rows, rows: self.most, left, moved: SmallVec::new(), moving: SmallVec::new() }
    }

    /// A class with the most rows, and that number. Rows only leave the largest, so the search downwards is paid for by evictions.
    fn largest(&mut self) -> Option<(u32, usize)> {
        loop {
            match self.by_rows.get(self.most).and_then(|list| list.last()) {
                Some(&class) => return Some((class, self.most)),
                None if self.most == 0 => return None,
                None => self.most -= 1,
            }
        }
    }
}

/// [`Borrowers`] as they would be after some rows were taken from the largest, without changing them.
struct Loans<'a> {
    by_rows: &'a [Vec<u32>],
    /// The list of the largest: so many of its classes are left, and behind them are those that had one row more.
    rows: usize,
    left: usize,
    moved: SmallVec<[u32; AHEAD]>,
    /// What belongs behind the next list.
    moving: SmallVec<[u32; AHEAD]>,
}

impl Loans<'_> {
    fn largest(&mut self) -> Option<(u32, usize)> {
        while self.moved.is_empty() && self.left == 0 {
            self.rows = self.rows.checked_sub(1)?;
            self.left = self.by_rows[self.rows].len();
            self.moved = std::mem::take(&mut self.moving);
        }
        let class = self.moved.last().or_else(|| self.by_rows[self.rows].get(self.left - 1))?;
        Some((*class, self.rows))
    }

    /// Takes a row from the largest.
    fn take_back(&mut self) {
        let Some((class, _)) = self.largest() else { return };
        if self.moved.pop().is_none() {
            self.left -= 1;
        }
        self.moving.push(class);
    }
}
