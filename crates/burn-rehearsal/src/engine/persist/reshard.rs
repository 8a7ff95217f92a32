//! A checkpoint of another number of ranks: every stored sample goes to one of the new shards,
//! exactly once.
//!
//! All samples are sorted by the [key](crate::policy::Policy::order_key) that the policy gives them
//! and dealt to the new ranks one by one. New shards then differ by at most one sample and fit,
//! since their capacities have the sum |B|. The policy [merges](crate::policy::Policy::merge) the
//! states of the old shards into the state of each new one.

use super::rank_file::{RankFile, RankState};
use super::restore::ShardRestorer;
use crate::batch::{Role, Schema};
use crate::config::RehearsalConfig;
use crate::engine::shard::Shard;
use crate::error::CheckpointError;
use crate::policy::{Policy, SavedShard, ShardInfo};
use crate::rules::CustomRules;
use crate::slots::{SlotState, SlotTable};
use crate::store::{Store, rows_per_chunk};
use burn::tensor::Device;
use std::collections::BTreeMap;

/// One rank's part of a checkpoint that was dealt anew.
pub(super) struct Reshard {
    pub(super) state: RankState,
    pub(super) shard: Option<Shard>,
    pub(super) schema: Option<Schema>,
}

/// Where a sample was.
#[derive(Debug, Clone, Copy)]
struct Sample {
    file: usize,
    slot: usize,
    row: SlotState,
    /// Whether it is of an earlier task than the current one.
    from_earlier_task: bool,
}

/// The shard of `rank` among `size` from the files of all ranks of another world.
pub(super) fn load(
    mut files: Vec<RankFile>,
    config: &RehearsalConfig,
    rules: &CustomRules,
    rank: usize,
    size: usize,
    device: &Device,
) -> Result<Reshard, CheckpointError> {
    let world_size = files.len();
    let mut state = files[0].state.clone();
    for (number, file) in files.iter().enumerate() {
        let RankState { rank, world_size: of, step, task, samples, draws, .. } = &file.state;
        let same = (*step, *task, *samples, draws)
            == (state.step, state.task, state.samples, &state.draws)
            && blake3::Hash::from_hex(draws).is_ok();
        let digests = |file: &RankFile| file.schema.as_ref().map(Schema::digest);
        let first = files.iter().find_map(digests);
        if *rank != number
            || *of != world_size
            || !same
            || digests(file).is_some_and(|digest| Some(digest) != first)
        {
            return Err(file.reader.damaged("it is not of the same checkpoint as the first"));
        }
    }
    state.rows = files.iter().map(|file| file.state.rows).max().unwrap_or(0);
    state.fills = files.iter().map(|file| file.state.fills).max().unwrap_or(0);
    let Some(schema) = files.iter().find_map(|file| file.schema.clone()) else {
        return Ok(Reshard { state, shard: None, schema: None });
    };
    let (own, table, policy) = deal(&files, &schema, config, rules, rank, size)?;
    let path = files[0].reader.path().to_path_buf();
    let load = |store: &mut dyn Store| {
        for (chunk, samples) in own.chunks(rows_per_chunk(&schema)).enumerate() {
            let mut fields = vec![Vec::new(); schema.stored().count()];
            for sample in samples {
                for (field, bytes) in schema.stored().zip(&mut fields) {
                    files[sample.file].read(field, sample.slot, 1, bytes)?;
                }
            }
            store.load((chunk * rows_per_chunk(&schema)) as u32, samples.len(), &fields);
        }
        Ok(())
    };
    let restorer =
        ShardRestorer { path: &path, config, rules, schema: &schema, rank, size, device };
    let shard = restorer.restore(|_| Some(table), &policy, load)?;
    Ok(Reshard { state, shard: Some(shard), schema: Some(schema) })
}

/// The samples of the new shard of `rank`, its table and the state of its policy.
fn deal(
    files: &[RankFile],
    schema: &Schema,
    config: &RehearsalConfig,
    rules: &CustomRules,
    rank: usize,
    size: usize,
) -> Result<(Vec<Sample>, SlotTable, Vec<u64>), CheckpointError> {
    let has_id = schema.position(Role::Id).is_some();
    let info =
        |file: &RankFile, rank, size| match config.capacity_in_samples(schema.row_bytes(), size) {
            Ok(samples) => Ok(ShardInfo::new(samples, rank, size, config.classes)),
            Err(error) => Err(file.reader.damaged(error.to_string())),
        };
    let inconsistent = |file: &RankFile| file.reader.damaged("its table contradicts itself");
    let mut tables = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let Some(shard) = &file.state.shard else { continue };
        let capacity = info(file, number, files.len())?.capacity;
        let table = SlotTable::of_rows(
            capacity,
            has_id,
            shard.current_task,
            shard.old,
            &shard.seen,
            &file.rows,
        );
        tables.push((number, table.ok_or_else(|| inconsistent(file))?));
    }
    let saved: Vec<_> = tables
        .iter()
        .map(|(file, table)| SavedShard { table, state: &files[*file].policy })
        .collect();
    let mut policy = rules.policy(config);
    let shard = info(&files[0], rank, size)?;
    policy.start(&shard);
    let all = order(policy.as_ref(), tables.iter().map(|(file, _)| *file).zip(&saved));
    let own: Vec<_> = all.into_iter().skip(rank).step_by(size).collect();
    let current =
        tables.iter().map(|(_, table)| table.current_task()).max().unwrap_or(files[0].state.task);
    let (rows, from_earlier_tasks, seen) = renumber(&own);
    let table =
        SlotTable::of_rows(shard.capacity, has_id, current, from_earlier_tasks, &seen, &rows);
    let table = table.ok_or_else(|| inconsistent(&files[0]))?;
    let state = policy.merge(&saved, &table, &shard);
    Ok((own, table, state))
}

/// All samples in the order in which they are dealt.
fn order<'a>(
    policy: &dyn Policy,
    saved: impl Iterator<Item = (usize, &'a SavedShard<'a>)>,
) -> Vec<Sample> {
    let mut keyed = Vec::new();
    for (file, shard) in saved {
        for (slot, row) in shard.table.rows().enumerate() {
            let from_earlier_task = (row.task_pos as usize) < shard.table.from_earlier_tasks();
            keyed.push((
                policy.order_key(shard, slot as u32),
                Sample { file, slot, row, from_earlier_task },
            ));
        }
    }
    // A stable sort: by rank and slot where the keys are equal.
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, sample)| sample).collect()
}

/// A new table's rows, how many are of earlier tasks, and the classes among them.
fn renumber(samples: &[Sample]) -> (Vec<SlotState>, usize, Vec<u32>) {
    let from_earlier_tasks = samples.iter().filter(|sample| sample.from_earlier_task).count();
    let mut classes: BTreeMap<u32, u32> = BTreeMap::new();
    let (mut next_earlier, mut next_current) = (0, from_earlier_tasks as u32);
    let rows = samples.iter().map(|sample| {
        let members = classes.entry(sample.row.class).or_insert(0);
        let position = if sample.from_earlier_task { &mut next_earlier } else { &mut next_current };
        let row =
            SlotState { generation: 0, class_pos: *members, task_pos: *position, ..sample.row };
        *members += 1;
        *position += 1;
        row
    });
    let rows = rows.collect();
    (rows, from_earlier_tasks, classes.into_keys().collect())
}
