//! The table of a shard: class, task, identity and generation of each row.
//!
//! Invariants of [`SlotTable`]:
//!
//! * Slots `0..len` are occupied, and the rest are free.
//! * `by_class[c]` lists the slots of class c. The `class_pos` of a slot is its index in that list.
//! * `by_task` is a permutation of the occupied slots. Its first `from_earlier_tasks` entries hold
//!   rows of earlier tasks. The `task_pos` of a slot is its index in `by_task`.
//!
//! Every update takes O(1) time, independent of the capacity and the number of classes. The fields
//! of a slot are stored together. Slots are visited at random, so each visit costs one cache miss.

use burn_rehearsal_collective::even_split;
use std::collections::{BTreeMap, HashMap};

/// The largest number of classes that a buffer supports. Every class is below it.
pub const MAX_CLASSES: usize = 1 << 20;

/// The number of slots of `rank` if `capacity` slots are split evenly over `world_size` ranks. The
/// first `capacity % world_size` ranks have one slot more.
///
/// ```
/// use burn_rehearsal::shard_capacity;
///
/// assert_eq!([0, 1, 2].map(|rank| shard_capacity(11, rank, 3)), [4, 4, 3]);
/// ```
pub fn shard_capacity(capacity: usize, rank: usize, world_size: usize) -> usize {
    even_split(capacity, world_size, rank).len()
}

/// The size of a shard, and its position among the shards of all ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardInfo {
    /// The rank that owns the shard.
    pub rank: usize,
    /// The number of ranks.
    pub world_size: usize,
    /// The number of slots of this shard.
    pub capacity: usize,
    /// The number of slots in the shards before this one. If all |B| slots are numbered from rank 0
    /// on, this is the number of the first slot of this shard.
    pub first_slot: usize,
    /// The [configured number of classes](crate::RehearsalConfig::classes).
    pub classes: Option<usize>,
}

impl ShardInfo {
    /// The shard of `rank` in a buffer of `global_capacity` samples.
    ///
    /// ```
    /// use burn_rehearsal::policy::ShardInfo;
    ///
    /// let shard = ShardInfo::new(11, 1, 3, None);
    /// assert_eq!((shard.capacity, shard.first_slot), (4, 4));
    /// ```
    pub fn new(
        global_capacity: usize,
        rank: usize,
        world_size: usize,
        classes: Option<usize>,
    ) -> Self {
        let slots = even_split(global_capacity, world_size, rank);
        Self { rank, world_size, capacity: slots.len(), first_slot: slots.start, classes }
    }

    /// This shard's part of `total` if it is split evenly over the ranks.
    ///
    /// ```
    /// use burn_rehearsal::policy::ShardInfo;
    ///
    /// assert_eq!(ShardInfo::new(12, 1, 3, None).part_of(100), 33);
    /// ```
    pub fn part_of(&self, total: u64) -> u64 {
        shard_capacity(total as usize, self.rank, self.world_size) as u64
    }
}

/// Identifies one stored row for as long as it is stored. When a slot is overwritten, its
/// generation changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowHandle {
    /// The rank whose shard holds the row.
    pub rank: u32,
    /// The row's slot in the shard.
    pub slot: u32,
    /// The number of times that the slot was overwritten.
    pub generation: u32,
}

/// The class, task, identity and generation of every row of a shard. A
/// [`Policy`](crate::policy::Policy) and a [`Sampling`](crate::sampling::Sampling) rule base their
/// decisions on it.
///
/// Methods that take a slot panic if it is free, except [`id`](Self::id), which returns `None`.
///
/// A sampling rule that draws rows of a class finds them as follows:
///
/// ```
/// use burn_rehearsal::SlotTable;
///
/// /// The slot of the `index`-th row of `class` in this shard, if there is one.
/// fn slot_of(table: &SlotTable, class: usize, index: usize) -> Option<u32> {
///     table.of_class(class).get(index).copied()
/// }
/// ```
#[derive(Debug)]
pub struct SlotTable {
    capacity: usize,
    slots: Vec<Slot>,
    by_class: Vec<Vec<u32>>,
    by_task: Vec<u32>,
    from_earlier_tasks: usize,
    /// The number of stored rows of each identity, if rows have identities.
    ids: Option<HashMap<i64, u32>>,
    /// The number of classes ever stored here.
    seen: usize,
    current_task: u32,
}

/// The table's entry for one occupied slot, as a checkpoint keeps it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(align(32))]
pub(crate) struct Slot {
    /// 0 if rows have no identity.
    pub(crate) id: i64,
    pub(crate) class: u32,
    pub(crate) task: u32,
    pub(crate) generation: u32,
    pub(crate) class_pos: u32,
    pub(crate) task_pos: u32,
}

