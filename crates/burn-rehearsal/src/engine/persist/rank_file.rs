//! The file of one rank in a checkpoint: its slot table, the state of its policy, its pending
//! representatives, and its rows.

use crate::batch::{Column, FieldLayout, FieldSpec, Kind, LateType, Role, Schema, has_late};
use crate::checkpoint::{FileEntry, FileReader, FileWriter};
use crate::config::RehearsalConfig;
use crate::engine::Delivery;
use crate::engine::shard::Shard;
use crate::error::{CheckpointError, RehearsalError};
use crate::rules::CustomRules;
use crate::slots::{RowHandle, Slot, SlotTable, shard_capacity};
use crate::store::{self, RowChunk};
use burn::tensor::{BoolStore, DType, Device, Shape};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};

/// The state of a rank apart from its tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RankState {
    pub(super) rank: usize,
    pub(super) world_size: usize,
    pub(super) step: u64,
    pub(super) task: u32,
    /// The rows of this rank's last mini-batch.
    pub(super) rows: u64,
    /// The numbers of mini-batches inserted by this rank, and of draws made by all ranks, outside
    /// of steps.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) fills: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) samples: u64,
    /// The digest of all draws, hexadecimal.
    pub(super) draws: String,
    /// All fields of the configuration that can change a result.
    pub(super) config: Map<String, Value>,
    /// The number of representatives of each pending step.
    pub(super) pending: Vec<usize>,
    /// The number of representatives of each draw, for each pending step. Empty if a step has one
    /// draw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pending_draws: Vec<Vec<usize>>,
    /// `None` for a rank that never had rows. It has no representatives either.
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
    kind: Kind,
    role: Role,
    bytes: bool,
    shape: Vec<usize>,
    dtype: DType,
    stored: DType,
}

impl FieldState {
    fn of(field: &FieldLayout) -> Self {
        let FieldLayout { spec, row_shape, dtype, stored } = field;
        Self {
            name: spec.name.to_owned(),
            kind: spec.kind,
            role: spec.role,
            bytes: spec.bytes,
            shape: row_shape.as_slice().to_vec(),
            dtype: *dtype,
            stored: *stored,
        }
    }
}

/// The name of the file of `rank`.
pub(super) fn file_name(rank: usize) -> String {
    format!("rank-{rank:05}.safetensors")
}

/// The name, element type and shape of a tensor in a file.
type TensorSpec = (String, Dtype, Vec<usize>);

/// A tensor with `rows` rows of `field`.
fn field_tensor(part: &str, field: &FieldLayout, rows: usize) -> TensorSpec {
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
        // Other types have no name in the format and are stored as bytes.
        other => {
            shape.push(other.size());
            Dtype::U8
        }
    };
    (field_name(part, field), dtype, shape)
}

fn field_name(part: &str, field: &FieldLayout) -> String {
    format!("{part}.{}", field.spec.name)
}

