//! Shards made from what a checkpoint holds.

use super::rank_file::RankFile;
use crate::batch::{Role, Schema};
use crate::config::RehearsalConfig;
use crate::engine::shard::Shard;
use crate::error::CheckpointError;
use crate::rules::CustomRules;
use crate::slots::SlotTable;
use crate::store::{Store, rows_per_chunk};
use burn::tensor::Device;
use std::path::Path;

/// The shard of a rank that is filled from a checkpoint, and the file that errors name.
pub(super) struct ShardRestorer<'a> {
    pub(super) path: &'a Path,
    pub(super) config: &'a RehearsalConfig,
    pub(super) rules: &'a CustomRules,
    pub(super) schema: &'a Schema,
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) device: &'a Device,
}

impl ShardRestorer<'_> {
    /// A shard with this policy state, the table that `table` makes for its capacity, and the rows
    /// that `load` writes.
    pub(super) fn restore(
        &self,
        table: impl FnOnce(usize) -> Option<SlotTable>,
        policy: &[u64],
        load: impl FnOnce(&mut dyn Store) -> Result<(), CheckpointError>,
    ) -> Result<Shard, CheckpointError> {
        let damaged =
            |reason: String| CheckpointError::Damaged { path: self.path.to_path_buf(), reason };
        let devices = vec![self.device.clone(); self.schema.stored().count()];
        let shard =
            Shard::new(self.config, self.rules, self.schema, &devices, self.rank, self.size);
        let mut shard = shard.map_err(|error| damaged(error.to_string()))?;
        let table = table(shard.table().capacity())
            .ok_or_else(|| damaged("its table contradicts itself".into()))?;
        if self.config.classes.is_some_and(|classes| table.class_bound() > classes) {
            return Err(damaged("it has a class that is not configured".into()));
        }
        load(
            shard
                .restore(table, policy)
                .map_err(|error| damaged(format!("the state of its policy is wrong: {error}")))?,
        )?;
        Ok(shard)
    }
}

/// The shard of a file, as it was; for a world of the same size.
pub(super) fn same_world(
    file: &mut RankFile,
    config: &RehearsalConfig,
    rules: &CustomRules,
    rank: usize,
    size: usize,
    device: &Device,
) -> Result<Option<Shard>, CheckpointError> {
    let (Some(state), Some(schema)) = (file.state.shard.clone(), file.schema.clone()) else {
        return Ok(None);
    };
    let (rows, policy, path) =
        (file.rows.clone(), file.policy.clone(), file.reader.path().to_path_buf());
    let load = |store: &mut dyn Store| {
        let at_once = rows_per_chunk(&schema);
        for first in (0..rows.len()).step_by(at_once) {
            let count = at_once.min(rows.len() - first);
            let fields = schema.stored().map(|field| {
                let mut bytes = Vec::new();
                file.read(field, first, count, &mut bytes).map(|()| bytes)
            });
            store.load(first as u32, count, &fields.collect::<Result<Vec<_>, _>>()?);
        }
        Ok(())
    };
    let has_id = schema.position(Role::Id).is_some();
    let table = |capacity| {
        SlotTable::of_rows(capacity, has_id, state.current_task, state.old, &state.seen, &rows)
    };
    ShardRestorer { path: &path, config, rules, schema: &schema, rank, size, device }
        .restore(table, &policy, load)
        .map(Some)
}
