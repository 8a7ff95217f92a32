//! The state of a handle between steps, and its exchange with the engine.

use crate::batch::{Column, RehearsalBatch, Role, Schema, index_tensor, is_host};
use crate::candidates::CandidateSelector;
use crate::config::RehearsalConfig;
use crate::engine::{
    Answer, CandidateBatch, CandidateLists, Delivery, FailCode, Reply, Request, Round,
};
use crate::error::{BatchError, RehearsalError};
use crate::link::Link;
use crate::store::on_device;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// The state of the training side between steps.
pub(super) struct State {
    pub(super) link: Link,
    /// The outcomes of rounds, in order.
    pub(super) rounds: Receiver<Answer<Round>>,
    /// The [configured](RehearsalConfig::lag) lag.
    pub(super) lag: u64,
    pub(super) schema: Option<Arc<Schema>>,
    /// Whether mini-batches are on autodiff devices. `None` before the first one.
    pub(super) autodiff: Option<bool>,
    /// The number of steps that this handle has done: rounds in which some rank had rows.
    pub(super) step: u64,
    /// The pending answers, in order.
    pub(super) outstanding: VecDeque<Awaited>,
    /// Representatives of the next steps, in order. The first belongs to step max(step, lag).
    pub(super) ready: VecDeque<Delivery>,
    /// Used deliveries, whose memory is reused.
    pub(super) spare: Vec<Delivery>,
    pub(super) error: Option<RehearsalError>,
    /// Whether an iterator of a `RehearsalLoader` is alive.
    pub(super) iterating: bool,
    /// Selects candidates on devices other than the host.
    pub(super) selector: CandidateSelector,
    /// The columns of the current mini-batch, before and after the representatives are appended.
    /// Empty between steps.
    pub(super) incoming: Vec<Column>,
    pub(super) merged: Vec<Column>,
}

/// A pending answer.
pub(super) enum Awaited {
    /// A round. In a skipped step this rank has no rows.
    Round { skipped: bool },
    /// The beginning of a task: all pending representatives, if they were drawn again.
    Task(Receiver<Answer<Option<Vec<Delivery>>>>),
    /// The beginning of a checkpoint, or the last round of a rank that leaves.
    Done(Receiver<Answer<()>>),
}

