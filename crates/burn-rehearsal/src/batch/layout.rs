//! Row layouts and late fields.
//!
//! # Row layouts
//!
//! A field marked `layout` has the type [`RowLayout`]. It names the incoming rows of a mini-batch
//! and the rows of each draw.
//!
//! # Late fields
//!
//! A late field is stored with a sample, but its values are known only after the forward pass: the
//! network's outputs, a loss, or a score. The batcher leaves it `None`. The training step passes
//! the values of the incoming rows to [`RowLayout::annotate`], and the buffer stores them with the
//! candidates. In later mini-batches, the field holds the values of the drawn rows.
//!
//! Dark Experience Replay (Buzzega et al., NeurIPS 2020, [arXiv
//! 2004.07211](https://arxiv.org/abs/2004.07211)) stores logits, and keeps the network's outputs
//! for replayed samples close to them:
//!
//! ```
//! # use burn::tensor::{Int, Tensor};
//! # use burn_rehearsal::{RehearsalBatch, RowLayout};
//! #[derive(RehearsalBatch, Clone, Debug)]
//! struct DerBatch {
//!     inputs: Tensor<2>, // `[rows, features]`
//!     #[rehearsal(class)]
//!     targets: Tensor<1, Int>, // `[rows]`
//!     #[rehearsal(late)]
//!     logits: Option<Tensor<2>>, // `[representatives, classes]`, from when each row was stored
//!     #[rehearsal(layout)]
//!     rows: RowLayout<Self>,
//! }
//! ```
//!
//! The batcher leaves the late field and the layout empty. The buffer fills them:
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! use burn_rehearsal::{Capacity, RehearsalConfig, RowLayout};
//!
//! # let device = training_device();
//! let inputs = Tensor::zeros([4, 1], &device);
//! let targets = Tensor::from_data([0, 1, 1, 0], &device);
//! let batch = DerBatch { inputs, targets, logits: None, rows: RowLayout::default() };
//!
//! let buffer = RehearsalConfig::new(Capacity::Samples(100)).init::<DerBatch>()?;
//! let batch = buffer.rehearse(batch)?; // or an attached loader
//! assert_eq!(batch.rows.incoming(), Some(4));
//! # Ok::<(), burn_rehearsal::error::RehearsalError>(())
//! ```
//!
//! The training step passes the logits of the incoming rows to the buffer, in the struct
//! `DerBatchLate` that the derive writes. The loss is the cross entropy of the incoming rows. If
//! rows were drawn, the distance between their stored logits and the network's outputs is added:
//!
//! ```
//! # mod stubs { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/doc/stubs.rs")); }
//! # use stubs::*;
//! # let (network, buffer) = (network(), der_buffer()?);
//! # for step in 0..3 {
//! # let batch = buffer.rehearse(der_batch())?;
//! # assert_eq!(batch.logits.is_some(), step > 0);
//! use burn::nn::loss::{MseLoss, Reduction};
//!
//! let outputs = network.forward(batch.inputs);
//! let drawn = batch.rows.range(0); // the rows of the first draw
//! let incoming = outputs.clone().slice(0..drawn.start);
//! batch.rows.annotate(DerBatchLate { logits: incoming.clone() });
//! let mut loss = cross_entropy(incoming, batch.targets.slice(0..drawn.start));
//! if let Some(stored) = batch.logits {
//!     let drawn = outputs.slice(drawn);
//!     loss = loss + MseLoss::new().forward(drawn, stored, Reduction::Mean) * 0.3;
//! }
//! # loss.backward(); }
//! # assert_eq!(buffer.len(), 12);
//! # Ok::<(), burn_rehearsal::error::RehearsalError>(())
//! ```
//!
//! # Rules
//!
//! * Every mini-batch from the buffer is annotated exactly once, before the next step. Between the
//!   two, `begin_task`, `fill`, `sample`, `report`, `checkpoint` and `restore` return an error.
//! * The candidates of a step are inserted when it is annotated, so no sample is ever stored
//!   without its late values. Therefore the buffer needs a [lag](crate::RehearsalConfig::lag) of at
//!   least 1.
//! * Memory is allocated at the first `annotate`. A capacity in bytes is known from then on.
//! * Late fields need an attached loader or a custom loop. A
//!   [`RehearsalBatcher`](crate::RehearsalBatcher) runs ahead of the training step and refuses
//!   them, and [`fill`](crate::RehearsalBuffer::fill) has no values for them.
//! * With [`Execution::Inline`](crate::Execution::Inline) on several ranks, the work of a step is
//!   done during the next call on the buffer. A rank then never waits inside `annotate` for ranks
//!   that wait for its gradients.
//! * A method that needs no late fields can use the same batch type. If the buffer is configured
//!   [`with_late_fields(false)`](crate::RehearsalConfig::with_late_fields), no other rule applies.

