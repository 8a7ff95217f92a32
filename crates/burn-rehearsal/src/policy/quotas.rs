//! Class quotas with lending: which class gives a slot to a candidate.
//!
//! The |B| global slots are dealt round robin to K classes: slot number s belongs to the class with
//! index s mod K. A shard owns consecutive slot numbers, so the numbers of slots per class differ
//! by at most one in each shard, and also in the sum over all shards. There are two deals:
//!
//! * The *share* of a class is dealt among the classes *present*, in ascending order. A class is
//!   present once it was offered to this shard, whether it was stored or not.
//! * The *quota* of a class is dealt among the classes 0..K. K is configured, or one more than the
//!   largest class offered; in the latter case, the quota is at most the share, if that is not 0. A
//!   row within the quota of its class is replaced only by its own class. Slot number s < K belongs
//!   to class s for every K, so no class is lost in all shards while |B| ≥ K.
//!
//! Unused quotas are lent, so that every class can hold its share. A loan is taken back from the
//! class with the most rows, first from a class above its share. An unused share is lent, too.
//!
//! # Properties of the union of all shards
//!
//! * If all shards were offered the same classes, shares differ by at most one over the union. So
//!   do the rows, once every class was offered enough of them after the last class appeared. One
//!   exception: while fewer classes are present than configured, a quota can be larger than a
//!   share. Then rows differ by up to one per class and shard, in shards with fewer than K(K + 1)
//!   slots.
//! * In a class-incremental stream, classes of earlier tasks are not offered again and cannot
//!   regain a row. With K configured and all K classes present, each of them still holds its quota,
//!   which never changes, and the union differs by at most one. Otherwise, a class whose share
//!   grows when the remainder moves stays one row short per shard. Shares never grow in a shard
//!   with at least K(K + 1) slots.
//! * Shards that were offered different classes differ by up to one row per class and shard.

use super::{PREFETCH_DISTANCE, ShardInfo, StateError};
use crate::random::Stream;
use crate::slots::{MAX_CLASSES, SlotTable};
use smallvec::SmallVec;
use std::collections::BTreeSet;

/// The index of an absent class.
const ABSENT: u32 = u32::MAX;

/// The quotas of one shard, and the classes above their quotas.
#[derive(Debug, Default, Clone)]
pub(super) struct Quotas {
    /// The configured K.
    classes: Option<usize>,
    first_slot: usize,
    /// `index[class]` is the number of smaller classes present, or [`ABSENT`].
    index: Vec<u32>,
    present: usize,
    /// The deals of quotas and of shares, cached for a shard of this capacity.
    deals: Option<(usize, [Deal; 2])>,
    borrowers: Borrowers,
}

/// The deal of a shard's slots to classes. Caches the results of divisions.
#[derive(Debug, Clone, Copy)]
struct Deal {
    classes: usize,
    each: usize,
    remainder: usize,
    offset: usize,
}

impl Deal {
    /// Deals `capacity` slots, starting at `first_slot`, to `classes` classes.
    fn new(first_slot: usize, capacity: usize, classes: usize) -> Self {
        let divisor = classes.max(1);
        Self {
            classes,
            each: capacity / divisor,
            remainder: capacity % divisor,
            offset: first_slot % divisor,
        }
    }

    /// The number of slots of the class with this index.
    fn of(&self, index: usize) -> usize {
        if index >= self.classes {
            return 0;
        }
        let position = if index >= self.offset {
            index - self.offset
        } else {
            index + self.classes - self.offset
        };
        self.each + usize::from(position < self.remainder)
    }
}

impl Quotas {
    /// The quotas of a shard before the first candidate.
    pub(super) fn new(shard: &ShardInfo) -> Self {
        Self { classes: shard.classes, first_slot: shard.first_slot, ..Self::default() }
    }

    /// Marks these classes as present.
    pub(super) fn see(&mut self, classes: &[u32]) {
        let before = self.present;
        for &class in classes {
            let at = class as usize;
            if at >= self.index.len() {
                self.index.resize(at + 1, ABSENT);
            }
            if self.index[at] == ABSENT {
                // A placeholder: all indices are assigned below.
                self.index[at] = 0;
                self.present += 1;
            }
        }
        if self.present > before {
            for (number, index) in
                self.index.iter_mut().filter(|index| **index != ABSENT).enumerate()
            {
                *index = number as u32;
            }
            self.borrowers.valid = false;
            self.deals = None;
        }
    }

