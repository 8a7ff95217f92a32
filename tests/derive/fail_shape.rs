//! Types that cannot be mini-batches.

use burn::tensor::{Bool, Tensor};
use burn_rehearsal::RehearsalBatch;

#[derive(RehearsalBatch)]
enum Enum {
    Images(Tensor<4>),
}

#[derive(RehearsalBatch)]
union Union {
    images: u8,
}

#[derive(RehearsalBatch)]
struct Tuple(Tensor<4>, Tensor<2>);

#[derive(RehearsalBatch)]
struct Unit;

#[derive(RehearsalBatch)]
struct Empty {}

#[derive(RehearsalBatch)]
struct NothingToStore {
    #[rehearsal(skip)]
    note: String,
    #[rehearsal(representative)]
    replayed: Tensor<1, Bool>,
}

fn main() {}
