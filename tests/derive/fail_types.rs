//! Fields whose type does not match their mark.

use burn::tensor::{Int, Tensor};
use burn_rehearsal::RehearsalBatch;

#[derive(RehearsalBatch)]
struct NotATensor {
    images: Tensor<4>,
    note: String,
    maybe: Option<Tensor<2>>,
}

#[derive(RehearsalBatch)]
struct FloatClass {
    #[rehearsal(class)]
    targets: Tensor<1>,
}

#[derive(RehearsalBatch)]
struct OneHotClass {
    #[rehearsal(class)]
    targets: Tensor<2, Int>,
}

#[derive(RehearsalBatch)]
struct GenericId<const D: usize> {
    #[rehearsal(id)]
    index: Tensor<D, Int>,
}

#[derive(RehearsalBatch)]
struct IntRepresentative {
    images: Tensor<4>,
    #[rehearsal(representative)]
    replayed: Tensor<1, Int>,
}

#[derive(RehearsalBatch)]
struct FloatBytes {
    #[rehearsal(bytes)]
    images: Tensor<4>,
}

fn main() {}