impl SlotTable {
    /// An empty table for `capacity` rows.
    pub(crate) fn new(capacity: usize, has_id: bool) -> Self {
        Self {
            capacity,
            slots: Vec::with_capacity(capacity),
            by_class: Vec::new(),
            by_task: Vec::with_capacity(capacity),
            from_earlier_tasks: 0,
            ids: has_id.then(|| HashMap::with_capacity(capacity)),
            seen: 0,
            current_task: 0,
        }
    }

    /// The number of stored rows.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no row is stored.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Whether every slot is occupied.
    pub fn is_full(&self) -> bool {
        self.len() == self.capacity
    }

    /// The number of slots.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The number of rows of earlier tasks.
    pub fn from_earlier_tasks(&self) -> usize {
        self.from_earlier_tasks
    }

    /// The slot of the `index`-th row of an earlier task, in an order that any update may change.
    pub fn slot_from_earlier_task(&self, index: usize) -> Option<u32> {
        self.by_task[..self.from_earlier_tasks].get(index).copied()
    }

    /// The slots of the rows of `class`, in an order that any update may change.
    pub fn of_class(&self, class: usize) -> &[u32] {
        self.by_class.get(class).map_or(&[], Vec::as_slice)
    }

    /// The number of rows of each class, up to the largest class ever stored here.
    pub fn per_class(&self) -> impl Iterator<Item = usize> + '_ {
        self.by_class.iter().map(Vec::len)
    }

    /// One more than the largest class ever stored here.
    pub fn class_bound(&self) -> usize {
        self.by_class.len()
    }

    /// The number of distinct classes ever stored here.
    pub fn classes_seen(&self) -> usize {
        self.seen
    }

    /// The class of the row in `slot`.
    pub fn class(&self, slot: u32) -> u32 {
        self.slots[slot as usize].class
    }

    /// The task during which the row in `slot` was stored.
    pub fn task(&self, slot: u32) -> u32 {
        self.slots[slot as usize].task
    }

    /// Prefetches most of the memory that [`replace`](Self::replace) will visit for these slots.
    pub(crate) fn prefetch(&self, slots: &[u32]) {
        let position =
            |&slot: &u32| self.slots.get(slot as usize).map_or(0, |row| row.task_pos as usize);
        let leaving = slots
            .iter()
            .map(position)
            .filter(|&at| at < self.from_earlier_tasks)
            .fold(0, |sum, at| sum ^ self.by_task[at]);
        // The last rows of earlier tasks move to the positions of the rows that leave.
        let moving = self.by_task
            [self.from_earlier_tasks.saturating_sub(slots.len())..self.from_earlier_tasks]
            .iter()
            .map(position)
            .fold(0, |sum, at| sum ^ at);
        std::hint::black_box((leaving, moving));
    }

    /// The generation of `slot`.
    pub fn generation(&self, slot: u32) -> u32 {
        self.slots[slot as usize].generation
    }

    /// The identity of the row in `slot`, if rows have one.
    pub fn id(&self, slot: u32) -> Option<i64> {
        self.ids.as_ref()?;
        self.slots.get(slot as usize).map(|slot| slot.id)
    }

    /// Whether a row with this identity is stored.
    pub fn holds(&self, id: i64) -> bool {
        self.ids.as_ref().is_some_and(|ids| ids.contains_key(&id))
    }

    /// The number of distinct identities, if rows have one.
    pub fn distinct(&self) -> Option<usize> {
        self.ids.as_ref().map(HashMap::len)
    }

    /// The distinct identities, in no order.
    pub fn distinct_ids(&self) -> impl Iterator<Item = i64> + '_ {
        self.ids.iter().flat_map(|ids| ids.keys().copied())
    }

    /// Makes `task` the current task. If it was not, all rows stored so far now belong to earlier
    /// tasks.
    pub(crate) fn begin_task(&mut self, task: u32) {
        if task != self.current_task {
            self.current_task = task;
            self.from_earlier_tasks = self.len();
        }
    }

    /// The current task.
    pub fn current_task(&self) -> u32 {
        self.current_task
    }

    /// Stores a row in the first free slot and returns the slot. There must be one.
    pub(crate) fn push(&mut self, class: u32, id: Option<i64>) -> u32 {
        debug_assert!(!self.is_full());
        let slot = self.len() as u32;
        let task_pos = self.by_task.len() as u32;
        self.by_task.push(slot);
        self.slots.push(Slot {
            id: id.unwrap_or(0),
            class,
            task: self.current_task,
            task_pos,
            ..Slot::default()
        });
        self.link_class(slot, class);
        if let (Some(ids), Some(id)) = (&mut self.ids, id) {
            *ids.entry(id).or_insert(0) += 1;
        }
        slot
    }

    /// Overwrites the row in `slot`.
    pub(crate) fn replace(&mut self, slot: u32, class: u32, id: Option<i64>) {
        let at = slot as usize;
        if self.slots[at].class != class {
            self.unlink_class(slot);
            self.link_class(slot, class);
        }
        let row = &mut self.slots[at];
        let before = std::mem::replace(&mut row.id, id.unwrap_or(0));
        row.class = class;
        row.task = self.current_task;
        row.generation = row.generation.wrapping_add(1);
        let position = row.task_pos as usize;
        if position < self.from_earlier_tasks {
            self.from_earlier_tasks -= 1;
            row.task_pos = self.from_earlier_tasks as u32;
            let moved = self.by_task[self.from_earlier_tasks];
            self.by_task.swap(position, self.from_earlier_tasks);
            if moved != slot {
                self.slots[moved as usize].task_pos = position as u32;
            }
        }
        if let (Some(ids), Some(id)) = (&mut self.ids, id) {
            if let Some(count) = ids.get_mut(&before) {
                *count -= 1;
                if *count == 0 {
                    ids.remove(&before);
                }
            }
            *ids.entry(id).or_insert(0) += 1;
        }
    }

    /// The occupied slots, in order.
    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The classes ever stored here, ascending.
    pub(crate) fn seen(&self) -> Vec<u32> {
        (0..self.by_class.len() as u32)
            .filter(|&class| self.by_class[class as usize].capacity() > 0)
            .collect()
    }

    /// The table with these occupied slots, or `None` if they contradict each other. Slots whose
    /// `task_pos` is below `from_earlier_tasks` hold rows of earlier tasks than `current_task`.
    /// `seen` lists the classes ever stored.
    pub(crate) fn of_slots(
        capacity: usize,
        has_id: bool,
        current_task: u32,
        from_earlier_tasks: usize,
        seen: &[u32],
        slots: Vec<Slot>,
    ) -> Option<Self> {
        if slots.len() > capacity || from_earlier_tasks > slots.len() {
            return None;
        }
        let mut members: BTreeMap<u32, usize> = seen.iter().map(|&class| (class, 0)).collect();
        if members.len() != seen.len() || seen.iter().any(|&class| class as usize >= MAX_CLASSES) {
            return None;
        }
        for slot in &slots {
            *members.get_mut(&slot.class)? += 1;
        }
        let mut table = Self::new(capacity, has_id);
        table.current_task = current_task;
        table.from_earlier_tasks = from_earlier_tasks;
        table.seen = seen.len();
        table.by_task.resize(slots.len(), u32::MAX);
        let classes = members.last_key_value().map_or(0, |(&class, _)| class as usize + 1);
        table.by_class.resize_with(classes, Vec::new);
        for (class, count) in members {
            let list = &mut table.by_class[class as usize];
            list.reserve(count.max(1));
            list.resize(count, u32::MAX);
        }
        for (index, slot) in slots.iter().enumerate() {
            let of_class = table.by_class[slot.class as usize].get_mut(slot.class_pos as usize)?;
            let of_task = table.by_task.get_mut(slot.task_pos as usize)?;
            // Each position is taken once. There are as many positions as slots, so all are taken.
            if *of_class != u32::MAX || *of_task != u32::MAX {
                return None;
            }
            (*of_class, *of_task) = (index as u32, index as u32);
            if let Some(ids) = &mut table.ids {
                *ids.entry(slot.id).or_insert(0) += 1;
            }
        }
        // Extends, because the table has room for `capacity` slots.
        table.slots.extend(slots);
        Some(table)
    }

    fn link_class(&mut self, slot: u32, class: u32) {
        let class = class as usize;
        if class >= self.by_class.len() {
            self.by_class.resize_with(class + 1, Vec::new);
        }
        let members = &mut self.by_class[class];
        if members.capacity() == 0 {
            self.seen += 1;
        }
        self.slots[slot as usize].class_pos = members.len() as u32;
        members.push(slot);
    }

    fn unlink_class(&mut self, slot: u32) {
        let Slot { class, class_pos, .. } = self.slots[slot as usize];
        let position = class_pos as usize;
        let members = &mut self.by_class[class as usize];
        members.swap_remove(position);
        if let Some(&moved) = members.get(position) {
            self.slots[moved as usize].class_pos = position as u32;
        }
    }
}

#[cfg(test)]
mod tests;
