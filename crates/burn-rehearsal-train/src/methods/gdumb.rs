use super::{Method, TrainingData};

/// Greedy sampler and dumb learner, GDumb (Prabhu et al., "GDumb: A Simple Approach that Questions
/// Our Progress in Continual Learning", ECCV 2020).
///
/// The data of a task is only inserted into the buffer, in one pass. Then a new network is trained
/// on the rows of the buffer, for the epochs of the run. On several ranks, each rank trains on its
/// own shard. The sampler of the paper keeps classes balanced: use
/// [`PolicyKind::ClassBalanced`](burn_rehearsal::PolicyKind::ClassBalanced), the default. The paper
/// also uses a cosine learning rate and CutMix, which this method leaves to the run.
#[derive(Debug, Clone, Copy)]
pub struct GDumb;

impl GDumb {
    pub(super) const DEFAULT: Self = Self;
}

impl Method for GDumb {
    fn name(&self) -> &'static str {
        "gdumb"
    }

    fn summary(&self) -> &'static str {
        "For every task, train a new network on the buffer only (GDumb)"
    }

    fn training_data(&self) -> TrainingData {
        TrainingData::Buffer
    }

    fn rehearses(&self) -> bool {
        true
    }
}
