//! The state of a handle between steps, and its exchange with the engine.

use crate::batch::{
    Column, FieldLayout, FieldSpec, LayoutMaker, RehearsalBatch, Role, Schema, has_late,
    index_tensor, is_host,
};
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
    /// The fields of the batch type, except late fields that are not stored.
    pub(super) fields: &'static [FieldSpec],
    /// The layout of stored rows. Known after the first mini-batch, or after the first `annotate`
    /// if there are late fields.
    pub(super) schema: Option<Arc<Schema>>,
    /// The layout of mini-batches, which is that of stored rows without late fields.
    pub(super) incoming_schema: Option<Arc<Schema>>,
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
    /// The late fields of the current mini-batch. Empty between calls.
    pub(super) late: Vec<Column>,
    pub(super) layouts: LayoutMaker,
    /// The candidates of a mini-batch that was not annotated yet. Only with late fields.
    pub(super) open: Option<Offer>,
    /// Whether rounds and reports of failures wait for the next call on the buffer. With late
    /// fields, an inline engine would otherwise wait in `annotate` for a rank without rows, which
    /// may wait for this rank's gradients.
    pub(super) defers: bool,
    pub(super) deferred: Vec<(Request, Awaited)>,
}

/// The candidates of a step, before they are sent to the engine.
pub(super) struct Offer {
    step: u64,
    /// The number of incoming rows.
    rows: usize,
    lists: CandidateLists,
    /// Whether the engine selects the candidates.
    select: bool,
    /// The candidates among the incoming rows, unless the engine selects them.
    chosen: Vec<i64>,
    recycled: Delivery,
}

