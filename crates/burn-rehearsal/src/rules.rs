//! Custom policies and sampling rules of a buffer.

use crate::config::RehearsalConfig;
use crate::error::ConfigError;
use crate::policy::Policy;
use crate::row_count::RowCount;
use crate::sampling::Sampling;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A policy and a sampling rule of your own, for [`RehearsalConfig::init_with`].
///
/// A custom rule replaces the built-in one that the configuration names. Its type is `Clone`,
/// `Send` and `Sync`. Its name and parameters appear in errors, reports and checkpoints, and must
/// be the same on all ranks. See [`policy`](crate::policy) and [`sampling`](crate::sampling) for
/// how to write one.
///
/// ```
/// use burn_rehearsal::policy::Reservoir;
/// use burn_rehearsal::{Capacity, CustomRules, Rank, RehearsalConfig};
/// # #[derive(burn_rehearsal::RehearsalBatch)]
/// # struct Batch { inputs: burn::tensor::Tensor<2> }
///
/// // Any type that implements `Policy` works here.
/// let rules = CustomRules::default().with_policy(Reservoir::default());
/// let config = RehearsalConfig::new(Capacity::Samples(100));
/// let buffer = config.init_with::<Batch>(&Rank::solo(), rules)?;
/// assert_eq!(buffer.report()?.policy, "reservoir");
/// # Ok::<(), burn_rehearsal::error::RehearsalError>(())
/// ```
#[derive(Clone, Default)]
pub struct CustomRules {
    policy: Option<Arc<dyn Fn() -> Box<dyn Policy> + Send + Sync>>,
    /// The sampling rules by draw.
    samplings: BTreeMap<usize, Arc<dyn Fn() -> Box<dyn Sampling> + Send + Sync>>,
}

/// One draw of every step.
pub(crate) struct DrawRule {
    pub(crate) representatives: RowCount,
    pub(crate) sampling: Box<dyn Sampling>,
}

impl CustomRules {
    /// Uses this policy. Every shard gets a clone.
    pub fn with_policy(mut self, policy: impl Policy + Clone + Sync + 'static) -> Self {
        self.policy = Some(Arc::new(move || Box::new(policy.clone())));
        self
    }

    /// Uses this sampling rule for the first draw of a step. Every rank gets a clone.
    pub fn with_sampling(self, sampling: impl Sampling + Clone + Sync + 'static) -> Self {
        self.with_draw_sampling(0, sampling)
    }

    /// Uses this sampling rule for one of [several draws](RehearsalConfig::with_draws), counted
    /// from 0. Every rank gets a clone.
    pub fn with_draw_sampling(
        mut self,
        draw: usize,
        sampling: impl Sampling + Clone + Sync + 'static,
    ) -> Self {
        self.samplings.insert(draw, Arc::new(move || Box::new(sampling.clone())));
        self
    }

    /// The fields of [`RehearsalConfig::agreed`], with the names and parameters of these rules.
    pub fn agreed(&self, config: &RehearsalConfig) -> Map<String, Value> {
        let mut fields = config.agreed();
        self.name_in(&mut fields);
        fields
    }

    /// Replaces the names of built-in rules among the fields of a configuration.
    pub(crate) fn name_in(&self, fields: &mut Map<String, Value>) {
        let custom = |name: &str, parameters| {
            Value::String(format!("custom:{}", full_name(name, parameters)))
        };
        if let Some(policy) = self.policy.as_ref().map(|make| make()) {
            fields.insert("policy".to_owned(), custom(policy.name(), policy.parameters()));
        }
        for (&draw, make) in &self.samplings {
            let sampling = make();
            let name = custom(sampling.name(), sampling.parameters());
            let sampling = "sampling".to_owned();
            let Some(index) = draw.checked_sub(1) else {
                fields.insert(sampling, name);
                continue;
            };
            let further = fields.get_mut("further_draws");
            match further.and_then(|draws| draws.get_mut(index)?.as_object_mut()) {
                Some(draw) => draw.insert(sampling, name),
                None => fields.insert(format!("sampling of draw {draw}"), name),
            };
        }
    }

    pub(crate) fn policy(&self, config: &RehearsalConfig) -> Box<dyn Policy> {
        self.policy.as_ref().map_or_else(|| config.policy.init(), |make| make())
    }

    /// All draws of a step.
    ///
    /// # Errors
    ///
    /// [`ConfigError::NoDraw`] if there is a rule for a draw that is not configured.
    pub(crate) fn draws(&self, config: &RehearsalConfig) -> Result<Vec<DrawRule>, ConfigError> {
        let draws = config.draws().enumerate().map(|(index, draw)| DrawRule {
            representatives: draw.representatives,
            sampling: self
                .samplings
                .get(&index)
                .map_or_else(|| draw.sampling.init(), |make| make()),
        });
        let draws: Vec<_> = draws.collect();
        match self.samplings.keys().find(|&&draw| draw >= draws.len()) {
            Some(&draw) => Err(ConfigError::NoDraw { draw, draws: draws.len() }),
            None => Ok(draws),
        }
    }
}

impl fmt::Debug for CustomRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = Map::new();
        self.name_in(&mut fields);
        f.debug_tuple("CustomRules").field(&fields).finish()
    }
}

/// `name`, or `name(parameters)`.
pub(crate) fn full_name(name: &str, parameters: String) -> String {
    if parameters.is_empty() { name.to_owned() } else { format!("{name}({parameters})") }
}
