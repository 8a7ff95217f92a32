//! `#[derive(RehearsalBatch)]`: see [the macro](macro@RehearsalBatch). Depend on `burn-rehearsal`,
//! which re-exports it.
//!
//! `input` reads the struct and collects every mistake in it, `attributes` reads
//! `#[rehearsal(...)]` on one field, `expand` writes the implementation. Mistakes in types cannot
//! be seen here: `expand` writes bounds that the compiler checks.
#![warn(missing_docs)]
#![forbid(unsafe_code)]

mod attributes;
mod expand;
mod input;

use proc_macro::TokenStream;
use syn::{DeriveInput, Error, parse_macro_input};

/// Implements `burn_rehearsal::RehearsalBatch` for a struct with named fields, each a Burn tensor
/// whose first dimension is the row.
///
/// | Attribute of a field          | Meaning                                                                 | Type of the field    |
/// |-------------------------------|-------------------------------------------------------------------------|----------------------|
/// | none                          | stored and replayed                                                     | a tensor of any kind |
/// | `#[rehearsal(class)]`         | the class of each row, stored and replayed; at most one field           | `Tensor<1, Int>`     |
/// | `#[rehearsal(id)]`            | the source sample of each row, stored and replayed; at most one field   | `Tensor<1, Int>`     |
/// | `#[rehearsal(representative)]`| filled by the buffer: which rows it added; not stored; at most one field| `Tensor<1, Bool>`    |
/// | `#[rehearsal(bytes)]`         | values `0..=255`, stored as one byte each                               | `Tensor<D, Int>`     |
/// | `#[rehearsal(skip)]`          | neither stored nor replayed: keeps the value of the incoming mini-batch | anything             |
///
/// A field takes one of these words. At least one field must be stored.
///
/// `RehearsalBatch::Rest` is the tuple of the types of the `skip` fields, in order. These types
/// must therefore be as visible as the struct: a `pub struct` cannot skip a field of a private
/// type.
///
/// Generic parameters are passed through with their bounds; none are added. The trait asks for
/// `Send + 'static`.
///
/// # Example
///
/// ```ignore
/// use burn::tensor::{Bool, Int, Tensor};
/// use burn_rehearsal::RehearsalBatch;
///
/// #[derive(RehearsalBatch, Clone, Debug)]
/// struct Batch {
///     /// `[rows, channels, height, width]`
///     #[rehearsal(bytes)]
///     images: Tensor<4, Int>,
///     /// `[rows, features]`
///     features: Tensor<2>,
///     #[rehearsal(class)]
///     targets: Tensor<1, Int>,
///     #[rehearsal(id)]
///     index: Tensor<1, Int>,
///     #[rehearsal(representative)]
///     replayed: Tensor<1, Bool>,
///     #[rehearsal(skip)]
///     note: String,
/// }
/// ```
#[proc_macro_derive(RehearsalBatch, attributes(rehearsal))]
pub fn rehearsal_batch(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    input::Batch::read(&input)
        .map(|batch| expand::implementation(&batch))
        .unwrap_or_else(Error::into_compile_error)
        .into()
}
