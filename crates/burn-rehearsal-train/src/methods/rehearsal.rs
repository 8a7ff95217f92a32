use super::Method;

/// Experience replay (ER): trains on the data of the current task together with representatives
/// from the buffer.
#[derive(Debug, Clone, Copy)]
pub struct Rehearsal;

impl Method for Rehearsal {
    fn name(&self) -> &'static str {
        "rehearsal"
    }

    fn summary(&self) -> &'static str {
        "Train on the data of the current task and representatives of earlier ones"
    }

    fn rehearses(&self) -> bool {
        true
    }
}
