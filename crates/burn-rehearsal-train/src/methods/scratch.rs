use super::{Method, TrainingData};

/// Joint training: trains a new network for every task on the data of all tasks so far. The upper
/// bound of accuracy.
#[derive(Debug, Clone, Copy)]
pub struct Scratch;

impl Scratch {
    pub(super) const DEFAULT: Self = Self;
}

impl Method for Scratch {
    fn name(&self) -> &'static str {
        "scratch"
    }

    fn summary(&self) -> &'static str {
        "For every task, train a new network on all data so far"
    }

    fn training_data(&self) -> TrainingData {
        TrainingData::AllTasks
    }
}
