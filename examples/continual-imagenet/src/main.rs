//! Continual learning with rehearsal; see the library [`continual_imagenet`].

use std::process::ExitCode;

// A training step frees and reallocates its largest tensors. glibc's allocator returns such memory
// to the system immediately, and the page faults took a third of each step of a small convolutional
// network.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    continual_imagenet::main()
}
