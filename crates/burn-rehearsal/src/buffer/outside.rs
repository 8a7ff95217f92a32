//! Offering and drawing rows outside of training steps.

use super::{RehearsalBuffer, State};
use crate::batch::{Column, RehearsalBatch};
use crate::engine::Request;
use crate::error::RehearsalError;
use crate::snapshot::stored_batch;
use burn::data::dataset::DatasetError;
use burn::tensor::Device;

impl<B: RehearsalBatch> RehearsalBuffer<B> {
    /// Offers all rows of `batches` to the buffer without drawing any, for example before training
    /// starts. Returns the number of rows offered by this rank. `batches` is what the `iter` of a
    /// `DataLoader` returns, of a loader without the buffer.
    ///
    /// Collective: all ranks call it at the same step. Each rank fills its own shard, with any
    /// number of mini-batches or none. Rows belong to the current task. A call is no step:
    /// representatives that are pending stay as they are, so the next `lag` mini-batches get no row
    /// of this call.
    ///
    /// # Errors
    ///
    /// As [`rehearse`](Self::rehearse), and [`RehearsalError::Data`] if `batches` returns an error.
    ///
    /// ```
    /// # use burn::tensor::{Device, Int, Tensor};
    /// # use burn_rehearsal::{Capacity, RehearsalConfig};
    /// # #[derive(burn_rehearsal::RehearsalBatch, Clone)]
    /// # struct Batch { images: Tensor<2>, #[rehearsal(class)] targets: Tensor<1, Int> }
    /// # let device = Device::flex();
    /// # let batch = |class: i64| Batch { images: Tensor::zeros([4, 8], &device), targets: Tensor::full([4], class, &device) };
    /// let buffer = RehearsalConfig::new(Capacity::Samples(100)).init::<Batch>()?;
    /// let batches = [batch(0), batch(1)];
    /// assert_eq!(buffer.fill(batches.map(Ok))?, 8);
    /// assert_eq!(buffer.len(), 8);
    /// let drawn = buffer.sample(5)?;
    /// assert_eq!(drawn.map(|drawn| drawn.targets.dims()), Some([5]));
    /// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
    /// ```
    pub fn fill(
        &self,
        batches: impl IntoIterator<Item = Result<B, DatasetError>>,
    ) -> Result<usize, RehearsalError> {
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

    /// Draws `rows` stored rows (or all, if fewer are stored) of the union of all shards with the
    /// configured sampling rule. `None` if no row can be drawn, or if this rank has had no
    /// mini-batch yet.
    ///
    /// Collective: all ranks call it at the same step, each with its own number of rows. Draws have
    /// random numbers of their own, so the draws of steps are the same with and without calls of
    /// this method. Fields marked `skip` take their default value, the `representative` field is
    /// `true`.
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
        Ok(Some(stored_batch(columns, rows, &on(device))?))
    }
}
