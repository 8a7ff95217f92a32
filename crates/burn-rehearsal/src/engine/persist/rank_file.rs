//! One rank's part of a checkpoint: its slot table, its policy's state, its pending
//! representatives, and its rows.

use crate::batch::{Column, FieldLayout, FieldSpec, Kind, Role, Schema};
use crate::checkpoint::{FileEntry, FileReader, FileWriter};
use crate::config::RehearsalConfig;
use crate::engine::Delivery;
use crate::engine::shard::Shard;
use crate::error::{CheckpointError, RehearsalError};
use crate::rules::CustomRules;
use crate::slots::{RowHandle, SlotState};
use crate::store::{self, RowChunk};
use burn::tensor::{BoolStore, DType, Device, Shape};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};

/// What is known of a rank beside its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RankState {
    pub(super) rank: usize,
    pub(super) world_size: usize,
    pub(super) step: u64,
    pub(super) task: u32,
    /// The rows of this rank's last mini-batch.
    pub(super) rows: u64,
    /// Mini-batches inserted by this rank, and draws made by all, outside of steps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) fills: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) samples: u64,
    /// The digest of all draws, hexadecimal.
    pub(super) draws: String,
    /// All of the configuration that could change a result.
    pub(super) config: serde_json::Value,
    /// The number of representatives of each pending step.
    pub(super) pending: Vec<usize>,
    /// `None` for a rank that never had rows, and has no representatives either.
    pub(super) shard: Option<ShardState>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShardState {
    pub(super) len: usize,
    pub(super) old: usize,
    pub(super) current_task: u32,
    pub(super) seen: Vec<u32>,
    fields: Vec<FieldState>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldState {
    name: String,
    kind: String,
    role: String,
    bytes: bool,
    shape: Vec<usize>,
    dtype: DType,
    stored: DType,
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Float => "float",
        Kind::Int => "int",
        Kind::Bool => "bool",
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Data => "data",
        Role::Class => "class",
        Role::Id => "id",
        Role::Representative => "representative",
    }
}

impl FieldState {
    fn of(field: &FieldLayout) -> Self {
        let FieldLayout { spec, row_shape, dtype, stored } = field;
        Self {
            name: spec.name.to_owned(),
            kind: kind(spec.kind).to_owned(),
            role: role(spec.role).to_owned(),
            bytes: spec.bytes,
            shape: row_shape.as_slice().to_vec(),
            dtype: *dtype,
            stored: *stored,
        }
    }
}

/// The file of `rank`.
pub(super) fn file_name(rank: usize) -> String {
    format!("rank-{rank:05}.safetensors")
}

/// The type and shape of `rows` rows of `field` in a file.
fn tensor(field: &FieldLayout, rows: usize) -> (Dtype, Vec<usize>) {
    let mut shape = vec![rows];
    shape.extend_from_slice(field.row_shape.as_slice());
    let dtype = match field.stored {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(BoolStore::Native) => Dtype::BOOL,
        // What the format has no name for is kept as bytes.
        other => {
            shape.push(other.size());
            Dtype::U8
        }
    };
    (dtype, shape)
}

fn bytes_of<T: bytemuck::NoUninit, I>(
    values: impl ExactSizeIterator<Item = I>,
    value: impl Fn(I) -> T,
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * size_of::<T>());
    values.for_each(|item| bytes.extend_from_slice(bytemuck::bytes_of(&value(item))));
    bytes
}

/// Everything in a rank's file except the rows, as it was when the checkpoint began.
pub(super) struct Contents {
    state: RankState,
    /// The classes that rows were seen of, and the policy's state.
    present: Vec<u32>,
    policy: Vec<u64>,
    /// `None` for a rank that never had rows.
    shard: Option<ShardContents>,
}

struct ShardContents {
    slots: Vec<SlotState>,
    /// The representatives that are pending.
    handles: Vec<RowHandle>,
    /// The stored fields, and the bytes of the pending representatives' in each.
    fields: Vec<(FieldLayout, Vec<u8>)>,
}

