use super::Method;

/// Fine-tuning: trains on the data of the current task only. The lower bound of accuracy.
#[derive(Debug, Clone, Copy)]
pub struct Incremental;

impl Incremental {
    pub(super) const DEFAULT: Self = Self;
}

impl Method for Incremental {
    fn name(&self) -> &'static str {
        "incremental"
    }

    fn summary(&self) -> &'static str {
        "Train on the data of the current task only"
    }
}
