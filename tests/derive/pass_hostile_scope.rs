//! The generated code does not depend on names in scope and causes no warnings.
#![deny(
    warnings,
    missing_docs,
    unused_qualifications,
    unused_lifetimes,
    single_use_lifetimes,
    clippy::pedantic,
    clippy::nursery
)]
#![allow(unreachable_pub)] // this file is a module of a test

mod hostile {
    #![allow(dead_code, non_upper_case_globals, non_camel_case_types)]
    // The names that generated code without absolute paths could use.
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
    pub struct RowLayout;
    pub struct LateField;
    pub const field_0: u8 = 0;
    pub const columns: u8 = 0;
    pub const rest: u8 = 0;
}

#[allow(unused_imports)]
use hostile::*;

/// A mini-batch with a keyword, a constant in scope and an unconventional name as field names.
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
    /// The outputs of the network.
    #[rehearsal(late(bf16))]
    pub r#match: ::core::option::Option<::burn::tensor::Tensor<2>>,
    /// Which rows are incoming.
    #[rehearsal(layout)]
    pub layout: ::burn_rehearsal::RowLayout<Self>,
    /// Not a column.
    #[deprecated]
    #[rehearsal(skip)]
    pub rest: u8,
    /// Removed before the derive runs.
    #[cfg(any())]
    pub removed: Missing,
}
