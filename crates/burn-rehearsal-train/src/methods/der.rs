use super::{Method, MethodOption, Step, options};
use burn::nn::loss::{MseLoss, Reduction};
use burn::tensor::Tensor;
use burn_rehearsal::error::ConfigError;

options! {
    /// Dark Experience Replay (Buzzega et al., "Dark Experience for General Continual Learning",
    /// NeurIPS 2020, arXiv 2004.07211, equation 6).
    ///
    /// Stores the logits of every sample, of the pass in which it was an incoming row. The loss is
    /// CE(incoming) + α·MSE(network(x′), z′) for drawn rows x′ with their stored logits z′. MSE is a
    /// mean over rows and classes. Incoming rows and the draw have a forward pass each.
    pub struct Der {
        /// Weight of the distance to stored logits.
        alpha = 0.3 in 0.0..=1e6,
    }
}

impl Method for Der {
    fn name(&self) -> &'static str {
        "der"
    }

    fn summary(&self) -> &'static str {
        "Rehearsal of stored logits (Dark Experience Replay)"
    }

    fn options(&self) -> Vec<MethodOption> {
        self.list()
    }

    fn with_options(&self, values: &[(&str, f64)]) -> Result<Box<dyn Method>, ConfigError> {
        self.replaced(values)
    }

    fn rehearses(&self) -> bool {
        true
    }

    fn stores_logits(&self) -> bool {
        true
    }

    fn loss(&self, step: &Step<'_>) -> Tensor<1> {
        loss(step, self.alpha)
    }
}

/// The loss of DER: CE(incoming) + α·MSE(draw 0).
pub(super) fn loss(step: &Step<'_>, alpha: f64) -> Tensor<1> {
    let logits = step.logits(step.incoming());
    step.store_logits(logits.clone());
    let loss = step.cross_entropy(logits, step.incoming());
    let Some(stored) = step.stored_logits(0) else { return loss };
    let logits = step.logits(step.draw(0));
    let stored = stored.cast(logits.dtype());
    loss + MseLoss::new().forward(logits, stored, Reduction::Mean) * alpha
}
