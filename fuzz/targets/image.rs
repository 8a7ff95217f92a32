//! JPEG and PNG files.
#![no_main]

use burn_rehearsal_vision::data::{Decoder, Fit};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut decoder = Decoder::default();
    for (side, fit) in [(16, Fit::Stretch), (7, Fit::Crop)] {
        if let Ok(pixels) = decoder.decode(input, side, fit) {
            assert_eq!(pixels.len(), 3 * side * side);
        }
    }
});