impl Contents {
    /// Copies all but the rows.
    pub(super) fn new(
        mut state: RankState,
        shard: Option<&Shard>,
        present: &[u32],
        pending: &[Delivery],
    ) -> Result<Self, RehearsalError> {
        let mut contents = None;
        if let Some(shard) = shard {
            let (table, schema) = (shard.table(), shard.schema());
            state.shard = Some(ShardState {
                len: table.len(),
                old: table.from_earlier_tasks(),
                current_task: table.current_task(),
                seen: table.seen(),
                fields: schema.fields().iter().map(FieldState::of).collect(),
            });
            let field = |(number, field): (usize, &FieldLayout)| {
                let mut bytes = Vec::new();
                for column in pending.iter().filter_map(|pending| pending.columns.get(number)) {
                    let data = column.clone().into_data(field.spec.name)?;
                    let data = if data.dtype() == field.stored {
                        data
                    } else {
                        data.convert_dtype(field.stored)
                    };
                    bytes.extend_from_slice(data.as_bytes());
                }
                Ok((field.clone(), bytes))
            };
            contents = Some(ShardContents {
                slots: table.rows().collect(),
                handles: pending
                    .iter()
                    .flat_map(|pending| pending.handles.iter().copied())
                    .collect(),
                fields: schema
                    .stored()
                    .enumerate()
                    .map(field)
                    .collect::<Result<_, RehearsalError>>()?,
            });
        }
        Ok(Self {
            state,
            present: present.to_vec(),
            policy: shard.map(Shard::policy_state).unwrap_or_default(),
            shard: contents,
        })
    }

    /// Writes a rank's file and waits until it is on the disk. `rows` gives the rows in slot order;
    /// chunks that are written go back through `room`.
    pub(super) fn write(
        self,
        directory: &Path,
        rows: &Receiver<Result<RowChunk, String>>,
        room: &Sender<RowChunk>,
    ) -> Result<FileEntry, CheckpointError> {
        let Self { state, present, policy, shard } = self;
        std::fs::create_dir_all(directory)
            .map_err(CheckpointError::io("create the directory", directory))?;
        let mut tensors = Vec::new();
        let mut small: Vec<Vec<u8>> = Vec::new();
        let mut push =
            |name: String, (dtype, shape): (Dtype, Vec<usize>), bytes: Option<Vec<u8>>| {
                tensors.push((name, dtype, shape));
                small.extend(bytes);
            };
        push(
            "classes.present".into(),
            (Dtype::U32, vec![present.len()]),
            Some(bytes_of(present.iter(), |class| class.to_le())),
        );
        push(
            "policy".into(),
            (Dtype::U64, vec![policy.len()]),
            Some(bytes_of(policy.iter(), |word| word.to_le())),
        );
        if let Some(ShardContents { slots, handles, fields }) = shard {
            let len = slots.len();
            push(
                "slot.id".into(),
                (Dtype::I64, vec![len]),
                Some(bytes_of(slots.iter(), |row| row.id.to_le())),
            );
            let mut of_slots = |name: &str, value: fn(&SlotState) -> u32| {
                push(
                    format!("slot.{name}"),
                    (Dtype::U32, vec![len]),
                    Some(bytes_of(slots.iter(), |row| value(row).to_le())),
                );
            };
            of_slots("class", |row| row.class);
            of_slots("task", |row| row.task);
            of_slots("generation", |row| row.generation);
            of_slots("class_pos", |row| row.class_pos);
            of_slots("age_pos", |row| row.task_pos);
            let count = handles.len();
            let mut of_handles = |name: &str, value: fn(&RowHandle) -> u32| {
                push(
                    format!("pending.{name}"),
                    (Dtype::U32, vec![count]),
                    Some(bytes_of(handles.iter(), |handle| value(handle).to_le())),
                );
            };
            of_handles("rank", |handle| handle.rank);
            of_handles("slot", |handle| handle.slot);
            of_handles("generation", |handle| handle.generation);
            let mut places = Vec::new();
            for (field, bytes) in fields {
                push(
                    format!("pending.field.{}", field.spec.name),
                    tensor(&field, count),
                    Some(bytes),
                );
                places.push((format!("row.{}", field.spec.name), tensor(&field, len)));
            }
            places.into_iter().for_each(|(name, place)| push(name, place, None));
        }
        let damaged = |reason: String| CheckpointError::Damaged {
            path: directory.join(file_name(state.rank)),
            reason,
        };
        let about = serde_json::to_string(&state).map_err(|error| damaged(error.to_string()))?;
        let mut file = FileWriter::create(directory, &file_name(state.rank), &about, tensors)?;
        let first_row = small.len();
        small.iter().enumerate().try_for_each(|(tensor, bytes)| file.append(tensor, bytes))?;
        for chunk in rows {
            let chunk = chunk.map_err(damaged)?;
            chunk
                .iter()
                .enumerate()
                .try_for_each(|(field, bytes)| file.append(first_row + field, bytes))?;
            // The engine may be gone; what it handed over is written all the same.
            let _ = room.send(chunk);
        }
        file.finish()
    }
}