    /// The deals of quotas and of shares.
    fn deals(&self, capacity: usize) -> [Deal; 2] {
        match self.deals {
            Some((of, deals)) if of == capacity => deals,
            _ => [self.classes.unwrap_or(self.index.len()), self.present]
                .map(|classes| Deal::new(self.first_slot, capacity, classes)),
        }
    }

    /// The number of rows of `class` that only candidates of the same class can replace, in a shard
    /// of `capacity` slots.
    pub(super) fn quota(&self, class: usize, capacity: usize) -> usize {
        let [quotas, _] = self.deals(capacity);
        let dealt = quotas.of(class);
        match self.classes {
            Some(_) => dealt,
            // The largest class so far says little about later classes, so a quota protects only
            // the last row of a class.
            None => dealt.min(self.share(class, capacity).max(1)),
        }
    }

    /// The number of rows that `class` holds if all classes present are offered enough rows.
    pub(super) fn share(&self, class: usize, capacity: usize) -> usize {
        match self.index.get(class) {
            None | Some(&ABSENT) => 0,
            Some(&index) => {
                let [_, shares] = self.deals(capacity);
                shares.of(index as usize)
            }
        }
    }

    /// The order in which borrowers give rows: more rows first, and among equal numbers, classes
    /// above their share first.
    fn level(&self, class: u32, rows: usize, capacity: usize) -> usize {
        2 * rows + usize::from(rows > self.share(class as usize, capacity))
    }

    /// Collects the classes above their quota after the shares have changed.
    fn refresh(&mut self, table: &SlotTable) {
        if self.deals.is_none() {
            self.deals = Some((table.capacity(), self.deals(table.capacity())));
        }
        if self.borrowers.valid {
            return;
        }
        let mut borrowers = Borrowers { valid: true, ..Borrowers::default() };
        let capacity = table.capacity();
        for (class, rows) in table.per_class().enumerate() {
            if rows > self.quota(class, capacity) {
                borrowers.insert(class as u32, self.level(class as u32, rows, capacity));
            }
        }
        self.borrowers = borrowers;
    }

    /// Whether the borrower `largest` at `level` gives a row to `class`, which holds `held` rows.
    /// It does if `class` is below its quota, still has fewer rows after the move, or is the one of
    /// the two whose share has one row more.
    fn gives_way(
        &self,
        largest: u32,
        level: usize,
        class: u32,
        held: usize,
        capacity: usize,
    ) -> bool {
        let (rows, above_share) = (level / 2, level % 2 == 1);
        largest != class
            && (held + 1 < rows
                || held < self.quota(class as usize, capacity)
                || above_share && held < rows && held < self.share(class as usize, capacity))
    }

    /// The class that gives a slot of a full shard to `class`, if `class` may grow. The caller must
    /// move the slot.
    pub(super) fn grow(&mut self, class: u32, table: &SlotTable) -> Option<u32> {
        self.refresh(table);
        let capacity = table.capacity();
        let held = table.of_class(class as usize).len();
        let (largest, level) = self.borrowers.largest()?;
        if !self.gives_way(largest, level, class, held, capacity) {
            return None;
        }
        let rows = level / 2;
        self.borrowers.remove(largest, level);
        if rows - 1 > self.quota(largest as usize, capacity) {
            self.borrowers.insert(largest, self.level(largest, rows - 1, capacity));
        }
        let quota = self.quota(class as usize, capacity);
        if held > quota {
            self.borrowers.remove(class, self.level(class, held, capacity));
        }
        if held + 1 > quota {
            self.borrowers.insert(class, self.level(class, held + 1, capacity));
        }
        Some(largest)
    }

