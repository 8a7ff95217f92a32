use super::Method;

/// Trains on the data of the current task only: the lower bound.
#[derive(Debug, Clone, Copy)]
pub struct Incremental;

impl Method for Incremental {
    fn name(&self) -> &'static str {
        "incremental"
    }

    fn summary(&self) -> &'static str {
        "Train on the data of the current task only"
    }
}