/// A rank's file, checked, with everything but the rows in memory.
pub(super) struct RankFile {
    pub(super) reader: FileReader,
    pub(super) state: RankState,
    pub(super) policy: Vec<u64>,
    pub(super) present: Vec<u32>,
    pub(super) rows: Vec<SlotState>,
    pub(super) schema: Option<Schema>,
}

impl RankFile {
    /// Opens the file of `entry`, which must be of a buffer with this configuration and these rules
    /// for mini-batches of `specs`.
    pub(super) fn open(
        directory: &Path,
        entry: &FileEntry,
        config: &RehearsalConfig,
        rules: &CustomRules,
        specs: &'static [FieldSpec],
    ) -> Result<Self, CheckpointError> {
        let mut reader = FileReader::open(directory, entry)?;
        let state: RankState = serde_json::from_str(reader.about())
            .map_err(|error| reader.damaged(error.to_string()))?;
        if state.step > u64::MAX / 2 {
            return Err(reader.damaged(format!("no run has done {} steps", state.step)));
        }
        let foreign =
            |reason: String| CheckpointError::Foreign { path: directory.join(&entry.name), reason };
        if let Some(reason) = difference(&state.config, &config_value(config, rules)) {
            return Err(foreign(reason));
        }
        if state.pending.len() > config.lag {
            return Err(reader.damaged(format!(
                "it has representatives of {} steps for a lag of {}",
                state.pending.len(),
                config.lag
            )));
        }
        let (policy, present) = (reader.u64s("policy")?, reader.u32s("classes.present")?);
        let (mut rows, mut schema) = (Vec::new(), None);
        if let Some(shard) = &state.shard {
            let layout = layout(&shard.fields, specs).map_err(foreign)?;
            rows = read_rows(&mut reader, shard.len)?;
            let pending =
                state.pending.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
            let pending = pending.ok_or_else(|| reader.damaged("its pending rows are too many"))?;
            for field in layout.stored() {
                for (part, count) in [("row", shard.len), ("pending.field", pending)] {
                    let name = format!("{part}.{}", field.spec.name);
                    if count.checked_mul(field.row_bytes()) != Some(reader.len(&name)?) {
                        return Err(reader.damaged(format!(
                            "its tensor {name:?} has not the size of {count} rows"
                        )));
                    }
                }
            }
            schema = Some(layout);
        }
        Ok(Self { reader, state, policy, present, rows, schema })
    }

    /// Appends the stored bytes of `count` rows of `field`, from slot `first` on, to `out`.
    pub(super) fn read(
        &mut self,
        field: &FieldLayout,
        first: usize,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        let (width, before) = (field.row_bytes(), out.len());
        self.reader.read(&format!("row.{}", field.spec.name), first * width, count * width, out)?;
        self.check_bools(field, &out[before..])
    }

    /// A byte that is neither true nor false must not become a boolean.
    fn check_bools(&self, field: &FieldLayout, bytes: &[u8]) -> Result<(), CheckpointError> {
        if field.stored == DType::Bool(BoolStore::Native) && bytes.iter().any(|&byte| byte > 1) {
            return Err(self
                .reader
                .damaged(format!("field {:?} has a value that is no boolean", field.spec.name)));
        }
        Ok(())
    }

