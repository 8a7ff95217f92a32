//! What a handle remembers between two steps, and how it talks to its engine.

use crate::batch::{Column, Kind, Role, Schema, index_tensor, is_host};
use crate::candidates::CandidateSelector;
use crate::config::RehearsalConfig;
use crate::engine::{FailCode, Offer, Parcel, Request, Response};
use crate::error::RehearsalError;
use crate::link::Link;
use burn::tensor::{Int, Shape, Tensor, TensorData};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// What the training side remembers between steps.
pub(super) struct State {
    pub(super) link: Link,
    pub(super) schema: Option<Arc<Schema>>,
    /// Whether mini-batches are on autodiff devices, once there was one.
    pub(super) autodiff: Option<bool>,
    /// Steps done by this handle: rounds in which some rank had rows.
    pub(super) step: u64,
    /// The requests whose responses are still to come.
    pub(super) outstanding: VecDeque<Awaited>,
    /// Representatives of the next steps, in order. The first belongs to step max(step, lag).
    pub(super) ready: VecDeque<Parcel>,
    /// Parcels that came back and were unpacked.
    pub(super) spare: Vec<Parcel>,
    pub(super) error: Option<RehearsalError>,
    /// Whether an iterator of a `RehearsalLoader` is alive.
    pub(super) iterating: bool,
    /// Of candidates that are selected here.
    pub(super) selector: CandidateSelector,
    /// The columns of the mini-batch in hand, before and after the representatives are appended; empty between steps.
    pub(super) incoming: Vec<Column>,
    pub(super) merged: Vec<Column>,
}

/// What a response is still to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaited {
    /// A round with rows of this rank.
    Rows,
    /// A round in which it had none.
    NoRows,
    /// The beginning of a checkpoint.
    Saving,
    /// The beginning of a task.
    Task,
    /// The last round of a rank that leaves.
    Leaving,
}