    /// Appends the slots that candidates of `classes`, at most [`PREFETCH_DISTANCE`], will probably
    /// take. This is a random slot of the class that gives way. If no class does, it is the row of
    /// the candidate's own class with a random number below `bound(candidate, held)`, if there is
    /// such a row.
    pub(super) fn predict_slots(
        &mut self,
        classes: &[u32],
        table: &SlotTable,
        mut rng: Stream,
        bound: impl Fn(usize, usize) -> u64,
        slots: &mut Vec<u32>,
    ) {
        self.refresh(table);
        // Skips the empty lists once, for all candidates.
        self.borrowers.largest();
        let mut loans = self.borrowers.loans();
        let mut places: SmallVec<[(usize, usize); PREFETCH_DISTANCE]> = SmallVec::new();
        for (candidate, &class) in classes.iter().enumerate() {
            let held = table.of_class(class as usize).len();
            let (victims, rows) = match loans.largest() {
                Some((largest, level))
                    if self.gives_way(largest, level, class, held, table.capacity()) =>
                {
                    loans.take_back();
                    (largest, table.of_class(largest as usize).len() as u64)
                }
                _ => (class, bound(candidate, held)),
            };
            places.push((victims as usize, rng.below(rows) as usize));
        }
        // A separate loop, so that the processor requests all places before the first arrives.
        slots.extend(places.iter().filter_map(|&(class, index)| table.of_class(class).get(index)));
    }

    /// The classes present, then the borrowers by level. The order of the borrowers decides which
    /// of two equally large classes gives way.
    pub(super) fn state(&self) -> Vec<u64> {
        let Borrowers { valid, by_level, .. } = &self.borrowers;
        let present = self
            .index
            .iter()
            .enumerate()
            .filter(|(_, index)| **index != ABSENT)
            .map(|(class, _)| class as u64);
        let mut state = vec![self.present as u64];
        state.extend(present);
        state.extend([u64::from(*valid), by_level.iter().map(Vec::len).sum::<usize>() as u64]);
        for (level, list) in by_level.iter().enumerate() {
            state.extend(list.iter().flat_map(|&class| [level as u64 / 2, u64::from(class)]));
        }
        state
    }

    /// The state of a new shard in which these classes are present.
    pub(super) fn fresh_state(present: &BTreeSet<u32>) -> Vec<u64> {
        let mut quotas = Self::default();
        quotas.see(&present.iter().copied().collect::<Vec<_>>());
        quotas.state()
    }

    /// Splits a [`state`](Self::state), and the words that a policy has appended to it, into its
    /// parts.
    pub(super) fn split(state: &[u64]) -> Option<SavedQuotas<'_>> {
        let (&count, rest) = state.split_first()?;
        let (present, rest) = rest.split_at_checked(usize::try_from(count).ok()?)?;
        let (&[valid, count], rest) = rest.split_first_chunk::<2>()?;
        let (borrowers, rest) =
            rest.split_at_checked(usize::try_from(count).ok()?.checked_mul(2)?)?;
        Some(SavedQuotas { present, valid, borrowers: borrowers.as_chunks::<2>().0, rest })
    }

    /// The quotas with this state and this table, and the words after the state.
    pub(super) fn restored<'a>(
        &self,
        state: &'a [u64],
        table: &SlotTable,
    ) -> Result<(Self, &'a [u64]), StateError> {
        let SavedQuotas { present, valid, borrowers: entries, rest } =
            Self::split(state).ok_or_else(|| StateError::new("it ends too early"))?;
        let classes: Vec<u32> = present.iter().filter_map(|&class| class_of(class)).collect();
        let ascending = classes.windows(2).all(|pair| pair[0] < pair[1]);
        if classes.len() != present.len() || !ascending || valid > 1 {
            return Err(StateError::new("its list of classes is not valid"));
        }
        let mut quotas =
            Self { classes: self.classes, first_slot: self.first_slot, ..Self::default() };
        quotas.see(&classes);
        let known = |class: usize| quotas.index.get(class).is_some_and(|&index| index != ABSENT);
        if let Some(class) =
            table.per_class().enumerate().position(|(class, rows)| rows > 0 && !known(class))
        {
            return Err(StateError::new(format!(
                "rows of class {class} are stored, but it was never offered"
            )));
        }
        let mut borrowers = Borrowers { valid: valid == 1, ..Borrowers::default() };
        let mut left: BTreeSet<u64> = BTreeSet::new();
        if borrowers.valid {
            let above =
                |&(class, rows): &(usize, usize)| rows > quotas.quota(class, table.capacity());
            left = table
                .per_class()
                .enumerate()
                .filter(above)
                .map(|(class, _)| class as u64)
                .collect();
        }
        for &[rows, class] in entries {
            if !left.remove(&class) || table.of_class(class as usize).len() as u64 != rows {
                return Err(StateError::new(format!(
                    "class {class} does not have {rows} rows, or is not above its quota"
                )));
            }
            borrowers
                .insert(class as u32, quotas.level(class as u32, rows as usize, table.capacity()));
        }
        if let Some(class) = left.first() {
            return Err(StateError::new(format!(
                "class {class} is above its quota, but is not listed"
            )));
        }
        quotas.borrowers = borrowers;
        Ok((quotas, rest))
    }
}

