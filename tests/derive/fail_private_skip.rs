//! A skipped type is part of the interface (`RehearsalBatch::Rest`), and so must be as visible as the mini-batch.

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