use super::column::Column;
use super::{FieldSpec, RehearsalBatch, Role};
use crate::error::BatchError;
use burn::tensor::DType;
use smallvec::SmallVec;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// Which rows of a mini-batch are incoming, and which came from which draw. The type of a field
/// marked `layout`.
///
/// A batcher uses the default, which is *detached*: all rows are incoming, and
/// [`annotate`](Self::annotate) does nothing. Validation data stays detached. The buffer replaces
/// the layout of every mini-batch that goes through it.
///
/// ```
/// # use burn::tensor::Tensor;
/// # use burn_rehearsal::{RehearsalBatch, RowLayout};
/// #[derive(RehearsalBatch)]
/// struct Batch {
///     inputs: Tensor<2>,
///     #[rehearsal(layout)]
///     rows: RowLayout<Self>,
/// }
///
/// /// The inputs of the rows that came from the first draw.
/// fn drawn(batch: &Batch) -> Tensor<2> {
///     batch.inputs.clone().slice(batch.rows.range(0))
/// }
/// ```
pub struct RowLayout<B> {
    rows: Option<Arc<Rows>>,
    batch: PhantomData<fn(B) -> B>,
}

/// The rows of a mini-batch from the buffer. All clones of the mini-batch share it.
pub(crate) struct Rows {
    incoming: usize,
    /// The number of rows of each draw.
    draws: SmallVec<[usize; 4]>,
    /// The step of the mini-batch.
    step: u64,
    /// The buffer, which a mini-batch does not keep alive. `None` for rows drawn outside of steps.
    buffer: Option<Weak<dyn Annotate>>,
}

/// Receives the late fields of a step.
pub(crate) trait Annotate: Send + Sync {
    /// Completes the candidates of `step`. `late` appends one column per late field.
    fn annotate(&self, step: u64, late: &mut dyn FnMut(&mut Vec<Column>) -> Result<(), BatchError>);
}

impl<B> RowLayout<B> {
    fn new(rows: Arc<Rows>) -> Self {
        Self { rows: Some(rows), batch: PhantomData }
    }

    /// The layout of `rows` rows that were drawn outside of a step.
    pub(crate) fn drawn(rows: usize) -> Self {
        let draws = SmallVec::from_slice(&[rows]);
        Self::new(Arc::new(Rows { incoming: 0, draws, step: 0, buffer: None }))
    }

    /// The number of incoming rows. They are the first rows of the mini-batch. `None` if the layout
    /// is detached: all rows are incoming.
    pub fn incoming(&self) -> Option<usize> {
        self.rows.as_ref().map(|rows| rows.incoming)
    }

    /// The number of rows of each configured draw, which follow the incoming rows in this order.
    /// Empty if the layout is detached.
    pub fn draws(&self) -> &[usize] {
        self.rows.as_ref().map_or(&[], |rows| &rows.draws)
    }

    /// The number of representatives, which is the sum of all [draws](Self::draws).
    pub fn representatives(&self) -> usize {
        self.draws().iter().sum()
    }

    /// The rows of the mini-batch that came from `draw`, counted from 0. Empty if there is no such
    /// draw.
    pub fn range(&self, draw: usize) -> Range<usize> {
        let draws = self.draws();
        let before: usize = draws.iter().take(draw).sum();
        let start = self.incoming().unwrap_or(0) + before;
        start..start + draws.get(draw).unwrap_or(&0)
    }
}

