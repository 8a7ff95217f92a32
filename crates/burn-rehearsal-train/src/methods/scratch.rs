use super::Method;

/// Trains a new network on all data so far with every task: the upper bound.
#[derive(Debug, Clone, Copy)]
pub struct Scratch;

impl Method for Scratch {
    fn name(&self) -> &'static str {
        "scratch"
    }

    fn summary(&self) -> &'static str {
        "With every task, train a new network on all data so far"
    }

    fn restarts(&self) -> bool {
        true
    }
}