/// The parts of a [`Quotas::state`].
pub(super) struct SavedQuotas<'a> {
    /// The classes present.
    pub(super) present: &'a [u64],
    valid: u64,
    /// Rows and class of each borrower.
    borrowers: &'a [[u64; 2]],
    /// The words after the state.
    pub(super) rest: &'a [u64],
}

/// The class in a word of a state, or `None` if it is out of range.
pub(super) fn class_of(word: u64) -> Option<u32> {
    u32::try_from(word).ok().filter(|&class| (class as usize) < MAX_CLASSES)
}

/// The classes above their quota, by level. Finds the largest class without a search.
///
/// A full shard changes only by decisions of [`Quotas::grow`], which updates this in time O(1).
#[derive(Debug, Default, Clone)]
struct Borrowers {
    /// Whether this was collected for the current shares.
    valid: bool,
    /// `by_level[n]` lists the classes above their quota at level n.
    by_level: Vec<Vec<u32>>,
    /// `position[class]` is the index of the class in its list.
    position: Vec<u32>,
    /// All lists above this level are empty.
    most: usize,
}

impl Borrowers {
    fn insert(&mut self, class: u32, level: usize) {
        if self.by_level.len() <= level {
            self.by_level.resize_with(level + 1, Vec::new);
        }
        if self.position.len() <= class as usize {
            self.position.resize(class as usize + 1, 0);
        }
        self.position[class as usize] = self.by_level[level].len() as u32;
        self.by_level[level].push(class);
        self.most = self.most.max(level);
    }

    fn remove(&mut self, class: u32, level: usize) {
        let position = self.position[class as usize] as usize;
        let list = &mut self.by_level[level];
        list.swap_remove(position);
        if let Some(&moved) = list.get(position) {
            self.position[moved as usize] = position as u32;
        }
    }

    /// The classes in the order in which they will probably give rows.
    fn loans(&self) -> Loans<'_> {
        let left = self.by_level.get(self.most).map_or(0, Vec::len);
        Loans {
            by_level: &self.by_level,
            level: self.most,
            left,
            moved: SmallVec::new(),
            moving: Default::default(),
        }
    }

    /// A class at the highest level, and that level. Rows leave only the largest class, so the cost
    /// of the search downwards is amortized over evictions.
    fn largest(&mut self) -> Option<(u32, usize)> {
        loop {
            match self.by_level.get(self.most).and_then(|list| list.last()) {
                Some(&class) => return Some((class, self.most)),
                None if self.most == 0 => return None,
                None => self.most -= 1,
            }
        }
    }
}

/// An approximation of [`Borrowers`] after some rows were taken from the largest classes, which
/// leaves the borrowers unchanged.
struct Loans<'a> {
    by_level: &'a [Vec<u32>],
    /// The level of the largest classes.
    level: usize,
    /// The number of classes left in the list of this level.
    left: usize,
    /// The classes that fell to this level.
    moved: SmallVec<[u32; PREFETCH_DISTANCE]>,
    /// The classes that fall to the next two levels. One row is two levels.
    moving: [SmallVec<[u32; PREFETCH_DISTANCE]>; 2],
}

impl Loans<'_> {
    fn largest(&mut self) -> Option<(u32, usize)> {
        while self.moved.is_empty() && self.left == 0 {
            self.level = self.level.checked_sub(1)?;
            self.left = self.by_level[self.level].len();
            self.moved = std::mem::take(&mut self.moving[0]);
            self.moving.swap(0, 1);
        }
        let class = self.moved.last().or_else(|| self.by_level[self.level].get(self.left - 1))?;
        Some((*class, self.level))
    }

    /// Takes a row from the largest class.
    fn take_back(&mut self) {
        let Some((class, _)) = self.largest() else { return };
        if self.moved.pop().is_none() {
            self.left -= 1;
        }
        self.moving[1].push(class);
    }
}
