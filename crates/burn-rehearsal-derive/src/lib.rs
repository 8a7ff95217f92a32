//! The derive macro of [`burn-rehearsal`](https://docs.rs/burn-rehearsal), which re-exports it.
//!
//! Do not depend on this crate directly. See [`RehearsalBatch`](macro@RehearsalBatch) for all
//! attributes.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod attributes;
mod expand;
mod input;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// Implements `burn_rehearsal::RehearsalBatch` for a struct of Burn tensors whose first dimension
/// is the row.
///
/// The struct has named fields. A field without an attribute is a tensor of any kind and rank, and
/// is stored and replayed. `#[rehearsal(WORD)]` marks a field with one of these words:
///
/// | word | type | meaning |
/// |---|---|---|
/// | `class` | `Tensor<1, Int>` | the class of each row; at most one field |
/// | `id` | `Tensor<1, Int>` | the id of each row's sample in the data set; at most one field |
/// | `representative` | `Tensor<1, Bool>` | written by the buffer: `true` for representatives |
/// | `bytes` | `Tensor<D, Int>` | values `0..=255`, stored as one byte each |
/// | `late` | `Option<Tensor<D>>`, also `Int` | known only after the forward pass, like logits |
/// | `layout` | `RowLayout<Self>` | names the rows of each draw; at most one field |
/// | `skip` | any | not stored: keeps the value of the incoming mini-batch |
///
/// ```ignore
/// #[derive(RehearsalBatch, Clone, Debug)]
/// struct Batch {
///     #[rehearsal(bytes)]
///     images: Tensor<4, Int>, // `[rows, channels, height, width]`
///     #[rehearsal(class)]
///     targets: Tensor<1, Int>, // `[rows]`
///     #[rehearsal(representative)]
///     replayed: Tensor<1, Bool>, // `[rows]`
/// }
/// ```
///
/// At least one field must be neither `skip`, `representative`, `late` nor `layout`. At most one
/// field can be `representative`.
///
/// # Late fields
///
/// A batch with `late` fields needs a `layout` field. `late(f32)`, `late(f16)` and `late(bf16)`
/// also name the element type in which the values are stored and returned.
///
/// ```ignore
/// #[derive(RehearsalBatch)]
/// struct MyBatch {
///     inputs: Tensor<2>, // `[rows, features]`
///     #[rehearsal(late(f16))]
///     logits: Option<Tensor<2>>, // `[representatives, classes]`
///     #[rehearsal(layout)]
///     rows: RowLayout<Self>,
/// }
/// ```
///
/// The derive writes a struct `MyBatchLate` with the same visibility and one public tensor per late
/// field, which `RowLayout::annotate` takes. The module `burn_rehearsal::batch::layout` has a
/// complete example.
///
/// # Skipped fields
///
/// A skipped field keeps the value of the incoming mini-batch. If it has one entry per row,
/// `#[rehearsal(skip, fill = function)]` names a function that adds entries for the
/// representatives:
///
/// ```ignore
/// #[derive(RehearsalBatch)]
/// struct Batch {
///     tokens: Tensor<2, Int>,
///     #[rehearsal(skip, fill = fill_names)]
///     names: Vec<String>,
/// }
///
/// fn fill_names(names: &mut Vec<String>, representatives: usize) {
///     names.resize(names.len() + representatives, String::new());
/// }
/// ```
///
/// # Generics and visibility
///
/// Generic parameters keep their bounds, and no bounds are added. The trait requires `Send +
/// 'static`. `RehearsalBatch::Rest` is the tuple of the types of the `skip` fields, so these types
/// must be as visible as the struct: a `pub struct` cannot skip a field of a private type.
#[proc_macro_derive(RehearsalBatch, attributes(rehearsal))]
pub fn rehearsal_batch(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    input::Batch::read(&input)
        .map(|batch| expand::implementation(&batch))
        .unwrap_or_else(Error::into_compile_error)
        .into()
}
