//! Restoring a checkpoint on another number of ranks: every stored sample goes to exactly one of
//! the new shards.
//!
//! All samples are sorted by the [key](crate::policy::Policy::order_key) that the policy gives
//! them, and dealt to the new ranks one by one. The new shards then differ by at most one sample.
//! They fit, since the sum of their capacities is |B|. The policy
//! [merges](crate::policy::Policy::merge) the states of the old shards into the state of each new
//! one.

use super::rank_file::RankFile;
use super::restore::Loaded;
use crate::batch::{Role, Schema};
use crate::engine::Engine;
use crate::error::CheckpointError;
use crate::policy::{Policy, SavedShard, ShardInfo};
use crate::slots::{Slot, SlotTable};
use burn::tensor::Device;
use std::collections::BTreeMap;

/// A stored sample: the index of its file, of its slot in that file, and the slot's entry.
struct Sample {
    file: usize,
    index: usize,
    slot: Slot,
    /// Whether it belongs to an earlier task than the current one.
    from_earlier_task: bool,
}

impl Engine {
    /// Restores this rank's part of a checkpoint. `files` are the files of all ranks that wrote it.
    pub(super) fn reshard(
        &self,
        mut files: Vec<RankFile>,
        device: &Device,
    ) -> Result<Loaded, CheckpointError> {
        let mut state = files[0].state.clone();
        let schema = files.iter().find_map(|file| file.schema.clone());
        let digest = schema.as_ref().map(Schema::digest);
        for RankFile { reader, state: other, schema, .. } in &files {
            let same_step = (other.step, other.task, other.samples, &other.draws)
                == (state.step, state.task, state.samples, &state.draws);
            if !same_step || schema.as_ref().is_some_and(|schema| Some(schema.digest()) != digest) {
                return Err(reader.damaged("it belongs to another checkpoint than the first file"));
            }
        }
        state.rows = files.iter().map(|file| file.state.rows).max().unwrap_or(0);
        state.fills = files.iter().map(|file| file.state.fills).max().unwrap_or(0);
        let shard = match schema {
            Some(schema) => {
                let (samples, table, policy) = self.deal(&files, &schema)?;
                let rows: Vec<_> = samples.iter().map(|from| (from.file, from.index)).collect();
                Some(self.restored_shard(&mut files, &schema, device, table, &policy, &rows)?)
            }
            None => None,
        };
        Ok(Loaded { state, shard, present: Vec::new(), pending: Vec::new() })
    }

    /// Deals the samples: those of this rank's new shard, its table, and the state of its policy.
    fn deal(
        &self,
        files: &[RankFile],
        schema: &Schema,
    ) -> Result<(Vec<Sample>, SlotTable, Vec<u64>), CheckpointError> {
        let first = &files[0].reader;
        let mut saved = Vec::new();
        let mut numbers = Vec::new();
        for (number, file) in files.iter().enumerate() {
            if let Some(table) = &file.table {
                saved.push(SavedShard { table, state: &file.policy });
                numbers.push(number);
            }
        }
        let capacity = self.config.capacity_in_samples(schema.row_bytes(), self.size);
        let capacity = capacity.map_err(|error| first.damaged(error))?;
        let info = ShardInfo::new(capacity, self.rank, self.size, self.config.classes);
        let mut policy = self.rules.policy(&self.config);
        policy.start(&info);
        let all = order(policy.as_ref(), &numbers, &saved);
        let own: Vec<_> = all.into_iter().skip(self.rank).step_by(self.size).collect();
        let current = saved.iter().map(|shard| shard.table.current_task()).max().unwrap_or(0);
        let (slots, from_earlier_tasks, seen) = renumber(&own);
        let has_id = schema.position(Role::Id).is_some();
        let table =
            SlotTable::of_slots(info.capacity, has_id, current, from_earlier_tasks, &seen, slots);
        let table = table.ok_or_else(|| first.damaged("its table contradicts itself"))?;
        let state = policy.merge(&saved, &table, &info);
        Ok((own, table, state))
    }
}

/// All samples in the order in which they are dealt.
fn order(policy: &dyn Policy, files: &[usize], saved: &[SavedShard<'_>]) -> Vec<Sample> {
    let mut keyed = Vec::new();
    for (&file, shard) in files.iter().zip(saved) {
        for (index, &slot) in shard.table.slots().iter().enumerate() {
            let from_earlier_task = (slot.task_pos as usize) < shard.table.from_earlier_tasks();
            keyed.push((
                policy.order_key(shard, index as u32),
                Sample { file, index, slot, from_earlier_task },
            ));
        }
    }
    // The sort is stable: samples with equal keys stay in (rank, slot) order.
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, sample)| sample).collect()
}

/// The slots of a new table, the number of rows of earlier tasks, and the classes among them.
fn renumber(samples: &[Sample]) -> (Vec<Slot>, usize, Vec<u32>) {
    let from_earlier_tasks = samples.iter().filter(|sample| sample.from_earlier_task).count();
    let mut classes: BTreeMap<u32, u32> = BTreeMap::new();
    let (mut next_earlier, mut next_current) = (0, from_earlier_tasks as u32);
    let slots = samples.iter().map(|sample| {
        let members = classes.entry(sample.slot.class).or_insert(0);
        let position = if sample.from_earlier_task { &mut next_earlier } else { &mut next_current };
        let slot = Slot { generation: 0, class_pos: *members, task_pos: *position, ..sample.slot };
        *members += 1;
        *position += 1;
        slot
    });
    let slots = slots.collect();
    (slots, from_earlier_tasks, classes.into_keys().collect())
}
