//! Compares slot tables with a simple model after every operation.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeSet;

#[derive(Debug, Clone)]
enum Operation {
    /// Pushes a row if there is room. Otherwise replaces this slot (modulo the capacity).
    Store {
        slot: usize,
        class: u32,
        id: i64,
    },
    BeginTask(u32),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let store = (0usize..64, 0u32..7, 0i64..12).prop_map(|(slot, class, id)| Operation::Store {
        slot,
        class,
        id,
    });
    proptest::collection::vec(
        prop_oneof![8 => store, 1 => (0u32..4).prop_map(Operation::BeginTask)],
        1..120,
    )
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    class: u32,
    id: i64,
    task: u32,
    generation: u32,
    from_earlier_task: bool,
}

fn check(table: &SlotTable, model: &[Entry], capacity: usize, ever: &BTreeSet<u32>, has_id: bool) {
    assert_eq!(
        (table.len(), table.is_empty(), table.is_full()),
        (model.len(), model.is_empty(), model.len() == capacity)
    );
    let mut by_class = BTreeMap::<u32, BTreeSet<u32>>::new();
    for (slot, entry) in model.iter().enumerate() {
        let at = slot as u32;
        assert_eq!(
            (table.class(at), table.task(at), table.generation(at)),
            (entry.class, entry.task, entry.generation)
        );
        assert_eq!(table.id(at), has_id.then_some(entry.id));
        by_class.entry(entry.class).or_default().insert(at);
    }
    let bound = ever.last().map_or(0, |class| *class as usize + 1);
    assert_eq!((table.class_bound(), table.classes_seen()), (bound, ever.len()));
    let counts: Vec<usize> = table.per_class().collect();
    assert_eq!(counts.len(), bound);
    for class in 0..bound as u32 + 2 {
        let slots = table.of_class(class as usize);
        let set: BTreeSet<u32> = slots.iter().copied().collect();
        assert_eq!(set.len(), slots.len(), "a class lists a slot twice");
        assert_eq!(set, by_class.remove(&class).unwrap_or_default());
        assert_eq!(counts.get(class as usize).copied().unwrap_or(0), slots.len());
    }
    let earlier: BTreeSet<u32> = (0..table.from_earlier_tasks())
        .map(|index| table.slot_from_earlier_task(index).unwrap())
        .collect();
    assert_eq!(
        earlier.len(),
        table.from_earlier_tasks(),
        "the rows of earlier tasks list a slot twice"
    );
    assert_eq!(
        earlier,
        model
            .iter()
            .zip(0..)
            .filter(|(entry, _)| entry.from_earlier_task)
            .map(|(_, slot)| slot)
            .collect()
    );
    assert_eq!(table.slot_from_earlier_task(table.from_earlier_tasks()), None);
    let ids: BTreeSet<i64> =
        if has_id { model.iter().map(|entry| entry.id).collect() } else { BTreeSet::new() };
    assert_eq!(table.distinct(), has_id.then_some(ids.len()));
    assert_eq!(table.distinct_ids().collect::<BTreeSet<_>>(), ids);
    assert!((0..12).all(|id| table.holds(id) == ids.contains(&id)));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(45),
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_slot_table_matches_a_vector_after_every_operation(
        capacity in 1usize..10,
        has_id: bool,
        operations in operations(),
    ) {
        let mut table = SlotTable::new(capacity, has_id);
        let mut model: Vec<Entry> = Vec::new();
        let (mut current, mut ever) = (0, BTreeSet::new());
        for operation in operations {
            match operation {
                Operation::BeginTask(task) => {
                    table.begin_task(task);
                    if task != current {
                        current = task;
                        model.iter_mut().for_each(|entry| entry.from_earlier_task = true);
                    }
                }
                Operation::Store { slot, class, id } => {
                    let mut entry =
                        Entry { class, id, task: current, generation: 0, from_earlier_task: false };
                    ever.insert(class);
                    let given = has_id.then_some(id);
                    if model.len() < capacity {
                        prop_assert_eq!(table.push(class, given) as usize, model.len());
                        model.push(entry);
                    } else {
                        let slot = slot % capacity;
                        table.replace(slot as u32, class, given);
                        entry.generation = model[slot].generation + 1;
                        model[slot] = entry;
                    }
                }
            }
            check(&table, &model, capacity, &ever, has_id);
        }
    }
}
