//! Custom policies and sampling rules of a buffer.

use crate::config::RehearsalConfig;
use crate::policy::Policy;
use crate::sampling::Sampling;
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;

/// A policy and a sampling rule of your own, for [`RehearsalConfig::init_with`].
///
/// A custom rule replaces the built-in one that the configuration names. Its name and parameters
/// appear in errors, reports and checkpoints, and must be the same on all ranks. See
/// [`policy`](crate::policy) and [`sampling`](crate::sampling) for how to write one.
///
/// ```
/// use burn_rehearsal::policy::Reservoir;
/// use burn_rehearsal::{Capacity, CustomRules, RehearsalConfig};
/// use burn_rehearsal_collective::Rank;
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
    sampling: Option<Arc<dyn Fn() -> Box<dyn Sampling> + Send + Sync>>,
}

impl CustomRules {
    /// Uses this policy. Every shard gets a clone.
    pub fn with_policy(mut self, policy: impl Policy + Clone + Sync + 'static) -> Self {
        self.policy = Some(Arc::new(move || Box::new(policy.clone())));
        self
    }

    /// Uses this sampling rule. Every rank gets a clone.
    pub fn with_sampling(mut self, sampling: impl Sampling + Clone + Sync + 'static) -> Self {
        self.sampling = Some(Arc::new(move || Box::new(sampling.clone())));
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
        let mut set = |field: &str, name: &str, parameters| {
            let name = format!("custom:{}", full_name(name, parameters));
            fields.insert(field.to_owned(), Value::String(name));
        };
        if let Some(policy) = self.policy.as_ref().map(|make| make()) {
            set("policy", policy.name(), policy.parameters());
        }
        if let Some(sampling) = self.sampling.as_ref().map(|make| make()) {
            set("sampling", sampling.name(), sampling.parameters());
        }
    }

    pub(crate) fn policy(&self, config: &RehearsalConfig) -> Box<dyn Policy> {
        self.policy.as_ref().map_or_else(|| config.policy.init(), |make| make())
    }

    pub(crate) fn sampling(&self, config: &RehearsalConfig) -> Box<dyn Sampling> {
        self.sampling.as_ref().map_or_else(|| config.sampling.init(), |make| make())
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
