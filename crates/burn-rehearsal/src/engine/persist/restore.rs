//! Reading a checkpoint: this rank's file, or all files if the number of ranks has changed.

use super::rank_file::{RankFile, RankState, file_name};
use crate::batch::{FieldSpec, Schema};
use crate::checkpoint::{BUFFER, MANIFEST, Manifest};
use crate::engine::shard::Shard;
use crate::engine::{Delivery, Engine};
use crate::error::CheckpointError;
use crate::slots::SlotTable;
use crate::store::rows_per_chunk;
use burn::tensor::Device;
use std::path::Path;

/// The data that this rank read. It is used only if no rank failed.
pub(super) struct Loaded {
    pub(super) state: RankState,
    pub(super) shard: Option<Shard>,
    /// The classes with rows in any shard, in the order of the draws. Empty if the number of ranks
    /// has changed, as is `pending`.
    pub(super) present: Vec<u32>,
    pub(super) pending: Vec<Delivery>,
}

impl Engine {
    /// Reads this rank's part of the checkpoint in `directory`, for mini-batches of `fields` on
    /// `device`.
    pub(super) fn load(
        &self,
        directory: &Path,
        device: &Device,
        fields: &'static [FieldSpec],
    ) -> Result<Loaded, CheckpointError> {
        let manifest = Manifest::read(directory, BUFFER)?;
        let entries = manifest.files();
        let is_of = |rank: usize| entries[rank].name == file_name(rank);
        if entries.is_empty() || !(0..entries.len()).all(is_of) {
            let reason = "it does not list one file for each rank";
            return Err(CheckpointError::damaged(&directory.join(MANIFEST), reason));
        }
        let open =
            |rank| RankFile::open(directory, entries, rank, &self.config, &self.rules, fields);
        if entries.len() != self.size {
            let files = (0..entries.len()).map(open).collect::<Result<Vec<_>, _>>()?;
            return self.reshard(files, device);
        }
        let mut file = open(self.rank)?;
        let pending = file.pending(device)?;
        let shard = match (file.schema.clone(), file.table.take()) {
            (Some(schema), Some(table)) => {
                let policy = std::mem::take(&mut file.policy);
                let rows: Vec<_> = (0..table.len()).map(|slot| (0, slot)).collect();
                let files = std::slice::from_mut(&mut file);
                Some(self.restored_shard(files, &schema, device, table, &policy, &rows)?)
            }
            _ => None,
        };
        let RankFile { state, present, .. } = file;
        Ok(Loaded { state, shard, present, pending })
    }

    /// Creates a shard with this table and this state of its policy. `rows` lists the location of
    /// each row in slot order: the index of its file, and its slot in that file.
    pub(super) fn restored_shard(
        &self,
        files: &mut [RankFile],
        schema: &Schema,
        device: &Device,
        table: SlotTable,
        policy: &[u64],
        rows: &[(usize, usize)],
    ) -> Result<Shard, CheckpointError> {
        let file = &files[0].reader;
        let devices = vec![device.clone(); schema.stored().count()];
        let shard = Shard::new(&self.config, &self.rules, schema, &devices, self.rank, self.size);
        let mut shard = shard.map_err(|error| file.damaged(error))?;
        if self.config.classes.is_some_and(|classes| table.class_bound() > classes) {
            return Err(file.damaged("it has a class outside the configured range"));
        }
        let store = shard.restore(table, policy).map_err(|error| {
            file.damaged(format!("the state of its policy is invalid: {error}"))
        })?;
        let at_once = rows_per_chunk(schema);
        for (chunk, rows) in rows.chunks(at_once).enumerate() {
            let mut fields = vec![Vec::new(); devices.len()];
            // Adjacent rows of a file are read together.
            for run in rows.chunk_by(|&(file, slot), next| *next == (file, slot + 1)) {
                let (file, slot) = run[0];
                for (field, bytes) in schema.stored().zip(&mut fields) {
                    files[file].read("row", field, slot, run.len(), bytes)?;
                }
            }
            store.load((chunk * at_once) as u32, rows.len(), &fields);
        }
        Ok(shard)
    }
}
