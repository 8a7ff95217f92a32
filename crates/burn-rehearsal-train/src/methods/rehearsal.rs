use super::Method;

/// Experience replay (ER): trains on the data of the current task together with representatives
/// from the buffer (Chaudhry et al., "On Tiny Episodic Memories in Continual Learning", 2019, arXiv
/// 1902.10486; Bouvier et al. 2024, arXiv 2406.03285). The loss is the mean cross entropy of all
/// rows, in one forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Rehearsal;

impl Rehearsal {
    pub(super) const DEFAULT: Self = Self;
}

impl Method for Rehearsal {
    fn name(&self) -> &'static str {
        "rehearsal"
    }

    fn aliases(&self) -> &'static [&'static str] {
        &["er"]
    }

    fn summary(&self) -> &'static str {
        "Train on the data of the current task and representatives of earlier ones"
    }

    fn rehearses(&self) -> bool {
        true
    }
}
