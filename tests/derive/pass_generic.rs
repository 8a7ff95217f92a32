//! Generic mini-batches, type aliases, and types from a macro.
#![deny(warnings, missing_docs)]
#![allow(unreachable_pub)] // this file is a module of a test

use burn::tensor::{Bool, Int, Tensor};
use burn_rehearsal::{RehearsalBatch, RowLayout};
use std::fmt::Debug;

/// The classes of a mini-batch.
pub type Targets = Tensor<1, Int>;

/// The rank and the skipped type are parameters.
#[derive(RehearsalBatch, Clone, Debug)]
pub struct Generic<M = (), const D: usize = 4>
where
    M: Clone + Debug + Send + 'static,
{
    /// `[rows, ...]`
    #[rehearsal(bytes)]
    pub images: Tensor<D, Int>,
    /// `[rows]`
    #[rehearsal(class)]
    pub targets: Targets,
    /// Any type.
    #[rehearsal(skip)]
    pub meta: M,
}

/// The late fields take the parameters that they use.
#[derive(RehearsalBatch, Clone, Debug)]
pub struct GenericLate<M, const D: usize = 2>
where
    M: Clone + Debug + Send + 'static,
{
    /// `[rows, 2]`
    pub x: Tensor<2>,
    /// The outputs of the network.
    #[rehearsal(late(f16))]
    pub outputs: Option<Tensor<D>>,
    #[allow(missing_docs)]
    #[rehearsal(late)]
    pub votes: Option<Targets>,
    /// Which rows are incoming.
    #[rehearsal(layout)]
    pub rows: RowLayout<Self>,
    /// Any type.
    #[rehearsal(skip)]
    pub meta: M,
}

/// Declares a mini-batch like a macro of a user.
macro_rules! declare {
    ($name:ident, $word:ident: $ty:ty) => {
        /// A field whose type is an argument of the macro.
        #[derive(RehearsalBatch, Clone, Debug)]
        pub struct $name {
            /// `[rows, 1]`
            pub x: Tensor<2>,
            /// `[rows]`
            #[rehearsal($word)]
            pub marked: $ty,
        }
    };
}

declare!(WithId, id: Tensor<1, Int>);
declare!(WithRepresentative, representative: Tensor<1, Bool>);