    /// The representatives that were pending, on `device`; they are those of the last steps.
    pub(super) fn pending(&mut self, device: &Device) -> Result<Vec<Delivery>, CheckpointError> {
        let counts = self.state.pending.clone();
        let drawn_at =
            |number: usize| self.state.step.saturating_sub((counts.len() - number) as u64);
        let empty = |number| Delivery { drawn_at: drawn_at(number), ..Delivery::default() };
        let mut deliveries: Vec<Delivery> = (0..counts.len()).map(empty).collect();
        let Some(schema) = self.schema.clone() else { return Ok(deliveries) };
        let [ranks, slots, generations] =
            ["rank", "slot", "generation"].map(|name| self.reader.u32s(&format!("pending.{name}")));
        let handles: Vec<_> = ranks?
            .into_iter()
            .zip(slots?)
            .zip(generations?)
            .map(|((rank, slot), generation)| RowHandle { rank, slot, generation })
            .collect();
        let mut first = 0;
        for (delivery, &count) in deliveries.iter_mut().zip(&counts) {
            let own = handles
                .get(first..first + count)
                .ok_or_else(|| self.reader.damaged("its pending rows are fewer than announced"))?;
            delivery.handles = own.to_vec();
            for field in schema.stored().filter(|_| count > 0) {
                let mut bytes = Vec::new();
                let (name, width) =
                    (format!("pending.field.{}", field.spec.name), field.row_bytes());
                self.reader.read(&name, first * width, count * width, &mut bytes)?;
                self.check_bools(field, &bytes)?;
                let data = store::values(field, bytes, [count, field.elements()]);
                delivery.columns.push(Column::from_data(
                    data,
                    field.spec.kind,
                    field.row_shape.clone(),
                    device,
                ));
            }
            first += count;
        }
        Ok(deliveries)
    }
}

fn read_rows(reader: &mut FileReader, len: usize) -> Result<Vec<SlotState>, CheckpointError> {
    let ids = reader.u64s("slot.id")?;
    let [classes, tasks, generations, class_pos, task_pos] =
        ["class", "task", "generation", "class_pos", "age_pos"]
            .map(|name| reader.u32s(&format!("slot.{name}")));
    let (classes, tasks, generations, class_pos, task_pos) =
        (classes?, tasks?, generations?, class_pos?, task_pos?);
    if ids.len() != len
        || [&classes, &tasks, &generations, &class_pos, &task_pos]
            .iter()
            .any(|list| list.len() != len)
    {
        return Err(reader.damaged(format!("its table has not {len} rows")));
    }
    let row = |slot: usize| SlotState {
        id: ids[slot] as i64,
        class: classes[slot],
        task: tasks[slot],
        generation: generations[slot],
        class_pos: class_pos[slot],
        task_pos: task_pos[slot],
    };
    Ok((0..len).map(row).collect())
}

/// The layout that a file's fields have, if they are those of the batch type.
fn layout(fields: &[FieldState], specs: &'static [FieldSpec]) -> Result<Schema, String> {
    if fields.len() != specs.len() {
        return Err(format!(
            "its rows have {} fields, those of the batch type {}",
            fields.len(),
            specs.len()
        ));
    }
    let layouts = fields.iter().zip(specs).map(|(field, spec)| {
        let layout = FieldLayout {
            spec: *spec,
            row_shape: Shape::from(field.shape.clone()),
            dtype: field.dtype,
            stored: field.stored,
        };
        let expected = if spec.bytes { DType::U8 } else { field.dtype };
        let elements =
            field.shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
        let sane = elements.is_some_and(|elements| elements > 0 && elements < 1 << 40)
            && !matches!(field.dtype, DType::QFloat(_));
        if FieldState::of(&layout) != *field || field.stored != expected || !sane {
            return Err(format!(
                "its field {:?} is not the field {:?} of the batch type",
                field.name, spec.name
            ));
        }
        Ok(layout)
    });
    Ok(Schema::of_fields(layouts.collect::<Result<_, _>>()?))
}

/// All of a configuration that could change a result.
pub(super) fn config_value(config: &RehearsalConfig, rules: &CustomRules) -> serde_json::Value {
    let mut value = serde_json::to_value(config.for_digest()).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        rules.name_in(fields);
    }
    value
}

/// What differs between two configurations, in words.
fn difference(before: &serde_json::Value, now: &serde_json::Value) -> Option<String> {
    if before == now {
        return None;
    }
    let keys = |value: &serde_json::Value| {
        value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut names = keys(now);
    names.extend(keys(before));
    names.sort();
    names.dedup();
    let changed = names.into_iter().filter(|name| before.get(name) != now.get(name));
    let text = |value: Option<&serde_json::Value>| {
        value.map_or_else(|| "nothing".to_owned(), ToString::to_string)
    };
    let words: Vec<_> = changed
        .map(|name| {
            format!("{name} was {} and is {}", text(before.get(&name)), text(now.get(&name)))
        })
        .collect();
    Some(format!("the configuration differs: {}", words.join(", ")))
}
