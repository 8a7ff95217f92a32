//! Pre-filling the buffer, and drawing rows outside of training steps.

use super::{RehearsalBuffer, State};
use crate::batch::{Column, RehearsalBatch, RowLayout, has_late};
use crate::engine::Request;
use crate::error::RehearsalError;
use crate::snapshot::stored_batch;
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

impl<B: RehearsalBatch> RehearsalBuffer<B> {
    /// Offers all rows of `batches` to the buffer without drawing any, for example before training.
    /// Returns the number of rows that this rank offered.
    ///
    /// Pass the `iter()` of a `DataLoader` to which no buffer is attached. Rows belong to the
    /// current task. The call is not a step: pending representatives stay as they are, so the next
    /// `lag` mini-batches contain no row of this call.
    ///
    /// Collective: all ranks call it at the same step. Each rank fills its own shard, with any
    /// number of mini-batches or none.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
    /// let buffer = RehearsalConfig::new(Capacity::Samples(100)).init::<Batch>()?;
    /// let batches = [load(), load()].map(Ok); // or the `iter()` of a loader
    /// assert_eq!(buffer.fill(batches)?, 8);
    /// assert_eq!(buffer.len(), 8);
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse), and [`RehearsalError::Data`] if `batches` returns an error.
    /// [`RehearsalError::Misuse`] if the buffer stores late fields; the buffer is unchanged.
    pub fn fill(
        &self,
        batches: impl IntoIterator<Item = Result<B, DatasetError>>,
    ) -> Result<usize, RehearsalError> {
        if has_late(self.config().fields::<B>()) {
            return Err(RehearsalError::Misuse(
                "`fill` has no values for late fields: such rows are stored in steps only, unless \
                 late fields are switched off with `RehearsalConfig::with_late_fields(false)`",
            ));
        }
        self.lock().guarded(State::drain)?;
        let mut offered = 0;
        for batch in batches {
            let batch = batch.map_err(|error| RehearsalError::Data(error.to_string()));
            let batch = batch.inspect_err(|error| self.abort(error.clone()))?;
            offered += self.lock().guarded(|state| {
                let (_, schema, rows) = state.take_apart(batch)?;
                state.fill(schema, rows)?;
                Ok(rows)
            })?;
        }
        self.ask(Request::EndFill)?;
        Ok(offered)
    }

    /// Draws `rows` rows from all shards together with the configured sampling rule, or all rows if
    /// fewer are stored. `None` if no row can be drawn, or before the first mini-batch of this
    /// rank.
    ///
    /// The draw uses its own random numbers: it does not change the draws of steps. Fields marked
    /// `skip` take their default value, and the `representative` field is `true`.
    ///
    /// Collective: all ranks call it at the same step, each with its own number of rows.
    ///
    /// ```
    /// # use burn::tensor::{Device, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalBatch, RehearsalConfig};
    /// # #[derive(RehearsalBatch)]
    /// # struct Batch { inputs: Tensor<2> }
    /// # let load = || Batch { inputs: Tensor::zeros([4, 8], &Device::flex()) };
    /// let buffer = RehearsalConfig::new(Capacity::Samples(100)).init::<Batch>()?;
    /// assert!(buffer.sample(3)?.is_none());
    /// buffer.rehearse(load())?;
    /// let drawn = buffer.sample(3)?;
    /// assert_eq!(drawn.map(|batch| batch.inputs.dims()), Some([3, 8]));
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse).
    pub fn sample(&self, rows: usize) -> Result<Option<B>, RehearsalError>
    where
        B: RehearsalBatch<Rest: Default>,
    {
        let delivery = self.ask(|reply| Request::Sample(rows, reply))?;
        let rows = delivery.handles.len();
        let Some(device) = delivery.columns.first().map(Column::device) else { return Ok(None) };
        let autodiff = self.lock().autodiff == Some(true);
        let on = |device: Device| if autodiff { device.autodiff() } else { device };
        let columns = delivery.columns.into_iter().map(|column| {
            let device = on(column.device());
            column.on(&device)
        });
        Ok(Some(stored_batch(columns, rows, RowLayout::drawn(rows), &on(device))?))
    }
}
