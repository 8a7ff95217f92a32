//! A skipped type must be as visible as the mini-batch, because it is in `RehearsalBatch::Rest`.

use burn::tensor::Tensor;
use burn_rehearsal::RehearsalBatch;

struct Private;

#[derive(RehearsalBatch)]
pub struct Public {
    features: Tensor<2>,
    #[rehearsal(skip)]
    note: Private,
}

fn main() {}
