//! What the derive writes does not depend on names in the user's scope, and warns of nothing even where everything is denied.
#![deny(
    warnings,
    missing_docs,
    unused_qualifications,
    unused_lifetimes,
    single_use_lifetimes,
    clippy::pedantic,
    clippy::nursery
)]
#![allow(unreachable_pub)] // it is a module of a test here

mod hostile {
    #![allow(dead_code, non_upper_case_globals, non_camel_case_types)]
    // All that the generated code could pick up by a careless path.
    pub struct Vec;
    pub struct Result;
    pub struct Option;
    pub struct String;
    pub struct Some;
    pub struct Ok;
    pub struct Err;
    pub struct Column;
    pub struct Field;
    pub struct BatchError;
    pub struct burn_rehearsal;
    pub trait Iterator {}
    pub trait IntoIterator {}
    pub const field_0: u8 = 0;
    pub const columns: u8 = 0;
    pub const rest: u8 = 0;
}

#[allow(unused_imports)]
use hostile::*;

/// A mini-batch whose field names are a keyword, a constant in scope and against the naming rules.
#[derive(::burn_rehearsal::RehearsalBatch, Clone, Debug)]
#[allow(non_snake_case)]
pub struct Batch {
    /// `[rows, 2]`
    pub r#type: ::burn::tensor::Tensor<2>,
    /// `[rows]`
    #[rehearsal(class)]
    pub columns: ::burn::tensor::Tensor<1, ::burn::tensor::Int>,
    /// `[rows, 3]`
    #[rehearsal(bytes)]
    pub Pixels: ::burn::tensor::Tensor<2, ::burn::tensor::Int>,
    /// Not a column.
    #[deprecated]
    #[rehearsal(skip)]
    pub rest: u8,
    /// Removed before the derive sees it.
    #[cfg(any())]
    pub removed: Missing,
}