impl Offer {
    /// Copies the candidates' rows of `columns`, which are on the next devices of the list.
    fn copy<'a>(&mut self, columns: impl Iterator<Item = &'a Column>) {
        let Self { lists: CandidateLists { columns: copies, devices, .. }, chosen, .. } = self;
        if chosen.is_empty() {
            return;
        }
        let mut index = None;
        for (column, device) in columns.zip(&devices[copies.len()..]) {
            let index = on_device(&mut index, device, |at| index_tensor(chosen.clone(), at));
            copies.push(column.select(index));
        }
    }
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
            let error = error.clone();
            // The other ranks may not know yet. This rank's error stays the same.
            let _ = self.flush();
            return Err(error);
        }
        let result = operation(self);
        if let Err(error) = &result {
            self.poison(error.clone());
        }
        result
    }

    /// Makes every later operation return `error`. Discards a step that was not annotated yet.
    pub(super) fn poison(&mut self, error: RehearsalError) {
        self.open = None;
        self.error = Some(error);
    }

    /// Sends a request that needs other ranks.
    fn submit(&mut self, request: Request, answer: Awaited) -> Result<(), RehearsalError> {
        if self.defers {
            self.deferred.push((request, answer));
            return Ok(());
        }
        self.link.send(request)?;
        self.outstanding.push_back(answer);
        Ok(())
    }

    /// Sends all deferred requests.
    fn flush(&mut self) -> Result<(), RehearsalError> {
        let Self { deferred, link, outstanding, .. } = self;
        deferred.drain(..).try_for_each(|(request, answer)| {
            link.send(request)?;
            outstanding.push_back(answer);
            Ok(())
        })
    }

    /// Sends a round for a step in which this rank has no rows.
    pub(super) fn skip(&mut self) -> Result<(), RehearsalError> {
        self.submit(Request::SkipStep, Awaited::Round { skipped: true })
    }

    /// Returns an error, also to the other ranks, if the last mini-batch was not annotated.
    pub(super) fn check_annotated(&mut self) -> Result<(), RehearsalError> {
        if self.open.is_none() {
            return Ok(());
        }
        self.report_failure(FailCode::Batch);
        Err(RehearsalError::Misuse(
            "the last mini-batch was not annotated: call `annotate` on its row layout after the \
             forward pass and before any other call on the buffer, or switch late fields off with \
             `RehearsalConfig::with_late_fields(false)`",
        ))
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
        self.flush()?;
        let decides =
            |awaited: &_| matches!(awaited, Awaited::Round { skipped: true } | Awaited::Task(_));
        if self.outstanding.iter().any(decides) { self.drain() } else { Ok(()) }
    }

    /// Receives every outstanding answer.
    pub(super) fn drain(&mut self) -> Result<(), RehearsalError> {
        self.flush()?;
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
        let schema = match &self.incoming_schema {
            Some(schema) => schema.clone(),
            None => Arc::new(Schema::of(self.fields, &self.incoming)?),
        };
        let rows = schema.check(&self.incoming)?;
        self.incoming_schema.get_or_insert_with(|| schema.clone());
        if !self.has_late() {
            self.schema.get_or_insert_with(|| schema.clone());
        }
        let autodiff = self.incoming.iter().any(|column| column.device().is_autodiff());
        if *self.autodiff.get_or_insert(autodiff) != autodiff {
            return Err(BatchError::Autodiff { autodiff });
        }
        Ok((rest, schema, rows))
    }

    /// Whether late fields are stored.
    pub(super) fn has_late(&self) -> bool {
        has_late(self.fields)
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
        let _ = self.submit(Request::Leave(code, reply), Awaited::Done(answer));
    }

    /// Receives and ignores every outstanding answer, after an error.
    pub(super) fn abandon(&mut self) {
        let _ = self.flush();
        while !self.outstanding.is_empty() {
            let _ = self.collect();
        }
        self.ready.clear();
    }

    /// Offers the first `rows` rows of the current mini-batch to the engine, at the time `sent`.
    /// With late fields, they are sent when the step is annotated. Returns the number of bytes
    /// copied.
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
        let mut offer =
            Offer { step: self.step, rows, lists, select, chosen: Vec::new(), recycled };
        if select {
            offer.lists.columns.extend(stored().cloned());
        } else {
            let selected = &mut offer.lists.selected;
            self.selector.select(config, self.step, rank, rows, selected);
            offer.chosen.extend(selected.iter().map(|&row| i64::from(row)));
            selected.clear();
            selected.extend(0..offer.chosen.len() as u32);
            offer.copy(stored());
        }
        let copied = offer.chosen.len() * row_bytes(schema.stored());
        if self.has_late() {
            self.open = Some(offer);
        } else {
            self.send(schema.clone(), offer, sent)?;
        }
        Ok(copied)
    }

    fn send(
        &mut self,
        schema: Arc<Schema>,
        offer: Offer,
        sent: Instant,
    ) -> Result<(), RehearsalError> {
        let Offer { rows, lists, select, recycled, .. } = offer;
        let batch = CandidateBatch { schema, rows, lists, select, sent, recycled };
        self.submit(Request::Rows(batch), Awaited::Round { skipped: false })
    }

    /// Completes the candidates of `step` with late fields and offers them to the engine. Returns
    /// the number of bytes copied. Reports an error to the other ranks.
    pub(super) fn annotate(
        &mut self,
        step: u64,
        late: &mut dyn FnMut(&mut Vec<Column>) -> Result<(), BatchError>,
    ) -> Result<usize, RehearsalError> {
        let completed = self.complete(step, late);
        let (schema, offer, copied) =
            completed.inspect_err(|_| self.report_failure(FailCode::Batch))?;
        self.send(schema, offer, Instant::now())?;
        Ok(copied)
    }

    fn complete(
        &mut self,
        step: u64,
        late: &mut dyn FnMut(&mut Vec<Column>) -> Result<(), BatchError>,
    ) -> Result<(Arc<Schema>, Offer, usize), RehearsalError> {
        let (Some(mut offer), Some(incoming_schema)) =
            (self.open.take_if(|open| open.step == step), &self.incoming_schema)
        else {
            return Err(RehearsalError::Misuse("a mini-batch was annotated twice"));
        };
        self.late.clear();
        late(&mut self.late)?;
        let schema = match &self.schema {
            Some(schema) => schema.clone(),
            None => Arc::new(incoming_schema.with_late(self.fields, &self.late)?),
        };
        schema.check_late(&self.late, offer.rows)?;
        self.schema.get_or_insert_with(|| schema.clone());
        offer.lists.devices.extend(self.late.iter().map(Column::device));
        if offer.select {
            offer.lists.columns.append(&mut self.late);
        } else {
            offer.copy(self.late.iter());
            self.late.clear();
        }
        let late = schema.stored().filter(|field| field.spec.role == Role::Late);
        let copied = offer.chosen.len() * row_bytes(late);
        Ok((schema, offer, copied))
    }

    /// Appends the representatives to the incoming columns and fills the `representative` field.
    /// Returns the number of bytes copied.
    pub(super) fn merge(
        &mut self,
        schema: &Schema,
        rows: usize,
        delivery: Option<&mut Delivery>,
    ) -> Result<usize, RehearsalError> {
        let extra = delivery.as_ref().map_or(0, |delivery| delivery.handles.len());
        let mut drawn = delivery.as_ref().into_iter().flat_map(|delivery| &delivery.columns);
        // Late fields follow the autodiff association of the first field.
        let device = self.incoming.first().map(Column::device);
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
        if let (Some(delivery), Some(device)) = (delivery, device) {
            let late = schema.stored().count().min(delivery.columns.len());
            // The mini-batch gets the memory of late fields: it has no rows of its own for them.
            self.merged.extend(delivery.columns.drain(late..).map(|column| column.on(&device)));
        }
        Ok(bytes)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // The other ranks wait for the rounds of this one. After a panic they learn of it sooner
        // if the engine is dropped.
        if !std::thread::panicking() {
            let _ = self.flush();
        }
    }
}

/// The size of a row of these fields in a mini-batch, in bytes.
fn row_bytes<'a>(fields: impl Iterator<Item = &'a FieldLayout>) -> usize {
    fields.map(|field| field.elements() * field.dtype.size()).sum()
}
