//! Late fields and row layouts in the wrong place.

use burn::tensor::{Bool, Int, Tensor};
use burn_rehearsal::{RehearsalBatch, RowLayout};

#[derive(RehearsalBatch)]
struct NoLayout {
    images: Tensor<4>,
    #[rehearsal(late)]
    logits: Option<Tensor<2>>,
}

#[derive(RehearsalBatch)]
struct NotAnOption {
    images: Tensor<4>,
    #[rehearsal(late(f16))]
    logits: Tensor<2>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

#[derive(RehearsalBatch)]
struct Words {
    images: Tensor<4>,
    #[rehearsal(late(f64))]
    wide: Option<Tensor<2>>,
    #[rehearsal(late, class)]
    both: Option<Tensor<1, Int>>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
    #[rehearsal(layout)]
    again: RowLayout<Self>,
}

#[derive(RehearsalBatch)]
struct OnlyLate {
    #[rehearsal(late)]
    logits: Option<Tensor<2>>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

#[derive(RehearsalBatch)]
struct Flags {
    images: Tensor<4>,
    #[rehearsal(late)]
    right: Option<Tensor<1, Bool>>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

#[derive(RehearsalBatch)]
struct Integers {
    images: Tensor<4>,
    #[rehearsal(late(f16))]
    votes: Option<Tensor<1, Int>>,
    #[rehearsal(layout)]
    rows: RowLayout<Self>,
}

#[derive(RehearsalBatch)]
struct OtherLayout {
    images: Tensor<4>,
    #[rehearsal(layout)]
    rows: usize,
}

fn main() {}
