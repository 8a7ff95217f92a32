//! One rank's part of the buffer: the rows, their tables, and the policy that decides which rows
//! stay.

use crate::batch::{Column, Role, Schema};
use crate::config::{OnRepeat, RehearsalConfig};
use crate::error::{BatchError, RehearsalError};
use crate::policy::{PREFETCH_DISTANCE, Placement, Policy, ShardInfo, StateError};
use crate::random::Stream;
use crate::rules::CustomRules;
use crate::slots::{MAX_CLASSES, RowHandle, SlotTable};
use crate::snapshot::{Snapshot, StoredSample};
use crate::store::{self, CopyOnWriteSnapshot, RowChunk, Store, StoreLocation};
use burn::tensor::Device;

/// Rows, tables and policy of one rank.
pub(super) struct Shard {
    store: Box<dyn Store>,
    location: StoreLocation,
    table: SlotTable,
    policy: Box<dyn Policy>,
    skip_if_stored: bool,
    classes: Option<usize>,
    class_field: Option<usize>,
    id_field: Option<usize>,
    /// The classes and identities of the candidates, and the (candidate, slot) pairs to write.
    /// Reused from round to round, as are the lists below.
    candidate_classes: Vec<u32>,
    candidate_ids: Vec<i64>,
    placements: Vec<(u32, u32)>,
    /// The generation of each slot in `placements` at the time of its placement.
    generations: Vec<u32>,
    /// The slots that the next candidates will probably take.
    predicted: Vec<u32>,
    /// The rows that the current checkpoint has not written yet.
    unsaved: Option<CopyOnWriteSnapshot>,
}

impl Shard {
    /// Creates an empty shard. `devices` are the devices of the stored fields in the first
    /// mini-batch.
    pub(super) fn new(
        config: &RehearsalConfig,
        rules: &CustomRules,
        schema: &Schema,
        devices: &[Device],
        rank: usize,
        size: usize,
    ) -> Result<Self, RehearsalError> {
        let row_bytes = schema.row_bytes();
        let info = ShardInfo::new(
            config.capacity_in_samples(row_bytes, size)?,
            rank,
            size,
            config.classes,
        );
        let capacity = info.capacity;
        let mut policy = rules.policy(config);
        policy.start(&info);
        let id_field = schema.position(Role::Id);
        let bytes = capacity.saturating_mul(row_bytes);
        let location =
            StoreLocation::choose(config.store, bytes as u64, config.device_limit, devices);
        tracing::info!(
            rank,
            samples = capacity,
            bytes,
            store = location.name(),
            configured = config.store.name(),
            "allocating this rank's shard of the rehearsal buffer"
        );
        Ok(Self {
            store: store::create(location, schema, capacity, devices)?,
            location,
            table: SlotTable::new(capacity, id_field.is_some()),
            policy,
            skip_if_stored: config.on_repeat == OnRepeat::SkipIfStored,
            classes: config.classes,
            class_field: schema.position(Role::Class),
            id_field,
            candidate_classes: Vec::new(),
            candidate_ids: Vec::new(),
            placements: Vec::new(),
            generations: Vec::new(),
            predicted: Vec::new(),
            unsaved: None,
        })
    }

    /// Restores the table and the state of the policy from a checkpoint. The caller writes the rows
    /// to the returned store.
    pub(super) fn restore(
        &mut self,
        table: SlotTable,
        policy: &[u64],
    ) -> Result<&mut dyn Store, StateError> {
        self.policy.restore(policy, &table)?;
        self.table = table;
        Ok(self.store.as_mut())
    }

    /// Begins a snapshot of the rows, which [`read_unsaved`](Self::read_unsaved) reads.
    pub(super) fn begin_saving(&mut self) {
        self.unsaved = Some(CopyOnWriteSnapshot::new(self.table.len()));
    }

    /// Fills `chunk` with the next rows of the snapshot. Returns whether they were the last.
    pub(super) fn read_unsaved(&mut self, chunk: &mut RowChunk) -> Result<bool, RehearsalError> {
        let Some(unsaved) = &mut self.unsaved else { return Ok(true) };
        unsaved.take(self.store.as_ref(), chunk)?;
        Ok(unsaved.is_over())
    }

    /// Ends the snapshot.
    pub(super) fn end_saving(&mut self) {
        self.unsaved = None;
    }

    /// The state of the policy, for a checkpoint.
    pub(super) fn policy_state(&self) -> Vec<u64> {
        self.policy.state()
    }

    pub(super) fn table(&self) -> &SlotTable {
        &self.table
    }

    pub(super) fn store(&self) -> &dyn Store {
        self.store.as_ref()
    }

    pub(super) fn location(&self) -> StoreLocation {
        self.location
    }

    pub(super) fn schema(&self) -> &Schema {
        self.store.schema()
    }

    pub(super) fn begin_task(&mut self, task: u32) {
        self.table.begin_task(task);
    }

