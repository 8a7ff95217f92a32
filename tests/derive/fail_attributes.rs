//! Attributes that are unknown, conflicting or in the wrong place.

use burn::tensor::{Bool, Int, Tensor};
use burn_rehearsal::RehearsalBatch;

// All errors of a type are reported at once.
#[derive(RehearsalBatch)]
#[rehearsal(bytes)]
struct Words {
    #[rehearsal(clas)]
    slip: Tensor<1, Int>,
    #[rehearsal(label)]
    unknown: Tensor<1, Int>,
    #[rehearsal("id")]
    quoted: Tensor<1, Int>,
    #[rehearsal(class = 3)]
    value: Tensor<1, Int>,
    #[rehearsal(bytes(8))]
    argument: Tensor<1, Int>,
    #[rehearsal]
    nothing: Tensor<1, Int>,
    #[rehearsal(id skip)]
    comma: Tensor<1, Int>,
}

#[derive(RehearsalBatch)]
struct Contradictions {
    #[rehearsal(class, representative)]
    class_representative: Tensor<1, Int>,
    #[rehearsal(skip)]
    #[rehearsal(id)]
    skip_id: Tensor<1, Int>,
    #[rehearsal(bytes, class)]
    bytes_class: Tensor<1, Int>,
    #[rehearsal(bytes, bytes)]
    twice: Tensor<2, Int>,
}

#[derive(RehearsalBatch)]
struct SameRole {
    images: Tensor<4>,
    #[rehearsal(class)]
    fine: Tensor<1, Int>,
    #[rehearsal(class)]
    coarse: Tensor<1, Int>,
    #[rehearsal(id)]
    index: Tensor<1, Int>,
    #[rehearsal(id)]
    source: Tensor<1, Int>,
    #[rehearsal(representative)]
    replayed: Tensor<1, Bool>,
    #[rehearsal(representative)]
    drawn: Tensor<1, Bool>,
}

fn main() {}