impl<B: RehearsalBatch> RowLayout<B> {
    /// Passes the late fields of this mini-batch to the buffer, once per step and after the forward
    /// pass.
    ///
    /// Each tensor has one row per *incoming* row, in the order of the mini-batch, and the same row
    /// shape and element type in every step. It may be part of an autodiff graph: the buffer stores
    /// the values only, and only the rows of the candidates leave the device. All values are stored
    /// as they are, also NaN.
    ///
    /// Does nothing if the layout is detached, if the buffer is gone or poisoned, or if it does not
    /// store late fields.
    ///
    /// # Errors
    ///
    /// Returns nothing, because `TrainStep::step` cannot return an error. The next call on the
    /// buffer returns the error: [`BatchError`] if the number of rows, their shape or element type
    /// is wrong, [`RehearsalError::Misuse`](crate::error::RehearsalError::Misuse) if this
    /// mini-batch or a clone was annotated before. All ranks end with an error.
    pub fn annotate(&self, late: B::Late) {
        let Some(rows) = self.rows.as_ref().filter(|_| has_late(B::FIELDS)) else { return };
        let Some(buffer) = rows.buffer.as_ref().and_then(Weak::upgrade) else { return };
        let mut late = Some(late);
        buffer.annotate(rows.step, &mut |columns| {
            late.take().map_or(Ok(()), |late| late.into_columns(columns))
        });
    }
}

impl<B> Default for RowLayout<B> {
    fn default() -> Self {
        Self { rows: None, batch: PhantomData }
    }
}

impl<B> Clone for RowLayout<B> {
    fn clone(&self) -> Self {
        Self { rows: self.rows.clone(), batch: PhantomData }
    }
}

impl<B> fmt::Debug for RowLayout<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut layout = f.debug_struct("RowLayout");
        layout.field("incoming", &self.incoming()).field("draws", &self.draws()).finish()
    }
}

/// Makes the layouts of successive mini-batches. The memory of the last one is reused if it has no
/// other owner.
#[derive(Default)]
pub(crate) struct LayoutMaker(Option<Arc<Rows>>);

impl LayoutMaker {
    /// The layout of the mini-batch of `step`. `buffer` must be the same in every call.
    pub(crate) fn make<B>(
        &mut self,
        step: u64,
        incoming: usize,
        draws: impl IntoIterator<Item = usize>,
        buffer: impl FnOnce() -> Weak<dyn Annotate>,
    ) -> RowLayout<B> {
        let draws = draws.into_iter();
        if let Some(rows) = self.0.as_mut().and_then(Arc::get_mut) {
            (rows.step, rows.incoming) = (step, incoming);
            rows.draws.clear();
            rows.draws.extend(draws);
        } else {
            let buffer = Some(buffer());
            self.0 = Some(Arc::new(Rows { incoming, draws: draws.collect(), step, buffer }));
        }
        RowLayout { rows: self.0.clone(), batch: PhantomData }
    }
}

/// The late fields of a batch type. The derive implements it for the struct that it writes.
pub trait LateFields: Send + 'static {
    /// Appends one column per late field to `columns`, without autodiff and in the declared element
    /// type.
    ///
    /// # Errors
    ///
    /// [`BatchError`] if a tensor is empty, or not on the backend of its device.
    fn into_columns(self, columns: &mut Vec<Column>) -> Result<(), BatchError>;
}

/// The late fields of a batch type without any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoLateFields;

impl LateFields for NoLateFields {
    fn into_columns(self, _columns: &mut Vec<Column>) -> Result<(), BatchError> {
        Ok(())
    }
}

/// The element type in which a late field is stored and returned: `late(f32)`, `late(f16)` or
/// `late(bf16)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LateType {
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point, IEEE 754.
    F16,
    /// 16-bit floating point with the exponent of 32 bits.
    BF16,
}

impl LateType {
    /// The element type of Burn.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }
}

/// These fields without the late ones, which are the last.
pub(crate) fn without_late(fields: &'static [FieldSpec]) -> &'static [FieldSpec] {
    let late = fields.iter().position(|field| field.role == Role::Late);
    &fields[..late.unwrap_or(fields.len())]
}

/// Whether one of these fields is late.
pub(crate) fn has_late(fields: &[FieldSpec]) -> bool {
    fields.iter().any(|field| field.role == Role::Late)
}