/// A column of a table in a file: the name of its tensor, and its value in a row.
type TableColumn<T> = (&'static str, fn(&mut T) -> &mut u32);

const SLOT_COLUMNS: [TableColumn<Slot>; 5] = [
    ("slot.class", |slot| &mut slot.class),
    ("slot.task", |slot| &mut slot.task),
    ("slot.generation", |slot| &mut slot.generation),
    ("slot.class_pos", |slot| &mut slot.class_pos),
    ("slot.age_pos", |slot| &mut slot.task_pos),
];

const HANDLE_COLUMNS: [TableColumn<RowHandle>; 3] = [
    ("pending.rank", |handle| &mut handle.rank),
    ("pending.slot", |handle| &mut handle.slot),
    ("pending.generation", |handle| &mut handle.generation),
];

/// A tensor of little-endian numbers, and its bytes.
fn numbers<const N: usize>(
    name: &str,
    dtype: Dtype,
    values: impl ExactSizeIterator<Item = [u8; N]>,
) -> (TensorSpec, Vec<u8>) {
    ((name.to_owned(), dtype, vec![values.len()]), values.flatten().collect())
}

/// The tensors of a table, and their bytes.
fn table_columns<T: Clone>(
    rows: &[T],
    columns: &[TableColumn<T>],
) -> impl Iterator<Item = (TensorSpec, Vec<u8>)> {
    columns.iter().map(move |(name, column)| {
        numbers(name, Dtype::U32, rows.iter().map(|row| column(&mut row.clone()).to_le_bytes()))
    })
}

/// Everything in a rank's file except the rows, as it was when the checkpoint began.
pub(super) struct Contents {
    state: RankState,
    /// The classes with rows in any shard, in the order of the draws.
    present: Vec<u32>,
    /// The state of the policy.
    policy: Vec<u64>,
    /// Empty for a rank that never had rows, as are the lists below.
    slots: Vec<Slot>,
    /// The handles of the pending representatives.
    handles: Vec<RowHandle>,
    /// The stored fields, and the bytes of the pending representatives in each.
    fields: Vec<(FieldLayout, Vec<u8>)>,
}

impl Contents {
    /// Copies everything except the rows.
    pub(super) fn new(
        mut state: RankState,
        shard: Option<&Shard>,
        present: &[u32],
        pending: &[Delivery],
    ) -> Result<Self, RehearsalError> {
        let mut fields = Vec::new();
        if let Some(shard) = shard {
            let (table, schema) = (shard.table(), shard.schema());
            state.shard = Some(ShardState {
                len: table.len(),
                old: table.from_earlier_tasks(),
                current_task: table.current_task(),
                seen: table.seen(),
                fields: schema.fields().iter().map(FieldState::of).collect(),
            });
            for (index, field) in schema.stored().enumerate() {
                let mut bytes = Vec::new();
                for column in pending.iter().filter_map(|pending| pending.columns.get(index)) {
                    let data = column.clone().into_data(field.spec.name)?;
                    bytes.extend_from_slice(data.convert_dtype(field.stored).as_bytes());
                }
                fields.push((field.clone(), bytes));
            }
        }
        Ok(Self {
            state,
            present: present.to_vec(),
            policy: shard.map(Shard::policy_state).unwrap_or_default(),
            slots: shard.map_or_else(Vec::new, |shard| shard.table().slots().to_vec()),
            handles: pending.iter().flat_map(|pending| &pending.handles).copied().collect(),
            fields,
        })
    }

    /// Writes a rank's file and syncs it to disk. `rows` provides the rows in slot order. Written
    /// chunks return through `room`.
    pub(super) fn write(
        self,
        directory: &Path,
        rows: &Receiver<Result<RowChunk, String>>,
        room: &Sender<RowChunk>,
    ) -> Result<FileEntry, CheckpointError> {
        let Self { state, present, policy, slots, handles, fields } = self;
        std::fs::create_dir_all(directory)
            .map_err(CheckpointError::io("create the directory", directory))?;
        let mut tensors = vec![
            numbers("classes.present", Dtype::U32, present.iter().map(|class| class.to_le_bytes())),
            numbers("policy", Dtype::U64, policy.iter().map(|word| word.to_le_bytes())),
        ];
        if state.shard.is_some() {
            let ids = slots.iter().map(|slot| slot.id.to_le_bytes());
            tensors.push(numbers("slot.id", Dtype::I64, ids));
            tensors.extend(table_columns(&slots, &SLOT_COLUMNS));
            tensors.extend(table_columns(&handles, &HANDLE_COLUMNS));
        }
        let row_tensors: Vec<_> =
            fields.iter().map(|(field, _)| field_tensor("row", field, slots.len())).collect();
        tensors.extend(
            fields.into_iter().map(|(field, bytes)| {
                (field_tensor("pending.field", &field, handles.len()), bytes)
            }),
        );
        let (mut specs, contents): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
        specs.extend(row_tensors);
        let name = file_name(state.rank);
        let damaged = |reason: String| CheckpointError::damaged(&directory.join(&name), reason);
        let about = serde_json::to_string(&state).map_err(|error| damaged(error.to_string()))?;
        let mut file = FileWriter::create(directory, &name, &about, specs)?;
        contents.iter().enumerate().try_for_each(|(tensor, bytes)| file.append(tensor, bytes))?;
        for chunk in rows {
            let chunk = chunk.map_err(damaged)?;
            for (field, bytes) in chunk.iter().enumerate() {
                file.append(contents.len() + field, bytes)?;
            }
            // The engine may be gone. Its rows are written anyway.
            let _ = room.send(chunk);
        }
        file.finish()
    }
}

/// A checked file of a rank, with everything except the rows in memory.
pub(super) struct RankFile {
    pub(super) reader: FileReader,
    pub(super) state: RankState,
    pub(super) policy: Vec<u64>,
    pub(super) present: Vec<u32>,
    handles: Vec<RowHandle>,
    /// The table and the layout of the rows. `None` for a rank that never had rows.
    pub(super) table: Option<SlotTable>,
    pub(super) schema: Option<Schema>,
}

impl RankFile {
    /// Opens the file of `rank`. `entries` are the files of all ranks. The buffer must have had
    /// this configuration, these rules, and mini-batches of `specs`.
    pub(super) fn open(
        directory: &Path,
        entries: &[FileEntry],
        rank: usize,
        config: &RehearsalConfig,
        rules: &CustomRules,
        specs: &'static [FieldSpec],
    ) -> Result<Self, CheckpointError> {
        let (entry, world_size) = (&entries[rank], entries.len());
        let mut reader = FileReader::open(directory, entry)?;
        let state: RankState =
            serde_json::from_str(reader.about()).map_err(|error| reader.damaged(error))?;
        if state.step > u64::MAX / 2 {
            return Err(reader.damaged(format!("{} steps are impossible", state.step)));
        }
        let foreign =
            |reason: String| CheckpointError::Foreign { path: directory.join(&entry.name), reason };
        if let Some(reason) = difference(&state.config, &config_fields(config, rules)) {
            return Err(foreign(reason));
        }
        if state.rank != rank
            || state.world_size != world_size
            || blake3::Hash::from_hex(&state.draws).is_err()
        {
            return Err(reader.damaged("it is not the file of this rank"));
        }
        if state.pending.len() > config.lag {
            return Err(reader.damaged(format!(
                "it has representatives of {} steps, but the lag is {}",
                state.pending.len(),
                config.lag
            )));
        }
        if !has_valid_draws(&state, config.draws().count()) {
            return Err(reader.damaged("its numbers of rows per draw contradict each other"));
        }
        let policy = reader.numbers("policy", u64::from_le_bytes)?;
        let present = reader.numbers("classes.present", u32::from_le_bytes)?;
        let pending = state.pending.iter().try_fold(0usize, |sum, &count| sum.checked_add(count));
        let (mut handles, mut table, mut schema) = (Vec::new(), None, None);
        if let Some(shard) = &state.shard {
            let layout = layout(&shard.fields, specs).map_err(foreign)?;
            let ids = reader.numbers("slot.id", i64::from_le_bytes)?;
            let slots = ids.into_iter().map(|id| Slot { id, ..Slot::default() }).collect();
            let slots = read_columns(&mut reader, &SLOT_COLUMNS, slots)?;
            let handle = RowHandle { rank: 0, slot: 0, generation: 0 };
            let count = reader.len("pending.rank")? / size_of::<u32>();
            handles = read_columns(&mut reader, &HANDLE_COLUMNS, vec![handle; count])?;
            for field in layout.stored() {
                for (part, count) in [("row", shard.len), ("pending.field", handles.len())] {
                    let name = field_name(part, field);
                    if count.checked_mul(field.row_bytes()) != Some(reader.len(&name)?) {
                        return Err(reader.damaged(format!(
                            "its tensor {name:?} does not have the size of {count} rows"
                        )));
                    }
                }
            }
            let capacity = config.capacity_in_samples(layout.row_bytes(), world_size);
            let capacity = capacity.map_err(|error| reader.damaged(error))?;
            table = SlotTable::of_slots(
                shard_capacity(capacity, rank, world_size),
                layout.position(Role::Id).is_some(),
                shard.current_task,
                shard.old,
                &shard.seen,
                slots,
            );
            if table.as_ref().is_none_or(|table| table.len() != shard.len) {
                return Err(reader.damaged("its table contradicts itself"));
            }
            schema = Some(layout);
        }
        if pending != Some(handles.len()) {
            return Err(reader.damaged("its numbers of pending rows contradict each other"));
        }
        Ok(Self { reader, state, policy, present, handles, table, schema })
    }

    /// Appends the stored bytes of `count` rows of `field`, from row `first` of `part` on, to
    /// `out`.
    pub(super) fn read(
        &mut self,
        part: &str,
        field: &FieldLayout,
        first: usize,
        count: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        let (width, before) = (field.row_bytes(), out.len());
        self.reader.read(&field_name(part, field), first * width, count * width, out)?;
        // A byte that is neither true nor false must not become a boolean.
        if field.stored == DType::Bool(BoolStore::Native)
            && out[before..].iter().any(|&byte| byte > 1)
        {
            let name = field.spec.name;
            return Err(self
                .reader
                .damaged(format!("field {name:?} has a value that is not a boolean")));
        }
        Ok(())
    }

    /// Reads the pending representatives to `device`. They were drawn in the last steps.
    pub(super) fn pending(&mut self, device: &Device) -> Result<Vec<Delivery>, CheckpointError> {
        let (schema, counts) = (self.schema.clone(), self.state.pending.clone());
        let mut deliveries = Vec::new();
        let mut first = 0;
        for (index, &count) in counts.iter().enumerate() {
            let mut delivery = Delivery {
                handles: self.handles[first..first + count].to_vec(),
                draws: match self.state.pending_draws.get(index) {
                    Some(draws) => draws.as_slice().into(),
                    None => [count].as_slice().into(),
                },
                drawn_at: self.state.step.saturating_sub((counts.len() - index) as u64),
                ..Delivery::default()
            };
            for field in schema.iter().flat_map(Schema::stored).filter(|_| count > 0) {
                let mut bytes = Vec::new();
                self.read("pending.field", field, first, count, &mut bytes)?;
                let data = store::values(field, bytes, [count, field.elements()]);
                let (kind, row_shape) = (field.spec.kind, field.row_shape.clone());
                delivery.columns.push(Column::from_data(data, kind, row_shape, device));
            }
            deliveries.push(delivery);
            first += count;
        }
        Ok(deliveries)
    }
}

/// Whether the numbers of rows per draw match the pending steps and the `number` of draws.
fn has_valid_draws(state: &RankState, number: usize) -> bool {
    let sum = |draws: &[usize]| draws.iter().try_fold(0usize, |sum, &rows| sum.checked_add(rows));
    let match_step =
        |(draws, &count): (&Vec<usize>, &usize)| draws.len() == number && sum(draws) == Some(count);
    number == 1 && state.pending_draws.is_empty()
        || state.pending_draws.len() == state.pending.len()
            && state.pending_draws.iter().zip(&state.pending).all(match_step)
}

/// Reads the columns of a table into `rows`. The table must have as many rows.
fn read_columns<T>(
    reader: &mut FileReader,
    columns: &[TableColumn<T>],
    mut rows: Vec<T>,
) -> Result<Vec<T>, CheckpointError> {
    for (name, column) in columns {
        let values = reader.numbers(name, u32::from_le_bytes)?;
        if values.len() != rows.len() {
            let reason = format!("its tensor {name:?} does not have {} rows", rows.len());
            return Err(reader.damaged(reason));
        }
        rows.iter_mut().zip(values).for_each(|(row, value)| *column(row) = value);
    }
    Ok(rows)
}

/// The layout of the rows in a file, if the fields are those of the batch type.
fn layout(fields: &[FieldState], specs: &'static [FieldSpec]) -> Result<Schema, String> {
    match (fields.iter().any(|field| field.role == Role::Late), has_late(specs)) {
        (true, false) => {
            return Err("its rows have late fields, but this buffer stores none: they are \
                        switched off with `RehearsalConfig::with_late_fields(false)`, or the \
                        batch type has none"
                .into());
        }
        (false, true) => {
            return Err("its rows have no late fields, but this buffer stores them; switch them \
                        off with `RehearsalConfig::with_late_fields(false)`"
                .into());
        }
        _ => {}
    }
    if fields.len() != specs.len() {
        return Err(format!(
            "its rows have {} fields, but the batch type has {}",
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
        let dtype = spec.late.map_or(field.dtype, LateType::dtype);
        let expected = if spec.bytes { DType::U8 } else { dtype };
        let elements =
            field.shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
        let sane = elements.is_some_and(|elements| elements > 0 && elements < 1 << 40)
            && !matches!(field.dtype, DType::QFloat(_));
        let is_expected = field.dtype == dtype && field.stored == expected;
        if FieldState::of(&layout) != *field || !is_expected || !sane {
            return Err(format!(
                "its field {:?} is not the field {:?} of the batch type",
                field.name, spec.name
            ));
        }
        Ok(layout)
    });
    Ok(Schema::of_fields(layouts.collect::<Result<_, _>>()?))
}

/// All fields of a configuration that can change a result, except `late_fields`: the fields of the
/// rows show whether late fields are stored.
pub(super) fn config_fields(config: &RehearsalConfig, rules: &CustomRules) -> Map<String, Value> {
    let mut fields = match serde_json::to_value(config.for_digest().with_late_fields(true)) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    rules.name_in(&mut fields);
    fields
}

/// Describes the difference between two configurations. `None` if there is none.
fn difference(before: &Map<String, Value>, now: &Map<String, Value>) -> Option<String> {
    let text =
        |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let changes: Vec<_> = names
        .into_iter()
        .map(|name| (name, before.get(name), now.get(name)))
        .filter(|(_, before, now)| before != now)
        .map(|(name, before, now)| format!("{name} was {} and is {}", text(before), text(now)))
        .collect();
    (!changes.is_empty()).then(|| format!("the configuration differs: {}", changes.join(", ")))
}