impl State {
    /// Runs one operation unless the buffer is poisoned, and poisons it if the operation fails.
    pub(super) fn guarded<T>(
        &mut self,
        operation: impl FnOnce(&mut State) -> Result<T, RehearsalError>,
    ) -> Result<T, RehearsalError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let result = operation(self);
        if let Err(error) = &result {
            self.error = Some(error.clone());
        }
        result
    }

    /// Receives the oldest outstanding answer.
    pub(super) fn collect(&mut self) -> Result<(), RehearsalError> {
        match self.outstanding.pop_front().ok_or(RehearsalError::EngineGone)? {
            Awaited::Round { skipped } => {
                let Round::Step(delivery) = self.link.receive(&self.rounds)? else { return Ok(()) };
                self.ready.push_back(delivery);
                if skipped {
                    // The other ranks used this step's representatives. This rank has no mini-batch
                    // for its own.
                    if self.step >= self.lag {
                        let unused = self.ready.pop_front();
                        self.recycle(unused);
                    }
                    self.step += 1;
                }
            }
            Awaited::Task(answer) => {
                if let Some(pending) = self.link.receive(&answer)? {
                    self.ready = pending.into();
                }
            }
            Awaited::Done(answer) => self.link.receive(&answer)?,
        }
        Ok(())
    }

    /// The representatives of this step; `None` in the first `lag` steps.
    pub(super) fn next_delivery(&mut self) -> Result<Option<Delivery>, RehearsalError> {
        if self.step < self.lag {
            return Ok(None);
        }
        while self.ready.is_empty() {
            self.collect()?;
        }
        Ok(self.ready.pop_front())
    }

    /// The number of rounds that the engine has not answered.
    pub(super) fn rounds_under_way(&self) -> usize {
        self.outstanding.iter().filter(|awaited| matches!(awaited, Awaited::Round { .. })).count()
    }

    /// Keeps the memory of a used delivery for the next offer. At most two can be reused: one on
    /// its way to the engine and one on its way back.
    pub(super) fn recycle(&mut self, delivery: Option<Delivery>) {
        if self.spare.len() < 2 {
            self.spare.extend(delivery);
        }
    }

    /// Receives every outstanding answer if one of them decides whether a step took place, or which
    /// rows are drawn.
    pub(super) fn drain_if_needed(&mut self) -> Result<(), RehearsalError> {
        let decides =
            |awaited: &_| matches!(awaited, Awaited::Round { skipped: true } | Awaited::Task(_));
        if self.outstanding.iter().any(decides) { self.drain() } else { Ok(()) }
    }

    /// Receives every outstanding answer.
    pub(super) fn drain(&mut self) -> Result<(), RehearsalError> {
        while !self.outstanding.is_empty() {
            self.collect()?;
        }
        Ok(())
    }

    /// Fills `incoming` with the columns of `batch`, and checks them against the first mini-batch.
    /// Returns the other fields, the layout and the number of rows. Reports an error to the other
    /// ranks.
    pub(super) fn take_apart<B: RehearsalBatch>(
        &mut self,
        batch: B,
    ) -> Result<(B::Rest, Arc<Schema>, usize), RehearsalError> {
        let parts = self.check_columns(batch);
        Ok(parts.inspect_err(|_| self.report_failure(FailCode::Batch))?)
    }

    fn check_columns<B: RehearsalBatch>(
        &mut self,
        batch: B,
    ) -> Result<(B::Rest, Arc<Schema>, usize), BatchError> {
        self.incoming.clear();
        self.merged.clear();
        let rest = batch.into_parts(&mut self.incoming)?;
        let schema = match &self.schema {
            Some(schema) => schema.clone(),
            None => Arc::new(Schema::of(B::FIELDS, &self.incoming)?),
        };
        let rows = schema.check(&self.incoming)?;
        self.schema.get_or_insert_with(|| schema.clone());
        let autodiff = self.incoming.iter().any(|column| column.device().is_autodiff());
        if *self.autodiff.get_or_insert(autodiff) != autodiff {
            return Err(BatchError::Autodiff { autodiff });
        }
        Ok((rest, schema, rows))
    }

    /// Offers all `rows` rows of the current mini-batch outside of a step.
    pub(super) fn fill(&mut self, schema: Arc<Schema>, rows: usize) -> Result<(), RehearsalError> {
        let fields = schema.fields().iter().zip(self.incoming.drain(..));
        let stored = fields.filter(|(field, _)| field.is_stored());
        let columns: Vec<_> = stored.map(|(_, column)| column).collect();
        let devices = columns.iter().map(|column| column.device().inner()).collect();
        let lists = CandidateLists { columns, selected: (0..rows as u32).collect(), devices };
        self.link.ask(|reply| Request::Fill(schema, lists, reply))
    }

    /// Reports to the other ranks that this one leaves. If the report cannot be sent, this rank's
    /// error stays the same.
    pub(super) fn report_failure(&mut self, code: FailCode) {
        let (reply, answer) = Reply::channel();
        if self.link.send(Request::Leave(code, reply)).is_ok() {
            self.outstanding.push_back(Awaited::Done(answer));
        }
    }

    /// Receives and ignores every outstanding answer, after an error.
    pub(super) fn abandon(&mut self) {
        while !self.outstanding.is_empty() {
            let _ = self.collect();
        }
        self.ready.clear();
    }

    /// Offers the first `rows` rows of the current mini-batch to the engine, at the time `sent`.
    /// Returns the number of bytes copied.
    pub(super) fn offer(
        &mut self,
        config: &RehearsalConfig,
        rank: usize,
        schema: &Arc<Schema>,
        rows: usize,
        sent: Instant,
    ) -> Result<usize, RehearsalError> {
        let mut recycled = self.spare.pop().unwrap_or_default();
        let mut lists = std::mem::take(&mut recycled.lists);
        lists.columns.clear();
        lists.devices.clear();
        lists.selected.clear();
        let columns = if self.merged.is_empty() { &self.incoming } else { &self.merged };
        let stored = || {
            schema
                .fields()
                .iter()
                .zip(columns)
                .filter(|(field, _)| field.is_stored())
                .map(|(_, column)| column)
        };
        lists.devices.extend(stored().map(|column| column.device().inner()));
        // In host memory, the engine selects the candidates and copies them from the mini-batch. On
        // a device, they are copied here, before the mini-batch can be overwritten.
        let select = lists.devices.iter().all(is_host);
        let mut copied = 0;
        if select {
            lists.columns.extend(stored().cloned());
        } else {
            self.selector.select(config, self.step, rank, rows, &mut lists.selected);
            let chosen: Vec<i64> = lists.selected.iter().map(|&row| i64::from(row)).collect();
            let mut index = None;
            for (column, device) in stored().zip(&lists.devices).filter(|_| !chosen.is_empty()) {
                let index = on_device(&mut index, device, |at| index_tensor(chosen.clone(), at));
                lists.columns.push(column.select(index));
            }
            copied = chosen.len()
                * schema.stored().map(|field| field.elements() * field.dtype.size()).sum::<usize>();
            lists.selected.clear();
            lists.selected.extend(0..chosen.len() as u32);
        }
        self.link.send(Request::Rows(CandidateBatch {
            schema: schema.clone(),
            rows,
            lists,
            select,
            sent,
            recycled,
        }))?;
        self.outstanding.push_back(Awaited::Round { skipped: false });
        Ok(copied)
    }

    /// Appends the representatives to the incoming columns and fills the `representative` field.
    /// Returns the number of bytes copied.
    pub(super) fn merge(
        &mut self,
        schema: &Schema,
        rows: usize,
        delivery: Option<&Delivery>,
    ) -> Result<usize, RehearsalError> {
        let extra = delivery.map_or(0, |delivery| delivery.handles.len());
        let mut drawn = delivery.into_iter().flat_map(|delivery| &delivery.columns);
        self.merged.clear();
        let mut bytes = 0;
        for (field, mut column) in schema.fields().iter().zip(self.incoming.drain(..)) {
            self.merged.push(if field.spec.role == Role::Representative {
                let mut flags = vec![false; rows];
                flags.resize(rows + extra, true);
                Column::flags(flags, field.dtype, &column.device())
            } else if let Some(tail) = drawn.next() {
                bytes += column.append_counting(tail, field.spec.name)?
                    * field.elements()
                    * field.dtype.size();
                column
            } else {
                column
            });
        }
        Ok(bytes)
    }
}