    /// Offers the rows `rows` of `columns` to the policy and stores those it accepts. Empties
    /// `columns`, and appends the changes of class counts to `changes`.
    pub(super) fn insert(
        &mut self,
        columns: &mut Vec<Column>,
        rows: &[u32],
        rng: &mut Stream,
        changes: &mut Vec<(u32, i32)>,
    ) -> Result<(), RehearsalError> {
        self.placements.clear();
        self.generations.clear();
        if rows.is_empty() {
            columns.clear();
            return Ok(());
        }
        self.store.stage(columns, rows)?;
        self.read_classes_and_ids(rows.len())?;
        self.policy.begin(&self.candidate_classes);
        let mut misplaced = false;
        for row in 0..rows.len() {
            if row.is_multiple_of(PREFETCH_DISTANCE) && self.table.is_full() {
                let next = row..rows.len().min(row + PREFETCH_DISTANCE);
                self.predicted.clear();
                self.policy.predict_slots(
                    &self.candidate_classes[next],
                    &self.table,
                    rng.clone(),
                    &mut self.predicted,
                );
                self.table.prefetch(&self.predicted);
            }
            let (class, id) = (self.candidate_classes[row], self.candidate_ids.get(row).copied());
            if self.skip_if_stored && id.is_some_and(|id| self.table.holds(id)) {
                continue;
            }
            self.policy.offered(class);
            let slot = if !self.table.is_full() {
                changes.push((class, 1));
                self.table.push(class, id)
            } else {
                let Placement::Replace(slot) = self.policy.place(class, &self.table, rng) else {
                    continue;
                };
                if slot as usize >= self.table.len() {
                    misplaced = true;
                    break;
                }
                let before = self.table.class(slot);
                if before != class {
                    changes.push((before, -1));
                    changes.push((class, 1));
                }
                self.table.replace(slot, class, id);
                slot
            };
            self.placements.push((row as u32, slot));
            self.generations.push(self.table.generation(slot));
        }
        // If several candidates took the same slot, only the last one is written.
        let mut generations = self.generations.iter();
        self.placements
            .retain(|&(_, slot)| generations.next() == Some(&self.table.generation(slot)));
        if let Some(unsaved) = &mut self.unsaved {
            unsaved.keep(self.store.as_ref(), &self.placements)?;
        }
        self.store.write(&self.placements);
        if misplaced {
            return Err(RehearsalError::Misuse(
                "the policy replaces a row in a slot that does not exist",
            ));
        }
        Ok(())
    }

    /// The number of rows that the last insertion wrote.
    pub(super) fn written(&self) -> usize {
        self.placements.len()
    }

    fn read_classes_and_ids(&mut self, rows: usize) -> Result<(), BatchError> {
        let Self { candidate_classes, candidate_ids, .. } = self;
        candidate_classes.clear();
        candidate_ids.clear();
        if let Some(field) = self.id_field {
            self.store.staged(field, &mut |id| {
                candidate_ids.push(id);
                Ok(())
            })?;
        }
        let Some(field) = self.class_field else {
            candidate_classes.resize(rows, 0);
            return Ok(());
        };
        let classes = self.classes.unwrap_or(MAX_CLASSES);
        let name =
            self.store.schema().stored().nth(field).map_or("class", |layout| layout.spec.name);
        self.store.staged(field, &mut |class| match u32::try_from(class) {
            Ok(index) if (index as usize) < classes => {
                candidate_classes.push(index);
                Ok(())
            }
            _ => Err(BatchError::ClassRange { field: name, class, classes }),
        })
    }

    /// The occupied slots, in order.
    fn slots(&self) -> Vec<u32> {
        (0..self.table.len() as u32).collect()
    }

    /// A digest of all rows in slot order.
    pub(super) fn digest(&self) -> Result<[u8; 32], RehearsalError> {
        let mut hash = blake3::Hasher::new();
        let fields: Vec<_> = self.schema().stored().collect();
        self.store.read(&self.slots(), &mut |slot, field, bytes| {
            if field == 0 {
                hash.update(&self.table.class(slot as u32).to_le_bytes());
                hash.update(&self.table.task(slot as u32).to_le_bytes());
            }
            store::canonical(fields[field], bytes, |bytes| {
                hash.update(bytes);
            });
        })?;
        Ok(*hash.finalize().as_bytes())
    }

    pub(super) fn snapshot(&self, rank: u32) -> Result<Snapshot, RehearsalError> {
        let fields: Vec<_> = self.schema().stored().collect();
        let mut samples: Vec<_> = self
            .slots()
            .into_iter()
            .map(|slot| StoredSample {
                handle: RowHandle { rank, slot, generation: self.table.generation(slot) },
                class: self.table.class(slot) as usize,
                task: self.table.task(slot) as usize,
                id: self.table.id(slot),
                fields: Vec::with_capacity(fields.len()),
            })
            .collect();
        self.store.read(&self.slots(), &mut |slot, field, bytes| {
            samples[slot].fields.push(store::row_data(fields[field], bytes))
        })?;
        Ok(Snapshot::new(samples))
    }
}
