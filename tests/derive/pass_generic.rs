//! Generic mini-batches, types behind aliases and types that a macro passes on.
#![deny(warnings, missing_docs)]
#![allow(unreachable_pub)] // it is a module of a test here

use burn::tensor::{Bool, Int, Tensor};
use burn_rehearsal::RehearsalBatch;
use std::fmt::Debug;

/// The classes of a mini-batch.
pub type Targets = Tensor<1, Int>;

/// Ranks and skipped types are parameters.
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
    /// Whatever the user likes.
    #[rehearsal(skip)]
    pub meta: M,
}

/// Declares a mini-batch the way a user's own macro would.
macro_rules! declare {
    ($name:ident, $word:ident: $ty:ty) => {
        /// One field of a type that the macro was given.
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