impl State {
    /// Runs one operation unless the buffer is poisoned, and poisons it if the operation fails.
    pub(super) fn guarded<T>(&mut self, operation: impl FnOnce(&mut State) -> Result<T, RehearsalError>) -> Result<T, RehearsalError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let result = operation(self);
        if let Err(error) = &result {
            self.error = Some(error.clone());
        }
        result
    }

    /// Receives the oldest outstanding response.
    pub(super) fn collect(&mut self, config: &RehearsalConfig) -> Result<(), RehearsalError> {
        let Some(awaited) = self.outstanding.pop_front() else { return Err(RehearsalError::EngineGone) };
        let (counted, representatives) = match (awaited, self.link.receive()?) {
            (Awaited::Saving, Response::Saving) | (Awaited::Task, Response::Redrawn(None)) => return Ok(()),
            (Awaited::Task, Response::Redrawn(Some(pending))) => {
                self.ready = pending.into();
                return Ok(());
            }
            (Awaited::Rows | Awaited::NoRows, Response::Round { counted, representatives }) => (counted, representatives),
            _ => return Err(RehearsalError::EngineGone),
        };
        self.ready.extend(representatives);
        if counted && awaited == Awaited::NoRows {
            // The others used this step's representatives; this rank had nothing to train on and lets its own go.
            if self.step >= config.lag as u64 {
                let parcel = self.ready.pop_front();
                self.recycle(parcel);
            }
            self.step += 1;
        }
        Ok(())
    }

    /// Keeps an unpacked parcel for the next offer. There is never use for more than one in each direction.
    pub(super) fn recycle(&mut self, parcel: Option<Parcel>) {
        if self.spare.len() < 2 {
            self.spare.extend(parcel);
        }
    }

    /// Receives every outstanding response if one of them decides whether a step happened, or what is drawn.
    pub(super) fn drain_if_needed(&mut self, config: &RehearsalConfig) -> Result<(), RehearsalError> {
        if self.outstanding.iter().any(|awaited| matches!(awaited, Awaited::NoRows | Awaited::Task)) { self.drain(config) } else { Ok(()) }
    }

    pub(super) fn drain(&mut self, config: &RehearsalConfig) -> Result<(), RehearsalError> {
        while !self.outstanding.is_empty() {
            self.collect(config)?;
        }
        Ok(())
    }

    /// Tells the other ranks that this one leaves. Its own error matters more than whether they heard.
    pub(super) fn report_failure(&mut self, code: FailCode) {
        if self.link.send(Request::Failed(code)).is_ok() {
            self.outstanding.push_back(Awaited::Leaving);
        }
    }

    /// Receives every outstanding response after an error; none of them matters any more.
    pub(super) fn abandon(&mut self) {
        while self.outstanding.pop_front().is_some() {
            let _ = self.link.receive();
        }
        self.ready.clear();
    }

    /// Offers the first `rows` rows of the mini-batch in hand to the engine, at the time `sent`; the bytes that were copied.
    pub(super) fn offer(
        &mut self,
        config: &RehearsalConfig,
        rank: usize,
        schema: &Arc<Schema>,
        rows: usize,
        sent: Instant,
    ) -> Result<usize, RehearsalError> {
        let mut parcel = self.spare.pop().unwrap_or_default();
        parcel.candidates.clear();
        parcel.devices.clear();
        parcel.rows.clear();
        let columns = if self.merged.is_empty() { &self.incoming } else { &self.merged };
        let stored = || schema.fields().iter().zip(columns).filter(|(field, _)| field.is_stored()).map(|(_, column)| column);
        parcel.devices.extend(stored().map(|column| column.device().inner()));
        // In host memory the engine chooses the candidates and copies them from where they are; on a device they are copied there, before anybody can
        // overwrite them.
        let shared = parcel.devices.iter().all(is_host);
        let mut copied = 0;
        if shared {
            parcel.candidates.extend(stored().cloned());
        } else {
            self.selector.select(config, self.step, rank, rows, &mut parcel.rows);
            let chosen: Vec<i64> = parcel.rows.iter().map(|&row| i64::from(row)).collect();
            let mut index: Option<Tensor<1, Int>> = None;
            for (column, device) in stored().zip(&parcel.devices).filter(|_| !chosen.is_empty()) {
                // One upload serves all fields, unless a field lives on another device.
                let uploaded = index.take().filter(|index| index.device() == *device);
                let uploaded = uploaded.unwrap_or_else(|| index_tensor(chosen.clone(), device));
                parcel.candidates.push(column.select(&uploaded));
                index = Some(uploaded);
            }
            copied = chosen.len() * schema.stored().map(|field| field.elements() * field.dtype.size()).sum::<usize>();
            parcel.rows.clear();
            parcel.rows.extend(0..chosen.len() as u32);
        }
        self.link.send(Request::Rows(Offer { schema: schema.clone(), parcel, rows, choose: shared, sent }))?;
        self.outstanding.push_back(Awaited::Rows);
        Ok(copied)
    }

    /// Appends the representatives to the incoming columns and fills the `representative` field; the bytes that were copied.
    pub(super) fn merge(&mut self, schema: &Schema, rows: usize, parcel: Option<&mut Parcel>) -> Result<usize, RehearsalError> {
        let mut none = Parcel::default();
        let Parcel { columns: drawn, handles, .. } = parcel.unwrap_or(&mut none);
        let extra = handles.len();
        let mut drawn = drawn.iter();
        self.merged.clear();
        let mut bytes = 0;
        for (field, mut column) in schema.fields().iter().zip(self.incoming.drain(..)) {
            self.merged.push(if field.spec.role == Role::Representative {
                let mut flags = vec![false; rows];
                flags.resize(rows + extra, true);
                let data = TensorData::new(flags, [rows + extra, 1]).convert_dtype(field.dtype);
                Column::from_data(data, Kind::Bool, Shape::new([]), &column.device())
            } else if let Some(tail) = drawn.next() {
                bytes += column.append_counting(tail, field.spec.name)? * field.elements() * field.dtype.size();
                column
            } else {
                column
            });
        }
        Ok(bytes)
    }
}
